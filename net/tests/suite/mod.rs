//! What clients see of the loop over real sockets, be they well-behaved, slow or bad. Both test
//! programs run all of it: with the loop alone, and with I/O threads.

use crate::common::{Server, Session, call, expect, request};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use varve_net::{Mode, OutputLimit, Peer, Stats};

#[test]
fn a_request_costs_one_read_and_one_write() {
    let server = Server::start();
    let mut client = server.client();
    call(&mut client, &[b"ECHO", b"hi"], b"$2\r\nhi\r\n");
    let before: Stats = server.ask(|net, _| net.stats);
    for _ in 0..100 {
        call(&mut client, &[b"ECHO", b"hi"], b"$2\r\nhi\r\n");
    }
    let after = server.ask(|net, _| net.stats);
    assert_eq!((after.reads - before.reads, after.writes - before.writes), (100, 100));
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let server = Server::start();
    let mut client = server.client();
    let mut sent = Vec::new();
    let mut want = Vec::new();
    for i in 0..50_000 {
        let text = i.to_string();
        sent.extend_from_slice(&request(&[b"ECHO", text.as_bytes()]));
        want.extend_from_slice(format!("${}\r\n{text}\r\n", text.len()).as_bytes());
    }
    let mut writer = client.try_clone().expect("dup");
    let thread = std::thread::spawn(move || writer.write_all(&sent).expect("the server reads"));
    expect(&mut client, &want);
    thread.join().expect("sent");
}

#[test]
fn a_byte_at_a_time_is_enough() {
    let server = Server::start();
    let mut client = server.client();
    for byte in request(&[b"ECHO", b"slow"]) {
        client.write_all(&[byte]).expect("the server reads");
    }
    expect(&mut client, b"$4\r\nslow\r\n");
}

#[test]
fn large_values_of_all_sizes_come_through() {
    let server = Server::start();
    let mut client = server.client();
    for n in [32_766, 32_768, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 10_000_000] {
        let value = vec![b'v'; n];
        let mut writer = client.try_clone().expect("dup");
        let sent = [request(&[b"ECHO", &value]), request(&[b"ECHO", b"after"])].concat();
        let thread = std::thread::spawn(move || writer.write_all(&sent).expect("it reads"));
        let mut want = format!("${n}\r\n").into_bytes();
        want.extend_from_slice(&value);
        want.extend_from_slice(b"\r\n$5\r\nafter\r\n");
        expect(&mut client, &want);
        thread.join().expect("sent");
    }
    assert_eq!(server.ask(|net, _| net.iter().map(|c| c.input.pending()).sum::<usize>()), 0);
}

#[test]
fn a_client_that_has_said_all_gets_its_replies() {
    let server = Server::start();
    let mut client = server.client();
    client.write_all(&request(&[b"NAME", b"half"]).repeat(3)).expect("the server reads");
    client.shutdown(Shutdown::Write).expect("half closed");
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("all replies, then the end");
    assert_eq!(got, b"+OK\r\n+OK\r\n+OK\r\n");
    assert_eq!(server.event(), "closed half: Eof");
}

#[test]
fn a_slow_reader_of_100_mb_holds_up_nobody() {
    let server = Server::start();
    let mut slow = server.client();
    slow.write_all(&request(&[b"BIG", b"9"])).expect("the server reads");
    let mut other = server.client();
    for _ in 0..1000 {
        call(&mut other, &[b"ECHO", b"x"], b"$1\r\nx\r\n");
    }
    assert!(server.ask(|net, _| net.iter().any(|c| c.output.len() > 50 << 20)));
    let mut got = 0;
    let mut room = vec![0; 1 << 20];
    while got < 90 * ((1 << 20) + 12) {
        got += slow.read(&mut room).expect("more to come");
        call(&mut other, &[b"ECHO", b"x"], b"$1\r\nx\r\n");
    }
    assert_eq!(got, 90 * ((1 << 20) + 12));
    call(&mut slow, &[b"ECHO", b"x"], b"$1\r\nx\r\n");
}

#[test]
fn a_thousand_connections_are_served_and_let_go() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    let server = Server::start();
    let mut clients: Vec<_> = (0..1000).map(|_| server.client()).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.write_all(&request(&[b"ECHO", b"y"])).expect("the server reads");
        }
        for client in &mut clients {
            expect(client, b"$1\r\ny\r\n");
        }
    }
    assert_eq!(server.ask(|net, _| net.len()), 1000);
    // Idle connections keep no read buffers, and only small output buffers.
    let held = server.ask(|net, _| net.iter().map(|c| c.input.memory()).max());
    assert!(held.is_some_and(|n| n < 2048), "{held:?}");
    let n = clients.len();
    drop(clients);
    for _ in 0..n {
        assert_eq!(server.event(), "closed : Eof");
    }
    assert_eq!(server.ask(|net, _| net.len()), 0);
}

