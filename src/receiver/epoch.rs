//! Epochs: the time between two marks.
//!
//! The k-th mark on the main stream pairs with the k-th SYNC on every channel.
//!
//! ```text
//! channel 0  ..pages of epoch k.. SYNC k | waits for main ..... | pages of epoch k+1
//! channel 1  ..pages... SYNC k | waits for main ............... | pages of epoch k+1
//! main       ..zero records.. mark k (waits for all SYNC k) --->| zero records of epoch k+1
//! ```
//!
//! A channel delivers its SYNC only when all its pages are in guest memory, so
//! when main passes a mark every write of the epoch is done, and none of the
//! next has begun. A page may therefore be written by any thread in any order
//! inside an epoch and never out of order across two.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::ReceiveError;

/// Keeps channels and main stream in step.
#[derive(Debug, Default)]
pub struct Epochs {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// SYNCs delivered, by channel id; grows as channels say hello.
    synced: Vec<u64>,
    /// Number of channels, once it is known.
    channels: Option<usize>,
    /// Marks that main has passed.
    marks: u64,
    finished: bool,
    aborted: bool,
}

impl Epochs {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before its guard is dropped.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.moved.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how many channels there are. Marks wait until it is known.
    pub fn set_channels(&self, channels: usize) {
        let mut state = self.lock();
        state.channels = Some(channels);
        state.synced.resize(channels, 0);
        self.moved.notify_all();
    }

    /// A channel's SYNC: all its pages so far are in guest memory. Returns
    /// when main has reached the mark of this SYNC, or is finished.
    pub fn sync(&self, channel: u8) -> Result<(), ReceiveError> {
        let mut state = self.lock();
        let index = usize::from(channel);
        if state.synced.len() <= index {
            state.synced.resize(index + 1, 0);
        }
        state.synced[index] += 1;
        let mine = state.synced[index];
        self.moved.notify_all();
        loop {
            if state.aborted {
                return Err(ReceiveError::Stopped);
            }
            if state.marks >= mine {
                return Ok(());
            }
            if state.finished {
                // Sources 9.1 and 9.2 end with one SYNC that has no mark.
                if mine > state.marks + 1 {
                    return Err(ReceiveError::SurplusSync { channel, marks: state.marks });
                }
                return Ok(());
            }
            state = self.wait(state);
        }
    }

    /// Marks main has passed: 0 before the first.
    pub fn marks(&self) -> u64 {
        self.lock().marks
    }

    /// Main's next mark: returns when every channel has delivered its SYNC.
    pub fn mark(&self) -> Result<(), ReceiveError> {
        let mut state = self.lock();
        let next = state.marks + 1;
        loop {
            if state.aborted {
                return Err(ReceiveError::Stopped);
            }
            if let Some(channels) = state.channels
                && state.synced.iter().take(channels).all(|&synced| synced >= next)
            {
                state.marks = next;
                self.moved.notify_all();
                return Ok(());
            }
            state = self.wait(state);
        }
    }

    /// The main stream is complete: no mark will come any more.
    pub fn finish(&self) {
        self.lock().finished = true;
        self.moved.notify_all();
    }

    /// Wakes everybody with an error.
    pub fn abort(&self) {
        self.lock().aborted = true;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn a_mark_waits_for_every_channel_and_channels_for_the_mark() {
        let epochs = Arc::new(Epochs::default());
        epochs.set_channels(2);
        let order = Arc::new(Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for channel in 0..2 {
                let (epochs, order) = (Arc::clone(&epochs), Arc::clone(&order));
                scope.spawn(move || {
                    for epoch in 0..50_u64 {
                        order.lock().unwrap().push((epoch, channel));
                        epochs.sync(channel).unwrap();
                    }
                });
            }
            for epoch in 0..50_u64 {
                order.lock().unwrap().push((epoch, 9));
                epochs.mark().unwrap();
            }
        });
        let order = order.lock().unwrap();
        let epochs: Vec<u64> = order.iter().map(|&(epoch, _)| epoch).collect();
        assert!(epochs.is_sorted(), "an epoch began before the last one ended");
    }

    #[test]
    fn one_unpaired_sync_at_the_end_is_tolerated_and_a_second_is_not() {
        let epochs = Epochs::default();
        epochs.set_channels(1);
        epochs.finish();
        assert!(epochs.sync(0).is_ok());
        assert!(matches!(epochs.sync(0), Err(ReceiveError::SurplusSync { channel: 0, marks: 0 })));
    }

    #[test]
    fn abort_wakes_main_and_channels() {
        let epochs = Arc::new(Epochs::default());
        epochs.set_channels(2);
        thread::scope(|scope| {
            let channel = scope.spawn(|| epochs.sync(0));
            let main = scope.spawn(|| epochs.mark());
            epochs.abort();
            assert!(matches!(channel.join().unwrap(), Err(ReceiveError::Stopped)));
            assert!(matches!(main.join().unwrap(), Err(ReceiveError::Stopped)));
        });
    }
}
