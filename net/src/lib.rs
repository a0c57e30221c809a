//! The clients, the event loop and the links between hosts.
//!
//! One thread runs one edge-triggered event loop over everything that has a descriptor: client
//! sockets (TCP and Unix), listeners, the link to a primary, pipes to a child. What the requests
//! mean is the business of a [`Service`]; this crate reads them, cuts them apart with
//! `varve_engine::resp::request`, and sends what the service wrote.
//!
//! A **turn** of the loop:
//!
//! 1. wait for events (not at all if work was left over);
//! 2. read every ready connection and give its requests to [`Service::requests`];
//! 3. [`Service::turn_end`]: the log is handed to the kernel;
//! 4. send what was written, as far as [`Service::released`] lets it out.
//!
//! What always holds:
//!
//! * A service callback runs on the loop's thread, one at a time. The connection it is about is
//!   outside [`Net`] meanwhile, so it can reach every other one.
//! * A connection that was given a session ends with exactly one [`Service::closed`].
//! * A read shorter than its buffer has drained the socket, and no second read is made: a request
//!   costs one `recv` and one `send`, and what `epoll_wait` costs is shared by all of a turn.
//! * One connection takes at most [`READ_BUDGET`] in and [`WRITE_BUDGET`] out a turn. What is left
//!   over is kept in lists, as an edge is not reported twice.
//! * With [`Net::set_io_threads`], parts of 2 and 4 are done by several threads when many
//!   connections are ready. The loop waits for them before it calls the service, so that no
//!   callback ever misses a connection, and may fork.
//! * Nothing is allocated per event. Idle connections hold no buffers.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `conn.rs` | one connection: its two sides, its flags, why it ended |
//! | `net.rs` | all of them: the slab, listeners, connecting, adopting, killing |
//! | `linger.rs` | looking for events once more before sleeping |
//! | `turn.rs` | the loop, and the [`Service`] that it drives |
//! | `transfer.rs` | reading and writing one connection, on whichever thread |
//! | `threads.rs` | the I/O threads: batches of connections go out and come back |
//! | `sys.rs` | the system calls, and all `unsafe` of the crate |

mod conn;
mod linger;
mod net;
mod sys;
mod threads;
mod transfer;
mod turn;

pub use conn::{Closed, Conn, ConnId, Mode, OutputLimit, Peer};
pub use net::{External, ListenerId, Net, Stats, Waker};
pub use turn::{LOW_WATER, READ_BUDGET, Service, WRITE_BUDGET, run, turn};
