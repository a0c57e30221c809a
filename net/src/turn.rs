//! The loop: one turn after the other.

use crate::conn::{Closed, Conn, ConnId, Mode, Peer};
use crate::net::{External, Net, Socketed, State, WAKER};
use crate::threads::{BATCH, Work};
use mio::Events;
use mio::event::Event;
use socket2::SockRef;
use std::io;
use std::mem::take;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use varve_engine::Error;

/// Bytes that one connection may send in a turn before the others get theirs.
pub const READ_BUDGET: usize = 256 * 1024;
/// Bytes that one connection is sent in a turn before the others get theirs.
pub const WRITE_BUDGET: usize = 1024 * 1024;
/// With less output than this, a connection that feeds is asked for more.
pub const LOW_WATER: usize = 64 * 1024;
/// Connections that one listener accepts in a turn.
const ACCEPTS: usize = 256;
/// How long a listener rests when the process has no descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often connections over their soft output limit are looked at.
const SOFT_CHECK: Duration = Duration::from_millis(500);

/// What the loop drives: it says what connections are for and what their requests mean.
pub trait Service: Sized {
    /// What the service keeps about a connection, inside it.
    type Session;

    /// Someone has connected. An error is sent, and the connection closed.
    fn accepted(
        &mut self,
        net: &mut Net<Self::Session>,
        id: ConnId,
        peer: &Peer,
    ) -> Result<Self::Session, Vec<u8>>;

    /// A connection could not be accepted: most likely there are no descriptors left. It is tried
    /// again later.
    fn accept_failed(&mut self, net: &mut Net<Self::Session>, error: io::Error);

    /// `conn.input` holds complete requests. What is left in it without [`Conn::hold`] comes again
    /// in the next turn.
    fn requests(&mut self, net: &mut Net<Self::Session>, conn: &mut Conn<Self::Session>);

    /// Bytes have come on a connection in [`Mode::Raw`]. What is not consumed comes again with the
    /// next bytes.
    fn bytes(&mut self, net: &mut Net<Self::Session>, conn: &mut Conn<Self::Session>);

    /// An outgoing connection stands, or has failed; then [`Service::closed`] follows.
    fn connected(
        &mut self,
        net: &mut Net<Self::Session>,
        conn: &mut Conn<Self::Session>,
        result: io::Result<()>,
    );

    /// The connection is over, and out of `net`.
    fn closed(&mut self, net: &mut Net<Self::Session>, conn: Box<Conn<Self::Session>>, why: Closed);

    /// A connection that [`Conn::feeds`] has little output left: add more, if there is more.
    fn drained(&mut self, net: &mut Net<Self::Session>, conn: &mut Conn<Self::Session>);

    /// All input of this turn was handled and nothing was sent yet: give the log to the kernel.
    fn turn_end(&mut self, net: &mut Net<Self::Session>);

    /// The offset that replies made in this turn for this connection wait for. Asked after
    /// [`Service::turn_end`].
    fn gate(&self, session: &Self::Session) -> u64;

    /// The offset up to which replies may leave. It goes back when the rule becomes stricter.
    fn released(&self) -> u64;

    /// A [`crate::Waker`] was used.
    fn woken(&mut self, net: &mut Net<Self::Session>);

    /// Something has happened on a descriptor of the service's own.
    fn external(
        &mut self,
        net: &mut Net<Self::Session>,
        which: External,
        readable: bool,
        writable: bool,
    );

    /// When [`Service::tick`] is due at the latest.
    fn deadline(&self) -> Option<Instant>;

    /// The deadline has passed.
    fn tick(&mut self, net: &mut Net<Self::Session>);

    /// Whether [`run`] is to return.
    fn stopping(&self) -> bool;
}

/// Runs turns until the service is stopping. Fails only if epoll does.
pub fn run<T: Service>(net: &mut Net<T::Session>, service: &mut T) -> io::Result<()> {
    while !service.stopping() {
        turn(net, service, None)?;
    }
    Ok(())
}

