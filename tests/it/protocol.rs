//! RESP as bytes: partial frames, inline commands, protocol errors, deep pipelines, RESP3.
//!
//! Where Redis's answer does not depend on time or identity, the test is that both servers send the
//! same bytes.

use crate::support::client::encode;
use crate::support::value::Bytes;
use crate::support::{Client, Random, Server, Value};
use std::io::Write;

/// One server of each kind: under test, and the oracle.
fn both() -> [Server; 2] {
    [Server::start(), Server::redis().start()]
}

const SENTINEL: &[u8] = b"the-last-reply";

/// All that a server sends for `input` on a fresh connection, until it closes or answers a last
/// `ECHO`.
fn answer(server: &Server, input: &[u8]) -> Vec<u8> {
    let mut client = server.client();
    let mut request = input.to_vec();
    encode(&mut request, &[b"ECHO", SENTINEL]);
    // A server that closes upon a protocol error may do so before all has been sent.
    let _ = client.try_send_raw(&request);
    let mut end = format!("${}\r\n", SENTINEL.len()).into_bytes();
    end.extend_from_slice(SENTINEL);
    end.extend_from_slice(b"\r\n");
    client.recv_until(&end)
}

/// All that a server sends for an input that makes it close the connection.
fn answer_until_closed(server: &Server, input: &[u8]) -> Vec<u8> {
    let mut client = server.client();
    let _ = client.try_send_raw(input);
    client.recv_until(b"")
}

fn assert_same_bytes(servers: &[Server; 2], input: &[u8]) {
    let [ours, oracle] = [answer(&servers[0], input), answer(&servers[1], input)];
    assert!(
        ours == oracle,
        "for {}\n  tested: {}\n  redis:  {}",
        Bytes(input),
        Bytes(&ours),
        Bytes(&oracle)
    );
}

fn request(commands: &[&[&[u8]]]) -> Vec<u8> {
    let mut out = Vec::new();
    for command in commands {
        encode(&mut out, command);
    }
    out
}

