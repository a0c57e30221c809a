//! A disk that fills, on a small file system of the test's own.

use super::*;
use crate::support::assert_same_data;
use crate::support::server::info;
use std::ffi::CString;

/// A tmpfs of a few megabytes, unmounted when dropped.
struct SmallDisk(Folder);

impl SmallDisk {
    /// `None`, with the reason printed, where nothing may be mounted.
    fn new(megabytes: u32) -> Option<SmallDisk> {
        let folder = Folder::new();
        match mount(folder.path(), &format!("size={megabytes}m"), 0) {
            Ok(()) => Some(SmallDisk(folder)),
            Err(why) => {
                eprintln!("skipped, can't mount a tmpfs ({why}): a disk that fills");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn resize(&self, megabytes: u32) {
        self.remount(&format!("size={megabytes}m"));
    }

    fn remount(&self, options: &str) {
        mount(self.path(), options, libc::MS_REMOUNT).expect("resize the file system");
    }

    /// A daemon with its log there.
    fn daemon(&self) -> Attempt {
        Attempt::new(&["--dir", text(self.path()), "--appendonly", "yes", "--save", ""])
    }

    /// Leaves room for so many more files.
    fn leave_files(&self, more: u64) {
        let system = nix::sys::statvfs::statvfs(self.path()).unwrap();
        self.remount(&format!("nr_inodes={}", system.files() - system.files_free() + more));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = CString::new(text(self.path())).unwrap();
        // SAFETY: a C string.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

fn mount(path: &Path, options: &str, flags: libc::c_ulong) -> std::io::Result<()> {
    let (path, data) = (CString::new(text(path)).unwrap(), CString::new(options).unwrap());
    let kind = c"tmpfs".as_ptr();
    // SAFETY: four C strings that outlive the call.
    match unsafe { libc::mount(kind, path.as_ptr(), kind, flags, data.as_ptr().cast()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn item(n: usize) -> Vec<u8> {
    let mut value = format!("{n:08}:").into_bytes();
    value.resize(4000, b'x');
    value
}

/// Pushes numbered items one at a time until one is refused. How many were acknowledged, whether
/// the next was sent without an answer, and the refusal of another client.
fn fill(port: u16, from: usize) -> (usize, bool, String) {
    let mut client = Client::connect(port);
    client.sender().set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
    let mut acknowledged = from;
    let mut unanswered = false;
    loop {
        match client.try_cmd(&[b"RPUSH".as_slice(), b"log", &item(acknowledged)]) {
            Ok(Value::Int(_)) => acknowledged += 1,
            Ok(Value::Error(why)) => return (acknowledged, unanswered, why),
            Ok(other) => panic!("RPUSH answered {other:?}"),
            // The write that found the disk full is neither done nor refused: it waits.
            Err(_) if !unanswered => {
                unanswered = true;
                client = Client::connect(port);
            }
            Err(e) => panic!("neither answered nor refused: {e}"),
        }
        assert!(acknowledged < 100_000, "the disk does not fill");
    }
}

fn holds(client: &mut Client, acknowledged: usize, in_flight: usize) {
    let items = client.cmd(&["LRANGE", "log", "0", "-1"]).byte_items();
    let found = items.len();
    assert!(
        found >= acknowledged && found <= acknowledged + in_flight,
        "{acknowledged} were acknowledged, {in_flight} in flight, and {found} are there"
    );
    for (n, held) in items.iter().enumerate() {
        assert!(*held == item(n), "item {n} is another");
    }
}

/// The disk runs full under the log. Writes are refused and reads go on; nothing acknowledged is
/// lost by a kill; and when there is room again all goes on without anybody's help.
fn log_on_a_full_disk(policy: &str) {
    let Some(disk) = SmallDisk::new(8) else { return };
    let dir = text(disk.path());
    let args = [
        "--dir",
        dir,
        "--appendonly",
        "yes",
        "--appendfsync",
        policy,
        "--save",
        "",
        "--auto-aof-rewrite-percentage",
        "0",
    ];
    let mut daemon = Attempt::new(&args);
    daemon.serving().ok(&["SET", "small", "there"]);
    let (acknowledged, unanswered, why) = fill(daemon.port, 0);
    assert!(why.starts_with("MISCONF"), "refused with: {why}");
    assert!(why.contains("No space left on device"), "refused with: {why}");
    assert!(acknowledged > 100, "only {acknowledged} writes fit");
    let mut client = Client::connect(daemon.port);
    assert_eq!(client.cmd(&["GET", "small"]), Value::bulk("there"), "a read on a full disk");
    assert!(client.cmd(&["SET", "small", "other"]).is_error());
    assert!(daemon.log().contains("No space left on device"), "the log does not tell");

    // Room again: by itself.
    disk.resize(16);
    let mut reply = Value::Nil;
    let again = eventually(PATIENCE, || {
        reply = client.cmd(&["SET", "small", "new"]);
        !reply.is_error()
    });
    assert!(again, "still refused with room on the disk: {reply:?}\n{}", daemon.log());
    let in_flight = usize::from(unanswered);
    holds(&mut client, acknowledged, in_flight);

    // Full again, and killed while it is.
    let from = client.cmd(&["LLEN", "log"]).int() as usize;
    let (acknowledged, unanswered, _) = fill(daemon.port, from);
    daemon.end(libc::SIGKILL);
    disk.resize(32);
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    holds(&mut client, acknowledged, usize::from(unanswered));
    assert_eq!(client.cmd(&["GET", "small"]), Value::bulk("new"));
    client.ok(&["SET", "small", "newest"]);
    assert_eq!(daemon.end(libc::SIGTERM), Some(0), "{}", daemon.log());
}

#[test]
fn a_full_disk_under_the_log_with_everysec() {
    log_on_a_full_disk("everysec");
}

#[test]
fn a_full_disk_under_the_log_with_always() {
    log_on_a_full_disk("always");
}

/// `DEBUG LOADAOF` would find files that lack what the disk did not take: it ended the process.
#[test]
fn a_log_is_not_read_back_from_a_full_disk() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let mut args = vec!["--dir", text(disk.path()), "--appendonly", "yes", "--save", ""];
    args.extend(["--enable-debug-command", "yes"]);
    let mut daemon = Attempt::new(&args);
    daemon.serving();
    fill(daemon.port, 0);
    let mut client = Client::connect(daemon.port);
    let refused = client.cmd(&["DEBUG", "LOADAOF"]);
    let is_told = matches!(&refused, Value::Error(why) if why.contains("No space left on device"));
    assert!(is_told, "{refused:?}");
    assert_eq!(client.cmd(&["EXISTS", "log"]), Value::Int(1));
}

/// `ulimit -f` is as a full disk: writes are refused, and go on when files may grow again.
#[test]
fn a_log_that_may_grow_no_further() {
    let folder = Folder::new();
    let args = ["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -f 800; exec \"$0\" \"$@\""]).arg(Server::program());
    let mut daemon = Attempt::of(command, &args);
    daemon.serving();
    let (acknowledged, unanswered, why) = fill(daemon.port, 0);
    let expected = "MISCONF Errors writing to the AOF file: File too large";
    assert!(why.starts_with(expected), "refused with: {why}");
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a plain structure, and no old one is asked for.
    unsafe {
        let pid = daemon.pid() as libc::pid_t;
        libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut());
    }
    let mut client = Client::connect(daemon.port);
    let again = || !client.cmd(&["SET", "small", "new"]).is_error();
    assert!(eventually(PATIENCE, again), "{}", daemon.log());
    daemon.end(libc::SIGKILL);
    holds(&mut Attempt::new(&args).serving(), acknowledged, usize::from(unanswered));
}

/// What the log could not take is in no snapshot that a replica is given: a kill takes it, and the
/// primary goes on under the same name with other bytes.
#[test]
fn a_replica_is_not_given_what_the_full_disk_did_not_take() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let mut args = vec!["--dir", text(disk.path()), "--appendonly", "yes", "--save", ""];
    args.extend(["--auto-aof-rewrite-percentage", "0", "--repl-diskless-sync-delay", "0"]);
    let mut daemon = Attempt::new(&args);
    daemon.serving();
    let (_, unanswered, _) = fill(daemon.port, 0);
    assert!(unanswered, "no write is in memory only");
    let replica = Server::varve().start();
    replica.client().ok(&["REPLICAOF", "127.0.0.1", &daemon.port.to_string()]);
    let forked = || daemon.log().contains("Background sync terminated with success");
    assert!(eventually(PATIENCE, forked), "{}", daemon.log());
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!replica.log().contains("Full resync"), "{}", replica.log());

    replica.signal(libc::SIGSTOP);
    daemon.end(libc::SIGKILL);
    disk.resize(16);
    let port = daemon.port.to_string();
    args.extend(["--port", &port]);
    let mut again = Attempt::new(&args);
    again.port = daemon.port;
    let mut primary = again.serving();
    for n in 0..10 {
        primary.ok(&[b"RPUSH".as_slice(), b"other", &item(n)]);
    }
    replica.signal(libc::SIGCONT);
    let follows = || {
        let same = |field| replica.info(field) == info(&mut Client::connect(again.port), field);
        replica.info("master_link_status") == "up" && same("master_repl_offset")
    };
    assert!(eventually(PATIENCE, follows), "{}", replica.log());
    assert_same_data(&mut primary, &mut replica.client());
}

/// The disk has no room for the snapshot: the save fails and says so, leaves no file, and the next
/// one goes well when there is room. The old dump stays what it was.
#[test]
fn a_snapshot_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(4) else { return };
    let dir = text(disk.path());
    let mut daemon = Attempt::new(&[
        "--dir",
        dir,
        "--save",
        "3600 1000000",
        "--rdbcompression",
        "no",
        "--appendonly",
        "no",
    ]);
    let mut client = daemon.serving();
    client.ok(&["SET", "k", "old"]);
    client.ok(&["SAVE"]);
    let dump = fs::read(disk.path().join("dump.rdb")).unwrap();
    for n in 0..1500 {
        client.ok(&[b"SET".as_slice(), format!("k{n}").as_bytes(), &item(n)]);
    }
    let status =
        |client: &mut Client| crate::support::server::info(client, "rdb_last_bgsave_status");
    client.ok(&["BGSAVE"]);
    assert!(eventually(PATIENCE, || status(&mut client) == "err"), "{}", daemon.log());
    assert!(
        daemon.log().contains("Background rdb error: No space left on device"),
        "{}",
        daemon.log()
    );
    assert_eq!(temp_files(disk.path()), Vec::<PathBuf>::new(), "left by BGSAVE");
    let refused = client.cmd(&["SET", "k", "new"]);
    assert!(matches!(&refused, Value::Error(why) if why.starts_with("MISCONF")), "{refused:?}");
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("old"));
    assert!(client.cmd(&["SAVE"]).is_error());
    assert_eq!(temp_files(disk.path()), Vec::<PathBuf>::new(), "left by SAVE");
    assert!(fs::read(disk.path().join("dump.rdb")).unwrap() == dump, "the old dump is touched");

    // It can not end in good order without its data saved, and says so.
    let refused = client.cmd(&["SHUTDOWN", "SAVE"]);
    assert!(refused.is_error(), "{refused:?}");
    disk.resize(16);
    client.ok(&["BGSAVE"]);
    assert!(eventually(PATIENCE, || status(&mut client) == "ok"), "{}", daemon.log());
    client.ok(&["SET", "k", "new"]);
    assert_eq!(daemon.end(libc::SIGTERM), Some(0), "{}", daemon.log());
}

/// The disk fails one sync, and is well again. What the kernel could not write it may have dropped, so nothing
/// counts as synced until a snapshot has it, which is made without anybody's help.
#[test]
fn a_sync_that_fails_once() {
    let folder = Folder::new();
    let args = ["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    let mut daemon = Attempt::new(&args);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-p", &daemon.pid().to_string(), "-e", "trace=fdatasync"]);
    strace.args(["-e", "inject=fdatasync:error=EIO:when=1"]).stderr(Stdio::null());
    let mut client = daemon.serving();
    let Ok(mut strace) = strace.spawn() else {
        return eprintln!("skipped, there is no strace: a sync that fails");
    };
    let failed = || daemon.log().contains("fsync error: Input/output error");
    let mut ended = false;
    let met = eventually(PATIENCE, || {
        let _ = client.cmd(&["INCR", "k"]);
        ended = strace.try_wait().expect("wait for strace").is_some();
        ended || failed()
    });
    let _ = strace.kill();
    let _ = strace.wait();
    if ended && !failed() {
        return eprintln!("skipped, strace may not attach: a sync that fails");
    }
    assert!(met, "{}", daemon.log());
    let again = eventually(PATIENCE, || !client.cmd(&["INCR", "k"]).is_error());
    assert!(again, "{}", daemon.log());
    assert_eq!(info(&mut client, "aof_last_write_status"), "ok");
    let counted = client.cmd(&["GET", "k"]);
    daemon.end(libc::SIGKILL);
    let mut daemon = Attempt::new(&args);
    assert_eq!(daemon.serving().cmd(&["GET", "k"]), counted);
}

