//! The story: the power goes while clients write. Under `always` every write that was acknowledged
//! is there after the restart. Under `everysec` every one is that was acknowledged two seconds
//! before the last that was, or that `WAITAOF` said was synced; what is missing is missing from the
//! end.
//!
//! The daemon, the file system and its journal are the real ones: see [`PowerDisk`]. The daemon
//! lives on for a moment after the cut, so that it would be seen acknowledging what it could not
//! write. What it acknowledges of that which was under way at the cut counts for nothing: a sync
//! that began before the cut can end after it and report success (seen with ext4 of Linux 6.18, the
//! data gone), while a machine without power reports nothing. Under `everysec` it may acknowledge for
//! as long as such a write may be lost anyway, and no longer.

use crate::support::writers::{Writer, rewrite, write_until_noticed, writers};
use crate::support::{
    Client, PATIENCE, PowerDisk, Random, Server, dataset, env_number, eventually,
};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

/// Runs `test` in a thread of its own, whose mounts are its own; not at all if the environment says
/// that nothing can be mounted here.
fn with_disk(test: impl FnOnce(PowerDisk) + Send) {
    if std::env::var("VARVE_NO_MOUNT").is_ok_and(|value| value == "1") {
        println!("left out, since VARVE_NO_MOUNT=1: a power cut");
        return;
    }
    let run = || test(PowerDisk::new());
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
    with_disk(|mut disk| {
        let (synced, unsynced) = (disk.path().join("synced"), disk.path().join("unsynced"));
        let mut file = File::create(&synced).unwrap();
        file.write_all(b"synced").unwrap();
        file.sync_data().unwrap();
        File::open(disk.path()).unwrap().sync_all().unwrap();
        file.write_all(b" and not synced").unwrap();
        fs::write(&unsynced, "lost").unwrap();
        disk.cut().unwrap();
        // A file system inside another hears of it when it writes what it took.
        assert!(file.write_all(b" and too late").is_err() || disk.is_nested());
        file.sync_data().unwrap_err();
        drop(file);
        disk.restore();
        assert_eq!(fs::read_to_string(&synced).unwrap(), "synced");
        assert!(!unsynced.exists(), "the cut lost nothing");
    });
}

fn survives_power_cuts(policy: &str, grace: Duration, mut disk: PowerDisk) {
    let seed = env_number("VARVE_SEED").unwrap_or(1);
    let cuts = env_number("VARVE_POWER_CUTS").unwrap_or(5);
    let mut random = Random::new(seed);
    let mut server = Server::varve()
        .in_dir(&disk.path())
        .arg("--appendonly", "yes")
        .arg("--appendfsync", policy)
        .start();
    let mut writers = writers(seed);
    // Redis has WAITAOF from 7.2 on.
    let waits = !Client::connect(server.port()).cmd(&["WAITAOF", "0", "0", "0"]).is_error();
    if waits {
        writers[0].ask_for_syncs();
    }
    if !grace.is_zero() {
        writers.iter_mut().for_each(|writer| writer.rest(Duration::from_millis(5)));
    }
    for cut in 0..cuts {
        let port = server.port();
        let history = server.info("master_replid");
        let (mut time, mut result) = (Instant::now(), Ok(()));
        write_until_noticed(&mut writers, port, grace, |round| {
            if grace.is_zero() {
                let enough = 50 + random.below(2000) as u64;
                eventually(PATIENCE, || round.acknowledged.load(Relaxed) >= enough);
            } else {
                // Every other round lasts long enough for something to be old.
                let least_ms = if cut % 2 == 0 { 3000 } else { 0 };
                let millis = least_ms + random.below(2000) as u64;
                std::thread::sleep(Duration::from_millis(millis));
                eventually(PATIENCE, || round.acknowledged.load(Relaxed) > 0);
            }
            if random.one_in(2) {
                rewrite(port);
            }
            let longest_us = *random.pick(&[10_000, 100_000, 1_000_000]);
            std::thread::sleep(Duration::from_micros(random.below(longest_us) as u64));
            round.failing.store(true, SeqCst);
            time = Instant::now();
            result = disk.cut();
            round.failed.store(true, SeqCst);
            // Mostly for what was on its way; sometimes for another attempt of the daemon's.
            let long_ms = 1500 + 2 * grace.as_millis() as usize;
            let longest_ms = if random.one_in(4) { long_ms } else { 50 };
            std::thread::sleep(Duration::from_millis(random.below(longest_ms) as u64));
            server.kill9();
        });
        result.expect("cut the power");
        disk.restore();
        server.restart();
        // While the disk is slow nothing is acknowledged, so the two seconds are those before the
        // newest reply. Under `always` each reply has waited already.
        let newest = writers.iter().filter_map(Writer::newest).max().unwrap_or(time);
        let promised = if grace.is_zero() { time } else { newest.min(time) - grace };
        let all = dataset(&mut server.client());
        for writer in &mut writers {
            if let Err(difference) = writer.verify(&all, promised) {
                panic!(
                    "VARVE_SEED={seed}, {policy}, cut {cut}, writer {}: {difference}",
                    writer.id
                );
            }
        }
        if !Server::is_stand_in() {
            // A replica may have seen what the disk lost, unless it was synced first.
            let field = if policy == "always" { "master_replid" } else { "master_replid2" };
            assert_eq!(server.info(field), history, "{field} after the cut");
        }
    }
}

