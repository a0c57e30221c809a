//! A server process in a folder of its own: started in one line, gone when dropped.

use super::{Client, PATIENCE, Random, assert_same_data, eventually};
use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What to start; see [`Server::varve`] and [`Server::redis`].
pub struct Builder {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    files: Vec<PathBuf>,
    dir: Option<PathBuf>,
}

impl Builder {
    /// Adds a configuration directive: `arg("--appendonly", "yes")`.
    pub fn arg(mut self, name: &str, value: &str) -> Builder {
        self.args.extend([name.to_string(), value.to_string()]);
        self
    }

    /// Sets a variable of the process's environment.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.env.push((name.to_string(), value.to_string()));
        self
    }

    /// Makes it a replica of the server on a port of this machine, whenever it starts.
    pub fn replica_of(mut self, port: u16) -> Builder {
        self.args.extend(["--replicaof", "127.0.0.1", &port.to_string()].map(String::from));
        self
    }

    /// Copies a file or folder into the data folder before the start.
    pub fn with_file(mut self, path: &Path) -> Builder {
        self.files.push(path.to_path_buf());
        self
    }

    /// Keeps the data in this folder, which is there and stays, and not in one of the server's own.
    pub fn in_dir(mut self, dir: &Path) -> Builder {
        self.dir = Some(dir.to_path_buf());
        self
    }

    /// Starts the server and waits until it answers PING; panics with its log when it does not.
    pub fn start(self) -> Server {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut random = Random::from_entropy();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("varve-test-{}-{count}-{:x}", std::process::id(), random.next() as u32);
        let home = std::env::temp_dir().join(name);
        fs::create_dir_all(home.join("data")).expect("make the server's folder");
        let dir = self.dir.unwrap_or_else(|| home.join("data"));
        for file in &self.files {
            copy_tree(file, &dir.join(file.file_name().unwrap()));
        }
        let Builder { program, args, env, .. } = self;
        let mut server = Server { program, args, env, home, dir, port: 0, child: None };
        // Another process may still win the port; then the next one is tried.
        for _ in 0..20 {
            server.port = free_port();
            if server.spawn() {
                return server;
            }
            if !server.log().contains("in use") {
                break;
            }
        }
        panic!("{} did not start", server.program.display());
    }
}

/// A running (or killed, and to be restarted) server.
pub struct Server {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Holds `log` (its standard output and error) and, mostly, `data`, its folder.
    home: PathBuf,
    dir: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// The path of the server under test.
    pub fn program() -> PathBuf {
        match std::env::var_os("VARVE_TEST_SERVER") {
            Some(path) => path.into(),
            None => env!("CARGO_BIN_EXE_varved").into(),
        }
    }

    /// The server under test.
    pub fn varve() -> Builder {
        Server::of(Server::program())
    }

    /// The oracle: `redis-server` from the PATH.
    pub fn redis() -> Builder {
        Server::of("redis-server".into())
    }

    /// Any program that takes Redis's arguments.
    pub fn of(program: PathBuf) -> Builder {
        Builder { program, args: Vec::new(), env: Vec::new(), files: Vec::new(), dir: None }
    }

    /// Whether Redis stands in for the server under test.
    pub fn is_stand_in() -> bool {
        std::env::var("VARVE_TEST_SERVER").is_ok_and(|path| path.contains("redis"))
    }

