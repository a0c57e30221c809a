//! The keyspace and everything that can be done to it.
//!
//! The engine owns the data: the databases, the five types, expiry and eviction, and the commands
//! that read and change them. It knows nothing of sockets, files, threads or the wall clock: time
//! and randomness come in as arguments, replies go out into a buffer, and what a command changed
//! goes out as *effects*, the bytes of the command log. That is what makes it possible to run the
//! same commands from a client, from a log segment at start and from a primary's stream.
//!
//! What always holds:
//!
//! * A command runs to its end on the one thread that owns the [`Keyspace`]. There are no locks, so
//!   a `fork()` between two commands is a consistent cut.
//! * A write leaves through [`effects::Effects`] and nowhere else.
//! * A key's entry is one allocation, reached by one word in the table; the expiry table holds the
//!   same word, never a second copy of the key.
//! * Small collections are kept in the very bytes that RDB uses (listpack, intset).
//!
//! | file | what is in it |
//! | --- | --- |
//! | `args.rs` | a command's arguments, borrowed from the read buffer or owned when they are large |
//! | `num.rs` | numbers as Redis reads and prints them |
//! | `glob.rs` | patterns: `KEYS`, `SCAN MATCH`, `PSUBSCRIBE`, `CONFIG GET` |
//! | `error.rs` | the errors that clients see, in Redis's words |
//! | `resp/` | the protocol: reading requests, writing replies |

pub mod args;
pub mod error;
pub mod glob;
pub mod num;
pub mod resp;

pub use args::{Args, OwnedArgs, Span};
pub use error::Error;
pub use resp::reply::Reply;
