//! The story: an operator moves keys from one server to another while clients go on.

use crate::support::{Client, PATIENCE, Server, Value, eventually, listen};
use std::io::{Read, Write};
use std::thread;

fn migrate(source: &Server, port: u16, rest: &[&str]) -> Value {
    let port = port.to_string();
    let words = [&["MIGRATE", "127.0.0.1", &port], rest].concat();
    source.client().cmd(&words)
}

fn error(reply: Value) -> String {
    match reply {
        Value::Error(text) => text,
        other => panic!("{other:?} is no error"),
    }
}

/// The watch was told when the next command of anybody had run, which was too late for this `EXEC`.
#[test]
fn who_watches_a_key_that_goes_does_not_execute() {
    let (source, target) = (Server::start(), Server::start());
    let mut watching = source.client();
    watching.ok(&["SET", "k", "v"]);
    watching.ok(&["WATCH", "k"]);
    watching.ok(&["MULTI"]);
    watching.ok(&["SET", "other", "v"]);
    assert_eq!(migrate(&source, target.port(), &["k", "0", "5000"]), Value::ok());
    assert_eq!(watching.cmd(&["EXEC"]), Value::NilArray);
}

/// All types, with and without an expiry, between Varve and Redis and back.
#[test]
fn keys_go_to_another_server_and_back() {
    let (varve, redis) = (Server::start(), Server::redis().start());
    let mut here = varve.client();
    here.ok(&["SET", "string", "value"]);
    here.ok(&["RPUSH", "list", "a", "b"]);
    here.ok(&["HSET", "hash", "f", "v"]);
    here.ok(&["SADD", "set", "1", "x"]);
    here.ok(&["ZADD", "zset", "1.5", "m"]);
    let all = ["string", "list", "hash", "set", "zset"];
    let before = crate::support::dataset(&mut here);
    here.ok(&["PEXPIRE", "string", "10000000"]);
    let keys = [&["", "0", "5000", "KEYS"][..], &all, &["nosuch"]].concat();
    for (from, to) in [(&varve, &redis), (&redis, &varve)] {
        assert_eq!(migrate(from, to.port(), &keys), Value::Status("OK".into()));
        assert_eq!(from.client().ok(&["DBSIZE"]).int(), 0, "the keys are still there");
        assert_eq!(to.client().ok(&["DBSIZE"]).int(), 5);
        assert!(to.client().ok(&["PTTL", "string"]).int() > 9_000_000);
        assert_eq!(migrate(from, to.port(), &keys), Value::Status("NOKEY".into()));
    }
    here.ok(&["PERSIST", "string"]);
    assert!(crate::support::dataset(&mut here) == before);

    // What is there already stays, unless it is to be replaced.
    assert_eq!(
        migrate(&varve, redis.port(), &["list", "0", "5000", "COPY"]),
        Value::Status("OK".into())
    );
    let busy = error(migrate(&varve, redis.port(), &["list", "0", "5000"]));
    assert_eq!(
        busy,
        "ERR Target instance replied with error: BUSYKEY Target key name already exists."
    );
    assert_eq!(varve.client().ok(&["EXISTS", "list"]).int(), 1);
    migrate(&varve, redis.port(), &["list", "0", "5000", "REPLACE"]);
    assert_eq!(varve.client().ok(&["EXISTS", "list"]).int(), 0);
    let range = error(migrate(&varve, redis.port(), &["hash", "99", "5000"]));
    assert_eq!(range, "ERR Target instance replied with error: ERR DB index is out of range");
    redis.client().ok(&["CONFIG", "SET", "requirepass", "secret"]);
    let refused = error(migrate(&varve, redis.port(), &["hash", "0", "5000"]));
    assert!(refused.contains("NOAUTH"), "{refused}");
    migrate(&varve, redis.port(), &["hash", "0", "5000", "AUTH", "secret"]);
    assert_eq!(varve.client().ok(&["EXISTS", "hash"]).int(), 0);
}

/// The deletion is a write like any other: it is in the log, and survives a restart.
#[test]
fn what_has_gone_stays_away_after_a_restart() {
    let mut source = Server::varve().arg("--appendonly", "yes").start();
    let target = Server::start();
    source.client().ok(&["MSET", "goes", "1", "stays", "2"]);
    assert_eq!(migrate(&source, target.port(), &["goes", "0", "5000"]), Value::Status("OK".into()));
    source.kill9();
    source.restart();
    assert_eq!(
        source.client().ok(&["KEYS", "*"]),
        Value::Array(vec![Value::Bulk(b"stays".to_vec())])
    );
}

