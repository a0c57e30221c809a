//! The collections: each small in RDB's own bytes, large in a table, and never back.

pub mod field;
pub mod hash;
pub mod list;
pub mod set;
pub mod zset;
