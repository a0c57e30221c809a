//! A link between two servers that can be cut, paused, throttled and damaged.

use super::{eventually, listen};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    refuse: AtomicBool,
    paused: AtomicBool,
    /// Bytes a second each way; 0 is no limit.
    rate: AtomicU64,
    /// A bit of what comes next from the upstream is to be flipped.
    damage: AtomicBool,
    /// Bytes that came from the upstream.
    carried: AtomicU64,
    /// Both ends of every open link.
    open: Mutex<Vec<TcpStream>>,
}

/// Listens on a port of its own and forwards every connection to one upstream port.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy in front of the server on `upstream`.
    pub fn to(upstream: u16) -> Proxy {
        let listener = listen();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stop.load(SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                if accepting.refuse.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let mut open = accepting.open.lock().unwrap();
                open.push(client.try_clone().unwrap());
                open.push(server.try_clone().unwrap());
                drop(open);
                let ends =
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
                for ((from, to), down) in ends.into_iter().zip([false, true]) {
                    let shared = accepting.clone();
                    thread::spawn(move || forward(from, to, down, &shared));
                }
            }
        });
        Proxy { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks every open link, bytes under way included; new ones are still accepted.
    pub fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Closes new connections at once, as an unreachable host would.
    pub fn refuse(&self, yes: bool) {
        self.shared.refuse.store(yes, SeqCst);
    }

    /// Holds all bytes back, or lets them go on.
    pub fn pause(&self, yes: bool) {
        self.shared.paused.store(yes, SeqCst);
    }

    /// Flips a bit in the middle of the next bytes that come from the upstream.
    pub fn damage(&self) {
        self.shared.damage.store(true, SeqCst);
    }

    /// Whether that still waits for bytes.
    pub fn is_damage_due(&self) -> bool {
        self.shared.damage.load(SeqCst)
    }

    /// How many bytes have come from the upstream.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(SeqCst)
    }

    /// Limits each direction to so many bytes a second; 0 is no limit.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, SeqCst);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, down: bool, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let rate = shared.rate.load(SeqCst);
        let limit = if rate == 0 { buffer.len() } else { (rate as usize / 50).clamp(1, 64 << 10) };
        let Ok(got) = from.read(&mut buffer[..limit]) else { break };
        if got == 0 {
            break;
        }
        if rate != 0 {
            thread::sleep(Duration::from_millis(20));
        }
        let free = || !shared.paused.load(SeqCst) || shared.stop.load(SeqCst);
        eventually(Duration::from_secs(3600), free);
        if down {
            shared.carried.fetch_add(got as u64, SeqCst);
            if shared.damage.swap(false, SeqCst) {
                buffer[got / 2] ^= 1;
            }
        }
        if to.write_all(&buffer[..got]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.cut();
        // Wakes the accepting thread, which then sees that it is to stop.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
