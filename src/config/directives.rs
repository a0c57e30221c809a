//! The directive table: one entry for each directive, and nothing about a directive anywhere else.
//!
//! An entry gives the field of [`Config`] with its type and default, the name, the [`Kind`] of
//! value, what else is special, and in its doc comment what the manual and the default file say.
//! The macro makes of it the struct, its `Default` and [`DIRECTIVES`]; reading files and the
//! command line, CONFIG GET, SET and REWRITE, `varve.conf` and the manual are loops over that.
//!
//! Names and defaults are those of Redis 7.2, but where the text says otherwise.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::types::*;
use super::value::{INT_MAX, Kind, Setting, int, memory};

/// Looks at a value that was just set: refuses it, or brings it into its range.
type Check = fn(&mut Config) -> Result<(), String>;

/// One directive.
pub struct Directive {
    pub name: &'static str,
    /// Its older name, or Valkey's, which works everywhere as well.
    pub alias: Option<&'static str>,
    /// The heading it stands under in the default file.
    pub group: &'static str,
    pub kind: Kind,
    /// The doc comment: sentences with the line breaks of the source.
    pub doc: &'static str,
    /// Cannot be changed by CONFIG SET.
    pub immutable: bool,
    /// Cannot be changed by CONFIG SET unless `enable-protected-configs` allows it.
    pub protected: bool,
    /// A secret: not to be shown in the slow log or MONITOR.
    pub sensitive: bool,
    /// Known to files only: neither CONFIG GET nor SET shows it.
    pub file_only: bool,
    /// Cannot be changed while data are loaded.
    pub deny_loading: bool,
    /// For tests: CONFIG GET shows it to those who name it, and no page tells of it.
    pub hidden: bool,
    /// Takes several lines of a file together.
    pub repeated: bool,
    /// The value that the default file sets, where that differs from leaving it out.
    pub packaged: Option<&'static str>,
    get: fn(&Config) -> OsString,
    set: fn(&mut Config, &[OsString], bool) -> Result<(), String>,
    lines: fn(&Config) -> Vec<String>,
    check: Option<Check>,
}

impl Directive {
    const fn new(
        name: &'static str,
        group: &'static str,
        kind: Kind,
        doc: &'static str,
        get: fn(&Config) -> OsString,
        set: fn(&mut Config, &[OsString], bool) -> Result<(), String>,
        lines: fn(&Config) -> Vec<String>,
    ) -> Directive {
        Directive {
            name,
            alias: None,
            group,
            kind,
            doc,
            immutable: false,
            protected: false,
            sensitive: false,
            file_only: false,
            deny_loading: false,
            hidden: false,
            repeated: false,
            packaged: None,
            get,
            set,
            lines,
            check: None,
        }
    }

    const fn alias(mut self, alias: &'static str) -> Directive {
        self.alias = Some(alias);
        self
    }

    const fn immutable(mut self) -> Directive {
        self.immutable = true;
        self
    }

    const fn protected(mut self) -> Directive {
        self.protected = true;
        self
    }

    const fn sensitive(mut self) -> Directive {
        self.sensitive = true;
        self
    }

    const fn file_only(mut self) -> Directive {
        self.file_only = true;
        self
    }

    const fn deny_loading(mut self) -> Directive {
        self.deny_loading = true;
        self
    }

    const fn hidden(mut self) -> Directive {
        self.hidden = true;
        self
    }

    const fn repeated(mut self) -> Directive {
        self.repeated = true;
        self
    }

    const fn packaged(mut self, value: &'static str) -> Directive {
        self.packaged = Some(value);
        self
    }

    const fn check(mut self, check: Check) -> Directive {
        self.check = Some(check);
        self
    }

    /// The value as CONFIG GET shows it.
    pub fn get(&self, config: &Config) -> OsString {
        (self.get)(config)
    }

