//! Directives that Redis knows, or Valkey's stock file, and this server does not have.
//!
//! Nothing is ignored silently: such a directive is accepted with the values that ask for nothing
//! (`cluster-enabled no`), accepted with a notice where the value can change nothing a client sees,
//! and refused by name with any other. CONFIG GET shows the one value that is true here.

use std::ffi::{OsStr, OsString};

use super::parse;

/// A directive with the only values that it may have.
pub struct Unsupported {
    pub name: &'static str,
    pub alias: Option<&'static str>,
    /// What CONFIG GET shows, and what may be given without a word.
    pub value: &'static str,
    /// Other values that may be given: they have no effect, and a notice says so.
    pub tolerated: &'static [&'static str],
    /// Known to files only, as `user` and `loadmodule` are.
    pub file_only: bool,
}

/// How a value of such a directive is taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    NoEffect,
    Refused,
}

impl Unsupported {
    /// Judges the value that `words` spell.
    pub fn judge(&self, words: &[OsString]) -> Verdict {
        let given = words.join(OsStr::new(" ")).to_string_lossy().into_owned();
        if !self.file_only && same_value(&given, self.value) {
            Verdict::Fine
        } else if self.tolerated.iter().any(|t| same_value(&given, t)) {
            Verdict::NoEffect
        } else {
            Verdict::Refused
        }
    }
}

/// Whether two values mean the same: the same word, or the same size in other units.
fn same_value(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || parse::memory(a).is_some_and(|size| Some(size) == parse::memory(b))
}

/// The refusal of a directive and its value.
pub fn refusal(name: &str, words: &[OsString]) -> String {
    let quoted: Vec<String> = words.iter().map(parse::quote).collect();
    format!("'{} {}' is not supported by this version of Varve", name, quoted.join(" "))
}

/// The directive of this name or alias, in any case.
pub fn find(name: &str) -> Option<&'static Unsupported> {
    UNSUPPORTED.iter().find(|u| {
        u.name.eq_ignore_ascii_case(name) || u.alias.is_some_and(|a| a.eq_ignore_ascii_case(name))
    })
}

const fn only(name: &'static str, value: &'static str) -> Unsupported {
    Unsupported { name, alias: None, value, tolerated: &[], file_only: false }
}

const fn also(
    name: &'static str,
    value: &'static str,
    tolerated: &'static [&'static str],
) -> Unsupported {
    Unsupported { name, alias: None, value, tolerated, file_only: false }
}

const fn also_named(alias: &'static str, directive: Unsupported) -> Unsupported {
    Unsupported { alias: Some(alias), ..directive }
}

const fn file_only(name: &'static str, tolerated: &'static [&'static str]) -> Unsupported {
    Unsupported { name, alias: None, value: "", tolerated, file_only: true }
}

/// All of them, by subject.
pub static UNSUPPORTED: &[Unsupported] = &[
    // Modules and access control lists. The `user` lines are what Redis's CONFIG REWRITE writes
    // when nothing was configured.
    file_only("loadmodule", &[]),
    file_only(
        "user",
        &["default on nopass ~* &* +@all", "default on nopass sanitize-payload ~* &* +@all"],
    ),
    only("aclfile", ""),
    only("acllog-max-len", "128"),
    only("acl-pubsub-default", "resetchannels"),
    only("enable-module-command", "no"),
    // The system log, processors, the OOM killer, sockets.
    only("syslog-enabled", "no"),
    also("syslog-ident", "redis", &["varve"]),
    only("syslog-facility", "local0"),
    only("oom-score-adj", "no"),
    only("oom-score-adj-values", "0 200 800"),
    only("socket-mark-id", "0"),
    also_named("server-cpulist", only("server_cpulist", "")),
    also_named("bio-cpulist", only("bio_cpulist", "")),
    also_named("aof-rewrite-cpulist", only("aof_rewrite_cpulist", "")),
    also_named("bgsave-cpulist", only("bgsave_cpulist", "")),
    also("ignore-warnings", "", &["ARM64-COW-BUG"]),
    // Redis's own allocator, crash handler and loader.
    also("jemalloc-bg-thread", "no", &["yes"]),
    also("crash-memcheck-enabled", "no", &["yes"]),
    also("sanitize-dump-payload", "yes", &["no", "clients"]),
    only("activedefrag", "no"),
    only("active-defrag-cycle-min", "1"),
    only("active-defrag-cycle-max", "25"),
    only("active-defrag-ignore-bytes", "104857600"),
    only("active-defrag-threshold-lower", "10"),
    only("active-defrag-threshold-upper", "100"),
    only("active-defrag-max-scan-fields", "1000"),
    // I/O threads always read, the clock always ticks `hz` times, text is sorted by its bytes, and a
    // replica whose disk fails goes on in memory.
    also("io-threads-do-reads", "yes", &["no"]),
    also("dynamic-hz", "no", &["yes"]),
    also("locale-collate", "", &["C", "POSIX"]),
    also("replica-ignore-disk-write-errors", "yes", &["no"]),
    // What other directives do not do yet.
    only("aof-timestamp-enabled", "no"),
    only("aof-disable-auto-gc", "no"),
    only("list-compress-depth", "0"),
    // Valkey's own.
    only("dual-channel-replication-enabled", "no"),
    only("rdb-version-check", "strict"),
    also("hide-user-data-from-log", "no", &["yes"]),
    also("commandlog-request-larger-than", "-1", &["1048576"]),
    also("commandlog-reply-larger-than", "-1", &["1048576"]),
    only("commandlog-large-request-max-len", "128"),
    only("commandlog-large-reply-max-len", "128"),
    // TLS.
    only("tls-port", "0"),
    only("tls-cert-file", ""),
    only("tls-key-file", ""),
    only("tls-key-file-pass", ""),
    only("tls-client-cert-file", ""),
    only("tls-client-key-file", ""),
    only("tls-client-key-file-pass", ""),
    only("tls-dh-params-file", ""),
    only("tls-ca-cert-file", ""),
    only("tls-ca-cert-dir", ""),
    only("tls-auth-clients", "yes"),
    only("tls-replication", "no"),
    only("tls-cluster", "no"),
    only("tls-protocols", ""),
    only("tls-ciphers", ""),
    only("tls-ciphersuites", ""),
    only("tls-prefer-server-ciphers", "no"),
    only("tls-session-caching", "yes"),
    only("tls-session-cache-size", "20480"),
    only("tls-session-cache-timeout", "300"),
    // Cluster.
    only("cluster-enabled", "no"),
    only("cluster-config-file", "nodes.conf"),
    only("cluster-node-timeout", "15000"),
    only("cluster-port", "0"),
    only("cluster-migration-barrier", "1"),
    only("cluster-allow-replica-migration", "yes"),
    only("cluster-require-full-coverage", "yes"),
    also_named("cluster-slave-no-failover", only("cluster-replica-no-failover", "no")),
    also_named("cluster-slave-validity-factor", only("cluster-replica-validity-factor", "10")),
    only("cluster-allow-reads-when-down", "no"),
    only("cluster-allow-pubsubshard-when-down", "yes"),
    only("cluster-link-sendbuf-limit", "0"),
    only("cluster-announce-ip", ""),
    only("cluster-announce-port", "0"),
    only("cluster-announce-tls-port", "0"),
    only("cluster-announce-bus-port", "0"),
    only("cluster-announce-hostname", ""),
    only("cluster-announce-human-nodename", ""),
    only("cluster-preferred-endpoint-type", "ip"),
];
