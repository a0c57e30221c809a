//! Links between two Varves that are compressed, and links that must not be.

use crate::support::server::Builder;
use crate::support::{Client, Command, PATIENCE, Proxy, Random, Server, caught_up, eventually};
use std::thread;
use std::time::Duration;

fn lz4() -> Builder {
    Server::varve().arg("--repl-compression", "lz4")
}

/// Values that compress to about a third, a few megabytes of them.
fn write(client: &mut Client, seed: u64, megabytes: u64) {
    let mut random = Random::new(seed);
    let commands = (0..megabytes * 1024).map(|_| {
        let key = format!("key:{}", random.below(5000));
        let value: String = (0..64).map(|_| format!("{:016}", random.below(1 << 20))).collect();
        Command::new(&["SET", &key, &value])
    });
    let replies = client.pipeline(&commands.collect::<Vec<_>>());
    assert!(replies.iter().all(|reply| !reply.is_error()));
}

fn is_compressed(replica: &Server) -> bool {
    replica.info("master_link_compression") == "lz4"
}

/// Bytes before and after compression, as both ends count them.
fn volume(primary: &Server, replica: &Server) -> (u64, u64) {
    let plain = replica.number("master_link_plain_bytes");
    let compressed = replica.number("master_link_compressed_bytes");
    let line = format!("codec=lz4,plain_bytes={plain},compressed_bytes={compressed}");
    assert_eq!(primary.info("compressed_slave0"), line);
    (plain, compressed)
}

#[test]
fn a_file_and_the_stream_after_it_are_compressed() {
    if Server::is_stand_in() {
        return;
    }
    let primary = lz4().arg("--appendonly", "yes").arg("--rdbcompression", "no").start();
    write(&mut primary.client(), 1, 8);
    primary.client().ok(&["BGREWRITEAOF"]);
    let rewritten = || primary.info("aof_rewrite_in_progress") == "0";
    assert!(eventually(PATIENCE, rewritten));
    let proxy = Proxy::to(primary.port());
    let replica = lz4().arg("--appendonly", "yes").replica_of(proxy.port()).start();
    caught_up(&primary, &replica);
    assert!(primary.log().contains("Full sync from the snapshot on disk"), "{}", primary.log());
    assert!(primary.log().contains("is compressed (lz4)"), "{}", primary.log());
    assert!(replica.log().contains("The primary compresses"), "{}", replica.log());
    let (plain, compressed) = volume(&primary, &replica);
    assert!(plain > 3 << 20 && compressed < plain * 2 / 3, "{plain} became {compressed}");
    assert!(proxy.carried() < plain * 2 / 3);

    write(&mut primary.client(), 2, 4);
    caught_up(&primary, &replica);
    let (plain_after, compressed_after) = volume(&primary, &replica);
    let (plain, compressed) = (plain_after - plain, compressed_after - compressed);
    assert!(plain > 3 << 20 && compressed < plain * 2 / 3, "{plain} became {compressed}");

    // What tools know of a replica stays as they know it.
    let line = primary.info("slave0");
    let fields: Vec<&str> = line.split(',').map(|field| field.split('=').next().unwrap()).collect();
    assert_eq!(fields, ["ip", "port", "state", "offset", "lag"]);
}

/// One child streams to three, of which two have compressed links.
#[test]
fn a_stream_is_compressed_for_those_who_want_it() {
    if Server::is_stand_in() {
        return;
    }
    let primary = lz4()
        .arg("--repl-diskless-sync-delay", "60")
        .arg("--repl-diskless-sync-max-replicas", "3")
        .start();
    write(&mut primary.client(), 3, 8);
    let replicas = [
        lz4().replica_of(primary.port()).start(),
        Server::varve().replica_of(primary.port()).start(),
        lz4().replica_of(primary.port()).start(),
    ];
    let online = || primary.info("slave2").contains("state=online");
    assert!(eventually(PATIENCE, online), "{}", primary.log());
    write(&mut primary.client(), 4, 1);
    for replica in &replicas {
        caught_up(&primary, replica);
    }
    assert_eq!(replicas.each_ref().map(is_compressed), [true, false, true]);
    assert_eq!(primary.log().matches("target: replicas sockets").count(), 1);
    let compressed = primary.client().ok(&["INFO", "replication"]).text();
    assert_eq!(compressed.matches("compressed_slave").count(), 2, "{compressed}");
}

