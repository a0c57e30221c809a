//! History: what is kept of the log before its base, how it is read, and what happens to it when
//! files are damaged or the disk fills.

use super::fake::FakeDisk;
use super::*;
use proptest::prelude::*;
use std::path::Path;

const DIR: &str = "d";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn id(n: u8) -> HistoryId {
    HistoryId::from_random([n; 20])
}

fn options(disk: &Arc<FakeDisk>) -> Options {
    Options {
        disk: disk.clone(),
        threads: false,
        fsync: Fsync::Always,
        tail_bytes: 1000,
        ..Options::new(DIR.into(), "a.aof")
    }
}

/// A log, and every byte that it was given.
struct Bench {
    disk: Arc<FakeDisk>,
    log: Log,
    all: Vec<u8>,
    random: u32,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(FakeDisk::new(1), |_| {})
    }

    fn with(disk: Arc<FakeDisk>, change: impl FnOnce(&mut Options)) -> Bench {
        let mut options = options(&disk);
        change(&mut options);
        let histories = Histories::new(id(1));
        let log = Log::create(options, histories, Offset(0), Arc::new(|| {})).unwrap();
        Bench { disk, log, all: Vec::new(), random: 1 }
    }

    /// Appends about so many bytes, as compressible as words are.
    fn write(&mut self, bytes: usize) {
        let target = self.all.len() + bytes;
        while self.all.len() < target {
            let from = self.log.end();
            self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = format!("key:{}", self.random >> 8);
            let value = format!("{:x}", self.random).repeat((self.random >> 25) as usize);
            self.log.append_command(0, &["SET", &key, &value]);
            let mut cursor = self.log.cursor_at(from).unwrap();
            while let Some(piece) = self.log.next(&mut cursor, usize::MAX, self.log.end()) {
                self.all.extend_from_slice(piece.bytes());
            }
            self.log.flush();
        }
    }

    /// Takes a new base: what was live until now is history.
    fn rewrite(&mut self) {
        let at = self.log.begin_rotation();
        self.wait_for(Event::Rotated { at, result: Ok(()) });
        self.install(at);
    }

    fn wait_for(&mut self, event: Event) {
        let began = Instant::now();
        while !self.log.take_events().contains(&event) {
            assert!(began.elapsed() < Duration::from_secs(60), "{event:?} does not come");
            self.log.flush();
            std::thread::yield_now();
        }
    }

    fn install(&mut self, at: Offset) {
        let path = PathBuf::from(format!("temp-{at}.rdb"));
        self.disk.put(&path, b"REDIS");
        self.log.install_base(NewBase { path, at, rdb: true, keep: false });
        self.wait_for(Event::BaseInstalled { at, result: Ok(()) });
    }

    /// A log with history of several segments: where each begins.
    fn with_history(mut self, segments: usize, bytes: usize) -> (Bench, Vec<Offset>) {
        let starts = (0..segments).map(|_| {
            let start = self.log.end();
            self.write(bytes);
            self.rewrite();
            start
        });
        let starts = starts.collect();
        self.write(bytes);
        (self, starts)
    }

    fn look_at(&self, now_s: u64) {
        self.log.on_disk.as_ref().unwrap().writer.shared.keep_history(now_s);
    }

    fn first(&self) -> Option<Offset> {
        self.log.stats().first_in_history
    }

    fn restart(self) -> Bench {
        let Bench { disk, log, all, random } = self;
        let end = log.end();
        log.close().unwrap();
        let mut recovered = recover(&options(&disk)).unwrap().unwrap();
        recovered.replay::<Error>(&mut |_| Ok(())).unwrap();
        assert_eq!(recovered.end(), end);
        let histories = recovered.histories().unwrap();
        let log = Log::resume(recovered, histories, options(&disk), Arc::new(|| {})).unwrap();
        Bench { disk, log, all, random }
    }

    fn assert_reads_from(&self, offset: Offset, step: usize) {
        let mut reader = self.log.segment_reader(offset).unwrap();
        let mut buf = vec![0; step];
        let mut at = offset.0 as usize;
        while let n @ 1.. = reader.read(&mut buf, self.log.released()).unwrap() {
            assert!(buf[..n] == self.all[at..at + n], "other bytes at offset {at}");
            at += n;
        }
        assert_eq!(at, self.all.len());
    }
}

