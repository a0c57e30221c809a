//! A disk for tests: it remembers every operation, so that the state after any of them can be
//! rebuilt, as another process would see it ("live") or as a power cut leaves it ("durable").
//!
//! A power cut keeps what was synced. Of the rest it keeps any beginning of the writes to each
//! file, perhaps some of the direct ones after that, perhaps with zeros up to the size the file had, and any
//! beginning of the renames. Each page of a mapped file is as it was at a time of its own.

use super::block::PAGE;
use super::disk::{Contents, Disk, DiskFile, SharedMemory};
use super::replay::HOLE;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

type Inode = u64;

#[derive(Clone, Debug)]
enum Op {
    Create(PathBuf, Inode),
    Write(Inode, u64, Vec<u8>),
    /// As a write, and past all caches: a power cut may leave it, and not what came before.
    WriteDirect(Inode, u64, Vec<u8>),
    /// Into memory that is a file's.
    WriteMapped(Inode, u64, Vec<u8>),
    SetLen(Inode, u64),
    Sync(Inode),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDir,
}

#[derive(Clone, Default)]
struct View {
    files: BTreeMap<Inode, Vec<u8>>,
    names: BTreeMap<PathBuf, Inode>,
}

impl View {
    fn write(&mut self, inode: Inode, position: usize, data: &[u8]) {
        let file = self.files.entry(inode).or_default();
        let end = position + data.len();
        file.resize(file.len().max(end), 0);
        file[position..end].copy_from_slice(data);
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(path, inode) => {
                self.files.entry(*inode).or_default();
                self.names.insert(path.clone(), *inode);
            }
            Op::Write(inode, position, data)
            | Op::WriteDirect(inode, position, data)
            | Op::WriteMapped(inode, position, data) => {
                self.write(*inode, *position as usize, data);
            }
            Op::SetLen(inode, len) => {
                self.files.entry(*inode).or_default().resize(*len as usize, 0);
            }
            Op::Rename(from, to) => {
                let inode = self.names.remove(from).expect("renamed a file that exists");
                self.names.insert(to.clone(), inode);
            }
            Op::Link(from, to) => {
                self.names.insert(to.clone(), self.names[from]);
            }
            Op::Remove(path) => {
                self.names.remove(path);
            }
            Op::Sync(_) | Op::SyncDir => {}
        }
    }
}

struct State {
    origin: View,
    ops: Vec<Op>,
    live: View,
    next_inode: Inode,
    random: u64,
    boot: u64,
    short_writes: bool,
    holes: bool,
    /// Bytes that may still be written before the disk is full.
    space: Option<u64>,
    /// So many of the next syncs fail.
    syncs_fail: u64,
    /// One operation in so many fails, and changes nothing; 0 for none.
    errors: u64,
    /// How much of files the system was last asked to forget.
    forgotten: BTreeMap<Inode, u64>,
}

impl State {
    fn below(&mut self, n: u64) -> u64 {
        below(&mut self.random, n)
    }

    fn try_sync(&mut self, op: Op) -> io::Result<()> {
        if self.syncs_fail > 0 {
            self.syncs_fail -= 1;
            return Err(io::Error::other("the disk is broken"));
        }
        self.try_act(op)
    }

