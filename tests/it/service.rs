//! What a service manager sees: the test plays systemd's notify socket.

use crate::faults::{Attempt, text};
use crate::support::server::info;
use crate::support::{Client, Folder, PATIENCE, Server, Value, eventually};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The socket, and all that came so far, with when.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<(Instant, String)>,
}

impl Manager {
    fn new(folder: &Folder) -> Manager {
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Manager { socket, heard: Vec::new() }
    }

    fn listen(&mut self) {
        let mut buf = [0; 4096];
        while let Ok(n) = self.socket.recv(&mut buf) {
            let text = String::from_utf8_lossy(&buf[..n]).into_owned();
            let lines = text.lines().map(|line| (Instant::now(), line.to_owned()));
            self.heard.extend(lines);
        }
    }

    /// Waits for a line for which `wanted` holds; when it came.
    fn hears(&mut self, wanted: impl Fn(&str) -> bool) -> Option<Instant> {
        let mut at = None;
        eventually(PATIENCE, || {
            self.listen();
            at = self.heard.iter().find(|(_, line)| wanted(line)).map(|(at, _)| *at);
            at.is_some()
        });
        at
    }

    fn has_heard(&mut self, wanted: &str) -> bool {
        self.listen();
        self.heard.iter().any(|(_, line)| line == wanted)
    }
}

fn supervised(folder: &Folder) -> Command {
    let mut command = Command::new(Server::program());
    command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "2000000");
    command
}

fn status_with_percent(what: &'static str) -> impl Fn(&str) -> bool {
    move |line| line.starts_with("STATUS=") && line.contains(what) && line.contains('%')
}

/// A unit of `Type=notify` counts as started when the daemon says so: only after the data is
/// there, or what depends on it meets `LOADING`. Meanwhile `systemctl status` shows how far it is.
#[test]
fn ready_comes_after_loading_and_not_before() {
    let folder = Folder::new();
    let dir = text(folder.path());
    let args = ["--dir", dir, "--save", "", "--appendonly", "no", "--supervised", "systemd"];
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    // Many small values: slow to load for their bytes.
    let mut n = 0;
    while n < 1_500_000 {
        let mut args: Vec<String> = vec!["MSET".into()];
        (n..n + 5000).for_each(|n| args.extend([format!("key:{n}"), n.to_string()]));
        client.ok(&args);
        n += 5000;
    }
    client.ok(&["SAVE"]);
    daemon.end(libc::SIGKILL);

    let mut manager = Manager::new(&folder);
    let started = Instant::now();
    let mut daemon = Attempt::of(supervised(&folder), &args);
    let mut loading_seen = false;
    while !manager.has_heard("READY=1") {
        assert!(started.elapsed() < PATIENCE, "never ready: {}\n{:?}", daemon.log(), manager.heard);
        if let Ok(mut client) = Client::try_connect(daemon.port)
            && let Ok(Value::Error(why)) = client.try_cmd(&["GET", "key:1"])
        {
            assert!(why.starts_with("LOADING"), "{why}");
            // Nothing about being ready may have come before this.
            loading_seen = true;
        }
    }
    let ready = manager.hears(|line| line == "READY=1").unwrap();
    let spent = ready - started;
    println!("loading took {spent:?}, LOADING was answered: {loading_seen}");
    let mut client = Client::connect(daemon.port);
    assert_eq!(client.cmd(&["DBSIZE"]).int(), 1_500_000, "ready, and not all is there");
    let percent = status_with_percent("Loading");
    let first = manager.heard.iter().find(|(_, line)| percent(line)).map(|(at, _)| *at);
    assert!(first.is_some_and(|at| at < ready), "no percent while loading: {:?}", manager.heard);

    client.ok(&["BGSAVE"]);
    assert!(manager.hears(status_with_percent("Saving")).is_some(), "{:?}", manager.heard);
    let saved = eventually(PATIENCE, || {
        manager.listen();
        let last = manager.heard.iter().rfind(|(_, line)| line.starts_with("STATUS="));
        last.is_some_and(|(_, line)| line == "STATUS=Ready to accept connections")
    });
    assert!(saved, "it says that it saves: {:?}", manager.heard);
    assert_eq!(daemon.end(libc::SIGTERM), Some(0), "{}", daemon.log());
    assert!(manager.has_heard("STOPPING=1"), "{:?}", manager.heard);
}

