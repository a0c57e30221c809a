//! The story: what a pair (or a chain) of servers goes through in a year, and what each event costs.
//! Nothing of it may cost a full resync while the log has the history, and the data must be equal
//! after it.
//!
//! Each scenario is a function of two builders, so that the same matrix can be run with others.

use crate::support::server::Builder;
use crate::support::{PATIENCE, Proxy, Random, Server, assert_same_data, env_number, eventually};
use std::thread;
use std::time::{Duration, Instant};

/// The backlog in memory of every server here.
const BACKLOG: u64 = 1 << 20;
/// Keys that are written over and over, so that the data stay small while the history grows.
const KEYS: usize = 100;

/// How a server keeps its data.
#[derive(Clone, Copy, PartialEq)]
enum Keeps {
    Always,
    EverySec,
    RdbOnly,
}

/// How a server ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Clean,
    Killed,
}

/// Makes servers of one kind.
type Make = fn() -> Builder;

fn start(make: Make, keeps: Keeps) -> Server {
    let server = make()
        .arg("--repl-backlog-size", &BACKLOG.to_string())
        .arg("--repl-timeout", "60")
        .arg("--repl-diskless-sync", "yes");
    match keeps {
        Keeps::Always => server.arg("--appendonly", "yes").arg("--appendfsync", "always"),
        Keeps::EverySec => server.arg("--appendonly", "yes"),
        Keeps::RdbOnly => server.arg("--save", "3600 1"),
    }
    .start()
}

/// A primary, a replica, and the link between them.
struct Pair {
    primary: Server,
    replica: Server,
    proxy: Proxy,
}

/// Full resyncs that a server's log tells of, over all its lives.
fn fulls(replica: &Server) -> usize {
    let log = replica.log();
    log.matches("Full resync from master: ").count()
        + log.matches("Full resync from primary: ").count()
        + log.matches("Full resync from the primary: ").count()
}

