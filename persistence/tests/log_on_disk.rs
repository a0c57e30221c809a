//! The log on real files, with its threads, and Redis as the judge of what it wrote.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;
use varve_persistence::log::{Error, Event, Fsync, Log, NewBase, Options};
use varve_persistence::log::{random_history, recover};
use varve_persistence::offset::{Histories, Offset};

/// A folder that is removed at the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> TempDir {
        let dir = std::env::temp_dir().join(format!("varve-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        TempDir(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The loop's sleep, which the log's threads end.
#[derive(Default)]
struct Sleep {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Sleep {
    fn waker(self: &Arc<Sleep>) -> Arc<dyn Fn() + Send + Sync> {
        let sleep = self.clone();
        Arc::new(move || {
            *sleep.woken.lock().unwrap() = true;
            sleep.changed.notify_one();
        })
    }

    fn wait(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

fn wait_for(log: &mut Log, sleep: &Sleep, offset: Offset) {
    while log.released() < offset {
        sleep.wait();
        log.flush();
    }
}

fn events(log: &mut Log, sleep: &Sleep) -> Vec<Event> {
    loop {
        let events = log.take_events();
        if !events.is_empty() {
            return events;
        }
        sleep.wait();
        log.flush();
    }
}

#[test]
fn every_policy_releases_what_was_appended_and_reads_it_back() {
    for (fsync, pool_blocks) in
        [(Fsync::Always, 9), (Fsync::EverySec, 256), (Fsync::No, 1), (Fsync::EverySec, 0)]
    {
        let temp = TempDir::new(fsync.as_str());
        let mut options = Options::new(temp.0.join("appendonlydir"), "appendonly.aof");
        (options.fsync, options.pool_blocks) = (fsync, pool_blocks);
        options.max_segment_bytes = 300_000;
        let histories = Histories::new(random_history().unwrap());
        let sleep = Arc::new(Sleep::default());
        let start = Offset(1000);
        let mut log = Log::create(options.clone(), histories, start, sleep.waker()).unwrap();
        for turn in 0..200 {
            for i in 0..20 {
                log.append_command(turn % 2, &["SET", &format!("key:{i}"), &"v".repeat(300)]);
            }
            log.flush();
            log.rotate_if_large();
            if turn % 20 == 0 {
                let end = log.end();
                wait_for(&mut log, &sleep, end);
                log.tick(Instant::now());
            }
        }
        let end = log.end();
        wait_for(&mut log, &sleep, end);
        assert!(matches!(&events(&mut log, &sleep)[0], Event::Rotated { result: Ok(()), .. }));
        log.close().unwrap();

        let mut recovered = recover(&options).unwrap().unwrap();
        let (mut commands, mut dbs) = (0, 0);
        let replayed = recovered.replay::<Error>(&mut |command| {
            commands += 1;
            dbs += command.db;
            Ok(())
        });
        assert_eq!((replayed.unwrap().end, commands, dbs), (end, 4000, 2000));
        assert!(recovered.is_lossless());
        assert_eq!(recovered.histories(), Some(histories));
        assert!(recovered.start() == start);
    }
}

/// A `redis-server` on its own socket in a folder, which ends with the test.
struct Redis(Child, PathBuf);

impl Redis {
    fn start(dir: &Path) -> Option<Redis> {
        let socket = dir.join("redis.sock");
        let _ = std::fs::remove_file(&socket);
        let child = Command::new("redis-server")
            .args(["--port", "0", "--appendonly", "yes", "--save", "", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(dir)
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let mut redis = Redis(child, socket);
        while redis.cli(&["ping"]).trim() != "PONG" {
            assert!(redis.0.try_wait().unwrap().is_none(), "redis-server refused the folder");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Some(redis)
    }

    fn cli(&self, args: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(&self.1).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a file takes on disk beyond its size, in bytes.
fn surplus(path: &Path) -> u64 {
    let file = std::fs::metadata(path).unwrap();
    (file.blocks() * 512).saturating_sub(file.len())
}

#[test]
fn space_is_taken_ahead_of_the_logs_end_and_given_back() {
    let temp = TempDir::new("ahead");
    let mut options = Options::new(temp.0.join("appendonlydir"), "appendonly.aof");
    options.threads = false;
    let histories = Histories::new(random_history().unwrap());
    let mut log = Log::create(options, histories, Offset(0), Arc::new(|| ())).unwrap();
    let segment = |n| temp.0.join(format!("appendonlydir/appendonly.aof.{n}.incr.aof"));
    let grow = |log: &mut Log, times| {
        for _ in 0..times {
            log.append_command(0, &["SET", "key", &"v".repeat(100_000)]);
            log.flush();
            log.tick(Instant::now());
        }
        log.stats().current_bytes
    };
    grow(&mut log, 5);
    assert!(surplus(&segment(1)) < 1 << 16, "a small log takes what it needs");
    grow(&mut log, 15);
    assert!(surplus(&segment(1)) > 500_000, "{}", surplus(&segment(1)));
    let bytes = grow(&mut log, 30);
    assert!(surplus(&segment(1)) > 500_000, "{}", surplus(&segment(1)));
    assert_eq!(std::fs::metadata(segment(1)).unwrap().len(), bytes, "nobody sees it");

    log.begin_rotation();
    log.flush();
    assert!(surplus(&segment(1)) < 1 << 16, "{}", surplus(&segment(1)));
    grow(&mut log, 30);
    assert!(surplus(&segment(2)) > 500_000, "{}", surplus(&segment(2)));
    log.close().unwrap();
    assert!(surplus(&segment(2)) < 1 << 16, "{}", surplus(&segment(2)));
}

#[test]
fn redis_loads_the_folder_and_goes_on_with_it() {
    for history_bytes in [0, 1 << 30] {
        goes_to_redis_and_back(history_bytes);
    }
}

fn goes_to_redis_and_back(history_bytes: u64) {
    let temp = TempDir::new("redis");
    let Some(redis) = Redis::start(&temp.0) else {
        eprintln!("redis-server is not installed: nothing is compared");
        return;
    };
    // An RDB file to serve as a base, made by Redis.
    redis.cli(&["set", "from-base", "1"]);
    redis.cli(&["save"]);
    drop(redis);
    let dir = temp.0.join("appendonlydir");
    std::fs::remove_dir_all(&dir).unwrap();

    let options = Options { history_bytes, ..Options::new(dir.clone(), "appendonly.aof") };
    let histories = Histories::new(random_history().unwrap());
    let sleep = Arc::new(Sleep::default());
    let mut log = Log::create(options.clone(), histories, Offset(77), sleep.waker()).unwrap();
    log.append_command(5, &["SET", "before-base", "1"]);
    let at = log.begin_rotation();
    log.append_command(5, &["SET", "after-base", "1"]);
    log.flush();
    assert_eq!(events(&mut log, &sleep), [Event::Rotated { at, result: Ok(()) }]);
    let path = temp.0.join("dump.rdb");
    log.install_base(NewBase { path, at, rdb: true, keep: true });
    assert_eq!(events(&mut log, &sleep), [Event::BaseInstalled { at, result: Ok(()) }]);
    log.begin_rotation();
    log.append_command(5, &["SET", "in-second-segment", "1"]);
    log.close().unwrap();

    let manifest = dir.join("appendonly.aof.manifest");
    let check = Command::new("redis-check-aof").arg(&manifest).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        check.status.success() && said.contains("All AOF files and manifest are valid"),
        "{said}"
    );

    let redis = Redis::start(&temp.0).unwrap();
    assert_eq!(redis.cli(&["get", "from-base"]).trim(), "1");
    assert_eq!(redis.cli(&["-n", "5", "dbsize"]).trim(), "2");
    assert_eq!(redis.cli(&["-n", "5", "get", "after-base"]).trim(), "1");
    redis.cli(&["-n", "5", "set", "from-redis", "1"]);
    drop(redis);

    let mut recovered = recover(&options).unwrap().unwrap();
    let mut keys = Vec::new();
    recovered
        .replay::<Error>(&mut |command| {
            keys.push(String::from_utf8_lossy(command.args[1]).into_owned());
            Ok(())
        })
        .unwrap();
    assert_eq!(keys, ["after-base", "in-second-segment", "from-redis"]);
    // Redis removes history, and writes a manifest of its own then: the folder counts as Redis's.
    let has_history = |name: &String| name.contains(".1.incr.aof") && !name.ends_with(".idx");
    let names = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    assert!(!names.iter().any(has_history), "{history_bytes}: {names:?}");
    match history_bytes {
        0 => assert_eq!(recovered.base().unwrap().offset, at),
        _ => assert_eq!(recovered.histories(), None),
    }
}
