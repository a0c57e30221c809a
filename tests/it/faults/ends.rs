//! Ends that come at a bad moment, and forks under load.

use super::*;
use crate::support::client::encode;
use crate::support::{dataset, env_number};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Many keys in little time: `keys` strings of 100 bytes.
fn populate(client: &mut Client, keys: usize) {
    let mut random = Random::new(1);
    let mut request = Vec::new();
    for from in (0..keys).step_by(1000) {
        request.clear();
        let mut args: Vec<Vec<u8>> = vec![b"MSET".to_vec()];
        for n in from..keys.min(from + 1000) {
            args.push(format!("key:{n}").into_bytes());
            args.push(random.bytes(100));
        }
        encode(&mut request, &args);
        client.send_raw(&request);
        assert_eq!(client.recv(), Value::ok());
    }
}

/// Pushes numbers until the link ends. How many were acknowledged.
fn push_until_the_end(port: u16, key: &str, acknowledged: &AtomicUsize) {
    let Ok(mut client) = Client::try_connect(port) else { return };
    loop {
        let n = acknowledged.load(Relaxed).to_string();
        match client.try_cmd(&["RPUSH", key, &n]) {
            Ok(Value::Int(_)) => drop(acknowledged.fetch_add(1, Relaxed)),
            // Held or refused at the very end.
            Ok(_) | Err(_) => return,
        }
    }
}

fn list_holds(client: &mut Client, key: &str, acknowledged: usize) {
    let list = client.cmd(&["LRANGE", key, "0", "-1"]).byte_items();
    let found = list.len();
    assert!(found == acknowledged || found == acknowledged + 1, "{found} of {acknowledged}");
    for (n, item) in list.iter().enumerate() {
        assert_eq!(*item, n.to_string().as_bytes());
    }
}

