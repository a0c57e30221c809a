//! `COMMAND`: the command table, for clients that route, complete or document commands by it.
//!
//! Everything is read from the commands' own entries. A container (`CONFIG`) has no entry of its
//! own: what is said of it follows from its subcommands.

use super::Done;
use crate::server::Server;
use crate::server::dispatch::Call;
use crate::server::registry::{CommandId, ServerHandler};
use varve_engine::command::{Command, Keys, Search, Spec, access, category, flag, flag::*};
use varve_engine::grammar::{self, Argument};
use varve_engine::{Args, Error, Reply, glob};

/// A command or a container, with its own name.
enum Entry {
    Command(CommandId),
    Container(String),
}

impl Server {
    /// What a name stands for: `get`, `config`, `config|get`.
    fn entry(&self, name: &[u8]) -> Option<Entry> {
        let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
        if lower.contains('|') {
            return self.commands.by_name(&lower).map(Entry::Command);
        }
        self.commands.named(lower.as_bytes()).map(|(id, own)| match id {
            Some(id) => Entry::Command(id),
            None => Entry::Container(own.to_owned()),
        })
    }

    /// All first words, in the order of their names.
    fn entries(&self) -> Vec<Entry> {
        let mut words: Vec<&[u8]> = self.commands.words().map(|(word, _)| word).collect();
        words.sort_unstable();
        words.into_iter().filter_map(|word| self.entry(word)).collect()
    }

    fn own_name<'a>(&'a self, entry: &'a Entry) -> &'a str {
        match entry {
            Entry::Command(id) => self.commands.get(*id).spec.name,
            Entry::Container(name) => name,
        }
    }

    /// The subcommands of an entry that is no subcommand itself.
    fn subcommands(&self, entry: &Entry) -> Vec<CommandId> {
        self.commands.subcommands_of(self.own_name(entry)).collect()
    }

    fn put_info(&self, reply: &mut Reply, entry: &Entry) {
        reply.array(10);
        reply.bulk(self.own_name(entry).as_bytes());
        match entry {
            Entry::Command(id) => {
                let spec = self.commands.get(*id).spec;
                reply.int(spec.arity as i64);
                put_names(reply, flags_of(spec), flag::NAMES, "");
                let (first, last, step) = spec.keys.range();
                [first, last, step].iter().for_each(|&n| reply.int(n as i64));
                put_names(reply, spec.all_categories(), category::NAMES, "@");
                reply.set(spec.tips.len());
                spec.tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
                put_key_specs(reply, spec);
            }
            Entry::Container(_) => {
                reply.int(-2);
                reply.set(0);
                (0..3).for_each(|_| reply.int(0));
                put_names(reply, category::SLOW, category::NAMES, "@");
                reply.set(0);
                reply.set(0);
            }
        }
        let subcommands = self.subcommands(entry);
        match subcommands.len() {
            0 => reply.set(0),
            n => reply.array(n), // in order, unlike what came before
        }
        for id in subcommands {
            self.put_info(reply, &Entry::Command(id));
        }
    }

    fn put_docs(&self, reply: &mut Reply, entry: &Entry) {
        let subcommands = self.subcommands(entry);
        let has_subcommands = !subcommands.is_empty() as usize;
        match entry {
            Entry::Command(id) => {
                let spec = self.commands.get(*id).spec;
                let arguments = grammar::parse(spec.arguments).expect("a test parses them all");
                let is_deprecated = spec.deprecated.is_some();
                let flags = is_deprecated as u32 | (spec.is_internal as u32) << 1;
                let has_arguments = !arguments.is_empty() as usize;
                let more = (flags != 0) as usize + 2 * is_deprecated as usize;
                reply.map(4 + more + has_arguments + has_subcommands);
                put_pair(reply, "summary", spec.summary);
                put_pair(reply, "since", spec.since);
                put_pair(reply, "group", spec.group);
                put_pair(reply, "complexity", spec.complexity);
                if flags != 0 {
                    reply.bulk(b"doc_flags");
                    put_names(reply, flags, &[(1, "deprecated"), (2, "syscmd")], "");
                }
                if let Some((since, by)) = spec.deprecated {
                    put_pair(reply, "deprecated_since", since);
                    put_pair(reply, "replaced_by", by);
                }
                put_arguments(reply, &arguments);
            }
            Entry::Container(name) => {
                let of = || subcommands.iter().map(|&id| self.commands.get(id).spec);
                let summary = format!("Commands that begin with {}.", name.to_uppercase());
                reply.map(3 + has_subcommands);
                put_pair(reply, "summary", &summary);
                put_pair(reply, "since", of().map(|s| s.since).min().unwrap_or_default());
                put_pair(reply, "group", of().map(|s| s.group).next().unwrap_or_default());
            }
        }
        if !subcommands.is_empty() {
            reply.bulk(b"subcommands");
            reply.map(subcommands.len());
            for id in subcommands {
                reply.bulk(self.commands.get(id).spec.name.as_bytes());
                self.put_docs(reply, &Entry::Command(id));
            }
        }
    }
}

