//! The hash of keys, fields and members: one keyed function for the whole process.
//!
//! A seed that clients cannot know keeps them from choosing keys that all fall into one bucket. It
//! is drawn once, from the kernel or from the caller (a fixed seed makes a run repeatable), and
//! never changes while the process lives: tables, scan cursors and prefetched hashes rely on it.
//!
//! The function is foldhash in its quality variant: a few multiplications for a short key, and all
//! 64 bits usable, which [`Table`](crate::table::Table) needs since it takes the bucket from the low
//! bits and the tag from the high ones.

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use std::hash::Hasher;
use std::sync::OnceLock;

struct Seed {
    hasher: u64,
    shared: SharedSeed,
}

static SEED: OnceLock<Seed> = OnceLock::new();

/// The hash of `key` under this process's seed.
#[inline]
pub fn hash(key: &[u8]) -> u64 {
    let seed = match SEED.get() {
        Some(seed) => seed,
        None => first_use(),
    };
    let mut hasher = FoldHasher::with_seed(seed.hasher, &seed.shared);
    hasher.write(key);
    hasher.finish()
}

/// Sets the seed that [`hash`] uses. False, and nothing changes, if a seed was already set or drawn
/// by a first call of [`hash`].
pub fn seed_from(words: [u64; 2]) -> bool {
    SEED.set(Seed { hasher: words[0], shared: SharedSeed::from_u64(words[1]) }).is_ok()
}

#[cold]
fn first_use() -> &'static Seed {
    SEED.get_or_init(|| {
        let [hasher, shared] = random_words();
        Seed { hasher, shared: SharedSeed::from_u64(shared) }
    })
}

/// Two words from the kernel's generator; where it has none (a very old kernel, a sandbox), from
/// address-space layout.
fn random_words() -> [u64; 2] {
    let mut bytes = [0u8; 16];
    // SAFETY: the kernel writes at most `bytes.len()` bytes into `bytes`, which outlives the call.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == bytes.len() as isize {
        let (a, b) = bytes.split_at(8);
        return [a, b].map(|half| u64::from_ne_bytes(half.try_into().expect("half of 16 is 8")));
    }
    [foldhash_of(0), foldhash_of(1)]
}

fn foldhash_of(word: u64) -> u64 {
    use std::hash::BuildHasher;
    foldhash::quality::RandomState::default().hash_one(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_stays() {
        let before = hash(b"key");
        assert!(!seed_from([1, 2]), "a hash was taken, so the seed is set");
        assert_eq!(hash(b"key"), before);
        assert_ne!(hash(b"key"), hash(b"kez"));
        assert_ne!(hash(b""), hash(b"\0"));
    }

    #[test]
    fn random_words_differ() {
        assert_ne!(random_words(), random_words());
    }
}
