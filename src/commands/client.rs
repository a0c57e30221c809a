//! `CLIENT`: who is connected, and what may be done about them.
//!
//! A command's own connection is not among the loop's while the command runs, so every walk over the
//! clients takes it from the [`Call`] at its place.

use super::connection::check_name;
use super::replication::wait_until;
use super::{Done, no_such_use};
use crate::server::client::{Client, Kind, ReplyMode};
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use crate::server::tracking::Tracker;
use crate::server::{Pause, Server};
use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::Bound;
use std::os::fd::AsRawFd;
use std::time::Instant;
use varve_engine::command::{Command, Keys, Spec, category, flag::*};
use varve_engine::num::parse_int;
use varve_engine::{Args, Error};
use varve_net::{Conn, ConnId};

/// The classes of `CLIENT LIST TYPE` and `CLIENT KILL TYPE`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Normal,
    Primary,
    Replica,
    PubSub,
}

impl Class {
    fn of(client: &Client) -> Class {
        match client.kind {
            Kind::Primary => Class::Primary,
            Kind::Replica => Class::Replica,
            _ if client.in_pubsub() => Class::PubSub,
            _ => Class::Normal,
        }
    }

    fn parse(word: &[u8]) -> Result<Class, Error> {
        match &word.to_ascii_lowercase()[..] {
            b"normal" => Ok(Class::Normal),
            b"slave" | b"replica" => Ok(Class::Replica),
            b"pubsub" => Ok(Class::PubSub),
            b"master" => Ok(Class::Primary),
            _ => Err(Error::err(format_args!(
                "Unknown client type '{}'",
                String::from_utf8_lossy(word)
            ))),
        }
    }
}

/// What a line of `CLIENT LIST` says of a connection's buffers and addresses.
#[derive(Default)]
struct Facts {
    local: String,
    fd: i32,
    idle_s: u64,
    input: usize,
    input_free: usize,
    output: usize,
    output_memory: usize,
    memory: usize,
    resp3: bool,
}

impl Facts {
    fn of(conn: &Conn<Client>) -> Facts {
        Facts {
            local: match &conn.session.local {
                unknown if unknown.is_empty() => conn.local().to_string(),
                known => known.clone(),
            },
            fd: conn.fd().as_raw_fd(),
            idle_s: conn.silent_for(Instant::now()).as_secs(),
            input: conn.input.pending(),
            input_free: conn.input.memory().saturating_sub(conn.input.pending()),
            output: conn.output.len(),
            output_memory: conn.output.memory(),
            memory: conn.memory(),
            resp3: conn.output.resp3,
        }
    }

    /// Of the client whose command runs.
    fn own(call: &Call<'_>) -> Facts {
        Facts {
            local: call.client.local.clone(),
            fd: call.client.fd,
            output: call.reply.len(),
            output_memory: call.reply.memory(),
            memory: call.reply.memory() + size_of::<Client>(),
            resp3: call.reply.resp3,
            ..Facts::default()
        }
    }
}

impl Server {
    /// One line of `CLIENT LIST`, without its end.
    fn client_line(&self, client: &Client, id: ConnId, facts: &Facts) -> String {
        let now = self.clock.now_ms();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let multi = client.multi.as_ref().map_or(-1, |m| m.queue.len() as i64);
        let queued = client.queued();
        let tracker = self.tracking.of(id);
        let command = client.last_command.map_or("NULL", |c| self.commands.get(c).spec.name);
        let mut line = String::with_capacity(320);
        let _ = write!(
            line,
            "id={id} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={multi} qbuf={} qbuf-free={} argv-mem={} multi-mem={queued} rbs={} rbp={} obl={} oll=0 omem={} tot-mem={} events=r cmd={command} user=default redir={} resp={} lib-name={} lib-ver={}",
            client.peer,
            facts.local,
            facts.fd,
            text(&client.name),
            (now - client.created_ms).max(0) / 1000,
            facts.idle_s,
            client.flags(tracker),
            client.db,
            client.channels.len(),
            client.patterns.len(),
            client.shard_channels.len(),
            facts.input,
            facts.input_free,
            client.waiting(),
            facts.output_memory,
            facts.output_memory,
            facts.output,
            if facts.output > 0 { facts.output_memory } else { 0 },
            facts.memory + client.memory(tracker),
            tracker.map_or(-1, |t| t.redirect as i64),
            if facts.resp3 { 3 } else { 2 },
            text(&client.lib_name),
            text(&client.lib_ver),
        );
        line
    }

