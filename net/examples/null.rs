//! A server that reads requests and answers `+OK` to each: what the network alone costs, as
//! `redis-benchmark` sees it. `null [PORT [IO_THREADS]]`; port 0 takes a free one.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;
use varve_net::{Closed, Conn, ConnId, External, Net, Peer, Service, run};

struct Null;

impl Service for Null {
    type Session = ();

    fn accepted(&mut self, _: &mut Net<()>, _: ConnId, _: &Peer) -> Result<(), Vec<u8>> {
        Ok(())
    }

    fn accept_failed(&mut self, _: &mut Net<()>, error: io::Error) {
        eprintln!("accept: {error}");
    }

    fn requests(&mut self, _: &mut Net<()>, conn: &mut Conn<()>) {
        while conn.input.pop().is_some() {
            conn.output.ok();
        }
    }

    fn bytes(&mut self, _: &mut Net<()>, _: &mut Conn<()>) {}
    fn connected(&mut self, _: &mut Net<()>, _: &mut Conn<()>, _: io::Result<()>) {}
    fn closed(&mut self, _: &mut Net<()>, _: Box<Conn<()>>, _: Closed) {}
    fn drained(&mut self, _: &mut Net<()>, _: &mut Conn<()>) {}
    fn turn_end(&mut self, _: &mut Net<()>) {}
    fn woken(&mut self, _: &mut Net<()>) {}
    fn external(&mut self, _: &mut Net<()>, _: External, _: bool, _: bool) {}
    fn tick(&mut self, _: &mut Net<()>) {}

    fn gate(&self, _: &Self::Session) -> u64 {
        0
    }

    fn released(&self) -> u64 {
        0
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn stopping(&self) -> bool {
        false
    }
}

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).map_or(0, |p| p.parse().expect("a port"));
    let mut net = Net::new()?;
    let listener = net.listen_tcp(SocketAddr::from(([127, 0, 0, 1], port)), 511)?;
    net.set_io_threads(std::env::args().nth(2).map_or(1, |n| n.parse().expect("a number")))?;
    println!("{}", net.local_addr(listener).expect("just bound"));
    run(&mut net, &mut Null)
}
