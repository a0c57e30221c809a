//! The handshake: what the replica says of itself, the `PSYNC`, and what the primary makes of it.

use super::{Output, Place, Replica, State, Step, log};
use crate::file::FileId;
use crate::output::Level;
use crate::transfer::Transfer;
use crate::wire::{self, ProtocolError, command, printable};
use std::collections::VecDeque;
use varve_persistence::offset::{HistoryId, Offset};

/// So often a primary may go back itself, or prove wrong, before a link comes about.
const MOST_ROLLBACKS: u32 = 3;

/// What a Varve adds to its reply to `PSYNC`. Words that a later one may add are skipped.
#[derive(Default)]
struct Terms {
    former: Vec<(HistoryId, Offset)>,
    file: Option<FileId>,
    from: Option<u64>,
    lz4: bool,
}

impl Terms {
    fn read<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<Terms, ProtocolError> {
        let mut terms = Terms::default();
        for word in words {
            if let Some(former) = word.strip_prefix(wire::FORMER.as_bytes()) {
                let id = former.get(..HistoryId::LEN).and_then(HistoryId::parse);
                let upto = former.get(HistoryId::LEN..).and_then(|rest| rest.strip_prefix(b":"));
                let former = id.zip(upto.and_then(wire::count).map(Offset));
                terms.former.push(former.ok_or(ProtocolError("an impossible former history"))?);
            }
            if let Some(file) = word.strip_prefix(wire::FILE.as_bytes()) {
                // One that says nothing to us is a file without an identity.
                terms.file = FileId::parse(file);
            }
            if let Some(from) = word.strip_prefix(wire::FROM.as_bytes()) {
                let from = wire::count(from);
                terms.from = Some(from.ok_or(ProtocolError("an impossible place in a file"))?);
            }
            terms.lz4 |= word == wire::LZ4.as_bytes();
        }
        Ok(terms)
    }
}

impl Replica {
    /// Takes a line that the primary says in the handshake; how many bytes that were.
    pub(super) fn reply(
        &mut self,
        buf: &[u8],
        now_ms: u64,
        out: &mut Vec<Output>,
    ) -> Result<Option<usize>, ProtocolError> {
        let Some((line, taken)) = wire::line(buf)? else { return Ok(None) };
        let State::Handshake(steps) = &mut self.state else { return Ok(None) };
        match line.first() {
            // The primary is alive while it makes up its mind about PSYNC.
            None => return Ok(Some(taken)),
            Some(b'+' | b'-' | b':') => {}
            Some(_) => return Err(ProtocolError("a reply of a kind that the handshake has not")),
        }
        let step = steps.pop_front().ok_or(ProtocolError("a reply to nothing"))?;
        match (step, line.strip_prefix(b"-")) {
            (Step::Ping, Some(error)) if !wants_auth(error) => {
                self.refused("Error reply to PING from the primary", error, now_ms, out);
            }
            (Step::Ping, _) => self.introduce(now_ms, out),
            (Step::Auth, Some(error)) => {
                self.refused("Unable to AUTH to the primary", error, now_ms, out);
            }
            (Step::Capa, Some(error)) if error.ends_with(wire::ITSELF.as_bytes()) => {
                self.refused("The primary is this server itself", error, now_ms, out);
            }
            (Step::Port | Step::Ip | Step::Capa, Some(error)) => {
                let text = format!(
                    "The primary does not know REPLCONF {}: {}",
                    match step {
                        Step::Port => "listening-port",
                        Step::Ip => "ip-address",
                        _ => "capa",
                    },
                    printable(error)
                );
                log(out, Level::Notice, text);
            }
            (Step::Psync, _) => self.psync_reply(line, now_ms, out)?,
            _ => {}
        }
        if let State::Handshake(steps) = &mut self.state
            && steps.is_empty()
        {
            steps.push_back(Step::Psync);
            self.psync(now_ms, out);
        }
        Ok(Some(taken))
    }