    /// Visits every client in the order of ids, the one at hand included. Its facts are gathered if they are
    /// asked for.
    fn each_client(
        &self,
        call: &Call<'_>,
        mut visit: impl FnMut(ConnId, &Client, &dyn Fn() -> Facts),
    ) {
        let mut ids: Vec<ConnId> = call
            .net
            .iter()
            .filter(|c| c.session.kind != Kind::Child && !c.close_asap && c.id != call.id)
            .map(|c| c.id)
            .collect();
        ids.push(call.id);
        ids.sort_unstable();
        for id in ids {
            if id == call.id {
                visit(id, call.client, &|| Facts::own(call));
            } else if let Some(conn) = call.net.conn(id) {
                visit(id, &conn.session, &|| Facts::of(conn));
            }
        }
    }
}

fn id(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.int(call.id as i64);
    Ok(())
}

fn info(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let line = s.client_line(call.client, call.id, &Facts::own(call)) + "\n";
    call.reply.verbatim("txt", line.as_bytes());
    Ok(())
}

fn list(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let (mut class, mut wanted): (Option<Class>, Option<Vec<ConnId>>) = (None, None);
    match (args.get(2), args.len()) {
        (None, _) => {}
        (Some(word), 4) if word.eq_ignore_ascii_case(b"type") => {
            class = Some(Class::parse(&args[3])?)
        }
        (Some(word), 4..) if word.eq_ignore_ascii_case(b"id") => {
            let mut ids = Vec::new();
            for word in args.rest(3) {
                let id = parse_int(word).ok_or(Error::new("ERR Invalid client ID"))?;
                ids.push(id as ConnId);
            }
            wanted = Some(ids);
        }
        _ => return Err(Error::SYNTAX),
    }
    let mut text = String::new();
    s.each_client(call, |id, client, facts| {
        let asked = class.is_none_or(|c| c == Class::of(client))
            && wanted.as_ref().is_none_or(|ids| ids.contains(&id));
        if asked {
            text.push_str(&s.client_line(client, id, &facts()));
            text.push('\n');
        }
    });
    call.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

/// Which clients `CLIENT KILL` closes.
#[derive(Default)]
struct Filter {
    id: Option<ConnId>,
    addr: Option<String>,
    laddr: Option<String>,
    class: Option<Class>,
    user: bool,
    max_age_s: Option<i64>,
    skip_me: bool,
}

fn kill(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let old_form = args.len() == 3;
    let mut filter = Filter { skip_me: true, ..Filter::default() };
    if old_form {
        (filter.addr, filter.skip_me) = (Some(text(&args[2])), false);
    } else {
        let mut i = 2;
        while i < args.len() {
            let Some(value) = args.get(i + 1) else { return Err(Error::SYNTAX) };
            match &args[i].to_ascii_lowercase()[..] {
                b"id" => match parse_int(value) {
                    Some(id @ 1..) => filter.id = Some(id as ConnId),
                    _ => return Err(Error::new("ERR client-id should be greater than 0")),
                },
                b"maxage" => match parse_int(value) {
                    Some(age @ 1..) => filter.max_age_s = Some(age),
                    Some(_) => return Err(Error::new("ERR maxage should be greater than 0")),
                    None => {
                        return Err(Error::new("ERR maxage is not an integer or out of range"));
                    }
                },
                b"type" => filter.class = Some(Class::parse(value)?),
                b"addr" => filter.addr = Some(text(value)),
                b"laddr" => filter.laddr = Some(text(value)),
                b"user" if value == b"default" => filter.user = true,
                b"user" => {
                    return Err(Error::err(format_args!("No such user '{}'", text(value))));
                }
                b"skipme" => match &value.to_ascii_lowercase()[..] {
                    b"yes" => filter.skip_me = true,
                    b"no" => filter.skip_me = false,
                    _ => return Err(Error::SYNTAX),
                },
                _ => return Err(Error::SYNTAX),
            }
            i += 2;
        }
    }
    let now = s.clock.now_ms();
    let mut doomed = Vec::new();
    s.each_client(call, |id, client, facts| {
        let hit = filter.id.is_none_or(|want| want == id)
            && filter.addr.as_ref().is_none_or(|want| *want == client.peer)
            && filter.laddr.as_ref().is_none_or(|want| *want == facts().local)
            && filter.class.is_none_or(|want| want == Class::of(client))
            && (!filter.user || client.authenticated && client.kind == Kind::Normal)
            && filter.max_age_s.is_none_or(|age| (now - client.created_ms) / 1000 >= age)
            && !(filter.skip_me && id == call.id);
        if hit {
            doomed.push(id);
        }
    });
    for &id in &doomed {
        if id == call.id {
            call.client.close_after_reply = true;
        } else if let Some(conn) = call.net.conn_mut(id) {
            // Its connection ends with the turn, and what runs until then is not for it.
            s.forget_client(id, &mut conn.session);
            call.net.kill(id);
        }
    }
    match (old_form, doomed.len()) {
        (true, 0) => return Err(Error::new("ERR No such client")),
        (true, _) => call.reply.ok(),
        (false, n) => call.reply.int(n as i64),
    }
    Ok(())
}

fn getname(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    match &call.client.name[..] {
        [] => call.reply.null(),
        name => call.reply.bulk(name),
    }
    Ok(())
}

fn setname(_: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    check_name(&args[2])?;
    call.client.name = args[2].to_vec();
    call.reply.ok();
    Ok(())
}

fn setinfo(_: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let word = args[2].to_ascii_lowercase();
    let field = match &word[..] {
        b"lib-name" => &mut call.client.lib_name,
        b"lib-ver" => &mut call.client.lib_ver,
        _ => {
            return Err(Error::err(format_args!(
                "Unrecognized option '{}'",
                String::from_utf8_lossy(&args[2])
            )));
        }
    };
    if args[3].iter().any(|c| !(b'!'..=b'~').contains(c)) {
        return Err(Error::err(format_args!(
            "{} cannot contain spaces, newlines or special characters.",
            String::from_utf8_lossy(&word)
        )));
    }
    *field = args[3].to_vec();
    call.reply.ok();
    Ok(())
}

fn reply(_: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    match &args[2].to_ascii_lowercase()[..] {
        b"on" => {
            call.client.reply_mode = ReplyMode::On;
            call.reply.muted = false;
            call.reply.ok();
        }
        b"off" => {
            call.client.reply_mode = ReplyMode::Off;
            call.reply.muted = true;
        }
        b"skip" => {
            // Where nothing is answered anyway, there is nothing to skip.
            if call.client.reply_mode != ReplyMode::Off {
                call.client.reply_mode = ReplyMode::SkipNext;
            }
        }
        _ => return Err(Error::SYNTAX),
    }
    Ok(())
}

fn pause(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let all = match args.get(3).map(|w| w.to_ascii_lowercase()) {
        _ if args.len() > 4 => return Err(no_such_use("CLIENT", &args[1])),
        None => true,
        Some(w) if w == b"all" => true,
        Some(w) if w == b"write" => false,
        Some(_) => return Err(Error::new("ERR CLIENT PAUSE mode must be WRITE or ALL")),
    };
    let until_ms = wait_until(s, &args[2])?.unwrap_or(s.clock.steady_ms());
    // A second pause makes the first one longer or stricter, never weaker.
    let old = s.pause.take();
    s.pause = Some(Pause {
        until_ms: old.as_ref().map_or(until_ms, |p| p.until_ms.max(until_ms)),
        all: all || old.is_some_and(|p| p.all),
    });
    s.hold();
    call.reply.ok();
    Ok(())
}

fn unpause(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    s.end_pause(call.net);
    call.reply.ok();
    Ok(())
}

fn unblock(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let error = match args.get(3).map(|w| w.to_ascii_lowercase()) {
        _ if args.len() > 4 => return Err(no_such_use("CLIENT", &args[1])),
        None => None,
        Some(w) if w == b"timeout" => None,
        Some(w) if w == b"error" => {
            Some(Error::new("UNBLOCKED client unblocked via CLIENT UNBLOCK"))
        }
        Some(_) => {
            return Err(Error::new("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"));
        }
    };
    let id = parse_int(&args[2]).ok_or(Error::NOT_INT)?;
    let waits_for_more = call.net.conn(id as ConnId).is_some_and(|conn| {
        use crate::server::client::BlockedOn::*;
        let on = conn.session.blocked.as_ref().map(|b| &b.on);
        matches!(on, Some(Keys { .. } | Replicas { .. } | Disks { .. }))
    });
    let was = waits_for_more && s.release(call.net, id as ConnId, error);
    call.reply.int(was as i64);
    Ok(())
}

fn on_off(args: &Args) -> Result<bool, Error> {
    match &args[2].to_ascii_lowercase()[..] {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(Error::SYNTAX),
    }
}

fn no_evict(_: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    call.client.no_evict = on_off(args)?;
    call.reply.ok();
    Ok(())
}

fn no_touch(_: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    call.client.no_touch = on_off(args)?;
    call.reply.ok();
    Ok(())
}

fn getredir(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.int(s.tracking.of(call.id).map_or(-1, |tracker| tracker.redirect as i64));
    Ok(())
}

/// What `CLIENT TRACKING` is told behind `ON` or `OFF`; the prefixes as they come.
fn tracking_options<'a>(call: &Call, args: &'a Args) -> Result<(Tracker, Vec<&'a [u8]>), Error> {
    let (mut new, mut prefixes) = (Tracker::default(), Vec::new());
    let mut i = 3;
    while i < args.len() {
        match (&args[i].to_ascii_lowercase()[..], args.get(i + 1)) {
            (b"redirect", Some(_)) if new.redirect != 0 => {
                return Err(Error::new("ERR A client can only redirect to a single other client"));
            }
            (b"redirect", Some(id)) => {
                let id = parse_int(id).ok_or(Error::NOT_INT)? as ConnId;
                if id != call.id && call.net.conn(id).is_none_or(|conn| conn.close_asap) {
                    return Err(Error::new(
                        "ERR The client ID you want redirect to does not exist",
                    ));
                }
                new.redirect = id;
                i += 1;
            }
            (b"prefix", Some(prefix)) => {
                prefixes.push(prefix);
                i += 1;
            }
            (b"bcast", _) => new.bcast = true,
            (b"optin", _) => new.optin = true,
            (b"optout", _) => new.optout = true,
            (b"noloop", _) => new.noloop = true,
            _ => return Err(Error::SYNTAX),
        }
        i += 1;
    }
    Ok((new, prefixes))
}