#[test]
fn a_request_may_be_cut_at_every_byte() {
    let server = Server::start();
    let long = vec![b'x'; 300];
    let input = [
        request(&[&[b"SET", b"cut", b"a\r\nb"], &[b"GET", b"cut"], &[b"PING"]]),
        b"*0\r\n\r\nPING inline\r\n".to_vec(),
        request(&[&[b"SET", b"cut2", &long], &[b"STRLEN", b"cut2"], &[b"NOSUCH"]]),
    ]
    .concat();
    let whole = answer(&server, &input);
    assert!(
        whole.starts_with(b"+OK\r\n$4\r\na\r\nb\r\n+PONG\r\n$6\r\ninline\r\n+OK\r\n:300\r\n-ERR")
    );
    let mut onlooker = server.client();
    for cut in 1..input.len() {
        let mut client = server.client();
        client.send_raw(&input[..cut]);
        // Once another connection has been served, the first part has been read by itself.
        onlooker.ok(&["PING"]);
        let mut rest = input[cut..].to_vec();
        encode(&mut rest, &[b"ECHO", SENTINEL]);
        client.send_raw(&rest);
        let got = client.recv_until(b"the-last-reply\r\n");
        assert!(got == whole, "cut at byte {cut}: {}", Bytes(&got));
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = Server::start();
    let input =
        request(&[&[b"SET", b"k", b"0123456789"], &[b"APPEND", b"k", b"x"], &[b"GET", b"k"]]);
    let mut client = server.client();
    let mut onlooker = server.client();
    for byte in &input {
        client.send_raw(std::slice::from_ref(byte));
        onlooker.ok(&["PING"]);
    }
    assert_eq!(client.recv(), Value::ok());
    assert_eq!(client.recv(), Value::Int(11));
    assert_eq!(client.recv(), Value::bulk("0123456789x"));
}

#[test]
fn inline_commands_are_read_as_redis_reads_them() {
    let servers = both();
    let lines: &[&[u8]] = &[
        b"PING\r\n",
        b"PING\n",
        b"  PING   spaced  \r\n",
        b"\r\n\r\nPING\r\n",
        b"SET key \"a b\\x41\\n\\\"c\"\r\nGET key\r\n",
        b"SET key 'a \\n \\' b'\r\nGET key\r\n",
        b"SET key \"\"\r\nGET key\r\n",
        b"ECHO a\"b\r\n",
        b"ECHO \"a\"b\r\n",
        b"ECHO \"unbalanced\r\n",
        b"ECHO 'unbalanced\r\n",
        b"ECHO 'a'b\r\n",
        b"ECHO \"\\t\\r\\a\\b\\q\\xZZ\"\r\n",
        b"ECHO \xff\xfe\r\n",
        b"NOSUCH a b\r\n",
        b"GET\r\n",
        b"PING\r\n*1\r\n$4\r\nPING\r\nPING\r\n",
        b"ECHO a\tb\r\n",
    ];
    for line in lines {
        assert_same_bytes(&servers, line);
    }
    if Server::is_stand_in() {
        return; // It waits for ever for the end of a line with a NUL.
    }
    let mut client = servers[0].client();
    client.send_raw(b"SET key new\0er\r\n");
    let said = client.recv_until(b"");
    assert_eq!(
        String::from_utf8_lossy(&said),
        "-ERR Protocol error: NUL byte in inline request\r\n"
    );
    assert_eq!(servers[0].client().cmd(&["GET", "key"]), Value::bulk(""));
}

#[test]
fn a_frame_that_is_wrong_gets_redis_s_protocol_error() {
    let servers = both();
    let frames: &[&[u8]] = &[
        b"*\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*-10\r\n",
        b"*abc\r\n",
        b"*1048577\r\n",
        b"*2147483648\r\n",
        b"*99999999999999999999\r\n",
        b"* 1\r\n$4\r\nPING\r\n",
        b"*+1\r\n$4\r\nPING\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n:4\r\nPING\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$\r\n",
        b"*1\r\n$abc\r\n",
        b"*1\r\n$4x\r\nPING\r\n",
        b"*1\r\n$ 4\r\nPING\r\n",
        b"*1\r\n$-0\r\n",
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$9999999999999999999\r\n",
        b"*1\r\n$0\r\n\r\n",
        b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
        b"*2\r\n$4\r\nECHO\r\n\r\n",
        b"*1\r\n$4\r\nPINGxx",
        b"PING\r\n*1\r\n$-5\r\n",
        b"*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n",
        b"*1\r\n\xff4\r\nPING\r\n",
    ];
    for frame in frames {
        assert_same_bytes(&servers, frame);
    }
    // A line that does not end is given up after 64 KiB.
    for start in ["x", "*", "*1\r\n$"] {
        let mut endless = start.as_bytes().to_vec();
        endless.resize(70_000, b'1');
        let got = servers.each_ref().map(|server| answer_until_closed(server, &endless));
        assert!(got[0] == got[1], "{start}: {} and {}", Bytes(&got[0]), Bytes(&got[1]));
    }
}

#[test]
fn before_auth_only_small_requests_are_read() {
    let servers = [
        Server::varve().arg("--requirepass", "secret").start(),
        Server::redis().arg("--requirepass", "secret").start(),
    ];
    let inputs: &[&[u8]] = &[
        b"*11\r\n$4\r\nPING\r\n",
        b"*2\r\n$3\r\nGET\r\n$16385\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$5\r\nwrong\r\n",
        b"*3\r\n$4\r\nAUTH\r\n$4\r\nnone\r\n$6\r\nsecret\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n*1\r\n$4\r\nPING\r\n",
    ];
    for input in inputs {
        let input = [*input, b"*1\r\n$4\r\nQUIT\r\n"].concat();
        let got = servers.each_ref().map(|server| answer_until_closed(server, &input));
        assert!(got[0] == got[1], "{}: {} and {}", Bytes(&input), Bytes(&got[0]), Bytes(&got[1]));
    }
}

#[test]
fn replies_have_the_bytes_of_redis_in_both_protocols() {
    let servers = both();
    let commands: &[&[&[u8]]] = &[
        &[b"SET", b"\0\r\n\xff", b"\r\n"],
        &[b"GET", b"\0\r\n\xff"],
        &[b"SET", b"", b""],
        &[b"GET", b""],
        &[b"GET", b"nosuch"],
        &[b"HSET", b"h", b"f", b"v"],
        &[b"HGETALL", b"h"],
        &[b"HGETALL", b"nosuch"],
        &[b"HGET", b"h", b"nosuch"],
        &[b"HMGET", b"h", b"f", b"g"],
        &[b"HRANDFIELD", b"h", b"1", b"WITHVALUES"],
        &[b"SADD", b"s", b"1"],
        &[b"SMEMBERS", b"s"],
        &[b"SMISMEMBER", b"s", b"1", b"2"],
        &[b"SPOP", b"nosuch"],
        &[b"SPOP", b"nosuch", b"2"],
        &[b"SPOP", b"s", b"2"],
        &[b"ZADD", b"z", b"1.5", b"m", b"inf", b"n", b"-inf", b"o", b"3", b"p"],
        &[b"ZSCORE", b"z", b"m"],
        &[b"ZSCORE", b"z", b"n"],
        &[b"ZSCORE", b"z", b"nosuch"],
        &[b"ZMSCORE", b"z", b"m", b"nosuch"],
        &[b"ZINCRBY", b"z", b"1", b"m"],
        &[b"ZADD", b"z", b"NX", b"INCR", b"1", b"m"],
        &[b"ZRANGE", b"z", b"0", b"-1", b"WITHSCORES"],
        &[b"ZPOPMIN", b"z"],
        &[b"ZPOPMAX", b"z", b"2"],
        &[b"ZRANK", b"z", b"nosuch"],
        &[b"ZRANDMEMBER", b"nosuch"],
        &[b"RPUSH", b"l", b"a", b"b"],
        &[b"LPOP", b"nosuch"],
        &[b"LPOP", b"nosuch", b"1"],
        &[b"LPOP", b"l", b"0"],
        &[b"LMPOP", b"1", b"nosuch", b"LEFT"],
        &[b"LMPOP", b"1", b"l", b"LEFT"],
        &[b"LPOS", b"l", b"nosuch"],
        &[b"BLPOP", b"nosuch", b"l", b"1"],
        &[b"BLPOP", b"nosuch", b"0.01"],
        &[b"MGET", b"nosuch", b""],
        &[b"INCRBYFLOAT", b"float", b"10.5"],
        &[b"TYPE", b"nosuch"],
        &[b"EXISTS", b"h", b"nosuch"],
        &[b"MULTI"],
        &[b"GET", b"nosuch"],
        &[b"HGETALL", b"h"],
        &[b"LPUSH", b"h", b"x"],
        &[b"EXEC"],
        &[b"MULTI"],
        &[b"GET"],
        &[b"EXEC"],
        &[b"WATCH", b"w"],
        &[b"SET", b"w", b"1"],
        &[b"MULTI"],
        &[b"EXEC"],
        &[b"SCAN", b"0", b"MATCH", b"nosuch"],
        &[b"OBJECT", b"ENCODING", b"nosuch"],
        &[b"DUMP", b"nosuch"],
        &[b"PUBSUB", b"CHANNELS"],
        &[b"PUBSUB", b"CHANNELS", b"a", b"b"],
        &[b"PUBSUB", b"SHARDCHANNELS", b"a", b"b"],
        &[b"PUBSUB", b"NUMSUB"],
        &[b"PUBSUB", b"NUMSUB", b"a", b"b"],
        &[b"PUBSUB", b"SHARDNUMSUB", b"a"],
        &[b"ACL", b"CAT", b"a", b"b"],
        &[b"BZMPOP", b"x", b"0", b"l", b"MIN"],
        &[b"BZMPOP", b"-1", b"1", b"l", b"MIDDLE"],
        &[b"CLIENT", b"PAUSE", b"1", b"a", b"b"],
        &[b"CLIENT", b"UNBLOCK", b"1", b"a", b"b"],
        &[b"CONFIG", b"SET", b"a", b"b", b"c"],
        &[b"MEMORY", b"USAGE", b"l", b"SAMPLES", b"x", b"y"],
        &[b"MEMORY", b"USAGE", b"nosuch", b"SAMPLES", b"1", b"samples", b"0"],
        &[b"SLOWLOG", b"GET", b"a", b"b"],
        &[b"CONFIG", b"SET", b"Slave-Priority", b"x"],
        &[b"HELLO", b"3", b"\xff"],
        &[b"SORT", b"l", b"BY", b"nosort", b"DESC"],
        &[b"SET", b"times", b"v", b"EX", b"10", b"ex", b"20"],
        &[b"TTL", b"times"],
        &[b"SET", b"times", b"v", b"EX", b"10", b"PX", b"20"],
        &[b"GETEX", b"times", b"EX", b"10", b"EX", b"30"],
        &[b"TTL", b"times"],
        &[b"GETEX", b"times", b"PERSIST", b"PERSIST"],
        &[b"GETEX", b"times", b"PERSIST", b"EX", b"30"],
        &[b"GETEX", b"times", b"EX", b"x", b"EX", b"30"],
        &[b"GETEX", b"times", b"EX"],
        &[b"GETEX", b"nosuch", b"EX", b"x"],
        &[b"ZRANGE", b"z", b"0", b"1", b"REV", b"REV"],
        &[b"ZRANGE", b"z", b"0", b"1", b"BYSCORE", b"BYLEX"],
        &[b"COMMAND", b"INFO", b"get", b"nosuch", b"lpush"],
        &[b"COMMAND", b"GETKEYSANDFLAGS", b"lmove", b"a", b"b", b"left", b"right"],
        &[b"SUBSCRIBE", b"c1", b"c2"],
        &[b"PING"],
        &[b"PSUBSCRIBE", b"p*"],
        &[b"UNSUBSCRIBE"],
        &[b"PUNSUBSCRIBE"],
        &[b"UNSUBSCRIBE"],
        &[b"RESET"],
        &[b"QUIT"],
    ];
    for hello in [&b""[..], b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"] {
        for server in &servers {
            server.client().ok(&["FLUSHALL"]);
        }
        let mut unsubscribed = false;
        // HELLO's own reply tells name and version, so it is read before and left out.
        let mut clients = [servers[0].client(), servers[1].client()];
        if !hello.is_empty() {
            for client in &mut clients {
                client.send_raw(hello);
                assert!(matches!(client.recv(), Value::Map(_)), "HELLO 3 answers with a map");
            }
        }
        for command in commands {
            let line = request(&[command]);
            let replies = match command[0] {
                b"SUBSCRIBE" => 2,
                b"UNSUBSCRIBE" if !unsubscribed => 2,
                _ => 1,
            };
            unsubscribed |= command[0] == b"UNSUBSCRIBE";
            let got = clients.each_mut().map(|client| {
                client.send_raw(&line);
                (0..replies).flat_map(|_| client.recv_raw()).collect::<Vec<u8>>()
            });
            let resp = if hello.is_empty() { 2 } else { 3 };
            // Which of several channels is left first is nobody's promise.
            let lines = |bytes: &[u8]| {
                let mut lines: Vec<Vec<u8>> = bytes.split(|&b| b == b'\n').map(Vec::from).collect();
                if replies > 1 && command[0] == b"UNSUBSCRIBE" {
                    lines.sort();
                }
                lines
            };
            assert!(
                lines(&got[0]) == lines(&got[1]),
                "RESP{resp} {}:\n  tested: {}\n  redis:  {}",
                Bytes(&line),
                Bytes(&got[0]),
                Bytes(&got[1])
            );
        }
    }
}

/// What `COMMAND INFO` says of a command, in RESP 3, but for its subcommands. The notes on keys are
/// Redis's own words.
fn described(client: &mut Client, name: &str) -> Option<Vec<Value>> {
    fn in_order(value: Value) -> Value {
        match value {
            Value::Set(items) => {
                let mut items: Vec<Value> = items.into_iter().map(in_order).collect();
                items.sort_by_cached_key(|item| format!("{item:?}"));
                Value::Set(items)
            }
            Value::Map(fields) => {
                let own = fields.into_iter().filter(|(name, _)| *name != Value::bulk("notes"));
                Value::Map(own.map(|(name, value)| (name, in_order(value))).collect())
            }
            other => other,
        }
    }
    let Value::Array(infos) = client.cmd(&["COMMAND", "INFO", name]) else { return None };
    let Some(Value::Array(info)) = infos.into_iter().next() else { return None };
    Some(info.into_iter().take(9).map(in_order).collect())
}

/// Everything that is told of every command that both have, and which of its arguments are keys and what
/// it may do to them: with as many arguments as it must have and some more, and with the words that it
/// depends on.
#[test]
fn commands_are_said_to_be_what_redis_says() {
    // Redis says something else of them since 7.2.
    const LATER: [&str; 5] =
        ["command|getkeys", "command|getkeysandflags", "wait", "zrank", "zrevrank"];
    let servers = both();
    let [mut varve, mut redis] = [servers[0].client(), servers[1].client()];
    varve.ok(&["HELLO", "3"]);
    redis.ok(&["HELLO", "3"]);
    let Value::Array(names) = varve.cmd(&["COMMAND", "LIST"]) else { panic!("a list of names") };
    let mut commands = Vec::new();
    for name in &names {
        let name = name.text();
        let told = described(&mut varve, &name).unwrap();
        // Redis 7.0 does not have all.
        let Some(mut theirs) = described(&mut redis, &name) else { continue };
        if LATER.contains(&&name[..]) {
            continue;
        }
        // Here they end a load beside the data, where Redis would have nobody promoted before it has ended.
        if ["replicaof", "slaveof"].contains(&&name[..])
            && let Value::Set(flags) = &mut theirs[2]
        {
            flags.retain(|flag| *flag != Value::Status("no_async_loading".into()));
        }
        assert_eq!(told, theirs, "{name}");
        let docs = |client: &mut Client| {
            let Value::Map(of_all) = client.cmd(&["COMMAND", "DOCS", &name]) else { return vec![] };
            let Value::Map(of_it) = &of_all[0].1 else { return vec![] };
            let same = ["since", "group", "doc_flags", "deprecated_since"].map(Value::bulk);
            of_it.iter().filter(|(field, _)| same.contains(field)).cloned().collect()
        };
        assert_eq!(docs(&mut varve), docs(&mut redis), "{name}");
        let arity = told[1].int();
        let words: Vec<&str> = name.split('|').collect();
        let more = if arity < 0 { 3 } else { 0 };
        // Redis 7.0 wants at least one argument, later ones do not.
        let least = arity.unsigned_abs().max(2) as usize;
        for len in least..=least + more {
            // A number that counts keys is 1 as well.
            let ones = vec!["1"; len - words.len()];
            commands.push([&words[..], &ones].concat().join(" "));
        }
    }
    assert!(commands.len() > 400, "{} commands", commands.len());
    let by_words = [
        "SET k v",
        "SET k get",
        "SET k v GET",
        "SET k v NX EX 10 get KEEPTTL",
        "SET k v PX get",
        "BITFIELD k",
        "BITFIELD k GET u8 0",
        "BITFIELD k OVERFLOW SAT get u8 0 GET u4 #1",
        "BITFIELD k GET u8 0 SET u8 0 1",
        "BITFIELD k INCRBY u8 0 1 GET u8 0",
        "BITFIELD k GET u8",
        "BITFIELD k OVERFLOW",
        "BITFIELD k set",
        "BITFIELD_RO k GET u8 0",
        "SORT k",
        "SORT k BY w_* LIMIT 0 10 GET # GET o_* DESC ALPHA STORE to",
        "SORT k STORE a STORE b",
        "SORT k STORE",
        "SORT k BY store GET store LIMIT store store",
        "SORT_RO k BY w_* GET #",
        "SORT_RO k STORE to",
        "MIGRATE host 6379 k 0 1000",
        "MIGRATE host 6379 k 0 1000 COPY REPLACE",
        "MIGRATE host 6379  0 1000 KEYS a b c",
        "MIGRATE host 6379  0 1000 COPY REPLACE KEYS a b",
        "BITOP AND to a b c",
        "ZUNIONSTORE to 2 a b WEIGHTS 1 2",
        "ZDIFFSTORE to 3 a b",
        "LMPOP 2 a b LEFT",
        "BLMPOP 0 2 a b LEFT",
        "SINTERSTORE to a b c",
        "ZRANGESTORE to from 0 -1",
        "COPY a b DB 1 REPLACE",
        "MSET a 1 b 2",
        "MSET a 1 b",
        "OBJECT FREQ k",
        "XYZZY k",
        "GET a b",
        "MGET a b c",
        "PING a",
        "ZRANK k m",
    ];
    commands.extend(by_words.map(String::from));
    let mut different = Vec::new();
    for command in &commands {
        for about in ["GETKEYS", "GETKEYSANDFLAGS"] {
            let words: Vec<&str> =
                ["COMMAND", about].into_iter().chain(command.split(' ')).collect();
            let (ours, theirs) = (varve.cmd(&words), redis.cmd(&words));
            if ours != theirs {
                different.push(format!("{about} {command}\n  {ours:?}\n  {theirs:?}"));
            }
        }
    }
    assert!(different.is_empty(), "Varve's answer, then Redis's:\n{}", different.join("\n"));
}

/// The field `arguments` of a command's documentation.
fn arguments(client: &mut Client, name: &str) -> Option<Value> {
    let of_it = client.ok(&["COMMAND", "DOCS", name]).items().into_iter().nth(1)?.items();
    let at = of_it.iter().step_by(2).position(|field| *field == Value::bulk("arguments"))?;
    of_it.into_iter().nth(2 * at + 1)
}

/// Redis 7.0's arguments as 7.2 would have them: the words of a name joined by `-`, and no block around
/// one argument.
fn as_later(arguments: Value) -> Value {
    let Value::Array(arguments) = arguments else { panic!("{arguments:?}") };
    Value::Array(arguments.into_iter().map(argument_as_later).collect())
}

fn argument_as_later(argument: Value) -> Value {
    let Value::Map(fields) = argument else { panic!("{argument:?}") };
    let mut fields: Vec<(Value, Value)> = fields
        .into_iter()
        .map(|(field, value)| match &field.text()[..] {
            "name" => (field, Value::bulk(value.text().replace('_', "-"))),
            "arguments" => (field, as_later(value)),
            _ => (field, value),
        })
        .collect();
    if fields[1].1 == Value::bulk("block")
        && let Some((_, Value::Array(members))) = fields.last()
        && let [Value::Map(sole)] = &members[..]
    {
        let sole = sole.clone();
        fields.pop();
        fields.splice(..2, sole[..2].iter().cloned());
        for (field, value) in sole.into_iter().skip(2) {
            match fields.iter_mut().find(|(of_block, _)| *of_block == field) {
                Some((_, Value::Set(flags))) => flags.extend(value.items()),
                _ => fields.push((field, value)),
            }
        }
    }
    Value::Map(fields)
}

/// By them `redis-cli` and `valkey-cli` say what a command takes while it is typed.
#[test]
fn arguments_are_said_to_be_what_redis_says() {
    const OTHERS: [(&str, &str); 9] = [
        ("bitop", "its operations are named, as in 7.2"),
        (
            "client|kill",
            "one filter at least must be given; SKIPME's words are named; MAXAGE of 7.4",
        ),
        ("command|getkeys", "has arguments, as in 7.2"),
        ("command|getkeysandflags", "has arguments, as in 7.2"),
        ("debug", "has arguments"),
        ("migrate", "an authentication is one or the other and not possibly neither, as in 7.2"),
        ("replconf", "has arguments"),
        ("zrank", "WITHSCORE of 7.2"),
        ("zrevrank", "WITHSCORE of 7.2"),
    ];
    let servers = both();
    let [mut varve, mut redis] = [servers[0].client(), servers[1].client()];
    let [mut varve_in_resp2, mut redis_in_resp2] = [servers[0].client(), servers[1].client()];
    varve.ok(&["HELLO", "3"]);
    redis.ok(&["HELLO", "3"]);
    let (mut compared, mut in_resp2) = (0, 0);
    for name in varve.ok(&["COMMAND", "LIST"]).items() {
        let name = name.text();
        // Redis 7.0 does not have all.
        if redis.ok(&["COMMAND", "DOCS", &name]).items().is_empty() {
            continue;
        }
        let (ours, theirs) = (arguments(&mut varve, &name), arguments(&mut redis, &name));
        let later = theirs.clone().map(as_later);
        if let Some((_, why)) = OTHERS.iter().find(|(other, _)| *other == name) {
            assert_ne!(ours, later, "{name}: {why}");
            continue;
        }
        assert_eq!(ours, later, "{name}");
        compared += ours.is_some() as usize;
        if ours.is_some() && ours == theirs {
            in_resp2 += 1;
            let of = arguments(&mut varve_in_resp2, &name);
            assert_eq!(of, arguments(&mut redis_in_resp2, &name), "{name}");
        }
    }
    assert!(compared > 200 && in_resp2 > 150, "{compared}, {in_resp2} in RESP 2");
}

/// Clients that may be of a cluster ask first, and go by the words of the refusal.
#[test]
fn commands_of_a_cluster_are_refused_as_by_redis() {
    let servers = both();
    let [mut varve, mut redis] = [servers[0].client(), servers[1].client()];
    let mut commands = vec!["cluster".to_owned(), "cluster|nosuch".to_owned()];
    for name in redis.ok(&["COMMAND", "LIST"]).items() {
        let docs = redis.ok(&["COMMAND", "DOCS", &name.text()]).items();
        let of_it = docs.into_iter().nth(1).unwrap().items();
        let group = of_it.iter().position(|field| *field == Value::bulk("group")).unwrap();
        if of_it[group + 1] == Value::bulk("cluster") {
            commands.push(name.text());
        }
    }
    assert!(commands.len() > 25, "{commands:?}");
    for command in &commands {
        for more in 0..4 {
            let words = [command.split('|').collect(), vec!["1"; more]].concat();
            assert_eq!(varve.cmd(&words), redis.cmd(&words), "{words:?}");
        }
    }
}

/// Clients and tools that look for modules took the error for a server that they can't work with.
#[test]
fn no_modules_are_listed_and_none_loaded() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.cmd(&["MODULE", "LIST"]), Value::Array(vec![]));
    for refused in [&["MODULE", "LOAD", "/x.so"][..], &["MODULE", "UNLOAD", "x"]] {
        let error = "ERR MODULE command not allowed. Varve has no modules.";
        assert_eq!(client.cmd(refused), Value::Error(error.into()));
    }
}

