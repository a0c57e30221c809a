//! The configuration: from the files and the command line to typed fields, and back.
//!
//! Everything comes from one table ([`directives`]); what is not in it and not in the list of what
//! Redis knows but this server lacks ([`unsupported`]) is an error at start. The running
//! configuration is a plain [`Config`] that the server owns. A change is a new `Config`: CONFIG SET
//! makes one, the server applies what follows from the difference, and keeps the old one if that
//! fails.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `directives.rs` | the table, and `Config` |
//! | `unsupported.rs` | Redis's directives that are accepted only when they ask for nothing |
//! | `value.rs` | kinds of values: reading, showing, ranges |
//! | `types.rs` | the types of special directives |
//! | `parse.rs` | words, quotes, sizes |
//! | `load.rs` | files, includes, standard input and the command line |
//! | `runtime.rs` | CONFIG GET and CONFIG SET |
//! | `rewrite.rs` | CONFIG REWRITE |
//! | `manual.rs` | the default file and `docs/configuration.md` |

pub mod directives;
pub mod load;
pub mod manual;
pub mod parse;
mod rewrite;
mod runtime;
pub mod types;
pub mod unsupported;
pub mod value;

pub use directives::{Config, DIRECTIVES, Directive};
pub use load::{LoadError, Loaded, Origin, load};
pub use runtime::failed;
pub use types::*;

/// An I/O error in the system's words alone, as Redis reports it: without Rust's `(os error 2)`.
fn os_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].into(),
        None => text,
    }
}