fn put_names(reply: &mut Reply, bits: u32, names: &[(u32, &str)], prefix: &str) {
    let named = || names.iter().filter(|(bit, _)| bits & bit != 0);
    reply.set(named().count());
    for (_, name) in named() {
        [b"+", prefix.as_bytes(), name.as_bytes(), b"\r\n"].iter().for_each(|part| reply.raw(part));
    }
}

fn put_pair(reply: &mut Reply, name: &str, value: &str) {
    reply.bulk(name.as_bytes());
    reply.bulk(value.as_bytes());
}

/// The field `arguments`, if there are any.
fn put_arguments(reply: &mut Reply, arguments: &[Argument]) {
    if arguments.is_empty() {
        return;
    }
    reply.bulk(b"arguments");
    reply.array(arguments.len());
    for argument in arguments {
        let texts = [
            ("token", argument.token),
            ("since", argument.since),
            ("deprecated_since", argument.deprecated_since),
        ];
        let has_flags = (argument.flags != 0) as usize;
        let has_members = !argument.arguments.is_empty() as usize;
        let given = texts.iter().filter(|(_, text)| text.is_some()).count();
        let has_key_spec = argument.key_spec.is_some() as usize;
        reply.map(2 + has_key_spec + given + has_flags + has_members);
        put_pair(reply, "name", &argument.name);
        put_pair(reply, "type", argument.ty.name());
        if let Some(index) = argument.key_spec {
            reply.bulk(b"key_spec_index");
            reply.int(index as i64);
        }
        for (name, text) in texts {
            text.into_iter().for_each(|text| put_pair(reply, name, text));
        }
        if argument.flags != 0 {
            reply.bulk(b"flags");
            put_names(reply, argument.flags, grammar::flag::NAMES, "");
        }
        put_arguments(reply, &argument.arguments);
    }
}

/// The flags with the one that follows from where the keys stand.
fn flags_of(spec: &Spec) -> u32 {
    match spec.keys {
        Keys::Counted(_) | Keys::AndCounted(..) | Keys::Special(..) => spec.flags | MOVABLE_KEYS,
        Keys::None | Keys::Range(..) | Keys::Channels(..) => spec.flags,
    }
}