/// In the order in which Redis looks: at what is written, then at whether there is anything to do, then at what it
/// would be done with.
#[test]
fn of_two_mistakes_one_is_told() {
    let server = Server::start();
    let mut client = server.client();
    let no_replica = "ERR FAILOVER requires connected replicas.";
    let bad_name = "ERR Client names cannot contain spaces, newlines or special characters.";
    for (command, told) in [
        ("MIGRATE localhost x none 0 10", "NOKEY"),
        ("MIGRATE localhost 99999 none -1 10", "NOKEY"),
        ("MIGRATE localhost x none 0 y", "ERR value is not an integer or out of range"),
        ("FAILOVER FORCE", no_replica),
        ("FAILOVER FORCE TIMEOUT 10", no_replica),
        ("FAILOVER TO localhost 99999", no_replica),
        ("FAILOVER ABORT TIMEOUT x", "ERR syntax error"),
        ("FAILOVER FORCE TIMEOUT 0", "ERR FAILOVER timeout must be greater than 0"),
        ("HELLO 2 SETNAME \n AUTH", bad_name),
        ("HELLO 2 SETNAME \n SETNAME me", bad_name),
        ("HELLO 2 SETNAME \n AUTH nobody x", bad_name),
    ] {
        let reply = client.cmd(&command.split(' ').collect::<Vec<_>>());
        assert!(
            matches!(&reply, Value::Error(text) | Value::Status(text) if text == told),
            "{command}: {reply:?}"
        );
    }
}

