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
use super::compress::Piece;
use crate::{log_notice, log_warning};
use crossbeam::channel::{Receiver, Sender, unbounded};
use memmap2::{Advice, Mmap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use varve_net::{Conn, ConnId, Net};
use varve_persistence::log::{Cursor, SegmentReader, Waker};
use varve_persistence::offset::Offset;
use varve_persistence::rdb;

/// Bytes of the log that a connection is given at a time.
const FEED: usize = 256 * 1024;
/// Bytes of an RDB that a connection is given at a time.
pub(super) const FEED_FILE: usize = 1 << 20;

/// What a replica's connection is being sent.
pub enum Feeding {
    /// Nothing yet: it waits for a snapshot, or for its first ACK.
    Nothing,
    /// A file, from a position on. `None` while the next piece is fetched.
    File {
        file: Option<Arc<Snapshot>>,
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
        file: Arc<Snapshot>,
        range: Range<usize>,
    },
    /// Not for a replica: a file that was received from the primary, to be made durable, and if it came
    /// in `parts`, to be looked at: they may be of two files.
    Received {
        file: File,
        parts: bool,
    },
}

struct Fetched {
    conn: ConnId,
    source: Source,
    /// What was read; of a mapped file, the pages are in memory now.
    result: io::Result<Piece>,
}

/// A piece to fetch.
struct Job {
    conn: ConnId,
    source: Source,
    compress: bool,
}

/// An RDB file that replicas are sent.
pub struct Snapshot {
    file: File,
    map: Mmap,
}

impl Snapshot {
    pub fn open(path: &Path) -> io::Result<Snapshot> {
        let file = File::open(path)?;
        // SAFETY: RDB files are never changed in place, only replaced.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Snapshot { file, map })
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }
}

/// Several connections send from it.
impl AsRef<[u8]> for Snapshot {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// The thread that waits for disks on behalf of replicas.
pub struct Fetcher {
    wanted: Sender<Job>,
    fetched: Receiver<Fetched>,
}

impl Fetcher {
    /// Starts the thread, which lives as long as this. `waker` tells the loop of each piece.
    pub fn start(waker: Waker) -> io::Result<Fetcher> {
        let (wanted, jobs) = unbounded::<Job>();
        let (results, fetched) = unbounded();
        std::thread::Builder::new().name("fetch".into()).spawn(move || {
            for Job { conn, mut source, compress } in jobs {
                let result = source.fetch(compress);
                if results.send(Fetched { conn, source, result }).is_err() {
                    return;
                }
                waker();
            }
        })?;
        Ok(Fetcher { wanted, fetched })
    }

    fn fetch(&self, job: Job) {
        // The thread ends only with this process.
        let _ = self.wanted.send(job);
    }

    /// Makes durable what came over connection `id`: [`Server::received_is_durable`] follows.
    pub fn sync(&self, id: ConnId, file: File, parts: bool) {
        self.fetch(Job { conn: id, source: Source::Received { file, parts }, compress: false });
    }
}

impl Source {
    fn fetch(&mut self, compress: bool) -> io::Result<Piece> {
        match self {
            Source::Segments { reader, upto } => {
                let mut bytes = vec![0; FEED];
                let n = reader.read(&mut bytes, *upto)?;
                bytes.truncate(n);
                Ok(match compress {
                    true => Piece::frames(&bytes),
                    false => Piece::Plain(Arc::new(bytes), 0..n),
                })
            }
            Source::File { file, range } if compress => {
                // Not from the map: an error of the disk must be one here, and not a signal.
                let mut bytes = vec![0; range.len()];
                file.file.read_exact_at(&mut bytes, range.start as u64)?;
                Ok(Piece::frames(&bytes))
            }
            Source::File { file, range } => {
                // Where the kernel does not know this, the loop's own `writev` brings the pages in.
                let _ = file.map.advise_range(Advice::PopulateRead, range.start, range.len());
                Ok(Piece::Plain(file.clone(), range.clone()))
            }
            Source::Received { file, parts } => {
                file.sync_all().map_err(|e| io::Error::other(format!("can't sync it: {e}")))?;
                if *parts {
                    rdb::verify_checksum(file).map_err(|e| {
                        io::Error::other(format!("its parts are not of one whole: {e}"))
                    })?;
                }
                Ok(Piece::Plain(Arc::new([]), 0..0))
            }
        }
    }
}

impl Server {
    /// From now on the connection is fed the log from `from` on, at the turn's end what there is already.
    pub(super) fn feed_from(&mut self, id: ConnId, from: Offset) {
        self.fed_to = from;
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
            Some(Feeding::File { file, progress }) => {
                if let Some(file) = file.take() {
                    let at = progress.done as usize;
                    let range = at..(at + FEED_FILE).min(file.len());
                    self.fetch(conn, Source::File { file, range });
                }
            }
            Some(Feeding::Log(_)) => self.feed_from_tail(conn),
            Some(Feeding::Disk { .. }) => self.feed_from_disk(conn),
            Some(Feeding::Lost(at)) => {
                tell_of_lost(&conn.session, *at);
                conn.close_asap = true;
            }
        }
    }

    fn fetch(&self, conn: &Conn<Client>, source: Source) {
        let compress = conn.session.compression.is_some();
        self.repl.fetcher.fetch(Job { conn: conn.id, source, compress });
    }

    fn feed_from_tail(&mut self, conn: &mut Conn<Client>) {
        let Some(Feeding::Log(cursor)) = self.repl.feeding.get_mut(&conn.id) else { return };
        let released = self.log.released();
        let mut room = FEED;
        while room > 0 {
            let Some(piece) = self.log.next(cursor, room, released) else { break };
            room = room.saturating_sub(piece.range.len());
            let sent = self.repl.tail_frames.piece(conn, piece).send(conn);
            self.stats.net_replication_out += sent as u64;
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
        // What the segments do not have yet is in memory.
        let upto = self.log.released().min(self.log.written());
        self.fetch(conn, Source::Segments { reader, upto });
    }

    /// Sends on what the fetcher has brought.
    pub fn take_fetched(&mut self, net: &mut Net<Client>) {
        while let Ok(Fetched { conn: id, source, result }) = self.repl.fetcher.fetched.try_recv() {
            if let Source::Received { .. } = source {
                self.received_is_durable(id, result.map(drop));
                continue;
            }
            // A connection that has gone has left nothing to feed.
            let (Some(conn), Some(feeding)) = (net.conn_mut(id), self.repl.feeding.get_mut(&id))
            else {
                continue;
            };
            let piece = match result {
                Ok(piece) => piece,
                Err(error) => {
                    log_warning!("Can't read what replica {} is due: {error}", conn.session.peer);
                    net.kill(id);
                    continue;
                }
            };
            match (feeding, source) {
                (Feeding::Disk { reader, at }, Source::Segments { reader: back, .. }) => {
                    *at += piece.len() as u64;
                    *reader = Some(back);
                    if piece.len() == 0 {
                        // Its segment is gone, or another was begun.
                        let at = *at;
                        self.feed_from(id, at);
                    } else {
                        self.stats.net_replication_out += piece.send(conn) as u64;
                    }
                }
                (Feeding::File { file, progress }, Source::File { file: back, range }) => {
                    progress.done = range.end as u64;
                    if progress.is_report_due() {
                        log_notice!("Full sync: sent {progress} to {}", conn.session.peer);
                    }
                    let ended = range.end == back.len();
                    let sent = piece.send(conn);
                    self.stats.net_replication_out += sent as u64;
                    *file = Some(back);
                    if ended {
                        let peer = conn.session.peer.clone();
                        self.bulk_sent(net, id, &peer);
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
        let first = self.log.first_in_memory();
        for (id, feeding) in &self.repl.feeding {
            match feeding {
                // One that does not read would not be seen to have no place any more, as it is given nothing.
                Feeding::Log(cursor) if cursor.offset < first && !self.log.is_on_disk() => {
                    if let Some(conn) = net.conn(*id) {
                        tell_of_lost(&conn.session, cursor.offset);
                    }
                    net.kill(*id);
                }
                _ => net.mark_dirty(*id),
            }
        }
    }
}

fn tell_of_lost(replica: &Client, at: Offset) {
    let peer = &replica.peer;
    log_warning!("Replica {peer} fell behind the start of the log (offset {at}): it must ask anew");
}