fn now_s() -> u64 {
    history::now_s()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 8,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn history_and_live_segments_read_as_one(
        bytes in 1000..400_000usize,
        places in prop::collection::vec((any::<prop::sample::Index>(), 1..300_000usize), 6),
    ) {
        let (bench, starts) = Bench::new().with_history(3, bytes);
        prop_assert_eq!(bench.log.first_available(), Offset(0));
        prop_assert_eq!(bench.log.stats().history_segments, starts.len() as u64);
        for (place, step) in &places {
            bench.assert_reads_from(Offset(place.index(bench.all.len()) as u64), *step);
        }
        let bench = bench.restart();
        prop_assert_eq!(bench.log.first_available(), Offset(0));
        for (place, step) in &places {
            bench.assert_reads_from(Offset(place.index(bench.all.len()) as u64), *step);
        }
    }
}

#[test]
fn history_is_smaller_than_it_was_and_the_plain_files_are_gone() {
    let (bench, _) = Bench::new().with_history(2, 300_000);
    let stats = bench.log.stats();
    assert!(stats.history_bytes < 2 * 300_000 / 2, "{stats:?}");
    let names: Vec<_> = bench.disk.list(Path::new(DIR)).unwrap();
    let sizes = names.iter().filter(|p| lz4::is_name(p.file_name().unwrap()));
    let sizes: Vec<_> = sizes.map(|p| bench.disk.contents(p).unwrap().len() as u64).collect();
    assert_eq!((sizes.len(), sizes.iter().sum::<u64>()), (2, stats.history_bytes));
    for gone in ["a.aof.1.incr.aof", "a.aof.1.incr.aof.idx"] {
        assert_eq!(bench.disk.contents(&Path::new(DIR).join(gone)), None, "{gone}");
    }
    assert!(stats.live_bytes >= 300_000 && stats.first_live > stats.first_in_history);
}

#[test]
fn the_oldest_goes_when_there_is_too_much() {
    let (mut bench, starts) = Bench::new().with_history(5, 50_000);
    let all = bench.log.stats().history_bytes;
    bench.log.set_history(all * 3 / 5, DAY);
    assert!(bench.first() > Some(starts[0]));
    let stats = bench.log.stats();
    assert!(stats.history_bytes <= all * 3 / 5 && stats.history_segments >= 2, "{stats:?}");
    assert_eq!(bench.log.segments().len() as u64, stats.history_segments + 1);
    assert_eq!(bench.log.first_available(), bench.first().unwrap());
    bench.assert_reads_from(bench.first().unwrap(), 4096);
    assert!(bench.log.segment_reader(Offset(0)).is_none());
    bench.log.set_history(0, DAY);
    assert_eq!((bench.first(), bench.log.stats().history_bytes), (None, 0));
    bench.rewrite();
    assert_eq!(bench.first(), None);
    assert_eq!(Some(bench.log.segments()[0].start), bench.log.stats().first_live);
}

/// The bases in the folder, by number; the last is the one in force.
fn bases(bench: &Bench) -> Vec<u64> {
    let names = bench.disk.list(Path::new(DIR)).unwrap();
    let names = names.iter().filter_map(|path| path.file_name()?.to_str());
    let seq =
        |name: &str| name.strip_prefix("a.aof.")?.strip_suffix(".base.rdb")?.parse::<u64>().ok();
    let mut found: Vec<u64> = names.filter_map(seq).collect();
    found.sort_unstable();
    found
}