/// The folder is gone, or may not be written any more: there is not even a child to fail.
#[test]
fn a_snapshot_that_can_not_begin_has_failed() {
    let folder = Folder::new();
    let dir = folder.path().join("dir");
    fs::create_dir(&dir).unwrap();
    let args = ["--dir", text(&dir), "--save", "3600 1000000", "--appendonly", "yes"];
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    client.ok(&["SET", "k", "old"]);
    fs::remove_dir_all(&dir).unwrap();
    for (command, status) in
        [("BGREWRITEAOF", "aof_last_bgrewrite_status"), ("BGSAVE", "rdb_last_bgsave_status")]
    {
        assert_eq!(info(&mut client, status), "ok");
        let refused = client.cmd(&[command]);
        assert!(refused.is_error(), "{command}: {refused:?}");
        assert_eq!(info(&mut client, status), "err", "{command}");
    }
    assert!(client.cmd(&["BGREWRITEAOF"]).is_error());
    assert_eq!(info(&mut client, "aof_rewrites_consecutive_failures"), "2");
    let refused = client.cmd(&["SET", "k", "new"]);
    assert!(matches!(&refused, Value::Error(why) if why.starts_with("MISCONF")), "{refused:?}");
}

/// A save is finished and can not have its name, which is a folder's, or a file's that is mounted there. Nothing
/// of it stays, however often it is tried.
#[test]
fn a_save_without_its_name_leaves_nothing() {
    let folder = Folder::new();
    let mut daemon = Attempt::new(&["--dir", text(folder.path()), "--appendonly", "yes"]);
    let mut client = daemon.serving();
    fs::create_dir(folder.path().join("dump.rdb")).unwrap();
    client.ok(&["BGSAVE"]);
    let failed = || daemon.log().contains("Background rdb error: Is a directory");
    assert!(eventually(PATIENCE, failed), "{}", daemon.log());
    assert_eq!(temp_files(folder.path()), Vec::<PathBuf>::new());
}

