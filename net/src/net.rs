//! All connections, and how they come to be.
//!
//! Everything with a descriptor has a slot; the slot's number and generation are its token in
//! epoll, so an event for something that is gone finds nothing.

use crate::conn::{Closed, Conn, ConnId, Mode, OutputLimit, Peer};
use crate::linger::{self, LOOK, Linger};
use crate::threads::{BATCH, Pool};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use varve_engine::Reply;
use varve_engine::resp::request::{Input, Limits, READ};

/// How many read buffers are kept for connections that will need one.
const SPARE_BUFFERS: usize = 16;
/// How many events one turn takes.
const EVENTS: usize = 1024;
/// Output chunks above this are given back when all was sent.
const IDLE_OUTPUT: usize = 16 * 1024;

pub(crate) const WAKER: Token = Token(usize::MAX);

/// Wakes the loop from another thread.
#[derive(Clone)]
pub struct Waker(Arc<mio::Waker>);

impl Waker {
    /// Makes the loop call [`crate::Service::woken`]. Several calls may become one.
    pub fn wake(&self) {
        // It fails only if the descriptor is gone, and the loop with it.
        let _ = self.0.wake();
    }
}

/// Names a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerId(u64);

/// Names a descriptor of the service's own: [`Net::register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct External(u64);

/// What has gone over all connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub accepted: u64,
    pub reads: u64,
    pub writes: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub turns: u64,
    /// The time of turns from the events to the next wait, ns.
    pub turns_ns: u64,
    /// Connections that were read, and written, in batches with the I/O threads.
    pub threaded_reads: u64,
    pub threaded_writes: u64,
}

impl Stats {
    /// Adds what was read and written.
    pub(crate) fn add(&mut self, other: &Stats) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

pub(crate) enum Socketed {
    Tcp(mio::net::TcpListener),
    Unix(mio::net::UnixListener, PathBuf),
}

pub(crate) struct Listener {
    pub socket: Socketed,
    /// There may be someone to accept.
    pub ready: bool,
    /// Not before this time: there were no descriptors left.
    pub retry_at: Option<Instant>,
}

pub(crate) enum State<S> {
    Free,
    Conn(Box<Conn<S>>),
    /// A connection in the hands of a callback, and what was asked of it meanwhile.
    Taken(Notes),
    Listener(Listener),
    External(RawFd),
}

/// What has to be told to a connection when it comes back.
#[derive(Default)]
pub(crate) struct Notes {
    pub kill: bool,
    pub resume: bool,
    /// Events of a turn that ran inside the callback.
    pub readable: bool,
    pub read_closed: bool,
    pub writable: bool,
}

struct Slot<S> {
    generation: u32,
    state: State<S>,
}

/// Ids are dense; one multiplication spreads them.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(b as u64);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(20);
    }
}

/// All connections. `S` is what the service keeps about each.
pub struct Net<S> {
    poll: Poll,
    pub(crate) events: Events,
    waker: Waker,
    slots: Vec<Slot<S>>,
    free: Vec<u32>,
    ids: HashMap<ConnId, u32, BuildHasherDefault<IdHasher>>,
    last_id: ConnId,
    pub(crate) listeners: Vec<u32>,
    /// Connections to serve in this turn, and in the next.
    pub(crate) ready: VecDeque<u32>,
    pub(crate) later: Vec<u32>,
    /// Connections to send for.
    pub(crate) dirty: Vec<u32>,
    /// Connections whose output waits for the log.
    pub(crate) gated: Vec<u32>,
    /// Connections over their soft output limit.
    pub(crate) soft: Vec<u32>,
    pub(crate) closing: Vec<u32>,
    pub(crate) last_released: u64,
    /// The list that is being sent; empty between turns.
    pub(crate) sending: Vec<u32>,
    spare: Vec<Vec<u8>>,
    pub(crate) pool: Option<Box<Pool<S>>>,
    keepalive: Option<Duration>,
    linger: Linger,
    /// When this turn began.
    pub now: Instant,
    /// What new connections start with.
    pub limits: Limits,
    pub query_limit: usize,
    pub output_limit: OutputLimit,
    /// Set while a child process holds copies of the descriptors: closing then needs a `shutdown`
    /// for the peer to notice.
    pub child_lives: bool,
    /// Has the I/O threads handle every connection, even a single one, without the loop's help: for
    /// tests of the hand-over.
    #[doc(hidden)]
    pub always_hand_over: bool,
    pub stats: Stats,
}

