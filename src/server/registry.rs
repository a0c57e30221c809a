//! Every command that this daemon knows, by name.
//!
//! The engine's commands on data and the daemon's own come together here. What is known of a
//! command stands in its [`Spec`]; what is counted of it stands here.

use super::Server;
use super::dispatch::Call;
use hdrhistogram::Histogram;
use std::collections::HashMap;
use varve_engine::command::{Command, Handler, Spec};
use varve_engine::{Args, Error, OwnedArgs};

/// A command of the daemon itself.
pub type ServerHandler = fn(&mut Server, &mut Call<'_>, &mut Args<'_>) -> Result<(), Error>;

#[derive(Clone, Copy)]
pub enum Run {
    Data(Handler),
    Server(ServerHandler),
}

/// What `INFO commandstats` and `LATENCY HISTOGRAM` show.
#[derive(Clone, Default)]
pub struct Counters {
    pub calls: u64,
    pub ns: u64,
    pub rejected: u64,
    pub failed: u64,
    /// The times of the calls in ns, once there was one.
    pub times: Option<Histogram<u64>>,
}

impl Counters {
    /// Enters a call in the histogram.
    #[inline]
    pub fn timed(&mut self, ns: u64) {
        self.times.get_or_insert_with(histogram).saturating_record(ns);
    }
}

/// Times up to a second, to two digits, as Redis has them: 24 KiB.
#[cold]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1_000_000_000, 2).expect("these bounds are far apart")
}

pub struct Registered {
    pub spec: &'static Spec,
    pub run: Run,
    pub counters: Counters,
}

/// An index into [`Registry::all`].
pub type CommandId = u16;

/// What a first word names.
#[derive(Clone, Copy)]
enum Named {
    Command(CommandId),
    Container,
    /// `COMMAND`: a command alone, a container before a second word.
    Either(CommandId),
}

pub struct Registry {
    all: Vec<Registered>,
    /// First words, lower case, as clients say them (after `rename-command`).
    words: HashMap<Box<[u8]>, Named, foldhash::fast::RandomState>,
    /// `container|sub`.
    subcommands: HashMap<Box<[u8]>, CommandId, foldhash::fast::RandomState>,
    /// The containers' own names, by the words that clients say.
    containers: HashMap<Box<[u8]>, Box<[u8]>, foldhash::fast::RandomState>,
    /// The words of letters that name a command alone, each at its [`Folded::slot`]: most requests
    /// are understood by one comparison. Of two words with the same place the earlier command has it.
    quick: Box<[Option<Quick>]>,
    /// Whether clients call any command by another name than its own.
    renames: bool,
}

/// A word that names a command alone, and the command.
#[derive(Clone, Copy)]
struct Quick {
    word: Folded,
    id: CommandId,
}

/// Places in [`Registry::quick`]; a power of two.
const SLOTS: usize = 1024;

/// A word of 1 to 16 bytes without regard to case, in two words of memory: its first bytes and its
/// last ones. Two words of letters are the same exactly if these and the lengths are.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Folded {
    first: u64,
    last: u64,
    len: usize,
}

impl Folded {
    #[inline]
    fn new(word: &[u8]) -> Option<Folded> {
        let len = word.len();
        let (first, last) =
            if let (Some(first), Some(last)) = (word.first_chunk(), word.last_chunk()) {
                (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
            } else if let (Some(first), Some(last)) = (word.first_chunk(), word.last_chunk()) {
                (u32::from_le_bytes(*first) as u64, u32::from_le_bytes(*last) as u64)
            } else {
                (*word.first()? as u64, (word[len / 2] as u64) << 8 | *word.last()? as u64)
            };
        const LOWER: u64 = u64::from_le_bytes([b' '; 8]);
        (len <= 16).then_some(Folded { first: first | LOWER, last: last | LOWER, len })
    }

    /// Where the word is looked for first.
    #[inline]
    fn slot(&self) -> usize {
        /// Found by trying: it leaves all commands but one a place each.
        const FACTOR: u64 = 0x23c6_5427_b22b_49c5;
        let mixed = (self.first ^ self.last.rotate_left(29)).wrapping_add(self.len as u64);
        (mixed.wrapping_mul(FACTOR) >> (u64::BITS - SLOTS.ilog2())) as usize
    }
}

/// Why a request names no command.
pub enum Unknown {
    Command,
    /// The container, lower case.
    Subcommand(String),
    /// A container without a subcommand: the wrong number of arguments.
    Bare(String),
}

/// Longest name with its subcommand; longer words name nothing.
const LONGEST: usize = 64;

impl Registry {
    pub fn new(own: impl Iterator<Item = &'static Command<ServerHandler>>) -> Registry {
        let data = crate::commands::on_data().map(|c| Registered {
            spec: &c.spec,
            run: Run::Data(c.run),
            counters: Counters::default(),
        });
        let own = own.map(|c| Registered {
            spec: &c.spec,
            run: Run::Server(c.run),
            counters: Counters::default(),
        });
        let all: Vec<Registered> = data.chain(own).collect();
        let mut words = HashMap::default();
        let mut subcommands = HashMap::default();
        let mut containers = HashMap::default();
        for (id, c) in all.iter().enumerate() {
            let name = c.spec.name.as_bytes();
            match c.spec.name.split_once('|') {
                None => {
                    words.insert(name.into(), Named::Command(id as CommandId));
                }
                Some((container, _)) => {
                    let container: Box<[u8]> = container.as_bytes().into();
                    words
                        .entry(container.clone())
                        .and_modify(|named| {
                            if let Named::Command(id) = *named {
                                *named = Named::Either(id);
                            }
                        })
                        .or_insert(Named::Container);
                    containers.insert(container.clone(), container);
                    subcommands.insert(name.into(), id as CommandId);
                }
            }
        }
        let quick = Box::default();
        let mut registry = Registry { all, words, subcommands, containers, quick, renames: false };
        registry.fill_slots();
        registry
    }