/// Killed while a child writes a snapshot, and started again at once, on the same port and folder: what
/// the child held of its parent's went with that.
#[test]
fn a_start_right_after_a_kill_is_not_in_the_way_of_the_dead() {
    let folder = Folder::new();
    let mut args = vec!["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    args.extend(["--auto-aof-rewrite-percentage", "0"]); // the test's own child is the only one
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    populate(&mut client, 1_500_000);
    let mut idle = Client::connect(daemon.port);
    client.ok(&["BGREWRITEAOF"]);
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    let holds = || {
        let child = fs::read_to_string(&children).unwrap().trim().to_owned();
        let open =
            fs::read_dir(format!("/proc/{child}/fd"))?.map(|entry| entry?.path().read_link());
        open.collect::<std::io::Result<Vec<PathBuf>>>()
    };
    let mut held = Vec::new();
    let is_parents = |path: &PathBuf| {
        let path = text(path);
        path.ends_with("varve.lock") || path.starts_with("socket:")
    };
    let let_go = || {
        held = holds().unwrap_or_default();
        !held.is_empty() && !held.iter().any(is_parents)
    };
    assert!(eventually(PATIENCE, let_go), "the child holds {held:?}");
    let port = daemon.port.to_string();
    args.extend(["--port", &port]);
    daemon.end(libc::SIGKILL);
    let mut again = Attempt::new(&args);
    again.port = daemon.port;
    assert_eq!(again.serving().cmd(&["DBSIZE"]), Value::Int(1_500_000));
    assert!(idle.try_cmd(&["PING"]).is_err());
}

/// A service manager stops the daemon while clients write as fast as they can.
fn ends_under_load(signal: i32) {
    let mut server = Server::varve().arg("--appendonly", "yes").start();
    let counts: [AtomicUsize; 4] = Default::default();
    let port = server.port();
    std::thread::scope(|scope| {
        for (n, count) in counts.iter().enumerate() {
            scope.spawn(move || push_until_the_end(port, &format!("l{n}"), count));
        }
        let enough = || counts.iter().all(|count| count.load(Relaxed) > 200);
        assert!(eventually(PATIENCE, enough), "the writers write");
        server.signal(signal);
        assert_eq!(server.wait_end().code(), Some(0), "{}", server.log());
    });
    assert_eq!(temp_files(&server.dir()), Vec::<PathBuf>::new());
    assert!(server.log().contains("ready to exit"), "{}", server.log());
    server.restart();
    let mut client = server.client();
    for (n, count) in counts.iter().enumerate() {
        list_holds(&mut client, &format!("l{n}"), count.load(Relaxed));
    }
}

#[test]
fn sigterm_under_load_ends_in_good_order() {
    ends_under_load(libc::SIGTERM);
}

#[test]
fn sigint_under_load_ends_in_good_order() {
    ends_under_load(libc::SIGINT);
}

/// An operator does not want to wait for the save that a shutdown has begun. Only a second `SIGINT` cuts it
/// short: of the save nothing stays, and of what was acknowledged everything.
#[test]
fn a_second_sigint_cuts_the_save_short() {
    for first in [libc::SIGINT, libc::SIGTERM] {
        let mut server = Server::varve().arg("--appendonly", "yes").start();
        let mut client = server.client();
        populate(&mut client, 5_000);
        client.ok(&["CONFIG", "SET", "save", "3600 1", "rdb-key-save-delay", "10000"]);
        client.ok(&["SET", "last", "write"]);
        server.signal(first);
        let saves = || temp_files(&server.dir()).iter().any(|path| text(path).ends_with(".rdb"));
        assert!(eventually(PATIENCE, saves), "{}", server.log());
        let began = Instant::now();
        server.signal(libc::SIGTERM);
        std::thread::sleep(Duration::from_millis(200));
        assert!(saves(), "a second SIGTERM ends nothing: {}", server.log());
        server.signal(libc::SIGINT);
        assert_eq!(server.wait_end().code(), Some(1), "{}", server.log());
        assert!(began.elapsed() < Duration::from_secs(20), "it saved: {}", server.log());
        assert!(server.log().contains("You insist... exiting now."), "{}", server.log());
        assert_eq!(temp_files(&server.dir()), Vec::<PathBuf>::new());
        assert!(!server.dir().join("dump.rdb").exists());
        server.restart();
        let mut client = server.client();
        assert_eq!(client.cmd(&["DBSIZE"]).int(), 5_001);
        assert_eq!(client.cmd(&["GET", "last"]), Value::bulk("write"));
    }
}

/// `SHUTDOWN` is no signal: the first `SIGINT` that comes while it saves is the first.
#[test]
fn a_save_that_a_client_asked_for_takes_two_sigints() {
    let mut server = Server::varve().arg("--appendonly", "yes").start();
    let mut client = server.client();
    populate(&mut client, 5_000);
    client.ok(&["CONFIG", "SET", "rdb-key-save-delay", "10000"]);
    client.send_raw(b"SHUTDOWN SAVE\r\n");
    let saves = || temp_files(&server.dir()).iter().any(|path| text(path).ends_with(".rdb"));
    assert!(eventually(PATIENCE, saves), "{}", server.log());
    server.signal(libc::SIGINT);
    let heard = || server.log().contains("Received SIGINT scheduling shutdown...");
    assert!(eventually(PATIENCE, heard), "{}", server.log());
    std::thread::sleep(Duration::from_millis(200));
    assert!(saves(), "it ended nothing: {}", server.log());
    server.signal(libc::SIGINT);
    assert_eq!(server.wait_end().code(), Some(1), "{}", server.log());
    assert_eq!(temp_files(&server.dir()), Vec::<PathBuf>::new());
}

/// A shutdown waits for a replica that hangs. A second `SIGTERM` changes nothing: without a log on disk, the
/// save that is to come is all there will be. A second `SIGINT` ends the process, and the child that it has.
#[test]
fn a_second_sigint_ends_the_waiting_for_replicas_and_a_second_sigterm_does_not() {
    let mut server = Server::varve()
        .arg("--appendonly", "no")
        .arg("--save", "3600 1")
        .arg("--shutdown-timeout", "600")
        .start();
    let replica = Server::varve().replica_of(server.port()).start();
    let mut client = server.client();
    populate(&mut client, 1_000);
    assert!(eventually(PATIENCE, || replica.info("master_link_status") == "up"));
    replica.signal(libc::SIGSTOP);
    client.ok(&["CONFIG", "SET", "rdb-key-save-delay", "10000"]);
    client.ok(&["SET", "k", "v"]);
    client.ok(&["BGSAVE"]);
    let waits =
        || server.log().to_lowercase().contains("waiting for replicas before shutting down");
    server.signal(libc::SIGTERM);
    assert!(eventually(PATIENCE, waits), "{}", server.log());
    server.signal(libc::SIGTERM);
    let signals = || server.log().matches("Received SIGTERM").count();
    assert!(eventually(PATIENCE, || signals() == 2), "{}", server.log());
    std::thread::sleep(Duration::from_millis(500));
    client.ok(&["PING"]);
    server.signal(libc::SIGINT);
    assert_eq!(server.wait_end().code(), Some(1), "{}", server.log());
    // Redis leaves its child to itself.
    if !Server::is_stand_in() {
        assert!(eventually(PATIENCE, || works_in(&server.dir()) == 0), "a child lives on");
        assert_eq!(temp_files(&server.dir()), Vec::<PathBuf>::new());
    }
}

/// The end comes while a child saves: the child goes, and its file, too.
#[test]
fn sigterm_while_a_child_saves() {
    for command in ["BGSAVE", "BGREWRITEAOF"] {
        let mut server = Server::varve().arg("--appendonly", "yes").start();
        let mut client = server.client();
        populate(&mut client, 100_000);
        client.ok(&[command]);
        let before = client.cmd(&["DBSIZE"]);
        assert!(works_in(&server.dir()) > 0, "{command}: the daemon itself was not found");
        assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
        let none = || works_in(&server.dir()) == 0;
        assert!(eventually(PATIENCE, none), "{command}: a child lives on");
        assert_eq!(temp_files(&server.dir()), Vec::<PathBuf>::new(), "{command}");
        server.restart();
        assert_eq!(server.client().cmd(&["DBSIZE"]), before, "{command}");
    }
}

/// How many processes have `dir` as their working folder: the daemon, and children of it.
fn works_in(dir: &std::path::Path) -> usize {
    let dir = fs::canonicalize(dir).unwrap();
    let cwd = |process: fs::DirEntry| fs::read_link(process.path().join("cwd"));
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|p| cwd(p).ok()).filter(|cwd| *cwd == dir).count()
}

