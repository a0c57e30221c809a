//! Clients that send nonsense, too much, too slowly, or do not read: the others notice nothing.

use super::*;
use crate::support::client::encode;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// More memory than a misbehaving client may make the daemon take, kilobytes.
const BOUND_KB: u64 = 64 << 10;

/// A port scanner, a browser or a broken driver connects, over and over.
#[test]
fn garbage_harms_nobody() {
    let server = Server::start();
    let mut other = server.client();
    other.ok(&["SET", "k", "v"]);
    let before = resident_kb(server.pid());
    let mut random = Random::new(crate::support::env_number("VARVE_SEED").unwrap_or(1));
    let starts: &[&[u8]] = &[
        b"",
        b"*",
        b"$",
        b"*3\r\n$",
        b"GET / HTTP/1.1\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\r\n",
        b"*-1\r\n",
        b"\x16\x03\x01",
    ];
    for n in 0..1000 {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", server.port())) else {
            panic!("connection {n} was not taken")
        };
        let len = random.below(2000);
        let mut bytes = random.pick(starts).to_vec();
        bytes.extend(random.bytes(len));
        let _ = stream.write_all(&bytes);
        match n % 4 {
            0 => drop(stream),
            // Half-closed: what can be answered is, and then the daemon closes, too.
            1 => {
                let _ = stream.shutdown(Shutdown::Write);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut rest = Vec::new();
                match stream.read_to_end(&mut rest) {
                    Ok(_) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
                    Err(e) => panic!("a half-closed connection stays open: {e}"),
                }
            }
            _ => {}
        }
        if n % 50 == 0 {
            assert_eq!(other.cmd(&["GET", "k"]), Value::bulk("v"));
        }
    }
    assert_eq!(other.cmd(&["GET", "k"]), Value::bulk("v"));
    let grown = resident_kb(server.pid()).saturating_sub(before);
    assert!(grown < BOUND_KB, "memory grew by {grown} kB");
}

/// A pipeline is sent and the sending side closed at once, as `printf … | nc` does: all of it is
/// answered.
#[test]
fn a_half_closed_connection_is_answered() {
    let server = Server::start();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = Vec::new();
    (0..100).for_each(|n| encode(&mut request, &["RPUSH", "l", &n.to_string()]));
    stream.write_all(&request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut replies = Vec::new();
    stream.read_to_end(&mut replies).unwrap();
    let expected: String = (1..=100).map(|n| format!(":{n}\r\n")).collect();
    assert_eq!(String::from_utf8_lossy(&replies), expected);
}

/// Lengths are announced that never come: memory follows what arrives, not what is announced.
#[test]
fn announced_lengths_take_no_memory() {
    let server = Server::start();
    let mut other = server.client();
    other.ok(&["SET", "k", "v"]);
    let before = resident_kb(server.pid());
    let announced: &[&[u8]] = &[
        b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$536870912\r\nstart",
        b"*1048576\r\n$3\r\nDEL\r\n",
        b"*1000000\r\n",
        b"*2\r\n$4\r\nECHO\r\n$400000000\r\n",
    ];
    let mut held = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.write_all(announced[n % announced.len()]).unwrap();
        held.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(other.cmd(&["GET", "k"]), Value::bulk("v"));
    }
    let grown = resident_kb(server.pid()).saturating_sub(before);
    assert!(grown < BOUND_KB, "{grown} kB for 200 announcements");
    for refused in
        ["*2147483648\r\n", "*1\r\n$2147483648\r\n", "*1\r\n$-5\r\n", "*1\r\n$x\r\n", "*x\r\n"]
    {
        let mut client = server.client();
        client.send_raw(refused.as_bytes());
        let answer = String::from_utf8_lossy(&client.recv_until(b"")).into_owned();
        assert!(answer.starts_with("-ERR Protocol error"), "{refused:?} got {answer:?}");
    }
}

