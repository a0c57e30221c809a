//! What clients are let do, and what they are told beside replies: limits before and after a password,
//! secrets, subscriptions, blocked clients, and how that is counted.

use crate::support::client::encode;
use crate::support::server::info;
use crate::support::{Client, Command, PATIENCE, Server, Value, caught_up, eventually};
use socket2::SockRef;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

/// So many random elements that they would take 140 MB.
const MANY: &str = "-20000000";

fn blocked(server: &Server, clients: &str) {
    assert!(eventually(PATIENCE, || server.info("blocked_clients") == clients));
}

/// Whoever may read the slow log or `MONITOR` would have learnt every password.
#[test]
fn secrets_are_shown_neither_by_monitor_nor_by_the_slow_log() {
    let server = Server::varve().arg("--requirepass", "hush").start();
    let mut monitor = server.client();
    monitor.ok(&["AUTH", "hush"]);
    let mut client = server.client();
    client.ok(&["AUTH", "hush"]);
    client.ok(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    monitor.ok(&["MONITOR"]);
    client.ok(&["AUTH", "hush"]);
    client.ok(&["AUTH", "default", "hush"]);
    client.ok(&["HELLO", "2", "AUTH", "default", "hush", "SETNAME", "me"]);
    client.cmd(&["AUTH", "hush-hush"]);
    client.ok(&["CONFIG", "SET", "masterauth", "hush", "maxmemory-samples", "6"]);
    client.ok(&["MIGRATE", "127.0.0.1", "1", "none", "0", "10", "AUTH", "hush"]);
    client.ok(&["MIGRATE", "127.0.0.1", "1", "none", "0", "10", "AUTH2", "hush", "hush"]);
    client.ok(&["MULTI"]);
    client.ok(&["AUTH", "hush"]);
    client.ok(&["EXEC"]);
    client.ok(&["ECHO", "seen"]);
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|line: &String| line.contains("\"seen\"")) {
        seen.push(monitor.recv().text());
    }
    let slow = format!("{:?}", client.ok(&["SLOWLOG", "GET", "-1"]));
    assert!(!slow.contains("hush"), "{slow}");
    assert!(slow.contains("masterauth") && slow.contains("maxmemory-samples"), "{slow}");
    let seen = seen.join("\n");
    assert!(!seen.contains("hush"), "{seen}");
    for shown in [
        "\"AUTH\" \"(redacted)\"\n",
        "\"AUTH\" \"(redacted)\" \"(redacted)\"\n",
        "\"HELLO\" \"2\" \"AUTH\" \"(redacted)\" \"(redacted)\" \"SETNAME\" \"me\"\n",
        "\"0\" \"10\" \"AUTH\" \"(redacted)\"\n",
        "\"0\" \"10\" \"AUTH2\" \"(redacted)\" \"(redacted)\"\n",
    ] {
        assert!(seen.contains(shown), "{shown} is not in {seen}");
    }
}

