//! Going back: the log's end is cut off and set aside, because another node's history goes on from an
//! earlier place.
//!
//! What is cut off is never silently lost: it is a file of its own beside the segments, named after
//! its history and its two offsets, and a valid AOF. The log goes back by one rename of the manifest,
//! so a crash leaves it as it was or as it shall be.

use super::error::Error;
use super::folder::Folder;
use super::index;
use super::manifest::{Entry, FileType, Manifest};
use super::recover::recover;
use super::replay::Reading;
use super::{Options, disk};
use crate::offset::Offset;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;

/// What was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The file that it is in now.
    pub path: PathBuf,
    pub from: Offset,
    pub to: Offset,
}

/// How much is moved at a time.
const STEP: u64 = 1 << 20;

/// Brings the log of a folder, which nobody has open, back to `to`: a place between commands, not
/// before the base. What follows it is set aside.
pub fn roll_back(options: &Options, to: Offset) -> Result<Tail, Error> {
    let refuse = |what: String| Error::io("roll back", &options.dir)(io::Error::other(what));
    let found = recover(options)?.ok_or_else(|| refuse("there is no log".into()))?;
    let end = found.end();
    if to < found.start() || found.base().is_some_and(|base| to < base.offset) {
        return Err(refuse(format!("no base reaches back to offset {to}")));
    }
    if to > end {
        return Err(refuse(format!("it ends at offset {end}, before {to}")));
    }
    let manifest = found.manifest();
    let (disk, dir, name) = (options.disk.clone(), &options.dir, &options.base_name);
    let mut folder = Folder::new(disk, dir, name, manifest.clone());

    let segments: Vec<Entry> = manifest.segments().cloned().collect();
    let cut = segments.iter().rfind(|entry| entry.start.is_some_and(|start| start < to));
    let begin = cut.and_then(|entry| entry.start).unwrap_or(to);
    let db = match cut {
        Some(entry) => db_at(&folder, entry, begin, to)?,
        None => segments.first().map_or(0, |entry| entry.db),
    };
    let tail = set_aside(&folder, &manifest, &segments, (to, end), db)?;

    // The segment that is cut is written anew up to there, so that the old one stays whole until the
    // manifest names the new.
    let (file, entry) = folder.create_segment(begin, cut.map_or(db, |entry| entry.db))?;
    let path = folder.path(&entry.name);
    if let Some(cut) = cut {
        copy(&folder, cut, begin..to, |part, at| disk::write_all_at(&*file, part, at))?;
    }
    file.sync().map_err(Error::io("sync", &path))?;
    let mut manifest = manifest;
    for old in manifest.entries.iter_mut().filter(|e| e.kind == FileType::Incr) {
        if old.start.is_none_or(|start| start >= begin) {
            (old.kind, old.sealed_s) = (FileType::History, None);
        }
    }
    manifest.entries.push(entry);
    if let Some(state) = &mut manifest.state {
        state.closed = Some(to);
        state.own = false; // another goes on under this name, from there
    }
    folder.store(manifest)?;
    folder.remove_dead()?;
    Ok(tail)
}

/// The database selected at `to`, which must lie between two commands of `entry`.
fn db_at(folder: &Folder, entry: &Entry, begin: Offset, to: Offset) -> Result<u32, Error> {
    let path = folder.path(&entry.name);
    let contents = folder.disk.map(&path).map_err(Error::io("read", &path))?;
    let len = (to - begin) as usize;
    let damaged = |position: usize, what: String| Error::Damaged {
        path: path.clone(),
        position: position as u64,
        offset: begin + position as u64,
        what,
    };
    let Some(bytes) = contents.get(..len) else {
        return Err(damaged(contents.len(), format!("the file ends here, before offset {to}")));
    };
    let records = index::read(&*folder.disk, &path, begin, len as u64);
    let reading = Reading { path: &path, bytes, start: begin, records: &records, db: entry.db };
    reading
        .replay(0, &mut |_| Ok::<(), Infallible>(()))
        .map_err(|stop| damaged(len, format!("offset {to} is no place between commands: {stop:?}")))
}