#[test]
fn old_bases_stay_as_long_as_history_goes_on_from_them() {
    // The first is that of the empty log.
    let (mut bench, starts) = Bench::new().with_history(4, 20_000);
    assert_eq!((bases(&bench), bench.log.oldest_base()), (vec![1, 2, 3, 4, 5], Some(Offset(0))));
    let mut bench = {
        let manifest =
            lock(&bench.log.on_disk.as_ref().unwrap().writer.shared.folder).manifest.clone();
        assert_eq!(manifest.old_bases().len(), 4);
        assert!(manifest.old_bases().iter().all(|base| !base.is_kept()));
        bench.write(10);
        bench.restart()
    };
    assert_eq!((bases(&bench), bench.log.oldest_base()), (vec![1, 2, 3, 4, 5], Some(Offset(0))));
    // The oldest segment goes, and takes its base with it.
    let all = bench.log.stats().history_bytes;
    bench.log.set_history(all - 10, DAY);
    assert_eq!((bench.first(), bases(&bench)), (Some(starts[1]), vec![2, 3, 4, 5]));
    assert_eq!(bench.log.oldest_base(), Some(starts[1]));
    bench.look_at(now_s() + DAY.as_secs() + 60);
    assert_eq!((bench.first(), bases(&bench)), (None, vec![5]));
    assert_eq!(bench.log.oldest_base(), Some(bench.log.segments()[0].start));
    bench.rewrite();
    assert_eq!(bases(&bench), [5, 6]);
    bench.log.set_history(0, DAY);
    assert_eq!(bases(&bench), [6]);
    bench.write(100);
    bench.rewrite();
    assert_eq!(bases(&bench), [7]);
    bench.log.set_history(1 << 30, DAY);
    bench.write(100);
    bench.rewrite();
    bench.log.reset(Histories::new(id(3)), Offset(700), 0, None);
    assert_eq!((bases(&bench), bench.log.oldest_base()), (vec![], Some(Offset(700))));
}

#[test]
fn old_bases_take_no_more_than_their_part() {
    let mut bench = Bench::new();
    let mut starts = Vec::new();
    for _ in 0..5 {
        bench.write(1000);
        let at = bench.log.begin_rotation();
        starts.push(at);
        let path = PathBuf::from(format!("temp-{at}.rdb"));
        bench.disk.put(&path, &[b'x'; 100_000]);
        bench.log.install_base(NewBase { path, at, rdb: true, keep: false });
    }
    bench.write(1000);
    assert_eq!(bases(&bench), [1, 2, 3, 4, 5, 6]);
    let stats = bench.log.stats();
    assert_eq!((stats.old_bases, stats.old_bases_bytes), (5, 4 * 100_000 + 18));
    let segments = bench.log.stats().history_segments;
    bench.log.set_history(500_000, DAY);
    assert_eq!(bases(&bench), [1, 4, 5, 6], "there is room for two of these, and for the first");
    assert_eq!(bench.log.oldest_base(), Some(Offset(0)));
    bench.log.set_history(150_000, DAY);
    assert_eq!(bases(&bench), [1, 6]);
    let notes = bench.log.take_notes().join("\n");
    assert!(notes.contains("a.aof.5.base.rdb, an old base at offset"), "{notes}");
    assert_eq!(bench.log.stats().history_segments, segments, "all of them have room");
    // What fits no more goes before what is compressed next, and a full disk takes it too.
    bench.log.set_history(1 << 30, DAY);
    bench.rewrite();
    assert_eq!(bases(&bench), [1, 6, 7]);
    bench.disk.set_space(Some(0));
    while bases(&bench) != [7] {
        bench.write(500);
        assert_eq!(bench.log.error(), None);
    }
}