/// Killed while a finished snapshot waits to become the base, because the log's own disk is full: the name
/// that it had until then goes at the next start.
#[test]
fn a_snapshot_that_waits_to_become_the_base_leaves_nothing() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let folder = Folder::new();
    std::os::unix::fs::symlink(disk.path(), folder.path().join("appendonlydir")).unwrap();
    let args = ["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    fill(daemon.port, 0);
    client.ok(&["BGSAVE"]);
    let waits = || !temp_files(folder.path()).is_empty() && folder.path().join("dump.rdb").exists();
    assert!(eventually(PATIENCE, waits), "{}", daemon.log());
    daemon.end(libc::SIGKILL);
    assert_ne!(temp_files(folder.path()), Vec::<PathBuf>::new());
    disk.resize(16);
    let mut daemon = Attempt::new(&args);
    daemon.serving();
    assert_eq!(temp_files(folder.path()), Vec::<PathBuf>::new());
}

/// The log's new base has no room: the old base and all segments stay in force.
#[test]
fn a_rewrite_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let dir = text(disk.path());
    let args = [
        "--dir",
        dir,
        "--appendonly",
        "yes",
        "--save",
        "",
        "--rdbcompression",
        "no",
        "--auto-aof-rewrite-percentage",
        "0",
    ];
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    for n in 0..1300 {
        client.ok(&[b"RPUSH".as_slice(), b"log", &item(n)]);
    }
    client.ok(&["BGREWRITEAOF"]);
    let failed = || daemon.log().contains("No space left on device");
    assert!(eventually(PATIENCE, failed), "{}", daemon.log());
    client.ok(&["RPUSH", "log2", "x"]);
    let gone = || temp_files(disk.path()).is_empty();
    assert!(eventually(PATIENCE, gone), "left: {:?}", temp_files(disk.path()));
    daemon.end(libc::SIGKILL);
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    holds(&mut client, 1300, 0);
    assert_eq!(client.cmd(&["LLEN", "log2"]).int(), 1);
}

