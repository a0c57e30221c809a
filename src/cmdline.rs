//! The command line, as `redis-server` takes it: `varved [file] [-] [--directive value ...]`.
//!
//! A directive is `--name` and the words up to the next `--name`; the word right after a name is
//! its value even if it begins with `--`, so that a password can. Name and value may also come as
//! one argument (`"--port 6380"`). `--save` without a value is `--save ""`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::config::parse;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Serve(Invocation),
    Version,
    Help,
    /// Print `packaging/varve.conf`: for `make conf`.
    PrintDefaultConfig,
    /// Print `docs/configuration.md`: for `make conf`.
    PrintManual,
}

/// Where the configuration is to be read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invocation {
    pub file: Option<PathBuf>,
    /// Read more of it from standard input.
    pub stdin: bool,
    /// Each a name (without dashes) and its values.
    pub directives: Vec<Vec<OsString>>,
}

/// What `--version` prints.
pub fn version() -> String {
    format!("Varve server v={} speaks=Redis 7.2 bits={}", crate::VERSION, usize::BITS)
}

/// What `--help` prints.
pub const HELP: &str = "\
Usage: varved [/path/to/varve.conf] [options] [-]
       varved - (read the configuration from standard input)
       varved -v or --version
       varved -h or --help
       varved --print-default-config (a configuration file with comments)

Every directive of the configuration file is an option.

Examples:
       varved (with the defaults)
       echo 'maxmemory 128mb' | varved -
       varved /etc/varve/varve.conf
       varved --port 7777
       varved --port 7777 --replicaof 127.0.0.1 8888
       varved /etc/varve/varve.conf --loglevel verbose";

/// Reads the arguments that follow the program's name; the error is for standard error.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, String> {
    let mut words: Vec<OsString> = arguments.into_iter().collect();
    let mut invocation = Invocation::default();
    match words.first().map(|a| a.to_string_lossy().into_owned()).as_deref() {
        None => return Ok(Action::Serve(invocation)),
        Some("-v" | "--version") => return Ok(Action::Version),
        Some("-h" | "--help") => return Ok(Action::Help),
        Some("--print-default-config") => return Ok(Action::PrintDefaultConfig),
        Some("--print-config-manual") => return Ok(Action::PrintManual),
        Some("--test-memory") => {
            return Err("Varve has no memory test; memtester and memtest86+ do that.".into());
        }
        Some("--check-system") => {
            return Err("Varve has no system check; docs/configuration.md and the log at start \
                        say what the system should be like."
                .into());
        }
        Some(first) if !first.starts_with('-') => {
            invocation.file = Some(words.remove(0).into());
        }
        Some(_) => {}
    }
    if words.iter().any(|w| w == "--sentinel") {
        return Err("Varve has no Sentinel mode: run Redis Sentinel, it manages Varve too.".into());
    }
    // A dash is standard input where it cannot be a value: first or last.
    if words.first().is_some_and(|w| w == "-") {
        words.remove(0);
        invocation.stdin = true;
    } else if words.last().is_some_and(|w| w == "-") {
        words.pop();
        invocation.stdin = true;
    }
    invocation.directives = directives(words)?;
    Ok(Action::Serve(invocation))
}

/// Groups words into directives.
fn directives(words: Vec<OsString>) -> Result<Vec<Vec<OsString>>, String> {
    let mut directives: Vec<Vec<OsString>> = Vec::new();
    let mut value_must_follow = false;
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let shown = || parse::shown(word.as_bytes());
        let name = word.as_bytes().strip_prefix(b"--");
        let Some(name) = name.filter(|_| !value_must_follow) else {
            let directive = directives
                .last_mut()
                .ok_or_else(|| format!("'{}' is no option: options begin with --", shown()))?;
            directive.push(word);
            value_must_follow = false;
            continue;
        };
        let mut directive =
            parse::words(name).map_err(|_| format!("Unbalanced quotes in '{}'", shown()))?;
        if directive.is_empty() {
            return Err(format!("'{}' names no option", shown()));
        }
        value_must_follow = directive.len() == 1;
        if value_must_follow && directive[0].eq_ignore_ascii_case("save") {
            // Scripts put `--save` before an empty list of save points.
            if words.peek().is_none_or(|next| next.as_bytes().starts_with(b"--")) {
                directive.push(OsString::new());
                value_must_follow = false;
            }
        }
        directives.push(directive);
    }
    Ok(directives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Action, String> {
        parse(line.iter().map(OsString::from))
    }

    fn invocation(line: &[&str]) -> Invocation {
        match parsed(line) {
            Ok(Action::Serve(invocation)) => invocation,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn actions() {
        assert_eq!(parsed(&["--version"]), Ok(Action::Version));
        assert_eq!(parsed(&["-v"]), Ok(Action::Version));
        assert_eq!(parsed(&["-h"]), Ok(Action::Help));
        assert_eq!(parsed(&[]), Ok(Action::Serve(Invocation::default())));
        for refused in [
            &["--sentinel"][..],
            &["s.conf", "--sentinel"],
            &["--test-memory", "5"],
            &["-x"],
            &["--"],
            &["f", "g"],
        ] {
            assert!(parsed(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn files_and_standard_input() {
        assert_eq!(invocation(&["a.conf"]).file, Some("a.conf".into()));
        for line in [&["-"][..], &["-", "--port", "1"], &["--port", "1", "-"]] {
            assert!(invocation(line).stdin, "{line:?}");
        }
        let both = invocation(&["a.conf", "--port", "1", "-"]);
        assert!(both.stdin && both.file.is_some());
        assert_eq!(both.directives, [["port", "1"]]);
    }

    #[test]
    fn directives_take_values_up_to_the_next() {
        assert_eq!(
            invocation(&["--port", "1", "--slaveof", "host", "2", "--hz 20", "--x"]).directives,
            [vec!["port", "1"], vec!["slaveof", "host", "2"], vec!["hz", "20"], vec!["x"]]
        );
        assert_eq!(
            invocation(&["--requirepass", "--secret", "--port", "1"]).directives,
            [["requirepass", "--secret"], ["port", "1"]]
        );
        assert_eq!(
            invocation(&["--save", "--port", "1", "--save", "", "--save"]).directives,
            [["save", ""], ["port", "1"], ["save", ""], ["save", ""]]
        );
        assert_eq!(invocation(&["--port=7"]).directives, [["port=7"]]);
    }
}