#[test]
fn a_start_leaves_out_an_old_base_that_is_missing() {
    let (bench, starts) = Bench::new().with_history(3, 20_000);
    let Bench { disk, log, .. } = bench;
    log.close().unwrap();
    disk.remove(&Path::new(DIR).join("a.aof.1.base.rdb")).unwrap();
    let mut recovered = recover(&options(&disk)).unwrap().unwrap();
    assert!(recovered.notes()[0].contains("a.aof.1.base.rdb"), "{:?}", recovered.notes());
    recovered.replay::<Error>(&mut |_| Ok(())).unwrap();
    let histories = recovered.histories().unwrap();
    let log = Log::resume(recovered, histories, options(&disk), Arc::new(|| {})).unwrap();
    assert_eq!((log.oldest_base(), log.first_available()), (Some(starts[1]), Offset(0)));
    log.close().unwrap();
    assert_eq!(recover(&options(&disk)).unwrap().unwrap().notes(), [""; 0]);
}

#[test]
fn history_goes_when_it_is_too_old() {
    let (mut bench, starts) = Bench::new().with_history(3, 20_000);
    bench.look_at(now_s() + DAY.as_secs() - 60);
    assert_eq!(bench.first(), Some(starts[0]));
    bench.look_at(now_s() + DAY.as_secs() + 60);
    assert_eq!(bench.first(), None);
    let notes = bench.log.take_notes();
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].contains("a.aof.1.incr.aof.lz4") && notes[0].contains("repl-history-ttl"));
    let bench = bench.restart();
    assert_eq!(bench.first(), None);
}

/// The story: 2,500 snapshots of a small log left 6,500 files, and each further one took a third of a second.
#[test]
fn small_segments_do_not_pile_up() {
    let bench = Bench::with(FakeDisk::new(1), |options| options.history_segments = 5);
    let (mut bench, starts) = bench.with_history(8, 100);
    assert_eq!((bench.first(), bench.log.oldest_base()), (Some(starts[3]), Some(starts[3])));
    let notes = bench.log.take_notes();
    assert!(
        notes[2].contains("a.aof.3.incr.aof.lz4") && notes[2].contains("too many"),
        "{notes:?}"
    );
    // Somebody reads them: they stay until that is over.
    bench.log.protect(Some(starts[3]));
    let (mut bench, _) = bench.with_history(3, 100);
    assert_eq!(bench.first(), Some(starts[3]));
    bench.assert_reads_from(starts[3], 777);
    bench.log.protect(None);
    bench.look_at(now_s());
    assert_eq!(bench.first(), Some(starts[6]));
}

#[test]
fn what_somebody_reads_stays() {
    let (mut bench, starts) = Bench::new().with_history(4, 20_000);
    bench.log.protect(Some(starts[2] + 5));
    bench.log.set_history(1, Duration::from_secs(1));
    bench.look_at(now_s() + 1000);
    assert_eq!(bench.first(), Some(starts[2]));
    bench.assert_reads_from(starts[2] + 5, 777);
    bench.log.protect(Some(starts[3]));
    bench.look_at(now_s() + 1000);
    assert_eq!(bench.first(), Some(starts[3]));
    bench.log.protect(None);
    bench.look_at(now_s() + 1000);
    assert_eq!(bench.first(), None);
}

/// The story: a new base took from a replica that lagged what it was being sent, where no history is
/// to be kept. Under steady writes each rewrite cost it a full sync.
#[test]
fn what_somebody_reads_stays_where_no_history_is_kept() {
    for (bytes, ttl) in [(0, DAY), (1 << 30, Duration::ZERO)] {
        let mut bench = Bench::new();
        bench.log.set_history(bytes, ttl);
        bench.write(20_000);
        let at = bench.log.begin_rotation();
        bench.write(20_000);
        bench.log.protect(Some(Offset(777)));
        bench.install(at);
        assert_eq!(bench.first(), Some(Offset(0)));
        bench.assert_reads_from(Offset(777), 500);
        bench.log.protect(Some(at));
        bench.look_at(now_s());
        assert_eq!(bench.first(), None);
        let next = bench.log.begin_rotation();
        bench.log.protect(Some(next));
        bench.install(next);
        assert_eq!(bench.first(), None);
    }
}