    /// The server under test with default settings.
    pub fn start() -> Server {
        Server::varve().start()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of dump and append-only files.
    pub fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    pub fn log(&self) -> String {
        let bytes = fs::read(self.home.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A field of `INFO everything`; empty when the server does not show it.
    pub fn info(&self, field: &str) -> String {
        info(&mut self.client(), field)
    }

    /// A field of `INFO everything` that is a number.
    pub fn number(&self, field: &str) -> u64 {
        let text = self.info(field);
        text.parse().unwrap_or_else(|_| panic!("{field} is '{text}'"))
    }

    /// `BGREWRITEAOF`, until the new base is in force.
    pub fn rewrite(&self) {
        let rewrites = || self.log().matches("The log's base is the snapshot").count();
        let before = rewrites();
        self.client().ok(&["BGREWRITEAOF"]);
        assert!(eventually(PATIENCE, || rewrites() > before), "no new base: {}", self.log());
    }

    /// SIGKILL, as a crash of the process; returns when it is gone.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server is running").id()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its pid cannot have been given to another.
        unsafe { libc::kill(self.pid() as libc::pid_t, signal) };
    }

    /// SIGTERM, as an orderly shutdown; returns how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait_end()
    }

    /// Waits until the server, which was told to, has ended; returns how.
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server is running");
        let mut status = None;
        let ended = eventually(PATIENCE, || {
            status = child.try_wait().expect("wait for the server");
            status.is_some()
        });
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the server did not end when told to");
        }
        status.unwrap()
    }

    /// Starts again in the same folder, on the same port, with the same arguments; ends the old
    /// process first when it still runs.
    pub fn restart(&mut self) {
        if self.child.is_some() {
            self.terminate();
        }
        let started = eventually(PATIENCE, || self.spawn());
        assert!(started, "the server did not start again");
    }

    fn spawn(&mut self) -> bool {
        let log = OpenOptions::new().create(true).append(true).open(self.home.join("log")).unwrap();
        let child = Command::new(&self.program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0", "--dir"])
            .arg(self.dir())
            .args(&self.args)
            .current_dir(self.dir())
            // SORT … ALPHA follows the locale.
            .env("LC_ALL", "C")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("start {}: {e}", self.program.display()));
        let child = self.child.insert(child);
        let pid = child.id();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if child.try_wait().expect("wait for the server").is_some() {
                self.child = None;
                return false;
            }
            if is_ready(self.port, pid) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        self.kill9();
        false
    }
}

/// Whether the process `pid`, and not some other that holds the port, serves commands.
fn is_ready(port: u16, pid: u32) -> bool {
    let Ok(mut client) = Client::try_connect(port) else { return false };
    match client.try_cmd(&["PING"]) {
        Ok(reply) if reply == super::Value::Status("PONG".into()) => {
            info(&mut client, "process_id") == pid.to_string()
        }
        // Behind a password INFO is closed too.
        Ok(super::Value::Error(e)) => e.starts_with("NOAUTH"),
        _ => false,
    }
}

/// A field of `INFO everything` over a connection at hand; empty when it is not there.
pub fn info(client: &mut Client, field: &str) -> String {
    let text = match client.try_cmd(&["INFO", "everything"]) {
        Ok(reply) if !reply.is_error() => reply.text(),
        _ => return String::new(),
    };
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap_or_default()
        .to_string()
}

/// Waits until a replica has all that its primary has, and compares their data.
pub fn caught_up(primary: &Server, replica: &Server) {
    let same = || {
        replica.info("master_link_status") == "up"
            && replica.info("master_repl_offset") == primary.info("master_repl_offset")
    };
    assert!(eventually(PATIENCE, same), "the replica did not catch up: {}", replica.log());
    assert_same_data(&mut primary.client(), &mut replica.client());
}

fn copy_tree(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy_tree(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap_or_else(|e| panic!("copy {}: {e}", from.display()));
        File::open(to).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- log of {} on port {}:\n{tail}", self.program.display(), self.port);
        }
        // A forked child outlives its killed parent for a moment, and may still create files.
        let gone = || fs::remove_dir_all(&self.home).is_ok() || !self.home.exists();
        eventually(Duration::from_secs(5), gone);
    }
}

/// Listens on a port below the ephemeral range: no outgoing connection has it, and when it is given up
/// no other test gets it for the asking.
pub fn listen() -> TcpListener {
    let mut random = Random::from_entropy();
    let mut somewhere = || TcpListener::bind(("127.0.0.1", 10_000 + random.below(20_000) as u16));
    (0..100).find_map(|_| somewhere().ok()).expect("a free port")
}

/// A port as [`listen`] finds it, that nobody listens on.
pub fn free_port() -> u16 {
    listen().local_addr().unwrap().port()
}
