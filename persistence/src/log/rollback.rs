//! Going back: the log's end is cut off and set aside, because another node's history goes on from an
//! earlier place.
//!
//! The dataset of that place is a base and the segments from there: the base in force, or, if that
//! stands beyond, an old one that the history goes on from. Then that is in force again, and the
//! history's segments from it on are live ones again, written anew without compression.
//!
//! What is cut off is never silently lost: it is a file of its own beside the segments, named after
//! its history and its two offsets, and a valid AOF. Everything that is to be loaded is read before
//! anything changes, so that damage leaves the log as it is. The log goes back by one rename of the
//! manifest, so a crash leaves it as it was or as it shall be.

use super::aside::{Ending, STEP, Segments, TailFile, Target};
use super::error::Error;
use super::folder::Folder;
use super::index::{self, Indexer};
use super::lz4;
use super::manifest::{Entry, FileType, Manifest};
use super::recover::{BaseKind, base_kind, recover};
use super::replay::{Reading, Stop};
use super::{Files, Log, Options, Waker, disk};
use crate::offset::Offset;
use crate::rdb;
use std::convert::Infallible;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Brings the log of a folder, which nobody has open, back to `to`: a place between commands, not
/// before the oldest base. What follows it is set aside.
///
/// # Errors
/// The log is then as it was, unless it is the renamed manifest that could not be made durable.
pub fn roll_back(options: &Options, to: Offset) -> Result<TailFile, Error> {
    let refuse = |what: String| Error::io("roll back", &options.dir)(io::Error::other(what));
    let found = recover(options)?.ok_or_else(|| refuse("there is no log".into()))?;
    let end = found.end();
    if to > end {
        return Err(refuse(format!("it ends at offset {end}, before {to}")));
    }
    let manifest = found.manifest();
    let ground = Ground::of(&manifest, to).ok_or_else(|| {
        let oldest = manifest.oldest_base().unwrap_or_default();
        refuse(format!("the oldest base that is kept stands at offset {oldest}"))
    })?;
    let way = Way { options, manifest: &manifest, ground, to, end };
    if let Some(base) = &way.ground.base {
        way.verify_base(base)?;
    }
    // From here on only what the new manifest has no use for may make room.
    let (disk, dir, name) = (options.disk.clone(), &options.dir, &options.base_name);
    let mut folder = Folder::new(disk, dir, name, way.without_replaced());
    let (replacing, db) = way.replace(&mut folder)?;
    let tail = way.set_aside(&folder, db)?;
    let mut manifest = folder.manifest.clone();
    manifest.entries.extend(replacing);
    // Whatever a pool's file holds is not of this log any more.
    manifest.state.iter_mut().for_each(|state| state.pool = None);
    folder.store(manifest)?;
    folder.remove_dead()?;
    Ok(tail)
}

impl Files {
    /// Closes the files and brings the log back to `to`: [`roll_back`]. If that can not be, `ending`,
    /// which is what follows `to`, is set aside all the same, as far as it can be had.
    ///
    /// # Errors
    /// Why it can not be, and what goes on.
    pub fn roll_back(
        self,
        to: Offset,
        options: Options,
        ending: &Ending,
        waker: Waker,
    ) -> Result<TailFile, Box<NotRolledBack>> {
        let (end, db) = (self.end, self.db);
        let result = self.close().and_then(|()| roll_back(&options, to));
        result.map_err(|why| {
            let aside = ending.set_aside_from_disk(&options);
            let mut log = Log::reopen(options, end, waker).ok().flatten();
            log.iter_mut().for_each(|log| log.set_current_db(db));
            Box::new(NotRolledBack { why, aside, log })
        })
    }
}

/// A log that can not go back.
pub struct NotRolledBack {
    pub why: Error,
    /// Where the bytes are now that were to be cut off.
    pub aside: Result<TailFile, Error>,
    /// The log that goes on at its old end, for whom still has the data; none if that is not what the
    /// files hold.
    pub log: Option<Log>,
}

impl Log {
    /// Goes on with a log that was closed at `end`, without reading it: whoever asks has the data of
    /// that place. `None` if the folder holds another.
    fn reopen(options: Options, end: Offset, waker: Waker) -> Result<Option<Log>, Error> {
        let Some(mut found) = recover(&options)? else { return Ok(None) };
        let Some(histories) = found.histories().filter(|_| found.skip_replay(end)) else {
            return Ok(None);
        };
        Log::resume(found, histories, options, waker).map(Some)
    }
}