/// A replica is away, for a moment, and for longer than the tail and the newest base reach.
#[test]
fn partial_resyncs_are_compressed_from_memory_and_from_disk() {
    if Server::is_stand_in() {
        return;
    }
    let primary = lz4()
        .arg("--appendonly", "yes")
        .arg("--repl-backlog-size", "16kb")
        .arg("--auto-aof-rewrite-percentage", "0")
        .start();
    primary.client().ok(&["SET", "first", "key"]);
    let proxy = Proxy::to(primary.port());
    let replica = lz4().arg("--appendonly", "yes").replica_of(proxy.port()).start();
    caught_up(&primary, &replica);
    let full = primary.info("sync_full");
    for (round, megabytes) in [(0, 0), (1, 24)] {
        proxy.refuse(true);
        proxy.cut();
        write(&mut primary.client(), 5 + round, megabytes);
        if megabytes > 0 {
            primary.client().ok(&["BGREWRITEAOF"]);
            let rewritten = || {
                primary.info("log_history_segments") != "0"
                    && primary.info("aof_rewrite_in_progress") == "0"
            };
            assert!(eventually(PATIENCE, rewritten));
            write(&mut primary.client(), 7, 4);
        }
        primary.client().ok(&["SET", "round", &round.to_string()]);
        proxy.refuse(false);
        caught_up(&primary, &replica);
        assert!(is_compressed(&replica));
        assert_eq!(primary.info("sync_partial_ok"), (round + 1).to_string());
    }
    assert_eq!(primary.info("sync_full"), full);
    let (plain, compressed) = volume(&primary, &replica);
    assert!(plain > 24 << 20 && compressed < plain * 2 / 3, "{plain} became {compressed}");
}

/// Either end may not want it, or be a Redis, and nothing is other than it was.
#[test]
fn a_link_is_plain_unless_both_ends_are_for_it() {
    if Server::is_stand_in() {
        return;
    }
    for (primary, replica) in [
        (lz4(), Server::varve()),
        (Server::varve(), lz4()),
        (lz4(), Server::redis()),
        (Server::redis(), lz4()),
    ] {
        let primary = primary.start();
        write(&mut primary.client(), 8, 2);
        let proxy = Proxy::to(primary.port());
        let replica = replica.replica_of(proxy.port()).start();
        caught_up(&primary, &replica);
        write(&mut primary.client(), 9, 1);
        caught_up(&primary, &replica);
        proxy.cut();
        primary.client().ok(&["SET", "after", "cut"]);
        caught_up(&primary, &replica);
        assert!(!is_compressed(&replica) && primary.info("compressed_slave0").is_empty());
        assert_eq!(primary.number("sync_full"), 1);
    }
}

/// The directive counts for links made after it was set; a chain has each link as its ends want it.
#[test]
fn it_is_set_while_the_servers_run() {
    if Server::is_stand_in() {
        return;
    }
    let primary = Server::start();
    let proxy = Proxy::to(primary.port());
    let replica = Server::varve().replica_of(proxy.port()).start();
    let last = lz4().replica_of(replica.port()).start();
    write(&mut primary.client(), 10, 1);
    for (value, compressed) in [("lz4", true), ("no", false)] {
        let before = is_compressed(&replica);
        for server in [&primary, &replica] {
            server.client().ok(&["CONFIG", "SET", "repl-compression", value]);
        }
        write(&mut primary.client(), 11, 1);
        caught_up(&primary, &replica);
        assert_eq!(is_compressed(&replica), before, "a link that stands is as it was");
        proxy.cut();
        primary.client().ok(&["SET", "value", value]);
        caught_up(&primary, &replica);
        assert_eq!(is_compressed(&replica), compressed);
        caught_up(&primary, &last);
    }
    assert!(primary.client().cmd(&["CONFIG", "SET", "repl-compression", "zip"]).is_error());
    assert_eq!(primary.info("sync_full"), "1");
}

