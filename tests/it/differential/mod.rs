//! Random command sequences on the server under test and on Redis, reply by reply, then the data of
//! both, before and after `DEBUG RELOAD`.
//!
//! A run is a list of steps made from a seed alone. When a step's replies differ, the run's tail is
//! replayed on emptied servers and cut down while it still fails, and what remains is printed.

mod compare;
pub mod grammar;

use crate::support::dataset::scan_all;
use crate::support::{
    Client, Command, Random, Server, Value, dataset, env_number, first_difference,
};
use compare::{
    CLOCK_SLACK_MS, beyond_double, count_differs_as_it_may, differs_as_it_may, encoding_name,
    event_differs_as_it_may, number, same,
};
use grammar::{CHANCE, FLOAT, Grammar, POP, SCAN};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The channel of the message behind those that are looked at.
const END: &str = "looked-at-until-here";

/// The fields of `INFO` that count.
const COUNTED: [&str; 6] = [
    "rdb_changes_since_last_save",
    "keyspace_hits",
    "keyspace_misses",
    "total_error_replies",
    "expired_keys",
    "total_commands_processed",
];

/// What is done to both servers at once.
#[derive(Clone, Debug)]
enum Step {
    Plain(Command),
    /// `MULTI`, the commands, `EXEC` or `DISCARD`; before it perhaps a watched key and another
    /// client's command.
    Transaction {
        watch: Option<(Vec<u8>, Command)>,
        body: Vec<Command>,
        exec: bool,
    },
    /// The reply is left to chance and nothing changes.
    Chance(Command),
    /// `SPOP`: what the one server took, the other must be able to give.
    Pop(Command),
    Float(Command),
    Encoding(Vec<u8>),
    Scan(Command),
    /// `DUMP` on each, `RESTORE` on the other.
    Transfer {
        from: Vec<u8>,
        to: Vec<u8>,
        ttl: bool,
    },
}

impl Step {
    fn commands(&self) -> u64 {
        match self {
            Step::Transaction { body, .. } => body.len() as u64 + 2,
            Step::Transfer { .. } | Step::Encoding(_) => 2,
            _ => 1,
        }
    }
}

fn next_step(grammar: &mut Grammar) -> Step {
    match grammar.random.below(1000) {
        0..850 => Step::Plain(grammar.plain()),
        850..890 => {
            let watch = grammar.random.one_in(3).then(|| (grammar.key(), grammar.plain()));
            let len = 1 + grammar.random.below(6);
            let body = (0..len).map(|_| grammar.plain()).filter(may_queue).collect();
            Step::Transaction { watch, body, exec: !grammar.random.one_in(8) }
        }
        890..915 => Step::Chance(grammar.draw(CHANCE)),
        915..930 => Step::Pop(grammar.draw(POP)),
        930..950 => Step::Float(grammar.draw(FLOAT)),
        950..975 => Step::Encoding(grammar.key()),
        975..985 => Step::Scan(grammar.draw(SCAN)),
        _ => {
            Step::Transfer { from: grammar.key(), to: grammar.key(), ttl: grammar.random.one_in(3) }
        }
    }
}

/// `EXEC` within the body would end it early and leave the replies without their commands.
fn may_queue(command: &Command) -> bool {
    !matches!(command.name().as_str(), "EXEC" | "DISCARD" | "MULTI" | "WATCH")
}

/// Adds a command, or a whole transaction, for tests in which chance and order may have effects:
/// a replica follows what happened, whatever it was.
pub fn random_write(grammar: &mut Grammar, out: &mut Vec<Command>) {
    match grammar.random.below(40) {
        0 => out.push(grammar.draw(POP)),
        1 => out.push(grammar.draw(FLOAT)),
        2 => {
            let near_ms = grammar.random.between(1, 500).to_string();
            out.push(Command::new(&[b"PEXPIRE", &grammar.key()[..], near_ms.as_bytes()]));
        }
        3 => {
            out.push(Command::new(&["MULTI"]));
            out.extend((0..4).map(|_| grammar.plain()).filter(may_queue));
            out.push(Command::new(&["EXEC"]));
        }
        _ => out.push(grammar.plain()),
    }
}

/// The server under test (first) and the oracle, each with two connections that send commands, a subscriber
/// of keyspace events and a monitor.
struct Pair {
    servers: [Server; 2],
    main: [Client; 2],
    other: [Client; 2],
    subscribed: [Client; 2],
    monitor: [Client; 2],
    resp3: bool,
    flushes: u64,
    /// Whether each batch is counted, instead of some.
    counts_all: bool,
}

