//! The story: a server is killed by SIGKILL while clients write. Every write that was acknowledged
//! is there after the restart, under every fsync policy, since the kernel had it.
//!
//! Each writer owns its keys and keeps a model of them, and every operation is one atomic step
//! (a command, or a transaction). After the restart a writer's keys must equal the model with all
//! acknowledged steps and some number, perhaps zero, of those that were in flight, in order.

use crate::support::client::encode;
use crate::support::dataset::{Data, Dataset};
use crate::support::value::Bytes;
use crate::support::{Client, Command, PATIENCE, Random, Server, dataset, env_number, eventually};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const WRITERS: usize = 8;
/// The most steps a writer has sent without having read their replies.
const IN_FLIGHT: usize = 16;

/// A writer's keys and what they hold.
type Model = BTreeMap<Vec<u8>, Data>;

/// One atomic change: commands that are sent in `MULTI`/`EXEC` when they are more than one.
#[derive(Clone)]
struct Operation(Vec<Command>);

impl Operation {
    fn send(&self, out: &mut Vec<u8>) {
        let transaction = self.0.len() > 1;
        if transaction {
            encode(out, &["MULTI"]);
        }
        self.0.iter().for_each(|command| encode(out, &command.0));
        if transaction {
            encode(out, &["EXEC"]);
        }
    }

    /// How many replies come before the operation is acknowledged, the last included.
    fn replies(&self) -> usize {
        if self.0.len() > 1 { self.0.len() + 2 } else { 1 }
    }

    fn apply(&self, model: &mut Model) {
        self.0.iter().for_each(|command| apply(command, model));
    }
}

/// What a command of [`next_operation`] does to a model.
fn apply(command: &Command, model: &mut Model) {
    let args = &command.0;
    let key = args[1].clone();
    let name = command.name();
    if name == "DEL" {
        model.remove(&key);
        return;
    }
    if name == "RENAME" {
        let value = model.remove(&key).expect("only keys that exist are renamed");
        model.insert(args[2].clone(), value);
        return;
    }
    let empty = match name.as_str() {
        "SET" | "APPEND" | "INCR" | "INCRBY" | "SETRANGE" => Data::String(Vec::new()),
        "RPUSH" | "LPOP" => Data::List(Vec::new()),
        "HSET" | "HDEL" => Data::Hash(Default::default()),
        "SADD" | "SREM" => Data::Set(Default::default()),
        "ZADD" | "ZREM" => Data::SortedSet(Vec::new()),
        other => panic!("{other} has no model"),
    };
    let data = model.entry(key.clone()).or_insert(empty);
    match (name.as_str(), data) {
        ("SET", Data::String(s)) => *s = args[2].clone(),
        ("APPEND", Data::String(s)) => s.extend_from_slice(&args[2]),
        ("SETRANGE", Data::String(s)) => {
            let at: usize = parse(&args[2]) as usize;
            s.resize(s.len().max(at + args[3].len()), 0);
            s[at..at + args[3].len()].copy_from_slice(&args[3]);
        }
        ("INCR" | "INCRBY", Data::String(s)) => {
            let held = if s.is_empty() { 0 } else { parse(s) };
            *s = (held + args.get(2).map_or(1, |by| parse(by))).to_string().into_bytes();
        }
        ("RPUSH", Data::List(l)) => l.extend_from_slice(&args[2..]),
        ("LPOP", Data::List(l)) if !l.is_empty() => drop(l.remove(0)),
        ("LPOP", Data::List(_)) => {}
        ("HSET", Data::Hash(h)) => drop(h.insert(args[2].clone(), args[3].clone())),
        ("HDEL", Data::Hash(h)) => drop(h.remove(&args[2])),
        ("SADD", Data::Set(s)) => drop(s.insert(args[2].clone())),
        ("SREM", Data::Set(s)) => drop(s.remove(&args[2])),
        ("ZADD", Data::SortedSet(z)) => {
            z.retain(|(member, _)| *member != args[3]);
            z.push((args[3].clone(), parse(&args[2]) as f64));
            z.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
        }
        ("ZREM", Data::SortedSet(z)) => z.retain(|(member, _)| *member != args[2]),
        (name, _) => panic!("{name} on a key of another type"),
    }
    let gone = match &model[&key] {
        Data::List(l) => l.is_empty(),
        Data::Hash(h) => h.is_empty(),
        Data::Set(s) => s.is_empty(),
        Data::SortedSet(z) => z.is_empty(),
        _ => false,
    };
    if gone {
        model.remove(&key);
    }
}

