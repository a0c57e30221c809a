//! The story: a primary is cut off from its replica and goes on alone: it takes writes and rewrites its
//! log. Then it crashes, the replica is promoted, and the old primary comes back as its replica, with
//! a tail that nobody else ever had and a base that stands behind the place where the two parted.

use crate::support::server::Builder;
use crate::support::{
    Client, Command, Folder, PATIENCE, Proxy, Random, Server, assert_same_data, caught_up, dataset,
    eventually, manifest_to_change,
};
use lz4_flex::frame::FrameDecoder;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn with_log() -> Builder {
    let builder = Server::varve().arg("--appendonly", "yes");
    builder.arg("--repl-backlog-size", "16kb").arg("--auto-aof-rewrite-percentage", "0")
}

/// The old primary and the new one.
struct Parted {
    old: Server,
    new: Server,
    /// Writes in the tail.
    tail: usize,
}

/// A write to the database that was selected when they parted, which the log does not say again.
const FIRST: [&str; 3] = ["SET", "tail:first", "in database 7"];

/// The commands of the tail, but for the first: those before the first rewrite in it, those before the
/// next, and so on.
fn write_tail(client: &mut Client, part: usize) {
    write(client, &mut Random::new(100 + part as u64), "tail", 500);
}

/// Rewrites before they part, and after. The old one has crashed.
fn part(before: usize, after: usize, change: impl Fn(Builder) -> Builder) -> Parted {
    let mut parted = part_alive(before, after, change);
    parted.old.kill9();
    parted
}

