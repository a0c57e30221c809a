//! From a configuration to a running daemon.

use super::client::Client;
use super::clock::Clock;
use super::memory::{Memory, clock_of};
use super::registry::Registry;
use super::tracking::Tracking;
use super::{Server, load, replication, snapshot, stop};
use crate::config::Config;
use crate::config::load::{Loaded, Origin};
use crate::config::types::AppendFsync;
use crate::{log_notice, log_warning, logger};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::signalfd::SignalFd;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use varve_engine::Keyspace;
use varve_engine::keyspace::event;
use varve_net::{ListenerId, Net};
use varve_persistence::log::{self, Fsync, Log, random_history};
use varve_persistence::offset::{Histories, Offset};

/// How long a start waits for a daemon that was killed to let go of the folder.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Descriptors that the daemon needs besides its clients'.
const RESERVED_FILES: u64 = 32;

/// What the process holds on to until it ends.
pub struct Process {
    pub(super) signals: SignalFd,
    listeners: Vec<ListenerId>,
    lock: log::DirLock,
}

/// Runs the daemon until it is told to stop, and says how the process is to end. The error is for the
/// log file, or for standard error before there is one.
pub fn run(loaded: Loaded) -> Result<ExitCode, String> {
    let mut cfg = loaded.config;
    // First of all: relative paths of other directives are meant from there.
    std::env::set_current_dir(&cfg.dir)
        .map_err(|e| format!("Can't chdir to '{}': {e}", cfg.dir.display()))?;
    logger::init(&cfg.logfile, cfg.loglevel)
        .map_err(|e| format!("Can't open the log file '{}': {e}", cfg.logfile.display()))?;
    // Not before: whoever starts it hears why there is no log file.
    if cfg.daemonize {
        daemonize()?;
    }
    logger::set_role(logger::Role::Primary);
    // A file that may grow no further (`ulimit -f`) is an error of the write, as a full disk is.
    // SAFETY: there is no handler.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    crate::crash::install();
    crate::crash::set_enabled(cfg.crash_log_enabled);
    crate::service::init(cfg.supervised);
    log_notice!("Varve is starting");
    log_notice!(
        "Varve version={}, bits={}, pid={}",
        crate::VERSION,
        usize::BITS,
        std::process::id()
    );
    match &loaded.origin.file {
        Some(_) => log_notice!("Configuration loaded"),
        None => log_notice!(
            "No configuration file: running with the built-in defaults and the command line"
        ),
    }
    for notice in &loaded.notices {
        log_warning!("{notice}");
    }
    if cfg.set_proc_title {
        // Only now, with one thread, may the environment be moved out of the way.
        crate::title::claim();
    }
    let pidfile = pidfile(&cfg);
    if cfg.disable_thp {
        // SAFETY: plain integers; the call touches no memory of ours.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    }
    raise_file_limit(&mut cfg);
    // Blocked before any thread starts, so that all of them leave signals to the loop.
    let signals = stop::signals()?;
    let here = std::env::current_dir().map_err(|e| format!("Can't tell the folder's path: {e}"))?;
    let lock = log::lock_dir(&here, LOCK_PATIENCE).map_err(|e| e.to_string())?;
    remove_leftovers();
    // Not before: that of a daemon that has the folder stays what it is. Not later: who connects finds it.
    let pidfile = pidfile.filter(|path| write_pidfile(path));
    let mut net: Net<Client> = Net::new().map_err(|e| format!("Can't make an event loop: {e}"))?;
    net.register(signals.as_fd(), true, false).map_err(|e| format!("Can't watch signals: {e}"))?;
    net.set_keepalive(keepalive(&cfg)).map_err(|e| e.to_string())?;
    let listeners = listen(&mut net, &cfg)?;
    if listeners.is_empty() {
        return Err("Configured to not listen anywhere, exiting.".into());
    }
    // Whoever reads this may connect.
    let on_terminal = cfg.logfile.is_empty() && std::io::stdout().is_terminal();
    if cfg.always_show_logo || on_terminal {
        show_logo(&cfg);
    }
    net.set_io_threads(cfg.io_threads as usize)
        .map_err(|e| format!("Can't start I/O threads: {e}"))?;
    let mut server = Server::new(cfg, loaded.origin, &net)?;
    server.process = Some(Process { signals, listeners, lock });
    server.show_title();
    server.apply_limits(&mut net);
    server.warn_about_system();
    crate::service::status("Loading");
    server.load_at_start(&mut net)?;
    if !server.stopping {
        log_notice!("Ready to accept connections");
        crate::service::ready();
        server.start_replication(&mut net);
        varve_net::run(&mut net, &mut server).map_err(|e| format!("The event loop failed: {e}"))?;
    }
    server.end_link();
    let unixsocket = server.cfg.unixsocket.clone();
    if let Some(path) = pidfile {
        let _ = std::fs::remove_file(path);
    }
    if !unixsocket.is_empty() {
        let _ = std::fs::remove_file(unixsocket);
    }
    let log = std::mem::replace(
        &mut server.log,
        Log::in_memory(server.histories, Offset(0), 1, Arc::new(|| {})),
    );
    let files = server.end_files_work();
    log.close()
        .and(files)
        .map_err(|e| format!("The log could not be closed in good order: {e}"))?;
    // Not before: to whoever sent SHUTDOWN the end of the connection says that the files are whole.
    drop(net);
    if server.insisted {
        return Ok(ExitCode::FAILURE);
    }
    log_warning!("Varve is now ready to exit, bye bye...");
    Ok(ExitCode::SUCCESS)
}

/// Layers of sediment, and what a newcomer wants to know.
fn show_logo(cfg: &Config) {
    let lines = [
        "   ~  ~    ~  ~".to_owned(),
        format!("  .-~-.__.-~-.__      Varve {}, {} bit", crate::VERSION, usize::BITS),
        " :____.--~--.____:    Every layer stays".to_owned(),
        format!(" :__.~~.__.~~.___:    Port: {}", cfg.port),
        format!(" :_______________:    PID: {}", std::process::id()),
    ];
    for line in lines {
        log_notice!("{line}");
    }
}

/// Removes what a killed process left half written: the folder is locked, so nobody writes it now.
fn remove_leftovers() {
    for entry in std::fs::read_dir(".").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if is_leftover(&name) {
            log_notice!("Removing {name}, which an earlier process did not finish");
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether a file has a name that snapshots have while they are written: one or two numbers, and what
/// they are for. Others' files may be called `temp-` something too.
fn is_leftover(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("temp-") else { return false };
    let numbers = match rest.strip_prefix("rewriteaof-bg-") {
        Some(rest) => rest.strip_suffix(".aof"),
        None => [".base.rdb", "-sync.rdb", ".rdb"].iter().find_map(|end| rest.strip_suffix(end)),
    };
    numbers.is_some_and(|numbers| {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        numbers.split('-').count() <= 2 && numbers.split('-').all(is_number)
    })
}

fn daemonize() -> Result<(), String> {
    use nix::unistd::{ForkResult, fork, setsid};
    // SAFETY: no other thread runs yet.
    match unsafe { fork() }.map_err(|e| format!("Can't fork: {e}"))? {
        ForkResult::Parent { .. } => std::process::exit(0),
        ForkResult::Child => {}
    }
    setsid().map_err(|e| format!("Can't start a session: {e}"))?;
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    Ok(())
}

fn pidfile(cfg: &Config) -> Option<PathBuf> {
    let path = match (&*cfg.pidfile, cfg.daemonize) {
        (path, _) if !path.is_empty() => path,
        (_, true) => OsStr::new("/var/run/varve.pid"),
        (_, false) => return None,
    };
    std::path::absolute(path).ok()
}

fn write_pidfile(path: &Path) -> bool {
    let written = std::fs::write(path, format!("{}\n", std::process::id()));
    if let Err(e) = &written {
        log_warning!("Failed to write PID file: {e}");
    }
    written.is_ok()
}

/// Raises the limit of open files to what `maxclients` needs, or lowers `maxclients` to what the
/// limit allows.
pub fn raise_file_limit(cfg: &mut Config) {
    let want = cfg.maxclients as u64 + RESERVED_FILES;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft >= want {
        return;
    }
    if setrlimit(Resource::RLIMIT_NOFILE, want, hard.max(want)).is_ok() {
        return;
    }
    let got = hard.min(want);
    let _ = setrlimit(Resource::RLIMIT_NOFILE, got, hard);
    if got < want {
        let fits = got.saturating_sub(RESERVED_FILES).max(1) as u32;
        log_warning!(
            "The limit of open files is {got}: maxclients is {fits} instead of {}. Raise it with 'ulimit -n {want}'.",
            cfg.maxclients
        );
        cfg.maxclients = fits;
    }
}

fn keepalive(cfg: &Config) -> Option<Duration> {
    (cfg.tcp_keepalive > 0).then(|| Duration::from_secs(cfg.tcp_keepalive as u64))
}

/// Listens on all that the configuration names.
fn listen(net: &mut Net<Client>, cfg: &Config) -> Result<Vec<ListenerId>, String> {
    let mut listeners = listen_tcp(net, cfg)?;
    if !cfg.unixsocket.is_empty() {
        let mode = (cfg.unixsocketperm != 0).then_some(cfg.unixsocketperm);
        let id = net
            .listen_unix(Path::new(&cfg.unixsocket), mode, cfg.tcp_backlog as i32)
            .map_err(|e| format!("Failed opening Unix socket: bind: {e}"))?;
        listeners.push(id);
    }
    Ok(listeners)
}

/// Listens on all addresses, or on none. One with a leading `-` may be missing, but nobody else may
/// have it.
fn listen_tcp(net: &mut Net<Client>, cfg: &Config) -> Result<Vec<ListenerId>, String> {
    let is_missing = |e: &io::Error| {
        let no_family = [libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT];
        e.kind() == io::ErrorKind::AddrNotAvailable
            || e.raw_os_error().is_some_and(|code| no_family.contains(&code))
    };
    let failed = || format!("Failed listening on port {} (tcp), aborting.", cfg.port);
    let mut listeners = Vec::new();
    if cfg.port == 0 {
        return Ok(listeners);
    }
    for bind in &cfg.bind {
        let (optional, name) = match bind.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, &bind[..]),
        };
        let ip = match name {
            "*" => Ok(IpAddr::from([0, 0, 0, 0])),
            "::*" => Ok(IpAddr::from([0u16; 8])),
            _ => address_of(name),
        };
        let backlog = cfg.tcp_backlog as i32;
        match ip.and_then(|ip| net.listen_tcp(SocketAddr::new(ip, cfg.port), backlog)) {
            Ok(id) => listeners.push(id),
            Err(e) => {
                log_warning!(
                    "Warning: Could not create server TCP listening socket {name}:{}: {e}",
                    cfg.port
                );
                if !(optional && is_missing(&e)) {
                    listeners.into_iter().for_each(|id| net.close_listener(id));
                    return Err(failed());
                }
            }
        }
    }
    match listeners.is_empty() && !cfg.bind.is_empty() {
        true => Err(failed()),
        false => Ok(listeners),
    }
}

/// The address that a name stands for: of several an IPv4 one, as `localhost` means it.
fn address_of(name: &str) -> io::Result<IpAddr> {
    let unknown = || io::Error::new(io::ErrorKind::AddrNotAvailable, "Name or service not known");
    let addresses = (name, 0).to_socket_addrs().map_err(|_| unknown())?;
    addresses.map(|address| address.ip()).min_by_key(IpAddr::is_ipv6).ok_or_else(unknown)
}

/// The log's policy by its directive.
pub fn fsync(policy: AppendFsync) -> Fsync {
    match policy {
        AppendFsync::Always => Fsync::Always,
        AppendFsync::EverySec => Fsync::EverySec,
        AppendFsync::No => Fsync::No,
    }
}

impl Server {
    fn new(cfg: Config, origin: Origin, net: &Net<Client>) -> Result<Server, String> {
        let history = random_history().map_err(|e| format!("Can't read /dev/urandom: {e}"))?;
        let node = random_history().map_err(|e| e.to_string())?;
        let run_id = node.to_string();
        let histories = Histories::new(history);
        let waker = net.waker();
        let waker: log::Waker = Arc::new(move || waker.wake());
        let log = Log::in_memory(histories, Offset(0), cfg.repl_backlog_size, waker.clone());
        let seed = u64::from_str_radix(&run_id[..16], 16).unwrap_or(1);
        let ks = Keyspace::new(cfg.databases as usize, seed);
        let mut commands = Registry::new(crate::commands::all());
        for rename in &cfg.rename_command {
            commands.rename(&rename.command, &rename.name)?;
        }
        let clock = Clock::default();
        let memory = Memory::new().map_err(|e| format!("Can't start a thread: {e}"))?;
        let repl =
            replication::Replication::new(&cfg, histories, clock.steady_ms(), waker.clone(), node)
                .map_err(|e| format!("Can't start a thread: {e}"))?;
        Ok(Server {
            started_ms: clock.now_ms(),
            repl,
            snapshots: snapshot::Snapshots::new(clock.now_ms()),
            loading: None::<load::Loading>,
            files: None,
            cfg,
            origin,
            ks,
            log,
            histories,
            waker,
            commands,
            clock,
            run_id,
            startup_memory: crate::allocator::used(),
            memory,
            client_eviction: Default::default(),
            stats: Default::default(),
            rates: Default::default(),
            load_rate: Default::default(),
            error_counts: Default::default(),
            slowlog: Default::default(),
            latencies: Default::default(),
            pubsub: Default::default(),
            tracking: Tracking::default(),
            monitors: Vec::new(),
            http_warned_ms: 0,
            waiters: Default::default(),
            pause: None,
            migrations: Vec::new(),
            paused: Vec::new(),
            let_go_due: false,
            in_exec: None,
            cron: Default::default(),
            shutdown: None,
            stopping: false,
            insisted: false,
            log_failing: false,
            log_behind: false,
            clients: 0,
            process: None,
            replayed: 0,
            apply_room: Default::default(),
            apply_reply: Default::default(),
            frame: Default::default(),
            supply_due: false,
            fed_to: Offset(0),
            acks_due: false,
            beside_log: false,
            stream_paused: None,
        })
    }

    /// Where the log's files are.
    pub fn log_options(&self) -> log::Options {
        let mut options = log::Options::new(
            Path::new(".").join(&self.cfg.appenddirname),
            self.cfg.appendfilename.clone(),
        );
        options.fsync = fsync(self.cfg.appendfsync);
        options.tail_bytes = self.cfg.repl_backlog_size;
        options.load_truncated = self.cfg.aof_load_truncated;
        options.history_bytes = self.cfg.repl_history_size;
        options.history_ttl = Duration::from_secs(self.cfg.repl_history_ttl.into());
        options
    }

    /// Hands what the configuration says to the parts that work by it.
    pub fn apply_limits(&mut self, net: &mut Net<Client>) {
        let (cfg, limits) = (&self.cfg, &mut self.ks.limits);
        limits.hash_max_listpack_entries = cfg.hash_max_listpack_entries as usize;
        limits.hash_max_listpack_value = cfg.hash_max_listpack_value as usize;
        limits.list_max_listpack_size = cfg.list_max_listpack_size;
        limits.set_max_intset_entries = cfg.set_max_intset_entries as usize;
        limits.set_max_listpack_entries = cfg.set_max_listpack_entries as usize;
        limits.set_max_listpack_value = cfg.set_max_listpack_value as usize;
        limits.zset_max_listpack_entries = cfg.zset_max_listpack_entries as usize;
        limits.zset_max_listpack_value = cfg.zset_max_listpack_value as usize;
        limits.max_string = cfg.proto_max_bulk_len as usize;
        limits.lfu_log_factor = cfg.lfu_log_factor;
        limits.lfu_decay_time = cfg.lfu_decay_time;
        let lazy = &mut self.ks.lazy;
        lazy.eviction = cfg.lazyfree_lazy_eviction;
        lazy.expire = cfg.lazyfree_lazy_expire;
        lazy.server_del = cfg.lazyfree_lazy_server_del;
        lazy.user_del = cfg.lazyfree_lazy_user_del;
        lazy.user_flush = cfg.lazyfree_lazy_user_flush;
        self.ks.access_clock = clock_of(cfg.maxmemory_policy);
        net.limits.bulk_max = cfg.proto_max_bulk_len as usize;
        net.limits.authenticated = cfg.requirepass.is_empty();
        net.query_limit = cfg.client_query_buffer_limit as usize;
        net.output_limit = self.output_limit(0, cfg.requirepass.is_empty());
        let _ = net.set_keepalive(keepalive(&self.cfg));
        self.choose_events();
    }

    /// Sets which events the keyspace leaves: those that somebody is told of.
    pub fn choose_events(&mut self) {
        let tracked = if self.tracking.is_empty() { 0 } else { event::TRACKED };
        self.ks.notify = self.cfg.notify_keyspace_events.0 | tracked;
    }

    /// The process title with `name` in it; empty if titles are off.
    pub fn title(&self, name: &str) -> OsString {
        match self.cfg.set_proc_title {
            true => crate::title::compose(&self.cfg, self.origin.file.as_deref(), name),
            false => OsString::new(),
        }
    }

    /// Shows the daemon's own title.
    pub fn show_title(&self) {
        if self.cfg.set_proc_title {
            crate::title::set(&self.title(crate::title::name()));
        }
    }

    /// Listens where the configuration says now: `CONFIG SET bind` and `port`. A Unix socket stays.
    pub fn listen_again(&mut self, net: &mut Net<Client>) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let is_tcp = |id: &ListenerId| net.local_addr(*id).is_some();
        let (tcp, others): (Vec<_>, Vec<_>) = process.listeners.drain(..).partition(is_tcp);
        tcp.into_iter().for_each(|id| net.close_listener(id));
        process.listeners = others;
        process.listeners.append(&mut listen_tcp(net, &self.cfg)?);
        Ok(())
    }

    /// Works in the folder that the configuration names now, and locks it: `CONFIG SET dir`.
    pub fn change_dir(&mut self) -> Result<(), String> {
        let dir = Path::new(&self.cfg.dir);
        let lock = log::lock_dir(dir, Duration::ZERO).map_err(|e| e.to_string())?;
        std::env::set_current_dir(dir).map_err(|e| e.to_string())?;
        if let Some(process) = &mut self.process {
            process.lock = lock;
        }
        Ok(())
    }
}
