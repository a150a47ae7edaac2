//! When to stop asking a device that fails.
//!
//! Each failure costs time: a submission and a page done twice, or a whole
//! deadline. One failure says nothing, a row of them without a single success
//! says that the device is gone: reset, disabled, or out of a queue. Then it
//! rests, and pages go to software without asking. After the rest one row more
//! is allowed to fail at once, then the next rest is twice as long; after the
//! last rest the device counts as lost for the migration.

use std::time::{Duration, Instant};

use super::Status;

/// Failures in a row after which the device rests.
pub const FAILURES_IN_A_ROW: u32 = 64;
/// Missed deadlines in a row after which the device rests. Each may have cost
/// a whole deadline.
pub const TIMEOUTS_IN_A_ROW: u32 = 8;
/// The first rest; each further one is twice as long.
pub const FIRST_REST: Duration = Duration::from_millis(250);
/// Rests after which the device is lost.
pub const RESTS: u32 = 6;

/// What just happened to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The device did it.
    Success,
    /// The device answered that it can't.
    Failure(Option<Status>),
    /// The device did not answer in time.
    Timeout,
}

/// One queue's view of its device.
#[derive(Debug, Default)]
pub struct Health {
    failures: u32,
    timeouts: u32,
    rests: u32,
    resting_until: Option<Instant>,
    lost: bool,
}

impl Health {
    /// Whether the device may be asked.
    #[inline]
    pub fn may_ask(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.lost {
            return false;
        }
        match self.resting_until {
            None => true,
            Some(until) if now() < until => false,
            Some(_) => {
                self.resting_until = None;
                true
            }
        }
    }

    /// Takes note, and returns a sentence for the report when the device is
    /// given up, for now or for good.
    #[inline]
    pub fn note(&mut self, event: Event, now: impl FnOnce() -> Instant) -> Option<String> {
        let reason = match event {
            Event::Success => {
                self.failures = 0;
                self.timeouts = 0;
                return None;
            }
            Event::Failure(status) => {
                self.failures += 1;
                match status {
                    Some(status) => status.to_string(),
                    None => "pages of a wrong length or checksum".to_owned(),
                }
            }
            Event::Timeout => {
                self.failures += 1;
                self.timeouts += 1;
                "no answer in time".to_owned()
            }
        };
        let given_up = self.failures >= FAILURES_IN_A_ROW || self.timeouts >= TIMEOUTS_IN_A_ROW;
        // What was in flight when the rest began fails too; it counts once.
        if !given_up || self.lost || self.resting_until.is_some() {
            return None;
        }
        // One failure after the rest is enough to begin the next.
        self.failures = FAILURES_IN_A_ROW - 1;
        self.timeouts = TIMEOUTS_IN_A_ROW - 1;
        self.rests += 1;
        if self.rests > RESTS {
            self.lost = true;
            return Some(format!("device lost, all further pages went to software: {reason}"));
        }
        let rest = FIRST_REST * (1 << (self.rests - 1));
        self.resting_until = Some(now() + rest);
        Some(format!("device failed and was left alone for {} ms: {reason}", rest.as_millis()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_failures_are_forgiven() {
        let mut health = Health::default();
        let now = Instant::now();
        for _ in 0..10 {
            for _ in 1..FAILURES_IN_A_ROW {
                assert_eq!(health.note(Event::Failure(None), || now), None);
            }
            health.note(Event::Success, || now);
            assert!(health.may_ask(|| now));
        }
    }

    #[test]
    fn a_dead_device_rests_ever_longer_and_is_lost_in_the_end() {
        let mut health = Health::default();
        let mut now = Instant::now();
        for _ in 1..TIMEOUTS_IN_A_ROW {
            assert_eq!(health.note(Event::Timeout, || now), None);
        }
        for rest in 0..RESTS {
            let said = health.note(Event::Timeout, || now).expect("a rest");
            assert!(said.contains("left alone"), "{said}");
            // The rest of what was in flight fails as well.
            assert_eq!(health.note(Event::Timeout, || now), None);
            assert!(!health.may_ask(|| now));
            now += FIRST_REST * (1 << rest);
            assert!(health.may_ask(|| now));
        }
        let said = health.note(Event::Timeout, || now).expect("the end");
        assert!(said.contains("device lost") && said.contains("no answer"), "{said}");
        assert!(!health.may_ask(|| now + Duration::from_secs(3600)));
    }

    #[test]
    fn a_device_that_comes_back_is_used_as_before() {
        let mut health = Health::default();
        let now = Instant::now();
        let failure = Event::Failure(Some(Status::from_raw(503)));
        for _ in 1..FAILURES_IN_A_ROW {
            health.note(failure, || now);
        }
        assert!(health.note(failure, || now).is_some_and(|said| said.contains("503")));
        let later = now + FIRST_REST;
        assert!(health.may_ask(|| later));
        health.note(Event::Success, || later);
        for _ in 1..FAILURES_IN_A_ROW {
            assert_eq!(health.note(failure, || later), None);
        }
    }
}
