//! `CLIENT PAUSE` on a replica: what its primary sends waits like any client's command, and the link
//! lives.

use crate::replication::{Kind, follow, synced};
use crate::support::client::encode;
use crate::support::server::Builder;
use crate::support::{PATIENCE, Proxy, Server, Value, caught_up, eventually};
use std::thread;
use std::time::Duration;

/// A field of the primary's line about its only replica.
fn of_replica(primary: &Server, field: &str) -> u64 {
    let line = primary.info("slave0");
    let value = line.split(',').find_map(|part| part.strip_prefix(field)?.strip_prefix('='));
    value.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {field}: {line}"))
}

fn pair(primary: Builder, replica: Builder) -> [Server; 2] {
    let primary = primary.arg("--repl-ping-replica-period", "1").start();
    let replica = replica.replica_of(primary.port()).start();
    assert!(eventually(PATIENCE, || synced(&replica)), "the first sync did not end");
    [primary, replica]
}

/// Runs a test on each kind of link, all at the same time.
fn on_each(test: impl Fn(&Server, &Server) + Sync) {
    let mut pairs =
        vec![pair(Server::varve(), Server::varve()), pair(Server::redis(), Server::varve())];
    if !Server::is_stand_in() {
        let compressing = || Server::varve().arg("--repl-compression", "lz4");
        pairs.push(pair(compressing(), compressing()));
    }
    thread::scope(|scope| {
        for [primary, replica] in &pairs {
            scope.spawn(|| test(primary, replica));
        }
    });
}

/// Both modes, on each kind of link: nothing that was written gets through, and the primary is told of
/// that every second. Afterwards all is there.
#[test]
fn the_stream_waits_and_acknowledgements_go_on() {
    on_each(|primary, replica| {
        let (mut writer, mut reader) = (primary.client(), replica.client());
        for mode in ["WRITE", "ALL"] {
            writer.ok(&["SET", "k", "old"]);
            caught_up(primary, replica);
            // Redis holds `CLIENT UNPAUSE` as well when it holds all.
            let long = if mode == "WRITE" { "100000" } else { "3500" };
            reader.ok(&["CLIENT", "PAUSE", long, mode]);
            writer.ok(&["MULTI"]);
            writer.ok(&["SET", "k", "new"]);
            writer.ok(&["INCR", "n"]);
            writer.ok(&["EXEC"]);
            assert_eq!(writer.ok(&["WAIT", "1", "1500"]).int(), 0, "{mode}");
            assert!(of_replica(primary, "offset") < primary.number("master_repl_offset"));
            assert!(of_replica(primary, "lag") <= 2, "{}", primary.info("slave0"));
            if mode == "WRITE" {
                assert_eq!(reader.ok(&["GET", "k"]), Value::bulk("old"));
                assert_eq!(replica.info("master_link_status"), "up");
                assert!(replica.number("slave_repl_offset") <= of_replica(primary, "offset"));
                reader.ok(&["CLIENT", "UNPAUSE"]);
            }
            caught_up(primary, replica);
            assert_eq!(reader.ok(&["GET", "k"]), Value::bulk("new"), "{mode}");
            assert_eq!(writer.ok(&["WAIT", "1", "0"]).int(), 1);
        }
        assert_eq!(primary.info("sync_full"), "1");
        assert_eq!(primary.info("sync_partial_ok"), "0");
    });
}

/// A pause that is longer than `repl-timeout`, of a replica that is sent far more than it reads ahead. It
/// takes no memory for that, no end gives the other up, and the pause ends by itself.
#[test]
fn a_pause_outlasts_the_timeout_and_costs_no_memory() {
    on_each(|primary, replica| {
        replica.client().ok(&["CONFIG", "SET", "repl-timeout", "2"]);
        let before = replica.number("used_memory");
        let mut request = Vec::new();
        for n in 0..64 {
            let random = crate::support::Random::new(n).bytes(1 << 20);
            encode(&mut request, &[b"SET", format!("large:{n}").as_bytes(), &random]);
        }
        let mut writer = primary.client();
        replica.client().ok(&["CLIENT", "PAUSE", "7000", "WRITE"]);
        writer.send_raw(&request);
        (0..64).for_each(|_| assert_eq!(writer.recv(), Value::ok()));
        thread::sleep(Duration::from_secs(5));
        assert_eq!(replica.info("master_link_status"), "up");
        assert_eq!(replica.client().ok(&["DBSIZE"]).int(), 0, "it waited");
        let grew = replica.number("used_memory").saturating_sub(before);
        assert!(grew < 8 << 20 || Server::is_stand_in(), "{grew} bytes");
        caught_up(primary, replica);
        assert_eq!(primary.info("sync_full"), "1");
        assert_eq!(primary.info("sync_partial_ok"), "0");
    });
}