fn follow(replica: &Server, port: u16) {
    replica.client().ok(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
}

fn synced(replica: &Server) -> bool {
    let mut client = replica.client();
    let up = crate::support::server::info(&mut client, "master_link_status") == "up";
    up && crate::support::server::info(&mut client, "master_sync_in_progress") == "0"
}

fn offset(server: &Server) -> u64 {
    server.info("master_repl_offset").parse().unwrap_or(0)
}

/// Waits until both are at the same place, and compares their data.
fn same(primary: &Server, replica: &Server) {
    let there = || synced(replica) && offset(replica) == offset(primary);
    assert!(
        eventually(PATIENCE * 2, there),
        "the replica is at {} of {}, link {}: {}",
        offset(replica),
        offset(primary),
        replica.info("master_link_status"),
        last_lines(&replica.log()),
    );
    assert_same_data(&mut primary.client(), &mut replica.client());
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

impl Pair {
    fn new(make: (Make, Make), keeps: (Keeps, Keeps)) -> Pair {
        let primary = start(make.0, keeps.0);
        burst(&primary, 1, 200_000);
        let replica = start(make.1, keeps.1);
        let proxy = Proxy::to(primary.port());
        follow(&replica, proxy.port());
        let pair = Pair { primary, replica, proxy };
        pair.same();
        pair
    }

    fn same(&self) {
        same(&self.primary, &self.replica);
    }

    fn cut(&self) {
        self.proxy.refuse(true);
        self.proxy.cut();
    }

    fn mend(&self) {
        self.proxy.refuse(false);
    }
}

/// Writes `bytes` in values of 16 KiB over a few keys, and a counter.
fn burst(primary: &Server, seed: u64, bytes: u64) {
    let mut client = primary.client();
    let mut random = Random::new(seed);
    let mut left = bytes as i64;
    while left > 0 {
        for _ in 0..16 {
            let key = format!("key:{}", random.below(KEYS));
            client.ok(&[b"SET".as_slice(), key.as_bytes(), &random.bytes(16 << 10)]);
            client.ok(&["INCR", "counter"]);
            left -= 16 << 10;
        }
    }
}

fn end(server: &mut Server, how: End) {
    match how {
        End::Clean => drop(server.terminate()),
        End::Killed => server.kill9(),
    }
}

/// What a scenario cost: full resyncs after the first sync of each replica.
type Scenario = fn((Make, Make)) -> usize;

fn short_cut(make: (Make, Make)) -> usize {
    let pair = Pair::new(make, (Keeps::EverySec, Keeps::EverySec));
    let before = fulls(&pair.replica);
    pair.cut();
    burst(&pair.primary, 2, 100_000);
    pair.mend();
    pair.same();
    fulls(&pair.replica) - before
}

fn cut_of_50_backlogs(make: (Make, Make)) -> usize {
    let pair = Pair::new(make, (Keeps::EverySec, Keeps::EverySec));
    let before = fulls(&pair.replica);
    pair.cut();
    burst(&pair.primary, 3, 50 * BACKLOG);
    pair.mend();
    pair.same();
    fulls(&pair.replica) - before
}

fn replica_restarts(make: (Make, Make), keeps: Keeps, how: End, missed: u64) -> usize {
    let mut pair = Pair::new(make, (Keeps::EverySec, keeps));
    burst(&pair.primary, 4, 100_000);
    pair.same();
    let before = fulls(&pair.replica);
    end(&mut pair.replica, how);
    burst(&pair.primary, 5, missed);
    pair.replica.restart();
    if pair.replica.info("role") != "slave" {
        follow(&pair.replica, pair.proxy.port());
    }
    pair.same();
    fulls(&pair.replica) - before
}

fn primary_restarts(make: (Make, Make), keeps: Keeps, how: End) -> usize {
    let mut pair = Pair::new(make, (keeps, Keeps::EverySec));
    burst(&pair.primary, 6, 300_000);
    let before = fulls(&pair.replica);
    end(&mut pair.primary, how);
    pair.primary.restart();
    burst(&pair.primary, 7, 300_000);
    pair.same();
    fulls(&pair.replica) - before
}

fn switchover_and_back(make: (Make, Make)) -> usize {
    let pair = Pair::new(make, (Keeps::EverySec, Keeps::EverySec));
    let Pair { primary, replica, proxy } = &pair;
    let before = fulls(primary) + fulls(replica);
    replica.client().ok(&["REPLICAOF", "NO", "ONE"]);
    follow(primary, replica.port());
    burst(replica, 8, 100_000);
    same(replica, primary);
    primary.client().ok(&["REPLICAOF", "NO", "ONE"]);
    follow(replica, proxy.port());
    burst(primary, 9, 100_000);
    pair.same();
    fulls(primary) + fulls(replica) - before
}

/// The primary is killed, the replica promoted, and the old primary comes back as a replica; with
/// `tail`, it had written what the new one never got.
fn crash_failover(make: (Make, Make), tail: bool) -> usize {
    let mut pair = Pair::new(make, (Keeps::EverySec, Keeps::EverySec));
    burst(&pair.primary, 10, 300_000);
    pair.same();
    let before = fulls(&pair.primary);
    if tail {
        pair.cut();
        burst(&pair.primary, 11, 50_000);
    }
    pair.primary.kill9();
    pair.replica.client().ok(&["REPLICAOF", "NO", "ONE"]);
    burst(&pair.replica, 12, 100_000);
    pair.primary.restart();
    follow(&pair.primary, pair.replica.port());
    same(&pair.replica, &pair.primary);
    if tail && !pair.primary.info("sync_rollbacks_done").is_empty() {
        assert_eq!(pair.primary.info("sync_rollbacks_done"), "1");
        assert_ne!(pair.primary.info("sync_last_rollback_bytes"), "0");
    }
    fulls(&pair.primary) - before
}

fn middle_of_a_chain_dies(make: (Make, Make)) -> usize {
    let mut pair = Pair::new(make, (Keeps::EverySec, Keeps::EverySec));
    let leaf = start(make.1, Keeps::EverySec);
    follow(&leaf, pair.replica.port());
    same(&pair.replica, &leaf);
    let before = fulls(&pair.replica) + fulls(&leaf);
    pair.replica.kill9();
    burst(&pair.primary, 13, 3 * BACKLOG);
    pair.replica.restart();
    follow(&pair.replica, pair.proxy.port());
    pair.same();
    same(&pair.replica, &leaf);
    fulls(&pair.replica) + fulls(&leaf) - before
}

/// Ten times as much is written as the replica's link carries.
fn slow_replica(make: (Make, Make)) -> usize {
    let seconds = env_number("VARVE_SLOW_SECONDS").unwrap_or(6);
    let pair = Pair::new(make, (Keeps::EverySec, Keeps::EverySec));
    // As a careful operator has it, who fears for the primary's memory.
    let limit = "replica 16mb 16mb 10";
    pair.primary.client().ok(&["CONFIG", "SET", "client-output-buffer-limit", limit]);
    let before = fulls(&pair.replica);
    pair.proxy.throttle(2 << 20);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut n = 0;
    while Instant::now() < end {
        let next = Instant::now() + Duration::from_millis(100);
        burst(&pair.primary, 14 + n, 2 << 20);
        n += 1;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    pair.proxy.throttle(0);
    pair.same();
    fulls(&pair.replica) - before
}

fn large_values(make: (Make, Make)) -> usize {
    let pair = Pair::new(make, (Keeps::EverySec, Keeps::EverySec));
    let limit = "replica 16mb 16mb 10";
    pair.primary.client().ok(&["CONFIG", "SET", "client-output-buffer-limit", limit]);
    let before = fulls(&pair.replica);
    let value = Random::new(15).bytes(64 << 20);
    for _ in 0..3 {
        pair.primary.client().ok(&[b"SET".as_slice(), b"large", &value]);
    }
    pair.same();
    fulls(&pair.replica) - before
}

/// A replica comes while much is written: it needs one full sync, and no second.
fn first_sync_under_writes(make: (Make, Make)) -> usize {
    let primary = start(make.0, Keeps::EverySec);
    let limit = "replica 16mb 16mb 10";
    primary.client().ok(&["CONFIG", "SET", "client-output-buffer-limit", limit]);
    primary.client().ok(&["DEBUG", "POPULATE", "300000", "filler", "100"]);
    burst(&primary, 16, 200_000);
    let replica = start(make.1, Keeps::EverySec);
    let proxy = Proxy::to(primary.port());
    proxy.throttle(20 << 20);
    follow(&replica, proxy.port());
    for n in 0..30 {
        burst(&primary, 17 + n, 4 << 20);
    }
    proxy.throttle(0);
    same(&primary, &replica);
    fulls(&replica).saturating_sub(1)
}

/// All of it, by name.
const MATRIX: &[(&str, Scenario)] = &[
    ("short cut", short_cut),
    ("cut of 50 backlogs", cut_of_50_backlogs),
    ("replica restarted, AOF", |m| replica_restarts(m, Keeps::EverySec, End::Clean, 100_000)),
    ("replica restarted, long, AOF", |m| {
        replica_restarts(m, Keeps::EverySec, End::Clean, 10 * BACKLOG)
    }),
    ("replica killed, AOF", |m| replica_restarts(m, Keeps::EverySec, End::Killed, 100_000)),
    ("replica killed, long, AOF", |m| {
        replica_restarts(m, Keeps::EverySec, End::Killed, 10 * BACKLOG)
    }),
    ("replica restarted, RDB", |m| replica_restarts(m, Keeps::RdbOnly, End::Clean, 100_000)),
    ("replica restarted, long, RDB", |m| {
        replica_restarts(m, Keeps::RdbOnly, End::Clean, 10 * BACKLOG)
    }),
    ("replica killed, RDB", |m| replica_restarts(m, Keeps::RdbOnly, End::Killed, 100_000)),
    ("replica killed, long, RDB", |m| {
        replica_restarts(m, Keeps::RdbOnly, End::Killed, 10 * BACKLOG)
    }),
    ("primary restarted, always", |m| primary_restarts(m, Keeps::Always, End::Clean)),
    ("primary killed, always", |m| primary_restarts(m, Keeps::Always, End::Killed)),
    ("primary restarted, everysec", |m| primary_restarts(m, Keeps::EverySec, End::Clean)),
    ("primary killed, everysec", |m| primary_restarts(m, Keeps::EverySec, End::Killed)),
    ("switchover and back", switchover_and_back),
    ("failover, nothing lost", |m| crash_failover(m, false)),
    ("failover, a tail lost", |m| crash_failover(m, true)),
    ("middle of a chain killed", middle_of_a_chain_dies),
    ("replica at a tenth of the writes", slow_replica),
    ("values of 64 MB", large_values),
    ("first sync under writes", first_sync_under_writes),
];

/// Runs the scenarios whose name has `VARVE_RESYNC` in it: what each cost, or why it failed.
fn run(make: (Make, Make)) -> Vec<(&'static str, Result<usize, String>)> {
    let wanted = std::env::var("VARVE_RESYNC").unwrap_or_default();
    let chosen = MATRIX.iter().filter(|(name, _)| name.contains(&wanted));
    let run = |&(name, scenario): &(&'static str, Scenario)| {
        let result = std::panic::catch_unwind(|| scenario(make)).map_err(|why| {
            let text = why.downcast_ref::<String>().cloned();
            text.or(why.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
        });
        println!("{name}: {result:?}");
        (name, result)
    };
    chosen.map(run).collect()
}

#[test]
fn nothing_costs_a_full_resync() {
    let results = run((Server::varve, Server::varve));
    let failed: Vec<_> = results.iter().filter(|(_, result)| *result != Ok(0)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