    /// Sets the value that `words` spell. `more` says that the same configuration gave this
    /// directive before (`save` and `rename-command` accumulate then). On an error `config` may
    /// hold the value that was refused: work on a copy.
    pub fn set(&self, config: &mut Config, words: &[OsString], more: bool) -> Result<(), String> {
        match (self.kind, words) {
            // Several words may also come as one: `save "900 1"`, and always so in CONFIG SET.
            (Kind::Words(_), [one]) => {
                let split = one.as_bytes().split(|&b| b == b' ');
                let split: Vec<OsString> = split.map(|w| OsStr::from_bytes(w).into()).collect();
                (self.set)(config, &split, more)?;
            }
            (Kind::Words(_), _) | (_, [_]) => (self.set)(config, words, more)?,
            _ => return Err("wrong number of arguments".into()),
        }
        match self.check {
            Some(check) => check(config),
            None => Ok(()),
        }
    }

    /// What a file says after the name to get this value: one text for each line.
    pub fn lines(&self, config: &Config) -> Vec<String> {
        (self.lines)(config)
    }
}

/// The directive of this name or alias, in any case.
pub fn find(name: &str) -> Option<&'static Directive> {
    DIRECTIVES.iter().find(|d| {
        d.name.eq_ignore_ascii_case(name) || d.alias.is_some_and(|a| a.eq_ignore_ascii_case(name))
    })
}

macro_rules! directives {
    ($( $group:literal { $(
        $(#[doc = $doc:expr])+
        $field:ident: $type:ty = $default:expr, $name:literal, $kind:expr
            $(, $mark:ident($($argument:expr),*))*;
    )+ } )+) => {
        /// The configuration in force, a field for each directive.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($( $(#[doc = $doc])+ pub $field: $type, )+)+
        }

        impl Default for Config {
            fn default() -> Config {
                Config { $($( $field: $default, )+)+ }
            }
        }

        /// Every directive, in the order of the default file.
        pub static DIRECTIVES: &[Directive] = &[$($({
            const KIND: Kind = $kind;
            Directive::new(
                $name,
                $group,
                KIND,
                concat!($($doc, "\n"),+),
                |config| Setting::show(&config.$field, &KIND),
                |config, words, more| Setting::assign(&mut config.$field, &KIND, words, more),
                |config| Setting::lines(&config.$field, &KIND),
            )
            $(.$mark($($argument),*))*
        }),+),+];
    };
}

