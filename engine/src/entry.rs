//! A key and its value as one allocation.
//!
//! The table holds one word a key: the address of its entry. Key, time to live and short strings
//! live in that one allocation, so a `GET` touches the bucket's cache line and then the entry's.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | access clock (low 24 bits: LRU seconds, or LFU minutes and counter) and shape (high 8 bits) |
//! | 4 | 4 | length of the key |
//! | 8 | 8 | time of expiry, Unix ms; only with the shape's `EXPIRES` |
//! | … | 8 | the integer, for an integer |
//! | … | 4 | length and capacity of the string, `u16` each, for an embedded string |
//! | … | 24 | the [`Value`], for everything else |
//! | … | n | the key |
//! | … | m | the embedded string, up to its capacity |

use crate::size_class::size_class;
use crate::table::Slot;
use crate::text::Text;
use crate::value::{Type, Value};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ptr::NonNull;
use std::sync::Arc;

/// Strings up to this many bytes live in the entry itself.
pub const EMBED_MAX: usize = 1024;
/// Up to this length a string set as a whole is called `embstr`, above it `raw`.
const EMBSTR_MAX: usize = 44;

const EXPIRES: u8 = 1;
/// The string was edited in place: `OBJECT ENCODING` says `raw` whatever its length.
const EDITED: u8 = 2;
const KIND: u8 = 0b1100;
const INT: u8 = 0b0000;
const EMBEDDED: u8 = 0b0100;
const VALUE: u8 = 0b1000;

#[repr(C, align(8))]
struct Header {
    access_and_shape: u32,
    key_len: u32,
}

/// Owns a key and its value.
pub struct Entry {
    header: NonNull<Header>,
    owns: PhantomData<Value>,
}

/// The same word as an [`Entry`], without owning it: what the expiry index holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EntryRef(NonNull<Header>);

// SAFETY: an entry is reached through its one owner only; everything that it holds is `Send`.
unsafe impl Send for Entry {}
// SAFETY: a reference is only ever used by the owner of the entry, beside which it lives in `Db`.
unsafe impl Send for EntryRef {}

/// A string as it is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Str<'a> {
    Int(i64),
    Bytes(&'a [u8]),
}

