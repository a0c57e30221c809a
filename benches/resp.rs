//! Parsing: pipelines of small requests as clients send them, and a value worth its own allocation.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use varve_engine::resp::request::{Frame, Input, Limits};

fn request(args: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Feeds `stream` and serves it until nothing is left.
fn serve(input: &mut Input, stream: &[u8], limits: &Limits) {
    input.feed(stream);
    loop {
        input.parse(limits).expect("well formed");
        if input.waiting() == 0 {
            return;
        }
        while let Some(args) = input.pop() {
            black_box(&args[0]);
        }
    }
}

fn parsing(c: &mut Criterion) {
    let limits = Limits::default();
    let get = request(&[b"GET", b"key:000000012345"]);
    let set = request(&[b"SET", b"key:000000012345", b"xxx"]);
    let mut group = c.benchmark_group("requests");
    for (name, stream, count) in [
        ("get", get.clone(), 1),
        ("get_x16", get.repeat(16), 16),
        ("set_x500", set.repeat(500), 500),
    ] {
        group.throughput(Throughput::Elements(count));
        let mut input = Input::new();
        group.bench_function(name, |b| b.iter(|| serve(&mut input, &stream, &limits)));
    }
    group.throughput(Throughput::Elements(500));
    let stream = set.repeat(500);
    let mut frame = Frame::default();
    group.bench_function("slice_set_x500", |b| {
        b.iter(|| {
            let mut rest = &stream[..];
            while let Some(end) = frame.parse(rest, &limits).expect("well formed") {
                black_box(&frame.args(rest)[0]);
                rest = &rest[end..];
            }
        })
    });
    group.finish();

    let stream = request(&[b"SET", b"key", &vec![b'v'; 1 << 20]]);
    let mut group = c.benchmark_group("large");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("set_1m_in_64k_pieces", |b| {
        b.iter(|| {
            let mut input = Input::new();
            for piece in stream.chunks(64 * 1024) {
                serve(&mut input, piece, &limits);
            }
        })
    });
    group.finish();
}

criterion_group!(benches, parsing);
criterion_main!(benches);