/// The slow log had them when they came, whether anybody ever served them or not.
#[test]
fn the_slow_log_has_a_blocking_command_once_it_is_served() {
    for server in [Server::start(), Server::redis().start()] {
        let mut client = server.client();
        client.ok(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
        let mut waiting = server.client();
        waiting.send_raw(b"BLPOP l 0\r\n");
        blocked(&server, "1");
        let slow = format!("{:?}", client.ok(&["SLOWLOG", "GET", "-1"]));
        assert!(!slow.contains("BLPOP"), "{slow}");
        client.ok(&["RPUSH", "l", "a"]);
        waiting.recv();
        let slow = format!("{:?}", client.ok(&["SLOWLOG", "GET", "-1"]));
        assert_eq!(slow.matches("BLPOP").count(), 1, "{slow}");
        waiting.ok(&["WAIT", "1", "1"]);
        let slow = format!("{:?}", client.ok(&["SLOWLOG", "GET", "-1"]));
        assert!(!slow.contains("WAIT"), "{slow}");
    }
}

/// A value that comes in an allocation of its own becomes the key's without a copy, whoever looks on.
#[test]
fn large_values_are_stored_and_shown() {
    let value = "x".repeat(1 << 20);
    for server in [Server::start(), Server::redis().start()] {
        let mut monitor = server.client();
        let mut client = server.client();
        client.ok(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
        monitor.ok(&["MONITOR"]);
        for key in ["plain", "queued"] {
            if key == "queued" {
                client.ok(&["MULTI"]);
            }
            client.ok(&["SET", key, &value]);
        }
        client.ok(&["EXEC"]);
        for key in ["plain", "queued"] {
            assert_eq!(client.ok(&["STRLEN", key]), Value::Int(1 << 20));
        }
        let shown = format!(" \"SET\" \"plain\" \"{value}\"");
        assert!(monitor.recv().text().ends_with(&shown));
        let slow = format!("{:?}", client.ok(&["SLOWLOG", "GET", "-1"]));
        let rest = format!("({} more bytes)", value.len() - 128);
        assert_eq!(slow.matches(&rest).count(), 2, "{slow}");
    }
}

/// Values that only clients' replies still hold are those clients' memory.
#[test]
fn who_keeps_long_values_that_are_gone_is_evicted() {
    for readers in [1, 2] {
        let server = Server::varve().arg("--maxmemory-clients", "20mb").start();
        let mut client = server.client();
        let mut late: Vec<Client> = (0..readers).map(|_| server.client()).collect();
        let evicted = || server.number("evicted_clients");
        for i in 0..40u64 {
            client.ok(&[b"SET", &b"k"[..], &[i as u8].repeat(1_000_000)]);
            let found = server.number("keyspace_hits");
            if evicted() == 0 {
                late.iter_mut().for_each(|late| _ = late.try_send_raw(b"GET k\r\n"));
            }
            let answered = || server.number("keyspace_hits") >= found + readers;
            assert!(eventually(PATIENCE, || answered() || evicted() > 0));
        }
        assert!(eventually(PATIENCE, || evicted() > 0), "40 MB of replies are nobody's");
    }
}

/// Names are short, but what remembers them is not: a limit that counted their bytes alone would let a client take
/// ten times as much.
#[test]
fn what_a_client_has_the_server_remember_counts_as_its_memory() {
    let server = Server::varve().arg("--save", "").start();
    for what in ["WATCH", "SUBSCRIBE", "PSUBSCRIBE", "CLIENT TRACKING ON BCAST PREFIX", "GET"] {
        let mut client = server.client();
        client.ok(&["HELLO", "3", "SETNAME", "holder"]);
        if what == "GET" {
            client.ok(&["MULTI"]);
        }
        let memory = |field: &str| -> f64 {
            let line = server.client().ok(&["CLIENT", "LIST"]).text();
            let held = line.lines().find(|line| line.contains("name=holder")).unwrap();
            let held = held.split(' ').find_map(|item| item.strip_prefix(field)).unwrap();
            held.parse().unwrap()
        };
        let used = || server.info("used_memory").parse::<f64>().unwrap();
        let normal = || server.number("mem_clients_normal") as f64;
        let (before, held_before, normal_before) = (used(), memory("tot-mem="), normal());
        for i in 0..4000 {
            let name = format!("{i:012}");
            let words: Vec<&str> = what.split(' ').chain([name.as_str()]).collect();
            client.ok(&words);
        }
        let (took, held) = (used() - before, memory("tot-mem=") - held_before);
        assert!(held > took / 2.0 && held < took * 2.0, "{what}: {held} of {took}");
        let normal = normal() - normal_before;
        assert!(normal > held * 0.9 && normal < held * 1.1, "{what}: {normal} of {held}");
    }
}

/// So does the command that it waits in, which is no longer in its buffers, and the names that it gave itself.
#[test]
fn what_a_client_waits_in_counts_as_its_memory() {
    let server = Server::varve().arg("--save", "").start();
    let long = "x".repeat(1_000_000);
    let keys: Vec<String> = (0..4000).map(|i| format!("{i:012}")).collect();
    let blpop: Vec<&str> =
        ["BLPOP"].into_iter().chain(keys.iter().map(String::as_str)).chain(["0"]).collect();
    let holders: [(&str, &[&str], f64); 3] = [
        ("blocked", &blpop, 400_000.0),
        ("named", &["CLIENT", "SETNAME", &long], 1_000_000.0),
        ("paused", &["SET", "k", &long], 1_000_000.0),
    ];
    for (what, command, least) in holders {
        let used = || server.info("used_memory").parse::<f64>().unwrap();
        let normal = || server.info("mem_clients_normal").parse::<f64>().unwrap();
        let mut client = server.client();
        client.ok(&["PING"]);
        if what == "paused" {
            server.client().ok(&["CLIENT", "PAUSE", "100000", "WRITE"]);
        }
        let (before, normal_before) = (used(), normal());
        let mut request = Vec::new();
        encode(&mut request, command);
        client.send_raw(&request);
        assert!(eventually(PATIENCE, || normal() - normal_before > least), "{what}: {}", normal());
        let (took, held) = (used() - before, normal() - normal_before);
        assert!(held > took / 2.0 && held < took * 2.0, "{what}: {held} of {took}");
    }
}

/// What many clients wait for or listen to is remembered once: counted for each as if it were alone, it would close
/// clients for memory that nobody uses, and leave less than nothing for data.
#[test]
fn what_clients_share_counts_once() {
    let server = Server::varve().arg("--save", "").start();
    let names: Vec<String> = (0..200).map(|i| format!("{i:012}")).collect();
    for what in ["WATCH", "SUBSCRIBE", "PSUBSCRIBE", "BLPOP"] {
        let number = |field| server.info(field).parse::<f64>().unwrap();
        let mut clients: Vec<Client> = (0..100).map(|_| server.client()).collect();
        clients.iter_mut().for_each(|client| _ = client.ok(&["PING"]));
        let (used, normal) = (number("used_memory"), number("mem_clients_normal"));
        let blocks = what == "BLPOP";
        let words = [what].into_iter().chain(names.iter().map(String::as_str));
        let words: Vec<&str> = words.chain(blocks.then_some("0")).collect();
        let mut request = Vec::new();
        encode(&mut request, &words);
        for client in &mut clients {
            client.send_raw(&request);
            for _ in 0..if blocks {
                0
            } else if what == "WATCH" {
                1
            } else {
                names.len()
            } {
                client.recv();
            }
        }
        if blocks {
            blocked(&server, "100");
        }
        let (took, held) = (number("used_memory") - used, number("mem_clients_normal") - normal);
        assert!(held > took / 2.0 && held < took * 1.5, "{what}: {held} of {took}");
        let sum = number("used_memory_overhead") + number("used_memory_dataset");
        assert!((sum - number("used_memory")).abs() < 100_000.0, "{sum}");
        drop(clients);
        assert!(eventually(PATIENCE, || server.info("connected_clients") == "1"));
    }
}

/// The tables of what clients watch, wait for and listen to kept the size of their peak.
#[test]
fn what_nobody_watches_waits_for_or_listens_to_takes_no_memory() {
    let server = Server::start();
    let keys: Vec<String> = (0..200_000).map(|i| format!("key:{i}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    for (command, ends) in [("WATCH", "UNWATCH"), ("BLPOP", "PING"), ("SUBSCRIBE", "PING")] {
        let before = server.number("used_memory");
        let mut client = server.client();
        let mut request = [&[command][..], &keys].concat();
        if command == "BLPOP" {
            request.push("0.1");
        }
        client.ok(&request);
        client.ok(&[ends]);
        drop(client);
        let is_back = || server.number("used_memory") < before + (4 << 20);
        assert!(
            eventually(PATIENCE, is_back),
            "{command}: {} of {before}",
            server.number("used_memory")
        );
    }
}

/// In whatever words a long value came, the log and replicas have it whole.
#[test]
fn long_values_are_logged_whole() {
    let mut primary = Server::start();
    let replica = Server::varve().replica_of(primary.port()).start();
    let mut client = primary.client();
    let value = |i: u8| [i].repeat(100_000 + i as usize);
    let (one, two) = (value(1), value(2));
    let text: fn(&'static str) -> &'static [u8] = str::as_bytes;
    let sets: Vec<Vec<&[u8]>> = vec![
        vec![text("SET"), text("{}"), &one],
        vec![text("SET"), text("{}"), &one, text("EX"), text("1000")],
        vec![text("SETEX"), text("{}"), text("1000"), &one],
        vec![text("PSETEX"), text("{}"), text("1000000"), &one],
        vec![text("GETSET"), text("{}"), &one],
        vec![text("SETNX"), text("{}"), &one],
        vec![text("MSET"), text("other"), &two, text("{}"), &one],
        vec![text("APPEND"), text("{}"), &one],
        vec![text("RPUSH"), text("list"), &one, &two, text("{}")],
    ];
    for queued in [false, true] {
        for (i, set) in sets.iter().enumerate() {
            let key = format!("{i}:{queued}");
            let words: Vec<&[u8]> =
                set.iter().map(|word| if *word == b"{}" { key.as_bytes() } else { word }).collect();
            if queued {
                client.ok(&["MULTI"]);
                client.ok(&["SET", "before", "x"]);
            }
            client.ok(&words);
            if queued {
                client.ok(&["EXEC"]);
            }
        }
    }
    caught_up(&primary, &replica);
    let check = |client: &mut Client| {
        for i in 0..sets.len() - 1 {
            for queued in [false, true] {
                let got = client.ok(&["GET", &format!("{i}:{queued}")]);
                assert!(got == Value::Bulk(one.clone()), "{i} {queued}");
            }
        }
        assert!(client.ok(&["GET", "other"]) == Value::Bulk(two.clone()));
        assert!(client.ok(&["LINDEX", "list", "-2"]) == Value::Bulk(two.clone()));
    };
    check(&mut replica.client());
    primary.kill9();
    primary.restart();
    check(&mut primary.client());
}

/// A long value is sent from where the key has it, and stays what it was when it was asked for.
#[test]
fn a_long_reply_that_waits_takes_no_memory_and_does_not_change() {
    const COUNT: u64 = 200;
    for threads in ["1", "3"] {
        let server = Server::varve().arg("--io-threads", threads).start();
        let mut client = server.client();
        let value: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        client.ok(&[b"SET", &b"k"[..], &value]);
        let before = server.number("used_memory");
        let mut late = server.client();
        let mut asked = Vec::new();
        for _ in 0..COUNT {
            encode(&mut asked, &["GET", "k"]);
            encode(&mut asked, &["GETRANGE", "k", "1000", "-1000"]);
        }
        late.send_raw(&asked);
        let asked_for = || server.number("total_commands_processed") > 2 * COUNT;
        assert!(eventually(PATIENCE, asked_for));
        let held = server.number("used_memory") - before;
        assert!(held < 4_000_000, "{held} bytes for replies");
        for edit in [
            &["SETRANGE", "k", "5", "other"][..],
            &["APPEND", "k", "more"],
            &["SETBIT", "k", "3", "1"],
            &["SET", "k", "short"],
        ] {
            client.ok(edit);
        }
        for _ in 0..COUNT {
            assert!(late.recv() == Value::Bulk(value.clone()), "a reply was changed");
            assert!(late.recv() == Value::Bulk(value[1000..=value.len() - 1000].to_vec()));
        }
        assert_eq!(late.ok(&["GET", "k"]).text(), "short");
        assert!(eventually(PATIENCE, || server.number("used_memory") < before), "the value stays");
    }
}

/// The limits on who has not shown the password stayed when it had been shown.
#[test]
fn the_password_lifts_the_limits_on_requests() {
    let server = Server::varve().arg("--requirepass", "secret").start();
    let long = "x".repeat(20_000);
    let many: Vec<String> = (0..20).map(|i| format!("key{i}")).collect();
    let del: Vec<&str> = ["DEL"].into_iter().chain(many.iter().map(String::as_str)).collect();
    for login in [&["AUTH", "secret"][..], &["HELLO", "2", "AUTH", "default", "secret"]] {
        let mut client = server.client();
        client.ok(login);
        client.ok(&["SET", "k", &long]);
        client.ok(&del);
        // At once, in one piece: what follows was not parsed by the old limits.
        let mut client = server.client();
        let mut request = Vec::new();
        encode(&mut request, login);
        encode(&mut request, &["SET", "k", &long]);
        encode(&mut request, &del);
        client.send_raw(&request);
        for _ in 0..3 {
            let reply = client.recv();
            assert!(!reply.is_error(), "{reply:?}");
        }
    }
    let mut client = server.client();
    client.ok(&["AUTH", "secret"]);
    client.ok(&["RESET"]);
    client.send_raw(b"*1000\r\n");
    assert_eq!(
        client.recv(),
        Value::Error("ERR Protocol error: unauthenticated multibulk length".into())
    );
}

#[test]
fn who_has_not_shown_the_password_has_no_replies_kept() {
    let server = Server::varve().arg("--requirepass", "secret").start();
    let mut client = server.client();
    let mut requests = Vec::new();
    (0..10_000).for_each(|_| encode(&mut requests, &["GET", "k"]));
    let sent = (0..1000).try_for_each(|_| client.try_send_raw(&requests));
    let error = sent.expect_err("hundreds of MB of replies wait for somebody unknown");
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    let mut client = server.client();
    client.ok(&["AUTH", "secret"]);
    assert_eq!(crate::support::server::info(&mut client, "connected_clients"), "1");
}

/// A limit that is less than a reply was that reply's end, although it fits the socket.
#[test]
fn sixteen_kilobytes_of_replies_are_within_any_limit() {
    for server in [Server::start(), Server::redis().start()] {
        for (limit, len, fits) in [
            ("10 0 0", 1000, true),
            ("10 0 0", 16_000, true),
            ("10 0 0", 40_000, false),
            ("0 10 1000", 1 << 20, true),
            ("100000 0 0", 110_000, true),
            ("100000 0 0", 130_000, false),
        ] {
            let mut client = server.client();
            let value = format!("normal {limit}");
            client.ok(&["CONFIG", "SET", "client-output-buffer-limit", &value]);
            client.ok(&["SET", "k", &"x".repeat(len)]);
            let mut reader = server.client();
            let reply = reader.try_cmd(&["GET", "k"]).map(|value| value.bytes().len());
            assert_eq!(reply.ok(), fits.then_some(len), "{len} bytes with {value}");
        }
    }
}

/// One command, or one transaction, can ask for any amount: the limit was looked at when all of it was there.
#[test]
fn a_reply_past_the_limit_is_cut_while_it_is_made() {
    let server = Server::varve().arg("--client-output-buffer-limit", "normal 1mb 0 0").start();
    let mut client = server.client();
    client.ok(&["HSET", "h", "f", "v"]);
    client.ok(&["SADD", "s", "m"]);
    client.ok(&["ZADD", "z", "1", "m"]);
    client.ok(&["SET", "large", &"x".repeat(900_000)]);
    for command in
        [&["HRANDFIELD", "h", MANY][..], &["SRANDMEMBER", "s", MANY], &["ZRANDMEMBER", "z", MANY]]
    {
        let reply = server.client().try_cmd(command);
        assert!(reply.is_err(), "{command:?}: {reply:?}");
    }
    let mut transaction = server.client();
    transaction.ok(&["MULTI"]);
    (0..200).for_each(|_| assert_eq!(transaction.ok(&["GET", "large"]).text(), "QUEUED"));
    transaction.ok(&["SET", "done", "all"]);
    assert!(transaction.try_cmd(&["EXEC"]).is_err());
    assert_eq!(client.ok(&["GET", "done"]).text(), "all");
    assert_eq!(server.info("client_output_buffer_limit_disconnections"), "4");
    let peak = server.number("used_memory_peak");
    assert!(peak < 32 << 20, "{peak} bytes of memory");
    client
        .send_raw(b"CLIENT REPLY OFF\r\nHRANDFIELD h -9223372036854775807\r\nCLIENT REPLY ON\r\n");
    assert_eq!(client.recv(), Value::ok());
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_by_the_limit_of_its_class() {
    let server = Server::varve().arg("--client-output-buffer-limit", "pubsub 200000 0 0").start();
    let mut lazy = server.client();
    lazy.ok(&["CLIENT", "SETNAME", "lazy"]);
    lazy.ok(&["SUBSCRIBE", "news"]);
    let mut client = server.client();
    let text = "x".repeat(10_000);
    let gone = (0..3000).any(|_| client.ok(&["PUBLISH", "news", &text]).int() == 0);
    assert!(gone, "30 MB were published, and the limit is 200 kB");
    assert_eq!(server.info("client_output_buffer_limit_disconnections"), "1");
}

/// Nothing more is written to it: the limit must come to it, not it to the limit.
#[test]
fn a_lowered_limit_closes_who_is_past_it_already() {
    for limit in ["pubsub 200000 0 0", "pubsub 0 200000 1"] {
        let server = Server::varve().arg("--client-output-buffer-limit", "pubsub 0 0 0").start();
        let mut lazy = server.client();
        lazy.ok(&["SUBSCRIBE", "news"]);
        let mut client = server.client();
        let text = "x".repeat(1_000_000);
        (0..30).for_each(|_| assert_eq!(client.ok(&["PUBLISH", "news", &text]).int(), 1));
        client.ok(&["CONFIG", "SET", "client-output-buffer-limit", limit]);
        let gone = || server.info("client_output_buffer_limit_disconnections") == "1";
        assert!(eventually(PATIENCE, gone), "{limit}");
    }
}

#[test]
fn subscriptions_are_confirmed_where_replies_are_off() {
    let server = Server::start();
    for protocol in ["2", "3"] {
        let mut client = server.client();
        client.ok(&["HELLO", protocol]);
        client.send_raw(b"CLIENT REPLY OFF\r\nSUBSCRIBE a\r\nPSUBSCRIBE a*\r\n");
        for (word, name) in [("subscribe", "a"), ("psubscribe", "a*")] {
            let items = client.recv().items();
            assert_eq!((items[0].text(), items[1].text()), (word.into(), name.into()));
        }
        assert_eq!(server.client().ok(&["PUBLISH", "a", "x"]).int(), 2);
        assert_eq!(client.recv().items()[0].text(), "message");
        assert_eq!(client.recv().items()[0].text(), "pmessage");
        client.send_raw(b"UNSUBSCRIBE\r\n");
        assert_eq!(client.recv().items()[0].text(), "unsubscribe");
        if protocol == "3" {
            client.send_raw(b"PUBLISH abc to-myself\r\n");
            assert_eq!(client.recv().items()[0].text(), "pmessage");
        }
    }
}

#[test]
fn paused_clients_are_blocked_ones_and_unblocking_with_an_error_is_one() {
    let server = Server::start();
    let mut client = server.client();
    client.ok(&["CLIENT", "PAUSE", "100000", "WRITE"]);
    let mut writer = server.client();
    writer.send_raw(b"SET k v\r\n");
    blocked(&server, "1");
    client.ok(&["CLIENT", "UNPAUSE"]);
    assert_eq!(writer.recv(), Value::ok());
    blocked(&server, "0");
    let id = writer.ok(&["CLIENT", "ID"]).int().to_string();
    writer.send_raw(b"BLPOP list 0\r\n");
    blocked(&server, "1");
    client.ok(&["CLIENT", "UNBLOCK", &id, "ERROR"]);
    assert!(writer.recv().is_error());
    assert_eq!(server.info("errorstat_UNBLOCKED"), "count=1");
    assert_eq!(server.info("total_error_replies"), "1");
    let stats = server.info("cmdstat_blpop");
    assert!(stats.starts_with("calls=1,") && stats.ends_with("failed_calls=1"), "{stats}");
}

#[test]
fn a_failure_after_a_wait_counts_as_its_commands() {
    let server = Server::start();
    let (mut mover, mut pusher) = (server.client(), server.client());
    pusher.ok(&["SET", "text", "x"]);
    mover.send_raw(b"BLMOVE list text LEFT LEFT 0\r\n");
    blocked(&server, "1");
    pusher.ok(&["RPUSH", "list", "a"]);
    assert!(mover.recv().is_error());
    let stats = server.info("cmdstat_blmove");
    assert!(stats.starts_with("calls=1,") && stats.ends_with("failed_calls=1"), "{stats}");
}

/// A transaction that was queued while the link was up ran on old data after it was lost.
#[test]
fn exec_is_refused_on_stale_data_as_its_commands_are() {
    let server = Server::varve().arg("--replica-serve-stale-data", "no").start();
    let (mut reading, mut harmless) = (server.client(), server.client());
    reading.ok(&["MULTI"]);
    reading.ok(&["GET", "k"]);
    harmless.ok(&["MULTI"]);
    harmless.ok(&["PUBLISH", "news", "x"]);
    server.client().ok(&["REPLICAOF", "127.0.0.1", "1"]);
    let Value::Error(why) = reading.cmd(&["EXEC"]) else { panic!("it ran") };
    assert!(why.starts_with("EXECABORT") && why.contains("MASTERDOWN"), "{why}");
    harmless.ok(&["EXEC"]);
}

/// What a blocked client's command changes when it is served at last is seen at once.
#[test]
fn watchers_and_listeners_learn_what_a_served_client_changed() {
    let server = Server::varve().arg("--notify-keyspace-events", "El").start();
    let (mut watcher, mut mover, mut pusher) = (server.client(), server.client(), server.client());
    let mut listener = server.client();
    listener.ok(&["SUBSCRIBE", "__keyevent@0__:lpop"]);
    watcher.ok(&["WATCH", "to"]);
    watcher.ok(&["MULTI"]);
    watcher.ok(&["PING"]);
    mover.send_raw(b"BLMOVE from to LEFT RIGHT 0\r\n");
    blocked(&server, "1");
    pusher.ok(&["RPUSH", "from", "x"]);
    let happened = listener.recv().items();
    assert_eq!(happened[2].text(), "from");
    assert_eq!(mover.recv(), Value::bulk("x"));
    assert_eq!(watcher.ok(&["EXEC"]), Value::NilArray, "it watched `to`, which had changed");
}

/// As Redis has it: only a key that comes to be ends a wait.
#[test]
fn who_waits_for_a_key_is_not_served_what_overwrites_another_type() {
    let server = Server::start();
    let [mut popper, mut zpopper, mut client] = [(); 3].map(|()| server.client());
    popper.send_raw(b"BLPOP k 0\r\n");
    blocked(&server, "1");
    zpopper.send_raw(b"BZPOPMIN k 0\r\n");
    blocked(&server, "2");
    client.ok(&["RPUSH", "list", "a"]);
    client.ok(&["ZADD", "zset", "1", "a"]);
    client.ok(&["SET", "k", "text"]);
    client.ok(&["SORT", "list", "ALPHA", "STORE", "k"]);
    client.ok(&["ZUNIONSTORE", "k", "1", "zset"]);
    assert_eq!(server.info("blocked_clients"), "2");
    assert_eq!(client.ok(&["TYPE", "k"]).text(), "zset");
    client.ok(&["RENAME", "list", "k"]);
    assert_eq!(popper.recv().items()[1], Value::bulk("a"));
    client.ok(&["COPY", "zset", "k"]);
    assert_eq!(zpopper.recv().items()[1], Value::bulk("a"));
}

#[test]
fn a_blocked_client_is_not_served_what_has_expired_meanwhile() {
    let server = Server::start();
    let (mut waiting, mut client) = (server.client(), server.client());
    waiting.send_raw(b"BLPOP k 0\r\n");
    blocked(&server, "1");
    client.ok(&["MULTI"]);
    client.ok(&["RPUSH", "k", "old"]);
    client.ok(&["PEXPIRE", "k", "20"]);
    client.ok(&["DEBUG", "SLEEP", "0.1"]);
    client.ok(&["EXEC"]);
    blocked(&server, "1");
    client.ok(&["DEL", "k"]);
    client.ok(&["RPUSH", "k", "new"]);
    assert_eq!(waiting.recv().items()[1], Value::bulk("new"));
}

#[test]
fn a_swap_of_expired_keys_changes_nothing_for_who_watches() {
    let server = Server::start();
    let (mut client, mut other) = (server.client(), server.client());
    client.ok(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    for old in [&["1"][..], &["0", "1"]] {
        client.ok(&["FLUSHALL"]);
        for db in old {
            client.ok(&["SELECT", db]);
            client.ok(&["SET", "k", "v", "PX", "1"]);
        }
        std::thread::sleep(Duration::from_millis(5));
        client.ok(&["SELECT", "0"]);
        client.ok(&["WATCH", "k"]);
        other.ok(&["SWAPDB", "0", "1"]);
        client.ok(&["MULTI"]);
        client.ok(&["PING"]);
        assert_ne!(client.ok(&["EXEC"]), Value::NilArray, "expired in {old:?}");
    }
}

/// Who has been told of a change is told no more of it, but of what changes after the next `WATCH`.
#[test]
fn a_watched_key_that_changes_again_and_again_fails_each_transaction_once() {
    let server = Server::start();
    let (mut client, mut other) = (server.client(), server.client());
    for _ in 0..3 {
        client.ok(&["WATCH", "k", "k", "l"]);
        other.ok(&["INCR", "k"]);
        client.ok(&["WATCH", "k", "m"]);
        other.ok(&["INCR", "k"]);
        client.ok(&["MULTI"]);
        client.ok(&["PING"]);
        assert_eq!(client.ok(&["EXEC"]), Value::NilArray);
        client.ok(&["WATCH", "k", "l"]);
        client.ok(&["MULTI"]);
        client.ok(&["PING"]);
        assert_ne!(client.ok(&["EXEC"]), Value::NilArray);
    }
}

/// The write was another client's, though it ran within the watching one's command.
#[test]
fn ending_a_pause_fails_the_own_transaction_if_what_was_held_writes_to_its_key() {
    let server = Server::start();
    let (mut client, mut writer) = (server.client(), server.client());
    client.ok(&["WATCH", "k"]);
    client.ok(&["CLIENT", "PAUSE", "100000", "WRITE"]);
    writer.send_raw(b"SET k v\r\n");
    blocked(&server, "1");
    client.ok(&["CLIENT", "UNPAUSE"]);
    client.ok(&["MULTI"]);
    client.ok(&["PING"]);
    assert_eq!(client.ok(&["EXEC"]), Value::NilArray);
}

#[test]
fn a_replica_counts_the_commands_that_its_primary_sends() {
    let primary = Server::start();
    let replica = Server::varve().replica_of(primary.port()).start();
    caught_up(&primary, &replica);
    for i in 0..3 {
        primary.client().ok(&["SET", "k", &i.to_string()]);
    }
    caught_up(&primary, &replica);
    let stats = replica.info("cmdstat_set");
    assert!(stats.starts_with("calls=3,"), "{stats}");
}

/// Nobody else deletes them: such keys stayed for ever.
#[test]
fn what_a_writable_replica_was_told_itself_expires_there() {
    let primary = Server::start();
    let replica =
        Server::varve().replica_of(primary.port()).arg("--replica-read-only", "no").start();
    let mut client = replica.client();
    primary.client().ok(&["SET", "of-the-primary", "v"]);
    caught_up(&primary, &replica);
    client.ok(&["SET", "own", "v", "PX", "50"]);
    client.ok(&["SET", "longer", "v", "PX", "50"]);
    client.ok(&["PEXPIRE", "longer", "1000000"]);
    client.ok(&["SADD", "set", "v"]);
    client.ok(&["PEXPIRE", "set", "50"]);
    assert!(eventually(PATIENCE, || client.ok(&["DBSIZE"]).int() == 2), "they stay");
    assert_eq!(replica.info("expired_keys"), "2");
    assert_eq!(replica.info("slave_expires_tracked_keys"), "1");
    assert_eq!(client.ok(&["EXISTS", "longer", "of-the-primary"]).int(), 2);
    // What the primary's clock has still to delete is hidden, and makes way for what is written.
    let mut at_primary = primary.client();
    at_primary.ok(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    let keys = ["counted", "appended", "renamed", "read"];
    for key in keys {
        at_primary.ok(&["SET", key, "5", "PX", "1"]);
    }
    assert!(eventually(PATIENCE, || client.ok(&["DBSIZE"]).int() == 6));
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(client.ok(&["GET", "read"]), Value::Nil);
    assert_eq!(client.ok(&["INCR", "counted"]).int(), 1);
    assert_eq!(client.ok(&["TTL", "counted"]).int(), -1);
    assert_eq!(client.ok(&["APPEND", "appended", "x"]).int(), 1);
    client.ok(&["RENAME", "longer", "renamed"]);
    assert_eq!(client.ok(&["DBSIZE"]).int(), 5, "nothing is there twice");
}

/// The key that had expired was hidden, and another one of its name put beside it.
#[test]
fn a_pause_that_begins_in_a_transaction_holds_what_comes_after_it() {
    let server = Server::start();
    let (mut client, mut waiting) = (server.client(), server.client());
    client.ok(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    client.ok(&["HSET", "h", "f", "old"]);
    client.ok(&["PEXPIRE", "h", "1"]);
    client.ok(&["SET", "k", "old", "PX", "1"]);
    waiting.send_raw(b"BLPOP l 0\r\n");
    blocked(&server, "1");
    std::thread::sleep(Duration::from_millis(5));
    client.ok(&["MULTI"]);
    client.ok(&["CLIENT", "PAUSE", "100000", "WRITE"]);
    client.ok(&["HSET", "h", "f", "new"]);
    client.ok(&["SET", "k", "new", "NX"]);
    client.ok(&["RPUSH", "l", "element"]);
    client.ok(&["EXEC"]);
    assert_eq!(client.ok(&["DBSIZE"]).int(), 3, "one is there twice, or was taken in the pause");
    assert_eq!(client.ok(&["TTL", "h"]).int(), -1);
    assert_eq!(client.ok(&["HGET", "h", "f"]), Value::bulk("new"));
    assert_eq!(client.ok(&["GET", "k"]), Value::bulk("new"));
    client.ok(&["CLIENT", "UNPAUSE"]);
    assert_eq!(waiting.recv(), Value::Array(vec![Value::bulk("l"), Value::bulk("element")]));
}

/// `SCAN` over expired keys was one transaction, however many there were.
#[test]
fn what_a_read_finds_expired_is_deleted_key_by_key() {
    let server = Server::start();
    let mut client = server.client();
    client.ok(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    client.ok(&["SET", "a", "v", "PX", "1"]);
    client.ok(&["SET", "b", "v", "PX", "1"]);
    std::thread::sleep(Duration::from_millis(5));
    let mut replica = server.client();
    replica.send_raw(b"PSYNC ? -1\r\n");
    assert!(eventually(PATIENCE, || server.info("slave0").contains("state=online")));
    client.ok(&["SCAN", "0"]);
    client.ok(&["SET", "end", "v"]);
    let stream = String::from_utf8_lossy(&replica.recv_until(b"end\r\n$1\r\nv\r\n")).into_owned();
    assert_eq!(stream.matches("DEL").count(), 2, "{stream}");
    assert!(!stream.contains("MULTI"), "{stream}");
}

/// It counted as online, and its old acknowledgements with it, until it would read.
#[test]
fn a_replica_that_reads_nothing_leaves_when_the_log_has_left_it_behind() {
    let server = Server::varve()
        .arg("--appendonly", "no")
        .arg("--repl-backlog-size", "16kb")
        .arg("--client-output-buffer-limit", "replica 1mb 0 0")
        .start();
    let mut replica = server.client();
    replica.send_raw(b"PSYNC ? -1\r\n");
    assert!(eventually(PATIENCE, || server.info("slave0").contains("state=online")));
    let mut client = server.client();
    let value = "x".repeat(100_000);
    // More than sockets hold.
    for _ in 0..300 {
        client.ok(&["SET", "key", &value]);
        let _ = replica.try_send_raw(b"REPLCONF ACK 1\r\n");
    }
    assert!(eventually(PATIENCE, || server.info("connected_slaves") == "0"), "{}", server.log());
    assert!(server.log().contains("fell behind the start of the log"), "{}", server.log());
}

#[test]
fn a_shutdown_that_waits_for_replicas_is_seen_and_may_be_aborted() {
    let server = Server::start();
    let mut replica = server.client();
    replica.send_raw(b"PSYNC ? -1\r\n");
    assert!(eventually(PATIENCE, || server.info("slave0").contains("state=online")));
    let mut client = server.client();
    client.ok(&["SET", "k", "v"]);
    assert_eq!(server.info("shutdown_in_milliseconds"), "");
    let mut waiting = [server.client(), server.client()];
    waiting.iter_mut().for_each(|client| client.send_raw(b"SHUTDOWN NOSAVE\r\n"));
    let left = || server.info("shutdown_in_milliseconds").parse::<u64>();
    assert!(eventually(PATIENCE, || left().is_ok_and(|ms| ms > 0)));
    blocked(&server, "2");
    client.ok(&["SHUTDOWN", "ABORT"]);
    // Both of them waited on for ever.
    for client in &mut waiting {
        assert!(client.recv().is_error());
    }
    assert_eq!(server.info("shutdown_in_milliseconds"), "");
}

/// Until a log that was just turned on has its first base, what was written is in no file.
#[test]
fn a_shutdown_waits_for_the_first_base_of_the_log() {
    let mut server = Server::varve().arg("--appendonly", "no").arg("--save", "").start();
    let mut client = server.client();
    for i in 0..100 {
        client.ok(&["SET", &format!("k{i}"), "v"]);
    }
    client.ok(&["CONFIG", "SET", "rdb-key-save-delay", "20000"]);
    client.ok(&["CONFIG", "SET", "appendonly", "yes"]);
    client.ok(&["SET", "last", "v"]);
    assert!(client.cmd(&["SHUTDOWN", "NOW"]).is_error());
    client.ok(&["SET", "last", "w"]);
    client.send_raw(b"SHUTDOWN\r\n");
    assert_eq!(server.wait_end().code(), Some(0));
    let server = Server::varve().in_dir(&server.dir()).start();
    assert_eq!(server.client().ok(&["GET", "last"]), Value::bulk("w"));
    assert_eq!(server.client().ok(&["DBSIZE"]), Value::Int(101));
}

/// `redis-cli shutdown && cp -r appendonlydir backup`: to whoever asks, the end of the connection is the
/// end of the work.
#[test]
fn a_shutdown_ends_the_connection_when_the_log_is_closed() {
    let server = Server::varve().arg("--appendonly", "yes").start();
    let mut client = server.client();
    client.ok(&["SET", "k", &"v".repeat(16 << 20)]);
    client.send_raw(b"SHUTDOWN NOSAVE\r\n");
    assert!(client.try_recv().is_err());
    let folder = server.dir().join("appendonlydir");
    assert!(!folder.join("appendonly.aof.pool").exists());
    let manifest = fs::read_to_string(folder.join("appendonly.aof.manifest")).unwrap();
    assert!(manifest.contains("\n# varve closed "), "{manifest}");
}

#[test]
fn exists_is_no_use_of_a_key() {
    let server = Server::start();
    let mut client = server.client();
    client.ok(&["SET", "k", "v"]);
    std::thread::sleep(Duration::from_millis(2100));
    client.ok(&["EXISTS", "k"]);
    client.ok(&["TTL", "k"]);
    assert!(client.ok(&["OBJECT", "IDLETIME", "k"]).int() >= 1);
    client.ok(&["TOUCH", "k"]);
    assert_eq!(client.ok(&["OBJECT", "IDLETIME", "k"]).int(), 0);
}

/// Without a log on disk, the last snapshot brought back after a crash what had been flushed.
#[test]
fn flushall_is_not_undone_by_a_crash() {
    let mut server =
        Server::varve().arg("--appendonly", "no").arg("--save", "3600 1000000").start();
    let mut client = server.client();
    client.ok(&["DEBUG", "POPULATE", "1000"]);
    client.ok(&["SAVE"]);
    client.ok(&["CONFIG", "SET", "rdb-key-save-delay", "10000"]);
    client.ok(&["BGSAVE"]);
    client.ok(&["CONFIG", "SET", "rdb-key-save-delay", "0"]);
    client.ok(&["FLUSHALL"]);
    let saved = || server.info("rdb_changes_since_last_save") == "0";
    assert!(eventually(Duration::from_secs(5), saved), "the old snapshot goes on");
    assert_eq!(server.info("rdb_last_bgsave_status"), "ok");
    server.kill9();
    server.restart();
    let mut client = server.client();
    assert_eq!(client.ok(&["DBSIZE"]).int(), 0);
    for save in ["SAVE", "BGSAVE"] {
        client.ok(&["FLUSHALL"]);
        client.ok(&[save]);
    }
}

/// A primary, and a replica that loads its full sync for some time, and does now, as this field of `INFO`
/// says.
fn slow_load(diskless_load: &str, field: &str) -> (Server, Server) {
    let primary = Server::start();
    primary.client().ok(&["DEBUG", "POPULATE", "300"]);
    let replica = Server::varve()
        .arg("--enable-protected-configs", "yes")
        .arg("--key-load-delay", "10000")
        .arg("--repl-diskless-load", diskless_load)
        .replica_of(primary.port())
        .start();
    assert!(eventually(PATIENCE, || replica.info(field) == "1"));
    (primary, replica)
}

/// Where files are must not change under a load, nor whether there is a log.
#[test]
fn what_a_load_depends_on_is_not_changed_meanwhile() {
    let (primary, server) = slow_load("disabled", "loading");
    let mut client = server.client();
    for (name, value) in [("dir", "/"), ("appendonly", "no"), ("repl-diskless-load", "swapdb")] {
        let Value::Error(why) = client.cmd(&["CONFIG", "SET", name, value]) else {
            panic!("{name} was set")
        };
        assert!(why.starts_with("LOADING"), "{why}");
    }
    client.ok(&["CONFIG", "SET", "key-load-delay", "0"]);
    caught_up(&primary, &server);
}

/// A snapshot would be of the old data, and there is a primary to follow already.
#[test]
fn what_depends_on_the_data_waits_while_new_ones_are_loaded_beside() {
    let (primary, server) = slow_load("swapdb", "async_loading");
    let mut client = server.client();
    assert_eq!(client.cmd(&["GET", "nosuch"]), Value::Nil);
    let commands = ["SAVE", "BGSAVE", "BGREWRITEAOF"];
    let replies = commands.map(|command| client.cmd(&[command]));
    let loading = |reply: &Value| matches!(reply, Value::Error(why) if why.starts_with("LOADING"));
    assert!(replies.iter().all(loading), "{replies:?}");
    client.ok(&["CONFIG", "SET", "key-load-delay", "0"]);
    caught_up(&primary, &server);
}

/// Eviction came between the commands of a transaction that lowered `maxmemory`.
#[test]
fn nothing_is_evicted_within_a_transaction() {
    let server = Server::varve().arg("--maxmemory-policy", "allkeys-lru").start();
    let mut client = server.client();
    client.ok(&["MULTI"]);
    client.ok(&["INCR", "x"]);
    client.ok(&["CONFIG", "SET", "maxmemory", "1"]);
    client.ok(&["GET", "x"]);
    assert_eq!(client.ok(&["EXEC"]).items()[2], Value::bulk("1"));
    assert!(eventually(PATIENCE, || client.ok(&["DBSIZE"]).int() == 0));
}

/// What was to be said of the evicted keys took so much memory that nearly all others went as well.
#[test]
fn eviction_takes_no_more_than_was_asked_for() {
    let server = Server::varve()
        .arg("--appendonly", "no")
        .arg("--maxmemory-policy", "allkeys-random")
        .arg("--notify-keyspace-events", "KEA")
        .start();
    let mut client = server.client();
    let room = 200 << 10;
    let limit = server.number("used_memory") - server.number("mem_replication_backlog") + room;
    client.ok(&["CONFIG", "SET", "maxmemory", &limit.to_string()]);
    let mut most = 0;
    for i in 0..6000 {
        client.ok(&["SETEX", &format!("key:{i}"), "10000", "x"]);
        let held = client.ok(&["DBSIZE"]).int();
        most = most.max(held);
        assert!(held > most / 2, "after {i} keys, {held} are left of {most}");
    }
    assert!(server.number("evicted_keys") > 0);
}

/// Until another thread had freed it, a large value that was evicted still counted: thousands of small keys went for
/// the same memory, and where there were none, writes were refused.
#[test]
fn what_is_being_freed_is_not_evicted_for_again() {
    let server = Server::varve()
        .arg("--appendonly", "no")
        .arg("--maxmemory-policy", "volatile-ttl")
        .arg("--lazyfree-lazy-eviction", "yes")
        .start();
    let mut client = server.client();
    let small: Vec<_> =
        (0..5000).map(|i| Command::new(&["SETEX", &format!("key:{i}"), "100000", "x"])).collect();
    client.pipeline(&small);
    // In a database of its own it is among the candidates, whatever the samples are.
    client.ok(&["SELECT", "1"]);
    for i in 0..500 {
        let members: Vec<_> = (0..1000).map(|j| format!("member:{}", i * 1000 + j)).collect();
        let mut add = vec!["SADD", "large"];
        add.extend(members.iter().map(String::as_str));
        client.ok(&add);
    }
    client.ok(&["EXPIRE", "large", "1000"]);
    let used = server.number("used_memory") - server.number("mem_not_counted_for_evict");
    let limit = (used - (2 << 20)).to_string();
    let commands = [
        Command::new(&["CONFIG", "SET", "maxmemory", &limit]),
        Command::new(&["SET", "lasting", "x"]),
    ];
    let replies = client.pipeline(&commands);
    assert!(replies.iter().all(|reply| !reply.is_error()), "{replies:?}");
    assert_eq!(client.ok(&["DBSIZE"]).int(), 1);
    assert_eq!(server.number("evicted_keys"), 1);
}

/// What the log's tail keeps for replicas is no data: with its list of places it was, and what of it is the
/// pool's was taken off what data there are, though it is not allocated.
#[test]
fn the_logs_tail_does_not_count_for_maxmemory_and_all_else_does() {
    for on_disk in ["no", "yes"] {
        let server = Server::varve()
            .arg("--appendonly", on_disk)
            .arg("--auto-aof-rewrite-percentage", "0")
            .arg("--repl-backlog-size", "64mb")
            .start();
        let mut client = server.client();
        let mut counted = |commands: usize| {
            let set = Command::new(&["SET", "key", &"v".repeat(1000)]);
            for _ in 0..commands / 100 {
                assert!(client.pipeline(&vec![set.clone(); 100]).iter().all(|r| !r.is_error()));
            }
            let mut number = |field| info(&mut client, field).parse::<u64>().unwrap();
            number("used_memory") - number("mem_not_counted_for_evict")
        };
        let before = counted(1000);
        let after = counted(60_000);
        assert!(before > 300_000, "appendonly {on_disk}: {before}");
        assert!(
            after.abs_diff(before) < 40_000,
            "appendonly {on_disk}: {before} before, {after} after"
        );
    }
}

/// What compresses history takes a megabyte for as long as it works, and data went for that: at each rewrite of the
/// log, half of what a small cache had.
#[test]
fn nothing_is_evicted_to_compress_history() {
    let server = Server::varve()
        .arg("--appendonly", "yes")
        .arg("--auto-aof-rewrite-percentage", "0")
        .arg("--maxmemory-policy", "allkeys-random")
        .start();
    let mut client = server.client();
    let keys: Vec<_> =
        (0..2000).map(|i| Command::new(&["SET", &format!("key:{i}"), &"v".repeat(500)])).collect();
    for _ in 0..30 {
        client.pipeline(&keys);
    }
    let used = server.number("used_memory") - server.number("mem_not_counted_for_evict");
    client.ok(&["CONFIG", "SET", "maxmemory", &(used + (500 << 10)).to_string()]);
    client.ok(&["BGREWRITEAOF"]);
    let compressed = || {
        let files = std::fs::read_dir(server.dir().join("appendonlydir")).unwrap();
        files.flatten().any(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            name.ends_with(".lz4") && !name.starts_with("temp_")
        })
    };
    let done = eventually(PATIENCE, || {
        client.ok(&["PING"]);
        compressed()
    });
    assert!(done);
    assert_eq!(server.number("evicted_keys"), 0);
}

/// The table of a million keys takes 13 MB, which are mapped: they counted nowhere.
#[test]
fn the_table_of_keys_counts_for_memory() {
    let server = Server::varve().arg("--appendonly", "no").start();
    let mut client = server.client();
    let mut used = || {
        let mut number = |field| info(&mut client, field).parse::<u64>().unwrap();
        number("used_memory") - number("mem_not_counted_for_evict")
    };
    let before = used();
    let keys = 1_000_000;
    server.client().ok(&["DEBUG", "POPULATE", &keys.to_string()]);
    let each = (used() - before) / keys;
    let told = |key| server.client().ok(&["MEMORY", "USAGE", key]).int();
    assert!(told("key:500000").abs_diff(each as i64) <= 2, "{each} bytes a key");
    // Its entry takes 30 bytes, and with the time 38: of the allocator 32, and 48.
    let lasting = told("key:5001");
    server.client().ok(&["EXPIRE", "key:5001", "10000"]);
    assert_eq!(told("key:5001") - lasting, 16 + 14, "the time, and a place in another table");
    server.client().ok(&["FLUSHALL", "SYNC"]);
    // Each command's times take 24 KB from its first use on.
    let left = used().saturating_sub(before);
    assert!(left < 1_000_000, "{left} bytes are left");
}

/// What the child encodes with stayed with its parent too, 9 MB that were never touched: a small server evicted
/// all its keys, and then refused every write.
#[test]
fn a_snapshot_evicts_nothing() {
    for on_disk in ["no", "yes"] {
        let server = Server::varve()
            .arg("--appendonly", on_disk)
            .arg("--maxmemory", "8mb")
            .arg("--maxmemory-policy", "allkeys-lru")
            .start();
        let mut client = server.client();
        for i in 0..100 {
            client.ok(&["SET", &format!("key:{i}"), &"v".repeat(10_000)]);
        }
        for how in ["BGSAVE", "BGREWRITEAOF"] {
            client.ok(&[how]);
            client.ok(&["SET", "another", "key"]);
            let busy = ["rdb_bgsave_in_progress", "aof_rewrite_in_progress"];
            assert!(eventually(PATIENCE, || busy.iter().all(|field| server.info(field) == "0")));
            client.ok(&["SET", "another", "key"]);
            assert_eq!(client.ok(&["DBSIZE"]).int(), 101, "appendonly {on_disk}: {how}");
        }
    }
}

/// A reply would have been taken for a part of the history.
#[test]
fn a_replica_that_asks_for_a_reply_is_disconnected() {
    let server = Server::start();
    for (request, word) in
        [("PING", "ping"), ("GET k", "get"), ("SLOWLOG GET", "slowlog|get"), ("NOSUCH", "NOSUCH")]
    {
        let mut replica = server.client();
        replica.send_raw(b"PSYNC ? -1\r\n");
        assert!(eventually(PATIENCE, || server.info("slave0").contains("state=online")));
        replica.send_raw(b"REPLCONF ACK 1\r\n");
        replica.send_raw(format!("{request}\r\n{request}\r\n").as_bytes());
        let stream = replica.recv_until(b"");
        let said: [&[u8]; 3] = [b"PONG", b"-ERR", b"*0"];
        assert!(!said.iter().any(|s| stream.windows(s.len()).any(|w| w == *s)), "{request}");
        let logged = format!("Replica generated a reply to command '{word}'");
        assert_eq!(server.log().matches(&logged).count(), 1, "{request}: what follows is not run");
        assert!(eventually(PATIENCE, || server.info("connected_slaves") == "0"));
    }
}

/// `DEBUG SET-SKIP-CHECKSUM-VALIDATION` lets tests hand in what is damaged by design.
#[test]
fn payloads_are_taken_without_a_checksum_where_that_is_told() {
    let server = Server::start();
    let mut client = server.client();
    client.ok(&["SET", "k", "v"]);
    let mut payload = client.ok(&["DUMP", "k"]).bytes().to_vec();
    *payload.last_mut().unwrap() ^= 1;
    let restore: [&[u8]; 4] = [b"RESTORE", b"copy", b"0", &payload];
    assert!(client.cmd(&restore).is_error());
    client.ok(&["DEBUG", "SET-SKIP-CHECKSUM-VALIDATION", "1"]);
    client.ok(&restore);
    assert_eq!(client.ok(&["GET", "copy"]), Value::bulk("v"));
}

/// Programs that sync as replicas do, and read no more of an RDB than its keys, took database 0.
#[test]
fn what_follows_a_snapshot_begins_with_a_select() {
    let server = Server::varve().arg("--appendonly", "no").start();
    let mut client = server.client();
    client.ok(&["SELECT", "9"]);
    client.ok(&["SET", "k", "v"]);
    let mut replica = server.client();
    replica.send_raw(b"SYNC\r\n");
    assert!(eventually(PATIENCE, || server.info("slave0").contains("state=online")));
    client.ok(&["SET", "last", "v"]);
    let stream = String::from_utf8_lossy(&replica.recv_until(b"last\r\n$1\r\nv\r\n")).into_owned();
    let select = "*2\r\n$6\r\nSELECT\r\n$1\r\n9\r\n*3\r\n$3\r\nSET\r\n$4\r\nlast";
    assert!(stream.contains(select), "{stream}");
}

/// `timeout` is for those from whom nothing comes and who take nothing, however long a request or a reply
/// is on its way.
#[test]
fn only_who_is_silent_is_closed_by_the_timeout() {
    let server = Server::varve().arg("--timeout", "1").start();
    let size = 48 << 20;
    server.client().ok(&["SET", "large", &"x".repeat(size)]);
    let mut silent = server.client();
    silent.ok(&["PING"]);
    let mut monitor = server.client();
    monitor.ok(&["MONITOR"]);
    let mut sender = server.client();
    let mut reader = server.client().sender();
    SockRef::from(&reader).set_recv_buffer_size(64 << 10).unwrap();
    reader.write_all(b"GET large\r\n").unwrap();
    let (mut taken, mut room) = (0, vec![0; 1 << 20]);
    let mut request = Vec::new();
    encode(&mut request, &["SET", "small", &"x".repeat(400)]);
    for piece in request.chunks(request.len() / 30) {
        sender.send_raw(piece);
        // The kernel tells of room for more only when a third of what it takes, some megabytes, is free.
        let upto = taken + (1 << 20);
        while taken < upto {
            match reader.read(&mut room[..upto - taken]).unwrap() {
                0 => panic!("closed after {taken} bytes"),
                n => taken += n,
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(sender.recv(), Value::ok());
    while taken < format!("${size}\r\n").len() + size + 2 {
        match reader.read(&mut room).unwrap() {
            0 => panic!("closed after {taken} bytes"),
            n => taken += n,
        }
    }
    assert!(silent.recv_until(b"").is_empty(), "it was closed");
    assert!(monitor.recv_raw().starts_with(b"+"), "a monitor only listens");
}

/// The last of a client's requests blocks, and the client has said that it sends no more.
#[test]
fn replies_before_a_blocking_command_reach_a_client_that_sends_no_more() {
    let server = Server::varve().arg("--appendfsync", "always").start();
    for last in ["BLPOP none 5", "WAIT 1 5000"] {
        for i in 0..10 {
            let mut client = server.client();
            client.send_raw(format!("SET key {i}\r\nGET key\r\n{last}\r\n").as_bytes());
            client.sender().shutdown(Shutdown::Write).unwrap();
            let got = client.recv_until(b"");
            assert_eq!(String::from_utf8_lossy(&got), format!("+OK\r\n$1\r\n{i}\r\n"));
        }
    }
    blocked(&server, "0");
}

/// A queue takes memory as values do.
#[test]
fn a_transaction_takes_nothing_more_when_memory_is_short() {
    let answers = [Server::start(), Server::redis().start()].map(|server| {
        let mut client = server.client();
        client.ok(&["CONFIG", "SET", "maxmemory", "1"]);
        let commands =
            ["WATCH a", "GET a", "MULTI", "GET a", "EXEC", "MULTI", "DISCARD", "UNWATCH", "MULTI"];
        let mut answers: Vec<Value> =
            commands.map(|command| client.cmd(&command.split(' ').collect::<Vec<_>>())).into();
        client.ok(&["RESET"]);
        answers.push(Value::bulk(server.info("errorstat_EXECABORT")));
        answers
    });
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0][3].is_error());
}

/// What was refused before it ran is not counted; what blocks and what a transaction holds is, once.
#[test]
fn commands_are_counted_as_by_redis() {
    let counts = [Server::start(), Server::redis().start()].map(|server| {
        // All but the questions, of which there may be any number.
        let count = || {
            let text = server.client().ok(&["INFO", "everything"]).text();
            let after = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
            let number = |text: &str| text.split(',').next().unwrap().parse::<i64>().unwrap();
            let asked = after("cmdstat_info:calls=").map_or(0, number);
            number(after("total_commands_processed:").unwrap()) - asked
        };
        let mut counts = vec![count()];
        let mut client = server.client();
        for command in ["NOSUCH", "GET", "SET k v", "LPUSH k x", "MULTI", "GET k", "EXEC", "EXEC"] {
            client.cmd(&command.split(' ').collect::<Vec<_>>());
            counts.push(count());
        }
        client.send_raw(b"BLPOP list 0\r\n");
        blocked(&server, "1");
        counts.push(count());
        server.client().ok(&["LPUSH", "list", "x"]);
        client.recv();
        counts.push(count());
        counts.iter().map(|count| count - counts[0]).collect::<Vec<_>>()
    });
    assert_eq!(counts[0], counts[1]);
}

/// A wait without end was none: its end overflowed, and lay in the past.
#[test]
fn a_wait_too_long_for_the_clock_is_refused() {
    let server = Server::varve().start();
    let mut client = server.client();
    let most = i64::MAX.to_string();
    for command in
        [&["WAIT", "2", &most][..], &["WAITAOF", "0", "2", &most], &["CLIENT", "PAUSE", &most]]
    {
        assert_eq!(client.cmd(command), Value::Error("ERR timeout is out of range".into()));
    }
}

/// What is instantaneous is of the last second and a half, in which things go on until it is seen.
#[test]
fn the_loop_and_the_replicas_traffic_are_counted() {
    let server = Server::varve().arg("--io-threads", "2").start();
    let replica =
        Server::varve().arg("--replicaof", &format!("127.0.0.1 {}", server.port())).start();
    let mut client = server.client();
    let number = |server: &Server, field: &str| server.info(field).parse::<f64>().unwrap_or(-1.0);
    let value = "x".repeat(10_000);
    let counted = eventually(PATIENCE, || {
        client.ok(&["SET", "key", &value]);
        number(&server, "instantaneous_output_repl_kbps") > 0.0
            && number(&replica, "instantaneous_input_repl_kbps") > 0.0
            && number(&server, "instantaneous_eventloop_cycles_per_sec") > 0.0
            && number(&server, "instantaneous_eventloop_duration_usec") > 0.0
    });
    assert!(counted, "{}", server.info("instantaneous_output_repl_kbps"));
    let [turns, commands] = ["eventloop_duration_sum", "eventloop_duration_cmd_sum"]
        .map(|field| number(&server, field));
    assert!(
        0.0 < commands && commands <= turns,
        "{commands} µs of commands in {turns} µs of turns"
    );
}

/// Somebody compares percentiles with those of yesterday: a command that takes a third longer is not
/// to be told as the same, or as twice as long.
#[test]
fn times_of_commands_are_told_to_two_digits() {
    for server in [Server::start(), Server::redis().start()] {
        let mut client = server.client();
        client.ok(&["CONFIG", "SET", "latency-tracking-info-percentiles", "0.5 50 99.9"]);
        client.ok(&["DEBUG", "SLEEP", "0.01"]);
        let stats = client.ok(&["INFO", "everything"]).text();
        let after = |start: &str| stats.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        let us: f64 =
            after("cmdstat_debug:calls=1,usec=").split(',').next().unwrap().parse().unwrap();
        let shown = after("latency_percentiles_usec_debug:");
        let told: f64 = shown.rsplit('=').next().unwrap().parse().unwrap();
        assert!((us..=us * 1.01).contains(&told), "{us} is told as {told}");
        assert_eq!(shown, format!("p0.5={told:.3},p50={told:.3},p99.9={told:.3}"));

        let histogram = client.ok(&["LATENCY", "HISTOGRAM", "debug"]).items();
        let of_debug = histogram.into_iter().nth(1).unwrap().items();
        assert_eq!(of_debug[..2], [Value::bulk("calls"), Value::Int(1)]);
        let bounds = of_debug.into_iter().nth(3).unwrap().items();
        // Powers of two ns, each with what is the same to two digits.
        let mut possible = (0..20).map(|k| 1024 << k).map(|ns: i64| (ns + ns / 128 - 1) / 1000);
        let bound = possible.find(|&bound| bound >= told as i64).unwrap();
        assert_eq!(bounds, [Value::Int(bound), Value::Int(1)]);

        client.ok(&["CONFIG", "SET", "latency-tracking", "no"]);
        client.ok(&["CONFIG", "RESETSTAT"]);
        client.ok(&["DEBUG", "SLEEP", "0"]);
        client.ok(&["CONFIG", "SET", "latency-tracking", "yes"]);
        assert!(client.ok(&["LATENCY", "HISTOGRAM", "debug"]).items().is_empty());
        assert_eq!(info(&mut client, "latency_percentiles_usec_debug"), "");
    }
}

/// It got the rest of the transaction's replies too, and what was published meanwhile.
#[test]
fn who_kills_itself_is_answered_no_further() {
    let server = Server::start();
    let mut client = server.client();
    client.ok(&["HELLO", "3"]);
    client.ok(&["SUBSCRIBE", "news"]);
    let id = client.ok(&["CLIENT", "ID"]).int().to_string();
    client.ok(&["MULTI"]);
    for command in [
        &["PING"][..],
        &["CLIENT", "KILL", "ID", &id, "SKIPME", "no"],
        &["SET", "k", "v"],
        &["PUBLISH", "news", "x"],
    ] {
        client.ok(command);
    }
    client.send_raw(b"EXEC\r\n");
    assert_eq!(client.recv_until(b""), b"*4\r\n+PONG\r\n:1\r\n");
    assert_eq!(server.client().ok(&["GET", "k"]), Value::bulk("v"), "the rest runs");
}

/// Until the end of the turn its connection was still there, and it was given what it waited for.
#[test]
fn who_was_killed_takes_nothing_along() {
    let server = Server::start();
    let (mut waiting, mut writer, mut client) = (server.client(), server.client(), server.client());
    let mut ids = [&mut waiting, &mut writer]
        .map(|client| client.ok(&["CLIENT", "ID"]).int().to_string())
        .into_iter();
    let mut kill = |then: &[&[&str]]| {
        let mut requests = Vec::new();
        encode(&mut requests, &["CLIENT", "KILL", "ID", &ids.next().unwrap()]);
        then.iter().for_each(|command| encode(&mut requests, command));
        client.send_raw(&requests);
        (0..=then.len()).map(|_| client.recv()).last().unwrap()
    };
    waiting.send_raw(b"BLPOP list 0\r\n");
    blocked(&server, "1");
    assert_eq!(kill(&[&["RPUSH", "list", "v"], &["LLEN", "list"]]), Value::Int(1));
    server.client().ok(&["CLIENT", "PAUSE", "100000", "WRITE"]);
    writer.send_raw(b"SET k v\r\n");
    blocked(&server, "1");
    assert_eq!(kill(&[&["CLIENT", "UNPAUSE"], &["EXISTS", "k"]]), Value::Int(0));
}

/// They ran within the transaction: it saw what others wrote meanwhile, and their blocking commands found
/// that they may not wait.
#[test]
fn what_a_pause_held_runs_behind_the_transaction_that_ends_it() {
    let server = Server::start();
    let (mut other, mut waiting, mut client) = (server.client(), server.client(), server.client());
    client.ok(&["CLIENT", "PAUSE", "100000", "WRITE"]);
    other.ok(&["MULTI"]);
    other.ok(&["CLIENT", "LIST"]);
    other.ok(&["SET", "k", "other"]);
    other.send_raw(b"EXEC\r\n");
    waiting.send_raw(b"BLPOP list 0\r\n");
    blocked(&server, "2");
    for command in [&["MULTI"][..], &["CLIENT", "UNPAUSE"], &["GET", "k"]] {
        client.ok(command);
    }
    assert_eq!(client.ok(&["EXEC"]).items()[1], Value::Nil);
    let done = other.recv().items();
    assert_eq!(done[1], Value::ok());
    let own = format!("addr=127.0.0.1:{} ", other.local_port());
    assert_eq!(done[0].text().matches(&own).count(), 1, "it lists itself once");
    blocked(&server, "1");
    client.ok(&["RPUSH", "list", "v"]);
    assert_eq!(waiting.recv(), Value::Array(["list", "v"].map(Value::bulk).to_vec()));
}

/// The login lifted the limits with the request after it, which they did not let through.
#[test]
fn a_login_that_a_pause_held_lifts_the_limits() {
    let server = Server::start();
    let mut client = server.client();
    client.ok(&["CONFIG", "SET", "requirepass", "secret"]);
    client.ok(&["CLIENT", "PAUSE", "100000", "ALL"]);
    let mut held = server.client();
    held.send_raw(b"AUTH secret\r\n");
    let is_held = || client.ok(&["CLIENT", "LIST"]).text().contains(" flags=b ");
    assert!(eventually(PATIENCE, is_held));
    client.ok(&["CLIENT", "UNPAUSE"]);
    assert_eq!(held.recv(), Value::ok());
    held.ok(&["SET", "k", &"x".repeat(20_000)]);
}

/// A client of RESP 3 may listen and write. Of the events of its own writes it heard nothing, and what
/// was published in a transaction stood among that one's replies.
#[test]
fn a_listener_hears_of_its_own_writes_behind_the_reply() {
    let server = Server::varve().arg("--notify-keyspace-events", "E$").start();
    let mut client = server.client();
    let message = |channel: &str, text: &str| ["message", channel, text].map(Value::bulk).to_vec();
    client.ok(&["HELLO", "3"]);
    client.ok(&["SUBSCRIBE", "__keyevent@0__:set"]);
    client.ok(&["SUBSCRIBE", "news"]);
    client.ok(&["SET", "k", "1"]);
    let set = || message("__keyevent@0__:set", "k");
    assert_eq!(client.recv(), Value::Push(set()));
    assert_eq!(client.ok(&["PUBLISH", "news", "x"]), Value::Int(1));
    assert_eq!(client.recv(), Value::Push(message("news", "x")));
    for protocol in ["3", "2"] {
        client.ok(&["RESET"]);
        client.ok(&["HELLO", protocol]);
        client.ok(&["MULTI"]);
        for command in [
            &["SUBSCRIBE", "__keyevent@0__:set"][..],
            &["SUBSCRIBE", "news"],
            &["SET", "k", "1"],
            &["PUBLISH", "news", "x"],
        ] {
            client.ok(command);
        }
        let done = client.ok(&["EXEC"]).items();
        assert_eq!(done[2..], [Value::ok(), Value::Int(1)]);
        assert_eq!([client.recv().items(), client.recv().items()], [set(), message("news", "x")]);
    }
}