/// As long as it has room for what comes, a paused replica notices that its primary is silent.
#[test]
fn a_primary_that_falls_silent_is_noticed_in_a_pause() {
    let [primary, replica] = pair(Server::varve(), Server::varve().arg("--repl-timeout", "2"));
    replica.client().ok(&["CLIENT", "PAUSE", "100000", "WRITE"]);
    primary.client().ok(&["SET", "k", "v"]);
    let end = primary.number("master_repl_offset");
    let read = || replica.number("slave_read_repl_offset") >= end;
    assert!(eventually(PATIENCE, read), "it is read though not applied");
    primary.signal(libc::SIGSTOP);
    let down = || replica.info("master_link_status") == "down";
    assert!(eventually(PATIENCE, down), "{}", replica.log());
    primary.signal(libc::SIGCONT);
    assert!(eventually(PATIENCE, || synced(&replica)), "{}", replica.log());
    // Redis may apply what it held back when the link breaks, or ask for everything.
    if !Server::is_stand_in() {
        assert_eq!(replica.client().ok(&["EXISTS", "k"]).int(), 0);
        assert_eq!(primary.info("sync_full"), "1");
    }
    replica.client().ok(&["CLIENT", "UNPAUSE"]);
    caught_up(&primary, &replica);
}

/// What was read and held back when the link broke is asked for again, and held back again. (Redis
/// applies it.)
#[test]
fn a_link_that_breaks_in_a_pause_loses_nothing() {
    if Server::is_stand_in() {
        return;
    }
    let primary = Server::start();
    let proxy = Proxy::to(primary.port());
    let replica = Server::start();
    follow(&replica, proxy.port());
    assert!(eventually(PATIENCE, || synced(&replica)), "the first sync did not end");
    replica.client().ok(&["CLIENT", "PAUSE", "100000", "WRITE"]);
    let mut writer = primary.client();
    for n in 0..2 {
        writer.ok(&["RPUSH", "list", &n.to_string()]);
        thread::sleep(Duration::from_millis(50));
        proxy.cut();
        let again = || primary.number("sync_partial_ok") > n;
        assert!(eventually(PATIENCE, again), "{}", replica.log());
    }
    assert_eq!(replica.client().ok(&["LLEN", "list"]).int(), 0);
    replica.client().ok(&["CLIENT", "UNPAUSE"]);
    caught_up(&primary, &replica);
    assert_eq!(replica.client().ok(&["LLEN", "list"]).int(), 2);
    assert_eq!(primary.info("sync_full"), "1");
}

/// A full sync is no client's command: it comes to its end in a pause. What follows it waits.
#[test]
fn a_full_sync_in_a_pause_comes_to_its_end() {
    for kind in [Kind::Varve, Kind::Redis] {
        let primary = crate::replication::start(kind);
        let mut writer = primary.client();
        writer.ok(&["DEBUG", "POPULATE", "20000"]);
        let replica = Server::start();
        replica.client().ok(&["CLIENT", "PAUSE", "100000", "WRITE"]);
        follow(&replica, primary.port());
        assert!(eventually(PATIENCE, || synced(&replica)), "{}", replica.log());
        writer.ok(&["SET", "later", "1"]);
        assert_eq!(writer.ok(&["WAIT", "1", "1500"]).int(), 0);
        assert_eq!(replica.client().ok(&["DBSIZE"]).int(), 20_000);
        replica.client().ok(&["CLIENT", "UNPAUSE"]);
        caught_up(&primary, &replica);
        assert_eq!(replica.client().ok(&["GET", "later"]), Value::bulk("1"));
        replica.client().ok(&["REPLICAOF", "NO", "ONE"]);
        replica.client().ok(&["SET", "of its own", "1"]);
        replica.client().ok(&["CLIENT", "PAUSE", "2000", "ALL"]);
        follow(&replica, primary.port());
        writer.ok(&["SET", "later", "2"]);
        caught_up(&primary, &replica);
    }
}

/// Nothing was written in the pause: the replica has everything, and so it can take over.
#[test]
fn a_paused_replica_that_lacks_no_write_takes_over() {
    let [primary, replica] = pair(Server::varve(), Server::varve());
    primary.client().ok(&["SET", "k", "v"]);
    caught_up(&primary, &replica);
    replica.client().ok(&["CLIENT", "PAUSE", "100000", "WRITE"]);
    // `PING`s are no writes.
    thread::sleep(Duration::from_millis(2500));
    primary.client().ok(&["FAILOVER", "TIMEOUT", "20000"]);
    let over = || replica.info("role") == "master" && synced(&primary);
    assert!(eventually(Duration::from_secs(15), over), "{}", primary.log());
    let mut writer = replica.client();
    writer.send_raw(b"SET k w\r\n");
    assert!(eventually(PATIENCE, || replica.info("blocked_clients") == "1"), "it is still paused");
    replica.client().ok(&["CLIENT", "UNPAUSE"]);
    assert_eq!(writer.recv(), Value::ok());
    caught_up(&replica, &primary);
}
