//! Who is the primary, and who follows whom: what sentinels and operators decide.

use crate::world::{NODES, World};
use std::cmp::Reverse;

impl World {
    pub fn is_reachable(&self, at: usize) -> bool {
        self.servers[at].up && !self.unreachable[at]
    }

    /// Tells nodes their roles that have others.
    pub fn watch(&mut self) {
        if !self.is_reachable(self.primary) && self.random.one_in(3) {
            self.fail_over();
        }
        for at in (0..NODES).filter(|&at| self.is_reachable(at)).collect::<Vec<_>>() {
            if at == self.primary {
                self.promote(at);
            } else if self.servers[at].parent != Some(self.parents[at]) {
                self.follow(at, self.parents[at]);
            }
            self.end_turn(at);
        }
    }

    /// Makes the replica the primary that is furthest in the primary's history. Enough must be
    /// reachable for one to be among them that `WAIT` counted.
    pub fn fail_over(&mut self) {
        let old = self.primary;
        let reachable: Vec<usize> =
            (0..NODES).filter(|&at| at != old && self.is_reachable(at)).collect();
        if reachable.len() + self.wait < NODES {
            return;
        }
        let history = self.servers[old].place().0;
        let of = |at: &usize| self.servers[*at].place();
        let loyal: Vec<usize> =
            reachable.iter().copied().filter(|at| of(at).0 == history).collect();
        let candidates = if loyal.is_empty() { &reachable } else { &loyal };
        let Some(&new) = candidates.iter().max_by_key(|at| (of(at).1, Reverse(**at))) else {
            return;
        };
        self.counts.failovers += 1;
        self.note(|w| format!("failover from {old} to {new}, {:?}", w.servers[new].place()));
        self.rules.failover(new, &loyal, &self.servers);
        self.primary = new;
        self.parents = [new; NODES];
        self.watch();
    }

    /// Another tree below the same primary.
    pub fn reorder(&mut self) {
        let mut order: Vec<usize> = (0..NODES).filter(|&at| at != self.primary).collect();
        for i in 0..order.len() {
            let other = i + self.random.index(order.len() - i);
            order.swap(i, other);
        }
        for (i, &at) in order.iter().enumerate() {
            let above = self.random.index(i + 1);
            self.parents[at] = if above == 0 { self.primary } else { order[above - 1] };
        }
        self.note(|w| format!("{} is the primary, and all follow {:?}", w.primary, w.parents));
        self.watch();
    }
}
