use super::*;
use crate::compress::{Decoder, Encoder};
use crate::wire;
use crate::wire::{GETACK, PING};
use proptest::prelude::*;

fn id(byte: u8) -> HistoryId {
    HistoryId::from_random([byte; 20])
}

/// A caller as the daemon is one: one buffer per connection, outputs carried out in order.
struct Caller {
    replica: Replica,
    buffer: Vec<u8>,
    /// What the frames in the buffer held, once the link is compressed.
    decoder: Option<Decoder>,
    now_ms: u64,
    sent: Vec<u8>,
    rdb: Vec<u8>,
    stream: Vec<u8>,
    /// Everything else, in short.
    events: Vec<String>,
}

impl Caller {
    fn new(config: Config, place: Option<Place>) -> Caller {
        Caller {
            replica: Replica::new(config, place, 0),
            buffer: vec![],
            decoder: None,
            now_ms: 0,
            sent: vec![],
            rdb: vec![],
            stream: vec![],
            events: vec![],
        }
    }

    /// A link whose handshake is done up to `PSYNC`.
    fn asking(place: Option<Place>) -> Caller {
        let mut caller = Caller::new(Config::new("primary", 6379, 6380), place);
        caller.tick(0);
        caller.connected();
        caller.feed(b"+PONG\r\n+OK\r\n+OK\r\n");
        caller.sent.clear();
        caller.events.clear();
        caller
    }

    /// The same, and it reads compressed frames.
    fn asking_for_lz4(place: Option<Place>) -> Caller {
        let config = Config { lz4: true, ..Config::new("primary", 6379, 6380) };
        let mut caller = Caller::new(config, place);
        caller.tick(0);
        caller.connected();
        caller.feed(b"+PONG\r\n");
        assert!(caller.sent.ends_with(b"$4\r\ncapa\r\n$9\r\nvarve-lz4\r\n"));
        caller.feed(b"+OK\r\n+OK\r\n");
        caller.sent.clear();
        caller.events.clear();
        caller
    }

    fn streaming() -> Caller {
        let mut caller = Caller::asking(Some((id(1), Offset(100))));
        caller.feed(b"+CONTINUE\r\n");
        caller.sent.clear();
        caller.events.clear();
        caller
    }

    fn run(&mut self, input: impl FnOnce(&mut Replica, &[u8], u64, &mut Vec<Output>) -> usize) {
        let mut out = vec![];
        let buffer = match &self.decoder {
            Some(decoder) => decoder.bytes(),
            None => &self.buffer,
        };
        let taken = input(&mut self.replica, buffer, self.now_ms, &mut out);
        let (mut disconnected, mut begins) = (false, false);
        for output in out {
            match output {
                Output::Send(bytes) => self.sent.extend(bytes),
                Output::RdbBytes(range) => self.rdb.extend_from_slice(&buffer[range]),
                Output::Stream(range) => self.stream.extend_from_slice(&buffer[range]),
                Output::Compressed => {
                    begins = true;
                    self.events.push("compressed".into());
                }
                Output::Log(..) => {}
                Output::RdbBegin { size, place, from } => {
                    self.rdb.truncate(from as usize);
                    assert_eq!(self.rdb.len() as u64, from, "what was kept");
                    let offset = place.map(|(_, offset)| offset.0);
                    self.events.push(format!("begin {size:?} {offset:?}"));
                }
                Output::Disconnect => {
                    disconnected = true;
                    self.events.push("disconnect".into());
                }
                Output::Connect { host, port } => {
                    self.events.push(format!("connect {host} {port}"))
                }
                Output::RdbEnd => self.events.push("end".into()),
                Output::RdbAbort { keep: true } => self.events.push("keep".into()),
                Output::RdbAbort { keep: false } => {
                    self.rdb.clear();
                    self.events.push("abort".into());
                }
                Output::Continue { history, .. } => {
                    self.events.push(format!("continue {}", history != id(1)))
                }
                Output::Rollback { to } => self.events.push(format!("rollback {to}")),
                Output::TookOver => self.events.push("took over".into()),
                Output::FailoverRefused { why } => self.events.push(format!("refused ({why})")),
                Output::LinkUp => self.events.push("up".into()),
                Output::LinkDown { .. } => self.events.push("down".into()),
            }
        }
        match &mut self.decoder {
            Some(decoder) => decoder.consume(taken),
            None => drop(self.buffer.drain(..taken)),
        }
        if begins {
            self.decoder = Some(Decoder::default());
        }
        if disconnected {
            self.buffer.clear();
            self.decoder = None;
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.run(|replica, buffer, now, out| replica.bytes(buffer, now, out));
        while let Some(decoder) = &mut self.decoder {
            match decoder.decode(&self.buffer) {
                Ok(Some(taken)) => {
                    self.buffer.drain(..taken);
                    self.run(|replica, buffer, now, out| replica.bytes(buffer, now, out));
                }
                Ok(None) => return,
                Err(error) => self.run(|replica, _, now, out| {
                    replica.damaged(error, now, out);
                    0
                }),
            }
        }
    }

    fn connected(&mut self) {
        self.run(|replica, _, now, out| {
            replica.connected(now, out);
            0
        });
    }

    fn closed(&mut self) {
        self.buffer.clear();
        self.run(|replica, _, now, out| {
            replica.closed(now, out);
            0
        });
    }

    fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.run(|replica, _, now, out| {
            replica.tick(now, out);
            0
        });
    }

    fn loaded(&mut self, place: Place) {
        self.run(|replica, _, now, out| {
            replica.rdb_loaded(place, now, out);
            0
        });
        self.run(|replica, buffer, now, out| replica.bytes(buffer, now, out));
    }

    fn rolled_back(&mut self, place: Place) {
        self.run(|replica, _, now, out| {
            replica.rolled_back(place, now, out);
            0
        });
    }

    fn rollback_failed(&mut self) {
        self.run(|replica, _, now, out| {
            replica.rollback_failed("no base", now, out);
            0
        });
    }

    fn events(&mut self) -> String {
        std::mem::take(&mut self.events).join(", ")
    }

    fn sent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.sent)
    }
}

fn ack(offset: u64) -> Vec<u8> {
    command(&[b"REPLCONF", b"ACK", offset.to_string().as_bytes()])
}

