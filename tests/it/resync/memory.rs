//! A slow replica is an offset: however far behind it is, the primary's memory does not show it.

use super::{Keeps, Kind, SLOW_LINK, outrun, same, start, start_replica};
use crate::support::{PATIENCE, Proxy, Server, eventually};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// What a primary may take in bytes; the 1.6 MB of its data are left in.
const LIMIT: u64 = 64 << 20;

/// A process's memory in bytes, but for mapped files, which the kernel takes back as it likes.
fn anonymous_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") << 10
}

/// The primary's most memory in bytes while `count` replicas are too slow, and until they have caught
/// up.
fn most_memory(count: usize) -> u64 {
    let primary = start(Kind::Varve, Keeps::EverySec);
    // The bound is to be the log's doing, and not a limit that drops the replica.
    primary.client().ok(&["CONFIG", "SET", "client-output-buffer-limit", "replica 0 0 0"]);
    let proxies: Vec<Proxy> = (0..count).map(|_| Proxy::to(primary.port())).collect();
    let start_one = |proxy: &Proxy| start_replica(Kind::Varve, Keeps::RdbOnly, proxy.port());
    let replicas: Vec<Server> = proxies.iter().map(start_one).collect();
    for replica in &replicas {
        assert!(same(&primary, replica).is_ok(), "the first sync did not end");
    }
    let (pid, done) = (primary.pid(), AtomicBool::new(false));
    let most = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !done.load(SeqCst) {
                most = most.max(anonymous_bytes(pid));
                thread::sleep(Duration::from_millis(20));
            }
            most
        });
        proxies.iter().for_each(|proxy| proxy.throttle(SLOW_LINK));
        outrun(&primary);
        let behind = |r: &Server| super::offset(&primary) - super::offset(r);
        let least = replicas.iter().map(behind).min().unwrap();
        println!("{count} slow: each at least {} MB behind", least >> 20);
        proxies.iter().for_each(|proxy| proxy.throttle(0));
        let caught_up = || replicas.iter().all(|r| behind(r) == 0);
        let caught_up = eventually(PATIENCE * 2, caught_up);
        // The sampler must end before anything may panic, for the scope waits for it.
        done.store(true, SeqCst);
        let most = sampler.join().expect("sampled");
        assert!(caught_up, "the replicas do not catch up");
        assert!(least > LIMIT, "the replicas were not slow enough to show anything");
        most
    });
    for replica in &replicas {
        assert!(same(&primary, replica).is_ok());
    }
    println!(
        "{count} slow: at most {} MB resident, used_memory at its peak {} MB",
        most >> 20,
        primary.info("used_memory_peak").parse::<u64>().unwrap_or(0) >> 20,
    );
    most
}

#[test]
fn one_slow_replica_costs_the_primary_no_memory() {
    let most = most_memory(1);
    assert!(most < LIMIT, "{most} bytes");
}

#[test]
fn five_slow_replicas_cost_the_primary_no_memory() {
    let most = most_memory(5);
    assert!(most < LIMIT, "{most} bytes");
}
