//! A small service on a loop in its own thread, with as many I/O threads as the test program's
//! `IO_THREADS` says, and what clients need to talk to it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use varve_engine::Error;
use varve_net::{Closed, Conn, ConnId, External, Net, Peer, Service, Waker, run};

/// What a test tells the service; carried out on the loop's thread.
pub type Job = Box<dyn FnOnce(&mut Net<Session>, &mut Echo) + Send>;

#[derive(Default)]
pub struct Session {
    pub name: String,
    /// What `feeds` has still to send.
    pub left: usize,
}

pub struct Echo {
    jobs: Receiver<Job>,
    events: Sender<String>,
    pub held: Vec<ConnId>,
    pub named: HashMap<String, ConnId>,
    pub writes: u64,
    released: Arc<AtomicU64>,
    pub refuse: bool,
    /// Called in every callback that ends a turn or serves requests.
    pub hook: Option<Box<dyn FnMut() + Send>>,
    stop: bool,
}

impl Echo {
    fn tell(&self, text: impl Into<String>) {
        let _ = self.events.send(text.into());
    }

    fn call_hook(&mut self) {
        if let Some(hook) = &mut self.hook {
            hook();
        }
    }
}

impl Service for Echo {
    type Session = Session;

    fn accepted(&mut self, _: &mut Net<Session>, _: ConnId, _: &Peer) -> Result<Session, Vec<u8>> {
        match self.refuse {
            true => Err(b"-ERR max number of clients reached\r\n".to_vec()),
            false => Ok(Session::default()),
        }
    }

    fn accept_failed(&mut self, _: &mut Net<Session>, error: io::Error) {
        self.tell(format!("accept failed: {error}"));
    }

    fn requests(&mut self, net: &mut Net<Session>, conn: &mut Conn<Session>) {
        self.call_hook();
        while let Some(args) = conn.input.pop() {
            match &args[0] {
                b"ECHO" => conn.output.bulk(&args[1]),
                b"NAME" => {
                    conn.session.name = String::from_utf8_lossy(&args[1]).into_owned();
                    self.named.insert(conn.session.name.clone(), conn.id);
                    conn.output.ok();
                }
                b"BIG" => {
                    let chunk = vec![b'x'; 1 << 20];
                    for _ in 0..args[1][0] - b'0' {
                        for _ in 0..10 {
                            conn.output.bulk(&chunk);
                        }
                    }
                }
                b"WRITE" => {
                    self.writes += 1;
                    conn.output.ok();
                }
                b"BLOCK" => {
                    conn.hold = true;
                    self.held.push(conn.id);
                    return;
                }
                b"UNBLOCK" => {
                    for id in self.held.drain(..) {
                        if let Some(other) = net.conn_mut(id) {
                            other.output.simple("unblocked");
                            other.hold = false;
                            net.mark_dirty(id);
                            net.resume(id);
                        }
                    }
                    conn.output.ok();
                }
                b"SEND" => {
                    let id = self.named[&String::from_utf8_lossy(&args[1]).into_owned()];
                    if let Some(other) = net.conn_mut(id) {
                        other.output.bulk(&args[2]);
                        net.mark_dirty(id);
                    }
                    conn.output.ok();
                }
                b"KILL" => {
                    let id = self.named[&String::from_utf8_lossy(&args[1]).into_owned()];
                    conn.output.bool(net.kill(id));
                }
                b"QUIT" => {
                    conn.output.ok();
                    conn.close_after_reply = true;
                    return;
                }
                b"FEED" => {
                    conn.session.left = 20 << 20;
                    conn.feeds = true;
                    conn.output.ok();
                }
                _ => conn.output.error(&Error::err("unknown command")),
            }
        }
    }

    fn bytes(&mut self, _: &mut Net<Session>, conn: &mut Conn<Session>) {
        let text = String::from_utf8_lossy(conn.input.bytes()).into_owned();
        conn.input.consume(text.len());
        self.tell(format!("bytes: {text}"));
    }

