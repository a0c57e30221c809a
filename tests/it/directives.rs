//! Directives and client flags that work in the background: each must be seen to do something, and
//! to do nothing when it is off.

use crate::faults::{Attempt, text};
use crate::support::client::encode;
use crate::support::server::{free_port, listen};
use crate::support::{
    Client, Folder, PATIENCE, Server, Value, caught_up, dataset, eventually, first_difference,
};
use socket2::SockRef;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub fn process_file(pid: u32, name: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// The pid of a server's child that saves.
fn child_of(pid: u32) -> Option<u32> {
    process_file(pid, &format!("task/{pid}/children")).split_whitespace().next()?.parse().ok()
}

pub fn signal(pid: u32, signal: i32) {
    // SAFETY: plain integers; the callers name a child that lives until they let it go on.
    assert_eq!(unsafe { libc::kill(pid as libc::pid_t, signal) }, 0);
}

/// Starts a child by `command` and stops it in its tracks.
pub fn stopped_child(server: &Server, client: &mut Client, command: &str) -> u32 {
    client.ok(&["DEBUG", "POPULATE", "500000"]);
    client.ok(&[command]);
    let child = child_of(server.pid()).expect("a child works");
    signal(child, libc::SIGSTOP);
    child
}

pub fn no_child(server: &Server) {
    let ended = eventually(PATIENCE, || {
        server.info("rdb_bgsave_in_progress") == "0"
            && server.info("aof_rewrite_in_progress") == "0"
            && server.info("aof_rewrite_scheduled") == "0"
    });
    assert!(ended, "the child goes on for ever");
}

/// The configuration that Debian's package installs must start this daemon, as that of somebody who
/// changes over.
#[test]
fn the_stock_configuration_of_debian_starts() {
    let stock = Path::new("/etc/redis/redis.conf");
    let Ok(words) = fs::read_to_string(stock) else {
        return eprintln!("skipped, it can not be read: {}", stock.display());
    };
    let folder = Folder::new();
    let conf = folder.path().join("redis.conf");
    // Only its places are another process's.
    let own: String = words
        .lines()
        .filter(|line| {
            !["dir ", "logfile ", "pidfile ", "daemonize "].iter().any(|d| line.starts_with(d))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&conf, own + &format!("dir {}\n", text(folder.path()))).unwrap();
    let mut command = Command::new(Server::program());
    command.arg(&conf);
    let mut daemon = Attempt::of(command, &[]);
    let mut client = daemon.serving();
    assert_eq!(client.cmd(&["CONFIG", "GET", "crash-log-enabled"]).items()[1], Value::bulk("yes"));
    client.ok(&["SET", "k", "v"]);
    client.ok(&["CONFIG", "REWRITE"]);
    assert_eq!(daemon.end(libc::SIGTERM), Some(0), "{}", daemon.log());
    assert!(folder.path().join("dump.rdb").exists(), "its save points are in force");
}

/// A password that a generator made, and folders named in the character set of an older system: no
/// value has to be UTF-8, in the file, on the command line or over the wire, nor in the file that is
/// rewritten.
#[test]
fn values_may_be_any_bytes() {
    const ODD: &[u8] = b"caf\xe9 \xff\x01'";
    let (odd, dump) = (OsStr::from_bytes(ODD), OsStr::from_bytes(b"\xfe.rdb"));
    let folder = Folder::new();
    let dir = folder.path().join(odd);
    fs::create_dir(&dir).unwrap();
    let conf = folder.path().join("varve.conf");
    let line =
        |name: &str, value: &OsStr| [name.as_bytes(), b" \"", value.as_bytes(), b"\"\n"].concat();
    let lines = [
        line("dir", dir.as_os_str()),
        line("logfile", dir.join("log").as_os_str()),
        line("pidfile", dir.join("pid").as_os_str()),
        line("unixsocket", dir.join("socket").as_os_str()),
    ];
    fs::write(&conf, lines.concat()).unwrap();
    let start = || {
        let mut command = Command::new(Server::program());
        command
            .arg(&conf)
            .args(["--appendonly", "yes", "--appenddirname"])
            .arg(odd)
            .arg("--dbfilename")
            .arg(dump);
        Attempt::of(command, &[])
    };
    let mut daemon = start();
    let mut client = daemon.serving();
    client.ok(&["SET", "k", "v"]);
    client.ok(&["SAVE"]);
    for name in ["log", "pid", "socket"].map(OsStr::new).into_iter().chain([odd, dump]) {
        assert!(dir.join(name).exists(), "{name:?}");
    }
    client.ok(&[&b"CONFIG"[..], b"SET", b"masterauth", ODD, b"proc-title-template", ODD]);
    assert!(fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap().starts_with(ODD));
    client.ok(&["CONFIG", "REWRITE"]);
    let rewritten = fs::read(&conf).unwrap();
    let quoted = r#"masterauth "caf\xe9 \xff\x01'""#;
    assert!(String::from_utf8_lossy(&rewritten).contains(quoted), "{}", rewritten.escape_ascii());
    assert_eq!(daemon.end(libc::SIGTERM), Some(0), "{}", daemon.log());

    let mut daemon = start();
    let mut client = daemon.serving();
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("v"));
    for name in ["masterauth", "proc-title-template", "appenddirname"] {
        assert_eq!(client.cmd(&["CONFIG", "GET", name]).items()[1], Value::bulk(ODD), "{name}");
    }
    client.ok(&[&b"CONFIG"[..], b"SET", b"requirepass", ODD]);
    let mut stranger = Client::connect(daemon.port);
    assert!(stranger.cmd(&[&b"AUTH"[..], b"caf\xe9"]).is_error());
    stranger.ok(&[&b"AUTH"[..], ODD]);
    let replica = Server::start();
    let mut other = replica.client();
    other.ok(&[&b"CONFIG"[..], b"SET", b"masterauth", ODD]);
    other.ok(&["REPLICAOF", "127.0.0.1", &daemon.port.to_string()]);
    let came = || other.cmd(&["GET", "k"]) == Value::bulk("v");
    assert!(eventually(PATIENCE, came), "{}", replica.log());

    // What can be no such value says so.
    for (name, why) in [
        ("hz", "argument couldn't be parsed into an integer"),
        ("loglevel", "one of the following"),
    ] {
        let reply = client.cmd(&[&b"CONFIG"[..], b"SET", name.as_bytes(), ODD]);
        assert!(matches!(&reply, Value::Error(e) if e.contains(why)), "{name}: {reply:?}");
    }
}

/// A snapshot keeps the disk busy. With `no-appendfsync-on-rewrite` nothing is synced meanwhile, and
/// what may then be missing after a power cut is not called lossless; afterwards all is as before.
#[test]
fn syncs_rest_while_a_child_works_if_told_so() {
    for policy in ["always", "everysec"] {
        let server = Server::varve()
            .arg("--appendonly", "yes")
            .arg("--appendfsync", policy)
            .arg("--no-appendfsync-on-rewrite", "yes")
            .start();
        let mut client = server.client();
        let recorded = || {
            let path = server.dir().join("appendonlydir/appendonly.aof.manifest");
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("# varve fsync "));
            line.unwrap_or_default().to_owned()
        };
        client.ok(&["SET", "k", "1"]);
        assert_eq!(client.cmd(&["WAITAOF", "1", "0", "10000"]).items()[0].int(), 1);
        assert_eq!(recorded(), policy);
        let child = stopped_child(&server, &mut client, "BGSAVE");
        assert!(eventually(PATIENCE, || recorded() == "no"), "{}", recorded());
        client.ok(&["SET", "k", "2"]);
        let synced = client.cmd(&["WAITAOF", "1", "0", "1500"]).items()[0].int();
        assert_eq!(synced, 0, "{policy}: it was synced while a child works");
        // Changed at runtime, it counts at once.
        client.ok(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "no"]);
        client.ok(&["SET", "k", "3"]);
        assert_eq!(client.cmd(&["WAITAOF", "1", "0", "10000"]).items()[0].int(), 1, "{policy}");
        client.ok(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "yes"]);
        assert!(eventually(PATIENCE, || recorded() == "no"), "{}", recorded());
        signal(child, libc::SIGCONT);
        no_child(&server);
        client.ok(&["SET", "k", "4"]);
        assert_eq!(client.cmd(&["WAITAOF", "1", "0", "10000"]).items()[0].int(), 1, "{policy}");
        assert!(eventually(PATIENCE, || recorded() == policy), "{}", recorded());
    }
}

