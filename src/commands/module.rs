//! `MODULE`: there are none, which clients and tools ask for before they choose their features.

use super::Done;
use crate::server::Server;
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use varve_engine::command::{Command, Keys, Spec, flag::*};
use varve_engine::{Args, Error};

fn list(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.array(0);
    Ok(())
}

fn not_allowed(_: &mut Server, _: &mut Call, _: &mut Args) -> Done {
    Err(Error::new("ERR MODULE command not allowed. Varve has no modules."))
}

fn help(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.help(
        "MODULE",
        &[
            "LIST",
            "    Lists modules: there are none.",
            "LOAD | LOADEX | UNLOAD",
            "    Refused: this server has no modules.",
        ],
    );
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags, 0, Keys::None)
}

const CHANGES: u32 = ADMIN | NOSCRIPT | NO_ASYNC_LOADING;
const REFUSED: &str = "Refused: this server has no modules.";

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: help, spec: spec("module|help", 2, LOADING | STALE).doc("server", "5.0.0", "O(1)", "Tells what MODULE can do.", "") },
    Command { run: list, spec: spec("module|list", 2, ADMIN | NOSCRIPT).tips(&["nondeterministic_output_order"]).doc("server", "4.0.0", "O(N) in the modules", "Lists modules: there are none.", "") },
    Command { run: not_allowed, spec: spec("module|load", -3, CHANGES).doc("server", "4.0.0", "O(1)", REFUSED, "path [arg...]") },
    Command { run: not_allowed, spec: spec("module|loadex", -3, CHANGES).doc("server", "7.0.0", "O(1)", REFUSED, "path [CONFIG configs=(name value)]... [ARGS arg...]") },
    Command { run: not_allowed, spec: spec("module|unload", 3, CHANGES).doc("server", "4.0.0", "O(1)", REFUSED, "name") },
];
