//! One daemon to a folder: two that append to the same log would destroy it.

use super::error::Error;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::path::Path;

/// The name of the lock file. It stays when the daemon ends; only the kernel's lock on it counts.
pub const LOCK_FILE: &str = "varve.lock";

/// A folder that this process has for itself, until this is dropped or the process ends.
pub struct DirLock(#[allow(dead_code, reason = "holding it is the point")] Flock<File>);

/// Locks `dir` against other daemons.
pub fn lock_dir(dir: &Path) -> Result<DirLock, Error> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(Error::io("open", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(DirLock(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(Error::Locked { path: dir.to_owned() }),
        Err((_, errno)) => Err(Error::io("lock", &path)(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_until_the_lock_is_dropped() {
        let dir = std::env::temp_dir().join(format!("varve-lock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let lock = lock_dir(&dir).unwrap();
        assert!(matches!(lock_dir(&dir), Err(Error::Locked { .. })));
        drop(lock);
        lock_dir(&dir).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
