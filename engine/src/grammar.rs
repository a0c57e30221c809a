//! The grammar of a command's arguments: one line in the command table, and the tree that
//! `COMMAND DOCS` makes of it.
//!
//! A grammar reads as a synopsis does, `key value [GET] [EX seconds|PX milliseconds]`:
//!
//! | written | what it is |
//! | --- | --- |
//! | `key` | an argument; its type follows from its name (`TYPES_OF_NAMES`) |
//! | `min:double` | one of another type than its name's |
//! | `KEEPTTL` | a word in capitals: itself, a pure token |
//! | `EX seconds` | in front of a name or a parenthesis: the token of that argument |
//! | `[count]` | may be left out |
//! | `(NX\|XX)`, `[NX\|XX]` | one of these |
//! | `(field value)` | a block; several in brackets, or as an alternative, are one too |
//! | `key...` | once or more often |
//! | `[GET pattern]...` | the same, and its token every time |
//! | `condition=[NX\|XX]` | what it is called, where that is not its words joined by `-` |
//! | `[KEEPTTL]@6.0.0` | the version of Redis that it came with, if that is not the command's |
//! | `ip:port!2.8.12` | the version that deprecated it |
//! | `pattern#1` | its key specification; a key's is the one after the last one named |

/// Redis's types of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Integer,
    Double,
    Key,
    Pattern,
    UnixTime,
    PureToken,
    OneOf,
    Block,
}

impl Type {
    const NAMES: [(Type, &str); 9] = [
        (Type::String, "string"),
        (Type::Integer, "integer"),
        (Type::Double, "double"),
        (Type::Key, "key"),
        (Type::Pattern, "pattern"),
        (Type::UnixTime, "unix-time"),
        (Type::PureToken, "pure-token"),
        (Type::OneOf, "oneof"),
        (Type::Block, "block"),
    ];

    pub fn name(self) -> &'static str {
        Type::NAMES[self as usize].1
    }

    fn named(name: &str) -> Option<Type> {
        Type::NAMES.iter().find(|(_, known)| *known == name).map(|(ty, _)| *ty)
    }

    fn of(name: &str) -> Type {
        let listed = |(_, names): &&(Type, &[&str])| names.contains(&name);
        TYPES_OF_NAMES.iter().find(listed).map_or(Type::String, |(ty, _)| *ty)
    }
}

/// What arguments with these names are; all others are strings.
#[rustfmt::skip]
const TYPES_OF_NAMES: &[(Type, &[&str])] = &[
    (Type::Key, &["destination", "destkey", "dst", "key", "key1", "key2", "newkey", "source", "src"]),
    (Type::Integer, &[
        "bit", "client-id", "cluster-bus-port", "config-epoch", "count", "cursor", "db", "decrement",
        "destination-db", "end", "end-slot", "frequency", "increment", "index", "index1", "index2",
        "len", "limit", "maxage", "milliseconds", "num-matches", "numkeys", "numlocal", "numreplicas",
        "offset", "port", "protover", "rank", "seconds", "slot", "start", "start-slot", "stop", "ttl",
        "version", "weight",
    ]),
    (Type::Double, &["score", "timeout"]),
    (Type::Pattern, &["pattern"]),
    (Type::UnixTime, &["unix-time-seconds", "unix-time-milliseconds"]),
];

/// Flags of an argument.
pub mod flag {
    pub const OPTIONAL: u32 = 1 << 0;
    pub const MULTIPLE: u32 = 1 << 1;
    pub const MULTIPLE_TOKEN: u32 = 1 << 2;

    pub const NAMES: &[(u32, &str)] =
        &[(OPTIONAL, "optional"), (MULTIPLE, "multiple"), (MULTIPLE_TOKEN, "multiple_token")];
}

/// An argument, or a group of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    pub name: String,
    pub ty: Type,
    /// Index of the command's key specification that it belongs to.
    pub key_spec: Option<usize>,
    pub token: Option<&'static str>,
    pub since: Option<&'static str>,
    pub deprecated_since: Option<&'static str>,
    /// Bits of [`flag`].
    pub flags: u32,
    /// The members of a block, the alternatives of a choice.
    pub arguments: Vec<Argument>,
}

