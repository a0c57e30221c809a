//! The manifest: which files make up the log, and whose history they are.
//!
//! Redis 7's format, a line a file: `file <name> seq <n> type <b|i|h>` and further `key value`
//! pairs, which Redis skips. What Redis has no place for at all (the history's names, and what a
//! restart may conclude about them) stands in lines that begin with `#`, which Redis skips too. It
//! is one file on purpose: a full resync changes base, segments and history in one rename.
//! `docs/design.md` lists the keys.

use super::Fsync;
use super::index::crc32c;
use crate::offset::{Histories, HistoryId, Offset};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What a file is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A snapshot that the segments continue.
    Base,
    /// A segment.
    Incr,
    /// Not needed for a restart: kept if [`Entry::is_kept`] or [`Entry::is_old_base`], else to be
    /// removed.
    History,
}

/// A file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: OsString,
    pub seq: u64,
    pub kind: FileType,
    /// Where a segment begins; where a base stands. Redis's own manifests do not say.
    pub start: Option<Offset>,
    /// Where a segment that is no longer written ends; bytes after it are not the log's.
    pub end: Option<Offset>,
    /// The database selected at a segment's beginning.
    pub db: u32,
    /// When a segment was ended, or another base took this one's place: seconds since 1970.
    pub sealed_s: Option<u64>,
    /// How many bytes a base has.
    pub size: Option<u64>,
}

impl Entry {
    /// Whether this is a segment older than the base that is kept, for those who come back late.
    pub fn is_kept(&self) -> bool {
        self.kind == FileType::History
            && self.sealed_s.is_some()
            && matches!((self.start, self.end), (Some(start), Some(end)) if start < end)
    }

    /// Whether this is a base from before the one in force, kept to go back to.
    pub fn is_old_base(&self) -> bool {
        self.kind == FileType::History
            && self.sealed_s.is_some()
            && (self.start.is_some() && self.end.is_none())
            && self.is_named_base()
    }

    /// Whether the name is one that the log gives its bases.
    pub fn is_named_base(&self) -> bool {
        self.name_has(b".base.")
    }

    fn name_has(&self, part: &[u8]) -> bool {
        self.name.as_bytes().windows(part.len()).any(|window| window == part)
    }

    /// How many bytes of the history a kept segment covers.
    pub fn covers(&self) -> u64 {
        self.end.unwrap_or_default().0.saturating_sub(self.start.unwrap_or_default().0)
    }

    /// Whether the number may be that of a file of this type: what is history says its type only
    /// by its name.
    fn counts_as(&self, kind: FileType) -> bool {
        match (self.kind, kind) {
            (FileType::History, FileType::Base) => !self.name_has(b".incr.aof"),
            (FileType::History, FileType::Incr) => !self.is_named_base(),
            (own, wanted) => own == wanted,
        }
    }
}

/// What a restart needs to know to go on with a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub histories: Histories,
    /// Whether this node took the current name itself. Else it is a primary's, who may go on under it:
    /// nobody else may.
    pub own: bool,
    /// The boot that the log was last written in.
    pub boot: String,
    /// The folder's identity, which a copy of it does not have.
    pub folder: u64,
    /// The manifest's own identity, which one that was copied into its place does not have either. Missing
    /// in manifests of before.
    pub file: Option<u64>,
    pub fsync: Fsync,
    /// The stream whose newest bytes are in the pool's file, if one is used.
    pub pool: Option<u64>,
    /// Up to where all was synced when a segment began after a sync had failed: of what follows, nothing was promised,
    /// and a power cut may have left any of it.
    pub unsynced: Option<Offset>,
    /// Where the log ended when it was closed in good order.
    pub closed: Option<Offset>,
}

/// What the first line begins with: the checksum of all that follows it.
const CHECKSUM: &str = "# varve crc32c ";

/// The manifest's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub entries: Vec<Entry>,
    /// Missing in a folder that Redis made.
    pub state: Option<State>,
}

