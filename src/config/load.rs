//! Reading the configuration: the file with what it includes, standard input, then the command
//! line. Later lines win.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use varve_engine::glob;

use super::directives::{self, Config};
use super::unsupported::{self, Verdict};
use super::{os_error, parse};
use crate::cmdline::Invocation;

/// How deep files may include files: far more than anybody nests, and an end to a loop.
const INCLUDE_DEPTH: usize = 16;

/// What the start needs.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub origin: Origin,
    /// To be logged: what was accepted and has no effect.
    pub notices: Vec<String>,
}

/// Where the configuration came from: what CONFIG REWRITE needs later, when the process may have
/// changed its working folder.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The full path of the file, if there is one.
    pub file: Option<PathBuf>,
    /// The folder to which relative paths in it refer: where the process was started.
    pub base: PathBuf,
}

/// Why the server cannot start. Its text is what Redis prints.
#[derive(Debug)]
pub enum LoadError {
    /// A file cannot be read.
    Open { path: PathBuf, why: String },
    /// A line is wrong.
    Line { place: String, line: String, why: String },
}

impl LoadError {
    /// The reason alone, in one line.
    pub fn brief(&self) -> String {
        match self {
            LoadError::Open { path, why } => format!("can't open '{}': {why}", path.display()),
            LoadError::Line { line, why, .. } => format!("'{line}': {why}"),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Open { path, why } => {
                write!(f, "Fatal error, can't open config file '{}': {why}", path.display())
            }
            LoadError::Line { place, line, why } => write!(
                f,
                "\n*** FATAL CONFIG FILE ERROR (Varve {}) ***\n{place}\n>>> '{line}'\n{why}",
                crate::VERSION
            ),
        }
    }
}

impl std::error::Error for LoadError {}

/// Reads everything that `invocation` names.
pub fn load(invocation: &Invocation) -> Result<Loaded, LoadError> {
    let here = PathBuf::from(".");
    let base =
        std::env::current_dir().map_err(|e| LoadError::Open { path: here, why: os_error(&e) })?;
    let file = invocation.file.as_ref().map(|file| base.join(file));
    let mut loader = Loader::new(&base);
    if let Some(file) = &file {
        loader.file(file, 0)?;
    }
    if invocation.stdin {
        let mut text = Vec::new();
        std::io::stdin()
            .read_to_end(&mut text)
            .map_err(|e| LoadError::Open { path: "-".into(), why: os_error(&e) })?;
        loader.text(&text, None, 0)?;
    }
    for words in &invocation.directives {
        loader.directive(words, 0).map_err(|e| {
            let shown = |word: &OsString| parse::shown(word.as_bytes());
            let values: String = words[1..].iter().map(|w| format!(" \"{}\"", shown(w))).collect();
            e.at("Reading the command line".into(), shown(&words[0]) + &values)
        })?;
    }
    let (config, notices) = loader.finish();
    Ok(Loaded { config, origin: Origin { file, base }, notices })
}

/// What `text` would configure if it stood in the file of `origin`.
pub(super) fn load_text(origin: &Origin, text: &[u8]) -> Result<Config, LoadError> {
    let mut loader = Loader::new(&origin.base);
    loader.text(text, None, 0)?;
    Ok(loader.finish().0)
}

/// As [`load_text`], but a line that includes a file is an error.
pub(super) fn load_alone(origin: &Origin, text: &[u8]) -> Result<Config, LoadError> {
    let mut loader = Loader::new(&origin.base);
    loader.text(text, None, INCLUDE_DEPTH)?;
    Ok(loader.finish().0)
}

/// Why a directive was not taken: itself, or something inside a file that it includes.
enum Fault {
    Here(String),
    Inside(LoadError),
}

