//! The time of day and of the machine, read once where several need it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads the monotonic clock once a command and derives the wall clock from it: a command sees one
/// instant, and a batch of commands costs one clock read each.
pub struct Clock {
    origin: Instant,
    /// Nanoseconds since `origin`, as last read.
    ns: u64,
    /// Wall clock at `origin`, Unix ns; corrected every turn.
    wall_at_origin_ns: i64,
}

/// In 64 bits, which reach to the year 2262: this is asked for every command, and a division of 128
/// bits would cost more than the clock itself.
fn nanoseconds(d: Duration) -> u64 {
    d.as_secs() * 1_000_000_000 + d.subsec_nanos() as u64
}

impl Default for Clock {
    fn default() -> Clock {
        let mut clock = Clock { origin: Instant::now(), ns: 0, wall_at_origin_ns: 0 };
        clock.sync();
        clock
    }
}

impl Clock {
    /// Reads both clocks, so that a change of the system's time is followed.
    pub fn sync(&mut self) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds);
        self.ns = nanoseconds(self.origin.elapsed());
        self.wall_at_origin_ns = wall as i64 - self.ns as i64;
    }

    /// Reads the monotonic clock; nanoseconds since the start.
    pub fn tick_ns(&mut self) -> u64 {
        self.ns = nanoseconds(self.origin.elapsed());
        self.ns
    }

    /// Nanoseconds since the start, as last read.
    pub fn now_ns(&self) -> u64 {
        self.ns
    }

    /// Unix ms, as last read.
    pub fn now_ms(&self) -> i64 {
        (self.wall_at_origin_ns + self.ns as i64) / 1_000_000
    }

    /// Unix µs, as last read.
    pub fn now_us(&self) -> i64 {
        (self.wall_at_origin_ns + self.ns as i64) / 1_000
    }

    /// The wall clock read now, whatever was read before.
    pub fn fresh_us(&mut self) -> i64 {
        self.sync();
        self.now_us()
    }

    pub fn instant(&self) -> Instant {
        self.origin + Duration::from_nanos(self.ns)
    }
}
