//! A reply as a tree, for RESP 2 and 3, and its reading from bytes.

use std::fmt;

/// One reply.
#[derive(Clone, PartialEq)]
pub enum Value {
    Status(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    /// `$-1` or RESP3 `_`.
    Nil,
    /// `*-1`, which RESP2 clients can tell from `$-1`.
    NilArray,
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Set(Vec<Value>),
    Double(f64),
    Bool(bool),
    BigNumber(String),
    Verbatim(Vec<u8>),
    Push(Vec<Value>),
}

impl Value {
    pub fn ok() -> Value {
        Value::Status("OK".into())
    }

    pub fn bulk(text: impl AsRef<[u8]>) -> Value {
        Value::Bulk(text.as_ref().to_vec())
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error(_))
    }

    /// Whether it is an error or, as the reply of `EXEC`, an array that holds one.
    pub fn has_error(&self) -> bool {
        match self {
            Value::Array(replies) => replies.iter().any(Value::has_error),
            reply => reply.is_error(),
        }
    }

    /// The number, whether it came as an integer or as text; panics on anything else.
    pub fn int(&self) -> i64 {
        match self {
            Value::Int(n) => *n,
            Value::Bulk(b) => std::str::from_utf8(b).unwrap().parse().unwrap(),
            other => panic!("expected an integer, got {other:?}"),
        }
    }

    /// The bytes of a bulk, status or verbatim string; panics on anything else.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Value::Bulk(b) | Value::Verbatim(b) => b,
            Value::Status(s) => s.as_bytes(),
            other => panic!("expected a string, got {other:?}"),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// The elements of an array, set or push, and a map's keys and values in turn.
    pub fn items(self) -> Vec<Value> {
        match self {
            Value::Array(v) | Value::Set(v) | Value::Push(v) => v,
            Value::Map(pairs) => pairs.into_iter().flat_map(|(k, v)| [k, v]).collect(),
            other => panic!("expected an array, got {other:?}"),
        }
    }

    /// The bytes of each element.
    pub fn byte_items(self) -> Vec<Vec<u8>> {
        self.items().iter().map(|v| v.bytes().to_vec()).collect()
    }

    /// Reads one value from the front of `input`: the value and its length, `None` when incomplete.
    /// Panics on what is no RESP: a test cannot go on from there.
    pub fn parse(input: &[u8]) -> Option<(Value, usize)> {
        let line_end = input.windows(2).position(|w| w == b"\r\n")?;
        // An error may quote a client's bytes, which need not be text.
        let line = match std::str::from_utf8(&input[1..line_end]) {
            Ok(text) => text.to_string(),
            Err(_) => input[1..line_end].escape_ascii().to_string(),
        };
        let mut used = line_end + 2;
        let number = || -> i64 { line.parse().unwrap_or_else(|_| panic!("not a length: {line}")) };
        let blob = |used: &mut usize| -> Option<Option<Vec<u8>>> {
            let Ok(len) = usize::try_from(number()) else { return Some(None) };
            let body = input.get(*used..*used + len + 2)?;
            assert_eq!(&body[len..], b"\r\n", "a bulk string is not ended by CRLF");
            *used += len + 2;
            Some(Some(body[..len].to_vec()))
        };
        let sequence = |used: &mut usize, count: usize| -> Option<Vec<Value>> {
            let mut items = Vec::with_capacity(count.min(1024));
            for _ in 0..count {
                let (item, len) = Value::parse(&input[*used..])?;
                *used += len;
                items.push(item);
            }
            Some(items)
        };
        let value = match input[0] {
            b'+' => Value::Status(line),
            b'-' => Value::Error(line),
            b':' => Value::Int(number()),
            b'_' => Value::Nil,
            b'#' => Value::Bool(line == "t"),
            b',' => Value::Double(line.parse().unwrap_or_else(|_| panic!("not a double: {line}"))),
            b'(' => Value::BigNumber(line),
            b'$' => blob(&mut used)?.map_or(Value::Nil, Value::Bulk),
            b'=' => Value::Verbatim(blob(&mut used)?.expect("a verbatim string has a length")),
            b'*' if line == "-1" => Value::NilArray,
            b'*' => Value::Array(sequence(&mut used, number() as usize)?),
            b'~' => Value::Set(sequence(&mut used, number() as usize)?),
            b'>' => Value::Push(sequence(&mut used, number() as usize)?),
            b'%' => {
                let mut flat = sequence(&mut used, number() as usize * 2)?.into_iter();
                let mut pairs = Vec::new();
                while let (Some(k), Some(v)) = (flat.next(), flat.next()) {
                    pairs.push((k, v));
                }
                Value::Map(pairs)
            }
            _ => panic!("not RESP: {}", Bytes(&input[..input.len().min(100)])),
        };
        Some((value, used))
    }
}

/// Prints bytes as a quoted string, long ones cut in the middle.
pub struct Bytes<'a>(pub &'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= 120 {
            write!(f, "\"{}\"", self.0.escape_ascii())
        } else {
            let (head, tail) = (&self.0[..60], &self.0[self.0.len() - 20..]);
            let len = self.0.len();
            write!(f, "\"{}…{}\" ({len} bytes)", head.escape_ascii(), tail.escape_ascii())
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Status(s) => write!(f, "+{s}"),
            Value::Error(e) => write!(f, "-{e}"),
            Value::Int(n) => write!(f, "{n}"),
            Value::Bulk(b) => write!(f, "{}", Bytes(b)),
            Value::Nil => write!(f, "nil"),
            Value::NilArray => write!(f, "nil-array"),
            Value::Array(v) => f.debug_list().entries(v).finish(),
            Value::Set(v) => f.debug_set().entries(v).finish(),
            Value::Map(v) => f.debug_map().entries(v.iter().map(|(k, v)| (k, v))).finish(),
            Value::Double(d) => write!(f, ",{d}"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::BigNumber(n) => write!(f, "({n}"),
            Value::Verbatim(b) => write!(f, "={}", Bytes(b)),
            Value::Push(v) => {
                write!(f, "push ")?;
                f.debug_list().entries(v).finish()
            }
        }
    }
}