impl Manifest {
    /// The base, if there is one.
    pub fn base(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kind == FileType::Base)
    }

    /// The segments in order.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.kind == FileType::Incr)
    }

    /// The segments older than the base that are kept, oldest first.
    pub fn kept(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.is_kept())
    }

    /// The bases from before the one in force that are kept, newest first.
    pub fn old_bases(&self) -> Vec<&Entry> {
        let mut found: Vec<_> = self.entries.iter().filter(|entry| entry.is_old_base()).collect();
        found.sort_by_key(|entry| std::cmp::Reverse((entry.start, entry.seq)));
        found
    }

    /// The offset of the oldest dataset that the log can be brought back to.
    pub fn oldest_base(&self) -> Option<Offset> {
        let first_live = || self.segments().next().and_then(|entry| entry.start);
        let live = self.base().map_or_else(first_live, |base| base.start);
        self.old_bases().last().map_or(live, |base| base.start)
    }

    /// The highest sequence number given to a file of this type; bases and segments count apart.
    pub fn last_seq(&self, kind: FileType) -> u64 {
        let same = |entry: &&Entry| entry.counts_as(kind);
        self.entries.iter().filter(same).map(|entry| entry.seq).max().unwrap_or(0)
    }

    /// Reads a manifest; an error is a line number and what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Manifest, (usize, String)> {
        verify(text).map_err(|what| (1, what))?;
        let mut manifest = Manifest::default();
        let mut comments = Comments::default();
        let mut names = HashSet::new();
        let Some(lines) = text.strip_suffix(b"\n") else {
            let count = text.iter().filter(|&&b| b == b'\n').count() + 1;
            return Err((count, "the file ends without a line feed: its end is missing".into()));
        };
        for (i, line) in lines.split(|&b| b == b'\n').enumerate() {
            let at = |what: String| (i + 1, what);
            if let Some(comment) = line.strip_prefix(b"#") {
                comments.line(comment).map_err(at)?;
                continue;
            }
            let entry = parse_entry(line).map_err(at)?;
            match entry.kind {
                // When one of the two is done with, the file goes.
                _ if !names.insert(entry.name.clone()) => {
                    return Err(at("a file that is named twice".into()));
                }
                FileType::Base if manifest.base().is_some() => {
                    return Err(at("a second base".into()));
                }
                FileType::Incr
                    if manifest.segments().next_back().is_some_and(|l| l.seq >= entry.seq) =>
                {
                    return Err(at("segments out of order".into()));
                }
                _ => manifest.entries.push(entry),
            }
        }
        // A log has a segment at every instant: fewer lines than that are a torn file, and to begin
        // an empty log for it would drop all data.
        if manifest.segments().next().is_none() && manifest.base().is_none() {
            let count = lines.split(|&b| b == b'\n').count();
            return Err((count, "the file names neither a base nor a segment".into()));
        }
        manifest.state = comments.finish();
        if manifest.state.is_none() {
            // Redis 8 writes offsets too, which are not those of its files' bytes.
            manifest.entries.iter_mut().for_each(|entry| (entry.start, entry.end) = (None, None));
        }
        Ok(manifest)
    }

    /// The manifest as a file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::new();
        if let Some(state) = &self.state {
            let _ = writeln!(text, "# varve history {}", state.histories.current);
            for (former, upto) in state.histories.former() {
                let _ = writeln!(text, "# varve second {former} {upto}");
            }
            if state.own {
                text.push_str("# varve own\n");
            }
            let _ = writeln!(text, "# varve boot {}", state.boot);
            let _ = writeln!(text, "# varve folder {}", state.folder);
            if let Some(file) = state.file {
                let _ = writeln!(text, "# varve file {file}");
            }
            let _ = writeln!(text, "# varve fsync {}", state.fsync.as_str());
            if let Some(stream) = state.pool {
                let _ = writeln!(text, "# varve pool {stream:016x}");
            }
            if let Some(at) = state.unsynced {
                let _ = writeln!(text, "# varve unsynced {at}");
            }
            if let Some(end) = state.closed {
                let _ = writeln!(text, "# varve closed {end}");
            }
        }
        for entry in &self.entries {
            let kind = match entry.kind {
                FileType::Base => 'b',
                FileType::Incr => 'i',
                FileType::History => 'h',
            };
            let name = quote(&entry.name);
            let _ = write!(text, "file {name} seq {} type {kind}", entry.seq);
            if let Some(start) = entry.start {
                let _ = write!(text, " startoffset {start}");
            }
            if let Some(end) = entry.end {
                let _ = write!(text, " endoffset {end}");
            }
            if entry.db != 0 {
                let _ = write!(text, " db {}", entry.db);
            }
            if let Some(sealed) = entry.sealed_s {
                let _ = write!(text, " sealedat {sealed}");
            }
            if let Some(size) = entry.size {
                let _ = write!(text, " size {size}");
            }
            text.push('\n');
        }
        format!("{CHECKSUM}{:08x}\n{text}", crc32c(text.as_bytes())).into_bytes()
    }
}

/// Compares the text with the checksum in its first line. Without one (Redis's, or a hand has changed it)
/// it is taken as it is.
fn verify(text: &[u8]) -> Result<(), String> {
    let Some(rest) = text.strip_prefix(CHECKSUM.as_bytes()) else { return Ok(()) };
    let (said, rest) = rest.split_at(rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()));
    let is = format!("{:08x}", crc32c(rest.get(1..).unwrap_or_default()));
    match is.as_bytes() == said {
        true => Ok(()),
        false => Err(format!(
            "the CRC-32C of what follows is {is}, expected {}; without this line it is not looked at",
            said.escape_ascii()
        )),
    }
}

