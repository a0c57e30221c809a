//! A node: the two machines, the real log on a disk that forgets, and a data set; what the daemon is,
//! without sockets and clients.

use crate::data::Data;
use crate::network::ConnId;
use crate::random::Random;
use crate::world::Fault;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use varve_persistence::log::disk::Disk;
use varve_persistence::log::fake::FakeDisk;
use varve_persistence::log::{self, Cursor, Fsync, Log, NewBase, Options, SegmentReader};
use varve_persistence::offset::{Histories, HistoryId, Offset};
use varve_persistence::rdb;
use varve_replication::compress::Decoder;
use varve_replication::file::FileId;
use varve_replication::frame::Framer;
use varve_replication::node::Node;
use varve_replication::primary::supply::Target;
use varve_replication::primary::{self, LogView, Primary};
use varve_replication::replica::{self, Place, Replica};

pub const REPL_TIMEOUT_MS: u64 = 3000;

/// What a replica's connection is being sent.
pub enum Feeding {
    Nothing,
    File { bytes: Arc<Vec<u8>>, at: usize },
    Log(Cursor),
    Disk(Box<SegmentReader>, Offset),
    Lost,
}

/// A connection that came in.
pub struct Peer {
    pub input: Vec<u8>,
    pub framer: Framer,
    pub feeding: Feeding,
    /// Where its snapshot stands, and what is said of it when the log is written that far.
    pub gate: Offset,
    pub held: Vec<u8>,
}

/// A snapshot that a child is making.
pub struct Snapshot {
    pub id: u64,
    pub at: Offset,
    pub image: Vec<u8>,
    /// The connections of a stream; a file otherwise.
    pub stream: Option<Vec<ConnId>>,
}

/// A client that waits for `n` replicas.
pub struct Wait {
    pub offset: u64,
    pub hash: u64,
    pub until_ms: u64,
}

pub struct Server {
    pub disk: Arc<FakeDisk>,
    pub options: Options,
    pub log: Log,
    pub up: bool,
    /// Counts starts, so that what was planned for an earlier process is not done to a later one.
    pub run: u64,
    pub node: Node,
    pub primary: Primary,
    pub link: Option<Replica>,
    pub link_conn: Option<ConnId>,
    pub input: Vec<u8>,
    /// What the frames in the input held, on a compressed link.
    pub decoder: Option<Decoder>,
    pub data: Data,
    pub peers: BTreeMap<ConnId, Peer>,
    /// The RDB that is being received, and the one that is being loaded.
    pub receiving: Option<(Place, Vec<u8>)>,
    pub loading: Option<(Place, Vec<u8>)>,
    pub rolling: Option<Offset>,
    pub snapshot: Option<Snapshot>,
    /// The last snapshot, and where it stands.
    pub base: (Arc<Vec<u8>>, Offset),
    pub waits: Vec<Wait>,
    /// Whom the configuration names as primary.
    pub parent: Option<usize>,
    /// The history that it wrote itself, when it last became a replica: what it had not released of that
    /// was told to nobody.
    pub wrote: Option<HistoryId>,
    pub disk_full: bool,
    /// Whether it says that it can roll back; Redis does not.
    pub rolls_back: bool,
    /// How often it was told to roll back since its link was last up, and by which node.
    pub told: u32,
    pub told_by: Option<usize>,
    /// Whether it may ask for everything, as a rollback came to nothing.
    pub excused: bool,
    /// Received and not applied, under a fault.
    pub delayed: Vec<u8>,
    /// The place that was last seen, to notice steps back.
    pub last: Place,
    /// Up to where the rules have seen what others were told.
    pub seen: Place,
    files: u64,
}

pub fn primary_config() -> primary::Config {
    primary::Config {
        diskless_delay_ms: 200,
        timeout_ms: REPL_TIMEOUT_MS,
        ping_period_ms: 700,
        lz4: true,
        ..primary::Config::default()
    }
}

pub fn link_config(at: usize, parent: usize) -> replica::Config {
    let mut config = replica::Config::new("node", parent as u16, at as u16);
    config.timeout_ms = REPL_TIMEOUT_MS;
    config.reconnect_ms = 100;
    config.reconnect_max_ms = 1600;
    config.lz4 = at.is_multiple_of(2);
    config
}

/// What is far enough in the future that the log's own start never counts.
pub fn instant(origin: Instant, now_ms: u64) -> Instant {
    origin + Duration::from_secs(3600) + Duration::from_millis(now_ms)
}

fn waker() -> log::Waker {
    Arc::new(|| {})
}

