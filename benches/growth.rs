//! What the worst insert costs while a table grows to 20 million keys: no pause at any size is what
//! linear hashing is for.
//!
//! Wall time alone cannot tell the table's work from another process's turn on the core, so each
//! insert is timed by both the wall and the thread's own processor time, in which the kernel's work
//! for it (page faults) counts. `cargo bench --bench growth [keys]`.

use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};
use varve_engine::hasher;
use varve_engine::table::{Slot, Table};

const KEYS: u64 = 20_000_000;
const SLOW: [Duration; 4] = [
    Duration::from_micros(100),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
];

struct Entry(Box<[u8; 20]>);

impl Slot for Entry {
    fn key(&self) -> &[u8] {
        &self.0[..]
    }

    fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

fn key(n: u64) -> [u8; 20] {
    let mut key = *b"key:0000000000000000";
    let mut rest = n;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.expect("every thread has a clock").into()
}

fn main() {
    let keys = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(KEYS);
    let mut table = Table::new();
    let (mut by_wall, mut by_processor) = ([0u64; SLOW.len()], [0u64; SLOW.len()]);
    let (mut worst_wall, mut worst_processor) = (Duration::ZERO, Duration::ZERO);
    let began = Instant::now();
    for n in 0..keys {
        let entry = Entry(Box::new(key(n)));
        let hash = hasher::hash(entry.key());
        let processor = processor_time();
        let wall = Instant::now();
        table.insert_new(hash, entry);
        let wall = wall.elapsed();
        let processor = processor_time() - processor;
        for (i, &slow) in SLOW.iter().enumerate() {
            by_wall[i] += u64::from(wall >= slow);
            by_processor[i] += u64::from(processor >= slow);
        }
        if wall >= SLOW[2] {
            println!("at {n} keys: {wall:?}, processor {processor:?}");
        }
        worst_wall = worst_wall.max(wall);
        worst_processor = worst_processor.max(processor);
    }
    println!("{keys} keys in {:?}, {} in the table", began.elapsed(), table.len());
    for (i, slow) in SLOW.iter().enumerate() {
        println!(
            "inserts of {slow:?} or more: {} by the wall, {} of processor time",
            by_wall[i], by_processor[i]
        );
    }
    println!("worst: {worst_wall:?} by the wall, {worst_processor:?} of processor time");
}
