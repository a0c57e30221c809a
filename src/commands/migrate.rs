//! `MIGRATE`: keys go to another server, and are deleted here once that has them.
//!
//! A thread talks to the target, so nobody waits for it but the client that asked, and clients that want to
//! write: between the copy and the deletion nothing may change. (With `COPY` nothing is deleted, and
//! nobody waits.) What did change all the same is kept here, and the client is told. Within a transaction
//! the loop itself talks to the target, and everybody waits: nothing may come between its commands.

use super::{Done, dump};
use crate::log_warning;
use crate::server::Server;
use crate::server::client::{BlockedOn, Client};
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use crossbeam::channel::{Receiver, bounded};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;
use varve_engine::command::{Command, Keys, Search, Spec, access::*, category, flag::*};
use varve_engine::num::parse_int;
use varve_engine::{Args, Error};
use varve_net::{ConnId, Net};
use varve_persistence::rdb;
use varve_replication::wire;

/// The longest reply line that is taken from a target.
const MAX_LINE: u64 = 4096;

/// Keys on their way to another server.
pub struct Migration {
    client: ConnId,
    db: usize,
    copy: bool,
    /// The keys, and each one's value as it was sent.
    keys: Vec<(Vec<u8>, Vec<u8>)>,
    outcome: Receiver<Outcome>,
}

/// What the target said: whether it took each key, and the first error.
struct Outcome {
    taken: Vec<bool>,
    error: Option<Error>,
}

/// What `MIGRATE`'s words ask for.
struct Request {
    host: String,
    /// `None` if it is no port.
    port: Option<u16>,
    /// The target knows whether it has one of that number.
    db: i64,
    timeout: Duration,
    copy: bool,
    replace: bool,
    auth: Vec<Vec<u8>>,
    keys: Vec<Vec<u8>>,
}

/// The indexes of the keys: the third word, or, if that is empty, those after `KEYS`.
fn key_indexes(args: &Args<'_>) -> Vec<usize> {
    if !args[3].is_empty() {
        return vec![3];
    }
    let mut i = 6;
    while let Some(word) = args.get(i) {
        i += match word.to_ascii_lowercase().as_slice() {
            b"keys" => return (i + 1..args.len()).collect(),
            b"auth" => 2,
            b"auth2" => 3,
            _ => 1,
        };
    }
    Vec::new()
}

fn parse(call: &mut Call, args: &Args<'_>) -> Result<Request, Error> {
    let (mut copy, mut replace, mut auth) = (false, false, Vec::new());
    let mut i = 6;
    while i < args.len() {
        match args[i].to_ascii_lowercase().as_slice() {
            b"copy" => copy = true,
            b"replace" => replace = true,
            word @ (b"auth" | b"auth2") => {
                let count = if word == b"auth" { 1 } else { 2 };
                if i + count >= args.len() {
                    return Err(Error::SYNTAX);
                }
                auth = (i + 1..=i + count).map(|at| args[at].to_vec()).collect();
                (i + 1..=i + count).for_each(|at| call.redact(at));
                i += count;
            }
            b"keys" if !args[3].is_empty() => {
                return Err(Error::new(
                    "ERR When using MIGRATE KEYS option, the key argument must be set to the empty string",
                ));
            }
            b"keys" => break,
            _ => return Err(Error::SYNTAX),
        }
        i += 1;
    }
    let timeout_ms = parse_int(&args[5]).ok_or(Error::NOT_INT)?;
    Ok(Request {
        host: String::from_utf8_lossy(&args[1]).into_owned(),
        port: parse_int(&args[2]).and_then(|port| u16::try_from(port).ok()),
        db: parse_int(&args[4]).ok_or(Error::NOT_INT)?,
        timeout: Duration::from_millis(if timeout_ms > 0 { timeout_ms as u64 } else { 1000 }),
        copy,
        replace,
        auth,
        keys: key_indexes(args).into_iter().map(|at| args[at].to_vec()).collect(),
    })
}

