//! Clients that cache: whatever changes a key, those who have read it hear of it, behind the reply that
//! they wait for and never amid it.

use crate::support::server::info;
use crate::support::{Client, PATIENCE, Server, Value, caught_up, eventually};

/// A client of RESP 3 that tracks.
fn tracking(server: &Server, options: &[&str]) -> Client {
    let mut client = server.client();
    client.ok(&["HELLO", "3"]);
    client.ok(&[&["CLIENT", "TRACKING", "ON"], options].concat());
    client
}

fn invalid(keys: &[&str]) -> Value {
    let keys = keys.iter().map(Value::bulk).collect();
    Value::Push(vec![Value::bulk("invalidate"), Value::Array(keys)])
}

fn all_invalid() -> Value {
    Value::Push(vec![Value::bulk("invalidate"), Value::Nil])
}

/// What a client has heard by now, beside its replies.
fn heard(client: &mut Client) -> Vec<Value> {
    client.send_raw(b"*2\r\n$4\r\nECHO\r\n$3\r\nend\r\n");
    let mut all = Vec::new();
    loop {
        match client.recv() {
            Value::Bulk(text) if text == b"end" => return all,
            other => all.push(other),
        }
    }
}

fn words(command: &str) -> Vec<&str> {
    command.split(' ').collect()
}

/// Commands in one line, their words between spaces.
fn run(client: &mut Client, commands: &[&str]) {
    commands.iter().for_each(|command| _ = client.ok(&words(command)));
}

#[test]
fn every_command_that_changes_a_key_is_told_to_those_who_read_it() {
    let server = Server::varve().arg("--enable-debug-command", "yes").start();
    let (mut reader, mut writer) = (tracking(&server, &[]), server.client());
    // What is there before, the change, and what is told of `a` and `b`, which were read.
    for row in [
        "SET a 1 | SET a 2 | a",
        "SET a 1 | GET a | ",
        "SET a 1 | SETNX a 2 | ",
        "SET a 1 | APPEND a x | a",
        "SET a 1 | INCR a | a",
        "SET a 1 | SETBIT a 0 1 | a",
        "SET a 1 | GETDEL a | a",
        "SET a 1 | DEL a b c | a",
        "SET a 1 | UNLINK a | a",
        "SET a 1 | EXPIRE a 100 | a",
        "SET a 1 | EXPIRE a -1 | a",
        "SET a 1 EX 100 | PERSIST a | a",
        "SET a 1 EX 100 | GETEX a PERSIST | a",
        "SET a 1 | MSET b 1 a 2 c 3 | b a",
        "SET a 1 | RENAME a b | a b",
        "SET a 1 | RENAMENX a b | a b",
        "SET a 1 | COPY a b | b",
        "SET a 1 | MOVE a 1 | a",
        "RPUSH a 1 2 3 | LPOP a | a",
        "RPUSH a 1 2 3 | LTRIM a 0 0 | a",
        "RPUSH a 1 2 3 | LMOVE a b LEFT LEFT | b a",
        "RPUSH a 2 1 | SORT a STORE b | b",
        "SADD a 1 2 | SADD a 1 | ",
        "SADD a 1 2 | SMOVE a b 1 | a b",
        "SADD a 1 2 | SUNIONSTORE b a | b",
        "SADD a 1 | SPOP a | a",
        "HSET a f v | HDEL a f | a",
        "ZADD a 1 m | ZADD a 2 m | a",
        "ZADD a 1 m | ZPOPMIN a | a",
        "ZADD a 1 m | ZRANGESTORE b a 0 -1 | b",
    ] {
        let Ok([before, change, told]) =
            <[&str; 3]>::try_from(row.split(" | ").collect::<Vec<_>>())
        else {
            panic!("{row}");
        };
        run(&mut writer, &["FLUSHALL", before]);
        heard(&mut reader);
        run(&mut reader, &["EXISTS a b"]);
        run(&mut writer, &[change]);
        let told = told.split_whitespace().map(|key| invalid(&[key])).collect::<Vec<_>>();
        assert_eq!(heard(&mut reader), told, "{row}");
    }
    let dump = |client: &mut Client| client.ok(&["DUMP", "a"]).bytes().to_vec();
    run(&mut writer, &["FLUSHALL", "SET a 1"]);
    heard(&mut reader);
    let payload = dump(&mut writer);
    run(&mut reader, &["GET a"]);
    writer.ok(&[&b"RESTORE"[..], b"a", b"0", &payload, b"REPLACE"]);
    assert_eq!(heard(&mut reader), [invalid(&["a"])]);
    // A key is told of once, and then has to be read again.
    run(&mut writer, &["SET a 3"]);
    assert_eq!(heard(&mut reader), []);
    for change in ["FLUSHALL", "FLUSHDB ASYNC", "SWAPDB 0 1", "DEBUG RELOAD"] {
        run(&mut reader, &["GET a"]);
        run(&mut writer, &[change]);
        assert_eq!(heard(&mut reader), [all_invalid()], "{change}");
        assert_eq!(server.info("tracking_total_keys"), "0");
    }
}

