//! `crash-log-enabled`: a process that ends by its own fault says where in its log.
//!
//! A panic is reported by a hook, with a backtrace of names. A signal like SIGSEGV can come anywhere,
//! also while a lock is held, so its handler only formats on the stack (as [`crate::logger`] does)
//! and has the C library print addresses; `addr2line -e varved` makes names of them. Then the
//! process ends as it would have without: a core dump and a supervisor's view of it stay the same.

use crate::config::LogLevel;
use crate::logger;
use std::backtrace::Backtrace;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// The signals that mean a fault.
const SIGNALS: [libc::c_int; 5] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT];
/// Stack for the handler: the fault may be that the thread's own is used up.
const STACK: usize = 64 << 10;
const FRAMES: usize = 64;

static ENABLED: AtomicBool = AtomicBool::new(false);
/// Set by the first report: a panic ends in SIGABRT, and one report is enough.
static REPORTED: AtomicBool = AtomicBool::new(false);
/// The process that the hook was set for: its forked children may not allocate.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Turns reports on or off: `CONFIG SET crash-log-enabled`.
pub fn set_enabled(on: bool) {
    ENABLED.store(on, Relaxed);
}

/// Sets the hook and the handlers, once, for the process as it is after going to the background.
pub fn install() {
    PROCESS.store(std::process::id(), Relaxed);
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !ENABLED.load(Relaxed) {
            return otherwise(info);
        }
        REPORTED.store(true, Relaxed);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        say(format_args!("=== Varve {} crashed: thread '{thread}' {info}", crate::VERSION));
        if PROCESS.load(Relaxed) == std::process::id() {
            for line in Backtrace::force_capture().to_string().lines() {
                say(format_args!("{line}"));
            }
        }
        say(format_args!("=== End of the crash report"));
    }));
    // SAFETY: the stack is leaked, so it is there whenever a signal comes; the handler does only
    // what is allowed in one.
    unsafe {
        let stack = Vec::leak(vec![0u8; STACK]);
        let stack =
            libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
        libc::sigaltstack(&stack, std::ptr::null_mut());
        // The first call loads a library; a handler must not.
        let mut frame = [std::ptr::null_mut(); 1];
        libc::backtrace(frame.as_mut_ptr(), 1);
        for signal in SIGNALS {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// A line of the report, which no log level hides.
fn say(text: std::fmt::Arguments<'_>) {
    logger::write(LogLevel::Warning, text);
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if ENABLED.load(Relaxed) && !REPORTED.swap(true, Relaxed) {
        // SAFETY: the kernel hands over a valid description; which fields of it count depends on the
        // code, and reading the others reads initialised memory.
        let (code, address, pid, uid) = unsafe {
            ((*info).si_code, (*info).si_addr() as usize, (*info).si_pid(), (*info).si_uid())
        };
        let version = crate::VERSION;
        say(format_args!("=== Varve {version} crashed by signal: {signal}, si_code: {code}"));
        match code > 0 {
            true => say(format_args!("Accessing address: {address:#x}")),
            false => say(format_args!("Sent by process {pid} of user {uid}")),
        }
        if signal == libc::SIGBUS && code > 0 {
            say_what_is_mapped(address);
        }
        let mut frames = [std::ptr::null_mut(); FRAMES];
        // SAFETY: the array is as long as said; both calls work without locks or memory after the
        // first of them, which was made at start.
        unsafe {
            let n = libc::backtrace(frames.as_mut_ptr(), FRAMES as libc::c_int);
            libc::backtrace_symbols_fd(frames.as_ptr(), n, logger::descriptor());
        }
        say(format_args!("=== End of the crash report"));
    }
    // SAFETY: the default action is in place again (SA_RESETHAND), and ends the process as soon as
    // this handler returns.
    unsafe { libc::raise(signal) };
}

/// Names the file that is mapped at `address`, and the byte of it that is there: it could not be read.
fn say_what_is_mapped(address: usize) {
    let mut line = [0u8; 4096 + 128];
    let mut len = 0;
    // SAFETY: the path is a C string, the buffer is as long as said, and the descriptor is closed.
    unsafe {
        let maps = libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        while maps >= 0
            && len < line.len()
            && libc::read(maps, line[len..].as_mut_ptr().cast(), 1) == 1
        {
            len += 1;
            if line[len - 1] == b'\n' {
                if let Some((path, byte)) = mapped_at(&line[..len - 1], address) {
                    say(format_args!(
                        "Reading {path} at byte {byte}: the disk failed, or another program has cut the file"
                    ));
                    break;
                }
                len = 0;
            }
        }
        libc::close(maps);
    }
}

/// The file and the byte of it that a line of `/proc/self/maps` has at `address`.
fn mapped_at(line: &[u8], address: usize) -> Option<(&str, usize)> {
    let line = std::str::from_utf8(line).ok()?;
    let number = |digits| usize::from_str_radix(digits, 16).ok();
    let (start, rest) = line.split_once('-')?;
    let (end, rest) = rest.split_once(' ')?;
    let (start, end) = (number(start)?, number(end)?);
    let offset = number(rest.split(' ').nth(1)?)?;
    let path = &rest[rest.find('/')?..];
    (start..end).contains(&address).then(|| (path, offset + (address - start)))
}

#[cfg(test)]
mod tests {
    use super::mapped_at;

    #[test]
    fn a_line_of_maps_tells_the_byte() {
        let line = b"7f10-8000 r--s 00001000 fe:00 1234                 /data/dump (1).rdb";
        assert_eq!(mapped_at(line, 0x7f18), Some(("/data/dump (1).rdb", 0x1008)));
        assert_eq!(mapped_at(line, 0x8000), None);
        assert_eq!(mapped_at(b"7f10-8000 rw-p 00000000 00:00 0 [heap]", 0x7f18), None);
    }
}