impl Str<'_> {
    /// Its bytes; an integer is printed into `room`.
    pub fn bytes<'r>(&'r self, room: &'r mut itoa::Buffer) -> &'r [u8] {
        match self {
            Str::Int(n) => room.format(*n).as_bytes(),
            Str::Bytes(b) => b,
        }
    }

    pub fn len(&self) -> usize {
        self.bytes(&mut itoa::Buffer::new()).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an entry is made of.
pub enum Payload<'a> {
    Int(i64),
    /// A string of at most [`EMBED_MAX`] bytes.
    Embed(&'a [u8]),
    Value(Value),
}

impl<'a> Payload<'a> {
    /// A string in the most compact form that reads back to the same bytes.
    pub fn string(bytes: &'a [u8]) -> Payload<'a> {
        if bytes.len() <= 20
            && let Some(n) = crate::num::parse_int(bytes)
        {
            return Payload::Int(n);
        }
        Payload::text(bytes)
    }

    /// A string that stays one, even if it spells an integer.
    pub fn text(bytes: &'a [u8]) -> Payload<'a> {
        match bytes.len() {
            0..=EMBED_MAX => Payload::Embed(bytes),
            _ => Payload::Value(Value::Str(bytes.to_vec().into())),
        }
    }

    /// As [`Payload::string`], keeping the allocation of a long one.
    pub fn owned_string(bytes: Text) -> Payload<'static> {
        match bytes.len() {
            0..=20 if crate::num::parse_int(&bytes).is_some() => {
                Payload::Int(crate::num::parse_int(&bytes).expect("just parsed"))
            }
            _ => Payload::Value(Value::Str(bytes)),
        }
    }
}

/// Where the parts of an entry of some shape lie.
struct Places {
    value: usize,
    key: usize,
}

fn places(shape: u8) -> Places {
    let value = size_of::<Header>() + if shape & EXPIRES != 0 { 8 } else { 0 };
    let key = value
        + match shape & KIND {
            INT => 8,
            EMBEDDED => 4,
            _ => size_of::<Value>(),
        };
    Places { value, key }
}

fn layout(size: usize) -> Layout {
    const { assert!(align_of::<Value>() <= align_of::<Header>()) };
    Layout::from_size_align(size, align_of::<Header>()).expect("an entry is below isize::MAX")
}

impl Entry {
    /// A new entry. Its access clock is 0.
    pub fn new(key: &[u8], payload: Payload<'_>, expire_ms: Option<i64>) -> Entry {
        assert!(key.len() < u32::MAX as usize);
        let (kind, embedded) = match &payload {
            Payload::Int(_) => (INT, 0),
            Payload::Embed(b) => {
                assert!(b.len() <= EMBED_MAX);
                (EMBEDDED, b.len())
            }
            Payload::Value(_) => (VALUE, 0),
        };
        let shape = kind | if expire_ms.is_some() { EXPIRES } else { 0 };
        let at = places(shape);
        // An embedded string may use what alignment leaves over.
        let size = (at.key + key.len() + embedded).next_multiple_of(align_of::<Header>());
        let capacity = size - at.key - key.len();
        // SAFETY: the size is not zero, and every write below is inside it: the places are computed
        // from the same shape, `value` is a multiple of 8 where a wide field is written.
        unsafe {
            let base = alloc(layout(size));
            let Some(header) = NonNull::new(base.cast::<Header>()) else {
                handle_alloc_error(layout(size))
            };
            header.write(Header {
                access_and_shape: (shape as u32) << 24,
                key_len: key.len() as u32,
            });
            if let Some(ms) = expire_ms {
                base.add(size_of::<Header>()).cast::<i64>().write(ms);
            }
            match payload {
                Payload::Int(n) => base.add(at.value).cast::<i64>().write(n),
                Payload::Embed(b) => {
                    base.add(at.value).cast::<u16>().write(b.len() as u16);
                    base.add(at.value + 2).cast::<u16>().write(capacity as u16);
                    base.add(at.key + key.len()).copy_from_nonoverlapping(b.as_ptr(), b.len());
                }
                Payload::Value(v) => base.add(at.value).cast::<Value>().write(v),
            }
            base.add(at.key).copy_from_nonoverlapping(key.as_ptr(), key.len());
            Entry { header, owns: PhantomData }
        }
    }

    fn base(&self) -> *mut u8 {
        self.header.as_ptr().cast()
    }

    #[inline]
    fn shape(&self) -> u8 {
        // SAFETY: the header is initialised for as long as the entry lives.
        unsafe { ((*self.header.as_ptr()).access_and_shape >> 24) as u8 }
    }

    fn set_shape(&mut self, shape: u8) {
        // SAFETY: as above, and `&mut self` is the only way to it.
        unsafe {
            let word = &mut (*self.header.as_ptr()).access_and_shape;
            *word = *word & 0x00ff_ffff | (shape as u32) << 24;
        }
    }

    fn key_len(&self) -> usize {
        // SAFETY: as in `shape`.
        unsafe { (*self.header.as_ptr()).key_len as usize }
    }

    #[inline]
    pub fn key(&self) -> &[u8] {
        // SAFETY: `new` wrote `key_len` bytes there; they never change.
        unsafe {
            std::slice::from_raw_parts(self.base().add(places(self.shape()).key), self.key_len())
        }
    }

    /// The access clock, 24 bits.
    pub fn access(&self) -> u32 {
        // SAFETY: as in `shape`.
        unsafe { (*self.header.as_ptr()).access_and_shape & 0x00ff_ffff }
    }

    pub fn set_access(&mut self, clock: u32) {
        // SAFETY: as in `set_shape`.
        unsafe {
            let word = &mut (*self.header.as_ptr()).access_and_shape;
            *word = *word & 0xff00_0000 | clock & 0x00ff_ffff;
        }
    }

    /// When the key expires, Unix ms.
    #[inline]
    pub fn expire(&self) -> Option<i64> {
        if self.shape() & EXPIRES == 0 {
            return None;
        }
        // SAFETY: the shape says that the field is there, 8-aligned behind the header.
        Some(unsafe { self.base().add(size_of::<Header>()).cast::<i64>().read() })
    }

    /// Changes the time of expiry in place; false if the entry has no room for one.
    fn set_expire_in_place(&mut self, ms: Option<i64>) -> bool {
        match (self.shape() & EXPIRES != 0, ms) {
            (false, None) => true,
            (true, Some(ms)) => {
                // SAFETY: the shape says that the field is there.
                unsafe { self.base().add(size_of::<Header>()).cast::<i64>().write(ms) };
                true
            }
            _ => false,
        }
    }

    /// Changes the time of expiry. The entry may move: whoever else holds its word must be told.
    pub fn set_expire(&mut self, ms: Option<i64>) {
        if !self.set_expire_in_place(ms) {
            self.rebuild(None, ms);
        }
    }

    /// Replaces the value, keeping key and access clock. The entry may move.
    pub fn set_payload(&mut self, payload: Payload<'_>, expire_ms: Option<i64>) {
        match &payload {
            Payload::Embed(b) if self.shape() & KIND == EMBEDDED => {
                let at = places(self.shape());
                // SAFETY: the shape says that both fields are there; the copy stays within the
                // capacity that `new` allocated.
                unsafe {
                    let lengths = self.base().add(at.value).cast::<u16>();
                    let capacity = lengths.add(1).read() as usize;
                    // Keeping a far too large block would waste what the shorter string saved.
                    if b.len() <= capacity
                        && capacity - b.len() <= 16 + b.len() / 4
                        && self.set_expire_in_place(expire_ms)
                    {
                        lengths.write(b.len() as u16);
                        self.base()
                            .add(at.key + self.key_len())
                            .copy_from_nonoverlapping(b.as_ptr(), b.len());
                        self.set_shape(self.shape() & !EDITED);
                        return;
                    }
                }
            }
            Payload::Int(n)
                if self.shape() & KIND == INT && self.set_expire_in_place(expire_ms) =>
            {
                let at = places(self.shape());
                // SAFETY: the shape says that an integer is there.
                unsafe { self.base().add(at.value).cast::<i64>().write(*n) };
                return;
            }
            _ => {}
        }
        self.rebuild(Some(payload), expire_ms);
    }

    /// A new allocation with the same key, another time of expiry and, if given, another payload.
    fn rebuild(&mut self, payload: Option<Payload<'_>>, expire_ms: Option<i64>) {
        let access = self.access();
        let mut new = match payload {
            Some(payload) => Entry::new(self.key(), payload, expire_ms),
            None => {
                let edited = self.shape() & EDITED;
                let mut new = match self.shape() & KIND {
                    VALUE => {
                        let value = std::mem::replace(
                            self.value_mut().expect("the shape says so"),
                            Value::Str(Text::default()),
                        );
                        Entry::new(self.key(), Payload::Value(value), expire_ms)
                    }
                    INT => {
                        let Some(Str::Int(n)) = self.string() else { unreachable!() };
                        Entry::new(self.key(), Payload::Int(n), expire_ms)
                    }
                    _ => {
                        let Some(Str::Bytes(b)) = self.string() else { unreachable!() };
                        Entry::new(self.key(), Payload::Embed(b), expire_ms)
                    }
                };
                new.set_shape(new.shape() | edited);
                new
            }
        };
        new.set_access(access);
        *self = new;
    }

    /// The string, if the value is one.
    #[inline]
    pub fn string(&self) -> Option<Str<'_>> {
        let at = places(self.shape());
        // SAFETY: the shape says which field is there.
        unsafe {
            match self.shape() & KIND {
                INT => Some(Str::Int(self.base().add(at.value).cast::<i64>().read())),
                EMBEDDED => {
                    let len = self.base().add(at.value).cast::<u16>().read() as usize;
                    let start = self.base().add(at.key + self.key_len());
                    Some(Str::Bytes(std::slice::from_raw_parts(start, len)))
                }
                _ => match &*self.base().add(at.value).cast::<Value>() {
                    Value::Str(b) => Some(Str::Bytes(b)),
                    _ => None,
                },
            }
        }
    }

    /// The value, unless it is a string kept in the entry itself.
    #[inline]
    pub fn value(&self) -> Option<&Value> {
        if self.shape() & KIND != VALUE {
            return None;
        }
        // SAFETY: the shape says that a value is there.
        Some(unsafe { &*self.base().add(places(self.shape()).value).cast::<Value>() })
    }

    #[inline]
    pub fn value_mut(&mut self) -> Option<&mut Value> {
        if self.shape() & KIND != VALUE {
            return None;
        }
        // SAFETY: as above, and `&mut self` is the only way to it.
        Some(unsafe { &mut *self.base().add(places(self.shape()).value).cast::<Value>() })
    }

    /// The string as a growing vector, for edits in place; from now on its encoding is `raw`. The
    /// entry may move. `None` if the value is not a string.
    pub fn edit_string(&mut self) -> Option<&mut Vec<u8>> {
        let bytes = match self.string()? {
            Str::Int(n) => Some(itoa::Buffer::new().format(n).as_bytes().to_vec()),
            Str::Bytes(b) if self.shape() & KIND == EMBEDDED => Some(b.to_vec()),
            Str::Bytes(_) => None,
        };
        if let Some(bytes) = bytes {
            self.rebuild(Some(Payload::Value(Value::Str(bytes.into()))), self.expire());
        }
        self.set_shape(self.shape() | EDITED);
        match self.value_mut() {
            Some(Value::Str(b)) => Some(b.edit()),
            _ => None,
        }
    }

    /// The bytes of a long string for a reader to hold, whatever becomes of the key.
    pub fn share_string(&mut self) -> Option<Arc<Vec<u8>>> {
        match self.value_mut() {
            Some(Value::Str(text)) => text.share(),
            _ => None,
        }
    }

    /// Takes the value out, and leaves an empty one.
    pub fn take_value(&mut self) -> Option<Value> {
        self.value_mut().map(|v| std::mem::replace(v, Value::Str(Text::default())))
    }

    /// The same value under another key; nothing is copied but what lives in the entry itself.
    pub fn moved_to(mut self, key: &[u8], expire_ms: Option<i64>) -> Entry {
        let edited = self.shape() & EDITED;
        let mut moved = match self.value_mut() {
            None => return self.copy_as(key, expire_ms),
            Some(value) => {
                let value = std::mem::replace(value, Value::Str(Text::default()));
                Entry::new(key, Payload::Value(value), expire_ms)
            }
        };
        moved.set_shape(moved.shape() | edited);
        moved
    }

    /// A copy of the value under another key, without access clock.
    pub fn copy_as(&self, key: &[u8], expire_ms: Option<i64>) -> Entry {
        let mut copy = match self.shape() & KIND {
            VALUE => {
                let value = self.value().expect("the shape says so").clone();
                Entry::new(key, Payload::Value(value), expire_ms)
            }
            _ => match self.string().expect("the shape says so") {
                Str::Int(n) => Entry::new(key, Payload::Int(n), expire_ms),
                Str::Bytes(b) => Entry::new(key, Payload::Embed(b), expire_ms),
            },
        };
        copy.set_shape(copy.shape() | self.shape() & EDITED);
        copy
    }

    pub fn type_of(&self) -> Type {
        self.value().map_or(Type::String, Value::type_of)
    }

    /// The word that `OBJECT ENCODING` answers.
    pub fn encoding(&self) -> &'static str {
        match self.string() {
            Some(Str::Int(_)) => "int",
            Some(Str::Bytes(b)) if b.len() <= EMBSTR_MAX && self.shape() & EDITED == 0 => "embstr",
            Some(Str::Bytes(_)) => "raw",
            None => self.value().expect("not a string").encoding(),
        }
    }

    fn size(&self) -> usize {
        let at = places(self.shape());
        let unpadded = match self.shape() & KIND {
            EMBEDDED => {
                // SAFETY: the shape says that the lengths are there.
                let capacity = unsafe { self.base().add(at.value + 2).cast::<u16>().read() };
                return at.key + self.key_len() + capacity as usize;
            }
            _ => at.key + self.key_len(),
        };
        unpadded.next_multiple_of(align_of::<Header>())
    }

    /// Bytes allocated for the entry and all that its value holds, as [`Value::memory`].
    pub fn memory(&self, samples: usize) -> usize {
        size_class(self.size()) + self.value().map_or(0, |value| value.memory(samples))
    }

    pub fn word(&self) -> EntryRef {
        EntryRef(self.header)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let size = self.size();
        // SAFETY: `size` is what `new` allocated: the shape never changes its kind or `EXPIRES`
        // without a new allocation, the capacity is stored. The value is dropped once, here.
        unsafe {
            if self.shape() & KIND == VALUE {
                let at = places(self.shape());
                self.base().add(at.value).cast::<Value>().drop_in_place();
            }
            dealloc(self.base(), layout(size));
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({:?}, {})", self.key().escape_ascii().to_string(), self.encoding())
    }
}

impl Slot for Entry {
    #[inline]
    fn key(&self) -> &[u8] {
        Entry::key(self)
    }

    fn address(&self) -> *const u8 {
        self.header.as_ptr().cast()
    }
}

impl EntryRef {
    /// The entry that this word names.
    #[inline]
    pub fn entry(&self) -> &Entry {
        // SAFETY: `Entry` is this word and nothing else. A reference is only held by the expiry index of the
        // `Db` that owns the entry, which changes the index in the same call in which an entry moves or goes:
        // while the index is borrowed, the entry stays.
        unsafe { &*(&raw const self.0).cast::<Entry>() }
    }

    /// When the key expires, Unix ms.
    #[inline]
    pub fn expire(&self) -> Option<i64> {
        self.entry().expire()
    }
}

impl Slot for EntryRef {
    #[inline]
    fn key(&self) -> &[u8] {
        self.entry().key()
    }

    fn address(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_takes_the_form_that_fits_it() {
        let long = vec![b'x'; 5000];
        for (bytes, encoding) in [
            (&b"12345"[..], "int"),
            (b"-9223372036854775808", "int"),
            (b"012", "embstr"),
            (b"", "embstr"),
            (&long[..44], "embstr"),
            (&long[..45], "raw"),
            (&long, "raw"),
        ] {
            for expire in [None, Some(17)] {
                let e = Entry::new(b"key", Payload::string(bytes), expire);
                assert_eq!(e.string().unwrap().bytes(&mut itoa::Buffer::new()), bytes);
                assert_eq!((e.key(), e.expire(), e.encoding()), (&b"key"[..], expire, encoding));
            }
        }
    }

    #[test]
    fn every_change_keeps_key_and_clock() {
        let values: Vec<Vec<u8>> = [0usize, 1, 5, 44, 45, 64, 80, 1024, 1025, 3]
            .iter()
            .map(|&n| vec![b'v'; n])
            .chain([b"77".to_vec(), b"-5".to_vec()])
            .collect();
        let mut e = Entry::new(b"the key", Payload::string(b"first"), None);
        e.set_access(0xabcdef);
        for value in &values {
            for next in &values {
                for expire in [None, Some(1), Some(2)] {
                    e.set_payload(Payload::string(value), expire);
                    e.set_payload(Payload::string(next), expire);
                    assert_eq!(e.string().unwrap().bytes(&mut itoa::Buffer::new()), next);
                    e.set_expire(Some(9));
                    e.edit_string().unwrap().extend_from_slice(b"more");
                    assert_eq!(e.encoding(), "raw");
                    e.set_expire(None);
                    let whole = [&next[..], b"more"].concat();
                    assert_eq!(e.string(), Some(Str::Bytes(&whole)));
                    assert_eq!((e.key(), e.access()), (&b"the key"[..], 0xabcdef));
                }
            }
        }
    }
}
