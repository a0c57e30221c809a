//! Files that are torn or flipped. Whatever the damage, a start has the data as it was, or a state
//! that it once had if the file ends early, or it is refused: file, position and what was expected
//! are named, the exit code is 1, and no file is touched.

use super::*;
use std::os::unix::fs::FileExt;

/// Items in the list that each test writes one by one, so that a state is a number.
const ITEMS: usize = 60;

fn write_items(client: &mut Client) {
    for n in 0..ITEMS {
        client.ok(&["RPUSH", "list", &n.to_string()]);
    }
}

/// How many items a state has, which are the first ones in order; no other key may exist.
fn items(client: &mut Client) -> usize {
    let list = client.cmd(&["LRANGE", "list", "0", "-1"]).byte_items();
    for (n, item) in list.iter().enumerate() {
        assert_eq!(*item, n.to_string().as_bytes(), "item {n} of {}", list.len());
    }
    assert_eq!(client.cmd(&["DBSIZE"]).int(), i64::from(!list.is_empty()), "keys of no origin");
    list.len()
}

/// Puts `bytes` into `file` and starts on the folder. The number of items, or the refusal.
fn start_with(file: &Path, bytes: &[u8], args: &[&str], what: &str) -> Result<usize, Refusal> {
    fs::write(file, bytes).unwrap();
    let dir = file.ancestors().find(|p| p.join("varve.lock").exists()).expect("a daemon's folder");
    let before = contents(dir);
    let mut daemon = Attempt::new(args);
    match daemon.outcome() {
        Outcome::Serving(mut client) => Ok(items(&mut client)),
        // Somebody else was given the port in the moment before; nothing was read yet.
        Outcome::Ended(refusal) if refusal.output.contains("Address already in use") => {
            start_with(file, bytes, args, what)
        }
        Outcome::Ended(refusal) => {
            assert_eq!(refusal.code, Some(1), "{what}: exit code; {}", refusal.output);
            assert!(!refusal.output.contains("panicked"), "{what}: {}", refusal.output);
            let name = file.file_name().unwrap().to_string_lossy();
            assert!(refusal.output.contains(&*name), "{what}: no file: {}", refusal.output);
            assert!(before == contents(dir), "{what}: a refused start changed files");
            Err(refusal)
        }
    }
}

/// A log of [`ITEMS`] commands that was closed in good order, and the path of its only segment.
fn log(folder: &Folder, extra: &[&str]) -> PathBuf {
    let dir = text(folder.path());
    let mut args = vec!["--dir", dir, "--appendonly", "yes", "--save", ""];
    args.extend(extra);
    let mut daemon = Attempt::new(&args);
    write_items(&mut daemon.serving());
    assert_eq!(daemon.end(libc::SIGTERM), Some(0), "{}", daemon.log());
    folder.path().join("appendonlydir")
}

fn file_with(dir: &Path, ending: &str) -> PathBuf {
    let mut all: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| text(p).ends_with(ending));
    assert_eq!(all.len(), 1, "one file that ends in {ending} among {all:?}");
    all.remove(0)
}

/// A copy of a folder as it was, to begin each trial from.
struct Original(Vec<(PathBuf, Vec<u8>)>);

