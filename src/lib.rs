//! The daemon `varved`: what the engine, the log, replication and the network know nothing of.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `cmdline.rs` | the command line, as `redis-server` takes it |
//! | `config/` | the directives: reading files, CONFIG GET, SET and REWRITE, the manual |
//! | `server/` | the daemon: clients, dispatch, blocking, cron, snapshots, replication |
//! | `commands/` | the daemon's own commands |
//! | `title.rs` | the process title |
//! | `crash.rs` | what the log says when the process crashes |
//! | `allocator.rs` | the allocator, counted |
//! | `service.rs` | what systemd is told |
//! | `logger.rs` | the log file of the process (not the command log) |

pub mod allocator;
pub mod cmdline;
pub mod commands;
pub mod config;
pub mod crash;
pub mod logger;
pub mod server;
pub mod service;
pub mod title;

/// The version of this server.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
