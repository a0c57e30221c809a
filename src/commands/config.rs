//! `CONFIG`: reading and changing the configuration while the server runs.
//!
//! A change is all or nothing. The new configuration takes the old one's place, what follows from it
//! is done step by step, the steps that can fail first, and when one fails the steps before it are
//! taken back and the old configuration returns.

use super::Done;
use crate::config::directives::find;
use crate::config::types::AppendFsync;
use crate::config::{Config, failed};
use crate::server::Server;
use crate::server::client::{BlockedOn, Kind};
use crate::server::dispatch::{Call, STILL_LOADING};
use crate::server::registry::ServerHandler;
use crate::server::start::raise_file_limit;
use crate::{log_notice, log_warning, logger};
use std::os::unix::ffi::OsStrExt;
use varve_engine::command::{Command, Keys, Spec, flag::*};
use varve_engine::{Args, Error};

fn get(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let patterns: Vec<&[u8]> = args.rest(2).collect();
    let found = s.cfg.matching(&patterns);
    call.reply.map(found.len());
    for (name, value) in found {
        call.reply.bulk(name.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    Ok(())
}

fn set(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    if !args.len().is_multiple_of(2) {
        return Err(Error::SYNTAX);
    }
    let words: Vec<&[u8]> = args.rest(2).collect();
    let pairs: Vec<(&[u8], &[u8])> = words.chunks_exact(2).map(|p| (p[0], p[1])).collect();
    for (i, (name, _)) in pairs.iter().enumerate() {
        let Some(directive) = find(&String::from_utf8_lossy(name)) else { continue };
        if directive.sensitive {
            call.redact(2 * i + 3);
        }
        if directive.deny_loading && s.loading.is_some() {
            return Err(STILL_LOADING);
        }
    }
    let (new, changed) = s.cfg.updated(&pairs, call.is_local())?;
    s.reconfigure(call, new, &changed)?;
    // That the log is off is said when its files are whole.
    let closes = changed.contains(&"appendonly") && s.files_are_open();
    match closes && s.in_exec.is_none() {
        true => s.block(call, BlockedOn::Files, None),
        false => call.reply.ok(),
    }
    Ok(())
}

impl Server {
    /// Puts a configuration in force; `changed` names the directives whose value is another now.
    fn reconfigure(&mut self, call: &mut Call<'_>, new: Config, changed: &[&str]) -> Done {
        let old = std::mem::replace(&mut self.cfg, new);
        // What is costly to take back comes when the rest has not failed.
        let mut changed = changed.to_vec();
        changed.sort_by_key(|name| *name == "appendonly");
        let mut done = Vec::new();
        for name in changed {
            match self.follows_from(call, name, &old) {
                Ok(()) => done.push(name),
                Err(why) => {
                    let new = std::mem::replace(&mut self.cfg, old);
                    for name in done {
                        if let Err(why) = self.follows_from(call, name, &new) {
                            log_warning!("CONFIG SET could not take back '{name}': {why}");
                        }
                    }
                    return Err(failed(name, &why));
                }
            }
        }
        self.take_effect(call, &old);
        Ok(())
    }

    /// Does what follows from the new value of one directive and can fail.
    fn follows_from(
        &mut self,
        call: &mut Call<'_>,
        name: &str,
        old: &Config,
    ) -> Result<(), String> {
        match name {
            "bind" | "port" => {
                if let Err(why) = self.listen_again(call.net) {
                    log_warning!("{why}");
                    // What was listened on is closed by now: it must come back in any case.
                    let new = std::mem::replace(&mut self.cfg, old.clone());
                    if let Err(why) = self.listen_again(call.net) {
                        log_warning!("{why}");
                    }
                    self.cfg = new;
                    return Err(match name {
                        "port" => "Unable to listen on this port. Check server logs.".into(),
                        _ => "Failed to bind to specified addresses.".into(),
                    });
                }
            }
            "maxclients" => {
                let want = self.cfg.maxclients;
                raise_file_limit(&mut self.cfg);
                let fits = std::mem::replace(&mut self.cfg.maxclients, want);
                if fits < want {
                    return Err(format!(
                        "The operating system is not able to handle the specified number of clients, try with {fits}"
                    ));
                }
            }
            "dir" => {
                if self.uses_files() || self.snapshots.running() {
                    return Err("the folder is in use by the log or by a snapshot".into());
                }
                self.change_dir()?;
            }
            "appendonly" => match self.cfg.appendonly {
                true => self
                    .begin_disk(call.net)
                    .map_err(|_| "Unable to turn on AOF. Check server logs.".to_owned())?,
                false => self.end_disk(call.net),
            },
            _ => {}
        }
        Ok(())
    }

    /// Hands the configuration in force to everything that works by it.
    fn take_effect(&mut self, call: &mut Call<'_>, old: &Config) {
        self.apply_limits(call.net);
        self.keep_to_table_limit(call);
        logger::set_level(self.cfg.loglevel);
        crate::crash::set_enabled(self.cfg.crash_log_enabled);
        self.show_title();
        self.apply_log_config();
        if self.cfg.appendfsync != old.appendfsync
            && self.cfg.appendfsync == AppendFsync::Always
            && !self.log.is_on_disk()
        {
            log_notice!("appendfsync is 'always', and there is no log on disk to sync");
        }
        if self.cfg.repl_backlog_size != old.repl_backlog_size && !self.disk_is_due() {
            self.log.set_tail_bytes(self.cfg.repl_backlog_size);
        }
        self.replication_config_changed();
        self.slowlog.entries.truncate(self.cfg.slowlog_max_len as usize);
        let opened = self.cfg.requirepass.is_empty();
        let mut unread = Vec::new();
        for conn in call.net.iter_mut() {
            if matches!(conn.session.kind, Kind::Normal | Kind::Replica) {
                conn.session.authenticated |= opened;
                self.configure_conn(conn);
                if !conn.output.is_empty() {
                    unread.push(conn.id);
                }
            }
        }
        // A limit that was lowered counts for what waits already.
        unread.into_iter().for_each(|id| call.net.mark_dirty(id));
        call.client.authenticated |= opened;
        call.client.reconfigure = true;
        if self.cfg.maxmemory != old.maxmemory && self.cfg.maxmemory > 0 {
            let used = self.counted_memory();
            if used > self.cfg.maxmemory {
                log_warning!(
                    "The new maxmemory value set via CONFIG SET ({}) is smaller than the current memory usage ({used}). This will result in key eviction and/or the inability to accept new write commands depending on the maxmemory-policy.",
                    self.cfg.maxmemory
                );
            }
            // A transaction is not evicted from under its commands; the next round sees to it.
            if self.in_exec.is_none() {
                self.over_memory(call.net, None);
            }
        }
    }
}

fn resetstat(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let (full, partial, refused) = s.repl.primary.sync_counts();
    s.stats = crate::server::books::Stats {
        syncs_before: (full, partial, refused),
        resumed_before: s.repl.primary.resumed(),
        peak_memory: s.stats.peak_memory,
        // Files are named by it: it must not begin again.
        forks: s.stats.forks,
        ..Default::default()
    };
    s.ks.stats = Default::default();
    s.commands.reset_counters();
    s.error_counts.clear();
    s.rates = Default::default();
    call.net.stats = Default::default();
    (s.snapshots.saves, s.snapshots.rewrites) = (0, 0);
    call.reply.ok();
    Ok(())
}

fn rewrite(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    match s.cfg.rewrite(&s.origin) {
        Ok(()) => {
            log_notice!("CONFIG REWRITE executed with success.");
            call.reply.ok();
            Ok(())
        }
        Err(why) => {
            log_warning!("CONFIG REWRITE failed: {why}");
            Err(Error::err(why))
        }
    }
}

fn help(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.help(
        "CONFIG",
        &[
            "GET <pattern> [<pattern> ...]",
            "    Shows the directives whose name matches a pattern.",
            "SET <directive> <value> [<directive> <value> ...]",
            "    Changes directives, all of them or none.",
            "RESETSTAT",
            "    Sets the counters that INFO shows to zero.",
            "REWRITE",
            "    Writes the configuration in force to the configuration file.",
        ],
    );
    Ok(())
}

const ANY_TIME: u32 = ADMIN | NOSCRIPT | LOADING | STALE;

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags, 0, Keys::None)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: get, spec: spec("config|get", -3, ANY_TIME).doc("server", "2.0.0", "O(N) in the directives", "Shows directives by pattern.", "parameter...") },
    Command { run: set, spec: spec("config|set", -4, ANY_TIME).tips(&["request_policy:all_nodes", "response_policy:all_succeeded"]).doc("server", "2.0.0", "O(N) in the directives", "Changes directives while the server runs.", "(parameter value)...") },
    Command { run: resetstat, spec: spec("config|resetstat", 2, ANY_TIME).doc("server", "2.0.0", "O(1)", "Begins all counters at zero again.", "") },
    Command { run: rewrite, spec: spec("config|rewrite", 2, ANY_TIME).doc("server", "2.8.0", "O(N) in the file", "Makes the configuration file say what is in force.", "") },
    Command { run: help, spec: spec("config|help", 2, LOADING | STALE).doc("server", "5.0.0", "O(1)", "Lists the subcommands.", "") },
];