#[test]
fn replies_wait_for_the_log_and_go_as_far_as_it_has_come() {
    let server = Server::start();
    server.release(0);
    let mut client = server.client();
    client.write_all(&request(&[b"WRITE"])).expect("the server reads");
    // The second turn's reply has a gate of its own.
    while server.ask(|_, echo| echo.writes) < 1 {}
    client.write_all(&request(&[b"WRITE"])).expect("the server reads");
    while server.ask(|_, echo| echo.writes) < 2 {}
    assert_eq!(server.ask(|net, _| net.iter().map(|c| c.output.len()).sum::<usize>()), 10);
    client.set_nonblocking(true).expect("a socket option");
    assert_eq!(client.read(&mut [0]).map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));
    client.set_nonblocking(false).expect("a socket option");
    server.release(1);
    expect(&mut client, b"+OK\r\n");
    assert_eq!(server.ask(|net, _| net.iter().map(|c| c.output.len()).sum::<usize>()), 5);
    server.release(2);
    expect(&mut client, b"+OK\r\n");
}

/// What counts as released can become less, when replies begin to wait for syncs too.
#[test]
fn replies_leave_after_the_release_went_back() {
    let server = Server::start();
    let mut client = server.client();
    call(&mut client, &[b"WRITE"], b"+OK\r\n");
    server.release(0);
    client.write_all(&request(&[b"WRITE"])).expect("the server reads");
    while server.ask(|_, echo| echo.writes) < 2 {}
    server.release(2);
    expect(&mut client, b"+OK\r\n");
}

#[test]
fn a_client_that_quits_gets_its_gated_reply_first() {
    let server = Server::start();
    server.release(0);
    let mut client = server.client();
    client.write_all(&[request(&[b"WRITE"]), request(&[b"QUIT"])].concat()).expect("it reads");
    while server.ask(|_, echo| echo.writes) < 1 {}
    assert_eq!(server.ask(|net, _| net.len()), 1);
    server.release(1);
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("replies, then the end");
    assert_eq!(got, b"+OK\r\n+OK\r\n");
    assert_eq!(server.event(), "closed : Done");
}

#[test]
fn a_killed_connection_ends_at_once() {
    let server = Server::start();
    let mut victim = server.client();
    call(&mut victim, &[b"NAME", b"victim"], b"+OK\r\n");
    let mut killer = server.client();
    call(&mut killer, &[b"KILL", b"victim"], b":1\r\n");
    assert_eq!(victim.read(&mut [0]).expect("the end"), 0);
    assert_eq!(server.event(), "closed victim: Killed");
    call(&mut killer, &[b"NAME", b"me"], b"+OK\r\n");
    killer.write_all(&request(&[b"KILL", b"me"])).expect("the server reads");
    assert_eq!(killer.read(&mut [0]).expect("the end"), 0);
    assert_eq!(server.event(), "closed me: Killed");
}

#[test]
fn a_blocked_client_s_requests_wait_and_go_on() {
    let server = Server::start();
    let mut blocked = server.client();
    let sent = [request(&[b"BLOCK"]), request(&[b"ECHO", b"later"])].concat();
    blocked.write_all(&sent).expect("the server reads");
    while server.ask(|_, echo| echo.held.len()) < 1 {}
    blocked.write_all(&request(&[b"ECHO", b"last"])).expect("the server reads");
    let mut other = server.client();
    call(&mut other, &[b"UNBLOCK"], b"+OK\r\n");
    expect(&mut blocked, b"+unblocked\r\n$5\r\nlater\r\n$4\r\nlast\r\n");
}

#[test]
fn a_blocked_client_that_leaves_is_noticed() {
    let server = Server::start();
    let mut blocked = server.client();
    call(&mut blocked, &[b"NAME", b"blocked"], b"+OK\r\n");
    blocked.write_all(&request(&[b"BLOCK"])).expect("the server reads");
    while server.ask(|_, echo| echo.held.len()) < 1 {}
    blocked.write_all(&request(&[b"ECHO", b"never"])).expect("the server reads");
    drop(blocked);
    assert_eq!(server.event(), "closed blocked: Eof");
    let mut blocked = server.client();
    call(&mut blocked, &[b"NAME", b"both"], b"+OK\r\n");
    blocked.write_all(&request(&[b"BLOCK"])).expect("the server reads");
    blocked.shutdown(Shutdown::Write).expect("half closed");
    assert_eq!(server.event(), "closed both: Eof");
}

