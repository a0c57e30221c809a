//! The network: connections of two pipes each, in which bytes take time, come in other pieces than
//! they were sent in, wait while a way is blocked, and never come if an end lost its power.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub type ConnId = u64;

/// Bytes of a pipe that a sender may have under way: what stands for socket buffers.
pub const WINDOW: usize = 3000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the replica to its primary.
    Up,
    Down,
}

#[derive(Debug)]
pub enum Packet {
    Bytes(Vec<u8>),
    Close,
}

#[derive(Debug, Default)]
pub struct Pipe {
    pub packets: VecDeque<(u64, Packet)>,
    pub under_way: usize,
    last_ms: u64,
    /// Whether a delivery is in the world's calendar.
    pub planned: bool,
}

#[derive(Debug)]
pub struct Conn {
    pub replica: usize,
    pub primary: usize,
    pub replica_open: bool,
    pub primary_open: bool,
    pub up: Pipe,
    pub down: Pipe,
    /// Whether the replica had a reason to ask for everything.
    pub excused: bool,
    /// The usual time of a packet in milliseconds.
    pub delay_ms: u64,
}

impl Conn {
    pub fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    /// The nodes at the beginning and at the end of a way.
    pub fn ends(&self, way: Way) -> (usize, usize) {
        match way {
            Way::Up => (self.replica, self.primary),
            Way::Down => (self.primary, self.replica),
        }
    }

    pub fn is_open_at_end(&self, way: Way) -> bool {
        match way {
            Way::Up => self.primary_open,
            Way::Down => self.replica_open,
        }
    }
}

#[derive(Default)]
pub struct Network {
    pub conns: BTreeMap<ConnId, Conn>,
    /// Pairs, from and to, between which nothing comes through.
    pub blocked: BTreeSet<(usize, usize)>,
    pub next: ConnId,
}

impl Network {
    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.contains(&(from, to))
    }

    pub fn connect(&mut self, replica: usize, primary: usize, delay_ms: u64) -> ConnId {
        self.next += 1;
        let conn = Conn {
            replica,
            primary,
            replica_open: true,
            primary_open: false,
            up: Pipe::default(),
            down: Pipe::default(),
            excused: false,
            delay_ms,
        };
        self.conns.insert(self.next, conn);
        self.next
    }

    /// Puts a packet on its way; returns when it arrives if that has to be planned.
    pub fn send(&mut self, id: ConnId, way: Way, packet: Packet, at_ms: u64) -> Option<u64> {
        let pipe = self.conns.get_mut(&id)?.pipe(way);
        if let Packet::Bytes(bytes) = &packet {
            pipe.under_way += bytes.len();
        }
        pipe.last_ms = at_ms.max(pipe.last_ms);
        pipe.packets.push_back((pipe.last_ms, packet));
        (!std::mem::replace(&mut pipe.planned, true)).then_some(pipe.last_ms)
    }

    /// How much more may be sent.
    pub fn room(&self, id: ConnId) -> usize {
        self.conns.get(&id).map_or(0, |conn| WINDOW.saturating_sub(conn.down.under_way))
    }

    /// Forgets connections that neither end has.
    pub fn tidy(&mut self) {
        self.conns.retain(|_, conn| conn.replica_open || conn.primary_open);
    }
}
