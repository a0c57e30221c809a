//! The log against a disk that fails, and against Redis.
//!
//! The fault these tests stand for: the process is killed, or power fails, between any two
//! operations on the disk, while writes come out short, the disk runs full and segments, bases and
//! histories change. Whatever the log had released by then must be there afterwards.

use super::fake::FakeDisk;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

const DIR: &str = "d";

fn options(disk: &Arc<FakeDisk>) -> Options {
    let disk: Arc<dyn Disk> = disk.clone();
    Options {
        disk,
        threads: false,
        fsync: Fsync::Always,
        tail_bytes: 1000,
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
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    /// Copies what was appended since `from` out of the log's memory into the model.
    fn learn(&mut self, from: Offset) {
        let known = self.histories.get_mut(&self.log.histories().current).unwrap();
        let mut cursor = self.log.cursor_at(from).unwrap();
        while let Some(piece) = self.log.next(&mut cursor, usize::MAX, self.log.end()) {
            known.bytes.extend_from_slice(piece.bytes());
        }
        known.whole.insert(self.log.end().0);
    }

    fn promise(&mut self) {
        // The promise is read before the disk's clock: what it covers is older than that.
        let (written, released) = (self.log.written(), self.log.released());
        let synced = self.log.synced().unwrap();
        let (ops, epoch) = (self.disk.ops(), self.epoch);
        self.promises.push(Promise { ops, epoch, written, synced, released });
    }

    fn step(&mut self) {
        let from = self.log.end();
        match self.below(24) {
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
                let value = vec![b'l'; self.below(200_000) as usize];
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
                    let path = PathBuf::from("temp.rdb");
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
            _ => {
                if self.below(4) == 0 {
                    self.ids += 1;
                    self.epoch += 1;
                    let start = Offset(self.below(5000));
                    let whole = BTreeSet::from([start.0]);
                    let epoch = self.epoch;
                    let known = Known { start, bytes: Vec::new(), whole, epoch };
                    self.histories.insert(id(self.ids), known);
                    let path = PathBuf::from("received.rdb");
                    self.disk.put(&path, format!("REDIS {} {start}", id(self.ids)).as_bytes());
                    let base = NewBase { path, at: start, rdb: true, keep: false };
                    self.cut = None;
                    self.log.reset(Histories::new(id(self.ids)), start, Some(base));
                }
            }
        }
        self.log.take_events();
        self.promise();
    }

    /// Recovers from what a crash after `ops` operations left, and compares.
    fn check(&self, ops: usize, power: Option<u64>) {
        let disk = match power {
            None => self.disk.after_kill(ops),
            Some(seed) => self.disk.after_power_cut(ops, seed),
        };
        let what = format!("after {ops} of {} operations, {power:?}", self.disk.ops());
        let at = self.promises.partition_point(|promise| promise.ops <= ops);
        let promise = at.checked_sub(1).map(|at| &self.promises[at]);
        let options = options(&disk);
        let Some(mut recovered) = recover(&options).unwrap_or_else(|e| panic!("{what}: {e}"))
        else {
            assert!(promise.is_none(), "{what}: the log is gone");
            return;
        };
        let replayed = recovered
            .replay::<Error>(&mut |_| Ok(()))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let histories = recovered.histories().unwrap();
        let known = &self.histories[&histories.current];
        let (start, end) = (recovered.start(), recovered.end());
        assert_eq!(end, replayed.end);
        assert!(known.whole.contains(&end.0), "{what}: {end} is inside a command");

        let mut bytes = Vec::new();
        let mut buf = [0; 1000];
        let manifest = Arc::new(segments_of(&recovered));
        let mut reader = SegmentReader::new(disk.clone(), manifest, start).unwrap();
        while let n @ 1.. = reader.read(&mut buf, end).unwrap() {
            bytes.extend_from_slice(&buf[..n]);
        }
        let (from, to) = ((start - known.start) as usize, (end - known.start) as usize);
        assert!(bytes == known.bytes[from..to], "{what}: the bytes are others");
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

        if let Some(promise) = promise.filter(|promise| promise.epoch == known.epoch) {
            let promised = if power.is_some() { promise.synced } else { promise.written };
            assert!(end >= promised, "{what}: {end} recovered, {promised} promised");
            if recovered.is_lossless() {
                assert!(end >= promise.released, "{what}: {end} is not lossless");
            }
        } else if let Some(promise) = promise {
            let next = self.promises.get(at).map(|next| next.epoch);
            let between = [Some(promise.epoch), next, Some(promise.epoch + 1)];
            assert!(between.contains(&Some(known.epoch)), "{what}: epoch {}", known.epoch);
        }

        // What was recovered can be gone on with, and closed in good order.
        let after = recovered.histories_after_restart(id(u64::MAX));
        let mut log = Log::resume(recovered, after, options.clone(), no_waker()).unwrap();
        assert_eq!(log.append_command(0, &["PING"]), log.end());
        log.flush();
        let closed_at = log.end();
        assert_eq!(log.released(), closed_at, "{what}");
        log.close().unwrap();
        let again = recover(&options).unwrap().unwrap();
        assert_eq!((again.end(), again.is_lossless()), (closed_at, true), "{what}");
        assert_eq!(again.histories(), Some(after), "{what}");
    }
}

fn segments_of(recovered: &Recovered) -> Vec<SegmentInfo> {
    let info = |entry: &manifest::Entry| SegmentInfo {
        path: Path::new(DIR).join(&entry.name),
        start: entry.start.unwrap(),
        end: entry.end,
    };
    recovered.manifest().segments().map(info).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_was_released_survives_a_crash_at_any_operation(seed in 1..u64::MAX) {
        let mut run = Run::new(seed, false);
        run.promise();
        for _ in 0..120 {
            run.step();
        }
        for ops in 0..=run.disk.ops() {
            run.check(ops, None);
            run.check(ops, Some(seed ^ ops as u64));
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
        for ops in (0..=last).rev().step_by(7) {
            run.check(ops, None);
            run.check(ops, Some(seed ^ ops as u64));
        }
    }
}