/// Writes the bytes of `range` to a file of their own, durably, behind a `SELECT` of `db`.
fn set_aside(
    folder: &Folder,
    manifest: &Manifest,
    segments: &[Entry],
    range: (Offset, Offset),
    db: u32,
) -> Result<Tail, Error> {
    let (from, to) = range;
    let history = manifest.state.as_ref().map(|s| s.histories.current.to_string());
    let history = history.unwrap_or_default();
    let mut name = folder.base_name.clone();
    name.push(format!(".tail-{}-{from}-{to}.aof", history.get(..8).unwrap_or("unknown")));
    let path = folder.path(&name);
    let file = folder.disk.create(&path).map_err(Error::io("create", &path))?;
    let digits = db.to_string();
    let select = format!("*2\r\n$6\r\nSELECT\r\n${}\r\n{digits}\r\n", digits.len());
    disk::write_all_at(&*file, select.as_bytes(), 0).map_err(Error::io("write", &path))?;
    let mut position = select.len() as u64;
    for entry in segments {
        let start = entry.start.unwrap_or_default();
        let end = entry.end.unwrap_or(to);
        if end <= from {
            continue;
        }
        copy(folder, entry, start.max(from)..end, |part, _| {
            disk::write_all_at(&*file, part, position)?;
            position += part.len() as u64;
            Ok(())
        })?;
    }
    file.sync().map_err(Error::io("sync", &path))?;
    folder.sync_dir()?;
    Ok(Tail { path, from, to })
}

/// Gives the bytes of a segment between two offsets to `put`, with their distance from the first.
fn copy(
    folder: &Folder,
    entry: &Entry,
    range: std::ops::Range<Offset>,
    mut put: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> Result<(), Error> {
    let path = folder.path(&entry.name);
    let file = folder.disk.open(&path).map_err(Error::io("open", &path))?;
    let start = entry.start.unwrap_or_default();
    let mut buf = vec![0; STEP as usize];
    let mut at = range.start;
    while at < range.end {
        let part = &mut buf[..STEP.min(range.end - at) as usize];
        disk::read_exact_at(&*file, part, at - start)
            .and_then(|()| put(part, at - range.start))
            .map_err(Error::io("copy", &path))?;
        at += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::fake::FakeDisk;
    use crate::log::{Disk, Log};
    use crate::offset::{Histories, HistoryId};
    use std::sync::Arc;

    fn options(disk: &Arc<FakeDisk>) -> Options {
        let disk: Arc<dyn Disk> = disk.clone();
        Options { disk, threads: false, ..Options::new("d".into(), "a.aof") }
    }

    /// The commands that the log holds, as `(db, words joined)`.
    fn commands(disk: &Arc<FakeDisk>) -> (Offset, Vec<(u32, Vec<u8>)>) {
        let mut seen = Vec::new();
        let mut found = recover(&options(disk)).unwrap().unwrap();
        let replayed = found.replay::<Error>(&mut |command| {
            seen.push((command.db, command.args.concat()));
            Ok(())
        });
        (replayed.unwrap().end, seen)
    }

    /// From every place between commands, over several segments, and with the process killed after
    /// every step: the log is as before or as it shall be, and the tail is never lost.
    #[test]
    fn the_log_goes_back_to_any_place_and_keeps_what_it_cut() {
        let disk = FakeDisk::new(5);
        let histories = Histories::new(HistoryId::from_random([7; 20]));
        let start = Offset(100);
        let waker: crate::log::Waker = Arc::new(|| {});
        let mut log = Log::create(options(&disk), histories, start, waker).unwrap();
        let mut places = vec![start];
        for n in 0..30u32 {
            log.append_command(n % 3, &["SET", "key", &n.to_string()]);
            if n % 7 == 6 {
                log.begin_rotation();
            }
            log.flush();
            places.push(log.end());
        }
        log.close().unwrap();
        let (end, all) = commands(&disk);
        let base = disk.ops();
        for (n, &to) in places.iter().enumerate() {
            let disk = disk.after_kill(base);
            let before = disk.ops();
            let tail = roll_back(&options(&disk), to).unwrap();
            assert_eq!((tail.from, tail.to), (to, end));
            let (now, left) = commands(&disk);
            assert!(now == to && left == all[..n], "place {n}");
            assert!(recover(&options(&disk)).unwrap().unwrap().is_lossless());
            let cut = disk.contents(&tail.path).unwrap();
            let reading =
                Reading { path: &tail.path, bytes: &cut, start: Offset(0), records: &[], db: 9 };
            let mut aside = Vec::new();
            let replayed = reading.replay(0, &mut |command| {
                aside.push((command.db, command.args.concat()));
                Ok::<(), ()>(())
            });
            assert!(replayed.is_ok() && aside == all[n..], "the tail from place {n}");
            for ops in before..disk.ops() {
                let killed = disk.after_kill(ops);
                let (now, left) = commands(&killed);
                assert!(now == end && left == all || now == to && left == all[..n]);
                let kept = killed.contents(&tail.path).is_some_and(|bytes| bytes == cut);
                assert!(now == end || kept, "the tail is lost after {ops} steps");
            }
        }
        let inside = roll_back(&options(&disk), places[5] + 3).unwrap_err();
        assert!(inside.to_string().contains("no place between commands"), "{inside}");
        let early = roll_back(&options(&disk), Offset(50)).unwrap_err();
        assert!(early.to_string().contains("no base reaches back"), "{early}");
    }
}