#[test]
fn the_handshake_introduces_the_replica_and_asks_for_everything() {
    let mut config = Config::new("primary", 6379, 6380);
    config.user = Some(b"me".into());
    config.password = Some(b"pw".into());
    config.announce_ip = Some(b"10.0.0.9".into());
    let mut caller = Caller::new(config, None);
    caller.tick(0);
    assert_eq!(caller.events(), "connect primary 6379");
    caller.connected();
    assert_eq!(caller.sent(), PING);
    assert_eq!(caller.replica.state_name(), "handshake");
    caller.feed(b"-NOAUTH Authentication required.\r\n");
    let introduction = [
        command(&[b"AUTH", b"me", b"pw"]),
        command(&[b"REPLCONF", b"listening-port", b"6380"]),
        command(&[b"REPLCONF", b"ip-address", b"10.0.0.9"]),
        command(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2", b"capa", b"varve"]),
    ];
    assert_eq!(caller.sent(), introduction.concat());
    // An old primary may know none of the options.
    caller.feed(b"+OK\r\n-ERR port\r\n-ERR address\r\n");
    assert_eq!(caller.sent(), b"");
    caller.feed(b"-ERR capa\r\n");
    assert_eq!(caller.sent(), command(&[b"PSYNC", b"?", b"-1"]));
    assert_eq!(caller.events(), "");
}

#[test]
fn a_known_place_is_asked_for_with_its_next_byte() {
    let mut caller = Caller::new(Config::new("p", 1, 2), Some((id(7), Offset(41))));
    caller.tick(0);
    caller.connected();
    caller.feed(b"+PONG\r\n");
    caller.sent();
    caller.feed(b"+OK\r\n+OK\r\n");
    assert_eq!(caller.sent(), command(&[b"PSYNC", id(7).as_bytes(), b"42"]));
}

/// A link that asks the primary to take over, and has come as far as `replies` bring it.
fn handing_over(replies: &[u8]) -> Caller {
    let mut config = Config::new("p", 1, 2);
    config.failover = true;
    config.password = Some(b"secret".into());
    let mut caller = Caller::new(config, Some((id(7), Offset(41))));
    caller.tick(0);
    caller.connected();
    caller.feed(replies);
    caller.events();
    caller
}

#[test]
fn whatever_ends_the_handshake_refuses_to_take_over() {
    let asked = b"+PONG\r\n+OK\r\n-ERR port\r\n-ERR capa\r\n";
    assert!(!handing_over(b"+PONG\r\n+OK\r\n").replica.has_asked_to_take_over());
    assert!(handing_over(asked).sent().ends_with(b"$8\r\nFAILOVER\r\n"));
    for (replies, error) in [
        (&b""[..], "ERR not me"),
        (b"", "LOADING loading"),
        (b"+PONG\r\n", "WRONGPASS no"),
        (b"+PONG\r\n+OK\r\n+OK\r\n", "ERR can't replicate from itself"),
        (asked, "ERR not me"),
        (asked, "NOMASTERLINK no"),
        // Of its own accord: it is not known to have our last bytes.
        (asked, wire::PRIMARY_ALREADY),
    ] {
        let mut caller = handing_over(replies);
        caller.feed(format!("-{error}\r\n").as_bytes());
        assert_eq!(caller.events(), format!("disconnect, refused ({error})"));
    }
}

#[test]
fn who_answers_psync_has_taken_over() {
    let asked = b"+PONG\r\n+OK\r\n+OK\r\n+OK\r\n";
    let (own, other) = (id(7), id(9));
    for (reply, events) in [
        (format!("+CONTINUE {other}"), "continue true, took over, up"),
        (format!("+FULLRESYNC {other} 0"), "took over"),
        (format!("-ROLLBACK {own} 30"), "took over, rollback 30"),
    ] {
        let mut caller = handing_over(asked);
        caller.feed(format!("{reply}\r\n").as_bytes());
        assert_eq!(caller.events(), events, "{reply}");
    }
}

#[test]
fn a_lost_answer_to_taking_over_is_asked_for_again() {
    let asked = b"+PONG\r\n+OK\r\n+OK\r\n+OK\r\n";
    let mut caller = handing_over(asked);
    assert!(caller.replica.has_asked_to_take_over());
    caller.closed();
    assert_eq!(caller.events(), "");
    assert!(caller.replica.has_asked_to_take_over());
    caller.tick(1000);
    caller.connected();
    caller.feed(asked);
    assert!(caller.sent().ends_with(b"$8\r\nFAILOVER\r\n"));
    caller.events();
    caller.feed(format!("-{}\r\n", wire::PRIMARY_ALREADY).as_bytes());
    assert_eq!(caller.events(), "took over");
    assert_eq!(caller.sent(), command(&[b"PSYNC", id(7).as_bytes(), b"42"]));
}

#[test]
fn errors_to_ping_and_auth_end_the_attempt() {
    for error in ["LOADING loading", "BUSY script", "MASTERDOWN no link", "ERR what"] {
        let mut caller = Caller::new(Config::new("p", 1, 2), None);
        caller.tick(0);
        caller.connected();
        caller.events();
        caller.feed(format!("-{error}\r\n").as_bytes());
        assert_eq!(caller.events(), "disconnect", "{error}");
        assert_eq!(caller.replica.state_name(), "connect");
    }
    for error in ["NOAUTH x", "NOPERM x", "ERR operation not permitted"] {
        let mut caller = Caller::new(Config::new("p", 1, 2), None);
        caller.tick(0);
        caller.connected();
        caller.feed(format!("-{error}\r\n").as_bytes());
        assert_eq!(caller.replica.state_name(), "handshake", "{error}");
    }
    let mut config = Config::new("p", 1, 2);
    config.password = Some(b"wrong".into());
    let mut caller = Caller::new(config, None);
    caller.tick(0);
    caller.connected();
    caller.feed(b"+PONG\r\n");
    caller.events();
    caller.feed(b"-WRONGPASS invalid\r\n+OK\r\n+OK\r\n");
    assert_eq!(caller.events(), "disconnect");
}

#[test]
fn psync_is_answered_in_every_way() {
    let place = Some((id(1), Offset(100)));
    for error in [
        "NOMASTERLINK Can't SYNC while not connected with my master",
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy",
        "MASTERDOWN Link with MASTER is down",
        "NOPERM no permission",
        "NOAUTH Authentication required.",
        "ERR something else",
    ] {
        let mut caller = Caller::asking(place);
        caller.feed(format!("\n\n-{error}\r\n").as_bytes());
        assert_eq!(caller.events(), "disconnect", "{error}");
        assert_eq!(caller.replica.place(), place);
    }
    for garbage in [
        "+FULLRESYNC\r\n".to_string(),
        "+FULLRESYNC abc 1\r\n".into(),
        format!("+FULLRESYNC {} -1\r\n", id(1)),
        format!("+FULLRESYNC {} {}\r\n", id(1), i64::MAX - 7),
        format!("+FULLRESYNC {}\r\n", id(1)),
        "+CONTINUE xyz\r\n".into(),
        "$5\r\n".into(),
        "*1\r\n".into(),
        "a".repeat(5000),
    ] {
        let mut caller = Caller::asking(place);
        caller.feed(garbage.as_bytes());
        assert_eq!(caller.events(), "disconnect", "{garbage}");
    }
    let mut caller = Caller::asking(None);
    caller.feed(b"+CONTINUE\r\n");
    assert_eq!(caller.events(), "disconnect");
}

#[test]
fn continue_goes_on_at_once_and_takes_a_new_name() {
    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    let reply = format!("+CONTINUE {}\r\n", id(2));
    caller.feed(&[reply.as_bytes(), PING].concat());
    assert_eq!(caller.events(), "continue true, up");
    assert_eq!(caller.stream, PING);
    assert_eq!(caller.replica.place(), Some((id(2), Offset(114))));
    assert_eq!(caller.sent(), ack(100));

    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    caller.feed(format!("+CONTINUE {}\r\n", id(1)).as_bytes());
    assert_eq!(caller.events(), "continue false, up");
}

#[test]
fn a_full_sync_tells_the_names_that_the_history_had() {
    let mut caller = Caller::asking(None);
    let former = format!("former={}:100 former={}:7", id(3), id(4));
    caller.feed(format!("+FULLRESYNC {} 100 {former}\r\n$5\r\nRED", id(2)).as_bytes());
    assert_eq!(caller.replica.take_former(), [(id(3), Offset(100)), (id(4), Offset(7))]);
}

#[test]
fn a_full_sync_by_size() {
    let mut caller = Caller::asking(Some((id(1), Offset(5))));
    caller.feed(format!("+FULLRESYNC {} 100\r\n\n\n$5\r\nRED", id(2)).as_bytes());
    assert_eq!(caller.events(), "begin Some(5) Some(100)");
    assert_eq!(caller.replica.progress().unwrap().received, 3);
    assert_eq!(caller.replica.place(), Some((id(1), Offset(5))), "the old data is still there");
    caller.feed(&[b"IS", PING].concat());
    assert_eq!(caller.events(), "end");
    assert_eq!(caller.rdb, b"REDIS");
    assert_eq!(caller.buffer, PING, "nothing is consumed while the data set loads");
    assert_eq!(caller.replica.wanted(), 0);
    caller.tick(500_000);
    assert_eq!(
        caller.sent(),
        b"\n",
        "the primary must know that we live, and silence means nothing"
    );
    caller.loaded((id(2), Offset(100)));
    assert_eq!(caller.events(), "up");
    assert_eq!(caller.sent(), ack(100));
    assert_eq!(caller.stream, PING);
    assert_eq!(caller.replica.place(), Some((id(2), Offset(114))));
}

#[test]
fn a_stream_that_is_held_back_waits_and_the_link_lives() {
    let set = wire::command(&[b"SET", b"k", b"v"]);
    let mut caller = Caller::streaming();
    caller.replica.hold(Hold::Writes);
    caller.feed(&[PING, GETACK, &set, PING].concat());
    assert_eq!(caller.stream, [PING, GETACK].concat(), "what changes nothing is not held");
    let at = 100 + caller.stream.len() as u64;
    assert_eq!(caller.sent(), ack(114), "what was held before the question");
    assert!(caller.replica.is_holding());
    for now in (1000..200_000).step_by(1000) {
        caller.replica.heard(now);
        caller.tick(now);
        assert_eq!(caller.sent(), ack(at));
    }
    caller.feed(PING);
    caller.replica.hold(Hold::All);
    caller.feed(&set);
    assert_eq!(caller.buffer, [&set, PING, PING, &set].concat());
    caller.replica.hold(Hold::Nothing);
    caller.feed(b"");
    assert_eq!(caller.stream, [PING, GETACK, &set, PING, PING, &set].concat());
    assert!(!caller.replica.is_holding() && caller.buffer.is_empty());
    assert_eq!(caller.events(), "");
}

#[test]
fn a_stream_may_be_held_back_before_it_begins_and_when_its_link_breaks() {
    let set = wire::command(&[b"SET", b"k", b"v"]);
    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    caller.replica.hold(Hold::All);
    caller.feed(&[b"+CONTINUE\r\n", PING].concat());
    assert!(caller.stream.is_empty() && caller.replica.is_holding());
    caller.replica.hold(Hold::Writes);
    caller.feed(&set);
    assert_eq!((&caller.stream[..], &caller.buffer[..]), (PING, &set[..]));
    caller.closed();
    assert!(!caller.replica.is_holding());
    assert_eq!(caller.replica.place(), Some((id(1), Offset(114))), "it asks for what it held back");
}

#[test]
fn sync_is_the_last_resort_and_knows_no_offsets() {
    let mut caller = Caller::asking(None);
    caller.feed(b"-ERR unknown command 'PSYNC', with args beginning with: '?' '-1' \r\n");
    assert_eq!(caller.sent(), command(&[b"SYNC"]));
    caller.feed(b"\n$1\r\nR");
    assert_eq!(caller.events(), "begin Some(1) None, end");
    caller.loaded((id(9), Offset(0)));
    caller.feed(PING);
    caller.tick(5000);
    assert_eq!(caller.sent(), b"", "no ACK to a primary that knows none");
    assert_eq!(caller.replica.place(), Some((id(9), Offset(14))));
}

#[test]
fn a_transfer_that_breaks_is_thrown_away() {
    let begin = format!("+FULLRESYNC {} 100\r\n$5\r\nRED", id(2));
    let mut caller = Caller::asking(Some((id(1), Offset(5))));
    caller.feed(begin.as_bytes());
    caller.closed();
    assert_eq!(caller.events(), "begin Some(5) Some(100), abort");
    assert_eq!(caller.replica.place(), Some((id(1), Offset(5))));

    let mut caller = Caller::asking(None);
    caller.feed(begin.as_bytes());
    caller.tick(60_001);
    assert_eq!(caller.events(), "begin Some(5) Some(100), abort, disconnect");

    let mut caller = Caller::asking(Some((id(1), Offset(5))));
    caller.feed(begin.as_bytes());
    caller.run(|replica, _, now, out| {
        replica.rdb_failed("bad magic", false, now, out);
        0
    });
    assert_eq!(caller.events(), "begin Some(5) Some(100), abort, disconnect");
    assert_eq!(caller.replica.place(), None);

    let mut caller = Caller::asking(None);
    caller.feed(format!("+FULLRESYNC {} 100\r\n-ERR no child\r\n", id(2)).as_bytes());
    assert_eq!(caller.events(), "disconnect");
}

#[test]
fn a_load_goes_on_when_the_connection_breaks() {
    let mut caller = Caller::asking(None);
    caller.feed(format!("+FULLRESYNC {} 100\r\n$1\r\nR", id(2)).as_bytes());
    caller.events();
    caller.closed();
    assert_eq!(caller.events(), "");
    caller.tick(5000);
    assert_eq!(caller.sent(), b"", "there is nobody to send a newline to");
    caller.loaded((id(2), Offset(100)));
    caller.tick(5000);
    assert_eq!(caller.events(), "connect primary 6379");
    assert_eq!(caller.replica.place(), Some((id(2), Offset(100))));
}

#[test]
fn getack_is_answered_with_what_was_held_before_it() {
    let mut caller = Caller::streaming();
    caller.feed(&[PING, GETACK, PING].concat());
    assert_eq!(caller.sent(), ack(114));
    assert_eq!(caller.stream, [PING, GETACK, PING].concat());
    caller.replica.set_synced(Some(Offset(90)));
    caller.feed(GETACK);
    let offset = 100 + 2 * PING.len() + GETACK.len();
    assert_eq!(
        caller.sent(),
        command(&[b"REPLCONF", b"ACK", offset.to_string().as_bytes(), b"FACK", b"90"])
    );
}

#[test]
fn half_a_transaction_is_not_in_the_log() {
    let mut caller = Caller::streaming();
    let group = [command(&[b"MULTI"]), command(&[b"SET", b"k", b"v"]), command(&[b"EXEC"])];
    caller.feed(&[PING, &group[0], &group[1], &group[2][..5]].concat());
    assert_eq!(caller.stream, PING);
    caller.closed();
    assert_eq!(caller.events(), "down");
    assert_eq!(caller.replica.place(), Some((id(1), Offset(114))));
    // The next connection begins with the whole group again.
    caller.tick(1000);
    caller.connected();
    caller.feed(b"+PONG\r\n+OK\r\n+OK\r\n+CONTINUE\r\n");
    caller.feed(&group.concat());
    assert_eq!(caller.stream, [PING, &group.concat()].concat());
}

#[test]
fn garbage_in_the_stream_ends_the_link_after_what_was_whole() {
    let mut caller = Caller::streaming();
    caller.feed(&[PING, b"+OK\r\n"].concat());
    assert_eq!(caller.events(), "down, disconnect");
    assert_eq!(caller.stream, PING);
    assert_eq!(caller.replica.place(), Some((id(1), Offset(114))));
}

#[test]
fn acks_go_out_every_second_and_silence_ends_the_link() {
    let mut caller = Caller::streaming();
    caller.tick(999);
    assert_eq!(caller.sent(), b"");
    caller.tick(1000);
    assert_eq!(caller.sent(), ack(100));
    caller.tick(1100);
    assert_eq!(caller.sent(), b"");
    caller.tick(60_000);
    assert_eq!(caller.events(), "");
    caller.tick(60_001);
    assert_eq!(caller.events(), "down, disconnect");
    assert_eq!(caller.replica.down_since_ms(), Some(60_001));
}

#[test]
fn pauses_double_up_to_a_bound_and_start_anew_after_a_link_that_stood() {
    let mut caller = Caller::new(Config::new("p", 1, 2), Some((id(1), Offset(0))));
    let mut pauses = vec![];
    for _ in 0..7 {
        let failed = caller.now_ms;
        while caller.replica.state_name() == "connect" {
            caller.tick(caller.now_ms + 500);
        }
        pauses.push(caller.now_ms - failed);
        caller.run(|replica, _, now, out| {
            replica.connect_failed("refused", now, out);
            0
        });
    }
    assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000]);
    caller.tick(caller.now_ms + 30_000);
    caller.connected();
    caller.feed(b"+PONG\r\n+OK\r\n+OK\r\n+CONTINUE\r\n");
    caller.closed();
    caller.events();
    caller.tick(caller.now_ms + 999);
    assert_eq!(caller.events(), "", "two nodes must not spin on a link that breaks as it stands");
    caller.tick(caller.now_ms + 1);
    assert_eq!(caller.events(), "connect p 1");
    caller.connected();
    caller.feed(b"+PONG\r\n+OK\r\n+OK\r\n+CONTINUE\r\n");
    caller.now_ms += 1000;
    caller.closed();
    caller.events();
    caller.tick(caller.now_ms);
    assert_eq!(caller.events(), "connect p 1");
}

