//! Snapshots for replicas that cannot continue.
//!
//! The log keeps every byte since it was told to, so any snapshot at an offset that the log still
//! reaches will do, and the cheapest is taken: a base that lies on disk, a child that writes one
//! already, and only then a new child. Redis can let a newcomer join a child only if another replica
//! waits for the same one, because it must copy that one's buffer; here a place in the log is enough,
//! so any child that writes a complete RDB to disk can be joined.
//!
//! A replica whose full sync broke off may hold the beginning of the file that lies there. Then it gets
//! the rest of that, even where others would get something newer.
//!
//! A child that streams to sockets cannot be joined once it runs. So it is started late
//! (`repl-diskless-sync-delay`), or when enough replicas wait.

use std::fmt::Write;
use varve_persistence::offset::{Histories, Offset};

use super::{ConnId, Peer, Primary, State};
use crate::file::{FileId, Part};
use crate::wire;

/// Where a child writes its RDB to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Disk,
    /// The replicas' connections, with an end mark.
    Socket,
}

/// Where a replica's RDB comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file that is complete already.
    Base,
    Child(Target),
}

/// What there is to take from.
#[derive(Clone, Copy, Debug)]
pub struct SupplyView {
    /// Where the log ends, if a replica may be fed from there on: not in the middle of a transaction.
    pub end: Option<Offset>,
    /// The offset of a complete RDB on disk that the log continues, if sending that is wanted.
    pub base: Option<Offset>,
    /// The file on disk that the log continues, wanted or not: for those who hold a part of it.
    pub file: Option<FileId>,
    /// The offset of a complete RDB that a child is writing to disk, if the log continues it.
    pub disk_child: Option<Offset>,
    /// Whether a child may be started now: none runs, and forks are not forbidden.
    pub can_fork: bool,
}

/// What is to be done for some of the replicas that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supply {
    /// Send an RDB without any key, which stands where the log ends: as [`Supply::Base`].
    Empty { from: Offset, conns: Vec<ConnId> },
    /// Send the RDB that is on disk and holds the log up to `from`. The replies to `PSYNC` come from
    /// [`Primary::fullresync`]; then [`Primary::bulk_started`] and [`Primary::bulk_done`].
    Base { from: Offset, conns: Vec<ConnId> },
    /// The same, once the child that runs has finished its file ([`Primary::child_done`]).
    Join { from: Offset, conns: Vec<ConnId> },
    /// Start a child and answer with [`Primary::forked`] or [`Primary::fork_failed`].
    Fork { target: Target, conns: Vec<ConnId> },
}

/// What to do with a replica that has its whole RDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterBulk {
    /// Feed the log from here on, now.
    Feed { from: Offset },
    /// Feed it when an ACK comes: see [`super::Replconf::Ack`]. A Redis replica looks for the end
    /// mark at the end of a read only, so nothing may follow it before the replica has seen it.
    AwaitAck,
    /// The RDB was all that it wanted: close the connection when it has that.
    Nothing,
}

impl Primary {
    /// The next thing to do for replicas that wait, if there is any now. To be asked until `None`
    /// after a full sync was decided on, after a child ended, and now and then.
    pub fn supply(&mut self, view: &SupplyView, now_ms: u64) -> Option<Supply> {
        if let Some(from) = view.end
            && let Some(conns) = self.assign(from, Source::Base, |peer| !peer.wants_keys)
        {
            return Some(Supply::Empty { from, conns });
        }
        if let Some(from) = view.base
            && let Some(conns) = self.assign(from, Source::Base, |peer| peer.wants_keys)
        {
            return Some(Supply::Base { from, conns });
        }
        if let Some(file) = view.file
            && let Some(conns) = self.assign(file.offset, Source::Base, |peer| peer.holds(file))
        {
            return Some(Supply::Base { from: file.offset, conns });
        }
        if let Some(from) = view.disk_child
            && let Some(conns) =
                self.assign(from, Source::Child(Target::Disk), |peer| peer.wants_keys)
        {
            return Some(Supply::Join { from, conns });
        }
        if !view.can_fork {
            return None;
        }
        let group = || self.waiting().filter(|(peer, _)| peer.wants_keys);
        let conns: Vec<ConnId> = group().map(|(peer, _)| peer.conn).collect();
        let oldest_ms = group().map(|(_, since_ms)| since_ms).min()?;
        let streams = self.config.diskless && group().all(|(peer, _)| peer.eof);
        let enough = self.config.diskless_max_replicas;
        let due = !self.config.diskless
            || (enough > 0 && conns.len() >= enough)
            || now_ms.saturating_sub(oldest_ms) >= self.config.diskless_delay_ms;
        let target = if streams { Target::Socket } else { Target::Disk };
        due.then_some(Supply::Fork { target, conns })
    }

