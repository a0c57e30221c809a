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
//! | `btree/` | the counted B+-tree that orders large sorted sets |
//! | `member.rs` | a sorted set's member: score and bytes in one allocation |
//! | `num.rs` | numbers as Redis reads and prints them |
//! | `expire.rs` | keys that leave by themselves: the expiry cycle, eviction |
//! | `glob.rs` | patterns: `KEYS`, `SCAN MATCH`, `PSUBSCRIBE`, `CONFIG GET` |
//! | `error.rs` | the errors that clients see, in Redis's words |
//! | `listpack/` | the small list in RDB's bytes |
//! | `intset.rs` | the small set of integers in RDB's bytes |
//! | `quicklist/` | the large list: a queue of listpacks |
//! | `thin.rs` | the one-word owning pointer under listpack and intset |
//! | `size_class.rs` | what the allocator spends on a number of bytes |
//! | `command.rs` | a command table's entry, and running a command |
//! | `grammar.rs` | the notation of a command's arguments |
//! | `commands/` | the commands, a family a file |
//! | `effects.rs` | what a command changed, for the log |
//! | `entry.rs` | a key and its value as one allocation |
//! | `keyspace.rs` | the databases: lookup, expiry, and all that follows a change |
//! | `types/`, `value.rs` | the data types |
//! | `resp/` | the protocol: reading requests, writing replies |
//! | `table/` | the hash table of entries: keyspace, expiry index, large collections |
//! | `hasher.rs` | the keyed hash of keys, fields and members |
//! | `ahead.rs`, `cache.rs` | what the next requests will touch, asked of the processor's cache early |

pub mod ahead;
pub mod args;
pub mod btree;
mod cache;
pub mod command;
pub mod commands;
pub mod effects;
pub mod entry;
pub mod error;
pub mod expire;
pub mod glob;
pub mod grammar;
pub mod hasher;
pub mod intset;
pub mod keyspace;
pub mod listpack;
pub mod member;
pub mod num;
pub mod quicklist;
pub mod resp;
mod size_class;
pub mod table;
pub mod text;
mod thin;
pub mod types;
pub mod value;

pub use args::{Args, OwnedArgs, Span};
pub use error::Error;
pub use keyspace::Keyspace;
pub use resp::reply::Reply;
pub use size_class::size_class;
pub use text::Text;