#[test]
fn a_password_set_right_ends_the_pause() {
    let mut caller = Caller::new(Config::new("p", 1, 2), Some((id(1), Offset(0))));
    for _ in 0..7 {
        caller.tick(caller.now_ms + 30_000);
        caller.connected();
        caller.feed(b"-NOAUTH Authentication required.\r\n");
        caller.closed();
    }
    caller.events();
    caller.tick(caller.now_ms + 1);
    caller.replica.set_config(caller.replica.config().clone());
    caller.tick(caller.now_ms + 1);
    assert_eq!(caller.events(), "", "nothing was changed");
    let mut config = caller.replica.config().clone();
    config.password = Some(b"right".to_vec());
    caller.replica.set_config(config);
    caller.tick(caller.now_ms + 1);
    assert_eq!(caller.events(), "connect p 1");
}

#[test]
fn another_primary_and_the_end() {
    let mut caller = Caller::streaming();
    caller.run(|replica, _, now, out| {
        replica.reconfigure(Config::new("other", 7, 6380), now, out);
        0
    });
    assert_eq!(caller.events(), "down, disconnect, connect other 7");
    caller.run(|replica, _, now, out| {
        replica.stop(now, out);
        0
    });
    assert_eq!(caller.events(), "disconnect");
    caller.tick(100_000);
    caller.connected();
    caller.closed();
    assert_eq!(caller.events(), "");
    assert_eq!(caller.replica.state_name(), "none");
}