impl Server {
    pub fn new(random: &mut Random) -> Server {
        let disk = FakeDisk::new(random.next());
        disk.set_short_writes(random.one_in(2));
        let fsync = [Fsync::Always, Fsync::EverySec, Fsync::No][random.index(3)];
        let options = Options {
            fsync,
            threads: false,
            tail_bytes: 1000,
            pool_blocks: random.index(4),
            disk: disk.clone(),
            ..Options::new("d".into(), "a.aof")
        };
        let histories = Histories::new(HistoryId::from_random(random.id()));
        let log = Log::create(options.clone(), histories, Offset(0), waker()).expect("a new log");
        Server {
            disk,
            options,
            log,
            up: true,
            run: 0,
            node: Node::new(histories),
            primary: Primary::new(primary_config(), 0),
            link: None,
            link_conn: None,
            input: vec![],
            decoder: None,
            data: Data::default(),
            peers: BTreeMap::new(),
            receiving: None,
            loading: None,
            rolling: None,
            snapshot: None,
            base: (Arc::new(Data::default().encode()), Offset(0)),
            waits: vec![],
            parent: None,
            wrote: None,
            disk_full: false,
            rolls_back: !random.one_in(6),
            told: 0,
            told_by: None,
            excused: false,
            delayed: vec![],
            last: (histories.current, Offset(0)),
            seen: (histories.current, Offset(0)),
            files: 0,
        }
    }

    /// Which file the base is.
    pub fn file(&self) -> FileId {
        let (image, offset) = &self.base;
        // What follows the file without keys is not of an RDB, and has no checksum of its own.
        let crc = rdb::crc64(&image[rdb::empty().len()..]) | 1;
        FileId { size: image.len() as u64, crc, offset: *offset }
    }

    pub fn place(&self) -> Place {
        self.node.place(self.log.end())
    }

    pub fn view(&self) -> LogView {
        LogView {
            histories: self.node.histories(),
            first: self.log.first_available(),
            end: self.log.end(),
            linked: self.parent.is_none() || self.link.as_ref().is_some_and(Replica::is_up),
            top: self.parent.is_none(),
        }
    }

    /// What came over the link's connection, which is over.
    pub fn forget_input(&mut self) {
        self.input.clear();
        self.decoder = None;
    }

    /// The process is gone: what it knew in memory is, too.
    pub fn stop(&mut self, now_ms: u64) {
        self.up = false;
        self.run += 1;
        self.link = None;
        self.link_conn = None;
        self.forget_input();
        self.peers.clear();
        self.primary = Primary::new(primary_config(), now_ms);
        (self.receiving, self.loading, self.rolling, self.snapshot) = (None, None, None, None);
        self.waits.clear();
        self.delayed.clear();
        (self.told, self.excused) = (0, false);
    }

    /// Starts again from what the disk has.
    pub fn start(
        &mut self,
        disk: Arc<FakeDisk>,
        random: [u8; 20],
        fault: Option<Fault>,
    ) -> Result<(), log::Error> {
        self.options.disk = disk.clone();
        self.disk = disk;
        let mut recovered = log::recover(&self.options)?.expect("a log that was created stays");
        let image = match recovered.base() {
            Some(base) => self.disk.contents(&base.path).expect("the base is there"),
            None => Data::default().encode(),
        };
        let mut data = Data::decode(&image);
        self.base = (Arc::new(image), data.end());
        let replayed = recovered.replay::<log::Error>(&mut |_| Ok(()))?;
        let held = recovered.histories().expect("the manifest names the history");
        let own = recovered.owns_name() || fault == Some(Fault::KeepForeignName);
        let lossless = recovered.is_lossless() || fault == Some(Fault::KeepNameAfterLoss);
        self.node = match self.parent {
            Some(_) => Node::new(held),
            None => Node::recovered(held, recovered.end(), own && lossless, random),
        };
        let histories = self.node.histories();
        self.log = Log::resume(recovered, histories, self.options.clone(), waker())?;
        let bytes = self.read_log(data.end(), self.log.end()).expect("the log follows its base");
        data.apply(&bytes);
        self.log.set_current_db(replayed.db);
        self.data = data;
        self.up = true;
        self.disk_full = false;
        self.moved();
        Ok(())
    }

    /// Applies to the data set what was appended since `from`.
    pub fn absorb(&mut self, from: Offset) {
        let mut cursor = self.log.cursor_at(from).expect("what was just appended is in memory");
        let mut bytes = vec![];
        while let Some(piece) = self.log.next(&mut cursor, usize::MAX, self.log.end()) {
            bytes.extend_from_slice(piece.bytes());
        }
        self.data.apply(&bytes);
    }

    /// Whole units of the primary's, into the log and the data set.
    pub fn append_stream(&mut self, bytes: &[u8]) {
        self.log.append(bytes);
        self.data.apply(bytes);
        self.log.set_current_db(self.data.db());
    }

    /// Begins a snapshot for a file or for connections.
    pub fn begin_snapshot(&mut self, id: u64, stream: Option<Vec<ConnId>>) -> Offset {
        let at = match stream {
            None => self.log.begin_rotation(),
            Some(_) => self.log.end(),
        };
        if self.parent.is_none() {
            self.log.select_again();
        }
        self.snapshot = Some(Snapshot { id, at, image: self.data.encode(), stream });
        at
    }

    pub fn target(snapshot: &Snapshot) -> Target {
        if snapshot.stream.is_some() { Target::Socket } else { Target::Disk }
    }