    fn fill_slots(&mut self) {
        self.quick = vec![None; SLOTS].into();
        let mut alone: Vec<Quick> = (self.words.iter())
            .filter_map(|(word, named)| match named {
                Named::Command(id) if word.iter().all(u8::is_ascii_lowercase) => {
                    Some(Quick { word: Folded::new(word)?, id: *id })
                }
                _ => None,
            })
            .collect();
        alone.sort_by_key(|quick| quick.id);
        for quick in alone {
            self.quick[quick.word.slot()].get_or_insert(quick);
        }
    }

    pub fn all(&self) -> &[Registered] {
        &self.all
    }

    pub fn get(&self, id: CommandId) -> &Registered {
        &self.all[id as usize]
    }

    pub fn counters(&mut self, id: CommandId) -> &mut Counters {
        &mut self.all[id as usize].counters
    }

    pub fn reset_counters(&mut self) {
        self.all.iter_mut().for_each(|c| c.counters = Counters::default());
    }

    /// `rename-command`: an empty new name removes the command. An error says what is wrong.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<(), String> {
        let old = old.to_ascii_lowercase().into_bytes();
        let Some(named) = self.words.remove(&old[..]) else {
            return Err("No such command in rename-command".into());
        };
        let container = self.containers.remove(&old[..]);
        if new.is_empty() {
            self.fill_slots();
            return Ok(());
        }
        self.renames = true;
        let new = new.to_ascii_lowercase().into_bytes();
        if self.words.contains_key(&new[..]) {
            return Err("Target command name already exists".into());
        }
        if let Some(container) = container {
            self.containers.insert(new.clone().into(), container);
        }
        self.words.insert(new.into(), named);
        self.fill_slots();
        Ok(())
    }

    /// The command that the first words of `args` name.
    #[inline]
    pub fn find(&self, args: &Args<'_>) -> Result<CommandId, Unknown> {
        let name = &args[0];
        if let Some(word) = Folded::new(name)
            && let Some(quick) = &self.quick[word.slot()]
            && quick.word == word
        {
            return Ok(quick.id);
        }
        self.find_words(name, args.get(1))
    }

    pub fn find_words(&self, name: &[u8], sub: Option<&[u8]>) -> Result<CommandId, Unknown> {
        let mut room = [0u8; LONGEST];
        let word = lower(name, &mut room).ok_or(Unknown::Command)?;
        match self.words.get(word) {
            None => Err(Unknown::Command),
            Some(Named::Command(id)) => Ok(*id),
            Some(Named::Either(id)) if sub.is_none() => Ok(*id),
            Some(Named::Container | Named::Either(_)) => {
                let container = &self.containers[word];
                let text = || String::from_utf8_lossy(container).into_owned();
                let Some(sub) = sub else { return Err(Unknown::Bare(text())) };
                let mut full = [0u8; LONGEST];
                let n = container.len();
                if n + 1 + sub.len() > LONGEST {
                    return Err(Unknown::Subcommand(text()));
                }
                full[..n].copy_from_slice(container);
                full[n] = b'|';
                let end = n + 1 + sub.len();
                full[n + 1..end].copy_from_slice(sub);
                full[n + 1..end].make_ascii_lowercase();
                let found = self.subcommands.get(&full[..end]);
                found.copied().ok_or_else(|| Unknown::Subcommand(text()))
            }
        }
    }