impl Pair {
    fn start(resp3: bool) -> Pair {
        let servers = [Server::start(), Server::redis().start()];
        let main = [servers[0].client(), servers[1].client()];
        let other = [servers[0].client(), servers[1].client()];
        let subscribed = [servers[0].client(), servers[1].client()];
        let monitor = [servers[0].client(), servers[1].client()];
        let (flushes, counts_all) = (0, false);
        let mut pair =
            Pair { servers, main, other, subscribed, monitor, resp3, flushes, counts_all };
        pair.reset();
        pair
    }

    /// Fresh connections to empty servers, also when the last steps killed one.
    fn reset(&mut self) {
        for i in 0..2 {
            if Client::try_connect(self.servers[i].port()).is_err() {
                self.servers[i].kill9();
                self.servers[i].restart();
            }
            self.main[i] = self.servers[i].client();
            self.other[i] = self.servers[i].client();
            if self.resp3 {
                self.main[i].ok(&["HELLO", "3"]);
            }
            self.main[i].ok(&["FLUSHALL"]);
            self.main[i].ok(&["CONFIG", "SET", "notify-keyspace-events", "EAn"]);
            self.main[i].ok(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
            self.subscribed[i] = self.servers[i].client();
            self.subscribed[i].ok(&["PSUBSCRIBE", "__keyevent@*", END]);
            self.subscribed[i].recv();
            self.monitor[i] = self.servers[i].client();
            self.monitor[i].ok(&["MONITOR"]);
        }
    }

    /// What the subscriber and the monitor of a server saw since they were asked last.
    fn witnessed(&mut self, i: usize) -> [Vec<Value>; 2] {
        self.other[i].ok(&["PUBLISH", END, END]);
        let mut events = Vec::new();
        loop {
            let mut event = self.subscribed[i].recv().items();
            if event[2] == Value::bulk(END) {
                break;
            }
            if !event_differs_as_it_may(event[2].bytes()) {
                events.push(Value::Array(event.split_off(2)));
            }
        }
        let mut commands = Vec::new();
        loop {
            // The time and who sent it come first.
            let line = self.monitor[i].recv().text();
            let command = line.split_once("] ").expect("an address").1;
            if command.contains(END) {
                break;
            }
            commands.push(Value::bulk(command));
        }
        [events, commands]
    }

    /// What `INFO` of a server counts: commands by name and outcome, errors, changes.
    fn counters(&mut self, i: usize) -> BTreeMap<String, i64> {
        let text = self.other[i].ok(&["INFO", "everything"]).text();
        let mut counters = BTreeMap::new();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            if COUNTED.contains(&name) {
                counters.insert(name.to_string(), value.parse().unwrap());
            } else if name.starts_with("cmdstat_") || name.starts_with("errorstat_") {
                for (what, n) in value.split(',').filter_map(|part| part.split_once('=')) {
                    if !what.starts_with("usec") {
                        counters.insert(format!("{name} {what}"), n.parse().unwrap());
                    }
                }
            }
        }
        counters
    }

    /// Compares what the servers counted while they ran `commands`.
    fn compare_counters(
        &mut self,
        commands: &[Command],
        before: [BTreeMap<String, i64>; 2],
    ) -> Result<(), String> {
        let mut counted = [BTreeMap::new(), BTreeMap::new()];
        for (i, before) in before.iter().enumerate() {
            for (name, n) in self.counters(i) {
                let more = n - before.get(&name).unwrap_or(&0);
                if more != 0 && !count_differs_as_it_may(&name, commands) {
                    counted[i].insert(name, more);
                }
            }
        }
        let [ours, oracle] = counted;
        let odd: BTreeSet<&String> =
            ours.keys().chain(oracle.keys()).filter(|k| ours.get(*k) != oracle.get(*k)).collect();
        match odd.first() {
            None => Ok(()),
            Some(name) => {
                let (ours, oracle) = (ours.get(*name), oracle.get(*name));
                Err(format!("{name} rose by {ours:?} here, by {oracle:?} in Redis"))
            }
        }
    }

