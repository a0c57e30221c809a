//! `FAILOVER`: handing over, and all the ways in which that comes to nothing.
//!
//! Where the moment matters, the replica is a [`Puppet`]: it acknowledges when the test says so, and its
//! port is the test's own listener.

use crate::replication::{Kind, follow, start, synced};
use crate::support::{
    Client, PATIENCE, Proxy, Server, Value, assert_same_data, caught_up, eventually, listen,
};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A replica in the hands of the test.
struct Puppet {
    /// Its link to the primary.
    link: Client,
    /// Where it is asked to take over.
    listener: TcpListener,
    port: String,
}

impl Puppet {
    /// Follows the primary, without acknowledging anything.
    fn of(primary: &Server) -> Puppet {
        let listener = listen();
        let port = listener.local_addr().unwrap().port().to_string();
        let mut link = primary.client();
        link.ok(&["REPLCONF", "listening-port", &port]);
        link.send_raw(b"PSYNC ? -1\r\n");
        let online = || primary.info("slave0").contains("state=online");
        assert!(eventually(PATIENCE, online), "{}", primary.info("slave0"));
        Puppet { link, listener, port }
    }

    /// Acknowledges all of the log, and waits until the primary knows it.
    fn acknowledge(&mut self, primary: &Server) {
        let offset = primary.number("master_repl_offset");
        self.link.send_raw(format!("REPLCONF ACK {offset}\r\n").as_bytes());
        let known = || primary.info("slave0").contains(&format!("offset={offset},"));
        assert!(eventually(PATIENCE, known), "{}", primary.info("slave0"));
    }

    /// Has the primary begin to hand over to it, send a write that has to wait for that, and then ask
    /// it to take over.
    fn begin_failover(&mut self, primary: &Server) -> JoinHandle<Value> {
        primary.client().ok(&["SET", "before", "1"]);
        primary.client().ok(&["FAILOVER", "TO", "127.0.0.1", &self.port]);
        let writing = ask(primary, &["SET", "held", "2"]);
        self.acknowledge(primary);
        writing
    }

    /// Answers on the next link to its port until that ends, or cuts it where `answer` is `None`.
    /// Returns what was asked.
    fn serve(&self, mut answer: impl FnMut(&str) -> Option<String>) -> Vec<String> {
        let mut link = Client::accept(&self.listener);
        let mut asked = Vec::new();
        while let Ok(command) = link.try_recv() {
            let words = command.items();
            let words: Vec<String> = words.iter().map(Value::text).collect();
            asked.push(words.join(" "));
            // The server may have ended the link, and the rest of what it said be of no interest.
            match answer(&asked[asked.len() - 1]) {
                Some(reply) if link.try_send_raw(format!("{reply}\r\n").as_bytes()).is_ok() => {}
                _ => break,
            }
        }
        asked
    }
}

fn state(primary: &Server) -> String {
    primary.info("master_failover_state")
}

/// Time in which a server that is about to do something would have done it.
fn a_moment() {
    thread::sleep(Duration::from_millis(500));
}

/// A command sent by a client of its own, and its reply.
fn ask(server: &Server, command: &[&str]) -> JoinHandle<Value> {
    let (port, name) = (server.port(), command[0].to_lowercase());
    let command: Vec<String> = command.iter().map(|word| word.to_string()).collect();
    let asking = thread::spawn(move || Client::connect(port).cmd(&command));
    let there = || {
        let list = server.client().ok(&["CLIENT", "LIST"]).text();
        list.contains(&format!("cmd={name}")) || asking.is_finished()
    };
    assert!(eventually(PATIENCE, there), "{name} did not come");
    asking
}

