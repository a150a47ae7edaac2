//! Device sections that come before RAM is complete: virtio-mem says early
//! which parts of its RAM are plugged. Theirs is the one device state whose
//! layout has to be known, because nothing else tells where it ends.
//!
//! ```text
//!  u64 address  u64 region size  u64 block size  u32 node  u64 plugged size
//!  u64 x ceil(region / block / 64)   bitmap of plugged blocks
//! ```

use super::cursor::{Cursor, Stop};
use super::devices::{FOOTER_LEN, SectionHeader};
use super::{EarlyDevice, Limits, MainError, footer};

const IDSTR_END: &str = "/virtio-mem-device-early";
const BITMAP_WORD: u64 = 8;

/// An early section that is being taken in.
#[derive(Debug)]
pub(super) struct EarlyScan {
    id: u32,
    idstr: String,
    bytes: Vec<u8>,
    /// Bytes of header and body.
    body_end: usize,
}

impl EarlyScan {
    /// Reads the front of a FULL section, as far as it tells how long it is.
    /// All early sections together may take `room` more bytes.
    pub(super) fn begin(input: &[u8], room: usize, limits: &Limits) -> Result<Self, Stop> {
        let header = SectionHeader::parse(input, 0)?;
        if !header.idstr.ends_with(IDSTR_END) {
            let idstr = header.idstr.to_owned();
            let hint = "only virtio-mem devices may come before the guest's RAM";
            return Err(MainError::Section { idstr, hint }.into());
        }
        let mut cursor = Cursor::new(input, header.end);
        let _address = cursor.u64()?;
        let region = cursor.u64()?;
        let block = cursor.u64()?;
        let _node = cursor.u32()?;
        let _plugged = cursor.u64()?;
        if !block.is_power_of_two() || region == 0 {
            return Err(MainError::EarlyDevice(header.idstr.to_owned()).into());
        }
        let bitmap = region.div_ceil(block).div_ceil(64).saturating_mul(BITMAP_WORD);
        let body_end = usize::try_from(bitmap).unwrap_or(usize::MAX).saturating_add(cursor.at());
        if body_end.saturating_add(FOOTER_LEN) > room {
            return Err(MainError::EarlyDevicesSize(limits.max_early_bytes).into());
        }
        Ok(Self {
            id: header.id,
            idstr: header.idstr.to_owned(),
            bytes: input[..cursor.at()].to_vec(),
            body_end,
        })
    }

    /// Bytes taken in so far.
    pub(super) fn taken(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the whole section.
    pub(super) fn total(&self) -> usize {
        self.body_end + FOOTER_LEN
    }

    pub(super) fn idstr(&self) -> &str {
        &self.idstr
    }

    /// Takes in some of the body, or the footer; the latter completes it.
    pub(super) fn take(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, Stop> {
        let left = self.body_end - self.bytes.len();
        if left > 0 {
            let some = left.min(cursor.left());
            if some == 0 {
                return Err(Stop::More);
            }
            self.bytes.extend_from_slice(cursor.bytes(some)?);
            return Ok(false);
        }
        let mut ahead = *cursor;
        footer(&mut ahead, self.id)?;
        self.bytes.extend_from_slice(cursor.bytes(FOOTER_LEN)?);
        Ok(true)
    }

    pub(super) fn into_device(self) -> EarlyDevice {
        EarlyDevice { idstr: self.idstr, bytes: self.bytes }
    }
}
