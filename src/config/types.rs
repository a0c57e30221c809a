//! The types of the directives that are more than a number, a word or a text.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use varve_engine::keyspace::event;

use super::parse;
use super::value::{Kind, Setting, choices, name, not_among};

choices! {
    /// What the server logs at least.
    LogLevel {
        Debug = "debug", Verbose = "verbose", Notice = "notice", Warning = "warning",
        Nothing = "nothing",
    }
}

choices! {
    /// Which init system is told that the server is ready.
    Supervised { Upstart = "upstart", Systemd = "systemd", Auto = "auto", No = "no" }
}

choices! {
    /// Which keys go when `maxmemory` is reached.
    MaxmemoryPolicy {
        VolatileLru = "volatile-lru", VolatileLfu = "volatile-lfu",
        VolatileRandom = "volatile-random", VolatileTtl = "volatile-ttl",
        AllkeysLru = "allkeys-lru", AllkeysLfu = "allkeys-lfu",
        AllkeysRandom = "allkeys-random", NoEviction = "noeviction",
    }
}

choices! {
    /// When the log is synced to the disk.
    AppendFsync { EverySec = "everysec", Always = "always", No = "no" }
}

choices! {
    /// When a replica loads a full sync from the socket instead of a file.
    DisklessLoad { Disabled = "disabled", OnEmptyDb = "on-empty-db", SwapDb = "swapdb" }
}

choices! {
    /// How a link between two Varves is compressed.
    ReplCompression { No = "no", Lz4 = "lz4" }
}

choices! {
    /// Who may use what can harm the server.
    OnOffLocal { No = "no", Yes = "yes", Local = "local" }
}

impl OnOffLocal {
    /// Whether a client may, `local` saying that it came over the loopback or a Unix socket.
    pub fn allows(self, local: bool) -> bool {
        match self {
            OnOffLocal::No => false,
            OnOffLocal::Yes => true,
            OnOffLocal::Local => local,
        }
    }
}

choices! {
    /// What happens when a command from the primary or from the log fails.
    PropagationError {
        Ignore = "ignore", Panic = "panic", PanicOnReplicas = "panic-on-replicas",
    }
}

/// A snapshot is due when `changes` keys changed and `seconds` passed since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavePoint {
    pub seconds: u64,
    pub changes: u64,
}

/// The `save` directive: it accumulates over lines, and nothing or `""` clears it.
impl Setting for Vec<SavePoint> {
    fn assign(&mut self, _: &Kind, words: &[OsString], more: bool) -> Result<(), String> {
        const INVALID: &str = "Invalid save parameters";
        let mut points = Vec::new();
        if !matches!(words, [one] if one.is_empty()) {
            if !words.len().is_multiple_of(2) {
                return Err(INVALID.into());
            }
            for pair in words.chunks_exact(2) {
                let number = |word: &OsStr| varve_engine::num::parse_int(word.as_bytes());
                match (number(&pair[0]), number(&pair[1])) {
                    (Some(seconds @ 1..), Some(changes @ 0..)) => {
                        points.push(SavePoint { seconds: seconds as u64, changes: changes as u64 })
                    }
                    _ => return Err(INVALID.into()),
                }
            }
        }
        if more && !points.is_empty() {
            self.append(&mut points);
        } else {
            *self = points;
        }
        Ok(())
    }

    fn show(&self, _: &Kind) -> OsString {
        let pairs: Vec<String> =
            self.iter().map(|p| format!("{} {}", p.seconds, p.changes)).collect();
        pairs.join(" ").into()
    }
}

/// What a client may leave unread in the server before it is closed; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimit {
    /// Bytes at which it is closed at once.
    pub hard: u64,
    /// Bytes at which it is closed when they stand for `soft_seconds`.
    pub soft: u64,
    pub soft_seconds: u64,
}

impl OutputLimit {
    pub const fn new(hard: u64, soft: u64, soft_seconds: u64) -> OutputLimit {
        OutputLimit { hard, soft, soft_seconds }
    }
}

/// The classes of clients, in the order of `client-output-buffer-limit`'s array: their name in
/// CONFIG GET and in a file.
const CLIENT_CLASSES: [(&str, &str); 3] =
    [("normal", "normal"), ("slave", "replica"), ("pubsub", "pubsub")];