/// The end comes while a replica is sent everything, and takes it slowly.
#[test]
fn sigterm_during_a_full_sync() {
    for diskless in ["yes", "no"] {
        let mut server = Server::varve()
            .arg("--appendonly", "yes")
            .arg("--repl-diskless-sync", diskless)
            .start();
        let mut client = server.client();
        populate(&mut client, 200_000);
        let mut replica = server.client();
        replica.ok(&["REPLCONF", "listening-port", "1", "capa", "eof", "capa", "psync2"]);
        replica.send_raw(b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n");
        let syncing = || server.log().to_lowercase().contains("sync");
        assert!(eventually(PATIENCE, syncing), "{}", server.log());
        std::thread::sleep(Duration::from_millis(100));
        client.ok(&["SET", "last", "write"]);
        assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
        assert_eq!(temp_files(&server.dir()), Vec::<PathBuf>::new(), "diskless {diskless}");
        drop(replica);
        server.restart();
        let mut client = server.client();
        assert_eq!(client.cmd(&["DBSIZE"]).int(), 200_001, "diskless {diskless}");
        assert_eq!(client.cmd(&["GET", "last"]), Value::bulk("write"));
    }
}

/// The end comes while the dataset is loaded: at once, and nothing on disk is changed.
#[test]
fn sigterm_while_loading() {
    let folder = Folder::new();
    let args = ["--dir", text(folder.path()), "--save", "3600 1", "--appendonly", "no"];
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    populate(&mut client, 300_000);
    client.ok(&["SAVE"]);
    daemon.end(libc::SIGKILL);
    let dump = fs::read(folder.path().join("dump.rdb")).unwrap();
    let mut daemon = Attempt::new(&args);
    assert!(eventually(PATIENCE, || daemon.log().contains("starting")), "{}", daemon.log());
    std::thread::sleep(Duration::from_millis(30));
    daemon.end(libc::SIGTERM);
    assert!(fs::read(folder.path().join("dump.rdb")).unwrap() == dump, "the dump has changed");
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    let loaded = || client.cmd(&["DBSIZE"]) == Value::Int(300_000);
    assert!(eventually(PATIENCE, loaded), "{}", daemon.log());
}

/// The same while the RDB is loaded that an append-only file from before Redis 7 begins with.
#[test]
fn sigterm_while_an_old_append_only_file_is_loaded() {
    let folder = Folder::new();
    let args = ["--dir", text(folder.path()), "--save", "", "--appendonly"];
    let mut daemon = Attempt::new(&[&args[..], &["no"]].concat());
    let mut client = daemon.serving();
    populate(&mut client, 3000);
    client.ok(&["SAVE"]);
    daemon.end(libc::SIGKILL);
    fs::rename(folder.path().join("dump.rdb"), folder.path().join("appendonly.aof")).unwrap();
    let slow = [&args[..], &["yes", "--key-load-delay", "10000"]].concat();
    let mut daemon = Attempt::new(&slow);
    let loads = || daemon.log().contains("Loading the log's base");
    assert!(eventually(PATIENCE, loads), "{}", daemon.log());
    assert_eq!(daemon.end(libc::SIGTERM), Some(0), "{}", daemon.log());
    let mut daemon = Attempt::new(&[&args[..], &["yes"]].concat());
    assert_eq!(daemon.serving().cmd(&["DBSIZE"]), Value::Int(3000));
}

/// `SHUTDOWN` with and without a save; what was not saved and not logged is gone, the rest is not.
#[test]
fn shutdown_saves_or_not_as_told() {
    let mut server = Server::varve().arg("--appendonly", "no").start();
    let mut client = server.client();
    client.ok(&["SET", "k", "saved"]);
    assert!(client.try_cmd(&["SHUTDOWN", "SAVE"]).is_err(), "it answers nothing");
    assert_eq!(server.wait_end().code(), Some(0));
    server.restart();
    let mut client = server.client();
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("saved"));
    client.ok(&["SET", "k", "lost"]);
    assert!(client.try_cmd(&["SHUTDOWN", "NOSAVE"]).is_err(), "it answers nothing");
    assert_eq!(server.wait_end().code(), Some(0));
    server.restart();
    let mut client = server.client();
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("saved"));
    assert!(client.cmd(&["SHUTDOWN", "MAYBE"]).is_error());
    assert!(client.cmd(&["SHUTDOWN", "ABORT"]).is_error());
    assert_eq!(temp_files(&server.dir()), Vec::<PathBuf>::new());
}