    fn connected(&mut self, _: &mut Net<Session>, conn: &mut Conn<Session>, r: io::Result<()>) {
        match r {
            Ok(()) => conn.output.raw(b"hello from the loop"),
            Err(e) => self.tell(format!("connect failed: {:?}", e.kind())),
        }
    }

    fn closed(&mut self, _: &mut Net<Session>, conn: Box<Conn<Session>>, why: Closed) {
        self.tell(format!("closed {}: {why:?}", conn.session.name));
    }

    fn drained(&mut self, _: &mut Net<Session>, conn: &mut Conn<Session>) {
        let n = conn.session.left.min(50_000);
        conn.session.left -= n;
        conn.output.raw(&vec![b'f'; n]);
    }

    fn turn_end(&mut self, _: &mut Net<Session>) {
        self.call_hook();
    }

    fn gate(&self, _: &Session) -> u64 {
        self.writes
    }

    fn released(&self) -> u64 {
        self.released.load(Ordering::SeqCst)
    }

    fn woken(&mut self, net: &mut Net<Session>) {
        while let Ok(job) = self.jobs.try_recv() {
            job(net, self);
        }
    }

    fn external(&mut self, _: &mut Net<Session>, _: External, readable: bool, _: bool) {
        self.tell(format!("external readable: {readable}"));
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn tick(&mut self, _: &mut Net<Session>) {}

    fn stopping(&self) -> bool {
        self.stop
    }
}

pub struct Server {
    pub addr: SocketAddr,
    jobs: Sender<Job>,
    events: Mutex<Receiver<String>>,
    waker: Waker,
    released: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Server {
        Server::with(|_| {})
    }

    pub fn with(setup: impl FnOnce(&mut Net<Session>)) -> Server {
        let mut net = Net::new().expect("epoll");
        net.set_io_threads(crate::IO_THREADS).expect("threads");
        net.always_hand_over = true;
        setup(&mut net);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = net.listen_tcp(any, 511).expect("a free port");
        let addr = net.local_addr(listener).expect("bound");
        let (jobs, job_receiver) = channel();
        let (event_sender, events) = channel();
        let released = Arc::new(AtomicU64::new(u64::MAX));
        let waker = net.waker();
        let mut echo = Echo {
            jobs: job_receiver,
            events: event_sender,
            held: Vec::new(),
            named: HashMap::new(),
            writes: 0,
            released: released.clone(),
            refuse: false,
            hook: None,
            stop: false,
        };
        let thread = std::thread::spawn(move || run(&mut net, &mut echo).expect("epoll"));
        let events = Mutex::new(events);
        Server { addr, jobs, events, waker, released, thread: Some(thread) }
    }

    pub fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.addr).expect("the server listens");
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
        client.set_nodelay(true).expect("a socket option");
        client
    }

    pub fn run(&self, job: impl FnOnce(&mut Net<Session>, &mut Echo) + Send + 'static) {
        self.jobs.send(Box::new(job)).expect("the loop runs");
        self.waker.wake();
    }

    /// Runs on the loop and brings its answer back.
    pub fn ask<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Net<Session>, &mut Echo) -> R + Send + 'static,
    ) -> R {
        let (sender, receiver) = channel();
        self.run(move |net, echo| drop(sender.send(job(net, echo))));
        receiver.recv_timeout(Duration::from_secs(20)).expect("the loop runs")
    }

    pub fn event(&self) -> String {
        let events = self.events.lock().expect("not poisoned");
        events.recv_timeout(Duration::from_secs(20)).expect("something happens")
    }

    pub fn release(&self, offset: u64) {
        self.released.store(offset, Ordering::SeqCst);
        self.waker.wake();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.run(|_, echo| echo.stop = true);
        let joined = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(joined, Some(Ok(()))));
    }
}

pub fn request(args: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

pub fn expect(client: &mut impl Read, want: &[u8]) {
    let mut got = vec![0; want.len()];
    client.read_exact(&mut got).expect("a reply");
    assert!(got == want, "{:?}", String::from_utf8_lossy(&got[..got.len().min(200)]));
}

pub fn call(client: &mut (impl Read + Write), args: &[&[u8]], want: &[u8]) {
    client.write_all(&request(args)).expect("the server reads");
    expect(client, want);
}