#[test]
fn a_blocked_client_that_floods_is_read_within_bounds() {
    let server = Server::start();
    let client = server.client();
    let mut writer = client.try_clone().expect("dup");
    let flood = std::thread::spawn(move || {
        let some = request(&[b"ECHO", &[b'z'; 1000]]).repeat(100);
        let mut all = request(&[b"BLOCK"]);
        all.extend_from_slice(&some.repeat(200));
        let _ = writer.write_all(&all);
    });
    while server.ask(|net, _| net.iter().map(|c| c.input.pending()).sum::<usize>()) < 1 << 20 {}
    let pending = server.ask(|net, _| net.iter().map(|c| c.input.pending()).sum::<usize>());
    assert!(pending < 4 << 20, "{pending}");
    let mut other = server.client();
    call(&mut other, &[b"UNBLOCK"], b"+OK\r\n");
    let one = [&b"$1000\r\n"[..], &[b'z'; 1000], b"\r\n"].concat();
    let mut client = client;
    expect(&mut client, &[&b"+unblocked\r\n"[..], &one.repeat(20_000)].concat());
    flood.join().expect("all was taken");
}

#[test]
fn what_is_no_request_is_answered_and_ends_the_connection() {
    let server = Server::start();
    let mut client = server.client();
    client.write_all(&request(&[b"ECHO", b"fine"])).expect("the server reads");
    client.write_all(b"*1\r\n!oops\r\n").expect("the server reads");
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("the error, then the end");
    let want = "$4\r\nfine\r\n-ERR Protocol error: expected '$', got '!'\r\n";
    assert_eq!(String::from_utf8_lossy(&got), want);
}

#[test]
fn output_past_its_limit_ends_the_connection() {
    let limit = OutputLimit { hard: 1 << 20, ..OutputLimit::default() };
    let server = Server::with(|net| net.output_limit = limit);
    let mut client = server.client();
    call(&mut client, &[b"NAME", b"greedy"], b"+OK\r\n");
    client.write_all(&request(&[b"BIG", b"1"])).expect("the server reads");
    assert_eq!(server.event(), "closed greedy: OutputLimit");

    let soft = Duration::from_millis(1);
    let limit = OutputLimit { hard: 0, soft: 1 << 20, soft_for: soft };
    let server = Server::with(|net| net.output_limit = limit);
    let mut client = server.client();
    call(&mut client, &[b"NAME", b"slow"], b"+OK\r\n");
    client.write_all(&request(&[b"BIG", b"9"])).expect("the server reads");
    assert_eq!(server.event(), "closed slow: OutputLimit");
}

#[test]
fn input_past_its_limit_ends_the_connection() {
    let server = Server::with(|net| net.query_limit = 1 << 20);
    // What frames the argument counts, and its end may come with it.
    for len in [1 << 20, 4 << 20] {
        let mut client = server.client();
        call(&mut client, &[b"NAME", b"wordy"], b"+OK\r\n");
        let _ = client.write_all(&request(&[b"ECHO", &vec![b'q'; len]]));
        assert_eq!(server.event(), "closed wordy: QueryLimit");
    }
    // Each is within it, and the next one's beginning comes with its end.
    let mut long = vec![&b"ECHO"[..], b"x"];
    long.resize(60_000, b"argument");
    let mut client = server.client();
    client.write_all(&request(&long).repeat(9)).expect("the server reads");
    let mut replies = vec![0; b"$1\r\nx\r\n".len() * 9];
    client.read_exact(&mut replies).expect("nine replies");
}

#[test]
fn refused_clients_are_told_why() {
    let server = Server::start();
    server.ask(|_, echo| echo.refuse = true);
    let mut got = String::new();
    server.client().read_to_string(&mut got).expect("a line, then the end");
    assert_eq!(got, "-ERR max number of clients reached\r\n");
}

#[test]
fn an_outgoing_connection_speaks_raw_bytes_both_ways() {
    let server = Server::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    server.run(move |net, _| {
        let session = Session { name: "link".into(), ..Session::default() };
        net.connect(addr, session, None).expect("begun");
    });
    let (mut peer, _) = listener.accept().expect("it connects");
    expect(&mut peer, b"hello from the loop");
    peer.write_all(b"welcome").expect("the loop reads");
    assert_eq!(server.event(), "bytes: welcome");
    drop(peer);
    assert_eq!(server.event(), "closed link: Eof");
    drop(listener);
    server.run(move |net, _| {
        net.connect(addr, Session::default(), None).expect("begun");
    });
    assert_eq!(server.event(), "connect failed: ConnectionRefused");
    assert!(server.event().starts_with("closed : Error"));
}

