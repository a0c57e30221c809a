//! The worst that a turn of the loop waits for its log while others keep the disk busy, by each way of
//! getting the bytes to the kernel. `cargo bench -p varve-persistence --bench busy_disk [seconds]`
//!
//! A turn appends 64 KiB, 100 MiB a second in all, and is synced each second, as `everysec` does it.
//! Two threads write and sync large pieces of other files meanwhile. The last two ways are not in the
//! log; they stand here for comparison.

use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use varve_persistence::log::{Log, Options, random_history};
use varve_persistence::offset::{Histories, Offset};

const TURN_BYTES: usize = 64 << 10;
const TURN: Duration = Duration::from_micros(625);
const TICK: Duration = Duration::from_millis(100);

/// One way: takes a turn's bytes, and now and then the time.
trait Way {
    fn turn(&mut self, bytes: &[u8]);
    fn tick(&mut self) {}
}

/// The log itself.
struct Whole(Option<Log>);

impl Whole {
    fn new(dir: &Path, pool_blocks: usize) -> Whole {
        let mut options = Options::new(dir.join("log"), "bench.aof");
        options.pool_blocks = pool_blocks;
        let histories = Histories::new(random_history().unwrap());
        Whole(Some(Log::create(options, histories, Offset(0), Arc::new(|| {})).unwrap()))
    }
}

impl Way for Whole {
    fn turn(&mut self, bytes: &[u8]) {
        let log = self.0.as_mut().unwrap();
        log.append(bytes);
        log.flush();
    }

    fn tick(&mut self) {
        self.0.as_mut().unwrap().tick(Instant::now());
    }
}

/// A file and a thread that syncs it each second.
struct Synced {
    file: Arc<File>,
    at: u64,
    stop: Arc<AtomicBool>,
}

impl Synced {
    fn new(dir: &Path) -> Synced {
        let path = dir.join("plain");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(path).unwrap();
        let (file, stop) = (Arc::new(file), Arc::new(AtomicBool::new(false)));
        let (for_thread, stopped) = (file.clone(), stop.clone());
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_secs(1));
                for_thread.sync_data().unwrap();
            }
        });
        Synced { file, at: 0, stop }
    }
}

impl Drop for Synced {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The loop writes, whatever else happens.
struct Always(Synced);

impl Way for Always {
    fn turn(&mut self, bytes: &[u8]) {
        self.0.file.write_all_at(bytes, self.0.at).unwrap();
        self.0.at += bytes.len() as u64;
    }
}

/// The loop copies into a shared mapping of the file, whose room is allocated by a piece at a time.
struct Mapped {
    synced: Synced,
    map: Option<memmap2::MmapMut>,
}

const PIECE: usize = 64 << 20;

impl Way for Mapped {
    fn turn(&mut self, bytes: &[u8]) {
        let place = self.synced.at as usize % PIECE;
        if place == 0 {
            let (at, piece) = (self.synced.at as i64, PIECE as i64);
            fallocate(&*self.synced.file, FallocateFlags::empty(), at, piece).unwrap();
            // SAFETY: nobody else has the file.
            let map = unsafe {
                memmap2::MmapOptions::new().offset(at as u64).len(PIECE).map_mut(&*self.synced.file)
            };
            self.map = Some(map.unwrap());
        }
        self.map.as_mut().unwrap()[place..place + bytes.len()].copy_from_slice(bytes);
        self.synced.at += bytes.len() as u64;
    }
}

/// Keeps the disk busy until told to stop.
fn keep_busy(path: &Path, stop: &AtomicBool) {
    let mut file = File::create(path).unwrap();
    let bytes = vec![7; 4 << 20];
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
        written += bytes.len();
        if written >= 512 << 20 {
            file = File::create(path).unwrap();
            written = 0;
        }
    }
}

fn measure(name: &str, make: Make, busy: bool, length: Duration) {
    let dir = std::env::temp_dir().join(format!("varve-busy-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let mut way = make(&dir);
    let stop = AtomicBool::new(false);
    let bytes: Vec<u8> = (0..TURN_BYTES).map(|i| (i * 31 / 8) as u8).collect();
    let mut turns = Vec::new();
    thread::scope(|scope| {
        for i in 0..if busy { 2 } else { 0 } {
            let (path, stop) = (dir.join(format!("other{i}")), &stop);
            scope.spawn(move || keep_busy(&path, stop));
        }
        let began = Instant::now();
        let (mut next, mut ticked) = (began, began);
        while next - began < length {
            let start = Instant::now();
            way.turn(&bytes);
            turns.push(start.elapsed());
            if start - ticked >= TICK {
                way.tick();
                ticked = start;
            }
            next = Instant::now().max(next + TURN);
            thread::sleep(next - Instant::now().min(next));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mib = turns.len() as f64 * TURN_BYTES as f64 / f64::from(1 << 20) / length.as_secs_f64();
    turns.sort_unstable();
    let ms = |at: f64| turns[((turns.len() - 1) as f64 * at) as usize].as_secs_f64() * 1e3;
    let over = turns.iter().filter(|turn| **turn > Duration::from_millis(2)).count();
    let load = if busy { "busy" } else { "idle" };
    println!(
        "{name:24} {load}  {mib:5.0} MiB/s  median {:6.3}  99.9% {:7.3}  worst {:8.3} ms  over 2 ms: {over}",
        ms(0.5),
        ms(0.999),
        ms(1.0)
    );
    drop(way);
    let _ = fs::remove_dir_all(&dir);
}

/// Makes a way in a folder.
type Make = fn(&Path) -> Box<dyn Way>;

fn main() {
    let seconds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(20);
    let length = Duration::from_secs(seconds);
    for busy in [false, true] {
        let ways: [(&str, Make); 4] = [
            ("the log", |dir| Box::new(Whole::new(dir, 256))),
            ("the log without a pool", |dir| Box::new(Whole::new(dir, 0))),
            ("write by the loop only", |dir| Box::new(Always(Synced::new(dir)))),
            ("shared mapping", |dir| Box::new(Mapped { synced: Synced::new(dir), map: None })),
        ];
        for (name, make) in ways {
            measure(name, make, busy, length);
        }
    }
}