/// A whole session as the primary sends it, with a streamed RDB, transactions and GETACK, and what
/// must come of it.
fn session() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let mark = b"5f8a0c3e5f8a0c3e5f8a0c3e5f8a0c3e5f8a0c3e";
    let rdb = [&b"REDIS0011"[..], &mark[..39], &[0, 10, 13, 255], &mark[..20], b"."].concat();
    let stream = [
        command(&[b"SELECT", b"0"]),
        GETACK.to_vec(),
        command(&[b"MULTI"]),
        command(&[b"SET", b"a", &[b'x'; 300]]),
        command(&[b"EXEC"]),
        PING.to_vec(),
    ]
    .concat();
    let head = format!("+PONG\r\n+OK\r\n-ERR\r\n\n+FULLRESYNC {} 1000\r\n\n\n$EOF:", id(3));
    let half = command(&[b"SET", b"half", b"of a command"]);
    let all =
        [head.as_bytes(), mark, b"\r\n", &rdb, mark, &stream, &half[..half.len() - 1]].concat();
    (all, rdb, stream)
}

fn run_session(reads: &[usize]) {
    let (all, rdb, stream) = session();
    let mut caller = Caller::new(Config::new("p", 1, 2), None);
    caller.tick(0);
    caller.connected();
    let mut reads = reads.iter().chain(std::iter::repeat(reads.last().unwrap()));
    let mut rest = &all[..];
    while !rest.is_empty() {
        let (read, later) = rest.split_at(rest.len().min(*reads.next().unwrap()));
        rest = later;
        caller.feed(read);
        if caller.events.last().is_some_and(|event| event == "end") {
            caller.loaded((id(3), Offset(1000)));
        }
    }
    assert_eq!(caller.events(), "connect p 1, begin None Some(1000), end, up");
    assert_eq!(caller.rdb, rdb);
    assert_eq!(caller.stream, stream);
    assert_eq!(caller.replica.place(), Some((id(3), Offset(1000 + stream.len() as u64))));
    assert!(caller.sent().ends_with(&ack(1023)), "GETACK came after SELECT's 23 bytes");
}