    /// Compares what others were told of the commands since the last time.
    fn compare_witnesses(&mut self) -> Result<(), String> {
        let (ours, oracle) = (self.witnessed(0), self.witnessed(1));
        for (ours, oracle) in ours.iter().zip(&oracle) {
            if ours != oracle {
                let at = ours.iter().zip(oracle).take_while(|(x, y)| x == y).count();
                return Err(format!(
                    "others saw {:?} of us, {:?} of Redis",
                    ours.get(at),
                    oracle.get(at)
                ));
            }
        }
        Ok(())
    }

    fn both(&mut self, command: &Command) -> (Value, Value) {
        (self.main[0].cmd(&command.0), self.main[1].cmd(&command.0))
    }

    /// Runs the steps; plain ones and transactions in pipelined batches.
    /// On a difference: which step, and what was different.
    fn run(&mut self, steps: &[Step]) -> Result<(), (usize, String)> {
        let mut batch: Vec<(usize, Command)> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Plain(command) => batch.push((at, command.clone())),
                Step::Transaction { watch, body, exec } => {
                    if let Some((key, foreign)) = watch {
                        self.flush(&mut batch)?;
                        let watch = Command::new(&[b"WATCH", &key[..]]);
                        self.flush(&mut vec![(at, watch)])?;
                        let ours = self.other[0].cmd(&foreign.0);
                        let oracle = self.other[1].cmd(&foreign.0);
                        expect(foreign, &ours, &oracle).map_err(|e| (at, e))?;
                    }
                    batch.push((at, Command::new(&["MULTI"])));
                    batch.extend(body.iter().map(|c| (at, c.clone())));
                    batch.push((at, Command::new(&[if *exec { "EXEC" } else { "DISCARD" }])));
                }
                special => {
                    self.flush(&mut batch)?;
                    self.special(special).map_err(|e| (at, e))?;
                    // What is undone or done in another way looks different to others.
                    (0..2).for_each(|i| drop(self.witnessed(i)));
                }
            }
            if batch.len() >= 200 {
                self.flush(&mut batch)?;
            }
        }
        self.flush(&mut batch)
    }

    fn flush(&mut self, batch: &mut Vec<(usize, Command)>) -> Result<(), (usize, String)> {
        let commands: Vec<Command> = batch.iter().map(|(_, c)| c.clone()).collect();
        self.flushes += 1;
        let counts = self.counts_all || self.flushes.is_multiple_of(8);
        let before = counts.then(|| [0, 1].map(|i| self.counters(i)));
        let ours = self.main[0].pipeline(&commands);
        let oracle = self.main[1].pipeline(&commands);
        let mut queued: Vec<&Command> = Vec::new();
        for (i, (at, command)) in batch.iter().enumerate() {
            let verdict = match (command.name().as_str(), &ours[i], &oracle[i]) {
                ("EXEC", Value::Array(x), Value::Array(y)) => {
                    expect_all(&queued, x, y).map_err(|e| format!("in EXEC: {e}"))
                }
                (_, ours, oracle) => expect(command, ours, oracle),
            };
            verdict.map_err(|e| (*at, e))?;
            match oracle[i] {
                Value::Status(ref s) if s == "QUEUED" => queued.push(command),
                _ if command.name() == "EXEC" || command.name() == "DISCARD" => queued.clear(),
                _ => {}
            }
        }
        let last = batch.last().map_or(0, |(at, _)| *at);
        batch.clear();
        if let Some(before) = before {
            self.compare_counters(&commands, before).map_err(|e| (last, e))?;
        }
        self.compare_witnesses().map_err(|e| (last, e))
    }

    fn special(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Chance(command) => self.chance(command),
            Step::Pop(command) => self.pop(command),
            Step::Float(command) => self.float(command),
            Step::Encoding(key) => {
                let kind = Command::new(&[b"TYPE", &key[..]]);
                let encoding = Command::new(&[&b"OBJECT"[..], b"ENCODING", key]);
                let (kind, oracle_kind) = self.both(&kind);
                expect(&encoding, &kind, &oracle_kind)?;
                let (ours, oracle) = self.both(&encoding);
                let (Value::Bulk(x), Value::Bulk(y)) = (&ours, &oracle) else {
                    return expect(&encoding, &ours, &oracle);
                };
                let name = |e: &[u8]| encoding_name(&kind.text(), &String::from_utf8_lossy(e));
                if name(x) == name(y) || self.was_only_sorted(key, x, y) {
                    return Ok(());
                }
                Err(told(&encoding, &ours, &oracle))
            }
            Step::Scan(command) => self.scan(command),
            Step::Transfer { from, to, ttl } => self.transfer(from, to, *ttl),
            Step::Plain(_) | Step::Transaction { .. } => unreachable!("these are batched"),
        }
    }

    /// Whether Redis's sorted set is a skip list only because `SORT` made it one to read it: a copy
    /// that went through `DUMP` is then small again.
    fn was_only_sorted(&mut self, key: &[u8], ours: &[u8], oracle: &[u8]) -> bool {
        if (ours, oracle) != (b"listpack", b"skiplist") {
            return false;
        }
        let oracle = &mut self.main[1];
        let dump = oracle.ok(&[b"DUMP", key]);
        oracle.ok(&[b"RESTORE", &b"copy"[..], b"0", dump.bytes()]);
        let encoding = oracle.ok(&["OBJECT", "ENCODING", "copy"]);
        oracle.ok(&["DEL", "copy"]);
        encoding == Value::bulk("listpack")
    }

    /// A random reply must be one that the other server's data could have given.
    fn chance(&mut self, command: &Command) -> Result<(), String> {
        let (ours, oracle) = self.both(command);
        if ours.is_error() || ours == oracle {
            return expect(command, &ours, &oracle);
        }
        if command.name() == "RANDOMKEY" {
            let exists = Command::new(&[b"EXISTS", ours.bytes()]);
            let (x, y) = self.both(&exists);
            return expect(&exists, &x, &y);
        }
        let with_values = command.has("WITHVALUES") || command.has("WITHSCORES");
        let all = match command.name().as_str() {
            "SRANDMEMBER" => Command::new(&[b"SMEMBERS", &command.0[1][..]]),
            "HRANDFIELD" => Command::new(&[b"HGETALL", &command.0[1][..]]),
            _ => Command::new(&[b"ZRANGE", &command.0[1][..], b"0", b"-1", b"WITHSCORES"]),
        };
        let paired = all.name() != "SMEMBERS";
        let (_, universe) = self.both(&all);
        let universe = members(universe, paired);
        let (drawn, expected) = if command.0.len() == 2 {
            (members(Value::Array(vec![ours.clone()]), false), 1)
        } else {
            let expected = flat(oracle.clone()).len();
            if flat(ours.clone()).len() != expected {
                return Err(told(command, &ours, &oracle));
            }
            (members(ours.clone(), with_values), expected / (1 + usize::from(with_values)))
        };
        let may_repeat = command.0.get(2).is_some_and(|count| count.starts_with(b"-"));
        let valid = drawn.iter().all(|(member, value)| match universe.get(member) {
            Some(held) => !with_values || value == held || number(value) == number(held),
            None => false,
        });
        if !valid || (!may_repeat && drawn.len() != expected) {
            return Err(told(command, &ours, &oracle));
        }
        Ok(())
    }

    /// The server under test pops; what it gave is then removed from the oracle.
    fn pop(&mut self, command: &Command) -> Result<(), String> {
        let ours = self.main[0].cmd(&command.0);
        let taken = match &ours {
            Value::Bulk(member) => vec![member.clone()],
            Value::Array(_) | Value::Set(_) => ours.clone().byte_items(),
            _ => Vec::new(),
        };
        if taken.is_empty() {
            let oracle = self.main[1].cmd(&command.0);
            return expect(command, &ours, &oracle);
        }
        let key = &command.0[1];
        let held = self.main[1].cmd(&[b"SCARD", &key[..]]).int();
        let asked = command.0.get(2).map_or(1, |n| number(n).unwrap() as i64);
        let mut remove = Command::new(&[b"SREM", &key[..]]);
        remove.0.extend(taken.iter().cloned());
        let removed = self.main[1].cmd(&remove.0);
        let expected = asked.min(held);
        if removed != Value::Int(expected) || taken.len() as i64 != expected {
            return Err(format!("{command:?} took {ours:?}, of which Redis had {removed:?}"));
        }
        // Redis builds a new set of what remains when that is little, perhaps in another encoding.
        let remains = held - expected;
        if remains > 0 && remains * 5 <= asked {
            self.both(&Command::new(&[b"DEL", &key[..]]));
        }
        Ok(())
    }

    fn float(&mut self, command: &Command) -> Result<(), String> {
        if command.0.last().is_some_and(|by| beyond_double(by)) {
            return Ok(());
        }
        let (ours, oracle) = self.both(command);
        match (&ours, &oracle) {
            (x, Value::Bulk(y)) if x != &oracle && differs_as_it_may(x, y) => {
                let mut undo = Command::new(&["DEL"]);
                if command.name() == "HINCRBYFLOAT" {
                    undo.0[0] = b"HDEL".to_vec();
                }
                undo.0.extend(command.0[1..command.0.len() - 1].iter().cloned());
                let (x, y) = self.both(&undo);
                expect(&undo, &x, &y)
            }
            _ => expect(command, &ours, &oracle),
        }
    }

    /// A whole iteration of each: the same elements, in whatever order and how often.
    fn scan(&mut self, command: &Command) -> Result<(), String> {
        let cursor = command.0.iter().position(|a| a == b"@cursor").unwrap();
        let mut first = command.clone();
        first.0[cursor] = b"0".to_vec();
        let (ours, oracle) = self.both(&first);
        if ours.is_error() || oracle.is_error() {
            return expect(&first, &ours, &oracle);
        }
        let (head, tail) = (&command.0[..cursor], &command.0[cursor + 1..]);
        let [ours, oracle] = [0, 1].map(|i| scan_all(&mut self.main[i], head, tail));
        // ZSCAN gives members and scores in one list; 7.0 and 7.2 print a score differently, and a
        // set that was made large at once has kept the sign of -0 only in 7.2.
        let odd: Vec<_> = ours.symmetric_difference(&oracle).collect();
        let numbers = |set: &BTreeSet<Vec<u8>>| -> BTreeSet<u64> {
            set.iter().filter_map(|v| Some((number(v)? + 0.0).to_bits())).collect()
        };
        let only_scores = command.name() == "ZSCAN"
            && odd.iter().all(|v| number(v).is_some())
            && numbers(&ours) == numbers(&oracle);
        if odd.is_empty() || only_scores {
            return Ok(());
        }
        let show = |v: &&Vec<u8>| Value::Bulk((*v).clone());
        Err(format!("{command:?}: only one has {:?}", odd.iter().map(show).collect::<Vec<_>>()))
    }

    fn transfer(&mut self, from: &[u8], to: &[u8], ttl: bool) -> Result<(), String> {
        let dump = Command::new(&[b"DUMP", from]);
        let (ours, oracle) = self.both(&dump);
        let (Value::Bulk(x), Value::Bulk(y)) = (&ours, &oracle) else {
            return expect(&dump, &ours, &oracle);
        };
        let ttl: &[u8] = if ttl { b"360000000" } else { b"0" };
        let restore = |payload: &[u8]| Command::new(&[b"RESTORE", to, ttl, payload, b"REPLACE"]);
        let (to_us, to_oracle) = (restore(y), restore(x));
        let answers = (self.main[0].cmd(&to_us.0), self.main[1].cmd(&to_oracle.0));
        expect(&to_us, &answers.0, &answers.1)
    }

    /// The first difference of all data.
    fn compare_data(&mut self) -> Result<(), String> {
        let ours = dataset(&mut self.main[0]);
        let oracle = dataset(&mut self.main[1]);
        first_difference(&ours, &oracle, CLOCK_SLACK_MS).map_or(Ok(()), Err)
    }

    fn run_and_compare(&mut self, steps: &[Step]) -> Result<(), (usize, String)> {
        let end = steps.len().saturating_sub(1);
        let all = AssertUnwindSafe(|| {
            self.run(steps)?;
            self.compare_data().map_err(|e| (end, e))?;
            self.both(&Command::new(&["DEBUG", "RELOAD"]));
            self.compare_data().map_err(|e| (end, format!("after DEBUG RELOAD: {e}")))
        });
        catch_unwind(all).unwrap_or_else(|cause| {
            let text = cause.downcast_ref::<String>().cloned();
            Err((end, format!("a server or its replies broke: {}", text.unwrap_or_default())))
        })
    }
}

