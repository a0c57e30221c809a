//! The story: an operator looks at a log's files, of a daemon that runs, of one that was killed, and of
//! one whose disk flipped a bit.

use crate::support::{PATIENCE, Server, eventually};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Runs `varve`: whether it succeeded, and what it printed, errors included.
fn varve(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_varve")).args(args).output().unwrap();
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
    let (good, text) = varve(&["show", "--from", &end, segment]);
    assert!(good && text.lines().count() == 1, "{text}");

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