/// Whether a client that tracks as `old` says may do so as `new` says, with more `prefixes`.
fn may_track(old: Option<&Tracker>, new: &Tracker, prefixes: &[&[u8]]) -> Done {
    if !new.bcast && !prefixes.is_empty() {
        return Err(Error::new("ERR PREFIX option requires BCAST mode to be enabled"));
    }
    if old.is_some_and(|old| old.bcast != new.bcast) {
        return Err(Error::new(
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
        ));
    }
    if new.bcast && (new.optin || new.optout) {
        return Err(Error::new("ERR OPTIN and OPTOUT are not compatible with BCAST"));
    }
    if new.optin && new.optout {
        return Err(Error::new("ERR You can't specify both OPTIN mode and OPTOUT mode"));
    }
    if old.is_some_and(|old| new.optin && old.optout || new.optout && old.optin) {
        return Err(Error::new(
            "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.",
        ));
    }
    // No key may be told of twice.
    let overlap = |prefix: &[u8], whose: &str, other: &[u8]| {
        Err(Error::err(format_args!(
            "Prefix '{}' overlaps with {whose} prefix '{}'. Prefixes for a single client must not overlap.",
            String::from_utf8_lossy(prefix),
            String::from_utf8_lossy(other)
        )))
    };
    let mut given = BTreeSet::new();
    for &prefix in prefixes {
        if let Some(other) = old.and_then(|old| overlapping(&old.prefixes, prefix)) {
            return overlap(prefix, "an existing", other);
        }
        if let Some(other) = overlapping(&given, prefix) {
            return overlap(other, "another provided", prefix);
        }
        given.insert(prefix);
    }
    Ok(())
}