#[test]
fn a_full_disk_takes_the_history_first_and_refuses_writes_last() {
    for pool_blocks in [0, 9] {
        for fsync in [Fsync::Always, Fsync::No] {
            let bench = Bench::with(FakeDisk::new(1), |options| {
                (options.pool_blocks, options.fsync) = (pool_blocks, fsync);
            });
            let (mut bench, starts) = bench.with_history(3, 100_000);
            let before = bench.log.stats().history_bytes;
            bench.log.protect(Some(starts[1]));
            bench.disk.set_space(Some(100));
            bench.write(1000);
            assert_eq!((bench.log.error(), bench.log.released()), (None, bench.log.end()));
            assert_eq!(bench.first(), Some(starts[1]), "one was enough");
            // What is protected goes too before a write is refused.
            bench.write(before as usize / 3);
            assert_eq!((bench.log.error(), bench.log.released()), (None, bench.log.end()));
            assert!(bench.first() > Some(starts[1]), "{:?}", bench.first());
            let acknowledged = bench.log.released();
            bench.log.append_command(0, &[b"SET", &b"k"[..], &vec![b'v'; before as usize]]);
            bench.log.flush();
            assert!(bench.log.error().is_some(), "there is no room left for it");
            // Where it outlives the process without the disk, it is acknowledged all the same.
            let outlives = pool_blocks > 0 && fsync == Fsync::No;
            let released = if outlives { bench.log.end() } else { acknowledged };
            assert_eq!((bench.first(), bench.log.released()), (None, released));
            bench.disk.set_space(None);
            bench.log.tick(Instant::now());
            assert_eq!((bench.log.error(), bench.log.released()), (None, bench.log.end()));
            let disk = bench.disk.after_kill(bench.disk.ops());
            let mut recovered = recover(&options(&disk)).unwrap().unwrap();
            recovered.replay::<Error>(&mut |_| Ok(())).unwrap();
            assert_eq!(recovered.end(), bench.log.end());
        }
    }
}

#[test]
fn a_full_disk_takes_history_for_a_new_segment_and_a_new_base() {
    let (mut bench, starts) = Bench::new().with_history(3, 30_000);
    bench.disk.put(Path::new("new.rdb"), b"REDIS");
    bench.log.protect(Some(starts[0]));
    bench.disk.set_space(Some(0));
    let at = bench.log.begin_rotation();
    assert_eq!(bench.log.take_events(), [Event::Rotated { at, result: Ok(()) }]);
    assert_eq!(bench.first(), Some(starts[1]));
    bench.disk.set_space(Some(0));
    bench.log.install_base(NewBase { path: "new.rdb".into(), at, rdb: true, keep: true });
    assert_eq!(bench.log.take_events(), [Event::BaseInstalled { at, result: Ok(()) }]);
    assert!(bench.first() > Some(starts[1]));
    bench.disk.set_space(None);
    bench.look_at(now_s());
    let first = bench.first().unwrap();
    bench.assert_reads_from(first, 5000);
    bench.restart().assert_reads_from(first, 5000);
}

#[test]
fn a_disk_that_runs_low_loses_what_nobody_reads() {
    let (mut bench, starts) = Bench::new().with_history(3, 30_000);
    bench.log.protect(Some(starts[1]));
    bench.disk.set_space(Some(10 << 20));
    bench.look_at(now_s());
    assert_eq!(bench.first(), Some(starts[1]));
    assert!(bench.log.take_notes()[0].contains("low"));
}