impl Argument {
    fn new(name: impl Into<String>, ty: Type) -> Argument {
        Argument {
            name: name.into(),
            ty,
            key_spec: None,
            token: None,
            since: None,
            deprecated_since: None,
            flags: 0,
            arguments: vec![],
        }
    }

    fn group(ty: Type, arguments: Vec<Argument>) -> Argument {
        let names: Vec<&str> = arguments.iter().map(|a| &a.name[..]).collect();
        let name = names.join("-");
        Argument { arguments, ..Argument::new(name, ty) }
    }
}

/// The arguments that a grammar stands for. An error says what was expected, and where.
pub fn parse(grammar: &'static str) -> Result<Vec<Argument>, String> {
    let mut parser = Parser { rest: grammar, key_spec: 0 };
    let arguments = parser.sequence()?;
    match parser.rest {
        "" => Ok(arguments),
        _ => Err(parser.expected("an argument")),
    }
}

struct Parser {
    rest: &'static str,
    /// The key specification of the next key.
    key_spec: usize,
}

impl Parser {
    fn expected(&self, what: &str) -> String {
        format!("expected {what} before {:?}", self.rest)
    }

    fn eat(&mut self, mark: &str) -> bool {
        let rest = self.rest.strip_prefix(mark);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'static str {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn word(&mut self) -> &'static str {
        self.take_while(|c| !" []()|=.@!#".contains(c))
    }

    fn version(&mut self) -> Option<&'static str> {
        Some(self.take_while(|c| c.is_ascii_digit() || c == '.'))
    }

    /// Arguments up to the end of the group that they are in.
    fn sequence(&mut self) -> Result<Vec<Argument>, String> {
        let mut arguments = vec![];
        while !self.rest.is_empty() && !self.rest.starts_with(['|', ']', ')']) {
            arguments.push(self.argument()?);
            self.eat(" ");
        }
        Ok(arguments)
    }

    fn argument(&mut self) -> Result<Argument, String> {
        let mut word = self.word();
        let name = (self.eat("=")).then(|| std::mem::replace(&mut word, self.word()));
        let mut argument = match word {
            "" => self.group()?,
            capitals if !capitals.contains(|c: char| c.is_ascii_lowercase()) => {
                self.after_token(if capitals == "\"\"" { "" } else { capitals })?
            }
            _ => self.named(word),
        };
        if let Some(name) = name {
            argument.name = name.into();
        }
        loop {
            if self.eat("...") {
                argument.flags |= flag::MULTIPLE;
                if word.is_empty() && argument.token.is_some() {
                    argument.flags |= flag::MULTIPLE_TOKEN;
                }
            } else if self.eat("@") {
                argument.since = self.version();
            } else if self.eat("!") {
                argument.deprecated_since = self.version();
            } else if self.eat("#") {
                let index = self.take_while(|c| c.is_ascii_digit());
                let index = index.parse().map_err(|_| self.expected("an index"))?;
                argument.key_spec = Some(index);
                self.key_spec = index + 1;
            } else {
                return Ok(argument);
            }
        }
    }

    /// What a word in capitals belongs to, or the word alone.
    fn after_token(&mut self, token: &'static str) -> Result<Argument, String> {
        let next = self.rest.strip_prefix(' ').unwrap_or_default();
        let mut argument = match next.starts_with(|c: char| c.is_ascii_lowercase() || c == '(') {
            true => {
                self.rest = next;
                self.argument()?
            }
            false => Argument::new(token.to_ascii_lowercase(), Type::PureToken),
        };
        match argument.token.replace(token) {
            None => Ok(argument),
            Some(_) => Err(self.expected("one token and not two")),
        }
    }

    fn named(&mut self, word: &'static str) -> Argument {
        let typed = word.rsplit_once(':').and_then(|(name, ty)| Some((name, Type::named(ty)?)));
        let (name, ty) = typed.unwrap_or_else(|| (word, Type::of(word)));
        let mut argument = Argument::new(name, ty);
        if ty == Type::Key {
            argument.key_spec = Some(self.key_spec);
            self.key_spec += 1;
        }
        argument
    }

    fn group(&mut self) -> Result<Argument, String> {
        let (flags, close) = match () {
            _ if self.eat("[") => (flag::OPTIONAL, "]"),
            _ if self.eat("(") => (0, ")"),
            _ => return Err(self.expected("an argument")),
        };
        let mut alternatives = vec![self.alternative()?];
        while self.eat("|") {
            alternatives.push(self.alternative()?);
        }
        if !self.eat(close) {
            return Err(self.expected(close));
        }
        let mut argument = sole(alternatives, Type::OneOf);
        argument.flags |= flags;
        Ok(argument)
    }

