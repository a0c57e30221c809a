//! CONFIG GET and CONFIG SET.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use varve_engine::{Error, glob};

use super::directives::{self, Config, DIRECTIVES, Directive};
use super::parse;
use super::unsupported::{self, UNSUPPORTED, Unsupported, Verdict};

impl Config {
    /// The names and values that match any of `patterns`, each name once. An alias is a name of its
    /// own; a name that was asked for plainly comes back as it was spelled.
    pub fn matching(&self, patterns: &[&[u8]]) -> Vec<(String, OsString)> {
        let mut found: Vec<(String, OsString)> = Vec::new();
        let mut add = |name: String, value: OsString| {
            if !found.iter().any(|(known, _)| known.eq_ignore_ascii_case(&name)) {
                found.push((name, value));
            }
        };
        for pattern in patterns {
            if glob::is_literal(pattern) {
                let name = String::from_utf8_lossy(pattern);
                if let Some(value) = self.value_of(&name) {
                    add(name.into_owned(), value);
                }
                continue;
            }
            for (name, value) in self.all() {
                if glob::matches(pattern, name.as_bytes(), true) {
                    add(name.into(), value());
                }
            }
        }
        found
    }

    /// The value of one directive, by name or alias, as CONFIG GET shows it.
    pub fn value_of(&self, name: &str) -> Option<OsString> {
        match directives::find(name) {
            Some(d) => (!d.file_only).then(|| d.get(self)),
            None => unsupported::find(name).filter(|u| !u.file_only).map(|u| u.value.into()),
        }
    }