/// An operator moves the primary while clients write: nothing acknowledged is lost, and nobody needs
/// a full sync. Both ways, with Redis at either end.
#[test]
fn a_failover_hands_over_and_loses_nothing() {
    for kinds in
        [[Kind::Varve, Kind::Varve], [Kind::Varve, Kind::Redis], [Kind::Redis, Kind::Varve]]
    {
        let [primary, replica] = kinds.map(start);
        follow(&replica, primary.port());
        assert!(eventually(PATIENCE, || synced(&replica)), "the first sync did not end");
        let full = primary.info("sync_full");
        let refused = primary.client().cmd(&["FAILOVER", "TO", "127.0.0.1", "1"]);
        assert!(refused.is_error(), "{refused:?}");
        let acknowledged = thread::scope(|scope| {
            let port = primary.port();
            let writing = scope.spawn(move || {
                let mut client = Client::connect(port);
                // Refused when the server has become a replica.
                (1..).take_while(|_| !client.cmd(&["INCR", "counter"]).is_error()).count()
            });
            thread::sleep(Duration::from_millis(200));
            let to = replica.port().to_string();
            primary.client().ok(&["FAILOVER", "TO", "127.0.0.1", &to, "TIMEOUT", "10000"]);
            writing.join().unwrap()
        });
        let over = || {
            replica.info("role") == "master"
                && synced(&primary)
                && primary.info("master_failover_state") == "no-failover"
        };
        assert!(eventually(PATIENCE, over), "{}\n{}", primary.log(), replica.log());
        assert_eq!(replica.client().ok(&["GET", "counter"]).int(), acknowledged as i64);
        replica.client().ok(&["SET", "after", "failover"]);
        let same = || primary.info("master_repl_offset") == replica.info("master_repl_offset");
        assert!(eventually(PATIENCE, same), "the old primary does not follow");
        assert_same_data(&mut primary.client(), &mut replica.client());
        assert_eq!(primary.info("sync_full"), full);
        assert_eq!(replica.info("sync_full"), "0", "the old primary needed a full sync");
    }
}

/// The target of a failover refuses, somewhere in the handshake. The primary is the primary again at
/// once, and not only when it has waited for long enough: what it held back meanwhile is executed.
#[test]
fn a_failover_that_is_refused_ends_at_once() {
    for (step, error) in [
        ("PING", "ERR not for you"),
        ("PING", "LOADING Redis is loading the dataset in memory"),
        ("PING", "MASTERDOWN Link with MASTER is down"),
        ("AUTH", "WRONGPASS invalid username-password pair or user is disabled."),
        ("PSYNC", "NOAUTH Authentication required."),
        ("PSYNC", "ERR I am not the one"),
    ] {
        let primary = Server::varve().arg("--masterauth", "secret").start();
        let mut target = Puppet::of(&primary);
        let history = primary.info("master_replid");
        let writing = target.begin_failover(&primary);
        target.serve(|command| match command.starts_with(step) {
            true => Some(format!("-{error}")),
            false => Some("+OK".into()),
        });
        assert_eq!(writing.join().unwrap(), Value::ok(), "{step}: {error}");
        assert_eq!(primary.info("role"), "master");
        assert_eq!(state(&primary), "no-failover");
        assert_ne!(primary.info("master_replid"), history, "a target may have taken over the name");
        let log = primary.log();
        assert!(log.contains(&format!("FAILOVER aborted: the target refused: {error}")), "{log}");
    }
}

/// `REPLCONF` only tells what may be of use, and Redis goes on if it is refused. So it is the answer to
/// `PSYNC` that counts, and a link that breaks is no answer: the next one is.
#[test]
fn a_failover_survives_what_is_no_refusal() {
    for (step, answer) in [
        ("REPLCONF", Some("-ERR Unrecognized REPLCONF option")),
        ("PING", Some("-NOAUTH Authentication required.")),
        ("PING", None),
        ("REPLCONF", None),
        ("PSYNC", None),
    ] {
        let primary = start(Kind::Varve);
        let mut target = Puppet::of(&primary);
        let id = primary.info("master_replid");
        let writing = target.begin_failover(&primary);
        let answer = answer.map(String::from);
        if answer.is_none() {
            let asked = target.serve(|command| match command.starts_with(step) {
                true => None,
                false => Some("+OK".into()),
            });
            assert!(asked[asked.len() - 1].starts_with(step), "{asked:?}");
        }
        let mut over = false;
        let asked = target.serve(|command| match command {
            _ if command.starts_with("REPLCONF ACK") => None,
            _ if command.starts_with("PSYNC") && step == "PSYNC" && !over => {
                // It was asked before.
                over = true;
                Some("-ERR PSYNC FAILOVER can't be sent to a master.".into())
            }
            _ if command.starts_with("PSYNC") => Some(format!("+CONTINUE {id}")),
            _ if command.starts_with(step) && answer.is_some() => answer.clone(),
            _ => Some("+OK".into()),
        });
        let psync: Vec<&String> = asked.iter().filter(|c| c.starts_with("PSYNC")).collect();
        assert!(psync[0].ends_with(" FAILOVER"), "{asked:?}");
        assert_eq!(psync.len() - 1, over as usize, "{asked:?}");
        assert!(psync[1..].iter().all(|psync| !psync.ends_with(" FAILOVER")), "{asked:?}");
        let refused = writing.join().unwrap();
        assert!(format!("{refused:?}").contains("READONLY"), "{step} {answer:?}: {refused:?}");
        assert_eq!(primary.info("role"), "slave");
        assert_eq!(state(&primary), "no-failover");
    }
}

