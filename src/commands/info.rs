//! `INFO`: the daemon's figures under Redis's names, by section.
//!
//! Monitoring tools parse these lines, so a field that Redis 7.2 has is there even where this daemon
//! has nothing to count (modules, cluster, defragmentation). What only this daemon has stands at the
//! end of its section.

use super::Done;
use super::connection::REDIS_VERSION;
use crate::server::Server;
use crate::server::client::{Client, Kind};
use crate::server::dispatch::Call;
use crate::server::progress::Progress;
use crate::server::registry::ServerHandler;
use crate::{allocator, service};
use nix::sys::resource::{UsageWho, getrusage};
use std::fmt::{Display, Write};
use varve_engine::Args;
use varve_engine::command::category::DANGEROUS;
use varve_engine::command::{Command, Keys, Spec, flag::*};
use varve_net::ConnId;
use varve_replication::compress::Volume;

/// The sections in the order in which they are shown, and whether `INFO` alone shows them.
const SECTIONS: &[(&str, bool)] = &[
    ("server", true),
    ("clients", true),
    ("memory", true),
    ("persistence", true),
    ("stats", true),
    ("replication", true),
    ("cpu", true),
    ("modules", true),
    ("commandstats", false),
    ("errorstats", true),
    ("latencystats", false),
    ("cluster", true),
    ("keyspace", true),
];

/// The lines of a reply.
struct Lines(String);

impl Lines {
    fn title(&mut self, title: &str) {
        if !self.0.is_empty() {
            self.0.push_str("\r\n");
        }
        let _ = write!(self.0, "# {title}\r\n");
    }

    fn add(&mut self, name: impl Display, value: impl Display) {
        let _ = write!(self.0, "{name}:{value}\r\n");
    }

    /// A size in bytes, and again as people read it.
    fn bytes(&mut self, name: &str, bytes: u64) {
        self.add(name, bytes);
        self.add(format_args!("{name}_human"), human(bytes));
    }

    fn flag(&mut self, name: &str, on: bool) {
        self.add(name, on as u8);
    }

    fn zero(&mut self, names: &[&str]) {
        for name in names {
            self.add(name, 0);
        }
    }
}

/// Bytes with a unit, as in `1.50M`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let (mut size, mut unit) = (bytes as f64 / 1024.0, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.2}{}", UNITS[unit])
}

/// The pages that this process has in memory, bytes; 0 where the system does not say.
pub fn resident_memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|p| p.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: takes no pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * page.max(0) as u64
}

