//! The story: three of Redis's own sentinels watch a primary and two replicas. They find all of them,
//! replace the primary when it is killed, frozen or told to step down, and bring the old one back as
//! a replica. No write that two replicas had is lost, and the data are equal in the end.

use crate::support::server::free_port;
use crate::support::{
    Client, Folder, PATIENCE, Server, Value, assert_same_data, caught_up, eventually,
};
use std::fs;
use std::process::{Child, Command, Stdio};

const NAME: &str = "mymaster";

/// A `redis-sentinel`, killed when dropped.
struct Sentinel {
    port: u16,
    child: Child,
    folder: Folder,
}

impl Sentinel {
    /// Calls a server down that says nothing for 3 s: where other tests keep processors and disk busy,
    /// one that says nothing for 1 s may be well.
    fn start(primary: u16) -> Sentinel {
        let folder = Folder::new();
        let port = free_port();
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {NAME} 3000\n\
             sentinel failover-timeout {NAME} 6000\nsentinel parallel-syncs {NAME} 1\n\
             logfile {}\n",
            folder.path().display(),
            folder.path().join("sentinel.log").display()
        );
        fs::write(&file, text).unwrap();
        let child = Command::new("redis-sentinel")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start redis-sentinel");
        assert!(eventually(PATIENCE, || Client::try_connect(port).is_ok()), "no sentinel");
        Sentinel { port, child, folder }
    }

    /// A field of what it knows of the primary.
    fn knows(&self, field: &str) -> String {
        let reply = Client::connect(self.port).cmd(&["SENTINEL", "MASTER", NAME]);
        let words = reply.byte_items();
        let at = words.iter().position(|word| word == field.as_bytes());
        at.map_or(String::new(), |at| String::from_utf8_lossy(&words[at + 1]).into_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("sentinel.log")).unwrap_or_default()
    }

    fn primary(&self) -> u16 {
        self.knows("port").parse().unwrap_or(0)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Group {
    servers: Vec<Server>,
    sentinels: Vec<Sentinel>,
}

impl Group {
    fn start(servers: [Server; 3]) -> Group {
        let servers = Vec::from(servers);
        let port = servers[0].port();
        for replica in &servers[1..] {
            replica.client().ok(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
        }
        let sentinels = (0..3).map(|_| Sentinel::start(port)).collect();
        let group = Group { servers, sentinels };
        group.all_found();
        group
    }

    /// Waits until each sentinel knows the two others and both replicas, and nobody is down.
    fn all_found(&self) {
        let found = || {
            self.sentinels.iter().all(|s| {
                s.knows("num-slaves") == "2"
                    && s.knows("num-other-sentinels") == "2"
                    && s.knows("flags") == "master"
            })
        };
        assert!(eventually(PATIENCE, found), "the sentinels did not find everyone");
    }

    fn at(&self, port: u16) -> usize {
        self.servers.iter().position(|s| s.port() == port).expect("one of the three")
    }

    /// Waits until all sentinels name another primary than that on `old`, and returns which.
    fn another_than(&self, old: u16) -> usize {
        let agreed = || {
            let port = self.sentinels[0].primary();
            port != old && port != 0 && self.sentinels.iter().all(|s| s.primary() == port)
        };
        assert!(eventually(PATIENCE * 2, agreed), "no failover from {old}");
        let at = self.at(self.sentinels[0].primary());
        assert!(eventually(PATIENCE, || self.servers[at].info("role") == "master"));
        at
    }

    /// Waits until the two others follow `primary`, and compares all data.
    fn settles(&self, primary: usize) {
        let offset = |s: &Server| s.info("master_repl_offset");
        for (at, server) in self.servers.iter().enumerate().filter(|(at, _)| *at != primary) {
            let follows = || {
                server.info("role") == "slave"
                    && server.info("master_port") == self.servers[primary].port().to_string()
                    && server.info("master_link_status") == "up"
                    && offset(server) == offset(&self.servers[primary])
            };
            let said = || self.sentinels.iter().map(Sentinel::log).collect::<String>();
            assert!(eventually(PATIENCE * 2, follows), "server {at} does not follow: {}", said());
            assert_same_data(&mut self.servers[primary].client(), &mut server.client());
        }
    }

    /// Writes through the primary, and waits until both replicas have it.
    fn write(&self, primary: usize, value: &str) {
        let mut client = self.servers[primary].client();
        client.ok(&["SET", "last", value]);
        client.ok(&["RPUSH", "all", value]);
        assert_eq!(client.ok(&["WAIT", "2", "10000"]).int(), 2, "WAIT for {value}");
    }
}

fn survives(servers: [Server; 3]) {
    let mut group = Group::start(servers);
    let mut primary = 0;
    group.write(primary, "first");

    // Killed, and started again as if it still were the primary.
    let old = group.servers[primary].port();
    group.servers[primary].kill9();
    let killed = primary;
    primary = group.another_than(old);
    group.servers[primary].client().ok(&["RPUSH", "all", "while one is down"]);
    group.servers[killed].restart();
    group.settles(primary);
    group.all_found();
    group.write(primary, "second");

    // Frozen, and woken when another has taken over.
    let old = group.servers[primary].port();
    group.servers[primary].signal(libc::SIGSTOP);
    let frozen = primary;
    primary = group.another_than(old);
    group.servers[primary].client().ok(&["RPUSH", "all", "while one is frozen"]);
    group.servers[frozen].signal(libc::SIGCONT);
    group.settles(primary);
    group.all_found();
    group.write(primary, "third");

    // Told to step down.
    let old = group.servers[primary].port();
    let ask = || {
        let mut client = Client::connect(group.sentinels[0].port);
        !client.cmd(&["SENTINEL", "FAILOVER", NAME]).is_error()
    };
    assert!(eventually(PATIENCE * 2, ask), "SENTINEL FAILOVER is refused");
    primary = group.another_than(old);
    group.settles(primary);

    let all = group.servers[primary].client().ok(&["LRANGE", "all", "0", "-1"]).byte_items();
    let expected = ["first", "while one is down", "second", "while one is frozen", "third"];
    assert_eq!(all, expected.map(|word| word.as_bytes().to_vec()));
}

fn varve() -> Server {
    Server::varve().arg("--appendonly", "yes").start()
}

#[test]
fn sentinels_manage_three_varves() {
    survives([varve(), varve(), varve()]);
}

#[test]
fn sentinels_manage_varve_and_redis_together() {
    survives([Server::redis().start(), varve(), Server::redis().start()]);
}

/// The story: a primary is killed with writes that no replica has, comes back, and is told to follow its
/// successor, which dies before they have met. Its log ends farther than that of the replica which has what was
/// written since; Sentinel takes who says the highest offset.
#[test]
fn a_killed_primary_claims_no_offset_until_a_primary_goes_on_from_it() {
    let mut server = Server::varve().arg("--appendonly", "yes").start();
    let offset = |server: &Server| server.number("slave_repl_offset");
    let follow = |server: &Server, port: u16| {
        server.client().ok(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
    };
    server.client().ok(&["SET", "key", "of nobody else"]);
    follow(&server, 1);
    assert!(offset(&server) > 0, "it lives, as Redis it says what it has");
    server.client().ok(&["REPLICAOF", "NO", "ONE"]);
    server.kill9();
    server.restart();
    follow(&server, 1);
    assert_eq!(offset(&server), 0);
    let successor = Server::start();
    let mut client = successor.client();
    client.ok(&["SET", "key", "of the successor"]);
    follow(&server, successor.port());
    caught_up(&successor, &server);
    // What it was sent whole is not on its disk at once.
    assert_eq!(client.ok(&["WAITAOF", "0", "1", "0"]).items()[1], Value::Int(1));
    assert!(offset(&server) > 0);
    server.kill9();
    server.restart();
    follow(&server, 1);
    assert!(offset(&server) > 0, "a replica's log is its primary's");
}