/// An init script starts it as a daemon of its own and finds it by its pid file. That and the log file
/// are in its folder, where Redis has them, wherever it was started.
#[test]
fn a_daemonized_server_is_found_by_its_pid_file() {
    let folder = Folder::new();
    let (pidfile, logfile) = (folder.path().join("varve.pid"), folder.path().join("varve.log"));
    let mut starter = Attempt::new(&[
        "--dir",
        text(folder.path()),
        "--daemonize",
        "yes",
        "--pidfile",
        "varve.pid",
        "--logfile",
        "varve.log",
    ]);
    let port = starter.port;
    let mut client = None;
    let up = eventually(PATIENCE, || {
        client = Client::try_connect(port).ok();
        client.is_some()
    });
    assert!(up, "{}", fs::read_to_string(&logfile).unwrap_or_default());
    assert_eq!(starter.child.wait().unwrap().code(), Some(0), "the starter");
    let pid: i32 = fs::read_to_string(&pidfile).unwrap().trim().parse().unwrap();
    assert_ne!(pid as u32, starter.pid());
    client.unwrap().ok(&["PING"]);
    // SAFETY: the daemon of this test's own folder.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    assert!(eventually(PATIENCE, || !pidfile.exists()), "the pid file stays");
    let gone = || fs::read_to_string(&logfile).unwrap().contains("bye bye");
    assert!(eventually(PATIENCE, gone), "{}", fs::read_to_string(&logfile).unwrap());
}

