//! Going back to what the primary shares: log and data are taken to an earlier place, off the loop. What
//! the log had beyond is set aside, also if it can not go back and a full resync is to replace it.

use crate::server::Server;
use crate::server::client::Client;
use crate::{log_notice, log_warning, service};
use std::time::Duration;
use varve_net::Net;
use varve_persistence::log::{self, Ending, Files, NotRolledBack, TailFile};
use varve_persistence::offset::Offset;
use varve_replication::node::Followers;
use varve_replication::replica;

impl Server {
    /// Takes log and data back to `to`, and sets aside what the log had beyond.
    pub(super) fn go_back(
        &mut self,
        net: &mut Net<Client>,
        to: Offset,
        out: &mut Vec<replica::Output>,
    ) {
        let ending = self.log.ending(to);
        let result = match self.log.oldest_base() {
            Some(_) => self.take_log_back(net, to, ending),
            None => {
                self.set_aside_from_memory(net, to, ending);
                Err(match self.log.is_on_disk() {
                    true => "the log's files are just being replaced".into(),
                    false => "the log is only in memory".into(),
                })
            }
        };
        if self.stopping {
            return;
        }
        let (history, end) = self.repl.node.place(self.log.end());
        let now = self.now_u64();
        let Some(link) = &mut self.repl.link else { return };
        link.db = self.log.current_db() as usize;
        match result {
            Ok(()) => {
                // The primary has said which name it means.
                let asked = link.machine.place().map_or(history, |(asked, _)| asked);
                link.machine.rolled_back((asked, end), now, out);
            }
            Err(why) => {
                log_warning!("Can't roll back to offset {to}, so a full resync follows: {why}");
                link.machine.set_place(Some((history, end)));
                link.machine.rollback_failed(&why, now, out);
            }
        }
    }

    /// After an error log and data are still of one place: mostly the one that they were at.
    fn take_log_back(
        &mut self,
        net: &mut Net<Client>,
        to: Offset,
        ending: Ending,
    ) -> Result<(), String> {
        let Some(left) = self.leave_log(net) else {
            return Err("the log is only in memory".into());
        };
        service::status("Rolling back");
        let (options, waker) = (self.log_options(), self.waker.clone());
        let surplus = ending.bytes();
        let work = move || left.roll_back(to, options, &ending, waker);
        let result = match self.off_the_loop(net, "rollback", Duration::ZERO, work) {
            Ok(Ok(tail)) => {
                log_warning!(
                    "The primary's history shares ours up to offset {} only: the {} bytes after it are set aside in {}",
                    tail.from,
                    tail.to - tail.from,
                    tail.path.display()
                );
                Ok(())
            }
            Ok(Err(failed)) => {
                let NotRolledBack { why, aside, log } = *failed;
                say_what_became(to, surplus, aside.map_err(|error| error.to_string()));
                if let Some(log) = log {
                    self.log = log;
                    return Err(why.to_string());
                }
                Err(why.to_string())
            }
            Err(why) => {
                say_what_became(to, surplus, Err(why.clone()));
                Err(why)
            }
        };
        if self.stopping {
            return result;
        }
        self.return_to_log(net, false).and(result)
    }

    /// After a load that failed, the data are what the log's files say again. If there are none, nothing
    /// is held. Whether the data are there.
    pub(super) fn restore(&mut self, net: &mut Net<Client>) -> bool {
        let Some(left) = self.leave_log(net) else {
            self.hold_nothing();
            self.remain_replica();
            return false;
        };
        service::status("Loading the old data");
        let closed = self.off_the_loop(net, "restore", Duration::ZERO, move || left.close());
        if self.stopping {
            return false;
        }
        let closed = closed.and_then(|closed| closed.map_err(|error| error.to_string()));
        let restored = closed.and_then(|()| self.return_to_log(net, true));
        match &restored {
            Ok(()) => log_notice!("The data are the old ones again, from the log on disk"),
            Err(why) => log_warning!("The old data can't be loaded from the log: {why}"),
        }
        restored.is_ok()
    }

    /// Ends the use of the log's files, which are about to be read, by a child and by this server's own
    /// replicas too: where the history goes on they learn when they come back. What is to be closed,
    /// if there are files.
    fn leave_log(&mut self, net: &mut Net<Client>) -> Option<Files> {
        self.end_child(net);
        self.snapshots.installing = false;
        self.drop_followers(net, Followers::Drop);
        self.log.leave_disk()
    }

    /// The log is what its files are now, and the data are made that too.
    fn return_to_log(&mut self, net: &mut Net<Client>, skips_unknown: bool) -> Result<(), String> {
        self.flush_all(self.cfg.replica_lazy_flush);
        let loaded = self.load_log(net, skips_unknown);
        (self.loading, self.beside_log) = (None, false);
        if loaded.is_err() {
            self.hold_nothing();
        }
        self.remain_replica();
        loaded
    }

    /// A load makes a primary of it.
    fn remain_replica(&mut self) {
        if let Some(to) = &self.cfg.replicaof {
            let _ = self.repl.node.follow(&to.host, to.port);
        }
    }

    /// Without files to go back with, what follows `to` goes into a file in `dir`, as far as memory has
    /// it.
    fn set_aside_from_memory(&mut self, net: &mut Net<Client>, to: Offset, ending: Ending) {
        let options = log::Options { dir: ".".into(), ..self.log_options() };
        let surplus = ending.bytes();
        let work = move || ending.set_aside(&options).map_err(|error| error.to_string());
        let aside =
            self.off_the_loop(net, "rollback", Duration::ZERO, work).and_then(|aside| aside);
        say_what_became(to, surplus, aside);
    }
}

/// Says where the `surplus` bytes after `to` are, which a full resync is about to replace.
fn say_what_became(to: Offset, surplus: u64, aside: Result<TailFile, String>) {
    let what = format!("the {surplus} bytes after offset {to}, which the primary does not have");
    match aside {
        Ok(tail) => {
            let path = tail.path.display();
            match surplus.saturating_sub(tail.to - tail.from) {
                0 => log_warning!("Of {what}, all are set aside in {path}"),
                lost => log_warning!(
                    "Of {what}, {lost} are lost, as neither memory nor the log's files have them any more; the rest, from offset {} to {}, is set aside in {path}",
                    tail.from,
                    tail.to
                ),
            }
        }
        Err(why) => log_warning!("Of {what}, all are lost: {why}"),
    }
}
