//! The loop alone over real sockets.

mod common;
mod suite;

const IO_THREADS: usize = 1;
