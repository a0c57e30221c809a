//! What every black-box test needs: a server in one line, a client, and a way to compare data.

pub mod client;
pub mod dataset;
pub mod folder;
pub mod power;
pub mod proxy;
pub mod random;
pub mod server;
pub mod value;
pub mod writers;

pub use client::{Client, Command};
pub use dataset::{assert_same_data, dataset, first_difference};
pub use folder::{Folder, manifest_to_change};
pub use power::PowerDisk;
pub use proxy::Proxy;
pub use random::Random;
pub use server::{Server, caught_up, listen};
pub use value::Value;

use std::time::{Duration, Instant};

/// How long anything may take before it counts as hung. Generous: the machine is shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `condition` until it holds; false when `timeout` passes first.
pub fn eventually(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    let mut pause_ms = 1;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(pause_ms));
        pause_ms = (pause_ms * 2).min(50);
    }
}

/// An unsigned number from the environment; a value that is no number is a mistake to be told.
pub fn env_number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}