    fn introduce(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        let mut steps = VecDeque::new();
        let mut bytes = vec![];
        if let Some(password) = &self.config.password {
            steps.push_back(Step::Auth);
            bytes.extend(match &self.config.user {
                Some(user) => command(&[b"AUTH", user, password]),
                None => command(&[b"AUTH", password]),
            });
        }
        let port = self.config.announce_port.to_string();
        steps.push_back(Step::Port);
        bytes.extend(command(&[b"REPLCONF", b"listening-port", port.as_bytes()]));
        if let Some(ip) = &self.config.announce_ip {
            steps.push_back(Step::Ip);
            bytes.extend(command(&[b"REPLCONF", b"ip-address", ip]));
        }
        steps.push_back(Step::Capa);
        let node = self.config.node.map(|node| [wire::CAPA_NODE, node.as_bytes()].concat());
        let mut capa: Vec<&[u8]> = vec![b"REPLCONF"];
        self.offered_lz4 = self.config.lz4;
        let lz4 = self.offered_lz4.then_some(wire::CAPA_LZ4);
        let words = [&b"eof"[..], b"psync2", wire::CAPA_VARVE].into_iter();
        let part = self.part.map(|part| [wire::CAPA_RESUME, part.to_string().as_bytes()].concat());
        for word in words.chain(node.as_deref()).chain(lz4).chain(part.as_deref()) {
            capa.extend([b"capa", word]);
        }
        bytes.extend(command(&capa));
        self.state = State::Handshake(steps);
        self.send(bytes, now_ms, out);
    }

    pub(super) fn psync(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        let (id, next) = match (self.place, &self.all) {
            (Some((id, offset)), None) => (id.to_string(), offset.to_wire_next().to_string()),
            _ => ("?".to_string(), "-1".to_string()),
        };
        let text = match &self.all {
            None => format!("Asking for a partial resync from {id}:{next}"),
            Some(why) => format!("Asking for a full resync: {why}"),
        };
        log(out, Level::Notice, text);
        let mut parts: Vec<&[u8]> = vec![b"PSYNC", id.as_bytes(), next.as_bytes()];
        if self.config.failover {
            parts.push(b"FAILOVER");
        }
        self.send(command(&parts), now_ms, out);
    }

    fn psync_reply(
        &mut self,
        line: &[u8],
        now_ms: u64,
        out: &mut Vec<Output>,
    ) -> Result<(), ProtocolError> {
        if let Some(rest) = line.strip_prefix(b"+FULLRESYNC ") {
            let mut words = rest.split(|&b| b == b' ').filter(|word| !word.is_empty());
            let id = words.next().and_then(HistoryId::parse);
            let offset = words.next().and_then(wire::count).and_then(Offset::claimed);
            let Some(place) = id.zip(offset) else {
                return Err(ProtocolError(
                    "a +FULLRESYNC without a history and an offset that can be",
                ));
            };
            let text = format!("Full resync from the primary: {}:{}", place.0, place.1);
            log(out, Level::Notice, text);
            let terms = Terms::read(words)?;
            self.took_over(out);
            let from = self.resumes(&terms, place)?;
            if from == 0 {
                self.forget_part(out);
            }
            self.agree(&terms, out)?;
            self.acks = true;
            let (transfer, file) = (Transfer::new(), terms.file);
            self.former = terms.former;
            self.state = State::Transfer { transfer, place: Some(place), file, from };
        } else if let Some(rest) = line.strip_prefix(b"+CONTINUE") {
            let Some((old, offset)) = self.place.filter(|_| self.all.is_none()) else {
                return Err(ProtocolError("a +CONTINUE where nothing was to be continued"));
            };
            let mut words = rest.split(|&b| b == b' ').filter(|word| !word.is_empty());
            let id = match words.next() {
                None => old,
                Some(id) => HistoryId::parse(id)
                    .ok_or(ProtocolError("a +CONTINUE with an impossible history"))?,
            };
            let text = format!("Partial resync with the primary from {offset}, history {id}");
            log(out, Level::Notice, text);
            let terms = Terms::read(words)?;
            self.agree(&terms, out)?;
            self.forget_part(out);
            self.place = Some((id, offset));
            self.acks = true;
            out.push(Output::Continue { history: id, former: terms.former });
            self.took_over(out);
            self.up(now_ms, out);
        } else if let Some(rest) = line.strip_prefix(b"-ROLLBACK ") {
            self.told_to_roll_back(rest, now_ms, out)?;
        } else if self.config.failover {
            let error = line.strip_prefix(b"-").unwrap_or(line);
            if self.unanswered && error == wire::PRIMARY_ALREADY.as_bytes() {
                let text = "The new primary took over already: its answer was lost";
                log(out, Level::Notice, text.into());
                self.took_over(out);
                self.ask_again(true, now_ms, out);
            } else {
                self.refused("The new primary did not take over", error, now_ms, out);
            }
        } else if is_unknown_command(line) {
            log(out, Level::Notice, "The primary does not know PSYNC: asking with SYNC".into());
            self.acks = false;
            self.forget_part(out);
            self.send(command(&[b"SYNC"]), now_ms, out);
            self.former.clear();
            let transfer = Transfer::new();
            self.state = State::Transfer { transfer, place: None, file: None, from: 0 };
        } else {
            // NOMASTERLINK, LOADING, BUSY, MASTERDOWN, NOAUTH, NOPERM and whatever else: the primary
            // cannot now, or will not. SYNC would be refused as well.
            let why = format!("The primary did not take PSYNC: {}", printable(line));
            self.lose(why, true, now_ms, out);
        }
        Ok(())
    }

