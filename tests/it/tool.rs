//! The story: an operator looks at a log's files, of a daemon that runs, of one that was killed, and of
//! one whose disk flipped a bit.

use crate::support::writers::rewrite;
use crate::support::{Client, Command, Folder, PATIENCE, Server, eventually};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Runs `varve`: whether it succeeded, and what it printed, errors included.
fn varve(args: &[&str]) -> (bool, String) {
    let output = process::Command::new(env!("CARGO_BIN_EXE_varve")).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The tree's files and their bytes.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn the_help_says_what_each_argument_is() {
    for task in ["show", "check"] {
        let (good, text) = varve(&[task, "--help"]);
        let (_, arguments) = text.split_once("\nArguments:\n").unwrap();
        let words = |line: &str| line.split_whitespace().count();
        let undescribed = arguments.lines().find(|line| words(line) == 1 && !line.ends_with(':'));
        assert_eq!(undescribed, None, "{text}");
        assert!(good && !text.contains(&u64::MAX.to_string()), "{text}");
    }
}

/// It called itself by the package's name, which is the daemon's.
#[test]
fn the_version_names_the_tool() {
    let (good, text) = varve(&["--version"]);
    assert!(good && text.starts_with("varve 0."), "{text}");
}

#[test]
fn varve_looks_at_a_log_and_changes_nothing() {
    let mut server = Server::varve().arg("--appendonly", "yes").start();
    let mut client = server.client();
    client.ok(&["SET", "a", "1"]);
    client.ok(&["SET", "b", "2"]);
    client.ok(&["BGREWRITEAOF"]);
    let folder = server.dir().join("appendonlydir");
    let history = folder.join("appendonly.aof.1.incr.aof.lz4");
    assert!(eventually(PATIENCE, || history.exists()), "the first segment is not compressed");
    client.ok(&["SELECT", "3"]);
    client.ok(&["SET", "c", "x y"]);
    let segment = folder.join("appendonly.aof.2.incr.aof");
    let has_all = || fs::read(&segment).unwrap().ends_with(b"x y\r\n");
    assert!(eventually(PATIENCE, has_all), "the segment does not get what was acknowledged");
    let (folder, segment) = (folder.to_str().unwrap(), segment.to_str().unwrap());

    let (good, text) = varve(&["check", folder]);
    assert!(good, "{text}");
    for part in ["2 keys", "2 commands", "1 commands", &server.info("master_replid")] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (good, text) = varve(&["show", history.to_str().unwrap()]);
    assert!(good && text.contains(" 0 SET a 1\n") && text.contains(" 0 SET b 2\n"), "{text}");
    let (good, text) = varve(&["show", "--whole", segment]);
    let end = server.info("master_repl_offset");
    let line = format!("{end} 3 \"SET\" \"c\" \"x y\"\n");
    assert!(good && text.ends_with(&line), "{line} in {text}");
    for from in [&*end, "18446744073709551615"] {
        let (good, text) = varve(&["show", "--from", from, segment]);
        assert!(good && text.lines().count() == 1, "{text}");
    }

    server.kill9();
    let file = OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len - 3).unwrap();
    let before = contents(Path::new(folder));
    let (good, text) = varve(&["check", folder]);
    assert!(good && text.contains("are no whole command"), "{text}");
    let (good, text) = varve(&["show", segment]);
    assert!(!good && text.contains("ends inside the command"), "{text}");
    assert!(before == contents(Path::new(folder)), "varve changed a file");

    file.write_all_at(b"x", 1).unwrap();
    let (good, text) = varve(&["check", folder]);
    assert!(!good && text.contains("is damaged at byte 0"), "{text}");
    let (good, text) = varve(&["check", "/nonexistent"]);
    assert!(!good && text.contains("/nonexistent"), "{text}");
}

/// The disk has a sector that can not be read, or another program cuts the file: it is named.
#[test]
fn a_file_that_can_not_be_read_is_named() {
    let folder = Folder::new();
    let file = folder.path().join("segment.aof");
    let command = format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$60\r\n{}\r\n", "x".repeat(60));
    fs::write(&file, command.repeat(10_000)).unwrap();
    let mut command = process::Command::new(env!("CARGO_BIN_EXE_varve"));
    command.args(["show", file.to_str().unwrap()]).stdout(process::Stdio::piped());
    let mut varve = command.spawn().unwrap();
    let mut output = BufReader::new(varve.stdout.take().unwrap());
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    // It has more to print than a pipe takes, and waits.
    OpenOptions::new().write(true).open(&file).unwrap().set_len(0).unwrap();
    output.read_to_string(&mut text).unwrap();
    let named = format!("Reading {} at byte ", file.canonicalize().unwrap().display());
    assert!(!varve.wait().unwrap().success() && text.contains(&named), "{text}");
}

