//! The story: a server is killed by SIGKILL while clients write. Every write that was acknowledged
//! is there after the restart, under every fsync policy, since the kernel had it.

use crate::faults::Attempt;
use crate::support::writers::{rewrite, write_until, writers};
use crate::support::{
    Folder, PATIENCE, Random, Server, dataset, env_number, eventually, manifest_to_change,
};
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

fn survives_kills(policy: &str) {
    let seed = env_number("VARVE_SEED").unwrap_or(1);
    let kills = env_number("VARVE_KILLS").unwrap_or(10);
    let mut random = Random::new(seed);
    let mut server =
        Server::varve().arg("--appendonly", "yes").arg("--appendfsync", policy).start();
    let mut writers = writers(seed);
    for kill in 0..kills {
        let port = server.port();
        write_until(&mut writers, port, |round| {
            // At a random moment of a random amount of work, in some rounds amid a rewrite.
            let enough = 50 + random.below(2000) as u64;
            eventually(PATIENCE, || round.acknowledged.load(Relaxed) >= enough);
            if random.one_in(3) {
                rewrite(port);
            }
            std::thread::sleep(Duration::from_micros(random.below(40_000) as u64));
            server.kill9();
        });
        server.restart();
        let all = dataset(&mut server.client());
        for writer in &mut writers {
            if let Err(difference) = writer.verify(&all, Instant::now()) {
                panic!(
                    "VARVE_SEED={seed}, {policy}, kill {kill}, writer {}: {difference}",
                    writer.id
                );
            }
        }
    }
}

#[test]
fn acknowledged_writes_survive_a_kill_under_always() {
    survives_kills("always");
}

#[test]
fn acknowledged_writes_survive_a_kill_under_everysec() {
    // Redis holds its writes back in memory while an fsync runs, and replies nevertheless.
    survives_kills(if Server::is_stand_in() { "no" } else { "everysec" });
}

/// A server that was killed while its segment lacked some of what was acknowledged: that is in the pool
/// alone. With the number of keys that were acknowledged, and that of those the segment has.
fn killed_ahead_of_its_segment() -> (Server, i64, usize) {
    let mut server = Server::varve().arg("--appendonly", "yes").start();
    let mut client = server.client();
    let segment = server.dir().join("appendonlydir/appendonly.aof.1.incr.aof");
    for keys in 1.. {
        assert!(keys < 1000, "no kill came before the segment had everything");
        client.ok(&["SET", &format!("key:{keys}"), "value"]);
        server.kill9();
        let written = fs::read(&segment).unwrap();
        let sets = written.windows(4).filter(|part| part == b"key:").count();
        if sets < keys as usize {
            return (server, keys, sets);
        }
        server.restart();
        client = server.client();
    }
    unreachable!()
}

#[test]
fn what_only_the_pool_has_survives_a_kill_and_keeps_the_name() {
    let (mut server, keys, _) = killed_ahead_of_its_segment();
    let manifest = server.dir().join("appendonlydir/appendonly.aof.manifest");
    let manifest = fs::read_to_string(manifest).unwrap();
    server.restart();
    assert_eq!(server.client().ok(&["DBSIZE"]).int(), keys);
    assert!(manifest.contains(&format!("# varve history {}", server.info("master_replid"))));
    let pool = server.dir().join("appendonlydir/appendonly.aof.pool");
    assert!(pool.exists());
    server.terminate();
    assert!(!pool.exists(), "a clean stop leaves it");
}

/// The story: the server was killed, and its folder is copied to another machine, or is shown by a file system
/// that gives other inodes after each mount.
#[test]
fn what_only_the_pool_has_is_in_a_copy_of_the_folder() {
    let (server, keys, _) = killed_ahead_of_its_segment();
    let log = server.dir().join("appendonlydir");
    let copy = Server::varve().arg("--appendonly", "yes").with_file(&log).start();
    assert_eq!(copy.client().ok(&["DBSIZE"]).int(), keys, "{}", copy.log());
    let manifest = fs::read_to_string(log.join("appendonly.aof.manifest")).unwrap();
    assert!(manifest.contains(&format!("# varve history {}", copy.info("master_replid2"))));
}

