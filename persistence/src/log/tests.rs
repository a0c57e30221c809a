//! The log against a disk that fails, and against Redis.
//!
//! The fault these tests stand for: the process is killed, or power fails, between any two
//! operations on the disk, while writes come out short, the disk runs full and segments, bases and
//! histories change. Whatever the log had released by then must be there afterwards.

use super::fake::FakeDisk;
use super::manifest::State;
use super::recover::read_manifest;
use super::writer::NEWEST;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use varve_engine::text::Text;

const DIR: &str = "d";
const SELECT: &[u8] = b"*2\r\n$6\r\nSELECT\r\n";
const SELECTED: u64 = SELECT.len() as u64 + 7; // "$1\r\n0\r\n"

fn options(disk: &Arc<FakeDisk>) -> Options {
    let disk: Arc<dyn Disk> = disk.clone();
    Options {
        disk,
        threads: false,
        fsync: Fsync::Always,
        tail_bytes: 1000,
        pool_blocks: 2,
        ..Options::new(DIR.into(), "a.aof")
    }
}

fn no_waker() -> Waker {
    Arc::new(|| {})
}

fn id(n: u64) -> HistoryId {
    let mut bits = [0; 20];
    bits[..8].copy_from_slice(&n.to_le_bytes());
    HistoryId::from_random(bits)
}

/// What a test knows of one history.
#[derive(Clone)]
struct Known {
    start: Offset,
    bytes: Vec<u8>,
    /// Offsets between commands, outside MULTI.
    whole: BTreeSet<u64>,
    epoch: u64,
}

/// What the log had promised after so many operations of the disk.
struct Promise {
    ops: usize,
    epoch: u64,
    written: Offset,
    synced: Offset,
    released: Offset,
    /// The oldest offset on disk.
    first: Offset,
}

/// How a log ends that is not closed.
#[derive(Clone, Copy, Debug)]
enum Crash {
    Kill,
    /// The machine is restarted after that, in good order.
    Restart,
    Power(u64),
}

/// A log on a fake disk, and everything that is to be known of it.
struct Run {
    disk: Arc<FakeDisk>,
    log: Log,
    random: u64,
    now: Instant,
    histories: HashMap<HistoryId, Known>,
    epoch: u64,
    ids: u64,
    promises: Vec<Promise>,
    cut: Option<Offset>,
}