#[test]
fn a_session_byte_by_byte_and_at_every_single_cut() {
    run_session(&[1]);
    let all = session().0.len();
    run_session(&[all]);
    for first in 1..all {
        run_session(&[first, all]);
    }
}

proptest! {
    #[test]
    fn a_session_in_any_reads(reads in prop::collection::vec(1usize..200, 1..80)) {
        run_session(&reads);
    }

    #[test]
    fn no_primary_makes_it_panic(
        reads in prop::collection::vec(prop_oneof![
            Just(b"+PONG\r\n".to_vec()),
            Just(b"+OK\r\n".to_vec()),
            Just(b"+CONTINUE\r\n".to_vec()),
            Just(b"-ERR unknown command\r\n".to_vec()),
            Just(format!("+FULLRESYNC {} 7\r\n", id(1)).into_bytes()),
            Just(b"$3\r\nabc".to_vec()),
            Just(GETACK.to_vec()),
            prop::collection::vec(any::<u8>(), 0..30),
        ], 0..30),
        held in any::<bool>(),
    ) {
        let mut caller = Caller::new(Config::new("p", 1, 2), held.then_some((id(1), Offset(3))));
        for read in reads {
            caller.tick(caller.now_ms + 700);
            caller.connected();
            caller.feed(&read);
            caller.loaded((id(1), Offset(7)));
            let state = caller.replica.state_name();
            prop_assert!(caller.buffer.len() < 4096 || state == "connected");
        }
    }
}

const ALL: &[&[u8]] = &[b"PSYNC", b"?", b"-1"];

fn rollback(history: u8, to: &str) -> Vec<u8> {
    format!("-ROLLBACK {} {to}\r\n", id(history)).into_bytes()
}

fn psync(history: u8, next: &str) -> Vec<u8> {
    command(&[b"PSYNC", id(history).as_bytes(), next.as_bytes()])
}

#[test]
fn a_surplus_is_rolled_back_and_the_rest_asked_for_on_the_same_connection() {
    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    caller.feed(&rollback(1, "70"));
    assert_eq!(caller.events(), "rollback 70");
    assert_eq!((caller.replica.wanted(), caller.replica.state_name()), (0, "sync"));
    assert!(caller.replica.down_since_ms().is_some());
    // It may take longer than any timeout.
    caller.tick(1_000_000);
    assert_eq!((caller.sent(), caller.events()), (vec![], String::new()));
    // The data set may have no state at just that place.
    caller.rolled_back((id(1), Offset(65)));
    assert_eq!(caller.sent(), psync(1, "66"));
    assert_eq!(caller.replica.rollbacks(), Rollbacks { count: 1, last_bytes: 35 });
    caller.feed(format!("+CONTINUE {}\r\n", id(2)).as_bytes());
    assert_eq!(caller.events(), "continue true, up");
    assert_eq!(caller.replica.place(), Some((id(2), Offset(65))));
}

#[test]
fn a_rollback_that_fails_leads_to_a_full_resync() {
    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    caller.feed(&rollback(1, "0"));
    caller.rollback_failed();
    assert_eq!(caller.sent(), command(ALL));
    assert_eq!(caller.replica.place(), Some((id(1), Offset(100))));
    assert_eq!(caller.replica.rollbacks(), Rollbacks::default());
    caller.events();
    // What was not asked for must not be accepted, although there is a place.
    caller.feed(b"+CONTINUE\r\n");
    assert_eq!(caller.events(), "disconnect");
    caller.tick(10_000);
    caller.connected();
    caller.feed(b"+PONG\r\n+OK\r\n+OK\r\n");
    assert!(caller.sent().ends_with(&command(ALL)));
    caller.feed(format!("+FULLRESYNC {} 7\r\n$2\r\nab", id(3)).as_bytes());
    caller.loaded((id(3), Offset(7)));
    caller.closed();
    // From now on the place counts again.
    caller.tick(100_000);
    caller.connected();
    caller.feed(b"+PONG\r\n+OK\r\n+OK\r\n");
    assert!(caller.sent().ends_with(&psync(3, "8")));
}

