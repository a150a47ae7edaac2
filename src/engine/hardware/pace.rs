//! How to wait for a device that takes a few microseconds.
//!
//! A page takes an IAA a few microseconds, so a look a moment later is often
//! the quickest way to know. When nothing comes, somebody else should have the
//! CPU: first whoever is ready to run, then nobody. The interval between looks
//! grows with the time already spent, which bounds both the wait that is added
//! and the CPU time that is wasted to a fraction of the device's own time.

use std::{hint, thread, time::Duration};

/// Most rounds of a wait without sleep. The first three quarters spin, the rest
/// gives the CPU away.
const EAGER: u32 = 32;
/// So many waits after eagerness was last tried in full, it is tried again.
const TRY_AGAIN: u32 = 64;
/// Pauses in one round of spinning, less than a microsecond.
const PAUSES: u32 = 16;
/// First interval of sleep; the kernel's timer slack adds some 50 µs.
const FIRST_SLEEP: Duration = Duration::from_micros(10);
/// Longest interval of sleep.
const LONGEST_SLEEP: Duration = Duration::from_micros(500);
/// Number of the sleep that is as long as [`LONGEST_SLEEP`].
const LONGEST: u32 = 10;

/// Waits longer each time it is asked to, until something happened.
///
/// Learns from each wait. One that ends in sleep halves the rounds without sleep
/// of the next, every other one doubles them. And where sleep brings few of many
/// jobs, the next begins with a longer interval: with many jobs in flight sleep
/// costs no time, as the device has work meanwhile, while every look at all of
/// them costs a microsecond or more of CPU time.
#[derive(Debug)]
pub struct Pace {
    round: u32,
    eager: u32,
    sleep: u32,
    waits: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { round: 0, eager: EAGER, sleep: 0, waits: 0 }
    }
}

impl Pace {
    /// A wait is over, and of so many jobs so many were found finished.
    pub fn end(&mut self, found: usize, of: usize) {
        let slept = self.round > self.eager;
        self.eager = if slept { self.eager / 2 } else { self.eager * 2 }.clamp(1, EAGER);
        if !slept || found * 4 >= of {
            self.sleep /= 2;
        } else if found * 16 < of {
            self.sleep = (self.sleep + 1).min(LONGEST);
        }
        self.round = 0;
        self.waits += 1;
        if self.waits == TRY_AGAIN {
            (self.waits, self.eager) = (0, EAGER);
        }
    }

    /// Waits for the next look.
    pub fn pause(&mut self) {
        let round = self.round;
        self.round += 1;
        if round < self.eager * 3 / 4 {
            for _ in 0..PAUSES {
                hint::spin_loop();
            }
        } else if round < self.eager {
            thread::yield_now();
        } else {
            thread::sleep(sleep_after(self.sleep + round - self.eager));
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
    fn eagerness_is_given_up_where_it_does_not_pay_and_tried_again() {
        let mut pace = Pace::default();
        for expected in [16, 8, 4, 2, 1, 1] {
            for _ in 0..=pace.eager {
                pace.pause();
            }
            pace.end(1, 1);
            assert_eq!(pace.eager, expected);
        }
        pace.pause();
        pace.end(1, 1);
        assert_eq!(pace.eager, 2);
        for _ in 7..TRY_AGAIN {
            pace.round = 1000;
            pace.end(1, 1);
        }
        assert_eq!(pace.eager, EAGER);
    }

    #[test]
    fn intervals_grow_and_stay_bounded() {
        assert_eq!(sleep_after(0), FIRST_SLEEP);
        for n in 0..100 {
            assert!(sleep_after(n) <= sleep_after(n + 1));
        }
        assert!(sleep_after(LONGEST - 1) < LONGEST_SLEEP);
        assert_eq!(sleep_after(LONGEST), LONGEST_SLEEP);
        assert_eq!(sleep_after(u32::MAX), LONGEST_SLEEP);
    }

    #[test]
    fn sleep_lasts_until_there_is_something_to_do() {
        let mut pace = Pace::default();
        for expected in [1, 2, 3] {
            pace.round = 1000;
            pace.end(1, 64);
            assert_eq!(pace.sleep, expected);
        }
        pace.round = 1000;
        pace.end(8, 64);
        assert_eq!(pace.sleep, 3);
        pace.end(8, 64);
        assert_eq!(pace.sleep, 1, "no sleep was needed");
    }
}
