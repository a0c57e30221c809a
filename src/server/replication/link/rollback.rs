//! Going back to what the primary shares: log and data are taken to an earlier place, off the loop.

use crate::server::Server;
use crate::server::client::Client;
use crate::{log_warning, service};
use varve_net::Net;
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
        let possible = match self.log.oldest_base() {
            None if self.log.is_on_disk() => Err("the log's files are just being replaced".into()),
            None => Err("the log is only in memory".into()),
            Some(oldest) if to < oldest => {
                Err(format!("the oldest base that is kept stands at offset {oldest}"))
            }
            Some(_) => Ok(()),
        };
        let result = possible.and_then(|()| self.take_log_back(net, to));
        if self.stopping {
            return;
        }
        if !self.cfg.appendonly && self.log.is_on_disk() {
            self.end_disk(net); // a client said so meanwhile
        }
        let (history, end) = self.repl.node.place(self.log.end());
        let now = self.now_u64();
        let Some(link) = &mut self.repl.link else { return };
        link.db = self.log.current_db().unwrap_or(0) as usize;
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
    fn take_log_back(&mut self, net: &mut Net<Client>, to: Offset) -> Result<(), String> {
        if self.snapshots.running() {
            self.kill_child();
        }
        self.snapshots.installing = false;
        // Where the history goes on they learn when they come back.
        self.drop_followers(net, Followers::Drop);
        let Some(left) = self.log.leave_disk() else {
            return Err("the log is only in memory".into());
        };
        service::status(self, "Rolling back");
        let (options, waker) = (self.log_options(), self.waker.clone());
        let work = move || left.roll_back(to, options, waker);
        let result = match self.off_the_loop(net, "rollback", work) {
            Ok(Ok(tail)) => {
                log_warning!(
                    "The primary's history shares ours up to offset {} only: the {} bytes after it are set aside in {}",
                    tail.from,
                    tail.to - tail.from,
                    tail.path.display()
                );
                Ok(())
            }
            Ok(Err((why, Some(log)))) => {
                self.log = *log;
                return Err(why.to_string());
            }
            Ok(Err((why, None))) => Err(why.to_string()),
            Err(why) => Err(why),
        };
        if self.stopping {
            return result;
        }
        // The log is what its files are now, and the data are to be that too.
        self.flush_all(self.cfg.replica_lazy_flush);
        let loaded = self.load_log(net);
        self.loading = None;
        if loaded.is_err() {
            self.hold_nothing();
        }
        if let Some(to) = &self.cfg.replicaof {
            // A load makes a primary of it.
            let _ = self.repl.node.follow(&to.host, to.port);
        }
        loaded.and(result)
    }
}