/// A fork copies one thread of many: whatever lock another held would stay held in the child. So:
/// `VARVE_FORKS` snapshots in a row under writers, each tenth for a new base of the log (which else
/// would only grow). No child hangs, and Redis's own checker finds each file in order.
#[test]
fn forks_while_busy_never_hang() {
    let forks = env_number("VARVE_FORKS").unwrap_or(30);
    let server = Server::varve().arg("--appendonly", "yes").arg("--io-threads", "3").start();
    let mut client = server.client();
    populate(&mut client, 5_000);
    let stop = AtomicBool::new(false);
    let port = server.port();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let stop = &stop;
            scope.spawn(move || {
                let mut client = Client::connect(port);
                let mut random = Random::new(writer);
                while !stop.load(Relaxed) {
                    let key = format!("w{writer}:{}", random.below(500));
                    let len = *random.pick(&[10, 100, 1_000, 40_000]);
                    client.ok(&[b"SET".as_slice(), key.as_bytes(), &random.bytes(len)]);
                    let list = format!("l{writer}");
                    client.ok(&["RPUSH", &list, &key]);
                    client.ok(&["LTRIM", &list, "-1000", "-1"]);
                    client.ok(&["HSET", &format!("h{writer}"), &key, "x"]);
                }
            });
        }
        let mut run = || -> Result<(), String> {
            for n in 0..forks {
                if n % 10 == 9 {
                    let reply = client.cmd(&["BGREWRITEAOF"]);
                    let ended = eventually(PATIENCE, || {
                        crate::support::server::info(&mut client, "aof_rewrite_in_progress") == "0"
                    });
                    if reply.is_error() || !ended {
                        return Err(format!("rewrite {n}: {reply:?}, ended: {ended}"));
                    }
                    continue;
                }
                let before = fs::metadata(server.dir().join("dump.rdb")).ok();
                let reply = client.cmd(&["BGSAVE"]);
                if reply.is_error() {
                    return Err(format!("BGSAVE {n}: {reply:?}"));
                }
                let ended = eventually(PATIENCE, || {
                    crate::support::server::info(&mut client, "rdb_bgsave_in_progress") == "0"
                });
                if !ended {
                    return Err(format!("child {n} hangs"));
                }
                use std::os::unix::fs::MetadataExt;
                let after =
                    fs::metadata(server.dir().join("dump.rdb")).map_err(|e| e.to_string())?;
                if before
                    .is_some_and(|m| (m.ino(), m.mtime_nsec()) == (after.ino(), after.mtime_nsec()))
                {
                    return Err(format!("save {n} left the old file: {}", server.log()));
                }
                let checked = Command::new("redis-check-rdb")
                    .arg(server.dir().join("dump.rdb"))
                    .output()
                    .map_err(|e| format!("run redis-check-rdb: {e}"))?;
                if !checked.status.success() {
                    return Err(format!("{n}: {}", String::from_utf8_lossy(&checked.stdout)));
                }
            }
            Ok(())
        };
        let result = run();
        stop.store(true, Relaxed);
        if let Err(why) = result {
            panic!("{why}\n{}", server.log());
        }
    });
    let before = dataset(&mut client);
    let mut server = server;
    server.restart();
    assert!(dataset(&mut server.client()) == before, "the restart has other data");
}