/// Two hundred clients send a byte at a time and never finish; another is served all the while.
#[test]
fn slow_clients_delay_nobody() {
    let server = Server::start();
    let before = resident_kb(server.pid());
    let mut request = Vec::new();
    encode(&mut request, &["SET", "slow", "value of a slow client"]);
    let mut slow: Vec<Client> = (0..200).map(|_| server.client()).collect();
    let mut other = server.client();
    for byte in &request[..request.len() - 1] {
        slow.iter_mut().for_each(|client| client.send_raw(&[*byte]));
        assert_eq!(other.cmd(&["EXISTS", "slow"]).int(), 0);
    }
    let grown = resident_kb(server.pid()).saturating_sub(before);
    assert!(grown < BOUND_KB, "{grown} kB for 200 slow clients");
    for mut client in slow {
        client.send_raw(b"\n");
        assert_eq!(client.recv(), Value::ok());
    }
    assert_eq!(other.cmd(&["GET", "slow"]), Value::bulk("value of a slow client"));
}

/// A client asks for far more than it reads: past the hard limit it is closed, and its buffer goes.
#[test]
fn a_client_that_does_not_read_is_closed() {
    let server = Server::varve().arg("--client-output-buffer-limit", "normal 10mb 0 0").start();
    let mut other = server.client();
    other.ok(&["SET", "large", &"x".repeat(1 << 20)]);
    let before = resident_kb(server.pid());
    let mut idle = server.client();
    let mut request = Vec::new();
    (0..100).for_each(|_| encode(&mut request, &["GET", "large"]));
    idle.send_raw(&request);
    let closed = || server.log().contains("overcoming of output buffer limits");
    assert!(eventually(PATIENCE, closed), "never closed");
    assert_eq!(other.cmd(&["STRLEN", "large"]).int(), 1 << 20);
    let grown = || resident_kb(server.pid()).saturating_sub(before);
    assert!(eventually(PATIENCE, || grown() < BOUND_KB), "{} kB stay", grown());
    // What was in the kernel's buffers may come; the rest does not.
    let got = idle.recv_until(b"").len();
    assert!(got < 100 << 20, "all {got} bytes came");
}

/// A client sends a request without end: past `client-query-buffer-limit` it is closed.
#[test]
fn a_request_without_end_is_cut() {
    let server = Server::varve().arg("--client-query-buffer-limit", "1mb").start();
    let mut other = server.client();
    let mut endless = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    endless.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut sent = endless.write_all(b"*10000\r\n").map(|()| 0u64);
    let mut piece = Vec::new();
    piece.extend_from_slice(b"$16000\r\n");
    piece.extend_from_slice(&[b'x'; 16000]);
    piece.extend_from_slice(b"\r\n");
    while let Ok(bytes) = &mut sent {
        assert!(*bytes < 64 << 20, "{bytes} bytes of one request were taken");
        let total = *bytes + piece.len() as u64;
        sent = endless.write_all(&piece).map(|()| total);
    }
    other.ok(&["PING"]);
    let told = || server.log().contains("max query buffer length");
    assert!(eventually(PATIENCE, told), "the log file does not tell");
}

/// More clients than `maxclients`: the one too many is told why, and those inside stay.
#[test]
fn one_client_too_many_is_told() {
    let server = Server::varve().arg("--maxclients", "10").start();
    // Connections of the start may not have been noticed as closed yet.
    let mut inside: Vec<Client> = Vec::new();
    eventually(PATIENCE, || {
        let mut client = server.client();
        if client.try_cmd(&["PING"]).is_ok_and(|r| !r.is_error()) {
            inside.push(client);
        }
        inside.len() == 10
    });
    let mut outside = server.client();
    let answer = outside.recv_until(b"");
    assert_eq!(String::from_utf8_lossy(&answer), "-ERR max number of clients reached\r\n");
    inside.iter_mut().for_each(|client| drop(client.ok(&["PING"])));
    inside.pop();
    let room = || server.client().try_cmd(&["PING"]).is_ok_and(|r| !r.is_error());
    assert!(eventually(Duration::from_secs(30), room), "a place that was left stays taken");
}
