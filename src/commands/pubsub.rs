//! Publishing and subscribing.

use super::{Done, no_such_use};
use crate::server::Server;
use crate::server::dispatch::Call;
use crate::server::pubsub::Listening;
use crate::server::registry::ServerHandler;
use varve_engine::command::{Command, Keys, Spec, access::NOT_KEY, flag::*};
use varve_engine::keyspace::Name;
use varve_engine::{Args, Error, glob};

fn publish_as(s: &mut Server, call: &mut Call, args: &Args, kind: Listening) -> Done {
    // Replicas' clients listen too: the message goes down the stream, changing nothing.
    let mut own = call.reply.alike();
    let got = s.publish(call.net, Some((call.id, &mut own)), kind, &args[1], &args[2]);
    if s.is_primary() {
        s.ks.effects.push(call.client.db, args.iter());
    }
    call.reply.int(got as i64);
    s.tell_own(call.reply, own);
    Ok(())
}

fn publish(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    publish_as(s, call, args, Listening::Channel)
}

fn spublish(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    publish_as(s, call, args, Listening::Shard)
}

fn subscribe_to(s: &mut Server, call: &mut Call, args: &Args, kind: Listening) -> Done {
    if s.in_exec.is_some() && kind == Listening::Shard {
        return Err(Error::new("ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client"));
    }
    for name in args.rest(1) {
        s.subscribe(call, kind, name);
    }
    Ok(())
}

fn subscribe(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    subscribe_to(s, call, args, Listening::Channel)
}

fn psubscribe(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    subscribe_to(s, call, args, Listening::Pattern)
}

fn ssubscribe(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    subscribe_to(s, call, args, Listening::Shard)
}

fn unsubscribe_from(s: &mut Server, call: &mut Call, args: &Args, kind: Listening) -> Done {
    if args.len() > 1 {
        for name in args.rest(1) {
            s.unsubscribe(call, kind, Some(name));
        }
        return Ok(());
    }
    let all: Vec<Name> = kind.of(call.client).iter().cloned().collect();
    for name in &all {
        s.unsubscribe(call, kind, Some(name));
    }
    if all.is_empty() {
        s.unsubscribe(call, kind, None);
    }
    Ok(())
}

fn unsubscribe(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    unsubscribe_from(s, call, args, Listening::Channel)
}

fn punsubscribe(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    unsubscribe_from(s, call, args, Listening::Pattern)
}

fn sunsubscribe(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    unsubscribe_from(s, call, args, Listening::Shard)
}

fn names(s: &mut Server, call: &mut Call, args: &Args, kind: Listening) -> Done {
    if args.len() > 3 {
        return Err(no_such_use("PUBSUB", &args[1]));
    }
    let pattern = args.get(2);
    let found: Vec<&Name> = s
        .pubsub
        .of(kind)
        .keys()
        .filter(|name| pattern.is_none_or(|p| glob::matches(p, name, false)))
        .collect();
    call.reply.array(found.len());
    found.iter().for_each(|name| call.reply.bulk(name));
    Ok(())
}

fn channels(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    names(s, call, args, Listening::Channel)
}

fn shardchannels(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    names(s, call, args, Listening::Shard)
}

fn counts(s: &mut Server, call: &mut Call, args: &Args, kind: Listening) -> Done {
    // Names and counts in turn, not a map, whichever the protocol.
    call.reply.array((args.len() - 2) * 2);
    for name in args.rest(2) {
        call.reply.bulk(name);
        call.reply.int(s.pubsub.of(kind).get(name).map_or(0, |ids| ids.len()) as i64);
    }
    Ok(())
}

fn numsub(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    counts(s, call, args, Listening::Channel)
}

fn shardnumsub(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    counts(s, call, args, Listening::Shard)
}

fn numpat(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.int(s.pubsub.patterns.len() as i64);
    Ok(())
}

fn help(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.help(
        "PUBSUB",
        &[
            "CHANNELS [<pattern>]",
            "    The channels that somebody listens to.",
            "NUMPAT",
            "    How many patterns clients listen to.",
            "NUMSUB [<channel> ...]",
            "    How many clients listen to each channel.",
            "SHARDCHANNELS [<pattern>]",
            "    The shard channels that somebody listens to.",
            "SHARDNUMSUB [<channel> ...]",
            "    How many clients listen to each shard channel.",
        ],
    );
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags, 0, Keys::None)
}

const fn shard(name: &'static str, arity: i32, flags: u32, last: i32) -> Spec {
    Spec::new(name, arity, flags, 0, Keys::Channels(1, last, 1)).key(NOT_KEY)
}

const LISTEN: u32 = PUBSUB | NOSCRIPT | LOADING | STALE;
const SEND: u32 = PUBSUB | LOADING | STALE | FAST | MAY_REPLICATE;
const ASK: u32 = PUBSUB | LOADING | STALE;

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: publish, spec: spec("publish", 3, SEND).doc("pubsub", "2.0.0", "O(N+M) in the listeners and all patterns", "Sends a message to a channel.", "channel message") },
    Command { run: spublish, spec: shard("spublish", 3, SEND, 1).doc("pubsub", "7.0.0", "O(N) in the listeners", "Sends a message to a shard channel.", "shardchannel message") },
    Command { run: subscribe, spec: spec("subscribe", -2, LISTEN).doc("pubsub", "2.0.0", "O(N) in the channels", "Listens to channels.", "channel...") },
    Command { run: psubscribe, spec: spec("psubscribe", -2, LISTEN).doc("pubsub", "2.0.0", "O(N) in the patterns", "Listens to all channels that match patterns.", "pattern...") },
    Command { run: ssubscribe, spec: shard("ssubscribe", -2, LISTEN, -1).doc("pubsub", "7.0.0", "O(N) in the channels", "Listens to shard channels.", "shardchannel...") },
    Command { run: unsubscribe, spec: spec("unsubscribe", -1, LISTEN).doc("pubsub", "2.0.0", "O(N) in the channels", "Stops listening to channels.", "[channel...]") },
    Command { run: punsubscribe, spec: spec("punsubscribe", -1, LISTEN).doc("pubsub", "2.0.0", "O(N) in the patterns", "Stops listening to patterns.", "[pattern...]") },
    Command { run: sunsubscribe, spec: shard("sunsubscribe", -1, LISTEN, -1).doc("pubsub", "7.0.0", "O(N) in the channels", "Stops listening to shard channels.", "[shardchannel...]") },
    Command { run: channels, spec: spec("pubsub|channels", -2, ASK).doc("pubsub", "2.8.0", "O(N) in the channels", "Lists the channels that somebody listens to.", "[pattern]") },
    Command { run: numsub, spec: spec("pubsub|numsub", -2, ASK).doc("pubsub", "2.8.0", "O(N) in the channels", "Counts who listens to channels.", "[channel...]") },
    Command { run: numpat, spec: spec("pubsub|numpat", 2, ASK).doc("pubsub", "2.8.0", "O(1)", "Counts the patterns that clients listen to.", "") },
    Command { run: shardchannels, spec: spec("pubsub|shardchannels", -2, ASK).doc("pubsub", "7.0.0", "O(N) in the channels", "Lists the shard channels that somebody listens to.", "[pattern]") },
    Command { run: shardnumsub, spec: spec("pubsub|shardnumsub", -2, ASK).doc("pubsub", "7.0.0", "O(N) in the channels", "Counts who listens to shard channels.", "[shardchannel...]") },
    Command { run: help, spec: spec("pubsub|help", 2, LOADING | STALE).doc("pubsub", "6.2.0", "O(1)", "Lists the subcommands.", "") },
];
