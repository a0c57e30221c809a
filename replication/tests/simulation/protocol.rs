//! How nodes carry out what their machines say: the part that is the daemon's elsewhere.

use crate::network::{ConnId, Packet, WINDOW, Way};
use crate::server::{Feeding, Peer, Server, link_config};
use crate::world::{Event, Fault, World};
use std::sync::Arc;
use varve_engine::OwnedArgs;
use varve_persistence::log::NewBase;
use varve_persistence::offset::{Histories, HistoryId, Offset};
use varve_replication::compress::{Decoder, Encoder};
use varve_replication::file::FileId;
use varve_replication::frame::Framer;
use varve_replication::node::{Followers, Node};
use varve_replication::primary::supply::{AfterBulk, Supply, SupplyView, Target};
use varve_replication::primary::{Decision, Replconf};
use varve_replication::replica::{Output, Replica};

impl World {
    // Roles.

    pub fn promote(&mut self, at: usize) {
        if self.servers[at].parent.take().is_none() {
            return;
        }
        let now_ms = self.now_ms;
        self.with_link(at, |link, out| link.stop(now_ms, out));
        let random = self.random.id();
        let server = &mut self.servers[at];
        server.link = None;
        (server.loading, server.rolling) = (None, None);
        server.delayed.clear();
        let end = server.log.end();
        let followers = server.node.promote(end, random);
        if self.fault == Some(Fault::ForgetSecondIdOffset) {
            let histories = server.node.histories();
            let former = histories.former().map(|(id, _)| (id, Offset(u64::MAX >> 1)));
            server.node = Node::new(Histories::with_former(histories.current, former));
        }
        server.log.take_histories(server.node.histories());
        self.note(|w| format!("node {at} is promoted: {:?}", w.servers[at].node.histories()));
        self.drop_followers(at, followers);
    }

    pub fn follow(&mut self, at: usize, parent: usize) {
        self.note(|_| format!("node {at} is to follow {parent}"));
        let now_ms = self.now_ms;
        let server = &mut self.servers[at];
        if server.parent.replace(parent).is_none() {
            server.wrote = Some(server.node.histories().current);
        }
        server.waits.clear();
        let followers = server.node.follow("node", parent as u16);
        let config = link_config(at, parent);
        if server.link.is_some() {
            (server.told, server.excused) = (0, false);
            self.with_link(at, |link, out| link.reconfigure(config, now_ms, out));
        } else {
            server.link = Some(Replica::new(config, Some(server.place()), now_ms));
        }
        self.drop_followers(at, followers);
    }

    fn drop_followers(&mut self, at: usize, followers: Followers) {
        if followers == Followers::Drop {
            for conn in self.servers[at].primary.drop_all(self.now_ms) {
                self.close_primary_end(conn);
            }
        }
    }

    // Connections.

    /// The primary closes a connection.
    pub fn close_primary_end(&mut self, id: ConnId) {
        self.primary_end_closed(id);
        self.outbox.push((id, Way::Down, Packet::Close));
    }