#[test]
fn hello_negotiates_the_protocol() {
    let server = Server::start();
    let mut client = server.client();
    let fields = |reply: Value| -> Vec<String> {
        reply.items().into_iter().step_by(2).map(|name| name.text()).collect()
    };
    let names = ["server", "version", "proto", "id", "mode", "role", "modules"];
    let resp2 = client.ok(&["HELLO"]);
    assert!(matches!(resp2, Value::Array(_)), "RESP2 flattens a map: {resp2:?}");
    assert_eq!(fields(resp2), names);
    let resp3 = client.ok(&["HELLO", "3", "SETNAME", "me"]);
    assert!(matches!(resp3, Value::Map(_)), "RESP3 has maps: {resp3:?}");
    assert_eq!(fields(resp3), names);
    assert_eq!(client.ok(&["CLIENT", "GETNAME"]), Value::bulk("me"));
    assert_eq!(client.cmd(&["GET", "nosuch"]), Value::Nil);
    client.ok(&["SADD", "s", "m"]);
    assert_eq!(client.cmd(&["SMEMBERS", "s"]), Value::Set(vec![Value::bulk("m")]));
    client.ok(&["ZADD", "z", "1.25", "m"]);
    assert_eq!(client.cmd(&["ZSCORE", "z", "m"]), Value::Double(1.25));
    let refused = client.cmd(&["HELLO", "4"]);
    assert_eq!(refused, Value::Error("NOPROTO unsupported protocol version".into()));
    let resp2 = client.ok(&["HELLO", "2"]);
    assert!(matches!(resp2, Value::Array(_)));

    // RESP3 pushes messages beside replies.
    client.ok(&["HELLO", "3"]);
    let subscribed = client.cmd(&["SUBSCRIBE", "news"]);
    assert!(matches!(subscribed, Value::Push(_)), "{subscribed:?}");
    assert_eq!(client.ok(&["ECHO", "still served"]), Value::bulk("still served"));
    assert_eq!(server.client().ok(&["PUBLISH", "news", "hi"]), Value::Int(1));
    let message = ["message", "news", "hi"].map(Value::bulk).to_vec();
    assert_eq!(client.recv(), Value::Push(message));
}

