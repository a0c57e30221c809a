//! The story: a server is killed by SIGKILL while clients write. Every write that was acknowledged
//! is there after the restart, under every fsync policy, since the kernel had it.

use crate::support::writers::{rewrite, write_until, writers};
use crate::support::{PATIENCE, Random, Server, dataset, env_number, eventually};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

fn survives_kills(policy: &str) {
    let seed = env_number("VARVE_SEED").unwrap_or(1);
    let kills = env_number("VARVE_KILLS").unwrap_or(10);
    let mut random = Random::new(seed);
    let mut server =
        Server::varve().arg("--appendonly", "yes").arg("--appendfsync", policy).start();
    let mut writers = writers(seed);
    for kill in 0..kills {
        let port = server.port();
        write_until(&mut writers, port, |round| {
            // At a random moment of a random amount of work, in some rounds amid a rewrite.
            let enough = 50 + random.below(2000) as u64;
            eventually(PATIENCE, || round.acknowledged.load(Relaxed) >= enough);
            if random.one_in(3) {
                rewrite(port);
            }
            std::thread::sleep(Duration::from_micros(random.below(40_000) as u64));
            server.kill9();
        });
        server.restart();
        let all = dataset(&mut server.client());
        for writer in &mut writers {
            if let Err(difference) = writer.verify(&all, Instant::now()) {
                panic!(
                    "VARVE_SEED={seed}, {policy}, kill {kill}, writer {}: {difference}",
                    writer.id
                );
            }
        }
    }
}

#[test]
fn acknowledged_writes_survive_a_kill_under_always() {
    survives_kills("always");
}

#[test]
fn acknowledged_writes_survive_a_kill_under_everysec() {
    // Redis holds its writes back in memory while an fsync runs, and replies nevertheless.
    survives_kills(if Server::is_stand_in() { "no" } else { "everysec" });
}
