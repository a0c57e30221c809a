//! The story: a replica is away while its primary rewrites its log, more than once. What it missed is
//! neither in memory nor in a live segment any more, and it continues all the same, from the
//! compressed history; or is sent everything anew when the history can not be had.

use crate::support::{
    Client, Command, PATIENCE, Random, Server, Value, assert_same_data, caught_up, dataset,
    eventually,
};
use lz4_flex::frame::FrameDecoder;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

/// A primary whose memory holds next to nothing of the log, and a replica of it.
fn pair() -> (Server, Server) {
    let primary = with_log().start();
    primary.client().ok(&["SET", "first", "key"]);
    let replica = with_log().arg("--replicaof", &format!("127.0.0.1 {}", primary.port())).start();
    caught_up(&primary, &replica);
    (primary, replica)
}

fn with_log() -> crate::support::server::Builder {
    let builder = Server::varve().arg("--appendonly", "yes");
    builder.arg("--repl-backlog-size", "16kb").arg("--auto-aof-rewrite-percentage", "0")
}

/// As its primary, and not empty.
fn has_all(primary: &Server, replica: &Server) {
    caught_up(primary, replica);
    assert_ne!(replica.client().cmd(&["DBSIZE"]), Value::Int(0));
}

fn write(client: &mut Client, random: &mut Random, megabytes: u64) {
    let commands = (0..megabytes * 1024).map(|_| {
        let key = format!("key:{}", random.below(5000));
        let value = format!("{:08x}", random.next()).repeat(random.below(240));
        Command::new(&["SET", &key, &value])
    });
    let replies = client.pipeline(&commands.collect::<Vec<_>>());
    assert!(replies.iter().all(|reply| !reply.is_error()));
}

/// The compressed files, oldest first. While the plain segment is there, that is the one which is read.
fn compressed(server: &Server) -> Vec<PathBuf> {
    let files = fs::read_dir(server.dir().join("appendonlydir")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    let is_finished = |name: &str| name.starts_with("appendonly") && name.ends_with(".lz4");
    files.retain(|file| {
        is_finished(file.file_name().unwrap().to_str().unwrap())
            && !file.with_extension("").exists()
    });
    files.sort();
    files
}

/// Twice as many bytes as any memory holds, and a rewrite, twice.
fn rewrite_twice(primary: &Server, random: &mut Random) {
    for _ in 0..2 {
        write(&mut primary.client(), random, 2);
        primary.rewrite();
    }
    write(&mut primary.client(), random, 1);
    let settled = || compressed(primary).len().to_string() == primary.info("log_history_segments");
    assert!(eventually(PATIENCE, settled), "the history is not compressed");
}

#[test]
fn a_replica_that_was_away_across_two_rewrites_continues() {
    let (mut primary, mut replica) = pair();
    let mut random = Random::new(1);
    write(&mut primary.client(), &mut random, 1);
    has_all(&primary, &replica);
    replica.terminate();
    rewrite_twice(&primary, &mut random);
    let number = |field: &str, server: &Server| -> u64 { server.info(field).parse().unwrap() };
    assert!(number("log_history_segments", &primary) >= 2);
    // A segment may still be on its way there.
    let on_disk = || -> u64 {
        compressed(&primary).iter().map(|f| f.metadata().map_or(0, |meta| meta.len())).sum()
    };
    let agree = || number("log_history_bytes", &primary) == on_disk();
    assert!(eventually(PATIENCE, agree), "{} bytes on disk", on_disk());
    let history_bytes = on_disk();
    assert!(history_bytes < 4 << 20, "{history_bytes} bytes are not compressed");
    assert!(
        number("log_first_offset", &primary) < number("log_first_offset_disk", &primary)
            && number("log_first_offset_disk", &primary)
                < number("log_first_offset_memory", &primary)
    );

    let full = primary.info("sync_full");
    replica.restart();
    has_all(&primary, &replica);
    assert_eq!(primary.info("sync_full"), full, "it needed a full resync");
    assert_eq!(primary.info("sync_partial_ok"), "1");

    // The history outlives the primary's process, a killed one too.
    replica.terminate();
    rewrite_twice(&primary, &mut random);
    primary.kill9();
    primary.restart();
    replica.restart();
    has_all(&primary, &replica);
    assert_eq!(
        (primary.info("sync_full"), primary.info("sync_partial_ok")),
        ("0".into(), "1".into())
    );

    // And is gone when none is wanted.
    replica.terminate();
    primary.client().ok(&["CONFIG", "SET", "repl-history-size", "0"]);
    assert!(eventually(PATIENCE, || compressed(&primary).is_empty()), "the history is still there");
    rewrite_twice(&primary, &mut random);
    assert_eq!(primary.info("log_history_segments"), "0");
    replica.restart();
    has_all(&primary, &replica);
    assert_eq!(primary.info("sync_full"), "1");
}

#[test]
fn damaged_history_costs_a_full_resync_and_no_wrong_byte() {
    let (primary, mut replica) = pair();
    let mut random = Random::new(2);
    has_all(&primary, &replica);
    replica.terminate();
    rewrite_twice(&primary, &mut random);
    let newest = compressed(&primary).pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&newest, bytes).unwrap();
    let full: u64 = primary.info("sync_full").parse().unwrap();
    replica.restart();
    has_all(&primary, &replica);
    assert_eq!(primary.info("sync_full"), (full + 1).to_string());
    let name = newest.file_name().unwrap().to_str().unwrap();
    assert!(
        primary.log().contains(&format!("{name}\": it is damaged at byte")),
        "{}",
        primary.log()
    );
}