/// A client that passes pushes over waited for the reply for ever.
#[test]
fn a_push_of_debug_has_a_reply_too() {
    let server = Server::start();
    let mut client = server.client();
    client.ok(&["HELLO", "3"]);
    assert!(matches!(client.cmd(&["DEBUG", "PROTOCOL", "PUSH"]), Value::Bulk(_)));
    assert!(matches!(client.recv(), Value::Push(_)));
}

#[test]
fn client_reply_silences_what_it_says() {
    let servers = both();
    let client_reply = |mode: &'static [u8]| -> [&'static [u8]; 3] { [b"CLIENT", b"REPLY", mode] };
    let (on, off, skip) = (client_reply(b"ON"), client_reply(b"OFF"), client_reply(b"SKIP"));
    let set: &[&[u8]] = &[b"SET", b"k", b"v"];
    let get: &[&[u8]] = &[b"GET", b"k"];
    let wrong: &[&[u8]] = &[b"NOSUCH"];
    assert_same_bytes(&servers, &request(&[&skip, set, get]));
    assert_same_bytes(&servers, &request(&[&off, set, get, wrong, &on, get]));
    assert_same_bytes(&servers, &request(&[&skip, wrong, &skip, &skip, get, get]));
    assert_same_bytes(&servers, &request(&[&off, &skip, get, &on, get]));
    assert_same_bytes(&servers, &request(&[&[b"CLIENT", b"REPLY", b"MAYBE"], get]));
    for silent in [&skip, &off] {
        assert_same_bytes(&servers, &request(&[silent, &[b"RESET"], get]));
    }
}