/// Limits for normal clients, replicas and subscribers. A class that is not named keeps its limits.
impl Setting for [OutputLimit; 3] {
    fn assign(&mut self, _: &Kind, words: &[OsString], _: bool) -> Result<(), String> {
        if words.is_empty() || !words.len().is_multiple_of(4) {
            return Err("Wrong number of arguments in buffer limit configuration.".into());
        }
        let mut limits = *self;
        for group in words.chunks_exact(4) {
            let class = CLIENT_CLASSES
                .iter()
                .position(|(a, b)| {
                    group[0].eq_ignore_ascii_case(a) || group[0].eq_ignore_ascii_case(b)
                })
                .ok_or("Invalid client class specified in buffer limit configuration.")?;
            let size = |word: &OsStr| parse::memory(&word.to_string_lossy());
            let seconds = varve_engine::num::parse_int(group[3].as_bytes());
            let (Some(hard), Some(soft), Some(seconds @ 0..)) =
                (size(&group[1]), size(&group[2]), seconds)
            else {
                return Err("Error in hard, soft or soft_seconds setting in buffer limit \
                            configuration."
                    .into());
            };
            limits[class] = OutputLimit::new(hard, soft, seconds as u64);
        }
        *self = limits;
        Ok(())
    }

    fn show(&self, _: &Kind) -> OsString {
        let classes: Vec<String> = CLIENT_CLASSES
            .iter()
            .zip(self)
            .map(|((name, _), l)| format!("{name} {} {} {}", l.hard, l.soft, l.soft_seconds))
            .collect();
        classes.join(" ").into()
    }

    fn lines(&self, _: &Kind) -> Vec<String> {
        let size = parse::show_memory;
        CLIENT_CLASSES
            .iter()
            .zip(self)
            .map(|((_, name), l)| {
                format!("{name} {} {} {}", size(l.hard), size(l.soft), l.soft_seconds)
            })
            .collect()
    }
}

/// What all clients together may hold in buffers: `maxmemory-clients`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMemory {
    /// 0 is no limit.
    Bytes(u64),
    /// Of `maxmemory`; no limit without that.
    Percent(u8),
}

impl Setting for ClientMemory {
    fn assign(&mut self, _: &Kind, words: &[OsString], _: bool) -> Result<(), String> {
        const NEITHER: &str = "argument must be a memory or percent value";
        let [word] = words else { return Err("wrong number of arguments".into()) };
        let word = word.to_string_lossy();
        *self = match word.strip_suffix('%') {
            Some(number) => match varve_engine::num::parse_int(number.as_bytes()).ok_or(NEITHER)? {
                0 => ClientMemory::Bytes(0),
                percent @ 1..=100 => ClientMemory::Percent(percent as u8),
                _ => return Err("percentage argument must be less or equal to 100".into()),
            },
            None => ClientMemory::Bytes(parse::memory(&word).ok_or(NEITHER)?),
        };
        Ok(())
    }

    fn show(&self, _: &Kind) -> OsString {
        match self {
            ClientMemory::Bytes(bytes) => bytes.to_string().into(),
            ClientMemory::Percent(percent) => format!("{percent}%").into(),
        }
    }

    fn lines(&self, _: &Kind) -> Vec<String> {
        vec![match self {
            ClientMemory::Bytes(bytes) => parse::show_memory(*bytes),
            ClientMemory::Percent(percent) => format!("{percent}%"),
        }]
    }
}

/// Which keyspace events are published: a set of [`event`]'s flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(pub u32);

impl Events {
    /// The letters, in the order in which they are shown.
    const LETTERS: [(char, u32); 14] = [
        ('g', event::GENERIC),
        ('$', event::STRING),
        ('l', event::LIST),
        ('s', event::SET),
        ('h', event::HASH),
        ('z', event::ZSET),
        ('x', event::EXPIRED),
        ('e', event::EVICTED),
        ('t', event::STREAM),
        ('d', event::MODULE),
        ('K', event::KEYSPACE),
        ('E', event::KEYEVENT),
        ('m', event::KEY_MISS),
        ('n', event::NEW),
    ];
}

/// The flags of both.
impl std::ops::BitAnd<u32> for Events {
    type Output = u32;

    fn bitand(self, flags: u32) -> u32 {
        self.0 & flags
    }
}

impl Setting for Events {
    fn assign(&mut self, _: &Kind, words: &[OsString], _: bool) -> Result<(), String> {
        let mut flags = 0;
        for c in words[0].to_string_lossy().chars() {
            flags |= match Self::LETTERS.iter().find(|(letter, _)| *letter == c) {
                Some((_, flag)) => *flag,
                None if c == 'A' => event::ALL,
                None => {
                    return Err("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".into());
                }
            };
        }
        *self = Events(flags);
        Ok(())
    }

