//! What a write costs the loop: the append alone, and with the flush at the end of its turn, by
//! each way of getting bytes to the kernel.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use varve_persistence::log::{Fsync, Log, Options, random_history};
use varve_persistence::offset::{Histories, Offset};

const COMMAND: &[u8] = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000001\r\n$32\r\n\
                         0123456789abcdef0123456789abcdef\r\n";
const TURN: usize = 100;

fn append(c: &mut Criterion) {
    let histories = Histories::new(random_history().unwrap());
    let mut log = Log::in_memory(histories, Offset(0), 1 << 20, Arc::new(|| {}));
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Bytes((COMMAND.len() * TURN) as u64));
    group.bench_function("bytes", |b| {
        b.iter(|| {
            for _ in 0..TURN {
                log.append_in_db(0, black_box(COMMAND));
            }
            log.flush();
        });
    });
    group.bench_function("command", |b| {
        let value = [b'v'; 32];
        b.iter(|| {
            for _ in 0..TURN {
                let parts = [&b"SET"[..], b"key:000000000001", &value];
                log.append_command(0, black_box(&parts));
            }
            log.flush();
        });
    });
    group.finish();
}

fn flush(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn of 100 commands");
    group.throughput(Throughput::Bytes((COMMAND.len() * TURN) as u64)).sample_size(20);
    for (name, fsync, pool_blocks) in [
        ("pool", Fsync::No, 256),
        ("no pool, thread writes", Fsync::No, 0),
        ("thread writes and syncs", Fsync::Always, 256),
    ] {
        let dir = std::env::temp_dir().join(format!("varve-bench-{}", std::process::id()));
        let mut options = Options::new(dir.clone(), "bench.aof");
        (options.fsync, options.pool_blocks) = (fsync, pool_blocks);
        let histories = Histories::new(random_history().unwrap());
        let mut log = Log::create(options, histories, Offset(0), Arc::new(|| {})).unwrap();
        group.bench_function(name, |b| {
            b.iter_batched(
                || (),
                |()| {
                    for _ in 0..TURN {
                        log.append_in_db(0, black_box(COMMAND));
                    }
                    log.flush();
                    while log.released() < log.end() {
                        std::thread::yield_now();
                    }
                },
                BatchSize::PerIteration,
            );
        });
        drop(log);
        let _ = std::fs::remove_dir_all(&dir);
    }
    group.finish();
}

criterion_group!(benches, append, flush);
criterion_main!(benches);