#[test]
fn a_hundred_thousand_requests_in_one_pipeline_keep_their_order() {
    const COUNT: usize = 100_000;
    let server = Server::start();
    let mut client = server.client();
    let mut sender = client.sender();
    let writing = std::thread::spawn(move || {
        let mut out = Vec::new();
        for i in 0..COUNT {
            encode(&mut out, &["ECHO", &i.to_string()]);
        }
        sender.write_all(&out).unwrap();
    });
    for i in 0..COUNT {
        assert_eq!(client.recv(), Value::bulk(i.to_string()));
    }
    writing.join().unwrap();
}

#[test]
fn a_client_that_reads_late_still_gets_every_reply() {
    const COUNT: usize = 300;
    let server = Server::start();
    let value = vec![b'v'; 100_000];
    server.client().ok(&[b"SET", &b"big"[..], &value]);
    let mut slow = server.client();
    let mut out = Vec::new();
    (0..COUNT).for_each(|_| encode(&mut out, &["GET", "big"]));
    slow.send_raw(&out);
    // Meanwhile others are served.
    let mut other = server.client();
    for _ in 0..100 {
        other.ok(&["PING"]);
    }
    for _ in 0..COUNT {
        assert!(slow.recv() == Value::Bulk(value.clone()), "a reply was damaged");
    }
}

