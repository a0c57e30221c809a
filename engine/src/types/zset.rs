//! The zset.

#[derive(Clone)]
pub struct Zset;

impl Zset {
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
