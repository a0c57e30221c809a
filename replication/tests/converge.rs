//! Nodes over an in-memory network that delivers in pieces, cuts connections, changes primaries and
//! restarts nodes that lost the end of their log. Two things must hold: at every moment an id names
//! one sequence of bytes, whoever holds how much of it; and once it is quiet, all nodes come to the
//! same place and hold the same bytes.
//!
//! A data set is simply all bytes of its history, so an RDB is a prefix of the log, and a wrong resync
//! shows as wrong bytes. A failing run prints its seed.

use std::collections::HashMap;

use varve_engine::OwnedArgs;
use varve_persistence::offset::{Histories, HistoryId, Offset};
use varve_replication::frame::Framer;
use varve_replication::node::{Followers, Node};
use varve_replication::primary::supply::{AfterBulk, Supply, SupplyView, Target};
use varve_replication::primary::{self, Decision, LogView, Primary, Replconf};
use varve_replication::replica::{self, Replica};
use varve_replication::wire::{GETACK, PING, command};

const NODES: usize = 4;

/// A small generator (xorshift64*): the same seed, the same run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn id(&mut self) -> [u8; 20] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

struct Server {
    node: Node,
    primary: Primary,
    replica: Option<Replica>,
    /// All bytes of the history, of which the log still has those from `first` on.
    bytes: Vec<u8>,
    first: usize,
    /// The RDB that is being received.
    rdb: Vec<u8>,
    rdb_place: Option<replica::Place>,
    /// Set when an RDB was received and is to be loaded.
    load: bool,
}

impl Server {
    fn end(&self) -> Offset {
        Offset(self.bytes.len() as u64)
    }

    fn view(&self) -> LogView {
        LogView {
            histories: self.node.histories(),
            first: Offset(self.first as u64),
            end: self.end(),
            linked: self.replica.as_ref().is_none_or(Replica::is_up),
            top: self.replica.is_none(),
        }
    }

    /// A place between two units, at or behind `from`.
    fn boundary(&self, from: usize, random: &mut Random) -> usize {
        let mut framer = Framer::default();
        let mut ends = vec![self.first];
        while let Some(unit) = framer.next(&self.bytes[*ends.last().unwrap()..]).unwrap() {
            ends.push(ends.last().unwrap() + unit.len);
        }
        ends.retain(|&end| end >= from);
        ends[random.below(ends.len())]
    }
}

struct Link {
    replica: usize,
    primary: usize,
    /// Bytes on their way, and those that arrived but are not consumed.
    down: Vec<u8>,
    down_arrived: usize,
    up: Vec<u8>,
    up_arrived: usize,
    framer: Framer,
    /// From where the primary feeds the log.
    feed: Option<usize>,
}