impl Fault {
    fn at(self, place: String, line: String) -> LoadError {
        match self {
            Fault::Here(why) => LoadError::Line { place, line, why },
            Fault::Inside(error) => error,
        }
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Fault {
        Fault::Here(why)
    }
}

struct Loader<'a> {
    config: Config,
    base: &'a Path,
    /// Names of the directives that were given.
    seen: HashSet<&'static str>,
    notices: Vec<String>,
}

impl<'a> Loader<'a> {
    fn new(base: &'a Path) -> Loader<'a> {
        Loader { config: Config::default(), base, seen: HashSet::new(), notices: Vec::new() }
    }

    fn finish(mut self) -> (Config, Vec<String>) {
        if !self.seen.contains("dir") {
            self.config.dir = self.base.into();
        }
        (self.config, self.notices)
    }

    fn file(&mut self, path: &Path, depth: usize) -> Result<(), LoadError> {
        let text = std::fs::read(path)
            .map_err(|e| LoadError::Open { path: path.into(), why: os_error(&e) })?;
        self.text(&text, (depth > 0).then_some(path), depth)
    }

    /// Takes every line; `included` is the path to name in errors, if it is not the main file.
    fn text(
        &mut self,
        text: &[u8],
        included: Option<&Path>,
        depth: usize,
    ) -> Result<(), LoadError> {
        for (number, line) in text.split(|&b| b == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            self.line(line, depth).map_err(|e| {
                let mut place = format!("Reading the configuration file, at line {}", number + 1);
                if let Some(path) = included {
                    place += &format!(" of {}", path.display());
                }
                e.at(place, parse::shown(line))
            })?;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], depth: usize) -> Result<(), Fault> {
        let words = parse::words(line)
            .map_err(|_| "Unbalanced quotes in configuration line".to_string())?;
        match words.is_empty() {
            true => Ok(()),
            false => self.directive(&words, depth),
        }
    }

    /// Takes one directive, its name first.
    fn directive(&mut self, words: &[OsString], depth: usize) -> Result<(), Fault> {
        const BAD: &str = "Bad directive or wrong number of arguments";
        let (name, values) = words.split_first().ok_or_else(|| BAD.to_string())?;
        let name = &*name.to_string_lossy();
        if let Some(directive) = directives::find(name) {
            let joined;
            let values = match values {
                [dir] if directive.name == "dir" => {
                    joined = [self.base.join(dir).into()];
                    &joined
                }
                _ => values,
            };
            let more = self.seen.contains(directive.name);
            directive.set(&mut self.config, values, more)?;
            self.seen.insert(directive.name);
            return Ok(());
        }
        if let Some(unsupported) = unsupported::find(name) {
            match unsupported.judge(values) {
                Verdict::Fine => {}
                Verdict::NoEffect => {
                    let values = values.join(OsStr::new(" "));
                    self.notices
                        .push(format!("'{name} {}' has no effect in Varve", values.display()));
                }
                Verdict::Refused => return Err(unsupported::refusal(name, values).into()),
            }
            return Ok(());
        }
        match values {
            [pattern] if name.eq_ignore_ascii_case("include") => self.include(pattern, depth),
            _ => Err(BAD.to_string().into()),
        }
    }

    /// Reads the files that `pattern` names, in the order of their names. A pattern with a star may
    /// name none; a plain path must be there.
    fn include(&mut self, pattern: &OsStr, depth: usize) -> Result<(), Fault> {
        if depth == INCLUDE_DEPTH {
            return Err(format!("included more than {INCLUDE_DEPTH} files deep").into());
        }
        let path = self.base.join(pattern);
        let files = if glob::is_literal(pattern.as_bytes()) { vec![path] } else { expand(&path) };
        for file in files {
            self.file(&file, depth + 1).map_err(Fault::Inside)?;
        }
        Ok(())
    }
}

/// The paths that match `pattern`, where any component may be a glob; sorted.
fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = component.as_os_str().as_encoded_bytes();
        if glob::is_literal(name) {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        }
        found = found
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| {
                let entry = entry.file_name();
                let entry = entry.as_encoded_bytes();
                // As a shell does: a hidden file is matched only by a pattern that says so.
                (entry[0] != b'.' || name[0] == b'.') && glob::matches(name, entry, false)
            })
            .map(|entry| entry.path())
            .collect();
    }
    found.retain(|path| path.exists());
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use varve_engine::keyspace::event;

    use super::super::types::*;
    use super::*;

    fn origin() -> Origin {
        Origin { file: None, base: std::env::temp_dir() }
    }

    fn loaded(text: &str) -> Config {
        load_text(&origin(), text.as_bytes()).unwrap()
    }

    fn refused(text: &str) -> String {
        load_text(&origin(), text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn later_lines_win() {
        let config = loaded("# c\n\n  port 1\nPORT 2\r\nhz 20\n");
        assert_eq!((config.port, config.hz), (2, 20));
        let config = loaded("slowlog-max-len 5\ncommandlog-slow-execution-max-len 7");
        assert_eq!(config.slowlog_max_len, 7);
    }

    #[test]
    fn save_lines_add_up_and_replace_the_default() {
        let points = |text: &str| {
            let config = loaded(text);
            config.save.iter().map(|p| (p.seconds, p.changes)).collect::<Vec<_>>()
        };
        assert_eq!(points(""), [(3600, 1), (300, 100), (60, 10_000)]);
        assert_eq!(points("save 900 1\nsave 60 5"), [(900, 1), (60, 5)]);
        assert_eq!(points("save 900 1 60 5"), [(900, 1), (60, 5)]);
        assert_eq!(points("save \"900 1\""), [(900, 1)]);
        assert_eq!(points("save \"\""), []);
        assert_eq!(points("save 900 1\nsave \"\""), []);
        assert_eq!(points("save \"\"\nsave 60 5"), [(60, 5)]);
    }

    #[test]
    fn special_directives() {
        let config = loaded(
            "client-output-buffer-limit slave 1mb 0 0\n\
             client-output-buffer-limit pubsub 2 3 4\n\
             rename-command FLUSHALL \"\"\nrename-command CONFIG hidden\n\
             slaveof 10.0.0.1 6380\nbind 127.0.0.1 -::1\nmaxmemory 2gb\nunixsocketperm 700\n\
             notify-keyspace-events KEA\nshutdown-on-sigterm save now\n\
             maxmemory-policy AllKeys-LFU\nprimaryuser bob\nprimaryauth hush\n",
        );
        assert_eq!(config.client_output_buffer_limit[0], OutputLimit::new(0, 0, 0));
        assert_eq!(config.client_output_buffer_limit[1], OutputLimit::new(1 << 20, 0, 0));
        assert_eq!(config.client_output_buffer_limit[2], OutputLimit::new(2, 3, 4));
        assert_eq!(config.rename_command.len(), 2);
        assert_eq!(config.rename_command[0].name, "");
        assert_eq!(config.replicaof, Some(Primary { host: "10.0.0.1".into(), port: 6380 }));
        assert_eq!(config.bind, ["127.0.0.1", "-::1"]);
        assert_eq!(config.maxmemory, 2 << 30);
        assert_eq!(config.unixsocketperm, 0o700);
        assert_eq!(config.notify_keyspace_events.0, event::KEYSPACE | event::KEYEVENT | event::ALL);
        assert!(config.shutdown_on_sigterm.save && config.shutdown_on_sigterm.now);
        assert_eq!(config.maxmemory_policy, MaxmemoryPolicy::AllkeysLfu);
        assert_eq!((&*config.masteruser, &*config.masterauth), ("bob".as_ref(), "hush".as_ref()));
        assert_eq!(loaded("replicaof a 1\nreplicaof no one").replicaof, None);
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(
            refused("port 1\nfoo bar\n"),
            format!(
                "\n*** FATAL CONFIG FILE ERROR (Varve {}) ***\n\
                 Reading the configuration file, at line 2\n\
                 >>> 'foo bar'\n\
                 Bad directive or wrong number of arguments",
                crate::VERSION
            )
        );
        for (line, why) in [
            ("port abc", "argument couldn't be parsed into an integer"),
            ("port 1 2", "wrong number of arguments"),
            ("port", "wrong number of arguments"),
            ("port 65536", "argument must be between 0 and 65535 inclusive"),
            ("port \"12", "Unbalanced quotes in configuration line"),
            ("appendonly maybe", "argument must be 'yes' or 'no'"),
            ("maxmemory 1.5gb", "argument must be a memory value"),
            ("save 1", "Invalid save parameters"),
            (
                "shutdown-on-sigterm",
                "argument(s) must be one of the following: default, save, nosave, now, force",
            ),
            ("save 0 1", "Invalid save parameters"),
            ("replicaof a", "wrong number of arguments"),
            ("replicaof a 99999", "Invalid master port"),
            ("dir /no/such/folder", "No such file or directory"),
            ("appendfilename a/b", "appendfilename can't be a path, just a filename"),
            (
                "loglevel foo",
                "argument(s) must be one of the following: debug, verbose, notice, warning, nothing",
            ),
            (
                "client-output-buffer-limit normal 1 2",
                "Wrong number of arguments in buffer limit configuration.",
            ),
            ("include", "Bad directive or wrong number of arguments"),
            ("maxmemory-clients", "wrong number of arguments"),
            ("maxmemory-clients lots", "argument must be a memory or percent value"),
            ("maxmemory-clients 101%", "percentage argument must be less or equal to 100"),
            (
                "proc-title-template {foo}",
                "template format is invalid or contains unknown variables",
            ),
        ] {
            let error = refused(line);
            assert!(error.ends_with(&format!(">>> '{line}'\n{why}")), "{line}: {error}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let error = refused("cluster-enabled yes");
        assert!(error.ends_with("'cluster-enabled yes' is not supported by this version of Varve"));
        for bad in [
            "tls-port 6380",
            "loadmodule /x.so a",
            "user bob on",
            "aclfile users.acl",
            "activedefrag yes",
            "list-compress-depth 1",
            "server-cpulist 0-3",
        ] {
            assert!(refused(bad).contains("is not supported by this version of Varve"), "{bad}");
        }
        for fine in [
            "cluster-enabled NO",
            "tls-port 0",
            "aclfile \"\"",
            "user default on nopass ~* &* +@all",
            "active-defrag-ignore-bytes 100mb",
            "oom-score-adj-values 0 200 800",
            "hide-user-data-from-log yes",
            "commandlog-reply-larger-than 1048576",
        ] {
            loaded(fine);
        }
    }

    #[test]
    fn files_include_files() {
        let folder = std::env::temp_dir().join(format!("varve-include-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("conf.d")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        write("conf.d/20.conf", "hz 20\nport 20\n");
        write("conf.d/10.conf", "hz 10\nport 10\n");
        write("conf.d/.30.conf", "hz 30\n");
        write("main.conf", "include conf.d/*.conf\nport 30\ninclude none-*.conf\n");
        write("missing.conf", "include nowhere.conf\n");
        write("loop.conf", "include loop.conf\n");
        write("bad.conf", "include conf.d/bad\n");
        write("conf.d/bad", "\nfoo\n");
        let origin = Origin { file: None, base: folder.clone() };
        let load = |name: &str| load_text(&origin, format!("include {name}\n").as_bytes());
        let config = load("main.conf").unwrap();
        assert_eq!((config.hz, config.port), (20, 30));
        assert!(load("missing.conf").unwrap_err().to_string().contains("nowhere.conf"));
        assert!(load("loop.conf").unwrap_err().to_string().contains("files deep"));
        let bad = load("bad.conf").unwrap_err().to_string();
        assert!(bad.contains("at line 2 of "), "{bad}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