/// The watchdog ends a daemon that hangs; one that idles must ping in time.
#[test]
fn the_watchdog_hears_an_idle_daemon() {
    let folder = Folder::new();
    let mut manager = Manager::new(&folder);
    let dir = text(folder.path());
    let args = ["--dir", dir, "--save", "", "--appendonly", "no", "--supervised", "systemd"];
    let mut daemon = Attempt::of(supervised(&folder), &args);
    daemon.serving();
    let pings = |m: &Manager| m.heard.iter().filter(|(_, line)| line == "WATCHDOG=1").count();
    let three = eventually(PATIENCE, || {
        manager.listen();
        pings(&manager) >= 3
    });
    assert!(three, "{:?}", manager.heard);
    assert!(manager.has_heard("READY=1"));
    assert_eq!(daemon.end(libc::SIGTERM), Some(0));
    assert!(manager.has_heard("STOPPING=1"), "{:?}", manager.heard);
}

/// The loop does nothing else while `SAVE` or the last save runs: the watchdog's time, or that of a stop, was over.
#[test]
fn a_save_that_is_waited_for_is_no_hang() {
    let folder = Folder::new();
    let mut manager = Manager::new(&folder);
    let dir = text(folder.path());
    let mut args =
        vec!["--dir", dir, "--save", "", "--appendonly", "no", "--supervised", "systemd"];
    args.extend(["--rdb-key-save-delay", "500", "--enable-debug-command", "yes"]);
    let mut daemon = Attempt::of(supervised(&folder), &args);
    let mut client = daemon.serving();
    client.ok(&["DEBUG", "POPULATE", "5000"]);
    let mut has_told = |save: fn(&mut Client), last: &str| {
        manager.listen();
        manager.heard.clear();
        save(&mut client);
        assert!(manager.hears(|line| line == last).is_some(), "{:?}", manager.heard);
        let lines: Vec<&str> = manager.heard.iter().map(|(_, line)| &line[..]).collect();
        let is_percent = status_with_percent("Saving");
        let at = lines.iter().position(|line| is_percent(line)).expect("no percent");
        assert_eq!(lines[at + 1..at + 3], ["EXTEND_TIMEOUT_USEC=60000000", "WATCHDOG=1"]);
    };
    has_told(|client| _ = client.ok(&["SAVE"]), "STATUS=Ready to accept connections");
    has_told(|client| _ = client.try_cmd(&["SHUTDOWN", "SAVE"]), "STATUS=Stopping");
    assert!(daemon.log().contains("Saving: "), "{}", daemon.log());
}

/// The packaged unit is one that systemd understands.
#[test]
fn systemd_understands_the_unit() {
    let found = Command::new("systemd-analyze").arg("--version").output();
    if !found.is_ok_and(|out| out.status.success()) {
        return eprintln!("skipped: systemd-analyze is not installed");
    }
    let folder = Folder::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/varved.service.in");
    let program = Server::program();
    let unit = std::fs::read_to_string(source)
        .unwrap()
        .replace("@BINDIR@", text(program.parent().unwrap()))
        .replace("@CONFDIR@", "/etc/varve")
        .replace("@DOCDIR@", "/usr/share/doc/varve");
    let path = folder.path().join("varved.service");
    std::fs::write(&path, unit).unwrap();
    let out = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output();
    let out = out.unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("varved.service")).collect();
    assert!(ours.is_empty(), "systemd-analyze verify says:\n{said}");
    let out = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=30"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let overall = said.lines().last().unwrap_or_default();
    assert!(out.status.success(), "exposed: {overall}\n{}", String::from_utf8_lossy(&out.stderr));
}

