//! The process title: what `ps` and `top -c` list.
//!
//! Linux shows the memory in which the arguments were handed to the process, and, when that does not
//! end in a zero byte, what follows it up to the end of the environment. So a title is written over
//! them. [`claim`] makes that memory free for it: the environment is first moved elsewhere.

use crate::config::Config;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// The memory that the kernel shows. Atomic because a forked child and the loop may both write a
/// title, and nothing may depend on who else looks.
static AREA: OnceLock<&'static [AtomicU8]> = OnceLock::new();

/// The name under which the process was started; its original is overwritten.
static NAME: OnceLock<String> = OnceLock::new();

/// Fields of `/proc/self/stat`, counted from the one after the name in parentheses.
const ARG_START: usize = 45;

/// Takes the memory of the arguments, and of the environment if that can be moved. To be called at
/// start, before there are threads; without effect later, or where `/proc` is missing.
pub fn claim() {
    let name = std::env::args_os().next().unwrap_or_default();
    let _ = NAME.set(name.to_string_lossy().into_owned());
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
    let places: Vec<usize> = fields.skip(ARG_START).map_while(|f| f.parse().ok()).take(4).collect();
    let &[arg_start, arg_end, env_start, env_end] = &places[..] else { return };
    if threads != 1 || arg_start == 0 || arg_end <= arg_start || AREA.get().is_some() {
        return;
    }
    let movable = env_start == arg_end
        && env_end >= env_start
        && std::env::vars_os()
            .all(|(name, _)| !name.is_empty() && !name.as_encoded_bytes().contains(&b'='));
    if movable {
        for (name, value) in std::env::vars_os() {
            // SAFETY: there is one thread, so nobody reads the environment meanwhile. The copy that
            // the C library makes is where it is read from then on.
            unsafe { std::env::set_var(name, value) };
        }
    }
    let end = if movable { env_end } else { arg_end };
    // SAFETY: the kernel laid out these bytes on the stack of the first thread, writable and there
    // until the process ends. The environment was moved; who still holds a pointer to a string in
    // it, or to an argument, reads a title that ends in a zero byte, nothing that was freed. The
    // bytes are atomic, so a write while somebody reads is no race.
    let area = unsafe { std::slice::from_raw_parts(arg_start as *const AtomicU8, end - arg_start) };
    let _ = AREA.set(area);
}

/// What `{title}` stands for in the daemon's own title.
pub fn name() -> &'static str {
    NAME.get().map_or("varved", String::as_str)
}

/// Shows `title` from now on, cut to what there is room for. Allocates nothing.
pub fn set(title: &OsStr) {
    let Some(area) = AREA.get() else { return };
    let room = area.len() - 1;
    for (place, byte) in
        area[..room].iter().zip(title.as_bytes().iter().copied().chain(std::iter::repeat(0)))
    {
        place.store(byte, Relaxed);
    }
}

/// The title that `proc-title-template` makes of the configuration, `title` standing for the name.
pub fn compose(config: &Config, file: Option<&Path>, title: &str) -> OsString {
    let listen = match (config.bind.first(), config.port) {
        (_, 0) => config.unixsocket.clone(),
        (Some(first), port) => format!("{}:{port}", first.trim_start_matches('-')).into(),
        (None, port) => format!("*:{port}").into(),
    };
    let find = |text: &[u8], byte| text.iter().position(|&b| b == byte);
    let mut out = OsString::new();
    let mut rest = config.proc_title_template.as_bytes();
    while let Some(open) = find(rest, b'{')
        && let Some(length) = find(&rest[open..], b'}')
    {
        out.push(OsStr::from_bytes(&rest[..open]));
        match &rest[open + 1..open + length] {
            b"title" => out.push(title),
            b"listen-addr" => out.push(&listen),
            b"port" => out.push(config.port.to_string()),
            // There is no TLS: its port is 0.
            b"tls-port" => out.push("0"),
            b"unixsocket" => out.push(&config.unixsocket),
            b"config-file" => out.push(file.unwrap_or(Path::new(""))),
            // `server-mode` tells Sentinel and cluster nodes apart from all others, which these are.
            _ => {}
        }
        rest = &rest[open + length + 1..];
    }
    out.push(OsStr::from_bytes(rest));
    OsStr::from_bytes(out.as_bytes().trim_ascii()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_follow_the_template() {
        let mut config = Config::default();
        let title = |config: &Config| compose(config, Some(Path::new("/etc/a.conf")), "varved");
        assert_eq!(title(&config), "varved *:6379");
        config.bind = vec!["-::1".into(), "127.0.0.1".into()];
        assert_eq!(title(&config), "varved ::1:6379");
        (config.port, config.unixsocket) = (0, "/run/v.sock".into());
        assert_eq!(title(&config), "varved /run/v.sock");
        config.proc_title_template =
            " a{port}-{tls-port}-{unixsocket}-{config-file}-{title}{server-mode}b ".into();
        assert_eq!(title(&config), "a0-0-/run/v.sock-/etc/a.conf-varvedb");
    }
}
