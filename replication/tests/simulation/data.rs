//! The data set of a simulated node: a few counters that the commands of the log move, two of them
//! only ever together, and beside them a hash of every byte that was ever applied.
//!
//! Where each command ended, with the hash up to there, goes along into snapshots: so any two nodes
//! can be asked up to where they are the same, and whether one holds what another acknowledged.

use std::collections::BTreeMap;
use varve_persistence::offset::Offset;
use varve_persistence::rdb;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    counters: BTreeMap<(u64, Vec<u8>), u64>,
    db: u64,
    in_multi: bool,
    pub offset: u64,
    pub hash: u64,
    /// Where commands ended that stood outside of transactions, and the hash there.
    marks: Vec<(u64, u64)>,
}

/// The words of the command that `bytes` begins with, and its length.
fn parse(bytes: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    let number = |at: usize| {
        let len = bytes.get(at..)?.iter().position(|&b| b == b'\r')?;
        let text = std::str::from_utf8(&bytes[at + 1..at + len]).ok()?;
        Some((text.parse::<usize>().ok()?, at + len + 2))
    };
    let (count, mut at) = number(0)?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let (len, start) = number(at)?;
        words.push(bytes.get(start..start + len)?);
        at = start + len + 2;
    }
    (at <= bytes.len()).then_some((words, at))
}

impl Data {
    /// Runs whole commands of the log.
    pub fn apply(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (words, len) = parse(bytes).expect("the log holds whole commands");
            self.run(&words);
            for &byte in &bytes[..len] {
                self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
            self.hash ^= self.hash >> 29;
            self.offset += len as u64;
            if !self.in_multi {
                self.marks.push((self.offset, self.hash));
            }
            bytes = &bytes[len..];
        }
    }

    fn run(&mut self, words: &[&[u8]]) {
        match words[0] {
            b"SELECT" => self.db = String::from_utf8_lossy(words[1]).parse().unwrap(),
            b"MULTI" => self.in_multi = true,
            b"EXEC" => self.in_multi = false,
            b"INCR" => *self.counters.entry((self.db, words[1].to_vec())).or_default() += 1,
            b"SET" => {
                let last = words[2].iter().fold(0, |sum, &b| sum * 31 % 1_000_003 + u64::from(b));
                self.counters.insert((self.db, words[1].to_vec()), last);
            }
            b"PING" | b"REPLCONF" => {}
            other => panic!("{} is not in the log", other.escape_ascii()),
        }
    }

    pub fn db(&self) -> u32 {
        self.db as u32
    }

    /// Whether transactions were applied whole only.
    pub fn is_whole(&self) -> bool {
        let of = |name: &[u8]| self.counters.get(&(0, name.to_vec()));
        !self.in_multi && of(b"left") == of(b"right")
    }

    /// A number for the data without the way that led to it.
    pub fn digest(&self) -> u64 {
        self.counters.iter().fold(self.db, |digest, ((db, key), value)| {
            let key = key.iter().fold(*db, |hash, &b| hash * 131 + u64::from(b));
            (digest ^ key).wrapping_mul(0x100_0000_01b3).wrapping_add(*value)
        })
    }

    /// Whether the bytes up to `offset` are those that have this hash.
    pub fn holds(&self, offset: u64, hash: u64) -> bool {
        let at = self.marks.partition_point(|&(mark, _)| mark < offset);
        self.marks.get(at) == Some(&(offset, hash))
    }

    /// A snapshot: behind an RDB file without keys, which is all that the log looks at in a base.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = rdb::empty();
        let mut put = |number: u64| bytes.extend(number.to_le_bytes());
        [self.db, self.offset, self.hash, self.marks.len() as u64].into_iter().for_each(&mut put);
        for &(offset, hash) in &self.marks {
            put(offset);
            put(hash);
        }
        for ((db, key), value) in &self.counters {
            put(*db);
            put(*value);
            put(key.len() as u64);
            key.iter().for_each(|&b| put(u64::from(b)));
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Data {
        let bytes = bytes.strip_prefix(&rdb::empty()[..]).expect("a snapshot has a beginning");
        if bytes.is_empty() {
            return Data::default(); // the base of a log that began with nothing
        }
        let mut numbers = bytes.chunks_exact(8).map(|n| u64::from_le_bytes(n.try_into().unwrap()));
        let mut next = || numbers.next();
        let mut must = || next().expect("a snapshot is whole");
        let (db, offset, hash, marks) = (must(), must(), must(), must());
        let marks = (0..marks).map(|_| (must(), must())).collect();
        let mut counters = BTreeMap::new();
        while let Some(db) = next() {
            let mut must = || next().expect("a snapshot is whole");
            let value = must();
            let key = (0..must()).map(|_| must() as u8).collect();
            counters.insert((db, key), value);
        }
        Data { counters, db, in_multi: false, offset, hash, marks }
    }

    pub fn marks_after(&self, offset: u64) -> &[(u64, u64)] {
        &self.marks[self.marks.partition_point(|&(mark, _)| mark <= offset)..]
    }

    pub fn end(&self) -> Offset {
        Offset(self.offset)
    }
}
