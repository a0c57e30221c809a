//! Redis's own tools against the server under test, and the files of each read by the other.

use crate::support::dataset::Dataset;
use crate::support::value::Bytes;
use crate::support::{
    Client, PATIENCE, Random, Server, Value, client::encode, dataset, env_number, eventually,
    first_difference,
};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Runs a tool to its end; its output, and whether it succeeded.
fn tool(program: &str, args: &[&str]) -> (String, bool) {
    let out: Output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = [out.stdout, out.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), out.status.success())
}

/// `redis-cli` with a server's port; it must succeed.
fn redis_cli(server: &Server, args: &[&str]) -> String {
    let port = server.port().to_string();
    let (text, success) = tool("redis-cli", &[&["-p", &port], args].concat());
    assert!(success, "redis-cli {args:?}: {text}");
    text
}

/// A tool that runs until it is stopped, its output read line by line.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn redis_cli(server: &Server, args: &[&str]) -> Running {
        let mut child = Command::new("redis-cli")
            .args(["-p", &server.port().to_string()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start redis-cli");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the tool goes on").expect("its output is text")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fills a server with every type in every encoding, with expiry times, in two databases.
fn fill(client: &mut Client, seed: u64) {
    let mut random = Random::new(seed);
    let mut commands = Vec::new();
    let mut add = |args: Vec<Vec<u8>>| commands.push(crate::support::Command(args));
    let word = |text: String| text.into_bytes();
    for db in [0, 3] {
        add(vec![b"SELECT".to_vec(), word(format!("{db}"))]);
        for i in 0..300 {
            let len = *random.pick(&[0, 3, 44, 45, 63, 64, 1000, 20_000]);
            add(vec![b"SET".to_vec(), word(format!("string:{i}")), random.bytes(len)]);
            let number = random.next() as i64 >> random.below(64);
            add(vec![b"SET".to_vec(), word(format!("int:{i}")), word(number.to_string())]);
        }
        // Compressible: RDB writes such strings by LZF.
        add(vec![b"SET".to_vec(), b"repeated".to_vec(), b"abc".repeat(5000)]);
        add(vec![b"SET".to_vec(), random.bytes(300), b"binary key".to_vec()]);
        for size in [1, 20, 127, 128, 129, 513, 3000] {
            for i in 0..size {
                let long = random.below(200) == 0 && size > 20;
                let text = if long { random.bytes(100) } else { word(format!("m{i}")) };
                let key = |kind: &str| word(format!("{kind}:{size}"));
                add(vec![b"RPUSH".to_vec(), key("list"), text.clone()]);
                add(vec![b"SADD".to_vec(), key("set"), text.clone()]);
                add(vec![b"HSET".to_vec(), key("hash"), text.clone(), word(format!("v{i}"))]);
                let score = random.between(-1000, 1000) as f64 / 16.0;
                add(vec![b"ZADD".to_vec(), key("zset"), word(format!("{score}")), text]);
                let wide = random.next() as i64 >> random.below(64);
                add(vec![b"SADD".to_vec(), key("intset"), word(wide.to_string())]);
                add(vec![b"SADD".to_vec(), key("small-intset"), word(i.to_string())]);
                add(vec![b"RPUSH".to_vec(), key("int-list"), word(wide.to_string())]);
            }
        }
        let edges = ["inf", "-inf", "0.1", "1e300", "-0", "5e-324", "3.141592653589793"];
        for (i, score) in edges.iter().enumerate() {
            add(vec![
                b"ZADD".to_vec(),
                b"edges".to_vec(),
                word(score.to_string()),
                word(i.to_string()),
            ]);
        }
        add(vec![
            b"RPUSH".to_vec(),
            b"large-nodes".to_vec(),
            random.bytes(10_000),
            random.bytes(9),
        ]);
        for key in ["string:1", "list:20", "hash:129", "zset:3000", "int:7"] {
            let at = 4_102_444_800_000 + random.between(0, 1_000_000);
            add(vec![b"PEXPIREAT".to_vec(), word(key.into()), word(at.to_string())]);
        }
    }
    add(vec![b"SELECT".to_vec(), b"0".to_vec()]);
    for (reply, command) in client.pipeline(&commands).iter().zip(&commands) {
        assert!(!reply.is_error(), "{command:?}: {reply:?}");
    }
}

fn assert_same(before: &Dataset, after: &Dataset) {
    assert!(!before.is_empty());
    if let Some(difference) = first_difference(before, after, 0) {
        panic!("{difference}");
    }
}

/// Changes that a log replays on top of a base: overwrites, removals, transactions, blobs.
fn change(client: &mut Client) {
    for i in 0..100 {
        client.ok(&["APPEND", &format!("string:{i}"), "-more"]);
        client.ok(&["DEL", &format!("int:{i}")]);
        client.ok(&["MULTI"]);
        client.ok(&["RPOPLPUSH", "list:129", "list:moved"]);
        client.ok(&["ZINCRBY", "zset:128", "1.5", &format!("m{i}")]);
        client.ok(&["EXEC"]);
        client.ok(&["SPOP", "set:3000", "3"]);
    }
    client.ok(&["INCRBYFLOAT", "float", "0.1"]);
    client.ok(&["PEXPIREAT", "repeated", "4102444800123"]);
    client.ok(&["SELECT", "3"]);
    client.ok(&["SET", "in db 3", "\r\n\0"]);
    client.ok(&["SELECT", "0"]);
}

#[test]
fn an_rdb_file_goes_to_redis_and_back() {
    let mut first = Server::start();
    fill(&mut first.client(), 1);
    let before = dataset(&mut first.client());
    assert_eq!(first.client().ok(&["SAVE"]), Value::ok());
    first.terminate();
    let file = first.dir().join("dump.rdb");
    check_rdb(&file);

    let mut redis = Server::redis().with_file(&file).start();
    assert_same(&before, &dataset(&mut redis.client()));
    change(&mut redis.client());
    let before = dataset(&mut redis.client());
    redis.client().ok(&["SAVE"]);
    redis.terminate();

    let back = Server::varve().with_file(&redis.dir().join("dump.rdb")).start();
    assert_same(&before, &dataset(&mut back.client()));
}

#[test]
fn a_background_save_is_a_consistent_file() {
    let server = Server::start();
    let mut client = server.client();
    fill(&mut client, 2);
    let before = dataset(&mut client);
    let saved = server.info("rdb_saves");
    client.ok(&["BGSAVE"]);
    // What is written while the child runs is not part of the file.
    for i in 0..1000 {
        client.ok(&["SET", &format!("later:{i}"), "x"]);
        client.ok(&["DEL", &format!("string:{i}")]);
    }
    let ended =
        || server.info("rdb_bgsave_in_progress") == "0" && server.info("rdb_saves") != saved;
    assert!(eventually(PATIENCE, ended), "BGSAVE did not end");
    assert_eq!(server.info("rdb_last_bgsave_status"), "ok");
    let file = server.dir().join("dump.rdb");
    check_rdb(&file);
    let redis = Server::redis().with_file(&file).start();
    assert_same(&before, &dataset(&mut redis.client()));
}

fn check_rdb(file: &Path) {
    let (text, success) = tool("redis-check-rdb", &[file.to_str().unwrap()]);
    assert!(success && text.contains("RDB looks OK"), "{text}");
}

fn check_aof(folder: &Path) {
    let manifest = folder.join("appendonly.aof.manifest");
    let (text, success) = tool("redis-check-aof", &[manifest.to_str().unwrap()]);
    assert!(success, "{text}");
}

#[test]
fn an_append_only_folder_goes_to_redis_and_back() {
    let mut first = Server::varve().arg("--appendonly", "yes").start();
    fill(&mut first.client(), 3);
    let rewrite = |server: &Server| {
        server.client().ok(&["BGREWRITEAOF"]);
        let ended = || {
            server.info("aof_rewrite_in_progress") == "0"
                && server.info("aof_rewrite_scheduled") == "0"
                && server.info("aof_last_bgrewrite_status") == "ok"
        };
        assert!(eventually(PATIENCE, ended), "BGREWRITEAOF did not end");
    };
    // The log alone, then a base and the log after it.
    for rewritten in [false, true] {
        if rewritten {
            first.restart();
            rewrite(&first);
            change(&mut first.client());
        }
        let before = dataset(&mut first.client());
        first.terminate();
        let folder = first.dir().join("appendonlydir");
        check_aof(&folder);

        let mut redis = Server::redis().arg("--appendonly", "yes").with_file(&folder).start();
        assert_same(&before, &dataset(&mut redis.client()));
        change(&mut redis.client());
        if rewritten {
            rewrite(&redis);
            change(&mut redis.client());
        }
        let before = dataset(&mut redis.client());
        redis.terminate();

        let folder = redis.dir().join("appendonlydir");
        let mut back = Server::varve().arg("--appendonly", "yes").with_file(&folder).start();
        assert_same(&before, &dataset(&mut back.client()));
        // It must not only be read but carried on, over another restart.
        change(&mut back.client());
        let before = dataset(&mut back.client());
        back.restart();
        assert_same(&before, &dataset(&mut back.client()));
    }
}

#[test]
fn redis_cli_looks_through_the_keyspace() {
    let server = Server::start();
    fill(&mut server.client(), 4);
    let keys = server.client().ok(&["DBSIZE"]).int() as usize;

    let big = redis_cli(&server, &["--bigkeys"]);
    assert!(big.contains("-------- summary -------"), "{big}");
    assert!(big.contains("list:3000\"' has 3000 items"), "{big}");
    assert!(big.contains("Biggest   zset found '\"zset:3000\"' has 3000 members"), "{big}");
    let mem = redis_cli(&server, &["--memkeys"]);
    assert!(mem.contains("-------- summary -------"), "{mem}");
    assert!(mem.contains("Biggest   hash found '\"hash:3000\"'"), "{mem}");

    let all = redis_cli(&server, &["--scan"]);
    // One key is of binary bytes, which may hold line ends.
    assert!(all.lines().count() >= keys - 1, "{keys} keys, {} lines", all.lines().count());
    let some = redis_cli(&server, &["--scan", "--pattern", "hash:*"]);
    assert_eq!(some.lines().count(), 7, "{some}");
    let all_info = redis_cli(&server, &["INFO"]);
    assert!(all_info.contains("redis_version:"), "{all_info}");
}

#[test]
fn redis_cli_fetches_an_rdb_file() {
    let server = Server::varve().arg("--appendonly", "yes").start();
    fill(&mut server.client(), 4);
    // A base on disk is older than what is written after it, and a backup is of now.
    server.client().ok(&["BGREWRITEAOF"]);
    let based = || server.log().contains("The log's base is the snapshot at offset");
    assert!(eventually(PATIENCE, based), "{}", server.log());
    fill(&mut server.client(), 5);
    let before = dataset(&mut server.client());
    let oracle = Server::redis().start();
    let file = oracle.dir().join("dump.rdb");
    redis_cli(&server, &["--rdb", file.to_str().unwrap()]);
    check_rdb(&file);
    let redis = Server::redis().with_file(&file).start();
    assert_same(&before, &dataset(&mut redis.client()));
}

#[test]
fn redis_cli_is_sent_no_keys_where_it_wants_none() {
    let server = Server::varve().arg("--appendonly", "yes").start();
    let mut client = server.client();
    fill(&mut client, 4);
    let oracle = Server::redis().start();
    let file = oracle.dir().join("dump.rdb");
    redis_cli(&server, &["--functions-rdb", file.to_str().unwrap()]);
    check_rdb(&file);
    let redis = Server::redis().with_file(&file).start();
    assert_eq!(redis.client().ok(&["DBSIZE"]), Value::Int(0));

    client.ok(&["SELECT", "9"]);
    client.ok(&["SET", "before", "1"]);
    let mut feed = Running::redis_cli(&server, &["--replica"]);
    let synced = || server.log().matches("Synchronization with replica").count() == 2;
    assert!(eventually(PATIENCE, synced), "{}", server.log());
    client.ok(&["SET", "after", "2"]);
    let fed = std::iter::repeat_with(|| feed.line()).filter(|line| !line.contains("ping"));
    let expected = ["\"SELECT\",\"9\"", "\"SET\",\"after\",\"2\""];
    assert_eq!(fed.take(2).collect::<Vec<_>>(), expected);
}

#[test]
fn redis_cli_pipes_commands_in() {
    let count = env_number("VARVE_PIPE_COMMANDS").unwrap_or(200_000);
    let server = Server::start();
    let path = server.dir().join("commands.resp");
    let mut out = BufWriter::new(File::create(&path).unwrap());
    let mut request = Vec::new();
    for i in 0..count {
        request.clear();
        let key = format!("key:{}", i / 2);
        match i % 2 {
            0 => encode(&mut request, &["SET", &key, &i.to_string()]),
            _ => encode(&mut request, &["APPEND", &key, "-piped"]),
        }
        out.write_all(&request).unwrap();
    }
    out.into_inner().unwrap();
    let piped = Command::new("redis-cli")
        .args(["-p", &server.port().to_string(), "--pipe"])
        .stdin(File::open(&path).unwrap())
        .output()
        .unwrap();
    fs::remove_file(&path).unwrap();
    let text = String::from_utf8_lossy(&piped.stdout);
    assert!(text.contains(&format!("errors: 0, replies: {count}")), "{text}");
    let mut client = server.client();
    assert_eq!(client.ok(&["DBSIZE"]), Value::Int(count.div_ceil(2) as i64));
    let last = (count - 1) / 2;
    let got = client.ok(&["GET", &format!("key:{last}")]);
    assert!(got.text().starts_with(&(last * 2).to_string()), "{got:?}");
}

#[test]
fn monitor_shows_commands_as_redis_shows_them() {
    // The time and the client's address differ; the rest of the line must not.
    let shown = [Server::start(), Server::redis().start()].map(|server| {
        let mut monitor = server.client();
        assert_eq!(monitor.ok(&["MONITOR"]), Value::ok());
        let mut client = server.client();
        client.ok(&[&b"SET"[..], b"k \"q\"", b"\0\r\n\\\xff\x07"]);
        client.cmd(&["GET"]);
        client.ok(&["SELECT", "2"]);
        client.ok(&["MULTI"]);
        client.ok(&["INCR", "n"]);
        client.ok(&["EXEC"]);
        client.cmd(&["NOSUCH", "x"]);
        client.ok(&["ECHO", "end"]);
        let address = format!("127.0.0.1:{}", client.local_port());
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.ends_with("\"ECHO\" \"end\"")) {
            let line = monitor.recv().text();
            let (time, rest) = line.split_once(' ').expect("a time and a command");
            let (seconds, micros) = time.split_once('.').expect("seconds and microseconds");
            assert!(seconds.parse::<u64>().is_ok() && micros.len() == 6, "{line}");
            lines.push(rest.replace(&address, "client"));
        }
        lines
    });
    assert_eq!(shown[0], shown[1]);

    let server = Server::start();
    let mut monitor = Running::redis_cli(&server, &["MONITOR"]);
    assert_eq!(monitor.line(), "OK");
    server.client().ok(&["SET", "seen", "1"]);
    let mut line = monitor.line();
    while !line.contains("\"SET\"") {
        line = monitor.line();
    }
    assert!(line.ends_with("\"SET\" \"seen\" \"1\""), "{line}");
}