    /// The child for [`Supply::Fork`] runs, and its RDB holds the log up to `from`. Those of `conns`
    /// that are still there now wait for it; each is due its [`Primary::fullresync`].
    pub fn forked(
        &mut self,
        conns: &[ConnId],
        target: Target,
        from: Offset,
        now_ms: u64,
    ) -> Vec<ConnId> {
        let source = Source::Child(target);
        let mut there = vec![];
        for peer in self.peers.iter_mut().filter(|peer| conns.contains(&peer.conn)) {
            if matches!(peer.state, State::WaitBgsaveStart { .. }) {
                peer.state = State::WaitBgsaveEnd { from, source };
                peer.progress_ms = now_ms;
                there.push(peer.conn);
            }
        }
        there
    }

    /// The child for [`Supply::Fork`] could not be started. Returns whose connections are to be closed,
    /// after `-ERR BGSAVE failed, replication can't continue`; they are forgotten.
    pub fn fork_failed(&mut self, conns: &[ConnId], now_ms: u64) -> Vec<ConnId> {
        self.forget(now_ms, |peer| {
            conns.contains(&peer.conn) && matches!(peer.state, State::WaitBgsaveStart { .. })
        })
    }

    /// Whether the reply to `PSYNC` of a replica that was given a snapshot must wait until the child
    /// has written it, since it tells which file that is.
    pub fn hears_of_file(&self, conn: ConnId) -> bool {
        self.replica(conn).is_some_and(|peer| {
            let child = Source::Child(Target::Disk);
            let waits =
                matches!(peer.state, State::WaitBgsaveEnd { source, .. } if source == child);
            waits && !peer.told && peer.takes_parts()
        })
    }

    /// The reply to `PSYNC` of a replica that was given a snapshot, `file` if it is a file that has an
    /// identity; nothing for one that said `SYNC` or was told already. What follows it is compressed if
    /// [`Primary::is_compressed`] says so afterwards, and begins with byte [`Primary::sends_from`].
    pub fn fullresync(
        &mut self,
        conn: ConnId,
        histories: Histories,
        file: Option<FileId>,
    ) -> Option<Vec<u8>> {
        let lz4 = self.config.lz4;
        let peer = self.replica_mut(conn).filter(|peer| !peer.pre_psync && !peer.told)?;
        let (State::WaitBgsaveEnd { from, .. } | State::SendBulk { from, .. }) = peer.state else {
            return None;
        };
        peer.told = true;
        let mut line = format!("+FULLRESYNC {} {from}", histories.current);
        for (id, upto) in histories.former().filter(|_| peer.varve) {
            let _ = write!(line, " {}{id}:{upto}", wire::FORMER);
        }
        let file = file.filter(|file| peer.takes_parts() && file.offset == from);
        if let Some(file) = file {
            let _ = write!(line, " {}{file}", wire::FILE);
        }
        let part = peer.part.take();
        if let Some(part) = part.filter(|part| Some(part.file) == file) {
            peer.from = part.bytes;
            let _ = write!(line, " {}{}", wire::FROM, part.bytes);
        }
        line.push_str(&peer.agree(lz4));
        line.push_str("\r\n");
        let resumes = peer.from > 0;
        self.resumed += u64::from(resumes);
        self.full += u64::from(part.is_some() && !resumes);
        Some(line.into_bytes())
    }

    /// Where the snapshot stands that a replica is to have.
    pub fn snapshot_at(&self, conn: ConnId) -> Option<Offset> {
        match self.replica(conn)?.state {
            State::WaitBgsaveEnd { from, .. } | State::SendBulk { from, .. } => Some(from),
            _ => None,
        }
    }

    /// The byte of its file that a replica is sent first.
    pub fn sends_from(&self, conn: ConnId) -> u64 {
        self.replica(conn).map_or(0, |peer| peer.from)
    }

