//! The daemon `varved`: what the engine, the log, replication and the network know nothing of.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `cmdline.rs` | the command line, as `redis-server` takes it |
//! | `config/` | the directives: reading files, CONFIG GET, SET and REWRITE, the manual |
//! | `logger.rs` | the log file of the process (not the command log) |

pub mod cmdline;
pub mod config;
pub mod logger;

/// The version of this server.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
