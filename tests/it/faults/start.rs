//! Starts that must be refused: with one clear line, exit code 1, and nothing changed.

use super::*;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;

/// An operator, or a second unit, starts the daemon twice on one folder: two that append to one
/// log would destroy it.
#[test]
fn a_second_daemon_on_a_folder_is_refused() {
    let folder = Folder::new();
    let pidfile = folder.path().join("pid");
    let pidfile = ["--pidfile", text(&pidfile)];
    let server = Server::varve().arg("--appendonly", "yes").arg(pidfile[0], pidfile[1]).start();
    let mut client = server.client();
    client.ok(&["SET", "k", "before"]);
    let dir = server.dir();
    Attempt::new(&["--dir", text(&dir), "--appendonly", "yes", pidfile[0], pidfile[1]])
        .refused()
        .names(&["in use by another process", text(&dir)]);
    let pid = fs::read_to_string(pidfile[1]).unwrap();
    assert_eq!(pid.trim(), server.pid().to_string(), "the pid of the one that runs");
    Attempt::new(&["--dir", text(&dir)]).refused().names(&["in use by another process"]);
    client.ok(&["APPEND", "k", "+after"]);
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("before+after"));
}

/// What a killed process left half written goes at the next start, and nothing that an operator put there.
#[test]
fn only_what_a_snapshot_left_is_removed() {
    let folder = Folder::new();
    let left = ["17.rdb", "17-3.rdb", "17-3.base.rdb", "17-sync.rdb", "rewriteaof-bg-17-3.aof"];
    let others = ["backup.rdb", "2026-01-31.rdb", "17-old.rdb", "17.rdb.gz", ".rdb", "1-.aof"];
    let file = |rest: &&str| folder.path().join(format!("temp-{rest}"));
    left.iter().chain(&others).for_each(|rest| fs::write(file(rest), "").unwrap());
    Attempt::new(&["--dir", text(folder.path()), "--appendonly", "no"]).serving();
    assert!(left.iter().all(|rest| !file(rest).exists()));
    let gone: Vec<_> = others.iter().filter(|rest| !file(rest).exists()).collect();
    assert_eq!(gone, [] as [&&str; 0]);
}

/// Something else listens on the port already.
#[test]
fn a_port_in_use_is_refused() {
    let folder = Folder::new();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let args = ["--dir", text(folder.path()), "--port", &port];
    Attempt::new(&args).refused().names(&["Address already in use", &port]);
    assert!(UdpSocket::bind(("127.0.0.1", 0)).is_ok(), "sockets can be made at all");
}

/// Another daemon has the port on one of the addresses: half of the clients would reach that one.
#[test]
fn an_address_that_may_be_missing_may_not_be_in_use() {
    let Ok(taken) = TcpListener::bind(("::1", 0)) else {
        return eprintln!("skipped: there is no IPv6");
    };
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = Folder::new();
    let dir = ["--dir", text(folder.path())];
    let args = [&dir[..], &["--bind", "127.0.0.1", "-::1", "--port", &port]].concat();
    Attempt::new(&args).refused().names(&["Address already in use", &port]);
    Attempt::new(&[&dir[..], &["--bind", "127.0.0.1", "-192.0.2.1"]].concat()).serving();
}

/// The data folder is missing, is a file, or its log folder's name is taken by a file.
#[test]
fn a_folder_that_is_none_is_refused() {
    let folder = Folder::new();
    let missing = folder.path().join("missing");
    Attempt::new(&["--dir", text(&missing)])
        .refused()
        .names(&[text(&missing), "No such file or directory"]);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    Attempt::new(&["--dir", text(&file)]).refused().names(&["Not a directory", text(&file)]);
    fs::write(folder.path().join("appendonlydir"), "").unwrap();
    Attempt::new(&["--dir", text(folder.path()), "--appendonly", "yes"])
        .refused()
        .names(&["appendonlydir"]);
}

/// The daemon runs as a user who may not write the data folder, not enter it, or not write the
/// log's folder in it.
#[test]
fn a_folder_without_permission_is_refused() {
    if !is_root("a daemon of another user") {
        return;
    }
    let found = Command::new("setpriv").arg("--version").output();
    if !found.is_ok_and(|out| out.status.success()) {
        return eprintln!("skipped, there is no setpriv: a daemon of another user");
    }
    // The other user may not reach the build folder either.
    let programs = Folder::new();
    let program = programs.path().join("varved");
    fs::copy(Server::program(), &program).unwrap();
    let as_other = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
        command
    };
    let mode = |path: &Path, bits: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    };
    mode(programs.path(), 0o755);
    let folder = Folder::new();
    let dir = text(folder.path());
    mode(folder.path(), 0o700);
    Attempt::of(as_other(), &["--dir", dir]).refused().names(&["Permission denied", dir]);
    mode(folder.path(), 0o755);
    Attempt::of(as_other(), &["--dir", dir]).refused().names(&["Permission denied", "varve.lock"]);

    mode(folder.path(), 0o777);
    fs::create_dir(folder.path().join("appendonlydir")).unwrap();
    Attempt::of(as_other(), &["--dir", dir, "--appendonly", "yes"])
        .refused()
        .names(&["Permission denied", "appendonlydir"]);
    // A log that it may read and not write.
    fs::remove_dir(folder.path().join("appendonlydir")).unwrap();
    let mut own = Attempt::new(&["--dir", dir, "--appendonly", "yes"]);
    own.serving().ok(&["SET", "k", "v"]);
    assert_eq!(own.end(libc::SIGTERM), Some(0));
    mode(&folder.path().join("appendonlydir"), 0o755);
    mode(&folder.path().join("varve.lock"), 0o666);
    let before = contents(folder.path());
    Attempt::of(as_other(), &["--dir", dir, "--appendonly", "yes"])
        .refused()
        .names(&["Permission denied", "appendonlydir"]);
    assert!(before == contents(folder.path()), "a refused start changed files");
    // A dump that it may not read.
    let dump = folder.path().join("dump.rdb");
    fs::write(&dump, "REDIS0011").unwrap();
    mode(&dump, 0o600);
    Attempt::of(as_other(), &["--dir", dir, "--appendonly", "no"])
        .refused()
        .names(&["Permission denied", "dump.rdb"]);
}

