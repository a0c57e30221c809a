//! Faults around the real daemon: folders it can not use, disks that fill, files torn and flipped,
//! system calls that fail, clients that misbehave, ends that come at a bad moment. Each test tells its
//! fault first.

mod clients;
mod damage;
mod disk;
mod ends;
mod start;
mod syscalls;

use crate::support::{
    Client, Folder, PATIENCE, Random, Server, Value, eventually, manifest_to_change,
};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How a start that was to fail went.
pub struct Refusal {
    pub code: Option<i32>,
    pub output: String,
}

impl Refusal {
    /// The refusal is exit code 1 and a text that holds all of `words`.
    pub fn names(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "the exit code; it said:\n{}", self.output);
        assert!(!self.output.contains("panicked"), "it panicked:\n{}", self.output);
        for word in words {
            assert!(self.output.contains(word), "it does not say {word:?}:\n{}", self.output);
        }
    }
}

/// A daemon that may well not come up.
pub struct Attempt {
    child: Child,
    pub port: u16,
    output: Folder,
}

pub enum Outcome {
    Serving(Client),
    Ended(Refusal),
}

impl Attempt {
    /// Starts `command`, which is the daemon or ends by becoming it, on a free port with `args`.
    pub fn of(mut command: Command, args: &[&str]) -> Attempt {
        let output = Folder::new();
        let log = File::create(output.path().join("log")).unwrap();
        let port = crate::support::server::free_port();
        let child = command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("start the daemon");
        Attempt { child, port, output }
    }

    pub fn new(args: &[&str]) -> Attempt {
        Attempt::of(Command::new(Server::program()), args)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        let bytes = fs::read(self.output.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it serves or has ended.
    pub fn outcome(&mut self) -> Outcome {
        let mut outcome = None;
        eventually(PATIENCE, || {
            if let Some(status) = self.child.try_wait().expect("wait for the daemon") {
                let refusal = Refusal { code: status.code(), output: self.log() };
                outcome = Some(Outcome::Ended(refusal));
            } else if let Ok(mut client) = Client::try_connect(self.port)
                && client.try_cmd(&["PING"]).is_ok_and(|r| r == Value::Status("PONG".into()))
            {
                outcome = Some(Outcome::Serving(client));
            }
            outcome.is_some()
        });
        outcome.unwrap_or_else(|| panic!("neither serving nor ended:\n{}", self.log()))
    }

    /// The client of a start that must succeed.
    pub fn serving(&mut self) -> Client {
        match self.outcome() {
            Outcome::Serving(client) => client,
            Outcome::Ended(refusal) => panic!("it did not start:\n{}", refusal.output),
        }
    }

    /// The refusal of a start that must fail.
    pub fn refused(&mut self) -> Refusal {
        match self.outcome() {
            Outcome::Ended(refusal) => refusal,
            Outcome::Serving(_) => panic!("it started nevertheless:\n{}", self.log()),
        }
    }

    /// Sends a signal, and waits for the end.
    pub fn end(&mut self, signal: i32) -> Option<i32> {
        // SAFETY: the child has not been waited for, so its pid cannot have been given to another.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        let mut status = None;
        eventually(PATIENCE, || {
            status = self.child.try_wait().expect("wait for the daemon");
            status.is_some()
        });
        status.unwrap_or_else(|| panic!("it did not end:\n{}", self.log())).code()
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("test folders have plain names")
}

/// Whether tests may do what only root may; says which part is left out if not.
pub fn is_root(part: &str) -> bool {
    // SAFETY: asks for a number.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped, not run as root: {part}");
    }
    root
}

/// Kilobytes of memory that a process has resident.
pub fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Files of a folder, and of those in it, that a save left half-done.
pub fn temp_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(temp_files(&path));
        } else if entry.file_name().to_string_lossy().contains("temp") {
            found.push(path);
        }
    }
    found
}

/// The contents of all files of a folder, to see whether any was touched.
pub fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else if entry.file_name() != "varve.lock" {
            let bytes = fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}
