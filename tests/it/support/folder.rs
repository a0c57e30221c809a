//! A folder of a test's own.

use super::Random;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder that is gone when this is dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "varve-folder-{}-{count}-{:x}",
            std::process::id(),
            Random::from_entropy().next() as u32
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("make a folder");
        Folder(path)
    }

    /// One that is on a disk: the system's folder for such things may be in memory.
    pub fn on_disk() -> Folder {
        let folder = Folder::new();
        let name = folder.0.file_name().expect("it was just named");
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("make a folder");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The text of a log's manifest without the line that has its checksum.
pub fn manifest_to_change(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("read the manifest");
    let lines = text.lines().filter(|line| !line.starts_with("# varve crc32c "));
    lines.flat_map(|line| [line, "\n"]).collect()
}