    /// As [`State::act`], if the disk does it.
    fn try_act(&mut self, op: Op) -> io::Result<()> {
        if self.errors > 0 && self.below(self.errors) == 0 {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.act(op);
        Ok(())
    }

    fn act(&mut self, op: Op) {
        if let (Op::Remove(path), Some(space)) = (&op, &mut self.space) {
            // The last name takes the bytes with it.
            let inode = self.live.names[path];
            if self.live.names.values().filter(|other| **other == inode).count() == 1 {
                *space += self.live.files[&inode].len() as u64;
            }
        }
        self.live.apply(&op);
        self.ops.push(op);
    }
}

/// A random number below `n` (xorshift64*).
pub fn below(random: &mut u64, n: u64) -> u64 {
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
}

/// The disk.
pub struct FakeDisk {
    state: Mutex<State>,
    me: Weak<FakeDisk>,
}

struct FakeFile {
    disk: Arc<FakeDisk>,
    inode: Inode,
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl FakeDisk {
    /// An empty disk whose accidents follow from `seed`.
    pub fn new(seed: u64) -> Arc<FakeDisk> {
        FakeDisk::with(View::default(), seed, 1)
    }

    fn with(origin: View, seed: u64, boot: u64) -> Arc<FakeDisk> {
        let next_inode = origin.files.keys().max().map_or(1, |inode| inode + 1);
        let state = State {
            live: origin.clone(),
            origin,
            ops: Vec::new(),
            next_inode,
            random: seed | 1,
            boot,
            short_writes: false,
            holes: false,
            space: None,
            syncs_fail: 0,
            errors: 0,
            forgotten: BTreeMap::new(),
        };
        Arc::new_cyclic(|me| FakeDisk { state: Mutex::new(state), me: me.clone() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set_short_writes(&self, on: bool) {
        self.state().short_writes = on;
    }

    pub fn set_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// How much of files the system was last asked to forget.
    pub fn forgotten(&self) -> Vec<u64> {
        self.state().forgotten.values().copied().collect()
    }

    pub fn set_syncs_fail(&self, on: bool) {
        self.state().syncs_fail = if on { u64::MAX } else { 0 };
    }

    pub fn set_next_sync_fails(&self) {
        self.state().syncs_fail = 1;
    }

    pub fn set_errors(&self, one_in: u64) {
        self.state().errors = one_in;
    }

    /// How many operations there were so far.
    pub fn ops(&self) -> usize {
        self.state().ops.len()
    }

    /// The disk after its first `ops` operations, if the process was killed then.
    pub fn after_kill(&self, ops: usize) -> Arc<FakeDisk> {
        let state = self.state();
        let mut view = state.origin.clone();
        state.ops[..ops].iter().for_each(|op| view.apply(op));
        FakeDisk::with(view, 1, state.boot)
    }

    /// As [`FakeDisk::after_kill`], in another boot: before that the machine was stopped in good order.
    pub fn after_restart(&self, ops: usize) -> Arc<FakeDisk> {
        let disk = self.after_kill(ops);
        disk.state().boot += 1;
        disk
    }

    /// The disk after its first `ops` operations, if power failed then.
    pub fn after_power_cut(&self, ops: usize, seed: u64) -> Arc<FakeDisk> {
        let dice = FakeDisk::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut dice = dice.state();
        let state = self.state();
        let ops = &state.ops[..ops];
        let mut live = state.origin.clone();
        ops.iter().for_each(|op| live.apply(op));

        let mut durable = state.origin.clone();
        // Names: everything before the last sync of the folder, and a beginning of what followed.
        let synced = ops.iter().rposition(|op| matches!(op, Op::SyncDir)).unwrap_or(0);
        let is_name =
            |op: &&Op| matches!(op, Op::Create(..) | Op::Rename(..) | Op::Link(..) | Op::Remove(_));
        let later = ops[synced..].iter().filter(is_name).count();
        let kept = dice.below(later as u64 + 1) as usize;
        ops[..synced].iter().filter(is_name).for_each(|op| durable.apply(op));
        ops[synced..].iter().filter(is_name).take(kept).for_each(|op| durable.apply(op));
        // Contents, file by file.
        for (&inode, live) in &live.files {
            let of_file = |op: &&Op| match op {
                Op::Write(i, ..) | Op::WriteDirect(i, ..) | Op::SetLen(i, _) => *i == inode,
                _ => false,
            };
            let is_sync = |op: &Op| matches!(op, Op::Sync(i) if *i == inode);
            let synced = ops.iter().rposition(is_sync).unwrap_or(0);
            ops[..synced].iter().filter(of_file).for_each(|op| durable.apply(op));
            let later: Vec<&Op> = ops[synced..].iter().filter(of_file).collect();
            let kept = dice.below(later.len() as u64 + 1) as usize;
            let before = durable.files.get(&inode).cloned().unwrap_or_default();
            for op in &later[..kept] {
                durable.apply(op);
            }
            if let Some(Op::Write(_, position, data)) = later.get(kept) {
                let part = dice.below(data.len() as u64 + 1) as usize;
                durable.apply(&Op::Write(inode, *position, data[..part].to_vec()));
            }
            // What went past the caches after that may be there all the same.
            let also = dice.below((later.len() - kept) as u64 + 1) as usize;
            let direct = |op: &&&Op| matches!(op, Op::WriteDirect(..));
            later[kept..kept + also].iter().filter(direct).for_each(|op| durable.apply(op));
            // A page that was written again, or newly, may be missing where later ones are there.
            if let Some(file) =
                durable.files.get_mut(&inode).filter(|_| state.holes && dice.below(2) == 0)
            {
                let pages = (before.len() / PAGE..file.len().div_ceil(PAGE)).collect::<Vec<_>>();
                if let Some(nth) = dice.below(pages.len() as u64 + 1).checked_sub(1) {
                    let lost = pages[nth as usize] * PAGE;
                    let end = (lost + PAGE).min(file.len());
                    let had = before.len().clamp(lost, end);
                    if let Some(old) = before.get(lost..had) {
                        file[lost..had].copy_from_slice(old);
                    }
                    // What is smaller is not taken for a hole.
                    if end - had >= HOLE {
                        file[had..end].fill(0);
                    }
                }
            }
            let file = durable.files.entry(inode).or_default();
            if dice.below(4) == 0 && file.len() < live.len() {
                file.resize(live.len(), 0);
            }
        }
        // From hardly any new page to hardly any old one.
        let mix = dice.below(6);
        for ((inode, _), Writes { all, synced }) in writes_by_page(ops) {
            let is_old = dice.below(1 << mix) == 0 || dice.below(40) == 0;
            let unsynced = (all.len() - synced) as u64;
            let kept = if is_old { synced + dice.below(unsynced + 1) as usize } else { all.len() };
            all[..kept].iter().for_each(|(at, data)| durable.write(inode, *at, data));
        }
        FakeDisk::with(durable, seed, state.boot + 1)
    }

    /// The file's bytes as they are now.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.live.files[state.live.names.get(path)?].clone())
    }

    /// Whether a power cut may take pages that were not synced, and leave later ones.
    pub fn set_holes(&self, on: bool) {
        self.state().holes = on;
    }

    /// Makes a file with these bytes, durably.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.next_inode;
        state.next_inode += 1;
        state.act(Op::Create(path.to_owned(), inode));
        state.act(Op::Write(inode, 0, bytes.to_vec()));
        state.act(Op::Sync(inode));
        state.act(Op::SyncDir);
    }

    fn file(&self, inode: Inode) -> Arc<dyn DiskFile> {
        Arc::new(FakeFile { disk: self.me.upgrade().expect("the disk is in use"), inode })
    }
}

/// What was written to a page, in order, each time from a position in the file on.
#[derive(Default)]
struct Writes<'a> {
    all: Vec<(usize, &'a [u8])>,
    /// How many of them a sync has made durable.
    synced: usize,
}

/// The writes to mapped files, by page.
fn writes_by_page(ops: &[Op]) -> BTreeMap<(Inode, usize), Writes<'_>> {
    let mut pages: BTreeMap<(Inode, usize), Writes<'_>> = BTreeMap::new();
    for op in ops {
        if let Op::Sync(inode) = op {
            let synced = pages.range_mut((*inode, 0)..=(*inode, usize::MAX));
            synced.for_each(|(_, writes)| writes.synced = writes.all.len());
        }
        let Op::WriteMapped(inode, position, data) = op else { continue };
        let (mut at, mut rest) = (*position as usize, &data[..]);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PAGE - at % PAGE));
            pages.entry((*inode, at / PAGE)).or_default().all.push((at, now));
            (at, rest) = (at + now.len(), later);
        }
    }
    pages
}