/// The log is turned on, and its first base is still to come: `WAITAOF` waits for that. It is turned off
/// under a client that waits: nothing is going to be synced.
#[test]
fn waitaof_follows_the_log_on_and_off() {
    let server = Server::varve().arg("--appendonly", "no").arg("--appendfsync", "no").start();
    let mut client = server.client();
    client.ok(&["SET", "k", "1"]);
    client.ok(&["CONFIG", "SET", "rdb-key-save-delay", "100000"]);
    client.ok(&["CONFIG", "SET", "appendonly", "yes"]);
    assert_eq!(
        client.cmd(&["WAITAOF", "1", "0", "0"]),
        Value::Array(vec![Value::Int(1), Value::Int(0)])
    );
    client.ok(&["SET", "k", "2"]);
    let mut waiting = server.client();
    waiting.ok(&["SET", "k", "3"]);
    waiting.send_raw(b"*4\r\n$7\r\nWAITAOF\r\n$1\r\n1\r\n$1\r\n0\r\n$1\r\n0\r\n");
    assert!(eventually(PATIENCE, || server.info("blocked_clients") == "1"));
    client.ok(&["CONFIG", "SET", "appendonly", "no"]);
    let reply = waiting.recv();
    assert!(
        matches!(&reply, Value::Error(why) if why.contains("appendonly is disabled")),
        "{reply:?}"
    );
}

