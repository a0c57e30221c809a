//! Setting a tail aside: bytes that are about to leave the log go into a file of their own, named
//! after their history and their two offsets, which begins with the `SELECT` that makes it a valid AOF.
//!
//! They come from the segments, or, of a log that has none or whose segments no longer reach back, from
//! the memory tail. There a command's begin and its database can not be seen from the bytes, so the log
//! notes a place now and then at the end of a turn ([`Places`]), and what follows one is parsed.

use super::disk::{self, Disk};
use super::error::Error;
use super::folder::SegmentInfo;
use super::history::TEMPORARY;
use super::manifest::Entry;
use super::reader::SegmentReader;
use super::recover::recover;
use super::replay::{Reading, Stop};
use super::tail::Piece;
use super::{Log, Options};
use crate::offset::{HistoryId, Offset};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of the log in a file of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailFile {
    pub path: PathBuf,
    pub from: Offset,
    pub to: Offset,
}

/// How much is moved at a time.
pub(super) const STEP: u64 = 1 << 20;
/// What stands in a tail's name between the log's and the history's.
const INFIX: &str = ".tail-";
/// There is a noted place for so many bytes of the memory tail.
const PLACE_EVERY: u64 = 4096;

/// Whether a file of this name is a tail of the log that `base_name` names.
pub(super) fn is_name(name: &[u8], base_name: &OsStr) -> bool {
    let rest = name.strip_prefix(base_name.as_encoded_bytes());
    rest.is_some_and(|rest| rest.starts_with(INFIX.as_bytes()))
}

/// The file that a tail is to be in.
pub(super) struct Target<'a> {
    pub disk: &'a dyn Disk,
    pub dir: &'a Path,
    pub base_name: &'a OsStr,
    pub history: Option<HistoryId>,
    pub from: Offset,
    pub to: Offset,
}

impl<'a> Target<'a> {
    fn new(
        options: &'a Options,
        history: Option<HistoryId>,
        from: Offset,
        to: Offset,
    ) -> Target<'a> {
        let Options { disk, dir, base_name, .. } = options;
        Target { disk: &**disk, dir, base_name, history, from, to }
    }

    /// Writes the file durably, or not at all; one that is there already stays. `source` gives the
    /// log's bytes from `begin` on, a place between commands where `db` is selected.
    pub fn write(&self, source: &mut dyn Read, begin: Offset, db: u32) -> Result<TailFile, Error> {
        let digits = self.db(source, begin, db)?.to_string();
        let select = format!("*2\r\n$6\r\nSELECT\r\n${}\r\n{digits}\r\n", digits.len());
        let history = self.history.as_ref().map_or("unknown", |history| &history.as_str()[..8]);
        let mut name = self.base_name.to_owned();
        name.push(format!("{INFIX}{history}-{}-{}.aof", self.from, self.to));
        let path = self.dir.join(&name);
        let tail = TailFile { path, from: self.from, to: self.to };
        let (path, disk) = (&tail.path, self.disk);
        let bytes = select.len() as u64 + (self.to - self.from);
        if disk.open(path).and_then(|file| file.size()).is_ok_and(|size| size == bytes) {
            return Ok(tail);
        }
        let mut temp = OsString::from(TEMPORARY);
        temp.push(&name);
        let temp = self.dir.join(temp);
        let result = self.fill(&temp, &select, source).and_then(|()| {
            disk.rename(&temp, path).map_err(Error::io("rename", path))?;
            disk.sync_dir(self.dir).map_err(Error::io("sync", self.dir))
        });
        if result.is_err() {
            // Most likely the disk is full, and others need the room.
            let _ = disk.remove(&temp);
        }
        result.map(|()| tail)
    }

    fn fill(&self, path: &Path, select: &str, source: &mut dyn Read) -> Result<(), Error> {
        let file = self.disk.create(path).map_err(Error::io("create", path))?;
        let write = |part: &[u8], at| {
            disk::write_all_at(&*file, part, at).map_err(Error::io("write", path))
        };
        write(select.as_bytes(), 0)?;
        let mut position = select.len() as u64;
        let mut left = self.to - self.from;
        let mut buf = vec![0; STEP.min(left) as usize];
        while left > 0 {
            let part = &mut buf[..STEP.min(left) as usize];
            self.read(source, part)?;
            write(part, position)?;
            position += part.len() as u64;
            left -= part.len() as u64;
        }
        file.sync().map_err(Error::io("sync", path))
    }

    /// The database selected at `from`, which must be a place between commands.
    fn db(&self, source: &mut dyn Read, begin: Offset, mut db: u32) -> Result<u32, Error> {
        let mut left = self.from - begin;
        let mut bytes = Vec::new();
        while left > 0 {
            let had = bytes.len();
            // More each time, or a long transaction would be parsed over and over.
            let more = left.min(STEP.max(had as u64));
            bytes.resize(had + more as usize, 0);
            self.read(source, &mut bytes[had..])?;
            left -= more;
            let start = Offset(self.from.0 - left - bytes.len() as u64);
            let reading = Reading::new(self.dir, &bytes, start, &[], db);
            match reading.replay(0, &mut |_| Ok::<(), Infallible>(())) {
                Ok(selected) => {
                    db = selected;
                    bytes.clear();
                }
                Err(Stop::Cut { position, db: selected }) => {
                    db = selected;
                    bytes.drain(..position);
                }
                Err(Stop::Damaged { position, what }) => {
                    let at = reading.start + position as u64;
                    return Err(self.refuse(format!("damage at offset {at}: {what}")));
                }
                Err(Stop::Refused(never)) => match never {},
            }
        }
        match bytes.is_empty() {
            true => Ok(db),
            false => Err(self.refuse(format!("offset {} is no place between commands", self.from))),
        }
    }

    fn read(&self, source: &mut dyn Read, buf: &mut [u8]) -> Result<(), Error> {
        source.read_exact(buf).map_err(Error::io("copy from", self.dir))
    }

    fn refuse(&self, what: String) -> Error {
        Error::io("set a tail aside in", self.dir)(io::Error::other(what))
    }
}

