//! Chains and fans of Redis and the server under test, while clients write and links break.
//!
//! Every link goes through a proxy that is cut, paused and throttled at random. In the end every
//! node must be at the same offset of the same history and hold the same data. Backlogs are large
//! enough for all that is written, so that no broken link may cost a full resync.

use crate::differential::random_write;
use crate::directives::{no_child, stopped_child};
use crate::faults::is_root;
use crate::support::dataset::first_difference;
use crate::support::power::private_mounts;
use crate::support::{
    Client, Command, Folder, PATIENCE, Proxy, Random, Server, Value, caught_up, dataset,
    env_number, eventually, server,
};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const WRITERS: u64 = 4;

/// A server and what it follows: nothing, or another node of the list through a proxy.
struct Node {
    server: Server,
    link: Option<(usize, Proxy)>,
}

/// Which server a node is.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Redis,
    Varve,
}

pub fn start(kind: Kind) -> Server {
    let builder = match kind {
        Kind::Redis => Server::redis(),
        Kind::Varve => Server::varve(),
    };
    builder.arg("--repl-backlog-size", "256mb").arg("--repl-timeout", "60").start()
}

pub fn follow(replica: &Server, port: u16) {
    replica.client().ok(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
}

pub fn synced(replica: &Server) -> bool {
    replica.info("master_link_status") == "up" && replica.info("master_sync_in_progress") == "0"
}

/// Starts the servers, each but the first following the one whose place is given, and waits until
/// all links are up.
fn topology(kinds: &[(Kind, Option<usize>)]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for (kind, upstream) in kinds {
        let server = start(*kind);
        let link = upstream.map(|at| (at, Proxy::to(nodes[at].server.port())));
        if let Some((_, proxy)) = &link {
            follow(&server, proxy.port());
            assert!(eventually(PATIENCE, || synced(&server)), "the first sync did not end");
        }
        nodes.push(Node { server, link });
    }
    nodes
}

/// Whether a server tells its replicas all that the command does. Redis 7.0 keeps to itself the zeros that `BITFIELD`
/// makes of a missing key when all its changes fail (they are in no log either).
fn is_told(head: Kind, command: &Command) -> bool {
    let has = |word: &str| command.0.iter().any(|part| part.eq_ignore_ascii_case(word.as_bytes()));
    head == Kind::Varve || !(has("BITFIELD") && has("FAIL"))
}

/// Writes at random until told to stop, with sums across keys moved in transactions.
fn write(head: Kind, port: u16, seed: u64, stop: &AtomicBool, written: &AtomicU64) {
    let mut client = Client::connect(port);
    let mut grammar = crate::differential::grammar::Grammar { random: Random::new(seed) };
    while !stop.load(Relaxed) {
        let mut batch = Vec::new();
        for _ in 0..20 {
            random_write(&mut grammar, &mut batch);
        }
        batch.retain(|command| is_told(head, command));
        written.fetch_add(batch.len() as u64, Relaxed);
        client.pipeline(&batch);
        // Keeps the history of a run within the backlogs on a machine of any speed.
        thread::sleep(Duration::from_millis(2));
    }
}

/// Cuts, pauses and throttles random links until told to stop.
fn disturb(nodes: &[Node], mut random: Random, stop: &AtomicBool) -> u64 {
    let links: Vec<&Proxy> = nodes.iter().filter_map(|n| Some(&n.link.as_ref()?.1)).collect();
    let mut cuts = 0;
    while !stop.load(Relaxed) {
        thread::sleep(Duration::from_millis(random.between(50, 700) as u64));
        let link = random.pick(&links);
        match random.below(8) {
            0 => {
                link.pause(true);
                thread::sleep(Duration::from_millis(random.between(10, 300) as u64));
                link.pause(false);
            }
            1 => {
                link.throttle(random.between(20_000, 200_000) as u64);
                thread::sleep(Duration::from_millis(300));
                link.throttle(0);
            }
            2 => {
                link.refuse(true);
                link.cut();
                thread::sleep(Duration::from_millis(random.between(10, 500) as u64));
                link.refuse(false);
                cuts += 1;
            }
            _ => {
                link.cut();
                cuts += 1;
            }
        }
    }
    cuts
}

/// A key about to expire may be seen on one node and be gone before the next is read.
fn nothing_expires_soon(primary: &Server) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let soon_ms = now.as_millis() as i64 + 600_000;
    let held = dataset(&mut primary.client());
    held.values().all(|c| c.expires_at_ms == -1 || c.expires_at_ms > soon_ms)
}

/// History and offset of each node.
fn places(nodes: &[Node]) -> Vec<(String, String)> {
    let place = |node: &Node| {
        let mut client = node.server.client();
        (
            server::info(&mut client, "master_replid"),
            server::info(&mut client, "master_repl_offset"),
        )
    };
    nodes.iter().map(place).collect()
}

fn converges_while_links_break(kinds: &[(Kind, Option<usize>)]) {
    let seed = env_number("VARVE_SEED").unwrap_or(1);
    let seconds = env_number("VARVE_REPLICATION_SECONDS").unwrap_or(10);
    let nodes = topology(kinds);
    let full_before: Vec<String> = nodes.iter().map(|n| n.server.info("sync_full")).collect();
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let cuts = thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (stop, written, port) = (&stop, &written, nodes[0].server.port());
            scope.spawn(move || write(kinds[0].0, port, seed * 100 + writer, stop, written));
        }
        let disturbing = scope.spawn(|| disturb(&nodes, Random::new(seed), &stop));
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Relaxed);
        disturbing.join().unwrap()
    });

    let together = || {
        let expired = nothing_expires_soon(&nodes[0].server);
        let places = places(&nodes);
        expired
            && nodes.iter().all(|n| n.link.is_none() || synced(&n.server))
            && places.iter().all(|place| !place.1.is_empty() && *place == places[0])
    };
    assert!(
        eventually(PATIENCE, together),
        "VARVE_SEED={seed}: nodes ended at different places: {:?}",
        places(&nodes)
    );
    let data: Vec<_> = nodes.iter().map(|n| dataset(&mut n.server.client())).collect();
    assert!(!data[0].is_empty() && written.load(Relaxed) > 0 && cuts > 0);
    for (at, held) in data.iter().enumerate().skip(1) {
        if let Some(difference) = first_difference(&data[0], held, 0) {
            panic!("VARVE_SEED={seed}: node 0 and node {at}: {difference}");
        }
    }
    let full_after: Vec<String> = nodes.iter().map(|n| n.server.info("sync_full")).collect();
    assert_eq!(full_after, full_before, "VARVE_SEED={seed}: a broken link cost a full resync");
    let resumed: u64 =
        nodes.iter().map(|n| n.server.info("sync_partial_ok").parse().unwrap_or(0)).sum();
    assert!(resumed > 0, "no link was resumed after {cuts} cuts");
}

