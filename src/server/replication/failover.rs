//! `FAILOVER`: handing over to a replica without losing a write.
//!
//! Writes wait while the target takes in the rest of the log, and nothing expires or is evicted. Then
//! this server follows it, and its first `PSYNC` asks the target to take over; what waited is refused
//! as by any replica. If the target refuses, or does not answer in time, this server is the primary
//! again. A refusal is any error that ends the handshake: it is not tried again as it is by a replica,
//! for writes wait. It is while the target cannot be reached, as long as the target's own link to this
//! server holds: who restarts may lack what it had.
//!
//! What had begun before may still end and be written: the transaction that `FAILOVER` is in, a
//! `MIGRATE` whose target has not answered. Then the target must have that as well.

use super::super::Server;
use super::super::dispatch::Call;
use crate::config::types::Primary as PrimaryAddress;
use crate::{log_notice, log_warning};
use varve_engine::Error;
use varve_net::Net;
use varve_persistence::offset::Offset;
use varve_replication::wire::GETACK;

/// How long the target may take to answer once it has been asked to take over.
const ANSWER_MS: i64 = 10_000;

/// A failover under way.
pub struct Failover {
    target: Option<PrimaryAddress>,
    /// When the wait for the target to catch up ends, Unix ms.
    until_ms: Option<i64>,
    /// Whether the target is to take over then as well, with what it has.
    force: bool,
    /// `None` until the turn's end.
    goal: Option<Goal>,
    /// Since when the target has been asked, Unix ms.
    asked_ms: Option<i64>,
}

/// How far the target must be.
#[derive(Clone, Copy)]
struct Goal {
    /// What it must have acknowledged: all that was written.
    written: Offset,
    /// Where the log ends, with the question for that acknowledgement.
    end: Offset,
}