#[test]
fn a_reader_goes_on_while_its_file_is_compressed_and_removed() {
    let mut bench = Bench::new();
    bench.write(100_000);
    let at = bench.log.begin_rotation();
    bench.write(100_000);
    let mut reader = bench.log.segment_reader(Offset(0)).unwrap();
    let (mut read, mut buf) = (Vec::new(), vec![0; 10_000]);
    let mut take = |bench: &Bench, reader: &mut SegmentReader| {
        let n = reader.read(&mut buf, bench.log.released()).unwrap();
        read.extend_from_slice(&buf[..n]);
        assert!(read == bench.all[..read.len()]);
        n
    };
    take(&bench, &mut reader);
    bench.install(at); // the segment that is read is a compressed one now
    assert_eq!(bench.first(), Some(Offset(0)));
    reader.refresh(bench.log.segments());
    take(&bench, &mut reader);
    bench.log.set_history(0, DAY);
    reader.refresh(bench.log.segments());
    while reader.offset() < at {
        assert!(take(&bench, &mut reader) > 0);
    }
    while take(&bench, &mut reader) > 0 {}
    assert_eq!(reader.offset(), bench.log.end());
    // Another log's bytes never follow: a reader that is left over has nothing to read any more.
    let mut reader = bench.log.segment_reader(at).unwrap();
    assert!(reader.read(&mut [0; 10], bench.log.released()).unwrap() > 0);
    bench.log.reset(Histories::new(id(2)), Offset(5), 0, None);
    reader.refresh(bench.log.segments());
    bench.log.append_command(0, &["SET", "other", "bytes"]);
    bench.log.flush();
    let before = reader.offset();
    let n = reader.read(&mut [0; 10], bench.log.released()).unwrap();
    assert!(n == 0 && reader.offset() == before);
}

#[test]
fn readers_may_be_on_any_thread() {
    fn is_send<T: Send>() {}
    is_send::<SegmentReader>();
}

