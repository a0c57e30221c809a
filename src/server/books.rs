//! What the daemon keeps account of: counters, rates, the slow log, latency events.

use super::Server;
use super::client::BlockedOn;
use super::dispatch::{Call, REDACTED};
use super::registry::CommandId;
use std::collections::VecDeque;
use varve_engine::Args;
use varve_engine::command::flag;

/// Counters that `INFO stats` shows and `CONFIG RESETSTAT` clears.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub connections: u64,
    pub commands: u64,
    /// The time of all commands, ns.
    pub commands_ns: u64,
    pub rejected_connections: u64,
    pub errors: u64,
    pub auth_failures: u64,
    pub net_replication_in: u64,
    pub net_replication_out: u64,
    /// Full syncs, partial ones and refused partial ones before the last `CONFIG RESETSTAT`.
    pub syncs_before: (u64, u64, u64),
    /// The same for full syncs that were resumed.
    pub resumed_before: u64,
    /// Partial resyncs of this server as a replica.
    pub sync_continued: u64,
    pub forks: u64,
    pub last_fork_us: u64,
    pub peak_memory: u64,
    pub output_limit_disconnections: u64,
    pub query_limit_disconnections: u64,
    pub evicted_clients: u64,
    pub eviction_exceeded_us: u64,
    pub unexpected_errors: u64,
    pub dump_payload_sanitizations: u64,
    pub expire_cycle_us: u64,
    /// Values and tables that were given to the thread that frees.
    pub lazy_freed: u64,
}

/// An entry of the slow log.
pub struct Slow {
    pub id: u64,
    pub at_s: i64,
    pub us: u64,
    pub args: Vec<Vec<u8>>,
    pub peer: String,
    pub name: Vec<u8>,
}

#[derive(Default)]
pub struct SlowLog {
    pub entries: VecDeque<Slow>,
    next: u64,
}

/// Arguments that the slow log keeps.
const SLOW_ARGS: usize = 32;
/// And so many bytes of each.
const SLOW_ARG: usize = 128;

impl SlowLog {
    fn add(&mut self, mut slow: Slow, max: usize) {
        slow.id = self.next;
        self.next += 1;
        self.entries.push_front(slow);
        self.entries.truncate(max);
    }
}

/// The latest latencies of one kind of event.
#[derive(Default)]
pub struct Latency {
    /// Unix seconds and ms, oldest first.
    pub samples: VecDeque<(i64, u64)>,
    pub max_ms: u64,
}

const LATENCY_SAMPLES: usize = 160;

/// How much a counter grows in a second, over the last samples.
#[derive(Default)]
pub struct Rate {
    samples: [u64; 16],
    at: usize,
    last_value: u64,
    last_ms: i64,
}

/// What `INFO` calls instantaneous.
#[derive(Default)]
pub struct Rates {
    pub commands: Rate,
    pub net_in: Rate,
    pub net_out: Rate,
    pub replication_in: Rate,
    pub replication_out: Rate,
    pub turns: Rate,
    pub turns_us: Rate,
}

impl Rates {
    pub fn sample(&mut self, stats: &Stats, io: &varve_net::Stats, now_ms: i64) {
        for (rate, value) in [
            (&mut self.commands, stats.commands),
            (&mut self.net_in, io.bytes_in),
            (&mut self.net_out, io.bytes_out),
            (&mut self.replication_in, stats.net_replication_in),
            (&mut self.replication_out, stats.net_replication_out),
            (&mut self.turns, io.turns),
            (&mut self.turns_us, io.turns_ns / 1000),
        ] {
            rate.sample(value, now_ms);
        }
    }
}

impl Rate {
    /// Takes the value of a counter at an instant.
    pub fn sample(&mut self, value: u64, now_ms: i64) {
        let ms = now_ms - self.last_ms;
        if ms > 0 && self.last_ms != 0 {
            let delta = value.saturating_sub(self.last_value);
            self.samples[self.at] = delta * 1000 / ms as u64;
            self.at = (self.at + 1) % self.samples.len();
        }
        (self.last_value, self.last_ms) = (value, now_ms);
    }

    pub fn per_second(&self) -> u64 {
        self.samples.iter().sum::<u64>() / self.samples.len() as u64
    }

    /// As the last sample alone has it.
    pub fn last(&self) -> u64 {
        self.samples[self.at.wrapping_sub(1) % self.samples.len()]
    }
}

impl Server {
    /// Full syncs, partial ones, and partial ones that were refused.
    pub fn sync_counts(&self) -> (u64, u64, u64) {
        let (now, before) = (self.repl.primary.sync_counts(), self.stats.syncs_before);
        (now.0 - before.0, now.1 - before.1, now.2 - before.2)
    }

    /// Enters a command that ran for `spent_ns` in the books.
    pub fn account(&mut self, call: &Call<'_>, id: CommandId, args: &Args<'_>, spent_ns: u64) {
        self.count_call(id, spent_ns);
        let us = spent_ns / 1000;
        if self.is_slow(us) {
            self.slow(call, id, args, us);
        }
        let threshold = self.cfg.latency_monitor_threshold;
        if threshold > 0 && us / 1000 >= threshold as u64 {
            let fast = self.commands.get(id).spec.has(flag::FAST);
            self.latency(if fast { "fast-command" } else { "command" }, us / 1000);
        }
    }