/// Between the request and its answer nobody here can know whether the target is a primary.
#[test]
fn a_target_that_was_asked_is_waited_for() {
    let primary = start(Kind::Varve);
    let mut target = Puppet::of(&primary);
    let id = primary.info("master_replid");
    let writing = target.begin_failover(&primary);
    let mut aborted = None;
    target.serve(|command| match command.split(' ').next() {
        Some("PSYNC") => {
            aborted = Some(primary.client().cmd(&["FAILOVER", "ABORT"]));
            Some(format!("+CONTINUE {id}"))
        }
        Some("REPLCONF") if command.contains("ACK") => None,
        _ => Some("+OK".into()),
    });
    let aborted = format!("{aborted:?}");
    assert!(aborted.contains("ERR The target was asked to take over"), "{aborted}");
    assert!(writing.join().unwrap().is_error());
    assert_eq!(primary.info("role"), "slave");
    assert_eq!(state(&primary), "no-failover");
}

/// The target took over and has less than its old primary, which is to have all of its data: however
/// long that takes, there are not two primaries meanwhile.
#[test]
fn a_failover_is_over_when_the_target_sends_its_data() {
    let primary = start(Kind::Varve);
    let mut target = Puppet::of(&primary);
    let id = primary.info("master_replid");
    let writing = target.begin_failover(&primary);
    thread::scope(|scope| {
        // The data never come.
        scope.spawn(|| {
            target.serve(|command| match command.starts_with("PSYNC") {
                true => Some(format!("+FULLRESYNC {id} 0")),
                false => Some("+OK".into()),
            })
        });
        let refused = writing.join().unwrap();
        assert!(format!("{refused:?}").contains("READONLY"), "{refused:?}");
        assert_eq!(primary.info("role"), "slave");
        drop(primary);
    });
}