/// The log file's folder is missing. A daemon would have nowhere else to say so.
#[test]
fn a_log_file_that_can_not_be_opened_is_refused() {
    let folder = Folder::new();
    let logfile = folder.path().join("missing/varve.log");
    for daemonize in ["no", "yes"] {
        let args = ["--dir", text(folder.path()), "--daemonize", daemonize];
        let mut attempt = Attempt::new(&[&args[..], &["--logfile", text(&logfile)]].concat());
        attempt.refused().names(&["missing/varve.log", "No such file"]);
    }
}

/// A directive is misspelt, has a value that it can not have, or asks for what is not there.
#[test]
fn a_wrong_configuration_is_refused_by_name() {
    let folder = Folder::new();
    let dir = text(folder.path());
    let cases: &[(&[&str], &[&str])] = &[
        (&["--appendonyl", "yes"], &["appendonyl"]),
        (&["--appendonly", "maybe"], &["appendonly", "'yes' or 'no'"]),
        (&["--maxmemory", "lots"], &["maxmemory"]),
        (&["--hz", "x"], &["hz"]),
        (&["--databases", "0"], &["databases"]),
        (&["--cluster-enabled", "yes"], &["cluster-enabled", "not supported"]),
        (&["--loadmodule", "/x.so"], &["loadmodule", "not supported"]),
        (&["--appendfsync", "sometimes"], &["appendfsync", "everysec"]),
        (&["--maxmemory-policy", "forget"], &["maxmemory-policy", "allkeys-lru"]),
        (&["--save", "1"], &["save"]),
        (&["--replicaof", "onlyhost"], &["replicaof"]),
        (&["--port", "70000"], &["port"]),
    ];
    for (args, words) in cases {
        let mut all = vec!["--dir", dir];
        all.extend(*args);
        Attempt::new(&all).refused().names(words);
    }
    // In a file, the line's number is told.
    let file = folder.path().join("varve.conf");
    fs::write(&file, format!("# a comment\ndir {dir}\nappendonyl yes\n")).unwrap();
    let mut command = Command::new(Server::program());
    command.arg(&file);
    Attempt::of(command, &[]).refused().names(&["appendonyl", "3"]);
    let mut command = Command::new(Server::program());
    command.arg(folder.path().join("none.conf"));
    Attempt::of(command, &[]).refused().names(&["none.conf", "No such file"]);
}

/// `dump.rdb` is a symbolic link to a backup, on this file system or another, and the log begins from it. The
/// log's base must be that file wherever its own name stands.
#[test]
fn a_dump_that_is_a_symbolic_link_becomes_the_logs_base() {
    let (folder, elsewhere) = (Folder::new(), Folder::on_disk());
    let backup = folder.path().join("backup");
    fs::create_dir(&backup).unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let args = ["--dir", text(&data), "--save", "", "--appendonly"];
    let dump = data.join("dump.rdb");
    let mut daemon = Attempt::new(&[&args[..], &["no"]].concat());
    let mut client = daemon.serving();
    client.ok(&["SET", "k", "v"]);
    client.ok(&["SAVE"]);
    daemon.end(libc::SIGKILL);
    let saved = fs::read(&dump).unwrap();
    for (place, target) in [
        (backup.join("old.rdb"), PathBuf::from("../backup/old.rdb")),
        (elsewhere.path().join("old.rdb"), elsewhere.path().join("old.rdb")),
    ] {
        let _ = fs::remove_dir_all(data.join("appendonlydir"));
        fs::write(&place, &saved).unwrap();
        fs::remove_file(&dump).unwrap();
        std::os::unix::fs::symlink(&target, &dump).unwrap();
        let mut daemon = Attempt::new(&[&args[..], &["yes"]].concat());
        assert_eq!(daemon.serving().cmd(&["GET", "k"]), Value::bulk("v"));
        daemon.end(libc::SIGTERM);
        fs::remove_file(&place).unwrap();
        let mut daemon = Attempt::new(&[&args[..], &["yes"]].concat());
        assert_eq!(daemon.serving().cmd(&["GET", "k"]), Value::bulk("v"), "{target:?}");
    }
}
