//! A machine's clock that is set: by its operator, by NTP after a start with a wrong one, by a hypervisor
//! that wakes it. Only what the data say of time may change with it; no timeout does.

use crate::replication::{follow, synced};
use crate::support::{PATIENCE, Server, caught_up, eventually};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A server whose clock of the day a file sets; its monotonic clock is the machine's.
struct Clocked {
    server: Server,
    file: PathBuf,
}

impl Clocked {
    fn start() -> Clocked {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("varve-test-{}-clock-{count}", std::process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, "+0").expect("write the clock's file");
        let server = Server::varve()
            .arg("--repl-timeout", "2")
            .arg("--repl-ping-replica-period", "1")
            // The loader puts the system's own folder of libraries for $LIB.
            .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1")
            .env("FAKETIME_TIMESTAMP_FILE", file.to_str().expect("a path in UTF-8"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .start();
        Clocked { server, file }
    }

    fn time_s(&self) -> i64 {
        let time = self.server.client().ok(&["TIME"]).items();
        time[0].text().parse().expect("seconds")
    }

    /// Sets the clock to the machine's and `by` seconds, and waits until the server goes by it.
    fn set(&self, by: i64) {
        let before = self.time_s();
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{by:+}")).expect("write the clock's file");
        fs::rename(&new, &self.file).expect("replace the clock's file");
        let moved = || (self.time_s() - before).abs() > 1000;
        assert!(eventually(PATIENCE, moved), "the clock was not set: is libfaketime there?");
    }
}

impl Drop for Clocked {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// Set forward, the link had been silent for an hour; set back, neither PINGs nor acknowledgements were
/// due for an hour, and the other side gave the link up every `repl-timeout`.
#[test]
fn a_link_outlives_a_step_of_either_clock() {
    if Server::is_stand_in() {
        return; // Redis measures its timeouts by the clock of the day.
    }
    let (primary, replica) = (Clocked::start(), Clocked::start());
    follow(&replica.server, primary.server.port());
    assert!(eventually(PATIENCE, || synced(&replica.server)), "the first sync did not end");
    for (side, by) in [(&primary, 3600), (&primary, 0), (&replica, 3600), (&replica, 0)] {
        side.set(by);
        // Longer than the timeout of each side: as many PINGs as take twice that.
        let offset = || primary.server.number("master_repl_offset");
        let goal = offset() + 5 * "*1\r\n$4\r\nPING\r\n".len() as u64;
        assert!(eventually(PATIENCE, || offset() >= goal), "no PINGs after a step to {by} s");
        caught_up(&primary.server, &replica.server);
        let partials = primary.server.number("sync_partial_ok");
        assert_eq!(partials, 0, "the link broke after a step to {by} s: {}", primary.server.log());
    }
}

/// Set back, these waits would have gone on for an hour more.
#[test]
fn a_wait_ends_although_the_clock_is_set_back() {
    if Server::is_stand_in() {
        return;
    }
    let clocked = Clocked::start();
    clocked.set(3600);
    let [mut popper, mut waiter, mut client] = [(); 3].map(|()| clocked.server.client());
    popper.send_raw(b"BRPOP nothing 2\r\n");
    waiter.send_raw(b"WAIT 1 2000\r\n");
    assert!(eventually(PATIENCE, || clocked.server.number("blocked_clients") == 2));
    client.ok(&["CLIENT", "PAUSE", "2000", "WRITE"]);
    clocked.set(0);
    assert_eq!(client.ok(&["INCR", "n"]).int(), 1);
    assert_eq!(waiter.recv().int(), 0);
    assert_eq!(popper.recv_raw(), b"*-1\r\n");
}

/// Set back, neither was a save point reached for an hour nor was a save that failed tried again.
#[test]
fn a_save_comes_due_although_the_clock_is_set_back() {
    if Server::is_stand_in() {
        return;
    }
    let clocked = Clocked::start();
    let server = &clocked.server;
    let mut client = server.client();
    clocked.set(3600);
    client.ok(&["SAVE"]);
    client.ok(&["SET", "k", "v"]);
    let dump = server.dir().join("dump.rdb");
    fs::remove_file(&dump).expect("the dump was written");
    fs::create_dir(&dump).expect("stand in the dump's way");
    client.ok(&["BGSAVE"]);
    assert!(eventually(PATIENCE, || server.info("rdb_last_bgsave_status") == "err"));
    clocked.set(0);
    fs::remove_dir(&dump).expect("make way");
    client.ok(&["CONFIG", "SET", "save", "1 1"]);
    assert!(eventually(PATIENCE, || dump.is_file()), "{}", server.log());
}
