//! What the commands that wait for a key share: `BLPOP` and its like for lists and sorted sets.
//!
//! A blocking command is an ordinary one that, where it finds nothing, leaves a [`Block`] instead of
//! a reply. The daemon runs it again, with the same arguments, when one of its keys is signalled.

use crate::Error;
use crate::command::{Block, Ctx, OnTimeout};
use crate::num::parse_double;

const TOO_LONG: Error = Error::new("ERR timeout is out of range");

/// When a wait of `arg` seconds from now ends, Unix ms; `None` is never. Parts of a millisecond
/// round up, so that a short wait does not become an endless one.
pub fn until(ctx: &Ctx, arg: &[u8]) -> Result<Option<i64>, Error> {
    let seconds =
        parse_double(arg).ok_or(Error::new("ERR timeout is not a float or out of range"))?;
    let ms = (seconds * 1000.0).ceil();
    if ms >= i64::MAX as f64 {
        return Err(TOO_LONG);
    }
    until_after(ctx.ks.now_ms, ms as i64)
}

/// When a wait of `ms` milliseconds from `now_ms` ends, Unix ms; `None` is never.
pub fn until_after(now_ms: i64, ms: i64) -> Result<Option<i64>, Error> {
    match ms {
        ..0 => Err(Error::new("ERR timeout is negative")),
        0 => Ok(None),
        _ => now_ms.checked_add(ms).ok_or(TOO_LONG).map(Some),
    }
}

/// Looks whether there is anything at a key that a command may have to wait for: a use of it, as in Redis, beside
/// that of the taking.
pub fn look(ctx: &mut Ctx, key: &[u8]) {
    ctx.ks.write(ctx.db, key);
}

/// Nothing is there: waits for `keys` until `until_ms`, or answers at once where a command may not
/// wait (a transaction, the log).
pub fn wait<'k>(
    ctx: &mut Ctx,
    keys: impl Iterator<Item = &'k [u8]>,
    until_ms: Option<i64>,
    on_timeout: OnTimeout,
) {
    if ctx.may_block {
        let keys = keys.map(Box::from).collect();
        ctx.block = Some(Block { keys, until_ms, on_timeout });
        return;
    }
    match on_timeout {
        OnTimeout::Null => ctx.reply.null(),
        OnTimeout::NullArray => ctx.reply.null_array(),
    }
}