/// The `# varve` lines, as they come.
#[derive(Default)]
struct Comments {
    current: Option<HistoryId>,
    former: Vec<(HistoryId, Offset)>,
    own: bool,
    boot: String,
    folder: u64,
    file: Option<u64>,
    fsync: Option<Fsync>,
    pool: Option<u64>,
    unsynced: Option<Offset>,
    closed: Option<Offset>,
}

impl Comments {
    fn line(&mut self, comment: &[u8]) -> Result<(), String> {
        let Ok(comment) = std::str::from_utf8(comment) else { return Ok(()) };
        let mut words = comment.split_whitespace();
        if words.next() != Some("varve") {
            return Ok(());
        }
        let words: Vec<&str> = words.collect();
        let bad = || format!("a bad value in '#{comment}'");
        let id = |text: &str| HistoryId::parse(text.as_bytes()).ok_or_else(bad);
        let number = |text: &str| text.parse::<u64>().map_err(|_| bad());
        match words[..] {
            ["history", current] => self.current = Some(id(current)?),
            ["second", second, upto] => {
                self.former.push((id(second)?, Offset(number(upto)?)));
            }
            ["own"] => self.own = true,
            ["boot", boot] => self.boot = boot.to_owned(),
            ["folder", folder] => self.folder = number(folder)?,
            ["file", file] => self.file = Some(number(file)?),
            ["fsync", fsync] => self.fsync = Some(Fsync::parse(fsync).ok_or_else(bad)?),
            ["pool", stream] => {
                self.pool = Some(u64::from_str_radix(stream, 16).map_err(|_| bad())?);
            }
            ["unsynced", at] => self.unsynced = Some(Offset(number(at)?)),
            ["closed", end] => self.closed = Some(Offset(number(end)?)),
            _ => {} // a later version's
        }
        Ok(())
    }

    fn finish(self) -> Option<State> {
        Some(State {
            histories: Histories::with_former(self.current?, self.former),
            own: self.own,
            boot: self.boot,
            folder: self.folder,
            file: self.file,
            fsync: self.fsync.unwrap_or(Fsync::No),
            pool: self.pool,
            unsynced: self.unsynced,
            closed: self.closed,
        })
    }
}

fn parse_entry(line: &[u8]) -> Result<Entry, String> {
    let words = split_quoted(line).ok_or("unbalanced quotes")?;
    if words.is_empty() || words.len() % 2 != 0 {
        return Err("not a list of keys and values".into());
    }
    let mut entry = Entry {
        name: OsString::new(),
        seq: 0,
        kind: FileType::History,
        start: None,
        end: None,
        db: 0,
        sealed_s: None,
        size: None,
    };
    let mut has_type = false;
    for pair in words.chunks_exact(2) {
        let (key, value) = (&pair[0][..], &pair[1]);
        let number = || {
            let text = std::str::from_utf8(value).ok();
            text.and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| {
                format!("'{}' is not a number", String::from_utf8_lossy(value).escape_debug())
            })
        };
        match key.to_ascii_lowercase().as_slice() {
            b"file" => {
                if value.contains(&b'/') {
                    return Err("File can't be a path, just a filename".into());
                }
                // A segment's index would be written over it.
                if value.ends_with(b".aof.idx") {
                    return Err("the name of an index".into());
                }
                entry.name = OsString::from_vec(value.clone());
            }
            b"seq" => entry.seq = number()?,
            b"type" => {
                has_type = true;
                entry.kind = match &value[..] {
                    b"b" => FileType::Base,
                    b"i" => FileType::Incr,
                    b"h" => FileType::History,
                    _ => return Err("an unknown file type".into()),
                }
            }
            b"startoffset" => entry.start = Some(Offset(number()?)),
            b"endoffset" => entry.end = Some(Offset(number()?)),
            b"sealedat" => entry.sealed_s = Some(number()?),
            b"size" => entry.size = Some(number()?),
            b"db" => {
                entry.db = u32::try_from(number()?).map_err(|_| "db is too large".to_owned())?;
            }
            _ => {}
        }
    }
    if entry.name.is_empty() || entry.seq == 0 || !has_type {
        return Err("a file needs a name, a seq and a type".into());
    }
    Ok(entry)
}

