//! The daemon's own commands: connections, transactions, pub/sub, the server itself.

pub mod client;
pub mod cluster;
pub mod command;
pub mod config;
pub mod connection;
pub mod debug;
pub mod dump;
pub mod info;
pub mod latency;
pub mod memory;
pub mod migrate;
pub mod module;
pub mod persistence;
pub mod pubsub;
pub mod replication;
pub mod server;
pub mod slowlog;
pub mod transactions;

use crate::server::registry::ServerHandler;
use varve_engine::Error;
use varve_engine::command::{Command, Handler};

/// Every command of the daemon.
pub fn all() -> impl Iterator<Item = &'static Command<ServerHandler>> {
    [
        client::COMMANDS,
        cluster::COMMANDS,
        command::COMMANDS,
        config::COMMANDS,
        connection::COMMANDS,
        debug::COMMANDS,
        info::COMMANDS,
        latency::COMMANDS,
        memory::COMMANDS,
        migrate::COMMANDS,
        module::COMMANDS,
        persistence::COMMANDS,
        pubsub::COMMANDS,
        replication::COMMANDS,
        server::COMMANDS,
        slowlog::COMMANDS,
        transactions::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

/// Every command on data: the engine's, and those that need to know RDB.
pub fn on_data() -> impl Iterator<Item = &'static Command<Handler>> {
    varve_engine::commands::all().chain(dump::COMMANDS)
}

/// The error for a subcommand that there is not, or not with so many arguments.
fn no_such_use(container: &str, subcommand: &[u8]) -> Error {
    let end = format!("'. Try {container} HELP.");
    Error::quoting("unknown subcommand or wrong number of arguments for '", subcommand, &end)
}

/// The result of a command of the daemon.
pub type Done = Result<(), Error>;