    /// From which byte on the primary sends its file: 0, or where the part ends that was kept.
    fn resumes(&self, terms: &Terms, place: Place) -> Result<u64, ProtocolError> {
        if terms.file.is_some_and(|file| file.offset != place.1) {
            return Err(ProtocolError("a file of another place"));
        }
        match (terms.from, self.part) {
            (None, _) => Ok(0),
            (Some(_), None) => Err(ProtocolError("the rest of a file that was not asked for")),
            (Some(from), Some(part)) => {
                if terms.file != Some(part.file) || from != part.bytes {
                    return Err(ProtocolError("another part of a file than was asked for"));
                }
                Ok(from)
            }
        }
    }

    /// What the reply to `PSYNC` says of the link.
    fn agree(&mut self, terms: &Terms, out: &mut Vec<Output>) -> Result<(), ProtocolError> {
        if terms.lz4 && !self.offered_lz4 {
            return Err(ProtocolError("compression that was not asked for"));
        }
        if terms.lz4 {
            log(out, Level::Notice, "The primary compresses what it sends (lz4)".into());
            self.frames_begin = true;
            out.push(Output::Compressed);
        }
        Ok(())
    }

    /// `-ROLLBACK history offset`, in reply to `PSYNC`.
    fn told_to_roll_back(
        &mut self,
        rest: &[u8],
        now_ms: u64,
        out: &mut Vec<Output>,
    ) -> Result<(), ProtocolError> {
        let Some((id, held)) = self.place.filter(|_| self.all.is_none()) else {
            return Err(ProtocolError("a -ROLLBACK where everything was asked for"));
        };
        let mut words = rest.split(|&b| b == b' ').filter(|word| !word.is_empty());
        let history = words.next().and_then(HistoryId::parse);
        let to = words.next().and_then(wire::count).map(Offset);
        let (Some(history), Some(to), None) = (history, to, words.next()) else {
            return Err(ProtocolError("a -ROLLBACK that is not history and offset"));
        };
        if history != id {
            return Err(ProtocolError("a -ROLLBACK in a history that was not asked for"));
        }
        self.took_over(out);
        // Neither may make the two spin: each rollback loads the data set.
        if to >= held || self.rollbacks_asked == MOST_ROLLBACKS {
            self.all = Some(format!("the primary wants a rollback of {id} to {to} from {held}"));
            self.ask_again(true, now_ms, out);
            return Ok(());
        }
        let text = format!(
            "We hold {held} bytes of {id}, of which the primary has only {to}: rolling back"
        );
        log(out, Level::Warning, text);
        self.rollbacks_asked += 1;
        self.state = State::RollingBack { open: true, to };
        out.push(Output::Rollback { to });
        Ok(())
    }
}

/// Whether an error in reply to `PING` only says that `AUTH` must come first, or that this user may
/// not `PING`, which the rest of the handshake does not need.
fn wants_auth(error: &[u8]) -> bool {
    [&b"NOAUTH"[..], b"NOPERM", b"ERR operation not permitted"]
        .iter()
        .any(|prefix| error.starts_with(prefix))
}

fn is_unknown_command(line: &[u8]) -> bool {
    let text = b"-ERR unknown command";
    line.len() >= text.len() && line[..text.len()].eq_ignore_ascii_case(text)
}
