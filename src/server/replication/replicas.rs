//! The primary's side: what replicas are answered, and which snapshot they get.

use super::super::Server;
use super::super::client::{Client, Kind};
use super::super::dispatch::Call;
use super::super::progress::{Progress, Unit};
use super::super::snapshot::{OnDisk, Purpose};
use super::compress::{self, Piece};
use super::feed::{FEED_FILE, Feeding, Snapshot};
use crate::{log_notice, log_warning};
use std::sync::Arc;
use varve_engine::keyspace::Keyspace;
use varve_engine::{Args, Error};
use varve_net::{Conn, ConnId, Net};
use varve_persistence::offset::{HistoryId, Offset};
use varve_persistence::rdb::{self, Buffers};
use varve_replication::file::FileId;
use varve_replication::node::Followers;
use varve_replication::primary::supply::{AfterBulk, Supply, SupplyView, Target};
use varve_replication::primary::{Decision, Replconf};
use varve_replication::wire::PRIMARY_ALREADY;

impl Server {
    /// `REPLCONF` from a client.
    pub fn replconf(&mut self, call: &mut Call<'_>, args: &Args<'_>) -> Result<(), Error> {
        match self.repl.primary.replconf(call.id, args, self.now_u64())? {
            Replconf::Ok => call.reply.ok(),
            Replconf::Silent | Replconf::GetAck => {}
            Replconf::Ack { start } => {
                if let Some(from) = start {
                    self.feed_from(call.id, from);
                    call.client.reconfigure = true;
                }
                if self.waiters.any_on_replicas() {
                    self.serve_replica_waiters(call.net);
                }
            }
        }
        call.client.speaks_replconf = true;
        Ok(())
    }

    /// `PSYNC id offset [FAILOVER]`: with the last word, the primary asks this replica to take over.
    pub fn psync(
        &mut self,
        call: &mut Call<'_>,
        id: &[u8],
        next: i64,
        take_over: bool,
    ) -> Result<(), Error> {
        if take_over {
            if self.is_primary() {
                return Err(Error::new(PRIMARY_ALREADY));
            }
            let ours = self.repl.node.histories().current;
            if HistoryId::parse(id) != Some(ours) {
                return Err(Error::new("ERR PSYNC FAILOVER replid must match my replid."));
            }
            log_notice!("Taking over from the primary, as '{}' asks", call.client.peer);
            self.promote(call.net);
        }
        let view = self.log_view();
        let decision = self.repl.primary.psync(call.id, id, next, &view, self.now_u64());
        self.answer_sync(call, decision)
    }

    /// `SYNC`.
    pub fn sync(&mut self, call: &mut Call<'_>) -> Result<(), Error> {
        let view = self.log_view();
        let decision = self.repl.primary.sync(call.id, &view, self.now_u64());
        self.answer_sync(call, decision)
    }

    fn answer_sync(&mut self, call: &mut Call<'_>, decision: Decision) -> Result<(), Error> {
        match decision {
            Decision::Refuse(error) => return Err(error),
            Decision::Ignore => return Ok(()),
            Decision::Continue { reply, from } => {
                log_notice!(
                    "Partial resynchronization request from {} accepted: it goes on from offset {from}, {} bytes behind",
                    call.client.peer,
                    self.log.end() - from
                );
                call.reply.raw(&reply);
                self.become_replica(call);
                self.reply_was_sent(call.id, call.client);
                self.feed_from(call.id, from);
            }
            Decision::Rollback { reply, to, reason } => {
                log_notice!(
                    "Replica {} is asked to roll back to offset {to}: {reason}",
                    call.client.peer
                );
                call.reply.raw(&reply);
            }
            Decision::Full { reason } => {
                log_notice!("Full resync requested by replica {}: {reason}", call.client.peer);
                self.become_replica(call);
                self.repl.feeding.insert(call.id, Feeding::Nothing);
                self.supply_due = true;
            }
        }
        Ok(())
    }

    fn become_replica(&mut self, call: &mut Call<'_>) {
        call.client.kind = Kind::Replica;
        call.client.reconfigure = true;
    }