/// All elements of a reply, pairs and maps taken apart.
fn flat(reply: Value) -> Vec<Value> {
    match reply {
        Value::Bulk(_) | Value::Nil | Value::NilArray => vec![reply],
        nested => nested
            .items()
            .into_iter()
            .flat_map(|v| if let Value::Array(pair) = v { pair } else { vec![v] })
            .collect(),
    }
}

/// Members, with what belongs to each when they come in pairs.
fn members(reply: Value, paired: bool) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let text = |v: &Value| match v {
        Value::Double(d) => d.to_string().into_bytes(),
        Value::Nil => b"nil".to_vec(),
        other => other.bytes().to_vec(),
    };
    let items: Vec<Vec<u8>> = flat(reply).iter().map(text).collect();
    if paired {
        items.chunks(2).map(|p| (p[0].clone(), p[1].clone())).collect()
    } else {
        items.into_iter().map(|m| (m, Vec::new())).collect()
    }
}

fn told(command: &Command, ours: &Value, oracle: &Value) -> String {
    format!("{command:?}\n  tested: {ours:?}\n  redis:  {oracle:?}")
}

fn expect(command: &Command, ours: &Value, oracle: &Value) -> Result<(), String> {
    same(command, ours, oracle).then_some(()).ok_or_else(|| told(command, ours, oracle))
}