struct World {
    random: Random,
    now_ms: u64,
    servers: Vec<Server>,
    links: HashMap<u64, Link>,
    next_conn: u64,
    /// All that was ever seen of each history.
    truth: HashMap<HistoryId, Vec<u8>>,
    partial: u64,
    full: u64,
    rollbacks: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let config = primary::Config { diskless_delay_ms: 50, ..primary::Config::default() };
        let servers = (0..NODES).map(|_| Server {
            node: Node::new(Histories::new(HistoryId::from_random(random.id()))),
            primary: Primary::new(config.clone(), 0),
            replica: None,
            bytes: vec![],
            first: 0,
            rdb: vec![],
            rdb_place: None,
            load: false,
        });
        let servers = servers.collect();
        World {
            random,
            now_ms: 0,
            servers,
            links: HashMap::new(),
            next_conn: 1,
            truth: HashMap::new(),
            partial: 0,
            full: 0,
            rollbacks: 0,
        }
    }

    /// The link over which node `at` follows another.
    fn link_of(&self, at: usize) -> Option<u64> {
        self.links.iter().find(|(_, link)| link.replica == at).map(|(&conn, _)| conn)
    }

    /// The connections in a fixed order, so that a seed reproduces its run.
    fn conns(&self) -> Vec<u64> {
        let mut conns: Vec<u64> = self.links.keys().copied().collect();
        conns.sort_unstable();
        conns
    }

    fn replica(
        &mut self,
        at: usize,
        input: impl FnOnce(&mut Replica, u64, &mut Vec<replica::Output>),
    ) {
        let mut out = vec![];
        if let Some(replica) = &mut self.servers[at].replica {
            input(replica, self.now_ms, &mut out);
        }
        for output in out {
            self.replica_output(at, output, &[]);
        }
    }

    fn replica_output(&mut self, at: usize, output: replica::Output, buf: &[u8]) {
        use replica::Output;
        match output {
            Output::Connect { port, .. } => {
                if self.random.below(8) == 0 {
                    return self.replica(at, |r, now, out| r.connect_failed("refused", now, out));
                }
                let link = Link {
                    replica: at,
                    primary: port as usize,
                    down: vec![],
                    down_arrived: 0,
                    up: vec![],
                    up_arrived: 0,
                    framer: Framer::default(),
                    feed: None,
                };
                self.links.insert(self.next_conn, link);
                self.next_conn += 1;
                self.replica(at, |r, now, out| r.connected(now, out));
            }
            Output::Disconnect => {
                if let Some(conn) = self.link_of(at) {
                    let link = self.links.remove(&conn).unwrap();
                    self.servers[link.primary].primary.closed(conn, self.now_ms);
                }
            }
            Output::Send(bytes) => {
                let conn = self.link_of(at).expect("it sends while it is connected only");
                self.links.get_mut(&conn).unwrap().up.extend(bytes);
            }
            Output::RdbBegin { place, .. } => {
                self.servers[at].rdb.clear();
                self.servers[at].rdb_place = place;
            }
            Output::RdbBytes(range) => self.servers[at].rdb.extend_from_slice(&buf[range]),
            Output::RdbEnd => self.servers[at].load = true,
            Output::RdbAbort => {
                self.servers[at].rdb.clear();
                self.servers[at].load = false;
            }
            Output::Continue { new_history } => {
                let server = &mut self.servers[at];
                let followers = server.node.continued(new_history, server.end());
                self.partial += 1;
                self.followers(at, followers);
            }
            Output::Rollback { to } => {
                let server = &mut self.servers[at];
                let cut = to.0 as usize;
                if cut < server.first || self.random.below(4) == 0 {
                    return self.replica(at, |r, now, out| r.rollback_failed("no base", now, out));
                }
                server.bytes.truncate(cut);
                let followers = server.node.rolled_back(to);
                let place = server.node.place(to);
                self.rollbacks += 1;
                self.followers(at, followers);
                self.replica(at, |r, now, out| r.rolled_back(place, now, out));
            }
            Output::Stream(range) => {
                let server = &mut self.servers[at];
                assert!(!server.node.is_primary());
                server.bytes.extend_from_slice(&buf[range]);
            }
            Output::LinkUp | Output::LinkDown { .. } | Output::Log(..) => {}
        }
    }

    fn followers(&mut self, at: usize, followers: Followers) {
        if followers == Followers::Drop {
            for conn in self.servers[at].primary.drop_all(self.now_ms) {
                self.cut(conn);
            }
        }
    }

    /// Both ends see the connection close; what was on its way is lost.
    fn cut(&mut self, conn: u64) {
        if let Some(link) = self.links.remove(&conn) {
            self.servers[link.primary].primary.closed(conn, self.now_ms);
            self.replica(link.replica, |r, now, out| r.closed(now, out));
        }
    }

    fn load(&mut self, at: usize) {
        let server = &mut self.servers[at];
        if !std::mem::take(&mut server.load) {
            return;
        }
        let place = server.rdb_place.unwrap();
        server.bytes = std::mem::take(&mut server.rdb);
        server.first = server.bytes.len();
        assert_eq!(server.end(), place.1);
        let followers = server.node.adopted(place.0);
        self.full += 1;
        self.followers(at, followers);
        self.replica(at, |r, now, out| r.rdb_loaded(place, now, out));
        self.replica_reads(at);
    }

    fn replica_reads(&mut self, at: usize) {
        let Some(conn) = self.link_of(at) else { return };
        let link = self.links.get_mut(&conn).unwrap();
        let buf = link.down[..link.down_arrived].to_vec();
        let mut out = vec![];
        let replica = self.servers[at].replica.as_mut().unwrap();
        let taken = replica.bytes(&buf, self.now_ms, &mut out);
        link.down.drain(..taken);
        link.down_arrived -= taken;
        for output in out {
            self.replica_output(at, output, &buf);
        }
        let server = &self.servers[at];
        let place = server.replica.as_ref().unwrap().place();
        assert_eq!(place, Some(server.node.place(server.end())), "the link and the log disagree");
    }

    fn primary_reads(&mut self, conn: u64) {
        loop {
            let Some(link) = self.links.get_mut(&conn) else { return };
            let server = &mut self.servers[link.primary];
            if link.up_arrived > 0 && link.up[0] == b'\n' {
                server.primary.newline(conn, self.now_ms);
                link.up.remove(0);
                link.up_arrived -= 1;
                continue;
            }
            let Some(unit) = link.framer.next(&link.up[..link.up_arrived]).unwrap() else { return };
            let request: Vec<u8> = link.up.drain(..unit.len).collect();
            link.up_arrived -= unit.len;
            let parts: Vec<&[u8]> = request.split(|&b| b == b'\n').skip(2).step_by(2).collect();
            let mut args = OwnedArgs::new(parts.iter().map(|part| part.trim_ascii()));
            let args = args.args();
            match &args[0] {
                b"PING" => link.down.extend(b"+PONG\r\n"),
                b"REPLCONF" => match server.primary.replconf(conn, &args, self.now_ms).unwrap() {
                    Replconf::Ok => link.down.extend(b"+OK\r\n"),
                    Replconf::Ack { start } => {
                        assert!(server.primary.acked(server.end() + 1) == 0, "it acked the future");
                        if let Some(from) = start {
                            link.feed = Some(from.0 as usize);
                        }
                    }
                    Replconf::Silent | Replconf::GetAck => {}
                },
                b"PSYNC" => {
                    let next = std::str::from_utf8(&args[2]).unwrap().parse().unwrap();
                    let view = server.view();
                    match server.primary.psync(conn, &args[1], next, &view, self.now_ms) {
                        Decision::Continue { reply, from } => {
                            link.down.extend(reply);
                            link.feed = Some(from.0 as usize);
                        }
                        Decision::Full { .. } => {}
                        Decision::Rollback { reply, .. } => link.down.extend(reply),
                        Decision::Refuse(error) => {
                            link.down.extend(format!("-{error}\r\n").as_bytes());
                        }
                        Decision::Ignore => panic!("PSYNC twice"),
                    }
                }
                other => panic!("{}", other.escape_ascii()),
            }
        }
    }

    fn supply(&mut self, at: usize) {
        let base = self.servers[at].boundary(self.servers[at].first, &mut self.random);
        let view = SupplyView {
            base: (self.random.below(3) == 0).then_some(Offset(base as u64)),
            disk_child: None,
            can_fork: self.servers[at].view().linked && self.random.below(2) == 0,
        };
        while let Some(supply) = self.servers[at].primary.supply(&view, self.now_ms) {
            let server = &mut self.servers[at];
            let (from, conns, target) = match supply {
                Supply::Base { from, conns } => (from, conns, Target::Disk),
                Supply::Join { .. } => panic!("there was none to join"),
                Supply::Fork { conns, target, .. } => {
                    let from = server.end();
                    (from, server.primary.forked(&conns, target, from, self.now_ms), target)
                }
            };
            let rdb = &server.bytes[..from.0 as usize];
            for conn in conns {
                let link = self.links.get_mut(&conn).unwrap();
                let id = server.node.histories().current;
                link.down.extend(server.primary.fullresync(conn, id).unwrap());
                server.primary.bulk_started(conn, self.now_ms);
                match target {
                    Target::Disk => {
                        link.down.extend(format!("\n${}\r\n", rdb.len()).as_bytes());
                        link.down.extend(rdb);
                    }
                    Target::Socket => {
                        let mark = HistoryId::from_random(self.random.id());
                        link.down.extend(format!("$EOF:{mark}\r\n").as_bytes());
                        link.down.extend(rdb);
                        link.down.extend(mark.as_bytes());
                    }
                }
                match server.primary.bulk_done(conn, self.now_ms).unwrap() {
                    AfterBulk::Feed { from } => link.feed = Some(from.0 as usize),
                    AfterBulk::AwaitAck => {}
                    AfterBulk::Nothing => panic!("nobody wants an RDB only"),
                }
            }
        }
    }

    /// Sends some of the log, and lets some of what was sent arrive, over every link.
    fn flow(&mut self, most: usize) {
        for conn in self.conns() {
            let amounts = [0; 3].map(|_| self.random.below(most + 1));
            let Some(link) = self.links.get_mut(&conn) else { continue };
            if let Some(feed) = &mut link.feed {
                let server = &self.servers[link.primary];
                assert!(*feed >= server.first, "the log forgot what a replica was due");
                let to = (*feed + amounts[0]).min(server.bytes.len());
                link.down.extend(&server.bytes[*feed..to]);
                *feed = to;
            }
            link.down_arrived = (link.down_arrived + amounts[1]).min(link.down.len());
            link.up_arrived = (link.up_arrived + amounts[2]).min(link.up.len());
            let at = link.replica;
            self.primary_reads(conn);
            if self.link_of(at) == Some(conn) {
                self.replica_reads(at);
            }
        }
    }

    fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        for at in 0..NODES {
            if self.random.below(3) == 0 {
                self.load(at);
            }
            self.replica(at, |r, now, out| r.tick(now, out));
            let mut out = vec![];
            let server = &mut self.servers[at];
            server.primary.tick(self.now_ms, server.node.is_primary(), &mut out);
            for output in out {
                match output {
                    primary::Output::Append(bytes) => self.servers[at].bytes.extend(bytes),
                    primary::Output::Newline(conn) => {
                        self.links.get_mut(&conn).unwrap().down.push(b'\n')
                    }
                    primary::Output::Drop { conn, .. } => self.cut(conn),
                    primary::Output::BacklogExpired => {}
                }
            }
            self.supply(at);
        }
    }

    fn write(&mut self) {
        let at = self.random.below(NODES);
        if !self.servers[at].node.is_primary() {
            return;
        }
        let value = vec![b'0' + self.random.below(10) as u8; self.random.below(300)];
        let set = command(&[b"SET", &self.random.id(), &value]);
        let unit = match self.random.below(6) {
            0 => GETACK.to_vec(),
            1 => PING.to_vec(),
            2 => [command(&[b"MULTI"]), set.clone(), set, command(&[b"EXEC"])].concat(),
            _ => set,
        };
        self.servers[at].bytes.extend(unit);
    }

    /// Makes one node the primary of all, directly or through others, in an order without cycles.
    fn reorder(&mut self) {
        let mut order: Vec<usize> = (0..NODES).collect();
        for i in 0..NODES {
            order.swap(i, i + self.random.below(NODES - i));
        }
        let random = self.random.id();
        let top = order[0];
        self.replica(top, |r, now, out| r.stop(now, out));
        let server = &mut self.servers[top];
        server.replica = None;
        let followers = server.node.promote(server.end(), random);
        self.followers(top, followers);
        for i in 1..NODES {
            let (at, above) = (order[i], order[self.random.below(i)]);
            self.follow(at, above);
        }
    }

    fn follow(&mut self, at: usize, above: usize) {
        let mut config = replica::Config::new("node", above as u16, at as u16);
        config.reconnect_ms = 100;
        config.reconnect_max_ms = 1000;
        config.timeout_ms = 5_000_000;
        let server = &mut self.servers[at];
        let followers = server.node.follow("node", above as u16);
        let place = server.node.place(server.end());
        self.followers(at, followers);
        if self.servers[at].replica.is_some() {
            self.replica(at, |r, now, out| r.reconfigure(config, now, out));
        } else {
            self.servers[at].replica = Some(Replica::new(config, Some(place), self.now_ms));
        }
    }

    /// A node dies and comes back with its log up to some place between two units. A primary may have
    /// sent what it lost.
    fn restart(&mut self) {
        let at = self.random.below(NODES);
        for conn in self.conns() {
            if self.links.get(&conn).is_some_and(|l| l.replica == at || l.primary == at) {
                self.cut(conn);
            }
        }
        let random = self.random.id();
        let server = &mut self.servers[at];
        let end = server.boundary(server.first, &mut self.random);
        server.bytes.truncate(end);
        server.load = false;
        let (was_primary, histories) = (server.node.is_primary(), server.node.histories());
        // A replica lost only what its primary can give it again.
        server.node = Node::recovered(histories, server.end(), !was_primary, random);
        if let Some(old) = server.replica.take() {
            let above = old.config().port as usize;
            self.follow(at, above);
        }
    }

    fn trim(&mut self) {
        let at = self.random.below(NODES);
        let server = &mut self.servers[at];
        let bound = server.primary.needed_from().map_or(server.bytes.len(), |o| o.0 as usize);
        let first = server.boundary(server.first, &mut self.random);
        if first <= bound {
            server.first = first;
        }
    }

    fn check(&mut self) {
        for (at, server) in self.servers.iter().enumerate() {
            let known = self.truth.entry(server.node.histories().current).or_default();
            let shared = known.len().min(server.bytes.len());
            assert!(
                known[..shared] == server.bytes[..shared],
                "node {at} holds other bytes under the same name"
            );
            known.extend_from_slice(&server.bytes[shared..]);
        }
    }
}