#[test]
fn rollbacks_without_an_end_become_a_full_resync() {
    // Again and again, and one that would take nothing off.
    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    for to in [70, 60, 50] {
        caller.feed(&rollback(1, &to.to_string()));
        assert_eq!(caller.events(), format!("rollback {to}"));
        caller.rolled_back((id(1), Offset(to)));
        assert_eq!(caller.sent(), psync(1, &(to + 1).to_string()));
    }
    caller.feed(&rollback(1, "40"));
    assert_eq!((caller.events(), caller.sent()), (String::new(), command(ALL)));
    caller.feed(&rollback(1, "30"));
    assert_eq!(caller.events(), "disconnect");

    for to in ["100", "101", "9223372036854775807"] {
        let mut caller = Caller::asking(Some((id(1), Offset(100))));
        caller.feed(&rollback(1, to));
        assert_eq!((caller.events(), caller.sent()), (String::new(), command(ALL)), "{to}");
    }

    // A new connection does not begin to count anew, a link that stood does.
    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    for to in [90, 80, 70, 60, 50, 40, 30] {
        caller.feed(&rollback(1, &to.to_string()));
        let refused = to == 30;
        assert_eq!(caller.events(), if refused { "".into() } else { format!("rollback {to}") });
        if refused {
            assert_eq!(caller.sent(), command(ALL));
            continue;
        }
        caller.closed();
        caller.rolled_back((id(1), Offset(to)));
        caller.tick(caller.now_ms + 100_000);
        caller.connected();
        caller.feed(b"+PONG\r\n+OK\r\n+OK\r\n");
        assert!(caller.sent().ends_with(&psync(1, &(to + 1).to_string())));
        if to == 70 {
            caller.feed(b"+CONTINUE\r\n");
            caller.closed();
            caller.tick(caller.now_ms + 100_000);
            caller.connected();
            caller.feed(b"+PONG\r\n+OK\r\n+OK\r\n");
            assert!(caller.sent().ends_with(&psync(1, "71")));
        }
        caller.events();
    }
}

#[test]
fn a_rollback_in_words_that_make_no_sense_ends_the_connection() {
    for reply in [
        &rollback(2, "70")[..],
        &rollback(1, "-1"),
        &rollback(1, ""),
        &rollback(1, "70 1"),
        &rollback(1, "18446744073709551616"),
        b"-ROLLBACK \r\n",
        b"-ROLLBACK ? 5\r\n",
    ] {
        let mut caller = Caller::asking(Some((id(1), Offset(100))));
        caller.feed(reply);
        assert_eq!(caller.events(), "disconnect", "{}", reply.escape_ascii());
        assert_eq!(caller.replica.place(), Some((id(1), Offset(100))));
    }
    let mut caller = Caller::asking(None);
    caller.feed(&rollback(1, "0"));
    assert_eq!(caller.events(), "disconnect");
}

#[test]
fn a_rollback_outlives_its_connection_and_another_primary() {
    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    caller.feed(&rollback(1, "70"));
    caller.events();
    caller.run(|replica, _, now, out| {
        replica.reconfigure(Config::new("other", 2, 3), now, out);
        0
    });
    assert_eq!(caller.events(), "disconnect");
    caller.tick(100_000);
    assert_eq!(caller.events(), "", "it does not know yet what to ask for");
    caller.rolled_back((id(1), Offset(70)));
    caller.tick(100_000);
    assert_eq!(caller.events(), "connect other 2");
    caller.connected();
    caller.feed(b"+PONG\r\n+OK\r\n+OK\r\n");
    assert!(caller.sent().ends_with(&psync(1, "71")));

    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    caller.feed(&rollback(1, "70"));
    caller.events();
    caller.run(|replica, _, now, out| {
        replica.stop(now, out);
        0
    });
    assert_eq!(caller.events(), "disconnect");
    caller.rolled_back((id(1), Offset(70)));
    assert_eq!((caller.sent(), caller.events()), (vec![], String::new()));
}

#[test]
fn a_replica_of_itself_says_so_and_comes_back_later() {
    let mut config = Config::new("p", 1, 2);
    config.node = Some(id(9));
    let mut caller = Caller::new(config, None);
    caller.tick(0);
    caller.connected();
    caller.feed(b"+PONG\r\n");
    let capa = format!("varve-node={}", id(9));
    let words: [&[u8]; 9] = [
        b"REPLCONF",
        b"capa",
        b"eof",
        b"capa",
        b"psync2",
        b"capa",
        b"varve",
        b"capa",
        capa.as_bytes(),
    ];
    assert!(caller.sent().ends_with(&command(&words)));
    caller.events();
    let mut out = vec![];
    caller.replica.bytes(b"+OK\r\n-ERR can't replicate from itself\r\n", 0, &mut out);
    assert!(out.contains(&Output::Disconnect));
    let says = |output: &Output| matches!(output, Output::Log(_, text) if text.contains("itself"));
    assert!(out.iter().any(says), "{out:?}");
    assert_eq!(caller.replica.state_name(), "connect");
}

fn frames(pieces: &[&[u8]]) -> Vec<u8> {
    let (mut encoder, mut frames) = (Encoder::default(), vec![]);
    pieces.iter().for_each(|piece| encoder.encode(piece, &mut frames));
    frames
}

#[test]
fn frames_begin_right_behind_the_reply() {
    let set = command(&[b"SET", b"key", b"value"]);
    let reply = format!("+CONTINUE {} lz4\r\n", id(2)).into_bytes();
    let stream = [reply, frames(&[&set, PING, &set[..9], &set[9..]])].concat();
    for read in [1, 7, stream.len()] {
        let mut caller = Caller::asking_for_lz4(Some((id(1), Offset(100))));
        stream.chunks(read).for_each(|bytes| caller.feed(bytes));
        assert_eq!(caller.events, ["compressed", "continue true", "up"]);
        assert_eq!(caller.stream, [&set[..], PING, &set].concat());
        let end = Offset(100) + caller.stream.len() as u64;
        assert_eq!(caller.replica.place(), Some((id(2), end)), "offsets are of plain bytes");
    }
}

#[test]
fn a_full_sync_is_compressed_with_all_around_it() {
    let reply = format!("+FULLRESYNC {} 500 lz4\r\n", id(2)).into_bytes();
    let mark = b"0123456789abcdef0123456789abcdef01234567";
    let streamed = [&b"$EOF:"[..], mark, b"\r\nREDIS0011", &mark[..20]].concat();
    for rdb in [
        frames(&[b"\n", b"\n", b"$9\r\n", b"REDIS", b"0011", PING]),
        frames(&[&streamed, &mark[20..], PING]),
        frames(&[&[&streamed, &mark[20..], PING].concat()]),
    ] {
        let stream = [&reply[..], &rdb].concat();
        for read in [1, stream.len()] {
            let mut caller = Caller::asking_for_lz4(None);
            stream.chunks(read).for_each(|bytes| caller.feed(bytes));
            assert_eq!(caller.rdb, b"REDIS0011");
            assert_eq!(caller.events[0], "compressed");
            assert_eq!(caller.events[2], "end");
            caller.loaded((id(2), Offset(500)));
            assert_eq!(caller.stream, PING, "what came with the RDB's end is not lost");
        }
    }
}