impl Run {
    fn new(seed: u64, threads: bool) -> Run {
        let disk = FakeDisk::new(seed);
        let mut options = Options { threads, ..options(&disk) };
        options.fsync = [Fsync::Always, Fsync::EverySec, Fsync::No][(seed % 3) as usize];
        options.pool_blocks = [0, 3, 1, 9, 2][(seed / 16 % 5) as usize];
        options.history_bytes = [1 << 30, 1 << 30, 3000, 0][(seed / 3 % 4) as usize];
        let start = Offset(seed % 1000);
        let histories = Histories::new(id(0));
        let log = Log::create(options, histories, start, no_waker()).unwrap();
        let known = Known { start, bytes: Vec::new(), whole: BTreeSet::from([start.0]), epoch: 0 };
        Run {
            disk,
            log,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: Instant::now(),
            histories: HashMap::from([(id(0), known)]),
            epoch: 0,
            ids: 0,
            promises: Vec::new(),
            cut: None,
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        fake::below(&mut self.random, n)
    }

    /// Copies what was appended since `from` out of the log's memory into the model.
    fn learn(&mut self, from: Offset) {
        let known = self.histories.get_mut(&self.log.histories().current).unwrap();
        let mut cursor = self.log.cursor_at(from).unwrap();
        while let Some(piece) = self.log.next(&mut cursor, usize::MAX, self.log.end()) {
            known.bytes.extend_from_slice(piece.bytes());
        }
        known.whole.insert(self.log.end().0);
        if known.bytes[(from - known.start) as usize..].starts_with(SELECT) {
            known.whole.insert(from.0 + SELECTED);
        }
    }

    fn promise(&mut self) {
        // The promise is read before the disk's clock: what it covers is older than that.
        let (written, released) = (self.log.written(), self.log.released());
        let synced = self.log.synced().unwrap_or(Offset::ZERO); // none in a reset
        let (ops, epoch) = (self.disk.ops(), self.epoch);
        // What is removed is out of the list first, so this is read last. A reset that is under way
        // leaves the list of the log before it.
        let segments = self.log.segments();
        let first = segments.first().filter(|segment| segment.epoch == epoch);
        let first = first.map_or(Offset(u64::MAX), |segment| segment.start);
        self.promises.push(Promise { ops, epoch, written, synced, released, first });
    }

    fn step(&mut self) {
        let from = self.log.end();
        match self.below(30) {
            0..=7 => {
                let db = self.below(3) as u32;
                let value = vec![b'v'; self.below(60) as usize];
                self.log.append_command(db, &[&b"SET"[..], b"key", &value]);
                self.learn(from);
            }
            8 => {
                let db = self.below(2) as u32;
                self.log.append_in_db(db, b"*1\r\n$5\r\nMULTI\r\n");
                self.log.set_in_multi(true);
                self.log.append_command(db, &["INCR", "a"]);
                self.log.append_command(1 - db, &["INCR", "b"]);
                self.log.append(b"*1\r\n$4\r\nEXEC\r\n");
                self.log.set_in_multi(false);
                self.learn(from);
            }
            9 => {
                let blocks = self.below(3) * self.below(2);
                let value = vec![b'l'; (blocks * 50_000 + self.below(3000)) as usize];
                self.log.append_command(0, &[&b"SET"[..], b"large", &value]);
                self.learn(from);
            }
            10..=13 => self.log.flush(),
            14 | 15 => {
                self.now += Duration::from_millis(400);
                self.log.tick(self.now);
            }
            16 => {
                self.disk.set_space(None);
                self.log.tick(self.now);
                self.cut = Some(self.log.begin_rotation());
            }
            17 => {
                if let Some(at) = self.cut.take() {
                    let path = PathBuf::from(format!("temp-{at}-{}.rdb", self.promises.len()));
                    let current = self.log.histories().current;
                    self.disk.put(&path, format!("REDIS {current} {at}").as_bytes());
                    let keep = self.below(2) == 0;
                    self.log.install_base(NewBase { path, at, rdb: true, keep });
                }
            }
            18 => {
                let on = self.below(2) == 0;
                self.disk.set_short_writes(on);
            }
            19 => {
                let space = self.below(3000);
                self.disk.set_space(Some(space));
            }
            20 => self.disk.set_space(None),
            21 => {
                let fsync = [Fsync::Always, Fsync::EverySec, Fsync::No][self.below(3) as usize];
                self.log.set_fsync(fsync);
            }
            22 => {
                let mut histories = *self.log.histories();
                self.ids += 1;
                let known = self.histories[&histories.current].clone();
                self.histories.insert(id(self.ids), known);
                histories.shift(id(self.ids), self.log.end());
                self.log.set_histories(histories);
                self.cut = None;
            }
            23 => self.log.protect(Some(from)),
            24 => self.log.protect(None),
            25 => {
                self.now += Duration::from_secs(11);
                self.log.tick(self.now);
            }
            26 => {
                let fail = self.below(3) == 0;
                self.disk.set_syncs_fail(fail);
            }
            27 => {
                let one_in = [0, 0, 2, 5, 20][self.below(5) as usize];
                self.disk.set_errors(one_in);
            }
            28 => {
                self.disk.set_syncs_fail(false);
                self.disk.set_errors(0);
            }
            _ => {
                if self.below(4) == 0 {
                    self.ids += 1;
                    self.epoch += 1;
                    let start = Offset(self.below(5000));
                    let whole = BTreeSet::from([start.0]);
                    let epoch = self.epoch;
                    let known = Known { start, bytes: Vec::new(), whole, epoch };
                    self.histories.insert(id(self.ids), known);
                    let path = PathBuf::from(format!("received-{}.rdb", self.ids));
                    self.disk.put(&path, format!("REDIS {} {start}", id(self.ids)).as_bytes());
                    let base = NewBase { path, at: start, rdb: true, keep: false };
                    self.cut = None;
                    self.log.reset(Histories::new(id(self.ids)), start, 0, Some(base));
                }
            }
        }
        self.log.take_events();
        self.promise();
    }

    fn check_all(&self, ops: usize, seed: u64) {
        self.check(ops, Crash::Kill);
        self.check(ops, Crash::Power(seed));
        if seed.is_multiple_of(4) {
            self.check(ops, Crash::Restart);
        }
    }

    /// Recovers from what a crash after `ops` operations left, and compares.
    fn check(&self, ops: usize, crash: Crash) {
        let at = self.promises.partition_point(|promise| promise.ops <= ops);
        let disk = match crash {
            Crash::Kill => self.disk.after_kill(ops),
            Crash::Restart => self.disk.after_restart(ops),
            Crash::Power(seed) => {
                self.disk.set_holes(false);
                let disk = self.disk.after_power_cut(ops, seed);
                let state = read_manifest(&options(&disk)).unwrap().and_then(|found| found.state);
                // Under `always` a value that nobody was promised may have one, and after a sync that failed any segment.
                let finds_holes = |s: State| s.fsync != Fsync::Always && s.unsynced.is_none();
                self.disk.set_holes(state.is_some_and(finds_holes));
                self.disk.after_power_cut(ops, seed)
            }
        };
        let power = matches!(crash, Crash::Power(_));
        let what = format!("after {ops} of {} operations, {crash:?}", self.disk.ops());
        let promise = at.checked_sub(1).map(|at| &self.promises[at]);
        let fsync = if power { Fsync::EverySec } else { Fsync::Always };
        let options = Options { fsync, ..options(&disk) };
        let found = recover(&options).and_then(|found| {
            let replay = |mut found: Recovered| {
                let replayed = found.replay::<Error>(&mut |_| Ok(()))?;
                Ok((found, replayed))
            };
            found.map(replay).transpose()
        });
        let (recovered, replayed) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return assert!(promise.is_none(), "{what}: the log is gone"),
            Err(error) => panic!("{what}: {error}"),
        };
        let histories = recovered.histories().unwrap();
        let known = &self.histories[&histories.current];
        let (start, end) = (recovered.start(), recovered.end());
        assert_eq!(end, replayed.end);
        assert!(known.whole.contains(&end.0), "{what}: {end} is inside a command");

        let (first, mut bytes) = bytes_of(&disk, &recovered);
        let (from, to) = ((first - known.start) as usize, (end - known.start) as usize);
        assert!(bytes == known.bytes[from..to], "{what}: the bytes are others");
        // History that a crash finds half removed is gone; half of anything else it never finds.
        // A log that is being left, whose end the disk had no room for, is left without it.
        let left = promise.is_some_and(|promise| promise.epoch > known.epoch);
        for note in recovered.notes() {
            let may_lack = left || power;
            let lacks = note.contains("not whole") || note.contains("a sync had failed");
            let is_cut = replayed.dropped > 0 && note.contains("cut off the log is kept in");
            let known = note.contains("not found") || (may_lack && lacks) || is_cut;
            assert!(known, "{what}: {note}");
        }
        if let (Some(promise), Some(next)) = (promise, self.promises.get(at))
            && (promise.epoch, next.epoch) == (known.epoch, known.epoch)
        {
            assert!(first <= next.first.max(promise.first), "{what}: from {first} on");
        }
        match recovered.base() {
            Some(base) => {
                let text = String::from_utf8(disk.contents(&base.path).unwrap()).unwrap();
                let words: Vec<&str> = text.split(' ').collect();
                let of = &self.histories[&HistoryId::parse(words[1].as_bytes()).unwrap()];
                assert_eq!((of.epoch, words[2]), (known.epoch, &*start.to_string()), "{what}");
                assert_eq!(base.offset, start, "{what}");
            }
            None => assert_eq!(start, known.start, "{what}: a base is missing"),
        }
        let manifest = recovered.manifest();
        for base in manifest.old_bases() {
            let contents = disk.contents(&Path::new(DIR).join(&base.name)).unwrap();
            let at = base.start.unwrap();
            assert!(first <= at && at < start, "{what}: {base:?}");
            if contents == crate::rdb::empty() {
                assert_eq!(at, known.start, "{what}");
                continue;
            }
            let text = String::from_utf8(contents).unwrap();
            let words: Vec<&str> = text.split(' ').collect();
            let of = &self.histories[&HistoryId::parse(words[1].as_bytes()).unwrap()];
            assert_eq!((of.epoch, words[2]), (known.epoch, &*at.to_string()), "{what}");
        }

        if let Some(promise) = promise.filter(|promise| promise.epoch == known.epoch) {
            let promised = match crash {
                Crash::Kill => promise.written,
                Crash::Restart => promise.released.max(promise.written),
                Crash::Power(_) => promise.synced,
            };
            assert!(end >= promised, "{what}: {end} recovered, {promised} promised");
            if recovered.is_lossless() {
                assert!(end >= promise.released, "{what}: {end} is not lossless");
            }
        } else if let Some(promise) = promise {
            // A reset was under way. One that could not be made yet had nothing released after it.
            let next = self.promises.get(at).map_or(promise.epoch, |next| next.epoch);
            assert!(known.epoch <= next, "{what}: epoch {}", known.epoch);
            if known.epoch < promise.epoch {
                let reset_to = self.histories.values().find(|h| h.epoch == promise.epoch);
                assert_eq!(promise.released, reset_to.unwrap().start, "{what}");
            }
        }

        // What was recovered can be gone on with, and closed in good order.
        let after = recovered.histories_after_restart(id(u64::MAX));
        let mut log = Log::resume(recovered, after, options.clone(), no_waker()).unwrap();
        assert_eq!(log.append_command(0, &["PING"]), log.end());
        log.flush();
        let closed_at = log.end();
        assert_eq!(log.released(), closed_at, "{what}");
        let mut cursor = log.cursor_at(end).unwrap();
        while let Some(piece) = log.next(&mut cursor, usize::MAX, closed_at) {
            bytes.extend_from_slice(piece.bytes());
        }
        if let Crash::Power(seed) = crash
            && seed % 4 == 1
        {
            disk.set_holes(true);
            let power = disk.after_power_cut(disk.ops(), seed);
            for (disk, promised) in [(power, end), (disk.after_restart(disk.ops()), closed_at)] {
                let options = Options { disk: disk.clone(), ..options.clone() };
                let mut again = recover(&options).unwrap().unwrap();
                again.replay::<Error>(&mut |_| Ok(())).unwrap();
                let (first_again, bytes_again) = bytes_of(&disk, &again);
                assert!(again.end() >= promised, "{what}, and again: {} recovered", again.end());
                let from = (first_again - first) as usize;
                let same = bytes_again == bytes[from..from + bytes_again.len()];
                assert!(same, "{what}, and again: the bytes are others");
            }
        }
        let segments = log.segments();
        assert!(segments.is_sorted_by(|a, b| a.end == Some(b.start)), "{what}: {segments:?}");
        for (path, named) in files_of_segments(&disk, &segments) {
            assert!(named, "{what}: {path:?} is nobody's");
        }
        log.close().unwrap();
        let again = recover(&options).unwrap().unwrap();
        assert_eq!((again.end(), again.is_lossless()), (closed_at, true), "{what}");
        assert_eq!(again.histories(), Some(after), "{what}");
    }
}