    /// A request under its command's own name, if that is not the one that it came with.
    #[inline]
    pub fn with_own_name(&self, id: CommandId, args: &Args<'_>) -> Option<OwnedArgs> {
        let own = || self.get(id).spec.name.split('|').next().unwrap_or_default();
        (self.renames && !args[0].eq_ignore_ascii_case(own().as_bytes()))
            .then(|| OwnedArgs::keep_as(own(), args))
    }

    /// The command that a log names: by its own name, whatever clients call it. Redis's log has the
    /// names that its clients use.
    pub fn find_for_log(&self, args: &Args<'_>) -> Option<CommandId> {
        let found = self.find(args).ok();
        let is_own = |id: &CommandId| {
            !self.renames || args[0].eq_ignore_ascii_case(self.get(*id).spec.name.as_bytes())
        };
        let by_own_name =
            || self.by_name(&std::str::from_utf8(&args[0]).ok()?.to_ascii_lowercase());
        found.filter(is_own).or_else(by_own_name).or(found)
    }

    /// By its own full name, whatever clients call it.
    pub fn by_name(&self, name: &str) -> Option<CommandId> {
        self.all.iter().position(|c| c.spec.name == name).map(|i| i as CommandId)
    }

    /// Names of first words as clients say them, with the command or container each names.
    pub fn words(&self) -> impl Iterator<Item = (&[u8], Option<CommandId>)> {
        self.words.iter().map(|(word, named)| match *named {
            Named::Command(id) | Named::Either(id) => (&word[..], Some(id)),
            Named::Container => (&word[..], None),
        })
    }

    /// What a first word (lower case) names: a command unless it is only a container, and its own
    /// name.
    pub fn named(&self, word: &[u8]) -> Option<(Option<CommandId>, &str)> {
        match *self.words.get(word)? {
            Named::Command(id) | Named::Either(id) => Some((Some(id), self.get(id).spec.name)),
            Named::Container => {
                let own = std::str::from_utf8(&self.containers[word]).ok()?;
                Some((None, own))
            }
        }
    }

    /// The subcommands of a container, by its own name.
    pub fn subcommands_of(&self, container: &str) -> impl Iterator<Item = CommandId> {
        self.all.iter().enumerate().filter_map(move |(i, c)| {
            c.spec.name.strip_prefix(container)?.starts_with('|').then_some(i as CommandId)
        })
    }
}

fn lower<'r>(word: &[u8], room: &'r mut [u8; LONGEST]) -> Option<&'r [u8]> {
    let part = room.get_mut(..word.len())?;
    part.copy_from_slice(word);
    part.make_ascii_lowercase();
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        Registry::new(crate::commands::all())
    }

    #[test]
    fn nearly_all_commands_are_found_by_one_comparison() {
        let registry = registry();
        let of_letters = |word: &[u8], named: &Named| {
            matches!(named, Named::Command(_)) && word.iter().all(u8::is_ascii_lowercase)
        };
        let words = registry.words.iter().filter(|(word, named)| of_letters(word, named)).count();
        let quick = registry.quick.iter().flatten().count();
        assert!(words - quick <= 1, "{quick} of {words}");
        for quick in registry.quick.iter().flatten() {
            let name = registry.get(quick.id).spec.name;
            assert!(Folded::new(name.as_bytes()) == Some(quick.word), "{name}");
        }
    }

    #[test]
    fn words_are_the_same_in_any_case_and_only_then() {
        let same = |a: &str, b: &str| Folded::new(a.as_bytes()) == Folded::new(b.as_bytes());
        for word in [
            "a",
            "ab",
            "get",
            "incr",
            "lpush",
            "zincrby",
            "smembers",
            "incrbyfloat",
            "zremrangebyscore",
        ] {
            assert!(same(word, &word.to_uppercase()), "{word}");
            assert!(same(word, &[&word[..1].to_uppercase(), &word[1..]].concat()), "{word}");
            for at in 0..word.len() {
                let mut other = word.as_bytes().to_vec();
                other[at] = b'q';
                assert!(Folded::new(&other) != Folded::new(word.as_bytes()), "{word} {at}");
                other[at] = word.as_bytes()[at] ^ 0x40;
                assert!(Folded::new(&other) != Folded::new(word.as_bytes()), "{word} {at}");
            }
            assert!(!same(word, &word[1..]) && !same(word, &format!("{word}{word}")), "{word}");
        }
        assert!(Folded::new(b"").is_none() && Folded::new(b"zrangebyscore4567").is_none());
    }
}