fn put_key_specs(reply: &mut Reply, spec: &Spec) {
    /// Where the keys begin.
    enum Begin {
        Index(i32),
        After(&'static str, i32),
        Unknown,
    }
    /// Where they end, seen from there.
    enum Find {
        Range { last: i32, step: i32 },
        Counted,
        Unknown,
    }
    let range = |first: i32, last: i32, step: i32| {
        let last = if last < 0 { last } else { last - first };
        (Begin::Index(first), Find::Range { last, step })
    };
    let one = |at: i32| range(at, at, 1);
    let counted = |at: usize| (Begin::Index(at as i32), Find::Counted);
    let fixed = match (spec.keys, spec.other_keys) {
        (Keys::None, _) => vec![],
        (Keys::Range(first, last, step), Some(_)) => {
            vec![one(first), range(first + step, last, step)]
        }
        (Keys::Range(first, last, step) | Keys::Channels(first, last, step), _) => {
            vec![range(first, last, step)]
        }
        (Keys::Counted(at), _) => vec![counted(at)],
        (Keys::AndCounted(first, at), _) => vec![one(first as i32), counted(at)],
        (Keys::Special(first, _), _) => vec![one(first)],
    };
    let accesses = [spec.key, spec.other_keys.unwrap_or(spec.key)];
    let fixed = fixed.into_iter().zip(accesses);
    let searched = spec.more_keys.iter().map(|&(search, access)| match search {
        Search::Unknown => ((Begin::Unknown, Find::Unknown), access),
        Search::After(word, from) => {
            ((Begin::After(word, from), Find::Range { last: -1, step: 1 }), access)
        }
    });
    let parts: Vec<_> = fixed.chain(searched).collect();
    let typed = |reply: &mut Reply, kind: &str, fields: usize| {
        reply.map(2);
        reply.bulk(b"type");
        reply.bulk(kind.as_bytes());
        reply.bulk(b"spec");
        reply.map(fields);
    };
    let number = |reply: &mut Reply, name: &str, n: i32| {
        reply.bulk(name.as_bytes());
        reply.int(n as i64);
    };
    reply.set(parts.len());
    for ((begin, find), access) in parts {
        reply.map(3);
        reply.bulk(b"flags");
        put_names(reply, access, access::NAMES, "");
        reply.bulk(b"begin_search");
        match begin {
            Begin::Index(at) => {
                typed(reply, "index", 1);
                number(reply, "index", at);
            }
            Begin::After(word, from) => {
                typed(reply, "keyword", 2);
                reply.bulk(b"keyword");
                reply.bulk(word.as_bytes());
                number(reply, "startfrom", from);
            }
            Begin::Unknown => typed(reply, "unknown", 0),
        }
        reply.bulk(b"find_keys");
        let (kind, numbers) = match find {
            Find::Range { last, step } => {
                ("range", &[("lastkey", last), ("keystep", step), ("limit", 0)][..])
            }
            Find::Counted => ("keynum", &[("keynumidx", 0), ("firstkey", 1), ("keystep", 1)][..]),
            Find::Unknown => ("unknown", &[][..]),
        };
        typed(reply, kind, numbers.len());
        numbers.iter().for_each(|(name, n)| number(reply, name, *n));
    }
}

fn command(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let entries = s.entries();
    call.reply.array(entries.len());
    entries.iter().for_each(|entry| s.put_info(call.reply, entry));
    Ok(())
}

fn count(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.int(s.commands.words().count() as i64);
    Ok(())
}

fn info(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    if args.len() == 2 {
        return command(s, call, args);
    }
    call.reply.array(args.len() - 2);
    for name in args.rest(2) {
        match s.entry(name) {
            Some(entry) => s.put_info(call.reply, &entry),
            None => call.reply.null(),
        }
    }
    Ok(())
}

fn docs(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let entries = match args.len() {
        2 => s.entries(),
        _ => args.rest(2).filter_map(|name| s.entry(name)).collect(),
    };
    call.reply.map(entries.len());
    for entry in &entries {
        call.reply.bulk(s.own_name(entry).as_bytes());
        s.put_docs(call.reply, entry);
    }
    Ok(())
}

/// Whether a command with this name and these categories is asked for.
type Wanted = Box<dyn Fn(&str, u32) -> bool>;

fn list(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let wanted: Wanted = match args.len() {
        2 => Box::new(|_, _| true),
        5 if args[2].eq_ignore_ascii_case(b"filterby") => {
            let value = args[4].to_vec();
            match &args[3].to_ascii_lowercase()[..] {
                b"module" => Box::new(|_, _| false),
                b"aclcat" => {
                    let named = |n: &&(u32, &str)| n.1.as_bytes().eq_ignore_ascii_case(&value);
                    let bit = category::NAMES.iter().find(named).map_or(0, |n| n.0);
                    Box::new(move |_, categories| categories & bit != 0)
                }
                b"pattern" => Box::new(move |name, _| glob::matches(&value, name.as_bytes(), true)),
                _ => return Err(Error::SYNTAX),
            }
        }
        _ => return Err(Error::SYNTAX),
    };
    let place = call.reply.deferred();
    let mut n = 0;
    let mut show = |name: &str, categories: u32| {
        if wanted(name, categories) {
            call.reply.bulk(name.as_bytes());
            n += 1;
        }
    };
    for entry in s.entries() {
        match &entry {
            Entry::Command(id) => {
                let spec = s.commands.get(*id).spec;
                show(spec.name, spec.all_categories());
            }
            Entry::Container(name) => show(name, category::SLOW),
        }
        for id in s.subcommands(&entry) {
            let spec = s.commands.get(id).spec;
            show(spec.name, spec.all_categories());
        }
    }
    call.reply.end_array(place, n);
    Ok(())
}

/// The command that the arguments from index 2 on make, and where its keys stand among them.
fn keys_of(s: &Server, args: &mut Args) -> Result<(&'static Spec, Vec<usize>), Error> {
    let named = args.skip(2);
    let id = s.commands.find(&named).map_err(|_| Error::new("ERR Invalid command specified"))?;
    let spec = s.commands.get(id).spec;
    if matches!(spec.keys, Keys::None | Keys::Channels(..)) {
        return Err(Error::new("ERR The command has no key arguments"));
    }
    if !spec.takes(named.len()) {
        return Err(Error::new("ERR Invalid number of arguments specified for command"));
    }
    let keys = spec.keys.indexes(&named);
    if keys.is_empty() {
        return Err(Error::new("ERR Invalid arguments specified for command"));
    }
    Ok((spec, keys))
}

fn getkeys(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let (_, keys) = keys_of(s, args)?;
    call.reply.array(keys.len());
    for i in keys {
        call.reply.bulk(&args[i + 2]);
    }
    Ok(())
}

fn getkeysandflags(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let (spec, keys) = keys_of(s, args)?;
    call.reply.array(keys.len());
    for (n, i) in keys.into_iter().enumerate() {
        call.reply.array(2);
        call.reply.bulk(&args[i + 2]);
        let access = spec.access(n, &args.skip(2));
        put_names(call.reply, access, access::NAMES, "");
    }
    Ok(())
}

fn help(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.help(
        "COMMAND",
        &[
            "(no subcommand)",
            "    Tells all about all commands.",
            "COUNT",
            "    Tells how many commands there are.",
            "DOCS [<command> ...]",
            "    Tells what commands are for.",
            "GETKEYS <command> [<arg> ...]",
            "    Picks the keys out of a whole command.",
            "GETKEYSANDFLAGS <command> [<arg> ...]",
            "    Picks them out with what the command may do to them.",
            "INFO [<command> ...]",
            "    Tells all about some commands.",
            "LIST [FILTERBY (MODULE <name>|ACLCAT <category>|PATTERN <pattern>)]",
            "    Tells the commands' names.",
        ],
    );
    Ok(())
}

const fn spec(name: &'static str, arity: i32) -> Spec {
    Spec::new(name, arity, LOADING | STALE, category::CONNECTION, Keys::None)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: command, spec: spec("command", -1).tips(&["nondeterministic_output_order"]).doc("server", "2.8.13", "O(N) in the commands", "Describes every command to programs.", "") },
    Command { run: count, spec: spec("command|count", 2).doc("server", "2.8.13", "O(1)", "Counts the commands.", "") },
    Command { run: info, spec: spec("command|info", -2).tips(&["nondeterministic_output_order"]).doc("server", "2.8.13", "O(N) in the commands asked for", "Describes some commands to programs.", "[command-name...]") },
    Command { run: docs, spec: spec("command|docs", -2).tips(&["nondeterministic_output_order"]).doc("server", "7.0.0", "O(N) in the commands asked for", "Describes commands to people.", "[command-name...]") },
    Command { run: list, spec: spec("command|list", -2).tips(&["nondeterministic_output_order"]).doc("server", "7.0.0", "O(N) in the commands", "Lists the commands' names.", "[FILTERBY filterby=(MODULE module-name|ACLCAT category|PATTERN pattern)]") },
    Command { run: getkeys, spec: spec("command|getkeys", -3).doc("server", "2.8.13", "O(N) in the arguments", "Picks the keys out of a command.", "command [arg...]") },
    Command { run: getkeysandflags, spec: spec("command|getkeysandflags", -3).doc("server", "7.0.0", "O(N) in the arguments", "Picks the keys out of a command, with what it may do to them.", "command [arg...]") },
    Command { run: help, spec: spec("command|help", 2).doc("server", "5.0.0", "O(1)", "Lists the subcommands.", "") },
];