    pub fn replica_closed(&mut self, _: &mut Net<Client>, id: ConnId) {
        self.repl.feeding.remove(&id);
        if self.repl.primary.closed(id, self.now_u64()) {
            log_notice!("Connection with replica client id #{id} lost.");
        }
        // Nobody left to stream to: the child works for nothing.
        let orphan = self.snapshots.running.as_ref().is_some_and(|r| match &r.purpose {
            Purpose::SyncSocket { conns, .. } => {
                !conns.iter().any(|c| self.repl.feeding.contains_key(c))
            }
            _ => false,
        });
        if orphan {
            log_notice!("No replica is left that waits for the RDB: ending the child");
            if let Some(running) = &self.snapshots.running {
                let _ = nix::sys::signal::kill(running.pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }

    /// Sends this server's own replicas away, so that they come back and learn the new history.
    pub(super) fn drop_followers(&mut self, net: &mut Net<Client>, followers: Followers) {
        if followers == Followers::Drop {
            for id in self.repl.primary.drop_all(self.now_u64()) {
                net.kill(id);
            }
        }
    }

    /// Asks all replicas to say how far they are: for `WAIT`. Once a turn is enough for all.
    pub fn ask_for_acks(&mut self) {
        self.acks_due = true;
    }

    /// Finds snapshots for the replicas that wait for one.
    pub(super) fn supply(&mut self, net: &mut Net<Client>) {
        loop {
            let valid = self.valid_base();
            let file = valid.as_ref().ok().and_then(|base| base.file());
            let base = valid.and_then(|base| self.is_worth_sending(base));
            let end = self.log.end();
            let between = self.loading.is_none() && self.in_exec.is_none();
            let view = SupplyView {
                end: between.then_some(end),
                base: base.as_ref().ok().copied(),
                file,
                disk_child: self.snapshots.running.as_ref().and_then(|r| {
                    let is_whole = matches!(r.purpose, Purpose::Save | Purpose::SyncDisk);
                    (is_whole && r.at >= self.log.first_available()).then_some(r.at)
                }),
                // A base about to be in force is worth the moment that it takes. In a load the data
                // are neither the old ones nor the new.
                can_fork: !self.snapshots.running()
                    && between
                    && (!self.snapshots.installing || self.log.is_failing()),
            };
            let now = self.now_u64();
            let Some(supply) = self.repl.primary.supply(&view, now) else { return };
            match supply {
                Supply::Empty { conns, .. } => self.send_empty(net, &conns),
                Supply::Base { from, conns } => {
                    match base {
                        Ok(_) => log_notice!(
                            "Full sync from the snapshot on disk at offset {from}: the log continues it, no fork"
                        ),
                        Err(why) => log_notice!(
                            "Full sync from the snapshot on disk at offset {from}, as the replica holds a part of it, though {why}"
                        ),
                    }
                    self.send_file(net, &conns);
                }
                Supply::Join { from, conns } => {
                    log_notice!("Full sync joins the save that runs, of offset {from}");
                    self.announce(net, &conns, None);
                }
                Supply::Fork { target, conns } => {
                    log_notice!("Full sync by a new child: {}", base.err().unwrap_or_default());
                    self.fork_for(net, target, &conns);
                }
            }
        }
    }

    /// Full syncs may have the log's new base, unless a newer save is there or it holds commands.
    pub(in crate::server) fn serve_base(&mut self, at: Offset) {
        let newest = self.snapshots.base.as_ref().is_none_or(|held| held.at < at);
        if let Some(path) = self.log.base_path()
            && newest
            && path.extension().is_some_and(|kind| kind == "rdb")
        {
            self.snapshots.base = Some(OnDisk::new(path, at));
        }
    }

    /// A complete RDB on disk that the log continues; and if there is none, why.
    fn valid_base(&self) -> Result<&OnDisk, String> {
        let Some(base) = &self.snapshots.base else {
            return Err("there is no snapshot on disk".into());
        };
        if !base.is_there() {
            return Err(format!("{} is another file now", base.path.display()));
        }
        // A newer primary may have made it, for replicas that are older than that.
        if base.version > Some(self.cfg.rdb_version) {
            return Err(format!(
                "the snapshot on disk is newer than rdb-version {}",
                self.cfg.rdb_version
            ));
        }
        if base.at < self.log.first_available() {
            return Err("the log does not reach back to the snapshot on disk".into());
        }
        Ok(base)
    }

    /// Where the snapshot stands, unless writing a new one costs less than sending it and running the
    /// log after it.
    fn is_worth_sending(&self, base: &OnDisk) -> Result<Offset, String> {
        let behind = self.log.end().0.saturating_sub(base.at.0);
        match behind <= base.bytes().max(self.cfg.repl_backlog_size).max(64 << 20) {
            true => Ok(base.at),
            false => Err(format!("the snapshot on disk is {} MB behind", behind >> 20)),
        }
    }

    fn fork_for(&mut self, net: &mut Net<Client>, target: Target, conns: &[ConnId]) {
        let purpose = match target {
            Target::Disk => Purpose::SyncDisk,
            Target::Socket => {
                let mark = self.stream_mark();
                Purpose::SyncSocket { conns: conns.to_vec(), mark }
            }
        };
        let mark = match &purpose {
            Purpose::SyncSocket { mark, .. } => Some(*mark),
            _ => None,
        };
        log_notice!(
            "Starting BGSAVE for SYNC with target: {}",
            if mark.is_some() { "replicas sockets" } else { "disk" }
        );
        let now = self.now_u64();
        match self.start_child(net, purpose) {
            Ok(at) => {
                let there = self.repl.primary.forked(conns, target, at, now);
                self.announce(net, &there, None);
                if let Some(mark) = mark {
                    for id in there {
                        self.repl.primary.bulk_started(id, now);
                        self.repl.feeding.insert(id, Feeding::Stream);
                        if let Some(conn) = net.conn_mut(id) {
                            compress::send(conn, &[b"$EOF:", &mark[..], b"\r\n"].concat());
                            net.mark_dirty(id);
                        }
                    }
                }
            }
            Err(_) => {
                for id in self.repl.primary.fork_failed(conns, now) {
                    if let Some(conn) = net.conn_mut(id) {
                        let error = b"-ERR BGSAVE failed, replication can't continue\r\n";
                        compress::send(conn, error);
                        conn.close_after_reply = true;
                        net.mark_dirty(id);
                    }
                }
            }
        }
    }

    /// Tells replicas which state their snapshot is, and in which file, unless they know already.
    fn announce(&mut self, net: &mut Net<Client>, conns: &[ConnId], file: Option<FileId>) {
        let histories = self.repl.node.histories();
        for &id in conns {
            if let Some(at) = self.repl.primary.snapshot_at(id)
                && let Some(conn) = net.conn_mut(id)
            {
                conn.session.snapshot_at = at.0;
            }
            if self.repl.primary.hears_of_file(id) {
                continue;
            }
            let Some(line) = self.repl.primary.fullresync(id, histories, file) else { continue };
            if let Some(conn) = net.conn_mut(id) {
                conn.output.raw(&line);
                self.reply_was_sent(id, &mut conn.session);
                net.mark_dirty(id);
            }
        }
    }

    /// Sends the snapshot on disk, or what of it a replica does not hold yet.
    fn send_file(&mut self, net: &mut Net<Client>, conns: &[ConnId]) {
        let Some(base) = &self.snapshots.base else { return };
        let file = match Snapshot::open(&base.path) {
            Ok(file) => Arc::new(file),
            Err(error) => {
                log_warning!("Can't read {} for a full sync: {error}", base.path.display());
                for &id in conns {
                    net.kill(id);
                }
                return;
            }
        };
        let size = file.len() as u64;
        let identity = base.file().filter(|identity| identity.size == size);
        let now = self.now_u64();
        conns.iter().for_each(|&id| self.repl.primary.bulk_started(id, now));
        self.announce(net, conns, identity);
        for &id in conns {
            let from = self.repl.primary.sends_from(id);
            let progress = Progress::resumed(Unit::Bytes, Some(size), from);
            self.repl.feeding.insert(id, Feeding::File { file: Some(file.clone()), progress });
            if let Some(conn) = net.conn_mut(id) {
                if from > 0 {
                    let peer = &conn.session.peer;
                    log_notice!("Full sync resumes at byte {from} of {size} for replica {peer}");
                }
                compress::send(conn, format!("${}\r\n", size - from).as_bytes());
                net.mark_dirty(id);
            }
        }
    }

    /// Sends an RDB that tells where the log stands and holds nothing else.
    fn send_empty(&mut self, net: &mut Net<Client>, conns: &[ConnId]) {
        let mut rdb = vec![];
        let mut write = |bytes: &[u8]| {
            rdb.extend_from_slice(bytes);
            Ok(())
        };
        let options = self.save_options(self.cfg.rdb_version);
        if self.is_primary() {
            self.log.select_again();
        }
        rdb::save(&Keyspace::new(0, 0), &options, &mut Buffers::new(), &mut write, &mut |_| ())
            .expect("memory takes all that is written");
        let now = self.now_u64();
        conns.iter().for_each(|&id| self.repl.primary.bulk_started(id, now));
        self.announce(net, conns, None);
        for &id in conns {
            let Some(conn) = net.conn_mut(id) else { continue };
            compress::send(conn, &[format!("${}\r\n", rdb.len()).as_bytes(), &rdb].concat());
            let peer = conn.session.peer.to_string();
            net.mark_dirty(id);
            self.bulk_sent(net, id, &peer);
        }
    }

    /// A connection was given the last byte of its RDB.
    pub(super) fn bulk_sent(&mut self, net: &mut Net<Client>, id: ConnId, peer: &str) {
        let now = self.now_u64();
        log_notice!("Synchronization with replica {peer} succeeded");
        self.after_bulk(net, id, now);
    }

    pub(super) fn after_bulk(&mut self, net: &mut Net<Client>, id: ConnId, now: u64) {
        let next = self.repl.primary.bulk_done(id, now);
        if let Some(AfterBulk::Feed { from }) = next {
            return self.feed_from(id, from);
        }
        self.repl.feeding.insert(id, Feeding::Nothing);
        if next == Some(AfterBulk::Nothing)
            && let Some(conn) = net.conn_mut(id)
        {
            conn.close_after_reply = true;
            net.mark_dirty(id);
        }
    }

    /// Passes on what a child streams to all who wait for it.
    pub fn stream_to_replicas(&mut self, net: &mut Net<Client>, conn: &mut Conn<Client>) {
        let Some(running) = &self.snapshots.running else { return };
        let Purpose::SyncSocket { conns, .. } = &running.purpose else { return };
        let bytes: Arc<Vec<u8>> = Arc::new(conn.input.bytes().to_vec());
        let len = bytes.len();
        conn.input.consume(len);
        let mut fullest = 0;
        // For all whose link is compressed, made once.
        let mut frames = None;
        for &id in conns {
            if !matches!(self.repl.feeding.get(&id), Some(Feeding::Stream)) {
                continue;
            }
            if let Some(replica) = net.conn_mut(id) {
                let piece = match replica.session.compression {
                    Some(_) => frames.get_or_insert_with(|| Piece::frames(&bytes)).clone(),
                    None => Piece::Plain(bytes.clone(), 0..len),
                };
                let sent = piece.send(replica);
                fullest = fullest.max(replica.output.len());
                self.stats.net_replication_out += sent as u64;
                net.mark_dirty(id);
            }
        }
        // A slow replica costs no more than with a file: what waits here counts for `maxmemory`.
        if fullest > FEED_FILE {
            conn.pause_read = true;
            self.stream_paused = Some(conn.id);
        }
    }

    /// Reads on from a child that was held back, if its readers have caught up.
    pub(super) fn resume_stream(&mut self, net: &mut Net<Client>) {
        let Some(id) = self.stream_paused else { return };
        let full = self.repl.feeding.iter().any(|(id, feeding)| {
            matches!(feeding, Feeding::Stream)
                && net.conn(*id).is_some_and(|c| c.output.len() > FEED_FILE / 2)
        });
        if !full {
            self.stream_paused = None;
            if let Some(conn) = net.conn_mut(id) {
                conn.pause_read = false;
            }
            net.resume(id);
        }
    }

    /// A child that worked for replicas, or that replicas joined, has ended.
    pub fn sync_child_ended(&mut self, net: &mut Net<Client>, purpose: &Purpose, ok: bool) {
        let now = self.now_u64();
        match purpose {
            Purpose::SyncSocket { conns, .. } => {
                if ok {
                    for &id in conns {
                        if matches!(self.repl.feeding.get(&id), Some(Feeding::Stream)) {
                            self.after_bulk(net, id, now);
                        }
                    }
                } else {
                    for id in self.repl.primary.stream_failed(now) {
                        net.kill(id);
                    }
                }
            }
            Purpose::Save | Purpose::SyncDisk => {
                let waiting = self.repl.primary.child_done(ok, now);
                if !ok {
                    for id in waiting {
                        net.kill(id);
                    }
                } else if !waiting.is_empty() {
                    self.send_file(net, &waiting);
                }
            }
            Purpose::Rewrite => {}
        }
        self.supply_due = true;
    }

    /// Whether this server keeps no data on disk.
    pub(super) fn keeps_nothing(&self) -> bool {
        self.cfg.save.is_empty() && !self.cfg.appendonly
    }

    /// Removes the dump that was written for replicas only, when none needs it any more.
    pub(super) fn remove_sync_file(&mut self, now: u64) {
        if !self.snapshots.sync_file || !self.cfg.rdb_del_sync_files || !self.keeps_nothing() {
            return;
        }
        if self.snapshots.running() || !self.repl.primary.listed(now).all(|r| r.online) {
            return;
        }
        log_notice!("Removing the RDB file that was written for replicas only");
        self.remove_dump();
    }

    pub(super) fn remove_dump(&mut self) {
        self.snapshots.sync_file = false;
        self.snapshots.base = None;
        if let Err(error) = std::fs::remove_file(&self.cfg.dbfilename) {
            log_warning!("Can't remove {}: {error}", self.cfg.dbfilename.display());
        }
    }
}