#[test]
fn damage_is_told_once_and_the_log_then_begins_after_it() {
    let (mut bench, starts) = Bench::new().with_history(4, 30_000);
    let path = bench.log.segments()[1].path.clone();
    let mut bytes = bench.disk.contents(&path).unwrap();
    bytes[1000] ^= 1;
    bench.disk.put(&path, &bytes);
    let mut reader = bench.log.segment_reader(Offset(0)).unwrap();
    let mut buf = vec![0; 8000];
    let error = loop {
        match reader.read(&mut buf, bench.log.released()) {
            Ok(n) => assert!(n > 0),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("a.aof.2.incr.aof.lz4") && error.contains("at byte 0"), "{error}");
    assert_eq!(reader.offset(), starts[1], "no byte of the damaged frame was given out");
    assert_eq!(bench.log.first_available(), starts[2]);
    assert!(bench.log.segment_reader(starts[1]).is_none());
    bench.assert_reads_from(starts[2], 5000);
    bench.look_at(now_s());
    assert_eq!(bench.disk.contents(&path), None);
    assert!(bench.log.take_notes()[0].contains("can not be read"));
    assert_eq!(bench.log.first_available(), starts[2]);
}

#[test]
fn a_start_keeps_the_history_after_what_is_missing_or_damaged() {
    let (bench, starts) = Bench::new().with_history(4, 30_000);
    let paths: Vec<_> = bench.log.segments().iter().map(|s| s.path.clone()).collect();
    let Bench { disk, log, .. } = bench;
    log.close().unwrap();
    let resume = |disk: &Arc<FakeDisk>| {
        let mut recovered = recover(&options(disk)).unwrap().unwrap();
        recovered.replay::<Error>(&mut |_| Ok(())).unwrap();
        let notes = recovered.notes().to_vec();
        let histories = recovered.histories().unwrap();
        let log = Log::resume(recovered, histories, options(disk), Arc::new(|| {})).unwrap();
        (log.first_available(), notes)
    };
    assert_eq!(resume(&disk.after_kill(disk.ops())), (Offset(0), Vec::new()));
    let whole = disk.contents(&paths[1]).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let other = disk.contents(&paths[2]).unwrap();
    for contents in [None, Some(flipped), Some(whole[..whole.len() - 1].to_vec()), Some(other)] {
        let disk = disk.after_kill(disk.ops());
        match contents {
            Some(bytes) => disk.put(&paths[1], &bytes),
            None => disk.remove(&paths[1]).unwrap(),
        }
        let (first, notes) = resume(&disk);
        assert_eq!((first, notes.len()), (starts[2], 1), "{notes:?}");
        assert!(notes[0].contains("a.aof.2.incr.aof.lz4"), "{notes:?}");
        for gone in &paths[..2] {
            assert_eq!(disk.contents(gone), None);
        }
        assert_eq!(resume(&disk), (starts[2], Vec::new()));
    }
}

#[test]
fn a_new_name_keeps_the_history_and_another_log_does_not() {
    let (mut bench, _) = Bench::new().with_history(2, 20_000);
    let mut histories = *bench.log.histories();
    histories.shift(id(2), bench.log.end());
    bench.log.set_histories(histories);
    bench.write(1000);
    bench.rewrite();
    assert_eq!(bench.first(), Some(Offset(0)));
    let mut bench = bench.restart();
    bench.assert_reads_from(Offset(0), 9999);
    bench.log.reset(Histories::new(id(3)), Offset(700), 0, None);
    assert_eq!((bench.first(), bench.log.first_available()), (None, Offset(700)));
    let files = bench.disk.list(Path::new(DIR)).unwrap();
    assert!(!files.iter().any(|path| lz4::is_name(path.file_name().unwrap())), "{files:?}");
}

#[test]
fn what_did_not_reach_the_disk_is_no_history() {
    let mut bench = Bench::new();
    bench.write(5000);
    bench.disk.set_syncs_fail(true);
    bench.write(5000);
    bench.disk.set_syncs_fail(false);
    assert!(bench.log.error().is_some());
    bench.rewrite();
    assert_eq!((bench.log.error(), bench.first()), (None, None));
}

#[test]
fn a_stopped_log_leaves_what_is_not_compressed_for_the_next_start() {
    let disk = FakeDisk::new(1);
    let threads = |options: &mut Options| options.threads = true;
    let (bench, _) = Bench::with(disk.clone(), threads).with_history(3, 600_000);
    let all = bench.all.clone();
    let end = bench.log.end();
    bench.log.close().unwrap();
    let mut recovered = recover(&options(&disk)).unwrap().unwrap();
    assert_eq!(recovered.notes(), [""; 0]);
    recovered.replay::<Error>(&mut |_| Ok(())).unwrap();
    let histories = recovered.histories().unwrap();
    let log = Log::resume(recovered, histories, options(&disk), Arc::new(|| {})).unwrap();
    assert_eq!(log.end(), end);
    let bench = Bench { disk, log, all, random: 1 };
    bench.assert_reads_from(Offset(0), 100_000);
    let segments = bench.log.segments();
    let compressed = |s: &&SegmentInfo| lz4::is_name(s.path.file_name().unwrap());
    assert_eq!(segments.iter().filter(compressed).count(), segments.len() - 1);
}

#[test]
fn a_reader_with_an_old_list_is_told_to_take_a_new_one() {
    let mut bench = Bench::new();
    bench.write(100_000);
    let at = bench.log.begin_rotation();
    bench.write(1000);
    let mut reader = bench.log.segment_reader(Offset(0)).unwrap();
    bench.install(at);
    let mut buf = vec![0; 1000];
    assert_eq!(reader.read(&mut buf, bench.log.released()).unwrap(), 0);
    reader.refresh(bench.log.segments());
    assert_eq!(reader.read(&mut buf, bench.log.released()).unwrap(), 1000);
    assert!(buf == bench.all[..1000]);
    // A file that somebody took away is in no list once that was noticed.
    let segments = bench.log.segments();
    bench.disk.remove(&segments[0].path).unwrap();
    let mut reader = bench.log.segment_reader(Offset(0)).unwrap();
    assert_eq!(reader.read(&mut buf, bench.log.released()).unwrap(), 0);
    assert!(bench.log.segment_reader(Offset(0)).is_none());
    assert_eq!(bench.log.segments()[0].start, at);
}

/// The story: a full disk, and a process that is killed while the pool has what no segment has yet. The
/// next start gives up history for it, as the process would have done.
#[test]
fn a_start_gives_up_history_for_what_the_pool_has() {
    let change = |options: &mut Options| {
        (options.fsync, options.pool_blocks) = (Fsync::EverySec, 2);
    };
    let (mut bench, starts) = Bench::with(FakeDisk::new(1), change).with_history(20, 100);
    bench.rewrite();
    bench.log.append_command(0, &["SET", "key", &"v".repeat(600)]);
    bench.log.flush();
    let (written, end) = (bench.log.written(), bench.log.end());
    assert_eq!(bench.log.released(), end);
    assert!(written + 600 < end);

    let disk = bench.disk.after_kill(bench.disk.ops());
    disk.set_space(Some(50));
    let options = |disk: &Arc<FakeDisk>| Options { pool_blocks: 2, ..options(disk) };
    let look = recover(&Options { alone: false, ..options(&disk) }).unwrap().unwrap();
    assert_eq!(look.notes(), [""; 0]);
    assert!(look.waiting().is_some_and(|told| told.contains("has")), "{:?}", look.waiting());
    assert_eq!((disk.ops(), look.end()), (0, written));
    let mut found = recover(&options(&disk)).unwrap().unwrap();
    let removed = |note: &String| note.contains(": the disk is full");
    assert!(found.notes().len() > 1 && found.notes().iter().all(removed), "{:?}", found.notes());
    assert_eq!((found.end(), found.is_lossless()), (end, true));
    let first = found.manifest().kept().next().and_then(|entry| entry.start).unwrap();
    assert!(starts[0] < first && first < *starts.last().unwrap(), "from {first} on");
    found.replay::<Error>(&mut |_| Ok(())).unwrap();
    Log::resume(found, Histories::new(id(1)), options(&disk), Arc::new(|| {})).unwrap();
    for ops in 0..=disk.ops() {
        let disk = disk.after_kill(ops);
        let mut found = recover(&options(&disk)).unwrap().unwrap();
        found.replay::<Error>(&mut |_| Ok(())).unwrap();
        assert_eq!((found.end(), found.is_lossless()), (end, true), "after {ops} operations");
        let log = Log::resume(found, Histories::new(id(1)), options(&disk), Arc::new(|| {}));
        let segments = log.unwrap().segments();
        assert!(segments.is_sorted_by(|a, b| a.end == Some(b.start)), "after {ops} operations");
    }

    // Without history the start is refused, and says what for.
    bench.log.set_history(0, DAY);
    let disk = bench.disk.after_kill(bench.disk.ops());
    disk.set_space(Some(50));
    let error = recover(&options(&disk)).err().expect("there is no room").to_string();
    let what = format!("{} bytes that only \"d/a.aof.pool\" has", end - written);
    assert!(error.contains(".incr.aof") && error.contains(&what), "{error}");
}

#[test]
fn a_reset_tells_of_its_base_and_of_nothing_before_it() {
    let mut bench = Bench::new();
    bench.write(1000);
    let at = bench.log.begin_rotation();
    bench.disk.put(Path::new("old.rdb"), b"REDIS");
    bench.log.install_base(NewBase { path: "old.rdb".into(), at, rdb: true, keep: false });
    bench.disk.put(Path::new("received.rdb"), b"REDIS");
    let base = NewBase { path: "received.rdb".into(), at: Offset(7), rdb: true, keep: false };
    bench.log.reset(Histories::new(id(3)), Offset(7), 0, Some(base));
    let installed = Event::BaseInstalled { at: Offset(7), result: Ok(()) };
    assert_eq!(bench.log.take_events(), [installed], "and not of the base at {at}");
    let path = bench.log.base_path().unwrap();
    assert_eq!(bench.disk.contents(&path).unwrap(), b"REDIS");
    bench.log.reset(Histories::new(id(4)), Offset(0), 0, None);
    assert_eq!(bench.log.take_events(), []);
}