#[test]
fn a_damaged_frame_ends_the_link_and_hands_nothing_out() {
    let set = command(&[b"SET", b"key", b"value"]);
    let good = frames(&[&set]);
    for bit in 0..8 * good.len() {
        let mut caller = Caller::asking_for_lz4(Some((id(1), Offset(100))));
        caller.feed(format!("+CONTINUE {} lz4\r\n", id(1)).as_bytes());
        caller.events.clear();
        caller.feed(&good);
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        caller.feed(&bad);
        assert_eq!(caller.events, ["down", "disconnect"], "bit {bit}");
        assert_eq!(caller.stream, set);
        assert_eq!(caller.replica.place(), Some((id(1), Offset(100) + set.len() as u64)));
    }
}

#[test]
fn compression_that_was_not_asked_for_is_refused() {
    for reply in ["+CONTINUE ID lz4\r\n", "+FULLRESYNC ID 5 lz4\r\n"] {
        let mut caller = Caller::asking(Some((id(1), Offset(100))));
        caller.feed(reply.replace("ID", &id(1).to_string()).as_bytes());
        assert_eq!(caller.events, ["disconnect"], "{reply}");
    }
    // What is set while the handshake runs counts for the next one.
    let mut caller = Caller::asking_for_lz4(Some((id(1), Offset(100))));
    caller.replica.set_config(Config::new("primary", 6379, 6380));
    caller.feed(format!("+CONTINUE {} lz4\r\n", id(1)).as_bytes());
    assert_eq!(caller.events, ["compressed", "continue false", "up"]);
}

/// A frame may take longer than `repl-timeout` on a slow link: its bytes are signs of life.
#[test]
fn half_a_frame_is_a_sign_of_life() {
    let mut caller = Caller::asking_for_lz4(Some((id(1), Offset(100))));
    caller.feed(format!("+CONTINUE {} lz4\r\n", id(1)).as_bytes());
    for now_ms in (50_000..300_000).step_by(50_000) {
        caller.tick(now_ms);
        caller.replica.heard(now_ms);
    }
    assert!(caller.replica.is_up());
    caller.tick(400_000);
    assert!(!caller.replica.is_up());
}

const RDB: &[u8] = b"REDIS0009 all the data";
const FILE: FileId = FileId { size: RDB.len() as u64, crc: 0xabc, offset: Offset(900) };

/// The reply to `PSYNC` of a primary whose history is number `history`, and the header after it.
fn full(history: u8, words: &str, left: usize) -> Vec<u8> {
    format!("+FULLRESYNC {} 900 {words}\r\n${left}\r\n", id(history)).into_bytes()
}

/// A link that broke when `bytes` of the file had come.
fn broken_at(bytes: usize) -> Caller {
    let mut caller = Caller::asking(None);
    caller.feed(&full(1, &format!("file={FILE}"), RDB.len()));
    caller.feed(&RDB[..bytes]);
    caller.closed();
    let outcome = if bytes > 0 { "keep" } else { "abort" };
    assert_eq!(caller.events(), format!("begin Some({}) Some(900), {outcome}", RDB.len()));
    caller
}

/// Connects again and shakes hands up to `PSYNC`. Returns what was said of the part that is held.
fn ask_again(caller: &mut Caller) -> String {
    caller.tick(caller.now_ms + 60_000);
    caller.connected();
    caller.sent();
    caller.feed(b"+PONG\r\n");
    let sent = String::from_utf8(caller.sent()).unwrap();
    caller.feed(b"+OK\r\n+OK\r\n");
    caller.sent();
    caller.events();
    let claim = sent.split("\r\n").find_map(|word| word.strip_prefix("varve-resume="));
    claim.unwrap_or_default().to_owned()
}

#[test]
fn a_file_goes_on_where_its_link_broke() {
    for first in 0..RDB.len() {
        for second in first..RDB.len() {
            let mut caller = broken_at(first);
            let mut held = first;
            for upto in [second, RDB.len()] {
                let claim = match held {
                    0 => String::new(),
                    _ => format!("{FILE}:{held}"),
                };
                assert_eq!(ask_again(&mut caller), claim);
                let from = if held > 0 { format!("from={held} ") } else { String::new() };
                // The primary may have a new name for its history.
                let history = 1 + (upto == RDB.len()) as u8;
                let words = format!("{from}later=x file={FILE}");
                for byte in full(history, &words, RDB.len() - held) {
                    caller.feed(&[byte]);
                }
                for byte in &RDB[held..upto] {
                    let received = caller.replica.progress().unwrap().received;
                    assert_eq!(received, caller.rdb.len() as u64);
                    caller.feed(&[*byte]);
                }
                held = upto;
                if upto < RDB.len() {
                    caller.closed();
                }
            }
            assert_eq!(caller.rdb, RDB);
            assert!(caller.events().ends_with(", end"), "{first} {second}");
            caller.loaded((id(2), Offset(900)));
            assert_eq!(caller.events(), "up");
            caller.closed();
            assert_eq!(ask_again(&mut caller), "", "nothing is held any more");
        }
    }
}

#[test]
fn a_part_outlives_what_does_not_concern_it() {
    let claim = format!("{FILE}:9");
    let mut caller = broken_at(9);
    // The link breaks in the handshake, is refused, or breaks before the header.
    caller.tick(caller.now_ms + 60_000);
    caller.run(|replica, _, now, out| {
        replica.connect_failed("refused", now, out);
        0
    });
    assert_eq!(ask_again(&mut caller), claim);
    caller.feed(b"-LOADING not now\r\n");
    assert_eq!(ask_again(&mut caller), claim);
    let line = format!("+FULLRESYNC {} 900 file={FILE} from=9\r\n\n", id(1));
    caller.feed(line.as_bytes());
    assert_eq!(caller.replica.progress(), None);
    caller.closed();
    assert_eq!((caller.events(), ask_again(&mut caller)), (String::new(), claim.clone()));
    caller.feed(line.as_bytes());
    caller.tick(caller.now_ms + 70_000);
    assert_eq!((caller.events().as_str(), ask_again(&mut caller)), ("disconnect", claim.clone()));
    // A silent primary is given up, and no byte came.
    caller.feed(&full(1, &format!("file={FILE} from=9"), RDB.len() - 9));
    caller.tick(caller.now_ms + 70_000);
    assert!(caller.events().ends_with("keep, disconnect"));
    assert_eq!(ask_again(&mut caller), claim);
}

