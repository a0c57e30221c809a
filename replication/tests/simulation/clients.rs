//! Clients: they write, and wait for replicas.

use crate::rules::Acked;
use crate::server::Wait;
use crate::world::{NODES, World};
use varve_persistence::offset::Offset;
use varve_replication::wire::GETACK;

impl World {
    pub fn write(&mut self) {
        let at = self.random.index(NODES);
        let server = &mut self.servers[at];
        if !server.up || server.parent.is_some() || server.log.is_failing() {
            return;
        }
        let from = server.log.end();
        let db = self.random.below(2) as u32;
        let key = format!("key{}", self.random.below(6)).into_bytes();
        match self.random.below(5) {
            0 => {
                server.log.append_in_db(0, b"*1\r\n$5\r\nMULTI\r\n");
                server.log.set_in_multi(true);
                server.log.append_command(0, &["INCR", "left"]);
                server.log.append_command(1, &["INCR", "between"]);
                server.log.append_command(0, &["INCR", "right"]);
                server.log.append(b"*1\r\n$4\r\nEXEC\r\n");
                server.log.set_in_multi(false);
            }
            1 | 2 => {
                let value = vec![b'a' + db as u8; self.random.below(self.value_bytes) as usize];
                server.log.append_command(db, &[b"SET".to_vec(), key, value]);
            }
            _ => {
                server.log.append_command(db, &[b"INCR".to_vec(), key]);
            }
        }
        self.counts.written += 1;
        server.absorb(from);
        if self.random.one_in(3) {
            let (offset, hash) = (server.data.offset, server.data.hash);
            let until_ms = self.now_ms + 1500;
            server.waits.push(Wait { offset, hash, until_ms });
            let from = server.log.end();
            server.log.append(GETACK);
            server.absorb(from);
        }
        self.end_turn(at);
    }

    /// Answers clients whose replicas have acknowledged.
    pub fn serve_waits(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let server = &mut self.servers[at];
        server.waits.retain(|wait| wait.until_ms > now_ms);
        let released = server.log.released().0;
        let (primary, needed) = (&server.primary, self.wait);
        let done = |wait: &mut Wait| {
            wait.offset <= released && primary.acked(Offset(wait.offset)) >= needed
        };
        let done: Vec<_> = server.waits.extract_if(.., done).collect();
        if at != self.primary {
            return; // nobody but its own clients hold it for the primary
        }
        for wait in done {
            let counted = server
                .primary
                .listed(now_ms)
                .filter(|listed| listed.online && listed.offset.0 >= wait.offset)
                .filter_map(|listed| Some(self.net.conns.get(&listed.conn)?.replica))
                .collect();
            self.counts.acked += 1;
            self.rules.acked.push(Acked { offset: wait.offset, hash: wait.hash, counted });
        }
    }
}
