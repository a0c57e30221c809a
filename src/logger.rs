//! The log of the process, in Redis's format:
//! `PID:ROLE DD Mon YYYY HH:MM:SS.mmm LEVEL message`.
//!
//! Any thread may log, and so may a child right after `fork()`, when a lock that another thread
//! held at that instant would stay held for ever. So a line takes no lock and no memory: it is
//! formatted on the stack and leaves by one `write`, and everything it needs is in atomics. Local
//! time is the difficult part, because the C library's conversion locks. [`refresh`] asks for the
//! distance to UTC once a second on the main thread, and lines only add.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::LogLevel;

/// Who writes, in a log that several processes may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
    /// A child that writes a snapshot, or the daemon before it knows what it is.
    Child,
}

impl Role {
    const fn letter(self) -> u8 {
        match self {
            Role::Primary => b'M',
            Role::Replica => b'S',
            Role::Child => b'C',
        }
    }
}

/// Longer lines are cut: as in Redis.
const LINE_MAX: usize = 1024;

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Notice as u8);
static ROLE: AtomicU8 = AtomicU8::new(Role::Child.letter());
static DESCRIPTOR: AtomicI32 = AtomicI32::new(libc::STDOUT_FILENO);
/// Local time minus UTC.
static UTC_OFFSET_SECONDS: AtomicI64 = AtomicI64::new(0);
/// Only for [`init`] and [`refresh`]; never locked to log.
static LOG_FILE: Mutex<Option<LogFile>> = Mutex::new(None);

/// The file behind the descriptor.
struct LogFile {
    path: PathBuf,
    /// Device and inode: which file it was when it was opened.
    identity: (u64, u64),
}

/// Logs to the file at `path`, which is made if need be; to standard output if `path` is empty.
pub fn init(path: &OsStr, level: LogLevel) -> io::Result<()> {
    set_level(level);
    let mut log_file = LOG_FILE.lock().unwrap_or_else(|e| e.into_inner());
    if path.is_empty() {
        DESCRIPTOR.store(libc::STDOUT_FILENO, Relaxed);
        *log_file = None;
    } else {
        let path = std::path::absolute(path)?;
        let (file, identity) = open(&path)?;
        DESCRIPTOR.store(file.into_raw_fd(), Relaxed);
        *log_file = Some(LogFile { path, identity });
    }
    drop(log_file);
    refresh();
    Ok(())
}

/// Logs lines of `level` and what is more important.
pub fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Relaxed);
}

/// Where lines go, for code that can write to a descriptor only.
pub fn descriptor() -> i32 {
    DESCRIPTOR.load(Relaxed)
}

/// Signs the lines from now on with this role.
pub fn set_role(role: Role) {
    ROLE.store(role.letter(), Relaxed);
}

/// Whether lines of `level` are logged.
pub fn enabled(level: LogLevel) -> bool {
    level as u8 >= LEVEL.load(Relaxed)
}

/// Notices that the clock changed for summer, and that the log file was moved away (then a new one
/// is made). To be called about once a second, and on SIGHUP, by the main thread.
pub fn refresh() {
    UTC_OFFSET_SECONDS.store(utc_offset(unix_time().0), Relaxed);
    let mut log_file = LOG_FILE.lock().unwrap_or_else(|e| e.into_inner());
    let Some(log_file) = log_file.as_mut() else { return };
    if std::fs::metadata(&log_file.path).is_ok_and(|m| (m.dev(), m.ino()) == log_file.identity) {
        return;
    }
    // If it cannot be made, lines go on to the old file, and the next second tries again.
    if let Ok((file, identity)) = open(&log_file.path) {
        // SAFETY: both are descriptors that this module owns. dup3 swaps the file behind the number
        // in one step, so that a thread that is writing never finds the number closed or reused.
        let swapped =
            unsafe { libc::dup3(file.as_raw_fd(), DESCRIPTOR.load(Relaxed), libc::O_CLOEXEC) };
        if swapped >= 0 {
            log_file.identity = identity;
        }
    }
}

fn open(path: &std::path::Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, (metadata.dev(), metadata.ino())))
}

/// Writes a line, whether or not its level is [`enabled`]. The macros ask first.
pub fn write(level: LogLevel, message: fmt::Arguments<'_>) {
    let (seconds, micros) = unix_time();
    let mut line = Line::new();
    line.compose(
        std::process::id(),
        ROLE.load(Relaxed),
        (seconds + UTC_OFFSET_SECONDS.load(Relaxed), micros / 1000),
        level,
        message,
    );
    let bytes = line.bytes();
    // SAFETY: the pointer and length are those of a live slice. There is nobody to tell about an
    // error: this is the log.
    unsafe { libc::write(DESCRIPTOR.load(Relaxed), bytes.as_ptr().cast(), bytes.len()) };
}

/// Seconds since 1970 in UTC, and microseconds.
fn unix_time() -> (i64, u32) {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(now) => (now.as_secs() as i64, now.subsec_micros()),
        Err(_) => (0, 0),
    }
}

/// How far local time is from UTC at this instant, in seconds.
fn utc_offset(unix_seconds: i64) -> i64 {
    // SAFETY: an all-zero `tm` is valid (its pointer may be null), and localtime_r only fills it.
    unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        let time = unix_seconds as libc::time_t;
        match libc::localtime_r(&time, &mut local).is_null() {
            true => 0,
            false => local.tm_gmtoff,
        }
    }
}