    /// The child that wrote to disk has finished. Returns who waits for its file, or, if it did not
    /// succeed, whose connections are to be closed; those are forgotten.
    pub fn child_done(&mut self, success: bool, now_ms: u64) -> Vec<ConnId> {
        let waits = |peer: &Peer| {
            matches!(peer.state, State::WaitBgsaveEnd { source: Source::Child(Target::Disk), .. })
        };
        match success {
            true => self.peers.iter().filter(|peer| waits(peer)).map(|peer| peer.conn).collect(),
            false => self.forget(now_ms, waits),
        }
    }

    /// The child that streamed failed. Returns whose connections are to be closed: everyone who did
    /// not get all of it; they are forgotten.
    pub fn stream_failed(&mut self, now_ms: u64) -> Vec<ConnId> {
        self.forget(now_ms, |peer| {
            matches!(
                peer.state,
                State::WaitBgsaveEnd { source: Source::Child(Target::Socket), .. }
                    | State::SendBulk { source: Source::Child(Target::Socket), .. }
            )
        })
    }

    /// The RDB begins to be sent. No newlines go out from now on.
    pub fn bulk_started(&mut self, conn: ConnId, now_ms: u64) {
        if let Some(peer) = self.replica_mut(conn)
            && let State::WaitBgsaveEnd { from, source } = peer.state
        {
            peer.state = State::SendBulk { from, source };
            peer.progress_ms = now_ms;
        }
    }

    /// The connection took some bytes of its RDB.
    pub fn bulk_progress(&mut self, conn: ConnId, now_ms: u64) {
        if let Some(peer) = self.replica_mut(conn) {
            peer.progress_ms = now_ms;
        }
    }

    /// The RDB was sent. `None` for a connection that was sent none.
    pub fn bulk_done(&mut self, conn: ConnId, now_ms: u64) -> Option<AfterBulk> {
        let peer = self.replica_mut(conn)?;
        let State::SendBulk { from, source } = peer.state else { return None };
        peer.heard_ms = now_ms;
        if peer.rdb_only {
            peer.state = State::Transmitted;
            return Some(AfterBulk::Nothing);
        }
        // A replica that knows only SYNC never sends an ACK that could be waited for.
        let streamed = source == Source::Child(Target::Socket);
        let wait = streamed && !peer.pre_psync && !peer.early_ack;
        peer.state = State::Online { await_ack: wait.then_some(from) };
        Some(if wait { AfterBulk::AwaitAck } else { AfterBulk::Feed { from } })
    }

    /// Where a replica that has its snapshot, or is about to, will be fed the log from.
    pub fn feeds_from(&self, conn: ConnId) -> Option<Offset> {
        match self.replica(conn)?.state {
            State::WaitBgsaveEnd { from, .. } | State::SendBulk { from, .. } => Some(from),
            State::Online { await_ack } => await_ack,
            _ => None,
        }
    }

    fn waiting(&self) -> impl Iterator<Item = (&Peer, u64)> {
        self.peers.iter().filter_map(|peer| match peer.state {
            State::WaitBgsaveStart { since_ms } => Some((peer, since_ms)),
            _ => None,
        })
    }

    /// Gives a complete snapshot to those of `which` who wait for one. Who takes an RDB and no
    /// log after it, as backups do, must find in it all that there was when it asked.
    fn assign(
        &mut self,
        from: Offset,
        source: Source,
        which: impl Fn(&Peer) -> bool,
    ) -> Option<Vec<ConnId>> {
        let mut conns = vec![];
        for peer in &mut self.peers {
            let is_whole = from >= peer.asked_at || !(peer.rdb_only || peer.pre_psync);
            if matches!(peer.state, State::WaitBgsaveStart { .. }) && is_whole && which(peer) {
                peer.state = State::WaitBgsaveEnd { from, source };
                conns.push(peer.conn);
            }
        }
        (!conns.is_empty()).then_some(conns)
    }

    fn forget(&mut self, now_ms: u64, which: impl Fn(&Peer) -> bool) -> Vec<ConnId> {
        let gone = self.peers.iter().filter(|peer| which(peer)).map(|peer| peer.conn).collect();
        self.peers.retain(|peer| !which(peer));
        self.note_lonely(now_ms);
        gone
    }
}

impl Peer {
    /// Whether it is told which file it is sent, to come back for the rest.
    fn takes_parts(&self) -> bool {
        self.varve && !self.rdb_only
    }

    fn holds(&self, file: FileId) -> bool {
        self.takes_parts() && self.part.is_some_and(|Part { file: of, .. }| of == file)
    }
}