/// The one of `prefixes`, none of which begins with another, that begins with `prefix` or that `prefix` begins with.
/// It stands next to `prefix`, as all between would begin alike.
fn overlapping<'a, T: Borrow<[u8]> + Ord>(
    prefixes: &'a BTreeSet<T>,
    prefix: &[u8],
) -> Option<&'a [u8]> {
    let next = prefixes.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded)).next();
    let last = prefixes.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(prefix))).next_back();
    next.map(Borrow::borrow)
        .filter(|next: &&[u8]| next.starts_with(prefix))
        .or(last.map(Borrow::borrow).filter(|last: &&[u8]| prefix.starts_with(last)))
}

fn tracking(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let (mut new, mut prefixes) = tracking_options(call, args)?;
    match on_off(args)? {
        true => {
            may_track(s.tracking.of(call.id), &new, &prefixes)?;
            if new.bcast && prefixes.is_empty() {
                prefixes.push(b"");
            }
            new.prefixes = prefixes.into_iter().map(Box::from).collect();
            s.track(call.id, new);
        }
        false => s.stop_tracking(call.id),
    }
    call.reply.ok();
    Ok(())
}

fn trackinginfo(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let tracker = s.tracking.of(call.id);
    let mut flags = vec![if tracker.is_some() { "on" } else { "off" }];
    if let Some(t) = tracker {
        let known = [
            (t.bcast, "bcast"),
            (t.optin, "optin"),
            (t.optin && t.caching, "caching-yes"),
            (t.optout, "optout"),
            (t.optout && t.caching, "caching-no"),
            (t.noloop, "noloop"),
            (t.broken, "broken_redirect"),
        ];
        flags.extend(known.iter().filter(|(on, _)| *on).map(|(_, flag)| flag));
    }
    call.reply.map(3);
    call.reply.bulk(b"flags");
    call.reply.set(flags.len());
    flags.iter().for_each(|flag| call.reply.bulk(flag.as_bytes()));
    call.reply.bulk(b"redirect");
    call.reply.int(tracker.map_or(-1, |t| t.redirect as i64));
    call.reply.bulk(b"prefixes");
    call.reply.array(tracker.map_or(0, |t| t.prefixes.len()));
    tracker.iter().flat_map(|t| &t.prefixes).for_each(|prefix| call.reply.bulk(prefix));
    Ok(())
}

