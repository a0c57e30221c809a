//! What each replica is sent.
//!
//! A replica is a connection with a place in the log. What it is due is taken from the memory tail
//! by reference, from the segments on disk when the tail has left it behind, and is asked for only
//! when the connection has little left to send: a slow replica costs an offset, not a buffer.
//!
//! The loop never waits for a disk: segments are read, pages of a mapped snapshot brought into memory,
//! and a received one made durable, by the [`Fetcher`]'s thread.

use super::super::Server;
use super::super::client::Client;
use super::super::progress::Progress;
use crate::{log_notice, log_warning};
use crossbeam::channel::{Receiver, Sender, unbounded};
use memmap2::{Advice, Mmap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use varve_net::{Conn, ConnId, Net};
use varve_persistence::log::{Cursor, SegmentReader, Waker};
use varve_persistence::offset::Offset;

/// Bytes of the log that a connection is given at a time.
const FEED: usize = 256 * 1024;
/// Bytes of an RDB file that a connection is given at a time.
const FEED_FILE: usize = 1 << 20;

/// What a replica's connection is being sent.
pub enum Feeding {
    /// Nothing yet: it waits for a snapshot, or for its first ACK.
    Nothing,
    /// A file, from a position on. `None` while the next piece is fetched.
    File {
        map: Option<Arc<Mmap>>,
        progress: Progress,
    },
    /// What a child streams.
    Stream,
    Log(Cursor),
    /// The log from segments on disk, until the tail has its place. `None` while the next piece is
    /// read.
    Disk {
        reader: Option<Box<SegmentReader>>,
        at: Offset,
    },
    /// The log no longer has its place: it must ask anew.
    Lost(Offset),
}

/// Where the fetcher reads.
enum Source {
    Segments {
        reader: Box<SegmentReader>,
        upto: Offset,
    },
    File {
        map: Arc<Mmap>,
        range: Range<usize>,
    },
    /// Not for a replica: a file that was received from the primary, to be made durable.
    Received(File),
}

struct Fetched {
    conn: ConnId,
    source: Source,
    /// What was read; nothing for a mapped file, whose pages are in memory now.
    result: io::Result<Vec<u8>>,
}

/// The thread that waits for disks on behalf of replicas.
pub struct Fetcher {
    wanted: Sender<(ConnId, Source)>,
    fetched: Receiver<Fetched>,
}

impl Fetcher {
    /// Starts the thread, which lives as long as this. `waker` tells the loop of each piece.
    pub fn start(waker: Waker) -> io::Result<Fetcher> {
        let (wanted, jobs) = unbounded::<(ConnId, Source)>();
        let (results, fetched) = unbounded();
        std::thread::Builder::new().name("fetch".into()).spawn(move || {
            for (conn, mut source) in jobs {
                let result = source.fetch();
                if results.send(Fetched { conn, source, result }).is_err() {
                    return;
                }
                waker();
            }
        })?;
        Ok(Fetcher { wanted, fetched })
    }

    fn fetch(&self, id: ConnId, source: Source) {
        // The thread ends only with this process.
        let _ = self.wanted.send((id, source));
    }

    /// Makes durable what came over connection `id`: [`Server::received_is_durable`] follows.
    pub fn sync(&self, id: ConnId, file: File) {
        self.fetch(id, Source::Received(file));
    }
}

impl Source {
    fn fetch(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Source::Segments { reader, upto } => {
                let mut bytes = vec![0; FEED];
                let n = reader.read(&mut bytes, *upto)?;
                bytes.truncate(n);
                Ok(bytes)
            }
            Source::File { map, range } => {
                // Where the kernel does not know this, the loop's own `writev` brings the pages in.
                let _ = map.advise_range(Advice::PopulateRead, range.start, range.len());
                Ok(Vec::new())
            }
            Source::Received(file) => file.sync_all().map(|()| Vec::new()),
        }
    }
}

impl Server {
    /// From now on the connection is fed the log from `from` on.
    pub(super) fn feed_from(&mut self, id: ConnId, from: Offset) {
        let feeding = match self.log.cursor_at(from) {
            Some(cursor) => Feeding::Log(cursor),
            None => match self.log.segment_reader(from) {
                Some(reader) => Feeding::Disk { reader: Some(Box::new(reader)), at: from },
                None => Feeding::Lost(from),
            },
        };
        self.repl.feeding.insert(id, feeding);
    }

    /// Gives a connection more of what it is due, while little waits to be sent.
    pub fn feed(&mut self, conn: &mut Conn<Client>) {
        let id = conn.id;
        match self.repl.feeding.get_mut(&id) {
            None | Some(Feeding::Nothing | Feeding::Stream) => {}
            Some(Feeding::File { map, progress }) => {
                if let Some(map) = map.take() {
                    let at = progress.done as usize;
                    let range = at..(at + FEED_FILE).min(map.len());
                    self.fetch(id, Source::File { map, range });
                }
            }
            Some(Feeding::Log(_)) => self.feed_from_tail(conn),
            Some(Feeding::Disk { .. }) => self.feed_from_disk(conn),
            Some(Feeding::Lost(at)) => {
                log_warning!(
                    "Replica {} fell behind the start of the log (offset {at}): it must ask anew",
                    conn.session.peer
                );
                conn.close_asap = true;
            }
        }
    }

    fn fetch(&self, id: ConnId, source: Source) {
        self.repl.fetcher.fetch(id, source);
    }