/// A file's bytes, as words so that they can be used as atomics.
struct FakeMemory {
    file: FakeFile,
    words: NonNull<[u64]>,
}

// SAFETY: the words are the memory's own; who writes what is the user's matter.
unsafe impl Send for FakeMemory {}
// SAFETY: as above.
unsafe impl Sync for FakeMemory {}

impl SharedMemory for FakeMemory {
    fn address(&self) -> NonNull<u8> {
        self.words.cast()
    }

    fn note_changed(&self, range: Range<usize>) {
        // SAFETY: inside the memory; who has just written these bytes calls this.
        let bytes = unsafe {
            std::slice::from_raw_parts(self.address().add(range.start).as_ptr(), range.len())
        };
        let op = Op::WriteMapped(self.file.inode, range.start as u64, bytes.to_vec());
        self.file.disk.state().act(op);
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

impl Drop for FakeMemory {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and nobody has it any more.
        drop(unsafe { Box::from_raw(self.words.as_ptr()) });
    }
}

impl FakeFile {
    fn write(
        &self,
        bufs: &[IoSlice<'_>],
        position: u64,
        op: fn(Inode, u64, Vec<u8>) -> Op,
    ) -> io::Result<usize> {
        let mut state = self.disk.state();
        let mut data: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        if state.short_writes && data.len() > 1 {
            let len = state.below(data.len() as u64) as usize + 1;
            data.truncate(len);
        }
        // What is there already takes no room.
        let size = state.live.files[&self.inode].len() as u64;
        let again = size.saturating_sub(position).min(data.len() as u64);
        if let Some(space) = &mut state.space {
            if *space + again == 0 && !data.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            data.truncate((again + *space) as usize);
            *space -= data.len() as u64 - again;
        }
        let len = data.len();
        state.try_act(op(self.inode, position, data))?;
        Ok(len)
    }
}

impl DiskFile for FakeFile {
    fn write_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.write(bufs, position, Op::Write)
    }

