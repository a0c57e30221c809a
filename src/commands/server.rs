//! What belongs to the server as a whole: watching it, its time, and who may do what.

use super::connection::REDIS_VERSION;
use super::{Done, no_such_use};
use crate::server::Server;
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use varve_engine::command::{Command, Keys, Spec, category, flag::*};
use varve_engine::{Args, Error};

fn monitor(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    if s.in_exec.is_some() {
        return Err(Error::new("ERR Command not allowed inside a transaction"));
    }
    // Who listens already is not answered: a reply would look like one more line.
    if !call.client.monitor {
        call.client.monitor = true;
        s.monitors.push(call.id);
        call.reply.ok();
    }
    Ok(())
}

fn time(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let us = s.clock.fresh_us();
    call.reply.array(2);
    call.reply.bulk_int(us / 1_000_000);
    call.reply.bulk_int(us % 1_000_000);
    Ok(())
}

fn lolwut(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let text = format!(
        "  . : - = layer on layer = - : .\nRedis ver. {REDIS_VERSION}\nVarve ver. {}\n",
        crate::VERSION
    );
    call.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

fn acl_whoami(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.bulk(b"default");
    Ok(())
}

fn acl_cat(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let Some(word) = args.get(2) else {
        call.reply.array(category::NAMES.len());
        category::NAMES.iter().for_each(|(_, name)| call.reply.bulk(name.as_bytes()));
        return Ok(());
    };
    if args.len() > 3 {
        return Err(no_such_use("ACL", &args[1]));
    }
    let named = |n: &&(u32, &str)| n.1.as_bytes().eq_ignore_ascii_case(word);
    let Some((bit, _)) = category::NAMES.iter().find(named) else {
        return Err(Error::err(format_args!(
            "Unknown category '{}'",
            String::from_utf8_lossy(word)
        )));
    };
    let names: Vec<&str> = s
        .commands
        .all()
        .iter()
        .filter(|c| c.spec.all_categories() & bit != 0)
        .map(|c| c.spec.name)
        .collect();
    call.reply.array(names.len());
    names.iter().for_each(|name| call.reply.bulk(name.as_bytes()));
    Ok(())
}

fn acl_users(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.array(1);
    call.reply.bulk(b"default");
    Ok(())
}

fn acl_list(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    // The password is not shown in any form.
    let login = if s.cfg.requirepass.is_empty() { "nopass" } else { "(password by requirepass)" };
    call.reply.array(1);
    call.reply.bulk(format!("user default on {login} ~* &* +@all").as_bytes());
    Ok(())
}

fn acl_help(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.help(
        "ACL",
        &[
            "CAT [<category>]",
            "    Lists the categories of commands, or the commands of one.",
            "LIST | USERS",
            "    Shows the users: there is one, 'default'.",
            "WHOAMI",
            "    Tells the connection's user.",
        ],
    );
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32, categories: u32) -> Spec {
    Spec::new(name, arity, flags, categories, Keys::None)
}

const ACL: u32 = ADMIN | NOSCRIPT | LOADING | STALE;

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: monitor, spec: spec("monitor", 1, ADMIN | NOSCRIPT | LOADING | STALE, 0).doc("server", "1.0.0", "O(1)", "Shows every command as it is run.", "") },
    Command { run: time, spec: spec("time", 1, LOADING | STALE | FAST, 0).tips(&["nondeterministic_output"]).doc("server", "2.6.0", "O(1)", "Tells the server's time.", "") },
    Command { run: lolwut, spec: spec("lolwut", -1, READONLY | FAST, 0).doc("server", "5.0.0", "O(1)", "Tells the version with a flourish.", "[VERSION version]") },
    Command { run: acl_whoami, spec: spec("acl|whoami", 2, NOSCRIPT | LOADING | STALE, 0).doc("server", "6.0.0", "O(1)", "Tells the connection's user.", "") },
    Command { run: acl_cat, spec: spec("acl|cat", -2, NOSCRIPT | LOADING | STALE, 0).doc("server", "6.0.0", "O(N) in the commands", "Lists categories of commands.", "[categoryname]") },
    Command { run: acl_users, spec: spec("acl|users", 2, ACL, 0).doc("server", "6.0.0", "O(1)", "Lists the users' names.", "") },
    Command { run: acl_list, spec: spec("acl|list", 2, ACL, 0).doc("server", "6.0.0", "O(1)", "Lists the users with their rights.", "") },
    Command { run: acl_help, spec: spec("acl|help", 2, LOADING | STALE, 0).doc("server", "6.0.0", "O(1)", "Lists the subcommands.", "") },
];