/// In a transaction the migration is over when the next command runs, and what it deletes is logged with the rest.
#[test]
fn a_transaction_waits_for_its_keys_to_go() {
    let mut source = Server::varve().arg("--appendonly", "yes").start();
    let target = Server::redis().start();
    let port = target.port().to_string();
    let nobody = listen().local_addr().unwrap().port().to_string();
    let mut client = source.client();
    client.ok(&["MULTI"]);
    for command in [
        &["SET", "goes", "new"][..],
        &["MIGRATE", "127.0.0.1", &port, "goes", "0", "5000"],
        &["EXISTS", "goes"],
        &["SET", "stays", "1"],
        &["MIGRATE", "127.0.0.1", &nobody, "stays", "0", "1000"],
        &["MIGRATE", "127.0.0.1", &port, "missing", "0", "1000"],
        &["INCR", "stays"],
    ] {
        assert_eq!(client.ok(command), Value::Status("QUEUED".into()));
    }
    let ok = || Value::Status("OK".into());
    assert_eq!(
        client.ok(&["EXEC"]),
        Value::Array(vec![
            ok(),
            ok(),
            Value::Int(0),
            ok(),
            Value::Error("IOERR error or timeout connecting to the client".into()),
            Value::Status("NOKEY".into()),
            Value::Int(2),
        ])
    );
    assert_eq!(target.client().ok(&["GET", "goes"]).text(), "new");
    client.ok(&["SET", "after", "1"]);
    source.kill9();
    source.restart();
    let mut client = source.client();
    assert_eq!(client.ok(&["EXISTS", "goes"]).int(), 0);
    assert_eq!(client.ok(&["GET", "stays"]).text(), "2");
    assert_eq!(client.ok(&["GET", "after"]).text(), "1");
}

/// The target takes its time. Reads go on, writes wait until the keys have gone or the target has failed,
/// and nothing is lost either way.
#[test]
fn writes_wait_for_a_slow_target_and_reads_do_not() {
    let source = Server::start();
    source.client().ok(&["SET", "key", "value"]);
    for answers in [true, false] {
        let target = listen();
        let port = target.local_addr().unwrap().port().to_string();
        let mut asking = source.client();
        asking.send_raw(format!("MIGRATE 127.0.0.1 {port} key 0 60000\r\n").as_bytes());
        let (mut peer, _) = target.accept().unwrap();
        let mut buf = [0; 4096];
        assert!(peer.read(&mut buf).unwrap() > 0);

        let mut reader = source.client();
        assert_eq!(reader.ok(&["GET", "key"]).text(), "value");
        let source_port = source.port();
        let writer = thread::spawn(move || Client::connect(source_port).cmd(&["INCR", "counter"]));
        let mut transaction = source.client();
        transaction.send_raw(b"MULTI\r\nINCR counter\r\nEXEC\r\n");
        assert_eq!(transaction.recv(), Value::Status("OK".into()));
        assert_eq!(transaction.recv(), Value::Status("QUEUED".into()));
        let waits = || {
            let list = reader.ok(&["CLIENT", "LIST"]).text();
            list.contains("cmd=incr") && list.contains("cmd=exec")
        };
        assert!(eventually(PATIENCE, waits));
        assert_eq!(source.client().ok(&["EXISTS", "counter"]).int(), 0);
        if answers {
            peer.write_all(b"+OK\r\n").unwrap();
            assert!(peer.read(&mut buf).unwrap() > 0);
            peer.write_all(b"+OK\r\n").unwrap();
            assert_eq!(asking.recv(), Value::Status("OK".into()));
        } else {
            drop(peer);
            assert_eq!(error(asking.recv()), "IOERR error or timeout reading from target instance");
        }
        let (one, other) = (writer.join().unwrap(), transaction.recv());
        let Value::Array(replies) = other else { panic!("{other:?}") };
        let mut counts = [one.int(), replies[0].int()];
        counts.sort_unstable();
        assert_eq!(counts, [1, 2]);
        let left = source.client().ok(&["EXISTS", "key"]).int();
        assert_eq!(left, if answers { 0 } else { 1 });
        source.client().ok(&["MSET", "key", "value"]);
        source.client().ok(&["DEL", "counter"]);
    }
    let nobody = error(migrate(&source, 1, &["key", "0", "1000"]));
    assert_eq!(nobody, "IOERR error or timeout connecting to the client");
    let no_port = error(source.client().cmd(&["MIGRATE", "localhost", "x", "key", "0", "1000"]));
    assert_eq!(no_port, "ERR value is not an integer or out of range");
    for wrong in [&["key", "0", "x"][..], &["key", "0", "1", "KEYS", "a"], &["", "0", "1", "FOO"]] {
        assert!(migrate(&source, 1, wrong).is_error(), "{wrong:?}");
    }
}
