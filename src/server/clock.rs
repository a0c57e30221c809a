//! The time of day and of the machine, read once where several need it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads the monotonic clock once a command and derives the wall clock from it: a command sees one
/// instant, and a batch of commands costs one clock read each. Between two calls of
/// [`Clock::sync`] that is the processor's cycle counter, where it has one that can be relied on.
pub struct Clock {
    cycles: quanta::Clock,
    /// The cycle counter, and nanoseconds since `origin`, at the last sync.
    synced: (u64, u64),
    origin: Instant,
    /// Nanoseconds since `origin`, as last read.
    ns: u64,
    /// Wall clock at `origin`, Unix ns; corrected at every sync.
    wall_at_origin_ns: i64,
    /// Wall clock at `origin` as it was read at the start, Unix ms.
    started_ms: i64,
    /// Unix ms at `ns`.
    ms: i64,
}

/// In 64 bits, which reach to the year 2262.
fn nanoseconds(d: Duration) -> u64 {
    d.as_secs() * 1_000_000_000 + d.subsec_nanos() as u64
}

impl Default for Clock {
    fn default() -> Clock {
        let mut clock = Clock {
            cycles: quanta::Clock::new(),
            synced: (0, 0),
            origin: Instant::now(),
            ns: 0,
            wall_at_origin_ns: 0,
            started_ms: 0,
            ms: 0,
        };
        clock.sync();
        clock.started_ms = clock.wall_at_origin_ns / 1_000_000;
        clock
    }
}

impl Clock {
    /// Reads the system's clocks, so that a change of its time is followed, and that the cycle
    /// counter's error does not add up.
    pub fn sync(&mut self) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds);
        let ns = nanoseconds(self.origin.elapsed());
        self.synced = (self.cycles.raw(), ns);
        self.wall_at_origin_ns = wall as i64 - ns as i64;
        self.advance(ns);
    }

    /// Reads the monotonic clock; nanoseconds since the start.
    pub fn tick_ns(&mut self) -> u64 {
        let (cycles, ns) = self.synced;
        self.advance(ns + self.cycles.delta_as_nanos(cycles, self.cycles.raw()));
        self.ns
    }

    fn advance(&mut self, ns: u64) {
        self.ns = self.ns.max(ns);
        self.ms = (self.wall_at_origin_ns + self.ns as i64) / 1_000_000;
    }

    /// Nanoseconds since the start, as last read.
    pub fn now_ns(&self) -> u64 {
        self.ns
    }

    /// Unix ms, as last read.
    pub fn now_ms(&self) -> i64 {
        self.ms
    }

    /// What every timeout is measured by, as last read: Unix ms at the start and the time that has
    /// passed since. Setting the machine's clock does not move it.
    pub fn steady_ms(&self) -> i64 {
        self.started_ms + (self.ns / 1_000_000) as i64
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
