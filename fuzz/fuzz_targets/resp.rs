//! What a client sends: the same requests, whatever the pieces it comes in, and from both readers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use varve_engine::Args;
use varve_engine::resp::request::{Frame, Input, Limits};
use varve_fuzz::memory::bounded;

/// A byte that stands for a value long enough to be read into an allocation of its own.
const LONG: u8 = 0xff;
const LONG_BYTES: usize = 40_000;

/// The requests in a form that costs little memory, and the error that ends them.
#[derive(Debug, Default, PartialEq)]
struct Read {
    requests: Vec<u8>,
    error: Option<String>,
}

impl Read {
    fn add(&mut self, args: &Args<'_>) {
        self.requests.extend((args.len() as u32).to_le_bytes());
        for arg in args.iter() {
            self.requests.extend((arg.len() as u32).to_le_bytes());
            self.requests.extend(arg);
        }
        if let Some(raw) = args.raw() {
            let mut canonical = format!("*{}\r\n", args.len()).into_bytes();
            for arg in args.iter() {
                canonical.extend(format!("${}\r\n", arg.len()).into_bytes());
                canonical.extend(arg);
                canonical.extend(b"\r\n");
            }
            assert_eq!(raw, canonical);
        }
    }
}

fn in_pieces(stream: &[u8], mut piece: impl FnMut() -> usize, limits: &Limits) -> Read {
    let (mut input, mut read, mut rest) = (Input::new(), Read::default(), stream);
    loop {
        loop {
            match input.parse(limits) {
                Ok(()) if input.waiting() == 0 => break,
                Ok(()) => {}
                Err(error) => {
                    read.error = Some(error.to_string());
                    return read;
                }
            }
            while let Some(args) = input.pop() {
                read.add(&args);
            }
        }
        if rest.is_empty() {
            return read;
        }
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        input.feed(now);
        rest = later;
    }
}

fn in_memory(stream: &[u8], limits: &Limits) -> Read {
    let (mut frame, mut read, mut rest) = (Frame::default(), Read::default(), stream);
    loop {
        match frame.parse(rest, limits) {
            Ok(None) => return read,
            Ok(Some(end)) => {
                read.add(&frame.args(&rest[..end]));
                rest = &rest[end..];
            }
            Err(error) => {
                read.error = Some(error.to_string());
                return read;
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, a, b], bytes)) = data.split_first_chunk::<3>() else { return };
    let mut limits = Limits { authenticated: flags & 1 == 0, ..Limits::default() };
    if flags & 2 != 0 {
        limits.bulk_max = 100;
    }
    if flags & 4 != 0 {
        limits.batch = 1;
    }
    let (mut stream, mut long) = (Vec::new(), 0);
    for &byte in bytes {
        if byte == LONG && long < 3 {
            long += 1;
            stream.resize(stream.len() + LONG_BYTES, b'x');
        } else {
            stream.push(byte);
        }
    }
    // Beside what comes in: a read buffer, and the first megabyte of a value that was announced.
    let most = (4 << 20) + 128 * stream.len();
    bounded(most, || {
        let expected = in_pieces(&stream, || usize::MAX, &limits);
        assert_eq!(in_memory(&stream, &limits), expected);
        let mut even = false;
        let pieces = || {
            even = !even;
            1 + usize::from(if even { a } else { b }) * if flags & 8 == 0 { 1 } else { 300 }
        };
        assert_eq!(in_pieces(&stream, pieces, &limits), expected);
        if stream.len() < 1000 {
            assert_eq!(in_pieces(&stream, || 1, &limits), expected);
        }
    });
});
