//! A configuration file: an error that names the line, or a configuration that `CONFIG REWRITE`
//! writes so that it is read back, into an empty file and into any other.

#![no_main]

use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use varve_fuzz::memory::bounded;
use varved::config::{DIRECTIVES, text};

/// Separates the file that is loaded from one that is rewritten to say the same.
const NEXT_FILE: u8 = 0xff;

fuzz_target!(|data: &[u8]| {
    let mut files = data.splitn(2, |&b| b == NEXT_FILE);
    let (file, other) = (files.next().unwrap_or_default(), files.next().unwrap_or_default());
    let most = (1 << 20) + 256 * data.len();
    let Ok(config) = bounded(most, || text::load(file)) else { return };
    for directive in DIRECTIVES {
        let value = directive.get(&config);
        assert!(!value.as_bytes().contains(&b'\n') || value.len() <= data.len());
    }
    let mut old = vec![&b""[..], file];
    if text::load(other).is_ok() {
        old.push(other);
    }
    for old in old {
        let new = text::rewritten(&config, old).expect("what was read can be written");
        let again = text::load(&new).expect("a file of our own is loaded");
        for directive in DIRECTIVES {
            assert_eq!(directive.get(&again), directive.get(&config), "{}", directive.name);
        }
        assert_eq!(text::rewritten(&config, &new).as_ref(), Ok(&new), "it is rewritten once more");
    }
});