/// The same, and the old one still runs.
fn part_alive(before: usize, after: usize, change: impl Fn(Builder) -> Builder) -> Parted {
    let old = change(with_log()).start();
    let mut random = Random::new(7);
    write(&mut old.client(), &mut random, "common", 2000);
    for _ in 0..before {
        old.rewrite();
        write(&mut old.client(), &mut random, "common", 1000);
    }
    let proxy = Proxy::to(old.port());
    let new = with_log().replica_of(proxy.port()).start();
    caught_up(&old, &new);
    write(&mut old.client(), &mut random, "common", 1000);
    let mut client = old.client();
    client.ok(&["SELECT", "7"]);
    client.ok(&["SET", "common:last", "in database 7"]);
    caught_up(&old, &new);
    proxy.refuse(true);
    proxy.cut();
    client.ok(&FIRST);
    let mut parted = Parted { old, new, tail: 1 };
    for n in 0..=after {
        write_tail(&mut parted.old.client(), n);
        parted.tail += 495; // one in a hundred selects a database
        if n < after {
            parted.old.rewrite();
        }
    }
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

/// The tails that were set aside.
fn tails(server: &Server) -> Vec<PathBuf> {
    let folders = [server.dir(), server.dir().join("appendonlydir")];
    let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let files = files.map(|file| file.unwrap().path());
    files.filter(|path| path.to_str().unwrap().contains(".tail-")).collect()
}

/// Writes in the tails that were set aside.
fn set_aside(server: &Server) -> usize {
    let count = |path: &PathBuf| {
        let shown = std::process::Command::new(env!("CARGO_BIN_EXE_varve"))
            .args(["show", path.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(shown.status.success(), "{shown:?}");
        let text = String::from_utf8(shown.stdout).unwrap();
        text.lines().filter(|line| line.contains(" SET tail:")).count()
    };
    tails(server).iter().map(count).sum()
}

/// The one line of a server's log that says what became of a tail before a full resync.
fn what_became(server: &Server) -> String {
    let log = server.log();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("which the primary does not have")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    lines[0].to_string()
}

fn follow(replica: &Server, port: u16) {
    replica.client().ok(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
}

/// The last line of a server's log that says why it could not roll back.
fn refusal(server: &Server) -> Option<String> {
    let log = server.log();
    log.lines().rfind(|line| line.contains("so a full resync follows")).map(String::from)
}

/// A link that a full sync takes some seconds over.
fn slow_link(to: &Server) -> Proxy {
    let proxy = Proxy::to(to.port());
    proxy.throttle(150 << 10);
    proxy
}

impl Parted {
    /// The old primary comes back.
    fn come_back(&mut self) {
        self.old.restart();
        follow(&self.old, self.new.port());
        caught_up(&self.new, &self.old);
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.old.dir().join("appendonlydir").join(name)
    }

    /// Where the tail will go.
    fn tail_path(&self) -> PathBuf {
        let history = &self.old.info("master_replid")[..8];
        let from = self.new.number("second_repl_offset") - 1;
        let to = self.old.number("master_repl_offset");
        self.log_file(&format!("appendonly.aof.tail-{history}-{from}-{to}.aof"))
    }

    fn assert_rolled_back(&self) {
        assert_eq!(self.new.number("sync_full"), 0, "{}", self.old.log());
        assert_eq!(self.old.number("sync_rollbacks_done"), 1);
        assert_eq!(set_aside(&self.old), self.tail);
    }

    /// The one file that was set aside is an append-only file of the tail's writes, without the first
    /// `missing` parts of it.
    fn assert_kept(&self, parts: usize, missing: usize) {
        let files = tails(&self.old);
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(set_aside(&self.old), usize::from(missing == 0) + 495 * (parts - missing));
        let folder = Folder::new();
        let single = folder.path().join("appendonly.aof");
        fs::copy(&files[0], &single).unwrap();
        let read = Server::redis().arg("--appendonly", "yes").with_file(&single).start();
        let expected = Server::start();
        let mut client = expected.client();
        if missing == 0 {
            client.ok(&["SELECT", "7"]);
            client.ok(&FIRST);
        }
        (missing..parts).for_each(|part| write_tail(&mut client, part));
        assert_same_data(&mut expected.client(), &mut read.client());
    }

    /// The line says that all of the tail is in the file.
    fn assert_said(&self) {
        let line = what_became(&self.old);
        let file = tails(&self.old).remove(0);
        let name = file.file_name().unwrap().to_str().unwrap();
        let mut numbers = name.rsplit(['-', '.']).skip(1).map(|n| n.parse::<u64>().unwrap());
        let (to, from) = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(from, self.new.number("second_repl_offset") - 1, "{name}");
        let what = format!("Of the {} bytes after offset {from}, ", to - from);
        assert!(line.contains(&what), "{line}");
        assert!(line.contains("all are set aside in ") && line.ends_with(name), "{line}");
        assert_eq!(self.old.number("sync_rollbacks_done"), 0);
        assert_eq!(self.old.number("sync_last_rollback_bytes"), 0);
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
        // Redis takes the folder as it is now.
        let folder = old.dir().join("appendonlydir");
        let redis = Server::redis().arg("--appendonly", "yes").with_file(&folder).start();
        assert_same_data(&mut new.client(), &mut redis.client());
        old.restart();
        follow(old, new.port());
        caught_up(new, old);
        old.rewrite();
        old.kill9();
        old.restart();
        assert_same_data(&mut new.client(), &mut old.client());
        assert_eq!(new.number("sync_full"), 0);
    }
}

#[test]
fn redis_starts_from_a_folder_with_old_bases() {
    let mut server = with_log().start();
    let mut random = Random::new(3);
    for _ in 0..3 {
        write(&mut server.client(), &mut random, "key", 1000);
        server.rewrite();
    }
    write(&mut server.client(), &mut random, "key", 100);
    assert!(server.number("log_first_offset_base") < server.number("log_first_offset_disk"));
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

/// Without the history nothing reaches back that far. That is known at once: the data are not read
/// back for it. What the log still has of the tail, which is what came after the rewrite, is set aside.
#[test]
fn a_rollback_that_no_base_reaches_is_a_full_resync_at_once() {
    let mut parted = part(1, 1, |builder| builder.arg("--repl-history-size", "0"));
    parted.old.restart();
    let loads = || parted.old.log().matches("The log ends at offset").count();
    let before = loads();
    follow(&parted.old, parted.new.port());
    caught_up(&parted.new, &parted.old);
    let why = refusal(&parted.old).expect("a line that says why");
    assert!(why.contains("the oldest base that is kept stands at offset"), "{why}");
    assert_eq!((loads(), parted.new.number("sync_full")), (before, 1), "{}", parted.old.log());
    let line = what_became(&parted.old);
    assert!(
        line.contains("are lost, as neither memory nor") && line.contains("the rest, "),
        "{line}"
    );
    parted.assert_kept(2, 1);
}

/// The same, but the history has the tail's bytes (only its old bases are gone), or memory has (the
/// server did not restart).
#[test]
fn a_tail_that_no_base_reaches_is_set_aside_whole() {
    for history in ["1gb", "0"] {
        println!("repl-history-size {history}");
        let change = |builder: Builder| builder.arg("--repl-history-size", history);
        let parted = match history {
            "0" => part_alive(1, 1, |b| change(b).arg("--repl-backlog-size", "1mb")),
            _ => {
                let mut parted = part(1, 1, change);
                for base in ["appendonly.aof.1.base.rdb", "appendonly.aof.2.base.rdb"] {
                    fs::remove_file(parted.log_file(base)).unwrap();
                }
                parted.old.restart();
                parted
            }
        };
        follow(&parted.old, parted.new.port());
        caught_up(&parted.new, &parted.old);
        assert!(refusal(&parted.old).unwrap().contains("the oldest base that is kept stands at"));
        assert_eq!(parted.new.number("sync_full"), 1);
        parted.assert_said();
        parted.assert_kept(2, 0);
    }
}

fn without_log(builder: Builder) -> Builder {
    builder.arg("--appendonly", "no")
}

/// A primary without a log on disk is demoted as it runs. There is nothing to roll back with, but memory
/// has the tail. A full sync that breaks and begins anew finds it set aside already.
#[test]
fn a_tail_that_is_only_in_memory_is_set_aside_before_the_full_resync() {
    let parted = part_alive(0, 0, |b| without_log(b).arg("--repl-backlog-size", "1mb"));
    let link = slow_link(&parted.new);
    link.throttle(20 << 10);
    follow(&parted.old, link.port());
    let receives = || parted.old.log().contains("bytes of RDB from the primary");
    assert!(eventually(PATIENCE, || refusal(&parted.old).is_some()), "{}", parted.old.log());
    assert!(refusal(&parted.old).unwrap().contains("the log is only in memory"));
    parted.assert_said();
    assert!(eventually(PATIENCE, receives), "{}", parted.old.log());
    let file = tails(&parted.old).remove(0);
    assert_eq!(file.parent(), Some(&*parted.old.dir()));
    let written = || fs::metadata(&file).unwrap().modified().unwrap();
    let before = written();
    follow(&parted.old, parted.new.port());
    caught_up(&parted.new, &parted.old);
    assert_eq!(written(), before, "it was set aside twice");
    assert_ne!(parted.new.number("sync_full"), 0);
    parted.assert_kept(1, 0);
}

/// Memory has the end of the tail only, or, after one very large write, nothing: the log file says how
/// much is lost, and the full resync goes on.
#[test]
fn what_memory_no_longer_has_of_a_tail_is_told() {
    for large in [false, true] {
        let parted = part_alive(0, 0, without_log);
        if large {
            parted.old.client().ok(&["SET", "tail:large", &"v".repeat(1 << 20)]);
        }
        follow(&parted.old, parted.new.port());
        caught_up(&parted.new, &parted.old);
        let (line, left) = (what_became(&parted.old), set_aside(&parted.old));
        match large {
            true => {
                assert!(line.contains("all are lost: ") && line.contains("memory"), "{line}");
                assert_eq!(tails(&parted.old), Vec::<PathBuf>::new());
            }
            false => {
                assert!(line.contains("are lost, as neither memory nor"), "{line}");
                assert!((50..parted.tail).contains(&left), "{left} writes are left");
            }
        }
        assert_eq!(parted.new.number("sync_full"), 1);
    }
}

/// A rollback fails when nearly all of it is done. Until the full sync that follows, the server has what
/// it had, in memory and on disk, and a crash then changes nothing either.
#[test]
fn a_rollback_that_fails_leaves_log_and_data_as_they_were() {
    let mut parted = part(1, 1, |builder| builder);
    parted.old.restart();
    let before = dataset(&mut parted.old.client());
    let obstacle = parted.tail_path();
    fs::create_dir(&obstacle).unwrap();
    let link = slow_link(&parted.new);
    follow(&parted.old, link.port());
    assert!(eventually(PATIENCE, || refusal(&parted.old).is_some()), "{}", parted.old.log());
    assert!(
        refusal(&parted.old).unwrap().contains(obstacle.file_name().unwrap().to_str().unwrap())
    );
    let line = what_became(&parted.old);
    assert!(line.contains("all are lost: can't rename ") && line.contains(".tail-"), "{line}");
    assert!(dataset(&mut parted.old.client()) == before, "the data are others");
    assert_ne!(parted.old.info("log_first_offset_disk"), "-1", "the log is only in memory");
    parted.old.kill9();
    parted.old.restart();
    assert!(dataset(&mut parted.old.client()) == before, "the log is another");
    drop(link);
    fs::remove_dir(&obstacle).unwrap();
    let full = parted.new.number("sync_full");
    follow(&parted.old, parted.new.port());
    caught_up(&parted.new, &parted.old);
    assert_eq!(
        (parted.new.number("sync_full"), parted.old.number("sync_rollbacks_done")),
        (full, 1)
    );
    assert_eq!(set_aside(&parted.old), parted.tail);
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

/// Whether the log on disk begins with what the last full resync brought, or after that.
fn has_new_base(replica: &Server) -> bool {
    let log = replica.log();
    let Some((_, since)) = log.rsplit_once("Full resync from the primary: ") else { return false };
    let place = since.lines().next().unwrap_or_default();
    let (_, at) = place.split_once(':').expect("a history and an offset");
    let received = format!("The log's base is the snapshot at offset {at} now");
    since.contains(&received) || since.contains("The log is on disk from offset")
}

/// A disk gives back other bits than it was given: of the base to go back to, old or in force, or of the
/// history after it. The file is named, a full resync follows, and no wrong value is ever served.
#[test]
fn damage_met_in_a_rollback_is_named_and_costs_a_full_resync() {
    for (after, damaged) in [
        (1, "appendonly.aof.2.base.rdb"),
        (1, "appendonly.aof.2.incr.aof.lz4"),
        (0, "appendonly.aof.2.base.rdb"),
    ] {
        println!("rewritten {after} times after they parted, damaged: {damaged}");
        let mut parted = part(1, after, |builder| builder);
        parted.old.restart();
        let file = parted.log_file(damaged);
        assert!(eventually(PATIENCE, || file.exists()), "{damaged} is not there");
        let before = dataset(&mut parted.old.client());
        flip(&file);
        let link = slow_link(&parted.new);
        follow(&parted.old, link.port());
        assert!(eventually(PATIENCE, || refusal(&parted.old).is_some()), "{}", parted.old.log());
        let why = refusal(&parted.old).unwrap();
        assert!(why.contains(damaged) && why.contains("damaged at byte"), "{why}");
        let tail_is_damaged = damaged.contains("incr");
        if tail_is_damaged {
            let line = what_became(&parted.old);
            assert!(line.contains("all are lost: ") && line.contains(damaged), "{line}");
        } else {
            parted.assert_said();
        }
        assert!(dataset(&mut parted.old.client()) == before, "the data are others");
        if after > 0 {
            // Killed at this moment, it starts from what is whole, and meets the damage again.
            parted.old.kill9();
            parted.old.restart();
            assert!(dataset(&mut parted.old.client()) == before, "the log is another");
            follow(&parted.old, link.port());
        }
        link.throttle(0);
        caught_up(&parted.new, &parted.old);
        assert_eq!(parted.old.number("sync_rollbacks_done"), 0);
        match tail_is_damaged {
            true => assert_eq!(tails(&parted.old), Vec::<PathBuf>::new()),
            false => parted.assert_kept(after + 1, 0),
        }
        // The damaged file is of no log any more once the received base is in force.
        let received = || has_new_base(&parted.old);
        assert!(eventually(PATIENCE, received), "the received base is not in force");
        parted.old.kill9();
        parted.old.restart();
        assert_same_data(&mut parted.new.client(), &mut parted.old.client());
    }
}

/// Every checksum fits and every command parses, but one can not be run: that shows when the log has gone
/// back and is loaded. Nothing is held then, and nothing is claimed to be.
#[test]
fn a_log_that_can_not_be_loaded_after_a_rollback_costs_a_full_resync() {
    let mut parted = part(1, 1, |builder| builder);
    parted.old.restart();
    let compressed = parted.log_file("appendonly.aof.2.incr.aof.lz4");
    assert!(eventually(PATIENCE, || compressed.exists()), "the history is not compressed");
    parted.old.terminate();
    let (bytes, mut plain) = (fs::read(&compressed).unwrap(), Vec::new());
    let mut rest = &bytes[..];
    while rest.starts_with(&0x184d_2204_u32.to_le_bytes()) {
        FrameDecoder::new(&mut rest).read_to_end(&mut plain).unwrap();
    }
    let set = b"\r\nSET\r\n$";
    let at = plain.windows(set.len()).position(|bytes| bytes == set).unwrap();
    plain[at + 2] = b'X';
    fs::remove_file(&compressed).unwrap();
    fs::write(parted.log_file("appendonly.aof.2.incr.aof"), plain).unwrap();
    let manifest = parted.log_file("appendonly.aof.manifest");
    let named = manifest_to_change(&manifest).replace(".2.incr.aof.lz4", ".2.incr.aof");
    fs::write(&manifest, named).unwrap();

    parted.old.restart();
    let link = slow_link(&parted.new);
    follow(&parted.old, link.port());
    assert!(eventually(PATIENCE, || refusal(&parted.old).is_some()), "{}", parted.old.log());
    let why = refusal(&parted.old).unwrap();
    assert!(why.contains("unknown command 'XET'"), "{why}");
    assert!(dataset(&mut parted.old.client()).is_empty(), "half of the data are there");
    assert_eq!(parted.old.number("master_repl_offset"), 0);
    // Told to ask another time, it does not ask for what it does not hold.
    follow(&parted.old, parted.new.port());
    caught_up(&parted.new, &parted.old);
    assert_eq!(parted.old.number("sync_rollbacks_done"), 0);
    let on_disk = || has_new_base(&parted.old);
    assert!(eventually(PATIENCE, on_disk), "{}", parted.old.log());
    parted.old.kill9();
    parted.old.restart();
    assert_same_data(&mut parted.new.client(), &mut parted.old.client());
}

/// The loop goes on answering while a large tail is set aside, and a shutdown at that moment ends in good
/// order: the next start has the log as it was or as it was to be.
#[test]
fn a_server_that_rolls_back_answers_and_can_be_shut_down() {
    let mut parted = part(1, 1, |builder| builder);
    parted.old.restart();
    let value = "v".repeat(1 << 20);
    for n in 0..200 {
        parted.old.client().ok(&["SET", &format!("large:{}", n % 3), &value]);
    }
    let mut client = parted.old.client();
    follow(&parted.old, parted.new.port());
    let set_aside = || parted.old.log().contains("are set aside in");
    let (mut loading, mut longest) = (0, Duration::ZERO);
    let began = Instant::now();
    while !set_aside() && began.elapsed() < PATIENCE {
        let asked = Instant::now();
        let refused = client.cmd(&["GET", "large:0"]).is_error();
        longest = longest.max(asked.elapsed());
        if refused && loading == 0 {
            // Its role is not changed half-way, by whatever command.
            let answer = format!("{:?}", client.cmd(&["REPLICAOF", "NO", "ONE"]));
            assert!(answer.contains("LOADING"), "{answer}");
        }
        loading += usize::from(refused);
    }
    println!("{loading} answers within {longest:?} in {:?}", began.elapsed());
    assert!(loading > 10, "only {loading} answers while it rolled back");
    assert!(longest < began.elapsed() / 2, "an answer took {longest:?} of {:?}", began.elapsed());
    caught_up(&parted.new, &parted.old);
    assert_eq!(parted.new.number("sync_full"), 0);

    let mut parted = part(1, 1, |builder| builder);
    parted.old.restart();
    for n in 0..200 {
        parted.old.client().ok(&["SET", &format!("large:{}", n % 3), &value]);
    }
    let mut client = parted.old.client();
    follow(&parted.old, parted.new.port());
    let rolls = || client.cmd(&["GET", "large:0"]).is_error();
    assert!(eventually(PATIENCE, rolls), "it does not roll back");
    parted.old.terminate();
    assert!(parted.old.log().contains("ready to exit"), "{}", parted.old.log());
    parted.come_back();
    assert_eq!(parted.new.number("sync_full"), 0, "{}", parted.old.log());
}
