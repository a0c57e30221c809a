//! A small blocking client: commands, pipelines, and raw bytes for tests of the protocol itself.

use super::value::{Bytes, Value};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

/// A command as its arguments.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(pub Vec<Vec<u8>>);

impl Command {
    pub fn new<A: AsRef<[u8]>>(args: &[A]) -> Command {
        Command(args.iter().map(|a| a.as_ref().to_vec()).collect())
    }

    /// The command's name in upper case.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.0[0]).to_ascii_uppercase()
    }

    /// Whether any argument after the name is `word`, in any case.
    pub fn has(&self, word: &str) -> bool {
        self.0[1..].iter().any(|a| a.eq_ignore_ascii_case(word.as_bytes()))
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, arg) in self.0.iter().enumerate() {
            let plain = !arg.is_empty() && arg.iter().all(|b| b.is_ascii_graphic() && *b != b'"');
            let gap = if i == 0 { "" } else { " " };
            if plain && arg.len() <= 120 {
                write!(f, "{gap}{}", String::from_utf8_lossy(arg))?;
            } else {
                write!(f, "{gap}{}", Bytes(arg))?;
            }
        }
        Ok(())
    }
}

/// Appends `args` as a RESP request.
pub fn encode<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// One connection. Methods named `try_…` return errors of the link; the others panic on them.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    /// How much of `input` has been handed out.
    taken: usize,
}

impl Client {
    /// Connects to a port of this machine, with [`super::PATIENCE`] as time limit for each reply.
    pub fn try_connect(port: u16) -> io::Result<Client> {
        Client::over(TcpStream::connect(("127.0.0.1", port))?)
    }

    /// The other end of a link that a server opened: [`Client::try_recv`] reads its commands.
    pub fn accept(listener: &TcpListener) -> Client {
        let (stream, _) = listener.accept().expect("accept");
        Client::over(stream).expect("set time limits")
    }

    fn over(stream: TcpStream) -> io::Result<Client> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(super::PATIENCE))?;
        stream.set_write_timeout(Some(super::PATIENCE))?;
        Ok(Client { stream, input: Vec::new(), taken: 0 })
    }

    pub fn connect(port: u16) -> Client {
        Client::try_connect(port).unwrap_or_else(|e| panic!("connect to port {port}: {e}"))
    }

    /// This connection's own port, which `MONITOR` and `CLIENT LIST` show.
    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }

    pub fn try_cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Value> {
        let mut request = Vec::new();
        encode(&mut request, args);
        self.stream.write_all(&request)?;
        self.try_recv()
    }

    /// Sends a command and returns its reply, which may be an error reply.
    pub fn cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        self.try_cmd(args).unwrap_or_else(|e| panic!("{:?}: {e}", Command::new(args)))
    }

    /// Sends a command that must not be answered with an error.
    pub fn ok<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        let reply = self.cmd(args);
        assert!(!reply.is_error(), "{:?} answered {reply:?}", Command::new(args));
        reply
    }

    /// Sends all commands, some hundred at a time, and returns a reply for each.
    pub fn pipeline(&mut self, commands: &[Command]) -> Vec<Value> {
        let mut replies = Vec::with_capacity(commands.len());
        let mut request = Vec::new();
        let mut waiting = 0;
        for (i, command) in commands.iter().enumerate() {
            encode(&mut request, &command.0);
            waiting += 1;
            if waiting == 500 || request.len() > 64 << 10 || i + 1 == commands.len() {
                self.send_raw(&request);
                request.clear();
                replies.extend((0..waiting).map(|_| self.recv()));
                waiting = 0;
            }
        }
        replies
    }

    pub fn try_send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send_raw(bytes).unwrap_or_else(|e| panic!("send: {e}"));
    }

    /// Reads the next reply.
    pub fn try_recv(&mut self) -> io::Result<Value> {
        loop {
            if let Some((value, used)) = Value::parse(&self.input[self.taken..]) {
                self.taken += used;
                return Ok(value);
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads the next reply and returns its very bytes.
    pub fn recv_raw(&mut self) -> Vec<u8> {
        loop {
            if let Some((_, used)) = Value::parse(&self.input[self.taken..]) {
                self.taken += used;
                return self.input[self.taken - used..self.taken].to_vec();
            }
            assert!(self.fill().expect("receive") != 0, "the server closed instead of replying");
        }
    }

    pub fn recv(&mut self) -> Value {
        self.try_recv().unwrap_or_else(|e| panic!("receive: {e}"))
    }

    /// Reads bytes until `end` is their tail or the peer closes; whatever came is returned.
    pub fn recv_until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if !end.is_empty() && self.input[self.taken..].ends_with(end) {
                break;
            }
            match self.fill() {
                Ok(0) => break,
                Ok(_) => {}
                // A peer that closes with our bytes unread resets the link: closed all the same.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break,
                Err(e) => panic!("receive: {e}; so far {}", Bytes(&self.input[self.taken..])),
            }
        }
        let out = self.input[self.taken..].to_vec();
        self.taken = self.input.len();
        out
    }

    /// A second handle on the same socket, for a thread that only sends.
    pub fn sender(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.taken == self.input.len() {
            self.input.clear();
            self.taken = 0;
        } else if self.taken > 1 << 20 {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        let start = self.input.len();
        self.input.resize(start + (64 << 10), 0);
        let got = loop {
            match self.stream.read(&mut self.input[start..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.input.truncate(start + *got.as_ref().unwrap_or(&0));
        got
    }
}
