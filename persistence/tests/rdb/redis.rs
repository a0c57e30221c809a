//! Redis reads what is written here, and what it writes is read here. Without a `redis-server` in
//! the path there is nothing to ask, and the tests say so and pass.

use crate::support::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use varve_persistence::rdb::{self, Buffers};

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("{program} is not installed: not compared with it");
    }
    found
}

/// A Redis with a folder of its own, both gone when it is dropped.
struct Redis {
    process: Child,
    dir: PathBuf,
    stream: BufReader<TcpStream>,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("varve-rdb-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

impl Redis {
    fn start(dir: PathBuf) -> Redis {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"])
            .args(["--enable-debug-command", "yes", "--dir"])
            .arg(&dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                let mut redis = Redis { process, dir, stream: BufReader::new(stream) };
                while redis.call(&["PING"]) != "+PONG" {
                    std::thread::yield_now();
                }
                return redis;
            }
            let gone = process.try_wait().unwrap();
            assert!(gone.is_none(), "redis-server refused the file: {gone:?}");
            std::thread::yield_now();
        }
    }

    /// Runs a command; the first line of its reply, and a bulk string's text.
    fn call(&mut self, parts: &[&str]) -> String {
        let mut request = format!("*{}\r\n", parts.len());
        for part in parts {
            request += &format!("${}\r\n{part}\r\n", part.len());
        }
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let line = line.trim_end().to_string();
        match line.strip_prefix('$').map(|n| n.parse::<i64>().unwrap()) {
            Some(n @ 0..) => {
                let mut text = vec![0; n as usize + 2];
                self.stream.read_exact(&mut text).unwrap();
                text.truncate(n as usize);
                String::from_utf8_lossy(&text).into_owned()
            }
            _ => line,
        }
    }

    fn saved(&mut self) -> Vec<u8> {
        assert_eq!(self.call(&["SAVE"]), "+OK");
        std::fs::read(self.dir.join("dump.rdb")).unwrap()
    }
}

fn check(file: &Path) {
    let checked = Command::new("redis-check-rdb").arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.contains("RDB looks OK"), "{said}");
}

#[test]
fn redis_loads_our_files_and_we_load_its() {
    if !installed("redis-server") {
        return;
    }
    let all = varied();
    let ks = keyspace(&all);
    for version in [9, 10] {
        for compress in [true, false] {
            let dir = folder(&format!("{version}-{compress}"));
            let path = dir.join("dump.rdb");
            let options = rdb::SaveOptions { compress, ..options(version) };
            std::fs::write(&path, save(&ks, &options)).unwrap();
            check(&path);
            let mut redis = Redis::start(dir);
            assert_eq!(redis.call(&["SELECT", "2"]), "+OK");
            assert_eq!(
                redis.call(&["ZSCORE", "zset:600", "element number 3"]),
                "-3.8900000000000001"
            );
            assert_eq!(redis.call(&["LINDEX", "list:5000", "4999"]), "element number 4999");
            let back = load(&redis.saved()).unwrap();
            assert!(contents(&back) == all, "version {version}, compress {compress}");
        }
    }
}

#[test]
fn redis_runs_our_commands() {
    if !installed("redis-server") {
        return;
    }
    let mut all = varied();
    all.retain(|(db, _), _| *db != 0);
    let ks = keyspace(&all);
    let mut redis = Redis::start(folder("commands"));
    let mut commands = vec![];
    let mut write = |bytes: &[u8]| {
        commands.extend_from_slice(bytes);
        Ok(())
    };
    let mut buffers = Buffers::new();
    // Without the lines of a file that are no commands.
    let options = rdb::SaveOptions { checksum: false, ..options(10) };
    rdb::save_as_commands(&ks, &options, &mut buffers, &mut write, &mut |_| {}).unwrap();
    let mut stream = redis.stream.get_ref().try_clone().unwrap();
    let end = "*2\r\n$4\r\nECHO\r\n$13\r\nthat was them\r\n";
    let sender = std::thread::spawn(move || {
        stream.write_all(&commands).unwrap();
        stream.write_all(end.as_bytes()).unwrap();
    });
    let mut line = String::new();
    while line != "that was them\r\n" {
        assert!(!line.starts_with('-'), "{line}");
        line.clear();
        redis.stream.read_line(&mut line).unwrap();
    }
    sender.join().unwrap();
    assert!(contents(&load(&redis.saved()).unwrap()) == all);
}

#[test]
fn redis_restores_our_dumps() {
    if !installed("redis-server") {
        return;
    }
    let mut redis = Redis::start(folder("restore"));
    let all = varied();
    for ((_, key), (content, _)) in &all {
        let entry =
            varve_engine::entry::Entry::new(key, value_of(content, &Default::default()), None);
        let payload = rdb::dump(&entry, 10);
        let mut request = format!("*4\r\n$7\r\nRESTORE\r\n${}\r\n", key.len()).into_bytes();
        request.extend(key);
        request.extend(format!("\r\n$1\r\n0\r\n${}\r\n", payload.len()).into_bytes());
        request.extend(payload);
        request.extend(b"\r\n");
        redis.stream.get_mut().write_all(&request).unwrap();
        let mut line = String::new();
        redis.stream.read_line(&mut line).unwrap();
        assert_eq!(line, "+OK\r\n", "{}", key.escape_ascii());
    }
    let back = contents(&load(&redis.saved()).unwrap());
    assert_eq!(back.len(), all.len());
    for ((_, key), (content, _)) in &all {
        assert!(&back[&(0, key.clone())].0 == content, "{}", key.escape_ascii());
    }
}