/// After an installation as the manual describes it the daemon's user can read the configuration, and
/// CONFIG REWRITE can put a new file in its place. Again after it did.
#[test]
fn the_packaged_rights_let_the_daemon_at_its_configuration() {
    const UID: u32 = 4242;
    // SAFETY: it only asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root can give files away");
    }
    let folder = Folder::new();
    let root = folder.path();
    let conf = root.join("etc/varve/varve.conf");
    std::fs::create_dir_all(conf.parent().unwrap()).unwrap();
    std::fs::create_dir_all(root.join("var/lib")).unwrap();
    std::fs::write(root.join("etc/passwd"), format!("varve:x:{UID}:{UID}::/:/bin/false\n"))
        .unwrap();
    std::fs::write(root.join("etc/group"), format!("varve:x:{UID}:\n")).unwrap();
    std::fs::write(&conf, "").unwrap();
    std::fs::set_permissions(&conf, Permissions::from_mode(0o640)).unwrap();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/varve.tmpfiles");
    let may = |path: &Path, wanted: u32| {
        let meta = path.metadata().unwrap();
        let shift = if meta.uid() == UID { 6 } else { 3 };
        assert!(meta.uid() == UID || meta.gid() == UID, "{path:?} is another's");
        assert_eq!(meta.mode() >> shift & wanted, wanted, "{path:?}");
        assert_eq!(meta.mode() & 0o007, 0, "{path:?} is everybody's");
    };
    for _ in 0..2 {
        let mut command = Command::new("systemd-tmpfiles");
        command.arg("--create").arg(format!("--root={}", text(root))).arg(&rules);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        may(&conf, 0o4);
        may(conf.parent().unwrap(), 0o7);
        may(&root.join("var/lib/varve"), 0o7);
        chown(&conf, Some(UID), Some(UID)).unwrap(); // as after CONFIG REWRITE
    }
}

/// A daemon that is started by hand from within some service is not that service.
#[test]
fn who_is_not_supervised_tells_nobody() {
    for (how, tells) in [("no", false), ("auto", true)] {
        let folder = Folder::new();
        let mut manager = Manager::new(&folder);
        let dir = text(folder.path());
        let args = ["--dir", dir, "--save", "", "--appendonly", "no", "--supervised", how];
        let mut daemon = Attempt::of(supervised(&folder), &args);
        let shown = info(&mut daemon.serving(), "process_supervised");
        assert_eq!(shown, if tells { "systemd" } else { "no" });
        assert_eq!(daemon.end(libc::SIGTERM), Some(0));
        manager.listen();
        assert_eq!(!manager.heard.is_empty(), tells, "{how}: {:?}", manager.heard);
    }
}

/// Each new version put its defaults beside a configuration that was the same.
#[test]
fn an_installation_leaves_the_configuration_alone() {
    let folder = Folder::new();
    let (built, root) = (folder.path().join("release"), folder.path().join("root"));
    std::fs::create_dir(&built).unwrap();
    ["varved", "varve"].iter().for_each(|name| std::fs::write(built.join(name), "").unwrap());
    let mut install = Command::new("make");
    // Root, who installs, may have no cargo.
    install.args(["-s", "install", "CARGO=false"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    for (name, path) in [("TARGET", folder.path()), ("DESTDIR", &root)] {
        install.arg(format!("{name}={}", text(path)));
    }
    let (file, beside) = (root.join("etc/varve/varve.conf"), root.join("etc/varve/varve.conf.new"));
    for (change, is_new) in [("", false), ("", false), ("maxclients 7\n", true)] {
        let old = std::fs::read_to_string(&file).unwrap_or_default() + change;
        if file.exists() {
            std::fs::write(&file, &old).unwrap();
        }
        assert!(install.status().unwrap().success());
        assert_eq!(beside.exists(), is_new, "after {change:?}");
        assert!(std::fs::read_to_string(&file).unwrap().starts_with(&old));
    }
}
