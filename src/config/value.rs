//! What a directive's value can be: how each type of field is read from words and shown again.
//!
//! The type of a field decides how it is held, its [`Kind`] which values it takes; so a range is
//! written once, in the table, and both the reader and the manual use it. Errors are Redis's words,
//! because they are what `CONFIG SET` answers.

use std::ffi::{OsStr, OsString};

use super::parse;

/// Which values a directive takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `yes` or `no`.
    Bool,
    /// A whole number in a range, both ends included.
    Int { min: i64, max: i64 },
    /// Permission bits, written in octal.
    Octal { max: i64 },
    /// A size in bytes, with units.
    Memory { min: u64, max: u64 },
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Any bytes.
    Text,
    /// Several words; how they go together is the type's business, this describes it.
    Words(&'static str),
}

/// Shorthand for the table.
pub const fn int(min: i64, max: i64) -> Kind {
    Kind::Int { min, max }
}

/// Shorthand for the table.
pub const fn memory(min: u64) -> Kind {
    Kind::Memory { min, max: i64::MAX as u64 }
}

/// The largest value of Redis's `int` directives.
pub const INT_MAX: i64 = i32::MAX as i64;

impl Kind {
    /// The values, in words for the manual.
    pub fn describe(&self) -> String {
        match self {
            Kind::Bool => "yes or no".into(),
            Kind::Int { min, max } if *max >= INT_MAX && *min == i32::MIN as i64 => {
                "integer".into()
            }
            Kind::Int { min, max } if *max >= INT_MAX => format!("integer, at least {min}"),
            Kind::Int { min, max } => format!("integer, {min} to {max}"),
            Kind::Octal { max } => format!("octal number, 0 to {max:o}"),
            Kind::Memory { min: 0, .. } => "size in bytes, or with a unit".into(),
            Kind::Memory { min, .. } => format!("size, at least {}", parse::show_memory(*min)),
            Kind::Choice(names) => names.join(", "),
            Kind::Text => "text".into(),
            Kind::Words(syntax) => (*syntax).into(),
        }
    }
}

/// A type that can be the field of a directive.
pub trait Setting {
    /// Takes the value that `words` spell. `more` says that the directive was given before in the
    /// same configuration, which matters to those that accumulate.
    fn assign(&mut self, kind: &Kind, words: &[OsString], more: bool) -> Result<(), String>;

    /// The value as CONFIG GET shows it.
    fn show(&self, kind: &Kind) -> OsString;

    /// What to write after the directive's name in a file: mostly one line.
    fn lines(&self, kind: &Kind) -> Vec<String> {
        let shown = self.show(kind);
        vec![match kind {
            Kind::Words(_) if !shown.is_empty() => shown.to_string_lossy().into_owned(),
            _ => parse::quote(&shown),
        }]
    }
}

impl Setting for bool {
    fn assign(&mut self, _: &Kind, words: &[OsString], _: bool) -> Result<(), String> {
        *self = match &words[0] {
            w if w.eq_ignore_ascii_case("yes") => true,
            w if w.eq_ignore_ascii_case("no") => false,
            _ => return Err("argument must be 'yes' or 'no'".into()),
        };
        Ok(())
    }

    fn show(&self, _: &Kind) -> OsString {
        if *self { "yes" } else { "no" }.into()
    }
}

impl Setting for OsString {
    fn assign(&mut self, _: &Kind, words: &[OsString], _: bool) -> Result<(), String> {
        self.clone_from(&words[0]);
        Ok(())
    }

    fn show(&self, _: &Kind) -> OsString {
        self.clone()
    }
}

