//! What is left to the system's memory in the background: pages after a child, and pages of the log.

use crate::directives::{no_child, process_file, signal, stopped_child};
use crate::support::client::Command;
use crate::support::{Client, Folder, PATIENCE, Server, Value, eventually};
use std::fs;
use std::path::Path;

/// A fork write-protects the whole dataset. What the child has left is made writable again in the
/// background, instead of by a fault of the loop for each page.
#[test]
fn a_snapshot_leaves_the_loop_no_faults() {
    const KEYS: usize = 500_000; // as many as `stopped_child` makes
    let server = Server::varve().arg("--loglevel", "verbose").start();
    let mut client = server.client();
    let faults = || -> u64 {
        let stat = process_file(server.pid(), &format!("task/{}/stat", server.pid()));
        stat.rsplit(')').next().unwrap().split_whitespace().nth(7).unwrap().parse().unwrap()
    };
    let passes = || server.log().matches("no longer shared").count();
    let write_all = |client: &mut Client| {
        let before = faults();
        for first in (0..KEYS).step_by(1000) {
            let write = |i| Command::new(&["SETRANGE", &format!("key:{i}"), "0", "x"]);
            let writes: Vec<_> = (first..first + 1000).map(write).collect();
            client.pipeline(&writes);
        }
        faults() - before
    };
    let child = stopped_child(&server, &mut client, "BGSAVE");
    let shared = write_all(&mut client);
    signal(child, libc::SIGCONT);
    no_child(&server);
    client.ok(&["BGSAVE"]);
    no_child(&server);
    assert!(eventually(PATIENCE, || passes() == 2), "{}", server.log());
    let own = write_all(&mut client);
    assert!(shared > 5000 && own < shared / 8, "{own} faults instead of {shared}");
}

/// The process's memory, bytes.
fn resident(server: &Server) -> u64 {
    let statm = process_file(server.pid(), "statm");
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * procfs::page_size()
}

/// What was freed goes back to the system though nobody asks the server for anything.
#[test]
fn an_idle_server_keeps_no_memory_that_it_has_freed() {
    let server = Server::varve().arg("--appendonly", "no").start();
    let mut client = server.client();
    client.ok(&["DEBUG", "POPULATE", "200000", "key", "200"]);
    let used = resident(&server);
    client.ok(&["FLUSHALL"]);
    let is_back = || resident(&server) < used / 2;
    assert!(eventually(PATIENCE, is_back), "{} of {used} bytes", resident(&server));
}

/// A start runs the log command by command, and has no more use for the largest of them than a client has.
#[test]
fn a_start_keeps_no_memory_of_the_commands_that_it_ran() {
    let mut server = Server::varve().arg("--appendonly", "yes").start();
    let mut client = server.client();
    client.ok(&["SET", "k", &"v".repeat(8 << 20)]);
    client.ok(&["DEL", "k"]);
    server.kill9();
    server.restart();
    let used = server.number("used_memory");
    assert!(used < 4 << 20, "{used} bytes for no keys");
}

/// The allocator has memory in classes, up to a quarter larger than what is asked for: a limit on what is asked for
/// would let the process take that much more.
#[test]
fn used_memory_is_what_the_allocator_spends() {
    const KEYS: u64 = 20_000;
    let server = Server::varve().arg("--appendonly", "no").start();
    let mut client = server.client();
    let used = || server.number("used_memory") - server.number("mem_not_counted_for_evict");
    let before = used();
    let value = "v".repeat(1030);
    let sets: Vec<_> = (0..KEYS).map(|i| Command::new(&["SET", &format!("{i}"), &value])).collect();
    client.pipeline(&sets);
    let took = (used() - before) / KEYS;
    assert!((1280..1400).contains(&took), "{took} bytes for a key that takes 1280 and more");
    let Value::Int(told) = client.ok(&["MEMORY", "USAGE", "7"]) else { panic!("no number") };
    assert!((1280..1400).contains(&told), "{told} bytes are told for it");
}

/// What one command takes and the next gives back was in use all the same.
#[test]
fn the_peak_of_memory_is_seen_between_commands() {
    let server = Server::varve().arg("--appendonly", "no").start();
    let take = Command::new(&["SETRANGE", "k", "50000000", "x"]);
    server.client().pipeline(&[take, Command::new(&["DEL", "k"])]);
    let peak = server.number("used_memory_peak");
    assert!(peak > 50_000_000, "{peak} bytes at most");
}

/// A few elements need not be like the rest.
#[test]
fn memory_usage_of_all_samples_finds_the_large_elements() {
    let server = Server::varve().start();
    let mut client = server.client();
    let large = "x".repeat(1_000_000);
    let small: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    for (key, add) in [("h", "HSET"), ("s", "SADD"), ("z", "ZADD"), ("l", "RPUSH")] {
        let commands: Vec<Command> = small
            .iter()
            .chain([&large])
            .map(|element| match add {
                "HSET" => Command::new(&[add, key, element.as_str(), "v"]),
                "ZADD" => Command::new(&[add, key, "1", element.as_str()]),
                _ => Command::new(&[add, key, element.as_str()]),
            })
            .collect();
        client.pipeline(&commands);
        let told = client.ok(&["MEMORY", "USAGE", key, "SAMPLES", "0"]);
        let Value::Int(told) = told else { panic!("{key}: {told:?}") };
        assert!((1_000_000..1_200_000).contains(&told), "{key}: {told} bytes are told");
    }
}

/// What a transaction does is gathered for the log: its room goes with it.
#[test]
fn a_long_transaction_leaves_no_memory_taken() {
    let server = Server::varve().arg("--appendonly", "no").start();
    let mut client = server.client();
    client.ok(&["MULTI"]);
    client.pipeline(&vec![Command::new(&["SET", "k", "v"]); 200_000]);
    client.ok(&["EXEC"]);
    drop(client);
    let is_back = || server.number("used_memory") < 4 << 20;
    assert!(eventually(PATIENCE, is_back), "{} bytes", server.number("used_memory"));
}

/// Memory in which the system keeps the file, bytes.
fn cached(path: &Path) -> usize {
    let file = fs::File::open(path).expect("open the segment");
    // SAFETY: the map is looked at by the system only.
    let map = unsafe { memmap2::Mmap::map(&file) }.expect("map it");
    let page = procfs::page_size() as usize;
    let mut there = vec![0u8; map.len().div_ceil(page)];
    // SAFETY: `there` has a byte for each page of the map.
    let asked = unsafe { libc::mincore(map.as_ptr() as *mut _, map.len(), there.as_mut_ptr()) };
    assert_eq!(asked, 0);
    there.iter().filter(|there| **there & 1 == 1).count() * page
}

/// The log is as long as the disk lets it be; a container's memory is not. What was written goes to the
/// disk although nothing ever asks for a sync.
#[test]
fn the_log_does_not_fill_memory_with_what_is_on_disk() {
    let folder = Folder::on_disk();
    let server = Server::varve()
        .in_dir(folder.path())
        .arg("--appendonly", "yes")
        .arg("--appendfsync", "no")
        .arg("--auto-aof-rewrite-percentage", "0")
        .start();
    let mut client = server.client();
    let segment = folder.path().join("appendonlydir/appendonly.aof.1.incr.aof");
    let value = "x".repeat(1 << 20);
    for _ in 0..64 {
        client.ok(&["SET", "k", &value]);
    }
    let little = || (1..=12 << 20).contains(&cached(&segment));
    assert!(eventually(PATIENCE, little), "{} bytes are cached", cached(&segment));
    assert!(fs::metadata(&segment).unwrap().len() > 64 << 20);
}