fn expect_all(commands: &[&Command], ours: &[Value], oracle: &[Value]) -> Result<(), String> {
    if ours.len() != oracle.len() || ours.len() != commands.len() {
        return Err(format!("{} and {} replies", ours.len(), oracle.len()));
    }
    commands.iter().zip(ours.iter().zip(oracle)).try_for_each(|(c, (x, y))| expect(c, x, y))
}

/// Cuts a failing run down: first to its shortest failing tail, then by dropping steps.
fn shrink(pair: &mut Pair, steps: &[Step]) -> Vec<Step> {
    static QUIET: Mutex<()> = Mutex::new(()); // the hook is one for all threads
    let _quiet = QUIET.lock().unwrap_or_else(PoisonError::into_inner);
    let deadline = Instant::now() + Duration::from_secs(60);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    pair.counts_all = true;
    let mut fails = |steps: &[Step]| {
        pair.reset();
        pair.run_and_compare(steps).err().map(|(at, _)| at)
    };
    let mut len = 1;
    let mut tail = steps.to_vec();
    while len < steps.len() && Instant::now() < deadline {
        if fails(&steps[steps.len() - len..]).is_some() {
            tail = steps[steps.len() - len..].to_vec();
            break;
        }
        len *= 2;
    }
    let mut chunk = tail.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < tail.len() && Instant::now() < deadline {
            let mut shorter = tail.clone();
            shorter.drain(at..(at + chunk).min(tail.len()));
            match fails(&shorter) {
                Some(end) => {
                    shorter.truncate(end + 1);
                    tail = shorter;
                }
                None => at += chunk,
            }
        }
        chunk /= 2;
    }
    std::panic::set_hook(hook);
    tail
}

