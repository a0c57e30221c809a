//! Full syncs over links that break: between two Varves they go on where they stopped.

use crate::support::server::{Builder, free_port};
use crate::support::{Client, Command, PATIENCE, Proxy, Random, Server, caught_up, eventually};
use std::fs;
use std::path::PathBuf;

/// Bytes a second of a link that is slow enough to be cut in the middle.
const SLOW: u64 = 8 << 20;
/// What is carried beside the file, and was on its way when a link broke.
const SPILLED: u64 = 1 << 20;

/// Keys with values that LZF hardly makes smaller and LZ4 does not either, a megabyte of them for
/// each of `megabytes`.
fn write(client: &mut Client, seed: u64, megabytes: u64) {
    let mut random = Random::new(seed);
    let commands = (0..megabytes * 256).map(|i| {
        let value: String = (0..256).map(|_| format!("{:016x}", random.next())).collect();
        Command::new(&["SET", &format!("key:{seed}:{i}"), &value])
    });
    let replies = client.pipeline(&commands.collect::<Vec<_>>());
    assert!(replies.iter().all(|reply| !reply.is_error()));
}

/// A primary with some ten megabytes in its log's base.
fn primary() -> Server {
    started(Server::varve())
}

fn started(builder: Builder) -> Server {
    let primary =
        builder.arg("--appendonly", "yes").arg("--auto-aof-rewrite-percentage", "0").start();
    write(&mut primary.client(), 1, 12);
    primary.rewrite();
    primary
}

/// A replica that asks again at once.
fn replica() -> Builder {
    Server::varve().arg("--repl-reconnect-delay", "0").arg("--appendonly", "yes")
}

/// Waits until that much of the full sync has come.
fn received(replica: &Server, bytes: u64) -> u64 {
    let read = || replica.info("master_sync_read_bytes").parse().unwrap_or(0u64);
    assert!(eventually(PATIENCE, || read() >= bytes), "{} of {bytes}: {}", read(), replica.log());
    read()
}

/// Starts a replica and breaks its link for good when a third of the file is there.
fn broken(builder: Builder, proxy: &Proxy) -> Server {
    proxy.throttle(SLOW);
    let replica = builder.replica_of(proxy.port()).start();
    received(&replica, 4 << 20);
    proxy.refuse(true);
    proxy.cut();
    assert!(eventually(PATIENCE, || replica.info("master_sync_in_progress") == "0"));
    replica
}

fn mended(proxy: &Proxy) {
    proxy.throttle(0);
    proxy.refuse(false);
}

fn part(replica: &Server) -> Option<PathBuf> {
    let files = fs::read_dir(replica.dir()).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.to_string_lossy().ends_with("-sync.rdb"))
}

/// Nothing is left of what was received: what was whole becomes the log's base a moment after it was
/// loaded.
fn nothing_is_left(replica: &Server) {
    assert!(eventually(PATIENCE, || part(replica).is_none()), "{}", replica.log());
}

fn counts(primary: &Server) -> (u64, u64) {
    (primary.number("sync_full"), primary.number("sync_full_resumed"))
}

/// The link breaks again and again, while clients write. All attempts together take one file.
#[test]
fn a_link_that_breaks_costs_what_was_on_its_way() {
    if Server::is_stand_in() {
        return;
    }
    for compression in ["no", "lz4"] {
        let set = |builder: Builder| builder.arg("--repl-compression", compression);
        let primary = started(set(Server::varve()));
        let proxy = Proxy::to(primary.port());
        proxy.throttle(SLOW);
        let replica = set(replica()).replica_of(proxy.port()).start();
        let mut total = 0;
        for cut in 1..=5 {
            received(&replica, cut * 2_000_000);
            total = replica.number("master_sync_total_bytes");
            primary.client().ok(&["SET", "cut", &cut.to_string()]);
            proxy.cut();
            let resumed = || replica.log().matches("Full sync resumes at byte").count() as u64;
            assert!(eventually(PATIENCE, || resumed() == cut), "{}", replica.log());
            // What INFO shows goes on from there, too.
            assert!(replica.number("master_sync_read_bytes") >= cut * 2_000_000);
            assert_eq!(replica.number("master_sync_total_bytes"), total);
        }
        proxy.throttle(0);
        caught_up(&primary, &replica);
        assert!(total > 11 << 20, "{total}");
        let carried = proxy.carried();
        assert!(carried < total + SPILLED, "{carried} bytes for a file of {total}");
        assert_eq!(counts(&primary), (1, 5));
        assert_eq!(primary.log().matches("Full sync resumes at byte").count(), 5);
        assert_eq!(replica.info("master_link_compression"), compression);
        nothing_is_left(&replica);
        // The file is a base like any other.
        let mut replica = replica;
        replica.restart();
        caught_up(&primary, &replica);
        assert_eq!(counts(&primary), (1, 5));
    }
}