    fn show(&self, _: &Kind) -> OsString {
        let mut text = String::new();
        let mut rest = self.0;
        if *self & event::ALL == event::ALL {
            text.push('A');
            rest &= !event::ALL;
        }
        text.extend(Self::LETTERS.iter().filter(|(_, f)| rest & f != 0).map(|(c, _)| *c));
        text.into()
    }

    fn lines(&self, kind: &Kind) -> Vec<String> {
        vec![parse::quote(self.show(kind))]
    }
}

/// What a signal asks of the shutdown that it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownFlags {
    pub save: bool,
    pub nosave: bool,
    pub now: bool,
    pub force: bool,
}

impl Setting for ShutdownFlags {
    fn assign(&mut self, _: &Kind, words: &[OsString], _: bool) -> Result<(), String> {
        let unknown = not_among(&["default", "save", "nosave", "now", "force"]);
        if words.is_empty() {
            return Err(unknown);
        }
        let mut flags = ShutdownFlags::default();
        for word in words {
            match word.to_ascii_lowercase().as_bytes() {
                b"default" => {}
                b"save" => flags.save = true,
                b"nosave" => flags.nosave = true,
                b"now" => flags.now = true,
                b"force" => flags.force = true,
                _ => return Err(unknown),
            }
        }
        if flags.save && flags.nosave {
            return Err("shutdown options SAVE and NOSAVE can't be used simultaneously".into());
        }
        *self = flags;
        Ok(())
    }

    fn show(&self, _: &Kind) -> OsString {
        let words: Vec<&str> = [
            (self.save, "save"),
            (self.nosave, "nosave"),
            (self.now, "now"),
            (self.force, "force"),
        ]
        .iter()
        .filter_map(|(set, name)| set.then_some(*name))
        .collect();
        if words.is_empty() { "default".into() } else { words.join(" ").into() }
    }
}

/// The percentiles that INFO latencystats shows, each 0 to 100.
#[derive(Clone, Debug, PartialEq)]
pub struct Percentiles(pub Vec<f64>);

impl Setting for Percentiles {
    fn assign(&mut self, _: &Kind, words: &[OsString], _: bool) -> Result<(), String> {
        let mut list = Vec::new();
        for word in words.iter().filter(|w| !w.is_empty()) {
            let value = varve_engine::num::parse_double(word.as_bytes())
                .ok_or("Invalid latency-tracking-info-percentiles parameters")?;
            if !(0.0..=100.0).contains(&value) {
                return Err("latency-tracking-info-percentiles parameters should sit between \
                            [0.0,100.0]"
                    .into());
            }
            list.push(value);
        }
        *self = Percentiles(list);
        Ok(())
    }

    fn show(&self, _: &Kind) -> OsString {
        let words: Vec<String> =
            self.0.iter().map(|p| varve_engine::num::format_double(*p)).collect();
        words.join(" ").into()
    }
}

/// The address of the primary that this server replicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    pub host: String,
    pub port: u16,
}

/// `replicaof`: a host and a port, or `no one`.
impl Setting for Option<Primary> {
    fn assign(&mut self, _: &Kind, words: &[OsString], _: bool) -> Result<(), String> {
        let [host, port] = words else { return Err("wrong number of arguments".into()) };
        *self = if host.eq_ignore_ascii_case("no") && port.eq_ignore_ascii_case("one") {
            None
        } else {
            let port = port.to_string_lossy().parse().map_err(|_| "Invalid master port")?;
            Some(Primary { host: name(host)?, port })
        };
        Ok(())
    }

    fn show(&self, _: &Kind) -> OsString {
        match self {
            Some(primary) => format!("{} {}", primary.host, primary.port).into(),
            None => OsString::new(),
        }
    }

    fn lines(&self, _: &Kind) -> Vec<String> {
        vec![match self {
            Some(primary) => format!("{} {}", parse::quote(&primary.host), primary.port),
            None => "no one".into(),
        }]
    }
}

/// A command's new name; an empty one removes the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    pub command: String,
    pub name: String,
}

/// `rename-command`: one pair a line, accumulating. Whether the commands exist is for whoever holds
/// the command table to say.
impl Setting for Vec<Rename> {
    fn assign(&mut self, _: &Kind, words: &[OsString], more: bool) -> Result<(), String> {
        let [command, new] = words else { return Err("wrong number of arguments".into()) };
        if !more {
            self.clear();
        }
        self.push(Rename { command: name(command)?, name: name(new)? });
        Ok(())
    }

    fn show(&self, kind: &Kind) -> OsString {
        self.lines(kind).join(" ").into()
    }

    fn lines(&self, _: &Kind) -> Vec<String> {
        self.iter()
            .map(|r| format!("{} {}", parse::quote(&r.command), parse::quote(&r.name)))
            .collect()
    }
}
