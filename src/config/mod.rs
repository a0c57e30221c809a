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

/// Configuration as text alone, without the files that it may include: for fuzzing.
#[doc(hidden)]
pub mod text {
    use super::Config;
    use super::load::{Origin, load_alone};

    fn origin() -> Origin {
        Origin { file: None, base: std::env::temp_dir() }
    }

    /// What a file with this text configures; the error is what the start prints.
    pub fn load(text: &[u8]) -> Result<Config, String> {
        load_alone(&origin(), text).map_err(|e| e.to_string())
    }

    /// What CONFIG REWRITE makes of a file with the text `old`.
    pub fn rewritten(config: &Config, old: &[u8]) -> Result<Vec<u8>, String> {
        config.rewritten(&origin(), old)
    }
}

/// An I/O error in the system's words alone, as Redis reports it: without Rust's `(os error 2)`.
fn os_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].into(),
        None => text,
    }
}
