//! The log's last segment: commands or an error that says where; what is cut off once is cut off for
//! good; and the reader of requests and the framer of replication see the same commands.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use varve_engine::resp::request::{Frame, Limits};
use varve_fuzz::memory::bounded;
use varve_fuzz::{go_on, log_options};
use varve_persistence::log::fake::FakeDisk;
use varve_persistence::log::replay::{Reading, without_zeros};
use varve_persistence::log::{Error, recover};
use varve_persistence::offset::Offset;
use varve_replication::frame::Framer;

type Words = Vec<Vec<u8>>;

/// The commands that a start applies, how it ended, and what is in the file then.
fn replayed(segment: &[u8], load_truncated: bool) -> (Vec<Words>, Result<u64, String>, Vec<u8>) {
    let disk = FakeDisk::new(1);
    disk.put(Path::new("d/a.manifest"), b"file a.1.incr.aof seq 1 type i\n");
    disk.put(Path::new("d/a.1.incr.aof"), segment);
    let mut options = log_options(&disk);
    options.load_truncated = load_truncated;
    let mut commands = Vec::new();
    let mut found = recover(&options).expect("the manifest is good").expect("there is one");
    let result = found.replay::<Error>(&mut |command| {
        commands.push(command.args.iter().map(|arg| arg.to_vec()).collect());
        Ok(())
    });
    if result.is_ok() {
        go_on(&disk);
    }
    let left = disk.contents(Path::new("d/a.1.incr.aof")).expect("it stays there");
    (commands, result.map(|r| r.end.0).map_err(|e| e.to_string()), left)
}

fuzz_target!(|data: &[u8]| {
    let reading =
        Reading { path: Path::new("a"), bytes: data, start: Offset(7), records: &[], db: 0 };
    let mut frame = Frame::default();
    // A word takes 16 bytes beside the file, and at least six in it.
    let _ = bounded((1 << 20) + 8 * data.len(), || {
        reading.replay(0, &mut |command| {
            let bytes = &data[command.position as usize..];
            let len = (command.end - Offset(7) - command.position) as usize;
            let end = frame.parse(bytes, &Limits::default());
            assert_eq!(end, Ok(Some(len)));
            assert!(frame.args(&bytes[..len]).iter().eq(command.args.iter().copied()));
            Ok::<(), ()>(())
        })
    });

    // What a replica passes on and appends to its log, it executes as well.
    let mut framer = Framer::default();
    let mut at = 0;
    while let Ok(Some(unit)) = framer.next(&data[at..]) {
        let end = at + unit.len;
        while at < end {
            let len = frame.parse(&data[at..end], &Limits::default());
            at += len.expect("a unit is requests").expect("a unit is whole requests");
        }
    }

    let (strict, ends, left) = replayed(data, false);
    if let Ok(end) = ends {
        assert!(without_zeros(data).len() as u64 == end, "it ends at {end}");
        assert!(left.starts_with(data));
    }
    let (commands, ends, left) = replayed(data, true);
    assert_eq!(commands, strict);
    if let Ok(end) = ends {
        assert!(data.starts_with(&left[..end as usize]));
        let (again, ends, _) = replayed(&left[..end as usize], false);
        assert_eq!((again, ends), (commands, Ok(end)));
    }
});