fn total_memory() -> u64 {
    // SAFETY: takes no pointers.
    let (pages, size) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    pages.max(0) as u64 * size.max(0) as u64
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// What memory goes where, bytes.
pub struct MemoryUse {
    pub used: u64,
    pub peak: u64,
    pub startup: u64,
    pub clients_normal: u64,
    pub clients_replicas: u64,
    pub tail: u64,
    /// Tables of keys and of times to live: database, then the two.
    pub tables: Vec<(usize, u64, u64)>,
    pub keys: u64,
}

impl MemoryUse {
    /// All that is not data.
    pub fn overhead(&self) -> u64 {
        let tables: u64 = self.tables.iter().map(|(_, keys, expires)| keys + expires).sum();
        self.startup + self.clients_normal + self.clients_replicas + self.tail + tables
    }

    /// Data, in bytes.
    pub fn dataset(&self) -> u64 {
        self.used.saturating_sub(self.overhead())
    }

    /// Data as percents of what was allocated since the start.
    pub fn dataset_percent(&self) -> f64 {
        ratio(self.dataset() * 100, self.used.saturating_sub(self.startup)).min(100.0)
    }
}

impl Server {
    /// Adds up who uses memory. The client at hand is counted too.
    pub fn memory_use(&self, call: &Call<'_>) -> MemoryUse {
        let used = allocator::used();
        let own = call.client.memory(self.tracking.of(call.id));
        let mut m = MemoryUse {
            used,
            peak: self.stats.peak_memory.max(used),
            startup: self.startup_memory,
            clients_normal: (call.reply.memory() + size_of::<Client>() + own) as u64,
            clients_replicas: 0,
            tail: self.log.memory() as u64,
            tables: Vec::new(),
            keys: 0,
        };
        for conn in call.net.iter() {
            match conn.session.kind {
                Kind::Replica => m.clients_replicas += self.memory_of(conn),
                _ => m.clients_normal += self.memory_of(conn),
            }
        }
        for (i, db) in self.ks.dbs.iter().enumerate() {
            m.keys += db.len() as u64;
            if !db.is_empty() {
                m.tables.push((i, db.keys().memory() as u64, db.expires().memory() as u64));
            }
        }
        m
    }

    fn info_server(&self, t: &mut Lines) {
        t.title("Server");
        t.add("redis_version", REDIS_VERSION);
        t.add("redis_git_sha1", "00000000");
        t.add("redis_git_dirty", 0);
        t.add("redis_build_id", "0");
        t.add("server_name", "varve");
        t.add("varve_version", crate::VERSION);
        t.add("redis_mode", "standalone");
        match nix::sys::utsname::uname() {
            Ok(u) => t.add(
                "os",
                format_args!(
                    "{} {} {}",
                    u.sysname().to_string_lossy(),
                    u.release().to_string_lossy(),
                    u.machine().to_string_lossy()
                ),
            ),
            Err(_) => t.add("os", std::env::consts::OS),
        }
        t.add("arch_bits", usize::BITS);
        t.add("monotonic_clock", "POSIX clock_gettime");
        t.add("multiplexing_api", "epoll");
        t.add("atomicvar_api", "c11-builtin");
        t.add("gcc_version", "0.0.0");
        t.add("process_id", std::process::id());
        let supervised = if service::is_supervised() { "systemd" } else { "no" };
        t.add("process_supervised", supervised);
        t.add("run_id", &self.run_id);
        t.add("tcp_port", self.cfg.port);
        t.add("server_time_usec", self.clock.now_us());
        let uptime = (self.clock.now_ms() - self.started_ms).max(0) / 1000;
        t.add("uptime_in_seconds", uptime);
        t.add("uptime_in_days", uptime / 86_400);
        t.add("hz", self.cfg.hz);
        t.add("configured_hz", self.cfg.hz);
        t.add("lru_clock", (self.clock.now_ms() / 1000) & 0xff_ffff);
        let path = |p: Option<&std::path::Path>| {
            p.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
        };
        t.add("executable", path(std::env::current_exe().ok().as_deref()));
        t.add("config_file", path(self.origin.file.as_deref()));
        t.flag("io_threads_active", self.cfg.io_threads > 1);
        if let Some(shutdown) = &self.shutdown {
            let left = (shutdown.deadline_ms - self.clock.steady_ms()).max(0);
            t.add("shutdown_in_milliseconds", left);
        }
        if self.cfg.port != 0 {
            let binds: String = self.cfg.bind.iter().map(|bind| format!(",bind={bind}")).collect();
            t.add("listener0", format_args!("name=tcp{binds},port={}", self.cfg.port));
        }
        if !self.cfg.unixsocket.is_empty() {
            t.add("listener1", format_args!("name=unix,bind={}", self.cfg.unixsocket.display()));
        }
    }

    fn info_clients(&self, call: &Call<'_>, t: &mut Lines) {
        t.title("Clients");
        let (mut input, mut output) = (0, call.reply.memory());
        let (mut pubsub, mut watching) =
            (call.client.in_pubsub() as usize, !call.client.watched.is_empty() as usize);
        for conn in call.net.iter().filter(|c| c.session.kind == Kind::Normal) {
            input = input.max(conn.input.memory());
            output = output.max(conn.output.memory());
            pubsub += conn.session.in_pubsub() as usize;
            watching += !conn.session.watched.is_empty() as usize;
        }
        let replicas = self.repl.primary.len();
        t.add("connected_clients", self.clients.saturating_sub(replicas));
        t.add("cluster_connections", 0);
        t.add("maxclients", self.cfg.maxclients);
        t.add("client_recent_max_input_buffer", input);
        t.add("client_recent_max_output_buffer", output);
        t.add("blocked_clients", self.waiters.blocked() + self.paused.len());
        t.add("tracking_clients", self.tracking.len());
        t.add("pubsub_clients", pubsub);
        t.add("watching_clients", watching);
        t.add("clients_in_timeout_table", self.waiters.clients_on_timeout());
        let keys: usize = self.ks.dbs.iter().map(|d| d.has_waiting() as usize).sum();
        t.add("total_blocking_keys", if keys == 0 { 0 } else { self.ks.blocking_keys() });
        t.add("total_blocking_keys_on_nokey", 0);
    }

    fn info_memory(&self, call: &Call<'_>, t: &mut Lines) {
        t.title("Memory");
        let (m, rss) = (self.memory_use(call), resident_memory());
        t.bytes("used_memory", m.used);
        t.bytes("used_memory_rss", rss);
        t.bytes("used_memory_peak", m.peak);
        let percent = ratio(m.used * 100, m.peak);
        t.add("used_memory_peak_perc", format_args!("{percent:.2}%"));
        t.add("used_memory_overhead", m.overhead());
        t.add("used_memory_startup", m.startup);
        t.add("used_memory_dataset", m.dataset());
        t.add("used_memory_dataset_perc", format_args!("{:.2}%", m.dataset_percent()));
        t.add("allocator_allocated", m.used);
        t.add("allocator_active", rss);
        t.add("allocator_resident", rss);
        t.bytes("total_system_memory", total_memory());
        t.bytes("used_memory_lua", 0);
        t.add("used_memory_vm_eval", 0);
        t.bytes("used_memory_scripts", 0);
        t.zero(&["used_memory_scripts_eval", "number_of_cached_scripts"]);
        t.zero(&["number_of_functions", "number_of_libraries", "used_memory_vm_functions"]);
        t.bytes("used_memory_vm_total", 0);
        t.zero(&["used_memory_functions"]);
        t.bytes("maxmemory", self.cfg.maxmemory);
        t.add("maxmemory_policy", self.cfg.maxmemory_policy.name());
        let fragmentation = ratio(rss, m.used);
        let excess = rss as i64 - m.used as i64;
        t.add("allocator_frag_ratio", format_args!("{fragmentation:.2}"));
        t.add("allocator_frag_bytes", excess);
        t.add("allocator_rss_ratio", "1.00");
        t.add("allocator_rss_bytes", 0);
        t.add("rss_overhead_ratio", "1.00");
        t.add("rss_overhead_bytes", 0);
        t.add("mem_fragmentation_ratio", format_args!("{fragmentation:.2}"));
        t.add("mem_fragmentation_bytes", excess);
        t.add("mem_not_counted_for_evict", m.used.saturating_sub(self.counted_memory()));
        t.add("mem_replication_backlog", m.tail);
        t.add("mem_total_replication_buffers", m.tail);
        t.add("mem_clients_slaves", m.clients_replicas);
        t.add("mem_clients_normal", m.clients_normal);
        t.add("mem_cluster_links", 0);
        t.add("mem_aof_buffer", 0);
        t.add("mem_allocator", allocator::NAME);
        t.add("active_defrag_running", 0);
        t.add("lazyfree_pending_objects", self.pending_garbage());
        t.add("lazyfreed_objects", self.stats.lazy_freed);
    }

    fn info_persistence(&self, t: &mut Lines) {
        t.title("Persistence");
        let (s, log) = (&self.snapshots, self.log.stats());
        let ok = |ok: bool| if ok { "ok" } else { "err" };
        let beside = self.loading.as_ref().is_some_and(|l| l.is_beside());
        t.flag("loading", self.loading.is_some() && !beside);
        t.flag("async_loading", beside);
        let running = s.running.as_ref();
        let cow = running.map_or(0, |r| r.cow);
        t.add("current_cow_peak", cow);
        t.add("current_cow_size", cow);
        t.add("current_cow_size_age", 0);
        let (done, total) = running.map_or((0, 0), |r| (r.progress.done, r.progress.size()));
        t.add("current_fork_perc", format_args!("{:.2}", ratio(done * 100, total)));
        t.add("current_save_keys_processed", done);
        t.add("current_save_keys_total", total);
        t.add("current_save_keys_per_sec", running.map_or(0, |r| r.progress.per_second()));
        t.add("current_save_eta_seconds", running.map_or(-1, |r| r.progress.left_s()));
        let rewriting = self.is_rewriting();
        let seconds = |is: bool| match running {
            Some(r) if is => r.started.elapsed().as_secs() as i64,
            _ => -1,
        };
        t.add("rdb_changes_since_last_save", self.unsaved_changes());
        t.flag("rdb_bgsave_in_progress", running.is_some() && !rewriting);
        t.add("rdb_last_save_time", s.last_save_s);
        t.add("rdb_last_bgsave_status", ok(s.last_ok));
        t.add("rdb_last_bgsave_time_sec", s.last_save_time_s);
        t.add("rdb_current_bgsave_time_sec", seconds(!rewriting));
        t.add("rdb_saves", s.saves);
        t.add("rdb_last_cow_size", s.last_cow);
        t.add("rdb_last_load_keys_expired", s.last_load_expired);
        t.add("rdb_last_load_keys_loaded", s.last_load_keys);
        t.flag("aof_enabled", self.cfg.appendonly);
        t.flag("aof_rewrite_in_progress", rewriting);
        t.flag("aof_rewrite_scheduled", s.rewrite_scheduled || self.disk_is_due() && !rewriting);
        t.add("aof_last_rewrite_time_sec", s.last_rewrite_time_s);
        t.add("aof_current_rewrite_time_sec", seconds(rewriting));
        t.add("aof_last_bgrewrite_status", ok(s.rewrite_failures == 0));
        t.add("aof_rewrites", s.rewrites);
        t.add("aof_rewrites_consecutive_failures", s.rewrite_failures);
        t.add("aof_last_write_status", ok(self.log.error().is_none()));
        t.add("aof_last_cow_size", s.last_rewrite_cow);
        t.add("module_fork_in_progress", 0);
        t.add("module_fork_last_cow_size", 0);
        if self.log.is_on_disk() {
            t.add("aof_current_size", log.current_bytes);
            t.add("aof_base_size", log.base_bytes);
            t.flag("aof_pending_rewrite", s.rewrite_scheduled);
            t.add("aof_buffer_length", log.unwritten_bytes);
            t.add("aof_pending_bio_fsync", log.pending_syncs);
            t.add("aof_delayed_fsync", log.delayed_syncs);
        }
        if let Some(loading) = &self.loading {
            t.add("loading_start_time", loading.started_ms / 1000);
            t.add("loading_total_bytes", loading.progress.size());
            t.add("loading_rdb_used_mem", 0);
            t.add("loading_loaded_bytes", loading.progress.done);
            t.add("loading_loaded_perc", format_args!("{:.2}", loading.progress.percent()));
            t.add("loading_bytes_per_sec", loading.progress.per_second());
            t.add("loading_eta_seconds", loading.progress.left_s());
        }
        t.add("log_first_offset", self.log.first_available());
        match log.first_live {
            Some(offset) => t.add("log_first_offset_disk", offset),
            None => t.add("log_first_offset_disk", -1),
        }
        t.add("log_first_offset_memory", log.first_in_memory);
        match self.log.oldest_base() {
            Some(offset) => t.add("log_first_offset_base", offset),
            None => t.add("log_first_offset_base", -1),
        }
        t.add("log_end_offset", self.log.end());
        t.add("log_safe_offset", self.log.released());
        t.add("log_written_offset", self.log.written());
        match self.log.synced() {
            Some(offset) => t.add("log_synced_offset", offset),
            None => t.add("log_synced_offset", -1),
        }
        t.add("log_live_bytes", log.live_bytes);
        t.add("log_history_segments", log.history_segments);
        t.add("log_history_bytes", log.history_bytes);
        t.add("log_old_bases", log.old_bases);
        t.add("log_old_bases_bytes", log.old_bases_bytes);
    }

    fn info_stats(&self, call: &Call<'_>, t: &mut Lines) {
        t.title("Stats");
        let (s, data, io) = (&self.stats, &self.ks.stats, &call.net.stats);
        let kib = |rate: u64| rate as f64 / 1024.0;
        t.add("total_connections_received", s.connections);
        t.add("total_commands_processed", s.commands);
        t.add("instantaneous_ops_per_sec", self.rates.commands.per_second());
        t.add("total_net_input_bytes", io.bytes_in);
        t.add("total_net_output_bytes", io.bytes_out);
        t.add("total_net_repl_input_bytes", s.net_replication_in);
        t.add("total_net_repl_output_bytes", s.net_replication_out);
        let rates = &self.rates;
        for (name, rate) in [
            ("input", &rates.net_in),
            ("output", &rates.net_out),
            ("input_repl", &rates.replication_in),
            ("output_repl", &rates.replication_out),
        ] {
            let kib = kib(rate.per_second());
            t.add(format_args!("instantaneous_{name}_kbps"), format_args!("{kib:.2}"));
        }
        t.add("rejected_connections", s.rejected_connections);
        let (full, partial, refused) = self.sync_counts();
        t.add("sync_full", full);
        t.add("sync_full_resumed", self.repl.primary.resumed() - s.resumed_before);
        t.add("sync_partial_ok", partial);
        t.add("sync_partial_err", refused);
        t.add("sync_rollbacks_asked", self.repl.primary.rollbacks());
        let link = self.repl.link.as_ref();
        let rolled_back = link.map(|link| link.machine().rollbacks()).unwrap_or_default();
        t.add("sync_rollbacks_done", rolled_back.count);
        t.add("sync_last_rollback_bytes", rolled_back.last_bytes);
        t.add("expired_keys", data.expired);
        t.add("expired_stale_perc", format_args!("{:.2}", data.expired_stale_perc));
        t.add("expired_time_cap_reached_count", data.expired_time_cap_reached);
        t.add("expire_cycle_cpu_milliseconds", s.expire_cycle_us / 1000);
        t.add("evicted_keys", data.evicted);
        t.add("evicted_clients", s.evicted_clients);
        t.add("total_eviction_exceeded_time", s.eviction_exceeded_us / 1000);
        t.add("current_eviction_exceeded_time", self.eviction_exceeded_ms());
        t.add("keyspace_hits", data.hits);
        t.add("keyspace_misses", data.misses);
        t.add("pubsub_channels", self.pubsub.channels.len());
        t.add("pubsub_patterns", self.pubsub.patterns.len());
        t.add("pubsubshard_channels", self.pubsub.shard_channels.len());
        t.add("latest_fork_usec", s.last_fork_us);
        t.add("total_forks", s.forks);
        t.add("slave_expires_tracked_keys", self.ks.own_expires.len());
        t.zero(&["migrate_cached_sockets", "active_defrag_hits", "active_defrag_misses"]);
        t.zero(&["active_defrag_key_hits", "active_defrag_key_misses"]);
        t.zero(&["total_active_defrag_time", "current_active_defrag_time"]);
        t.add("tracking_total_keys", self.tracking.table.count());
        t.add("tracking_total_items", self.tracking.table.items());
        t.add("tracking_total_prefixes", self.tracking.prefixes.count());
        t.add("unexpected_error_replies", s.unexpected_errors);
        t.add("total_error_replies", s.errors);
        t.add("dump_payload_sanitizations", s.dump_payload_sanitizations);
        t.add("total_reads_processed", io.reads);
        t.add("total_writes_processed", io.writes);
        t.add("io_threaded_reads_processed", io.threaded_reads);
        t.add("io_threaded_writes_processed", io.threaded_writes);
        t.zero(&["reply_buffer_shrinks", "reply_buffer_expands"]);
        t.add("eventloop_cycles", io.turns);
        t.add("eventloop_duration_sum", io.turns_ns / 1000);
        t.add("eventloop_duration_cmd_sum", s.commands_ns / 1000);
        let (turns, turns_us) = (rates.turns.per_second(), rates.turns_us.per_second());
        t.add("instantaneous_eventloop_cycles_per_sec", turns);
        t.add("instantaneous_eventloop_duration_usec", turns_us / turns.max(1));
        t.add("acl_access_denied_auth", s.auth_failures);
        t.zero(&["acl_access_denied_cmd", "acl_access_denied_key", "acl_access_denied_channel"]);
        t.add("client_query_buffer_limit_disconnections", s.query_limit_disconnections);
        t.add("client_output_buffer_limit_disconnections", s.output_limit_disconnections);
        t.add("sync_continued", s.sync_continued);
    }

    fn info_replication(&self, call: &Call<'_>, t: &mut Lines) {
        t.title("Replication");
        let now = self.now_u64();
        let (end, histories) = (self.log.end().0, self.repl.node.histories());
        t.add("role", if self.is_primary() { "master" } else { "slave" });
        if let (false, Some(link), Some(to)) =
            (self.is_primary(), &self.repl.link, &self.cfg.replicaof)
        {
            let machine = link.machine();
            t.add("master_host", &to.host);
            t.add("master_port", to.port);
            t.add("master_link_status", if machine.is_up() { "up" } else { "down" });
            let ago = |ms: u64| now.saturating_sub(ms) / 1000;
            match machine.is_up() {
                true => t.add("master_last_io_seconds_ago", ago(machine.heard_ms())),
                false => t.add("master_last_io_seconds_ago", -1),
            }
            t.flag("master_sync_in_progress", machine.is_syncing());
            t.add("slave_read_repl_offset", self.received_offset(call.net));
            t.add("slave_repl_offset", if self.repl.end_is_unshared { 0 } else { end });
            if machine.is_syncing() {
                let progress = machine.progress();
                let read = progress.map_or(0, |p| p.received);
                let total = progress.map_or(0, |p| p.size.unwrap_or(0));
                t.add("master_sync_total_bytes", total);
                t.add("master_sync_read_bytes", read);
                t.add("master_sync_left_bytes", total as i64 - read as i64);
                t.add("master_sync_perc", format_args!("{:.2}", ratio(read * 100, total)));
                let received = link.receiving();
                t.add("master_sync_bytes_per_sec", received.map_or(0, Progress::per_second));
                t.add("master_sync_eta_seconds", received.map_or(-1, Progress::left_s));
                let heard = progress.map_or(machine.heard_ms(), |p| p.last_io_ms);
                t.add("master_sync_last_io_seconds_ago", ago(heard));
            }
            if let Some(since) = machine.down_since_ms() {
                t.add("master_link_down_since_seconds", ago(since));
            }
            t.add("slave_priority", self.cfg.replica_priority);
            t.flag("slave_read_only", self.cfg.replica_read_only);
            t.flag("replica_announced", self.cfg.replica_announced);
        }
        t.add("connected_slaves", self.repl.primary.len());
        // Of several, the one that is behind the others.
        if let Some(sent) = self.repl.sending().min_by(|a, b| a.percent().total_cmp(&b.percent())) {
            t.add("slave_sync_total_bytes", sent.size());
            t.add("slave_sync_sent_bytes", sent.done);
            t.add("slave_sync_perc", format_args!("{:.2}", sent.percent()));
            t.add("slave_sync_bytes_per_sec", sent.per_second());
            t.add("slave_sync_eta_seconds", sent.left_s());
        }
        if self.cfg.min_replicas_to_write > 0 && self.cfg.min_replicas_max_lag > 0 {
            t.add("min_slaves_good_slaves", self.repl.primary.good(now));
        }
        let session = |id: ConnId| match id == call.id {
            true => Some(&*call.client),
            false => call.net.conn(id).map(|c| &c.session),
        };
        for (i, r) in self.repl.primary.listed(now).enumerate() {
            let own = || {
                let socket = session(r.conn).and_then(|c| c.socket);
                socket.map(|s| s.ip().to_canonical().to_string())
            };
            let ip = r.announced_ip.map(str::to_owned).or_else(own).unwrap_or_default();
            t.add(
                format_args!("slave{i}"),
                format_args!(
                    "ip={ip},port={},state={},offset={},lag={}",
                    r.port, r.state, r.offset, r.lag_s
                ),
            );
        }
        t.add("master_failover_state", self.failover_state());
        t.add("master_replid", histories.current);
        match histories.second() {
            Some((id, upto)) => {
                t.add("master_replid2", id);
                t.add("master_repl_offset", end);
                t.add("second_repl_offset", upto.to_wire_next());
            }
            None => {
                t.add("master_replid2", varve_persistence::offset::HistoryId::NONE);
                t.add("master_repl_offset", end);
                t.add("second_repl_offset", -1);
            }
        }
        let first = self.log.first_in_memory();
        t.add("repl_backlog_active", 1);
        t.add("repl_backlog_size", self.cfg.repl_backlog_size);
        t.add("repl_backlog_first_byte_offset", first.to_wire_next());
        t.add("repl_backlog_histlen", end.saturating_sub(first.0));
        if let (false, Some(link)) = (self.is_primary(), &self.repl.link) {
            let decoder = link.conn().and_then(|id| call.net.conn(id)?.session.decoder.as_ref());
            t.add("master_link_compression", if decoder.is_some() { "lz4" } else { "no" });
            if let Some(Volume { plain, compressed }) = decoder.map(|d| d.volume()) {
                t.add("master_link_plain_bytes", plain);
                t.add("master_link_compressed_bytes", compressed);
            }
        }
        // Not in the line of each replica, which Sentinel and others know field by field.
        for (i, r) in self.repl.primary.listed(now).enumerate() {
            let volume = session(r.conn).and_then(|c| c.compression);
            if let Some(Volume { plain, compressed }) = volume {
                t.add(
                    format_args!("compressed_slave{i}"),
                    format_args!("codec=lz4,plain_bytes={plain},compressed_bytes={compressed}"),
                );
            }
        }
    }

    fn info_cpu(&self, t: &mut Lines) {
        t.title("CPU");
        let who = [
            (UsageWho::RUSAGE_SELF, ""),
            (UsageWho::RUSAGE_CHILDREN, "_children"),
            (UsageWho::RUSAGE_THREAD, "_main_thread"),
        ];
        for (who, suffix) in who {
            let Ok(usage) = getrusage(who) else { continue };
            for (kind, time) in [("sys", usage.system_time()), ("user", usage.user_time())] {
                let text = format!("{}.{:06}", time.tv_sec(), time.tv_usec());
                t.add(format_args!("used_cpu_{kind}{suffix}"), text);
            }
        }
    }

    fn info_commandstats(&self, t: &mut Lines) {
        t.title("Commandstats");
        for c in self.commands.all() {
            let n = &c.counters;
            if n.calls + n.rejected + n.failed == 0 {
                continue;
            }
            let us = n.ns / 1000;
            t.add(
                format_args!("cmdstat_{}", c.spec.name),
                format_args!(
                    "calls={},usec={us},usec_per_call={:.2},rejected_calls={},failed_calls={}",
                    n.calls,
                    ratio(us, n.calls),
                    n.rejected,
                    n.failed
                ),
            );
        }
    }

    fn info_latencystats(&self, t: &mut Lines) {
        t.title("Latencystats");
        if !self.cfg.latency_tracking {
            return;
        }
        for c in self.commands.all() {
            let Some(times) = &c.counters.times else { continue };
            let shown = |percent: &f64| {
                let name = format!("{percent:.6}");
                let name = name.trim_end_matches('0').trim_end_matches('.');
                format!("p{name}={:.3}", times.value_at_percentile(*percent) as f64 / 1000.0)
            };
            let percentiles = &self.cfg.latency_tracking_info_percentiles.0;
            let list: Vec<String> = percentiles.iter().map(shown).collect();
            t.add(format_args!("latency_percentiles_usec_{}", c.spec.name), list.join(","));
        }
    }

    fn info_keyspace(&self, t: &mut Lines) {
        t.title("Keyspace");
        for (i, db) in self.ks.dbs.iter().enumerate().filter(|(_, db)| !db.is_empty()) {
            let (keys, expires, ttl) = (db.len(), db.expires().len(), db.avg_ttl);
            t.add(
                format_args!("db{i}"),
                format_args!("keys={keys},expires={expires},avg_ttl={ttl}"),
            );
        }
    }

    fn info_section(&self, name: &str, call: &Call<'_>, t: &mut Lines) {
        match name {
            "server" => self.info_server(t),
            "clients" => self.info_clients(call, t),
            "memory" => self.info_memory(call, t),
            "persistence" => self.info_persistence(t),
            "stats" => self.info_stats(call, t),
            "replication" => self.info_replication(call, t),
            "cpu" => self.info_cpu(t),
            "modules" => t.title("Modules"),
            "commandstats" => self.info_commandstats(t),
            "errorstats" => {
                t.title("Errorstats");
                for (word, n) in &self.error_counts {
                    t.add(format_args!("errorstat_{word}"), format_args!("count={n}"));
                }
            }
            "latencystats" => self.info_latencystats(t),
            "cluster" => {
                t.title("Cluster");
                t.add("cluster_enabled", 0);
            }
            "keyspace" => self.info_keyspace(t),
            _ => {}
        }
    }
}

fn info(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let asked: Vec<String> =
        args.rest(1).map(|w| String::from_utf8_lossy(w).to_ascii_lowercase()).collect();
    let is = |word: &str| asked.iter().any(|a| a == word);
    let all = is("all") || is("everything");
    let default = asked.is_empty() || is("default");
    s.clock.sync();
    let mut t = Lines(String::with_capacity(8 << 10));
    for &(name, by_default) in SECTIONS {
        if all || (default && by_default) || is(name) {
            s.info_section(name, call, &mut t);
        }
    }
    call.reply.verbatim("txt", t.0.as_bytes());
    Ok(())
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: info, spec: Spec::new("info", -1, LOADING | STALE, DANGEROUS, Keys::None).tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]).doc("server", "1.0.0", "O(1)", "Shows what the server is and what it counted.", "[section...]") },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(1023), "1023B");
        assert_eq!(human(1536), "1.50K");
        assert_eq!(human(10 << 20), "10.00M");
        assert_eq!(human(3 << 30), "3.00G");
    }
}
