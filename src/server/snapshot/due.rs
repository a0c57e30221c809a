//! When a snapshot is made: commands that ask for one now or when the present child is done, save
//! points, and a log that has grown. One child works at a time.

use super::Purpose;
use crate::server::Server;
use crate::server::client::Client;
use crate::{log_notice, log_warning};
use varve_engine::Error;
use varve_net::Net;
use varve_persistence::offset::Offset;

/// How often the time of a rewrite must pass before the log's size alone begins the next: a child
/// shares the processor's time and has the loop copy pages, and so takes a tenth of the time at most...
pub(super) const REST: u32 = 9;
/// ... and the loop must just have worked for less than so many ms of a second: a rewrite under full
/// load takes up to a quarter of the throughput while it runs...
const CALM_MS: u64 = 500;
/// ... unless the log is so many times as large as what calls for a rewrite.
const MOST_GROWTH: u128 = 4;
/// Between two attempts, after a failure, at a save point, or at a base that a failed sync calls for
/// or that the log on disk is to begin with.
const RETRY_MS: i64 = 5_000;
/// The same for any other rewrite.
const REWRITE_RETRY_MS: i64 = 60_000;

impl Server {
    /// Changes since the last save.
    pub fn unsaved_changes(&self) -> u64 {
        self.ks.dirty.saturating_sub(self.snapshots.dirty_saved)
    }

