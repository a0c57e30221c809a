//! The story: what a pair (or a chain) of servers goes through in a year, and what each event costs.
//! Nothing of it may cost a full resync while the log has the history, and the data must be equal
//! after it.
//!
//! The same matrix runs with Redis in either place, where the measure is what Redis needs with itself,
//! and with any other servers, to lay the outcomes side by side (`docs/figures/resyncs.tsv`).

mod memory;

use crate::support::server::Builder;
use crate::support::{PATIENCE, Proxy, Random, Server, assert_same_data, env_number, eventually};
use std::thread;
use std::time::{Duration, Instant};

/// The backlog in memory of every server here.
const BACKLOG: u64 = 1 << 20;
/// Keys that are written over and over, so that the data stay small while the history grows.
const KEYS: usize = 100;

/// What a slow link carries, in bytes a second.
const SLOW_LINK: u64 = 2 << 20;

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

/// Which server one is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Varve,
    Redis,
    /// The program at a path.
    Other(&'static str),
}

impl Kind {
    fn builder(self) -> Builder {
        match self {
            Kind::Varve => Server::varve(),
            Kind::Redis => Server::redis(),
            Kind::Other(path) => Server::of(path.into()),
        }
    }

    /// Its name and version, as it says itself.
    fn title(self) -> String {
        let server = self.builder().start();
        ["Varve", "Valkey", "Redis"]
            .iter()
            .map(|name| (name, server.info(&format!("{}_version", name.to_lowercase()))))
            .find(|(_, version)| !version.is_empty())
            .map_or("unknown".into(), |(name, version)| format!("{name} {version}"))
    }
}

/// What the primary is, and what its replicas are.
type Kinds = (Kind, Kind);

/// A replica that does not come to its primary's place, however long one waits.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Unsettled {
    /// Full resyncs that it had until it was given up, its first sync included.
    fulls: usize,
}

/// Full resyncs after the first sync of each replica.
type Cost = Result<usize, Unsettled>;

fn start(kind: Kind, keeps: Keeps) -> Server {
    configured(kind, keeps).start()
}

/// A replica by its configuration, so that it is one again after a restart: Redis would not ask for
/// the next byte else.
fn start_replica(kind: Kind, keeps: Keeps, of: u16) -> Server {
    configured(kind, keeps).replica_of(of).start()
}