    /// The primary finds a connection closed.
    pub fn primary_end_closed(&mut self, id: ConnId) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        if std::mem::take(&mut conn.primary_open) {
            let server = &mut self.servers[conn.primary];
            server.peers.remove(&id);
            server.primary.closed(id, self.now_ms);
        }
    }

    /// The replica finds a connection closed.
    pub fn replica_end_closed(&mut self, id: ConnId) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        let at = conn.replica;
        if std::mem::take(&mut conn.replica_open) && self.servers[at].link_conn == Some(id) {
            self.servers[at].link_conn = None;
            self.servers[at].forget_input();
            let now_ms = self.now_ms;
            self.with_link(at, |link, out| link.closed(now_ms, out));
        }
    }

    pub fn connected(&mut self, at: usize, run: u64, id: ConnId) {
        let now_ms = self.now_ms;
        if self.servers[at].run != run || self.servers[at].link_conn != Some(id) {
            return;
        }
        let primary = self.net.conns[&id].primary;
        if self.net.is_blocked(at, primary) || self.net.is_blocked(primary, at) {
            return; // nobody answers
        }
        let conn = self.net.conns.get_mut(&id).expect("the replica has it");
        if self.servers[primary].up {
            conn.primary_open = true;
            let peer = Peer {
                input: vec![],
                framer: Framer::default(),
                feeding: Feeding::Nothing,
                gate: Offset(0),
                held: vec![],
            };
            self.servers[primary].peers.insert(id, peer);
            self.with_link(at, |link, out| link.connected(now_ms, out));
        } else {
            conn.replica_open = false;
            self.servers[at].link_conn = None;
            self.with_link(at, |link, out| link.connect_failed("refused", now_ms, out));
            self.net.tidy();
        }
        self.end_turn(at);
    }

    // The replica's side.

    pub fn with_link(&mut self, at: usize, input: impl FnOnce(&mut Replica, &mut Vec<Output>)) {
        let mut out = vec![];
        if let Some(link) = &mut self.servers[at].link {
            input(link, &mut out);
        }
        for output in out {
            self.act(at, output, &[]);
        }
    }

    pub fn replica_reads(&mut self, at: usize, bytes: &[u8]) {
        let server = &mut self.servers[at];
        server.input.extend_from_slice(bytes);
        let conn = server.link_conn;
        loop {
            let server = &mut self.servers[at];
            let compressed = server.decoder.is_some();
            let buf = match &server.decoder {
                Some(decoder) => decoder.bytes().to_vec(),
                None => server.input.clone(),
            };
            let (Some(_), Some(link)) = (conn, &mut server.link) else {
                return server.forget_input();
            };
            let mut out = vec![];
            let taken = link.bytes(&buf, self.now_ms, &mut out);
            for output in out {
                self.act(at, output, &buf);
            }
            let server = &mut self.servers[at];
            if server.link_conn != conn {
                return;
            }
            match &mut server.decoder {
                Some(decoder) if compressed => decoder.consume(taken),
                _ => drop(server.input.drain(..taken)),
            }
            if !self.decode(at) {
                return;
            }
        }
    }

    /// Decodes the next frame of a compressed link, if one is whole and wanted.
    fn decode(&mut self, at: usize) -> bool {
        let now_ms = self.now_ms;
        let server = &mut self.servers[at];
        let (Some(decoder), Some(link)) = (&mut server.decoder, &mut server.link) else {
            return false;
        };
        if link.wanted() == 0 {
            return false;
        }
        if !server.input.is_empty() {
            link.heard(now_ms);
        }
        match decoder.decode(&server.input) {
            Ok(Some(taken)) => {
                server.input.drain(..taken);
                true
            }
            Ok(None) => false,
            Err(error) => {
                self.counts.damaged += 1;
                self.with_link(at, |link, out| link.damaged(error, now_ms, out));
                false
            }
        }
    }

    fn act(&mut self, at: usize, output: Output, buf: &[u8]) {
        let run = self.servers[at].run;
        match output {
            Output::Connect { port, .. } => {
                let delay = [1, 5, 40][self.random.index(3)];
                let id = self.net.connect(at, port as usize, delay);
                let server = &mut self.servers[at];
                server.link_conn = Some(id);
                self.net.conns.get_mut(&id).expect("it was just made").excused = server.excused;
                let after = delay + self.random.below(20);
                self.plan(after, Event::Connected { at, run, conn: id });
            }
            Output::Disconnect => {
                self.servers[at].forget_input();
                if let Some(id) = self.servers[at].link_conn.take()
                    && let Some(conn) = self.net.conns.get_mut(&id)
                {
                    conn.replica_open = false;
                    self.outbox.push((id, Way::Up, Packet::Close));
                }
            }
            Output::Send(bytes) => {
                let id = self.servers[at].link_conn.expect("it sends while it is connected only");
                self.outbox.push((id, Way::Up, Packet::Bytes(bytes)));
            }
            Output::RdbBegin { place, from, .. } => {
                let place = place.expect("it never asked with SYNC");
                let server = &mut self.servers[at];
                let held = server.receiving.take().map(|(_, held)| held).filter(|_| from > 0);
                let held = held.unwrap_or_default();
                assert_eq!(held.len() as u64, from, "the rest of what is not held");
                self.counts.resumed += u64::from(from > 0);
                server.receiving = Some((place, held));
            }
            Output::RdbBytes(range) => {
                if let Some((_, rdb)) = &mut self.servers[at].receiving {
                    rdb.extend_from_slice(&buf[range]);
                }
            }
            Output::RdbEnd => {
                self.servers[at].loading = self.servers[at].receiving.take();
                let after = self.random.between(20, 600);
                self.plan(after, Event::Loaded { at, run });
            }
            Output::RdbAbort { keep: true } => {}
            Output::RdbAbort { keep: false } => {
                (self.servers[at].receiving, self.servers[at].loading) = (None, None);
            }
            Output::Compressed => self.servers[at].decoder = Some(Decoder::default()),
            Output::Continue { history, former } => {
                self.counts.partial += 1;
                let server = &mut self.servers[at];
                let followers = server.node.continued(history, former, server.log.end());
                server.log.set_histories(server.node.histories());
                server.log.set_current_db(server.data.db());
                self.note(|w| format!("node {at} continues at {:?}", w.servers[at].place()));
                self.drop_followers(at, followers);
            }
            Output::Rollback { to } => {
                self.note(|_| format!("node {at} is to roll back to {to}"));
                self.servers[at].rolling = Some(to);
                let after = self.random.between(10, 400);
                self.plan(after, Event::RolledBack { at, run });
            }
            Output::Stream(range) => self.stream(at, &buf[range]),
            Output::TookOver | Output::FailoverRefused { .. } => {} // nobody asks for one here
            Output::LinkUp => (self.servers[at].told, self.servers[at].excused) = (0, false),
            Output::LinkDown { why } => self.note(|_| format!("node {at}: {why}")),
            Output::Log(_, text) => self.note(|_| format!("node {at}: {text}")),
        }
    }

    fn stream(&mut self, at: usize, bytes: &[u8]) {
        let inside = b"*2\r\n$4\r\nINCR\r\n$5\r\nright";
        match self.fault {
            Some(Fault::AckBeforeApply) => self.servers[at].delayed.extend_from_slice(bytes),
            Some(Fault::SplitMulti) => {
                self.apply_delayed(at, true);
                let cut = bytes.windows(inside.len()).position(|part| part == inside);
                let (now, later) = bytes.split_at(cut.unwrap_or(bytes.len()));
                self.servers[at].append_stream(now);
                self.servers[at].delayed.extend_from_slice(later);
            }
            _ => self.servers[at].append_stream(bytes),
        }
    }

    /// What a fault left for later.
    pub fn apply_delayed(&mut self, at: usize, now: bool) {
        if !self.servers[at].delayed.is_empty() && (now || self.random.one_in(10)) {
            let bytes = std::mem::take(&mut self.servers[at].delayed);
            self.servers[at].append_stream(&bytes);
        }
    }

    pub fn loaded(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let server = &mut self.servers[at];
        let Some((place, image)) = server.loading.take() else { return };
        let path = if self.random.one_in(12) { None } else { server.write_file(&image) };
        let Some(path) = path else {
            self.with_link(at, |link, out| link.rdb_failed("no room", true, now_ms, out));
            return self.end_turn(at);
        };
        self.counts.full += 1;
        let former = server.link.as_mut().map(Replica::take_former).unwrap_or_default();
        let followers = server.node.adopted(place.0, former);
        server.replace(server.node.histories(), image, path);
        let loaded = (server.node.histories().current, server.log.end());
        assert_eq!(loaded, place, "the snapshot is of another place");
        server.moved();
        self.rules.forget(at, server);
        self.note(|_| format!("node {at} has loaded {place:?}"));
        self.drop_followers(at, followers);
        self.with_link(at, |link, out| link.rdb_loaded(place, now_ms, out));
        self.replica_reads(at, &[]);
        self.end_turn(at);
    }

    /// From now on, until its link is up, the node may ask for everything.
    fn excuse(&mut self, at: usize) {
        self.servers[at].excused = true;
        let conn = self.servers[at].link_conn.and_then(|conn| self.net.conns.get_mut(&conn));
        if let Some(conn) = conn {
            conn.excused = true;
        }
    }

    pub fn rolled_back(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let Some(to) = self.servers[at].rolling.take() else { return };
        let done = match self.random.one_in(12) {
            true => Err("it was not to be".into()),
            false => self.servers[at].roll_back(to),
        };
        self.note(|_| format!("node {at} has rolled back: {done:?}"));
        self.drop_followers(at, Followers::Drop);
        match done {
            Ok((history, to)) => {
                // The primary has said which name it means.
                let link = self.servers[at].link.as_ref().and_then(|link| link.place());
                let place = (link.map_or(history, |(asked, _)| asked), to);
                self.counts.rollbacks += 1;
                self.servers[at].moved();
                let told_by = self.servers[at].told_by.filter(|by| *by == self.primary);
                // One that does not speak as Varve does is told no former names: it knows how far those
                // before its last one hold by what it held itself, which may have been less.
                let all_tell = self.servers.iter().all(|server| server.rolls_back);
                let knows = |server: &&Server| {
                    let names = server.log.histories();
                    let last = names.second().map(|(id, _)| id);
                    let asked = Some(place.0);
                    server.up && (all_tell || asked == last || asked == Some(names.current))
                };
                let primary = told_by.map(|by| &self.servers[by]).filter(knows);
                self.rules.rolled_back(at, &self.servers[at], primary);
                self.with_link(at, |link, out| link.rolled_back(place, now_ms, out));
            }
            Err(why) => {
                self.excuse(at);
                self.with_link(at, |link, out| link.rollback_failed(&why, now_ms, out));
            }
        }
        self.replica_reads(at, &[]);
        self.end_turn(at);
    }

    // The primary's side.

    fn reply(&mut self, id: ConnId, bytes: impl Into<Vec<u8>>) {
        self.outbox.push((id, Way::Down, Packet::Bytes(bytes.into())));
    }

    /// What is behind the reply to `PSYNC`, as its link has it.
    pub fn framed(&self, at: usize, id: ConnId, bytes: Vec<u8>) -> Vec<u8> {
        if !self.servers[at].primary.is_compressed(id) {
            return bytes;
        }
        let mut frames = vec![];
        Encoder::default().encode(&bytes, &mut frames);
        frames
    }

    pub fn primary_reads(&mut self, id: ConnId, bytes: &[u8]) {
        let (at, replica) = match self.net.conns.get(&id) {
            Some(conn) => (conn.primary, conn.replica),
            None => return,
        };
        if let Some(peer) = self.servers[at].peers.get_mut(&id) {
            peer.input.extend_from_slice(bytes);
        }
        loop {
            let server = &mut self.servers[at];
            let Some(peer) = server.peers.get_mut(&id) else { return };
            if peer.input.first() == Some(&b'\n') {
                peer.input.remove(0);
                server.primary.newline(id, self.now_ms);
                continue;
            }
            let Some(unit) = peer.framer.next(&peer.input).expect("replicas send commands") else {
                return;
            };
            let request: Vec<u8> = peer.input.drain(..unit.len).collect();
            let parts: Vec<&[u8]> = request.split(|&b| b == b'\n').skip(2).step_by(2).collect();
            let rolls_back = self.servers[replica].rolls_back;
            let parts = parts.iter().map(|part| part.trim_ascii());
            let args = OwnedArgs::new(parts.map(|part| match part {
                b"varve" if !rolls_back => b"unheard-of",
                part => part,
            }));
            let args = args.args();
            match &args[0] {
                b"PING" => self.reply(id, "+PONG\r\n"),
                b"REPLCONF" => match self.servers[at].primary.replconf(id, &args, self.now_ms) {
                    Ok(Replconf::Ok) => self.reply(id, "+OK\r\n"),
                    Ok(Replconf::Ack { start }) => {
                        let server = &mut self.servers[at];
                        let ahead = server.primary.acked(server.log.end() + 1);
                        if let Some(from) = start {
                            server.feed_from(id, from);
                        }
                        if ahead > 0 {
                            self.rules.broke(format!("node {replica} acknowledges the future"));
                        }
                    }
                    Ok(Replconf::Silent | Replconf::GetAck) => {}
                    Err(error) => self.reply(id, format!("-{error}\r\n")),
                },
                b"PSYNC" => {
                    let next = String::from_utf8_lossy(&args[2]).parse().expect("a number");
                    self.psync(at, replica, id, &args[1], next);
                }
                other => panic!("{}", other.escape_ascii()),
            }
        }
    }

    fn psync(&mut self, at: usize, replica: usize, conn: ConnId, id: &[u8], next: i64) {
        let server = &mut self.servers[at];
        let mut view = server.view();
        if self.fault == Some(Fault::ForgetLog) {
            view.first = view.end;
        }
        let decision = server.primary.psync(conn, id, next, &view, self.now_ms);
        let excused = self.net.conns.get(&conn).is_some_and(|conn| conn.excused);
        let rolls_back = self.servers[replica].rolls_back;
        self.rules.psync(&self.servers[at], (excused, rolls_back), id, next, &decision);
        self.note(|_| {
            let id = id.escape_ascii();
            format!("node {at} is asked by {replica} for {id} {next}: {decision:?}, {view:?}")
        });
        match decision {
            Decision::Continue { reply, from } => {
                self.reply(conn, reply);
                self.servers[at].feed_from(conn, from);
            }
            Decision::Full { .. } => self.supply(at),
            Decision::Rollback { reply, .. } => {
                self.servers[replica].told += 1;
                self.servers[replica].told_by = Some(at).filter(|by| *by == self.primary);
                if self.servers[replica].told > 1 {
                    self.excuse(replica);
                }
                self.reply(conn, reply);
            }
            Decision::Refuse(error) => self.reply(conn, format!("-{error}\r\n")),
            Decision::Ignore => {}
        }
    }

    /// Gives connections more of what they are due, while little is under way.
    pub fn pump(&mut self, at: usize) {
        let conns: Vec<ConnId> = self.servers[at].peers.keys().copied().collect();
        for id in conns {
            if self.is_held(at, id) {
                continue;
            }
            let held =
                self.servers[at].peers.get_mut(&id).map(|peer| std::mem::take(&mut peer.held));
            if let Some(held) = held.filter(|held| !held.is_empty()) {
                self.transmit(id, Way::Down, Packet::Bytes(held));
            }
            // A frame of a byte or two is nearly all header, and would fill the window with it.
            let least = match self.servers[at].primary.is_compressed(id) {
                true => WINDOW / 4,
                false => 1,
            };
            while let room = self.net.room(id)
                && room >= least
            {
                let most = 1 + self.random.index(room.min(1500));
                let Some(bytes) = self.servers[at].next_bytes(id, most) else {
                    self.note(|_| format!("node {at} has no more the place of connection {id}"));
                    self.close_primary_end(id);
                    break;
                };
                if bytes.is_empty() && !self.file_sent(at, id) {
                    break;
                }
                if !bytes.is_empty() {
                    let bytes = self.framed(at, id, bytes);
                    self.transmit(id, Way::Down, Packet::Bytes(bytes));
                }
            }
        }
    }

    /// Goes on with the log if the connection was sent a whole file.
    fn file_sent(&mut self, at: usize, id: ConnId) -> bool {
        let server = &mut self.servers[at];
        let Some(peer) = server.peers.get_mut(&id) else { return false };
        let Feeding::File { .. } = peer.feeding else { return false };
        peer.feeding = Feeding::Nothing;
        match server.primary.bulk_done(id, self.now_ms) {
            Some(AfterBulk::Feed { from }) => server.feed_from(id, from),
            Some(AfterBulk::AwaitAck) => {}
            other => panic!("{other:?} after a file that was sent"),
        }
        true
    }

    /// Finds snapshots for those that wait.
    pub fn supply(&mut self, at: usize) {
        loop {
            let sends_base = self.random.one_in(2);
            let server = &mut self.servers[at];
            let first = server.log.first_available();
            let file = server.snapshot.as_ref().filter(|snapshot| snapshot.stream.is_none());
            let view = SupplyView {
                end: None, // every server there wants the keys
                base: Some(server.base.1).filter(|base| sends_base && *base >= first),
                file: Some(server.file()).filter(|file| file.offset >= first),
                disk_child: file.map(|snapshot| snapshot.at),
                can_fork: server.snapshot.is_none(),
            };
            match server.primary.supply(&view, self.now_ms) {
                None | Some(Supply::Empty { .. }) => return,
                Some(Supply::Base { conns, .. }) => {
                    self.send_file(at, &conns);
                }
                Some(Supply::Join { conns, .. }) => self.announce(at, &conns, None),
                Some(Supply::Fork { target, conns, .. }) => {
                    if self.random.one_in(15) {
                        for id in self.servers[at].primary.fork_failed(&conns, self.now_ms) {
                            self.reply(id, "-ERR BGSAVE failed, replication can't continue\r\n");
                            self.close_primary_end(id);
                        }
                        return;
                    }
                    let stream = (target == Target::Socket).then(|| conns.clone());
                    let from = self.fork(at, stream);
                    let server = &mut self.servers[at];
                    let there = server.primary.forked(&conns, target, from, self.now_ms);
                    self.announce(at, &there, None);
                    if target == Target::Socket {
                        for id in there {
                            self.servers[at].primary.bulk_started(id, self.now_ms);
                        }
                    }
                }
            }
        }
    }

    /// A child that makes a snapshot of now.
    pub fn fork(&mut self, at: usize, stream: Option<Vec<ConnId>>) -> Offset {
        let run = self.servers[at].run;
        let id = self.random.next();
        let from = self.servers[at].begin_snapshot(id, stream);
        self.note(|w| format!("node {at} makes a snapshot of {:?}", w.servers[at].place()));
        let after = self.random.between(20, 1200);
        self.plan(after, Event::Snapshot { at, run, id });
        from
    }

    fn announce(&mut self, at: usize, conns: &[ConnId], file: Option<FileId>) {
        for &id in conns {
            let server = &mut self.servers[at];
            if let (Some(peer), Some(place)) =
                (server.peers.get_mut(&id), server.primary.snapshot_at(id))
            {
                peer.gate = place;
            }
            let histories = server.node.histories();
            if !server.primary.hears_of_file(id)
                && let Some(line) = server.primary.fullresync(id, histories, file)
            {
                self.say(at, id, line);
            }
        }
    }

    /// Whether the log is not yet written as far as the snapshot for this connection stands.
    fn is_held(&self, at: usize, id: ConnId) -> bool {
        let server = &self.servers[at];
        server.peers.get(&id).is_some_and(|peer| peer.gate > server.log.released())
    }

    /// Sends what is about a snapshot.
    fn say(&mut self, at: usize, id: ConnId, bytes: Vec<u8>) {
        if !self.is_held(at, id) {
            return self.reply(id, bytes);
        }
        if let Some(peer) = self.servers[at].peers.get_mut(&id) {
            peer.held.extend(bytes);
        }
    }

    /// Sends the base.
    fn send_file(&mut self, at: usize, conns: &[ConnId]) {
        let (bytes, file) = (self.servers[at].base.0.clone(), self.servers[at].file());
        for &id in conns {
            self.servers[at].primary.bulk_started(id, self.now_ms);
        }
        self.announce(at, conns, Some(file));
        for &id in conns {
            let from = self.servers[at].primary.sends_from(id) as usize;
            let header = format!("${}\r\n", bytes.len() - from).into_bytes();
            let header = self.framed(at, id, header);
            self.say(at, id, header);
            if let Some(peer) = self.servers[at].peers.get_mut(&id) {
                peer.feeding = Feeding::File { bytes: bytes.clone(), at: from };
            }
        }
    }

    pub fn snapshot_done(&mut self, at: usize, id: u64) {
        let fails = self.random.one_in(15);
        let server = &mut self.servers[at];
        let Some(snapshot) = server.snapshot.take_if(|snapshot| snapshot.id == id) else { return };
        let closed = match Server::target(&snapshot) {
            Target::Disk => {
                let path = if fails { None } else { server.write_file(&snapshot.image) };
                let waiting = server.primary.child_done(path.is_some(), self.now_ms);
                if let Some(path) = path {
                    let base = NewBase { path, at: snapshot.at, rdb: true, keep: true };
                    server.log.install_base(base);
                    server.base = (Arc::new(snapshot.image), snapshot.at);
                    self.send_file(at, &waiting);
                    vec![]
                } else {
                    waiting
                }
            }
            Target::Socket if fails => server.primary.stream_failed(self.now_ms),
            Target::Socket => {
                let mark = HistoryId::from_random(self.random.id());
                let header = format!("$EOF:{mark}\r\n").into_bytes();
                let bytes = Arc::new([&header, &*snapshot.image, mark.as_bytes()].concat());
                for id in snapshot.stream.into_iter().flatten() {
                    if let Some(peer) = self.servers[at].peers.get_mut(&id) {
                        peer.feeding = Feeding::File { bytes: bytes.clone(), at: 0 };
                    }
                }
                vec![]
            }
        };
        closed.into_iter().for_each(|id| self.close_primary_end(id));
        self.end_turn(at);
    }
}