#[test]
fn history_decompressed_is_an_append_only_file() {
    let mut server = with_log().start();
    let mut random = Random::new(3);
    rewrite_twice(&server, &mut random);
    let before = dataset(&mut server.client());
    server.terminate();
    let folder = server.dir().join("appendonlydir");
    let manifest = fs::read_to_string(folder.join("appendonly.aof.manifest")).unwrap();
    let mut all = Vec::new();
    for kind in ["h", "i"] {
        for line in manifest.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            if words[5] != kind || words[1].contains(".base.") {
                continue;
            }
            let bytes = fs::read(folder.join(words[1])).unwrap();
            if kind == "i" {
                all.extend_from_slice(&bytes);
                continue;
            }
            // Frame after frame, up to the one that any decoder is to skip.
            let mut rest = &bytes[..];
            while rest.starts_with(&0x184d_2204_u32.to_le_bytes()) {
                FrameDecoder::new(&mut rest).read_to_end(&mut all).unwrap();
            }
            assert!(rest.starts_with(&0x184d_2a50_u32.to_le_bytes()));
        }
    }
    // The whole history from its first byte on, as one file of the time before Redis 7.
    let file = server.dir().join("appendonly.aof");
    fs::write(&file, all).unwrap();
    let redis = Server::redis().arg("--appendonly", "yes").with_file(&file).start();
    assert!(dataset(&mut redis.client()) == before);
}

/// A primary turns its log off, goes on in memory, and is killed. Its next start has what the log had, and
/// its replica more, under the name that both had: what follows on either side is not the other's.
#[test]
fn a_log_that_was_turned_off_does_not_go_on_under_its_name() {
    let (mut primary, replica) = pair();
    let turn = |on: &str, primary: &Server| {
        primary.client().ok(&["CONFIG", "SET", "appendonly", on]);
        let is_on_disk = || primary.log().contains("The log is on disk from offset");
        assert!(on == "no" || eventually(PATIENCE, is_on_disk), "{}", primary.log());
    };
    turn("no", &primary);
    turn("yes", &primary);
    let history = primary.info("master_replid");
    primary.kill9();
    primary.restart();
    assert_eq!(primary.info("master_replid"), history, "all that anybody has is in the log again");

    turn("no", &primary);
    for n in 0..20 {
        primary.client().ok(&["SET", &format!("memory:{n}"), "only"]);
    }
    caught_up(&primary, &replica);
    let ahead = primary.number("master_repl_offset");
    replica.signal(libc::SIGSTOP);
    primary.kill9();
    primary.restart();
    assert_eq!(primary.info("master_replid2"), history);
    while primary.number("master_repl_offset") < ahead + 100 {
        primary.client().ok(&["RPUSH", "other", "branch"]);
    }
    replica.signal(libc::SIGCONT);
    caught_up(&primary, &replica);
    assert_same_data(&mut primary.client(), &mut replica.client());
}