/// The primary is stopped and started: its file is the same, under another name of the history if
/// there is no log on disk.
#[test]
fn a_primary_that_restarts_goes_on_with_its_file() {
    if Server::is_stand_in() {
        return;
    }
    for appendonly in ["yes", "no"] {
        let mut primary = match appendonly {
            "yes" => primary(),
            _ => {
                let primary = Server::varve().arg("--appendonly", "no").start();
                write(&mut primary.client(), 1, 12);
                primary.client().ok(&["SAVE"]);
                primary
            }
        };
        if appendonly == "no" {
            primary.restart(); // what SAVE wrote is known at a start
        }
        let proxy = Proxy::to(primary.port());
        let replica = broken(replica(), &proxy);
        let history = primary.info("master_replid");
        primary.restart();
        assert_eq!(primary.info("master_replid") == history, appendonly == "yes");
        mended(&proxy);
        caught_up(&primary, &replica);
        assert_eq!(counts(&primary), (0, 1), "{appendonly}: {}", primary.log());
        assert_eq!(replica.info("master_replid"), primary.info("master_replid"));
    }
}

/// Meanwhile the log has a new base: the old one is not what a full sync gets any more.
#[test]
fn a_new_base_begins_anew() {
    if Server::is_stand_in() {
        return;
    }
    let primary = primary();
    let proxy = Proxy::to(primary.port());
    let replica = broken(replica(), &proxy);
    write(&mut primary.client(), 2, 1);
    primary.rewrite();
    mended(&proxy);
    caught_up(&primary, &replica);
    assert_eq!(counts(&primary), (2, 0));
    assert!(!replica.log().contains("resumes at byte"));
}

/// The log has gone so far past its base that a newcomer would get a new snapshot.
#[test]
fn a_file_that_is_half_sent_is_sent_to_its_end() {
    if Server::is_stand_in() {
        return;
    }
    let primary = primary();
    let proxy = Proxy::to(primary.port());
    let replica = broken(replica(), &proxy);
    let value = "v".repeat(1 << 20);
    for _ in 0..70 {
        primary.client().ok(&["SET", "large", &value]);
    }
    mended(&proxy);
    caught_up(&primary, &replica);
    assert_eq!(counts(&primary), (1, 1));
    let log = primary.log();
    assert!(log.contains("as the replica holds a part of it, though the snapshot"), "{log}");
    let newcomer = Server::varve().replica_of(primary.port()).start();
    caught_up(&primary, &newcomer);
    assert!(primary.log().contains("Full sync by a new child"), "{}", primary.log());
}

/// A child writes the file for this very replica, which hears of it when it is there.
#[test]
fn a_file_that_a_child_wrote_for_it_is_resumed() {
    if Server::is_stand_in() {
        return;
    }
    let primary =
        Server::varve().arg("--repl-diskless-sync", "no").arg("--repl-timeout", "5").start();
    write(&mut primary.client(), 1, 12);
    let proxy = Proxy::to(primary.port());
    let replica = broken(replica().arg("--repl-timeout", "5"), &proxy);
    assert!(primary.log().contains("target: disk"), "{}", primary.log());
    mended(&proxy);
    caught_up(&primary, &replica);
    assert_eq!(counts(&primary), (1, 1));
}