fn migrate(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let request = parse(call, args)?;
    s.see_as_reader();
    let (db, now_ms) = (call.client.db, s.ks.now_ms);
    let mut keys = Vec::new();
    let mut sent = Vec::new();
    for key in &request.keys {
        let Some(entry) = s.ks.peek(db, key) else { continue };
        let value = rdb::dump(entry, dump::VERSION);
        let ttl = entry.expire().map_or(0, |at| (at - now_ms).max(1)).to_string();
        let mut words: Vec<&[u8]> = vec![b"RESTORE", key, ttl.as_bytes(), &value];
        if request.replace {
            words.push(b"REPLACE");
        }
        sent.push(wire::command(&words));
        keys.push((key.clone(), value));
    }
    if keys.is_empty() {
        call.reply.simple("NOKEY");
        return Ok(());
    }
    if s.in_exec.is_some() {
        let outcome = talk(&request, &sent);
        if let Some(error) = s.give_away(db, request.copy, &keys, outcome) {
            return Err(error);
        }
        call.reply.ok();
        return Ok(());
    }
    let (done, outcome) = bounded(1);
    let (waker, copy) = (call.net.waker(), request.copy);
    let work = move || {
        let _ = done.send(talk(&request, &sent));
        waker.wake();
    };
    std::thread::Builder::new()
        .name("migrate".into())
        .spawn(work)
        .map_err(|e| Error::err(format_args!("can't start a thread: {e}")))?;
    s.migrations.push(Migration { client: call.id, db, copy, keys, outcome });
    s.hold();
    s.block(call, BlockedOn::Migration, None);
    Ok(())
}

/// Sends everything to the target and reads its answers.
fn talk(request: &Request, keys: &[Vec<u8>]) -> Outcome {
    let failed = |error| Outcome { taken: vec![false; keys.len()], error: Some(error) };
    try_talk(request, keys).unwrap_or_else(failed)
}

/// As [`talk`]; an error means that the target was given no key.
fn try_talk(request: &Request, keys: &[Vec<u8>]) -> Result<Outcome, Error> {
    let unreachable = |_| Error::new("IOERR error or timeout connecting to the client");
    let port = request.port.ok_or(Error::NOT_INT)?;
    let address = (&*request.host, port).to_socket_addrs().map_err(unreachable)?;
    let mut stream = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in address {
        stream = TcpStream::connect_timeout(&address, request.timeout);
        if stream.is_ok() {
            break;
        }
    }
    let mut stream = stream.map_err(unreachable)?;
    let writing = |_| Error::new("IOERR error or timeout writing to target instance");
    let reading = |_| Error::new("IOERR error or timeout reading from target instance");
    stream.set_write_timeout(Some(request.timeout)).map_err(writing)?;
    stream.set_read_timeout(Some(request.timeout)).map_err(reading)?;
    let _ = stream.set_nodelay(true);

    let mut replies = BufReader::new(stream.try_clone().map_err(reading)?);
    let mut greeting = Vec::new();
    if !request.auth.is_empty() {
        let mut words: Vec<&[u8]> = vec![b"AUTH"];
        words.extend(request.auth.iter().map(Vec::as_slice));
        greeting.push(wire::command(&words));
    }
    greeting.push(wire::command(&[b"SELECT", request.db.to_string().as_bytes()]));
    for command in &greeting {
        stream.write_all(command).map_err(writing)?;
        if let Some(error) = refusal(&mut replies).map_err(reading)? {
            return Err(error);
        }
    }
    let mut outcome = Outcome { taken: Vec::new(), error: None };
    for command in keys {
        // One at a time: a target that answers what is not read could stop reading.
        let said = stream.write_all(command).map_err(writing);
        match said.and_then(|()| refusal(&mut replies).map_err(reading)) {
            Ok(refused) => {
                outcome.taken.push(refused.is_none());
                outcome.error = outcome.error.or(refused);
            }
            // What the target has by now it has; the rest stays.
            Err(error) => {
                outcome.error = Some(error);
                outcome.taken.resize(keys.len(), false);
                break;
            }
        }
    }
    Ok(outcome)
}

