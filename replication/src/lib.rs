//! The primary and the replica as state machines.
//!
//! Replication here is plain state with functions on it: what happened goes in (bytes, a closed
//! connection, the time in milliseconds), what is to be done comes out as values. Nothing in this
//! crate opens a socket, writes a file, asks for the time or draws a random number. The daemon drives
//! the machines from its event loop; a simulation drives many of them through cuts, delays and crashes,
//! and a seed brings every run back.
//!
//! The protocol is Redis's, so that either end may be Redis, Valkey or Varve:
//!
//! ```text
//!  replica                                          primary
//!     │ PING ─────────────────────────────────────────▶ │
//!     │ ◀──────────────────────────────── +PONG, -NOAUTH│
//!     │ AUTH · REPLCONF listening-port, ip-address, capa▶│
//!     │ ◀─────────────────────────── +OK or -ERR to each│
//!     │ PSYNC <history> <offset + 1>, or PSYNC ? -1 ───▶│
//!     │                                                 │
//!     │ ◀──────────────── +CONTINUE [<its history now>] │  the log has the bytes from there on
//!     │ ◀════════════════════════════ log bytes ═══════ │
//!     │                                                 │
//!     │ ◀───────────────── +FULLRESYNC <history> <offset>│  it has not
//!     │ ◀──────────────────────────── \n \n \n          │  while the snapshot is made
//!     │ ◀──── $<size> or $EOF:<mark>, the RDB, (the mark)│
//!     │ REPLCONF ACK <offset> ─────────────────────────▶│  loaded
//!     │ ◀════════════════════════════ log bytes ═══════ │
//!     │ REPLCONF ACK <offset> [FACK <on disk>] ────────▶│  every second, and to REPLCONF GETACK
//! ```
//!
//! Between two Varves there is one answer more. A former primary comes back with bytes that its
//! successor never had; Redis makes it load everything anew. A replica says `REPLCONF capa varve` (a
//! word that others skip), and is answered
//!
//! ```text
//!     │ ◀──────────────── -ROLLBACK <history> <offset>  │  it is ahead: <offset> is the last common place
//!     │ PSYNC <history> <offset + 1> ──────────────────▶│  when it has gone back, here or elsewhere
//! ```
//!
//! `<history>` is the one that the replica asked for, 40 hexadecimal digits, and `<offset>` a decimal
//! count of bytes below its own, whose byte `<offset + 1>` the primary's log has or will have: so a
//! rollback is never asked for in vain. The replica rolls back at most three times before the link
//! stands; if it cannot, or is asked once more, it asks with `PSYNC ? -1`. A primary that is a replica
//! itself and holds less of their common history refuses with `-NOMASTERLINK` instead: the rest is on its
//! way.
//!
//! A word more names the node, `REPLCONF capa varve-node=<40 hex digits>`. Whoever reads its own name
//! there answers `-ERR can't replicate from itself`.
//!
//! A link is compressed if both ends want that. The replica says `REPLCONF capa varve-lz4`, the primary
//! ends its `+CONTINUE <history>` or `+FULLRESYNC <history> <offset>` with ` lz4`, and all that it sends
//! after that line is frames ([`compress`]). Offsets are those of the bytes inside them.
//!
//! A full sync from a file goes on where its link broke. The primary ends its `+FULLRESYNC` with
//! ` file=<which>` ([`file::FileId`]). A replica that loses the link in the middle of it keeps what it has
//! and says so the next time:
//!
//! ```text
//!     │ REPLCONF capa varve-resume=<which>:<bytes held> ▶│  before PSYNC
//!     │ ◀ +FULLRESYNC <history> <offset> file=<which> from=<bytes held>
//!     │ ◀────────────────── $<bytes left>, and these    │
//! ```
//!
//! Without `from=` the file, or another one, begins anew. `$` counts what follows it, and all counts are
//! of the plain file. The place is the one that the new line names. A primary that writes a file for a
//! replica which understands this keeps `+FULLRESYNC` back until it is written, and sends newlines.
//!
//! The replica's link ([`replica::Replica`]) and a replica in its primary's eyes
//! ([`primary::Primary`]):
//!
//! ```text
//!  Waiting ─▶ Connecting ─▶ Handshake ─▶ Transfer ─▶ Loading ─▶ Streaming
//!     ▲                      ▲  ├──────────── +CONTINUE ───────────▲ │
//!     │          RollingBack ┴──┘ -ROLLBACK                          │
//!     └───────────── closed, timeout, garbage, refusal ──────────────┘
//!
//!  Handshake ─▶ WaitBgsaveStart ─▶ WaitBgsaveEnd ─▶ SendBulk ─▶ Online
//!     └──────────────────────── +CONTINUE ────────────────────────▲
//! ```
//!
//! What always holds:
//!
//! * **A place is `(history, offset)`**, and two nodes at the same place hold the same data. The
//!   replica's offset moves by exactly the bytes that [`replica::Output::Stream`] hands out, which are
//!   the primary's bytes, untouched.
//! * **Only whole units are handed out**: a command, or a `MULTI` up to its `EXEC`. So the end of a
//!   replica's log is always a place from which it can go on, and a cut inside a transaction leaves
//!   nothing of it.
//! * **What a replica holds is what it acknowledged**: a snapshot that was sent counts for `WAIT` once
//!   the replica says that it has loaded it.
//! * **Nothing is copied and nothing is looked at twice.** Outputs name ranges of the caller's buffer;
//!   what is not whole yet stays there.
//! * **Whatever the peer sends**, memory is bounded by what arrived, and the worst that happens is a
//!   closed connection and a later attempt. The pause doubles up to a bound, except after a link that
//!   lasted.
//! * **A full resync says why** ([`primary::Decision::Full`]), and happens only if the log has not what
//!   was asked for.
//! * **A newcomer takes the cheapest snapshot** that the log continues: a file, a running child, a new
//!   child ([`primary::supply`]).
//! * **An id names one sequence of bytes.** Whoever is about to append to what another wrote takes a new
//!   id first ([`node`]), and followers of a node whose id changed are made to ask again.
//!
//! `tests/simulation/` runs many nodes, with these machines and the real log, through accidents of
//! network, disk and power, and looks whether this holds.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `replica.rs` | the link of a replica: transfer, stream, acknowledgements, attempts |
//! | `replica/handshake.rs` | how a link begins: introduction, `PSYNC`, and the primary's answer |
//! | `compress.rs` | the frames of a compressed link |
//! | `file.rs` | which file a snapshot is, and what is held of one |
//! | `transfer.rs` | the RDB transfer, by size or by end mark |
//! | `frame.rs` | where the units of the command stream end |
//! | `primary.rs` | the replicas of a node: `REPLCONF`, `PSYNC`, `WAIT`'s counts, timeouts, `INFO` |
//! | `primary/supply.rs` | which snapshot the waiting replicas get, and when |
//! | `node.rs` | the histories of a node through changes of role |
//! | `wire.rs` | the few bytes that both ends make and read themselves |
//! | `output.rs` | how loud a log line is |

pub mod compress;
pub mod file;
pub mod frame;
pub mod node;
pub mod output;
pub mod primary;
pub mod replica;
mod transfer;
pub mod wire;
