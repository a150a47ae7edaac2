//! Write guards: two writers of one page take turns.
//!
//! Sources up to 7.2 may send one page twice between two marks, on two
//! channels. Either copy is right, but they must not be stored at the same
//! time. A writer therefore holds the page's guard bit while it writes.
//!
//! The bits live in a small table indexed by the page's word in the received
//! map. Words that are a whole table apart share an entry: two pages may then
//! conflict without need, which costs a short wait and nothing else. Nothing
//! has to be reset between epochs.
//!
//! Nobody waits for a guard while holding one: [`WriteGuards::try_acquire`]
//! never waits, and [`WriteGuards::acquire_all`] takes all bits of its set or
//! none before it tries again.

use std::time::{Duration, Instant};

use super::primitive::{AtomicU64, Ordering, spin_loop, yield_now};

/// Most entries of a table: enough for the words of 1 GiB side by side.
const MOST_ENTRIES: u32 = 4096;

/// A writer stores at most one packet, though one that reads it from a socket
/// waits for its source as long as the socket's own deadline allows. Whoever
/// holds a guard for longer than any of that is never coming back.
const PATIENCE: Duration = Duration::from_secs(300);

/// A guard that was never released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stuck;

/// The guard bits of one RAMBlock.
#[derive(Debug)]
pub struct WriteGuards {
    busy: Box<[AtomicU64]>,
}

impl WriteGuards {
    /// Guards for a block whose map has `words` words.
    pub fn new(words: u32) -> Self {
        let entries = words.clamp(1, MOST_ENTRIES).next_power_of_two();
        Self { busy: (0..entries).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Words less than this far apart never share an entry.
    pub fn span(&self) -> u32 {
        self.busy.len() as u32
    }

    /// Takes what is free of `mask` and returns it.
    pub fn try_acquire(&self, word: u32, mask: u64) -> u64 {
        // Acquire: the stores of the last holder come before ours. Bits that
        // were set before belong to another writer, and setting them again
        // changes nothing.
        mask & !self.entry(word).fetch_or(mask, Ordering::Acquire)
    }

    /// Gives bits back that `try_acquire` or `acquire_all` gave out.
    pub fn release(&self, word: u32, mask: u64) {
        self.entry(word).fetch_and(!mask, Ordering::Release);
    }

    /// Takes all bits of all `words`, none of which share an entry, waiting as
    /// long as another writer holds any of them. Returns how often it had to
    /// wait.
    pub(super) fn acquire_all<I>(&self, words: I) -> Result<u32, Stuck>
    where
        I: Iterator<Item = (u32, u64)> + Clone,
    {
        let mut rounds = 0u32;
        let mut since = None;
        loop {
            let mut taken = 0;
            let mut refused = None;
            for (word, mask) in words.clone() {
                let got = self.try_acquire(word, mask);
                if got != mask {
                    refused = Some((word, got));
                    break;
                }
                taken += 1;
            }
            let Some((word, got)) = refused else { return Ok(rounds) };
            self.release(word, got);
            for (word, mask) in words.clone().take(taken) {
                self.release(word, mask);
            }
            rounds = rounds.saturating_add(1);
            if rounds < 32 {
                spin_loop();
            } else if rounds < 1024 {
                yield_now();
            } else {
                if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(Stuck);
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    fn entry(&self, word: u32) -> &AtomicU64 {
        // The number of entries is a power of two.
        &self.busy[(word & (self.span() - 1)) as usize]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_free_and_nothing_else() {
        let guards = WriteGuards::new(10);
        assert_eq!(guards.span(), 16);
        assert_eq!(guards.try_acquire(3, 0b0111), 0b0111);
        assert_eq!(guards.try_acquire(3, 0b1110), 0b1000);
        assert_eq!(guards.try_acquire(4, 0b1), 0b1);
        // A word that shares the entry conflicts without need.
        assert_eq!(guards.try_acquire(3 + 16, 0b11), 0);
        guards.release(3, 0b0111);
        assert_eq!(guards.try_acquire(3 + 16, 0b1011), 0b0011);
    }

    #[test]
    fn a_refused_set_leaves_nothing_behind() {
        let guards = WriteGuards::new(8);
        assert_eq!(guards.try_acquire(2, 0b100), 0b100);
        let words = [(0, !0), (1, 1), (2, 0b111)];
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| guards.acquire_all(words.into_iter()));
            std::thread::sleep(Duration::from_millis(20));
            guards.release(2, 0b100);
            assert!(waiter.join().unwrap().unwrap() > 0);
        });
        for (word, mask) in words {
            assert_eq!(guards.try_acquire(word, mask), 0, "all of them are held now");
            guards.release(word, mask);
            assert_eq!(guards.try_acquire(word, !0), !0, "and only they are");
        }
    }
}