impl<S> Net<S> {
    pub fn new() -> io::Result<Net<S>> {
        let poll = Poll::new()?;
        let waker = Waker(Arc::new(mio::Waker::new(poll.registry(), WAKER)?));
        Ok(Net {
            poll,
            events: Events::with_capacity(EVENTS),
            waker,
            slots: Vec::new(),
            free: Vec::new(),
            ids: HashMap::default(),
            last_id: 0,
            listeners: Vec::new(),
            ready: VecDeque::new(),
            later: Vec::new(),
            dirty: Vec::new(),
            gated: Vec::new(),
            soft: Vec::new(),
            closing: Vec::new(),
            last_released: 0,
            sending: Vec::new(),
            spare: Vec::new(),
            pool: None,
            keepalive: None,
            linger: Linger::default(),
            now: Instant::now(),
            limits: Limits::default(),
            query_limit: 1 << 30,
            output_limit: OutputLimit::default(),
            child_lives: false,
            always_hand_over: false,
            stats: Stats::default(),
        })
    }

    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Has `n` threads read, parse and write when many connections are ready: the loop's own, and
    /// `n - 1` that are started here and end with the net. 1 is the loop alone. Call it before the
    /// loop runs, with the signals blocked that the threads are not to get.
    ///
    /// The loop's thread may fork in any service callback: no connection is with a thread then. The
    /// child must not touch the net, and ends without dropping it.
    pub fn set_io_threads(&mut self, n: usize) -> io::Result<()>
    where
        S: Send + 'static,
    {
        self.pool = None;
        if n > 1 {
            self.pool = Some(Box::new(Pool::start(n - 1)?));
        }
        Ok(())
    }

    /// The threads that read and write, the loop's own included.
    pub fn io_threads(&self) -> usize {
        self.pool.as_ref().map_or(1, |pool| pool.threads())
    }

    /// Counts the time of the turn that ends now.
    pub(crate) fn end_turn(&mut self) -> Instant {
        let now = Instant::now();
        self.stats.turns_ns += (now - self.now).as_nanos() as u64;
        now
    }

    pub(crate) fn wait(
        &mut self,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let was_busy = !events.is_empty();
        events.clear();
        let mut result = Ok(());
        if was_busy && timeout != Some(Duration::ZERO) && self.linger.is_worth_it() {
            let until = Instant::now() + LOOK;
            while events.is_empty() && result.is_ok() && Instant::now() < until {
                result = self.poll.poll(events, Some(Duration::ZERO));
                if events.is_empty() {
                    linger::pause();
                }
            }
            self.linger.looked(!events.is_empty());
        }
        if events.is_empty() && result.is_ok() {
            result = self.poll.poll(events, timeout);
        }
        self.now = Instant::now();
        self.stats.turns += 1;
        match result {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            other => other,
        }
    }

    // Slots.

