//! `FAILOVER`: handing over to a replica without losing a write.
//!
//! Writes wait while the target takes in the rest of the log. Then this server follows it, and its
//! first `PSYNC` asks the target to take over; what waited is refused as by any replica. If the target
//! refuses, or does not answer in time, this server is the primary again.

use super::super::Server;
use super::super::dispatch::Call;
use crate::config::types::Primary as PrimaryAddress;
use crate::{log_notice, log_warning};
use varve_engine::Error;
use varve_net::Net;

/// How long the target may take to answer once it has been asked to take over.
const ANSWER_MS: i64 = 10_000;

/// A failover under way.
pub struct Failover {
    target: Option<PrimaryAddress>,
    /// When the wait for the target to catch up ends, Unix ms.
    until_ms: Option<i64>,
    /// Whether the target is to take over then as well, with what it has.
    force: bool,
    /// What the target must have acknowledged: all that was written. Nothing is appended after it but
    /// one question for that acknowledgement.
    goal: u64,
    /// Since when the target has been asked, Unix ms.
    asked_ms: Option<i64>,
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
        let until_ms = timeout_ms.map(|ms| self.clock.now_ms() + ms);
        let goal = self.log.end().0;
        log_notice!("FAILOVER requested by '{}'", call.client.peer);
        self.repl.failover = Some(Failover { target, until_ms, force, goal, asked_ms: None });
        self.ks.hold_expiry = true;
        self.ask_for_acks();
        Ok(())
    }

    /// Replicas: their address, whether they are online, and what they have acknowledged.
    fn replicas_by_address(&self, net: &Net<super::Client>) -> Vec<(PrimaryAddress, bool, u64)> {
        let address = |listed: &varve_replication::primary::Listed<'_>| {
            let socket = net.conn(listed.conn).and_then(|conn| conn.session.socket);
            let host = listed.announced_ip.map(str::to_owned);
            let host = host.or(socket.map(|s| s.ip().to_canonical().to_string()))?;
            Some(PrimaryAddress { host, port: listed.port })
        };
        let listed = self.repl.primary.listed(self.now_u64());
        listed.filter_map(|l| Some((address(&l)?, l.online, l.offset.0))).collect()
    }

    /// Goes on with a failover: after an acknowledgement, and as time passes.
    pub fn continue_failover(&mut self, net: &mut Net<super::Client>) {
        let Some(failover) = &self.repl.failover else { return };
        let now = self.clock.now_ms();
        if let Some(asked) = failover.asked_ms {
            if self.link_is_up() {
                log_notice!("The failover is complete: this server follows the new primary");
                self.end_failover(net);
            } else if now - asked >= ANSWER_MS {
                self.abort_failover(net, "the target does not answer");
            }
            return;
        }
        let goal = failover.goal;
        let wanted = |address: &PrimaryAddress| {
            failover.target.as_ref().is_none_or(|target| target == address)
        };
        let replicas = self.replicas_by_address(net);
        let ready = replicas.iter().find(|(a, online, ack)| wanted(a) && *online && *ack >= goal);
        let late = failover.until_ms.is_some_and(|until| until <= now);
        match (ready, late) {
            (Some((to, ..)), _) => self.hand_over(net, to.clone()),
            (None, true) if failover.force => {
                if let Some(to) = failover.target.clone() {
                    log_warning!("FAILOVER: the target did not catch up in time, and is forced");
                    self.hand_over(net, to);
                }
            }
            (None, true) => {
                self.abort_failover(net, "no replica caught up in time");
            }
            (None, false) => {}
        }
    }

    fn hand_over(&mut self, net: &mut Net<super::Client>, to: PrimaryAddress) {
        log_notice!("FAILOVER: {}:{} is asked to take over", to.host, to.port);
        if let Some(failover) = &mut self.repl.failover {
            failover.asked_ms = Some(self.clock.now_ms());
        }
        self.follow(net, to);
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
