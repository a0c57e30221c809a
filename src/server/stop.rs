//! The daemon's end: signals, `SHUTDOWN`, and what has to be done before.

use super::Server;
use super::client::{BlockedOn, Client};
use super::dispatch::Call;
use crate::{log_notice, log_warning, logger};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::cell::Cell;
use std::os::fd::AsFd;
use std::time::Duration;
use varve_engine::Error;
use varve_net::Net;

/// A `SHUTDOWN` on its way: it waits for replicas to have everything.
pub struct Shutdown {
    pub save: Option<bool>,
    pub force: bool,
    /// Whether a signal has asked for it: one more `SIGINT`, and the process ends at once.
    pub by_signal: bool,
    pub deadline_ms: i64,
}

/// Listens for the `SIGINT` that is to end a shutdown's save, while the loop reads no signals.
pub struct Insistence {
    /// Only what has come since: the `SIGINT` that began the shutdown was read. `None` if no shutdown
    /// saves.
    interrupts: Option<SignalFd>,
    by_signal: Cell<bool>,
    came: Cell<bool>,
}

impl Insistence {
    pub fn on(shutdown: Option<&Shutdown>) -> Insistence {
        let interrupts = shutdown.and_then(|_| signal_fd(&[Signal::SIGINT]).ok());
        let by_signal = Cell::new(shutdown.is_some_and(|s| s.by_signal));
        Insistence { interrupts, by_signal, came: Cell::new(false) }
    }

    /// Waits for so long, or until the signal is there. Whether it has come.
    pub fn came_within(&self, time: Duration) -> bool {
        if self.came.get() {
            return true;
        }
        let Some(interrupts) = &self.interrupts else {
            std::thread::sleep(time);
            return false;
        };
        if !time.is_zero() {
            let mut fds = [PollFd::new(interrupts.as_fd(), PollFlags::POLLIN)];
            let _ = ppoll(&mut fds, Some(time.into()), None);
        }
        if let Ok(Some(_)) = interrupts.read_signal() {
            match self.by_signal.replace(true) {
                true => self.came.set(true),
                false => log_scheduled("SIGINT"),
            }
        }
        self.came.get()
    }
}

fn log_scheduled(signal: &str) {
    log_warning!("Received {signal} scheduling shutdown...");
}

const NOT_SHUT_DOWN: Error = Error::new("ERR Errors trying to SHUTDOWN. Check logs.");

/// The descriptor that the loop reads its signals from.
pub fn signals() -> Result<SignalFd, String> {
    signal_fd(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD])
}

/// A descriptor to read these signals from, which are blocked.
fn signal_fd(signals: &[Signal]) -> Result<SignalFd, String> {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_block().map_err(|e| format!("Can't block signals: {e}"))?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&set, flags).map_err(|e| format!("Can't make a signalfd: {e}"))
}

impl Server {
    /// Handles the signals that came.
    pub fn signals(&mut self, net: &mut Net<Client>) {
        let mut came = Vec::new();
        if let Some(process) = &self.process {
            while let Ok(Some(info)) = process.signals.read_signal() {
                came.push(info.ssi_signo as i32);
            }
        }
        for signal in came {
            match signal {
                libc::SIGCHLD => self.reap(net),
                libc::SIGHUP => logger::refresh(),
                libc::SIGINT | libc::SIGTERM => {
                    let (name, flags) = match signal {
                        libc::SIGINT => ("SIGINT", self.cfg.shutdown_on_sigint),
                        _ => ("SIGTERM", self.cfg.shutdown_on_sigterm),
                    };
                    let again = self.shutdown.as_ref().is_some_and(|s| s.by_signal);
                    if again && signal == libc::SIGINT {
                        self.insist();
                        continue;
                    }
                    log_scheduled(name);
                    let save = match (flags.save, flags.nosave) {
                        (true, _) => Some(true),
                        (_, true) => Some(false),
                        _ => None,
                    };
                    if self.loading.is_some() {
                        // Nothing to save yet: at once.
                        self.stopping = true;
                    } else if let Some(shutdown) = &mut self.shutdown {
                        shutdown.by_signal = true;
                    } else {
                        let _ = self.begin_shutdown(net, save, flags.now, flags.force, true);
                    }
                }
                _ => {}
            }
        }
    }