/// Reads a number that `kind` allows.
fn number(kind: &Kind, word: &OsStr) -> Result<i128, String> {
    const NOT_A_NUMBER: &str = "argument couldn't be parsed into an integer";
    let within = |value: i128, min: i128, max: i128| {
        if (min..=max).contains(&value) {
            Ok(value)
        } else {
            Err(format!("argument must be between {min} and {max} inclusive"))
        }
    };
    // What is not UTF-8 is no number either way.
    let text = &*word.to_string_lossy();
    match *kind {
        Kind::Memory { min, max } => {
            let value = parse::memory(text).ok_or("argument must be a memory value")?;
            within(value.into(), min.into(), max.into())
        }
        Kind::Octal { max } => {
            let value = i64::from_str_radix(text, 8).map_err(|_| NOT_A_NUMBER)?;
            match (0..=max).contains(&value) {
                true => Ok(value.into()),
                false => Err(format!("argument must be between 0 and {max:o} inclusive")),
            }
        }
        Kind::Int { min, max } => {
            let value = varve_engine::num::parse_int(text.as_bytes()).ok_or(NOT_A_NUMBER)?;
            within(value.into(), min.into(), max.into())
        }
        _ => Err(NOT_A_NUMBER.into()),
    }
}

macro_rules! integers {
    ($($int:ty),+) => { $(
        impl Setting for $int {
            fn assign(&mut self, kind: &Kind, words: &[OsString], _: bool) -> Result<(), String> {
                let value = number(kind, &words[0])?;
                *self = value
                    .try_into()
                    .map_err(|_| format!("argument must be at most {} inclusive", <$int>::MAX))?;
                Ok(())
            }

            fn show(&self, kind: &Kind) -> OsString {
                match kind {
                    Kind::Octal { .. } => format!("{self:o}").into(),
                    _ => self.to_string().into(),
                }
            }

            fn lines(&self, kind: &Kind) -> Vec<String> {
                vec![match kind {
                    Kind::Memory { .. } => parse::show_memory(*self as u64),
                    _ => parse::quote(self.show(kind)),
                }]
            }
        }
    )+ };
}

integers!(u16, u32, u64, i32, i64);

/// Words in a row, an empty one standing for none: `bind`.
impl Setting for Vec<String> {
    fn assign(&mut self, _: &Kind, words: &[OsString], _: bool) -> Result<(), String> {
        let given = words.iter().filter(|w| !w.is_empty());
        *self = given.map(|w| name(w)).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn show(&self, _: &Kind) -> OsString {
        self.join(" ").into()
    }

    fn lines(&self, _: &Kind) -> Vec<String> {
        let words: Vec<String> = self.iter().map(parse::quote).collect();
        vec![if words.is_empty() { parse::quote("") } else { words.join(" ") }]
    }
}

/// A word that names a host or a command, and so has to be text.
pub fn name(word: &OsStr) -> Result<String, String> {
    match word.to_str() {
        Some(name) => Ok(name.into()),
        None => Err(format!("{} is not UTF-8", parse::quote(word))),
    }
}

/// Declares an enum whose variants are the words of a directive.
macro_rules! choices {
    ($(#[doc = $doc:expr])+ $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $(#[doc = concat!("`", $text, "`")] $variant),+ }

        impl $name {
            /// The words, in the order in which Redis lists them.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
            /// What the table says of a directive of this type.
            pub const KIND: $crate::config::value::Kind =
                $crate::config::value::Kind::Choice(Self::NAMES);

            /// The word for this value.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl $crate::config::value::Setting for $name {
            fn assign(
                &mut self,
                _: &$crate::config::value::Kind,
                words: &[std::ffi::OsString],
                _: bool,
            ) -> Result<(), String> {
                $(if words[0].eq_ignore_ascii_case($text) {
                    *self = Self::$variant;
                    return Ok(());
                })+
                Err($crate::config::value::not_among(Self::NAMES))
            }

            fn show(&self, _: &$crate::config::value::Kind) -> std::ffi::OsString {
                self.name().into()
            }
        }
    };
}
pub(super) use choices;

/// The error for a word that is none of `names`.
pub fn not_among(names: &[&str]) -> String {
    format!("argument(s) must be one of the following: {}", names.join(", "))
}
