//! I/O threads: helpers that read, parse and write connections, while commands stay on the loop's
//! thread.
//!
//! A connection is handed over whole, as its `Box`, through a queue, and comes back the same way;
//! nothing is shared and nothing is locked. [`Pool::run`] hands out a batch, works on it too, and
//! returns when all of it is back. So no connection is ever away while a service callback runs,
//! and whatever a callback does (look at any connection, kill it, `fork()`) it does while the
//! helpers hold nothing.
//!
//! Connections travel in chunks: one queue operation serves several, and a batch has more chunks
//! than there are threads, so that one with large values does not make the others wait.
//!
//! A thread that runs out of work spins for some microseconds, as the other half of the turn is
//! near, then sleeps. Where there are more threads than processors it sleeps at once: spinning
//! would take the time from the one that is waited for.

use crate::conn::Conn;
use crate::net::Stats;
use crossbeam::queue::ArrayQueue;
use crossbeam::sync::{Parker, Unparker};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// The most connections of one batch: each that is read needs a buffer at the same time.
pub(crate) const BATCH: usize = 256;
/// The most connections of a chunk.
const CHUNK: usize = 16;
/// Chunks for each thread in a batch.
const SHARE: usize = 4;
/// With fewer connections for each thread, waking it costs more than it takes off.
const WORTH: usize = 2;
/// Looks at an empty queue before a thread goes to sleep.
const SPINS: u32 = 1000;

/// What is to be done with every connection of a batch.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// Read once and parse; the time is that of the turn.
    Read(Instant),
    /// Write what may be sent; the time is that of the turn.
    Write(Instant),
}

struct Chunk<S> {
    work: Work,
    conns: Vec<Box<Conn<S>>>,
    stats: Stats,
}

impl<S> Chunk<S> {
    fn carry_out(&mut self) {
        for conn in &mut self.conns {
            match self.work {
                Work::Read(now) => conn.receive(now, &mut self.stats),
                Work::Write(now) => conn.transmit(now, &mut self.stats),
            }
        }
    }
}

/// What the loop and the helpers share.
struct Shared<S> {
    todo: ArrayQueue<Chunk<S>>,
    done: ArrayQueue<Chunk<S>>,
    stop: AtomicBool,
    spins: u32,
    /// Wakes the loop.
    owner: Unparker,
}

/// The helpers, and the batch that they are given.
pub(crate) struct Pool<S> {
    /// What [`Pool::run`] works on. All of it is there again afterwards, in some other order.
    pub batch: Vec<Box<Conn<S>>>,
    shared: Arc<Shared<S>>,
    helpers: Vec<(JoinHandle<()>, Unparker)>,
    parker: Parker,
    /// Emptied vectors of chunks, to be filled again.
    spare: Vec<Vec<Box<Conn<S>>>>,
}

impl<S> Pool<S> {
    /// Starts `helpers` threads.
    pub fn start(helpers: usize) -> io::Result<Pool<S>>
    where
        S: Send + 'static,
    {
        let parker = Parker::new();
        let chunks = ((helpers + 1) * SHARE).max(BATCH / CHUNK);
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            todo: ArrayQueue::new(chunks),
            done: ArrayQueue::new(chunks),
            stop: AtomicBool::new(false),
            spins: if helpers < processors { SPINS } else { 0 },
            owner: parker.unparker().clone(),
        });
        let mut pool = Pool {
            batch: Vec::with_capacity(BATCH),
            shared,
            helpers: Vec::with_capacity(helpers),
            parker,
            spare: Vec::with_capacity(chunks),
        };
        for i in 1..=helpers {
            let parker = Parker::new();
            let unparker = parker.unparker().clone();
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("varve-io-{i}"));
            pool.helpers.push((thread.spawn(move || help(&shared, &parker))?, unparker));
        }
        Ok(pool)
    }

    /// The threads that work, the loop's own included.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// How many connections a batch must have to be worth it.
    pub fn worth(&self) -> usize {
        self.threads() * WORTH
    }

    /// Does `work` with all of the batch. With `help`, this thread does its part.
    pub fn run(&mut self, work: Work, help: bool, stats: &mut Stats) {
        match work {
            Work::Read(_) => stats.threaded_reads += self.batch.len() as u64,
            Work::Write(_) => stats.threaded_writes += self.batch.len() as u64,
        }
        assert!(self.batch.len() <= BATCH);
        let len = self.batch.len().div_ceil(self.threads() * SHARE).clamp(1, CHUNK);
        let mut away = 0;
        while !self.batch.is_empty() {
            let mut conns = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK));
            conns.extend(self.batch.drain(self.batch.len().saturating_sub(len)..));
            let pushed = self.shared.todo.push(Chunk { work, conns, stats: Stats::default() });
            assert!(pushed.is_ok(), "the queue has room for the chunks of a full batch");
            away += 1;
        }
        for (_, unparker) in self.helpers.iter().take(away) {
            unparker.unpark();
        }
        while help && let Some(mut chunk) = self.shared.todo.pop() {
            chunk.carry_out();
            self.take_back(chunk, stats);
            away -= 1;
        }
        let mut spins = self.shared.spins;
        while away > 0 {
            match self.shared.done.pop() {
                Some(chunk) => {
                    self.take_back(chunk, stats);
                    away -= 1;
                }
                None if spins > 0 => {
                    spins -= 1;
                    std::hint::spin_loop();
                }
                None => self.parker.park(),
            }
        }
    }

    fn take_back(&mut self, mut chunk: Chunk<S>, stats: &mut Stats) {
        self.batch.append(&mut chunk.conns);
        self.spare.push(chunk.conns);
        stats.add(&chunk.stats);
    }
}

impl<S> Drop for Pool<S> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for (thread, unparker) in self.helpers.drain(..) {
            unparker.unpark();
            // A helper that panicked has ended the process.
            let _ = thread.join();
        }
    }
}

/// A helper's life.
fn help<S>(shared: &Shared<S>, parker: &Parker) {
    let _guard = AbortOnPanic;
    let mut spins = 0;
    loop {
        if let Some(mut chunk) = shared.todo.pop() {
            chunk.carry_out();
            let pushed = shared.done.push(chunk);
            assert!(pushed.is_ok(), "the queue has room for the chunks of a full batch");
            shared.owner.unpark();
            spins = shared.spins;
        } else if shared.stop.load(Ordering::Acquire) {
            return;
        } else if spins > 0 {
            spins -= 1;
            std::hint::spin_loop();
        } else {
            // A wake-up that comes between the look at the queue and this is not lost.
            parker.park();
        }
    }
}

/// Without the connections that a helper held, the loop would wait for ever.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
