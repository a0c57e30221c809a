//! Values as portable bytes: they are RDB's, so they live where RDB is known.

use super::Done;
use varve_engine::command::{Command, Ctx, Handler, Keys, Spec, access::*, category, flag::*};
use varve_engine::keyspace::{Origin, event};
use varve_engine::num::parse_int;
use varve_engine::{Args, Error};
use varve_persistence::rdb;

/// The version of RDB whose types a payload uses: Redis 7.0 and later take it.
pub const VERSION: u32 = 10;

fn dump(ctx: &mut Ctx, args: &mut Args) -> Done {
    match ctx.ks.read(ctx.db, &args[1]) {
        Some(entry) => ctx.reply.bulk_vec(rdb::dump(entry, VERSION)),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn restore(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (mut replace, mut absolute, mut idle, mut freq) = (false, false, None, None);
    let mut i = 4;
    while i < args.len() {
        let value = args.get(i + 1);
        match args[i].to_ascii_lowercase().as_slice() {
            b"replace" => replace = true,
            b"absttl" => absolute = true,
            b"idletime" if value.is_some() && freq.is_none() => {
                let n = value.and_then(parse_int).ok_or(Error::NOT_INT)?;
                if n < 0 {
                    return Err(Error::new("ERR Invalid IDLETIME value, must be >= 0"));
                }
                idle = Some(n as u64);
                i += 1;
            }
            b"freq" if value.is_some() && idle.is_none() => {
                let n = value.and_then(parse_int).ok_or(Error::NOT_INT)?;
                if !(0..=255).contains(&n) {
                    return Err(Error::new("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
                freq = Some(n as u8);
                i += 1;
            }
            _ => return Err(Error::SYNTAX),
        }
        i += 1;
    }
    let db = ctx.db;
    let there = ctx.ks.exists(db, &args[1]);
    if there && !replace {
        return Err(Error::new("BUSYKEY Target key name already exists."));
    }
    let ttl = parse_int(&args[2]).ok_or(Error::NOT_INT)?;
    if ttl < 0 {
        return Err(Error::new("ERR Invalid TTL value, must be >= 0"));
    }
    let expire = match (ttl, absolute) {
        (0, _) => None,
        (at, true) => Some(at),
        (ms, false) => Some(ms.saturating_add(ctx.ks.now_ms)),
    };
    let entry = rdb::restore(&args[3], &args[1], &ctx.ks.limits, expire)?;
    if there {
        let old = ctx.ks.remove(db, &args[1]).expect("just found");
        let lazy = ctx.ks.lazy.server_del;
        ctx.ks.free(old, lazy);
    }
    if expire.is_some_and(|at| at <= ctx.ks.now_ms) && ctx.ks.origin != Origin::Log {
        // Dead on arrival: what it replaced is gone all the same.
        if there {
            ctx.ks.changed(db, &args[1], event::GENERIC, "del");
            ctx.effect([&b"DEL"[..], &args[1]]);
        }
        ctx.reply.ok();
        return Ok(());
    }
    ctx.ks.put(db, entry, None);
    ctx.ks.set_access_hint(db, &args[1], idle, freq);
    ctx.ks.changed(db, &args[1], event::GENERIC, "restore");
    // The log says when the key expires, not after how long.
    let at = itoa::Buffer::new().format(expire.unwrap_or(0)).to_owned();
    let mut parts: Vec<&[u8]> = args.iter().collect();
    parts[2] = at.as_bytes();
    if expire.is_some() && !absolute {
        parts.push(b"ABSTTL");
    }
    if !replace {
        parts.push(b"REPLACE");
    }
    ctx.effect(parts);
    ctx.reply.ok();
    Ok(())
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<Handler>] = &[
    Command { run: dump, spec: Spec::new("dump", 2, READONLY, category::KEYSPACE, Keys::ONE).tips(&["nondeterministic_output"]).doc("generic", "2.6.0", "O(N) in the value's size", "Gives a value as bytes that RESTORE takes.", "key") },
    Command { run: restore, spec: Spec::new("restore", -4, WRITE | DENYOOM, category::KEYSPACE | category::DANGEROUS, Keys::ONE).key(OW | UPDATE).doc("generic", "2.6.0", "O(N) in the value's size", "Sets a key to a value that DUMP gave.", "key ttl serialized-value [REPLACE]@3.0.0 [ABSTTL]@5.0.0 [IDLETIME seconds]@5.0.0 [FREQ frequency]@5.0.0") },
    Command { run: restore, spec: Spec::new("restore-asking", -4, WRITE | DENYOOM | ASKING, category::KEYSPACE | category::DANGEROUS, Keys::ONE).key(OW | UPDATE).doc("server", "3.0.0", "O(N) in the value's size", "RESTORE, as cluster nodes say it.", "key ttl serialized-value [REPLACE]@3.0.0 [ABSTTL]@5.0.0 [IDLETIME seconds]@5.0.0 [FREQ frequency]@5.0.0").internal() },
];
