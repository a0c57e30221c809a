//! What reaches disk.
pub mod offset;
pub mod rdb;