    /// Ends the process at once: without the waiting, and without the save.
    pub fn insist(&mut self) {
        log_warning!("You insist... exiting now.");
        self.kill_child();
        crate::service::stopping();
        self.insisted = true;
        self.stopping = true;
    }

    /// Begins to stop: first the replicas get what they lack, within `shutdown-timeout`.
    pub fn begin_shutdown(
        &mut self,
        net: &mut Net<Client>,
        save: Option<bool>,
        now: bool,
        force: bool,
        by_signal: bool,
    ) -> Result<(), Error> {
        let wait_ms = if now { 0 } else { self.cfg.shutdown_timeout as i64 * 1000 };
        let deadline_ms = self.clock.steady_ms() + wait_ms;
        let shutdown = Shutdown { save, force, by_signal, deadline_ms };
        self.shutdown = Some(shutdown);
        // Writes stop, so that there is an end to wait for.
        if self.try_finish_shutdown(net)? {
            return Ok(());
        }
        self.hold();
        match self.lacks_first_base() {
            true => log_notice!("Waiting for the log's first base before shutting down"),
            false => log_notice!("Waiting for replicas before shutting down"),
        }
        Ok(())
    }

    /// Once a round: whether the time to end has come.
    pub fn shutdown_round(&mut self, net: &mut Net<Client>) {
        if self.shutdown.is_some() && !self.stopping && self.try_finish_shutdown(net).is_err() {
            log_warning!(
                "Errors trying to shut down the server. Check the logs for more information."
            );
        }
    }

    fn try_finish_shutdown(&mut self, net: &mut Net<Client>) -> Result<bool, Error> {
        let Some(shutdown) = &self.shutdown else { return Ok(false) };
        let (save, force) = (shutdown.save, shutdown.force);
        let late = self.clock.steady_ms() >= shutdown.deadline_ms;
        let lacks_base = self.lacks_first_base();
        if !late && (lacks_base || !self.replicas_have_everything()) {
            return Ok(false);
        }
        if lacks_base && !force {
            log_warning!("The log was just turned on and has no base yet, can't exit");
            self.cancel_shutdown(net);
            return Err(NOT_SHUT_DOWN);
        }
        self.end_child(net);
        let save = save.unwrap_or(!self.cfg.save.is_empty());
        if save {
            log_notice!("Saving the final RDB snapshot before exiting.");
            crate::service::status("Saving");
            let saved = self.save_now();
            if self.insisted {
                return Ok(true);
            }
            if let Err(why) = saved
                && !force
            {
                log_warning!("Error trying to save the DB, can't exit: {why}");
                crate::service::ready();
                self.cancel_shutdown(net);
                return Err(NOT_SHUT_DOWN);
            }
        }
        self.log.flush();
        crate::service::stopping();
        self.stopping = true;
        Ok(true)
    }

    /// Whether the log was turned on and what there is, is in none of its files yet.
    fn lacks_first_base(&self) -> bool {
        self.cfg.appendonly && self.is_primary() && !self.log.is_on_disk()
    }

    /// `SHUTDOWN ABORT`, or a failure: whether there was one to end. All clients that wait for it are
    /// told.
    pub fn cancel_shutdown(&mut self, net: &mut Net<Client>) -> bool {
        let was = self.shutdown.take().is_some();
        if was {
            let waits = |client: &Client| {
                client.blocked.as_ref().is_some_and(|b| matches!(b.on, BlockedOn::Shutdown))
            };
            let waiting: Vec<_> = net.iter().filter(|c| waits(&c.session)).map(|c| c.id).collect();
            for id in waiting {
                self.release(net, id, Some(NOT_SHUT_DOWN));
            }
            self.let_go(net);
        }
        was
    }

    /// `SHUTDOWN` from a client, which gets no answer if all goes well.
    pub fn shutdown_command(
        &mut self,
        call: &mut Call<'_>,
        save: Option<bool>,
        now: bool,
        force: bool,
    ) -> Result<(), Error> {
        self.begin_shutdown(call.net, save, now, force, false)?;
        if !self.stopping {
            self.block(call, BlockedOn::Shutdown, None);
        }
        Ok(())
    }
}
