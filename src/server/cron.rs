//! What happens by itself, some times a second.

use super::Server;
use super::client::{Client, Kind};
use crate::{log_notice, log_warning, logger};
use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};
use varve_net::Net;

/// When what is due.
#[derive(Default)]
pub struct Cron {
    /// Unix ms of the last round.
    last_ms: i64,
    next: Option<Instant>,
    /// Where the search for idle clients goes on.
    rounds: u64,
    /// The Unix second of the last round.
    second: i64,
    /// `DEBUG SET-ACTIVE-EXPIRE 0`.
    pub no_active_expiry: bool,
}

/// Buckets that a round moves in tables that are changing size.
const REHASH_BUCKETS: usize = 2000;

/// The processor time that this thread has used.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl Server {
    fn period(&self) -> Duration {
        Duration::from_micros(1_000_000 / self.cfg.hz.clamp(1, 500) as u64)
    }

    /// When the loop must come back although nothing happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.memory.evicting || self.load_is_due() {
            return Some(self.clock.instant());
        }
        let mut next = self.cron.next.unwrap_or(self.clock.instant());
        let sooner = [self.waiters.next_limit_ms(), self.pause.as_ref().map(|p| p.until_ms)];
        for at_ms in sooner.into_iter().flatten() {
            let in_ms = (at_ms - self.clock.steady_ms()).max(0) as u64;
            next = next.min(self.clock.instant() + Duration::from_millis(in_ms));
        }
        Some(next)
    }

    /// Everything that is due.
    pub fn on_tick(&mut self, net: &mut Net<Client>) {
        self.clock.sync();
        self.ks.now_ms = self.clock.now_ms();
        self.time_out_blocked(net);
        self.evict_more(net);
        if self.pause.as_ref().is_some_and(|p| p.until_ms <= self.clock.steady_ms()) {
            self.end_pause(net);
        }
        let now = self.clock.instant();
        if self.cron.next.is_some_and(|next| now < next) {
            return;
        }
        self.cron.next = Some(now + self.period());
        self.round(net);
    }

    fn round(&mut self, net: &mut Net<Client>) {
        let now_ms = self.clock.steady_ms();
        self.cron.rounds += 1;
        self.see_peak();
        if self.loading.is_none() {
            self.expire_some(net);
        }
        if self.cfg.activerehashing && !self.snapshots.running() {
            for db in &mut self.ks.dbs {
                db.rehash_some(REHASH_BUCKETS);
            }
        }
        if self.cfg.maxmemory > 0 && self.loading.is_none() {
            self.over_memory(net, None);
            self.fail_all_watchers(net);
        }
        self.tracking_round(net);
        self.evict_clients(net);
        if now_ms - self.cron.last_ms >= 100 {
            self.rates.sample(&self.stats, &net.stats, now_ms);
            self.load_rate.sample(thread_time().as_millis() as u64, now_ms);
            self.cron.last_ms = now_ms;
        }
        let hz = self.cfg.hz.max(1) as u64;
        if self.cron.rounds.is_multiple_of(hz) {
            self.close_idle(net);
        }
        self.log.tick(self.clock.instant());
        for note in self.log.take_notes() {
            log_notice!("{note}");
        }
        self.snapshot_round(net);
        self.replication_round(net);
        self.shutdown_round(net);
        let second = self.clock.now_ms() / 1000;
        if second != self.cron.second {
            self.cron.second = second;
            logger::refresh();
            crate::service::watchdog();
        }
    }

    /// The active expiry cycle: a quarter of the time between two rounds at the usual effort.
    fn expire_some(&mut self, net: &mut Net<Client>) {
        if self.ks.held || self.cron.no_active_expiry {
            return;
        }
        let share = 25 + 2 * (self.cfg.active_expire_effort as u64 - 1);
        let budget = self.period() * share as u32 / 100;
        let started = Instant::now();
        self.ks.now_ms = self.clock.now_ms();
        let out_of_time = || started.elapsed() >= budget;
        if self.is_primary() {
            self.ks.own_expires.clear();
            self.ks.expire_cycle(out_of_time);
        } else {
            self.ks.expire_own(out_of_time);
        }
        if !self.ks.effects.is_empty() {
            self.append_effects_singly();
            self.collect_garbage();
            self.publish_events(net, None);
            self.fail_all_watchers(net);
        }
        self.stats.expire_cycle_us += started.elapsed().as_micros() as u64;
        self.latency("expire-cycle", started.elapsed().as_millis() as u64);
    }

    /// Closes clients that have been silent for longer than `timeout`: nothing of a request came, and
    /// nothing of a reply was taken.
    fn close_idle(&mut self, net: &mut Net<Client>) {
        let limit = Duration::from_secs(self.cfg.timeout as u64);
        if limit.is_zero() {
            return;
        }
        let now = Instant::now();
        let idle: Vec<u64> = net
            .iter()
            .filter(|conn| {
                let c = &conn.session;
                c.kind == Kind::Normal
                    && c.blocked.is_none()
                    && !c.in_pubsub()
                    && !c.monitor
                    && conn.silent_for(now) > limit
            })
            .map(|conn| conn.id)
            .collect();
        for id in idle {
            crate::log_verbose!("Closing idle client {id}");
            net.kill(id);
        }
    }

    /// Warns once about settings of the system that hurt under load.
    pub fn warn_about_system(&self) {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        if read("/proc/sys/vm/overcommit_memory").trim() == "0" {
            log_warning!(
                "Memory overcommit must be enabled! Without it, a background save or replication may fail under low memory condition. To fix this, set vm.overcommit_memory = 1 now with sysctl, and for good in a file like Varve's 60-varve.conf in /etc/sysctl.d."
            );
        }
        let enabled = read("/sys/kernel/mm/transparent_hugepage/enabled");
        if has_huge_pages(&enabled, &read("/proc/self/status")) {
            log_warning!(
                "Transparent huge pages are set to 'always': after a fork the first write to a page copies 2 MiB. Set them to 'madvise'."
            );
        }
    }
}

/// Whether the kernel backs this process with huge pages unasked, by what it says of the system and of the
/// process, for which `disable-thp` turns them off.
fn has_huge_pages(enabled: &str, status: &str) -> bool {
    let off = |line: &str| line.split_whitespace().eq(["THP_enabled:", "0"]);
    enabled.contains("[always]") && !status.lines().any(off)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It warned where `disable-thp` had seen to it already.
    #[test]
    fn huge_pages_that_are_off_for_the_process_are_nothing_to_warn_of() {
        let (always, asked) = ("[always] madvise never\n", "always [madvise] never\n");
        assert!(has_huge_pages(always, "Name:\tvarved\nTHP_enabled:\t1\n"));
        assert!(!has_huge_pages(always, "Name:\tvarved\nTHP_enabled:\t0\n"));
        assert!(!has_huge_pages(asked, "Name:\tvarved\nTHP_enabled:\t1\n"));
    }
}
