//! The world: a calendar of what is going to happen, and the nodes that it happens to.
//!
//! Everything follows from the seed: the calendar is ordered by time and then by the order of
//! planning, and no container without an order is walked through.

use crate::network::{ConnId, Network, Packet, Way};
use crate::random::Random;
use crate::rules::{Acked, Rules};
use crate::server::{Server, instant};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;
use varve_persistence::offset::Offset;
use varve_replication::wire::{GETACK, PING};

pub const NODES: usize = 4;
/// How long accidents happen, and how long the nodes then have to come together.
const CHAOS_MS: u64 = 20_000;
const PEACE_MS: u64 = 60_000;
const TICK_MS: u64 = 100;

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
    pub crashes: u64,
    pub acked: u64,
    pub written: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.partial += other.partial;
        self.full += other.full;
        self.rollbacks += other.rollbacks;
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
    value_bytes: u64,
    peace: bool,
    /// Whom the sentinels hold for the primary, and whom they cannot reach.
    pub primary: usize,
    pub parents: [usize; NODES],
    unreachable: [bool; NODES],
    /// What nodes have sent in this turn, which leaves at its end.
    pub outbox: Vec<(ConnId, Way, Packet)>,
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
        if self.trace.is_some() {
            let line = format!("{:>6} {}", self.now_ms, text(self));
            let trace = self.trace.as_mut().expect("it was there");
            trace.push_back(line);
            if trace.len() > 400 {
                trace.pop_front();
            }
        }
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

    // Accidents.

    fn accident(&mut self) {
        let at = self.random.index(NODES);
        let ms = self.random.between(100, 5000);
        match self.random.below(100) {
            0..=11 => self.crash(at, false),
            12..=20 => self.crash(at, true),
            21..=24 => self.shut_down(at),
            25..=44 => {
                let conns: Vec<ConnId> = self.net.conns.keys().copied().collect();
                if !conns.is_empty() {
                    let conn = conns[self.random.index(conns.len())];
                    let which = self.random.below(3);
                    self.note(|_| format!("connection {conn} breaks, {which}"));
                    if which != 1 {
                        self.replica_end_closed(conn);
                    }
                    if which != 2 {
                        self.primary_end_closed(conn);
                    }
                }
            }
            45..=59 => {
                let to = self.random.index(NODES);
                let both = !self.random.one_in(4);
                self.note(|_| format!("no way from {at} to {to} for {ms} ms, both: {both}"));
                for (from, to) in [(at, to), (to, at)].into_iter().take(1 + both as usize) {
                    if self.net.blocked.insert((from, to)) {
                        self.plan(ms, Event::Unblock { from, to });
                    }
                }
            }
            60..=64 => self.unreachable[at] = !self.unreachable[at],
            65..=74 => self.fail_over(),
            75..=82 => self.reorder(),
            83..=93 => self.save(at),
            _ => {
                let space = self.random.below(3000);
                let server = &mut self.servers[at];
                if server.up && !server.disk_full {
                    server.disk_full = true;
                    server.disk.set_space(Some(space));
                    self.note(|_| format!("node {at} has {space} bytes of disk for {ms} ms"));
                    self.plan(ms, Event::DiskFree { at });
                }
            }
        }
    }

    fn free_disk(&mut self, at: usize) {
        self.servers[at].disk_full = false;
        self.servers[at].disk.set_space(None);
    }

    /// The end of a process, or of its machine's power.
    fn crash(&mut self, at: usize, power: bool) {
        if !self.servers[at].up {
            return;
        }
        self.note(|w| format!("node {at} crashes at {:?}, power: {power}", w.servers[at].place()));
        self.counts.crashes += 1;
        let seed = self.random.next();
        let server = &mut self.servers[at];
        let ops = server.disk.ops();
        let disk = match power {
            true => server.disk.after_power_cut(ops, seed),
            false => server.disk.after_kill(ops),
        };
        let promised = match server.log.is_failing() {
            true => None,
            false if power => server.log.synced(),
            false => Some(server.log.written()),
        };
        self.rules.crashed(at, promised, server);
        server.disk = disk;
        self.gone(at, !power);
    }

    /// An end in good order.
    fn shut_down(&mut self, at: usize) {
        if !self.servers[at].up {
            return;
        }
        self.note(|_| format!("node {at} is shut down"));
        let server = &mut self.servers[at];
        let promised = (!server.log.is_failing()).then(|| server.log.written());
        self.rules.crashed(at, promised, server);
        // With a disk that is full this fails, and is a crash.
        let _ = server.log.stop_disk();
        server.disk = server.disk.after_kill(server.disk.ops());
        self.gone(at, true);
    }

    fn gone(&mut self, at: usize, tells: bool) {
        self.servers[at].stop(self.now_ms);
        let short = self.random.one_in(2);
        self.servers[at].disk.set_short_writes(short);
        let conns: Vec<ConnId> = self.net.conns.keys().copied().collect();
        for id in conns {
            let conn = self.net.conns.get_mut(&id).expect("it is listed");
            for (mine, way) in [(conn.replica, Way::Up), (conn.primary, Way::Down)] {
                let conn = self.net.conns.get_mut(&id).expect("it is listed");
                let open = match way {
                    Way::Up => &mut conn.replica_open,
                    Way::Down => &mut conn.primary_open,
                };
                if mine == at && std::mem::take(open) && tells {
                    self.transmit(id, way, Packet::Close);
                }
            }
        }
        let after = self.random.between(50, 3000);
        self.plan(after, Event::Start { at });
    }

    fn start(&mut self, at: usize) {
        let new = varve_persistence::offset::HistoryId::from_random(self.random.id());
        // Whom it follows was perhaps not written to its configuration.
        let forgets = at != self.primary && self.random.one_in(6);
        let server = &mut self.servers[at];
        server.parent = server.parent.filter(|_| !forgets);
        let disk = server.disk.clone();
        if let Err(error) = server.start(disk, new, self.fault) {
            return self.rules.broke(format!("node {at} does not start: {error}"));
        }
        self.rules.restarted(at, &self.servers[at], at == self.primary);
        self.note(|w| format!("node {at} starts at {:?}", w.servers[at].place()));
        if let Some(parent) = self.servers[at].parent {
            self.follow(at, parent);
        }
        self.rules.look(at, &mut self.servers[at]);
    }

    fn save(&mut self, at: usize) {
        let server = &self.servers[at];
        if server.up && server.snapshot.is_none() {
            self.fork(at, None);
        }
    }

    // The sentinels.

    fn is_reachable(&self, at: usize) -> bool {
        self.servers[at].up && !self.unreachable[at]
    }

    /// Tells nodes their roles that have others.
    fn watch(&mut self) {
        if !self.is_reachable(self.primary) && self.random.one_in(3) {
            self.fail_over();
        }
        for at in (0..NODES).filter(|&at| self.is_reachable(at)).collect::<Vec<_>>() {
            if at == self.primary {
                self.promote(at);
            } else if self.servers[at].parent != Some(self.parents[at]) {
                self.follow(at, self.parents[at]);
            }
            self.end_turn(at);
        }
    }

    /// Makes the replica the primary that is furthest in the primary's history. Enough must be
    /// reachable for one to be among them that `WAIT` counted.
    fn fail_over(&mut self) {
        let old = self.primary;
        let reachable: Vec<usize> =
            (0..NODES).filter(|&at| at != old && self.is_reachable(at)).collect();
        if reachable.len() + self.wait < NODES {
            return;
        }
        let history = self.servers[old].place().0;
        let of = |at: &usize| self.servers[*at].place();
        let loyal: Vec<usize> =
            reachable.iter().copied().filter(|at| of(at).0 == history).collect();
        let candidates = if loyal.is_empty() { &reachable } else { &loyal };
        let Some(&new) = candidates.iter().max_by_key(|at| (of(at).1, Reverse(**at))) else {
            return;
        };
        self.counts.failovers += 1;
        self.note(|w| format!("failover from {old} to {new}, {:?}", w.servers[new].place()));
        self.rules.failover(new, &loyal, &self.servers);
        self.primary = new;
        self.parents = [new; NODES];
        self.watch();
    }

    /// Another tree below the same primary.
    fn reorder(&mut self) {
        let mut order: Vec<usize> = (0..NODES).filter(|&at| at != self.primary).collect();
        for i in 0..order.len() {
            let other = i + self.random.index(order.len() - i);
            order.swap(i, other);
        }
        for (i, &at) in order.iter().enumerate() {
            let above = self.random.index(i + 1);
            self.parents[at] = if above == 0 { self.primary } else { order[above - 1] };
        }
        self.note(|w| format!("{} is the primary, and all follow {:?}", w.primary, w.parents));
        self.watch();
    }

    // Clients.

    fn write(&mut self) {
        let at = self.random.index(NODES);
        let server = &mut self.servers[at];
        if !server.up || server.parent.is_some() || server.log.is_failing() {
            return;
        }
        let from = server.log.end();
        let db = self.random.below(2) as u32;
        let key = format!("key{}", self.random.below(6)).into_bytes();
        match self.random.below(5) {
            0 => {
                server.log.append_in_db(0, b"*1\r\n$5\r\nMULTI\r\n");
                server.log.set_in_multi(true);
                server.log.append_command(0, &["INCR", "left"]);
                server.log.append_command(1, &["INCR", "between"]);
                server.log.append_command(0, &["INCR", "right"]);
                server.log.append(b"*1\r\n$4\r\nEXEC\r\n");
                server.log.set_in_multi(false);
            }
            1 | 2 => {
                let value = vec![b'a' + db as u8; self.random.below(self.value_bytes) as usize];
                server.log.append_command(db, &[b"SET".to_vec(), key, value]);
            }
            _ => {
                server.log.append_command(db, &[b"INCR".to_vec(), key]);
            }
        }
        self.counts.written += 1;
        server.absorb(from);
        if self.random.one_in(3) {
            let (offset, hash) = (server.data.offset, server.data.hash);
            let until_ms = self.now_ms + 1500;
            server.waits.push(crate::server::Wait { offset, hash, until_ms });
            let from = server.log.end();
            server.log.append(GETACK);
            server.absorb(from);
        }
        self.end_turn(at);
    }

    /// Answers clients whose replicas have acknowledged.
    fn serve_waits(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let server = &mut self.servers[at];
        server.waits.retain(|wait| wait.until_ms > now_ms);
        let released = server.log.released().0;
        let (primary, needed) = (&server.primary, self.wait);
        let done = |wait: &mut crate::server::Wait| {
            wait.offset <= released && primary.acked(Offset(wait.offset)) >= needed
        };
        let done: Vec<_> = server.waits.extract_if(.., done).collect();
        if at != self.primary {
            return; // nobody but its own clients hold it for the primary
        }
        for wait in done {
            let counted = server
                .primary
                .listed(now_ms)
                .filter(|listed| listed.online && listed.offset.0 >= wait.offset)
                .filter_map(|listed| Some(self.net.conns.get(&listed.conn)?.replica))
                .collect();
            self.counts.acked += 1;
            self.rules.acked.push(Acked { offset: wait.offset, hash: wait.hash, counted });
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
            Packet::Bytes(bytes) => {
                pipe.under_way -= bytes.len();
                let next = pipe.packets.front().map(|(at_ms, _)| at_ms.saturating_sub(now_ms));
                if let Some(after) = next {
                    again(self, after);
                }
                match way {
                    Way::Up => self.primary_reads(id, &bytes),
                    Way::Down => self.replica_reads(to, &bytes),
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
                    self.outbox.push((conn, Way::Down, Packet::Bytes(b"\n".to_vec())));
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
            let new = varve_persistence::offset::HistoryId::NONE;
            if let Err(error) = server.start(disk, new, None) {
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
