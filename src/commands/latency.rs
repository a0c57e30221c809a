//! `LATENCY`: what made the server slow, and how long commands take.

use super::Done;
use crate::server::Server;
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use hdrhistogram::Histogram;
use varve_engine::command::{Command, Keys, Spec, flag::*};
use varve_engine::{Args, Error};

/// The events seen, in the order of their names.
fn events(s: &Server) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = s.latencies.keys().copied().collect();
    names.sort_unstable();
    names
}

fn latest(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let names = events(s);
    call.reply.array(names.len());
    for name in names {
        let event = &s.latencies[name];
        let (at, ms) = event.samples.back().copied().unwrap_or_default();
        call.reply.array(4);
        call.reply.bulk(name.as_bytes());
        call.reply.int(at);
        call.reply.int(ms as i64);
        call.reply.int(event.max_ms as i64);
    }
    Ok(())
}

fn history(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let name = String::from_utf8_lossy(&args[2]);
    let Some(event) = s.latencies.get(&*name) else {
        call.reply.array(0);
        return Ok(());
    };
    call.reply.array(event.samples.len());
    for &(at, ms) in &event.samples {
        call.reply.array(2);
        call.reply.int(at);
        call.reply.int(ms as i64);
    }
    Ok(())
}

fn reset(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let before = s.latencies.len();
    match args.len() {
        2 => s.latencies.clear(),
        _ => s.latencies.retain(|name, _| !args.rest(2).any(|w| w == name.as_bytes())),
    }
    call.reply.int((before - s.latencies.len()) as i64);
    Ok(())
}

fn histogram(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let asked: Vec<String> =
        args.rest(2).map(|w| String::from_utf8_lossy(w).to_ascii_lowercase()).collect();
    // A container's name stands for its subcommands.
    let wanted = |name: &str| {
        asked.is_empty()
            || asked.iter().any(|a| a == name || name.split_once('|').is_some_and(|(c, _)| a == c))
    };
    let shown: Vec<(&str, &Histogram<u64>)> = (s.commands.all().iter())
        .filter(|c| wanted(c.spec.name))
        .filter_map(|c| Some((c.spec.name, c.counters.times.as_ref()?)))
        .collect();
    call.reply.map(shown.len());
    for (name, times) in shown {
        // As in Redis, which counts up to 1024 ns, then up to twice as much each time.
        let mut bounds: Vec<(u64, u64)> = Vec::new();
        let mut below = 0;
        let mut bound = 1024;
        while below < times.len() {
            let upto = times.count_between(0, bound);
            if upto > below {
                bounds.push((times.highest_equivalent(bound) / 1000, upto));
            }
            (below, bound) = (upto, bound * 2);
        }
        call.reply.bulk(name.as_bytes());
        call.reply.map(2);
        call.reply.bulk(b"calls");
        call.reply.int(times.len() as i64);
        call.reply.bulk(b"histogram_usec");
        call.reply.map(bounds.len());
        for (us, upto) in bounds {
            call.reply.int(us as i64);
            call.reply.int(upto as i64);
        }
    }
    Ok(())
}

fn graph(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    const HEIGHT: u64 = 8;
    const WIDTH: usize = 80;
    let name = String::from_utf8_lossy(&args[2]);
    let Some(event) = s.latencies.get(&*name) else {
        return Err(Error::err(format_args!("No samples available for event '{name}'")));
    };
    let from = event.samples.len().saturating_sub(WIDTH);
    let shown: Vec<u64> = event.samples.iter().skip(from).map(|&(_, ms)| ms).collect();
    let (high, low) =
        (shown.iter().max().copied().unwrap_or(0), shown.iter().min().copied().unwrap_or(0));
    let mut text =
        format!("{name} - high {high} ms, low {low} ms (all time high {} ms)\n", event.max_ms);
    text.push_str(&"-".repeat(WIDTH));
    text.push('\n');
    for row in (1..=HEIGHT).rev() {
        for ms in &shown {
            let full = ms * HEIGHT >= high * row;
            text.push(if full { '#' } else { ' ' });
        }
        text.push('\n');
    }
    call.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

fn doctor(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let names = events(s);
    let text = if s.cfg.latency_monitor_threshold == 0 && names.is_empty() {
        "Latency monitoring is off. Set latency-monitor-threshold to the milliseconds from which an event is of interest.\n".to_owned()
    } else if names.is_empty() {
        "Nothing was slower than latency-monitor-threshold.\n".to_owned()
    } else {
        let mut text = String::from("Events slower than latency-monitor-threshold:\n");
        for name in names {
            let event = &s.latencies[name];
            let sum: u64 = event.samples.iter().map(|&(_, ms)| ms).sum();
            let n = event.samples.len().max(1) as u64;
            text += &format!(
                "{name}: {n} samples, {} ms on average, {} ms at most. ",
                sum / n,
                event.max_ms
            );
            text += match name {
                "fork" => {
                    "The more memory, the longer a fork: check that huge pages are not 'always'.\n"
                }
                "command" => "Look at SLOWLOG GET for what these commands were.\n",
                "fast-command" => "These commands are short: the machine was busy or swapped.\n",
                "expire-cycle" => {
                    "Many keys expired at the same time: spread their times to live.\n"
                }
                "eviction-cycle" => {
                    "Much was evicted at once: maxmemory may be too small for the load.\n"
                }
                _ => "\n",
            };
        }
        text
    };
    call.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

fn help(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.help(
        "LATENCY",
        &[
            "DOCTOR",
            "    Says what the samples point at.",
            "GRAPH <event>",
            "    Draws an event's samples.",
            "HISTOGRAM [<command> ...]",
            "    Shows how long commands take.",
            "HISTORY <event>",
            "    Shows an event's samples.",
            "LATEST",
            "    Shows the latest sample of each event.",
            "RESET [<event> ...]",
            "    Forgets samples.",
        ],
    );
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags | LOADING | STALE, 0, Keys::None)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: latest, spec: spec("latency|latest", 2, ADMIN | NOSCRIPT).tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"]).doc("server", "2.8.13", "O(1)", "Shows the latest sample of every event.", "") },
    Command { run: history, spec: spec("latency|history", 3, ADMIN | NOSCRIPT).tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"]).doc("server", "2.8.13", "O(1)", "Shows the samples of an event.", "event") },
    Command { run: reset, spec: spec("latency|reset", -2, ADMIN | NOSCRIPT).tips(&["request_policy:all_nodes", "response_policy:all_succeeded"]).doc("server", "2.8.13", "O(1)", "Forgets the samples of events.", "[event...]") },
    Command { run: histogram, spec: spec("latency|histogram", -2, ADMIN | NOSCRIPT).tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"]).doc("server", "7.0.0", "O(N) in the commands", "Shows how long commands take.", "[command...]") },
    Command { run: graph, spec: spec("latency|graph", 3, ADMIN | NOSCRIPT).tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"]).doc("server", "2.8.13", "O(1)", "Draws the samples of an event.", "event") },
    Command { run: doctor, spec: spec("latency|doctor", 2, ADMIN | NOSCRIPT).tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"]).doc("server", "2.8.13", "O(1)", "Says what the samples point at.", "") },
    Command { run: help, spec: spec("latency|help", 2, 0).doc("server", "2.8.13", "O(1)", "Lists the subcommands.", "") },
];