fn caching(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let Some(tracker) = s.tracking.of_mut(call.id) else {
        return Err(Error::new(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ));
    };
    match &args[2].to_ascii_lowercase()[..] {
        b"yes" if !tracker.optin => {
            return Err(Error::new(
                "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
            ));
        }
        b"no" if !tracker.optout => {
            return Err(Error::new(
                "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
            ));
        }
        b"yes" | b"no" => tracker.caching = true,
        _ => return Err(Error::SYNTAX),
    }
    call.reply.ok();
    Ok(())
}

fn help(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.help(
        "CLIENT",
        &[
            "GETNAME | SETNAME <name>",
            "    Shows or sets the connection's name.",
            "CACHING (YES|NO)",
            "    Says whether the keys that the next command reads are to be remembered.",
            "GETREDIR | TRACKINGINFO",
            "    Shows which client hears of changed keys in place of this one, or all about tracking.",
            "ID | INFO",
            "    Shows this connection's id, or all about it.",
            "KILL <ip:port>",
            "    Closes the connection from that address.",
            "KILL <option> <value> [<option> <value> ...]",
            "    Closes the connections that all options fit: ADDR, LADDR, ID, MAXAGE,",
            "    SKIPME (YES|NO), TYPE (NORMAL|MASTER|REPLICA|PUBSUB), USER.",
            "LIST [TYPE <type> | ID <id> [<id> ...]]",
            "    Lists connections.",
            "NO-EVICT (ON|OFF) | NO-TOUCH (ON|OFF)",
            "    Protects the connection from eviction, or keys from being counted as used by it.",
            "PAUSE <ms> [WRITE|ALL] | UNPAUSE",
            "    Holds the commands of all clients, or lets them go on.",
            "REPLY (ON|OFF|SKIP)",
            "    Chooses whether commands are answered.",
            "SETINFO (LIB-NAME|LIB-VER) <value>",
            "    Notes which library the client uses.",
            "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [PREFIX <prefix> ...]]",
            "         [OPTIN] [OPTOUT] [NOLOOP]",
            "    Has the connection hear of changes to keys that it has read, or that have a prefix.",
            "UNBLOCK <id> [TIMEOUT|ERROR]",
            "    Ends the wait of a blocked client.",
        ],
    );
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags | NOSCRIPT | LOADING | STALE, category::CONNECTION, Keys::None)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: id, spec: spec("client|id", 2, 0).doc("connection", "5.0.0", "O(1)", "Tells the connection's number.", "") },
    Command { run: info, spec: spec("client|info", 2, 0).tips(&["nondeterministic_output"]).doc("connection", "6.2.0", "O(1)", "Tells all about this connection.", "") },
    Command { run: list, spec: spec("client|list", -2, ADMIN).tips(&["nondeterministic_output"]).doc("connection", "2.4.0", "O(N) in the connections", "Lists connections.", "[TYPE (NORMAL|MASTER|REPLICA|PUBSUB)]@5.0.0 [ID client-id...]@6.2.0") },
    Command { run: kill, spec: spec("client|kill", -3, ADMIN).doc("connection", "2.4.0", "O(N) in the connections", "Closes connections.", "filter=(ip:port!2.8.12|new-format=(ID client-id@2.8.12|TYPE client-type=(NORMAL|MASTER@3.2.0|SLAVE|REPLICA@5.0.0|PUBSUB)@2.8.12|USER username|ADDR ip:port|LADDR ip:port@6.2.0|SKIPME (YES|NO)|MAXAGE maxage@7.4.0)...)") },
    Command { run: getname, spec: spec("client|getname", 2, 0).doc("connection", "2.6.9", "O(1)", "Tells the connection's name.", "") },
    Command { run: setname, spec: spec("client|setname", 3, 0).doc("connection", "2.6.9", "O(1)", "Names the connection.", "connection-name") },
    Command { run: setinfo, spec: spec("client|setinfo", 4, 0).tips(&["request_policy:all_nodes", "response_policy:all_succeeded"]).doc("connection", "7.2.0", "O(1)", "Notes the client's library.", "attr=(LIB-NAME libname|LIB-VER libver)") },
    Command { run: reply, spec: spec("client|reply", 3, 0).doc("connection", "3.2.0", "O(1)", "Chooses whether commands are answered.", "(ON|OFF|SKIP)") },
    Command { run: pause, spec: spec("client|pause", -3, ADMIN).doc("connection", "2.9.50", "O(1)", "Holds the commands of clients for a time.", "timeout:integer mode=[WRITE|ALL]@6.2.0") },
    Command { run: unpause, spec: spec("client|unpause", 2, ADMIN).doc("connection", "6.2.0", "O(N) in the clients held", "Lets held clients go on.", "") },
    Command { run: unblock, spec: spec("client|unblock", -3, ADMIN).doc("connection", "5.0.0", "O(log N) in the blocked clients", "Ends the wait of a blocked client.", "client-id [TIMEOUT|ERROR]") },
    Command { run: no_evict, spec: spec("client|no-evict", 3, ADMIN).doc("connection", "7.0.0", "O(1)", "Protects the connection from eviction.", "enabled=(ON|OFF)") },
    Command { run: no_touch, spec: spec("client|no-touch", 3, 0).doc("connection", "7.2.0", "O(1)", "Keeps this client's reads from counting as use of keys.", "enabled=(ON|OFF)") },
    Command { run: getredir, spec: spec("client|getredir", 2, 0).doc("connection", "6.0.0", "O(1)", "Tells where invalidations go.", "") },
    Command { run: tracking, spec: spec("client|tracking", -3, 0).doc("connection", "6.0.0", "O(1), and O(N) in the prefixes", "Lets a client that caches hear of changed keys.", "status=(ON|OFF) [REDIRECT client-id] [PREFIX prefix]... [BCAST] [OPTIN] [OPTOUT] [NOLOOP]") },
    Command { run: trackinginfo, spec: spec("client|trackinginfo", 2, 0).doc("connection", "6.2.0", "O(1)", "Tells how client side caching is set.", "") },
    Command { run: caching, spec: spec("client|caching", 3, 0).doc("connection", "6.0.0", "O(1)", "Says whether what the next command reads is to be remembered.", "mode=(YES|NO)") },
    Command { run: help, spec: Spec::new("client|help", 2, LOADING | STALE, category::CONNECTION, Keys::None).doc("connection", "5.0.0", "O(1)", "Lists the subcommands.", "") },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_overlaps_is_found_among_its_neighbours() {
        let prefixes: BTreeSet<&[u8]> = [&b"a:1"[..], b"a:20", b"a:3", b"b"].into();
        for (prefix, found) in [
            (&b"a:1"[..], Some(&b"a:1"[..])),
            (b"a:2", Some(b"a:20")),
            (b"a:200", Some(b"a:20")),
            (b"a", Some(b"a:1")),
            (b"", Some(b"a:1")),
            (b"bcd", Some(b"b")),
            (b"a:21", None),
            (b"a:0", None),
            (b"c", None),
        ] {
            assert_eq!(overlapping(&prefixes, prefix), found, "{prefix:?}");
        }
    }
}
