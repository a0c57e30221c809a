//! The loop with I/O threads: all that it does alone, then what only threads could break.

mod common;
mod suite;

use common::{Server, call, expect, request};
use nix::unistd::{ForkResult, Pid, fork};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use varve_net::Stats;

const IO_THREADS: usize = 3;

/// A generator of numbers that are random enough; the seed makes a run repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

/// A pipeline of echoes and what is to come back: mostly small values, now and then a large one.
fn pipeline(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let (mut sent, mut want) = (Vec::new(), Vec::new());
    for _ in 0..=random.below(30) {
        let len = match random.below(40) {
            0 => 30_000 + random.below(400_000),
            1..4 => random.below(20_000),
            _ => random.below(40),
        };
        let value = vec![b'a' + random.below(26) as u8; len as usize];
        sent.extend_from_slice(&request(&[b"ECHO", &value]));
        want.extend_from_slice(&bulk(&value));
    }
    (sent, want)
}

/// One thread's clients, and what they do in some rounds. Every round writes to all of them before
/// it reads, so that many are ready at once. How many connections were made.
fn hammer(server: &Server, name: usize, rounds: usize) -> usize {
    let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (name as u64 + 1) << 17);
    let mut clients: Vec<TcpStream> = (0..25).map(|_| server.client()).collect();
    let mut killer = server.client();
    let mut made = clients.len() + 1;
    for _ in 0..rounds {
        let mut wanted = Vec::new();
        for client in &mut clients {
            let (sent, want) = pipeline(&mut random);
            let cut = random.below(sent.len() as u64) as usize;
            client.write_all(&sent[..cut]).expect("the server reads");
            client.write_all(&sent[cut..]).expect("the server reads");
            wanted.push(want);
        }
        for (client, want) in clients.iter_mut().zip(&wanted) {
            match random.below(20) {
                // Goes away with replies on their way.
                0 => {
                    *client = server.client();
                    made += 1;
                }
                // Says that it is done, and gets everything first.
                1 => {
                    client.shutdown(Shutdown::Write).expect("half closed");
                    let mut got = Vec::new();
                    client.read_to_end(&mut got).expect("all replies");
                    assert!(got == *want);
                    *client = server.client();
                    made += 1;
                }
                // Is killed with a pipeline on its way: what it gets is the beginning of it.
                2 => {
                    expect(client, want);
                    let victim = format!("victim-{name}");
                    call(client, &[b"NAME", victim.as_bytes()], b"+OK\r\n");
                    let (sent, want) = pipeline(&mut random);
                    let _ = client.write_all(&sent);
                    killer.write_all(&request(&[b"KILL", victim.as_bytes()])).expect("it reads");
                    expect(&mut killer, b":1\r\n");
                    let mut got = Vec::new();
                    let _ = client.read_to_end(&mut got);
                    assert!(want.starts_with(&got));
                    *client = server.client();
                    made += 1;
                }
                // Reads slowly.
                3 => {
                    let mut got = vec![0; want.len()];
                    for part in got.chunks_mut(4096) {
                        client.read_exact(part).expect("more to come");
                        std::thread::yield_now();
                    }
                    assert!(got == *want);
                }
                _ => expect(client, want),
            }
        }
    }
    made
}

fn two_hundred_clients(server: &Server) {
    let made: usize = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|i| scope.spawn(move || hammer(server, i, 25))).collect();
        all.into_iter().map(|t| t.join().expect("all went well")).sum()
    });
    for _ in 0..made {
        assert!(server.event().starts_with("closed "));
    }
    assert_eq!(server.ask(|net, _| net.len()), 0);
    let stats: Stats = server.ask(|net, _| net.stats);
    assert_eq!(stats.accepted as usize, made);
    assert!(stats.threaded_reads > 0 && stats.threaded_writes > 0, "{stats:?}");
}

#[test]
fn two_hundred_clients_are_served_by_helpers_only() {
    two_hundred_clients(&Server::start());
}

#[test]
fn two_hundred_clients_are_served_by_helpers_and_the_loop() {
    two_hundred_clients(&Server::with(|net| net.always_hand_over = false));
}

#[test]
fn few_clients_are_left_to_the_loop() {
    let server = Server::with(|net| net.always_hand_over = false);
    let mut client = server.client();
    for _ in 0..100 {
        call(&mut client, &[b"ECHO", b"hi"], b"$2\r\nhi\r\n");
    }
    let stats = server.ask(|net, _| net.stats);
    assert_eq!((stats.threaded_reads, stats.threaded_writes), (0, 0));
    assert_eq!(server.ask(|net, _| net.io_threads()), IO_THREADS);
}

#[test]
fn gated_replies_wait_with_threads_too() {
    let server = Server::start();
    server.release(0);
    let mut clients: Vec<_> = (0..50).map(|_| server.client()).collect();
    for client in &mut clients {
        client.write_all(&request(&[b"WRITE"]).repeat(3)).expect("the server reads");
    }
    while server.ask(|_, echo| echo.writes) < 150 {}
    let stats = server.ask(|net, _| net.stats);
    assert_eq!((stats.writes, stats.threaded_writes), (0, 0));
    server.release(150);
    for client in &mut clients {
        expect(client, b"+OK\r\n+OK\r\n+OK\r\n");
    }
    assert_eq!(server.ask(|net, _| net.stats.threaded_writes), 50);
}

/// A snapshot forks out of a callback. If a helper could hold something then (a connection, a
/// lock of the allocator), a child would sooner or later be made with it half done, and the
/// parent must not notice the fork at all.
#[test]
fn the_service_may_fork_in_any_callback() {
    const FORKS: usize = 200;
    let server = Server::start();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let (pids, forked) = channel::<Pid>();
    let mut calls = 0;
    let mut left = FORKS;
    let hook = move || {
        calls += 1;
        if left == 0 || calls % 5 != 0 {
            return;
        }
        left -= 1;
        // SAFETY: the child makes two system calls, and ends.
        match unsafe { fork() }.expect("a child") {
            ForkResult::Child => unsafe {
                libc::write(writer.as_raw_fd(), b"x".as_ptr().cast(), 1);
                libc::_exit(0);
            },
            ForkResult::Parent { child } => pids.send(child).expect("the test waits"),
        }
    };
    server.run(move |_, echo| echo.hook = Some(Box::new(hook)));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    hammer(server, i, 2);
                }
            });
        }
        let mut said = [0; FORKS];
        let all = reader.read_exact(&mut said);
        stop.store(true, Ordering::Relaxed);
        all.expect("every child lives long enough to say so");
    });
    for pid in forked.iter().take(FORKS) {
        nix::sys::wait::waitpid(pid, None).expect("a child of this process");
    }
    call(&mut server.client(), &[b"ECHO", b"hi"], b"$2\r\nhi\r\n");
}