    fn feed_from_tail(&mut self, conn: &mut Conn<Client>) {
        let Some(Feeding::Log(cursor)) = self.repl.feeding.get_mut(&conn.id) else { return };
        let released = self.log.released();
        let mut room = FEED;
        while room > 0 {
            let Some(piece) = self.log.next(cursor, room, released) else { break };
            let range = piece.range.clone();
            room = room.saturating_sub(range.len());
            self.stats.net_replication_out += range.len() as u64;
            conn.output.shared(piece.block, range);
        }
        let at = cursor.offset;
        if room == FEED && at < self.log.first_in_memory() {
            // The tail has left it behind: the disk may have its place.
            self.feed_from(conn.id, at);
            match self.repl.feeding.get(&conn.id) {
                Some(Feeding::Disk { .. }) => self.feed_from_disk(conn),
                _ => conn.close_asap = true,
            }
        }
    }

    fn feed_from_disk(&mut self, conn: &mut Conn<Client>) {
        let Some(Feeding::Disk { reader, at }) = self.repl.feeding.get_mut(&conn.id) else {
            return;
        };
        let Some(mut reader) = reader.take() else { return };
        if let Some(cursor) = self.log.cursor_at(*at) {
            self.repl.feeding.insert(conn.id, Feeding::Log(cursor));
            return self.feed_from_tail(conn);
        }
        reader.refresh(self.log.segments());
        self.fetch(conn.id, Source::Segments { reader, upto: self.log.released() });
    }

    /// Sends on what the fetcher has brought.
    pub fn take_fetched(&mut self, net: &mut Net<Client>) {
        while let Ok(Fetched { conn: id, source, result }) = self.repl.fetcher.fetched.try_recv() {
            if let Source::Received(_) = source {
                self.received_is_durable(id, result.map(drop));
                continue;
            }
            // A connection that has gone has left nothing to feed.
            let (Some(conn), Some(feeding)) = (net.conn_mut(id), self.repl.feeding.get_mut(&id))
            else {
                continue;
            };
            match (feeding, source, result) {
                (_, _, Err(error)) => {
                    log_warning!("Can't read the log for replica {}: {error}", conn.session.peer);
                    net.kill(id);
                    continue;
                }
                (
                    Feeding::Disk { reader, at },
                    Source::Segments { reader: back, .. },
                    Ok(bytes),
                ) => {
                    let n = bytes.len();
                    *at += n as u64;
                    *reader = Some(back);
                    if n == 0 {
                        // Its segment is gone, or another was begun.
                        let at = *at;
                        self.feed_from(id, at);
                    } else {
                        self.stats.net_replication_out += n as u64;
                        conn.output.shared(Arc::new(bytes), 0..n);
                    }
                }
                (Feeding::File { map, progress }, Source::File { map: back, range }, Ok(_)) => {
                    self.repl.primary.bulk_progress(id, self.clock.now_ms() as u64);
                    self.stats.net_replication_out += range.len() as u64;
                    progress.done = range.end as u64;
                    if progress.is_report_due() {
                        log_notice!("Full sync: sent {progress} to {}", conn.session.peer);
                    }
                    let ended = range.end == back.len();
                    conn.output.shared(Arc::new(Mapped(back.clone())), range);
                    *map = Some(back);
                    if ended {
                        let peer = conn.session.peer.clone();
                        self.bulk_sent(id, &peer);
                    }
                }
                _ => continue,
            }
            net.mark_dirty(id);
        }
    }

    /// With a log on disk, the history that replicas still need stays there.
    ///
    /// Without one, what they need stays in memory: a snapshot that is sent
    /// would else be worth nothing when it has arrived. As far as Redis's buffer for a replica would
    /// go, `client-output-buffer-limit replica`, and not beyond.
    fn hold_for_replicas(&mut self) {
        if self.log.is_on_disk() {
            self.log.protect(self.furthest_behind());
            return self.log.hold(None);
        }
        let most = match self.cfg.client_output_buffer_limit[1].hard {
            0 => u64::MAX,
            hard => hard,
        };
        let floor = Offset(self.log.end().0.saturating_sub(most));
        let held = self.furthest_behind().map(|place| place.max(floor));
        self.log.hold(held);
    }

    /// The smallest place in the log that a replica has not been given yet.
    fn furthest_behind(&self) -> Option<Offset> {
        let places = self.repl.feeding.iter().filter_map(|(id, feeding)| match feeding {
            Feeding::Log(cursor) => Some(cursor.offset),
            Feeding::Disk { at, .. } => Some(*at),
            Feeding::Lost(_) => None,
            Feeding::Nothing | Feeding::File { .. } | Feeding::Stream => {
                self.repl.primary.feeds_from(*id)
            }
        });
        places.min()
    }

    /// At the end of a turn: whoever has taken all that was given gets what is new.
    pub fn feed_replicas(&mut self, net: &mut Net<Client>) {
        if self.repl.feeding.is_empty() {
            self.log.protect(None);
            return self.log.hold(None);
        }
        if std::mem::take(&mut self.supply_due) {
            self.supply(net);
        }
        self.hold_for_replicas();
        if self.fed_to == self.log.released() {
            return;
        }
        self.fed_to = self.log.released();
        for id in self.repl.feeding.keys() {
            net.mark_dirty(*id);
        }
    }
}

/// A mapped file as bytes that several connections send from.
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
