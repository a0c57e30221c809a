//! What a primary sends: any bytes leave the replica in a state from which it goes on, and in any
//! pieces they mean the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use varve_fuzz::memory::bounded;
use varve_persistence::offset::{HistoryId, Offset};
use varve_replication::compress::{Decoder, Encoder};
use varve_replication::replica::{Config, Output, Replica};

/// Where one connection of the input ends and the next one begins.
const NEXT_CONNECTION: u8 = 0xff;

/// What the machine asked for, with neighbours of a kind made one: in pieces, only those differ.
#[derive(Clone, Debug, PartialEq)]
enum Asked {
    Rdb(Vec<u8>),
    Stream(Vec<u8>),
    Other(Output),
}

struct Caller {
    replica: Replica,
    flags: u8,
    now_ms: u64,
    asked: Vec<Asked>,
    connected: bool,
    compressed: bool,
}

impl Caller {
    fn new(flags: u8) -> Caller {
        let mut config = Config::new("primary", 6379, 6380);
        config.lz4 = flags & 1 != 0;
        config.failover = flags & 2 != 0;
        config.password = (flags & 4 != 0).then(|| "secret".into());
        config.announce_ip = (flags & 8 != 0).then(|| "::1".into());
        let id = HistoryId::parse(&[b'a'; 40]).expect("40 digits");
        let place = (flags & 16 != 0).then_some((id, Offset(1000)));
        let replica = Replica::new(config, place, 0);
        let asked = Vec::new();
        Caller { replica, flags, now_ms: 0, asked, connected: false, compressed: false }
    }

    /// Does what is asked for; `buf` is what its ranges are of.
    fn act(&mut self, out: Vec<Output>, buf: &[u8]) {
        let mut more = Vec::new();
        for output in out {
            match &output {
                Output::RdbBytes(range) => {
                    let bytes = &buf[range.clone()];
                    match self.asked.last_mut() {
                        Some(Asked::Rdb(all)) => all.extend_from_slice(bytes),
                        _ => self.asked.push(Asked::Rdb(bytes.to_vec())),
                    }
                    continue;
                }
                Output::Stream(range) => {
                    let bytes = &buf[range.clone()];
                    match self.asked.last_mut() {
                        Some(Asked::Stream(all)) => all.extend_from_slice(bytes),
                        _ => self.asked.push(Asked::Stream(bytes.to_vec())),
                    }
                    continue;
                }
                Output::Connect { .. } => self.connected = true,
                Output::Disconnect => self.connected = false,
                Output::Compressed => self.compressed = true,
                Output::RdbEnd if self.flags & 32 != 0 => {
                    let kept = self.flags & 64 != 0;
                    self.replica.rdb_failed("it is damaged", kept, self.now_ms, &mut more);
                }
                Output::RdbEnd => {
                    let id = HistoryId::parse(&[b'b'; 40]).expect("40 digits");
                    self.replica.rdb_loaded((id, Offset(2000)), self.now_ms, &mut more);
                }
                Output::Rollback { .. } if self.flags & 32 != 0 => {
                    self.replica.rollback_failed("no base", self.now_ms, &mut more);
                }
                Output::Rollback { to } => {
                    let (id, _) = self.replica.place().expect("a rollback is from somewhere");
                    self.replica.rolled_back((id, *to), self.now_ms, &mut more);
                }
                _ => {}
            }
            self.asked.push(Asked::Other(output));
        }
        if !more.is_empty() {
            self.act(more, buf);
        }
    }

    /// Opens a connection, gives it `bytes` in `pieces` and has it closed by the primary.
    fn connection(&mut self, bytes: &[u8], piece: &mut impl FnMut() -> usize) {
        self.now_ms += 60_000;
        let mut out = Vec::new();
        self.replica.tick(self.now_ms, &mut out);
        self.act(out, &[]);
        if !self.connected {
            return;
        }
        let mut out = Vec::new();
        self.replica.connected(self.now_ms, &mut out);
        self.act(out, &[]);

        self.compressed = false;
        let (mut socket, mut decoder) = (Vec::new(), Decoder::default());
        let mut rest = bytes;
        while !rest.is_empty() && self.connected {
            let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
            rest = later;
            // What follows the reply is made frames here, or no frame is ever whole. With this flag
            // the bytes are the frames.
            if self.compressed && self.flags & 128 == 0 {
                Encoder::default().encode(now, &mut socket);
            } else {
                socket.extend_from_slice(now);
            }
            self.serve(&mut socket, &mut decoder);
        }
        let mut out = Vec::new();
        if self.connected {
            self.replica.closed(self.now_ms, &mut out);
        }
        self.act(out, &[]);
        self.connected = false;
    }

    /// Hands in what was received until nothing more is taken of it.
    fn serve(&mut self, socket: &mut Vec<u8>, decoder: &mut Decoder) {
        loop {
            let compressed = self.compressed;
            let decoded = match compressed {
                false => Ok(None),
                true => decoder.decode(socket),
            };
            let mut out = Vec::new();
            let frame = match decoded {
                Ok(frame) => frame.unwrap_or(0),
                Err(error) => {
                    self.replica.damaged(error, self.now_ms, &mut out);
                    return self.act(out, &[]);
                }
            };
            socket.drain(..frame);
            let buf = if compressed { decoder.bytes() } else { &socket[..] };
            let taken = self.replica.bytes(buf, self.now_ms, &mut out);
            assert!(taken <= buf.len());
            let idle = out.is_empty();
            let buf = buf.to_vec();
            self.act(out, &buf);
            match compressed {
                true => decoder.consume(taken),
                false => drop(socket.drain(..taken)),
            }
            if !compressed && self.compressed && self.flags & 128 == 0 {
                // The rest came in one piece with the reply.
                let plain = std::mem::take(socket);
                Encoder::default().encode(&plain, socket);
            }
            if !self.connected || (taken == 0 && frame == 0 && idle) {
                return;
            }
        }
    }
}

fn through(flags: u8, bytes: &[u8], mut piece: impl FnMut() -> usize) -> Vec<Asked> {
    let mut caller = Caller::new(flags);
    for bytes in bytes.split(|&b| b == NEXT_CONNECTION) {
        caller.connection(bytes, &mut piece);
        caller.replica.wanted();
        caller.replica.progress();
    }
    caller.asked
}

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, a, b], bytes)) = data.split_first_chunk::<3>() else { return };
    // A frame's room is 256 KiB, and an answer to each line is more than the line.
    let most = (4 << 20) + 512 * data.len();
    bounded(most, || {
        let whole = through(flags, bytes, || usize::MAX);
        assert_eq!(through(flags, bytes, || 1), whole);
        let mut even = false;
        let pieces = || {
            even = !even;
            1 + usize::from(if even { a } else { b })
        };
        assert_eq!(through(flags, bytes, pieces), whole);
    });
});