/// A name as Redis writes it: as it is if it is plain, else in double quotes with escapes.
fn quote(name: &OsStr) -> String {
    let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\');
    let bytes = name.as_bytes();
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::from("\"");
    for &b in bytes {
        match b {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(b));
            }
            b' '..=b'~' => text.push(char::from(b)),
            _ => {
                let _ = write!(text, "\\x{b:02x}");
            }
        }
    }
    text.push('"');
    text
}

/// The words of a line; in double quotes `\n`, `\r`, `\t`, `\b`, `\a`, `\xHH` and `\` before any
/// other character mean what they do in C, in single quotes only `\'` is special.
fn split_quoted(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        let Some(&first) = rest.first() else { return Some(words) };
        let mut word = Vec::new();
        if first == b'"' || first == b'\'' {
            rest = &rest[1..];
            loop {
                match *rest {
                    [b'\\', b'x', hi, lo, ..]
                        if first == b'"' && hi.is_ascii_hexdigit() && lo.is_ascii_hexdigit() =>
                    {
                        let digit = |b: u8| char::from(b).to_digit(16).unwrap_or(0) as u8;
                        word.push(digit(hi) << 4 | digit(lo));
                        rest = &rest[4..];
                    }
                    [b'\\', escaped, ..] if first == b'"' => {
                        word.push(match escaped {
                            b'n' => b'\n',
                            b'r' => b'\r',
                            b't' => b'\t',
                            b'b' => 8,
                            b'a' => 7,
                            other => other,
                        });
                        rest = &rest[2..];
                    }
                    [b'\\', b'\'', ..] => {
                        word.push(b'\'');
                        rest = &rest[2..];
                    }
                    [b, ..] if b == first => {
                        rest = &rest[1..];
                        if rest.first().is_some_and(|b| !b.is_ascii_whitespace()) {
                            return None;
                        }
                        break;
                    }
                    [b, ..] => {
                        word.push(b);
                        rest = &rest[1..];
                    }
                    [] => return None,
                }
            }
        } else {
            let len = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
            word.extend_from_slice(&rest[..len]);
            rest = &rest[len..];
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn redis_manifests_are_read_quotes_and_all() {
        let text = b"file \"a \\\"b\\\" c.aof.1.base.rdb\" seq 1 type b\n\
                     # a remark\n\
                     file a.2.incr.aof seq 2 type i startoffset 5 somekey 7\n\
                     file 'x y' seq 1 type h\n";
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!(manifest.base().unwrap().name, "a \"b\" c.aof.1.base.rdb");
        assert_eq!(manifest.segments().next().unwrap().start, None);
        assert_eq!(manifest.entries[2].name, "x y");
        assert_eq!(manifest.state, None);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, line) in [
            ("file a seq 1 type b\nfile b seq 2 type b\n", 2),
            ("file a seq 2 type i\nfile b seq 2 type i\n", 2),
            ("file a/b seq 1 type i\n", 1),
            ("file a.1.incr.aof.idx seq 1 type i\n", 1),
            ("file a seq x type i\n", 1),
            ("file a seq 1\n", 1),
            ("file \"a seq 1 type i\n", 1),
            ("# varve history 12\n", 1),
            ("file a seq 1 type h\nfile b seq 1 type b\nfile \"\\x61\" seq 2 type i\n", 3),
            ("\n", 1),
        ] {
            assert_eq!(Manifest::parse(text.as_bytes()).unwrap_err().0, line, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_manifest_reads_back(
            name in prop::collection::vec(any::<u8>().prop_filter("", |b| *b != b'/'), 1..20),
            start in prop::option::of(any::<u64>()),
            shared in prop::collection::vec(any::<u64>(), 0..8),
            closed in prop::option::of(any::<u64>()),
            db in any::<u32>(),
        ) {
            let id = HistoryId::from_random([7; 20]);
            let entry = |kind, seq| Entry {
                name: OsString::from_vec([&name[..], format!("{kind:?}{seq}").as_bytes()].concat()),
                seq,
                kind,
                start: start.map(Offset),
                end: None,
                db,
                sealed_s: closed,
                size: start,
            };
            let manifest = Manifest {
                entries: vec![
                    entry(FileType::Base, 1),
                    entry(FileType::Incr, 1),
                    entry(FileType::Incr, 9),
                    entry(FileType::History, 3),
                ],
                state: Some(State {
                    histories: Histories::with_former(
                        id,
                        shared.iter().map(|&s| (id, Offset(s))),
                    ),
                    own: db == 1,
                    boot: "b".into(),
                    folder: 7,
                    file: closed.map(|n| !n),
                    fsync: Fsync::Always,
                    pool: closed.map(|n| n.rotate_left(31)),
                    unsynced: closed.map(|n| Offset(n / 2)),
                    closed: closed.map(Offset),
                }),
            };
            prop_assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
        }
    }
}
