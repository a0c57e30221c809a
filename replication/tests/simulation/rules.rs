//! What must hold, whatever happens.
//!
//! 1. A history and an offset name one sequence of bytes and one data set, on whatever node.
//! 2. What `WAIT` counted a replica for is not lost by a failover to the best of the replicas.
//! 3. A full resync happens only if what was asked for is gone; what is promised can be fed.
//! 4. Transactions are applied whole, and nothing is taken back but by a rollback or a full resync.
//! 5. What the log called written survives the process, what it called synced the machine.
//! 6. What is kept for a peer is bounded, however far it lags.

use crate::data::Data;
use crate::network::WINDOW;
use crate::server::Server;
use std::collections::HashMap;
use varve_persistence::offset::{HistoryId, Offset};
use varve_replication::primary::Decision;

/// A write that a client was told to be on `counted`.
pub struct Acked {
    pub offset: u64,
    pub hash: u64,
    pub counted: Vec<usize>,
}

/// The largest unit that a client writes, and what surrounds it.
const UNIT: usize = 3200;

#[derive(Default)]
pub struct Rules {
    pub acked: Vec<Acked>,
    pub broken: Option<String>,
    hashes: HashMap<(HistoryId, u64), u64>,
    digests: HashMap<(HistoryId, u64), u64>,
    crashed: HashMap<usize, (Option<Offset>, Data)>,
}

impl Rules {
    pub fn broke(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broke(what());
        }
    }

    /// Looks at a node at the end of a turn.
    pub fn look(&mut self, at: usize, server: &mut Server) {
        let (history, end) = server.place();
        let data = &server.data;
        self.check(data.is_whole(), || format!("node {at} has half a transaction at {end}"));
        self.check(data.end() == end, || {
            format!("node {at} has the data of {}, and its log ends at {end}", data.offset)
        });
        let (last_history, last_end) = server.last;
        let backwards = history == last_history && end < last_end;
        self.check(!backwards, || format!("node {at} went back from {last_end} to {end}"));
        // What nobody was told of may be forgotten, and other bytes may come in its place.
        let told = match server.parent.is_none() || server.wrote == Some(history) {
            true => server.log.released().min(end),
            false => end,
        };
        let from = if history == server.seen.0 { server.seen.1.0 } else { 0 };
        let marks = data.marks_after(from).iter();
        for &(offset, hash) in marks.take_while(|(offset, _)| *offset <= told.0) {
            let known = *self.hashes.entry((history, offset)).or_insert(hash);
            self.check(known == hash, || {
                format!("node {at} holds other bytes of {history} up to {offset} than another")
            });
        }
        let digest = data.digest();
        let known = match told == end {
            true => *self.digests.entry((history, end.0)).or_insert(digest),
            false => digest,
        };
        self.check(known == digest, || {
            format!("node {at} holds other data at {history} {end} than another")
        });
        if let Some(link) = &server.link
            && server.delayed.is_empty()
        {
            // Under any name that the log bears there.
            let histories = server.node.histories();
            let names_it = link
                .place()
                .is_some_and(|(asked, offset)| offset == end && histories.continues(asked, offset));
            self.check(names_it, || {
                format!("node {at} is at {end}, and its link asks from {:?}", link.place())
            });
        }
        server.last = (history, end);
        server.seen = (history, told);
        self.check(server.input.len() <= WINDOW + UNIT, || {
            format!("node {at} keeps {} bytes of its primary's", server.input.len())
        });
        let inputs: usize = server.peers.values().map(|peer| peer.input.len()).sum();
        let bounded = server.primary.connections() <= server.peers.len() && inputs < 2000;
        self.check(bounded, || format!("node {at} keeps things of connections that are gone"));
    }

    /// Judges the answer of `primary` to a `PSYNC` of a replica, which may have a reason to ask for
    /// everything, and may be able to roll back.
    pub fn psync(
        &mut self,
        primary: &Server,
        (excused, rolls_back): (bool, bool),
        id: &[u8],
        next: i64,
        decision: &Decision,
    ) {
        match decision {
            Decision::Continue { from, .. } => {
                self.check(primary.can_feed(*from), || format!("nothing is at {from} to continue"));
            }
            Decision::Rollback { to, .. } => {
                self.check(rolls_back, || "it cannot roll back, and is told to".into());
                self.check(primary.can_feed(*to), || format!("nothing is at {to} to roll back to"));
            }
            Decision::Full { reason } if id == b"?" => {
                self.check(excused, || format!("everything was asked for without need: {reason}"));
            }
            Decision::Full { reason } => {
                let histories = *primary.log.histories();
                let history = HistoryId::parse(id).expect("replicas ask with histories");
                let asked = Offset::from_wire_next(next).expect("and with offsets");
                let common = match history == histories.current {
                    true => Some(primary.log.end()),
                    false => histories.shared(history),
                };
                let there = common.is_some_and(|common| {
                    (rolls_back || asked <= common) && primary.can_feed(common.min(asked))
                });
                self.check(!there, || format!("a full resync without need: {reason}"));
            }
            Decision::Refuse(_) => {}
            Decision::Ignore => self.broke("PSYNC came twice".into()),
        }
    }

    /// A process ends that had promised to have so much when it comes back.
    pub fn crashed(&mut self, at: usize, promised: Option<Offset>, server: &Server) {
        self.crashed.insert(at, (promised, server.data.clone()));
    }

    pub fn restarted(&mut self, at: usize, server: &Server, is_primary: bool) {
        let Some((promised, old)) = self.crashed.remove(&at) else { return };
        let (offset, hash) = (server.data.offset, server.data.hash);
        if let Some(promised) = promised {
            self.check(promised.0 <= offset, || {
                format!("node {at} comes back with {offset} bytes, and had {promised} for sure")
            });
            self.check(offset == 0 || old.holds(offset, hash), || {
                format!("node {at} comes back with other bytes than it had")
            });
        }
        self.forget(at, server);
        if is_primary {
            self.acked.retain(|write| server.data.holds(write.offset, write.hash));
        }
    }

    /// A node no longer has what it had: what it was counted for is no promise of its any more.
    pub fn forget(&mut self, at: usize, server: &Server) {
        for write in &mut self.acked {
            if !server.data.holds(write.offset, write.hash) {
                write.counted.retain(|&node| node != at);
            }
        }
    }

    /// A node went back for another's sake. If that was the primary, it had nothing that was to stay.
    /// (A node in between knows less of what its former name is shared up to.)
    pub fn rolled_back(&mut self, at: usize, server: &Server, primary: Option<&Server>) {
        let lost = self.acked.iter().find(|write| {
            let had = |server: &Server| server.data.holds(write.offset, write.hash);
            write.counted.contains(&at) && !had(server) && primary.is_some_and(had)
        });
        if let Some(write) = lost {
            let what = format!("node {at} went back behind {} that its primary has", write.offset);
            self.broke(what);
        }
        self.forget(at, server);
    }

    /// `new` becomes the primary, chosen among `loyal`.
    pub fn failover(&mut self, new: usize, loyal: &[usize], servers: &[Server]) {
        let holds = |write: &Acked| servers[new].data.holds(write.offset, write.hash);
        let lost = self
            .acked
            .iter()
            .find(|write| loyal.iter().any(|node| write.counted.contains(node)) && !holds(write));
        if let Some(Acked { offset, counted, .. }) = lost {
            let what = format!(
                "node {new} becomes the primary without {offset}, acknowledged for {counted:?}"
            );
            self.broke(what);
        }
        self.acked.retain(holds);
    }
}