    fn write_direct(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<Option<usize>> {
        let n = self.write(bufs, position, Op::WriteDirect)?;
        Ok(Some(n))
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let file = &state.live.files[&self.inode];
        let rest = file.get(position as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.try_sync(Op::Sync(self.inode))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.state().try_act(Op::SetLen(self.inode, bytes))
    }

    fn reserve(&self, _position: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn forget(&self, bytes: u64) {
        self.disk.state().forgotten.insert(self.inode, bytes);
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().live.files[&self.inode].len() as u64)
    }
}

impl Disk for FakeDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        if state.space == Some(0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let existing = state.live.names.get(path).copied();
        let inode = existing.unwrap_or(state.next_inode);
        match existing {
            Some(inode) => state.try_act(Op::SetLen(inode, 0))?,
            None => {
                state.next_inode += 1;
                state.try_act(Op::Create(path.to_owned(), inode))?;
            }
        }
        drop(state);
        Ok(self.file(inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.state().live.names.get(path).copied();
        inode.map(|inode| self.file(inode)).ok_or_else(not_found)
    }

    fn share(&self, path: &Path, bytes: usize) -> io::Result<Arc<dyn SharedMemory>> {
        let existing = self.state().live.names.get(path).copied();
        let inode = match existing {
            Some(inode) => inode,
            None => {
                let mut state = self.state();
                let inode = state.next_inode;
                state.next_inode += 1;
                state.act(Op::Create(path.to_owned(), inode));
                inode
            }
        };
        let mut state = self.state();
        state.act(Op::SetLen(inode, bytes as u64));
        let mut words = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        for (word, bytes) in words.iter_mut().zip(state.live.files[&inode].chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        }
        drop(state);
        let words = NonNull::new(Box::into_raw(words)).expect("a box");
        let disk = self.me.upgrade().expect("the disk is in use");
        Ok(Arc::new(FakeMemory { file: FakeFile { disk, inode }, words }))
    }

    fn map(&self, path: &Path) -> io::Result<Contents> {
        self.contents(path).map(Contents::Owned).ok_or_else(not_found)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.live.names.contains_key(from) {
            return Err(not_found());
        }
        state.try_act(Op::Rename(from.to_owned(), to.to_owned()))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.live.names.contains_key(from) {
            return Err(not_found());
        }
        state.try_act(Op::Link(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.live.names.contains_key(path) {
            return Err(not_found());
        }
        state.try_act(Op::Remove(path.to_owned()))
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.try_sync(Op::SyncDir)
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state();
        Ok(state.live.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.state().space.unwrap_or(u64::MAX))
    }

    fn dir_identity(&self, _dir: &Path) -> io::Result<u64> {
        Ok(1)
    }

    fn file_identity(&self, path: &Path) -> io::Result<u64> {
        let inode = self.state().live.names.get(path).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn boot_id(&self) -> String {
        self.state().boot.to_string()
    }
}