/// The form of the log's base is another from the next rewrite on, and not for the one that is under way.
#[test]
fn a_base_is_named_for_what_it_holds() {
    for form in ["yes", "no"] {
        let builder = Server::varve().arg("--appendonly", "yes");
        let mut server = builder.arg("--aof-use-rdb-preamble", form).start();
        let mut client = server.client();
        let child = stopped_child(&server, &mut client, "BGREWRITEAOF");
        let other = if form == "yes" { "no" } else { "yes" };
        client.ok(&["CONFIG", "SET", "aof-use-rdb-preamble", other]);
        signal(child, libc::SIGCONT);
        no_child(&server);
        server.restart();
        assert_eq!(server.client().ok(&["DBSIZE"]).int(), 500_000);
        let names = fs::read_dir(server.dir().join("appendonlydir")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let base = names.filter(|name| name.contains(".base.")).max().unwrap();
        assert!(base.ends_with(if form == "yes" { ".rdb" } else { ".aof" }), "{base}");
    }
}

/// How often and how long ago a key was used says what is evicted: a restart does not make all of them old.
#[test]
fn a_restart_keeps_when_keys_were_used() {
    for appendonly in ["no", "yes"] {
        for policy in ["allkeys-lfu", "allkeys-lru"] {
            let builder = Server::varve().arg("--appendonly", appendonly);
            let builder = builder.arg("--maxmemory", "1gb").arg("--maxmemory-policy", policy);
            let mut server = builder.arg("--lfu-decay-time", "600").start();
            let mut client = server.client();
            client.ok(&["SET", "k", "v"]);
            (0..300).for_each(|_| drop(client.ok(&["GET", "k"])));
            let word = if policy == "allkeys-lfu" { "FREQ" } else { "IDLETIME" };
            let before = client.ok(&["OBJECT", word, "k"]).int();
            client.ok(&["BGSAVE"]);
            no_child(&server);
            server.restart();
            let after = server.client().ok(&["OBJECT", word, "k"]).int();
            match word {
                "FREQ" => assert_eq!(after, before, "appendonly {appendonly}"),
                _ => assert!(after < 3600, "appendonly {appendonly}: {after} seconds"),
            }
        }
    }
}

/// The log's new base is no snapshot that `SAVE` would be in the way of.
#[test]
fn a_save_does_not_wait_for_a_rewrite() {
    let server = Server::varve().arg("--appendonly", "yes").arg("--save", "").start();
    let mut client = server.client();
    client.ok(&["SET", "k", "1"]);
    let child = stopped_child(&server, &mut client, "BGREWRITEAOF");
    client.ok(&["SAVE"]);
    assert_eq!(server.info("rdb_saves"), "1");
    assert!(server.dir().join("dump.rdb").exists());
    signal(child, libc::SIGCONT);
    no_child(&server);
    let child = stopped_child(&server, &mut client, "BGSAVE");
    assert!(client.cmd(&["SAVE"]).is_error());
    signal(child, libc::SIGCONT);
    no_child(&server);
}

/// What is written in one go is synced in one go: minutes of a busy disk at the end of a snapshot.
#[test]
fn snapshots_are_synced_on_the_way() {
    let server = Server::varve().arg("--appendonly", "yes").arg("--rdbcompression", "no").start();
    let mut client = server.client();
    client.ok(&["DEBUG", "POPULATE", "30000", "key", "1000"]);
    let mut run = |rdb: &str, aof: &str, command: &str| -> u64 {
        client.ok(&["CONFIG", "SET", "rdb-save-incremental-fsync", rdb]);
        client.ok(&["CONFIG", "SET", "aof-rewrite-incremental-fsync", aof]);
        let done = server.log().matches("pieces synced").count();
        client.ok(&[command]);
        no_child(&server);
        assert!(eventually(PATIENCE, || server.log().matches("pieces synced").count() > done));
        let log = server.log();
        let line = log.lines().rev().find(|line| line.contains("pieces synced")).unwrap();
        let word = line.split(", ").last().unwrap().split(' ').next().unwrap();
        word.parse().unwrap_or_else(|_| panic!("{line}"))
    };
    assert!((6..=8).contains(&run("yes", "no", "BGSAVE")));
    assert_eq!(run("no", "yes", "BGSAVE"), 0);
    assert!((6..=8).contains(&run("no", "yes", "BGREWRITEAOF")));
    assert_eq!(run("yes", "no", "BGREWRITEAOF"), 0);
}

/// A cache that keeps nothing on disk must not leave its data there because of a replica.
#[test]
fn full_syncs_leave_no_files_if_told_so() {
    for remove in ["yes", "no"] {
        let alone = |builder: crate::support::server::Builder| {
            builder.arg("--appendonly", "no").arg("--rdb-del-sync-files", remove).start()
        };
        let primary = alone(Server::varve().arg("--repl-diskless-sync", "no"));
        primary.client().ok(&["SET", "k", "v"]);
        let port = primary.port().to_string();
        let replica = alone(Server::varve());
        replica.client().ok(&["REPLICAOF", "127.0.0.1", &port]);
        let there = || replica.client().cmd(&["GET", "k"]) == Value::bulk("v");
        assert!(eventually(PATIENCE, there), "{}", replica.log());
        for server in [&primary, &replica] {
            let dump = server.dir().join("dump.rdb");
            if remove == "no" {
                assert!(eventually(PATIENCE, || dump.exists()), "{}", server.log());
            } else {
                assert!(eventually(PATIENCE, || !dump.exists()), "{}", server.log());
                assert!(server.log().contains("Removing the RDB file"), "{}", server.log());
            }
        }
        // A dump that was asked for is not touched.
        primary.client().ok(&["SAVE"]);
        std::thread::sleep(Duration::from_millis(300));
        assert!(primary.dir().join("dump.rdb").exists());
    }
}

/// Fills a server to well over `maxmemory`, then lets one command meet that.
fn evicted_by_one_command(tenacity: &str) -> (Server, u64) {
    let server = Server::varve().arg("--hz", "1").start();
    let mut client = server.client();
    client.ok(&["DEBUG", "POPULATE", "40000", "key", "500"]);
    let used: u64 = server.info("used_memory").parse().unwrap();
    client.ok(&["CONFIG", "SET", "maxmemory-eviction-tenacity", tenacity]);
    client.ok(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    let limit = (used - (10 << 20)).to_string();
    // One request after the other in one packet: no turn of the loop comes between.
    let mut request = Vec::new();
    encode(&mut request, &["CONFIG", "SET", "maxmemory", &limit]);
    encode(&mut request, &["DBSIZE"]);
    client.send_raw(&request);
    assert_eq!(client.recv(), Value::ok());
    let left = client.recv().int() as u64;
    (server, 40_000 - left)
}

/// Memory is far over its limit: how long one command is held up by that is the operator's choice,
/// and the rest is evicted without any command.
#[test]
fn eviction_is_as_tenacious_as_told() {
    let enough = 10_000;
    let (_, at_once) = evicted_by_one_command("100");
    assert!(at_once > enough, "{at_once} keys");
    let (server, briefly) = evicted_by_one_command("0");
    // Sixteen keys for each of the two commands, and one more look at most.
    assert!((16..=64).contains(&briefly), "{briefly} keys");
    let all = || {
        let number = |field: &str| server.info(field).parse::<u64>().unwrap();
        number("used_memory") <= number("maxmemory") + (1 << 20)
    };
    assert!(eventually(PATIENCE, all), "what was left is not evicted");
    let gone: u64 = server.info("evicted_keys").parse().unwrap();
    assert!(gone > enough, "{gone} keys");
    assert_ne!(server.info("total_eviction_exceeded_time"), "");
}

/// An operator with several instances tells them apart in `ps`, and sees which one saves.
#[test]
fn ps_shows_a_title() {
    let server = Server::varve()
        .arg("--proc-title-template", "{title} {listen-addr} {server-mode}of {port}")
        .start();
    let mut client = server.client();
    let program = Server::program();
    let port = server.port();
    let shown = || process_file(server.pid(), "cmdline");
    assert_eq!(shown(), format!("{} 127.0.0.1:{port} of {port}", program.display()));
    client.ok(&["CONFIG", "SET", "proc-title-template", "here is {title}"]);
    assert_eq!(shown(), format!("here is {}", program.display()));
    let long = "x".repeat(100_000);
    client.ok(&["CONFIG", "SET", "proc-title-template", &long]);
    assert!(shown().len() > program.as_os_str().len() && long.starts_with(&shown()), "{}", shown());
    client.ok(&["CONFIG", "SET", "proc-title-template", "{title} saves"]);
    let child = stopped_child(&server, &mut client, "BGSAVE");
    // It may have been stopped before it came to its title.
    let titled = || {
        signal(child, libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(1));
        signal(child, libc::SIGSTOP);
        process_file(child, "cmdline") == "varve-rdb-bgsave saves"
    };
    assert!(eventually(PATIENCE, titled), "{}", process_file(child, "cmdline"));
    signal(child, libc::SIGCONT);
    no_child(&server);
    // The environment works although its place was taken.
    assert!(client.cmd(&["SORT", "l", "ALPHA"]).items().is_empty());

    let plain = Server::varve().arg("--set-proc-title", "no").start();
    plain.client().ok(&["CONFIG", "SET", "proc-title-template", "x"]);
    assert!(process_file(plain.pid(), "cmdline").contains("--set-proc-title\0no"));
}

#[test]
fn the_logo_is_shown_if_told_so() {
    assert!(Server::varve().arg("--always-show-logo", "yes").start().log().contains("Port: "));
    assert!(!Server::start().log().contains("Port: "));
}

/// The process ends by a fault of its own, or somebody sends it the signal of one.
#[test]
fn a_crash_tells_where_in_the_log() {
    let crash = |enabled: &str, command: &str| {
        let folder = Folder::new();
        let log = folder.path().join("server.log");
        let mut server = Server::varve()
            .arg("--crash-log-enabled", enabled)
            .arg("--logfile", text(&log))
            .start();
        let mut client = server.client();
        let _ = client.try_cmd(&["DEBUG", command]);
        assert!(!server.wait_end().success());
        fs::read_to_string(log).unwrap()
    };
    let panicked = crash("yes", "PANIC");
    for words in ["thread 'main' panicked at src/commands/debug.rs", "varved::server", "End of"] {
        assert!(panicked.contains(words), "no {words:?} in:\n{panicked}");
    }
    assert_eq!(panicked.matches("crashed").count(), 1, "{panicked}");
    let fault = crash("yes", "SEGFAULT");
    for words in ["crashed by signal: 11", "Sent by process", "(+0x", "End of"] {
        assert!(fault.contains(words), "no {words:?} in:\n{fault}");
    }
    for command in ["PANIC", "SEGFAULT"] {
        let silent = crash("no", command);
        assert!(!silent.contains("crashed"), "{silent}");
    }
}

/// A client that may send `CONFIG SET dir` may write a file wherever the daemon may.
#[test]
fn protected_directives_and_debug_open_to_whom_they_should() {
    let folder = Folder::new();
    let dir = text(folder.path());
    for (setting, opens) in [("no", false), ("local", true), ("yes", true)] {
        let data = Folder::new();
        let mut daemon = Attempt::new(&[
            "--dir",
            text(data.path()),
            "--appendonly",
            "no",
            "--enable-protected-configs",
            setting,
            "--enable-debug-command",
            setting,
        ]);
        let mut client = daemon.serving();
        for args in [&["CONFIG", "SET", "dbfilename", "x.rdb"][..], &["CONFIG", "SET", "dir", dir]]
        {
            let reply = client.cmd(args);
            assert_eq!(!reply.is_error(), opens, "{setting}: {args:?} {reply:?}");
            let why = format!("{reply:?}");
            assert!(opens || why.contains("can't set protected config"), "{why}");
        }
        let reply = client.cmd(&["DEBUG", "JMAP"]);
        let why = format!("{reply:?}");
        assert_eq!(why.contains("DEBUG command not allowed"), !opens, "{setting}: {why}");
        let why =
            format!("{:?}", client.cmd(&["CONFIG", "SET", "enable-protected-configs", "yes"]));
        assert!(why.contains("can't set immutable config"), "{why}");
    }
}

/// A log's folder with one segment that holds `commands`.
fn log_with(dir: &Path, commands: &[&[&str]]) -> Vec<u64> {
    let folder = dir.join("appendonlydir");
    fs::create_dir_all(&folder).unwrap();
    let manifest = "file appendonly.aof.1.incr.aof seq 1 type i\n";
    fs::write(folder.join("appendonly.aof.manifest"), manifest).unwrap();
    let mut bytes = Vec::new();
    let mut places = Vec::new();
    for command in commands {
        places.push(bytes.len() as u64);
        encode(&mut bytes, command);
    }
    fs::write(folder.join("appendonly.aof.1.incr.aof"), bytes).unwrap();
    places
}

/// The log has a command that this server can not run, or that fails on the data: the operator is
/// told which, in which file and where, and chooses what follows.
#[test]
fn a_command_of_the_log_that_can_not_be_run_is_named_with_its_place() {
    let start = |commands: &[&[&str]], behavior: &str| {
        let folder = Folder::new();
        let places = log_with(folder.path(), commands);
        let args = ["--dir", text(folder.path()), "--appendonly", "yes"];
        let rest = ["--propagation-error-behavior", behavior];
        (Attempt::new(&[&args[..], &rest[..]].concat()), places, folder)
    };
    let failing: &[&[&str]] =
        &[&["SELECT", "0"], &["SET", "k", "v"], &["LPUSH", "k", "an item"], &["SET", "after", "1"]];
    for behavior in ["ignore", "panic-on-replicas", "panic"] {
        let (mut daemon, places, _folder) = start(failing, behavior);
        let place =
            format!("appendonly.aof.1.incr.aof\" at byte {}: LPUSH k \"an item\"", places[2]);
        if behavior == "panic" {
            daemon.refused().names(&[&place, "WRONGTYPE"]);
        } else {
            let mut client = daemon.serving();
            assert_eq!(client.cmd(&["GET", "after"]), Value::bulk("1"));
            assert!(daemon.log().contains(&place), "{}", daemon.log());
            let count = crate::support::server::info(&mut client, "unexpected_error_replies");
            assert_eq!(count, "1");
        }
    }
    let unknown: &[&[&str]] = &[&["SET", "k", "v"], &["FROB", "k"], &["SET", "after", "1"]];
    for behavior in ["ignore", "panic"] {
        let (mut daemon, places, _folder) = start(unknown, behavior);
        let place = format!("at byte {}: FROB k", places[1]);
        daemon.refused().names(&[&place, "incr.aof", "unknown command"]);
    }
}

/// A replica and its primary no longer hold the same data. One that is told to stops serving it.
#[test]
fn a_replica_that_differs_ends_if_told_so() {
    for behavior in ["ignore", "panic", "panic-on-replicas"] {
        let primary = Server::start();
        let mut replica = Server::varve()
            .arg("--propagation-error-behavior", behavior)
            .arg("--replica-read-only", "no")
            .start();
        let port = primary.port().to_string();
        let mut there = replica.client();
        there.ok(&["REPLICAOF", "127.0.0.1", &port]);
        let up = || replica.info("master_link_status") == "up";
        assert!(eventually(PATIENCE, up), "{}", replica.log());
        // A writable replica differs by its own doing, and goes on.
        there.ok(&["SET", "k", "a string"]);
        primary.client().ok(&["LPUSH", "k", "an item"]);
        let told = || replica.info("unexpected_error_replies") == "1";
        assert!(eventually(PATIENCE, told), "{}", replica.log());
        there.ok(&["CONFIG", "SET", "replica-read-only", "yes"]);
        primary.client().ok(&["LPUSH", "k", "an item"]);
        if behavior == "ignore" {
            let told = || replica.info("unexpected_error_replies") == "2";
            assert!(eventually(PATIENCE, told), "{}", replica.log());
        } else {
            assert!(!replica.wait_end().success());
            let log = replica.log();
            let words = ["crashed", "WRONGTYPE", "propagation-error-behavior"];
            assert!(words.iter().all(|word| log.contains(word)), "{log}");
        }
    }
}

/// One client after the other keeps a large request half sent: the largest go, until the rest fit.
#[test]
fn clients_that_hold_too_much_are_closed_largest_first() {
    let server = Server::varve().arg("--maxmemory-clients", "20mb").start();
    let mut admin = server.client();
    let hold = |bytes: usize| {
        let mut client = server.client();
        client.ok(&["CLIENT", "SETNAME", &format!("c{bytes}")]);
        client.ok(&["MULTI"]);
        // Queued, so that it stays: arguments are held until EXEC.
        let value = "x".repeat(1 << 20);
        for _ in 0..bytes >> 20 {
            let _ = client.try_cmd(&["SET", "k", &value]);
        }
        client
    };
    let mut protected = server.client();
    protected.ok(&["CLIENT", "NO-EVICT", "on"]);
    protected.ok(&["MULTI"]);
    protected.ok(&["SET", "k", &"x".repeat(9 << 20)]);
    let mut small = hold(3 << 20);
    assert_eq!(server.info("evicted_clients"), "0");
    let mut large = hold(9 << 20);
    assert!(eventually(PATIENCE, || server.info("evicted_clients") == "1"), "{}", server.log());
    assert!(large.try_cmd(&["PING"]).is_err(), "the largest is still there");
    assert!(server.log().contains("Evicting client: id="), "{}", server.log());
    assert!(small.try_cmd(&["PING"]).is_ok() && protected.try_cmd(&["PING"]).is_ok());

    // A percentage is one of maxmemory, and none without.
    admin.ok(&["CONFIG", "SET", "maxmemory-clients", "1%"]);
    assert!(small.try_cmd(&["PING"]).is_ok());
    admin.ok(&["CONFIG", "SET", "maxmemory", "1gb"]);
    // 10.7 MB: with the protected client's 9 the small one is too much.
    assert!(eventually(PATIENCE, || server.info("evicted_clients") == "2"), "{}", server.log());
    assert!(small.try_cmd(&["PING"]).is_err());
    assert!(protected.try_cmd(&["PING"]).is_ok());
    // Nobody is left who may go, the limit being far below: those who ask are served nevertheless.
    assert_eq!(admin.cmd(&["CONFIG", "GET", "maxmemory-clients"]).items()[1], Value::bulk("1%"));
}

/// A backup tool that reads every key would make all of them look used.
#[test]
fn no_touch_leaves_no_traces_but_by_touch() {
    let server = Server::varve().arg("--maxmemory-policy", "allkeys-lfu").start();
    let (mut client, mut quiet) = (server.client(), server.client());
    client.ok(&["CONFIG", "SET", "lfu-log-factor", "0"]);
    quiet.ok(&["CLIENT", "NO-TOUCH", "on"]);
    let start = 5;
    let mut frequency = |key: &str| client.cmd(&["OBJECT", "FREQ", key]).int();
    quiet.ok(&["SET", "k", "1"]);
    quiet.ok(&["RPUSH", "l", "1"]);
    assert_eq!((frequency("k"), frequency("l")), (start, start));
    for _ in 0..10 {
        quiet.ok(&["GET", "k"]);
        quiet.ok(&["APPEND", "k", "1"]);
        quiet.ok(&["LRANGE", "l", "0", "-1"]);
        quiet.ok(&["MULTI"]);
        quiet.ok(&["RPUSH", "l", "1"]);
        quiet.ok(&["EXEC"]);
    }
    assert_eq!((frequency("k"), frequency("l")), (start, start));
    quiet.ok(&["TOUCH", "k"]);
    assert_eq!(frequency("k"), start + 1);
    quiet.ok(&["CLIENT", "NO-TOUCH", "off"]);
    quiet.ok(&["GET", "k"]);
    assert_eq!(frequency("k"), start + 2);
}

/// An address was opened, the next one could not be, and the first stayed open for ever.
#[test]
fn a_bind_that_fails_opens_nothing() {
    let server = Server::start();
    let mut client = server.client();
    let reply = client.cmd(&["CONFIG", "SET", "bind", "127.0.0.1 192.0.2.1"]);
    assert!(reply.is_error(), "{reply:?}");
    server.client().ok(&["PING"]);
    let port = free_port();
    client.ok(&["CONFIG", "SET", "port", &port.to_string()]);
    Client::connect(port).ok(&["PING"]);
    assert!(Client::try_connect(server.port()).is_err(), "the old port is open");
}

/// The log was turned off, and then begun anew with a base of its own, when the port could not be had.
#[test]
fn a_change_that_is_refused_leaves_the_log_on() {
    let server = Server::varve().arg("--appendonly", "yes").start();
    let mut client = server.client();
    client.ok(&["SET", "k", "v"]);
    let manifest = || fs::read(server.dir().join("appendonlydir/appendonly.aof.manifest")).unwrap();
    let before = manifest();
    let busy = listen();
    let port = busy.local_addr().unwrap().port().to_string();
    let reply = client.cmd(&["CONFIG", "SET", "appendonly", "no", "port", &port]);
    assert!(reply.is_error(), "{reply:?}");
    no_child(&server);
    assert_eq!(server.info("aof_enabled"), "1");
    assert_eq!(manifest(), before);
}

/// It was made anew with the port: who had moved it or waited at it was cut off, and where that could not
/// be, nothing was listened on any more.
#[test]
fn a_unix_socket_outlives_a_change_of_the_port() {
    let folder = Folder::new();
    let (socket, moved) = (folder.path().join("socket"), folder.path().join("moved"));
    let server = Server::varve().arg("--unixsocket", text(&socket)).start();
    let info = server.client().cmd(&["INFO", "server"]).text();
    for line in [
        format!("listener0:name=tcp,bind=127.0.0.1,port={}\r\n", server.port()),
        format!("listener1:name=unix,bind={}\r\n", socket.display()),
    ] {
        assert!(info.contains(&line), "{line:?} is not in {info}");
    }
    fs::rename(&socket, &moved).unwrap();
    let port = free_port();
    server.client().ok(&["CONFIG", "SET", "port", &port.to_string()]);
    Client::connect(port).ok(&["PING"]);
    assert!(!socket.exists() && UnixStream::connect(&moved).is_ok());
}

/// Linux refuses so much, and a server that was to have it could not listen.
#[test]
fn keepalive_may_be_a_day() {
    let server = Server::varve().arg("--tcp-keepalive", "86400").start();
    let mut client = server.client();
    client.ok(&["CONFIG", "SET", "tcp-keepalive", "90000"]);
    let port = free_port();
    client.ok(&["CONFIG", "SET", "port", &port.to_string()]);
    Client::connect(port).ok(&["PING"]);
}

/// Whether a server's socket sends small packets at once.
fn sends_at_once(server: &Server, fd: i32) -> bool {
    // SAFETY: plain numbers; what a call returns is checked before it is taken for a descriptor.
    let copy = unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, server.pid(), 0);
        assert!(process >= 0);
        let process = OwnedFd::from_raw_fd(process as i32);
        let copy = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0);
        assert!(copy >= 0);
        OwnedFd::from_raw_fd(copy as i32)
    };
    SockRef::from(&copy).tcp_nodelay().unwrap()
}

