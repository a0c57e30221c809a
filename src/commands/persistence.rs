//! Saving, rewriting and shutting down.

use super::Done;
use crate::server::Server;
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use crate::server::snapshot::Purpose;
use varve_engine::command::{Command, Keys, Spec, category, flag::*};
use varve_engine::{Args, Error};

fn save(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    s.abandon_empty_save(call.net);
    if s.snapshots.running() && !s.snapshots.running_for(&Purpose::Rewrite) {
        return Err(Error::new("ERR Background save already in progress"));
    }
    s.snapshots.saves += 1;
    s.save_now().map_err(Error::err)?;
    call.reply.ok();
    Ok(())
}

fn bgsave(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let schedule = match args.get(1) {
        None => false,
        Some(w) if args.len() == 2 && w.eq_ignore_ascii_case(b"schedule") => true,
        Some(_) => return Err(Error::SYNTAX),
    };
    let text = s.bgsave(call.net, schedule)?;
    call.reply.simple(text);
    Ok(())
}

fn bgrewriteaof(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let text = s.bgrewriteaof(call.net)?;
    call.reply.simple(text);
    Ok(())
}

fn lastsave(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.int(s.snapshots.last_save_s);
    Ok(())
}

fn shutdown(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let (mut save, mut nosave, mut now, mut force, mut abort) = (false, false, false, false, false);
    for word in args.rest(1) {
        match word.to_ascii_lowercase().as_slice() {
            b"save" => save = true,
            b"nosave" => nosave = true,
            b"now" => now = true,
            b"force" => force = true,
            b"abort" => abort = true,
            _ => return Err(Error::SYNTAX),
        }
    }
    if save && nosave || abort && (save || nosave || now || force) {
        return Err(Error::SYNTAX);
    }
    if abort {
        return match s.cancel_shutdown(call.net) {
            true => {
                call.reply.ok();
                Ok(())
            }
            false => Err(Error::new("ERR No shutdown in progress.")),
        };
    }
    if s.in_exec.is_some() && !now {
        return Err(Error::new(
            "ERR SHUTDOWN without NOW or ABORT isn't allowed for DENY BLOCKING client",
        ));
    }
    if s.loading.is_some() {
        // What is loaded so far must not replace what is on disk.
        s.stopping = true;
        return Ok(());
    }
    let save = if save { Some(true) } else { nosave.then_some(false) };
    s.shutdown_command(call, save, now, force)
}

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags, category::ADMIN | category::DANGEROUS, Keys::None)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: save, spec: spec("save", 1, ADMIN | NOSCRIPT | NO_MULTI | NO_ASYNC_LOADING).doc("server", "1.0.0", "O(N) in all keys", "Saves the data to disk while all wait.", "") },
    Command { run: bgsave, spec: spec("bgsave", -1, ADMIN | NOSCRIPT | NO_ASYNC_LOADING).doc("server", "1.0.0", "O(1); a child saves", "Saves the data to disk in the background.", "[SCHEDULE]@3.2.2") },
    Command { run: bgrewriteaof, spec: spec("bgrewriteaof", 1, ADMIN | NOSCRIPT | NO_ASYNC_LOADING).doc("server", "1.0.0", "O(1); a child saves", "Gives the log a new base in the background.", "") },
    Command { run: lastsave, spec: spec("lastsave", 1, LOADING | STALE | FAST).tips(&["nondeterministic_output"]).doc("server", "1.0.0", "O(1)", "Tells the Unix second of the last good save.", "") },
    Command { run: shutdown, spec: spec("shutdown", -1, ADMIN | NOSCRIPT | LOADING | STALE | NO_MULTI | ALLOW_BUSY).doc("server", "1.0.0", "O(N) in all keys if it saves", "Stops the server in good order.", "[NOSAVE|SAVE] [NOW]@7.0.0 [FORCE]@7.0.0 [ABORT]@7.0.0") },
];