impl Server {
    /// `master_failover_state` of `INFO`.
    pub fn failover_state(&self) -> &'static str {
        match &self.repl.failover {
            None => "no-failover",
            Some(Failover { asked_ms: None, .. }) => "waiting-for-sync",
            Some(_) => "failover-in-progress",
        }
    }

    /// `FAILOVER [TO host port [FORCE]] [TIMEOUT ms]`.
    pub fn begin_failover(
        &mut self,
        call: &mut Call<'_>,
        target: Option<PrimaryAddress>,
        force: bool,
        timeout_ms: Option<i64>,
    ) -> Result<(), Error> {
        if self.repl.failover.is_some() {
            return Err(Error::new("ERR FAILOVER already in progress."));
        }
        if !self.is_primary() {
            return Err(Error::new("ERR FAILOVER is not valid when server is a replica."));
        }
        if self.repl.primary.is_empty() {
            return Err(Error::new("ERR FAILOVER requires connected replicas."));
        }
        if force && (timeout_ms.is_none() || target.is_none()) {
            return Err(Error::new(
                "ERR FAILOVER with force option requires both a timeout and target HOST and IP.",
            ));
        }
        if let Some(to) = &target {
            match self.replicas_by_address(call.net).iter().find(|(address, ..)| address == to) {
                None => {
                    return Err(Error::new("ERR FAILOVER target HOST and PORT is not a replica."));
                }
                Some((_, false, _)) => {
                    return Err(Error::new("ERR FAILOVER target replica is not online."));
                }
                Some(_) => {}
            }
        }
        let until_ms = timeout_ms.map(|ms| self.clock.steady_ms() + ms);
        log_notice!("FAILOVER requested by '{}'", call.client.peer);
        self.repl.failover = Some(Failover { target, until_ms, force, goal: None, asked_ms: None });
        self.hold();
        Ok(())
    }

    /// Replicas: their address, whether they are online, and what they have acknowledged.
    fn replicas_by_address(&self, net: &Net<super::Client>) -> Vec<(PrimaryAddress, bool, Offset)> {
        let address = |listed: &varve_replication::primary::Listed<'_>| {
            let socket = net.conn(listed.conn).and_then(|conn| conn.session.socket);
            let host = listed.announced_ip.map(str::to_owned);
            let host = host.or(socket.map(|s| s.ip().to_canonical().to_string()))?;
            Some(PrimaryAddress { host, port: u16::try_from(listed.port).ok()? })
        };
        let listed = self.repl.primary.listed(self.now_u64());
        listed.filter_map(|l| Some((address(&l)?, l.online, l.offset))).collect()
    }

    /// The replica that may take over as soon as it holds the log up to `written`, and does.
    fn replica_at(&self, net: &Net<super::Client>, written: Offset) -> Option<PrimaryAddress> {
        let target = self.repl.failover.as_ref().and_then(|failover| failover.target.as_ref());
        let replicas = self.replicas_by_address(net).into_iter();
        let ready = |(address, online, acknowledged): &(PrimaryAddress, bool, Offset)| {
            *online && *acknowledged >= written && target.is_none_or(|target| target == address)
        };
        replicas.filter(ready).map(|(address, ..)| address).next()
    }

    /// Sets how far the target must be, and asks the replicas how far they are: at first, and when
    /// more was written since. One that is there needs no question, which it would not hold yet when
    /// it takes over.
    fn set_goal(&mut self, net: &Net<super::Client>) -> Goal {
        let end = self.log.end();
        let goal = self.repl.failover.as_ref().and_then(|failover| failover.goal);
        if let Some(goal) = goal.filter(|goal| goal.end == end) {
            return goal;
        }
        if self.replica_at(net, end).is_none() {
            self.log.append(GETACK);
        }
        let goal = Goal { written: end, end: self.log.end() };
        if let Some(failover) = &mut self.repl.failover {
            failover.goal = Some(goal);
        }
        goal
    }

    /// Goes on with a failover, at the end of each turn.
    pub fn continue_failover(&mut self, net: &mut Net<super::Client>) {
        let Some(failover) = &self.repl.failover else { return };
        let now = self.clock.steady_ms();
        if let Some(asked) = failover.asked_ms {
            if now - asked >= ANSWER_MS {
                self.abort_failover(net, "the target does not answer");
            } else if !failover.force && self.lost_target(net) {
                self.abort_failover(net, "the target is gone");
            }
            return;
        }
        let late = failover.until_ms.is_some_and(|until| until <= now);
        let forced = failover.target.clone().filter(|_| failover.force && late);
        let written = self.set_goal(net).written;
        let ready = self.replica_at(net, written).filter(|_| !self.is_migrating());
        if let Some(to) = ready {
            self.hand_over(net, to);
        } else if let Some(to) = forced {
            log_warning!("FAILOVER: the target did not catch up in time, and is forced");
            self.hand_over(net, to);
        } else if late {
            self.abort_failover(net, "no replica caught up in time");
        }
    }

    /// Whether the target has the request to take over, and may be a primary when its answer comes.
    pub fn has_asked_to_take_over(&self) -> bool {
        let asked = |link: &super::Link| link.machine().has_asked_to_take_over();
        self.repl.failover.is_some() && self.repl.link.as_ref().is_some_and(asked)
    }

    /// Whether the target has left before it was asked to take over: it may come back with less than
    /// it had acknowledged.
    fn lost_target(&self, net: &Net<super::Client>) -> bool {
        let target = self.cfg.replicaof.as_ref();
        !self.has_asked_to_take_over()
            && !self.replicas_by_address(net).iter().any(|(address, ..)| Some(address) == target)
    }

    fn hand_over(&mut self, net: &mut Net<super::Client>, to: PrimaryAddress) {
        log_notice!("FAILOVER: {}:{} is asked to take over", to.host, to.port);
        if let Some(failover) = &mut self.repl.failover {
            failover.asked_ms = Some(self.clock.steady_ms());
        }
        self.follow(net, to);
    }

    /// The target took over. What it makes of this server, and be it a full resync, is a replica's
    /// life.
    pub(super) fn complete_failover(&mut self, net: &mut Net<super::Client>) {
        log_notice!("The failover is complete: this server follows the new primary");
        self.end_failover(net);
    }

    /// Ends a failover that cannot be brought to its end. Whether there was one.
    pub fn abort_failover(&mut self, net: &mut Net<super::Client>, why: &str) -> bool {
        let Some(failover) = &self.repl.failover else { return false };
        log_warning!("FAILOVER aborted: {why}");
        if failover.asked_ms.is_some() {
            self.promote(net);
        }
        self.end_failover(net);
        true
    }

    fn end_failover(&mut self, net: &mut Net<super::Client>) {
        self.repl.failover = None;
        self.replication_config_changed(); // the next PSYNC asks nobody to take over
        self.let_go(net);
    }
}
