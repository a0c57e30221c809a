//! Which histories a node's data belongs to, through every change of role.
//!
//! ```text
//!                    follow: the histories stay, PSYNC asks with them
//!          ┌────────────────────────────────────────────────────────┐
//!          │                                                        ▼
//!       Primary                                                  Replica ──┐ +CONTINUE [id]
//!          ▲                                                        │ ▲ ◀──┘ +FULLRESYNC id
//!          └────────────────────────────────────────────────────────┘
//!             promote: a new id; the old one holds up to our offset
//! ```
//!
//! The rule behind all of it: an id names *one* sequence of bytes. A node that is about to append
//! bytes of its own takes a new id first, unless it alone appended under the old one so far and lost
//! nothing of it. A node that receives bytes takes the id of the one who appends them.
//!
//! Whoever follows this node must learn a new id. There is no message for that in the protocol: the
//! connection is closed, the follower comes back, and its `PSYNC` with the old id is answered with
//! `+CONTINUE <new id>`. The functions here return whether that is due.

use varve_persistence::offset::{Histories, HistoryId, Offset};

use crate::replica::Place;

/// What a node is to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica { host: String, port: u16 },
}

/// Whether this node's own replicas must be disconnected, so that they come back and ask anew.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followers {
    Keep,
    Drop,
}

/// A node's role and the names of its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    role: Role,
    histories: Histories,
}

impl Node {
    /// A primary with the histories of an earlier run, or new ones.
    pub fn new(histories: Histories) -> Node {
        Node { role: Role::Primary, histories }
    }

    /// A primary that recovered `end` bytes from its own files. If nothing that was ever sent to
    /// others can be missing, and the name is one that it took itself and never went back in
    /// (`complete`), it goes on in its history. Otherwise somebody may hold other bytes of it than it
    /// is going to append, a replica those that are lost here, or the primary that it followed before
    /// its own: it goes on in a new history, made of `random`, which is the old one up to `end`.
    pub fn recovered(
        mut histories: Histories,
        end: Offset,
        complete: bool,
        random: [u8; 20],
    ) -> Node {
        if !complete {
            histories.shift(HistoryId::from_random(random), end);
        }
        Node::new(histories)
    }

