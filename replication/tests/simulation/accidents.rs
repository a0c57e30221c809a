//! What goes wrong: processes, power, connections, ways, disks.

use crate::network::{ConnId, Packet, Way};
use crate::world::{Event, NODES, World};

impl World {
    pub fn accident(&mut self) {
        let at = self.random.index(NODES);
        let ms = self.random.between(100, 5000);
        match self.random.below(100) {
            0..=11 => self.crash(at, false),
            12..=20 => self.crash(at, true),
            21..=24 => self.shut_down(at),
            25..=29 => {
                let conns: Vec<ConnId> = self.net.conns.keys().copied().collect();
                if !conns.is_empty() {
                    self.to_damage.insert(conns[self.random.index(conns.len())]);
                }
            }
            30..=44 => {
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

    pub fn free_disk(&mut self, at: usize) {
        self.servers[at].disk_full = false;
        self.servers[at].disk.set_space(None);
    }

    /// Breaks, now and then, a link over which a snapshot comes. It comes so seldom that other
    /// accidents hardly ever meet it.
    pub fn break_full_sync(&mut self, conn: ConnId, at: usize) {
        let link = self.servers[at].link.as_ref();
        let syncs = link.is_some_and(|link| link.progress().is_some());
        if syncs && !self.is_peace() && self.random.one_in(3) {
            self.note(|_| format!("connection {conn} breaks in a full sync of node {at}"));
            self.replica_end_closed(conn);
        }
    }

    /// The end of a process, or of its machine's power.
    pub fn crash(&mut self, at: usize, power: bool) {
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
            false => Some(server.log.released()),
        };
        self.rules.crashed(at, promised, server);
        server.disk = disk;
        self.gone(at, !power);
    }

    /// An end in good order.
    pub fn shut_down(&mut self, at: usize) {
        if !self.servers[at].up {
            return;
        }
        self.note(|_| format!("node {at} is shut down"));
        let server = &mut self.servers[at];
        let promised = (!server.log.is_failing()).then(|| server.log.released());
        self.rules.crashed(at, promised, server);
        // With a disk that is full this fails, and is a crash.
        let _ = server.log.stop_disk();
        server.disk = server.disk.after_kill(server.disk.ops());
        self.gone(at, true);
    }

    pub fn gone(&mut self, at: usize, tells: bool) {
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

    pub fn start(&mut self, at: usize) {
        let random = self.random.id();
        // Whom it follows was perhaps not written to its configuration.
        let forgets = at != self.primary && self.random.one_in(6);
        let server = &mut self.servers[at];
        server.parent = server.parent.filter(|_| !forgets);
        let disk = server.disk.clone();
        if let Err(error) = server.start(disk, random, self.fault) {
            return self.rules.broke(format!("node {at} does not start: {error}"));
        }
        self.rules.restarted(at, &self.servers[at], at == self.primary);
        self.note(|w| format!("node {at} starts at {:?}", w.servers[at].place()));
        if let Some(parent) = self.servers[at].parent {
            self.follow(at, parent);
        }
        self.rules.look(at, &mut self.servers[at]);
    }

    pub fn save(&mut self, at: usize) {
        let server = &self.servers[at];
        if server.up && server.snapshot.is_none() {
            self.fork(at, None);
        }
    }
}