/// The disk is full, and the operator turns the log off. It can not be closed either, so a start would go on
/// under the history's name from where the files end: what is written in memory has another.
#[test]
fn a_log_that_is_turned_off_on_a_full_disk_leaves_its_name() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let mut daemon = disk.daemon();
    let mut client = daemon.serving();
    let history = info(&mut client, "master_replid");
    fill(daemon.port, 0);
    client.ok(&["CONFIG", "SET", "appendonly", "no"]);
    assert!(daemon.log().contains("could not be closed"), "{}", daemon.log());
    client.ok(&["SET", "in", "memory"]);
    assert_eq!(info(&mut client, "master_replid2"), history);
    daemon.end(libc::SIGKILL);
    disk.resize(32);
    assert_eq!(info(&mut disk.daemon().serving(), "master_replid"), history);
}

/// A replica's disk takes no new file just when the RDB of a full sync is to become its log's base, and then
/// it is told to follow another primary. The first base must not become what the second primary sent.
#[test]
fn a_base_that_waits_for_room_is_not_the_next_primarys_rdb() {
    let Some(disk) = SmallDisk::new(64) else { return };
    let mut replica = disk.daemon();
    let mut client = replica.serving();
    let primaries = ["first", "second"].map(|name| {
        let primary = Server::varve().arg("--repl-diskless-sync-delay", "0").start();
        primary.client().ok(&["SET", "name", name]);
        primary
    });
    let follow = |client: &mut Client, primary: &Server| {
        client.ok(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
        let name = primary.client().cmd(&["GET", "name"]);
        let loaded = || client.cmd(&["GET", "name"]) == name;
        assert!(eventually(PATIENCE, loaded), "the full sync comes to nothing");
    };
    disk.leave_files(1);
    follow(&mut client, &primaries[0]);
    assert!(eventually(PATIENCE, || replica.log().contains("can't create")), "{}", replica.log());
    disk.leave_files(1);
    follow(&mut client, &primaries[1]);
    disk.leave_files(1000);
    let is_written = || info(&mut client, "aof_last_write_status") == "ok";
    assert!(eventually(PATIENCE, is_written), "{}", replica.log());
    let history = primaries[1].info("master_replid");
    let manifest = disk.path().join("appendonlydir/appendonly.aof.manifest");
    let is_named = || fs::read_to_string(&manifest).unwrap().contains(&history);
    assert!(eventually(PATIENCE, is_named), "{}", replica.log());
    replica.end(libc::SIGKILL);
    assert_eq!(disk.daemon().serving().cmd(&["GET", "name"]), Value::bulk("second"));
}