/// A byte of what was kept changes on the disk. What the checksum finds costs one full sync, and the
/// data that were there stay until that is whole.
#[test]
fn a_damaged_part_is_noticed() {
    if Server::is_stand_in() {
        return;
    }
    let primary = primary();
    let proxy = Proxy::to(primary.port());
    let replica = broken(replica(), &proxy);
    let path = part(&replica).expect("a part is kept");
    let mut bytes = fs::read(&path).unwrap();
    let kept = bytes.len();
    bytes[kept / 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    mended(&proxy);
    caught_up(&primary, &replica);
    assert_eq!(counts(&primary), (2, 1));
    let log = replica.log();
    assert!(log.contains(&format!("Full sync resumes at byte {kept} of")), "{log}");
    assert_eq!(log.matches("its parts are not of one whole: the checksum is").count(), 1, "{log}");
    nothing_is_left(&replica);
}

/// The kept part is made longer, or is gone: it is not gone on with.
#[test]
fn a_part_that_is_not_what_was_kept_is_dropped() {
    if Server::is_stand_in() {
        return;
    }
    for longer in [true, false] {
        let primary = primary();
        let proxy = Proxy::to(primary.port());
        let replica = broken(replica(), &proxy);
        let path = part(&replica).expect("a part is kept");
        match longer {
            true => fs::write(&path, [fs::read(&path).unwrap(), vec![0]].concat()).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        mended(&proxy);
        caught_up(&primary, &replica);
        assert!(replica.log().contains("received before are gone"), "{}", replica.log());
        nothing_is_left(&replica);
    }
}

/// Nobody comes back for a part when the replica has another primary or none, or has ended.
#[test]
fn a_part_does_not_outlive_its_purpose() {
    if Server::is_stand_in() {
        return;
    }
    let (primary, other) = (primary(), Server::start());
    other.client().ok(&["SET", "other", "data"]);
    for end in ["other", "no one", "shutdown", "kill"] {
        let proxy = Proxy::to(primary.port());
        let mut replica = broken(replica(), &proxy);
        assert!(part(&replica).is_some());
        match end {
            "other" => {
                // Nobody answers there, so nothing new can be in its place.
                replica.client().ok(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
                assert_eq!(part(&replica), None);
                replica.client().ok(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
                caught_up(&other, &replica);
            }
            "no one" => drop(replica.client().ok(&["REPLICAOF", "NO", "ONE"])),
            "shutdown" => drop(replica.terminate()),
            _ => {
                replica.kill9();
                assert!(part(&replica).is_some());
                mended(&proxy);
                replica.restart();
                caught_up(&primary, &replica);
            }
        }
        nothing_is_left(&replica);
    }
    assert_eq!(primary.number("sync_full_resumed"), 0);
}

/// Without a checksum nobody knows which file it is.
#[test]
fn a_file_without_a_checksum_begins_anew() {
    if Server::is_stand_in() {
        return;
    }
    let primary = started(Server::varve().arg("--rdbchecksum", "no"));
    let proxy = Proxy::to(primary.port());
    let replica = broken(replica(), &proxy);
    assert_eq!(part(&replica), None);
    mended(&proxy);
    caught_up(&primary, &replica);
    assert_eq!(counts(&primary), (2, 0));
}

/// What is received into memory is not kept.
#[test]
fn memory_is_not_held_for_a_link_that_broke() {
    if Server::is_stand_in() {
        return;
    }
    let primary = primary();
    let proxy = Proxy::to(primary.port());
    let builder = Server::varve().arg("--appendonly", "no").arg("--repl-reconnect-delay", "0");
    let replica = broken(builder.arg("--repl-diskless-load", "on-empty-db"), &proxy);
    mended(&proxy);
    caught_up(&primary, &replica);
    assert_eq!(counts(&primary), (2, 0));
}

/// Redis at either end hears and says what it knows.
#[test]
fn redis_begins_anew() {
    if Server::is_stand_in() {
        return;
    }
    for varve_is_primary in [true, false] {
        let (primary, follower) = match varve_is_primary {
            true => (primary(), Server::redis()),
            false => {
                let primary = Server::redis().arg("--repl-diskless-sync", "no").start();
                write(&mut primary.client(), 1, 12);
                (primary, replica())
            }
        };
        let proxy = Proxy::to(primary.port());
        let replica = broken(follower, &proxy);
        if !varve_is_primary {
            assert_eq!(part(&replica), None);
        }
        mended(&proxy);
        caught_up(&primary, &replica);
        assert_eq!(primary.number("sync_full"), 2);
    }
}