fn configured(kind: Kind, keeps: Keeps) -> Builder {
    let server = kind
        .builder()
        .arg("--repl-backlog-size", &BACKLOG.to_string())
        .arg("--repl-timeout", "60")
        .arg("--repl-diskless-sync", "yes");
    match keeps {
        Keeps::Always => server.arg("--appendonly", "yes").arg("--appendfsync", "always"),
        Keeps::EverySec => server.arg("--appendonly", "yes"),
        // Varve keeps its log on disk if nothing else is said.
        Keeps::RdbOnly => server.arg("--appendonly", "no").arg("--save", "3600 1"),
    }
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
        // Redis 8's words, when the snapshot has a connection of its own.
        + log.matches("PSYNC is not possible, initialize RDB channel").count()
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
fn same(primary: &Server, replica: &Server) -> Result<(), Unsettled> {
    let there = || synced(replica) && offset(replica) == offset(primary);
    if !eventually(PATIENCE * 2, there) {
        println!(
            "the replica is at {} of {}, link {}: {}",
            offset(replica),
            offset(primary),
            replica.info("master_link_status"),
            last_lines(&replica.log()),
        );
        return Err(Unsettled { fulls: fulls(replica) });
    }
    assert_same_data(&mut primary.client(), &mut replica.client());
    Ok(())
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

impl Pair {
    fn new(kinds: Kinds, keeps: (Keeps, Keeps)) -> Result<Pair, Unsettled> {
        let primary = start(kinds.0, keeps.0);
        burst(&primary, 1, 200_000);
        let proxy = Proxy::to(primary.port());
        let replica = start_replica(kinds.1, keeps.1, proxy.port());
        let pair = Pair { primary, replica, proxy };
        pair.same()?;
        assert!(fulls(&pair.replica) > 0, "a first sync that the replica's log does not show");
        Ok(pair)
    }

    fn same(&self) -> Result<(), Unsettled> {
        same(&self.primary, &self.replica)
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
    // Redis does not end while it writes the first log after a full sync, and has to be told again.
    let rewritten = || server.info("aof_rewrite_in_progress") != "1";
    assert!(eventually(PATIENCE, rewritten), "the rewrite of the log does not end");
    match how {
        End::Clean => drop(server.terminate()),
        End::Killed => server.kill9(),
    }
}

/// One event of the story: what it costs.
type Scenario = fn(Kinds) -> Cost;

fn short_cut(kinds: Kinds) -> Cost {
    let pair = Pair::new(kinds, (Keeps::EverySec, Keeps::EverySec))?;
    let before = fulls(&pair.replica);
    pair.cut();
    burst(&pair.primary, 2, 100_000);
    pair.mend();
    pair.same()?;
    Ok(fulls(&pair.replica) - before)
}

fn cut_of_50_backlogs(kinds: Kinds) -> Cost {
    let pair = Pair::new(kinds, (Keeps::EverySec, Keeps::EverySec))?;
    let before = fulls(&pair.replica);
    pair.cut();
    burst(&pair.primary, 3, 50 * BACKLOG);
    pair.mend();
    pair.same()?;
    Ok(fulls(&pair.replica) - before)
}

fn replica_restarts(kinds: Kinds, keeps: Keeps, how: End, missed: u64) -> Cost {
    let mut pair = Pair::new(kinds, (Keeps::EverySec, keeps))?;
    burst(&pair.primary, 4, 100_000);
    pair.same()?;
    let before = fulls(&pair.replica);
    end(&mut pair.replica, how);
    burst(&pair.primary, 5, missed);
    pair.replica.restart();
    pair.same()?;
    Ok(fulls(&pair.replica) - before)
}

fn primary_restarts(kinds: Kinds, keeps: Keeps, how: End) -> Cost {
    let mut pair = Pair::new(kinds, (keeps, Keeps::EverySec))?;
    burst(&pair.primary, 6, 300_000);
    let before = fulls(&pair.replica);
    end(&mut pair.primary, how);
    pair.primary.restart();
    burst(&pair.primary, 7, 300_000);
    pair.same()?;
    Ok(fulls(&pair.replica) - before)
}

fn switchover_and_back(kinds: Kinds) -> Cost {
    let pair = Pair::new(kinds, (Keeps::EverySec, Keeps::EverySec))?;
    let Pair { primary, replica, proxy } = &pair;
    let before = fulls(primary) + fulls(replica);
    replica.client().ok(&["REPLICAOF", "NO", "ONE"]);
    follow(primary, replica.port());
    burst(replica, 8, 100_000);
    same(replica, primary)?;
    primary.client().ok(&["REPLICAOF", "NO", "ONE"]);
    follow(replica, proxy.port());
    burst(primary, 9, 100_000);
    pair.same()?;
    Ok(fulls(primary) + fulls(replica) - before)
}

/// The primary is killed, the replica promoted, and the old primary comes back as a replica; with
/// `tail`, it had written what the new one never got.
fn crash_failover(kinds: Kinds, tail: bool) -> Cost {
    let mut pair = Pair::new(kinds, (Keeps::EverySec, Keeps::EverySec))?;
    burst(&pair.primary, 10, 300_000);
    pair.same()?;
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
    same(&pair.replica, &pair.primary)?;
    if tail && kinds == (Kind::Varve, Kind::Varve) && !Server::is_stand_in() {
        assert_eq!(pair.primary.info("sync_rollbacks_done"), "1");
        assert_ne!(pair.primary.info("sync_last_rollback_bytes"), "0");
    }
    Ok(fulls(&pair.primary) - before)
}

fn middle_of_a_chain_dies(kinds: Kinds) -> Cost {
    let mut pair = Pair::new(kinds, (Keeps::EverySec, Keeps::EverySec))?;
    let leaf = start_replica(kinds.1, Keeps::EverySec, pair.replica.port());
    same(&pair.replica, &leaf)?;
    let before = fulls(&pair.replica) + fulls(&leaf);
    pair.replica.kill9();
    burst(&pair.primary, 13, 3 * BACKLOG);
    pair.replica.restart();
    pair.same()?;
    same(&pair.replica, &leaf)?;
    Ok(fulls(&pair.replica) + fulls(&leaf) - before)
}

/// Ten times as much is written as the replica's link carries.
fn slow_replica(kinds: Kinds) -> Cost {
    let pair = Pair::new(kinds, (Keeps::EverySec, Keeps::EverySec))?;
    // As a careful operator has it, who fears for the primary's memory.
    let limit = "replica 16mb 16mb 10";
    pair.primary.client().ok(&["CONFIG", "SET", "client-output-buffer-limit", limit]);
    let before = fulls(&pair.replica);
    pair.proxy.throttle(SLOW_LINK);
    outrun(&pair.primary);
    pair.proxy.throttle(0);
    pair.same()?;
    Ok(fulls(&pair.replica) - before)
}

/// Writes ten times what a slow link carries, for as long as `VARVE_SLOW_SECONDS` says.
fn outrun(primary: &Server) {
    let seconds = env_number("VARVE_SLOW_SECONDS").unwrap_or(6);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut n = 0;
    while Instant::now() < end {
        let next = Instant::now() + Duration::from_millis(100);
        burst(primary, 14 + n, SLOW_LINK);
        n += 1;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn large_values(kinds: Kinds) -> Cost {
    let pair = Pair::new(kinds, (Keeps::EverySec, Keeps::EverySec))?;
    let limit = "replica 16mb 16mb 10";
    pair.primary.client().ok(&["CONFIG", "SET", "client-output-buffer-limit", limit]);
    let before = fulls(&pair.replica);
    let value = Random::new(15).bytes(64 << 20);
    for _ in 0..3 {
        pair.primary.client().ok(&[b"SET".as_slice(), b"large", &value]);
    }
    pair.same()?;
    Ok(fulls(&pair.replica) - before)
}

/// A replica comes while much is written: it needs one full sync, and no second.
fn first_sync_under_writes(kinds: Kinds) -> Cost {
    let primary = start(kinds.0, Keeps::EverySec);
    let limit = "replica 16mb 16mb 10";
    primary.client().ok(&["CONFIG", "SET", "client-output-buffer-limit", limit]);
    primary.client().ok(&["DEBUG", "POPULATE", "300000", "filler", "100"]);
    burst(&primary, 16, 200_000);
    let proxy = Proxy::to(primary.port());
    proxy.throttle(20 << 20);
    let replica = start_replica(kinds.1, Keeps::EverySec, proxy.port());
    for n in 0..30 {
        burst(&primary, 17 + n, 4 << 20);
    }
    proxy.throttle(0);
    same(&primary, &replica)?;
    Ok(fulls(&replica).saturating_sub(1))
}

/// The scenario whose cost is a count of loops.
const SLOW_REPLICA: &str = "replica at a tenth of the writes";

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
    (SLOW_REPLICA, slow_replica),
    ("values of 64 MB", large_values),
    ("first sync under writes", first_sync_under_writes),
];

/// The scenarios whose name has `VARVE_RESYNC` in it.
fn chosen() -> impl Iterator<Item = &'static (&'static str, Scenario)> {
    let wanted = std::env::var("VARVE_RESYNC").unwrap_or_default();
    MATRIX.iter().filter(move |(name, _)| name.contains(&wanted))
}

#[test]
fn nothing_costs_a_full_resync() {
    let mut failed = Vec::new();
    for (name, scenario) in chosen() {
        let cost = scenario((Kind::Varve, Kind::Varve));
        println!("{name}: {cost:?}");
        if cost != Ok(0) {
            failed.push((name, cost));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn two_promotions_while_it_was_away_cost_nothing() {
    let mut first = start(Kind::Varve, Keeps::EverySec);
    let second = start(Kind::Varve, Keeps::EverySec);
    let third = start(Kind::Varve, Keeps::EverySec);
    follow(&second, first.port());
    follow(&third, first.port());
    burst(&first, 30, 100_000);
    same(&first, &second).unwrap();
    same(&first, &third).unwrap();
    let before = fulls(&first) + fulls(&second) + fulls(&third);

    second.client().ok(&["REPLICAOF", "NO", "ONE"]);
    follow(&third, second.port());
    // Nobody has this tail.
    burst(&first, 31, 50_000);
    burst(&second, 32, 100_000);
    same(&second, &third).unwrap();
    third.client().ok(&["REPLICAOF", "NO", "ONE"]);
    follow(&second, third.port());
    burst(&third, 33, 100_000);
    same(&third, &second).unwrap();

    first.kill9();
    first.restart();
    follow(&first, third.port());
    same(&third, &first).unwrap();
    assert_eq!(first.info("sync_rollbacks_done"), "1");
    assert_eq!(fulls(&first) + fulls(&second) + fulls(&third), before);
}

/// Fails when a scenario costs more with these two than with two Redis, which run only where it
/// costs anything. How often a slow replica starts over in the seconds of writes is a matter of timing, and
/// the ends of that time cut one start in half: there only what is worse by more than that one, each time,
/// counts.
fn never_worse_than_redis(kinds: Kinds) {
    let worse = |name, scenario: Scenario| {
        let half_starts = (name == SLOW_REPLICA) as usize;
        let cost = scenario(kinds);
        let redis = if cost == Ok(0) { cost } else { scenario((Kind::Redis, Kind::Redis)) };
        println!("{name}: {cost:?}, Redis with itself: {redis:?}");
        let as_good = match (cost, redis) {
            (Ok(cost), Ok(redis)) => cost <= redis + half_starts,
            (_, redis) => redis.is_err(),
        };
        (!as_good).then_some((name, cost, redis))
    };
    let mut failed = Vec::new();
    for &(name, scenario) in chosen() {
        let most = if name == SLOW_REPLICA { 3 } else { 1 };
        let tries: Vec<_> = (0..most).map_while(|_| worse(name, scenario)).collect();
        if tries.len() == most {
            failed.push(tries);
        }
    }
    assert!(failed.is_empty(), "scenario, cost, cost of Redis with itself: {failed:#?}");
}

#[test]
fn a_redis_replica_is_never_worse_off_than_with_redis() {
    never_worse_than_redis((Kind::Varve, Kind::Redis));
}

#[test]
fn behind_a_redis_primary_it_is_never_worse_than_redis() {
    never_worse_than_redis((Kind::Redis, Kind::Varve));
}

/// Measures pairs of servers and keeps the outcomes as lines of scenario, primary, replica and full
/// resyncs in the file `VARVE_RESYNC_DATA`, a later outcome in the place of an earlier one.
/// `VARVE_RESYNC_PAIRS` names the pairs: `varve:varve,redis:redis,/path/of/a/server:varve`.
#[test]
fn outcomes_side_by_side() {
    let Ok(file) = std::env::var("VARVE_RESYNC_DATA") else { return };
    let pairs = std::env::var("VARVE_RESYNC_PAIRS").expect("pairs to measure");
    let kind = |name: &str| match name {
        "varve" => Kind::Varve,
        "redis" => Kind::Redis,
        path => Kind::Other(path.to_string().leak()),
    };
    for pair in pairs.split(',') {
        let (primary, replica) = pair.split_once(':').expect("primary:replica");
        let kinds = (kind(primary), kind(replica));
        let titles = (kinds.0.title(), kinds.1.title());
        for (name, scenario) in chosen() {
            let cost = match scenario(kinds) {
                Ok(fulls) => fulls.to_string(),
                Err(Unsettled { fulls }) => format!("{fulls} and not settled"),
            };
            let measured = format!("{name}\t{}\t{}\t", titles.0, titles.1);
            println!("{measured}{cost}");
            let old = std::fs::read_to_string(&file).unwrap_or_default();
            let kept = old.lines().filter(|line| !line.starts_with(&measured));
            let lines: String = kept.map(|line| format!("{line}\n")).collect();
            std::fs::write(&file, format!("{lines}{measured}{cost}\n")).expect("write the data");
        }
    }
}