#[test]
fn acknowledged_writes_survive_a_power_cut_under_always() {
    with_disk(|disk| survives_power_cuts("always", Duration::ZERO, disk));
}

#[test]
fn writes_acknowledged_two_seconds_ago_survive_a_power_cut_under_everysec() {
    if Server::is_stand_in() {
        // Redis 7.0 did not load what some cuts left of its log ("Bad file format").
        println!("left out, since Redis may refuse to start: a power cut under everysec");
        return;
    }
    with_disk(|disk| survives_power_cuts("everysec", Duration::from_secs(2), disk));
}

/// The loop does not come round while one command has it: what was acknowledged before is synced all the same.
#[test]
fn a_long_command_keeps_nothing_from_the_disk_under_everysec() {
    with_disk(|mut disk| {
        let server = Server::varve().in_dir(&disk.path()).arg("--appendonly", "yes");
        let mut server = server.arg("--appendfsync", "everysec").start();
        let mut client = server.client();
        for n in 0..100 {
            client.ok(&["SET", &format!("key:{n}"), "value"]);
        }
        client.send_raw(b"DEBUG SLEEP 60\r\n");
        std::thread::sleep(Duration::from_secs(3));
        disk.cut().unwrap();
        server.kill9();
        disk.restore();
        server.restart();
        assert_eq!(server.client().cmd(&["DBSIZE"]).int(), 100);
    });
}

/// Behind the end that a power cut left a file, the disk may hold what lost writes had put there. A second
/// cut that keeps a new length, but not what was written, would show that as the log.
#[test]
fn what_a_power_cut_left_behind_the_end_of_the_log_is_removed() {
    if Server::is_stand_in() {
        return;
    }
    with_disk(|mut disk| {
        if disk.is_nested() {
            return; // What is not synced goes no further than the outer file system's memory.
        }
        let server = Server::varve().in_dir(&disk.path()).arg("--appendonly", "yes");
        let mut server = server.start();
        let mut client = server.client();
        client.ok(&["SET", "kept", "value"]);
        client.ok(&["WAITAOF", "1", "0", "0"]);
        server.kill9();
        let folder = fs::read_dir(disk.path().join("appendonlydir")).unwrap().flatten();
        let segment = folder
            .map(|file| file.path())
            .find(|path| path.to_string_lossy().ends_with(".incr.aof"));
        let mut file =
            File::options().append(true).open(segment.expect("the log has one")).unwrap();
        let lost = b"*3\r\n$3\r\nSET\r\n$4\r\nlost\r\n$5\r\nagain\r\n";
        file.write_all(&lost.repeat(20)).unwrap();
        // Puts the bytes on the disk, but not the file's new length.
        let all = libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: the descriptor is open.
        assert_eq!(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, all) }, 0);
        drop(file);
        disk.cut().unwrap();
        disk.restore();
        assert_eq!(disk.count(lost), 20, "the disk does not hold what was lost");
        server.restart();
        assert_eq!(server.client().cmd(&["DBSIZE"]).int(), 1);
        disk.cut().unwrap();
        server.kill9();
        disk.restore();
        assert_eq!(disk.count(lost), 0, "the disk still holds what was lost");
        server.restart();
        assert_eq!(server.client().cmd(&["DBSIZE"]).int(), 1);
    });
}