    fn alternative(&mut self) -> Result<Argument, String> {
        match self.sequence()? {
            none if none.is_empty() => Err(self.expected("an argument")),
            some => Ok(sole(some, Type::Block)),
        }
    }
}

/// One argument is itself, several are a group.
fn sole(mut arguments: Vec<Argument>, ty: Type) -> Argument {
    match arguments.len() {
        1 => arguments.remove(0),
        _ => Argument::group(ty, arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field that says something, the members in brackets.
    fn shown(argument: &Argument) -> String {
        let Argument { name, ty, key_spec, token, since, deprecated_since, flags, arguments } =
            argument;
        let mut out = format!("{name}: {}", ty.name());
        key_spec.iter().for_each(|index| out += &format!(" #{index}"));
        token.iter().for_each(|token| out += &format!(" {token:?}"));
        since.iter().for_each(|version| out += &format!(" since {version}"));
        deprecated_since.iter().for_each(|version| out += &format!(" until {version}"));
        let given = flag::NAMES.iter().filter(|(bit, _)| flags & bit != 0);
        given.for_each(|(_, flag)| out += &format!(" {flag}"));
        if !arguments.is_empty() {
            out += &format!(" [{}]", shown_all(arguments));
        }
        out
    }

    fn shown_all(arguments: &[Argument]) -> String {
        arguments.iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn notation() {
        for (grammar, expected) in [
            ("", ""),
            ("index value", "index: integer, value: string"),
            ("value:integer min:double", "value: integer, min: double"),
            ("ip:port", "ip:port: string"),
            ("KEEPTTL", r#"keepttl: pure-token "KEEPTTL""#),
            (r#"none="""#, r#"none: pure-token """#),
            ("change=CH", r#"change: pure-token "CH""#),
            ("NO ONE", r#"no: pure-token "NO", one: pure-token "ONE""#),
            ("EX seconds", r#"seconds: integer "EX""#),
            ("EX [seconds]", r#"ex: pure-token "EX", seconds: integer optional"#),
            ("[count]", "count: integer optional"),
            ("[FREQ frequency]", r#"frequency: integer "FREQ" optional"#),
            ("(A|b)", r#"a-b: oneof [a: pure-token "A", b: string]"#),
            ("x=[A|b]", r#"x: oneof optional [a: pure-token "A", b: string]"#),
            ("(a b)...", "a-b: block multiple [a: string, b: string]"),
            ("[a b]", "a-b: block optional [a: string, b: string]"),
            ("(a b|c)", "a-b-c: oneof [a-b: block [a: string, b: string], c: string]"),
            ("BY x=(a b)", r#"x: block "BY" [a: string, b: string]"#),
            ("a...", "a: string multiple"),
            ("[BY a...]", r#"a: string "BY" optional multiple"#),
            ("[BY a]...", r#"a: string "BY" optional multiple multiple_token"#),
            ("BY (a b)...", r#"a-b: block "BY" multiple [a: string, b: string]"#),
            (
                "[x=A]@6.0.0 b!7.0.0",
                r#"x: pure-token "A" since 6.0.0 optional, b: string until 7.0.0"#,
            ),
            ("source destination", "source: key #0, destination: key #1"),
            ("key1 key2#0", "key1: key #0, key2: key #0"),
            ("key pattern#1 dst", "key: key #0, pattern: pattern #1, dst: key #2"),
        ] {
            assert_eq!(parse(grammar).map(|arguments| shown_all(&arguments)), Ok(expected.into()));
        }
    }

    #[test]
    fn what_is_no_grammar() {
        for (grammar, error) in [
            ("a  b", r#"expected an argument before " b""#),
            ("a]", r#"expected an argument before "]""#),
            ("(a|)", r#"expected an argument before ")""#),
            ("[a b", r#"expected ] before """#),
            ("[a)", r#"expected ] before ")""#),
            ("a#b", r#"expected an index before "b""#),
            ("BY (EX a)", r#"expected one token and not two before """#),
        ] {
            assert_eq!(parse(grammar), Err(error.into()));
        }
    }
}