/// All that the log has on disk, and where that begins.
fn bytes_of(disk: &Arc<FakeDisk>, recovered: &Recovered) -> (Offset, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut buf = [0; 1000];
    let segments = Arc::new(segments_of(recovered));
    let first = segments.first().map_or(recovered.start(), |segment| segment.start);
    let mut reader = SegmentReader::new(disk.clone(), segments, first).unwrap();
    while let n @ 1.. = reader.read(&mut buf, recovered.end()).unwrap() {
        bytes.extend_from_slice(&buf[..n]);
    }
    (first, bytes)
}

fn segments_of(recovered: &Recovered) -> Vec<SegmentInfo> {
    let manifest = recovered.manifest();
    let all = manifest.kept().chain(manifest.segments());
    all.map(|entry| SegmentInfo::of(entry, Path::new(DIR)).unwrap()).collect()
}

/// The compressed segments, unfinished ones and those that exist in both forms, and whether the log
/// names them.
fn files_of_segments(disk: &FakeDisk, segments: &[SegmentInfo]) -> Vec<(PathBuf, bool)> {
    let is_named = |path: &PathBuf| segments.iter().any(|segment| segment.path == *path);
    let mut files = disk.list(Path::new(DIR)).unwrap();
    files.retain(|path| {
        let name = path.file_name().unwrap();
        lz4::is_name(name) || is_named(&path.with_file_name(lz4::name_of(name)))
    });
    files.into_iter().map(|path| (path.clone(), is_named(&path))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 16,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_was_released_survives_a_crash_at_any_operation(seed in 1..u64::MAX) {
        let mut run = Run::new(seed, false);
        run.promise();
        for _ in 0..120 {
            run.step();
        }
        for ops in 0..=run.disk.ops() {
            run.check_all(ops, seed ^ ops as u64);
        }
    }

    #[test]
    fn the_threads_keep_the_same_promises(seed in 1..u64::MAX) {
        let mut run = Run::new(seed, true);
        run.promise();
        for _ in 0..200 {
            run.step();
        }
        let last = run.disk.ops();
        for ops in (0..=last).rev().step_by(11) {
            run.check_all(ops, seed ^ ops as u64);
        }
    }
}

/// A command's bytes.
fn command(parts: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        bytes.extend_from_slice(format!("${}\r\n{part}\r\n", part.len()).as_bytes());
    }
    bytes
}

/// A log whose last segment holds commands of all kinds, and where each of them ends.
fn sample(disk: &Arc<FakeDisk>) -> (PathBuf, Vec<u8>, Vec<u64>) {
    let histories = Histories::new(id(1));
    let mut log = Log::create(options(disk), histories, Offset(50), no_waker()).unwrap();
    let mut ends = vec![50];
    for i in 0..6 {
        log.append_command(0, &["SET", "key", &"v".repeat(i * 5)]);
        if i == 0 {
            ends.push(50 + SELECT.len() as u64 + 7);
        }
        ends.push(log.end().0);
    }
    log.append_in_db(
        0,
        b"*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\na\r\n*1\r\n$4\r\nEXEC\r\n",
    );
    ends.push(log.end().0);
    log.close().unwrap();
    let path = Path::new(DIR).join("a.aof.1.incr.aof");
    let bytes = disk.contents(&path).unwrap();
    (path, bytes, ends)
}

#[test]
fn a_cut_at_any_byte_leaves_the_whole_commands_before_it() {
    let disk = FakeDisk::new(1);
    let (path, bytes, ends) = sample(&disk);
    for len in 0..=bytes.len() {
        for zeros in [0, 1, 300] {
            let disk = disk.after_kill(disk.ops());
            disk.open(&path).unwrap().set_len(len as u64).unwrap();
            disk.open(&path).unwrap().set_len((len + zeros) as u64).unwrap();
            let whole = *ends.iter().rfind(|end| **end <= 50 + len as u64).unwrap();
            let dropped = 50 + (len + zeros) as u64 - whole;
            let strict = Options { load_truncated: false, ..options(&disk) };
            let refused = recover(&strict).unwrap().unwrap().replay::<Error>(&mut |_| Ok(()));
            assert_eq!(refused.is_err(), dropped > 0 || len < bytes.len());
            let mut recovered = recover(&options(&disk)).unwrap().unwrap();
            let replayed = recovered.replay::<Error>(&mut |_| Ok(())).unwrap();
            assert_eq!((replayed.end.0, replayed.dropped), (whole, dropped));
            assert_eq!(disk.contents(&path).unwrap(), bytes[..(whole - 50) as usize]);
            let name = format!("a.aof.tail-{}-{whole}-{}.aof", &id(1).as_str()[..8], 50 + len);
            let kept = disk.contents(&Path::new(DIR).join(name));
            let cut = &bytes[(whole - 50) as usize..len];
            let cut = (!cut.is_empty()).then(|| [SELECT, b"$1\r\n0\r\n", cut].concat());
            assert_eq!(kept, cut, "{len} bytes and {zeros} zeros");
            // It was closed in good order, so that nothing may be missing without a word.
            assert_eq!(recovered.notes().is_empty(), whole == ends[ends.len() - 1]);
            assert_eq!(recovered.histories(), Some(Histories::new(id(1))));
            let after = recovered.histories_after_restart(id(2));
            // What a clean shutdown left and is not there any more may be held by others.
            assert_eq!(after.current, if whole == ends[ends.len() - 1] { id(1) } else { id(2) });
        }
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let disk = FakeDisk::new(1);
    let (path, bytes, _) = sample(&disk);
    for bit in 0..bytes.len() * 8 {
        let disk = disk.after_kill(disk.ops());
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        disk.put(&path, &flipped);
        let mut recovered = recover(&options(&disk)).unwrap().unwrap();
        let result = recovered.replay::<Error>(&mut |_| Ok(()));
        assert!(matches!(result, Err(Error::Damaged { .. })), "bit {bit}: {result:?}");
        assert_eq!(disk.contents(&path).unwrap(), flipped, "bit {bit}: the file was changed");
    }
}

/// A flipped bit of the manifest, which alone says which base and which segments count, which of the pool's
/// bytes do, and which database a replica's segment begins in: an error that names it, or the same data.
#[test]
fn a_flipped_bit_of_the_manifest_costs_no_data() {
    let disk = FakeDisk::new(1);
    let everysec =
        |disk: &Arc<FakeDisk>| Options { fsync: Fsync::EverySec, pool_blocks: 5, ..options(disk) };
    let histories = Histories::new(id(1));
    let mut log = Log::create(everysec(&disk), histories, Offset(5), no_waker()).unwrap();
    for nth in 0..3 {
        log.append_command(2, &["SET", "a", &nth.to_string()]);
        let at = log.begin_rotation();
        if nth < 2 {
            let path = PathBuf::from(format!("{nth}.rdb"));
            disk.put(&path, b"REDIS");
            log.install_base(NewBase { path, at, rdb: true, keep: false });
        }
    }
    // As a replica's segment, which begins without a word of the database, and in the pool alone.
    log.append(&command(&["SET", "a", "b"]));
    log.flush();
    assert!(log.written() < log.released());
    let path = Path::new(DIR).join("a.aof.manifest");
    let whole = disk.contents(&path).unwrap();
    let found = |manifest: &[u8]| {
        let disk = disk.after_kill(disk.ops());
        disk.put(&path, manifest);
        let mut found = recover(&everysec(&disk))?.unwrap();
        let mut seen = vec![format!("{:?}", found.base().map(|base| (&base.path, base.offset)))];
        let replayed = found.replay(&mut |command| {
            seen.push(format!("{} {:?}", command.db, command.args));
            Ok::<(), Error>(())
        })?;
        Ok::<_, Error>((seen, replayed.end))
    };
    let expected = found(&whole).unwrap();
    assert_eq!((expected.0.len(), expected.1), (3, log.end()));
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match found(&flipped) {
            Ok(found) => assert_eq!(found, expected, "bit {bit}: {}", flipped.escape_ascii()),
            Err(error) => assert!(error.to_string().contains("manifest"), "bit {bit}: {error}"),
        }
    }
    for cut in 0..whole.len() {
        found(&whole[..cut]).expect_err("a cut manifest");
    }
}

