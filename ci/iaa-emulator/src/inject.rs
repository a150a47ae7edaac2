//! Faults on request: what may go wrong with a job, how often, and the draw that decides.
//!
//! The draws are a function of the seed and the job's number alone, so a run with one submitting thread and one engine
//! repeats exactly.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::counters::COUNTERS;

/// The names of the kinds, as in a specification and in the report.
pub const KINDS: [&str; 10] = [
    "busy",
    "fault-bof-off",
    "status",
    "error",
    "short",
    "never",
    "late",
    "flip",
    "wrong-crc",
    "fault-bof-on",
];

/// One thing that goes wrong with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first page of source or destination is reported as a fault with block on fault off.
    FaultBofOff,
    /// A page fault that block on fault resolves: it costs `fault_us`. Where that is not allowed it is the one before.
    FaultBofOn,
    /// The record has this status; nothing is written.
    Status(u8),
    /// The record has status 0x0a with this error number; nothing is written.
    Error(u8),
    /// Success with fewer bytes than the stream holds.
    Short,
    /// The job never completes and writes nothing.
    Never,
    /// The job is done and completes, but only after `late-ms`.
    Late,
    /// One bit of the output is flipped after the checksum was computed.
    Flip,
    /// The record's checksum is wrong.
    WrongCrc,
}

impl Kind {
    fn index(self) -> usize {
        match self {
            Kind::FaultBofOff => 1,
            Kind::Status(_) => 2,
            Kind::Error(_) => 3,
            Kind::Short => 4,
            Kind::Never => 5,
            Kind::Late => 6,
            Kind::Flip => 7,
            Kind::WrongCrc => 8,
            Kind::FaultBofOn => 9,
        }
    }

    /// Counts that it was done.
    pub fn count(self) {
        COUNTERS.injected[self.index()].fetch_add(1, Relaxed);
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// The probability of each kind per job; a single draw decides, so at most one happens.
    kinds: Vec<(Kind, f64)>,
    /// The probability that a submission is declined.
    busy: f64,
    /// The least time that a job takes once an engine has it.
    pub delay: Duration,
    /// How much later a late job is done.
    pub late: Duration,
}

impl Default for Injection {
    fn default() -> Self {
        Injection {
            kinds: Vec::new(),
            busy: 0.0,
            delay: Duration::ZERO,
            late: Duration::from_secs(2),
        }
    }
}

impl Injection {
    /// Reads a comma list such as `busy=0.1,status:0x24=1%,delay-us=20`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut injection = Injection::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, value) =
                item.split_once('=').ok_or_else(|| format!("injection {item:?} has no value"))?;
            let (name, value) = (name.trim(), value.trim());
            let kind = match name.split_once(':') {
                Some(("status", byte)) => Some(Kind::Status(parse_byte(byte)?)),
                Some(("error", byte)) => Some(Kind::Error(parse_byte(byte)?)),
                Some(_) => return Err(format!("unknown injection {name:?}")),
                None => match name {
                    "fault-bof-off" => Some(Kind::FaultBofOff),
                    "fault-bof-on" => Some(Kind::FaultBofOn),
                    "short" => Some(Kind::Short),
                    "never" => Some(Kind::Never),
                    "late" => Some(Kind::Late),
                    "flip" => Some(Kind::Flip),
                    "wrong-crc" => Some(Kind::WrongCrc),
                    _ => None,
                },
            };
            match (kind, name) {
                (Some(Kind::Status(0)), _) => {
                    return Err("status 0 means not done: use never".into());
                }
                (Some(kind), _) => injection.kinds.push((kind, probability(value)?)),
                (None, "busy") => injection.busy = probability(value)?,
                (None, "delay-us") => injection.delay = Duration::from_micros(number(value)?),
                (None, "late-ms") => injection.late = Duration::from_millis(number(value)?),
                (None, _) => return Err(format!("unknown injection {name:?}")),
            }
        }
        let sum: f64 = injection.kinds.iter().map(|(_, p)| p).sum();
        if sum > 1.000_001 {
            return Err(format!(
                "the probabilities of what goes wrong with a job add up to {sum}, more than 1"
            ));
        }
        Ok(injection)
    }
}

