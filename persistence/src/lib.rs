//! What reaches disk, and how it comes back.
//!
//! Every write becomes bytes that are appended once to the command log. This crate keeps that log:
//! its newest part in memory, where replicas are fed from; all of it in segment files, if
//! `appendonly` is on; and the snapshots that make its older part unnecessary. It knows nothing of
//! sockets, clients or commands: bytes come in at one end, offsets and files come out at the other.
//!
//! What always holds:
//!
//! * **One append point**: [`log::Log::append`] and its two relatives. Files and replicas are fed
//!   from what it took, and from nothing else.
//! * **A byte has one offset**, in memory, in the segment that holds it (its position is the offset
//!   minus the segment's start) and on every replica. So a write that failed half-way is made again
//!   at the same place, and two copies can be compared byte by byte.
//! * **`written` and `synced` never say more than is so.** [`log::Log::written`] is what any process
//!   would read from the files, [`log::Log::synced`] what a power cut leaves in files that the
//!   manifest on disk names. Both only move to ends of loop turns, so what they release is whole
//!   commands.
//! * **The loop thread never waits for a disk**: it writes while that is quick and otherwise hands
//!   pieces of the tail, by reference, to the log thread. What it must not overtake (another
//!   history's name, a reset) goes the same way, in order.
//! * **Files change by appending or by rename.** A segment, a base or a history comes into force by
//!   one rename of the manifest, and every file that it names was synced before. What the manifest
//!   does not name is not the log. The one exception: the end of a segment beyond `endoffset` is cut
//!   off after the manifest has given those bytes to the next segment.
//! * **What can not be read is never guessed.** Only an incomplete command at the very end is cut
//!   off (if the configuration lets it); a flipped bit, a missing file or a gap is an error that names
//!   the file, the position and what was expected.
//!
//! How the parts work together, from a write to a restart:
//!
//! 1. The loop appends a command's effects; [`log::Log`] puts `SELECT` before them where needed.
//! 2. At the end of the turn `flush` gets them to the kernel, itself or through the log thread.
//!    Replies and replicas wait for `released`; the waker tells the loop when that has moved.
//! 3. A snapshot is forked: `begin_rotation` begins a segment at that very byte. When the snapshot is
//!    finished, `install_base` makes it the base, and what is older goes.
//! 4. At start, `recover` reads the manifest, the caller loads the base, `Recovered::replay` gives it
//!    the commands after it, and `Log::resume` goes on at the end: with the same history, if it can
//!    be proved that nothing was lost that anybody saw, else with a new one that continues it.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `offset.rs` | names of places: offsets, histories |
//! | `log/` | the command log: its own table of contents is in `log/mod.rs` |

pub mod log;
pub mod offset;
pub mod rdb;