/// Reads a reply; the error that it is, if it is one.
fn refusal(replies: &mut impl BufRead) -> io::Result<Option<Error>> {
    let mut line = Vec::new();
    replies.take(MAX_LINE).read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text: String = line
        .trim_ascii_end()
        .iter()
        .map(|&b| if b.is_ascii_graphic() { b as char } else { ' ' })
        .collect();
    match text.strip_prefix('-') {
        Some(why) => {
            Ok(Some(Error::err(format_args!("Target instance replied with error: {why}"))))
        }
        None if text.starts_with('+') => Ok(None),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Server {
    /// Whether writes wait until keys have gone.
    pub fn is_migrating(&self) -> bool {
        self.migrations.iter().any(|migration| !migration.copy)
    }

    /// Ends the migrations whose target has answered.
    pub fn migration_turn(&mut self, net: &mut Net<Client>) {
        let mut ended = false;
        let mut at = 0;
        while at < self.migrations.len() {
            match self.migrations[at].outcome.try_recv() {
                Ok(outcome) => {
                    let migration = self.migrations.swap_remove(at);
                    self.end_migration(net, migration, outcome);
                    ended = true;
                }
                Err(_) => at += 1,
            }
        }
        if ended {
            self.let_go(net);
        }
    }

    /// Deletes what the target took, unless it was to be copied only. The first error.
    fn give_away(
        &mut self,
        db: usize,
        copy: bool,
        keys: &[(Vec<u8>, Vec<u8>)],
        outcome: Outcome,
    ) -> Option<Error> {
        self.see_as_reader();
        let mut error = outcome.error;
        let mut gone: Vec<&[u8]> = vec![b"DEL"];
        let taken = keys.iter().zip(outcome.taken).filter(|(_, taken)| *taken);
        for ((key, sent), _) in taken.filter(|_| !copy) {
            let now = self.ks.peek(db, key).map(|entry| rdb::dump(entry, dump::VERSION));
            if self.is_primary() && now.as_deref() == Some(sent) {
                self.ks.delete(db, key, true);
                gone.push(key);
            } else {
                let text =
                    "ERR A key changed while it was on its way: it is here and at the target";
                log_warning!("MIGRATE: '{}': {text}", key.escape_ascii());
                error.get_or_insert(Error::new(text));
            }
        }
        if gone.len() > 1 {
            self.ks.effects.push(db, gone.into_iter());
        }
        error
    }

    fn end_migration(&mut self, net: &mut Net<Client>, migration: Migration, outcome: Outcome) {
        let Migration { client, db, copy, keys, .. } = migration;
        let error = self.give_away(db, copy, &keys, outcome);
        if !self.ks.effects.is_empty() {
            self.append_effects();
        }
        let waits =
            |c: &Client| c.blocked.as_ref().is_some_and(|b| matches!(b.on, BlockedOn::Migration));
        if !net.conn(client).is_some_and(|conn| waits(&conn.session)) {
            return;
        }
        let end = self.log.end().0;
        self.with_client(net, client, |s, call| {
            s.unblock(call.id, call.client);
            call.client.wrote_to = end;
            match error {
                Some(error) => {
                    s.count_error(&error);
                    call.reply.error(&error);
                }
                None => call.reply.ok(),
            }
        });
    }
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: migrate, spec: Spec::new("migrate", -6, WRITE, category::KEYSPACE | category::DANGEROUS, Keys::Special(3, key_indexes)).key(RW | ACCESS | DELETE).more_keys(&[(Search::After("KEYS", -2), RW | ACCESS | DELETE | INCOMPLETE)]).tips(&["nondeterministic_output"]).doc("generic", "2.6.0", "O(N) in the values' sizes, and the time that the target takes", "Moves keys to another server.", r#"host port key-or-empty-string=(key|empty-string="") destination-db timeout:integer [COPY]@3.0.0 [REPLACE]@3.0.0 authentication=[AUTH password@4.0.7|AUTH2 (username password)@6.0.0] [KEYS key...]@3.0.6"#) },
];
