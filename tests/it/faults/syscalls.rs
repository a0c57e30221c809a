//! System calls that fail in a running daemon: one of a kind, the first, second or third that a thread
//! makes, in the middle of each thing that touches the disk, a socket or a child. Wherever it falls,
//! what was acknowledged stays, primary and replica come to hold the same without anybody's help, a
//! kill changes nothing, and no file is left half-made.
//!
//! `strace` is what makes them fail.

use super::*;
use crate::support::client::encode;
use crate::support::server::{Builder, info};
use crate::support::{assert_same_data, caught_up};
use std::time::Duration;

/// Calls that one server's threads make, of which one fails.
struct Failing {
    strace: Child,
    trace: PathBuf,
    _folder: Folder,
}

/// How long a call takes that is not to end.
const HOUR: &str = "delay_enter=3600000000";

/// A call, how it fails, and which of a thread's: the first is 1.
type Fault = (&'static str, &'static str, u32);

/// The first three of each call, which fail as a broken disk makes them fail.
fn first_three(calls: &[&'static str]) -> impl Iterator<Item = Fault> {
    calls.iter().flat_map(|call| (1..=3).map(|nth| (*call, "EIO", nth)))
}

impl Failing {
    fn begin(pid: u32, (call, error, nth): Fault) -> Failing {
        println!("{call} number {nth} fails with {error}");
        Failing::inject(pid, call, &format!("error={error}:when={nth}"), &[])
    }

    /// Does to the calls of one kind what `how` says, in `strace`'s words, where the `filter` holds.
    fn inject(pid: u32, call: &str, how: &str, filter: &[&str]) -> Failing {
        let folder = Folder::new();
        let trace = folder.path().join("trace");
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none", "-e", &format!("trace={call}")])
            .args(filter)
            .args(["-e", &format!("inject={call}:{how}"), "-p", &pid.to_string(), "-o"])
            .arg(&trace)
            .stdin(Stdio::null())
            .spawn()
            .expect("start strace, which tests/install-tools installs");
        let mut failing = Failing { strace, trace, _folder: folder };
        let attached = eventually(PATIENCE, || {
            let ended = failing.strace.try_wait().expect("wait for strace");
            assert!(ended.is_none(), "strace can not attach: it must be allowed to trace");
            is_traced(pid)
        });
        assert!(attached, "strace does not attach");
        failing
    }

    /// Does what `meanwhile` is until a call has failed. From then on none does.
    fn end(mut self, mut meanwhile: impl FnMut()) {
        let trace = || fs::read_to_string(&self.trace).unwrap_or_default();
        let happened = eventually(PATIENCE, || {
            let happened = trace().contains("(INJECTED)");
            if !happened {
                meanwhile();
            }
            happened
        });
        assert!(happened, "there is no such call:\n{}", trace());
        // SAFETY: it has not been waited for, so its pid cannot have been given to another.
        unsafe { libc::kill(self.strace.id() as libc::pid_t, libc::SIGINT) };
        self.strace.wait().expect("wait for strace");
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

fn encoded(args: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, args);
    bytes
}

/// Whether all threads of a process are traced.
fn is_traced(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the server runs");
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    })
}

fn with_log() -> Builder {
    let builder = Server::varve().arg("--appendonly", "yes").arg("--repl-reconnect-delay", "0");
    builder.arg("--repl-backlog-size", "16kb").arg("--auto-aof-rewrite-percentage", "0")
}

fn without_log() -> Builder {
    Server::varve().arg("--appendonly", "no")
}

fn follow(replica: &Server, primary: &Server) {
    // A connection may be what fails.
    let order = ["REPLICAOF", "127.0.0.1", &primary.port().to_string()];
    let followed = || {
        let client = Client::try_connect(replica.port());
        client.is_ok_and(|mut client| client.try_cmd(&order).is_ok_and(|reply| !reply.is_error()))
    };
    assert!(eventually(PATIENCE, followed), "{}", replica.log());
}

/// Numbered keys that were acknowledged.
#[derive(Default)]
struct Acknowledged(Vec<usize>);

