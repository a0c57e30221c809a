//! x
pub mod frame;
pub mod node;
pub mod output;
pub mod primary;
pub mod replica;
mod transfer;
pub mod wire;