/// While writes wait nothing else may change the data: the replica that is to take over would never
/// have it. An expired key is gone for who reads it, and memory is short for as long as it must.
#[test]
fn nothing_expires_or_is_evicted_while_writes_wait() {
    let ways: [(&[&str], &[&str]); 2] = [
        (&["FAILOVER", "TIMEOUT", "600000"], &["FAILOVER", "ABORT"]),
        (&["CLIENT", "PAUSE", "600000", "WRITE"], &["CLIENT", "UNPAUSE"]),
    ];
    for (how, end) in ways {
        let primary = Server::varve().arg("--maxmemory-policy", "allkeys-random").start();
        let _replica = Puppet::of(&primary);
        let mut client = primary.client();
        for i in 0..1000 {
            client.ok(&["SET", &format!("key:{i}"), "value"]);
        }
        client.ok(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
        for i in 0..100 {
            client.ok(&["SET", &format!("brief:{i}"), "value", "PX", "1"]);
        }
        a_moment();
        client.ok(how);
        client.ok(&["DEBUG", "SET-ACTIVE-EXPIRE", "1"]);
        a_moment();
        let offset = primary.info("master_repl_offset");
        client.ok(&["CONFIG", "SET", "maxmemory", "1"]);
        assert_eq!(client.ok(&["GET", "brief:1"]), Value::Nil);
        assert_eq!(client.ok(&["EXISTS", "brief:2"]).int(), 0);
        let writing = ask(&primary, &["SET", "key", "value"]);
        a_moment();
        assert_eq!(client.ok(&["GET", "key:1"]).text(), "value");
        assert_eq!(client.ok(&["DBSIZE"]).int(), 1100, "{how:?}");
        assert_eq!(primary.info("evicted_keys"), "0", "{how:?}");
        assert_eq!(primary.info("expired_keys"), "0", "{how:?}");
        assert_eq!(primary.info("master_repl_offset"), offset, "{how:?}");
        // Both are made up for.
        client.ok(end);
        let empty = || primary.client().ok(&["DBSIZE"]).int() == 0;
        assert!(eventually(PATIENCE, empty), "{how:?}: nothing goes afterwards");
        writing.join().unwrap();
    }
}

/// The transaction that `FAILOVER` is in is written after it: the target must have that as well.
#[test]
fn a_failover_in_a_transaction_hands_the_transaction_over() {
    let primary = start(Kind::Varve);
    let mut replica = Puppet::of(&primary);
    replica.acknowledge(&primary);
    let mut client = primary.client();
    client.ok(&["MULTI"]);
    client.ok(&["SET", "first", "1"]);
    client.ok(&["FAILOVER", "TO", "127.0.0.1", &replica.port]);
    client.ok(&["SET", "second", "2"]);
    assert_eq!(client.ok(&["EXEC"]).items(), vec![Value::ok(); 3]);
    a_moment();
    assert_eq!(state(&primary), "waiting-for-sync", "the target holds nothing of it");
    replica.acknowledge(&primary);
    assert!(eventually(PATIENCE, || state(&primary) == "failover-in-progress"));
}

/// A key is on its way to another server when the failover begins, and goes when that has it.
#[test]
fn a_failover_waits_for_a_migration() {
    let primary = start(Kind::Varve);
    let mut replica = Puppet::of(&primary);
    primary.client().ok(&["SET", "key", "value"]);
    let elsewhere = listen();
    let port = elsewhere.local_addr().unwrap().port().to_string();
    let migrating = ask(&primary, &["MIGRATE", "127.0.0.1", &port, "key", "0", "60000"]);
    let mut elsewhere = Client::accept(&elsewhere);
    elsewhere.recv();
    replica.acknowledge(&primary);
    primary.client().ok(&["FAILOVER", "TO", "127.0.0.1", &replica.port]);
    a_moment();
    assert_eq!(state(&primary), "waiting-for-sync", "the key's fate is open");
    elsewhere.send_raw(b"+OK\r\n");
    elsewhere.recv();
    elsewhere.send_raw(b"+OK\r\n");
    assert_eq!(migrating.join().unwrap(), Value::ok());
    a_moment();
    assert_eq!(state(&primary), "waiting-for-sync", "the target does not know that the key went");
    replica.acknowledge(&primary);
    assert!(eventually(PATIENCE, || state(&primary) == "failover-in-progress"));
}

/// What a client may ask while a failover waits adds nothing to the log either.
#[test]
fn nothing_is_added_to_the_log_while_a_failover_waits() {
    let primary = Server::varve().arg("--repl-ping-replica-period", "1").start();
    let mut replica = Puppet::of(&primary);
    let mut client = primary.client();
    client.ok(&["SET", "key", "value"]);
    client.ok(&["FAILOVER", "TIMEOUT", "600000"]);
    a_moment();
    let offset = primary.number("master_repl_offset");
    assert_eq!(client.ok(&["WAIT", "1", "1"]).int(), 0);
    let publishing = ask(&primary, &["PUBLISH", "channel", "message"]);
    let popping = ask(&primary, &["BLPOP", "list", "0"]);
    replica.link.send_raw(b"SET key other\r\n");
    thread::sleep(Duration::from_millis(1500)); // in which a PING would be due
    assert_eq!(primary.client().ok(&["GET", "key"]).text(), "value", "a replica has written");
    assert_eq!(primary.number("master_repl_offset"), offset);
    primary.client().ok(&["FAILOVER", "ABORT"]);
    assert_eq!(publishing.join().unwrap().int(), 0);
    primary.client().ok(&["RPUSH", "list", "element"]);
    assert_eq!(popping.join().unwrap().byte_items()[1], b"element");
}

/// A client cannot let writes through that a failover holds: they would be lost with it.
#[test]
fn unpausing_clients_does_not_let_writes_into_a_failover() {
    let primary = start(Kind::Varve);
    let mut silent = primary.client();
    silent.ok(&["REPLCONF", "listening-port", "1"]);
    silent.send_raw(b"PSYNC ? -1\r\n");
    let online = || primary.info("slave0").contains("state=online");
    assert!(eventually(PATIENCE, online), "{}", primary.info("slave0"));
    primary.client().ok(&["SET", "before", "1"]); // which that replica never acknowledges
    primary.client().ok(&["FAILOVER", "TIMEOUT", "600000"]);
    let mut client = primary.client();
    client.ok(&["CLIENT", "PAUSE", "600000", "ALL"]);
    let port = primary.port();
    let writer = thread::spawn(move || Client::connect(port).cmd(&["INCR", "counter"]));
    let reader = thread::spawn(move || Client::connect(port).cmd(&["GET", "before"]));
    let held = || {
        let list = client.ok(&["CLIENT", "LIST"]).text();
        list.contains("cmd=incr") && list.contains("cmd=get")
    };
    assert!(eventually(PATIENCE, held));
    primary.client().ok(&["CLIENT", "UNPAUSE"]);
    assert_eq!(reader.join().unwrap().text(), "1", "reads go on");
    assert_eq!(primary.client().ok(&["EXISTS", "counter"]).int(), 0, "the write went through");
    primary.client().ok(&["FAILOVER", "ABORT"]);
    assert_eq!(writer.join().unwrap().int(), 1);
}

/// Two servers of which the second follows the first through a link that can be held up.
fn pair(kinds: [Kind; 2]) -> (Server, Proxy, Server) {
    let [primary, replica] = kinds.map(start);
    let link = Proxy::to(primary.port());
    follow(&replica, link.port());
    assert!(eventually(PATIENCE, || synced(&replica)), "the first sync did not end");
    // As long as it has not acknowledged, it is not online.
    primary.client().ok(&["SET", "first", "1"]);
    assert_eq!(primary.client().ok(&["WAIT", "1", "0"]).int(), 1);
    let everything = || primary.info("slave0").contains("state=online");
    assert!(eventually(PATIENCE, everything), "{}", primary.info("slave0"));
    (primary, link, replica)
}

fn hand_over(primary: &Server, to: &Server, rest: &[&str]) -> Value {
    let port = to.port().to_string();
    primary.client().cmd(&[&["FAILOVER", "TO", "127.0.0.1", &port], rest].concat())
}

/// The target knows the present name of the history only, also if nothing was written since the last
/// failover gave it.
#[test]
fn a_failover_follows_another_at_once() {
    for kinds in [[Kind::Varve, Kind::Varve], [Kind::Redis, Kind::Varve]] {
        let (one, _link, other) = pair(kinds);
        for (from, to) in [(&one, &other), (&other, &one), (&one, &other)] {
            assert!(!hand_over(from, to, &[]).is_error());
            assert!(eventually(PATIENCE, || is_over(from, to)), "{}", from.log());
        }
        assert_same_data(&mut one.client(), &mut other.client());
    }
}

/// Whether the two have changed places.
fn is_over(old: &Server, new: &Server) -> bool {
    new.info("role") == "master" && synced(old) && state(old) == "no-failover"
}

#[test]
fn a_failover_needs_a_replica_to_hand_over_to() {
    let primary = start(Kind::Varve);
    let mut client = primary.client();
    let mut error = |command: &[&str]| match client.cmd(command) {
        Value::Error(error) => error,
        reply => panic!("{command:?} answered {reply:?}"),
    };
    assert_eq!(error(&["FAILOVER"]), "ERR FAILOVER requires connected replicas.");
    assert_eq!(error(&["FAILOVER", "ABORT"]), "ERR No failover in progress.");
    let target = Puppet::of(&primary);
    let to = ["FAILOVER", "TO", "127.0.0.1"];
    assert_eq!(
        error(&[&to[..], &["1"]].concat()),
        "ERR FAILOVER target HOST and PORT is not a replica."
    );
    assert_eq!(
        error(&[&to[..], &[&target.port, "FORCE"]].concat()),
        "ERR FAILOVER with force option requires both a timeout and target HOST and IP."
    );
    assert_eq!(error(&["FAILOVER", "TIMEOUT", "0"]), "ERR FAILOVER timeout must be greater than 0");
    assert_eq!(state(&primary), "no-failover");
    assert_eq!(primary.client().ok(&["SET", "key", "value"]), Value::ok());
}

/// Who follows whom is not changed by anybody else meanwhile, and another failover has to wait.
#[test]
fn a_failover_that_waits_can_only_be_aborted() {
    let (primary, link, replica) = pair([Kind::Varve, Kind::Varve]);
    link.pause(true);
    primary.client().ok(&["SET", "key", "before"]);
    assert_eq!(hand_over(&primary, &replica, &[]), Value::ok());
    let writing = ask(&primary, &["SET", "key", "after"]);
    for command in [&["REPLICAOF", "NO", "ONE"], &["REPLICAOF", "127.0.0.1", "1"]] {
        let refused = primary.client().cmd(command);
        let expected = "ERR REPLICAOF not allowed while failing over.";
        assert_eq!(refused, Value::Error(expected.into()));
    }
    let again = hand_over(&primary, &replica, &[]);
    assert_eq!(again, Value::Error("ERR FAILOVER already in progress.".into()));
    assert_eq!(state(&primary), "waiting-for-sync");
    assert!(!writing.is_finished());
    assert_eq!(primary.client().ok(&["GET", "key"]).text(), "before");
    primary.client().ok(&["FAILOVER", "ABORT"]);
    assert_eq!(writing.join().unwrap(), Value::ok());
    assert_eq!(state(&primary), "no-failover");
    link.pause(false);
    caught_up(&primary, &replica);
    assert_eq!(primary.info("sync_full"), "1");
}

/// The replica does not catch up in time, and the primary stays what it is. It has lost nothing, and
/// neither has the replica when the link goes on.
#[test]
fn a_failover_that_times_out_changes_nothing() {
    let (primary, link, replica) = pair([Kind::Varve, Kind::Varve]);
    let history = primary.info("master_replid");
    link.pause(true);
    primary.client().ok(&["SET", "key", "before"]);
    assert_eq!(hand_over(&primary, &replica, &["TIMEOUT", "300"]), Value::ok());
    // Held until then, or sent after it.
    primary.client().ok(&["SET", "key", "after"]);
    assert_eq!(state(&primary), "no-failover");
    assert_eq!(primary.info("master_replid"), history, "nobody else was asked to take the name");
    link.pause(false);
    caught_up(&primary, &replica);
    assert_eq!(replica.client().ok(&["GET", "key"]).text(), "after");
    assert_eq!(primary.info("sync_full"), "1");
    assert!(primary.log().contains("FAILOVER aborted: no replica caught up in time"));
}

/// The operator would rather lose the last writes than wait. The target takes over with what it has,
/// and the old primary gives up what is in nobody's history: one is the primary, and not both.
#[test]
fn a_forced_failover_hands_over_to_a_replica_that_lags() {
    for kinds in
        [[Kind::Varve, Kind::Varve], [Kind::Varve, Kind::Redis], [Kind::Redis, Kind::Varve]]
    {
        let (primary, link, replica) = pair(kinds);
        link.pause(true);
        primary.client().ok(&["SET", "key", "lost"]);
        let reply = hand_over(&primary, &replica, &["FORCE", "TIMEOUT", "300"]);
        assert_eq!(reply, Value::ok());
        let over = || is_over(&primary, &replica);
        assert!(eventually(PATIENCE, over), "{}\n{}", primary.log(), replica.log());
        assert_eq!(replica.client().ok(&["EXISTS", "key"]).int(), 0);
        replica.client().ok(&["SET", "after", "failover"]);
        let same = || primary.info("master_repl_offset") == replica.info("master_repl_offset");
        assert!(eventually(PATIENCE, same), "the old primary does not follow");
        assert_same_data(&mut primary.client(), &mut replica.client());
        if kinds == [Kind::Varve, Kind::Varve] {
            assert_eq!(primary.log().matches("is asked to take over").count(), 1);
        }
    }
}

/// The target has a lot to take in before it can take over, over a link that is slow.
#[test]
fn a_failover_waits_for_a_replica_that_lags() {
    let (primary, link, replica) = pair([Kind::Varve, Kind::Varve]);
    link.throttle(1 << 20);
    let value = "x".repeat(10_000);
    let mut client = primary.client();
    for i in 0..300 {
        client.ok(&["SET", &format!("key:{i}"), &value]);
    }
    assert_eq!(hand_over(&primary, &replica, &[]), Value::ok());
    let writing = ask(&primary, &["SET", "key:0", "lost"]);
    let over = || is_over(&primary, &replica);
    assert!(eventually(PATIENCE, over), "{}\n{}", primary.log(), replica.log());
    assert!(writing.join().unwrap().is_error());
    assert_eq!(replica.client().ok(&["DBSIZE"]).int(), 301);
    assert_same_data(&mut primary.client(), &mut replica.client());
    assert_eq!(replica.info("sync_full"), "0", "the old primary needed a full sync");
}

/// The target has acknowledged everything and cannot be reached, or not for long enough. If it has left
/// altogether, nobody waits for it: it may come back without what it had acknowledged.
#[test]
fn a_target_that_dies_gives_the_primary_back_its_clients() {
    for (leaves, why) in [(false, "the target does not answer"), (true, "the target is gone")] {
        let primary = start(Kind::Varve);
        let mut target = Puppet::of(&primary);
        let history = primary.info("master_replid");
        let writing = target.begin_failover(&primary);
        let Puppet { link, listener, .. } = target;
        let kept = (!leaves).then_some(link);
        let asked = Client::accept(&listener);
        drop((listener, asked));
        assert_eq!(writing.join().unwrap(), Value::ok());
        drop(kept);
        assert_eq!(primary.info("role"), "master");
        assert_eq!(state(&primary), "no-failover");
        assert_ne!(primary.info("master_replid"), history, "a target may have taken over the name");
        let log = primary.log();
        assert!(log.contains(&format!("FAILOVER aborted: {why}")), "{log}");
        assert_eq!(primary.client().ok(&["GET", "held"]).text(), "2");
    }
}

/// Whatever waits for the end of the failover is told that the server is a replica now, with the words
/// that Redis has for it.
#[test]
fn what_waits_for_a_failover_is_answered_as_by_redis() {
    let answers = [Kind::Redis, Kind::Varve].map(|kind| {
        let (primary, link, replica) = pair([kind, Kind::Varve]);
        let popping = ask(&primary, &["BLPOP", "list", "0"]);
        let mut client = primary.client();
        for command in [&["MULTI"][..], &["GET", "key"], &["SET", "key", "after"]] {
            client.ok(command);
        }
        link.pause(true);
        primary.client().ok(&["SET", "key", "before"]);
        assert_eq!(hand_over(&primary, &replica, &[]), Value::ok());
        let writing = ask(&primary, &["SET", "key", "after"]);
        let publishing = ask(&primary, &["PUBLISH", "channel", "message"]);
        let popping_too = ask(&primary, &["BRPOP", "list", "0.001"]);
        let mut reading = primary.client();
        for command in [&["MULTI"][..], &["GET", "key"], &["EXISTS", "key"]] {
            reading.ok(command);
        }
        assert_eq!(reading.ok(&["EXEC"]).items().len(), 2, "a transaction that only reads waits");
        client.send_raw(b"EXEC\r\n");
        a_moment();
        assert_eq!(reading.ok(&["GET", "key"]).text(), "before");
        link.pause(false);
        let asked = [popping, writing, publishing, popping_too];
        let mut answers = asked.map(|asked| asked.join().unwrap()).to_vec();
        answers.push(client.recv());
        let over = || is_over(&primary, &replica);
        assert!(eventually(PATIENCE, over), "{}\n{}", primary.log(), replica.log());
        assert_eq!(replica.client().ok(&["GET", "key"]).text(), "before");
        answers
    });
    assert_eq!(answers[0], answers[1]);
}

/// Nothing was written since a promotion: a replica then asks under the name of before, and a newcomer
/// that is promoted next has to know it.
#[test]
fn a_newcomer_knows_the_names_of_before() {
    if Server::is_stand_in() {
        return;
    }
    let quiet = || Server::varve().arg("--repl-ping-replica-period", "3600");
    let first = quiet().start();
    first.client().ok(&["SET", "k", "v"]);
    let second = quiet().replica_of(first.port()).start();
    let replica = quiet().replica_of(first.port()).start();
    caught_up(&first, &second);
    caught_up(&first, &replica);
    second.client().ok(&["REPLICAOF", "NO", "ONE"]);
    replica.client().ok(&["REPLICAOF", "127.0.0.1", &second.port().to_string()]);
    let newcomer = quiet().replica_of(second.port()).start();
    caught_up(&second, &replica);
    caught_up(&second, &newcomer);
    newcomer.client().ok(&["REPLICAOF", "NO", "ONE"]);
    replica.client().ok(&["REPLICAOF", "127.0.0.1", &newcomer.port().to_string()]);
    caught_up(&newcomer, &replica);
    assert_eq!(newcomer.info("sync_full"), "0", "{}", newcomer.log());
    assert_eq!(newcomer.info("sync_partial_ok"), "1", "{}", newcomer.log());
}
