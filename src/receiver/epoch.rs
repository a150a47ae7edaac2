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
    /// Channels that have ended: no SYNC will come from them any more.
    ended: Vec<u8>,
    /// A channel that ended with pages behind its last SYNC.
    loose: Option<u8>,
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

    /// A channel's SYNC: all its pages so far are in guest memory; `pages`
    /// tells whether there were any since its last one. Returns when main has
    /// reached the mark of this SYNC, or is finished.
    pub fn sync(&self, channel: u8, pages: bool) -> Result<(), ReceiveError> {
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
                return if pages { Err(ReceiveError::AfterLastMark) } else { Ok(()) };
            }
            state = self.wait(state);
        }
    }

    /// A channel has ended between two packets; `pages` tells whether there
    /// were any since its last SYNC. Those of a finished migration are too many.
    pub fn leave(&self, channel: u8, pages: bool) -> Result<(), ReceiveError> {
        let mut state = self.lock();
        state.ended.push(channel);
        if pages {
            if state.finished {
                return Err(ReceiveError::AfterLastMark);
            }
            state.loose.get_or_insert(channel);
        }
        self.moved.notify_all();
        Ok(())
    }

    /// A channel that had ended with pages behind its last SYNC before main was
    /// finished.
    pub fn loose_end(&self) -> Option<u8> {
        self.lock().loose
    }

    /// Marks main has passed: 0 before the first.
    pub fn marks(&self) -> u64 {
        self.lock().marks
    }

    /// Main's next mark: returns when every channel has delivered its SYNC, and
    /// fails when one cannot any more.
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
            let missing = |&&channel: &&u8| {
                let synced = state.synced.get(usize::from(channel)).copied().unwrap_or(0);
                synced < next
            };
            if let Some(&channel) = state.ended.iter().find(missing) {
                return Err(ReceiveError::MissingSync { channel, mark: next });
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
                        epochs.sync(channel, true).unwrap();
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
        assert!(epochs.sync(0, false).is_ok());
        let second = epochs.sync(0, false);
        assert!(matches!(second, Err(ReceiveError::SurplusSync { channel: 0, marks: 0 })));
    }

    #[test]
    fn an_unpaired_sync_ends_no_pages() {
        let epochs = Epochs::default();
        epochs.set_channels(1);
        epochs.finish();
        assert!(matches!(epochs.sync(0, true), Err(ReceiveError::AfterLastMark)));
    }

    #[test]
    fn a_mark_fails_when_a_channel_has_ended_without_its_sync() {
        let epochs = Arc::new(Epochs::default());
        epochs.set_channels(2);
        thread::scope(|scope| {
            let main = scope.spawn(|| epochs.mark());
            let other = scope.spawn(|| epochs.sync(0, false));
            epochs.leave(1, false).unwrap();
            let outcome = main.join().unwrap();
            assert!(matches!(outcome, Err(ReceiveError::MissingSync { channel: 1, mark: 1 })));
            epochs.abort();
            assert!(other.join().unwrap().is_err());
        });
    }

    #[test]
    fn pages_of_an_ended_channel_are_noticed_before_and_after_the_end() {
        let epochs = Epochs::default();
        epochs.set_channels(1);
        epochs.leave(0, true).unwrap();
        assert_eq!(epochs.loose_end(), Some(0));
        let epochs = Epochs::default();
        epochs.finish();
        assert!(matches!(epochs.leave(0, true), Err(ReceiveError::AfterLastMark)));
        assert!(epochs.leave(1, false).is_ok());
    }

    #[test]
    fn abort_wakes_main_and_channels() {
        let epochs = Arc::new(Epochs::default());
        epochs.set_channels(2);
        thread::scope(|scope| {
            let channel = scope.spawn(|| epochs.sync(0, true));
            let main = scope.spawn(|| epochs.mark());
            epochs.abort();
            assert!(matches!(channel.join().unwrap(), Err(ReceiveError::Stopped)));
            assert!(matches!(main.join().unwrap(), Err(ReceiveError::Stopped)));
        });
    }
}
