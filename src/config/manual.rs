//! The default file and the manual's page, both made from the table.

use std::fmt::Write;

use super::directives::{Config, DIRECTIVES, Directive};
use super::unsupported::UNSUPPORTED;

/// Columns of a comment in the default file.
const WIDTH: usize = 92;

/// `varve.conf` as it is installed: every directive with its words, those that the package sets
/// open and all others as comments that show the default.
pub fn default_file() -> String {
    let defaults = Config::default();
    let mut out = String::from(
        "# Varve's configuration. A line is a directive and its values; a value with spaces stands\n\
         # in \"quotes\". Sizes take units: 1k is 1000 bytes, 1kb is 1024, so too m, mb, g and gb.\n\
         # Later lines win. A line `include path` reads another file, or all that match a pattern.\n\
         # What is commented out shows the default. CONFIG REWRITE keeps comments and order.\n",
    );
    for_each_group(|group, directives| {
        let _ = write!(out, "\n### {group}\n");
        for directive in directives {
            out.push('\n');
            for line in wrap(directive.doc) {
                let _ = writeln!(out, "# {line}");
            }
            let open = directive.packaged;
            let values = match open {
                Some(value) => vec![value.to_string()],
                None => directive.lines(&defaults),
            };
            let mark = if open.is_some() { "" } else { "# " };
            if values.is_empty() {
                let _ = writeln!(out, "{mark}{} {}", directive.name, directive.kind.describe());
            }
            for value in values {
                let _ = writeln!(out, "{mark}{} {value}", directive.name);
            }
        }
    });
    out
}

/// `docs/configuration.md`.
pub fn page() -> String {
    let defaults = Config::default();
    let mut out = String::from(
        "# Configuration\n\n\
         `varved [file] [-] [--directive value ...]` reads the file, then standard input if `-` is \
         given, then the command line; later lines win. `varved -h` shows examples.\n\n\
         A line of the file is a directive and its values, separated by blanks. `\"...\"` knows the \
         escapes `\\n \\r \\t \\b \\a \\\" \\\\ \\xHH`, `'...'` only `\\'`. A line that begins with \
         `#` is a comment. `include path` reads another file there, or all that match a pattern \
         (`include /etc/varve/conf.d/*.conf`), in the order of their names. A size may have a unit: \
         `1k` is 1000 bytes, `1kb` 1024, so too `m`, `mb`, `g` and `gb`.\n\n\
         `CONFIG GET pattern ...` shows what is in force, `CONFIG SET name value ...` changes it \
         (all of it or nothing), and `CONFIG REWRITE` writes it to the file, keeping its comments \
         and order. What is marked *at start* cannot be changed by `CONFIG SET`; what is marked \
         *protected* only where `enable-protected-configs` allows it.\n\n\
         The tables are made from the server's own (`make conf`).\n",
    );
    for_each_group(|group, directives| {
        let _ = write!(out, "\n## {group}\n\n| directive | default | values | |\n");
        out.push_str("| --- | --- | --- | --- |\n");
        for d in directives {
            let mut name = format!("`{}`", d.name);
            if let Some(alias) = d.alias {
                let _ = write!(name, " (`{alias}`)");
            }
            let default = match d.lines(&defaults).join("; ") {
                empty if empty.is_empty() || empty == "\"\"" => String::new(),
                shown => format!("`{shown}`"),
            };
            let mut text = wrap(d.doc).join(" ");
            if d.protected {
                text.insert_str(0, "*Protected.* ");
            } else if d.immutable {
                text.insert_str(0, "*At start.* ");
            }
            let _ = writeln!(out, "| {name} | {default} | {} | {text} |", d.kind.describe());
        }
    });
    out.push_str(
        "\n## Redis's directives that are not supported\n\n\
         They are accepted with the value that asks for nothing, so that a file written for Redis \
         loads as far as it means the same here. Any other value stops the start with the \
         directive's name. Values in the last column are accepted too: they have no effect, and the \
         log says so.\n\n| directive | only value | no effect |\n| --- | --- | --- |\n",
    );
    for u in UNSUPPORTED {
        let value = match (u.value, u.file_only) {
            ("", true) => "none".into(),
            ("", false) => "empty".into(),
            (value, _) => format!("`{value}`"),
        };
        let tolerated: Vec<String> = u.tolerated.iter().map(|t| format!("`{t}`")).collect();
        let _ = writeln!(out, "| `{}` | {value} | {} |", u.name, tolerated.join(", "));
    }
    out
}

fn for_each_group(mut each: impl FnMut(&str, &[Directive])) {
    for directives in DIRECTIVES.chunk_by(|a, b| a.group == b.group && a.hidden == b.hidden) {
        if directives[0].hidden {
            continue;
        }
        each(directives[0].group, directives);
    }
}

/// The words of a doc comment in lines of at most [`WIDTH`] columns.
fn wrap(doc: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in doc.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() + 2 <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.into());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::load::{Origin, load_text};
    use super::super::parse;
    use std::path::Path;

    use super::*;

    const STALE: &str = "is not what the table gives: run `make conf`";

    #[test]
    fn the_files_in_the_tree_are_current() {
        let root = env!("CARGO_MANIFEST_DIR");
        let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap();
        assert!(read("packaging/varve.conf") == default_file(), "packaging/varve.conf {STALE}");
        assert!(read("docs/configuration.md") == page(), "docs/configuration.md {STALE}");
    }

    #[test]
    fn the_default_file_is_the_defaults_and_what_the_package_sets() {
        let base = std::fs::canonicalize(std::env::temp_dir()).unwrap();
        let origin = Origin { file: None, base };
        let packaged = default_file().replace("dir /var/lib/varve", "dir .");
        let config = load_text(&origin, packaged.as_bytes()).unwrap();
        for directive in DIRECTIVES.iter().filter(|d| d.packaged.is_none()) {
            assert_eq!(
                directive.get(&config),
                directive.get(&Config::default()),
                "{}",
                directive.name
            );
        }
        assert_eq!(config.bind, ["127.0.0.1", "-::1"]);
    }

    #[test]
    fn every_default_reads_back() {
        for directive in DIRECTIVES {
            let defaults = Config::default();
            let mut config = Config::default();
            for (i, line) in directive.lines(&defaults).iter().enumerate() {
                let words = parse::words(line.as_bytes()).unwrap();
                directive.set(&mut config, &words, i > 0).unwrap_or_else(|why| {
                    panic!("{} {line}: {why}", directive.name);
                });
            }
            if directive.name == "dir" {
                assert!(Path::new(&config.dir).is_absolute());
                config.dir.clone_from(&defaults.dir);
            }
            assert_eq!(config, defaults, "{}", directive.name);
        }
    }

    #[test]
    fn what_config_get_shows_can_be_set() {
        for directive in DIRECTIVES.iter().filter(|d| !d.file_only) {
            let mut config = Config::default();
            let shown = directive.get(&config);
            if directive.name == "replicaof" {
                continue; // Shown empty when there is no primary; set with `no one`.
            }
            directive.set(&mut config, std::slice::from_ref(&shown), false).unwrap();
            if directive.name != "dir" {
                assert_eq!(directive.get(&config), shown, "{}", directive.name);
            }
        }
    }

    #[test]
    fn every_directive_is_explained() {
        for directive in DIRECTIVES {
            let doc = directive.doc.trim();
            assert!(doc.ends_with('.') && doc.len() > 15, "{}: {doc}", directive.name);
            assert!(!doc.contains('|'), "{}: would break the table", directive.name);
        }
    }
}