/// Segments, read from one offset up to another.
pub(super) struct Segments {
    /// `None` if there is nothing to read.
    reader: Option<SegmentReader>,
    end: Offset,
}

impl Segments {
    pub fn open<'a>(
        options: &Options,
        entries: impl Iterator<Item = &'a Entry>,
        range: std::ops::Range<Offset>,
    ) -> Segments {
        let listed = entries.filter_map(|entry| SegmentInfo::of(entry, &options.dir)).collect();
        let reader = SegmentReader::new(options.disk.clone(), Arc::new(listed), range.start);
        Segments { reader, end: range.end }
    }
}

impl Read for Segments {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.as_mut().map_or(Ok(0), |reader| reader.read(buf, self.end))
    }
}

/// Pieces of the memory tail, read one after the other.
struct Pieces<'a> {
    pieces: std::slice::Iter<'a, Piece>,
    rest: &'a [u8],
}

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = self.pieces.next().map_or(&[], Piece::bytes);
        }
        self.rest.read(buf)
    }
}

/// Places between commands in the memory tail, oldest first, and the databases selected there.
#[derive(Default)]
pub(super) struct Places(VecDeque<(Offset, u32)>);

impl Places {
    /// Says that a command begins, or will begin, at `at`, where `db` is selected.
    pub fn note(&mut self, at: Offset, db: u32) {
        match self.0.back_mut() {
            Some(last) if last.0 == at => last.1 = db,
            Some(last) if at - last.0 < PLACE_EVERY => {}
            _ => self.0.push_back((at, db)),
        }
    }

    /// Forgets those before the tail's beginning.
    pub fn trim(&mut self, first: Offset) {
        while self.0.front().is_some_and(|(at, _)| *at < first) {
            self.0.pop_front();
        }
    }

    /// What is allocated for them, in bytes.
    pub fn memory(&self) -> usize {
        self.0.capacity() * size_of::<(Offset, u32)>()
    }

    /// The last one that is not beyond `offset`, or else the first.
    fn before(&self, offset: Offset) -> Option<(Offset, u32)> {
        let after = self.0.partition_point(|(at, _)| *at <= offset);
        self.0.get(after.saturating_sub(1)).copied()
    }
}

