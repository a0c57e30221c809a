//! An RDB file, key by key.
//!
//! The file is in memory (mapped, as a rule) and entries are made straight from its bytes: a short
//! string is copied once, from the file to its entry. The checksum is taken of what was just read,
//! while it is still in the cache, and compared at the end.

use super::Corrupt;
use super::crc64::Crc64;
use super::format::*;
use super::values::{Cursor, Room, Values};
use std::borrow::Cow;
use std::fmt;
use varve_engine::entry::Entry;
use varve_engine::keyspace::Limits;

/// Bytes between two steps of the checksum.
const CHECKSUM_STEP: usize = 128 << 10;

/// One thing that a file holds.
pub enum Item<'a> {
    /// What the file says of itself: `repl-id`, `ctime` and the like.
    Aux { key: Cow<'a, [u8]>, value: Cow<'a, [u8]> },
    /// How many keys a database has, as the file claims.
    Resize { db: usize, keys: usize, expires: usize },
    Key {
        /// The byte at which its type stands.
        offset: usize,
        db: usize,
        entry: Entry,
        /// Seconds since it was last used.
        idle_s: Option<u64>,
        /// Its access counter.
        freq: Option<u8>,
    },
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug)]
pub struct Error {
    /// The byte at which reading failed.
    pub offset: usize,
    /// The key whose record it is in, if it is in one.
    pub key: Option<Box<[u8]>>,
    pub text: Cow<'static, str>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Of a longer key so much is shown.
        const SHOWN: usize = 128;
        write!(f, "at byte {}", self.offset)?;
        if let Some(key) = &self.key {
            let (shown, more) = match key.get(..SHOWN) {
                Some(start) if key.len() > SHOWN => (start, "…"),
                _ => (&key[..], ""),
            };
            write!(f, ", key '{}{more}'", shown.escape_ascii())?;
        }
        write!(f, ": {}", self.text)
    }
}

impl std::error::Error for Error {}

/// Reads the file that `bytes` begins with to its end, and keeps nothing. How long it is.
///
/// # Errors
/// Those of [`Reader::next`].
pub fn verify(bytes: &[u8]) -> Result<usize, Error> {
    let mut reader = Reader::new(bytes)?;
    while reader.next()?.is_some() {}
    Ok(reader.position())
}

/// Reads a file.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    version: u32,
    db: usize,
    values: Values,
    key_room: Room,
    /// The checksum of the bytes before `checked`.
    crc: Crc64,
    checked: usize,
    verify: bool,
    done: bool,
}

impl<'a> Reader<'a> {
    /// A reader of the file that `bytes` begins with.
    ///
    /// # Errors
    /// If it does not begin as an RDB file of a version that is known.
    pub fn new(bytes: &'a [u8]) -> Result<Reader<'a>, Error> {
        let wrong = |text: Cow<'static, str>| Err(Error { offset: 0, key: None, text });
        let Some((magic, digits)) = bytes.get(..HEADER).and_then(|h| h.split_at_checked(5)) else {
            return wrong("too short for an RDB file".into());
        };
        if bytes.starts_with(b"VALKEY") {
            return wrong(
                format!("a version of Valkey's own; Redis's 1 to {VERSION} are supported").into(),
            );
        }
        if magic != MAGIC {
            return wrong(format!("no RDB file begins with '{}'", magic.escape_ascii()).into());
        }
        let version = std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok());
        let Some(version @ 1..=VERSION) = version else {
            let digits = digits.escape_ascii();
            return wrong(format!("RDB version {digits}; 1 to {VERSION} are supported").into());
        };
        Ok(Reader {
            bytes,
            at: HEADER,
            version,
            db: 0,
            values: Values::default(),
            key_room: Room::default(),
            crc: Crc64::new(),
            checked: 0,
            verify: version >= CHECKSUM_SINCE,
            done: false,
        })
    }

    /// When collections become large. Without this, the defaults.
    pub fn set_limits(&mut self, limits: Limits) {
        self.values.limits = limits;
    }

    /// Leaves the checksum unverified.
    pub fn skip_checksum(&mut self) {
        self.verify = false;
    }

    /// The format's version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The bytes read; after the last item, those of the whole RDB file, behind which others may
    /// follow.
    pub fn position(&self) -> usize {
        self.at
    }

    fn fault(&self, offset: usize, text: impl Into<Cow<'static, str>>) -> Error {
        Error { offset, key: None, text: text.into() }
    }

