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

#[cfg(test)]
mod tests {
    use super::*;
    use varve_engine::grammar::{self, Argument, Type, flag};

    /// The fewest words that these can be, and the most; no end if `None`.
    fn words(arguments: &[Argument]) -> (usize, Option<usize>) {
        arguments.iter().map(words_of).fold((0, Some(0)), |(least, most), (l, m)| {
            (least + l, most.zip(m).map(|(most, m)| most + m))
        })
    }

    fn words_of(argument: &Argument) -> (usize, Option<usize>) {
        let (least, most) = match argument.ty {
            Type::Block => words(&argument.arguments),
            Type::OneOf => {
                let each: Vec<_> = argument.arguments.iter().map(words_of).collect();
                let least = each.iter().map(|(least, _)| *least).min().unwrap();
                let most: Option<Vec<_>> = each.iter().map(|(_, most)| *most).collect();
                (least, most.and_then(|most| most.into_iter().max()))
            }
            Type::PureToken => (0, Some(0)),
            _ => (1, Some(1)),
        };
        let token = argument.token.is_some() as usize;
        let has = |flag| argument.flags & flag != 0;
        (
            if has(flag::OPTIONAL) { 0 } else { least + token },
            if has(flag::MULTIPLE) { None } else { most.map(|n| n + token) },
        )
    }

    /// `COMMAND DOCS` relies on it that every grammar is one.
    #[test]
    fn arguments_agree_with_arity() {
        let specs = all().map(|c| &c.spec).chain(on_data().map(|c| &c.spec));
        for spec in specs {
            let arguments =
                grammar::parse(spec.arguments).unwrap_or_else(|e| panic!("{}: {e}", spec.name));
            let (least, most) = words(&arguments);
            let of_name = spec.name.split('|').count();
            let arity = spec.arity.unsigned_abs() as usize - of_name;
            assert_eq!(least, arity, "{} {}", spec.name, spec.arguments);
            if spec.arity >= 0 {
                assert_eq!(most, Some(arity), "{} {}", spec.name, spec.arguments);
            }
        }
    }
}
