//! What reaches disk.