/// A few bytes of frame may hold much: the replica takes it in bit by bit, and answers meanwhile.
#[test]
fn values_that_compress_to_nothing_arrive() {
    if Server::is_stand_in() {
        return;
    }
    let primary = lz4().arg("--appendonly", "yes").start();
    let replica = lz4().arg("--appendonly", "yes").replica_of(primary.port()).start();
    caught_up(&primary, &replica);
    for (key, len) in [("small", 1), ("large", 64 << 20), ("frame", 256 << 10), ("more", 8 << 20)] {
        primary.client().ok(&["SET", key, &"a".repeat(len)]);
    }
    caught_up(&primary, &replica);
    let (plain, compressed) = volume(&primary, &replica);
    assert!(plain > 72 << 20 && compressed < plain / 100, "{plain} became {compressed}");
}

/// A bit is flipped on its way, which no checksum of the network saw. Nothing of it is applied; the
/// link is made anew and goes on from the last whole command.
#[test]
fn a_damaged_frame_costs_the_link_and_nothing_else() {
    if Server::is_stand_in() {
        return;
    }
    let primary = lz4().arg("--repl-backlog-size", "64mb").start();
    write(&mut primary.client(), 12, 4);
    let proxy = Proxy::to(primary.port());
    let replica = lz4().replica_of(proxy.port()).arg("--repl-reconnect-delay", "0").start();
    caught_up(&primary, &replica);
    for round in 0..20 {
        proxy.damage();
        write(&mut primary.client(), 20 + round, 1);
        let refused = || replica.log().matches("a compressed frame").count() as u64 > round;
        assert!(eventually(PATIENCE, refused), "round {round}: {}", replica.log());
        caught_up(&primary, &replica);
    }
    assert_eq!(primary.info("sync_full"), "1", "each link went on where the last one ended");
    assert!(replica.log().contains("Protocol error from the primary: a compressed frame with a"));
}

/// The same during a full sync: of the damaged one nothing is left.
#[test]
fn a_damaged_full_sync_is_made_anew() {
    if Server::is_stand_in() {
        return;
    }
    for appendonly in ["yes", "no"] {
        let primary = lz4().arg("--appendonly", appendonly).start();
        write(&mut primary.client(), 40, 8);
        if appendonly == "yes" {
            primary.client().ok(&["BGREWRITEAOF"]);
            assert!(eventually(PATIENCE, || primary.info("aof_rewrite_in_progress") == "0"));
        }
        let proxy = Proxy::to(primary.port());
        proxy.throttle(1 << 20);
        let replica = lz4().arg("--repl-reconnect-delay", "0").start();
        replica.client().ok(&["SET", "old", "data"]);
        replica.client().ok(&["REPLICAOF", "127.0.0.1", &proxy.port().to_string()]);
        let receiving =
            || replica.info("master_sync_read_bytes").parse().is_ok_and(|read: u64| read > 0);
        assert!(eventually(PATIENCE, receiving), "{}", replica.log());
        proxy.damage();
        assert!(eventually(PATIENCE, || !proxy.is_damage_due()));
        proxy.throttle(0);
        caught_up(&primary, &replica);
        assert!(replica.log().contains("a compressed frame with a damaged"), "{}", replica.log());
        assert_eq!(replica.client().ok(&["EXISTS", "old"]).int(), 0);
    }
}

/// Links break in the middle of frames, again and again.
#[test]
fn links_that_break_inside_frames_lose_nothing() {
    if Server::is_stand_in() {
        return;
    }
    let primary = lz4().arg("--repl-backlog-size", "256mb").start();
    write(&mut primary.client(), 50, 1);
    let proxy = Proxy::to(primary.port());
    let replica = lz4().replica_of(proxy.port()).arg("--repl-reconnect-delay", "0").start();
    caught_up(&primary, &replica);
    thread::scope(|scope| {
        let writing = scope.spawn(|| (0..24).for_each(|i| write(&mut primary.client(), 51 + i, 2)));
        let mut random = Random::new(1);
        while !writing.is_finished() {
            proxy.throttle(random.between(500_000, 8_000_000) as u64);
            thread::sleep(Duration::from_millis(random.between(20, 200) as u64));
            proxy.cut();
        }
    });
    proxy.throttle(0);
    caught_up(&primary, &replica);
    assert!(is_compressed(&replica));
    assert_eq!(primary.info("sync_full"), "1");
    assert!(primary.number("sync_partial_ok") > 0);
    assert!(!replica.log().contains("a compressed frame"), "{}", replica.log());
}