/// What the dataset at an offset is made of.
struct Ground {
    /// `None` if the log began with nothing.
    base: Option<Entry>,
    /// Whether the base is not the one in force.
    is_old: bool,
    /// The segments from the base to the log's end.
    segments: Vec<Entry>,
}

impl Ground {
    /// The newest base that does not stand beyond `to`, if there is one.
    fn of(manifest: &Manifest, to: Offset) -> Option<Ground> {
        let reaches = |entry: &Entry| entry.start.is_some_and(|start| start <= to);
        let live = manifest.segments().cloned();
        let first = manifest.base().or(manifest.segments().next());
        if first.is_none_or(reaches) {
            let segments = live.collect();
            return Some(Ground { base: manifest.base().cloned(), is_old: false, segments });
        }
        let base = manifest.old_bases().into_iter().find(|base| reaches(base))?.clone();
        let history = manifest.kept().filter(|entry| entry.start >= base.start).cloned();
        let segments = history.chain(live).collect();
        Some(Ground { base: Some(base), is_old: true, segments })
    }

    /// The segment that is cut at `to`: the last that begins before.
    fn cut(&self, to: Offset) -> Option<usize> {
        self.segments.iter().rposition(|entry| entry.start.is_some_and(|start| start < to))
    }
}

/// From the log's end back to a place.
struct Way<'a> {
    options: &'a Options,
    /// The manifest as it is.
    manifest: &'a Manifest,
    ground: Ground,
    to: Offset,
    end: Offset,
}