/// One turn, which waits for at most `max_wait` if there is nothing to do.
///
/// A service may run turns from within [`Service::requests`], [`Service::bytes`] and
/// [`Service::tick`], to stay reachable during a long command; the connection in hand does not take
/// part in them.
pub fn turn<T: Service>(
    net: &mut Net<T::Session>,
    service: &mut T,
    max_wait: Option<Duration>,
) -> io::Result<()> {
    // While the events are looked at, the net is free to change.
    let mut events = std::mem::replace(&mut net.events, Events::with_capacity(0));
    let now = net.end_turn();
    let timeout = timeout(net, service, now, max_wait);
    let waited = net.wait(&mut events, timeout);
    for event in events.iter() {
        match event.token() {
            WAKER => service.woken(net),
            _ => note_event(net, service, event),
        }
    }
    net.events = events;
    waited?;
    accept_all(net, service);
    net.ready.extend(net.later.drain(..));
    let mut ahead = 0;
    while !net.ready.is_empty() {
        if ahead == 0 {
            ahead = read_ahead(net);
        }
        ahead -= 1;
        if let Some(slot) = net.ready.pop_front() {
            serve(net, service, slot);
        }
    }
    if service.deadline().is_some_and(|at| at <= net.now) {
        service.tick(net);
    }
    close_killed(net, service);
    service.turn_end(net);
    send_all(net, service);
    close_killed(net, service);
    Ok(())
}

fn timeout<T: Service>(
    net: &mut Net<T::Session>,
    service: &T,
    now: Instant,
    max_wait: Option<Duration>,
) -> Option<Duration> {
    let left_over = !net.ready.is_empty()
        || !net.later.is_empty()
        || !net.dirty.is_empty()
        || !net.closing.is_empty();
    if left_over {
        return Some(Duration::ZERO);
    }
    let mut wait = max_wait;
    let mut at_most = |limit: Duration| wait = Some(wait.map_or(limit, |w| w.min(limit)));
    if let Some(at) = service.deadline() {
        at_most(at.saturating_duration_since(now));
    }
    if !net.soft.is_empty() {
        at_most(SOFT_CHECK);
    }
    for i in 0..net.listeners.len() {
        let slot = net.listeners[i];
        if let State::Listener(l) = net.state(slot)
            && l.ready
        {
            at_most(l.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)));
        }
    }
    wait
}

/// Notes what an event says; nothing is read or written yet.
fn note_event<T: Service>(net: &mut Net<T::Session>, service: &mut T, event: &Event) {
    let Some(slot) = net.slot_of(event.token()) else { return };
    let closed = event.is_read_closed() || event.is_error();
    let (mut ready, mut dirty) = (false, false);
    match net.state(slot) {
        State::Conn(conn) => {
            if conn.connecting && (event.is_writable() || closed || event.is_write_closed()) {
                conn.attempted = true;
                ready = !std::mem::replace(&mut conn.in_ready, true);
            }
            if event.is_readable() || closed {
                conn.readable = true;
                conn.read_closed |= event.is_read_closed();
                if conn.write_only {
                    conn.why = Some(Closed::Error(io::ErrorKind::BrokenPipe.into()));
                    conn.close_asap = true;
                }
                ready |= !std::mem::replace(&mut conn.in_ready, true);
            }
            if event.is_writable() && conn.blocked && !conn.connecting {
                conn.blocked = false;
                dirty = !std::mem::replace(&mut conn.in_dirty, true);
            }
        }
        State::Listener(listener) => listener.ready = true,
        State::External(_) => {
            let which = net.external_of(slot);
            service.external(net, which, event.is_readable() || closed, event.is_writable());
        }
        State::Taken(notes) => {
            notes.readable |= event.is_readable() || closed;
            notes.read_closed |= event.is_read_closed();
            notes.writable |= event.is_writable();
        }
        State::Free => {}
    }
    if ready {
        net.ready.push_back(slot);
    }
    if dirty {
        net.dirty.push(slot);
    }
}

