//! The primary and the replica as state machines.