    pub fn role(&self) -> &Role {
        &self.role
    }

    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }

    pub fn histories(&self) -> Histories {
        self.histories
    }

    /// What `PSYNC` asks with when the log ends at `end`. A primary that becomes a replica uses it
    /// too: if the new primary was its replica before, that one's second history continues it.
    ///
    /// A name of which we hold nothing that the one before it has not, is perhaps known to nobody: the
    /// one before says as much, and more nodes know it.
    pub fn place(&self, end: Offset) -> Place {
        match self.histories.second() {
            Some((second, upto)) if upto >= end => (second, end),
            _ => (self.histories.current, end),
        }
    }

    /// `REPLICAOF NO ONE` with the log at `end`: a new history, made of `random`. The first write
    /// after it must select its database again, as this node never did so itself.
    pub fn promote(&mut self, end: Offset, random: [u8; 20]) -> Followers {
        if self.is_primary() {
            return Followers::Keep;
        }
        self.role = Role::Primary;
        self.begin_history(end, random)
    }

    /// A new history goes on from `end`, made of `random`: the present one is its beginning, and may have
    /// another end elsewhere.
    pub fn begin_history(&mut self, end: Offset, random: [u8; 20]) -> Followers {
        self.histories.shift(HistoryId::from_random(random), end);
        Followers::Drop
    }

    /// `REPLICAOF host port`. The data and its names stay what they are until the new primary says
    /// otherwise, and so do the followers.
    pub fn follow(&mut self, host: &str, port: u16) -> Followers {
        self.role = Role::Replica { host: host.into(), port };
        Followers::Keep
    }

    /// `+CONTINUE` came with the log at `end`: it goes on under the name `history`. Our log is a
    /// beginning of the primary's, so the names that it had before, `former`, are ours too, also for
    /// what we do not hold yet.
    pub fn continued(
        &mut self,
        history: HistoryId,
        former: Vec<(HistoryId, Offset)>,
        end: Offset,
    ) -> Followers {
        let renamed = history != self.histories.current;
        if renamed {
            // Two histories have in common what they both have in common with a third.
            let common = former.iter().filter_map(|&(id, upto)| match id {
                _ if id == self.histories.current => Some(upto),
                _ => self.histories.shared(id).map(|own| upto.min(own)),
            });
            self.histories.shift(history, common.fold(end, Offset::max));
        }
        self.histories.learn(former);
        if renamed { Followers::Drop } else { Followers::Keep }
    }

    /// The data set was replaced by a primary's, whose history is `id` and had the names `former` before.
    /// Nothing of what the followers hold can be relied on any more.
    pub fn adopted(&mut self, id: HistoryId, former: Vec<(HistoryId, Offset)>) -> Followers {
        self.histories = Histories::with_former(id, former);
        Followers::Drop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> HistoryId {
        HistoryId::from_random([byte; 20])
    }

    #[test]
    fn a_promotion_keeps_the_old_name_for_what_was_shared() {
        let mut node = Node::new(Histories::new(id(1)));
        assert_eq!(node.follow("a", 1), Followers::Keep);
        assert_eq!(node.place(Offset(0)), (id(1), Offset(0)));
        assert_eq!(node.adopted(id(2), vec![]), Followers::Drop);
        assert_eq!(node.promote(Offset(100), [3; 20]), Followers::Drop);
        assert!(node.is_primary());
        let expected = Histories::with_former(id(3), [(id(2), Offset(100))]);
        assert_eq!(node.histories(), expected);
        // A second REPLICAOF NO ONE changes nothing.
        assert_eq!(node.promote(Offset(120), [4; 20]), Followers::Keep);
        assert_eq!(node.histories(), expected);
    }

    #[test]
    fn a_former_primary_continues_under_the_new_name() {
        let mut node = Node::new(Histories::new(id(1)));
        assert_eq!(node.follow("b", 2), Followers::Keep);
        assert_eq!(node.place(Offset(50)), (id(1), Offset(50)));
        assert_eq!(node.continued(id(9), vec![], Offset(50)), Followers::Drop);
        assert_eq!(node.histories(), Histories::with_former(id(9), [(id(1), Offset(50))]));
        assert_eq!(node.continued(id(9), vec![], Offset(60)), Followers::Keep);
        assert_eq!(node.continued(id(9), vec![], Offset(60)), Followers::Keep);
        assert_eq!(node.histories().second(), Some((id(1), Offset(50))));
    }

    #[test]
    fn a_node_that_lags_learns_how_far_the_names_hold() {
        let mut node = Node::new(Histories::new(id(1)));
        let _ = node.continued(id(3), vec![(id(2), Offset(95)), (id(1), Offset(90))], Offset(50));
        assert_eq!(node.histories().shared(id(1)), Some(Offset(90)));
        assert_eq!(node.histories().shared(id(2)), Some(Offset(95)));
        // It holds nothing yet that only the new name has.
        assert_eq!(node.place(Offset(70)), (id(2), Offset(70)));
        assert_eq!(node.place(Offset(96)), (id(3), Offset(96)));
        // A primary that tells nothing leaves us with what we know ourselves.
        let _ = node.continued(id(4), vec![], Offset(92));
        assert_eq!(node.histories().shared(id(3)), Some(Offset(92)));
        assert_eq!(node.histories().shared(id(2)), Some(Offset(92)));
        assert_eq!(node.histories().shared(id(1)), Some(Offset(90)));
        // Ours and the primary's share what both share with a third.
        let mut other = Node::new(Histories::with_former(id(7), [(id(1), Offset(80))]));
        let _ = other.continued(id(8), vec![(id(1), Offset(60))], Offset(10));
        assert_eq!(other.histories().shared(id(7)), Some(Offset(60)));
        assert_eq!(other.histories().shared(id(1)), Some(Offset(60)));
        // What is appended here is shared with nobody.
        node.role = Role::Replica { host: "a".into(), port: 1 };
        let _ = node.promote(Offset(75), [5; 20]);
        assert!(node.histories().former().all(|(_, upto)| upto == Offset(75)));
    }

    #[test]
    fn a_restart_that_may_have_lost_bytes_takes_a_new_name() {
        let kept = Node::recovered(Histories::new(id(1)), Offset(70), true, [2; 20]);
        assert_eq!(kept.histories(), Histories::new(id(1)));
        let lossy = Node::recovered(Histories::new(id(1)), Offset(70), false, [2; 20]);
        assert_eq!(lossy.histories().current, id(2));
        assert!(lossy.histories().continues(id(1), Offset(70)));
        assert!(!lossy.histories().continues(id(1), Offset(71)));
    }
}