/// The end of a log, with what memory holds of it: to be set aside when it can not stay in the log.
pub struct Ending {
    history: HistoryId,
    from: Offset,
    to: Offset,
    /// Where the pieces begin, between commands, and the database selected there.
    begin: Offset,
    db: u32,
    pieces: Vec<Piece>,
}

impl Log {
    /// What follows `from`, to be set aside. Cheap: copies nothing.
    pub fn ending(&self, from: Offset) -> Ending {
        let (history, to) = (self.histories.current, self.end());
        let (begin, db) = self.places.before(from).unwrap_or((to, 0));
        let pieces = self.tail.pieces(begin, to).collect();
        Ending { history, from, to, begin, db, pieces }
    }
}

impl Ending {
    /// How many bytes it has, in memory or not.
    pub fn bytes(&self) -> u64 {
        self.to.0.saturating_sub(self.from.0)
    }

    /// Writes what memory holds to a file in `options.dir`, durably: takes as long as the disk does.
    /// The file begins later than asked for if memory does.
    ///
    /// # Errors
    /// Memory has nothing of it, what it is to begin with is no place between commands, or the disk
    /// refused; there is no file then.
    pub fn set_aside(&self, options: &Options) -> Result<TailFile, Error> {
        let from = self.from.max(self.begin);
        let target = Target::new(options, Some(self.history), from, self.to);
        if from >= self.to {
            return Err(target.refuse("memory no longer has it".into()));
        }
        let mut source = Pieces { pieces: self.pieces.iter(), rest: &[] };
        target.write(&mut source, self.begin, self.db)
    }

    /// The same for a log on disk that nobody has open: from the files, unless memory has all of it.
    pub(super) fn set_aside_from_disk(&self, options: &Options) -> Result<TailFile, Error> {
        if self.begin <= self.from
            && let Ok(tail) = self.set_aside(options)
        {
            return Ok(tail);
        }
        self.read_files(options).or_else(|error| self.set_aside(options).map_err(|_| error))
    }