/// One seed's run of about `commands` commands; the explanation when it failed.
fn run_seed(seed: u64, commands: u64) -> Result<(), String> {
    let mut pair = Pair::start(seed % 2 == 1);
    let mut grammar = Grammar { random: Random::new(seed) };
    // The data is compared, and reloaded, several times: a difference then has a short history.
    for part in 0..4 {
        pair.reset();
        let mut steps = Vec::new();
        let mut count = 0;
        while count < commands / 4 {
            let step = next_step(&mut grammar);
            count += step.commands();
            steps.push(step);
        }
        if let Err((at, difference)) = pair.run_and_compare(&steps) {
            let tail = shrink(&mut pair, &steps[..=at]);
            let tail: Vec<String> = tail.iter().map(|step| format!("  {step:?}")).collect();
            return Err(format!(
                "VARVE_SEED={seed} VARVE_COMMANDS={commands}: part {part}, step {at}:\n\
                 {difference}\nshortest failing run found:\n{}",
                tail.join("\n")
            ));
        }
    }
    Ok(())
}

#[test]
fn random_commands_are_answered_as_redis_answers() {
    let commands = env_number("VARVE_COMMANDS").unwrap_or(200_000);
    let seeds = match env_number("VARVE_SEED") {
        Some(seed) => vec![seed],
        None => vec![1, 2, 3, 4],
    };
    let each = if seeds.len() == 1 { commands } else { commands.div_ceil(seeds.len() as u64) };
    let runs: Vec<_> =
        seeds.iter().map(|&seed| std::thread::spawn(move || run_seed(seed, each))).collect();
    let failures: Vec<String> = runs
        .into_iter()
        .filter_map(|run| run.join().expect("a run ended by itself").err())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
