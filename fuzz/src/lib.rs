//! What the fuzz targets share.
//!
//! Each target in `fuzz_targets/` takes bytes from one place where the world outside has the say, and
//! says what must hold whatever they are: an error or data, nothing else; memory in proportion to
//! what came; and where there is a second way to the same answer, the same answer.
//!
//! Checksums would keep a fuzzer out of all that stands behind them, so targets compute them over
//! what they are given (or say with a byte of the input that they shall not). `examples/seeds.rs`
//! writes the inputs that a campaign begins with.

pub mod memory;
/// Keyspaces to save and to compare: those of the RDB codec's tests.
#[allow(dead_code)]
#[path = "../../persistence/tests/rdb/support.rs"]
pub mod support;

use std::sync::Arc;
use varve_engine::command::{Ctx, call};
use varve_engine::{Keyspace, OwnedArgs, Reply};
use varve_persistence::log::fake::FakeDisk;
use varve_persistence::log::{Log, Options};

/// Runs a command in database `db`; `None` if there is none of that name for so many arguments.
pub fn run(ks: &mut Keyspace, db: usize, words: &[&[u8]]) -> Option<Result<Reply, Reply>> {
    let name = words[0].to_ascii_lowercase();
    let mut commands = varve_engine::commands::all();
    let command = commands.find(|command| command.spec.name.as_bytes() == name)?;
    if !command.spec.takes(words.len()) {
        return None;
    }
    let mut reply = Reply::new();
    let owned = OwnedArgs::new(words);
    let mut args = owned.args();
    let mut ctx = Ctx::new(ks, db, &mut reply);
    ctx.may_block = false;
    let (_, result) = call(&mut ctx, command.run, &mut args);
    ks.effects.clear();
    ks.garbage.clear();
    ks.ready.clear();
    Some(match result {
        Ok(()) => Ok(reply),
        Err(error) => {
            reply.error(&error);
            Err(reply)
        }
    })
}

/// A log in folder `d` of a disk in memory, without threads.
pub fn log_options(disk: &Arc<FakeDisk>) -> Options {
    let mut options = Options::new("d".into(), "a");
    options.threads = false;
    options.disk = disk.clone();
    options
}

/// Goes on with the log that the disk holds, if that can be; closed again, it must be found whole.
pub fn go_on(disk: &Arc<FakeDisk>) {
    use varve_persistence::log::{Error, recover};
    use varve_persistence::offset::HistoryId;
    let options = log_options(disk);
    let Ok(Some(mut found)) = recover(&options) else { return };
    if found.replay::<Error>(&mut |_| Ok(())).is_err() {
        return;
    }
    let histories = found.histories_after_restart(HistoryId::from_random([9; 20]));
    let end = found.end();
    let Ok(mut log) = Log::resume(found, histories, options.clone(), Arc::new(|| {})) else {
        return;
    };
    assert_eq!(log.end(), end);
    log.append_in_db(0, b"*2\r\n$3\r\nDEL\r\n$1\r\na\r\n");
    log.flush();
    let end = log.end();
    if log.close().is_err() {
        return;
    }
    let mut found = recover(&options).expect("a log was closed").expect("a log was closed");
    let mut last = None;
    found
        .replay::<Error>(&mut |command| {
            last = Some(command.args.concat());
            Ok(())
        })
        .expect("what was recovered once is again");
    assert_eq!((found.end(), last.as_deref()), (end, Some(&b"DELa"[..])));
}