    #[inline]
    fn is_slow(&self, us: u64) -> bool {
        let slower_than = self.cfg.slowlog_log_slower_than;
        slower_than >= 0 && us >= slower_than as u64
    }

    /// Shows a command that waited in the slow log, once it was served.
    pub fn served(&mut self, call: &Call<'_>, id: CommandId, args: &Args<'_>, spent_ns: u64) {
        if self.is_slow(spent_ns / 1000) {
            self.slow(call, id, args, spent_ns / 1000);
        }
    }

    pub fn count_call(&mut self, id: CommandId, spent_ns: u64) {
        let histogram = self.cfg.latency_tracking;
        let counters = self.commands.counters(id);
        counters.calls += 1;
        counters.ns += spent_ns;
        self.stats.commands_ns += spent_ns;
        if histogram {
            counters.timed(spent_ns);
        }
    }

    #[cold]
    fn slow(&mut self, call: &Call<'_>, id: CommandId, args: &Args<'_>, us: u64) {
        // One that waits for a key is shown when it is served, one that waits for replicas never.
        let waits = (call.client.blocked.as_ref())
            .is_some_and(|blocked| !matches!(blocked.on, BlockedOn::Migration));
        if self.commands.get(id).spec.has(flag::SKIP_SLOWLOG) || waits {
            return;
        }
        let shown = if args.len() > SLOW_ARGS { SLOW_ARGS - 1 } else { args.len() };
        let mut kept: Vec<Vec<u8>> = Vec::with_capacity(SLOW_ARGS);
        for i in 0..shown {
            let arg = shown_arg(call, args, i);
            let (head, rest) = arg.split_at(arg.len().min(SLOW_ARG));
            let mut arg = head.to_vec();
            if !rest.is_empty() {
                arg.extend(format!("... ({} more bytes)", rest.len()).bytes());
            }
            kept.push(arg);
        }
        if shown < args.len() {
            kept.push(format!("... ({} more arguments)", args.len() - shown).into_bytes());
        }
        let slow = Slow {
            id: 0,
            at_s: self.clock.now_ms() / 1000,
            us,
            args: kept,
            peer: call.client.peer.clone(),
            name: call.client.name.clone(),
        };
        self.slowlog.add(slow, self.cfg.slowlog_max_len as usize);
    }

    /// Notes that an event took long: `LATENCY`.
    pub fn latency(&mut self, event: &'static str, ms: u64) {
        let threshold = self.cfg.latency_monitor_threshold;
        if threshold <= 0 || ms < threshold as u64 {
            return;
        }
        let now = self.clock.now_ms() / 1000;
        let latency = self.latencies.entry(event).or_default();
        latency.max_ms = latency.max_ms.max(ms);
        match latency.samples.back_mut() {
            // One sample a second: the worst of it.
            Some((at, worst)) if *at == now => *worst = (*worst).max(ms),
            _ => latency.samples.push_back((now, ms)),
        }
        if latency.samples.len() > LATENCY_SAMPLES {
            latency.samples.pop_front();
        }
    }

    /// Shows a command to the monitors after it ran, with the database that it left selected: a
    /// transaction's `EXEC` comes behind its commands.
    #[cold]
    pub fn feed_monitors(&mut self, call: &mut Call<'_>, shown: &Args<'_>) {
        let us = self.clock.now_us();
        let (seconds, micros) = (us / 1_000_000, us % 1_000_000);
        let (db, peer) = (call.client.db, &call.client.peer);
        let mut line = format!("+{seconds}.{micros:06} [{db} {peer}]").into_bytes();
        for i in 0..shown.len() {
            line.extend_from_slice(b" \"");
            escape(shown_arg(call, shown, i), &mut line);
            line.push(b'"');
        }
        line.extend_from_slice(b"\r\n");
        for &id in &self.monitors {
            if id == call.id {
                call.reply.raw(&line);
            } else if let Some(conn) = call.net.conn_mut(id) {
                conn.output.raw(&line);
                call.net.mark_dirty(id);
            }
        }
    }
}

/// An argument as `MONITOR` and the slow log show it.
fn shown_arg<'a>(call: &Call<'_>, args: &'a Args<'_>, i: usize) -> &'a [u8] {
    match i {
        _ if call.secrets.contains(&i) => REDACTED,
        0 => args.said(),
        _ => &args[i],
    }
}

/// Bytes as they stand between quotes.
pub fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &b in bytes {
        match b {
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            7 => out.extend_from_slice(b"\\a"),
            8 => out.extend_from_slice(b"\\b"),
            b' '..=b'~' => out.push(b),
            _ => out.extend_from_slice(format!("\\x{b:02x}").as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_knows_the_last_sample_and_the_mean_of_all() {
        let mut rate = Rate::default();
        assert_eq!((rate.last(), rate.per_second()), (0, 0));
        rate.sample(7000, 100);
        assert_eq!(rate.last(), 0, "the first value has no time that it grew in");
        rate.sample(7080, 200);
        assert_eq!((rate.last(), rate.per_second()), (800, 50));
        rate.sample(7090, 400);
        assert_eq!((rate.last(), rate.per_second()), (50, 53));
        rate.sample(5, 500);
        assert_eq!(rate.last(), 0, "a counter that was reset");
        for i in 1..=40 {
            rate.sample(i * 100, 1000 + i as i64 * 1000);
        }
        assert_eq!((rate.last(), rate.per_second()), (100, 100));
    }
}