#[test]
fn keys_that_leave_by_themselves_are_told() {
    let server = Server::varve().arg("--enable-debug-command", "yes").start();
    let mut writer = server.client();
    // NOLOOP is no reason not to hear of what no command asked for.
    let mut reader = tracking(&server, &["NOLOOP"]);
    run(&mut reader, &["SET lone 1 PX 30", "GET lone"]);
    assert_eq!(reader.recv(), invalid(&["lone"]));
    run(&mut writer, &["DEBUG SET-ACTIVE-EXPIRE 0"]);
    run(&mut reader, &["SET met 1 PX 30", "GET met"]);
    assert!(eventually(PATIENCE, || writer.ok(&["GET", "met"]) == Value::Nil));
    assert_eq!(heard(&mut reader), [invalid(&["met"])]);
    run(&mut reader, &["SET own 1 PX 30", "GET own"]);
    let mut seen = Vec::new();
    while seen.is_empty() {
        seen = heard(&mut reader);
        reader.send_raw(b"*2\r\n$3\r\nGET\r\n$3\r\nown\r\n");
        let reply = reader.recv();
        assert!(
            reply == Value::Nil || reply == Value::bulk("1"),
            "a message before the reply: {reply:?}"
        );
    }
    assert_eq!(seen, [invalid(&["own"])]);
    // Evicted before the reader's own next command, which may make it anew, and told before its reply.
    run(&mut writer, &["CONFIG SET maxmemory-policy allkeys-random"]);
    run(&mut reader, &["SET cold 1", "GET cold", "CONFIG SET maxmemory 1"]);
    let told = heard(&mut reader);
    assert!(told.contains(&invalid(&["cold"])), "{told:?}");
}

/// What eviction tells waits in the clients' output, and would be the reason to evict the next key, until
/// nothing is left.
#[test]
fn eviction_is_not_fed_by_what_it_tells() {
    let server = Server::start();
    let mut writer = server.client();
    run(
        &mut writer,
        &["CONFIG SET maxmemory-policy allkeys-random maxmemory-eviction-tenacity 100"],
    );
    let keys: Vec<String> = (0..300).map(|i| format!("{i:0>1000}")).collect();
    let mut readers: Vec<Client> = (0..10).map(|_| tracking(&server, &[])).collect();
    for key in &keys {
        writer.ok(&["SET", key, "x"]);
        readers.iter_mut().for_each(|reader| _ = reader.ok(&["GET", key]));
    }
    let not_counted = info(&mut writer, "mem_not_counted_for_evict").parse::<u64>().unwrap();
    let mut limit = info(&mut writer, "used_memory").parse::<u64>().unwrap() - not_counted;
    while info(&mut writer, "evicted_keys") == "0" {
        limit -= 40_000;
        writer.ok(&["CONFIG", "SET", "maxmemory", &limit.to_string()]);
    }
    let left = writer.ok(&["DBSIZE"]).int();
    assert!((200..300).contains(&left), "{left} of 300 keys are left");
}

/// A message amid a transaction's replies would be taken for one of them.
#[test]
fn a_client_hears_of_its_own_changes_behind_its_reply() {
    let server = Server::start();
    let mut client = tracking(&server, &[]);
    run(
        &mut client,
        &["MSET a 1 b 2 c 3", "MGET a b c", "MULTI", "INCR a", "GET a", "DEL b", "MGET a b"],
    );
    let done = [Value::Int(2), Value::bulk("2"), Value::Int(1)].to_vec();
    let read = Value::Array(vec![Value::bulk("2"), Value::Nil]);
    assert_eq!(client.ok(&["EXEC"]), Value::Array([done, vec![read]].concat()));
    assert_eq!(heard(&mut client), [invalid(&["a"]), invalid(&["b"])]);
    // What the transaction read after its own changes is cached.
    run(&mut client, &["SET a 5"]);
    assert_eq!(heard(&mut client), [invalid(&["a"])]);
    run(&mut client, &["MULTI", "FLUSHALL", "GET c", "EXEC"]);
    assert_eq!(heard(&mut client), [all_invalid()]);
    run(&mut client, &["SET c 1"]);
    assert_eq!(heard(&mut client), [invalid(&["c"])]);
}