impl Acknowledged {
    /// Sets so many more. A write may be refused, or its connection end.
    fn write(&mut self, server: &Server, count: usize) {
        let from = self.0.last().map_or(0, |last| last + 1);
        let mut client = Client::try_connect(server.port());
        for n in from..from + count {
            let set = ["SET".into(), format!("key:{n}").into_bytes(), value(n)];
            match client.as_mut().map(|client| client.try_cmd(&set)) {
                Ok(Ok(Value::Status(_))) => self.0.push(n),
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => client = Client::try_connect(server.port()),
            }
        }
    }

    /// Writes until a write is taken.
    fn goes_on(&mut self, server: &Server) {
        let had = self.0.len();
        let took = eventually(PATIENCE, || {
            self.write(server, 1);
            self.0.len() > had
        });
        assert!(took, "no write is taken any more:\n{}", server.log());
    }

    fn are_in(&self, server: &Server) {
        let mut client = server.client();
        for n in &self.0 {
            let held = client.cmd(&["GET", &format!("key:{n}")]);
            assert_eq!(held, Value::Bulk(value(*n)), "key:{n}:\n{}", server.log());
        }
    }
}

fn value(n: usize) -> Vec<u8> {
    format!("{n}:").repeat(100).into_bytes()
}

/// The log on disk is the present one and not behind, and no file is half-made.
fn settled(server: &Server) {
    let manifest = server.dir().join("appendonlydir/appendonly.aof.manifest");
    let written = || {
        let named = || fs::read_to_string(&manifest).unwrap_or_default();
        server.info("aof_enabled") == "0"
            || server.info("aof_last_write_status") == "ok"
                && named().contains(&server.info("master_replid"))
    };
    assert!(eventually(PATIENCE, written), "{}", server.log());
    let temporary = || temp_files(&server.dir());
    assert!(eventually(PATIENCE, || temporary().is_empty()), "left: {:?}", temporary());
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// After the fault: both come to hold the same, and killed, each has it by itself.
fn come_to_the_same(primary: &mut Server, replica: &mut Server, mut keys: Acknowledged) {
    keys.goes_on(primary);
    caught_up(primary, replica);
    for server in [&mut *primary, &mut *replica] {
        settled(server);
        keys.are_in(server);
        if server.info("aof_enabled") == "1" {
            server.kill9();
            server.restart();
            keys.are_in(server);
            settled(server);
        }
    }
}

/// A replica that holds something else is sent everything, while its primary is written to.
fn full_sync(primary: Builder, replica: Builder, at_primary: bool, fault: Fault) {
    let (mut primary, mut replica) = (primary.start(), replica.start());
    let mut keys = Acknowledged::default();
    keys.write(&primary, 200);
    replica.client().ok(&["SET", "old", "data"]);
    let failing = Failing::begin(if at_primary { primary.pid() } else { replica.pid() }, fault);
    follow(&replica, &primary);
    // Before it is up: each child is begun anew, and the calls of each are counted by themselves.
    failing.end(|| keys.write(&primary, 3));
    let up = || info(&mut Client::connect(replica.port()), "master_link_status") == "up";
    let is_up = eventually(PATIENCE, || {
        keys.write(&primary, 3);
        up()
    });
    assert!(is_up, "{}", replica.log());
    come_to_the_same(&mut primary, &mut replica, keys);
}

#[test]
fn calls_that_fail_in_a_primary_that_sends_everything() {
    for fault in [("fdatasync", "EIO", 1), ("rename", "EIO", 1), ("rename", "EIO", 3)] {
        full_sync(with_log().arg("--repl-diskless-sync", "no"), with_log(), true, fault);
    }
    for fault in [("pipe2", "EMFILE", 1), ("clone", "EAGAIN", 1), ("openat", "EMFILE", 1)] {
        full_sync(without_log().arg("--repl-diskless-sync", "no"), with_log(), true, fault);
        full_sync(without_log(), without_log(), true, fault);
    }
}

#[test]
fn calls_that_fail_in_a_replica_that_is_sent_everything() {
    for fault in [
        ("fsync", "EIO", 1),
        ("fdatasync", "EIO", 1),
        ("fdatasync", "EIO", 3),
        ("openat", "EIO", 1),
        ("openat", "EMFILE", 3),
        ("rename", "EIO", 1),
        ("rename", "EIO", 2),
        ("connect", "ENETUNREACH", 1),
    ] {
        full_sync(with_log(), with_log(), false, fault);
    }
    // What it received can not become its dump.
    full_sync(with_log(), without_log(), false, ("rename", "EACCES", 1));
}

/// A replica goes on from segments on its primary's disk, after a pause.
fn partial_sync(fault: Fault) {
    let (mut primary, mut replica) = (with_log().start(), with_log().start());
    let mut keys = Acknowledged::default();
    keys.write(&primary, 1);
    follow(&replica, &primary);
    caught_up(&primary, &replica);
    replica.client().ok(&["REPLICAOF", "127.0.0.1", "1"]);
    let place = replica.number("master_repl_offset");
    keys.write(&primary, 1000);
    let is_on_disk = || primary.number("log_first_offset_memory") > place;
    assert!(eventually(PATIENCE, is_on_disk), "memory has it all");
    let failing = Failing::begin(primary.pid(), fault);
    follow(&replica, &primary);
    caught_up(&primary, &replica);
    failing.end(|| ());
    assert_eq!(primary.number("sync_full"), 1, "{}", primary.log());
    come_to_the_same(&mut primary, &mut replica, keys);
}

#[test]
fn calls_that_fail_while_a_replica_goes_on_from_disk() {
    for fault in [("openat", "EMFILE", 1), ("pread64", "ENOMEM", 1)] {
        partial_sync(fault);
    }
}

/// A primary with writes that nobody else has and a base behind them, and its replica, promoted before.
struct Parted {
    old: Server,
    new: Server,
    keys: Acknowledged,
}

fn part() -> Parted {
    let (old, new) = (with_log().start(), with_log().start());
    let mut keys = Acknowledged::default();
    keys.write(&old, 200);
    old.rewrite();
    follow(&new, &old);
    caught_up(&old, &new);
    new.client().ok(&["REPLICAOF", "NO", "ONE"]);
    (0..50).for_each(|n| drop(old.client().ok(&["SET", &format!("own:{n}"), "lost"])));
    old.rewrite();
    old.client().ok(&["SET", "own:last", "lost"]);
    Parted { old, new, keys }
}

/// The old primary follows the new one. What nobody else has is set aside, whatever fails.
fn rollback(fault: Fault) {
    let Parted { mut old, mut new, mut keys } = part();
    keys.write(&new, 20);
    let failing = Failing::begin(old.pid(), fault);
    follow(&old, &new);
    caught_up(&new, &old);
    failing.end(|| keys.write(&new, 1));
    let folder = fs::read_dir(old.dir().join("appendonlydir")).unwrap().flatten();
    let tails = folder.filter(|file| file.file_name().to_string_lossy().contains(".tail-"));
    let tails: Vec<Vec<u8>> = tails.map(|file| fs::read(file.path()).unwrap()).collect();
    assert_eq!(tails.len(), 1, "{}", old.log());
    assert!(String::from_utf8_lossy(&tails[0]).contains("own:last"), "{}", old.log());
    come_to_the_same(&mut new, &mut old, keys);
}

#[test]
fn calls_that_fail_in_a_rollback() {
    let others = [("pwritev", "ENOSPC", 1), ("ftruncate", "EIO", 1), ("unlink", "EIO", 1)];
    first_three(&["fdatasync", "openat", "rename", "fsync"]).chain(others).for_each(rollback);
}

/// Bases are replaced, and segments become history, are compressed and removed.
fn rewrites(fault: Fault) {
    let mut server = with_log().start();
    let mut keys = Acknowledged::default();
    keys.write(&server, 200);
    server.rewrite();
    keys.write(&server, 200);
    let rewrite = || {
        let again = || !server.client().cmd(&["BGREWRITEAOF"]).is_error();
        assert!(eventually(PATIENCE, again), "{}", server.log());
        let idle = || server.info("aof_rewrite_in_progress") == "0";
        assert!(eventually(PATIENCE, idle), "{}", server.log());
    };
    let failing = Failing::begin(server.pid(), fault);
    for size in ["1gb", "1"] {
        server.client().ok(&["CONFIG", "SET", "repl-history-size", size]);
        rewrite();
        keys.write(&server, 100);
    }
    failing.end(|| {
        rewrite();
        keys.write(&server, 1);
    });
    keys.goes_on(&server);
    rewrite();
    server.rewrite();
    settled(&server);
    let folder = server.dir().join("appendonlydir");
    let unnamed = || {
        let manifest = fs::read_to_string(folder.join("appendonly.aof.manifest")).unwrap();
        let files = fs::read_dir(&folder).unwrap().flatten().map(|file| file.file_name());
        let files = files.map(|name| name.into_string().unwrap());
        let is_of_log = |name: &String| name.contains(".base.") || name.contains(".incr.");
        let mut files = files.filter(is_of_log);
        files.find(|name| !manifest.contains(name.trim_end_matches(".idx")))
    };
    assert!(eventually(PATIENCE, || unnamed().is_none()), "left: {:?}", unnamed());
    keys.are_in(&server);
    server.kill9();
    server.restart();
    keys.are_in(&server);
    settled(&server);
}

#[test]
fn calls_that_fail_while_the_log_is_rewritten() {
    let others = [("pipe2", "EMFILE", 1), ("clone", "ENOMEM", 1), ("pwritev", "ENOSPC", 2)];
    first_three(&["fdatasync", "rename", "openat", "unlink"]).chain(others).for_each(rewrites);
}

/// The file says what was in force before, or what is, and keeps its permissions.
#[test]
fn calls_that_fail_while_the_configuration_is_written() {
    use std::os::unix::fs::PermissionsExt;
    for call in ["openat", "fchmod", "fchown", "write", "fsync", "rename"] {
        let folder = Folder::new();
        let file = folder.path().join("varve.conf");
        fs::write(&file, "# mine\nmaxmemory 1gb\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let mut command = Command::new(Server::program());
        command.arg(&file);
        let data = Folder::new();
        let mut server = Attempt::of(command, &["--dir", text(data.path()), "--save", ""]);
        let mut client = server.serving();
        client.ok(&["CONFIG", "SET", "maxmemory", "2gb"]);
        let failing = Failing::begin(server.pid(), (call, "EIO", 1));
        let refused = client.cmd(&["CONFIG", "REWRITE"]).is_error();
        failing.end(|| ());
        let written = fs::read_to_string(&file).unwrap();
        assert_eq!(written.contains("maxmemory 1gb"), refused, "{call}: {written}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640, "{call}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{call} left a file");
        client.ok(&["CONFIG", "REWRITE"]);
    }
}

/// The log needs a new base after a sync that failed, and until then no write is taken. That an attempt
/// failed shortly before, when there was no need, does not put it off.
#[test]
fn a_failed_sync_does_not_wait_for_a_rewrite_that_failed_before() {
    let server = with_log().start();
    let mut keys = Acknowledged::default();
    keys.write(&server, 10);
    let failing = Failing::begin(server.pid(), ("openat", "EMFILE", 1));
    assert!(server.client().cmd(&["BGREWRITEAOF"]).is_error());
    failing.end(|| ());
    let failing = Failing::begin(server.pid(), ("fdatasync", "EIO", 1));
    let is_refused = || {
        keys.write(&server, 1);
        server.info("aof_last_write_status") == "err"
    };
    assert!(eventually(PATIENCE, is_refused), "{}", server.log());
    failing.end(|| ());
    let is_taken = || server.info("aof_last_write_status") == "ok";
    assert!(eventually(PATIENCE / 2, is_taken), "{}", server.log());
    keys.goes_on(&server);
    keys.are_in(&server);
    settled(&server);
}

/// What a child says would not be heard: it is not begun, rather than left to itself.
#[test]
fn a_child_is_not_begun_when_its_pipes_can_not_be_watched() {
    let server = with_log().start();
    let mut keys = Acknowledged::default();
    keys.write(&server, 10);
    let mut client = server.client();
    let failing = Failing::begin(server.pid(), ("epoll_ctl", "ENOSPC", 1));
    assert!(client.cmd(&["BGREWRITEAOF"]).is_error());
    failing.end(|| ());
    settled(&server);
    let children = format!("/proc/{0}/task/{0}/children", server.pid());
    assert_eq!(fs::read_to_string(children).unwrap(), "");
    server.rewrite();
    keys.are_in(&server);
}

/// The log went back, and its threads can not be started: all data are to come from the primary, which
/// has not begun to send them. What is on disk stays until then.
#[test]
fn a_replica_that_holds_nothing_keeps_what_is_on_disk() {
    let Parted { mut old, new, keys } = part();
    // What it sends has to be made, and that waits.
    fs::remove_file(new.dir().join("appendonlydir/appendonly.aof.1.base.rdb")).unwrap();
    new.client().ok(&["CONFIG", "SET", "repl-diskless-sync-delay", "1000"]);
    let failing = Failing::begin(old.pid(), ("clone3", "EAGAIN", 2));
    follow(&old, &new);
    let waits = || old.log().contains("Asking for a full resync");
    assert!(eventually(PATIENCE, waits), "{}", old.log());
    failing.end(|| ());
    assert_eq!(old.client().cmd(&["DBSIZE"]), Value::Int(0), "{}", old.log());
    // Time in which a log of nothing would begin.
    std::thread::sleep(Duration::from_millis(500));
    old.kill9();
    old.restart();
    keys.are_in(&old);
    new.client().ok(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    follow(&old, &new);
    caught_up(&new, &old);
}

/// A primary is known by a name, and the look-up of the name hangs: clients are served meanwhile, and
/// another primary can be followed. The event loop waited for the look-up, which takes some 10 s where no name server
/// answers.
#[test]
fn nobody_waits_while_the_name_of_the_primary_is_looked_up() {
    let (primary, replica) = (with_log().start(), with_log().start());
    primary.client().ok(&["SET", "key", "value"]);
    let _hangs = Failing::inject(replica.pid(), "openat", HOUR, &["-P", "/etc/hosts"]);
    replica.client().ok(&["REPLICAOF", "primary.invalid", "6379"]);
    replica.client().ok(&["PING"]);
    assert_eq!(replica.client().ok(&["ROLE"]).items()[3].text(), "connecting");
    follow(&replica, &primary);
    caught_up(&primary, &replica);
    assert_eq!(replica.client().ok(&["GET", "key"]).text(), "value");
}

/// A start on a disk that takes its time for the name of the log's folder.
fn start_waits(folder: &Folder, delay: &str) -> Attempt {
    let mut strace = Command::new("strace");
    let inject = format!("inject=fsync:{delay}");
    strace.args(["-D", "-f", "-qq", "-e", "signal=none", "-e", "trace=fsync", "-o", "/dev/null"]);
    strace.args(["-e", &inject, "-P", text(folder.path())]).arg(Server::program());
    Attempt::of(strace, &["--dir", text(folder.path()), "--appendonly", "yes"])
}

/// Clients hear that it loads, rather than nothing.
#[test]
fn clients_are_answered_while_a_start_waits_for_the_disk() {
    let folder = Folder::new();
    let server = start_waits(&folder, HOUR);
    let listens = || Client::try_connect(server.port).is_ok();
    assert!(eventually(PATIENCE, listens), "{}", server.log());
    let reply = Client::connect(server.port).try_cmd(&["PING"]);
    // Until the tracer has gone, the server could not be ended.
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:\t"));
    // SAFETY: it traces the server, so it runs.
    unsafe { libc::kill(tracer.unwrap().parse().unwrap(), libc::SIGKILL) };
    assert!(matches!(&reply, Ok(Value::Error(why)) if why.starts_with("LOADING")), "{reply:?}");
}

/// What is set while the log is opened counts for it.
#[test]
fn a_policy_that_is_set_during_a_start_is_the_log_s() {
    let folder = Folder::new();
    let mut server = start_waits(&folder, "delay_enter=3000000");
    let set = ["CONFIG", "SET", "appendfsync", "always"];
    let is_set = || {
        let client = Client::try_connect(server.port);
        client.is_ok_and(|mut client| client.try_cmd(&set).is_ok_and(|reply| !reply.is_error()))
    };
    assert!(eventually(PATIENCE, is_set), "{}", server.log());
    server.serving();
    let manifest = folder.path().join("appendonlydir/appendonly.aof.manifest");
    let says = || fs::read_to_string(&manifest).is_ok_and(|text| text.contains("fsync always"));
    assert!(eventually(PATIENCE, says), "{}", server.log());
}

/// A snapshot has its name, and the disk takes its time to make that durable: nobody waits for it but the child.
#[test]
fn nobody_waits_while_the_name_of_a_snapshot_is_synced() {
    let server = with_log().start();
    server.client().ok(&["SET", "key", "value"]);
    let _hangs = Failing::inject(server.pid(), "fsync", HOUR, &["-P", text(&server.dir())]);
    server.client().ok(&["BGSAVE"]);
    assert!(eventually(PATIENCE, || server.dir().join("dump.rdb").exists()), "{}", server.log());
    assert_eq!(server.client().ok(&["GET", "key"]).text(), "value");
    assert_eq!(server.info("rdb_bgsave_in_progress"), "1");
}

/// A new segment is begun, and the disk takes its time for it: what is written meanwhile is synced each second
/// all the same. Replies would wait for it after two.
#[test]
fn the_log_is_synced_while_a_segment_is_begun() {
    let server = with_log().start();
    let temp = server.dir().join("appendonlydir/temp_appendonly.aof.manifest");
    let _hangs = Failing::inject(server.pid(), "fdatasync", HOUR, &["-P", text(&temp)]);
    let mut client = server.client();
    client.ok(&["BGREWRITEAOF"]);
    assert!(eventually(PATIENCE, || temp.exists()), "{}", server.log());
    client.ok(&["SET", "key", "value"]);
    let synced = client.ok(&["WAITAOF", "1", "0", "20000"]);
    assert_eq!(synced.items()[0], Value::Int(1), "{}", server.log());
}

/// The story: saves one after the other under heavy writes. Each new segment was copied what had been written since it
/// was asked for, the next was asked for meanwhile, and in the end a gigabyte was copied for each.
#[test]
fn a_snapshot_ends_when_its_segment_has_begun() {
    let server = with_log().start();
    let temp = server.dir().join("appendonlydir/temp_appendonly.aof.manifest");
    let hangs = Failing::inject(server.pid(), "fdatasync", HOUR, &["-P", text(&temp)]);
    let mut client = server.client();
    client.ok(&["SET", "key", "value"]);
    client.ok(&["BGSAVE"]);
    let pid = server.pid();
    let children = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert!(eventually(PATIENCE, || server.dir().join("dump.rdb").exists()), "{}", server.log());
    assert!(eventually(PATIENCE, || children().is_empty()), "{}", server.log());
    assert_eq!(server.info("rdb_bgsave_in_progress"), "1");
    assert!(client.cmd(&["BGSAVE"]).is_error());
    drop(hangs);
    let ended = || server.info("rdb_bgsave_in_progress") == "0";
    assert!(eventually(PATIENCE, ended), "{}", server.log());
    assert_eq!(server.info("rdb_last_bgsave_status"), "ok");
}

/// The story: the disk was slower than one client that did not wait for replies, or a replica's than its
/// primary. All that came was taken and waited in memory, gigabytes of it, until the system ended the process.
#[test]
fn what_a_slow_disk_has_not_taken_yet_does_not_pile_up() {
    const SETS: usize = 250;
    const MOST: u64 = 100 << 20;
    let (primary, replica) = (with_log().start(), with_log().start());
    follow(&replica, &primary);
    caught_up(&primary, &replica);
    let mut set = Vec::new();
    encode(&mut set, &["SET".into(), "key".into(), vec![b'x'; 1 << 20]]);
    for slow in [&primary, &replica] {
        let slowly = Failing::inject(slow.pid(), "pwritev", "delay_enter=150000", &[]);
        let mut client = primary.client();
        (0..SETS).for_each(|_| client.send_raw(&set));
        (0..SETS).for_each(|_| assert_eq!(client.recv().text(), "OK"));
        caught_up(&primary, &replica);
        drop(slowly);
        let peak = slow.number("used_memory_peak");
        assert!(peak < MOST, "{peak} bytes were in use");
    }
    assert_same_data(&mut primary.client(), &mut replica.client());
}

fn has_left_disk(server: &Server) -> bool {
    server.info("aof_enabled") == "0" && server.info("aof_current_size").is_empty()
}

/// `CONFIG SET appendonly no`, and the disk takes its time to close the files: who asked waits, as the answer says that they
/// are whole, and nobody else does.
#[test]
fn nobody_waits_while_the_log_leaves_the_disk() {
    let mut server = with_log().arg("--appendfsync", "no").start();
    let name = server.info("master_replid");
    let segment = server.dir().join("appendonlydir/appendonly.aof.1.incr.aof");
    let hangs = Failing::inject(server.pid(), "fdatasync", HOUR, &["-P", text(&segment)]);
    let (mut client, mut asks) = (server.client(), server.client());
    client.ok(&["SET", "key", "before"]);
    asks.send_raw(&encoded(&["CONFIG", "SET", "appendonly", "no"]));
    assert!(eventually(PATIENCE, || has_left_disk(&server)), "{}", server.log());
    client.ok(&["SET", "key", "after"]);
    assert_eq!(client.ok(&["GET", "key"]).text(), "after");
    assert_eq!(server.info("aof_enabled"), "0");
    // It is turned on again when that is done, and not before.
    client.ok(&["CONFIG", "SET", "appendonly", "yes"]);
    assert_eq!(asks.recv().text(), "OK");
    assert_eq!(server.info("aof_rewrite_in_progress"), "0");
    drop(hangs);
    assert_eq!(client.ok(&["WAITAOF", "1", "0", "20000"]).items()[0], Value::Int(1));
    // What was written in memory others may have: a start that does not find it takes another name.
    client.ok(&["SET", "key", "before"]);
    let segment = server.dir().join("appendonlydir/appendonly.aof.2.incr.aof");
    let hangs = Failing::inject(server.pid(), "fdatasync", HOUR, &["-P", text(&segment)]);
    asks.send_raw(&encoded(&["CONFIG", "SET", "appendonly", "no"]));
    assert!(eventually(PATIENCE, || has_left_disk(&server)), "{}", server.log());
    client.ok(&["SET", "key", "after"]);
    assert_eq!(server.info("master_replid"), name);
    server.signal(libc::SIGKILL); // which the tracer lets through when it goes
    drop(hangs);
    server.kill9();
    server.restart();
    assert_eq!(server.client().ok(&["GET", "key"]).text(), "before");
    assert_ne!(server.info("master_replid"), name);
}

/// It is turned on again while the disk still takes its time to be told that the log leaves it.
#[test]
fn a_log_that_was_about_to_leave_the_disk_stays() {
    let mut server = with_log().start();
    let name = server.info("master_replid");
    let temp = server.dir().join("appendonlydir/temp_appendonly.aof.manifest");
    let hangs = Failing::inject(server.pid(), "fdatasync", HOUR, &["-P", text(&temp)]);
    let (mut client, mut asks) = (server.client(), server.client());
    asks.send_raw(&encoded(&["CONFIG", "SET", "appendonly", "no"]));
    assert!(eventually(PATIENCE, || server.info("blocked_clients") == "1"), "{}", server.log());
    client.ok(&["CONFIG", "SET", "appendonly", "yes"]);
    assert_eq!(asks.recv().text(), "OK");
    drop(hangs);
    client.ok(&["SET", "key", "value"]);
    assert_eq!(server.info("aof_rewrites"), "0");
    server.kill9();
    server.restart();
    assert_eq!(server.client().ok(&["GET", "key"]).text(), "value");
    assert_eq!(server.info("master_replid"), name);
}

/// `CONFIG SET appendonly yes`: the base is there, and the disk takes its time for the log's files.
#[test]
fn nobody_waits_while_the_log_goes_to_disk() {
    let server = Server::varve().arg("--appendonly", "no").arg("--save", "").start();
    let (name, dir) = (server.info("master_replid"), server.dir());
    let mut client = server.client();
    client.ok(&["SET", "first", "1"]);
    let temp = dir.join("appendonlydir/temp_appendonly.aof.manifest");
    let hangs = Failing::inject(server.pid(), "fdatasync", HOUR, &["-P", text(&temp)]);
    client.ok(&["CONFIG", "SET", "appendonly", "yes"]);
    assert!(eventually(PATIENCE, || temp.exists()), "{}", server.log());
    client.ok(&["SET", "second", "2"]);
    assert_eq!(server.info("aof_rewrite_in_progress"), "1");
    assert!(client.cmd(&["BGREWRITEAOF"]).is_error());
    drop(hangs);
    assert_eq!(client.ok(&["WAITAOF", "1", "0", "20000"]).items()[0], Value::Int(1));
    assert_eq!(server.info("aof_rewrite_in_progress"), "0");
    client.ok(&["SET", "third", "3"]);
    let mut server = server;
    server.kill9();
    let again = Server::varve().arg("--appendonly", "yes").in_dir(&dir).start();
    assert_eq!(again.client().ok(&["DBSIZE"]), Value::Int(3));
    assert_eq!(again.info("master_replid"), name);
}
