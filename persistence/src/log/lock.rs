//! One daemon to a folder: two that append to the same log would destroy it.

use super::error::Error;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

/// The name of the lock file. It stays when the daemon ends; only the kernel's lock on it counts.
pub const LOCK_FILE: &str = "varve.lock";

/// A folder that this process has for itself, until this is dropped or the process ends.
pub struct DirLock(#[allow(dead_code, reason = "holding it is the point")] Flock<File>);

/// How often a lock that is held is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// Locks `dir` against other daemons. One that was killed holds its lock until the kernel has taken its
/// memory back: `patience` is how long that is waited for.
pub fn lock_dir(dir: &Path, patience: Duration) -> Result<DirLock, Error> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let mut file = file.map_err(Error::io("open", &path))?;
    let deadline = Instant::now() + patience;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(DirLock(lock)),
            Err((held, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                file = held;
                std::thread::sleep(RETRY);
            }
            Err((_, Errno::EWOULDBLOCK)) => return Err(Error::Locked { path: dir.to_owned() }),
            Err((_, errno)) => return Err(Error::io("lock", &path)(errno.into())),
        }
    }
}

/// Whether a daemon has `dir`. Looking takes the lock for a moment if nobody has it.
pub fn is_locked(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join(LOCK_FILE)) else { return false };
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_until_the_lock_is_dropped() {
        let dir = std::env::temp_dir().join(format!("varve-lock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let now = Duration::ZERO;
        assert!(!is_locked(&dir));
        let lock = lock_dir(&dir, now).unwrap();
        assert!(is_locked(&dir));
        assert!(matches!(lock_dir(&dir, now), Err(Error::Locked { .. })));
        let ends = std::thread::spawn(move || {
            std::thread::sleep(3 * RETRY);
            drop(lock);
        });
        lock_dir(&dir, Duration::from_secs(60)).unwrap();
        ends.join().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
