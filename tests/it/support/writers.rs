//! Clients that write without a pause and know at any time what must be found after a crash.
//!
//! Each writer owns its keys and keeps a model of them, and every operation is one atomic step
//! (a command, or a transaction). After a crash a writer's keys must equal the model with all
//! settled steps and some number, perhaps zero, of those that were not, in order. What is settled
//! depends on the crash: all that was acknowledged, or what was acknowledged long enough ago.

use super::client::encode;
use super::dataset::{Data, Dataset};
use super::value::Bytes;
use super::{Client, Command, Random, Value};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub const WRITERS: usize = 8;
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

    /// Whether it changes something whatever is there; some change nothing and need no disk.
    fn always_writes(&self) -> bool {
        !["LPOP", "HDEL", "SADD", "SREM", "ZREM", "DEL"].contains(&self.0[0].name().as_str())
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

/// What the writers and who ends the server tell each other.
#[derive(Default)]
pub struct Round {
    /// How many operations have been acknowledged.
    pub acknowledged: AtomicU64,
    /// Set before the disk fails: from then on writes may be refused, and what is acknowledged is
    /// not promised.
    pub failing: AtomicBool,
    /// Set after the disk has failed: nothing is written any more.
    pub failed: AtomicBool,
    /// How long what is sent after that may still be acknowledged: until it is noticed.
    pub unnoticed: Duration,
}

/// A writer between two crashes.
pub struct Writer {
    pub id: usize,
    random: Random,
    /// Whether it asks, now and then, for what it wrote to be synced: that survives at once.
    asks_for_syncs: bool,
    /// How long it rests between two sendings.
    rest: Duration,
    /// All that is settled: the oldest state that may be found.
    settled: Model,
    /// What was acknowledged since, and when.
    recent: VecDeque<(Instant, Operation)>,
    in_flight: VecDeque<Operation>,
    /// What the model will be when all that is in flight has been done.
    ahead: Model,
    sequence: u64,
}

/// [`WRITERS`] of them.
pub fn writers(seed: u64) -> Vec<Writer> {
    (0..WRITERS).map(|id| Writer::new(id, seed)).collect()
}

/// Lets the writers write to the server on `port` while `end` runs, which is to end that server:
/// a panic of its own would wait for writers that only that ends.
pub fn write_until(writers: &mut [Writer], port: u16, end: impl FnOnce(&Round)) {
    write_until_noticed(writers, port, Duration::ZERO, end);
}

/// As [`write_until`], with a server that may take some time to notice that its disk failed.
pub fn write_until_noticed(
    writers: &mut [Writer],
    port: u16,
    unnoticed: Duration,
    end: impl FnOnce(&Round),
) {
    let round = Round { unnoticed, ..Round::default() };
    std::thread::scope(|scope| {
        for writer in writers {
            let round = &round;
            scope.spawn(move || writer.run(port, round));
        }
        end(&round);
    });
    assert!(round.acknowledged.load(Relaxed) > 0, "nothing was written");
}

/// Asks for a rewrite amid the writes. It is refused when the server has begun one by itself.
pub fn rewrite(port: u16) {
    let _ = Client::try_connect(port).and_then(|mut c| c.try_cmd(&["BGREWRITEAOF"]));
}

impl Writer {
    fn new(id: usize, seed: u64) -> Writer {
        Writer {
            id,
            random: Random::new(seed ^ (id as u64) << 32),
            asks_for_syncs: false,
            rest: Duration::ZERO,
            settled: Model::new(),
            recent: VecDeque::new(),
            in_flight: VecDeque::new(),
            ahead: Model::new(),
            sequence: 0,
        }
    }

    /// Makes it ask for syncs with `WAITAOF`, which Redis has from 7.2 on.
    pub fn ask_for_syncs(&mut self) {
        self.asks_for_syncs = true;
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

    /// Makes it rest between two sendings, so that a disk can take what all of them write.
    pub fn rest(&mut self, rest: Duration) {
        self.rest = rest;
    }

    /// Writes until the server dies, or refuses to write because its disk failed.
    fn run(&mut self, port: u16, round: &Round) {
        let Ok(mut client) = Client::try_connect(port) else { return };
        let depth = *self.random.pick(&[1, 1, IN_FLIGHT]);
        // How many that were sent before the disk had failed are in flight.
        let (mut in_time, mut failed_at) = (None, None);
        loop {
            let mut out = Vec::new();
            if round.failed.load(SeqCst) {
                let at = *failed_at.get_or_insert_with(Instant::now);
                if in_time.is_none() && at.elapsed() >= round.unnoticed {
                    in_time = Some(self.in_flight.len());
                }
            }
            while self.in_flight.len() < depth {
                let operation = self.next_operation();
                operation.apply(&mut self.ahead);
                operation.send(&mut out);
                self.in_flight.push_back(operation);
            }
            let sync = self.asks_for_syncs && self.random.one_in(20);
            if sync {
                encode(&mut out, &["WAITAOF", "1", "0", "0"]);
            }
            if client.try_send_raw(&out).is_err() {
                return;
            }
            // Half is read before more is sent, so that there is always something in flight.
            let count = if sync { self.in_flight.len() } else { depth.div_ceil(2) };
            for _ in 0..count {
                for _ in 0..self.in_flight[0].replies() {
                    if receive(&mut client, round).is_none() {
                        return;
                    }
                }
                let operation = self.in_flight.pop_front().unwrap();
                match &mut in_time {
                    Some(0) => assert!(
                        !operation.always_writes(),
                        "{:?} was acknowledged and cannot have been written",
                        operation.0
                    ),
                    Some(count) => *count -= 1,
                    None => {}
                }
                self.recent.push_back((Instant::now(), operation));
                round.acknowledged.fetch_add(1, Relaxed);
            }
            if sync {
                let Some(reply) = receive(&mut client, round) else { return };
                assert_eq!(reply, Value::Array(vec![Value::Int(1), Value::Int(0)]), "WAITAOF");
                let now = Instant::now();
                if !round.failing.load(SeqCst) {
                    self.settle(now);
                }
            }
            std::thread::sleep(self.rest);
        }
    }

    /// When the newest of its operations was acknowledged that is not settled.
    pub fn newest(&self) -> Option<Instant> {
        self.recent.back().map(|(time, _)| *time)
    }

    /// Settles what had been acknowledged by `time`.
    fn settle(&mut self, time: Instant) {
        while let Some((at, operation)) = self.recent.front()
            && *at <= time
        {
            operation.apply(&mut self.settled);
            self.recent.pop_front();
        }
    }

    /// Finds which of the states that may be after a crash is the one that is, and goes on from it.
    /// All that was acknowledged by `promised` must be there.
    pub fn verify(&mut self, all: &Dataset, promised: Instant) -> Result<(), String> {
        self.settle(promised);
        let prefix = format!("w{}:", self.id).into_bytes();
        let mine = all.iter().filter(|((_, key), _)| key.starts_with(&prefix));
        let found: Model = mine.map(|((_, key), c)| (key.clone(), c.data.clone())).collect();
        let settled = self.settled.clone();
        let recent = std::mem::take(&mut self.recent).into_iter().map(|(_, operation)| operation);
        let mut unsettled = recent.chain(std::mem::take(&mut self.in_flight));
        while self.settled != found {
            let Some(operation) = unsettled.next() else {
                return Err(difference(&settled, &found));
            };
            operation.apply(&mut self.settled);
        }
        self.ahead = self.settled.clone();
        Ok(())
    }
}

/// The next reply; `None` when the server is gone, or refuses because its disk failed.
fn receive(client: &mut Client, round: &Round) -> Option<Value> {
    let reply = client.try_recv().ok()?;
    if reply.has_error() {
        assert!(round.failing.load(SeqCst), "a write failed: {reply:?}");
        return None;
    }
    Some(reply)
}

fn difference(settled: &Model, found: &Model) -> String {
    let keys = settled.keys().chain(found.keys());
    let differing = keys.filter(|key| settled.get(*key) != found.get(*key));
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
            format!("  {}: settled {}, found {}", Bytes(key), show(settled), show(found))
        })
        .collect();
    format!("no state that may be; keys not as in the oldest:\n{}", lines.join("\n"))
}
