//! The RDB format.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `lzf.rs` | the compression of strings |
//! | `legacy.rs` | ziplists and zipmaps, which RDB versions before 10 hold small collections in |

use std::fmt;

pub mod legacy;
pub mod lzf;

/// Bytes that are not what the format says: what was expected where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt(pub &'static str);

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Corrupt {}
mod stub;
pub use stub::*;
