//! Whether to look for events once more before sleeping.
//!
//! Clients that are served wake a sleeping loop with their next request, and pay for it: at one request
//! a round trip, waking up cost 50 busy clients 3 to 5% of their throughput. A loop that looks again
//! for some microseconds finds that request instead. Where that does not pay, the loop stops doing so:
//! after [`MISSES`] vain looks in a row only one turn in as many tries again.

use std::time::Duration;

/// For how long the loop looks again.
pub const LOOK: Duration = Duration::from_micros(20);
/// How many times the processor is told to wait between two looks, about a microsecond: a look takes the locks that
/// a request needs on its way in.
const SPINS: u32 = 50;
/// After so many vain looks the loop sleeps at once.
const MISSES: u32 = 64;

/// Waits from one look to the next.
pub fn pause() {
    (0..SPINS).for_each(|_| std::hint::spin_loop());
}

/// What became of the last looks.
#[derive(Default)]
pub struct Linger {
    misses: u32,
}

impl Linger {
    /// Whether to look again this time.
    pub fn is_worth_it(&mut self) -> bool {
        if self.misses < MISSES {
            return true;
        }
        self.misses = self.misses.wrapping_add(1);
        self.misses.is_multiple_of(MISSES)
    }

    /// Notes whether a look found anything.
    pub fn looked(&mut self, found: bool) {
        self.misses = if found { 0 } else { self.misses.wrapping_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vain_looks_become_rare_and_a_good_one_brings_them_back() {
        let mut linger = Linger::default();
        let looks = |linger: &mut Linger| {
            let mut count = 0;
            for _ in 0..64 * 100 {
                if linger.is_worth_it() {
                    linger.looked(false);
                    count += 1;
                }
            }
            count
        };
        let first = looks(&mut linger);
        assert!((64..64 + 110).contains(&first), "{first}");
        let later = looks(&mut linger);
        assert!((50..=110).contains(&later), "{later}");
        linger.looked(true);
        assert!((0..64).all(|_| linger.is_worth_it()));
    }
}