fn accept_all<T: Service>(net: &mut Net<T::Session>, service: &mut T) {
    let mut i = 0;
    // Callbacks may close listeners.
    while let Some(&slot) = net.listeners.get(i) {
        i += 1;
        for _ in 0..ACCEPTS {
            let now = net.now;
            let State::Listener(listener) = net.state(slot) else { break };
            if !listener.ready || listener.retry_at.is_some_and(|at| at > now) {
                break;
            }
            listener.retry_at = None;
            let accepted = match &listener.socket {
                Socketed::Tcp(l) => l.accept().map(|(s, a)| (OwnedFd::from(s), Peer::Tcp(a))),
                Socketed::Unix(l, path) => {
                    l.accept().map(|(s, _)| (OwnedFd::from(s), Peer::Unix(path.clone())))
                }
            };
            match accepted {
                Ok((fd, peer)) => accept(net, service, fd, peer),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => listener.ready = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    listener.retry_at = Some(now + ACCEPT_RETRY);
                    service.accept_failed(net, e);
                }
            }
        }
    }
}

fn accept<T: Service>(net: &mut Net<T::Session>, service: &mut T, fd: OwnedFd, peer: Peer) {
    let id = net.next_id();
    match service.accepted(net, id, &peer) {
        Ok(session) => {
            if let Err(e) = net.accepted(id, fd, peer, session) {
                service.accept_failed(net, e);
            }
        }
        Err(bytes) => {
            // A fresh socket has room for a line.
            let _ = nix::unistd::write(&fd, &bytes);
        }
    }
}

/// Has the I/O threads read the first of the ready connections, if there are enough. How many of
/// the list that covers, at least 1.
fn read_ahead<S>(net: &mut Net<S>) -> usize {
    let Some(mut pool) = net.pool.take() else { return usize::MAX };
    let count = net.ready.len().min(BATCH);
    let worth = if net.always_hand_over { 1 } else { pool.worth() };
    let mut wanting = 0;
    if count >= worth {
        for i in 0..count {
            let slot = net.ready[i];
            wanting += matches!(net.state(slot), State::Conn(c) if c.wants_read()) as usize;
        }
    }
    if wanting >= worth {
        for i in 0..count {
            let slot = net.ready[i];
            if !matches!(net.state(slot), State::Conn(c) if c.wants_read()) {
                continue;
            }
            let Some(mut conn) = net.take(slot) else { continue };
            conn.received = true;
            conn.budget = READ_BUDGET;
            net.lend_buffer(&mut conn.input);
            pool.batch.push(conn);
        }
        pool.run(Work::Read(net.now), !net.always_hand_over, &mut net.stats);
        pool.batch.drain(..).for_each(|conn| net.put(conn));
    }
    net.pool = Some(pool);
    count.max(1)
}

/// Reads one connection and serves what has come.
fn serve<T: Service>(net: &mut Net<T::Session>, service: &mut T, slot: u32) {
    let Some(mut conn) = net.take(slot) else { return };
    conn.in_ready = false;
    if conn.attempted {
        connected(net, service, &mut conn);
    }
    if !take(&mut conn.received) {
        conn.budget = READ_BUDGET;
    }
    let mut later = false;
    while !conn.close_asap {
        // All of a request counts, whether its end came with the last bytes or not.
        if conn.input.next_len() > conn.query_limit {
            conn.why = Some(Closed::QueryLimit);
            conn.close_asap = true;
            break;
        }
        if !handle(net, service, &mut conn) {
            later = !conn.ending();
            break;
        }
        let full = conn.is_full();
        conn.eof |= full && conn.read_closed;
        if !conn.readable || conn.pause_read || conn.connecting || conn.ending() || full {
            break;
        }
        if conn.budget == 0 {
            later = true;
            break;
        }
        net.lend_buffer(&mut conn.input);
        conn.receive(net.now, &mut net.stats);
    }
    // A blocked client that has gone is not waited for; one that only said that it will send no
    // more gets its replies.
    if conn.eof && !later && !conn.ending() {
        conn.why = Some(Closed::Eof);
        match conn.hold && conn.output.is_empty() {
            true => conn.close_asap = true,
            false => conn.close_after_reply = true,
        }
    }
    if later && !std::mem::replace(&mut conn.in_ready, true) {
        net.later.push(slot);
    }
    settle(net, service, conn);
}