/// Whoever takes the pool's file away has lost what was in it. A start says so, and does not go on under
/// the name of the history whose end it has not.
#[test]
fn a_pool_that_is_gone_or_damaged_is_told_and_costs_the_name() {
    for damage in ["remove", "cut", "flip", "header", "append"] {
        let (mut server, keys, written) = killed_ahead_of_its_segment();
        let folder = server.dir().join("appendonlydir");
        let manifest = fs::read_to_string(folder.join("appendonly.aof.manifest")).unwrap();
        let pool = folder.join("appendonly.aof.pool");
        let mut bytes = fs::read(&pool).unwrap();
        let mut expected = written as i64;
        match damage {
            // Another program has gone on with the segment.
            "append" => {
                let segment = folder.join("appendonly.aof.1.incr.aof");
                let mut whole = fs::read(&segment).unwrap();
                whole.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$5\r\nother\r\n$1\r\n1\r\n");
                fs::write(&segment, whole).unwrap();
                expected += 1;
            }
            "remove" => fs::remove_file(&pool).unwrap(),
            "cut" => fs::write(&pool, &bytes[..5000]).unwrap(),
            "flip" => flip(&pool, format!("key:{keys}\r\n").as_bytes()),
            _ => {
                // The streams of the four records.
                [16, 56, 96, 136].iter().for_each(|&at: &usize| bytes[at] ^= 1);
                fs::write(&pool, bytes).unwrap();
            }
        }
        server.restart();
        assert_eq!(server.client().ok(&["DBSIZE"]).int(), expected, "{damage}");
        assert!(server.log().contains("is not whole in"), "{damage}: {}", server.log());
        let name = format!("# varve history {}", server.info("master_replid"));
        assert!(!manifest.contains(&name), "{damage}");
    }
}

/// The story: at the first start after the kill the pool's file is there and can't be read, as the disk has an
/// error or no descriptor is left. A start without it would overwrite what nothing else holds.
#[test]
fn a_pool_that_cannot_be_read_is_refused_and_kept() {
    let (mut server, keys, _) = killed_ahead_of_its_segment();
    let pool = server.dir().join("appendonlydir/appendonly.aof.pool");
    let aside = server.dir().join("aside");
    fs::rename(&pool, &aside).unwrap();
    fs::create_dir(&pool).unwrap();
    Attempt::new(&["--dir", server.dir().to_str().unwrap(), "--appendonly", "yes"])
        .refused()
        .names(&["can't read", "appendonly.aof.pool"]);
    fs::remove_dir(&pool).unwrap();
    fs::rename(&aside, &pool).unwrap();
    server.restart();
    assert_eq!(server.client().ok(&["DBSIZE"]).int(), keys);
}

/// The story: a server that was run with a single file is upgraded, and that file can't be opened. A start
/// without it would look like one of an empty server.
#[test]
fn a_single_file_that_cannot_be_read_is_refused() {
    let folder = Folder::new();
    fs::create_dir(folder.path().join("appendonly.aof")).unwrap();
    Attempt::new(&["--dir", folder.path().to_str().unwrap(), "--appendonly", "yes"])
        .refused()
        .names(&["can't open", "appendonly.aof"]);
}

/// Flips a bit of `part` wherever the file has it.
fn flip(file: &Path, part: &[u8]) {
    let mut bytes = fs::read(file).unwrap();
    let starts = bytes.windows(part.len()).enumerate().filter(|(_, window)| *window == part);
    let starts: Vec<usize> = starts.map(|(at, _)| at).collect();
    assert!(!starts.is_empty());
    starts.into_iter().for_each(|at| bytes[at] ^= 1);
    fs::write(file, bytes).unwrap();
}

/// The story: a server is killed, and the machine restarted in good order before the server comes back. To
/// that this is a power cut, so the history gets another name; but what the pool has whole is not lost.
#[test]
fn what_only_the_pool_has_survives_a_restart_of_the_machine() {
    for damaged in [false, true] {
        let (mut server, keys, written) = killed_ahead_of_its_segment();
        let folder = server.dir().join("appendonlydir");
        let manifest = folder.join("appendonly.aof.manifest");
        let text = manifest_to_change(&manifest);
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("# varve {key} ")));
            line.unwrap().to_owned()
        };
        fs::write(&manifest, text.replace(&value("boot"), "another")).unwrap();
        if damaged {
            flip(&folder.join("appendonly.aof.pool"), format!("key:{keys}\r\n").as_bytes());
        }
        server.restart();
        let expected = if damaged { written as i64 } else { keys };
        assert_eq!(server.client().ok(&["DBSIZE"]).int(), expected);
        assert_eq!(server.log().contains("is not whole, as after a power cut"), damaged);
        assert_eq!(server.info("master_replid2"), value("history"));
    }
}