directives! {
    "Network" {
        /// The addresses to listen on. An address after `-` may be missing on this machine; `*` is
        /// every IPv4 address, `::*` every IPv6 address; an empty value listens on none.
        bind: Vec<String> = vec!["*".into(), "-::*".into()], "bind",
            Kind::Words("up to 16 addresses"), packaged("127.0.0.1 -::1"), check(bind_count);
        /// The TCP port to listen on; 0 listens on no TCP port.
        port: u16 = 6379, "port", int(0, 65535), packaged("6379");
        /// The local address from which connections to a primary are made.
        bind_source_addr: OsString = OsString::new(), "bind-source-addr", Kind::Text;
        /// Refuse clients from other machines while no password is set.
        protected_mode: bool = true, "protected-mode", Kind::Bool;
        /// How many connections may wait to be accepted (the kernel caps it at somaxconn).
        tcp_backlog: u32 = 511, "tcp-backlog", int(0, INT_MAX), immutable();
        /// Seconds between TCP keepalive probes to clients; 0 sends none.
        tcp_keepalive: u32 = 300, "tcp-keepalive", int(0, INT_MAX);
        /// Close a client that was idle for so many seconds; 0 never does.
        timeout: u32 = 0, "timeout", int(0, INT_MAX);
        /// The path of a Unix socket to listen on; empty for none.
        unixsocket: OsString = OsString::new(), "unixsocket", Kind::Text, immutable();
        /// The permissions of that socket; 0 leaves them to the umask.
        unixsocketperm: u32 = 0, "unixsocketperm", Kind::Octal { max: 0o777 }, immutable();
    }

    "Process and log file" {
        /// Go to the background.
        daemonize: bool = false, "daemonize", Kind::Bool, immutable();
        /// Which init system to tell that the server is ready: with `systemd` by sd_notify, with
        /// `auto` if there is a NOTIFY_SOCKET. `upstart` tells nobody.
        supervised: Supervised = Supervised::No, "supervised", Supervised::KIND, immutable(),
            packaged("auto");
        /// Where to write the process id, inside `dir` if that is no full path. Without a path it is written
        /// only with `daemonize`.
        pidfile: OsString = OsString::new(), "pidfile", Kind::Text, immutable();
        /// The least important lines that are still logged.
        loglevel: LogLevel = LogLevel::Notice, "loglevel", LogLevel::KIND, packaged("notice");
        /// The log file, inside `dir` if that is no full path; empty logs to standard output. A file that
        /// was moved away is made anew.
        logfile: OsString = OsString::new(), "logfile", Kind::Text, immutable();
        /// Greet with a drawing at start; without this, only on a terminal.
        always_show_logo: bool = false, "always-show-logo", Kind::Bool, immutable();
        /// Show state in the process title, as `ps` lists it.
        set_proc_title: bool = true, "set-proc-title", Kind::Bool, immutable();
        /// The title. Known variables are title, listen-addr, server-mode, port, tls-port,
        /// unixsocket and config-file, in braces.
        proc_title_template: OsString = "{title} {listen-addr} {server-mode}".into(),
            "proc-title-template", Kind::Text, check(title_template);
        /// Log where the process crashed: the panic or signal, and a backtrace.
        crash_log_enabled: bool = true, "crash-log-enabled", Kind::Bool;
        /// Keep transparent huge pages off for this process: they make the fork's copies larger.
        disable_thp: bool = true, "disable-thp", Kind::Bool, immutable();
        /// Seconds to wait at a shutdown for replicas that lag.
        shutdown_timeout: u32 = 10, "shutdown-timeout", int(0, INT_MAX);
        /// What SIGINT does: `default` saves if save points are set; `save`, `nosave`, `now` and
        /// `force` mean what they mean to SHUTDOWN.
        shutdown_on_sigint: ShutdownFlags = ShutdownFlags::default(), "shutdown-on-sigint",
            Kind::Words("default, or some of save, nosave, now, force");
        /// What SIGTERM does.
        shutdown_on_sigterm: ShutdownFlags = ShutdownFlags::default(), "shutdown-on-sigterm",
            Kind::Words("default, or some of save, nosave, now, force");
    }

    "Databases and clients" {
        /// How many databases there are to SELECT.
        databases: u32 = 16, "databases", int(1, INT_MAX), immutable();
        /// How many clients may be connected. The limit on open files is raised to fit.
        maxclients: u32 = 10_000, "maxclients", int(1, u32::MAX as i64);
        /// When a client that does not read its replies is closed: for each class (normal, replica,
        /// pubsub) a hard limit, a soft limit, and the seconds that the soft limit may be exceeded.
        /// 0 is no limit, and 16 KiB of a client are not counted. A replica is fed from the log and
        /// needs no buffer: its limit guards only what a full sync adds.
        client_output_buffer_limit: [OutputLimit; 3] = [
            OutputLimit::new(0, 0, 0),
            OutputLimit::new(256 << 20, 64 << 20, 60),
            OutputLimit::new(32 << 20, 8 << 20, 60),
        ], "client-output-buffer-limit", Kind::Words("class hard soft seconds, repeated"),
            repeated();
        /// How much memory the buffers of all clients may take together, in bytes or in percent of
        /// `maxmemory`: beyond that the clients that hold most are closed. 0 is no limit.
        maxmemory_clients: ClientMemory = ClientMemory::Bytes(0), "maxmemory-clients",
            Kind::Words("size, or percent");
        /// How much of one request may wait in the server.
        client_query_buffer_limit: u64 = 1 << 30, "client-query-buffer-limit", memory(1 << 20);
        /// The largest single argument.
        proto_max_bulk_len: u64 = 512 << 20, "proto-max-bulk-len", memory(1 << 20);
        /// How many keys CLIENT TRACKING remembers, with the clients that read them: those of a key too many are told to
        /// forget it. 0 is no limit.
        tracking_table_max_keys: u64 = 1_000_000, "tracking-table-max-keys", int(0, i64::MAX);
    }

    "Security" {
        /// The password of the default user; empty for none.
        requirepass: OsString = OsString::new(), "requirepass", Kind::Text, sensitive();
        /// Give a command another name, or with an empty name remove it.
        rename_command: Vec<Rename> = Vec::new(), "rename-command",
            Kind::Words("command new-name"), immutable(), file_only(), repeated();
        /// Who may use DEBUG: nobody, anybody, or clients of this machine.
        enable_debug_command: OnOffLocal = OnOffLocal::No, "enable-debug-command", OnOffLocal::KIND,
            immutable();
        /// Who may CONFIG SET what decides where files are written (`dir`, `dbfilename`).
        enable_protected_configs: OnOffLocal = OnOffLocal::No, "enable-protected-configs", OnOffLocal::KIND,
            immutable();
    }

    "The command log" {
        /// Keep the command log on disk, so that what was acknowledged is there after a restart.
        /// The default is yes; Redis's is no.
        appendonly: bool = true, "appendonly", Kind::Bool, packaged("yes"),
            deny_loading();
        /// When the log is synced: `always` before the reply leaves, `everysec` once a second,
        /// `no` when the kernel pleases. Under every one a killed process loses nothing that it
        /// acknowledged; they differ in what a power cut can take.
        appendfsync: AppendFsync = AppendFsync::EverySec, "appendfsync", AppendFsync::KIND,
            packaged("everysec");
        /// How the log's files begin.
        appendfilename: OsString = "appendonly.aof".into(), "appendfilename", Kind::Text,
            immutable(), check(append_names);
        /// The folder of the log, inside `dir`.
        appenddirname: OsString = "appendonlydir".into(), "appenddirname", Kind::Text, immutable(),
            check(append_names);
        /// Do not sync while a child writes a snapshot, as if `appendfsync` were `no` for that time:
        /// fewer stalls on a busy disk, and up to the length of the snapshot to lose in a power cut.
        no_appendfsync_on_rewrite: bool = false, "no-appendfsync-on-rewrite", Kind::Bool;
        /// Make a new base when the log grew by so many percent since the last; 0 never does. While it
        /// is not four times as large as that, nine times as long as the last rewrite took must have
        /// passed, and the loop have worked for less than half of a tenth of a second.
        auto_aof_rewrite_percentage: u32 = 100, "auto-aof-rewrite-percentage", int(0, INT_MAX);
        /// But not while the log is smaller than this.
        auto_aof_rewrite_min_size: u64 = 64 << 20, "auto-aof-rewrite-min-size", memory(0);
        /// Start with a log whose end is torn, dropping the torn command, instead of refusing.
        aof_load_truncated: bool = true, "aof-load-truncated", Kind::Bool;
        /// Write the log's base as RDB.
        aof_use_rdb_preamble: bool = true, "aof-use-rdb-preamble", Kind::Bool;
        /// Sync a new base while it is written, every few MiB, so that the last sync is short.
        aof_rewrite_incremental_fsync: bool = true, "aof-rewrite-incremental-fsync", Kind::Bool;
    }

    "Snapshots" {
        /// Save the dataset when so many seconds passed and so many keys changed; pairs add up, and
        /// an empty value saves never.
        save: Vec<SavePoint> = vec![
            SavePoint { seconds: 3600, changes: 1 },
            SavePoint { seconds: 300, changes: 100 },
            SavePoint { seconds: 60, changes: 10_000 },
        ], "save", Kind::Words("seconds changes, repeated"), repeated();
        /// Refuse writes when the last snapshot failed.
        stop_writes_on_bgsave_error: bool = true, "stop-writes-on-bgsave-error", Kind::Bool;
        /// Compress long strings.
        rdbcompression: bool = true, "rdbcompression", Kind::Bool;
        /// End the file with a checksum, and check it when loading.
        rdbchecksum: bool = true, "rdbchecksum", Kind::Bool, immutable();
        /// The format's version that is written: 9 can be read from Redis 5 on, 10 from 7.0, 11
        /// from 7.2, 12 from 7.4. Redis has no such directive.
        rdb_version: u32 = 10, "rdb-version", int(9, 12);
        /// The snapshot's file name, inside `dir`.
        dbfilename: OsString = "dump.rdb".into(), "dbfilename", Kind::Text, protected(),
            check(|c| plain_file_name("dbfilename", &c.dbfilename));
        /// The working folder, for the snapshot and the log.
        dir: OsString = "./".into(), "dir", Kind::Text, protected(), packaged("/var/lib/varve"),
            check(existing_dir), deny_loading();
        /// On a server without persistence (no save points, `appendonly no`), remove the RDB files that
        /// full syncs leave.
        rdb_del_sync_files: bool = false, "rdb-del-sync-files", Kind::Bool;
        /// Sync a snapshot while it is written, every few MiB.
        rdb_save_incremental_fsync: bool = true, "rdb-save-incremental-fsync", Kind::Bool;
    }

    "Replication" {
        /// Replicate the primary at this host and port; `no one` makes this a primary.
        replicaof: Option<Primary> = None, "replicaof", Kind::Words("host port"),
            alias("slaveof"), immutable();
        /// The password that the primary asks for.
        masterauth: OsString = OsString::new(), "masterauth", Kind::Text,
            alias("primaryauth"), sensitive();
        /// The user that goes with that password.
        masteruser: OsString = OsString::new(), "masteruser", Kind::Text,
            alias("primaryuser"), sensitive();
        /// Answer reads while the primary is away or a full sync runs.
        replica_serve_stale_data: bool = true, "replica-serve-stale-data", Kind::Bool,
            alias("slave-serve-stale-data");
        /// Refuse writes of this replica's own clients.
        replica_read_only: bool = true, "replica-read-only", Kind::Bool, alias("slave-read-only");
        /// Send a full sync's snapshot to the socket instead of a file first.
        repl_diskless_sync: bool = true, "repl-diskless-sync", Kind::Bool;
        /// Seconds to wait for more replicas before such a full sync begins.
        repl_diskless_sync_delay: u32 = 5, "repl-diskless-sync-delay", int(0, INT_MAX);
        /// Begin it at once when so many replicas wait; 0 always waits.
        repl_diskless_sync_max_replicas: u32 = 0, "repl-diskless-sync-max-replicas",
            int(0, INT_MAX);
        /// Load a full sync from the socket without a file: never, when this replica is empty, or
        /// keeping the old data until the new is complete.
        repl_diskless_load: DisklessLoad = DisklessLoad::Disabled, "repl-diskless-load",
            DisklessLoad::KIND, deny_loading();
        /// Seconds between the pings that a primary sends to its replicas.
        repl_ping_replica_period: u32 = 10, "repl-ping-replica-period", int(1, INT_MAX),
            alias("repl-ping-slave-period");
        /// Seconds of silence after which the other side counts as gone.
        repl_timeout: u32 = 60, "repl-timeout", int(1, INT_MAX);
        /// Seconds between a replica's attempts to connect again; 0 tries at once. Redis has no
        /// such directive.
        repl_reconnect_delay: u32 = 1, "repl-reconnect-delay", int(0, 30);
        /// Let the kernel gather small packets to replicas: less bandwidth, more delay.
        repl_disable_tcp_nodelay: bool = false, "repl-disable-tcp-nodelay", Kind::Bool;
        /// Compress what replicas are sent, with a checksum for each piece: where both ends are
        /// Varves with `lz4` here. For links made afterwards. Redis has no such directive.
        repl_compression: ReplCompression = ReplCompression::No, "repl-compression",
            ReplCompression::KIND;
        /// How much of the log's end stays in memory for replicas (16 KiB at least). With the log
        /// on disk a replica can come back from further away than this.
        repl_backlog_size: u64 = 1 << 20, "repl-backlog-size", memory(1), check(backlog_size);
        /// How much of the log from before its base stays on disk, compressed: a replica that was
        /// away across a rewrite continues from there. Older bases, for a rollback, may take half
        /// of it. 0 keeps none. Redis has no such directive.
        repl_history_size: u64 = 1 << 30, "repl-history-size", memory(0);
        /// Seconds for which that stays; 0 keeps none. Redis has no such directive.
        repl_history_ttl: u32 = 86400, "repl-history-ttl", int(0, INT_MAX);
        /// Seconds after which a primary without replicas frees that memory. No effect: it stays for
        /// those who come back late.
        repl_backlog_ttl: u32 = 3600, "repl-backlog-ttl", int(0, INT_MAX);
        /// Which replica Sentinel prefers: the lowest number; 0 is never promoted.
        replica_priority: u32 = 100, "replica-priority", int(0, INT_MAX), alias("slave-priority");
        /// The address that a replica gives as its own, behind NAT or port mapping.
        replica_announce_ip: OsString = OsString::new(), "replica-announce-ip", Kind::Text,
            alias("slave-announce-ip");
        /// The port that a replica gives as its own; 0 gives the one it listens on.
        replica_announce_port: u16 = 0, "replica-announce-port", int(0, 65535),
            alias("slave-announce-port");
        /// Let Sentinel list this replica.
        replica_announced: bool = true, "replica-announced", Kind::Bool;
        /// Refuse writes while fewer replicas than this are up to date; 0 never does.
        min_replicas_to_write: u32 = 0, "min-replicas-to-write", int(0, INT_MAX),
            alias("min-slaves-to-write");
        /// Seconds without a word after which a replica is not up to date.
        min_replicas_max_lag: u32 = 10, "min-replicas-max-lag", int(0, INT_MAX),
            alias("min-slaves-max-lag");
        /// Leave eviction to the primary.
        replica_ignore_maxmemory: bool = true, "replica-ignore-maxmemory", Kind::Bool,
            alias("slave-ignore-maxmemory");
        /// Free the old dataset in the background when a full sync replaces it.
        replica_lazy_flush: bool = false, "replica-lazy-flush", Kind::Bool,
            alias("slave-lazy-flush");
        /// What to do when a command from the primary or from the log fails: `ignore` logs it and
        /// goes on; `panic` ends the process, or the start; `panic-on-replicas` ends it when the
        /// command came from the primary and this replica is read-only.
        propagation_error_behavior: PropagationError = PropagationError::Ignore,
            "propagation-error-behavior", PropagationError::KIND;
    }

    "Memory" {
        /// How much memory data may take; 0 is no limit.
        maxmemory: u64 = 0, "maxmemory", Kind::Memory { min: 0, max: u64::MAX };
        /// Which keys go when it is reached; with `noeviction` writes are refused instead.
        maxmemory_policy: MaxmemoryPolicy = MaxmemoryPolicy::NoEviction, "maxmemory-policy",
            MaxmemoryPolicy::KIND;
        /// How many keys are looked at to find one to evict: more is closer to true LRU or LFU, and
        /// slower.
        maxmemory_samples: u32 = 5, "maxmemory-samples", int(1, 64);
        /// How long evicting may go on at a time: up to 10 it is so many times 50 us, then 15% more
        /// for each, and with 100 until done. What is left goes on between the commands.
        maxmemory_eviction_tenacity: u32 = 10, "maxmemory-eviction-tenacity", int(0, 100);
        /// How hard to look for expired keys in the background.
        active_expire_effort: u32 = 1, "active-expire-effort", int(1, 10);
        /// How fast an LFU counter saturates: higher is slower.
        lfu_log_factor: u32 = 10, "lfu-log-factor", int(0, INT_MAX);
        /// Minutes after which an LFU counter goes down by one; 0 at every look.
        lfu_decay_time: u32 = 1, "lfu-decay-time", int(0, INT_MAX);
        /// Free evicted values in the background.
        lazyfree_lazy_eviction: bool = false, "lazyfree-lazy-eviction", Kind::Bool;
        /// Free expired values in the background.
        lazyfree_lazy_expire: bool = false, "lazyfree-lazy-expire", Kind::Bool;
        /// Free overwritten values in the background.
        lazyfree_lazy_server_del: bool = false, "lazyfree-lazy-server-del", Kind::Bool;
        /// Let DEL do what UNLINK does.
        lazyfree_lazy_user_del: bool = false, "lazyfree-lazy-user-del", Kind::Bool;
        /// Let FLUSHALL and FLUSHDB free in the background unless SYNC is said.
        lazyfree_lazy_user_flush: bool = false, "lazyfree-lazy-user-flush", Kind::Bool;
    }

    "Threads and timers" {
        /// How many threads read and write connections, the main one included; they parse requests
        /// too.
        io_threads: u32 = 1, "io-threads", int(1, 128), immutable();
        /// How often a second the server looks after timeouts, expiry and the like (1 to 500).
        hz: u32 = 10, "hz", int(0, INT_MAX), check(clamp_hz);
        /// Spend a little of every second on tables that are being resized.
        activerehashing: bool = true, "activerehashing", Kind::Bool;
        /// Milliseconds after which a script that runs can be killed and clients hear BUSY; 0
        /// never interrupts. No effect: there are no scripts yet.
        busy_reply_threshold: i64 = 5000, "busy-reply-threshold", int(0, i64::MAX),
            alias("lua-time-limit");
    }

    "Slow log, latency and events" {
        /// Microseconds from which a command goes to the slow log; 0 logs all, -1 none.
        slowlog_log_slower_than: i64 = 10_000, "slowlog-log-slower-than", int(-1, i64::MAX),
            alias("commandlog-execution-slower-than");
        /// How many entries the slow log keeps.
        slowlog_max_len: u64 = 128, "slowlog-max-len", int(0, i64::MAX),
            alias("commandlog-slow-execution-max-len");
        /// Milliseconds from which LATENCY records an event; 0 records none.
        latency_monitor_threshold: i64 = 0, "latency-monitor-threshold", int(0, i64::MAX);
        /// Keep a latency histogram for each command.
        latency_tracking: bool = true, "latency-tracking", Kind::Bool;
        /// Which percentiles INFO shows of them.
        latency_tracking_info_percentiles: Percentiles = Percentiles(vec![50.0, 99.0, 99.9]),
            "latency-tracking-info-percentiles", Kind::Words("numbers from 0 to 100");
        /// Which keyspace events are published: K and E say on which channels, the other letters
        /// which events; A stands for `g$lshzxetd`.
        notify_keyspace_events: Events = Events(0), "notify-keyspace-events", Kind::Text;
    }

    "Data types" {
        /// A hash stays compact up to so many fields.
        hash_max_listpack_entries: u64 = 512, "hash-max-listpack-entries", int(0, i64::MAX),
            alias("hash-max-ziplist-entries");
        /// And while no field or value is longer than this.
        hash_max_listpack_value: u64 = 64, "hash-max-listpack-value", memory(0),
            alias("hash-max-ziplist-value");
        /// How large one node of a list grows: that many elements, or -1 to -5 for 4, 8, 16, 32 or
        /// 64 KiB.
        list_max_listpack_size: i32 = -2, "list-max-listpack-size",
            int(i32::MIN as i64, INT_MAX), alias("list-max-ziplist-size");
        /// A set of integers stays compact up to so many members.
        set_max_intset_entries: u64 = 512, "set-max-intset-entries", int(0, i64::MAX);
        /// Any other set up to so many.
        set_max_listpack_entries: u64 = 128, "set-max-listpack-entries", int(0, i64::MAX);
        /// And while no member is longer than this.
        set_max_listpack_value: u64 = 64, "set-max-listpack-value", memory(0);
        /// A sorted set stays compact up to so many members.
        zset_max_listpack_entries: u64 = 128, "zset-max-listpack-entries", int(0, i64::MAX),
            alias("zset-max-ziplist-entries");
        /// And while no member is longer than this.
        zset_max_listpack_value: u64 = 64, "zset-max-listpack-value", memory(0),
            alias("zset-max-ziplist-value");
        /// How large one node of a stream grows, in bytes; 0 is no limit. No effect: there are no
        /// streams yet.
        stream_node_max_bytes: u64 = 4096, "stream-node-max-bytes", memory(0);
        /// And in entries; 0 is no limit.
        stream_node_max_entries: u64 = 100, "stream-node-max-entries", int(0, i64::MAX);
        /// How large a HyperLogLog grows before it gets its full, fixed size. No effect: there are none
        /// yet.
        hll_sparse_max_bytes: u64 = 3000, "hll-sparse-max-bytes", memory(0);
    }

    "Tests" {
        /// Microseconds that a snapshot waits after each key.
        rdb_key_save_delay: u32 = 0, "rdb-key-save-delay", int(0, INT_MAX), hidden();
        /// Microseconds that loading an RDB file waits after each key.
        key_load_delay: u32 = 0, "key-load-delay", int(0, INT_MAX), hidden();
    }
}