/// Year, month (1 to 12) and day of a count of days since 1970.
///
/// Counts from 1 March, so that the leap day is the last of its year, in eras of 400 years, which
/// all have the same number of days.
fn civil_date(days: i64) -> (i64, u32, u32) {
    const ERA: i64 = 146_097;
    let days = days + 719_468; // 1970-01-01 counted from 0000-03-01
    let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // from March; 153 days in five months
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month as u32, day as u32)
}

/// A line on the stack; what does not fit is cut.
struct Line {
    buffer: [u8; LINE_MAX],
    len: usize,
}

impl Line {
    fn new() -> Line {
        Line { buffer: [0; LINE_MAX], len: 0 }
    }

    /// `time` is local: seconds since 1970 and milliseconds.
    fn compose(
        &mut self,
        pid: u32,
        role: u8,
        time: (i64, u32),
        level: LogLevel,
        message: fmt::Arguments<'_>,
    ) {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let (seconds, millis) = time;
        let (year, month, day) = civil_date(seconds.div_euclid(86_400));
        let clock = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
        let month = MONTHS[month as usize - 1];
        let mark = match level {
            LogLevel::Debug => '.',
            LogLevel::Verbose => '-',
            LogLevel::Notice => '*',
            LogLevel::Warning | LogLevel::Nothing => '#',
        };
        let role = role as char;
        // Neither can fail: what does not fit is dropped.
        let _ = write!(
            self,
            "{pid}:{role} {day:02} {month} {year} \
             {hour:02}:{minute:02}:{second:02}.{millis:03} {mark} "
        );
        let _ = self.write_fmt(message);
        // One message is one line, whatever a client put into it.
        for byte in &mut self.buffer[..self.len] {
            if byte.is_ascii_control() {
                *byte = b' ';
            }
        }
        self.buffer[self.len] = b'\n';
        self.len += 1;
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LINE_MAX - 1 - self.len; // the last byte is the line's end
        let taken = text.len().min(room);
        self.buffer[self.len..self.len + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}

/// Logs if lines of this level are wanted; the arguments are not looked at otherwise.
#[macro_export]
macro_rules! log_at {
    ($level:expr, $($message:tt)+) => {
        if $crate::logger::enabled($level) {
            $crate::logger::write($level, format_args!($($message)+));
        }
    };
}

/// Logs what helps to find faults in the server itself.
#[macro_export]
macro_rules! log_debug {
    ($($message:tt)+) => { $crate::log_at!($crate::config::LogLevel::Debug, $($message)+) };
}

/// Logs what is rarely of use.
#[macro_export]
macro_rules! log_verbose {
    ($($message:tt)+) => { $crate::log_at!($crate::config::LogLevel::Verbose, $($message)+) };
}

/// Logs what an operator wants to see.
#[macro_export]
macro_rules! log_notice {
    ($($message:tt)+) => { $crate::log_at!($crate::config::LogLevel::Notice, $($message)+) };
}

/// Logs what an operator must see.
#[macro_export]
macro_rules! log_warning {
    ($($message:tt)+) => { $crate::log_at!($crate::config::LogLevel::Warning, $($message)+) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(time: (i64, u32), level: LogLevel, message: &str) -> String {
        let mut line = Line::new();
        line.compose(42, Role::Primary.letter(), time, level, format_args!("{message}"));
        String::from_utf8(line.bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_format_is_redis() {
        assert_eq!(
            composed((1_795_366_590, 371), LogLevel::Notice, "Ready"),
            "42:M 22 Nov 2026 16:56:30.371 * Ready\n"
        );
        assert_eq!(
            composed((951_782_400, 5), LogLevel::Debug, "a\r\nb"),
            "42:M 29 Feb 2000 00:00:00.005 . a  b\n"
        );
    }

    #[test]
    fn long_lines_are_cut_and_still_end() {
        let line = composed((0, 0), LogLevel::Warning, &"x".repeat(5000));
        assert_eq!(line.len(), LINE_MAX);
        assert!(line.ends_with("x\n"));
    }

    #[test]
    fn dates_follow_one_another() {
        let (mut year, mut month, mut day) = (1900, 1, 1);
        for days in -25_567..73_000 {
            assert_eq!(civil_date(days), (year, month, day), "{days}");
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    /// One test for all of this: there is one log in a process.
    #[test]
    fn lines_from_all_threads_arrive_whole_and_a_moved_file_is_made_anew() {
        let folder = std::env::temp_dir().join(format!("varve-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, moved) = (folder.join("log"), folder.join("log.1"));
        init(path.as_os_str(), LogLevel::Notice).unwrap();
        set_role(Role::Replica);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for i in 0..100 {
                        log_notice!("thread {thread} line {i} {}", "-".repeat(300));
                        log_verbose!("not wanted");
                    }
                });
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 400);
        let start = format!("{}:S ", std::process::id());
        assert!(text.lines().all(|l| l.starts_with(&start) && l.ends_with("---")));

        std::fs::rename(&path, &moved).unwrap();
        log_warning!("to the old file");
        refresh();
        log_warning!("to the new file");
        set_level(LogLevel::Nothing);
        log_warning!("to none");
        init(OsStr::new(""), LogLevel::Notice).unwrap();
        assert!(std::fs::read_to_string(&moved).unwrap().ends_with("# to the old file\n"));
        let new = std::fs::read_to_string(&path).unwrap();
        assert_eq!(new.lines().count(), 1);
        assert!(new.ends_with("# to the new file\n"), "{new}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