#[test]
fn a_blocked_client_is_told_behind_what_it_waited_for() {
    let server = Server::start();
    let (mut mover, mut deaf) = (tracking(&server, &[]), tracking(&server, &["NOLOOP"]));
    let mut pusher = server.client();
    for client in [&mut mover, &mut deaf] {
        run(client, &["LRANGE to 0 -1"]);
        client.send_raw(b"*6\r\n$6\r\nBLMOVE\r\n$4\r\nfrom\r\n$2\r\nto\r\n$4\r\nLEFT\r\n$4\r\nLEFT\r\n$1\r\n0\r\n");
        assert!(eventually(PATIENCE, || info(&mut pusher, "blocked_clients") == "1"));
        run(&mut pusher, &["RPUSH from x"]);
        assert_eq!(client.recv(), Value::bulk("x"));
    }
    assert_eq!(heard(&mut mover), [invalid(&["to"])]);
    // The move was its own, though the push was not; of the other's move it has heard before.
    assert_eq!(heard(&mut deaf), []);
}

#[test]
fn caching_is_said_for_one_command_or_one_transaction() {
    let server = Server::start();
    let mut writer = server.client();
    for (mode, word) in [("OPTIN", "YES"), ("OPTOUT", "NO")] {
        let mut client = tracking(&server, &[mode]);
        let caching = format!("CLIENT CACHING {word}");
        let keys = ["a", "b", "c", "d", "e", "f"];
        run(&mut client, &[&caching, "CLIENT ID", "GET a", "GET b"]);
        run(&mut client, &[&caching, "MULTI", "GET c", "GET d", "EXEC", "GET e"]);
        run(&mut client, &[&caching]);
        assert!(client.cmd(&["NOSUCH"]).is_error());
        run(&mut client, &["GET f"]);
        let set = keys.map(|key| format!("SET {key} 1"));
        run(&mut writer, &set.each_ref().map(|command| &command[..]));
        let said = ["a", "c", "d"];
        let told = keys.iter().filter(|key| said.contains(key) == (mode == "OPTIN"));
        assert_eq!(
            heard(&mut client),
            told.map(|key| invalid(&[key])).collect::<Vec<_>>(),
            "{mode}"
        );
    }
    let mut plain = tracking(&server, &[]);
    let refused = plain.cmd(&["CLIENT", "CACHING", "YES"]);
    let text = "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.";
    assert_eq!(refused, Value::Error(text.into()));
}

#[test]
fn prefixes_are_told_of_once_a_turn() {
    let server = Server::start();
    let mut writer = server.client();
    let mut all = tracking(&server, &["BCAST"]);
    let mut some = tracking(&server, &["BCAST", "NOLOOP", "PREFIX", "user:", "PREFIX", "item:"]);
    run(&mut writer, &["MSET user:1 a item:1 b other c user:2 d"]);
    assert_eq!(heard(&mut all), [invalid(&["item:1", "other", "user:1", "user:2"])]);
    assert_eq!(heard(&mut some), [invalid(&["item:1"]), invalid(&["user:1", "user:2"])]);
    // Of what it changed itself it hears nothing; another's change of the same turn it does.
    run(&mut some, &["SET user:1 x"]);
    assert_eq!(heard(&mut some), []);
    assert_eq!(heard(&mut all), [invalid(&["user:1"])]);
    assert_eq!(server.info("tracking_total_prefixes"), "3");
    assert_eq!(server.info("tracking_clients"), "2");
    drop((all, some));
    assert!(eventually(PATIENCE, || server.info("tracking_total_prefixes") == "0"));
    assert_eq!(server.info("tracking_clients"), "0");
}