impl Original {
    fn restore(&self, dir: &Path) {
        for (path, _) in contents(dir) {
            if !self.0.iter().any(|(kept, _)| *kept == path) {
                fs::remove_file(path).unwrap();
            }
        }
        self.0.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
}

/// `dump.rdb` was copied incompletely, or a disk gave back other bits than it was given.
#[test]
fn a_damaged_dump_is_refused() {
    let folder = Folder::new();
    let args = ["--dir", text(folder.path()), "--save", "", "--appendonly", "no"];
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    write_items(&mut client);
    client.ok(&["SAVE"]);
    daemon.end(libc::SIGKILL);
    let file = folder.path().join("dump.rdb");
    let whole = fs::read(&file).unwrap();
    assert_eq!(start_with(&file, &whole, &args, "whole").ok(), Some(ITEMS));
    let mut random = Random::new(4);
    let mut cuts: Vec<usize> = (0..12).chain(whole.len() - 12..whole.len()).collect();
    cuts.extend((0..20).map(|_| random.below(whole.len())));
    for cut in cuts {
        let what = format!("cut at {cut} of {}", whole.len());
        if let Ok(found) = start_with(&file, &whole[..cut], &args, &what) {
            panic!("{what}: it started, with {found} items");
        }
    }
    for _ in 0..60 {
        let (at, bit) = (random.below(whole.len()), random.below(8));
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << bit;
        let what = format!("bit {bit} of byte {at} of {} flipped", whole.len());
        // A version or a field that nobody reads may be another; the data may not.
        if let Ok(found) = start_with(&file, &flipped, &args, &what) {
            assert_eq!(found, ITEMS, "{what}");
        }
    }
    // The checksum alone is wrong, and the operator wants what there is.
    let mut flipped = whole.clone();
    flipped[whole.len() - 1] ^= 1;
    assert!(start_with(&file, &flipped, &args, "checksum flipped").is_err());
    let args = [&args[..], &["--rdbchecksum", "no"]].concat();
    let found = start_with(&file, &flipped, &args, "checksum flipped, and not looked at");
    assert_eq!(found.map_err(|refusal| refusal.output), Ok(ITEMS));
}

/// A file that a tool put together has a key twice. `DEBUG RELOAD MERGE` asks for it.
#[test]
fn a_dump_with_a_key_twice_is_refused() {
    let folder = Folder::new();
    let mut args = vec!["--dir", text(folder.path()), "--save", "", "--appendonly", "no"];
    args.extend(["--enable-debug-command", "yes"]);
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    let mut dump = b"REDIS0011\xfe\x00\x00\x01k\x01a\x00\x01l\x01b\x00\x01k\x01c\xff".to_vec();
    dump.extend([0; 8]);
    let file = folder.path().join("dump.rdb");
    fs::write(&file, &dump).unwrap();
    let at = "dump.rdb: at byte 21, key 'k': database 0 has it already";
    assert!(client.cmd(&["DEBUG", "RELOAD", "NOSAVE"]).is_error());
    assert!(daemon.log().contains(at), "{}", daemon.log());
    for options in [&["NOFLUSH", "MERGE"][..], &["MERGE"]] {
        client.ok(&[&["DEBUG", "RELOAD", "NOSAVE"], options].concat());
        assert_eq!(client.cmd(&["MGET", "k", "l"]).byte_items(), [b"c", b"b"]);
    }
    daemon.end(libc::SIGKILL);
    let refusal = start_with(&file, &dump, &args, "a key twice").err();
    refusal.expect("it started").names(&[at]);
    dump[23] = b'm';
    fs::write(&file, &dump).unwrap();
    assert_eq!(Attempt::new(&args).serving().cmd(&["DBSIZE"]).int(), 3);
}

/// The disk has a sector that can not be read, or another program cuts the file while it is loaded. The kernel
/// ends whoever reads a mapped file for that.
#[test]
fn a_dump_that_can_not_be_read_is_named() {
    let folder = Folder::new();
    let dump = folder.path().join("dump.rdb");
    let off = ["--dir", text(folder.path()), "--appendonly", "no", "--save", ""];
    let mut daemon = Attempt::new(&off);
    let mut client = daemon.serving();
    (0..1000).for_each(|n| drop(client.ok(&["SET", &format!("key:{n}"), &"value".repeat(20)])));
    client.ok(&["SAVE"]);
    daemon.end(libc::SIGKILL);
    let mut attempt = Attempt::new(&[&off[..], &["--key-load-delay", "5000"]].concat());
    assert!(eventually(PATIENCE, || attempt.log().contains("Loading: ")), "{}", attempt.log());
    File::options().write(true).open(&dump).unwrap().set_len(4096).unwrap();
    let refusal = attempt.refused();
    assert_eq!(refusal.code, None, "{}", refusal.output);
    let named = format!("Reading {} at byte ", dump.canonicalize().unwrap().display());
    assert!(refusal.output.contains(&named), "{}", refusal.output);
}

/// The power went while the last segment grew: its end is missing from some byte on.
#[test]
fn a_cut_segment_loses_only_what_is_cut() {
    let folder = Folder::new();
    let dir = log(&folder, &[]);
    let args = ["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    let original = Original(contents(folder.path()));
    let file = file_with(&dir, ".incr.aof");
    let whole = fs::read(&file).unwrap();
    for cut in whole.len() - 200..whole.len() {
        original.restore(folder.path());
        let what = format!("cut at {cut} of {}", whole.len());
        // A log that was closed in good order must not be shorter: refusing is right, too.
        if let Ok(found) = start_with(&file, &whole[..cut], &args, &what) {
            let commands = whole[..cut].windows(5).filter(|w| w == b"RPUSH").count();
            assert!(found == commands || found + 1 == commands, "{what}: {found} items");
        }
    }
}

/// The same after a crash, when a cut end is to be expected: it is dropped, and all before it is
/// there. With `aof-load-truncated no` it is refused.
#[test]
fn a_cut_segment_after_a_crash_is_recovered() {
    let folder = Folder::new();
    let args = ["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    let mut daemon = Attempt::new(&args);
    write_items(&mut daemon.serving());
    let file = file_with(&folder.path().join("appendonlydir"), ".incr.aof");
    let last = format!("\r\n{}\r\n", ITEMS - 1);
    let has_all = || fs::read(&file).unwrap().ends_with(last.as_bytes());
    assert!(eventually(PATIENCE, has_all), "the segment does not get what was acknowledged");
    daemon.end(libc::SIGKILL);
    let whole = fs::read(&file).unwrap();
    // As long as the pool is there, nothing is lost.
    let original = Original(contents(folder.path()));
    let cut = &whole[..whole.len() - 200];
    assert_eq!(start_with(&file, cut, &args, "cut").map_err(|r| r.output), Ok(ITEMS));
    original.restore(folder.path());
    fs::remove_file(folder.path().join("appendonlydir/appendonly.aof.pool")).unwrap();
    let original = Original(contents(folder.path()));
    let one = |n: usize| format!("*3\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n$2\r\n{n}\r\n").len();
    let mut ends = vec![whole.len()];
    for n in (0..8).map(|i| ITEMS - 1 - i) {
        ends.push(ends.last().unwrap() - one(n));
    }
    for cut in whole.len() - 200..whole.len() {
        original.restore(folder.path());
        let what = format!("cut at {cut} of {}", whole.len());
        let expected = ITEMS - ends.iter().filter(|end| **end > cut).count();
        let found = start_with(&file, &whole[..cut], &args, &what);
        assert_eq!(found.map_err(|r| r.output), Ok(expected), "{what}");
        if cut % 20 == 0 && !ends.contains(&cut) {
            original.restore(folder.path());
            let strict = [&args[..], &["--aof-load-truncated", "no"]].concat();
            let refusal = start_with(&file, &whole[..cut], &strict, &what);
            let refusal = refusal.err().unwrap_or_else(|| panic!("{what}: started"));
            refusal.names(&["aof-load-truncated", &format!("byte {}", ends[ITEMS - expected])]);
        }
    }
}

/// A disk gives back other bits than it was given, anywhere in the segment.
#[test]
fn a_flipped_segment_is_refused() {
    let folder = Folder::new();
    let dir = log(&folder, &[]);
    let args = ["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    let original = Original(contents(folder.path()));
    let file = file_with(&dir, ".incr.aof");
    let whole = fs::read(&file).unwrap();
    let mut random = Random::new(9);
    let last = (0..40).map(|n| whole.len() - 1 - n * 5);
    let anywhere: Vec<usize> = (0..60).map(|_| random.below(whole.len())).collect();
    for at in last.chain(anywhere) {
        original.restore(folder.path());
        let bit = random.below(8);
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << bit;
        let what = format!("bit {bit} of byte {at} of {} flipped", whole.len());
        match start_with(&file, &flipped, &args, &what) {
            Ok(found) => panic!("{what}: it started, with {found} items"),
            Err(refusal) => refusal.names(&["byte "]),
        }
    }
}

/// The manifest is cut, or its lines are not what they were.
#[test]
fn a_damaged_manifest_is_refused() {
    let folder = Folder::new();
    let dir = log(&folder, &[]);
    let args = ["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    let original = Original(contents(folder.path()));
    let file = file_with(&dir, ".manifest");
    let whole = fs::read(&file).unwrap();
    let mut trials: Vec<(String, Vec<u8>)> = (0..whole.len())
        .step_by(3)
        .map(|cut| (format!("cut at {cut} of {}", whole.len()), whole[..cut].to_vec()))
        .collect();
    let manifest = manifest_to_change(&file);
    for (what, bytes) in [
        ("zeros", vec![0; whole.len()]),
        ("noise", Random::new(3).bytes(400)),
        ("another file", b"file nothing.aof seq 1 type i\n".to_vec()),
        ("a path", b"file ../../etc/passwd seq 1 type i\n".to_vec()),
        ("no type", manifest.replace("type i", "type").into_bytes()),
        ("an unknown type", manifest.replace("type i", "type x").into_bytes()),
        ("seq that is no number", manifest.replace("seq 1", "seq one").into_bytes()),
        ("a line twice", (manifest.clone() + &manifest).into_bytes()),
    ] {
        trials.push((what.to_owned(), bytes));
    }
    for (what, bytes) in trials {
        original.restore(folder.path());
        // The last line feed says nothing.
        if let Ok(found) = start_with(&file, &bytes, &args, &what) {
            assert_eq!(found, ITEMS, "{what}: started with\n{}", String::from_utf8_lossy(&bytes));
        }
    }
}

/// The manifest was not copied with the rest, or somebody removed it. A log that begins there would take the
/// place of the one that the segments hold.
#[test]
fn a_missing_manifest_is_refused() {
    let folder = Folder::new();
    let dir = log(&folder, &[]);
    let args = ["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    let file = file_with(&dir, ".manifest");
    let manifest = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let before = contents(folder.path());
    Attempt::new(&args).refused().names(&["manifest\" is missing", "appendonly.aof.1.incr.aof"]);
    assert!(before == contents(folder.path()), "a refused start changed files");
    assert_eq!(start_with(&file, &manifest, &args, "restored").map_err(|r| r.output), Ok(ITEMS));

    // What a log's very beginning leaves if it is cut short: nothing was in it yet.
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("appendonly.aof.1.incr.aof"), "").unwrap();
    assert_eq!(items(&mut Attempt::new(&args).serving()), 0);
}

/// An operator copies an old dump over `dump.rdb`, which is the log's base by another name: `cp` writes into
/// the file that both are.
#[test]
fn an_old_dump_that_is_copied_over_the_base_is_refused() {
    let folder = Folder::new();
    let args = ["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    let dump = folder.path().join("dump.rdb");
    let mut daemon = Attempt::new(&args);
    let (mut client, mut dumps) = (daemon.serving(), Vec::new());
    for n in ["1", "2"] {
        client.ok(&["RPUSH", "list", n]);
        client.ok(&["BGSAVE"]);
        let based = || daemon.log().matches("The log's base is the snapshot").count() > dumps.len();
        assert!(eventually(PATIENCE, based), "{}", daemon.log());
        dumps.push(fs::read(&dump).unwrap());
    }
    daemon.end(libc::SIGKILL);
    fs::write(&dump, &dumps[0]).unwrap();
    Attempt::new(&args).refused().names(&[".base.rdb", "another file was written over it"]);
    // Another server's has another history, or none.
    let other = Folder::new();
    let mut another = Attempt::new(&["--dir", text(other.path()), "--appendonly", "no"]);
    another.serving().ok(&["SET", "key", "value"]);
    another.serving().ok(&["SAVE"]);
    fs::write(&dump, fs::read(other.path().join("dump.rdb")).unwrap()).unwrap();
    Attempt::new(&args).refused().names(&[".base.rdb", "another file was written over it"]);
    fs::write(&dump, &dumps[1]).unwrap();
    let mut client = Attempt::new(&args);
    assert_eq!(client.serving().cmd(&["LLEN", "list"]).int(), 2);
}

/// `DEBUG LOADAOF` finds the log damaged. The files must not be replaced by what could be read of them.
#[test]
fn a_log_that_can_not_be_read_back_stays_as_it_is() {
    let folder = Folder::new();
    let mut args = vec!["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    args.extend(["--appendfsync", "always", "--enable-debug-command", "yes"]);
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    write_items(&mut client);
    let file = file_with(&folder.path().join("appendonlydir"), ".incr.aof");
    let segment = fs::OpenOptions::new().write(true).open(&file).unwrap();
    segment.write_at(b"X", 0).unwrap();
    let damaged = fs::read(&file).unwrap();
    let _ = client.try_cmd(&["DEBUG", "LOADAOF"]);
    daemon.refused().names(&["LOADAOF", "is damaged at byte 0"]);
    assert!(fs::read(&file).unwrap() == damaged);
    Attempt::new(&args).refused().names(&["is damaged at byte 0"]);
}

/// What a transaction writes is in the log when it ends: `DEBUG LOADAOF` in one would read data without it.
#[test]
fn a_log_is_not_read_back_inside_a_transaction() {
    let server = Server::varve().arg("--appendonly", "yes").start();
    let mut client = server.client();
    for command in [&["MULTI"][..], &["SET", "k", "v"], &["DEBUG", "LOADAOF"]] {
        client.ok(command);
    }
    let replies = client.ok(&["EXEC"]);
    assert!(format!("{replies:?}").contains("DEBUG LOADAOF needs"), "{replies:?}");
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("v"));
    client.ok(&["DEBUG", "LOADAOF"]);
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("v"));
}

/// A base and the segments after it: the base is damaged, or gone.
#[test]
fn a_damaged_or_missing_base_is_refused() {
    a_base_is_refused("yes");
}

/// The same for a base of commands, in which a flipped byte of a value was not noticed.
#[test]
fn a_damaged_or_missing_base_of_commands_is_refused() {
    a_base_is_refused("no");
}

fn a_base_is_refused(preamble: &str) {
    let folder = Folder::new();
    let dir = ["--dir", text(folder.path()), "--appendonly", "yes", "--save", ""];
    let args = [&dir[..], &["--aof-use-rdb-preamble", preamble]].concat();
    let mut daemon = Attempt::new(&args);
    let mut client = daemon.serving();
    write_items(&mut client);
    client.ok(&["BGREWRITEAOF"]);
    let dir = folder.path().join("appendonlydir");
    // The first is that of the empty log.
    let based =
        || fs::read_dir(&dir).unwrap().any(|e| text(&e.unwrap().path()).contains(".2.base."));
    assert!(eventually(PATIENCE, based), "{}", daemon.log());
    assert_eq!(daemon.end(libc::SIGTERM), Some(0), "{}", daemon.log());
    let original = Original(contents(folder.path()));
    let kind = if preamble == "yes" { "rdb" } else { "aof" };
    let file = file_with(&dir, &format!(".2.base.{kind}"));
    let whole = fs::read(&file).unwrap();
    assert_eq!(start_with(&file, &whole, &args, "whole").map_err(|r| r.output), Ok(ITEMS));
    let mut random = Random::new(5);
    for _ in 0..30 {
        original.restore(folder.path());
        let at = random.below(whole.len());
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << random.below(8);
        if let Ok(found) = start_with(&file, &flipped, &args, &format!("byte {at} flipped")) {
            assert_eq!(found, ITEMS, "byte {at} flipped");
        }
        original.restore(folder.path());
        // An empty file is a base of no commands, as Redis makes it.
        let cut = random.below(whole.len()).max(usize::from(preamble == "no"));
        let result = start_with(&file, &whole[..cut], &args, &format!("cut at {cut}"));
        assert!(result.is_err(), "base cut at {cut}: it started");
    }
    original.restore(folder.path());
    fs::remove_file(&file).unwrap();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    Attempt::new(&args).refused().names(&[&name]);
}