#[test]
fn a_gap_between_segments_is_refused() {
    let disk = FakeDisk::new(1);
    let histories = Histories::new(id(1));
    let mut log = Log::create(options(&disk), histories, Offset(0), no_waker()).unwrap();
    log.append_command(0, &["SET", "a", "b"]);
    log.flush();
    log.begin_rotation();
    let cut = log.append_command(0, &["SET", "a", "b"]);
    log.close().unwrap();
    let first = Path::new(DIR).join("a.aof.1.incr.aof");
    let len = disk.contents(&first).unwrap().len() as u64;
    assert_eq!(recover(&options(&disk)).unwrap().unwrap().end(), cut);
    disk.open(&first).unwrap().set_len(len - 1).unwrap();
    let error = recover(&options(&disk)).err().expect("the first segment is short");
    assert!(error.to_string().contains("a.aof.1.incr.aof"), "{error}");
}

/// A log of one command.
fn under_everysec(disk: &Arc<FakeDisk>) -> Log {
    let options = Options { fsync: Fsync::EverySec, ..options(disk) };
    let mut log = Log::create(options, Histories::new(id(1)), Offset(0), no_waker()).unwrap();
    log.append_command(0, &["SET", "a", "b"]);
    log.flush();
    log
}

#[test]
fn a_failed_sync_is_not_forgotten_until_a_new_base() {
    let disk = FakeDisk::new(1);
    let histories = Histories::new(id(1));
    let mut log = Log::create(options(&disk), histories, Offset(0), no_waker()).unwrap();
    disk.set_syncs_fail(true);
    log.append_command(0, &["SET", "a", "b"]);
    log.flush();
    assert!(log.error().is_some());
    assert_eq!(log.released(), Offset(0));
    disk.set_syncs_fail(false);
    log.tick(Instant::now());
    // The kernel reports a lost page once; that the next sync succeeds proves nothing.
    assert!(log.error().is_some() && log.needs_base());
    assert_eq!(log.released(), Offset(0));
    let at = log.begin_rotation();
    disk.put(Path::new("new.rdb"), b"REDIS");
    log.install_base(NewBase { path: "new.rdb".into(), at, rdb: true, keep: false });
    let rotated = Event::Rotated { at, result: Ok(()) };
    assert_eq!(log.take_events(), [rotated, Event::BaseInstalled { at, result: Ok(()) }]);
    assert_eq!(log.released(), log.end(), "who waited has the reply without another write");
    log.append_command(0, &["SET", "a", "c"]);
    log.flush();
    assert_eq!((log.error(), log.released()), (None, log.end()));
}

/// The sync that comes before a new segment fails, with one that nobody waits for behind it: the kernel has
/// told of the lost page by then.
#[test]
fn a_sync_that_fails_before_a_new_segment_is_not_forgotten_either() {
    let disk = FakeDisk::new(1);
    let mut log = under_everysec(&disk);
    disk.set_syncs_fail(true);
    log.begin_rotation();
    disk.set_syncs_fail(false);
    let now = Instant::now() + Duration::from_secs(2);
    (0..3).for_each(|_| log.tick(now));
    assert!(log.error().is_some() && log.needs_base());
    assert_eq!(log.synced(), Some(Offset(0)));
}