#[test]
fn keys_and_values_are_any_bytes_of_any_length() {
    let server = Server::start();
    let mut client = server.client();
    let mut random = Random::new(7);
    let lengths = [0, 1, 2, 255, 256, 16_383, 16_384, 32_767, 32_768, 32_769, 65_536, 1_000_000];
    let mut pairs = Vec::new();
    for len in lengths {
        let key = random.bytes(len.min(70_000));
        let value = random.bytes(len);
        client.ok(&[b"SET", &key[..], &value]);
        pairs.push((key, value));
    }
    let huge = random.bytes(20 << 20);
    client.ok(&[b"SET", &b"huge"[..], &huge]);
    pairs.push((b"huge".to_vec(), huge));
    for (key, value) in &pairs {
        let got = client.ok(&[b"GET", &key[..]]);
        assert!(got.bytes() == value, "the value of {} was damaged", Bytes(key));
    }
    let all: Vec<u8> = (0..=255).collect();
    for byte in 0..=255u8 {
        client.ok(&[b"HSET", &b"bytes"[..], &[byte], &all]);
    }
    assert_eq!(client.ok(&["HLEN", "bytes"]), Value::Int(256));
}

#[test]
fn many_connections_come_and_go() {
    let server = Server::start();
    let mut clients: Vec<Client> = (0..200).map(|_| server.client()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ok(&["ECHO", &i.to_string()]), Value::bulk(i.to_string()));
    }
    // Half leave in the middle of a request.
    for mut client in clients.drain(..100) {
        client.send_raw(b"*2\r\n$3\r\nGET\r\n$100\r\nhalf");
    }
    for client in &mut clients {
        client.ok(&["PING"]);
    }
    let only_ours = || server.info("connected_clients") == "101";
    assert!(crate::support::eventually(crate::support::PATIENCE, only_ours));
}