    /// The next item; `None` after the last.
    ///
    /// # Errors
    /// If the file is damaged, or holds what is not supported. Reading cannot go on after that.
    #[allow(clippy::should_implement_trait)] // an error is not an item
    pub fn next(&mut self) -> Result<Option<Item<'a>>, Error> {
        if self.done {
            return Ok(None);
        }
        if self.verify && self.at - self.checked >= CHECKSUM_STEP {
            self.crc.update(&self.bytes[self.checked..self.at]);
            self.checked = self.at;
        }
        let start = self.at;
        let (mut expire, mut idle_s, mut freq) = (None, None, None);
        loop {
            let mut from = Cursor::new(self.bytes, self.at);
            let mut step = || -> Result<(u8, Option<Item<'a>>), Corrupt> {
                let opcode = from.byte()?;
                match opcode {
                    op::EXPIRE_MS => expire = Some(i64::from_le_bytes(from.array()?)),
                    op::EXPIRE_S => {
                        expire = Some(i64::from(i32::from_le_bytes(from.array()?)) * 1000);
                    }
                    op::FREQ => freq = Some(from.byte()?),
                    op::IDLE => idle_s = Some(from.length()?),
                    op::SELECT => self.db = number(from.length()?)?,
                    op::RESIZE => {
                        let (keys, expires) = (number(from.length()?)?, number(from.length()?)?);
                        let item = Item::Resize { db: self.db, keys, expires };
                        return Ok((opcode, Some(item)));
                    }
                    op::AUX => {
                        let (key, value) = (owned(&mut from)?, owned(&mut from)?);
                        return Ok((opcode, Some(Item::Aux { key, value })));
                    }
                    op::SLOT_INFO => {
                        for _ in 0..3 {
                            from.length()?;
                        }
                    }
                    _ => {}
                }
                Ok((opcode, None))
            };
            let stepped = step();
            let place = from.position();
            let (opcode, item) = stepped.map_err(|e| self.fault(place, e.0))?;
            let before = self.at;
            self.at = place;
            match opcode {
                _ if item.is_some() => return Ok(item),
                op::EOF => {
                    self.end(before)?;
                    return Ok(None);
                }
                op::FUNCTION | op::FUNCTION_PRE_GA => {
                    return Err(
                        self.fault(before, "a library of functions, which are not supported")
                    );
                }
                op::MODULE_AUX => {
                    let id = Cursor::new(self.bytes, place).length();
                    let name = module_name(id.map_err(|e| self.fault(place, e.0))?);
                    let text = format!("data of the module '{name}', which are not supported");
                    return Err(self.fault(before, text));
                }
                op::SLOT_INFO..=op::EOF => continue,
                ty => {
                    let entry = self.key(ty, expire)?;
                    let Some(entry) = entry else {
                        (expire, idle_s, freq) = (None, None, None);
                        continue;
                    };
                    debug_assert!(self.at > start);
                    let (offset, db) = (before, self.db);
                    return Ok(Some(Item::Key { offset, db, entry, idle_s, freq }));
                }
            }
        }
    }

    /// A key and its value; `None` for an empty collection, which is no key.
    fn key(&mut self, ty: u8, expire: Option<i64>) -> Result<Option<Entry>, Error> {
        let type_at = self.at - 1;
        let mut from = Cursor::new(self.bytes, self.at);
        let mut digits = itoa::Buffer::new();
        let key = match from.string(&mut self.key_room) {
            Ok(key) => key.bytes(&mut digits),
            Err(e) => {
                return Err(Error { offset: from.position(), key: None, text: e.0.into() });
            }
        };
        let fault = |offset, text| Error { offset, key: Some(key.into()), text };
        if let Some(what) = ty::unsupported(ty) {
            let text = format!("type {ty} ({what}) is not supported by this version");
            return Err(fault(type_at, text.into()));
        }
        let payload = match self.values.read(ty, &mut from) {
            Ok(payload) => payload,
            Err(_) if !ty::known(ty) => {
                return Err(fault(type_at, format!("no value has type {ty}").into()));
            }
            Err(e) => {
                return Err(fault(from.position(), format!("{} (type {ty})", e.0).into()));
            }
        };
        let entry = payload.map(|payload| Entry::new(key, payload, expire));
        self.at = from.position();
        Ok(entry)
    }

    /// Verifies the checksum; the end marker is at `marker`, and was read.
    fn end(&mut self, marker: usize) -> Result<(), Error> {
        self.done = true;
        if self.version < CHECKSUM_SINCE {
            return Ok(());
        }
        let mut from = Cursor::new(self.bytes, self.at);
        let Ok(said) = from.array() else {
            return Err(self.fault(marker, "the file ends inside of its checksum"));
        };
        let said = u64::from_le_bytes(said);
        if self.verify && said != 0 {
            self.crc.update(&self.bytes[self.checked..self.at]);
            let is = self.crc.value();
            if is != said {
                let text = format!("the checksum is {is:016x}, and the file says {said:016x}");
                return Err(self.fault(self.at, text));
            }
        }
        self.at = from.position();
        Ok(())
    }
}

fn number(n: u64) -> Result<usize, Corrupt> {
    usize::try_from(n).map_err(|_| Corrupt("a number beyond all sense"))
}

/// A string, copied only if it was written as something else.
fn owned<'a>(from: &mut Cursor<'a>) -> Result<Cow<'a, [u8]>, Corrupt> {
    if let Some(plain) = from.plain_string()? {
        return Ok(plain.into());
    }
    let mut room = Room::default();
    let text = from.string(&mut room)?;
    Ok(text.bytes(&mut itoa::Buffer::new()).to_vec().into())
}

/// A module's name, nine characters of six bits, from the id that its data begin with.
fn module_name(id: u64) -> String {
    const CHARACTERS: &[u8; 64] =
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (1..=9).map(|i| char::from(CHARACTERS[(id >> (64 - 6 * i) & 63) as usize])).collect()
}
