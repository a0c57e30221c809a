//! The story: a primary is cut off from its replica and goes on alone: it takes writes and rewrites its
//! log. Then it crashes, the replica is promoted, and the old primary comes back as its replica, with
//! a tail that nobody else ever had and a base that stands behind the place where the two parted.

use crate::support::server::Builder;
use crate::support::{
    Client, Command, PATIENCE, Proxy, Random, Server, assert_same_data, eventually,
};
use std::fs;
use std::path::PathBuf;

fn with_log() -> Builder {
    let builder = Server::varve().arg("--appendonly", "yes");
    builder.arg("--repl-backlog-size", "16kb").arg("--auto-aof-rewrite-percentage", "0")
}

/// The old primary, which is down, and the new one.
struct Parted {
    old: Server,
    new: Server,
    /// Commands in the tail.
    tail: usize,
}

/// Rewrites before they part, and after.
fn part(before: usize, after: usize, change: impl Fn(Builder) -> Builder) -> Parted {
    let old = change(with_log()).start();
    let mut random = Random::new(7);
    write(&mut old.client(), &mut random, "common", 2000);
    for _ in 0..before {
        rewrite(&old);
        write(&mut old.client(), &mut random, "common", 1000);
    }
    let proxy = Proxy::to(old.port());
    let new = with_log().replica_of(proxy.port()).start();
    caught_up(&old, &new);
    write(&mut old.client(), &mut random, "common", 1000);
    caught_up(&old, &new);
    proxy.refuse(true);
    proxy.cut();
    let mut parted = Parted { old, new, tail: 0 };
    for n in 0..=after {
        write(&mut parted.old.client(), &mut random, "tail", 500);
        parted.tail += 500;
        if n < after {
            rewrite(&parted.old);
        }
    }
    parted.old.kill9();
    parted.new.client().ok(&["REPLICAOF", "NO", "ONE"]);
    write(&mut parted.new.client(), &mut random, "new", 300);
    parted
}

/// So many commands, in several databases.
fn write(client: &mut Client, random: &mut Random, what: &str, count: usize) {
    let commands = (0..count).map(|n| {
        if n % 100 == 0 {
            return Command::new(&["SELECT", &random.below(3).to_string()]);
        }
        let key = format!("{what}:{}", random.below(5000));
        let value = format!("{:08x}", random.next()).repeat(random.below(60));
        Command::new(&["SET", &key, &value])
    });
    let replies = client.pipeline(&commands.collect::<Vec<_>>());
    assert!(replies.iter().all(|reply| !reply.is_error()));
}

fn rewrite(server: &Server) {
    let before = server.info("log_first_offset_disk");
    server.client().ok(&["BGREWRITEAOF"]);
    let ended = || server.info("log_first_offset_disk") != before;
    assert!(eventually(PATIENCE, ended), "BGREWRITEAOF did not end");
}

fn number(server: &Server, field: &str) -> u64 {
    server.info(field).parse().unwrap_or_else(|_| panic!("no number in {field}"))
}

fn caught_up(primary: &Server, replica: &Server) {
    let same = || {
        replica.info("master_link_status") == "up"
            && replica.info("master_repl_offset") == primary.info("master_repl_offset")
    };
    assert!(eventually(PATIENCE, same), "the replica did not catch up: {}", replica.log());
    assert_same_data(&mut primary.client(), &mut replica.client());
}

/// Commands in the tails that were set aside.
fn set_aside(server: &Server) -> usize {
    let files = fs::read_dir(server.dir().join("appendonlydir")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let tails: Vec<PathBuf> =
        files.filter(|path| path.to_str().unwrap().contains(".tail-")).collect();
    let count = |path: &PathBuf| {
        let shown = std::process::Command::new(env!("CARGO_BIN_EXE_varve"))
            .args(["show", path.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(shown.status.success(), "{shown:?}");
        let text = String::from_utf8(shown.stdout).unwrap();
        text.lines().filter(|line| line.contains(" SET tail:")).count()
    };
    tails.iter().map(count).sum()
}

impl Parted {
    /// The old primary comes back.
    fn come_back(&mut self) {
        self.old.restart();
        self.old.client().ok(&["REPLICAOF", "127.0.0.1", &self.new.port().to_string()]);
        caught_up(&self.new, &self.old);
    }

    fn assert_rolled_back(&self) {
        assert_eq!(number(&self.new, "sync_full"), 0, "{}", self.old.log());
        assert_eq!(number(&self.old, "sync_rollbacks_done"), 1);
        // One in a hundred selects a database.
        assert_eq!(set_aside(&self.old), self.tail / 100 * 99);
    }
}

#[test]
fn a_rollback_beyond_the_newest_base_needs_no_full_resync() {
    for (before, after) in [(0, 1), (1, 1), (1, 2), (2, 0)] {
        println!("rewritten {before} times before they parted, {after} times after");
        let mut parted = part(before, after, |builder| builder);
        parted.come_back();
        parted.assert_rolled_back();
        // What is on disk is what is served, and it goes on as any log does.
        let Parted { old, new, .. } = &mut parted;
        write(&mut new.client(), &mut Random::new(9), "later", 500);
        caught_up(new, old);
        old.terminate();
        old.restart();
        old.client().ok(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]);
        caught_up(new, old);
        rewrite(old);
        old.kill9();
        old.restart();
        assert_same_data(&mut new.client(), &mut old.client());
        assert_eq!(number(new, "sync_full"), 0);
    }
}

#[test]
fn redis_starts_from_a_folder_with_old_bases() {
    let mut server = with_log().start();
    let mut random = Random::new(3);
    for _ in 0..3 {
        write(&mut server.client(), &mut random, "key", 1000);
        rewrite(&server);
    }
    write(&mut server.client(), &mut random, "key", 100);
    assert!(number(&server, "log_first_offset_base") < number(&server, "log_first_offset_disk"));
    let folder = server.dir().join("appendonlydir");
    let bases = |folder: &PathBuf| {
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.to_str().unwrap().ends_with(".base.rdb")).count()
    };
    assert_eq!(bases(&folder), 4);
    server.terminate();
    let redis = Server::redis().arg("--appendonly", "yes").with_file(&folder).start();
    server.restart();
    assert_same_data(&mut server.client(), &mut redis.client());
    let copy = redis.dir().join("appendonlydir");
    assert!(eventually(PATIENCE, || bases(&copy) == 1), "Redis keeps what it has no use for");
}
