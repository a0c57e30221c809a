//! The world: a calendar of what is going to happen, and the nodes that it happens to.
//!
//! Everything follows from the seed: the calendar is ordered by time and then by the order of
//! planning, and no container without an order is walked through.

use crate::network::{ConnId, Network, Packet, Way};
use crate::random::Random;
use crate::rules::Rules;
use crate::server::{Server, instant};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::Instant;
use varve_replication::wire::PING;

pub const NODES: usize = 4;
/// How long accidents happen, and how long the nodes then have to come together.
const CHAOS_MS: u64 = 20_000;
const PEACE_MS: u64 = 60_000;
const TICK_MS: u64 = 100;
/// How many of the last events are kept to be printed.
const TRACED: usize = 400;

/// What breaks a rule on purpose, so that it is known that the rules are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A promotion keeps the old name valid beyond the place where the new one began.
    ForgetSecondIdOffset,
    /// A primary that may have lost its end goes on under the same name.
    KeepNameAfterLoss,
    /// A node that was a replica, and starts as a primary, goes on under its primary's name.
    KeepForeignName,
    /// A replica takes transactions in pieces.
    SplitMulti,
    /// A replica acknowledges what it applies much later.
    AckBeforeApply,
    /// A primary gives a full resync where its log has what was asked for.
    ForgetLog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Tick { at: usize },
    Deliver { conn: ConnId, way: Way },
    Connected { at: usize, run: u64, conn: ConnId },
    Loaded { at: usize, run: u64 },
    RolledBack { at: usize, run: u64 },
    Snapshot { at: usize, run: u64, id: u64 },
    Start { at: usize },
    Unblock { from: usize, to: usize },
    DiskFree { at: usize },
    Write,
    Accident,
    Sentinel,
}

/// What a run brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub partial: u64,
    pub full: u64,
    pub rollbacks: u64,
    pub failovers: u64,
    /// Full syncs that went on where their link had broken.
    pub resumed: u64,
    /// Frames of compressed links that were found damaged.
    pub damaged: u64,
    pub crashes: u64,
    pub acked: u64,
    pub written: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.partial += other.partial;
        self.full += other.full;
        self.rollbacks += other.rollbacks;
        self.resumed += other.resumed;
        self.damaged += other.damaged;
        self.failovers += other.failovers;
        self.crashes += other.crashes;
        self.acked += other.acked;
        self.written += other.written;
    }
}

pub struct World {
    pub random: Random,
    pub now_ms: u64,
    calendar: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
    pub origin: Instant,
    pub servers: Vec<Server>,
    pub net: Network,
    pub fault: Option<Fault>,
    pub rules: Rules,
    pub counts: Counts,
    /// How many replicas `WAIT` asks for.
    pub wait: usize,
    /// A bound for the length of a value.
    pub value_bytes: u64,
    peace: bool,
    /// Whom the sentinels hold for the primary, and whom they cannot reach.
    pub primary: usize,
    pub parents: [usize; NODES],
    pub unreachable: [bool; NODES],
    /// What nodes have sent in this turn, which leaves at its end.
    pub outbox: Vec<(ConnId, Way, Packet)>,
    /// Connections of which a bit is to be flipped on its way to the replica.
    pub to_damage: BTreeSet<ConnId>,
    trace: Option<VecDeque<String>>,
}

impl World {
    pub fn new(seed: u64, fault: Option<Fault>, trace: bool) -> World {
        let mut random = Random::new(seed);
        let servers = (0..NODES).map(|_| Server::new(&mut random)).collect();
        let wait = random.between(1, NODES as u64 - 1) as usize;
        let value_bytes = [20, 200, 3000][random.index(3)];
        let mut world = World {
            random,
            now_ms: 0,
            calendar: BinaryHeap::new(),
            planned: 0,
            origin: Instant::now(),
            servers,
            net: Network::default(),
            fault,
            rules: Rules::default(),
            counts: Counts::default(),
            wait,
            value_bytes,
            peace: false,
            primary: 0,
            parents: [0; NODES],
            unreachable: [false; NODES],
            outbox: vec![],
            to_damage: BTreeSet::new(),
            trace: trace.then(VecDeque::new),
        };
        for at in 0..NODES {
            let after = world.random.below(TICK_MS);
            world.plan(after, Event::Tick { at });
        }
        for event in [Event::Write, Event::Accident, Event::Sentinel] {
            world.plan(1, event);
        }
        world
    }

    pub fn plan(&mut self, after_ms: u64, event: Event) {
        self.planned += 1;
        self.calendar.push(Reverse((self.now_ms + after_ms, self.planned, event)));
    }

    /// Notes what happened, if somebody is going to read it.
    pub fn note(&mut self, text: impl FnOnce(&World) -> String) {
        let Some(mut trace) = self.trace.take() else { return };
        trace.push_back(format!("{:>6} {}", self.now_ms, text(self)));
        if trace.len() > TRACED {
            trace.pop_front();
        }
        self.trace = Some(trace);
    }

