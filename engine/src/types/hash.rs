//! The hash.

#[derive(Clone)]
pub struct Hash;

impl Hash {
    pub fn encoding(&self) -> &'static str {
        "listpack"
    }

    pub fn memory(&self) -> usize {
        0
    }

    pub fn free_effort(&self) -> usize {
        1
    }
}
