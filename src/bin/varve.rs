//! `varve`: looks at the files of a log without a daemon. It changes nothing, and may be used while one
//! runs.

use clap::{Parser, Subcommand};
use std::error::Error;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use varve_persistence::log::disk::{Contents, Disk};
use varve_persistence::log::manifest::{Entry, Manifest};
use varve_persistence::log::replay::{Command, Reading, Stop, Words, without_zeros};
use varve_persistence::log::{self, BaseKind, Options, OsDisk, index, lz4, recover};
use varve_persistence::offset::Offset;
use varve_persistence::rdb;

type Failure = Box<dyn Error>;

/// What the name of a folder's manifest ends in.
const MANIFEST: &str = ".manifest";

#[derive(Parser)]
#[command(version, about = "Looks at the files of a Varve log. Changes nothing.")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Print the commands of segments, compressed history, or tails that a replica set aside
    Show {
        /// Whole arguments instead of their first 64 bytes
        #[arg(long)]
        whole: bool,
        /// Only commands that end after this offset
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Only commands that end at or before this offset
        #[arg(long, default_value_t = u64::MAX)]
        to: u64,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Read everything in a log's folder (appendonlydir) and say what it holds, or what is wrong
    Check { folder: PathBuf },
}

fn main() -> ExitCode {
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
    fn open(path: &Path) -> Result<File, Failure> {
        let context = |e: io::Error| format!("{}: {e}", path.display());
        let name = path.file_name().unwrap_or_default();
        let entry = entry_of(path);
        let db = entry.as_ref().map_or(0, |entry| entry.db);
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
        let bytes = OsDisk.map(path).map_err(context)?;
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
    let file = File::open(path)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let what = if file.start.is_some() { "offset" } else { "byte" };
    writeln!(out, "# {}: {what} after the command, database, command", path.display())?;
    let bytes = without_zeros(&file.bytes);
    let (start, records) = (file.start.unwrap_or_default(), &*file.records);
    let reading = Reading { path, bytes, start, records, db: file.db };
    let outcome = reading.replay(0, &mut |command| {
        if (from + 1..=to).contains(&command.end.0) {
            print(&mut out, &command, whole)?;
        }
        Ok::<(), io::Error>(())
    });
    out.flush()?;
    let place = |position: usize| format!("{}: byte {position}", path.display());
    match outcome {
        Ok(_) => Ok(()),
        Err(Stop::Refused(error)) => Err(error.into()),
        Err(Stop::Cut { position, .. }) => {
            Err(format!("{}: the file ends inside the command that begins here", place(position))
                .into())
        }
        Err(Stop::Damaged { position, what }) => Err(format!("{}: {what}", place(position)).into()),
    }
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

fn check(folder: &Path) -> Result<(), Failure> {
    let manifest = manifest_in(folder)?;
    let name = manifest.file_name().unwrap_or_default().as_bytes();
    let name = name.strip_suffix(MANIFEST.as_bytes()).unwrap_or(name).to_vec();
    let mut options = Options::new(folder.to_owned(), std::ffi::OsString::from_vec(name));
    options.load_truncated = false; // a cut end is told, and left
    options.take_pool = false; // it may be a daemon's that runs
    let mut found = recover(&options)?.ok_or("there is no log")?;
    match found.histories() {
        Some(histories) => {
            println!("history   {}", histories.current);
            for (former, upto) in histories.former() {
                println!("before    {former} up to offset {upto}");
            }
        }
        None => println!("history   none: the folder is Redis's"),
    }
    if let Some(base) = found.base().cloned() {
        let keys = match base.kind {
            BaseKind::Aof => None,
            BaseKind::Rdb | BaseKind::RdbThenAof => Some(check_rdb(&base.path)?),
        };
        let mut commands = 0;
        if base.kind != BaseKind::Rdb {
            let at = keys.map_or(0, |(_, end)| end as u64);
            commands = found.replay_base::<log::Error>(at, &mut |_| Ok(()))?.commands;
        }
        let (keys, path) = (keys.map_or(0, |(keys, _)| keys), base.path.display());
        println!("base      {path} at offset {}: {keys} keys, {commands} commands", base.offset);
    }
    let start = found.start();
    match found.replay::<log::Error>(&mut |_| Ok(())) {
        Ok(log::Replayed { end, commands, .. }) => {
            println!("segments  offset {start} to {end}: {commands} commands");
        }
        // What a killed process leaves, or what one that runs has not finished.
        Err(log::Error::Truncated { path, position, dropped }) => {
            println!("segments  offset {start} to {}", found.end());
            println!(
                "note      {}: the last {dropped} bytes, from byte {position} on, are no whole \
                 command: a start with aof-load-truncated yes cuts them off",
                path.display()
            );
        }
        Err(other) => return Err(other.into()),
    }
    let kept = Manifest::parse(&fs::read(&manifest)?);
    let kept = kept.map_err(|(line, what)| format!("{}:{line}: {what}", manifest.display()))?;
    for base in kept.old_bases().into_iter().rev() {
        let (path, at) = (folder.join(&base.name), base.start.unwrap_or_default());
        let bytes = OsDisk.map(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let keys = if bytes.starts_with(b"REDIS") { check_rdb(&path)?.0 } else { 0 };
        println!("old base  {} at offset {at}: {keys} keys", path.display());
    }
    for entry in kept.kept() {
        let path = folder.join(&entry.name);
        let commands = count(&path)?;
        let (start, end) = (entry.start.unwrap_or_default(), entry.end.unwrap_or_default());
        println!("history   {} offset {start} to {end}: {commands} commands", path.display());
    }
    for note in found.notes() {
        println!("note      {note}");
    }
    Ok(())
}

/// How many commands a file of the history has; it ends between two.
fn count(path: &Path) -> Result<u64, Failure> {
    let file = File::open(path)?;
    let end = entry_of(path).map_or(file.bytes.len(), |entry| entry.covers() as usize);
    let bytes = file.bytes.get(..end).ok_or_else(|| format!("{}: it is short", path.display()))?;
    let (start, records) = (file.start.unwrap_or_default(), &*file.records);
    let records: Vec<_> = records
        .iter()
        .filter(|record| record.start.0 + u64::from(record.len) <= start.0 + end as u64)
        .copied()
        .collect();
    let reading = Reading { path, bytes, start, records: &records, db: file.db };
    let mut commands = 0;
    let outcome = reading.replay(0, &mut |_| {
        commands += 1;
        Ok::<(), io::Error>(())
    });
    outcome.map_err(|stop| format!("{}: {stop:?}", path.display()))?;
    Ok(commands)
}

/// Reads a whole RDB file: how many keys it has, and where it ends.
fn check_rdb(path: &Path) -> Result<(u64, usize), Failure> {
    let context = |e: rdb::Error| format!("{}: byte {}: {}", path.display(), e.offset, e.text);
    let bytes = OsDisk.map(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut reader = rdb::Reader::new(&bytes).map_err(context)?;
    let mut keys = 0;
    while let Some(item) = reader.next().map_err(context)? {
        keys += u64::from(matches!(item, rdb::Item::Key { .. }));
    }
    Ok((keys, reader.position()))
}