/// A thin line to a replica is used better if the kernel waits for more before it sends a little.
#[test]
fn small_packets_to_replicas_wait_if_told_so() {
    let primary = Server::start();
    let replica = Server::varve().replica_of(primary.port()).start();
    caught_up(&primary, &replica);
    let mut client = primary.client();
    let line = client.ok(&["CLIENT", "LIST", "TYPE", "replica"]).text();
    let fd = line.split(' ').find_map(|word| word.strip_prefix("fd=")).unwrap().parse().unwrap();
    for (waits, at_once) in [("no", true), ("yes", false), ("no", true)] {
        client.ok(&["CONFIG", "SET", "repl-disable-tcp-nodelay", waits]);
        assert_eq!(sends_at_once(&primary, fd), at_once);
    }
}

/// The log had the names that clients used: a start without them was refused, and `LPUSH`, called `SET`, was
/// taken for `SET`.
#[test]
fn names_that_clients_are_given_are_not_in_the_log() {
    let log = |dir: &Path| Server::varve().arg("--appendonly", "yes").in_dir(dir);
    let renamed = |dir: &Path| {
        let renames = [("SET", "put"), ("LPUSH", "SET"), ("PUBLISH", "say"), ("EXEC", "go")];
        renames.iter().fold(log(dir), |server, (own, name)| {
            server.arg("--rename-command", &format!("{own} {name}"))
        })
    };
    let folder = Folder::new();
    let mut primary = renamed(folder.path()).start();
    let replica = Server::varve().replica_of(primary.port()).start();
    caught_up(&primary, &replica);
    let mut client = primary.client();
    let large = "v".repeat(100_000);
    for command in [
        &["put", "large", &large][..],
        &["SET", "list", "a"],
        &["MULTI"],
        &["PUT", "k", "v"],
        &["set", "list", "b"],
        &["say", "channel", "message"],
        &["go"],
        &["put", "short", "v", "PX", "1000000"],
    ] {
        client.ok(command);
    }
    assert!(client.cmd(&["LPUSH", "list", "c"]).is_error());
    caught_up(&primary, &replica);
    let held = dataset(&mut primary.client());
    primary.restart();
    assert_eq!(first_difference(&dataset(&mut primary.client()), &held, 0), None);
    primary.terminate();
    let plain = log(folder.path()).start();
    assert_eq!(first_difference(&dataset(&mut plain.client()), &held, 0), None);
}

