//! What the event loop asks of the daemon.

use super::Server;
use super::client::{Client, Kind};
use super::dispatch::Call;
use crate::{log_verbose, log_warning};
use socket2::SockRef;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Instant;
use varve_engine::ahead::{self, AHEAD, element_at};
use varve_engine::hasher::hash;
use varve_net::{Closed, Conn, ConnId, External, Net, OutputLimit, Peer, Service};

/// How much may wait to be read by a client that has not shown the password: error replies, no more.
const UNAUTHENTICATED_OUTPUT: usize = 16 << 10;

/// How much of what waits to be read no limit counts: what Redis has a fixed buffer for.
const UNCOUNTED_OUTPUT: usize = 16 << 10;

const DENIED: &[u8] = b"-DENIED Varve is running in protected mode because protected mode is enabled and no password is set for the default user. In this mode connections are only accepted from the loopback interface. If you want to connect from external computers to Varve you may adopt one of the following solutions: 1) Just disable protected mode sending the command 'CONFIG SET protected-mode no' from the loopback interface by connecting to Varve from the same host the server is running, however MAKE SURE Varve is not publicly accessible from internet if you do so. Use CONFIG REWRITE to make this change permanent. 2) Alternatively you can just disable the protected mode by editing the configuration file, and setting the protected mode option to 'no', and then restarting the server. 3) If you started the server manually just for testing, restart it with the '--protected-mode no' option. 4) Setup a an authentication password for the default user. NOTE: You only need to do one of the above things in order for the server to start accepting connections from the outside.\r\n";

fn is_local(peer: &Peer) -> bool {
    match peer {
        Peer::Tcp(addr) => match addr.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => {
                ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
            }
        },
        Peer::Unix(_) | Peer::Adopted => true,
    }
}

impl Service for Server {
    type Session = Client;

    fn accepted(
        &mut self,
        _: &mut Net<Client>,
        id: ConnId,
        peer: &Peer,
    ) -> Result<Client, Vec<u8>> {
        self.stats.connections += 1;
        if self.clients >= self.cfg.maxclients as usize {
            self.stats.rejected_connections += 1;
            return Err(b"-ERR max number of clients reached\r\n".to_vec());
        }
        if self.cfg.protected_mode && self.cfg.requirepass.is_empty() && !is_local(peer) {
            self.stats.rejected_connections += 1;
            return Err(DENIED.to_vec());
        }
        self.clients += 1;
        let now = self.clock.now_ms();
        Ok(Client {
            id,
            peer: peer.to_string(),
            socket: if let Peer::Tcp(addr) = peer { Some(*addr) } else { None },
            unix: matches!(peer, Peer::Unix(_)),
            authenticated: self.cfg.requirepass.is_empty(),
            created_ms: now,
            ..Client::default()
        })
    }

    fn accept_failed(&mut self, _: &mut Net<Client>, error: io::Error) {
        log_warning!("Accepting client connection: {error}");
    }

    fn requests(&mut self, net: &mut Net<Client>, conn: &mut Conn<Client>) {
        self.clock.tick_ns();
        if conn.session.local.is_empty() {
            // While its command runs, the connection is out of reach of `CLIENT LIST`.
            conn.session.local = conn.local().to_string();
            conn.session.fd = conn.fd().as_raw_fd();
        }
        conn.output.limit = conn.output_limit.hard;
        let mut ahead = 0;
        while !conn.hold && !conn.close_after_reply && !conn.close_asap {
            if ahead == 0 {
                ahead = self.prefetch(conn);
            }
            ahead = ahead.saturating_sub(1);
            // A pipeline of requests for much must not take memory past the limit either.
            let limit = conn.output_limit.hard;
            if limit > 0 && conn.output.len() > limit {
                break;
            }
            let Some(mut args) = conn.input.pop() else { break };
            let mut call = Call {
                net,
                id: conn.id,
                client: &mut conn.session,
                reply: &mut conn.output,
                command: 0,
                secrets: Vec::new(),
            };
            self.execute(&mut call, &mut args);
            conn.hold = conn.session.blocked.is_some();
            conn.close_after_reply |= conn.session.close_after_reply;
            if std::mem::take(&mut conn.session.reconfigure) {
                self.configure_conn(conn);
            }
        }
        conn.output.limit = 0;
    }

    fn bytes(&mut self, net: &mut Net<Client>, conn: &mut Conn<Client>) {
        self.clock.sync();
        match conn.session.kind {
            Kind::Primary => self.primary_bytes(net, conn),
            Kind::Child => self.child_bytes(net, conn),
            Kind::Normal | Kind::Replica => conn.close_asap = true,
        }
    }

    fn connected(
        &mut self,
        net: &mut Net<Client>,
        conn: &mut Conn<Client>,
        result: io::Result<()>,
    ) {
        self.primary_connected(net, conn, result);
    }

