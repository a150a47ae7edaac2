//! What libqpl's status numbers mean for a page.
//!
//! There are some 120 numbers, and a device can produce others: what it writes
//! into its completion record is added to 200 or 300. For a page only the class
//! matters, and every number that is not known falls into the class that is
//! always right, redoing the page in software.
//!
//! | class | what is done | for example |
//! |---|---|---|
//! | [`Status::Done`] | the page is looked at | 0 |
//! | [`Status::Running`] | wait | 1 |
//! | [`Status::Again`] | submit again, at once or never | 5, all queues full |
//! | [`Status::RedoInSoftware`] | the device failed, software does the page | 304, page fault |
//! | [`Status::BadData`] | software has the last word | 213, invalid block type |
//!
//! Bad data is no verdict yet. 217 is also the answer to good DEFLATE data that
//! reaches back further than the device can. And 204 and 206 are answers to good
//! headers whose runs of code lengths go on from the one alphabet into the
//! other: zlib does not write such blocks, libdeflate does.

use std::fmt;

use qpl_sys::{QPL_STS_BEING_PROCESSED, QPL_STS_OK, QPL_STS_QUEUES_ARE_BUSY_ERR};

/// Added by libqpl to the error code of a completion record.
const DECODER: u32 = 200;
/// Added by libqpl to the status byte of a completion record.
const COMPLETION: u32 = 300;
/// Set in the status byte where the faulting access was a write.
const WRITE: u32 = 0x80;

/// A status of libqpl, by what has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The job is finished; what it put out is still to be checked.
    Done,
    /// The device is working.
    Running,
    /// Nothing was submitted: every queue is full.
    Again,
    /// The device could not do the page.
    RedoInSoftware(Trouble, u32),
    /// The device says that the page's block is not DEFLATE as it knows it.
    BadData(u32),
}

/// Why the device could not do a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// It met memory that is not there: a page fault.
    Fault,
    /// It gave up waiting.
    TimedOut,
    /// There is no queue that takes such jobs.
    NoQueue,
    /// Anything else, and every number that is not known.
    Other,
}

impl Status {
    /// Sorts a number of libqpl.
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            QPL_STS_OK => Self::Done,
            QPL_STS_BEING_PROCESSED => Self::Running,
            QPL_STS_QUEUES_ARE_BUSY_ERR => Self::Again,
            // More output than a page; more input than the block has.
            2 | 3 => Self::BadData(raw),
            201..=218 | 230 | 235 | 236 => Self::BadData(raw),
            219 | 332..=336 => Self::RedoInSoftware(Trouble::TimedOut, raw),
            8 | 500..=503 => Self::RedoInSoftware(Trouble::NoQueue, raw),
            _ if is_fault(raw) => Self::RedoInSoftware(Trouble::Fault, raw),
            _ => Self::RedoInSoftware(Trouble::Other, raw),
        }
    }

    /// The number as libqpl spells it.
    pub fn raw(self) -> u32 {
        match self {
            Self::Done => QPL_STS_OK,
            Self::Running => QPL_STS_BEING_PROCESSED,
            Self::Again => QPL_STS_QUEUES_ARE_BUSY_ERR,
            Self::RedoInSoftware(_, raw) | Self::BadData(raw) => raw,
        }
    }
}

/// Page faults, unanswered page requests and failed translations, reading or
/// writing.
fn is_fault(raw: u32) -> bool {
    let code = raw.wrapping_sub(COMPLETION);
    code <= 0xff && matches!(code & !WRITE, 0x03 | 0x04 | 0x1a | 0x1f)
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = self.raw();
        let text = match raw {
            0 => "done",
            1 => "still running",
            2 => "more came out than fits into a page",
            3 => "the block ends too early",
            5 => "all work queues are full",
            6 => "internal error of libqpl",
            8 => "no work queue offers this operation",
            101 => "libqpl has no memory",
            201..=236 => {
                return write!(f, "decoder error {} (status {raw})", raw - DECODER);
            }
            303 | 431 => "page fault in a queue without block on fault",
            304 | 432 => "page fault that the kernel could not resolve",
            319 => "transfer size refused: the work queue's max_transfer_size must be 8192 or more",
            326 | 454 => "address could not be translated",
            335 => "page request timed out",
            500 => "libqpl was built without hardware support",
            501 => "libaccel-config is missing or too old: install it (Debian: libaccel-config1)",
            502 => "libaccel-config reports an error",
            503 => {
                "no usable work queue: none is enabled, shared and of type user, or its node in /dev/iax may not be opened"
            }
            301..=555 => {
                return write!(f, "completion code {:#04x} (status {raw})", raw - COMPLETION);
            }
            _ => return write!(f, "status {raw}"),
        };
        write!(f, "{text} (status {raw})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_class_and_keeps_itself() {
        for raw in 0..2000 {
            let status = Status::from_raw(raw);
            assert_eq!(status.raw(), raw);
            assert!(status.to_string().contains(&raw.to_string()) || raw <= 1, "{status}");
            if matches!(status, Status::Done) {
                assert_eq!(raw, 0);
            }
        }
        assert_eq!(Status::from_raw(u32::MAX), Status::RedoInSoftware(Trouble::Other, u32::MAX));
    }

    #[test]
    fn known_numbers_fall_into_their_class() {
        use Trouble::*;
        for (raw, expected) in [
            (303, Fault),
            (304, Fault),
            (326, Fault),
            (331, Fault),
            (431, Fault),
            (432, Fault),
            (454, Fault),
            (333, TimedOut),
            (335, TimedOut),
            (336, TimedOut),
            (8, NoQueue),
            (503, NoQueue),
            (6, Other),
            (319, Other),
            (340, Other),
            (225, Other),
        ] {
            assert_eq!(Status::from_raw(raw), Status::RedoInSoftware(expected, raw), "{raw}");
        }
        for raw in (201..=218).chain([230, 235, 236, 2]) {
            assert_eq!(Status::from_raw(raw), Status::BadData(raw));
        }
        assert_eq!(Status::from_raw(5), Status::Again);
    }
}
