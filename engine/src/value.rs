//! What a key can hold.

use crate::table::Fetch;
use crate::text::Text;
use crate::types::{hash::Hash, list::List, set::Set, zset::Zset};

/// Elements of a table that [`Value::memory`] is estimated from where nothing else is asked for.
pub const SAMPLES: usize = 64;

/// A value that does not live in its key's entry.
#[derive(Clone)]
pub enum Value {
    Str(Text),
    List(List),
    Hash(Hash),
    Set(Set),
    Zset(Zset),
}

/// The five types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    List,
    Hash,
    Set,
    Zset,
}

impl Type {
    /// The word that `TYPE` answers and `SCAN … TYPE` takes.
    pub fn name(self) -> &'static str {
        match self {
            Type::String => "string",
            Type::List => "list",
            Type::Hash => "hash",
            Type::Set => "set",
            Type::Zset => "zset",
        }
    }
}

impl Value {
    pub fn type_of(&self) -> Type {
        match self {
            Value::Str(_) => Type::String,
            Value::List(_) => Type::List,
            Value::Hash(_) => Type::Hash,
            Value::Set(_) => Type::Set,
            Value::Zset(_) => Type::Zset,
        }
    }

    /// The word that `OBJECT ENCODING` answers.
    pub fn encoding(&self) -> &'static str {
        match self {
            Value::Str(_) => "raw",
            Value::List(v) => v.encoding(),
            Value::Hash(v) => v.encoding(),
            Value::Set(v) => v.encoding(),
            Value::Zset(v) => v.encoding(),
        }
    }

    /// Bytes allocated for the value; those of a table's elements from so many of them, or all if that is 0.
    pub fn memory(&self, samples: usize) -> usize {
        match self {
            Value::Str(v) => v.capacity(),
            Value::List(v) => v.memory(),
            Value::Hash(v) => v.memory(samples),
            Value::Set(v) => v.memory(samples),
            Value::Zset(v) => v.memory(samples),
        }
    }

    /// Where its own memory begins, as a hint to the processor's cache.
    #[inline]
    pub fn address(&self) -> *const u8 {
        match self {
            Value::Str(v) => v.as_ptr(),
            Value::List(v) => v.address(),
            Value::Hash(v) => v.address(),
            Value::Set(v) => v.address(),
            Value::Zset(v) => v.address(),
        }
    }

    /// The table that holds its elements, if it is large.
    #[inline]
    pub fn elements(&self) -> Option<&dyn Fetch> {
        match self {
            Value::Str(_) | Value::List(_) => None,
            Value::Hash(v) => v.as_table().map(|t| t as &dyn Fetch),
            Value::Set(v) => v.as_table().map(|t| t as &dyn Fetch),
            Value::Zset(v) => v.as_table().map(|t| t as &dyn Fetch),
        }
    }

    /// How many allocations freeing it takes: above some tens it is worth another thread.
    pub fn free_effort(&self) -> usize {
        match self {
            Value::Str(_) => 1,
            Value::List(v) => v.free_effort(),
            Value::Hash(v) => v.free_effort(),
            Value::Set(v) => v.free_effort(),
            Value::Zset(v) => v.free_effort(),
        }
    }
}