fn parse(text: &[u8]) -> i64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

/// A writer between two crashes.
struct Writer {
    id: usize,
    random: Random,
    /// All that has been acknowledged.
    model: Model,
    /// What the model will be when all that is in flight has been done.
    ahead: Model,
    sequence: u64,
    in_flight: VecDeque<Operation>,
}

impl Writer {
    fn new(id: usize, seed: u64) -> Writer {
        let random = Random::new(seed ^ (id as u64) << 32);
        let (model, ahead) = (Model::new(), Model::new());
        Writer { id, random, model, ahead, sequence: 0, in_flight: VecDeque::new() }
    }

    fn next_operation(&mut self) -> Operation {
        let (r, id) = (&mut self.random, self.id);
        self.sequence += 1;
        let sequence = self.sequence.to_string();
        let which = r.below(3);
        let key = |kind: &str| format!("w{id}:{kind}:{which}");
        // Never 0: `INCRBY key -0` is an error in Redis.
        let small = (1 + r.below(40)).to_string();
        let one = |args: &[&str]| Operation(vec![Command::new(args)]);
        match r.below(20) {
            0..3 => one(&["SET", &key("s"), &sequence]),
            3 => one(&["APPEND", &key("s"), &format!("+{sequence}")]),
            4 => one(&["INCR", &key("counter")]),
            5 | 6 => one(&["RPUSH", &key("l"), &sequence, &small]),
            7 | 8 => one(&["LPOP", &key("l")]),
            9 | 10 => one(&["HSET", &key("h"), &small, &sequence]),
            11 => one(&["HDEL", &key("h"), &small]),
            12 => one(&["SADD", &key("t"), &small]),
            13 => one(&["SREM", &key("t"), &small]),
            14 => one(&["ZADD", &key("z"), &sequence, &small]),
            15 => one(&["ZREM", &key("z"), &small]),
            16 => {
                let len = *r.pick(&[10_000, 40_000, 200_000]);
                let value = r.bytes(len);
                Operation(vec![Command::new(&[b"SET", key("large").as_bytes(), &value])])
            }
            17 => {
                let at = r.below(30_000).to_string();
                one(&["SETRANGE", &key("large"), &at, &sequence])
            }
            18 if self.ahead.contains_key(key("s").as_bytes()) => {
                one(&["RENAME", &key("s"), &format!("w{id}:renamed")])
            }
            18 => one(&["DEL", &key("h")]),
            // The sum of the two accounts is always 0.
            _ => Operation(vec![
                Command::new(&["INCRBY", &format!("w{id}:from"), &format!("-{small}")]),
                Command::new(&["INCRBY", &format!("w{id}:to"), &small]),
                Command::new(&["HSET", &key("h"), "moved", &sequence]),
            ]),
        }
    }

    /// Writes until the server dies; counts what was acknowledged.
    fn run(&mut self, port: u16, acknowledged: &AtomicU64) {
        let Ok(mut client) = Client::try_connect(port) else { return };
        let depth = *self.random.pick(&[1, 1, IN_FLIGHT]);
        loop {
            let mut out = Vec::new();
            while self.in_flight.len() < depth {
                let operation = self.next_operation();
                operation.apply(&mut self.ahead);
                operation.send(&mut out);
                self.in_flight.push_back(operation);
            }
            if client.try_send_raw(&out).is_err() {
                return;
            }
            // Half is read before more is sent, so that there is always something in flight.
            for _ in 0..depth.div_ceil(2) {
                for _ in 0..self.in_flight[0].replies() {
                    match client.try_recv() {
                        Ok(reply) => assert!(!reply.has_error(), "a write failed: {reply:?}"),
                        Err(_) => return,
                    }
                }
                self.in_flight.pop_front().unwrap().apply(&mut self.model);
                acknowledged.fetch_add(1, Relaxed);
            }
        }
    }