/// The number after `before` in a text.
fn number_after(text: &str, before: &str) -> Option<u64> {
    let (_, rest) = text.split_once(before)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The daemon appends, moves what it appended to a segment, begins segments, compresses and removes, while its
/// folder is looked at. Each look finds a log that is whole, and in it all that had been acknowledged.
#[test]
fn a_busy_daemons_folder_is_whole_whenever_it_is_looked_at() {
    let server = Server::varve()
        .arg("--appendonly", "yes")
        .arg("--auto-aof-rewrite-percentage", "0")
        .arg("--repl-history-size", "300kb")
        .start();
    let folder = server.dir().join("appendonlydir");
    let ended = AtomicBool::new(false);
    let mut wrong = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = server.client();
            for nth in 0.. {
                let (key, value) = (format!("key:{}", nth % 1000), "v".repeat(nth % 500));
                let turn = vec![Command::new(&["SET", &key, &value]); 16];
                if ended.load(Relaxed) {
                    return;
                }
                assert!(client.pipeline(&turn).iter().all(|reply| !reply.is_error()));
            }
        });
        for nth in 0..60 {
            if nth % 3 == 0 {
                rewrite(server.port());
            }
            let acknowledged = server.number("master_repl_offset");
            let (good, text) = varve(&["check", folder.to_str().unwrap()]);
            let told =
                ["not whole", "left out", "cuts them off"].iter().any(|part| text.contains(part));
            if !good || told {
                wrong.push(text);
                continue;
            }
            let segments = text.split_once("segments  offset ").map_or("", |(_, rest)| rest);
            let end = number_after(segments, " to ").unwrap_or(0)
                + number_after(&text, ": the last ").unwrap_or(0)
                + number_after(&text, ".pool\" has ").unwrap_or(0);
            if end < acknowledged || !text.contains("daemon    runs") {
                wrong.push(format!("{acknowledged} was acknowledged: {text}"));
            }
        }
        ended.store(true, Relaxed);
    });
    assert!(wrong.is_empty(), "{} looks: {}", wrong.len(), wrong.join("\n"));
}

/// A bit flips in what a running daemon will not write again: in a live segment that another follows, because
/// a child still saves, and in the history.
#[test]
fn damage_in_a_running_daemons_folder_is_told() {
    let server = Server::varve()
        .arg("--appendonly", "yes")
        .arg("--auto-aof-rewrite-percentage", "0")
        .start();
    let mut client = server.client();
    let folder = server.dir().join("appendonlydir");
    let write = |client: &mut Client| {
        for nth in 0..200 {
            client.ok(&["SET", &format!("key:{nth}"), &"v".repeat(1000)]);
        }
    };
    write(&mut client);
    server.rewrite();
    let history = folder.join("appendonly.aof.1.incr.aof.lz4");
    assert!(eventually(PATIENCE, || history.exists()), "the first segment is not compressed");
    write(&mut client);
    client.ok(&["CONFIG", "SET", "rdb-key-save-delay", "1000000"]);
    client.ok(&["BGREWRITEAOF"]);
    let manifest = || fs::read_to_string(folder.join("appendonly.aof.manifest")).unwrap();
    let next = || manifest().contains("appendonly.aof.3.incr.aof seq 3 type i");
    assert!(eventually(PATIENCE, next), "no segment follows: {}", manifest());
    client.ok(&["SET", "after", "it"]);

    let folder = folder.to_str().unwrap();
    let (good, text) = varve(&["check", folder]);
    assert!(good && text.contains("daemon    runs"), "{text}");
    let sealed = Path::new(folder).join("appendonly.aof.2.incr.aof");
    let told = with_a_flipped_bit(&sealed, 150_000, || varve(&["check", folder]));
    let (false, text) = told else { panic!("{told:?}") };
    let position = number_after(&text, "appendonly.aof.2.incr.aof\" is damaged at byte ").unwrap();
    assert!((150_000 - 65_535..=150_000).contains(&position), "{text}");
    let start = number_after(&manifest(), ".2.incr.aof seq 2 type i startoffset ").unwrap();
    assert!(text.contains(&format!("(offset {})", start + position)), "{text}");

    let told = with_a_flipped_bit(&history, 100, || varve(&["check", folder]));
    let (false, text) = told else { panic!("{told:?}") };
    assert!(text.contains("appendonly.aof.1.incr.aof.lz4: it is damaged at byte 0"), "{text}");
    let (good, text) = varve(&["check", folder]);
    assert!(good, "{text}");
}

/// What `look` says while a bit of a file is another.
fn with_a_flipped_bit<T>(path: &Path, position: u64, look: impl FnOnce() -> T) -> T {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let flip = || {
        let mut byte = [0];
        file.read_exact_at(&mut byte, position).unwrap();
        file.write_all_at(&[byte[0] ^ 1], position).unwrap();
    };
    flip();
    let said = look();
    flip();
    said
}