    fn new_slot(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, state: State::Free });
            self.slots.len() as u32 - 1
        })
    }

    fn token(&self, slot: u32) -> Token {
        Token(slot as usize | (self.slots[slot as usize].generation as usize) << 32)
    }

    fn name(&self, slot: u32) -> u64 {
        self.token(slot).0 as u64
    }

    /// The slot that `token` names, unless it has been freed since.
    pub(crate) fn slot_of(&self, token: Token) -> Option<u32> {
        let slot = token.0 as u32;
        let generation = (token.0 >> 32) as u32;
        (self.slots.get(slot as usize)?.generation == generation).then_some(slot)
    }

    pub(crate) fn state(&mut self, slot: u32) -> &mut State<S> {
        &mut self.slots[slot as usize].state
    }

    pub(crate) fn external_of(&self, slot: u32) -> External {
        External(self.name(slot))
    }

    fn free_slot(&mut self, slot: u32) -> State<S> {
        let place = &mut self.slots[slot as usize];
        // The last generation would make the waker's token.
        place.generation = (place.generation + 1) & 0x7FFF_FFFF;
        self.free.push(slot);
        std::mem::replace(&mut place.state, State::Free)
    }

    // Connections.

    fn insert(&mut self, mut conn: Box<Conn<S>>, interest: Interest) -> io::Result<ConnId> {
        let slot = self.new_slot();
        conn.slot = slot;
        let (id, fd) = (conn.id, conn.fd.as_raw_fd());
        let token = self.token(slot);
        if let Err(e) = self.poll.registry().register(&mut SourceFd(&fd), token, interest) {
            self.free.push(slot);
            return Err(e);
        }
        self.slots[slot as usize].state = State::Conn(conn);
        self.ids.insert(id, slot);
        Ok(id)
    }

    pub(crate) fn next_id(&mut self) -> ConnId {
        self.last_id += 1;
        self.last_id
    }

    fn new_conn(&self, id: ConnId, fd: OwnedFd, peer: Peer, session: S) -> Box<Conn<S>> {
        Box::new(Conn {
            id,
            session,
            input: Input::new(),
            output: Reply::new(),
            peer,
            mode: Mode::Requests,
            limits: self.limits,
            query_limit: self.query_limit,
            output_limit: self.output_limit,
            close_after_reply: false,
            close_asap: false,
            hold: false,
            again: false,
            pause_read: false,
            gated: false,
            feeds: false,
            last_read: self.now,
            last_write: self.now,
            fd,
            slot: 0,
            readable: false,
            read_closed: false,
            eof: false,
            blocked: false,
            write_interest: false,
            connecting: false,
            attempted: false,
            write_only: false,
            in_ready: false,
            in_dirty: false,
            in_gated: false,
            in_soft: false,
            received: false,
            transmitted: false,
            budget: 0,
            may_send: 0,
            why: None,
            sent: 0,
            marks: VecDeque::new(),
            over_soft_since: None,
        })
    }

    pub(crate) fn accepted(
        &mut self,
        id: ConnId,
        fd: OwnedFd,
        peer: Peer,
        session: S,
    ) -> io::Result<()> {
        let mut conn = self.new_conn(id, fd, peer, session);
        conn.gated = true;
        self.stats.accepted += 1;
        self.insert(conn, Interest::READABLE).map(drop)
    }

    /// Begins to connect to `addr`, from `bind_source` if given. How it ends is told to
    /// [`crate::Service::connected`]. The connection starts in [`Mode::Raw`], ungated.
    pub fn connect(
        &mut self,
        addr: SocketAddr,
        session: S,
        bind_source: Option<IpAddr>,
    ) -> io::Result<ConnId> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        set_keepalive(&SockRef::from(&socket), self.keepalive)?;
        if let Some(source) = bind_source {
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        match socket.connect(&SockAddr::from(addr)) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
            _ => {}
        }
        let id = self.next_id();
        let mut conn = self.new_conn(id, socket.into(), Peer::Tcp(addr), session);
        conn.mode = Mode::Raw;
        conn.connecting = true;
        conn.blocked = true;
        conn.write_interest = true;
        self.insert(conn, Interest::READABLE | Interest::WRITABLE)
    }

    /// Takes over a descriptor that can be read or written or both: a pipe, a socket. Ungated.
    pub fn adopt(&mut self, fd: OwnedFd, session: S, mode: Mode) -> io::Result<ConnId> {
        let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let id = self.next_id();
        let mut conn = self.new_conn(id, fd, Peer::Adopted, session);
        conn.mode = mode;
        conn.write_only = flags & OFlag::O_ACCMODE == OFlag::O_WRONLY;
        self.insert(conn, Interest::READABLE)
    }

    /// The connection with that id; not while it is in the hands of a callback.
    pub fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn<S>> {
        let slot = *self.ids.get(&id)?;
        match self.state(slot) {
            State::Conn(conn) => Some(conn),
            _ => None,
        }
    }

    /// As [`Net::conn_mut`], to look at.
    pub fn conn(&self, id: ConnId) -> Option<&Conn<S>> {
        match &self.slots[*self.ids.get(&id)? as usize].state {
            State::Conn(conn) => Some(conn),
            _ => None,
        }
    }

    /// Whether there is a connection with that id, in the hands of a callback or not.
    pub fn has(&self, id: ConnId) -> bool {
        self.ids.contains_key(&id)
    }

    /// All connections but the one in the hands of a callback.
    pub fn iter(&self) -> impl Iterator<Item = &Conn<S>> {
        self.slots.iter().filter_map(|slot| match &slot.state {
            State::Conn(conn) => Some(&**conn),
            _ => None,
        })
    }

    /// As [`Net::iter`]. Call [`Net::mark_dirty`] for those that output is added to.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Conn<S>> {
        self.slots.iter_mut().filter_map(|slot| match &mut slot.state {
            State::Conn(conn) => Some(&mut **conn),
            _ => None,
        })
    }

    /// How many connections there are, the one in the hands of a callback included.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Closes a connection in this turn, whatever waits to be sent. Whether there was one.
    pub fn kill(&mut self, id: ConnId) -> bool {
        let Some(&slot) = self.ids.get(&id) else { return false };
        match self.state(slot) {
            State::Conn(conn) => {
                conn.close_asap = true;
                self.closing.push(slot);
            }
            State::Taken(notes) => notes.kill = true,
            _ => return false,
        }
        true
    }

    /// Goes on with a connection after [`Conn::hold`] or [`Conn::pause_read`] was cleared: what it
    /// has sent is served in this same turn.
    pub fn resume(&mut self, id: ConnId) {
        let Some(&slot) = self.ids.get(&id) else { return };
        match self.state(slot) {
            State::Conn(conn) if !conn.in_ready => {
                conn.in_ready = true;
                self.ready.push_back(slot);
            }
            State::Taken(notes) => notes.resume = true,
            _ => {}
        }
    }

    /// Sends what was added to a connection's output from outside its own callbacks, and asks
    /// [`crate::Service::drained`] for more if it [`Conn::feeds`].
    pub fn mark_dirty(&mut self, id: ConnId) {
        let Some(&slot) = self.ids.get(&id) else { return };
        if let State::Conn(conn) = &mut self.slots[slot as usize].state
            && !conn.in_dirty
        {
            conn.in_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Gives up a connection without closing it: the descriptor and all that belongs to it are the
    /// caller's. [`crate::Service::closed`] is not called.
    pub fn detach(&mut self, id: ConnId) -> Option<(OwnedFd, S, Input, Reply)> {
        let slot = *self.ids.get(&id)?;
        if !matches!(self.state(slot), State::Conn(_)) {
            return None;
        }
        let State::Conn(conn) = self.free_slot(slot) else { return None };
        self.ids.remove(&id);
        let _ = self.poll.registry().deregister(&mut SourceFd(&conn.fd.as_raw_fd()));
        Some((conn.fd, conn.session, conn.input, conn.output))
    }

    pub(crate) fn take(&mut self, slot: u32) -> Option<Box<Conn<S>>> {
        let state = &mut self.slots.get_mut(slot as usize)?.state;
        if !matches!(state, State::Conn(_)) {
            return None;
        }
        match std::mem::replace(state, State::Taken(Notes::default())) {
            State::Conn(conn) => Some(conn),
            _ => None,
        }
    }

    /// Applies what happened to a taken connection so far.
    pub(crate) fn apply_notes(&mut self, conn: &mut Conn<S>) {
        let slot = conn.slot;
        let State::Taken(notes) = self.state(slot) else { return };
        let notes = std::mem::take(notes);
        conn.close_asap |= notes.kill;
        conn.readable |= notes.readable;
        conn.read_closed |= notes.read_closed;
        if notes.writable && conn.blocked {
            conn.blocked = false;
            if !std::mem::replace(&mut conn.in_dirty, true) {
                self.dirty.push(slot);
            }
        }
        if (notes.resume || notes.readable) && !std::mem::replace(&mut conn.in_ready, true) {
            self.ready.push_back(slot);
        }
    }

    pub(crate) fn put(&mut self, conn: Box<Conn<S>>) {
        let slot = conn.slot;
        *self.state(slot) = State::Conn(conn);
    }

    /// Takes a connection out for good; the descriptor is closed when the connection is dropped.
    pub(crate) fn remove(&mut self, conn: &mut Conn<S>) -> Closed {
        self.ids.remove(&conn.id);
        self.free_slot(conn.slot);
        // A child may hold a copy of the descriptor, and epoll would go on reporting that.
        let _ = self.poll.registry().deregister(&mut SourceFd(&conn.fd.as_raw_fd()));
        if self.child_lives {
            let _ = SockRef::from(&conn.fd).shutdown(std::net::Shutdown::Both);
        }
        conn.why.take().unwrap_or(match conn.close_asap {
            true => Closed::Killed,
            false => Closed::Done,
        })
    }

    /// Asks epoll to say when the socket takes bytes again. As the interest is set anew, an edge
    /// that has been is reported as well.
    pub(crate) fn want_write(&mut self, conn: &mut Conn<S>) -> io::Result<()> {
        conn.blocked = true;
        if conn.write_interest {
            return Ok(());
        }
        conn.write_interest = true;
        let interest = match conn.write_only {
            true => Interest::WRITABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        let token = self.token(conn.slot);
        self.poll.registry().reregister(&mut SourceFd(&conn.fd.as_raw_fd()), token, interest)
    }

    /// Stops asking: a Unix socket would report an edge for all that its peer reads.
    pub(crate) fn unwant_write(&mut self, conn: &mut Conn<S>) {
        conn.write_interest = false;
        let token = self.token(conn.slot);
        let fd = conn.fd.as_raw_fd();
        let interest = Interest::READABLE;
        let _ = self.poll.registry().reregister(&mut SourceFd(&fd), token, interest);
    }

    pub(crate) fn lend_buffer(&mut self, input: &mut Input) {
        if !input.has_buffer() {
            input.lend(self.spare.pop().unwrap_or_else(|| Vec::with_capacity(READ)));
        }
    }

    /// Takes back what an idle connection does not need.
    pub(crate) fn reclaim(&mut self, conn: &mut Conn<S>) {
        if let Some(buffer) = conn.input.reclaim()
            && buffer.capacity() <= 2 * READ
            && self.spare.len() < if self.pool.is_some() { BATCH } else { SPARE_BUFFERS }
        {
            self.spare.push(buffer);
        }
        if conn.output.is_empty() && conn.output.memory() > IDLE_OUTPUT {
            let before = std::mem::take(&mut conn.output);
            conn.output.resp3 = before.resp3;
            conn.output.muted = before.muted;
        }
    }

    // Listeners.

    fn insert_listener(&mut self, mut socket: Socketed) -> io::Result<ListenerId> {
        let slot = self.new_slot();
        let token = self.token(slot);
        let registry = self.poll.registry();
        let registered = match &mut socket {
            Socketed::Tcp(l) => registry.register(l, token, Interest::READABLE),
            Socketed::Unix(l, _) => registry.register(l, token, Interest::READABLE),
        };
        if let Err(e) = registered {
            self.free.push(slot);
            return Err(e);
        }
        *self.state(slot) = State::Listener(Listener { socket, ready: false, retry_at: None });
        self.listeners.push(slot);
        Ok(ListenerId(self.name(slot)))
    }

    /// Listens on a TCP address; port 0 takes a free one. Accepted sockets inherit `TCP_NODELAY`
    /// and keepalive from the listener.
    pub fn listen_tcp(&mut self, addr: SocketAddr, backlog: i32) -> io::Result<ListenerId> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_tcp_nodelay(true)?;
        set_keepalive(&SockRef::from(&socket), self.keepalive)?;
        socket.bind(&SockAddr::from(addr))?;
        socket.listen(backlog)?;
        let listener = mio::net::TcpListener::from_std(std::net::TcpListener::from(socket));
        self.insert_listener(Socketed::Tcp(listener))
    }

    /// Listens on a Unix socket at `path`, in the place of what is there, with the given mode.
    pub fn listen_unix(
        &mut self,
        path: &Path,
        mode: Option<u32>,
        backlog: i32,
    ) -> io::Result<ListenerId> {
        let _ = std::fs::remove_file(path);
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(backlog)?;
        if let Some(mode) = mode {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
        let listener = mio::net::UnixListener::from_std(listener);
        self.insert_listener(Socketed::Unix(listener, path.to_owned()))
    }

    fn listener(&self, id: ListenerId) -> Option<&Listener> {
        let slot = self.slot_of(Token(id.0 as usize))?;
        match &self.slots[slot as usize].state {
            State::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    /// The address that a TCP listener is bound to.
    pub fn local_addr(&self, id: ListenerId) -> Option<SocketAddr> {
        match &self.listener(id)?.socket {
            Socketed::Tcp(l) => l.local_addr().ok(),
            Socketed::Unix(..) => None,
        }
    }

    /// Stops listening. Connections that were accepted stay.
    pub fn close_listener(&mut self, id: ListenerId) {
        let Some(slot) = self.slot_of(Token(id.0 as usize)) else { return };
        if !matches!(self.state(slot), State::Listener(_)) {
            return;
        }
        self.listeners.retain(|&l| l != slot);
        if let State::Listener(mut listener) = self.free_slot(slot) {
            let _ = match &mut listener.socket {
                Socketed::Tcp(l) => self.poll.registry().deregister(l),
                Socketed::Unix(l, _) => self.poll.registry().deregister(l),
            };
        }
    }

    /// Sets `tcp-keepalive` for connections made from now on; `None` turns it off.
    pub fn set_keepalive(&mut self, keepalive: Option<Duration>) -> io::Result<()> {
        if std::mem::replace(&mut self.keepalive, keepalive) == keepalive {
            return Ok(());
        }
        for &slot in &self.listeners {
            if let State::Listener(Listener { socket: Socketed::Tcp(l), .. }) =
                &self.slots[slot as usize].state
            {
                set_keepalive(&SockRef::from(l), keepalive)?;
            }
        }
        Ok(())
    }

    // Descriptors of the service's own.

    /// Watches a descriptor that stays the service's. Edge-triggered: when
    /// [`crate::Service::external`] is called, use it until it would block.
    pub fn register(
        &mut self,
        fd: BorrowedFd<'_>,
        readable: bool,
        writable: bool,
    ) -> io::Result<External> {
        let interest = match (readable, writable) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (false, true) => Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        let slot = self.new_slot();
        let token = self.token(slot);
        let fd = fd.as_fd().as_raw_fd();
        if let Err(e) = self.poll.registry().register(&mut SourceFd(&fd), token, interest) {
            self.free.push(slot);
            return Err(e);
        }
        *self.state(slot) = State::External(fd);
        Ok(self.external_of(slot))
    }

    /// Stops watching; call it before the descriptor is closed.
    pub fn deregister(&mut self, external: External) {
        let Some(slot) = self.slot_of(Token(external.0 as usize)) else { return };
        if let State::External(fd) = *self.state(slot) {
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
            self.free_slot(slot);
        }
    }
}

/// Redis's reading of `tcp-keepalive`: the first probe after that time, three more at a third.
fn set_keepalive(socket: &SockRef<'_>, keepalive: Option<Duration>) -> io::Result<()> {
    /// Linux refuses more.
    const LONGEST: Duration = Duration::from_secs(32767);
    let Some(after) = keepalive else { return socket.set_keepalive(false) };
    let after = after.min(LONGEST);
    let interval = (after / 3).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(after).with_interval(interval).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}
