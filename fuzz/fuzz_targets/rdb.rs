//! A snapshot: an error or data; and the data saved, in every version that is written and as
//! commands, loads to the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use varve_engine::Keyspace;
use varve_engine::keyspace::Origin;
use varve_fuzz::memory::bounded;
use varve_fuzz::{run, support};
use varve_persistence::log::replay::Reading;
use varve_persistence::offset::Offset;
use varve_persistence::rdb::{self, Buffers, Error, Reader};

fn load(file: &[u8]) -> Result<Keyspace, Error> {
    let mut reader = Reader::new(file)?;
    reader.skip_checksum();
    support::load_by(reader, file.len())
}

/// What a log whose base is commands is loaded to.
fn through_commands(ks: &Keyspace) -> support::Contents {
    let mut bytes = Vec::new();
    let mut write = |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok(())
    };
    let options = support::options(10);
    rdb::save_as_commands(ks, &options, &mut Buffers::new(), &mut write, &mut |_| {})
        .expect("memory takes all bytes");
    let mut copy = Keyspace::new(16, 1);
    copy.origin = Origin::Log;
    copy.now_ms = 1_700_000_000_000;
    let path = Path::new("base");
    Reading { path, bytes: &bytes, start: Offset(0), records: &[], db: 0 }
        .replay(0, &mut |command| match run(&mut copy, command.db as usize, command.args) {
            Some(Ok(_)) => Ok(()),
            _ => Err(command.to_string()),
        })
        .expect("a base of our own is loaded");
    support::contents(&copy)
}

fuzz_target!(|data: &[u8]| {
    // LZF makes 88 bytes of one, and a member of a set or sorted set of two bytes takes some 40.
    let most = (4 << 20) + 4096 * data.len();
    let Ok(ks) = bounded(most, || load(data)) else { return };
    let contents = support::contents(&ks);
    for version in 9..=12 {
        let file = support::save(&ks, &support::options(version));
        let copy = support::load(&file).expect("a file of our own is loaded");
        assert!(support::contents(&copy) == contents, "version {version} gives other data");
    }
    assert!(through_commands(&ks) == contents, "commands give other data");
});
