//! What reaches disk.
pub mod offset;