#[test]
fn a_client_of_resp_2_is_told_by_another_connection() {
    let server = Server::start();
    let (mut client, mut ear, mut writer) = (server.client(), server.client(), server.client());
    let id = ear.ok(&["CLIENT", "ID"]).int().to_string();
    ear.ok(&["SUBSCRIBE", "__redis__:invalidate"]);
    client.ok(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id]);
    assert_eq!(client.ok(&["CLIENT", "GETREDIR"]).int().to_string(), id);
    let line = client.ok(&["CLIENT", "INFO"]).text();
    assert!(line.contains(" flags=t ") && line.contains(&format!(" redir={id} ")), "{line}");
    run(&mut client, &["GET a", "MGET b c"]);
    run(&mut writer, &["SET b 1", "FLUSHALL"]);
    let message = |what| {
        Value::Array(vec![Value::bulk("message"), Value::bulk("__redis__:invalidate"), what])
    };
    assert_eq!(ear.recv(), message(Value::Array(vec![Value::bulk("b")])));
    assert_eq!(ear.recv(), message(Value::Nil));
    // Without that connection, whoever speaks RESP 3 hears at least that.
    drop(ear);
    let listed = |client: &mut Client| client.ok(&["CLIENT", "LIST", "ID", &id]).text();
    assert!(eventually(PATIENCE, || listed(&mut writer).is_empty()));
    run(&mut client, &["HELLO 3", "GET a"]);
    run(&mut writer, &["SET a 1"]);
    let broken = vec![Value::bulk("tracking-redir-broken"), Value::Int(id.parse().unwrap())];
    assert_eq!(heard(&mut client), [Value::Push(broken)]);
    let line = client.ok(&["CLIENT", "INFO"]).text();
    assert!(line.contains(" flags=tR "), "{line}");
    run(&mut client, &["RESET"]);
    assert_eq!(client.ok(&["CLIENT", "GETREDIR"]), Value::Int(-1));
}

#[test]
fn the_table_keeps_to_its_limit_and_forgets_who_is_gone() {
    let server = Server::varve().arg("--tracking-table-max-keys", "100").start();
    let mut client = tracking(&server, &[]);
    let keys: Vec<String> = (0..250).map(|i| format!("key:{i}")).collect();
    let read = [vec!["MGET"], keys.iter().map(|key| &key[..]).collect()].concat();
    assert_eq!(client.ok(&read).items().len(), 250);
    // Of the keys that there was no room for it hears as if they had changed.
    let told = heard(&mut client);
    assert_eq!(told.len(), 150);
    assert_eq!(server.info("tracking_total_keys"), "100");
    client.ok(&["CONFIG", "SET", "tracking-table-max-keys", "10"]);
    assert_eq!(server.info("tracking_total_keys"), "10");
    client.ok(&["CONFIG", "SET", "tracking-table-max-keys", "0"]);
    let mut other = tracking(&server, &[]);
    other.ok(&["MGET", "key:1", "key:2"]);
    client.ok(&read);
    assert_eq!(server.info("tracking_total_items"), "252");
    drop(client);
    assert!(eventually(PATIENCE, || server.info("tracking_total_items") == "2"));
    assert_eq!(server.info("tracking_total_keys"), "2");
    drop(other);
    assert!(eventually(PATIENCE, || server.info("tracking_total_keys") == "0"));
}

#[test]
fn the_clients_of_a_replica_hear_what_its_primary_changes() {
    let start = || Server::varve().arg("--repl-diskless-sync-delay", "0");
    let primary = start().start();
    let mut writer = primary.client();
    run(&mut writer, &["SET a 1", "SET b 1"]);
    let replica = start().replica_of(primary.port()).start();
    caught_up(&primary, &replica);
    let (mut reader, mut fan) = (tracking(&replica, &[]), tracking(&replica, &["BCAST"]));
    run(&mut reader, &["MGET a b"]);
    run(&mut writer, &["SET a 2", "PEXPIRE b 50"]);
    assert_eq!(reader.recv(), invalid(&["a"]));
    assert_eq!(reader.recv(), invalid(&["b"]));
    run(&mut reader, &["GET b"]);
    assert_eq!(reader.recv(), invalid(&["b"]));
    let told: Vec<Value> = heard(&mut fan).into_iter().flat_map(|told| told.items()).collect();
    assert!(told.contains(&Value::Array(vec![Value::bulk("b")])), "{told:?}");
    run(&mut writer, &["FLUSHALL"]);
    assert_eq!(reader.recv(), all_invalid());
    // Other data come with a full sync.
    let other = start().start();
    run(&mut other.client(), &["SET c 1"]);
    replica.client().ok(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    assert_eq!(reader.recv(), all_invalid());
    caught_up(&other, &replica);
    assert_eq!(reader.ok(&["GET", "c"]), Value::bulk("1"));
}
