//! Bytes on their way to a replica: as they are, or, on a compressed link, as frames.
//!
//! Everything behind the reply to `PSYNC` leaves through [`Piece::send`] or [`send`].

use super::super::Server;
use super::super::client::Client;
use crate::log_notice;
use std::ops::Range;
use std::sync::Arc;
use varve_engine::resp::reply::SharedBytes;
use varve_net::{Conn, ConnId};
use varve_persistence::log::{self, Block};
use varve_replication::compress::{Encoder, Volume};

/// What a replica is to be sent.
#[derive(Clone)]
pub enum Piece {
    Plain(SharedBytes, Range<usize>),
    /// Frames that hold so many bytes, for a link that is compressed.
    Frames(Arc<Vec<u8>>, usize),
}

impl Piece {
    /// Compresses, away from the loop or for several replicas at once.
    pub fn frames(plain: &[u8]) -> Piece {
        Piece::frames_by(&mut Encoder::default(), plain)
    }

    fn frames_by(encoder: &mut Encoder, plain: &[u8]) -> Piece {
        let mut frames = Vec::new();
        encoder.encode(plain, &mut frames);
        // They may wait for long, and are to take no more memory than they have bytes.
        frames.shrink_to_fit();
        Piece::Frames(Arc::new(frames), plain.len())
    }

    /// The bytes before compression.
    pub fn len(&self) -> usize {
        match self {
            Piece::Plain(_, range) => range.len(),
            Piece::Frames(_, plain_len) => *plain_len,
        }
    }

    /// Sends it in the form that the link has. Returns the bytes that leave.
    pub fn send(self, conn: &mut Conn<Client>) -> usize {
        let Some(volume) = &mut conn.session.compression else {
            return match self {
                Piece::Plain(bytes, range) => {
                    let len = range.len();
                    conn.output.shared(bytes, range);
                    len
                }
                Piece::Frames(..) => unreachable!("frames are made for compressed links only"),
            };
        };
        match self {
            Piece::Plain(bytes, range) => Piece::frames(&(*bytes).as_ref()[range]).send(conn),
            Piece::Frames(frames, plain_len) => {
                let len = frames.len();
                volume.plain += plain_len as u64;
                volume.compressed += len as u64;
                conn.output.shared(frames, 0..len);
                len
            }
        }
    }
}

/// Sends a few bytes of protocol.
pub fn send(conn: &mut Conn<Client>, bytes: &[u8]) {
    if conn.session.compression.is_none() {
        return conn.output.raw(bytes);
    }
    Piece::frames(bytes).send(conn);
}

/// The newest piece of the log, compressed. All replicas that keep up are due the same one.
#[derive(Default)]
pub struct TailFrames {
    encoder: Encoder,
    last: Option<(Arc<Block>, Range<usize>, Piece)>,
}

impl TailFrames {
    /// What a replica is to be sent of the log's tail.
    pub fn piece(&mut self, conn: &Conn<Client>, piece: log::Piece) -> Piece {
        if conn.session.compression.is_none() {
            return Piece::Plain(piece.block, piece.range);
        }
        // A block is only ever appended to, and is no other while it is held here.
        if let Some((block, range, frames)) = &self.last
            && Arc::ptr_eq(block, &piece.block)
            && *range == piece.range
        {
            return frames.clone();
        }
        let frames = Piece::frames_by(&mut self.encoder, piece.bytes());
        self.last = Some((piece.block, piece.range, frames.clone()));
        frames
    }
}

impl Server {
    /// The reply to `PSYNC` is on its way: what follows is compressed if it said so.
    pub(super) fn reply_was_sent(&self, id: ConnId, client: &mut Client) {
        if self.repl.primary.is_compressed(id) {
            log_notice!("The link to replica {} is compressed (lz4)", client.peer);
            client.compression = Some(Volume::default());
        }
    }
}
