//! A disk whose power can be cut: a file system in an image file, mounted through a loop device: ext4,
//! or XFS with `VARVE_POWER_FS=xfs`, or any other inside an ext4, which is then to it a disk with a volatile cache.
//!
//! The kernel has a call for it, made for tests of file systems: from that instant nothing more
//! reaches the image, every write and sync fails, and what was in memory only is dropped at the
//! unmount. Mounting again replays the journal, as a boot does, and the boot's id is another one.

use super::{Folder, PATIENCE, Random, eventually};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Whence, lseek};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

/// `EXT4_GOING_FLAGS_NOLOGFLUSH` of the kernel's `fs/ext4/ext4.h`, and XFS's of that name: not even the
/// journal is flushed.
const NO_LOG_FLUSH: u32 = 2;

/// The file systems that have the call.
const CAN_SHUT_DOWN: [&str; 2] = ["ext4", "xfs"];

// `EXT4_IOC_SHUTDOWN`, and `XFS_IOC_GOINGDOWN`. It reads its argument, though its number says that it
// writes it.
nix::ioctl_read!(shut_down, b'X', 125, u32);

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Lets the calling thread, and what it starts, have mounts of its own.
pub fn private_mounts() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
}

/// The file system, mounted; unmounted and removed when dropped.
pub struct PowerDisk {
    folder: Folder,
    /// Each file system that the next one's image is in, by the folder of image and mount; the last is in use.
    layers: Vec<Layer>,
}

struct Layer {
    image: PathBuf,
    root: PathBuf,
    mounted: bool,
}

impl PowerDisk {
    /// An empty file system of up to 4 GiB. Panics where it can not be mounted.
    ///
    /// It is mounted in a mount namespace that the calling thread enters, and with it the threads
    /// and processes that it starts: nobody else sees the mount, and however they end, it ends
    /// with them.
    pub fn new() -> PowerDisk {
        private_mounts().unwrap_or_else(|error| {
            panic!(
                "can't mount a file system to cut the power of ({error}): this needs root and a \
                 loop device; VARVE_NO_MOUNT=1 leaves such tests out"
            )
        });
        let kind = std::env::var("VARVE_POWER_FS").unwrap_or("ext4".into());
        let mut disk = PowerDisk { folder: Folder::new(), layers: Vec::new() };
        if !CAN_SHUT_DOWN.contains(&&*kind) {
            disk.add_layer("ext4", 8 << 30);
        }
        disk.add_layer(&kind, 4 << 30);
        disk.boot();
        let this = disk.folder.path().join("boot_id");
        mount(Some(&this), BOOT_ID, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .expect("put a file in place of the boot's id");
        disk
    }

    /// The file system's root.
    pub fn path(&self) -> PathBuf {
        self.layers.last().expect("there is one").root.clone()
    }

    /// Whether another file system holds this one's image.
    pub fn is_nested(&self) -> bool {
        self.layers.len() > 1
    }

    /// Makes an empty file system inside the last one, and mounts it.
    fn add_layer(&mut self, kind: &str, bytes: u64) {
        let outside = self.layers.last().map_or(self.folder.path(), |layer| &layer.root);
        let mut layer =
            Layer { image: outside.join("image"), root: outside.join("mounted"), mounted: false };
        fs::create_dir(&layer.root).unwrap();
        File::create(&layer.image).unwrap().set_len(bytes).unwrap();
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&layer.image));
        layer.mount();
        // What it is inside of is on the disk before the first cut.
        File::open(outside).and_then(|folder| folder.sync_all()).unwrap();
        self.layers.push(layer);
    }

    /// Cuts the power: what the outermost image holds now is what it will hold.
    pub fn cut(&self) -> io::Result<()> {
        let root = File::open(&self.layers[0].root)?;
        let mut flags = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open and the argument is the u32 that the call reads.
        unsafe { shut_down(root.as_raw_fd(), &mut flags) }?;
        Ok(())
    }

    /// Mounts again, as the next boot does. Who used the file system must be gone or about to go.
    pub fn restore(&mut self) {
        for layer in self.layers.iter_mut().rev() {
            // A forked child outlives its killed parent for a moment.
            let gone = eventually(PATIENCE, || umount2(&layer.root, MntFlags::empty()).is_ok());
            assert!(gone, "the file system is still in use");
            layer.mounted = false;
        }
        self.layers.iter_mut().for_each(Layer::mount);
        self.boot();
    }

    /// How often `bytes` stand on the disk, in files or not.
    pub fn count(&self, bytes: &[u8]) -> usize {
        let image = File::open(&self.layers[0].image).unwrap();
        let (mut count, mut end) = (0, 0);
        // What was never written to is not there to be read.
        while let Ok(start) = lseek(&image, end, Whence::SeekData) {
            end = lseek(&image, start, Whence::SeekHole).unwrap();
            let mut data = vec![0; (end - start) as usize];
            image.read_exact_at(&mut data, start as u64).unwrap();
            count += data.windows(bytes.len()).filter(|window| *window == bytes).count();
        }
        count
    }

    /// Gives the boot another id.
    fn boot(&self) {
        let id = format!("{:032x}\n", u128::from(Random::from_entropy().next()));
        fs::write(self.folder.path().join("boot_id"), id).unwrap();
    }
}

impl Layer {
    fn mount(&mut self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.root));
        self.mounted = true;
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        let _ = umount2(BOOT_ID, MntFlags::MNT_DETACH);
        for layer in self.layers.iter().rev().filter(|layer| layer.mounted) {
            if umount2(&layer.root, MntFlags::empty()).is_err() {
                // Invisible at once, gone with its last user.
                let _ = umount2(&layer.root, MntFlags::MNT_DETACH);
            }
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {said}; this needs a loop device; VARVE_NO_MOUNT=1 leaves such tests out"
    );
}
