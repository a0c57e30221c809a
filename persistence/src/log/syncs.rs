//! When `everysec` syncs, and what it may acknowledge meanwhile.
//!
//! A power cut takes what was not synced. That it is never more than what was acknowledged within two
//! seconds, however slow the disk, needs more than a sync each second: when the oldest acknowledged
//! byte that is not on disk gets too old, nothing more is acknowledged until it is there. Redis holds
//! its writes back for the same reason.

use crate::offset::Offset;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(1);
/// The age at which replies wait. With what passes between two looks it is less than two seconds.
const HOLD: Duration = Duration::from_millis(1700);
/// A disk that syncs within this, as far as is seen between two looks, is asked for more.
const QUICK: Duration = Duration::from_millis(300);
/// A sync that is in flight for this long counts as delayed (Redis's figure).
const DELAYED: Duration = Duration::from_secs(2);

/// What is known of the syncs of one log.
pub struct Syncs {
    /// When the last one was begun.
    began: Instant,
    /// How far the log was acknowledged then: that sync has as much.
    covers: Offset,
    /// How long the last one took, once it has ended.
    took: Option<Duration>,
    looked: Instant,
    /// How far the log was synced when last looked at.
    synced: Offset,
    /// No byte that was acknowledged and is not synced is older than this.
    oldest: Option<Instant>,
    /// Up to where replies may leave while the disk catches up.
    pub held: Option<Offset>,
    /// How many syncs took long: `aof_delayed_fsync`.
    pub delayed: u64,
    delay_counted: bool,
}

impl Syncs {
    /// For a log that is synced now.
    pub fn new(now: Instant) -> Syncs {
        Syncs {
            began: now,
            covers: Offset(0),
            took: None,
            looked: now,
            synced: Offset(0),
            oldest: None,
            held: None,
            delayed: 0,
            delay_counted: false,
        }
    }

    /// Looks at how far the log is, and says whether a sync of all that is acknowledged is to begin now. To
    /// be called several times a second.
    pub fn is_due(
        &mut self,
        acknowledged: Offset,
        synced: Offset,
        syncing: bool,
        now: Instant,
    ) -> bool {
        self.bound_loss(acknowledged, synced, now);
        self.looked = now;
        let since = now.saturating_duration_since(self.began);
        if syncing {
            if since >= DELAYED && !self.delay_counted {
                self.delay_counted = true;
                self.delayed += 1;
            }
            return false;
        }
        let took = *self.took.get_or_insert(since);
        // After a slow one the next begins sooner, so that what it is for does not grow old.
        if acknowledged <= synced || since < PERIOD.saturating_sub(took) {
            return false;
        }
        (self.began, self.covers) = (now, acknowledged);
        self.took = None;
        self.delay_counted = false;
        true
    }

    /// Whether the last sync has ended, and did not take long.
    pub fn is_quick(&self) -> bool {
        self.took.is_some_and(|took| took < QUICK)
    }

    fn bound_loss(&mut self, acknowledged: Offset, synced: Offset, now: Instant) {
        let progress = synced != self.synced && synced >= self.covers;
        self.synced = synced;
        if self.held.is_some_and(|held| synced >= held) {
            self.held = None;
            self.oldest = (synced < acknowledged).then_some(now); // when it is acknowledged
        } else if acknowledged <= synced {
            self.oldest = None;
        } else if progress {
            self.oldest = Some(self.began); // that sync had all that was older
        } else {
            self.oldest.get_or_insert(self.looked);
        }
        let age =
            self.oldest.map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest));
        self.held = (age >= HOLD).then(|| self.held.unwrap_or(acknowledged));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A disk whose syncs take any time: what a power cut would take was never acknowledged over
        /// more than two seconds.
        #[test]
        fn what_can_be_lost_was_acknowledged_within_two_seconds(
            durations in prop::collection::vec(0..6000u64, 1..12),
        ) {
            let start = Instant::now();
            let mut syncs = Syncs::new(start);
            let (mut synced, mut acknowledged) = (0u64, vec![0u64]); // ms of each byte's reply
            let mut running: Option<(u64, u64)> = None;
            let mut durations = durations.into_iter().cycle();
            let mut waiting = 0;
            for ms in (0..60_000u64).step_by(10) {
                let now = start + Duration::from_millis(ms);
                let written = ms / 10 + 1; // a byte each 10 ms
                if let Some((ends, upto)) = running
                    && ms >= ends
                {
                    synced = upto;
                    running = None;
                }
                if ms % 100 == 0
                    && syncs.is_due(Offset(written), Offset(synced), running.is_some(), now)
                {
                    running = Some((ms + durations.next().unwrap(), written));
                }
                let released = syncs.held.map_or(written, |held| held.0);
                prop_assert!(released >= acknowledged.len() as u64 - 1, "a release was taken back");
                while (acknowledged.len() as u64) <= released {
                    acknowledged.push(ms);
                }
                let first_lost = acknowledged.get(synced as usize + 1).copied();
                if let (Some(first), Some(&last)) = (first_lost, acknowledged.last()) {
                    prop_assert!(last - first <= 2000, "{first} to {last} ms would be lost");
                }
                waiting = written - released;
            }
            prop_assert!(waiting <= 3000);
        }
    }

    /// Each sync that ends makes what is not on disk younger. Replies that waited for it may leave, though what
    /// was acknowledged last waits for the next.
    #[test]
    fn a_disk_that_takes_a_second_holds_no_reply_longer_than_a_sync() {
        let start = Instant::now();
        let mut syncs = Syncs::new(start);
        let (mut synced, mut running, mut held_ms, mut longest) = (0, None, 0, 0);
        for ms in (0..60_000u64).step_by(100) {
            if let Some((_, upto)) = running.take_if(|(ends, _)| ms >= *ends) {
                synced = upto;
            }
            let now = start + Duration::from_millis(ms);
            if syncs.is_due(Offset(ms + 1), Offset(synced), running.is_some(), now) {
                running = Some((ms + 1000, ms + 1));
            }
            held_ms = if syncs.held.is_some() { held_ms + 100 } else { 0 };
            longest = longest.max(held_ms);
        }
        assert!((100..1000).contains(&longest), "replies waited {longest} ms");
    }

    #[test]
    fn a_quick_disk_is_synced_each_second_and_holds_nothing() {
        let start = Instant::now();
        let mut syncs = Syncs::new(start);
        let (mut synced, mut begun, mut running) = (0, 0, false);
        for ms in (0..10_000u64).step_by(100) {
            let written = ms + 1;
            if running {
                (synced, running) = (written - 100, false);
            }
            let now = start + Duration::from_millis(ms);
            if syncs.is_due(Offset(written), Offset(synced), running, now) {
                (begun, running) = (begun + 1, true);
            }
            assert!(syncs.held.is_none());
        }
        assert!((9..=12).contains(&begun), "{begun} syncs in ten seconds");
    }
}