/// Puts a connection back after its callbacks, or ends it.
fn settle<T: Service>(net: &mut Net<T::Session>, service: &mut T, mut conn: Box<Conn<T::Session>>) {
    net.apply_notes(&mut conn);
    let finished = conn.close_after_reply && conn.output.is_empty();
    if conn.close_asap || finished {
        return end(net, service, conn);
    }
    if !conn.output.is_empty() && !conn.in_dirty {
        conn.in_dirty = true;
        net.dirty.push(conn.slot);
    }
    net.reclaim(&mut conn);
    net.put(conn);
}

fn end<T: Service>(net: &mut Net<T::Session>, service: &mut T, mut conn: Box<Conn<T::Session>>) {
    let why = net.remove(&mut conn);
    service.closed(net, conn, why);
}

/// Gives the service what has come. Whether it took all that it could.
fn handle<T: Service>(
    net: &mut Net<T::Session>,
    service: &mut T,
    conn: &mut Conn<T::Session>,
) -> bool {
    loop {
        if conn.hold || conn.ending() {
            return true;
        }
        if conn.mode == Mode::Raw {
            if take(&mut conn.again) || !conn.input.bytes().is_empty() {
                service.bytes(net, conn);
                net.apply_notes(conn);
                if conn.mode == Mode::Requests {
                    continue;
                }
            }
            return !conn.again;
        }
        if conn.input.waiting() == 0
            && let Err(error) = conn.input.parse(&conn.limits)
        {
            conn.output.error(&Error::from(&error));
            conn.close_after_reply = true;
            conn.why = Some(Closed::Protocol(error.to_string()));
            return true;
        }
        if conn.input.waiting() == 0 {
            return true;
        }
        service.requests(net, conn);
        net.apply_notes(conn);
        if conn.input.waiting() > 0 {
            return conn.hold;
        }
    }
}

fn connected<T: Service>(net: &mut Net<T::Session>, service: &mut T, conn: &mut Conn<T::Session>) {
    conn.attempted = false;
    conn.connecting = false;
    conn.blocked = false;
    conn.last_read = net.now;
    let error = match SockRef::from(&conn.fd).take_error() {
        Ok(error) => error,
        Err(e) => Some(e),
    };
    match error {
        None => service.connected(net, conn, Ok(())),
        Some(e) => {
            let again = e.raw_os_error().map(io::Error::from_raw_os_error);
            conn.why = Some(Closed::Error(again.unwrap_or_else(|| e.kind().into())));
            conn.close_asap = true;
            service.connected(net, conn, Err(e));
        }
    }
    net.apply_notes(conn);
}

fn close_killed<T: Service>(net: &mut Net<T::Session>, service: &mut T) {
    while let Some(slot) = net.closing.pop() {
        match net.state(slot) {
            State::Conn(conn) if conn.close_asap => {}
            _ => continue,
        }
        if let Some(conn) = net.take(slot) {
            end(net, service, conn);
        }
    }
}

/// Sends what may leave.
fn send_all<T: Service>(net: &mut Net<T::Session>, service: &mut T) {
    send_list(net, service, |net| &mut net.dirty, |_| true);
    let released = service.released();
    if released > net.last_released {
        net.last_released = released;
        send_list(net, service, |net| &mut net.gated, |conn| take(&mut conn.in_gated));
    }
    send_list(net, service, |net| &mut net.soft, |conn| take(&mut conn.in_soft));
}

/// Sends for one of the net's lists. What is left over or added meanwhile is for the next turn.
fn send_list<T: Service>(
    net: &mut Net<T::Session>,
    service: &mut T,
    list: impl Fn(&mut Net<T::Session>) -> &mut Vec<u32>,
    still: impl Fn(&mut Conn<T::Session>) -> bool,
) {
    let empty = take(&mut net.sending);
    let mut slots = std::mem::replace(list(net), empty);
    for slots in slots.chunks(BATCH) {
        write_ahead(net, service, slots);
        for &slot in slots {
            if let State::Conn(conn) = net.state(slot)
                && still(conn)
            {
                send(net, service, slot);
            }
        }
    }
    slots.clear();
    net.sending = slots;
}