impl Way<'_> {
    fn path(&self, entry: &Entry) -> PathBuf {
        self.options.dir.join(&entry.name)
    }

    /// The manifest without the segments that the new ones replace and the bases beyond `to`. The
    /// files of both go when it is in force.
    fn without_replaced(&self) -> Manifest {
        let mut manifest = self.manifest.clone();
        let Ground { base, is_old, segments } = &self.ground;
        let cut = self.ground.cut(self.to);
        let first_new = match (is_old, cut) {
            (false, Some(cut)) => cut,
            _ => 0,
        };
        for entry in &mut manifest.entries {
            let is_base = entry.kind == FileType::Base || entry.is_old_base();
            if Some(&*entry) == base.as_ref() {
                (entry.kind, entry.sealed_s) = (FileType::Base, None);
            } else if is_base && entry.start.is_none_or(|start| start >= self.base_start())
                || segments[first_new..].contains(entry)
            {
                (entry.kind, entry.sealed_s) = (FileType::History, None);
            }
        }
        if let Some(state) = &mut manifest.state {
            state.closed = Some(self.to);
            state.own = false; // another goes on under this name, from there
        }
        manifest
    }

    fn base_start(&self) -> Offset {
        self.ground.base.as_ref().and_then(|base| base.start).unwrap_or_default()
    }

    /// Reads the base as a load will.
    fn verify_base(&self, base: &Entry) -> Result<(), Error> {
        let path = self.path(base);
        let contents = self.options.disk.map(&path).map_err(Error::io("read", &path))?;
        let offset = self.base_start();
        let damaged = |position: usize, what: String| Error::Damaged {
            path: path.clone(),
            position: position as u64,
            offset,
            what,
        };
        let kind = base_kind(&base.name, &contents);
        let commands_at = match kind {
            BaseKind::Aof => 0,
            BaseKind::Rdb | BaseKind::RdbThenAof => rdb::verify(&contents)
                .map_err(|error| damaged(error.offset, error.text.into_owned()))?,
        };
        if kind != BaseKind::Rdb {
            let bytes = &contents[..];
            let reading = Reading::new(&path, bytes, offset, &[], 0);
            parse(&reading, commands_at).map_err(|(position, what)| damaged(position, what))?;
        }
        Ok(())
    }

    /// Reads the segments up to `to` as a load will, and makes those that are to replace others, not
    /// in the manifest yet. The database selected at `to` comes with them.
    fn replace(&self, folder: &mut Folder) -> Result<(Vec<Entry>, u32), Error> {
        let segments = &self.ground.segments;
        let Some(cut) = self.ground.cut(self.to) else {
            let db = segments.first().map_or(0, |entry| entry.db);
            let (file, entry) = folder.create_segment(self.to, db)?;
            file.sync().map_err(Error::io("sync", &folder.path(&entry.name)))?;
            return Ok((vec![entry], db));
        };
        let mut made = Vec::new();
        let mut db = 0;
        for (i, old) in segments[..=cut].iter().enumerate() {
            let start = old.start.unwrap_or_default();
            let end = if i == cut { self.to } else { old.end.unwrap_or(self.end) };
            self.check_index(old)?;
            let path = match self.ground.is_old || i == cut {
                true => {
                    let mut new = self.rewrite(folder, old, start..end)?;
                    if i < cut {
                        (new.end, new.sealed_s) = (old.end, old.sealed_s);
                    }
                    let path = folder.path(&new.name);
                    made.push(new);
                    path
                }
                false => self.path(old),
            };
            db = self.parse_segment(old, &path, start..end)?;
        }
        Ok((made, db))
    }

    /// Compares a segment that is not compressed with what its index says.
    fn check_index(&self, entry: &Entry) -> Result<(), Error> {
        if lz4::is_name(&entry.name) {
            return Ok(()); // it has its own checksums, which whoever reads it compares
        }
        let path = self.path(entry);
        let contents = self.options.disk.map(&path).map_err(Error::io("read", &path))?;
        let start = entry.start.unwrap_or_default();
        let len = (entry.end.unwrap_or(self.end) - start) as usize;
        let bytes = contents.get(..len).unwrap_or(&contents);
        let records = index::read(&*self.options.disk, &path, start, bytes.len() as u64);
        let reading = Reading::new(&path, bytes, start, &records, 0);
        let checked = reading.check::<Infallible>(bytes.len(), &mut records.iter());
        checked.map_err(|stop| {
            let (position, what) = told(stop);
            damaged(&path, start, position, what)
        })
    }

    /// The database selected at the end of a range of `entry`, whose bytes `path` has.
    fn parse_segment(
        &self,
        entry: &Entry,
        path: &Path,
        range: std::ops::Range<Offset>,
    ) -> Result<u32, Error> {
        let contents = self.options.disk.map(path).map_err(Error::io("read", path))?;
        let (start, len) = (range.start, (range.end - range.start) as usize);
        let named = self.path(entry);
        let Some(bytes) = contents.get(..len) else {
            let what = format!("the file ends here, before offset {}", range.end);
            return Err(damaged(&named, start, contents.len(), what));
        };
        let reading = Reading::new(path, bytes, start, &[], entry.db);
        parse(&reading, 0).map_err(|(position, what)| match range.end == self.to {
            true => {
                let what = format!("offset {} is no place between commands: {what}", self.to);
                damaged(&named, start, position, what)
            }
            false => damaged(&named, start, position, what),
        })
    }

    /// Writes the bytes of a range, which is the beginning of segment `old`, to a segment of its own,
    /// durably.
    fn rewrite(
        &self,
        folder: &mut Folder,
        old: &Entry,
        range: std::ops::Range<Offset>,
    ) -> Result<Entry, Error> {
        let (file, entry) = folder.create_segment(range.start, old.db)?;
        let path = folder.path(&entry.name);
        let mut position = 0;
        self.copy(range.clone(), |part| {
            disk::write_all_at(&*file, part, position)?;
            position += part.len() as u64;
            Ok(())
        })?;
        file.sync().map_err(Error::io("sync", &path))?;
        if let Some(sealed_s) = old.sealed_s {
            // It was sealed long ago, so nobody else will write its index.
            let _ = Indexer::create(&*self.options.disk, &path, file, range.start)
                .and_then(|mut index| index.advance(range.end, sealed_s * 1_000_000));
        }
        Ok(entry)
    }

    /// Writes the bytes from `to` to the log's end to a file of their own, durably, behind a `SELECT`
    /// of `db`.
    fn set_aside(&self, folder: &Folder, db: u32) -> Result<TailFile, Error> {
        let history = self.manifest.state.as_ref().map(|state| state.histories.current);
        let Folder { disk, dir, base_name, .. } = folder;
        let target = Target { disk: &**disk, dir, base_name, history, from: self.to, to: self.end };
        target.write(&mut self.source(self.to..self.end), self.to, db)
    }

    /// The log's bytes between two offsets.
    fn source(&self, range: std::ops::Range<Offset>) -> Segments {
        Segments::open(self.options, self.ground.segments.iter(), range)
    }

    /// Gives the log's bytes between two offsets to `put`.
    fn copy(
        &self,
        range: std::ops::Range<Offset>,
        mut put: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Error> {
        let dir = &self.options.dir;
        let mut left = range.end - range.start;
        let mut source = self.source(range);
        let mut buf = vec![0; STEP.min(left) as usize];
        while left > 0 {
            let part = &mut buf[..STEP.min(left) as usize];
            source.read_exact(part).map_err(Error::io("copy from", dir))?;
            put(part).map_err(Error::io("copy within", dir))?;
            left -= part.len() as u64;
        }
        Ok(())
    }
}