/// A page can make a browser send a form to any address: what stands in it must not be run.
#[test]
fn http_is_hung_up_on() {
    let server = Server::start();
    for request in
        ["POST / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\n", "post\r\n", "HOST: x\r\n"]
    {
        let body = "Content-Length: 99\r\n\r\nSET form 1\r\nPING\r\n";
        let got = answer_until_closed(&server, format!("{request}{body}").as_bytes());
        assert!(!got.windows(4).any(|w| w == b"PONG"), "{request}: {}", Bytes(&got));
    }
    assert_eq!(server.client().ok(&["EXISTS", "form"]).int(), 0);
    let said = server.log().matches("HTTP").count();
    assert!(said == 1 || Server::is_stand_in(), "said {said} times within a minute");
}

#[test]
fn subscriptions_of_a_transaction_are_confirmed_in_it() {
    let servers = both();
    for hello in ["", "HELLO 3\r\n"] {
        for names in ["SUBSCRIBE c", "PSUBSCRIBE c*", "SSUBSCRIBE c"] {
            let input = format!("MULTI\r\nSET k 1\r\n{names}\r\nEXEC\r\nRESET\r\n");
            let got = servers.each_ref().map(|server| {
                let mut client = server.client();
                if !hello.is_empty() {
                    client.send_raw(hello.as_bytes());
                    client.recv();
                }
                client.send_raw(input.as_bytes());
                client.recv_until(b"+RESET\r\n")
            });
            assert!(got[0] == got[1], "{names}: {} and {}", Bytes(&got[0]), Bytes(&got[1]));
        }
    }
}

#[test]
fn a_monitor_may_not_touch_the_data() {
    let servers = both();
    let got = servers.each_ref().map(|server| {
        let mut client = server.client();
        client.ok(&["MONITOR"]);
        client.send_raw(b"MONITOR\r\nGET key\r\nSET key 1\r\n");
        [client.recv_raw(), client.recv_raw()].concat()
    });
    assert!(got[0] == got[1], "{} and {}", Bytes(&got[0]), Bytes(&got[1]));
}

/// An exporter that misses a field shows a gap, or nothing at all.
#[test]
fn info_has_every_field_of_redis_in_its_section() {
    let [ours, oracle] = both().map(|server| {
        let mut client = server.client();
        client.ok(&["SET", "k", "v", "PX", "100000"]);
        client.cmd(&["NO-SUCH-COMMAND"]);
        let text = client.ok(&["INFO", "everything"]).text();
        let mut section = "";
        let mut fields = Vec::new();
        for line in text.lines() {
            match line.split_once(':') {
                Some((field, _)) => fields.push(format!("{section}: {field}")),
                None => section = line,
            }
        }
        fields
    });
    let lacking: Vec<_> = oracle.iter().filter(|field| !ours.contains(field)).collect();
    assert!(lacking.is_empty(), "{lacking:?}");
}