/// They showed the command's own name, which no client of this server can say.
#[test]
fn monitor_and_slow_log_show_the_names_that_clients_say() {
    let server = Server::varve()
        .arg("--rename-command", "SET put")
        .arg("--rename-command", "BLPOP await")
        .arg("--rename-command", "CONFIG settings")
        .arg("--slowlog-log-slower-than", "0")
        .start();
    let (mut monitor, mut client, mut waiting) =
        (server.client(), server.client(), server.client());
    monitor.ok(&["MONITOR"]);
    let mut wait = Vec::new();
    encode(&mut wait, &["Await", "list", "0"]);
    waiting.send_raw(&wait);
    assert!(eventually(PATIENCE, || server.info("blocked_clients") == "1"));
    client.ok(&["SLOWLOG", "RESET"]);
    client.ok(&["PUT", "k", "v"]);
    client.ok(&["MULTI"]);
    client.ok(&["Put", "k", "w"]);
    client.ok(&["EXEC"]);
    client.ok(&["Settings", "GET", "port"]);
    client.ok(&["RPUSH", "list", "a"]);
    waiting.recv();
    let entries = client.ok(&["SLOWLOG", "GET", "-1"]).items().into_iter();
    let name = |entry: Value| entry.items().remove(3).items().remove(0).text();
    let slow: Vec<String> = entries.rev().map(name).collect();
    for name in ["PUT", "Put", "Settings", "Await"] {
        assert!(slow.iter().any(|slow| slow == name), "{name}: {slow:?}");
    }
    let mut lines = Vec::new();
    while !lines.iter().any(|line: &String| line.contains("RPUSH")) {
        lines.push(monitor.recv().text());
    }
    for name in ["Await", "PUT", "Put"] {
        let shown = format!("\"{name}\"");
        assert!(lines.iter().any(|line| line.contains(&shown)), "{name}: {lines:?}");
    }
}

#[test]
fn who_can_be_reached_by_nobody_does_not_start() {
    for args in [&["--port", "0"][..], &["--port", "0", "--bind", ""], &["--bind", ""]] {
        let folder = Folder::new();
        let dir = ["--dir", text(folder.path())];
        let mut daemon = Attempt::new(&[&dir[..], args].concat());
        daemon.refused().names(&["not listen anywhere"]);
    }
    let folder = Folder::new();
    let socket = folder.path().join("socket");
    let args = ["--dir", text(folder.path()), "--port", "0", "--unixsocket", text(&socket)];
    let daemon = Attempt::new(&args);
    assert!(eventually(PATIENCE, || UnixStream::connect(&socket).is_ok()), "{}", daemon.log());
}