fn run(seed: u64) -> (u64, u64, u64) {
    let mut world = World::new(seed);
    world.reorder();
    for _ in 0..1500 {
        match world.random.below(100) {
            0 => world.reorder(),
            1 => world.restart(),
            2 => world.trim(),
            3..=6 => {
                let conns = world.conns();
                if !conns.is_empty() {
                    let at = world.random.below(conns.len());
                    world.cut(conns[at]);
                }
            }
            7..=30 => world.write(),
            31..=50 => {
                let ms = world.random.below(400) as u64;
                world.tick(ms);
            }
            51..=60 => world.flow(1),
            61..=80 => world.flow(60),
            _ => world.flow(5000),
        }
        world.check();
    }
    for round in 0.. {
        world.tick(200);
        world.flow(1 << 20);
        world.check();
        let place = |server: &Server| (server.node.place(server.end()), server.view().linked);
        let first = place(&world.servers[0]);
        if world.servers.iter().all(|server| place(server) == (first.0, true)) {
            break;
        }
        assert!(round < 1000, "the nodes do not come together");
    }
    for server in &world.servers {
        assert!(server.bytes == world.servers[0].bytes);
    }
    (world.partial, world.full, world.rollbacks)
}

#[test]
fn nodes_converge_through_cuts_promotions_and_losses() {
    let (mut partial, mut full, mut rollbacks) = (0, 0, 0);
    for seed in 1..=60 {
        let counts = std::panic::catch_unwind(|| run(seed));
        let counts = counts.unwrap_or_else(|_| panic!("seed {seed} failed"));
        partial += counts.0;
        full += counts.1;
        rollbacks += counts.2;
    }
    println!("{partial} partial, {full} full resyncs, {rollbacks} rollbacks");
    let enough = partial > 1000 && full > 200 && rollbacks > 20;
    assert!(enough, "too little happened: {partial} partial, {full} full, {rollbacks} back");
}
