//! The protocol, RESP 2 and 3: `request` reads commands, `reply` writes what they answer.

pub mod reply;
pub mod request;