    /// A new file with these bytes, durably; `None` if the disk has no room.
    pub fn write_file(&mut self, bytes: &[u8]) -> Option<PathBuf> {
        self.files += 1;
        let path = PathBuf::from(format!("temp-{}-{}.rdb", self.run, self.files));
        let write = || -> std::io::Result<()> {
            let file = self.disk.create(&path)?;
            let mut at = 0;
            while at < bytes.len() {
                match file.write_at(&[std::io::IoSlice::new(&bytes[at..])], at as u64)? {
                    0 => return Err(std::io::ErrorKind::WriteZero.into()),
                    n => at += n,
                }
            }
            file.sync()
        };
        match write() {
            Ok(()) => Some(path),
            Err(_) => {
                let _ = self.disk.remove(&path);
                None
            }
        }
    }

    /// Leaves data set and log for the snapshot `image`, which is at `at` of `histories`.
    pub fn replace(&mut self, histories: Histories, image: Vec<u8>, path: PathBuf) {
        self.data = Data::decode(&image);
        let at = self.data.end();
        let base = NewBase { path, at, rdb: true, keep: false };
        self.log.reset(histories, at, self.data.db(), Some(base));
        self.base = (Arc::new(image), at);
        self.snapshot = None;
        self.delayed.clear();
    }

    /// What follows is no step back: the node is where it has to be.
    pub fn moved(&mut self) {
        self.last = self.place();
        self.seen = (self.last.0, Offset(0));
    }

    /// The log's bytes from `from` to `to`, if it has all of them.
    pub fn read_log(&self, from: Offset, to: Offset) -> Option<Vec<u8>> {
        let mut bytes = vec![];
        let mut at = from;
        while at < to {
            let len = (to - at) as usize;
            if let Some(mut cursor) = self.log.cursor_at(at) {
                let piece = self.log.next(&mut cursor, len, to)?;
                bytes.extend_from_slice(piece.bytes());
                at = piece.end();
                continue;
            }
            let mut reader = self.log.segment_reader(at)?;
            let mut part = vec![0; len];
            let n = reader.read(&mut part, self.log.written().min(to)).ok().filter(|n| *n > 0)?;
            bytes.extend_from_slice(&part[..n]);
            at += n as u64;
        }
        Some(bytes)
    }

    /// Whether a replica that holds the log up to `from` can be fed the rest.
    pub fn can_feed(&self, from: Offset) -> bool {
        from <= self.log.end() && self.read_log(from, self.log.end()).is_some()
    }

    /// Goes back to `to`: closes the log, cuts it, and reads the data back from what is left.
    pub fn roll_back(&mut self, to: Offset) -> Result<Place, String> {
        if self.disk_full || self.log.is_failing() {
            return Err("the disk is full".into());
        }
        let end = self.log.end();
        self.log.stop_disk().expect("the log can be closed");
        let done = log::roll_back(&self.options, to);
        self.start(self.disk.clone(), [0; 20], None).expect("the log can be opened again");
        self.snapshot = None;
        // The followers are dropped by the caller.
        let _ = self.node.follow("node", 0);
        assert_eq!(self.log.end(), if done.is_ok() { to } else { end });
        done.map(|_| self.place()).map_err(|error| error.to_string())
    }

    pub fn feed_from(&mut self, conn: ConnId, from: Offset) {
        let feeding = match self.log.cursor_at(from) {
            Some(cursor) => Feeding::Log(cursor),
            None => match self.log.segment_reader(from) {
                Some(reader) => Feeding::Disk(Box::new(reader), from),
                None => Feeding::Lost,
            },
        };
        if let Some(peer) = self.peers.get_mut(&conn) {
            peer.feeding = feeding;
        }
    }

    /// The next bytes for a connection, at most `most`, which is not 0. `None` if it has to be closed.
    pub fn next_bytes(&mut self, conn: ConnId, most: usize) -> Option<Vec<u8>> {
        let released = self.log.released();
        let Some(peer) = self.peers.get_mut(&conn) else { return Some(vec![]) };
        match &mut peer.feeding {
            Feeding::Nothing => Some(vec![]),
            Feeding::Lost => None,
            Feeding::File { bytes, at } => {
                let end = (*at + most).min(bytes.len());
                let part = bytes[*at..end].to_vec();
                *at = end;
                Some(part)
            }
            Feeding::Log(cursor) => match self.log.next(cursor, most, released) {
                Some(piece) => Some(piece.bytes().to_vec()),
                None if cursor.offset < self.log.first_in_memory() => {
                    let at = cursor.offset;
                    self.feed_from(conn, at);
                    match self.peers[&conn].feeding {
                        Feeding::Lost => None,
                        _ => self.next_bytes(conn, most),
                    }
                }
                None => Some(vec![]),
            },
            Feeding::Disk(reader, at) => {
                if let Some(cursor) = self.log.cursor_at(*at) {
                    peer.feeding = Feeding::Log(cursor);
                    return self.next_bytes(conn, most);
                }
                let mut bytes = vec![0; most];
                reader.refresh(self.log.segments());
                let n = reader.read(&mut bytes, released).expect("the fake disk can be read");
                bytes.truncate(n);
                *at += n as u64;
                if n == 0 {
                    let at = *at;
                    self.feed_from(conn, at);
                }
                Some(bytes)
            }
        }
    }
}