    fn closed(&mut self, net: &mut Net<Client>, conn: Box<Conn<Client>>, why: Closed) {
        let mut conn = conn;
        let (id, kind) = (conn.id, conn.session.kind);
        match &why {
            Closed::OutputLimit => {
                self.stats.output_limit_disconnections += 1;
                log_warning!(
                    "Client id={id} addr={} scheduled to be closed ASAP for overcoming of output buffer limits.",
                    conn.session.peer
                );
            }
            Closed::QueryLimit => {
                self.stats.query_limit_disconnections += 1;
                log_warning!(
                    "Closing client that reached max query buffer length: id={id} addr={}",
                    conn.session.peer
                );
            }
            Closed::Protocol(text) => log_verbose!("Protocol error ({text}) from client id={id}"),
            Closed::Error(error) => log_verbose!("Client id={id}: {error}"),
            Closed::Eof | Closed::Killed | Closed::Done => {}
        }
        self.forget_client(id, &mut conn.session);
        match kind {
            Kind::Normal if !conn.session.speaks_replconf => self.clients -= 1,
            Kind::Normal | Kind::Replica => {
                self.clients -= 1;
                self.replica_closed(net, id);
            }
            Kind::Primary => self.primary_closed(net, id),
            Kind::Child => self.child_closed(net, id),
        }
    }

    fn drained(&mut self, _: &mut Net<Client>, conn: &mut Conn<Client>) {
        self.feed(conn);
    }

    fn turn_end(&mut self, net: &mut Net<Client>) {
        self.continue_failover(net);
        let caught_up = self.log_behind && !self.log.is_behind();
        self.log_behind &= !caught_up;
        if self.let_go_due || caught_up {
            self.let_go(net);
        }
        if !self.ks.events.is_empty() {
            self.publish_events(net, None);
        }
        if self.tracking.is_due() {
            self.broadcast(net);
        }
        // A failover asks by itself.
        if std::mem::take(&mut self.acks_due)
            && !self.repl.primary.is_empty()
            && self.is_primary()
            && self.repl.failover.is_none()
        {
            self.log.append(varve_replication::wire::GETACK);
        }
        self.log.flush();
        self.log_behind |= self.log.is_behind();
        self.log.rotate_if_large();
        self.log_turn(net);
        self.feed_replicas(net);
        self.evict_clients(net);
        self.told_is_sent();
    }

    /// While the disk takes nothing, what nobody was promised yet waits, and the rest goes on:
    /// writes are refused meanwhile, and a client that only reads must not hang with them.
    ///
    /// A replica may have its snapshot when the log is written as far as that stands, and is fed from
    /// what is written anyway: it never holds what this process can forget.
    fn gate(&self, client: &Client) -> u64 {
        if client.kind == Kind::Replica {
            return client.snapshot_at;
        }
        let end = self.log.end().0;
        if self.log.is_failing() { client.wrote_to.min(end) } else { end }
    }

    fn released(&self) -> u64 {
        self.log.released().0
    }

    fn woken(&mut self, net: &mut Net<Client>) {
        self.take_fetched(net);
        self.take_resolved(net);
        self.log_turn(net);
        self.migration_turn(net);
    }

    fn external(&mut self, net: &mut Net<Client>, _: External, _: bool, _: bool) {
        self.signals(net);
    }

    fn deadline(&self) -> Option<Instant> {
        self.next_deadline()
    }

    fn tick(&mut self, net: &mut Net<Client>) {
        if self.load_is_due() {
            self.load_what_is_due(net);
        }
        self.on_tick(net);
    }

    fn stopping(&self) -> bool {
        self.stopping
    }
}

impl Server {
    /// Fetches what the next requests will touch. How many requests that covers.
    fn prefetch(&self, conn: &Conn<Client>) -> usize {
        let (db, input) = (self.ks.dbs.get(conn.session.db), &conn.input);
        let waiting = input.waiting().min(AHEAD);
        if let Some(db) = db
            && waiting >= 2
        {
            let keys: [u64; AHEAD] = std::array::from_fn(|i| input.peek(i, 1).map_or(0, hash));
            ahead::fetch(db, &keys[..waiting], |i, of| {
                input.peek(i, element_at(of, input.peek_len(i))).map(hash)
            });
        }
        waiting
    }

    /// Sets what the loop must know of a connection whose client is of another kind now.
    pub fn configure_conn(&mut self, conn: &mut Conn<Client>) {
        let class = match conn.session.kind {
            Kind::Replica => 1,
            Kind::Normal if conn.session.in_pubsub() => 2,
            _ => 0,
        };
        conn.output_limit = self.output_limit(class, conn.session.authenticated);
        conn.limits.authenticated = conn.session.authenticated;
        conn.limits.bulk_max = self.cfg.proto_max_bulk_len as usize;
        conn.query_limit = self.cfg.client_query_buffer_limit as usize;
        if conn.session.kind == Kind::Replica {
            // A replica is an offset: what it has not taken stays in the log, not in a buffer.
            conn.output_limit = OutputLimit::default();
            conn.feeds = true;
            let at_once = !self.cfg.repl_disable_tcp_nodelay;
            let _ = SockRef::from(&conn.fd()).set_tcp_nodelay(at_once);
        }
    }

    /// How much may wait to be read by a client of a class of `client-output-buffer-limit`.
    pub(super) fn output_limit(&self, class: usize, authenticated: bool) -> OutputLimit {
        if !authenticated {
            return OutputLimit { hard: UNAUTHENTICATED_OUTPUT, ..OutputLimit::default() };
        }
        let limit = &self.cfg.client_output_buffer_limit[class];
        let with_uncounted = |bytes: u64| match bytes {
            0 => 0,
            _ => (bytes as usize).saturating_add(UNCOUNTED_OUTPUT),
        };
        OutputLimit {
            hard: with_uncounted(limit.hard),
            soft: with_uncounted(limit.soft),
            soft_for: std::time::Duration::from_secs(limit.soft_seconds),
        }
    }
}
