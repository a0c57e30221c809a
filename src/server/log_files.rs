//! `CONFIG SET appendonly`: the log goes to disk, and leaves it, while clients are served.
//!
//! To disk: a child writes the base, a thread makes the files, and the log goes on in them. Off it: as soon as what was
//! promised is safe the log goes on in memory, and a thread closes the files. There is one thread at a time, as
//! there is one folder.

use super::Server;
use super::client::Client;
use super::snapshot::Purpose;
use crate::{log_notice, log_warning};
use std::sync::mpsc::{Receiver, channel};
use varve_engine::Error;
use varve_net::Net;
use varve_persistence::log::{self, Files, Log, NewBase};
use varve_persistence::offset::{Histories, Offset};

/// A thread's work on the log's files, while the log is in memory.
pub struct FilesWork {
    /// The place of the base whose files are made; else they are closed.
    makes: Option<(Offset, Histories)>,
    outcome: Receiver<Outcome>,
}

enum Outcome {
    Made(Result<Files, log::Error>),
    Closed(Result<(), log::Error>),
}

impl Server {
    /// `CONFIG SET appendonly yes`: a child writes the base that the log on disk begins with. If
    /// there is another child, or files are still being closed, this one comes after it, and so it does after a full
    /// sync into memory.
    pub fn begin_disk(&mut self, net: &mut Net<Client>) -> Result<(), Error> {
        let waits = self.snapshots.running() || self.files.is_some() || self.in_exec.is_some();
        if self.log.stay_on_disk() || waits || self.receives_into_memory() {
            return Ok(());
        }
        // The tail must reach back to the base when that is finished.
        self.log.set_tail_bytes(u64::MAX);
        self.snapshots.disk_begins = Some(*self.log.histories());
        self.start_rewrite(net).map(drop).inspect_err(|_| self.keep_backlog_only())
    }

    /// No base is waited for: the tail is as long as the backlog.
    pub(super) fn keep_backlog_only(&mut self) {
        self.snapshots.disk_begins = None;
        self.log.set_tail_bytes(self.cfg.repl_backlog_size);
    }

    /// Whether the log is in its files, or a thread is at work on them.
    pub fn uses_files(&self) -> bool {
        self.log.is_on_disk() || self.files.is_some()
    }

    /// Whether a new base is on its way: a child writes it, or files are made for it.
    pub fn is_rewriting(&self) -> bool {
        self.snapshots.running_for(&Purpose::Rewrite)
            || self.files.as_ref().is_some_and(|work| work.makes.is_some())
    }

    /// Makes the files that continue a `base` that a child has finished, where database `db` was selected.
    pub(super) fn make_files(
        &mut self,
        base: NewBase,
        db: u32,
        histories: Histories,
    ) -> std::io::Result<()> {
        let (at, path) = (base.at, base.path.clone());
        let (options, waker) = (self.log_options(), self.waker.clone());
        self.begin_files_work(Some((at, histories)), move || {
            let files = Log::make_files(options, base, db, histories, waker);
            Outcome::Made(files.inspect_err(|_| _ = std::fs::remove_file(path)))
        })
    }

    fn close_files(&mut self, files: Files) {
        let begun = self.begin_files_work(None, move || Outcome::Closed(files.close()));
        if let Err(why) = begun {
            log_warning!("The log's files could not be closed in good order: {why}");
        }
    }

    fn begin_files_work(
        &mut self,
        makes: Option<(Offset, Histories)>,
        work: impl FnOnce() -> Outcome + Send + 'static,
    ) -> std::io::Result<()> {
        let (waker, (done, outcome)) = (self.waker.clone(), channel());
        std::thread::Builder::new().name("log-files".into()).spawn(move || {
            let _ = done.send(work());
            waker();
        })?;
        self.files = Some(FilesWork { makes, outcome });
        Ok(())
    }

    /// Once a turn: takes what the thread has finished, and the log off the disk if it is to be in memory.
    pub fn files_turn(&mut self, net: &mut Net<Client>) {
        if let Some(work) = self.files.take() {
            match work.outcome.try_recv() {
                Ok(outcome) => self.files_work_ended(outcome, work.makes),
                Err(_) => self.files = Some(work),
            }
        }
        if !self.cfg.appendonly && self.log.is_on_disk() && self.loading.is_none() {
            self.leave_disk(net);
        }
        if self.waiters.any_on_files() && !self.files_are_open() {
            self.serve_files_waiters(net);
        }
    }

    fn files_work_ended(&mut self, outcome: Outcome, place: Option<(Offset, Histories)>) {
        match outcome {
            Outcome::Closed(Ok(())) => {
                log_notice!("The log is in memory only: its files are closed")
            }
            Outcome::Closed(Err(why)) => {
                log_warning!("The log's files could not be closed in good order: {why}");
            }
            Outcome::Made(made) => {
                let made = made.map_err(|error| error.to_string());
                let begun = made.and_then(|files| self.go_to_disk(files, place));
                self.keep_backlog_only();
                match begun {
                    Ok(at) => {
                        self.snapshots.rewrite_failures = 0;
                        self.apply_log_config();
                        self.serve_base(at);
                        log_notice!("The log is on disk from offset {} on", self.log.end());
                    }
                    Err(why) => {
                        self.rewrite_failed();
                        log_warning!("The log could not go to disk: {why}");
                    }
                }
            }
        }
    }

    fn go_to_disk(
        &mut self,
        files: Files,
        place: Option<(Offset, Histories)>,
    ) -> Result<Offset, String> {
        let unused = match place {
            Some((at, histories)) if *self.log.histories() == histories => {
                match self.log.go_to_disk(files) {
                    Ok(()) => return Ok(at),
                    Err(files) => files,
                }
            }
            _ => files,
        };
        self.close_files(unused);
        Err("the data was replaced meanwhile".into())
    }

    /// `CONFIG SET appendonly no`: nobody wants a base any more. The log leaves the disk in [`Server::files_turn`].
    pub fn end_disk(&mut self, net: &mut Net<Client>) {
        self.abandon_child(net, &Purpose::Rewrite);
        (self.snapshots.rewrite_scheduled, self.snapshots.installing) = (false, false);
        if self.snapshots.disk_begins.is_some() {
            self.keep_backlog_only();
        }
    }

    fn leave_disk(&mut self, net: &mut Net<Client>) {
        self.end_disk(net);
        let Some(files) = self.log.leave_in_good_order() else { return };
        if !files.are_renamed() && self.is_primary() {
            self.take_another_name(net);
        }
        self.keep_backlog_only();
        self.close_files(files);
    }

    /// Whether `CONFIG SET appendonly no` still has files to close.
    pub fn files_are_open(&self) -> bool {
        !self.cfg.appendonly && self.uses_files()
    }

    /// The process ends: waits for the thread, and closes what it has made.
    pub fn end_files_work(&mut self) -> Result<(), log::Error> {
        let outcome = self.files.take().and_then(|work| work.outcome.recv().ok());
        match outcome {
            Some(Outcome::Made(files)) => files.and_then(Files::close),
            Some(Outcome::Closed(result)) => result,
            None => Ok(()),
        }
    }
}
