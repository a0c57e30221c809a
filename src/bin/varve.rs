//! `varve`: looks at the files of a log without a daemon. It changes nothing, and may be used while one
//! runs.

use clap::{Parser, Subcommand};
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use varve_persistence::log::disk::{Contents, Disk};
use varve_persistence::log::manifest::{Entry, FileType, Manifest};
use varve_persistence::log::replay::{Command, Reading, Stop, Words, without_zeros};
use varve_persistence::log::{self, BaseKind, Options, OsDisk, Recovered, index, lz4, recover};
use varve_persistence::offset::Offset;
use varve_persistence::rdb;
use varved::crash;

type Failure = Box<dyn Error>;

/// What the name of a folder's manifest ends in.
const MANIFEST: &str = ".manifest";
/// How often a folder is looked at in which a daemon writes and something seems wrong, at the most...
const LOOKS: u32 = 5;
/// ... and the time between: what the daemon changes in more than one step is done by then.
const BETWEEN: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(name = "varve", version, about = "Looks at the files of a Varve log. Changes nothing.")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Print the commands of segments, compressed history, or tails that were set aside
    Show {
        /// Whole arguments instead of their first 64 bytes
        #[arg(long)]
        whole: bool,
        /// Only commands that end after this offset
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Only commands that end at or before this offset
        #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
        to: u64,
        /// In a log's folder: *.incr.aof, *.incr.aof.lz4, *.tail-*.aof
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Read everything in a log's folder (appendonlydir) and say what it holds, or what is wrong
    Check {
        /// The one with the manifest in it
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    // A file that the disk can not give back ends who reads it as memory.
    crash::install();
    crash::set_enabled(true);
    let result = match Arguments::parse().task {
        Task::Show { whole, from, to, files } => {
            files.iter().try_for_each(|file| show(file, whole, (from, to)))
        }
        Task::Check { folder } => check(&folder),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads the output has seen enough.
        Err(why) if is_broken_pipe(&*why) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("varve: {why}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(why: &(dyn Error + 'static)) -> bool {
    why.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// A file of commands, and what is known of where it stands in its log.
struct File {
    bytes: Contents,
    /// The offset of its first byte, where the manifest beside it, or the file, tells.
    start: Option<Offset>,
    db: u32,
    records: Vec<index::Record>,
}

impl File {
    fn open(path: &Path, entry: Option<&Entry>) -> Result<File, Failure> {
        let context = |e: io::Error| format!("{}: {e}", path.display());
        let name = path.file_name().unwrap_or_default();
        let db = entry.map_or(0, |entry| entry.db);
        if lz4::is_name(name) {
            let mut file = lz4::Compressed::open(&OsDisk, path).map_err(context)?;
            let mut bytes = vec![0; (file.end() - file.start()) as usize];
            let mut at = 0;
            while at < bytes.len() {
                match file.read_at(&mut bytes[at..], at as u64).map_err(context)? {
                    0 => return Err(format!("{}: it ends early", path.display()).into()),
                    n => at += n,
                }
            }
            let (start, bytes) = (Some(file.start()), Contents::Owned(bytes));
            return Ok(File { bytes, start, db, records: Vec::new() });
        }
        // A daemon may be writing the last segment, and cuts it when the next one begins.
        let is_last = entry.is_some_and(|e| e.kind == FileType::Incr && e.end.is_none());
        let bytes = match is_last {
            true => Contents::Owned(fs::read(path).map_err(context)?),
            false => OsDisk.map(path).map_err(context)?,
        };
        let start = entry.and_then(|entry| entry.start);
        let records = start.map(|start| index::read(&OsDisk, path, start, bytes.len() as u64));
        Ok(File { bytes, start, db, records: records.unwrap_or_default() })
    }
}

/// What the manifest in the file's folder says of it.
fn entry_of(path: &Path) -> Option<Entry> {
    let name = path.file_name()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let manifest = manifest_in(folder.unwrap_or(Path::new("."))).ok()?;
    let manifest = Manifest::parse(&fs::read(manifest).ok()?).ok()?;
    manifest.entries.into_iter().find(|entry| entry.name == name)
}

/// The one manifest in a folder.
fn manifest_in(folder: &Path) -> Result<PathBuf, Failure> {
    let context = |e: io::Error| format!("{}: {e}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(context)? {
        let path = entry.map_err(context)?.path();
        let name = path.file_name().unwrap_or_default().as_bytes();
        if name.ends_with(MANIFEST.as_bytes()) && !name.starts_with(b"temp") {
            found.push(path);
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(format!("{}: there is no log's manifest in it", folder.display()).into()),
        _ => Err(format!("{}: there is more than one manifest in it", folder.display()).into()),
    }
}

fn show(path: &Path, whole: bool, (from, to): (u64, u64)) -> Result<(), Failure> {
    let file = File::open(path, entry_of(path).as_ref())?;
    let mut out = BufWriter::new(io::stdout().lock());
    let what = if file.start.is_some() { "offset" } else { "byte" };
    writeln!(out, "# {}: {what} after the command, database, command", path.display())?;
    let bytes = without_zeros(&file.bytes);
    let (start, records) = (file.start.unwrap_or_default(), &*file.records);
    let reading = Reading::new(path, bytes, start, records, file.db);
    let outcome = reading.replay(0, &mut |command| {
        if command.end.0 > from && command.end.0 <= to {
            print(&mut out, &command, whole)?;
        }
        Ok::<(), io::Error>(())
    });
    out.flush()?;
    outcome.map(|_| ()).map_err(|stop| explain(path, stop, file.start))
}

/// Why a file was not read to its end, and where that is; `start` is the offset of its first byte.
fn explain(path: &Path, stop: Stop<io::Error>, start: Option<Offset>) -> Failure {
    let (position, what) = match stop {
        Stop::Refused(error) => return error.into(),
        Stop::Cut { position, .. } => {
            (position, "the file ends inside the command that begins here".to_owned())
        }
        Stop::Damaged { position, what } => (position, what),
    };
    let offset = start.map(|start| format!(" (offset {})", start + position as u64));
    let offset = offset.unwrap_or_default();
    format!("{}: byte {position}{offset}: {what}", path.display()).into()
}

fn print(out: &mut impl Write, command: &Command<'_>, whole: bool) -> io::Result<()> {
    write!(out, "{} {}", command.end, command.db)?;
    if !whole {
        return writeln!(out, "{}", Words(command.args));
    }
    for arg in command.args {
        write!(out, " \"{}\"", arg.escape_ascii())?;
    }
    writeln!(out)
}

/// Reads everything. While a daemon writes, what seems wrong may be what it is just changing: it counts when two
/// looks say the same, one after the other.
fn check(folder: &Path) -> Result<(), Failure> {
    let manifest = manifest_in(folder)?;
    let context = |e: io::Error| format!("{}: {e}", folder.display());
    let around = folder.canonicalize().map_err(context)?.parent().map(Path::to_owned);
    let runs = || around.as_deref().is_some_and(log::is_locked);
    let mut before = None;
    let mut looks = 0;
    loop {
        looks += 1;
        let mut look = Look { runs: runs(), ..Look::default() };
        let result = look.at(folder, &manifest);
        let wrong = (look.notes.clone(), result.as_ref().err().map(|why| why.to_string()));
        let is_sure = wrong == Default::default() || looks == LOOKS || !(look.runs || runs());
        if is_sure || before.as_ref() == Some(&wrong) {
            io::stdout().write_all(look.text.as_bytes())?;
            return result;
        }
        before = Some(wrong);
        thread::sleep(BETWEEN);
    }
}

/// What one look at a log's folder shows.
#[derive(Default)]
struct Look {
    /// Whether a daemon has the folder.
    runs: bool,
    /// What is there.
    text: String,
    /// What an operator should know of it.
    notes: Vec<String>,
}

impl Look {
    fn at(&mut self, folder: &Path, manifest: &Path) -> Result<(), Failure> {
        let name = manifest.file_name().unwrap_or_default().as_bytes();
        let name = name.strip_suffix(MANIFEST.as_bytes()).unwrap_or(name).to_vec();
        let mut options = Options::new(folder.to_owned(), OsString::from_vec(name));
        options.load_truncated = false; // a cut end is told, and left
        options.alone = false;
        let mut found = recover(&options)?.ok_or("there is no log")?;
        self.notes.extend_from_slice(found.notes());
        if self.runs {
            writeln!(
                self.text,
                "daemon    runs: base and segments are as they were at one moment"
            )?;
        }
        match found.histories() {
            Some(histories) => {
                writeln!(self.text, "history   {}", histories.current)?;
                for (former, upto) in histories.former() {
                    writeln!(self.text, "before    {former} up to offset {upto}")?;
                }
            }
            None => writeln!(self.text, "history   none: the folder is Redis's")?,
        }
        self.base_and_segments(&mut found)?;
        self.history(folder, manifest)?;
        for note in found.waiting().into_iter().chain(self.notes.iter().map(String::as_str)) {
            writeln!(self.text, "note      {note}")?;
        }
        Ok(())
    }

    fn base_and_segments(&mut self, found: &mut Recovered) -> Result<(), Failure> {
        if let Some(base) = found.base().cloned() {
            let keys = match base.kind {
                BaseKind::Aof => None,
                BaseKind::Rdb | BaseKind::RdbThenAof => {
                    Some(check_rdb(&base.path, &found.contents(&base.path)?)?)
                }
            };
            let mut commands = 0;
            if base.kind != BaseKind::Rdb {
                let at = keys.map_or(0, |(_, end)| end as u64);
                commands = found.replay_base::<log::Error>(at, &mut |_| Ok(()))?.commands;
            }
            let (keys, path) = (keys.map_or(0, |(keys, _)| keys), base.path.display());
            let at = base.offset;
            writeln!(
                self.text,
                "base      {path} at offset {at}: {keys} keys, {commands} commands"
            )?;
        }
        let (start, mut commands) = (found.start(), 0);
        let result = found.replay::<log::Error>(&mut |_| {
            commands += 1;
            Ok(())
        });
        let (end, cut) = match result {
            Ok(replayed) => (replayed.end, None),
            // What a killed process leaves, or what one that runs has not finished.
            Err(log::Error::Truncated { path, position, dropped }) => {
                let path = path.display();
                let what =
                    format!("{path}: the last {dropped} bytes, from byte {position} on, are");
                (Offset(found.end().0 - dropped), Some(what))
            }
            Err(other) => return Err(other.into()),
        };
        writeln!(self.text, "segments  offset {start} to {end}: {commands} commands")?;
        if let Some(what) = cut {
            let rest = match (found.waiting(), self.runs) {
                (Some(_), _) => "what follows is in the pool",
                (None, true) => "what follows is not there yet",
                (None, false) => "a start with aof-load-truncated yes cuts them off",
            };
            writeln!(self.text, "note      {what} no whole command: {rest}")?;
        }
        Ok(())
    }

    /// Looks at old bases and older segments, which a daemon may take away at any time.
    fn history(&mut self, folder: &Path, manifest: &Path) -> Result<(), Failure> {
        let kept = Manifest::parse(&fs::read(manifest)?);
        let kept = kept.map_err(|(line, what)| format!("{}:{line}: {what}", manifest.display()))?;
        let old_bases = kept.old_bases().into_iter().rev();
        for entry in old_bases.chain(kept.kept()) {
            let path = folder.join(&entry.name);
            let outcome = match entry.is_old_base() {
                true => check_old_base(&path, entry),
                false => check_kept(&path, entry),
            };
            match outcome {
                Ok(line) => writeln!(self.text, "{line}")?,
                Err(_) if self.runs && entry_of(&path).as_ref() != Some(entry) => {
                    let path = path.display();
                    writeln!(self.text, "gone      {path}: removed or compressed meanwhile")?;
                }
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }
}

fn check_old_base(path: &Path, entry: &Entry) -> Result<String, Failure> {
    let bytes = OsDisk.map(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let keys = if bytes.starts_with(b"REDIS") { check_rdb(path, &bytes)?.0 } else { 0 };
    let at = entry.start.unwrap_or_default();
    Ok(format!("old base  {} at offset {at}: {keys} keys", path.display()))
}

/// Reads a segment of the history; it ends between two commands.
fn check_kept(path: &Path, entry: &Entry) -> Result<String, Failure> {
    let file = File::open(path, Some(entry))?;
    let covers = entry.covers();
    let bytes = file.bytes.get(..covers as usize);
    let bytes = bytes.ok_or_else(|| format!("{}: it is short", path.display()))?;
    let (start, records) = (file.start.unwrap_or_default(), &*file.records);
    let records: Vec<_> = records
        .iter()
        .filter(|record| record.start.0 + u64::from(record.len) <= start.0 + covers)
        .copied()
        .collect();
    let reading = Reading::new(path, bytes, start, &records, file.db);
    let mut commands = 0;
    let outcome = reading.replay(0, &mut |_| {
        commands += 1;
        Ok::<(), io::Error>(())
    });
    outcome.map_err(|stop| explain(path, stop, file.start))?;
    let (path, end) = (path.display(), entry.end.unwrap_or_default());
    Ok(format!("history   {path} offset {start} to {end}: {commands} commands"))
}

/// Reads a whole RDB file: how many keys it has, and where it ends.
fn check_rdb(path: &Path, bytes: &[u8]) -> Result<(u64, usize), Failure> {
    let context = |e: rdb::Error| format!("{}: byte {}: {}", path.display(), e.offset, e.text);
    let mut reader = rdb::Reader::new(bytes).map_err(context)?;
    let mut keys = 0;
    while let Some(item) = reader.next().map_err(context)? {
        keys += u64::from(matches!(item, rdb::Item::Key { .. }));
    }
    Ok((keys, reader.position()))
}