    /// From the segments of the history and the live ones, whether a base goes with them or not.
    fn read_files(&self, options: &Options) -> Result<TailFile, Error> {
        let found = recover(options)?;
        let (manifest, end) =
            found.map(|found| (found.manifest(), found.end())).unwrap_or_default();
        let history = manifest.state.as_ref().map(|state| state.histories.current);
        let entries = || manifest.kept().chain(manifest.segments());
        let begins = |entry: &&Entry| entry.start.is_some_and(|start| start <= self.from);
        let first = entries().rfind(begins).or(entries().next());
        let begin = first.and_then(|entry| entry.start).unwrap_or(end);
        let target = Target::new(options, history, self.from.max(begin), end);
        if target.from >= end {
            return Err(target.refuse("the log's files do not have it".into()));
        }
        let mut source = Segments::open(options, entries(), begin..end);
        target.write(&mut source, begin, first.map_or(0, |entry| entry.db))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::fake::FakeDisk;
    use crate::log::{NewBase, NotRolledBack, Waker};
    use crate::offset::Histories;

    type Commands = Vec<(u32, Vec<u8>)>;

    const START: Offset = Offset(100);

    fn options(disk: &Arc<FakeDisk>) -> Options {
        let disk: Arc<dyn Disk> = disk.clone();
        let options = Options::new("d".into(), "a.aof");
        Options { disk, threads: false, history_bytes: 0, tail_bytes: 1 << 16, ..options }
    }

    fn histories() -> Histories {
        Histories::new(HistoryId::from_random([7; 20]))
    }

    fn waker() -> Waker {
        Arc::new(|| {})
    }

    fn in_memory(tail_bytes: u64) -> Log {
        Log::in_memory(histories(), START, tail_bytes, waker())
    }

    /// Writes commands in several databases, a few a turn, some in transactions. The places between
    /// them, and the commands.
    fn write(log: &mut Log, count: u32, value_bytes: usize) -> (Vec<Offset>, Commands) {
        let (mut places, mut commands) = (vec![log.end()], Commands::new());
        for n in 0..count {
            let (db, value) = (n / 3 % 11, format!("{n}:").repeat(value_bytes / 4));
            if n % 10 == 4 {
                log.append_in_db(db, b"*1\r\n$5\r\nMULTI\r\n");
            }
            log.append_command(db, &["SET", "key", &value]);
            commands.push((db, format!("SETkey{value}").into_bytes()));
            if n % 10 == 6 {
                log.append(b"*1\r\n$4\r\nEXEC\r\n");
            }
            places.push(log.end());
            if n % 10 > 6 {
                log.flush();
            }
        }
        (places, commands)
    }

    fn read(disk: &FakeDisk, tail: &TailFile) -> Commands {
        let bytes = disk.contents(&tail.path).expect("the file is there");
        let reading = Reading::new(&tail.path, &bytes, START, &[], 99);
        let mut seen = Commands::new();
        let read = reading.replay(0, &mut |command| {
            seen.push((command.db, command.args.concat()));
            Ok::<(), ()>(())
        });
        assert!(read.is_ok(), "{read:?}");
        seen
    }

    fn is_in_transaction(place: usize) -> bool {
        matches!(place % 10, 5 | 6)
    }

    /// From every place in memory, and with the power gone after any step: the file is whole, or not
    /// there.
    #[test]
    fn a_log_in_memory_sets_its_end_aside_from_any_place() {
        let mut log = in_memory(1 << 20);
        let (places, commands) = write(&mut log, 200, 50);
        for (n, &from) in places.iter().enumerate().take(200) {
            let disk = FakeDisk::new(3);
            let result = log.ending(from).set_aside(&options(&disk));
            if is_in_transaction(n) {
                let why = result.unwrap_err().to_string();
                assert!(why.contains("no place between commands"), "{why}");
                assert_eq!(disk.list(Path::new("d")).unwrap(), Vec::<PathBuf>::new());
                continue;
            }
            let tail = result.unwrap();
            assert_eq!((tail.from, tail.to), (from, log.end()));
            let name = format!("d/a.aof.tail-07070707-{from}-{}.aof", log.end());
            assert_eq!(tail.path, Path::new(&name));
            assert!(read(&disk, &tail) == commands[n..], "from place {n}");
            let whole = disk.contents(&tail.path);
            assert_eq!(disk.list(Path::new("d")).unwrap(), [&*tail.path]);
            for ops in 0..=disk.ops() {
                let after = disk.after_power_cut(ops, n as u64);
                let left = after.contents(&tail.path);
                assert!(left == whole || left.is_none() && ops < disk.ops(), "{ops} steps");
                assert_eq!(log.ending(from).set_aside(&options(&after)).unwrap(), tail);
                assert!(after.contents(&tail.path) == whole);
            }
        }
        let inside = log.ending(places[20] + 3).set_aside(&options(&FakeDisk::new(3)));
        assert!(inside.unwrap_err().to_string().contains("no place between commands"));
    }

    /// What is written once is not written again: with a disk that has become full it is still there.
    #[test]
    fn a_full_disk_leaves_no_part_and_takes_nothing_away() {
        let mut log = in_memory(1 << 20);
        let (places, commands) = write(&mut log, 40, 50);
        let disk = FakeDisk::new(3);
        disk.set_space(Some(700));
        let ending = log.ending(places[10]);
        let why = ending.set_aside(&options(&disk)).unwrap_err().to_string();
        assert!(why.contains("can't write"), "{why}");
        assert_eq!(disk.list(Path::new("d")).unwrap(), Vec::<PathBuf>::new());
        disk.set_space(None);
        let tail = ending.set_aside(&options(&disk)).unwrap();
        disk.set_space(Some(0));
        assert_eq!(ending.set_aside(&options(&disk)).unwrap(), tail);
        assert!(read(&disk, &tail) == commands[10..]);
    }

    /// The memory tail has moved on: what is left begins between commands, and says where.
    #[test]
    fn what_memory_no_longer_has_is_left_out() {
        let mut log = in_memory(1 << 16);
        let (places, commands) = write(&mut log, 3000, 100);
        assert!(log.first_in_memory() > places[100]);
        let disk = FakeDisk::new(3);
        let ending = log.ending(places[100]);
        let tail = ending.set_aside(&options(&disk)).unwrap();
        let begin = places.iter().position(|place| *place == tail.from).expect("a place");
        assert!(read(&disk, &tail) == commands[begin..]);
        let kept = tail.to - tail.from;
        assert!(kept > (1 << 16) - 2 * PLACE_EVERY && ending.bytes() > kept, "{kept} bytes");
        assert!(log.places.0.len() < 40, "{} places", log.places.0.len());

        log.reset(histories(), Offset(5000), 3, None);
        log.append_command(3, &["SET", "key", "new"]);
        log.flush();
        let tail = log.ending(Offset(5000)).set_aside(&options(&disk)).unwrap();
        assert_eq!(read(&disk, &tail), [(3, b"SETkeynew".to_vec())]);
        let why = log.ending(log.end()).set_aside(&options(&disk)).unwrap_err().to_string();
        assert!(why.contains("memory no longer has it"), "{why}");
    }

    /// A log on disk that goes back nowhere: `failed` is how.
    fn not_rolled_back(log: Log, options: Options, to: Offset) -> NotRolledBack {
        let mut log = log;
        let ending = log.ending(to);
        let left = log.leave_disk().expect("the log is on disk");
        *left.roll_back(to, options, &ending, waker()).expect_err("it can not go back")
    }

    /// A base stands beyond the place, and the bases before are gone. With the history, the files have
    /// all of the tail; without it, memory; without either, what is left is set aside.
    #[test]
    fn a_log_that_can_not_go_back_sets_its_end_aside_all_the_same() {
        for (history_bytes, later) in [(1 << 30, 3000), (0, 10), (0, 3000)] {
            let disk = FakeDisk::new(5);
            let options = Options { history_bytes, ..options(&disk) };
            let mut log = Log::create(options.clone(), histories(), START, waker()).unwrap();
            let (mut places, mut commands) = write(&mut log, 60, 50);
            for part in [20, later] {
                let path = PathBuf::from(format!("temp-{part}"));
                disk.put(&path, b"");
                let at = log.begin_rotation();
                log.install_base(NewBase { path, at, rdb: false, keep: false });
                let (more, written) = write(&mut log, part, 100);
                places.extend_from_slice(&more[1..]);
                commands.extend(written);
            }
            log.flush();
            let (end, base) = (log.end(), log.oldest_base().unwrap());
            // The history goes on from old bases, if they are not lost.
            let lost = disk.list(Path::new("d")).unwrap().into_iter();
            let lost = lost.filter(|path| path.to_str().unwrap().contains(".base."));
            let newest = log.base_path().unwrap();
            lost.filter(|path| *path != newest).for_each(|path| disk.remove(&path).unwrap());
            let failed = not_rolled_back(log, options, places[50]);
            let why = failed.why.to_string();
            assert!(why.contains("the oldest base that is kept stands at offset"), "{why}");
            let tail = failed.aside.unwrap();
            let begin = places.iter().position(|place| *place == tail.from).expect("a place");
            let expected = match (history_bytes, later) {
                (0, 3000) => base,
                _ => places[50],
            };
            assert_eq!((tail.from, tail.to), (expected, end), "{history_bytes} {later}");
            assert!(read(&disk, &tail) == commands[begin..], "{history_bytes} {later}");
            let log = failed.log.expect("the log goes on");
            assert_eq!(log.end(), end);
        }
    }

    /// What a crash left of a tail goes at the next start, and no finished one does.
    #[test]
    fn a_half_written_tail_is_removed_at_the_next_start() {
        let disk = FakeDisk::new(5);
        Log::create(options(&disk), histories(), START, waker()).unwrap().close().unwrap();
        let half = Path::new("d/temp_a.aof.tail-07070707-5-9.aof");
        let whole = Path::new("d/a.aof.tail-07070707-5-9.aof");
        let (other, foreign) = (Path::new("d/temp_b.aof.tail-07070707-5-9.aof"), Path::new("d/b"));
        [half, whole, other, foreign].iter().for_each(|path| disk.put(path, b"*"));
        let mut found = recover(&options(&disk)).unwrap().unwrap();
        found.replay::<Error>(&mut |_| Ok(())).unwrap();
        Log::resume(found, histories(), options(&disk), waker()).unwrap();
        let there = |path: &Path| disk.contents(path).is_some();
        assert_eq!([half, whole, other, foreign].map(there), [false, true, true, true]);
    }
}