fn bind_count(config: &mut Config) -> Result<(), String> {
    match config.bind.len() {
        0..=16 => Ok(()),
        _ => Err("Too many bind addresses specified.".into()),
    }
}

fn title_template(config: &mut Config) -> Result<(), String> {
    const INVALID: &str = "template format is invalid or contains unknown variables";
    const VARIABLES: [&str; 7] =
        ["title", "listen-addr", "server-mode", "port", "tls-port", "unixsocket", "config-file"];
    // Every other byte is as good as the next, so it does not matter which character stands for it.
    let template = config.proc_title_template.to_string_lossy();
    let mut rest = &*template;
    while let Some((_, after)) = rest.split_once('{') {
        match after.split_once('}') {
            Some((variable, tail)) if VARIABLES.contains(&variable) => rest = tail,
            _ => return Err(INVALID.into()),
        }
    }
    match template.trim().is_empty() {
        true => Err(INVALID.into()),
        false => Ok(()),
    }
}

fn plain_file_name(directive: &str, name: &OsStr) -> Result<(), String> {
    if name.as_bytes().contains(&b'/') || name == "." || name == ".." {
        return Err(format!("{directive} can't be a path, just a filename"));
    }
    Ok(())
}

fn append_names(config: &mut Config) -> Result<(), String> {
    if config.appendfilename.is_empty() {
        return Err("appendfilename can't be empty".into());
    }
    if config.appenddirname.is_empty() {
        return Err("appenddirname can't be empty".into());
    }
    plain_file_name("appendfilename", &config.appendfilename)?;
    match plain_file_name("appenddirname", &config.appenddirname) {
        Ok(()) => Ok(()),
        Err(_) => Err("appenddirname can't be a path, just a dirname".into()),
    }
}

/// Makes `dir` the full path of a folder that is there, so that it stays true when the process
/// changes its working folder.
fn existing_dir(config: &mut Config) -> Result<(), String> {
    let full = std::fs::canonicalize(&config.dir).map_err(|e| super::os_error(&e))?;
    if !full.is_dir() {
        return Err("Not a directory".into());
    }
    config.dir = full.into();
    Ok(())
}

fn backlog_size(config: &mut Config) -> Result<(), String> {
    config.repl_backlog_size = config.repl_backlog_size.max(16 << 10);
    Ok(())
}

fn clamp_hz(config: &mut Config) -> Result<(), String> {
    config.hz = config.hz.clamp(1, 500);
    Ok(())
}