fn parse_byte(text: &str) -> Result<u8, String> {
    let value = match text.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16),
        None => text.parse(),
    };
    value.map_err(|_| format!("{text:?} is not a byte"))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

fn probability(text: &str) -> Result<f64, String> {
    let (digits, scale) = match text.strip_suffix('%') {
        Some(digits) => (digits, 0.01),
        None => (text, 1.0),
    };
    let value =
        digits.parse::<f64>().map_err(|_| format!("{text:?} is not a probability"))? * scale;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(format!("probability {text:?} is not between 0 and 1"))
    }
}

static CURRENT: RwLock<Option<Arc<Injection>>> = RwLock::new(None);
/// The probability of a decline, of 2^32, apart from the rest because a signal handler reads it.
static BUSY: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);
static JOBS: AtomicU64 = AtomicU64::new(0);
static SUBMISSIONS: AtomicU64 = AtomicU64::new(0);

/// Makes `injection` the one in force, and starts the draws anew.
pub fn set(injection: Injection, seed: u64) {
    BUSY.store((injection.busy * (1u64 << 32) as f64) as u64, Relaxed);
    SEED.store(seed, Relaxed);
    JOBS.store(0, Relaxed);
    SUBMISSIONS.store(0, Relaxed);
    *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(injection));
}

/// The one in force.
pub fn current() -> Arc<Injection> {
    CURRENT.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
}

/// 64 evenly spread bits for number `n` of a stream of draws (splitmix64).
fn bits(stream: u64, n: u64) -> u64 {
    let mut z = (SEED.load(Relaxed) ^ stream.rotate_left(32))
        .wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// The draw for one job.
pub struct Draw {
    /// What is to go wrong.
    pub kind: Option<Kind>,
    /// A number for the choices within it.
    pub random: usize,
}

/// Draws for the next job.
pub fn draw(injection: &Injection) -> Draw {
    let n = JOBS.fetch_add(1, Relaxed);
    let unit = (bits(1, n) >> 11) as f64 / (1u64 << 53) as f64;
    let mut sum = 0.0;
    let kind = injection.kinds.iter().find(|(_, p)| {
        sum += p;
        unit < sum
    });
    Draw { kind: kind.map(|(kind, _)| *kind), random: bits(2, n) as usize }
}

/// Whether the next submission is to be declined. Only atomics, for use in a signal handler.
pub fn decline() -> bool {
    let busy = BUSY.load(Relaxed);
    if busy == 0 || bits(3, SUBMISSIONS.fetch_add(1, Relaxed)) >> 32 >= busy {
        return false;
    }
    COUNTERS.injected[0].fetch_add(1, Relaxed);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_are_read() {
        let injection =
            Injection::parse("busy=0.5, status:0x24=1%,error:15=0.1,delay-us=20,late-ms=7")
                .unwrap();
        assert_eq!(injection.kinds, [(Kind::Status(0x24), 0.01), (Kind::Error(15), 0.1)]);
        assert_eq!((injection.busy, injection.delay), (0.5, Duration::from_micros(20)));
        for bad in [
            "busy",
            "busy=2",
            "nothing=1",
            "status:0x100=1",
            "never=0.7,short=0.7",
            "status:0=1",
            "delay-us=x",
        ] {
            assert!(Injection::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn draws_follow_their_probabilities() {
        let injection = Injection::parse("never=0.25,flip=0.5").unwrap();
        let mut seen = [0; KINDS.len()];
        for _ in 0..10_000 {
            seen[draw(&injection).kind.map_or(0, Kind::index)] += 1;
        }
        assert!((2300..2700).contains(&seen[0]), "{seen:?}");
        assert!((2300..2700).contains(&seen[Kind::Never.index()]), "{seen:?}");
        assert!((4800..5200).contains(&seen[Kind::Flip.index()]), "{seen:?}");
    }
}