    /// Finds which of the states that may be is the one that is, and goes on from it.
    fn verify(&mut self, all: &Dataset) -> Result<(), String> {
        let prefix = format!("w{}:", self.id).into_bytes();
        let mine = all.iter().filter(|((_, key), _)| key.starts_with(&prefix));
        let found: Model = mine.map(|((_, key), c)| (key.clone(), c.data.clone())).collect();
        let acknowledged = self.model.clone();
        while self.model != found {
            let Some(operation) = self.in_flight.pop_front() else {
                return Err(difference(&acknowledged, &found));
            };
            operation.apply(&mut self.model);
        }
        self.in_flight.clear();
        self.ahead = self.model.clone();
        Ok(())
    }
}

fn difference(acknowledged: &Model, found: &Model) -> String {
    let keys = acknowledged.keys().chain(found.keys());
    let differing = keys.filter(|key| acknowledged.get(*key) != found.get(*key));
    let lines: Vec<String> = differing
        .map(|key| {
            let show = |model: &Model| match model.get(key) {
                Some(Data::String(s)) => Bytes(s).to_string(),
                Some(Data::List(l)) => format!("a list of {}", l.len()),
                Some(Data::Hash(h)) => format!("a hash of {}", h.len()),
                Some(Data::Set(s)) => format!("a set of {}", s.len()),
                Some(Data::SortedSet(z)) => format!("a sorted set of {}", z.len()),
                Some(Data::Stream(_)) | None => "nothing".into(),
            };
            format!("  {}: acknowledged {}, found {}", Bytes(key), show(acknowledged), show(found))
        })
        .collect();
    format!("no state that may be; keys not as acknowledged:\n{}", lines.join("\n"))
}

fn survives_kills(policy: &str) {
    let seed = env_number("VARVE_SEED").unwrap_or(1);
    let kills = env_number("VARVE_KILLS").unwrap_or(10);
    let mut random = Random::new(seed);
    let mut server =
        Server::varve().arg("--appendonly", "yes").arg("--appendfsync", policy).start();
    let mut writers: Vec<Writer> = (0..WRITERS).map(|id| Writer::new(id, seed)).collect();
    for kill in 0..kills {
        let acknowledged = AtomicU64::new(0);
        let port = server.port();
        std::thread::scope(|scope| {
            for writer in &mut writers {
                let acknowledged = &acknowledged;
                scope.spawn(move || writer.run(port, acknowledged));
            }
            // At a random moment of a random amount of work, in some rounds amid a rewrite.
            let enough = 50 + random.below(2000) as u64;
            eventually(PATIENCE, || acknowledged.load(Relaxed) >= enough);
            if random.one_in(3) {
                // Refused when the server has begun one by itself. A panic here would wait for
                // writers that only the kill ends.
                let _ = Client::try_connect(port).and_then(|mut c| c.try_cmd(&["BGREWRITEAOF"]));
            }
            std::thread::sleep(Duration::from_micros(random.below(40_000) as u64));
            server.kill9();
        });
        assert!(acknowledged.load(Relaxed) > 0, "nothing was written before kill {kill}");
        server.restart();
        let all = dataset(&mut server.client());
        for writer in &mut writers {
            if let Err(difference) = writer.verify(&all) {
                panic!(
                    "VARVE_SEED={seed}, {policy}, kill {kill}, writer {}: {difference}",
                    writer.id
                );
            }
        }
    }
}

#[test]
fn acknowledged_writes_survive_a_kill_under_always() {
    survives_kills("always");
}

#[test]
fn acknowledged_writes_survive_a_kill_under_everysec() {
    // Redis holds its writes back in memory while an fsync runs, and replies nevertheless.
    survives_kills(if Server::is_stand_in() { "no" } else { "everysec" });
}
