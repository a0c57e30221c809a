//! Bytes on their way to a replica: as they are, or, on a compressed link, as frames.
//!
//! Everything behind the reply to `PSYNC` leaves as a [`Piece`].

use super::super::Server;
use super::super::client::Client;
use crate::log_notice;
use std::ops::Range;
use std::sync::Arc;
use varve_engine::resp::reply::SharedBytes;
use varve_net::{Conn, ConnId};
use varve_replication::compress::{Encoder, Volume};

/// The sending end of a compressed link.
#[derive(Default)]
pub struct Compressor {
    encoder: Encoder,
    volume: Volume,
}

impl Compressor {
    /// What was sent since the link was made.
    pub fn volume(&self) -> Volume {
        self.volume
    }
}

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
        let bytes = encode(&mut Encoder::default(), plain);
        Piece::Frames(Arc::new(bytes), plain.len())
    }

    /// The bytes before compression.
    pub fn len(&self) -> usize {
        match self {
            Piece::Plain(_, range) => range.len(),
            Piece::Frames(_, plain) => *plain,
        }
    }

    /// Sends it in the form that the link has. Returns the bytes that leave.
    pub fn send(self, conn: &mut Conn<Client>) -> usize {
        let plain_len = self.len();
        let (bytes, range): (SharedBytes, _) = match (self, &mut conn.session.compressor) {
            (Piece::Plain(bytes, range), None) => (bytes, range),
            (Piece::Plain(bytes, range), Some(compressor)) => {
                let plain = &(*bytes).as_ref()[range];
                let frames = encode(&mut compressor.encoder, plain);
                let len = frames.len();
                (Arc::new(frames), 0..len)
            }
            (Piece::Frames(frames, _), _) => {
                let len = frames.len();
                (frames, 0..len)
            }
        };
        let len = range.len();
        if let Some(compressor) = &mut conn.session.compressor {
            compressor.volume.plain += plain_len as u64;
            compressor.volume.compressed += len as u64;
        }
        conn.output.shared(bytes, range);
        len
    }
}

/// Sends a few bytes of protocol.
pub fn send(conn: &mut Conn<Client>, bytes: &[u8]) {
    Piece::Plain(Arc::new(bytes.to_vec()), 0..bytes.len()).send(conn);
}

fn encode(encoder: &mut Encoder, plain: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    encoder.encode(plain, &mut frames);
    // It may wait for long, and is to take no more memory than it has bytes.
    frames.shrink_to_fit();
    frames
}

impl Server {
    /// The reply to `PSYNC` is on its way: what follows is compressed if it said so.
    pub(super) fn reply_was_sent(&self, id: ConnId, client: &mut Client) {
        if self.repl.primary.is_compressed(id) {
            log_notice!("The link to replica {} is compressed (lz4)", client.peer);
            client.compressor = Some(Box::default());
        }
    }
}