    /// Every name and alias that CONFIG GET knows and that is not hidden, with a way to its value.
    fn all(&self) -> impl Iterator<Item = (&'static str, Box<dyn Fn() -> OsString + '_>)> {
        let ours = DIRECTIVES.iter().filter(|d| !d.file_only && !d.hidden).flat_map(move |d| {
            let value =
                move |name| (name, Box::new(move || d.get(self)) as Box<dyn Fn() -> OsString + '_>);
            [Some(d.name), d.alias].into_iter().flatten().map(value)
        });
        let others = UNSUPPORTED.iter().filter(|u| !u.file_only).flat_map(|u| {
            let value = move |name| {
                (name, Box::new(move || u.value.into()) as Box<dyn Fn() -> OsString + '_>)
            };
            [Some(u.name), u.alias].into_iter().flatten().map(value)
        });
        ours.chain(others)
    }

    /// CONFIG SET: the configuration with all of `pairs` set, and the names of the directives whose
    /// value is another now. Nothing changes here, so whoever applies the new configuration can
    /// still go back. `local` says that the client is on this machine (for
    /// `enable-protected-configs local`).
    pub fn updated(
        &self,
        pairs: &[(&[u8], &[u8])],
        local: bool,
    ) -> Result<(Config, Vec<&'static str>), Error> {
        let targets = self.targets(pairs, local)?;
        let mut config = self.clone();
        let mut changed = Vec::new();
        for (target, (name, value)) in targets.iter().zip(pairs) {
            let name = String::from_utf8_lossy(name);
            let words = [OsStr::from_bytes(value).to_owned()];
            match target {
                Target::Ours(directive) => {
                    directive
                        .set(&mut config, &words, false)
                        .map_err(|why| failed(&name.to_ascii_lowercase(), &why))?;
                    if directive.get(&config) != directive.get(self) {
                        changed.push(directive.name);
                    }
                }
                Target::Fixed(unsupported) => {
                    if unsupported.judge(&words) == Verdict::Refused {
                        return Err(failed(&name, &unsupported::refusal(&name, &words)));
                    }
                }
            }
        }
        Ok((config, changed))
    }

    /// What each pair's name stands for, once it is sure that all of them may be set.
    fn targets(&self, pairs: &[(&[u8], &[u8])], local: bool) -> Result<Vec<Target>, Error> {
        let mut targets: Vec<Target> = Vec::with_capacity(pairs.len());
        for (name, _) in pairs {
            let name = parse::shown(name);
            let unknown = || {
                Error::err(format_args!(
                    "Unknown option or number of arguments for CONFIG SET - '{name}'"
                ))
            };
            let target = Target::find(&name).ok_or_else(unknown)?;
            if targets.iter().any(|t| t.name() == target.name()) {
                return Err(failed(&name, "duplicate parameter"));
            }
            if let Target::Ours(directive) = target {
                if directive.immutable {
                    return Err(failed(&name, "can't set immutable config"));
                }
                if directive.protected && !self.enable_protected_configs.allows(local) {
                    return Err(failed(&name, "can't set protected config"));
                }
            }
            targets.push(target);
        }
        Ok(targets)
    }
}

#[derive(Clone, Copy)]
enum Target {
    Ours(&'static Directive),
    Fixed(&'static Unsupported),
}

impl Target {
    fn find(name: &str) -> Option<Target> {
        match directives::find(name) {
            Some(d) => (!d.file_only).then_some(Target::Ours(d)),
            None => unsupported::find(name).filter(|u| !u.file_only).map(Target::Fixed),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Target::Ours(d) => d.name,
            Target::Fixed(u) => u.name,
        }
    }
}

/// The error of a CONFIG SET because of one of its arguments; also for effects that fail later.
pub fn failed(name: &str, why: &str) -> Error {
    Error::err(format_args!("CONFIG SET failed (possibly related to argument '{name}') - {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Result<(Config, Vec<&'static str>), String> {
        let bytes: Vec<(&[u8], &[u8])> =
            pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
        Config::default().updated(&bytes, true).map_err(|e| e.to_string())
    }

    fn names(patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<&[u8]> = patterns.iter().map(|p| p.as_bytes()).collect();
        Config::default().matching(&patterns).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn get_by_name_and_pattern() {
        assert_eq!(names(&["APPENDFSYNC"]), ["APPENDFSYNC"]);
        assert_eq!(names(&["p?rt", "port", "PORT"]), ["port"]);
        assert_eq!(names(&["min-*lag"]), ["min-replicas-max-lag", "min-slaves-max-lag"]);
        assert_eq!(names(&["nothing", "no*thing"]), [] as [&str; 0]);
        assert_eq!(names(&["rename*", "user", "loadmodule", "include"]), [] as [&str; 0]);
        assert_eq!(names(&["cluster-enabled"]), ["cluster-enabled"]);
        let config = Config::default();
        for (name, value) in [
            ("maxmemory", "0"),
            ("save", "3600 1 300 100 60 10000"),
            ("slaveof", ""),
            ("bind", "* -::*"),
            ("repl-backlog-size", "1048576"),
            ("latency-tracking-info-percentiles", "50 99 99.9"),
            ("tls-port", "0"),
            (
                "client-output-buffer-limit",
                "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
            ),
        ] {
            assert_eq!(config.value_of(name).unwrap(), value, "{name}");
        }
    }

    #[test]
    fn every_name_is_there_once() {
        let config = Config::default();
        let mut all: Vec<&str> = config.all().map(|(name, _)| name).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        for (name, value) in config.all() {
            assert_eq!(config.value_of(name), Some(value()), "{name}");
        }
    }

    #[test]
    fn set_is_all_or_nothing_and_says_what_changed() {
        let (config, changed) =
            set(&[("hz", "20"), ("maxmemory", "1mb"), ("timeout", "0")]).unwrap();
        assert_eq!((config.hz, config.maxmemory), (20, 1 << 20));
        assert_eq!(changed, ["hz", "maxmemory"]);
        assert!(set(&[("hz", "20"), ("maxmemory", "x")]).is_err());
        let (config, changed) = set(&[("SAVE", "900 1 60 5"), ("cluster-enabled", "no")]).unwrap();
        assert_eq!(config.save.len(), 2);
        assert_eq!(changed, ["save"]);
        assert_eq!(set(&[("save", "")]).unwrap().0.save, []);
        assert_eq!(set(&[("bind", "")]).unwrap().0.bind, [] as [&str; 0]);
        assert_eq!(set(&[("hz", "5000")]).unwrap().0.hz, 500);
        assert_eq!(set(&[("repl-backlog-size", "1")]).unwrap().0.repl_backlog_size, 16 << 10);
        assert_eq!(set(&[("masterauth", "a b")]).unwrap().0.masterauth, "a b");
    }

    #[test]
    fn what_is_set_is_shown_in_its_usual_form() {
        for (name, given, shown) in [
            ("notify-keyspace-events", "KEA", "AKE"),
            ("notify-keyspace-events", "g$lKn", "g$lKn"),
            ("shutdown-on-sigint", "force SAVE now", "save now force"),
            ("latency-tracking-info-percentiles", "50.5 99 99.99", "50.5 99 99.99"),
            ("latency-tracking-info-percentiles", "", ""),
            ("appendfsync", "ALWAYS", "always"),
            ("maxmemory-clients", "5%", "5%"),
            ("maxmemory-clients", "1gb", "1073741824"),
            ("maxmemory-clients", "0%", "0"),
            ("maxmemory", "1gb", "1073741824"),
            (
                "client-output-buffer-limit",
                "replica 1k 2 3",
                "normal 0 0 0 slave 1000 2 3 pubsub 33554432 8388608 60",
            ),
        ] {
            assert_eq!(set(&[(name, given)]).unwrap().0.value_of(name).unwrap(), shown, "{name}");
        }
    }

    #[test]
    fn errors_are_redis_words() {
        for (pairs, error) in [
            (
                vec![("foo", "1")],
                "ERR Unknown option or number of arguments for CONFIG SET - 'foo'",
            ),
            (
                vec![("rename-command", "a b")],
                "ERR Unknown option or number of arguments for CONFIG SET - 'rename-command'",
            ),
            (
                vec![("port", "1"), ("port", "2")],
                "ERR CONFIG SET failed (possibly related to argument 'port') - duplicate parameter",
            ),
            (
                vec![("databases", "3")],
                "ERR CONFIG SET failed (possibly related to argument 'databases') - can't set \
                 immutable config",
            ),
            (
                vec![("dir", "/tmp")],
                "ERR CONFIG SET failed (possibly related to argument 'dir') - can't set protected \
                 config",
            ),
            (
                vec![("hz", "20"), ("maxclients", "0")],
                "ERR CONFIG SET failed (possibly related to argument 'maxclients') - argument must \
                 be between 1 and 4294967295 inclusive",
            ),
            (
                vec![("appendfsync", "zz")],
                "ERR CONFIG SET failed (possibly related to argument 'appendfsync') - argument(s) \
                 must be one of the following: everysec, always, no",
            ),
            (
                vec![("save", "900  1")],
                "ERR CONFIG SET failed (possibly related to argument 'save') - Invalid save \
                 parameters",
            ),
            (
                vec![("cluster-enabled", "yes")],
                "ERR CONFIG SET failed (possibly related to argument 'cluster-enabled') - \
                 'cluster-enabled yes' is not supported by this version of Varve",
            ),
        ] {
            assert_eq!(set(&pairs).unwrap_err(), error);
        }
    }

    #[test]
    fn names_are_text_and_all_else_is_bytes() {
        let odd: &[u8] = b"caf\xe9";
        let set = |name: &[u8]| Config::default().updated(&[(name, odd)], true);
        assert_eq!(set(b"masterauth").unwrap().0.value_of("masterauth").unwrap().as_bytes(), odd);
        assert!(set(b"bind").unwrap_err().to_string().ends_with(r#""caf\xe9" is not UTF-8"#));
    }

    #[test]
    fn protected_directives_open_to_whom_they_should() {
        let config = Config {
            enable_protected_configs: super::super::OnOffLocal::Local,
            ..Config::default()
        };
        let pair: (&[u8], &[u8]) = (b"dbfilename", b"x.rdb");
        assert_eq!(config.updated(&[pair], true).unwrap().0.dbfilename, "x.rdb");
        assert!(config.updated(&[pair], false).is_err());
        let path: (&[u8], &[u8]) = (b"dbfilename", b"../x.rdb");
        assert!(config.updated(&[path], true).is_err());
    }
}
