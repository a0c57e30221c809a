//! How far long work is: loads, saves, rewrites and full syncs, for `INFO` and the log file.

use crate::{log_notice, service};
use std::fmt;
use std::time::{Duration, Instant};

/// How often the log file is told.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// The first report comes after less, so that work of a second shows up.
const FIRST_REPORT: Duration = Duration::from_millis(100);

/// What is counted.
#[derive(Clone, Copy)]
pub enum Unit {
    Bytes,
    Keys,
}

/// Work that began at some time and is so far done.
pub struct Progress {
    pub done: u64,
    /// How much there is in all; a stream does not tell.
    pub total: Option<u64>,
    /// What was done before, and says nothing of how fast this is.
    before: u64,
    unit: Unit,
    started: Instant,
    reported: Instant,
}

impl Progress {
    /// Of work that begins now.
    pub fn new(unit: Unit, total: Option<u64>) -> Progress {
        Progress::resumed(unit, total, 0)
    }

    /// Of work that goes on now, when so much of it is done already.
    pub fn resumed(unit: Unit, total: Option<u64>, done: u64) -> Progress {
        let started = Instant::now();
        let reported = started.checked_sub(REPORT_EVERY - FIRST_REPORT).unwrap_or(started);
        Progress { done, total, before: done, unit, started, reported }
    }

    /// How much there is in all, 0 if that is not known.
    pub fn size(&self) -> u64 {
        self.total.unwrap_or(0)
    }

    /// What is done, of a hundred; 0 while the size is not known.
    pub fn percent(&self) -> f64 {
        self.done as f64 * 100.0 / self.size().max(1) as f64 * f64::from(self.total.is_some())
    }

    /// Bytes or keys a second so far.
    pub fn per_second(&self) -> u64 {
        ((self.done - self.before) as f64 / self.started.elapsed().as_secs_f64().max(0.001)) as u64
    }

    /// Seconds that are left at this rate; -1 while nobody can know.
    pub fn left_s(&self) -> i64 {
        match self.total {
            Some(total) if self.done > 0 => {
                (total.saturating_sub(self.done) / self.per_second().max(1)) as i64
            }
            _ => -1,
        }
    }

    /// Tells the log file and the service manager how far `what` is, if it is time again. Whether it was.
    pub fn report(&mut self, what: &str) -> bool {
        let due = self.is_report_due();
        if due {
            let text = format!("{what} {self}");
            log_notice!("{text}");
            service::status(&text);
        }
        due
    }

    /// Whether the log file is to be told again.
    pub fn is_report_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now - self.reported >= REPORT_EVERY;
        if due {
            self.reported = now;
        }
        due
    }
}

/// `43.0% of 159 MB, 120 MB/s, about 1 s left`, as far as it is known.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = match self.unit {
            Unit::Bytes => ("MB", 1 << 20),
            Unit::Keys => ("keys", 1),
        };
        match self.total {
            Some(total) => write!(f, "{:.1}% of {} {unit}", self.percent(), total / scale)?,
            None => write!(f, "{} {unit}", self.done / scale)?,
        }
        write!(f, ", {} {unit}/s", self.per_second() / scale)?;
        match self.left_s() {
            -1 => Ok(()),
            seconds => write!(f, ", about {seconds} s left"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_said() {
        let mut stream = Progress::new(Unit::Bytes, None);
        stream.done = 5 << 20;
        assert_eq!((stream.percent(), stream.left_s()), (0.0, -1));
        assert!(stream.to_string().starts_with("5 MB, ") && !stream.to_string().contains("left"));

        let mut keys = Progress::new(Unit::Keys, Some(200));
        assert_eq!(keys.left_s(), -1);
        keys.done = 50;
        keys.started -= Duration::from_secs(10);
        assert_eq!((keys.percent(), keys.per_second(), keys.left_s()), (25.0, 4, 37));
        assert_eq!(keys.to_string(), "25.0% of 200 keys, 4 keys/s, about 37 s left");
        assert!(Progress::new(Unit::Keys, Some(0)).percent() == 0.0);
    }

    #[test]
    fn the_rate_is_of_what_is_done_now() {
        let mut progress = Progress::resumed(Unit::Keys, Some(200), 100);
        progress.done = 150;
        progress.started -= Duration::from_secs(10);
        assert_eq!((progress.percent(), progress.per_second(), progress.left_s()), (75.0, 4, 12));
    }

    #[test]
    fn reports_come_about_once_a_second() {
        let mut progress = Progress::new(Unit::Keys, Some(1));
        assert!(!progress.is_report_due());
        progress.reported -= REPORT_EVERY;
        assert!(progress.is_report_due() && !progress.is_report_due());
    }
}