#[test]
fn a_chain_of_redis_varve_redis_converges_while_links_break() {
    converges_while_links_break(&[
        (Kind::Redis, None),
        (Kind::Varve, Some(0)),
        (Kind::Redis, Some(1)),
    ]);
}

#[test]
fn two_replicas_of_a_varve_converge_while_links_break() {
    converges_while_links_break(&[
        (Kind::Varve, None),
        (Kind::Varve, Some(0)),
        (Kind::Varve, Some(0)),
    ]);
}

#[test]
fn a_full_sync_carries_all_data_each_way() {
    for (primary, replica) in [(Kind::Redis, Kind::Varve), (Kind::Varve, Kind::Redis)] {
        let primary = start(primary);
        let mut grammar = crate::differential::grammar::Grammar { random: Random::new(11) };
        let mut batch = Vec::new();
        while batch.len() < 20_000 {
            random_write(&mut grammar, &mut batch);
        }
        primary.client().pipeline(&batch);
        let replica = start(replica);
        // What the replica held before is gone afterwards.
        replica.client().ok(&["SET", "old", "data"]);
        follow(&replica, primary.port());
        // Written while the snapshot is under way.
        primary.client().pipeline(&batch[..2000]);
        let there = || {
            nothing_expires_soon(&primary)
                && synced(&replica)
                && replica.info("master_repl_offset") == primary.info("master_repl_offset")
        };
        assert!(eventually(PATIENCE, there), "the replica did not catch up");
        crate::support::assert_same_data(&mut primary.client(), &mut replica.client());
    }
}

#[test]
fn a_promoted_replica_goes_on_with_the_history() {
    let nodes = topology(&[(Kind::Varve, None), (Kind::Varve, Some(0)), (Kind::Redis, Some(0))]);
    let [primary, promoted, other] = [0, 1, 2].map(|at| &nodes[at].server);
    for i in 0..1000 {
        primary.client().ok(&["SET", &format!("key:{i}"), "before"]);
    }
    let at_end = |server: &Server| server.info("master_repl_offset");
    assert!(eventually(PATIENCE, || at_end(promoted) == at_end(primary)));
    assert!(eventually(PATIENCE, || at_end(other) == at_end(primary)));
    let history = primary.info("master_replid");
    promoted.client().ok(&["REPLICAOF", "NO", "ONE"]);
    assert_ne!(promoted.info("master_replid"), history, "a promotion begins a history");
    assert_eq!(promoted.info("master_replid2"), history, "and continues the old one");
    promoted.client().ok(&["SET", "after", "promotion"]);
    // Both others resume from their offsets: no full sync.
    follow(other, promoted.port());
    follow(primary, promoted.port());
    for replica in [primary, other] {
        let same = || synced(replica) && at_end(replica) == at_end(promoted);
        assert!(eventually(PATIENCE, same), "a replica did not follow the new primary");
        crate::support::assert_same_data(&mut promoted.client(), &mut replica.client());
    }
    assert_eq!(promoted.info("sync_full"), "0", "a full sync was needed after the promotion");
}

/// A promoted replica that has written nothing returns under the name that it had. The stream goes on where
/// it was, and so in the database that was selected there.
#[test]
fn a_replica_that_returns_goes_on_in_the_database_of_the_stream() {
    for appendonly in ["no", "yes"] {
        let start = || Server::varve().arg("--appendonly", appendonly).start();
        let (primary, mut replica) = (start(), start());
        let mut client = primary.client();
        client.ok(&["SELECT", "5"]);
        client.ok(&["SET", "before", "1"]);
        follow(&replica, primary.port());
        caught_up(&primary, &replica);
        client.ok(&["SET", "key", "1"]);
        caught_up(&primary, &replica);
        replica.client().ok(&["REPLICAOF", "NO", "ONE"]);
        follow(&replica, primary.port());
        assert!(eventually(PATIENCE, || synced(&replica)));
        client.ok(&["SET", "after", "1"]);
        caught_up(&primary, &replica);
        if appendonly == "yes" {
            // What its own files say is the same.
            replica.client().ok(&["REPLICAOF", "NO", "ONE"]);
            replica.rewrite();
            replica.terminate();
            replica.restart();
            follow(&replica, primary.port());
            assert!(eventually(PATIENCE, || synced(&replica)));
            client.ok(&["SET", "after the restart", "1"]);
            caught_up(&primary, &replica);
        }
        assert_eq!(primary.info("sync_full"), "1", "{}", primary.log());
    }
}

/// A full sync that can't be loaded leaves data and history as they belong together: the old data, if the
/// log on disk has them, and otherwise nothing, under a name that nobody knows.
#[test]
fn a_full_sync_that_fails_leaves_no_data_under_a_name_of_others() {
    let unknown = Server::redis().arg("--repl-diskless-sync-delay", "0").start();
    unknown.client().ok(&["XADD", "stream", "*", "field", "value"]);
    for appendonly in ["no", "yes"] {
        let start = || Server::varve().arg("--appendonly", appendonly);
        let mut server = start().start();
        let follower = start().replica_of(server.port()).start();
        server.client().ok(&["SET", "old", "data"]);
        caught_up(&server, &follower);
        follow(&server, unknown.port());
        let failed = || server.log().contains("type 19 (stream) is not supported");
        assert!(eventually(PATIENCE, failed), "{}", server.log());
        server.client().ok(&["REPLICAOF", "NO", "ONE"]);
        let kept = server.client().ok(&["EXISTS", "old"]).int();
        assert_eq!(kept, i64::from(appendonly == "yes"), "{}", server.log());
        server.client().ok(&["SET", "new", "data"]);
        caught_up(&server, &follower);
        if appendonly == "yes" {
            server.kill9();
            server.restart();
            assert_eq!(server.client().ok(&["DBSIZE"]).int(), 2);
            caught_up(&server, &follower);
        }
    }
}

/// Who waits on a primary that becomes a replica is told so, and closed to look for the new one.
#[test]
fn who_waits_on_a_primary_that_steps_down_is_sent_away() {
    for server in [Server::start(), Server::redis().start()] {
        let mut waiting = [["BLPOP", "list", "0"], ["WAIT", "1", "0"]].map(|command| {
            let mut client = server.client();
            client.send_raw(format!("{}\r\n", command.join(" ")).as_bytes());
            client
        });
        assert!(eventually(PATIENCE, || server.info("blocked_clients") == "2"));
        follow(&server, crate::support::server::free_port());
        for client in &mut waiting {
            assert!(client.recv().is_error());
            let end = client.try_recv().expect_err("nothing follows");
            assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof, "it is still connected");
        }
    }
}