    pub fn last_events(&self) -> String {
        let mut text = String::new();
        self.trace.iter().flatten().for_each(|line| text += &format!("{line}\n"));
        text
    }

    /// Lets everything happen, and the nodes come together at the end.
    pub fn run(&mut self) -> Result<Counts, String> {
        while let Some(Reverse((ms, _, event))) = self.calendar.pop() {
            self.now_ms = ms;
            self.happen(event);
            if let Some(what) = self.rules.broken.take() {
                return Err(what);
            }
            if self.peace && matches!(event, Event::Tick { .. }) && self.is_quiet() {
                return self.close();
            }
            if !self.peace && ms >= CHAOS_MS {
                self.make_peace();
            }
            if ms >= CHAOS_MS + PEACE_MS {
                let places: Vec<_> = self.servers.iter().map(|s| (s.parent, s.view())).collect();
                return Err(format!("the nodes do not come together: {places:?}"));
            }
        }
        Err("nothing is going to happen any more".into())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { at } => {
                self.plan(TICK_MS, event);
                if self.servers[at].up {
                    self.tick(at);
                }
            }
            Event::Deliver { conn, way } => self.deliver(conn, way),
            Event::Connected { at, run, conn } => self.connected(at, run, conn),
            Event::Loaded { at, run } if self.servers[at].run == run => self.loaded(at),
            Event::RolledBack { at, run } if self.servers[at].run == run => self.rolled_back(at),
            Event::Snapshot { at, run, id } if self.servers[at].run == run => {
                self.snapshot_done(at, id);
            }
            Event::Start { at } => self.start(at),
            Event::Unblock { from, to } => {
                self.net.blocked.remove(&(from, to));
            }
            Event::DiskFree { at } => self.free_disk(at),
            Event::Write => {
                if !self.peace {
                    let after = self.random.between(10, 120);
                    self.plan(after, event);
                    self.write();
                }
            }
            Event::Accident => {
                if !self.peace {
                    let after = self.random.between(50, 900);
                    self.plan(after, event);
                    self.accident();
                }
            }
            Event::Sentinel => {
                self.plan(300, event);
                self.watch();
            }
            Event::Loaded { .. } | Event::RolledBack { .. } | Event::Snapshot { .. } => {}
        }
    }

    // Turns.

    fn tick(&mut self, at: usize) {
        let now_ms = self.now_ms;
        self.apply_delayed(at, false);
        self.with_link(at, |link, out| link.tick(now_ms, out));
        self.tick_primary(at);
        let server = &mut self.servers[at];
        server.log.tick(instant(self.origin, now_ms));
        server.log.rotate_if_large();
        self.supply(at);
        self.end_turn(at);
    }

    /// The log goes to the kernel, and then leaves what was sent.
    pub fn end_turn(&mut self, at: usize) {
        if !self.servers[at].up {
            return;
        }
        self.servers[at].log.flush();
        self.servers[at].log.take_events();
        for (conn, way, packet) in std::mem::take(&mut self.outbox) {
            self.transmit(conn, way, packet);
        }
        self.pump(at);
        self.serve_waits(at);
        self.rules.look(at, &mut self.servers[at]);
    }

    /// Puts a packet on its way, perhaps in two pieces.
    pub fn transmit(&mut self, id: ConnId, way: Way, packet: Packet) {
        let Some(conn) = self.net.conns.get(&id) else { return };
        let usual = conn.delay_ms;
        let mut pieces = vec![packet];
        if let Packet::Bytes(bytes) = &mut pieces[0]
            && bytes.len() > 1
            && self.random.one_in(4)
        {
            let rest = bytes.split_off(1 + self.random.index(bytes.len() - 1));
            pieces.push(Packet::Bytes(rest));
        }
        for packet in pieces {
            let late = if self.random.one_in(30) { 300 } else { 1 };
            let at_ms = self.now_ms + usual + self.random.below(usual * late / 10 + 2);
            if let Some(planned) = self.net.send(id, way, packet, at_ms) {
                self.plan(planned - self.now_ms, Event::Deliver { conn: id, way });
            }
        }
    }

    fn deliver(&mut self, id: ConnId, way: Way) {
        let now_ms = self.now_ms;
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.pipe(way).planned = false;
        let (from, to) = conn.ends(way);
        let open = conn.is_open_at_end(way);
        let blocked = self.net.is_blocked(from, to);
        let pipe = self.net.conns.get_mut(&id).expect("it is there").pipe(way);
        let Some((at_ms, first)) = pipe.packets.front() else { return };
        let again = |world: &mut World, after| {
            let conn = world.net.conns.get_mut(&id).expect("it is there");
            conn.pipe(way).planned = true;
            world.plan(after, Event::Deliver { conn: id, way });
        };
        if blocked || *at_ms > now_ms {
            let after = at_ms.saturating_sub(now_ms).max(if blocked { 25 } else { 1 });
            return again(self, after);
        }
        if !open {
            // Nobody is there: the sender learns it, if the machine is.
            let closes = matches!(first, Packet::Close);
            pipe.packets.clear();
            pipe.under_way = 0;
            if !closes && self.servers[to].up {
                let back = if way == Way::Up { Way::Down } else { Way::Up };
                self.transmit(id, back, Packet::Close);
            }
            return self.net.tidy();
        }
        let reads =
            way == Way::Up || self.servers[to].link.as_ref().is_some_and(|l| l.wanted() > 0);
        if !reads {
            // Only a reset is noticed while nothing is read.
            let closed = pipe.packets.iter().any(|(_, packet)| matches!(packet, Packet::Close));
            if closed && self.random.one_in(2) {
                self.replica_end_closed(id);
                return self.end_turn(to);
            }
            return again(self, 25);
        }
        let (_, packet) = pipe.packets.pop_front().expect("it was there");
        match packet {
            Packet::Close => {
                match way {
                    Way::Up => self.primary_end_closed(id),
                    Way::Down => self.replica_end_closed(id),
                }
                self.net.tidy();
            }
            Packet::Bytes(mut bytes) => {
                pipe.under_way -= bytes.len();
                let next = pipe.packets.front().map(|(at_ms, _)| at_ms.saturating_sub(now_ms));
                if let Some(after) = next {
                    again(self, after);
                }
                // Only a compressed link has a checksum that would show it.
                if way == Way::Down
                    && self.servers[to].decoder.is_some()
                    && self.to_damage.remove(&id)
                {
                    let at = self.random.index(bytes.len());
                    bytes[at] ^= 1 << self.random.below(8);
                    self.note(|_| format!("a bit flips on its way to node {to}"));
                }
                match way {
                    Way::Up => self.primary_reads(id, &bytes),
                    Way::Down => self.replica_reads(to, &bytes),
                }
                if way == Way::Down {
                    self.break_full_sync(id, to);
                }
                self.pump(from);
            }
        }
        self.end_turn(to);
    }

    pub fn tick_primary(&mut self, at: usize) {
        use varve_replication::primary::Output;
        let mut out = vec![];
        let server = &mut self.servers[at];
        server.primary.tick(self.now_ms, server.parent.is_none(), &mut out);
        for output in out {
            match output {
                Output::Append(bytes) => {
                    debug_assert_eq!(bytes, PING);
                    let server = &mut self.servers[at];
                    let from = server.log.end();
                    server.log.append(bytes);
                    server.absorb(from);
                }
                Output::Newline(conn) => {
                    let newline = self.framed(at, conn, b"\n".to_vec());
                    self.outbox.push((conn, Way::Down, Packet::Bytes(newline)));
                }
                Output::Drop { conn, why } => {
                    self.note(|_| format!("node {at} drops connection {conn}: {why}"));
                    self.close_primary_end(conn);
                }
                Output::BacklogExpired => {}
            }
        }
    }

    // The end.

    fn make_peace(&mut self) {
        self.peace = true;
        self.note(|_| "from now on no accidents happen".into());
        self.net.blocked.clear();
        self.unreachable = [false; NODES];
        (0..NODES).for_each(|at| self.free_disk(at));
    }

    pub fn is_peace(&self) -> bool {
        self.peace
    }

    fn is_quiet(&self) -> bool {
        let place = self.servers[self.primary].place();
        self.servers.iter().enumerate().all(|(at, server)| {
            let roles = match server.parent {
                None => at == self.primary,
                Some(parent) => at != self.primary && parent == self.parents[at],
            };
            let linked = server.view().linked && server.receiving.is_none();
            server.up && server.place() == place && roles && linked && server.delayed.is_empty()
        })
    }

    /// All have the same, and each of them has it on its disk.
    fn close(&mut self) -> Result<Counts, String> {
        let (hash, digest) = (self.servers[0].data.hash, self.servers[0].data.digest());
        for (at, server) in self.servers.iter_mut().enumerate() {
            if (server.data.hash, server.data.digest()) != (hash, digest) {
                return Err(format!("node {at} has the same place as node 0 and other data"));
            }
            if let Err(error) = server.log.stop_disk() {
                return Err(format!("node {at} cannot close its log: {error}"));
            }
            let histories = server.node.histories();
            let disk = server.disk.clone();
            if let Err(error) = server.start(disk, [0; 20], None) {
                return Err(format!("node {at} does not start: {error}"));
            }
            if (server.data.hash, server.data.digest()) != (hash, digest)
                || server.node.histories() != histories
            {
                return Err(format!("node {at} comes back from its disk with something else"));
            }
        }
        Ok(self.counts)
    }
}