    /// `BGSAVE`.
    pub fn bgsave(&mut self, net: &mut Net<Client>, schedule: bool) -> Result<&'static str, Error> {
        self.abandon_empty_save(net);
        if self.snapshots.running_for(&Purpose::Save) {
            return Err(Error::new("ERR Background save already in progress"));
        }
        if self.snapshots.running() || self.in_exec.is_some() {
            if schedule || self.in_exec.is_some() {
                self.snapshots.save_scheduled = true;
                return Ok("Background saving scheduled");
            }
            return Err(Error::new(
                "ERR Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to schedule a BGSAVE whenever possible.",
            ));
        }
        self.snapshots.tried_at_ms = self.clock.steady_ms();
        self.snapshots.saves += 1;
        let started = self.start_child(net, Purpose::Save);
        self.snapshots.last_ok &= started.is_ok();
        started.map(|_| "Background saving started")
    }

    /// All data were given up: without a log on disk, the last snapshot would bring them back after a
    /// crash, and so would one that is being made.
    pub fn forget_snapshots(&mut self, net: &mut Net<Client>) {
        if self.log.is_on_disk() {
            return;
        }
        self.abandon_child(net, &Purpose::Save);
        if !self.cfg.save.is_empty()
            && let Err(why) = self.bgsave(net, true)
        {
            log_warning!("The snapshot after FLUSHALL could not begin: {why}");
        }
    }

    /// The snapshot that `FLUSHALL` began, of which no client knows, stands in no client's way.
    pub fn abandon_empty_save(&mut self, net: &mut Net<Client>) {
        if self.snapshots.running.as_ref().is_some_and(|running| running.progress.total == Some(0))
        {
            self.abandon_child(net, &Purpose::Save);
        }
    }

    /// `BGREWRITEAOF`: a new base for the log.
    pub fn bgrewriteaof(&mut self, net: &mut Net<Client>) -> Result<&'static str, Error> {
        if self.is_rewriting() {
            return Err(Error::new(
                "ERR Background append only file rewriting already in progress",
            ));
        }
        if self.snapshots.running() || self.in_exec.is_some() {
            self.snapshots.rewrite_scheduled = true;
            return Ok("Background append only file rewriting scheduled");
        }
        if self.disk_is_due() {
            return self.begin_disk(net).map(|_| "Background append only file rewriting started");
        }
        if !self.log.is_on_disk() {
            // Without a log on disk there is nothing to shorten: a snapshot is what was asked for.
            return self.bgsave(net, true).map(|_| "Background append only file rewriting started");
        }
        self.start_rewrite(net).map(|_| "Background append only file rewriting started")
    }

    pub fn start_rewrite(&mut self, net: &mut Net<Client>) -> Result<Offset, Error> {
        self.snapshots.rewrites += 1;
        self.start_child(net, Purpose::Rewrite).inspect_err(|_| self.rewrite_failed())
    }

    /// The log has no new base: nothing but a command begins the next attempt at once.
    pub fn rewrite_failed(&mut self) {
        self.snapshots.rewrite_failures += 1;
        self.snapshots.rewrite_failed_at_ms = self.clock.steady_ms();
    }

    /// Whether the last rewrite that failed is long enough ago, for how much the next is needed by now.
    fn may_rewrite(&self) -> bool {
        let is_needed = self.log.needs_base() || self.disk_is_due();
        let wait_ms = if is_needed { RETRY_MS } else { REWRITE_RETRY_MS };
        self.clock.steady_ms() >= self.snapshots.rewrite_failed_at_ms + wait_ms
    }

    /// Whether the log is to be on disk and is not yet.
    pub fn disk_is_due(&self) -> bool {
        self.cfg.appendonly && !self.log.is_on_disk() && self.loading.is_none()
    }

    /// Starts what is due: scheduled saves and rewrites, save points, a log grown too large.
    pub fn snapshot_round(&mut self, net: &mut Net<Client>) {
        self.reap(net);
        if self.snapshots.running() {
            self.tell_progress();
            return;
        }
        if self.loading.is_some() || self.in_exec.is_some() {
            return;
        }
        let now_ms = self.clock.steady_ms();
        if std::mem::take(&mut self.snapshots.rewrite_scheduled) {
            let _ = self.bgrewriteaof(net);
            return;
        }
        // A replica that could not keep what it had, and waits for all of it, has more on disk.
        let holds_nothing = !self.is_primary() && self.log.end() == Offset::ZERO;
        if self.disk_is_due() && !holds_nothing && self.may_rewrite() {
            let _ = self.begin_disk(net);
            return;
        }
        let retry = self.snapshots.last_ok || now_ms - self.snapshots.tried_at_ms >= RETRY_MS;
        let changes = self.unsaved_changes();
        let since_ms = now_ms - self.snapshots.saved_at_ms;
        let due =
            self.cfg.save.iter().find(|p| {
                changes >= p.changes && since_ms > (p.seconds as i64).saturating_mul(1000)
            });
        if let Some(point) = due
            && retry
        {
            log_notice!("{} changes in {} seconds. Saving...", point.changes, point.seconds);
            let _ = self.bgsave(net, false);
            return;
        }
        if self.snapshots.save_scheduled && retry {
            self.snapshots.save_scheduled = false;
            let _ = self.bgsave(net, false);
            return;
        }
        let stats = self.log.stats();
        let stays = self.cfg.appendonly && self.log.is_on_disk();
        let may_rewrite = stays && !self.snapshots.installing && self.may_rewrite();
        if may_rewrite && self.log.needs_base() && self.has_rested() {
            log_notice!("Starting automatic rewriting of AOF after a sync that failed");
            let _ = self.bgrewriteaof(net);
        } else if may_rewrite && self.rewrite_is_due(stats.base_bytes, stats.current_bytes) {
            let growth = (stats.current_bytes * 100 / stats.base_bytes.max(1)).saturating_sub(100);
            log_notice!("Starting automatic rewriting of AOF on {growth}% growth");
            let _ = self.bgrewriteaof(net);
        }
    }

    fn has_rested(&self) -> bool {
        self.clock.steady_ms() >= self.snapshots.rests_until_ms
    }

    fn rewrite_is_due(&self, base: u64, current: u64) -> bool {
        let percent = self.cfg.auto_aof_rewrite_percentage as u64;
        let calm = self.has_rested() && self.load_rate.last() < CALM_MS;
        is_too_large(base, current, percent, self.cfg.auto_aof_rewrite_min_size, calm)
    }
}

/// Whether a log of `current` bytes is to be rewritten, that was `base` bytes after the last time.
/// `calm` is whether [`REST`] is over and the loop has time.
fn is_too_large(base: u64, current: u64, percent: u64, min_size: u64, calm: bool) -> bool {
    let [base, current, percent, min_size] = [base, current, percent, min_size].map(u128::from);
    let called_for = (base * (100 + percent) / 100).max(min_size);
    let most = if calm { called_for } else { called_for * MOST_GROWTH };
    percent > 0 && current > most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_rewritten_when_it_has_grown_and_the_last_time_is_some_way_back() {
        let due = |base, current, calm| is_too_large(base, current, 100, 64, calm);
        assert!(!due(10, 64, true) && due(10, 65, true));
        assert!(!due(100, 200, true) && due(100, 201, true));
        assert!(!due(10, 256, false) && due(10, 257, false));
        assert!(!due(100, 800, false) && due(100, 801, false));
        assert!(!is_too_large(10, u64::MAX, 0, 64, true));
        assert!(!is_too_large(u64::MAX / 2, u64::MAX, 1000, 64, false));
    }
}