/// The link to the primary is as old as it is, for those who close what is older.
#[test]
fn the_link_to_the_primary_has_an_age() {
    let primary = Server::start();
    let replica = Server::varve().replica_of(primary.port()).start();
    assert!(eventually(PATIENCE, || synced(&replica)));
    let hour = ["CLIENT", "KILL", "TYPE", "master", "MAXAGE", "3600"];
    assert_eq!(replica.client().cmd(&hour).int(), 0);
}

/// `REPLICAOF` in a transaction: what was written before it is the primary's and in the log, and what
/// follows is refused.
#[test]
fn a_transaction_in_which_the_role_changes_leaves_nothing_beside_the_log() {
    let server = Server::start();
    let other = Server::varve().replica_of(server.port()).start();
    server.client().ok(&["SET", "common", "1"]);
    caught_up(&server, &other);
    other.client().ok(&["REPLICAOF", "NO", "ONE"]);
    let mut client = server.client();
    client.ok(&["MULTI"]);
    client.ok(&["SET", "before", "1"]);
    client.ok(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    client.ok(&["SET", "behind", "1"]);
    assert!(client.cmd(&["EXEC"]).items()[2].is_error());
    // The new primary never had it: it goes back, or begins anew.
    caught_up(&other, &server);
    assert_eq!(server.client().ok(&["EXISTS", "before", "behind"]).int(), 0);
}

/// A replica that is started without being told whom to follow is a primary, and must not go on under
/// the name of the one that it followed: two would write different bytes to one place.
#[test]
fn a_replica_started_alone_takes_a_name_of_its_own() {
    let start = || Server::varve().arg("--appendonly", "yes").start();
    let (primary, mut replica) = (start(), start());
    follow(&replica, primary.port());
    primary.client().ok(&["SET", "key", "before"]);
    let same = |replica: &Server| {
        synced(replica) && replica.info("slave_repl_offset") == primary.info("master_repl_offset")
    };
    assert!(eventually(PATIENCE, || same(&replica)));
    for killed in [false, true] {
        match killed {
            true => replica.kill9(),
            false => drop(replica.terminate()),
        }
        replica.restart();
        assert_eq!(replica.info("role"), "master");
        assert_ne!(replica.info("master_replid"), primary.info("master_replid"));
        assert_eq!(replica.info("master_replid2"), primary.info("master_replid"));
        replica.client().ok(&["SET", "key", "elsewhere"]);
        primary.client().ok(&["SET", "key", "here"]);
        follow(&replica, primary.port());
        assert!(eventually(PATIENCE, || same(&replica)));
        crate::support::assert_same_data(&mut primary.client(), &mut replica.client());
    }
}

/// A folder that was copied after a clean shutdown is another place of the same history, and two may write
/// there from then on: the copy takes a name of its own, and a replica of the original goes on with either.
#[test]
fn a_copy_of_a_closed_log_takes_a_name_of_its_own() {
    let with_log = || Server::varve().arg("--appendonly", "yes").arg("--appendfsync", "always");
    let mut original = with_log().start();
    let replica = Server::varve().replica_of(original.port()).start();
    original.client().ok(&["SET", "key", "common"]);
    caught_up(&original, &replica);
    let name = original.info("master_replid");
    original.terminate();
    let copy = with_log().with_file(&original.dir().join("appendonlydir")).start();
    assert_ne!(copy.info("master_replid"), name, "two go on under one name");
    assert_eq!(copy.info("master_replid2"), name);
    copy.client().ok(&["SET", "key", "of the copy"]);
    follow(&replica, copy.port());
    caught_up(&copy, &replica);
    assert_eq!(copy.info("sync_full"), "0", "{}", copy.log());
    original.restart();
    assert_eq!(original.info("master_replid"), name);
    original.client().ok(&["SET", "key", "of the original"]);
    follow(&replica, original.port());
    caught_up(&original, &replica);
}

/// A backup is copied back to where it was made, over the files or in place of the folder, whose inode is
/// soon used again: replicas hold what came after it, and are not to take the present name for that.
#[test]
fn a_backup_in_the_place_of_its_original_takes_a_name_of_its_own() {
    for keeps_folder in [true, false] {
        let mut primary = Server::varve().arg("--appendonly", "yes").start();
        let mut replica = Server::varve().arg("--appendonly", "yes").start();
        follow(&replica, primary.port());
        primary.client().ok(&["SET", "key", "common"]);
        caught_up(&primary, &replica);
        primary.terminate();
        let log = primary.dir().join("appendonlydir");
        let backup: Vec<_> = fs::read_dir(&log)
            .unwrap()
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        primary.restart();
        primary.client().ok(&["SET", "lost", "1"]);
        caught_up(&primary, &replica);
        replica.terminate();
        primary.terminate();
        match keeps_folder {
            true => fs::read_dir(&log)
                .unwrap()
                .for_each(|file| fs::remove_file(file.unwrap().path()).unwrap()),
            false => {
                fs::remove_dir_all(&log).unwrap();
                fs::create_dir(&log).unwrap();
            }
        }
        backup.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        primary.restart();
        primary.client().ok(&["SET", "key", "a longer value than the lost one"]);
        replica.restart();
        follow(&replica, primary.port());
        caught_up(&primary, &replica);
        crate::support::assert_same_data(&mut primary.client(), &mut replica.client());
    }
}

/// What is written after a promotion is of all data that there are: the log gets a base with what clients had
/// written to the replica alone, and so do its own replicas.
#[test]
fn a_promoted_replica_keeps_what_is_made_of_its_own_data() {
    let primary = Server::varve().start();
    let server = |log: &str| Server::varve().arg("--appendonly", log);
    let mut replica = server("yes").arg("--replica-read-only", "no").start();
    follow(&replica, primary.port());
    caught_up(&primary, &replica);
    // The full sync's base is in force.
    assert!(eventually(PATIENCE, || replica.log().contains("The log's base is the snapshot")));
    let mut client = replica.client();
    client.ok(&["RPUSH", "own", "1", "2", "3"]);
    client.ok(&["REPLICAOF", "NO", "ONE"]);
    client.ok(&["RENAME", "own", "list"]);
    client.ok(&["LPOP", "list"]);
    let newcomer = server("no").replica_of(replica.port()).start();
    caught_up(&replica, &newcomer);
    crate::support::assert_same_data(&mut client, &mut newcomer.client());
    // A message is no data.
    newcomer.client().ok(&["PUBLISH", "channel", "message"]);
    newcomer.client().ok(&["REPLICAOF", "NO", "ONE"]);
    assert!(!newcomer.log().contains("snapshots are made anew"));
    let rewritten = || replica.log().matches("The log's base is the snapshot").count() == 2;
    assert!(eventually(PATIENCE, rewritten), "{}", replica.log());
    replica.kill9();
    replica.restart();
    let list = replica.client().ok(&["LRANGE", "list", "0", "-1"]);
    assert_eq!(list.items().iter().map(Value::text).collect::<Vec<_>>(), ["2", "3"]);
}

/// With `repl-diskless-load swapdb` clients are served the old data until the new are whole, with a
/// log on disk and without.
#[test]
fn a_replica_serves_its_old_data_while_new_are_loaded_beside() {
    let primary = start(Kind::Varve);
    primary.client().ok(&["DEBUG", "POPULATE", "1000000"]);
    primary.client().ok(&["SET", "which", "new"]);
    for appendonly in ["no", "yes"] {
        let replica = Server::varve()
            .arg("--repl-diskless-load", "swapdb")
            .arg("--appendonly", appendonly)
            .start();
        let mut client = replica.client();
        client.ok(&["SET", "which", "old"]);
        follow(&replica, primary.port());
        let (mut while_loading, mut last) = (0, Vec::new());
        let done = || {
            let loading = server::info(&mut client, "async_loading") == "1";
            assert_eq!(server::info(&mut client, "loading"), "0");
            let which = client.ok(&["GET", "which"]).bytes().to_vec();
            assert!(last != b"new" || which == b"new", "the old data came back");
            while_loading += u32::from(loading && which == b"old");
            last = which;
            last == b"new"
        };
        assert!(eventually(PATIENCE, done), "the new data never came");
        assert!(while_loading > 0, "appendonly {appendonly}: nobody was served meanwhile");
        assert!(eventually(PATIENCE, || synced(&replica)));
        crate::support::assert_same_data(&mut primary.client(), &mut replica.client());
    }
}

/// A shutdown that waits for a replica of this one saves the data that there are then, and not a part of
/// those that the primary sends meanwhile under the name of the old ones.
#[test]
fn a_shutdown_that_waits_saves_no_half_loaded_data() {
    let primary = start(Kind::Varve);
    primary.client().ok(&["DEBUG", "POPULATE", "1000"]);
    let proxy = Proxy::to(primary.port());
    let mut server = Server::varve()
        .arg("--appendonly", "no")
        .arg("--repl-diskless-load", "on-empty-db")
        .arg("--shutdown-timeout", "2")
        .start();
    let mut client = server.client();
    client.ok(&["SET", "key", "value"]);
    client.ok(&["DEL", "key"]);
    client.ok(&["CONFIG", "SET", "key-load-delay", "10000"]);
    // It knows no acknowledgements, and so seems to lag for ever.
    let mut lagging = server.client();
    lagging.send_raw(b"SYNC\r\n");
    assert!(eventually(PATIENCE, || server.info("slave0").contains("state=online")));
    proxy.pause(true);
    follow(&server, proxy.port());
    client.send_raw(b"SHUTDOWN SAVE\r\n");
    let waits = || server.log().contains("Waiting for replicas before shutting down");
    assert!(eventually(PATIENCE, waits), "{}", server.log());
    proxy.pause(false);
    assert!(server.wait_end().success());
    server.restart();
    assert_eq!(server.client().ok(&["DBSIZE"]).int(), 0, "{}", server.log());
}

/// `CONFIG SET dir` in the middle of a full sync leaves its file behind, and the old data where they are.
#[test]
fn a_full_sync_whose_file_is_gone_costs_no_data() {
    let primary = Server::varve().arg("--rdb-key-save-delay", "2000").start();
    primary.client().ok(&["DEBUG", "POPULATE", "500"]);
    let replica = Server::varve()
        .arg("--appendonly", "no")
        .arg("--enable-protected-configs", "yes")
        .arg("--repl-reconnect-delay", "30")
        .start();
    replica.client().ok(&["SET", "old", "data"]);
    follow(&replica, primary.port());
    assert!(eventually(PATIENCE, || replica.info("master_sync_in_progress") == "1"));
    let elsewhere = replica.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    replica.client().ok(&["CONFIG", "SET", "dir", elsewhere.to_str().unwrap()]);
    let failed = || replica.log().contains("Full sync failed");
    assert!(eventually(PATIENCE, failed), "{}", replica.log());
    assert_eq!(replica.client().ok(&["EXISTS", "old"]).int(), 1);
}

/// What a Redis sends and Varve does not have is left out when it comes, and when the replica's log is
/// loaded: at a start, and when a full sync has failed.
#[test]
fn a_replica_leaves_out_again_what_it_left_out() {
    let unknown = || Server::redis().arg("--repl-diskless-sync-delay", "0").start();
    let (primary, other) = (unknown(), unknown());
    let mut replica = Server::varve().arg("--appendonly", "yes").replica_of(primary.port()).start();
    primary.client().ok(&["SET", "before", "1"]);
    caught_up(&primary, &replica);
    for server in [&primary, &other] {
        server.client().ok(&["XADD", "stream", "*", "field", "value"]);
    }
    primary.client().ok(&["SET", "after", "1"]);
    let at_end = |replica: &Server| {
        synced(replica) && replica.info("slave_repl_offset") == primary.info("master_repl_offset")
    };
    let is_whole = |replica: &Server| {
        let kept = replica.client().ok(&["EXISTS", "before", "after"]).int();
        assert_eq!(kept, 2, "{}", replica.log());
    };
    assert!(eventually(PATIENCE, || at_end(&replica)));
    replica.kill9();
    replica.restart();
    assert!(eventually(PATIENCE, || at_end(&replica)));
    is_whole(&replica);
    assert_eq!(primary.info("sync_full"), "1");
    follow(&replica, other.port());
    let failed = || replica.log().contains("type 19 (stream) is not supported");
    assert!(eventually(PATIENCE, failed), "{}", replica.log());
    replica.client().ok(&["REPLICAOF", "NO", "ONE"]);
    is_whole(&replica);
}

/// The log is turned on in the middle of a full sync that is received into memory, where no base of a log
/// is: it begins with the new data.
#[test]
fn a_log_that_is_turned_on_during_a_full_sync_begins_after_it() {
    let primary = Server::varve().arg("--rdb-key-save-delay", "2000").start();
    primary.client().ok(&["DEBUG", "POPULATE", "500"]);
    let mut replica = Server::varve()
        .arg("--appendonly", "no")
        .arg("--repl-diskless-load", "swapdb")
        .replica_of(primary.port())
        .start();
    assert!(eventually(PATIENCE, || replica.info("master_sync_in_progress") == "1"));
    replica.client().ok(&["CONFIG", "SET", "appendonly", "yes"]);
    caught_up(&primary, &replica);
    let on_disk = || replica.info("log_synced_offset") == primary.info("master_repl_offset");
    assert!(eventually(PATIENCE, on_disk), "{}", replica.log());
    replica.kill9();
    let log = replica.dir().join("appendonlydir");
    let again = Server::varve().arg("--appendonly", "yes").with_file(&log).start();
    assert_eq!(again.client().ok(&["DBSIZE"]).int(), 500);
}

/// Whoever is told to follow another while data are loaded beside the old ones wants them no more: neither
/// when the other goes on with the old, nor when it sends its own.
#[test]
fn a_load_beside_ends_with_the_wish_for_it() {
    let [first, second, third] = [(); 3].map(|()| start(Kind::Varve));
    second.client().ok(&["DEBUG", "POPULATE", "1000", "second"]);
    for (appendonly, last) in [("no", &first), ("yes", &first), ("yes", &third)] {
        let replica = Server::varve()
            .arg("--repl-diskless-load", "swapdb")
            .arg("--appendonly", appendonly)
            .arg("--key-load-delay", "1000")
            .replica_of(first.port())
            .start();
        assert!(eventually(PATIENCE, || synced(&replica)));
        follow(&replica, second.port());
        assert!(eventually(PATIENCE, || replica.info("async_loading") == "1"));
        follow(&replica, last.port());
        assert!(eventually(PATIENCE, || replica.info("async_loading") == "0"));
        assert!(eventually(PATIENCE, || synced(&replica)));
        last.client().ok(&["INCR", "counter"]);
        caught_up(last, &replica);
    }
}

/// A replica that is promoted while data are loaded beside the old ones is a primary at once: what it is given
/// then is in its log.
#[test]
fn what_is_written_while_a_load_beside_ends_is_kept() {
    let primary = start(Kind::Varve);
    primary.client().ok(&["DEBUG", "POPULATE", "2000"]);
    let beside = Server::varve().arg("--repl-diskless-load", "swapdb");
    let mut server = beside.arg("--appendonly", "yes").arg("--key-load-delay", "5000").start();
    server.client().ok(&["SET", "old", "1"]);
    follow(&server, primary.port());
    assert!(eventually(PATIENCE, || server.info("async_loading") == "1"));
    let mut client = server.client();
    client.send_raw(b"REPLICAOF NO ONE\r\nSET new 1\r\n");
    (0..2).for_each(|_| assert_eq!(client.recv(), Value::ok()));
    server.kill9();
    server.restart();
    assert_eq!(server.client().ok(&["EXISTS", "old", "new"]).int(), 2, "{}", server.log());
}

/// Nobody wants the rest of a load that was given up, and it does not keep the server busy.
#[test]
fn a_load_beside_that_is_given_up_is_not_brought_to_its_end() {
    let primary = start(Kind::Varve);
    primary.client().ok(&["DEBUG", "POPULATE", "2000"]);
    let beside = Server::varve().arg("--repl-diskless-load", "swapdb");
    let server = beside.arg("--key-load-delay", "1000000").replica_of(primary.port()).start();
    assert!(eventually(PATIENCE, || server.info("async_loading") == "1"));
    server.client().ok(&["REPLICAOF", "NO", "ONE"]);
    assert!(eventually(PATIENCE, || server.info("async_loading") == "0"));
}

/// A replica of this one waits for a snapshot when this one begins to load another's data. What there is in
/// a load is no snapshot of anything: neither for that replica, nor for the log's base, from which the old data
/// are to come back when the load fails.
#[test]
fn no_snapshot_is_taken_in_the_middle_of_a_load() {
    let unknown = Server::redis().arg("--repl-diskless-sync-delay", "0").start();
    unknown.client().ok(&["DEBUG", "POPULATE", "1000"]);
    unknown.client().ok(&["XADD", "stream", "*", "field", "value"]);
    let server = Server::varve().arg("--appendonly", "yes").arg("--key-load-delay", "2000").start();
    let mut client = server.client();
    (0..100).for_each(|n| drop(client.ok(&["SET", &format!("own:{n}"), "value"])));
    client.ok(&["CONFIG", "SET", "repl-diskless-sync-delay", "3600"]);
    let last = Server::varve().replica_of(server.port()).start();
    assert!(eventually(PATIENCE, || server.info("slave0").contains("state=wait_bgsave")));
    follow(&server, unknown.port());
    assert!(eventually(PATIENCE, || server.info("loading") == "1"));
    client.ok(&["CONFIG", "SET", "repl-diskless-sync-delay", "0", "repl-diskless-sync", "no"]);
    let failed = || server.log().contains("type 19 (stream) is not supported");
    assert!(eventually(PATIENCE, failed), "{}", server.log());
    client.ok(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(client.ok(&["DBSIZE"]).int(), 100, "{}", server.log());
    caught_up(&server, &last);
}

/// `proto-max-bulk-len` is for what clients make: what a primary has made a replica takes, and so does a start
/// what its log has.
#[test]
fn strings_may_be_as_long_as_they_were_where_they_were_made() {
    let primary = start(Kind::Varve);
    let mut replica = Server::varve()
        .arg("--appendonly", "yes")
        .arg("--proto-max-bulk-len", "1mb")
        .replica_of(primary.port())
        .start();
    assert!(eventually(PATIENCE, || synced(&replica)));
    let mut client = primary.client();
    let half = "x".repeat(600_000);
    (0..2).for_each(|_| drop(client.ok(&["APPEND", "appended", &half])));
    client.ok(&["SETRANGE", "range", "2000000", "x"]);
    client.ok(&["SETBIT", "bit", "16000000", "1"]);
    client.ok(&["BITFIELD", "field", "SET", "u8", "16000000", "1"]);
    caught_up(&primary, &replica);
    replica.kill9();
    replica.restart();
    caught_up(&primary, &replica);
    replica.client().ok(&["REPLICAOF", "NO", "ONE"]);
    assert!(replica.client().cmd(&["APPEND", "appended", "x"]).is_error());
}

/// `client-query-buffer-limit` is for what clients send, and not for a primary's transactions and values.
#[test]
fn a_primary_may_send_more_at_once_than_clients() {
    let primary = start(Kind::Varve);
    let builder = Server::varve().arg("--client-query-buffer-limit", "1mb");
    let replica = builder.replica_of(primary.port()).start();
    assert!(eventually(PATIENCE, || synced(&replica)));
    let mut client = primary.client();
    let half = "x".repeat(600_000);
    client.ok(&["MULTI"]);
    (0..10).for_each(|n| drop(client.ok(&["SET", &format!("key:{n}"), &half])));
    client.ok(&["EXEC"]);
    caught_up(&primary, &replica);
    assert!(!replica.log().contains("is down"), "{}", replica.log());
}

/// A replica with a password bounds what waits for those who have not shown it. Its primary is none of them,
/// however many answers it asked for at once.
#[test]
fn a_replica_with_a_password_answers_all_that_its_primary_asks() {
    let primary = start(Kind::Varve);
    let replica = Server::varve().arg("--requirepass", "secret").replica_of(primary.port()).start();
    let is_there = || primary.info("slave0").contains("state=online");
    assert!(eventually(PATIENCE, is_there));
    replica.signal(libc::SIGSTOP);
    let ask = Command::new(&["DEBUG", "REPLICATE", "REPLCONF", "GETACK", "*"]);
    primary.client().pipeline(&vec![ask; 2000]);
    replica.signal(libc::SIGCONT);
    let all = || {
        let end = format!("offset={},", primary.info("master_repl_offset"));
        primary.info("slave0").contains(&end)
    };
    assert!(eventually(PATIENCE, all));
    assert!(!replica.log().contains("is down"), "{}", replica.log());
}

/// A start takes no key from what it loads, however little memory there is to be, and whoever asks meanwhile: its
/// primary would not know.
#[test]
fn nothing_is_evicted_while_it_is_loaded() {
    let primary = start(Kind::Varve);
    let mut client = primary.client();
    (0..1000).for_each(|n| drop(client.ok(&["SET", &format!("key:{n}"), &"x".repeat(2000)])));
    let evicts = Server::varve().arg("--maxmemory", "1mb").arg("--maxmemory-policy", "allkeys-lru");
    let mut replica = evicts.arg("--key-load-delay", "1000").replica_of(primary.port()).start();
    caught_up(&primary, &replica);
    // What it has loaded is its own once it is on its disk too.
    let on_disks = client.ok(&["WAITAOF", "0", "1", "60000"]).items();
    assert_eq!(on_disks[1].int(), 1, "{}", replica.log());
    for _ in 0..2 {
        replica.kill9();
        replica.restart();
        caught_up(&primary, &replica);
    }
    assert_eq!(primary.info("sync_full"), "1");
}

/// Only its primary deletes what has expired on a replica: it may have been given more time, of which the replica
/// is still to hear.
#[test]
fn looking_at_what_has_expired_deletes_nothing_on_a_replica() {
    let primary = start(Kind::Varve);
    let proxy = Proxy::to(primary.port());
    let replica = Server::varve().replica_of(proxy.port()).start();
    assert!(eventually(PATIENCE, || synced(&replica)));
    let mut client = primary.client();
    let keys = ["used", "watched"];
    keys.iter().for_each(|key| drop(client.ok(&["SET", key, "v", "PX", "3000"])));
    assert!(eventually(PATIENCE, || replica.info("db0").contains("keys=2")));
    proxy.pause(true);
    keys.iter().for_each(|key| assert_eq!(client.ok(&["PERSIST", key]).int(), 1));
    let mut reader = replica.client();
    let gone = || reader.ok(&["MEMORY", "USAGE", "used"]) == Value::Nil;
    assert!(eventually(PATIENCE, gone));
    replica.client().ok(&["WATCH", "watched"]);
    // What was over when the watch began has not changed.
    reader.ok(&["WATCH", "used"]);
    reader.ok(&["MULTI"]);
    reader.ok(&["EXISTS", "used"]);
    assert_eq!(reader.ok(&["EXEC"]), Value::Array(vec![Value::Int(0)]));
    proxy.pause(false);
    caught_up(&primary, &replica);
}

/// A connection that spoke as a replica, and went before it was one, leaves nothing behind.
#[test]
fn who_never_became_a_replica_is_forgotten() {
    let server = Server::start();
    let address = "a".repeat(255);
    let before = server.number("used_memory");
    for _ in 0..2000 {
        server.client().ok(&["REPLCONF", "ip-address", &address]);
    }
    let forgotten = || server.number("used_memory") < before + (400 << 10);
    assert!(eventually(PATIENCE, forgotten), "{}", server.number("used_memory") - before);
}

/// A backup that takes an RDB and no log after it is let go when it has that, and else when it takes nothing of it
/// for `repl-timeout`. It stayed a replica for good.
#[test]
fn who_wants_only_the_rdb_is_let_go_when_it_has_it() {
    for diskless in ["yes", "no"] {
        let server = Server::varve()
            .arg("--appendonly", "no")
            .arg("--rdbcompression", "no")
            .arg("--repl-diskless-sync", diskless)
            .arg("--repl-timeout", "1")
            .start();
        // More than sockets hold.
        server.client().ok(&["DEBUG", "POPULATE", "24", "key", "1000000"]);
        let ask = || {
            let mut backup = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            backup.write_all(b"REPLCONF capa eof rdb-only 1\r\nPSYNC ? -1\r\n").unwrap();
            backup
        };
        let mut received = vec![];
        let mut backup = ask();
        backup.set_read_timeout(Some(PATIENCE)).unwrap();
        backup.read_to_end(&mut received).expect("the end of the connection");
        assert!(received.len() > 24_000_000, "{} bytes", received.len());
        let _hung = ask();
        let asked = || server.info("sync_full") == "2";
        assert!(eventually(PATIENCE, asked), "{}", server.log());
        let gone = || server.info("connected_slaves") == "0";
        assert!(eventually(PATIENCE, gone), "{}", server.log());
    }
}

/// A child's stream fills what is kept for a slow replica, and waits. The replica goes on reading, and is not
/// given up for what it has still to take. What is kept for it was 16 MB, for which keys were evicted.
#[test]
fn a_slow_replica_is_given_time_for_a_stream() {
    let primary = Server::varve()
        .arg("--appendonly", "no")
        .arg("--rdbcompression", "no")
        .arg("--maxmemory", "36mb")
        .arg("--maxmemory-policy", "allkeys-lru")
        .arg("--repl-timeout", "2")
        .start();
    primary.client().ok(&["DEBUG", "POPULATE", "24", "key", "1000000"]);
    let proxy = Proxy::to(primary.port());
    proxy.throttle(3_000_000);
    let replica = Server::varve().replica_of(proxy.port()).start();
    assert!(eventually(PATIENCE, || synced(&replica)), "{}", primary.log());
    assert_eq!(primary.info("sync_full"), "1", "{}", primary.log());
    assert!(primary.log().contains("target: replicas sockets"));
    assert_eq!(primary.number("evicted_keys"), 0, "{}", primary.log());
}

/// A rewrite makes a base that a newcomer can have as it is, and a rewrite that is about to be the
/// base is worth waiting for.
#[test]
fn a_full_sync_takes_the_base_that_a_rewrite_made() {
    let primary = Server::varve().arg("--appendonly", "yes").start();
    let mut client = primary.client();
    client.ok(&["DEBUG", "POPULATE", "100000", "filler", "100"]);
    client.ok(&["BGREWRITEAOF"]);
    let replica = Server::varve().replica_of(primary.port()).start();
    assert!(eventually(PATIENCE, || synced(&replica)), "the first sync did not end");
    crate::support::assert_same_data(&mut client, &mut replica.client());
    if !Server::is_stand_in() {
        let log = primary.log();
        assert!(log.contains("Full sync from the snapshot on disk"), "{log}");
    }
}

/// What was received is the base of the replica's log: nothing has grown, and nothing is rewritten.
#[test]
fn a_full_sync_needs_no_rewrite_of_the_replicas_log() {
    let primary = Server::start();
    primary.client().ok(&["DEBUG", "POPULATE", "50000", "filler", "100"]);
    let replica = Server::varve()
        .arg("--appendonly", "yes")
        .arg("--auto-aof-rewrite-min-size", "1mb")
        .replica_of(primary.port())
        .start();
    assert!(eventually(PATIENCE, || synced(&replica)), "the first sync did not end");
    let base = || replica.info("aof_base_size").parse::<u64>().is_ok_and(|size| size > 1 << 20);
    assert!(eventually(PATIENCE, base), "the received RDB is not the base");
    // The server looks ten times a second whether a rewrite is due.
    thread::sleep(Duration::from_millis(500));
    let log = replica.log();
    assert!(!log.contains("Starting automatic rewriting"), "{log}");
}

/// What was received and became the base of a replica's log is what that replica's own replicas get, Varve or
/// Redis, without a fork; what follows goes to the database that was selected when it was made.
#[test]
fn replicas_of_a_replica_get_the_base_that_it_received() {
    for kind in [Server::varve().arg("--appendonly", "no"), Server::redis()] {
        let primary = kind.start();
        let mut client = primary.client();
        client.ok(&["DEBUG", "POPULATE", "50000", "filler", "100"]);
        client.ok(&["SELECT", "5"]);
        client.ok(&["SET", "before", "the base"]);
        let middle = Server::varve().arg("--appendonly", "yes").replica_of(primary.port()).start();
        assert!(eventually(PATIENCE, || synced(&middle)), "the first sync did not end");
        for kind in [Server::varve(), Server::redis()] {
            client.ok(&["SET", "after", "the base"]);
            let last = kind.replica_of(middle.port()).start();
            assert!(eventually(PATIENCE, || synced(&last)), "the second sync did not end");
            client.ok(&["SET", "last", "of all"]);
            let mut other = last.client();
            other.ok(&["SELECT", "5"]);
            let there = || other.cmd(&["GET", "last"]) == Value::bulk("of all");
            assert!(eventually(PATIENCE, there), "{}", last.log());
            crate::support::assert_same_data(&mut client, &mut last.client());
            client.ok(&["DEL", "after", "last"]);
        }
        if !Server::is_stand_in() {
            assert_eq!(middle.info("total_forks"), "0", "{}", middle.log());
        }
    }
}

/// A replica's disk that can not take a full sync has nothing of it, and says so.
#[test]
fn a_full_sync_that_is_not_on_the_replicas_disk_counts_for_no_disk() {
    let primary = start(Kind::Varve);
    let replica = Server::varve().arg("--appendonly", "yes").start();
    let mut client = primary.client();
    client.ok(&["SET", "key", "value"]);
    // Where the new manifest is to be written.
    let hindrance = replica.dir().join("appendonlydir/temp_appendonly.aof.manifest");
    fs::create_dir(&hindrance).unwrap();
    follow(&replica, primary.port());
    caught_up(&primary, &replica);
    assert_eq!(client.ok(&["WAIT", "1", "0"]).int(), 1);
    assert_eq!(client.ok(&["WAITAOF", "0", "1", "100"]).items()[1].int(), 0);
    fs::remove_dir(&hindrance).unwrap();
    assert_eq!(client.ok(&["WAITAOF", "0", "1", "0"]).items()[1].int(), 1);
}

/// What a newer primary sent is not passed on as it is, if `rdb-version` says that others are older.
#[test]
fn older_replicas_get_no_newer_snapshot_than_they_can_read() {
    for appendonly in ["no", "yes"] {
        let primary = Server::varve().arg("--rdb-version", "12").start();
        primary.client().ok(&["SET", "key", "value"]);
        let middle =
            Server::varve().arg("--appendonly", appendonly).replica_of(primary.port()).start();
        assert!(eventually(PATIENCE, || synced(&middle)));
        let last = Server::redis().replica_of(middle.port()).start();
        caught_up(&middle, &last);
    }
}

/// The base that `CONFIG SET appendonly yes` wrote is as good.
#[test]
fn a_full_sync_takes_the_first_base_of_a_log_that_was_turned_on() {
    let primary = Server::varve().arg("--appendonly", "no").start();
    let mut client = primary.client();
    client.ok(&["DEBUG", "POPULATE", "50000", "filler", "100"]);
    client.ok(&["CONFIG", "SET", "appendonly", "yes"]);
    let done = || primary.log().contains("The log is on disk");
    assert!(eventually(PATIENCE, done), "the log was not turned on");
    let replica = Server::varve().replica_of(primary.port()).start();
    assert!(eventually(PATIENCE, || synced(&replica)), "the sync did not end");
    crate::support::assert_same_data(&mut client, &mut replica.client());
    if !Server::is_stand_in() {
        assert_eq!(primary.info("total_forks"), "1", "{}", primary.log());
    }
}

/// Keys that had expired in a log's base were left out when it was loaded, though the commands after it gave
/// them more time.
#[test]
fn what_the_log_kept_alive_is_there_after_a_restart() {
    let mut server = Server::start();
    let mut client = server.client();
    for key in ["persisted", "prolonged", "gone"] {
        client.ok(&["SET", key, "v", "PX", "2000"]);
    }
    server.rewrite();
    client.ok(&["PERSIST", "persisted"]);
    client.ok(&["PEXPIRE", "prolonged", "1000000"]);
    std::thread::sleep(Duration::from_millis(2100));
    server.kill9();
    server.restart();
    let mut client = server.client();
    assert_eq!(client.ok(&["EXISTS", "persisted", "prolonged", "gone"]).int(), 2);
}

/// A primary that left out of its snapshot what had expired since never told its replicas.
#[test]
fn replicas_are_told_of_what_expired_while_their_primary_was_down() {
    let mut primary = Server::varve().arg("--appendonly", "no").start();
    let replica = Server::varve().replica_of(primary.port()).start();
    let mut client = primary.client();
    client.ok(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    for i in 0..100 {
        client.ok(&["SET", &format!("key:{i}"), "v", "PX", "1"]);
    }
    assert!(eventually(PATIENCE, || replica.client().ok(&["DBSIZE"]).int() == 100));
    client.ok(&["SAVE"]);
    primary.restart();
    assert!(eventually(PATIENCE, || replica.info("master_link_status") == "up"));
    assert!(eventually(PATIENCE, || replica.client().ok(&["DBSIZE"]).int() == 0), "they stay");
    assert_eq!(primary.info("sync_full"), "0");
}

/// A replica waits for a save that is given up: everything is flushed, or a shutdown has no use for the save,
/// and is then not to be. The replica comes back for another.
#[test]
fn a_save_that_is_given_up_leaves_no_replica_waiting() {
    for flushes in [true, false] {
        let builder = Server::varve().arg("--appendonly", "no").arg("--save", "");
        let builder = builder.arg("--repl-diskless-sync", "no").arg("--repl-timeout", "3600");
        let primary = builder.arg("--enable-protected-configs", "yes").start();
        let mut client = primary.client();
        fs::create_dir(primary.dir().join("folder")).unwrap();
        stopped_child(&primary, &mut client, "BGSAVE");
        let replica = Server::varve().arg("--repl-timeout", "3600").start();
        follow(&replica, primary.port());
        let joined = || primary.log().contains("joins the save that runs");
        assert!(eventually(PATIENCE, joined), "{}", primary.log());
        if flushes {
            client.ok(&["FLUSHALL"]);
        } else {
            client.ok(&["CONFIG", "SET", "dbfilename", "folder"]);
            assert!(client.cmd(&["SHUTDOWN", "SAVE", "NOW"]).is_error());
            client.ok(&["CONFIG", "SET", "dbfilename", "dump.rdb"]);
        }
        client.ok(&["SET", "key", "value"]);
        caught_up(&primary, &replica);
    }
}

/// A save that runs is no good to a newcomer when the log has left its place behind.
#[test]
fn a_save_that_the_log_no_longer_continues_is_not_joined() {
    let builder = Server::varve().arg("--appendonly", "no").arg("--repl-diskless-sync", "no");
    let primary = builder.arg("--repl-backlog-size", "16kb").start();
    let mut client = primary.client();
    let child = stopped_child(&primary, &mut client, "BGSAVE");
    let value = "x".repeat(100_000);
    (0..10).for_each(|_| drop(client.ok(&["SET", "key", &value])));
    let replica = Server::varve().replica_of(primary.port()).start();
    let asked = || primary.info("slave0").contains("state=wait_bgsave");
    assert!(eventually(PATIENCE, asked), "{}", primary.log());
    // SAFETY: plain integers. If it is gone, it can not be another's pid so soon.
    unsafe { libc::kill(child as libc::pid_t, libc::SIGCONT) };
    caught_up(&primary, &replica);
    assert_eq!(primary.info("sync_full"), "1", "{}", primary.log());
}

/// A server with data of its own becomes a replica while it saves them. That snapshot stands at an offset that
/// the primary's history has too, or will have, and holds nothing of it: neither dump nor base may it become,
/// nor what another replica is sent.
#[test]
fn a_save_of_the_data_before_a_full_sync_is_given_up() {
    for appendonly in ["no", "yes"] {
        let primary = Server::varve().start();
        primary.client().ok(&["SET", "of", "the primary"]);
        let builder = Server::varve().arg("--appendonly", appendonly);
        let middle = builder.arg("--repl-diskless-sync", "no").start();
        let mut client = middle.client();
        (0..100).for_each(|n| drop(client.ok(&["SET", &format!("own:{n}"), "value"])));
        let child = stopped_child(&middle, &mut client, "BGSAVE");
        follow(&middle, primary.port());
        caught_up(&primary, &middle);
        // SAFETY: plain integers. If it is gone, it can not be another's pid so soon.
        unsafe { libc::kill(child as libc::pid_t, libc::SIGCONT) };
        no_child(&middle);
        let last = Server::varve().start();
        follow(&last, middle.port());
        caught_up(&middle, &last);
    }
}

/// A replica may say that it has its snapshot before the primary has seen the child's end. What was written meanwhile
/// is sent then, and not with the next write.
#[test]
fn what_was_written_during_a_streamed_sync_follows_it_at_once() {
    let builder = Server::varve().arg("--repl-diskless-sync-delay", "0").arg("--save", "");
    let primary = builder.arg("--repl-ping-replica-period", "3600").start();
    let mut client = primary.client();
    // So much memory that the child takes some time to end.
    client.ok(&["DEBUG", "POPULATE", "300000", "key", "100"]);
    for n in 0..5 {
        let mut replica = TcpStream::connect(("127.0.0.1", primary.port())).unwrap();
        replica.set_read_timeout(Some(PATIENCE / 4)).unwrap();
        replica.write_all(b"REPLCONF capa eof capa psync2\r\nPSYNC ? -1\r\n").unwrap();
        let mut stream = Vec::new();
        let mut receives = |mut replica: &TcpStream, what: &str| {
            let mut bytes = [0; 1 << 16];
            while !stream.windows(what.len()).any(|window| window == what.as_bytes()) {
                let n = replica.read(&mut bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(n > 0, "{}", primary.log());
                stream.drain(..stream.len().saturating_sub(what.len()));
                stream.extend_from_slice(&bytes[..n]);
            }
        };
        receives(&replica, "$EOF:");
        let value = format!("during sync {n}");
        client.ok(&["SET", "written", &value]);
        (&replica).write_all(b"REPLCONF ACK 0\r\n").unwrap();
        receives(&replica, &value);
    }
}

/// The first address of the primary's name is one at which nobody listens.
#[test]
fn all_addresses_of_a_primarys_name_are_tried() {
    if !is_root("a primary's name with several addresses") {
        return;
    }
    let folder = Folder::new();
    let hosts = folder.path().join("hosts");
    fs::write(&hosts, "::1 several\n127.0.0.1 several\n").unwrap();
    private_mounts().expect("a namespace of its own");
    mount(Some(&hosts), "/etc/hosts", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let primary = Server::start();
    let replica = Server::start();
    replica.client().ok(&["REPLICAOF", "several", &primary.port().to_string()]);
    caught_up(&primary, &replica);
    assert!(!replica.log().contains("Cannot connect"), "{}", replica.log());
}