/// As before, and the power is cut before the base is there: the segment that the manifest says is whole ends before
/// its end. The start was refused.
#[test]
fn a_segment_that_a_failed_sync_and_a_power_cut_made_shorter_is_the_last() {
    let disk = FakeDisk::new(1);
    let mut log = under_everysec(&disk);
    let now = Instant::now() + Duration::from_secs(2);
    (0..3).for_each(|_| log.tick(now));
    let synced = log.synced().unwrap();
    assert_eq!(synced, log.end());
    log.append_command(0, &["SET", "a", &"c".repeat(5000)]);
    log.flush();
    disk.set_next_sync_fails();
    let at = log.begin_rotation();
    log.append_command(0, &["SET", "a", "d"]);
    log.tick(now);
    assert_eq!((log.needs_base(), log.synced(), log.segments().len()), (true, Some(synced), 2));
    let mut cut = 0;
    for seed in 0..100 {
        let disk = disk.after_power_cut(disk.ops(), seed);
        let mut found = recover(&options(&disk)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let found = found.as_mut().unwrap();
        let end =
            found.replay::<Error>(&mut |_| Ok(())).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert!(end.end >= synced, "seed {seed}");
        cut += u32::from(end.end < at);
    }
    assert!(cut > 0, "no power cut takes anything");
}

/// One command holds the loop up (`SAVE`): what it acknowledged before gets to the disk without it, also what
/// it has not handed over.
#[test]
fn a_loop_that_is_held_up_does_not_keep_what_it_acknowledged_from_the_disk() {
    let disk = FakeDisk::new(1);
    let options = Options { fsync: Fsync::EverySec, threads: true, ..options(&disk) };
    let mut log = Log::create(options, Histories::new(id(1)), Offset(0), no_waker()).unwrap();
    log.tick(Instant::now());
    log.append_command(0, &["SET", "a", "b"]);
    log.flush();
    let acknowledged = log.released();
    assert_eq!((acknowledged, log.written()), (log.end(), Offset(0)), "the pool alone has it");
    let is_lost = || {
        let ops = disk.ops();
        (0..20).any(|seed| {
            let options = self::options(&disk.after_power_cut(ops, seed));
            let mut found = recover(&options).unwrap().unwrap();
            found.replay::<Error>(&mut |_| Ok(())).unwrap();
            found.end() < acknowledged
        })
    };
    assert!(is_lost(), "no power cut takes anything");
    let patience = Instant::now() + Duration::from_secs(30);
    while is_lost() {
        assert!(Instant::now() < patience, "nothing is synced");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `CONFIG SET appendfsync always` after a sync has failed: what was acknowledged before need not be on the
/// disk, and a manifest that says `always` would have a start conclude that it is.
#[test]
fn always_is_not_noted_after_a_failed_sync() {
    let disk = FakeDisk::new(1);
    let mut log = under_everysec(&disk);
    let acknowledged = log.released();
    disk.set_syncs_fail(true);
    let now = Instant::now() + Duration::from_secs(2);
    (0..3).for_each(|_| log.tick(now));
    assert!(log.needs_base());
    disk.set_syncs_fail(false);
    log.set_fsync(Fsync::Always);
    log.tick(now);
    assert_eq!(log.released(), Offset(0), "what is not synced is not acknowledged any more");
    let mut lost = 0;
    for seed in 0..40 {
        let disk = disk.after_power_cut(disk.ops(), seed);
        let mut found = recover(&options(&disk)).unwrap().unwrap();
        found.replay::<Error>(&mut |_| Ok(())).unwrap();
        assert!(found.end() == acknowledged || !found.is_lossless(), "seed {seed}");
        lost += usize::from(found.end() < acknowledged);
    }
    assert!(lost > 0);
}

/// The disk is full when a snapshot is to become the base, or no segment begins where it stands: it goes, for
/// it may be what fills the disk, and the next one is made all the same.
#[test]
fn a_base_that_can_not_be_put_in_force_leaves_no_file() {
    let disk = FakeDisk::new(1);
    let mut log =
        Log::create(options(&disk), Histories::new(id(1)), Offset(0), no_waker()).unwrap();
    log.append_command(0, &["SET", "a", "b"]);
    let rotated = log.begin_rotation();
    log.append_command(0, &["SET", "a", "c"]);
    let before = disk.list(Path::new(DIR)).unwrap();
    for (at, space) in [(rotated, Some(0)), (rotated, Some(200)), (log.end(), None)] {
        disk.put(Path::new("new.rdb"), b"REDIS");
        disk.set_space(space);
        log.install_base(NewBase { path: "new.rdb".into(), at, rdb: true, keep: false });
        disk.set_space(None);
        assert!(matches!(
            log.take_events().pop(),
            Some(Event::BaseInstalled { result: Err(_), .. })
        ));
        assert_eq!(disk.list(Path::new(DIR)).unwrap(), before, "{space:?}");
        assert_eq!(disk.contents(Path::new("new.rdb")), None, "{space:?}");
    }
}

/// `CONFIG SET appendonly no` on a full disk, while a snapshot waits for the segment that would continue it.
#[test]
fn a_base_that_waits_when_the_log_leaves_the_disk_leaves_no_file() {
    let disk = FakeDisk::new(1);
    let mut log = under_everysec(&disk);
    disk.put(Path::new("new.rdb"), b"REDIS");
    disk.set_space(Some(0));
    let at = log.begin_rotation();
    log.install_base(NewBase { path: "new.rdb".into(), at, rdb: true, keep: false });
    assert!(disk.contents(Path::new("new.rdb")).is_some());
    let files = log.leave_in_good_order().expect("it does not wait for a disk that takes nothing");
    assert!(!files.are_renamed() && files.close().is_err());
    assert_eq!(disk.contents(Path::new("new.rdb")), None);
}

/// A full resync finds the disk full: it is tried again and again until there is room.
#[test]
fn a_reset_that_is_tried_again_leaves_no_files() {
    let disk = FakeDisk::new(1);
    let mut log =
        Log::create(options(&disk), Histories::new(id(1)), Offset(0), no_waker()).unwrap();
    disk.put(Path::new("new.rdb"), b"REDIS");
    disk.set_space(Some(1));
    let base = NewBase { path: "new.rdb".into(), at: Offset(9), rdb: true, keep: false };
    log.reset(Histories::new(id(2)), Offset(9), 0, Some(base));
    let files = disk.list(Path::new(DIR)).unwrap().len();
    (0..5).for_each(|_| log.tick(Instant::now()));
    assert!(log.is_failing());
    assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), files);
    disk.set_space(None);
    log.tick(Instant::now());
    assert_eq!((log.error(), log.released()), (None, Offset(9)));
}

/// A log on a disk whose accidents follow from `seed`.
fn on_a_disk_of(seed: u64) -> (Arc<FakeDisk>, Log) {
    let disk = FakeDisk::new(seed);
    let log = Log::create(options(&disk), Histories::new(id(1)), Offset(0), no_waker());
    (disk, log.unwrap())
}

/// A disk that fails now and then, while a segment is begun: readers are told of it once the log goes on there.
#[test]
fn a_segment_that_is_in_force_is_listed() {
    for seed in 0..400 {
        let (disk, mut log) = on_a_disk_of(seed);
        log.append_command(0, &["SET", "a", "b"]);
        log.flush();
        disk.set_errors(8);
        log.begin_rotation();
        disk.set_errors(0);
        let manifest = disk.contents(&Path::new(DIR).join("a.aof.manifest")).unwrap();
        let segments = Manifest::parse(&manifest).unwrap().segments().count();
        assert_eq!(log.segments().len(), segments, "seed {seed}");
    }
}

/// A disk that fails now and then, while a full resync is put in force by several attempts: at no moment does
/// the manifest name a base that is not there.
#[test]
fn a_reset_that_is_tried_again_keeps_what_is_in_force() {
    for seed in 0..100 {
        let (disk, mut log) = on_a_disk_of(seed);
        disk.put(Path::new("new.rdb"), b"REDIS");
        disk.set_errors(3);
        let base = NewBase { path: "new.rdb".into(), at: Offset(9), rdb: true, keep: false };
        log.reset(Histories::new(id(2)), Offset(9), 0, Some(base));
        (0..9).for_each(|_| log.tick(Instant::now()));
        disk.set_errors(0);
        log.tick(Instant::now());
        assert_eq!((log.error(), log.released()), (None, Offset(9)), "seed {seed}");
        for ops in 0..=disk.ops() {
            let disk = disk.after_kill(ops);
            if let Err(error) = recover(&options(&disk)) {
                panic!("seed {seed}, after {ops} operations: {error}");
            }
        }
    }
}

/// What is in the pool alone needs room in a segment at the next start. Without that it stays where it is.
#[test]
fn a_disk_without_room_for_what_the_pool_has_is_told_and_costs_nothing() {
    let disk = FakeDisk::new(1);
    let log = under_everysec(&disk);
    assert!(log.written() < log.released() && log.released() == log.end());
    let disk = disk.after_kill(disk.ops());
    disk.set_space(Some(0));
    let look = Options { alone: false, ..options(&disk) };
    let found = recover(&look).unwrap().unwrap();
    assert!(found.waiting().unwrap().contains(&format!("has {} bytes", log.end())));
    assert_eq!(found.notes(), [""; 0]);
    assert_eq!(found.end(), Offset(0));
    for space in [0, 20] {
        disk.set_space(Some(space));
        let error = recover(&options(&disk)).err().expect("there is no room").to_string();
        assert!(error.contains("a.aof.1.incr.aof"), "{error}");
    }
    disk.set_space(None);
    let mut found = recover(&options(&disk)).unwrap().unwrap();
    let replayed = found.replay::<Error>(&mut |_| Ok(())).unwrap();
    assert_eq!((replayed.end, replayed.commands, found.is_lossless()), (log.end(), 1, true));
}

/// Killed on a disk that is full to the last byte: the manifest of the next start has no room but the pool's.
#[test]
fn a_start_on_a_full_disk_has_the_pools_room() {
    let disk = FakeDisk::new(1);
    let mut log = under_everysec(&disk);
    log.tick(Instant::now());
    assert_eq!(log.written(), log.end());
    let disk = disk.after_kill(disk.ops());
    disk.set_space(Some(0));
    let options = |disk: &Arc<FakeDisk>| Options { fsync: Fsync::EverySec, ..options(disk) };
    let found = recover(&options(&disk)).unwrap().unwrap();
    let mut again = Log::resume(found, Histories::new(id(1)), options(&disk), no_waker()).unwrap();
    assert_eq!(again.end(), log.end());
    assert_eq!(disk.contents(Path::new("d/a.aof.pool")), None);
    assert!(again.take_notes()[0].contains("The disk is full"));
    // With room again there is a pool again, wherever it dies.
    disk.set_space(None);
    let (start, before) = (again.end(), disk.ops());
    for seconds in [10, 11] {
        again.tick(Instant::now() + Duration::from_secs(seconds));
        again.append_command(0, &["SET", "a", "b"]);
        again.flush();
    }
    assert_eq!(again.released(), again.end());
    assert!(again.written() < again.end(), "it waits for the segment");
    for ops in before..=disk.ops() {
        let mut found = recover(&options(&disk.after_kill(ops))).unwrap().unwrap();
        let end = found.replay::<Error>(&mut |_| Ok(())).unwrap().end;
        assert!(found.is_lossless(), "after {ops} operations: {:?}", found.notes());
        assert!(end >= start && (ops < disk.ops() || end == again.end()), "after {ops} operations");
    }
}

/// Who looks on does not see it when the daemon goes on with another segment, cuts the one that was the last,
/// and removes it.
#[test]
fn what_is_found_beside_a_running_log_stays_as_it_was() {
    let disk = FakeDisk::new(1);
    let none_kept = Options { history_bytes: 0, ..options(&disk) };
    let mut log = Log::create(none_kept, Histories::new(id(1)), Offset(0), no_waker()).unwrap();
    for value in ["b", "c", "d"] {
        log.append_command(0, &["SET", "a", value]);
    }
    log.flush();
    let look = || recover(&Options { alone: false, ..options(&disk) }).unwrap().unwrap();
    let (mut found, end) = (look(), log.end());
    let at = log.begin_rotation();
    disk.put(Path::new("new.rdb"), b"REDIS");
    log.install_base(NewBase { path: "new.rdb".into(), at, rdb: true, keep: false });
    log.append_command(0, &["SET", "a", "e"]);
    log.flush();
    assert!(disk.contents(&Path::new(DIR).join("a.aof.1.incr.aof")).is_none());
    let replayed = found.replay::<Error>(&mut |_| Ok(())).unwrap();
    assert_eq!((replayed.end, replayed.commands, found.notes()), (end, 3, &[][..]));
    let mut found = look();
    let replayed = found.replay::<Error>(&mut |_| Ok(())).unwrap();
    assert_eq!((replayed.end, replayed.commands, found.notes()), (log.end(), 1, &[][..]));
}

/// After a power cut, pages of the pool's file may come back that an earlier process left there: each start
/// begins another stream, in which they mean nothing. Wherever it dies, the next one finds nothing missing.
#[test]
fn each_start_begins_another_stream_and_may_die_at_any_point() {
    for cut in [&b""[..], b"*1\r\n$4\r\nPI"] {
        let disk = FakeDisk::new(1);
        let everysec = Options { fsync: Fsync::EverySec, ..options(&disk) };
        let mut log = Log::create(everysec, Histories::new(id(1)), Offset(0), no_waker()).unwrap();
        let end = log.append_command(0, &["SET", "a", "b"]);
        log.append(cut); // as a replica does with what has come so far
        log.flush();
        assert_eq!((log.written(), log.released()), (Offset(0), log.end()));
        let disk = disk.after_kill(disk.ops());
        let mut found = recover(&options(&disk)).unwrap().unwrap();
        found.replay::<Error>(&mut |_| Ok(())).unwrap();
        let stream = found.pool_stream();
        let resumed = Log::resume(found, Histories::new(id(1)), options(&disk), no_waker());
        for ops in 0..=disk.ops() {
            for same_boot in [true, false] {
                let disk = if same_boot { disk.after_kill(ops) } else { disk.after_restart(ops) };
                let mut found = recover(&options(&disk)).unwrap().unwrap();
                assert_eq!(found.notes(), [""; 0], "after {ops} operations");
                let replayed = found.replay::<Error>(&mut |_| Ok(())).unwrap();
                assert_eq!(replayed.end, end, "after {ops} operations");
                // The new manifest says `always`.
                let lossless = same_boot || found.pool_stream() != stream;
                assert_eq!(found.is_lossless(), lossless, "after {ops} operations");
            }
        }
        drop(resumed.unwrap());
        let again = recover(&options(&disk)).unwrap().unwrap();
        assert!(again.pool_stream().is_some() && again.pool_stream() != stream);
    }
}

/// After a power cut the segment may end in zeros, of bytes that were not synced. The pool has those bytes.
#[test]
fn zeros_at_the_segments_end_are_overwritten_with_what_the_pool_has() {
    let disk = FakeDisk::new(1);
    let everysec = Options { fsync: Fsync::EverySec, ..options(&disk) };
    let mut log = Log::create(everysec, Histories::new(id(1)), Offset(0), no_waker()).unwrap();
    for value in ["b", "c", "d"] {
        log.append_command(0, &["SET", "a", value]);
        log.flush();
    }
    let mut cursor = log.cursor_at(Offset(0)).unwrap();
    let all = log.next(&mut cursor, usize::MAX, log.end()).unwrap().bytes().to_vec();
    let segment = Path::new(DIR).join("a.aof.1.incr.aof");
    for (written, zeros) in [(0, 10), (30, 1), (50, 20), (50, 500), (all.len(), 0), (all.len(), 9)]
    {
        for disk in [disk.after_kill(disk.ops()), disk.after_restart(disk.ops())] {
            let file = disk.open(&segment).unwrap();
            disk::write_all_at(&*file, &[&all[..written], &vec![0; zeros]].concat(), 0).unwrap();
            let mut found = recover(&options(&disk)).unwrap().unwrap();
            assert_eq!(found.notes(), [""; 0], "{written} and {zeros}");
            let replayed = found.replay::<Error>(&mut |_| Ok(())).unwrap();
            assert_eq!((replayed.end, replayed.commands), (log.end(), 3), "{written} and {zeros}");
            assert_eq!(disk.contents(&segment).unwrap(), all);
        }
    }
}

/// Twice for each byte, and then no more: a file system may only begin to write at the first call.
#[test]
fn of_what_is_written_the_system_keeps_the_newest() {
    let disk = FakeDisk::new(1);
    let mut log =
        Log::create(options(&disk), Histories::new(id(1)), Offset(0), no_waker()).unwrap();
    let mut now = Instant::now();
    let mut second = |log: &mut Log, value: &str| {
        if !value.is_empty() {
            log.append_command(0, &["SET", "a", value]);
        }
        log.flush();
        now += Duration::from_secs(1);
        log.tick(now);
        disk.forgotten()
    };
    assert_eq!(second(&mut log, "b"), []);
    let value = "b".repeat(1000);
    let forgotten = second(&mut log, &value);
    assert_eq!(forgotten, [log.end().0 - NEWEST]);
    second(&mut log, &value);
    second(&mut log, "");
    assert_eq!(second(&mut log, ""), [log.end().0 - NEWEST]);
    disk.open(&log.segments()[0].path).unwrap().forget(0);
    assert_eq!(second(&mut log, ""), [0], "it is asked again and again");
}

#[test]
fn a_power_cut_under_everysec_begins_a_history_that_continues_the_old() {
    let disk = FakeDisk::new(1);
    let everysec = Options { fsync: Fsync::EverySec, ..options(&disk) };
    let mut log = Log::create(everysec, Histories::new(id(1)), Offset(0), no_waker()).unwrap();
    log.append_command(0, &["SET", "a", "b"]);
    log.flush();
    for (after, same) in
        [(disk.after_kill(disk.ops()), true), (disk.after_power_cut(disk.ops(), 5), false)]
    {
        let mut recovered = recover(&options(&after)).unwrap().unwrap();
        recovered.replay::<Error>(&mut |_| Ok(())).unwrap();
        let histories = recovered.histories_after_restart(id(2));
        match same {
            true => assert_eq!(histories, Histories::new(id(1))),
            false => {
                assert_eq!(histories.current, id(2));
                assert_eq!(histories.second(), Some((id(1), recovered.end())));
            }
        }
        // A replica keeps the name, and comes back in good order: it may own it no more.
        Log::resume(recovered, Histories::new(id(1)), options(&after), no_waker())
            .unwrap()
            .close()
            .unwrap();
        let again = recover(&options(&after)).unwrap().unwrap();
        assert_eq!((again.is_lossless(), again.owns_name()), (true, same));
        // A copy of it in its place, as of a backup.
        let manifest = Path::new(DIR).join("a.aof.manifest");
        after.put(&manifest, &after.contents(&manifest).unwrap());
        let copied = recover(&options(&after)).unwrap().unwrap();
        assert_eq!((copied.is_lossless(), copied.owns_name()), (false, same));
    }
}

#[test]
fn a_reader_that_lags_is_fed_from_memory_or_from_segments() {
    let disk = FakeDisk::new(1);
    let small = Options { max_segment_bytes: 100_000, ..options(&disk) };
    let mut log = Log::create(small, Histories::new(id(1)), Offset(9), no_waker()).unwrap();
    let mut all = Vec::new();
    let mut cursor = log.cursor_at(Offset(9)).unwrap();
    for i in 0..5000 {
        log.append_command(0, &["SET", &format!("key:{i}"), &"v".repeat(i % 300)]);
        log.flush();
        log.rotate_if_large();
        while let Some(piece) = log.next(&mut cursor, 1000, log.released()) {
            all.extend_from_slice(piece.bytes());
        }
    }
    assert!(log.segments().len() > 5);
    assert!(log.cursor_at(Offset(9)).is_none(), "the tail keeps everything");
    assert_eq!(log.first_available(), Offset(9));
    let mut reader = log.segment_reader(Offset(9)).unwrap();
    let (mut read, mut buf) = (Vec::new(), vec![0; 7000]);
    while let n @ 1.. = reader.read(&mut buf, log.released()).unwrap() {
        read.extend_from_slice(&buf[..n]);
    }
    assert!(read == all && reader.offset() == log.end());
    for segment in log.segments().iter() {
        let bytes = disk.contents(&segment.path).unwrap();
        assert!(bytes.is_empty() || bytes.starts_with(SELECT), "a segment does not stand alone");
    }
}

#[test]
fn a_command_longer_than_what_is_kept_takes_no_more_memory_than_that() {
    let mut log = Log::in_memory(Histories::new(id(1)), Offset(0), 1 << 20, no_waker());
    let value: Vec<u8> = (0..20_000_000u32).map(|i| (i % 251) as u8).collect();
    let bytes = |log: &mut Log, from: Offset| {
        let mut cursor = log.cursor_at(from).unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = log.next(&mut cursor, usize::MAX, log.end()) {
            bytes.extend_from_slice(piece.bytes());
        }
        bytes
    };
    log.append_command(0, &[&b"SET"[..], b"k", &value]);
    assert!(log.memory() < 4 << 20, "{}", log.memory());
    let from = Offset(log.end().0 - 500_000);
    assert_eq!(bytes(&mut log, from), [&value[value.len() - 499_998..], b"\r\n"].concat());
    // A replica that has not been sent it yet needs all of it.
    let from = log.end();
    log.hold(Some(from));
    log.append(&value);
    assert_eq!(bytes(&mut log, from), value);
}

#[test]
fn a_value_that_is_shared_is_kept_where_it_lies() {
    let mut log = Log::in_memory(Histories::new(id(1)), Offset(0), 1 << 20, no_waker());
    let value = Text::from((0..100_000u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let shared = value.shared().unwrap();
    let command = || [Part::from("SET"), Part::from("k"), Part::Text(&value)];
    log.append_command(0, command());
    let mut cursor = log.cursor_at(Offset(0)).unwrap();
    let [head, text, end] = [(); 3].map(|()| log.next(&mut cursor, usize::MAX, log.end()).unwrap());
    assert!(head.bytes().ends_with(b"\r\n$100000\r\n") && end.bytes() == b"\r\n");
    assert_eq!(text.bytes().as_ptr_range(), shared.as_ptr_range());
    drop((head, text, end));
    assert_eq!(Arc::strong_count(shared), 2);
    for _ in 0..100 {
        log.append_command(0, command());
        assert_eq!(log.cursor_at(log.end()), Some(Cursor { offset: log.end() }));
    }
    assert!(Arc::strong_count(shared) <= 13, "more is kept than a MiB of the history");
    log.append(&vec![b'x'; 1 << 20]);
    log.flush();
    assert_eq!(Arc::strong_count(shared), 1);
}

#[test]
fn the_log_goes_to_disk_and_back_to_memory_while_it_runs() {
    let disk = FakeDisk::new(1);
    let mut log = Log::in_memory(Histories::new(id(1)), Offset(0), 1 << 20, no_waker());
    log.append_command(3, &["SET", "a", "b"]);
    assert_eq!(log.released(), log.end());
    let at = log.begin_rotation();
    log.append_command(3, &["SET", "a", "c"]);
    let value = Text::from(vec![b'v'; 200_001]);
    let shared = || [Part::from("SET"), Part::from("b"), Part::Text(&value)];
    log.append_command(3, shared());
    disk.put(Path::new("new.rdb"), b"REDIS");
    let base = NewBase { path: "new.rdb".into(), at, rdb: true, keep: false };
    let (histories, waker) = (*log.histories(), no_waker());
    let files = Log::make_files(options(&disk), base, 0, histories, waker).unwrap();
    log.append_command(3, &["SET", "c", "e"]);
    // Until the log goes on in them others have what the files have not.
    let found = || recover(&options(&disk)).unwrap().unwrap();
    assert_eq!(found().histories_after_restart(id(2)).current, id(2));
    assert!(log.go_to_disk(files).is_ok());
    log.flush();
    assert_eq!(found().histories_after_restart(id(2)).current, id(1));
    assert_eq!(log.released(), log.end());
    log.append_command(3, &["SET", "a", "d"]);
    log.append_command(3, shared());
    log.leave_in_good_order().unwrap().close().unwrap();
    let mut seen = Vec::new();
    let mut recovered = recover(&options(&disk)).unwrap().unwrap();
    // Others are given what follows in memory, which a start that finds this does not have.
    let names = recovered.histories_after_restart(id(2));
    assert_eq!((names.current, names.second()), (id(2), Some((id(1), log.end()))));
    assert_eq!(recovered.base().unwrap().offset, at);
    let replayed = recovered.replay::<Error>(&mut |command| {
        seen.push((command.db, command.args.concat()));
        Ok(())
    });
    assert_eq!(replayed.unwrap().end, log.end());
    let large = [&b"SETb"[..], &value].concat();
    let small = |command: &[u8]| (3, command.to_vec());
    let (first, second) = ([small(b"SETac"), small(&large)], [small(b"SETad"), small(&large)]);
    assert!(seen == [&first[..], &[small(b"SETce")], &second].concat());
}

#[test]
fn a_file_that_is_in_use_is_not_made_anew_for_its_number() {
    // A flipped digit: the segment's number is lower than its name says.
    let disk = FakeDisk::new(1);
    let segment = Path::new("d/a.aof.2.incr.aof");
    let del = command(&["DEL", "k"]);
    disk.put(Path::new("d/a.aof.manifest"), b"file a.aof.2.incr.aof seq 1 type i\n");
    disk.put(segment, &del);
    let options = options(&disk);
    let found = recover(&options).unwrap().unwrap();
    let mut log = Log::resume(found, Histories::new(id(1)), options.clone(), no_waker()).unwrap();
    log.begin_rotation();
    log.append_command(0, &["DEL", "k"]);
    log.close().unwrap();
    assert_eq!(disk.contents(segment), Some(del.clone()));
    let mut found = recover(&options).unwrap().unwrap();
    assert_eq!(found.replay::<Error>(&mut |_| Ok(())).unwrap().commands, 2);
}

#[test]
fn folders_of_redis_are_taken_as_they_are() {
    let disk = FakeDisk::new(1);
    // With the offsets that Redis 8 writes, which count commands as long as it has no replica.
    let manifest = b"file \"a.aof.1.base.rdb\" seq 1 type b\n\
                     file a.aof.1.incr.aof seq 1 type i startoffset 336 endoffset 337\n\
                     file a.aof.2.incr.aof seq 2 type i startoffset 337\n";
    let path = |name: &str| Path::new(DIR).join(name);
    disk.put(&path("a.aof.manifest"), manifest);
    disk.put(&path("a.aof.1.base.rdb"), b"REDIS0011");
    let first = [command(&["SELECT", "1"]), command(&["DEL", "a"])].concat();
    disk.put(&path("a.aof.1.incr.aof"), &first);
    disk.put(&path("a.aof.2.incr.aof"), b"");
    let mut recovered = recover(&options(&disk)).unwrap().unwrap();
    assert_eq!(recovered.base().unwrap().kind, BaseKind::Rdb);
    let mut seen = 0;
    let replayed = recovered.replay::<Error>(&mut |command| {
        seen += command.db;
        Ok(())
    });
    assert_eq!((replayed.unwrap().end.0, seen), (first.len() as u64, 1));
    assert!(!recovered.is_lossless());
    let histories = recovered.histories_after_restart(id(4));
    assert_eq!(histories, Histories::new(id(4)));
    let mut log = Log::resume(recovered, histories, options(&disk), no_waker()).unwrap();
    log.append_command(1, &["DEL", "b"]);
    log.close().unwrap();
    assert!(disk.contents(&path("a.aof.2.incr.aof")).unwrap().starts_with(SELECT));

    let single = FakeDisk::new(1);
    single.put(Path::new("a.aof"), &command(&["DEL", "a"]));
    let mut recovered = recover(&options(&single)).unwrap().unwrap();
    assert_eq!(recovered.base().unwrap().kind, BaseKind::Aof);
    let replayed = recovered.replay_base::<Error>(0, &mut |_| Ok(())).unwrap();
    assert_eq!(replayed.commands, 1);
    Log::resume(recovered, histories, options(&single), no_waker()).unwrap().close().unwrap();
    // By whatever name: `appendfilename` is free.
    single.put(Path::new("a.rdb"), &[&b"REDIS0009"[..], &command(&["DEL", "a"])].concat());
    let named = Options { base_name: "a.rdb".into(), ..options(&single) };
    let recovered = recover(&named).unwrap().unwrap();
    assert_eq!(recovered.base().unwrap().kind, BaseKind::RdbThenAof);
    assert_eq!(recover(&options(&single)).unwrap().unwrap().histories(), Some(histories));
}

/// Redis writes the manifest of such a file before it moves it.
#[test]
fn a_single_file_that_was_not_moved_yet_is_moved() {
    let disk = FakeDisk::new(1);
    disk.put(Path::new("a.aof"), &command(&["SET", "a", "1"]));
    disk.put(Path::new("aof/a.aof.manifest"), b"file a.aof seq 1 type b\n");
    assert!(recover(&options(&disk)).unwrap().is_some());
    assert!(recover(&options(&disk)).unwrap().is_some(), "and it stays where it is");
}
