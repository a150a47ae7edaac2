//! How to wait for a device that takes a few microseconds.
//!
//! A page takes an IAA a few microseconds, so a look a moment later is often
//! the quickest way to know. When nothing comes, somebody else should have the
//! CPU: first whoever is ready to run, then nobody. The interval between looks
//! grows with the time already spent, which bounds both the wait that is added
//! and the CPU time that is wasted to a fraction of the device's own time.

use std::{hint, thread, time::Duration};

/// Most rounds of spinning between looks.
const SPINS: u32 = 24;
/// Pauses in one round of spinning, less than a microsecond.
const PAUSES: u32 = 16;
/// Rounds of giving the CPU away after that.
const YIELDS: u32 = 8;
/// First interval of sleep; the kernel's timer slack adds some 50 µs.
const FIRST_SLEEP: Duration = Duration::from_micros(10);
/// Longest interval of sleep.
const LONGEST_SLEEP: Duration = Duration::from_micros(500);

/// Waits longer each time it is asked to, until something happened.
///
/// Learns whether spinning pays: every wait that ends in sleep halves the
/// spinning of the next, every one that does not doubles it.
#[derive(Debug)]
pub struct Pace {
    round: u32,
    spins: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { round: 0, spins: SPINS }
    }
}

impl Pace {
    /// A wait is over: the next begins with short intervals again.
    pub fn reset(&mut self) {
        let slept = self.round > self.spins + YIELDS;
        self.spins = if slept { self.spins / 2 } else { self.spins * 2 }.clamp(1, SPINS);
        self.round = 0;
    }

    /// Waits for the next look.
    pub fn pause(&mut self) {
        let round = self.round;
        self.round += 1;
        if round < self.spins {
            for _ in 0..PAUSES {
                hint::spin_loop();
            }
        } else if round < self.spins + YIELDS {
            thread::yield_now();
        } else {
            thread::sleep(sleep_after(round - self.spins - YIELDS));
        }
    }
}

/// The interval of the `n`th sleep in a row: half as long again as the last.
fn sleep_after(n: u32) -> Duration {
    let grown = FIRST_SLEEP.as_nanos() as f64 * 1.5f64.powi(n.min(30) as i32);
    Duration::from_nanos(grown as u64).min(LONGEST_SLEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_is_given_up_where_it_does_not_pay() {
        let mut pace = Pace::default();
        for expected in [12, 6, 3, 1, 1] {
            for _ in 0..=pace.spins + YIELDS {
                pace.pause();
            }
            pace.reset();
            assert_eq!(pace.spins, expected);
        }
        pace.pause();
        pace.reset();
        assert_eq!(pace.spins, 2);
    }

    #[test]
    fn intervals_grow_and_stay_bounded() {
        assert_eq!(sleep_after(0), FIRST_SLEEP);
        for n in 0..100 {
            assert!(sleep_after(n) <= sleep_after(n + 1));
        }
        assert_eq!(sleep_after(u32::MAX), LONGEST_SLEEP);
    }
}