fn damaged(path: &Path, start: Offset, position: usize, what: String) -> Error {
    let position = position as u64;
    Error::Damaged { path: path.to_owned(), position, offset: start + position, what }
}

/// The database selected at the end of what is read; else where and why it is not whole commands.
fn parse(reading: &Reading<'_>, from: usize) -> Result<u32, (usize, String)> {
    reading.replay(from, &mut |_| Ok::<(), Infallible>(())).map_err(told)
}

fn told(stop: Stop<Infallible>) -> (usize, String) {
    match stop {
        Stop::Cut { position, .. } => (position, "what begins here is not whole".into()),
        Stop::Damaged { position, what } => (position, what),
        Stop::Refused(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::fake::FakeDisk;
    use crate::log::{Disk, Log, NewBase};
    use crate::offset::{Histories, HistoryId};
    use std::sync::Arc;

    fn options(disk: &Arc<FakeDisk>) -> Options {
        let disk: Arc<dyn Disk> = disk.clone();
        Options { disk, threads: false, pool_blocks: 9, ..Options::new("d".into(), "a.aof") }
    }

    type Commands = Vec<(u32, Vec<u8>)>;

    /// The commands that base and log hold, as `(db, words joined)`.
    fn commands(disk: &Arc<FakeDisk>) -> (Offset, Commands) {
        let mut seen = Vec::new();
        let mut found = recover(&options(disk)).unwrap().unwrap();
        assert_eq!(found.notes(), [""; 0]);
        let mut note = |command: crate::log::replay::Command<'_>| {
            seen.push((command.db, command.args.concat()));
            Ok(())
        };
        match found.base().map(|base| (base.kind, base.path.clone())) {
            Some((BaseKind::Rdb, path)) => {
                assert_eq!(disk.contents(&path).unwrap(), rdb::empty());
            }
            _ => drop(found.replay_base::<Error>(0, &mut note).unwrap()),
        }
        let replayed = found.replay::<Error>(&mut note);
        (replayed.unwrap().end, seen)
    }

    fn read_tail(disk: &FakeDisk, path: &Path) -> Commands {
        let bytes = &disk.contents(path).unwrap()[..];
        let reading = Reading::new(path, bytes, Offset(0), &[], 9);
        let mut aside = Vec::new();
        let replayed = reading.replay(0, &mut |command| {
            aside.push((command.db, command.args.concat()));
            Ok::<(), ()>(())
        });
        assert!(replayed.is_ok());
        aside
    }

    /// A closed log with several bases, and history from its very beginning; the places between its
    /// commands. A base is the commands before it.
    fn with_bases() -> (Arc<FakeDisk>, Vec<Offset>) {
        let disk = FakeDisk::new(5);
        let waker: crate::log::Waker = Arc::new(|| {});
        let histories = Histories::new(HistoryId::from_random([7; 20]));
        let mut log = Log::create(options(&disk), histories, Offset(100), waker).unwrap();
        let (mut places, mut so_far) = (vec![log.end()], Vec::new());
        for n in 0..36u32 {
            let (db, value) = (n % 3, n.to_string().repeat(n as usize));
            log.append_command(db, &["SET", "key", &value]);
            log.flush();
            places.push(log.end());
            let text =
                format!("*2\r\n$6\r\nSELECT\r\n$1\r\n{db}\r\n*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n");
            so_far.extend_from_slice(text.as_bytes());
            so_far.extend_from_slice(format!("${}\r\n{value}\r\n", value.len()).as_bytes());
            if n % 4 == 3 {
                let at = log.begin_rotation();
                if n % 8 == 7 {
                    let path = PathBuf::from(format!("temp-{at}"));
                    disk.put(&path, &so_far);
                    log.install_base(NewBase { path, at, rdb: false, keep: false });
                }
            }
        }
        log.close().unwrap();
        (disk, places)
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
            assert!(read_tail(&disk, &tail.path) == all[n..], "the tail from place {n}");
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
        assert!(
            early.to_string().contains("the oldest base that is kept stands at offset 100"),
            "{early}"
        );
    }

    /// The same where the place lies before the base in force, or before several: the older base is in
    /// force again, killed at any step or with the power gone.
    #[test]
    fn the_log_goes_back_beyond_its_base() {
        let (disk, places) = with_bases();
        let (end, all) = everything(&disk);
        assert_eq!((*places.last().unwrap(), all.len() + 1), (end, places.len()));
        let base = disk.ops();
        for (n, &to) in places.iter().enumerate() {
            let disk = disk.after_kill(base);
            let before = disk.ops();
            let tail = roll_back(&options(&disk), to).unwrap();
            let (now, left) = commands(&disk);
            assert!(now == to && left == all[..n], "place {n}");
            assert!(read_tail(&disk, &tail.path) == all[n..], "the tail from place {n}");
            for ops in before..disk.ops() {
                for killed in [disk.after_kill(ops), disk.after_power_cut(ops, n as u64)] {
                    let (now, left) = commands(&killed);
                    assert!(now == end && left == all || now == to && left == all[..n]);
                    // It goes on from there as any log does, and back once more.
                    let log = go_on(&killed);
                    assert_eq!(log.first_available(), places[0], "place {n}, {ops} steps");
                    log.close().unwrap();
                    assert_eq!(roll_back(&options(&killed), places[0]).unwrap().to, now);
                    assert_eq!(commands(&killed), (places[0], Vec::new()));
                }
            }
        }
    }

    fn everything(disk: &Arc<FakeDisk>) -> (Offset, Commands) {
        let mut found = recover(&options(disk)).unwrap().unwrap();
        assert!(found.start() > Offset(100) && found.base().is_some());
        found.replay::<Error>(&mut |_| Ok(())).unwrap();
        commands(disk)
    }

    fn go_on(disk: &Arc<FakeDisk>) -> Log {
        let mut found = recover(&options(disk)).unwrap().unwrap();
        found.replay::<Error>(&mut |_| Ok(())).unwrap();
        let histories = found.histories().unwrap();
        Log::resume(found, histories, options(disk), Arc::new(|| {})).unwrap()
    }

    /// A crash while the log was written, at any step of it (segments compressed and not yet, bases
    /// about to be in force): whatever it left goes back to any place that it has.
    #[test]
    fn a_log_that_a_crash_left_goes_back_too() {
        let (disk, places) = with_bases();
        let (_, all) = everything(&disk);
        let begun = |&ops: &usize| recover(&options(&disk.after_kill(ops))).unwrap().is_some();
        let first = (0..disk.ops()).find(begun).unwrap();
        for ops in (first..disk.ops()).step_by(5) {
            let killed = disk.after_kill(ops);
            let end = recover(&options(&killed)).unwrap().unwrap().end();
            for (n, &to) in places.iter().enumerate().filter(|(_, to)| **to <= end).step_by(3) {
                let disk = killed.after_kill(0);
                roll_back(&options(&disk), to).unwrap();
                let (now, left) = commands(&disk);
                assert!(now == to && left == all[..n], "place {n} after {ops} steps");
            }
            assert_eq!(go_on(&killed).oldest_base(), Some(places[0]), "after {ops} steps");
        }
    }

    /// A flipped bit anywhere in what would be loaded is named, and the log stays as it is.
    #[test]
    fn damage_is_found_before_anything_changes() {
        let (disk, places) = with_bases();
        let log = go_on(&disk);
        let segments: Vec<_> = log.segments().iter().map(|s| (s.path.clone(), s.start)).collect();
        log.close().unwrap();
        let (state, to) = (commands(&disk), places[10]);
        let needed = segments.iter().filter(|(_, start)| (places[8]..to).contains(start));
        let needed: Vec<_> = needed.map(|(path, _)| path.clone()).collect();
        assert_eq!(needed.len(), 1);
        let base = PathBuf::from("d/a.aof.2.base.aof");
        for path in needed.into_iter().chain([base]) {
            let bytes = disk.contents(&path).unwrap();
            for at in (0..bytes.len()).step_by(3) {
                // The base of commands has no checksum: only what does not parse is noticed.
                if !lz4::is_name(path.file_name().unwrap()) && bytes[at] != b'\n' {
                    continue;
                }
                let disk = disk.after_kill(disk.ops());
                let mut flipped = bytes.clone();
                flipped[at] ^= 0x10;
                disk.put(&path, &flipped);
                let error = match roll_back(&options(&disk), to) {
                    Err(error) => error.to_string(),
                    Ok(_) => panic!("byte {at} of {path:?} was not noticed"),
                };
                // A damaged table takes the base with it that the segment goes on from.
                let named = error.contains(path.to_str().unwrap());
                assert!(named || error.contains("the oldest base that is kept"), "{error}");
                let mut found = recover(&options(&disk)).unwrap().unwrap();
                assert_eq!(found.replay::<Error>(&mut |_| Ok(())).unwrap().end, state.0);
            }
        }
    }
}