#[test]
fn both_ends_of_pipes_can_be_adopted() {
    let server = Server::start();
    let (reader, mut writer) = io::pipe().expect("a pipe");
    server.run(move |net, _| {
        let session = Session { name: "child".into(), ..Session::default() };
        net.adopt(OwnedFd::from(reader), session, Mode::Raw).expect("adopted");
    });
    writer.write_all(b"progress").expect("the loop reads");
    assert_eq!(server.event(), "bytes: progress");
    drop(writer);
    assert_eq!(server.event(), "closed child: Eof");

    let (mut reader, writer) = io::pipe().expect("a pipe");
    server.run(move |net, _| {
        let session = Session { name: "to child".into(), ..Session::default() };
        let id = net.adopt(OwnedFd::from(writer), session, Mode::Raw).expect("adopted");
        net.conn_mut(id).expect("just adopted").output.raw(&vec![b'p'; 1_000_000]);
        net.mark_dirty(id);
    });
    expect(&mut reader, &vec![b'p'; 1_000_000]);
    drop(reader);
    assert!(server.event().starts_with("closed to child: Error"));
}

#[test]
fn a_feeding_connection_is_asked_for_more_until_there_is_none() {
    let server = Server::start();
    let mut replica = server.client();
    call(&mut replica, &[b"FEED"], b"+OK\r\n");
    expect(&mut replica, &vec![b'f'; 20 << 20]);
    let peak = server.ask(|net, _| net.iter().map(|c| c.output.memory()).max());
    assert!(peak.is_some_and(|n| n < 1 << 20), "{peak:?}");
}

#[test]
fn output_can_be_added_from_elsewhere() {
    let server = Server::start();
    let mut listener = server.client();
    call(&mut listener, &[b"NAME", b"listener"], b"+OK\r\n");
    call(&mut server.client(), &[b"SEND", b"listener", b"news"], b"+OK\r\n");
    expect(&mut listener, b"$4\r\nnews\r\n");
}

#[test]
fn unix_sockets_behave_alike() {
    let path = std::env::temp_dir().join(format!("varve-net-{}.sock", std::process::id()));
    let at = path.clone();
    let server = Server::with(move |net| drop(net.listen_unix(&at, Some(0o600), 511)));
    let mut client = UnixStream::connect(&path).expect("the server listens");
    call(&mut client, &[b"ECHO", b"u"], b"$1\r\nu\r\n");
    let turns = server.ask(|net, _| net.stats.turns);
    for _ in 0..50 {
        call(&mut client, &[b"ECHO", b"u"], b"$1\r\nu\r\n");
    }
    // One wait a request: what the client reads makes no event of its own.
    assert_eq!(server.ask(|net, _| net.stats.turns) - turns, 51);
    client.write_all(&request(&[b"BIG", b"2"])).expect("the server reads");
    let mut got = vec![0; 20 * ((1 << 20) + 12)];
    client.read_exact(&mut got).expect("all of it");
    std::fs::remove_file(&path).expect("the socket file");
}

#[test]
fn a_listener_can_be_closed_and_another_opened() {
    let server = Server::start();
    let mut old = server.client();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (id, addr) = server.ask(move |net, _| {
        let id = net.listen_tcp(any, 16).expect("a free port");
        (id, net.local_addr(id).expect("bound"))
    });
    let mut second = TcpStream::connect(addr).expect("the second listener");
    call(&mut second, &[b"ECHO", b"2"], b"$1\r\n2\r\n");
    server.ask(move |net, _| net.close_listener(id));
    assert!(TcpStream::connect(addr).is_err());
    call(&mut second, &[b"ECHO", b"2"], b"$1\r\n2\r\n");
    call(&mut old, &[b"ECHO", b"1"], b"$1\r\n1\r\n");
}

#[test]
fn accepted_sockets_inherit_the_listener_s_options() {
    let server = Server::with(|net| net.set_keepalive(Some(Duration::from_secs(300))).expect("x"));
    let mut client = server.client();
    call(&mut client, &[b"ECHO", b"1"], b"$1\r\n1\r\n");
    let (nodelay, keepalive, local) = server.ask(|net, _| {
        let conn = net.iter().next().expect("the client");
        let fd = conn.fd();
        let socket = socket2::SockRef::from(&fd);
        (socket.tcp_nodelay().ok(), socket.tcp_keepalive_time().ok(), conn.local())
    });
    assert_eq!((nodelay, keepalive), (Some(true), Some(Duration::from_secs(300))));
    assert_eq!(local, Peer::Tcp(server.addr));
}

#[test]
fn a_descriptor_can_be_taken_out_of_the_loop() {
    let server = Server::start();
    let mut client = server.client();
    call(&mut client, &[b"NAME", b"gone"], b"+OK\r\n");
    let fd = server.ask(|net, echo| net.detach(echo.named["gone"]).expect("there").0);
    assert_eq!(server.ask(|net, _| net.len()), 0);
    let mut socket = TcpStream::from(fd);
    socket.write_all(b"mine now").expect("still open");
    expect(&mut client, b"mine now");
}