#[test]
fn stat_and_latency_show_numbers() {
    let server = Server::start();
    server.client().ok(&["MSET", "a", "1", "b", "2"]);
    let mut stat = Running::redis_cli(&server, &["--stat", "-i", "0.05"]);
    let mut line = stat.line();
    while line.starts_with('-') || line.starts_with("keys") {
        line = stat.line();
    }
    assert_eq!(line.split_whitespace().next(), Some("2"), "{line}");

    // Without a terminal it measures for a second and prints minimum, maximum, average, samples.
    let latency = redis_cli(&server, &["--latency", "-i", "1"]);
    let numbers: Vec<f64> =
        latency.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    assert_eq!(numbers.len(), 4, "{latency}");
    assert!(numbers[3] >= 1.0, "{latency}");
}

#[test]
fn redis_benchmark_runs_its_tests() {
    let server = Server::start();
    let port = server.port().to_string();
    for depth in ["1", "16"] {
        let args = ["-p", &port, "-n", "2000", "-c", "20", "-r", "1000", "-P", depth, "-q"];
        let (text, success) = tool("redis-benchmark", &args);
        assert!(success && !text.contains("rror"), "-P {depth}: {text}");
        for test in [
            "PING_INLINE",
            "SET",
            "LRANGE_600 (first 600 elements)",
            "SPOP",
            "ZPOPMIN",
            "MSET (10 keys)",
        ] {
            let line = format!("{test}: ");
            let done = text
                .split(['\n', '\r'])
                .any(|l| l.contains(&line) && l.contains("requests per second"));
            assert!(done, "-P {depth}: no result for {test} in {}", Bytes(text.as_bytes()));
        }
    }
    assert_eq!(server.client().ok(&["PING"]), Value::Status("PONG".into()));
}