#[test]
fn a_part_is_dropped_when_it_is_of_no_use() {
    let all = RDB.len();
    for reply in [
        full(1, "", all),
        full(1, "file=of-a-later-kind", all),
        full(1, &format!("file={FILE}"), all),
        full(1, &format!("file={}", FileId { crc: 1, ..FILE }), all),
        format!("+FULLRESYNC {} 900\r\n$EOF:{}\r\n", id(1), id(7)).into_bytes(),
        b"-ERR unknown command 'PSYNC'\r\n".to_vec(),
    ] {
        let mut caller = broken_at(9);
        ask_again(&mut caller);
        caller.feed(&reply);
        let events = caller.events();
        assert!(events.starts_with("abort"), "{events}: {}", reply.escape_ascii());
    }
    type Drop = fn(&mut Replica, u64, &mut Vec<Output>);
    let drops: [Drop; 3] = [
        |replica, now, out| replica.stop(now, out),
        |replica, now, out| replica.reconfigure(Config::new("other", 1, 2), now, out),
        |replica, now, out| replica.rdb_failed("a write failed", true, now, out),
    ];
    for drop in drops {
        for asks in [false, true] {
            let mut caller = broken_at(9);
            if asks {
                ask_again(&mut caller);
            }
            caller.run(|replica, _, now, out| {
                drop(replica, now, out);
                0
            });
            assert!(caller.events().starts_with("abort"));
        }
        // In the middle of the transfer.
        let mut caller = Caller::asking(None);
        caller.feed(&full(1, &format!("file={FILE}"), all));
        caller.feed(&RDB[..5]);
        caller.run(|replica, _, now, out| {
            drop(replica, now, out);
            0
        });
        let events = caller.events();
        assert!(events.contains("abort") && !events.contains("keep"), "{events}");
    }
    let mut caller = broken_at(9);
    caller.replica.part_is_gone();
    assert_eq!(ask_again(&mut caller), "");
}

#[test]
fn a_part_is_dropped_when_the_log_has_all_that_is_needed() {
    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    caller.feed(&full(1, &format!("file={FILE}"), RDB.len()));
    caller.feed(&RDB[..9]);
    caller.closed();
    assert_eq!(ask_again(&mut caller), format!("{FILE}:9"));
    // The claim outlives a rollback, as the connection does: the primary has heard it.
    caller.feed(format!("-ROLLBACK {} 50\r\n", id(1)).as_bytes());
    assert_eq!(caller.events(), "rollback 50");
    caller.rolled_back((id(1), Offset(50)));
    caller.events();
    caller.feed(b"+CONTINUE\r\n");
    assert_eq!(caller.events(), "abort, continue false, up");
    caller.closed();
    assert_eq!(ask_again(&mut caller), "");
}

#[test]
fn a_part_is_dropped_for_another_primary_in_the_middle_of_a_rollback() {
    let mut caller = Caller::asking(Some((id(1), Offset(100))));
    caller.feed(&full(1, &format!("file={FILE}"), RDB.len()));
    caller.feed(&RDB[..9]);
    caller.closed();
    ask_again(&mut caller);
    caller.feed(format!("-ROLLBACK {} 50\r\n", id(1)).as_bytes());
    caller.events();
    caller.run(|replica, _, now, out| {
        replica.reconfigure(Config::new("other", 1, 2), now, out);
        0
    });
    assert_eq!(caller.events(), "abort, disconnect");
}

#[test]
fn a_file_that_can_not_be_used_is_asked_for_anew() {
    let mut caller = broken_at(9);
    ask_again(&mut caller);
    caller.feed(&full(1, &format!("file={FILE} from=9"), RDB.len() - 9));
    caller.feed(&RDB[9..]);
    assert!(caller.events().ends_with("end"));
    caller.run(|replica, _, now, out| {
        replica.rdb_failed("its parts are not of one whole", true, now, out);
        0
    });
    assert_eq!(caller.events(), "abort, disconnect");
    assert_eq!(ask_again(&mut caller), "");
}

#[test]
fn what_is_named_of_a_file_is_not_believed() {
    let all = RDB.len();
    let other = FileId { crc: 1, ..FILE };
    for (words, left) in [
        (format!("file={FILE} from=10"), all - 10),
        (format!("file={FILE} from=8"), all - 8),
        (format!("file={FILE} from=0"), all),
        (format!("file={FILE} from=-9"), all),
        (format!("file={FILE} from="), all),
        (format!("file={other} from=9"), all - 9),
        ("from=9".into(), all - 9),
        ("file=abc from=9".into(), all - 9),
        (format!("file={FILE} from=9"), all),
        (format!("file={FILE} from=9"), all - 10),
        (format!("file={FILE}"), all - 9),
        (format!("file={}", FileId { offset: Offset(901), ..FILE }), all),
    ] {
        let mut caller = broken_at(9);
        ask_again(&mut caller);
        caller.feed(&full(1, &words, left));
        let events = caller.events();
        assert!(events.contains("abort") && events.ends_with("disconnect"), "{words}: {events}");
        assert!(!events.contains("begin"), "{words}: {events}");
        assert_eq!(ask_again(&mut caller), "", "{words}");
    }
    // Nothing was asked for, or a stream was named as a file.
    for reply in [
        full(1, &format!("file={FILE} from=9"), all - 9),
        format!("+FULLRESYNC {} 900 file={FILE}\r\n$EOF:{}\r\n", id(1), id(7)).into_bytes(),
    ] {
        let mut caller = Caller::asking(None);
        caller.feed(&reply);
        let events = caller.events();
        assert!(!events.contains("begin") && events.ends_with("disconnect"), "{events}");
    }
}

#[test]
fn a_compressed_link_resumes_at_the_plain_byte() {
    let mut caller = Caller::asking_for_lz4(None);
    let frames = |bytes: &[u8]| {
        let mut out = vec![];
        Encoder::default().encode(bytes, &mut out);
        out
    };
    let line = |from: &str| format!("+FULLRESYNC {} 900 file={FILE}{from} lz4\r\n", id(1));
    caller.feed(line("").as_bytes());
    caller.feed(&frames(format!("${}\r\n", RDB.len()).as_bytes()));
    caller.feed(&frames(&RDB[..9]));
    // Damage on the way costs the link, and nothing of what was whole.
    let mut damaged = frames(&RDB[9..]);
    *damaged.last_mut().unwrap() ^= 1;
    caller.feed(&damaged);
    assert!(caller.events().ends_with("keep, disconnect"));
    assert_eq!(ask_again(&mut caller), format!("{FILE}:9"));
    caller.feed(line(" from=9").as_bytes());
    caller.feed(&frames(format!("${}\r\n", RDB.len() - 9).as_bytes()));
    caller.feed(&frames(&RDB[9..]));
    assert_eq!(caller.rdb, RDB);
    assert!(caller.events().ends_with("end"));
}