/// Has the I/O threads write for connections out of `slots`, if there are enough.
fn write_ahead<T: Service>(net: &mut Net<T::Session>, service: &T, slots: &[u32]) {
    let Some(mut pool) = net.pool.take() else { return };
    let worth = if net.always_hand_over { 1 } else { pool.worth() };
    let released = service.released();
    let mut sendable = 0;
    if slots.len() >= worth {
        for &slot in slots {
            if let State::Conn(conn) = net.state(slot) {
                let gate = service.gate(&conn.session);
                conn.may_send = if conn.wants_write() { conn.allowed(gate, released) } else { 0 };
                sendable += (conn.may_send > 0) as usize;
            }
        }
    }
    if sendable >= worth {
        for &slot in slots {
            if !matches!(net.state(slot), State::Conn(conn) if conn.may_send > 0) {
                continue;
            }
            let Some(mut conn) = net.take(slot) else { continue };
            conn.transmitted = true;
            conn.budget = WRITE_BUDGET;
            pool.batch.push(conn);
        }
        pool.run(Work::Write(net.now), !net.always_hand_over, &mut net.stats);
        pool.batch.drain(..).for_each(|conn| net.put(conn));
    }
    net.pool = Some(pool);
}

fn send<T: Service>(net: &mut Net<T::Session>, service: &mut T, slot: u32) {
    let Some(mut conn) = net.take(slot) else { return };
    conn.in_dirty = false;
    if !take(&mut conn.transmitted) {
        conn.budget = WRITE_BUDGET;
    }
    if !conn.close_asap && over_limit(net, &mut conn) {
        conn.why = Some(Closed::OutputLimit);
        conn.close_asap = true;
    }
    loop {
        let released = service.released();
        // It can fall, when syncs come to count that did not: what waits must then see it rise.
        net.last_released = net.last_released.min(released);
        conn.may_send = conn.allowed(service.gate(&conn.session), released);
        conn.transmit(net.now, &mut net.stats);
        if conn.blocked
            && let Err(e) = net.want_write(&mut conn)
        {
            conn.fail(e);
        }
        if conn.close_asap {
            return end(net, service, conn);
        }
        let len = conn.output.len();
        if !conn.feeds || conn.blocked || conn.budget == 0 || len >= LOW_WATER || conn.ending() {
            break;
        }
        service.drained(net, &mut conn);
        net.apply_notes(&mut conn);
        if conn.output.len() == len {
            break;
        }
    }
    if conn.output.is_empty() {
        if conn.write_interest && !conn.blocked && !matches!(conn.peer, Peer::Tcp(_)) {
            net.unwant_write(&mut conn);
        }
    } else if !conn.marks.is_empty() && !conn.in_gated {
        conn.in_gated = true;
        net.gated.push(slot);
    }
    if conn.budget == 0 && !conn.blocked {
        conn.in_dirty = true;
        net.dirty.push(slot);
    }
    net.apply_notes(&mut conn);
    if conn.close_asap || conn.close_after_reply && conn.output.is_empty() {
        return end(net, service, conn);
    }
    net.reclaim(&mut conn);
    net.put(conn);
}

fn over_limit<S>(net: &mut Net<S>, conn: &mut Conn<S>) -> bool {
    let (limit, len) = (conn.output_limit, conn.output.len());
    if conn.output.cut || limit.hard > 0 && len > limit.hard {
        return true;
    }
    if limit.soft == 0 || len <= limit.soft {
        conn.over_soft_since = None;
        return false;
    }
    let since = *conn.over_soft_since.get_or_insert(net.now);
    if !conn.in_soft {
        conn.in_soft = true;
        net.soft.push(conn.slot);
    }
    net.now - since > limit.soft_for
}
