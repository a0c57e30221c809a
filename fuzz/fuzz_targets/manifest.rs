//! The manifest, over files that are there and whole, short or damaged: an error that names the file,
//! or a log that goes on and is found again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use varve_fuzz::memory::bounded;
use varve_fuzz::{go_on, log_options};
use varve_persistence::log::fake::FakeDisk;
use varve_persistence::log::manifest::Manifest;
use varve_persistence::log::{Disk, recover, roll_back};
use varve_persistence::offset::Offset;

const COMMAND: &[u8] = b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n";

fuzz_target!(|data: &[u8]| {
    let most = (1 << 20) + 256 * data.len();
    let Ok(manifest) = bounded(most, || Manifest::parse(data)) else { return };
    let text = manifest.to_bytes();
    assert_eq!(Manifest::parse(&text).as_ref(), Ok(&manifest));

    // The manifest's own names, which only a forger gives to a file of the log.
    if manifest.entries.iter().any(|entry| entry.name.as_encoded_bytes().ends_with(b".manifest")) {
        return;
    }
    for (files, back) in [(1, 0), (2, 20), (3, 40)] {
        let disk = FakeDisk::new(1);
        disk.put(Path::new("d/a.manifest"), data);
        for (i, entry) in manifest.entries.iter().enumerate() {
            let is_base = entry.is_named_base() || Some(entry) == manifest.base();
            let contents = match files {
                1 => COMMAND.repeat(entry.covers().min(2000) as usize / COMMAND.len()),
                2 => COMMAND.repeat(i % 4),
                _ => COMMAND.repeat(3)[..50].to_vec(),
            };
            if !(is_base && files == 3) {
                disk.put(&Path::new("d").join(&entry.name), &contents);
            }
        }
        let options = log_options(&disk);
        if let Ok(Some(found)) = recover(&options) {
            let to = Offset(found.end().0.saturating_sub(back));
            let copy = disk.after_kill(disk.ops());
            let _ = roll_back(&log_options(&copy), to);
            go_on(&copy);
            go_on(&disk);
        }
        assert!(disk.open(Path::new("d/a.manifest")).is_ok());
    }
});
