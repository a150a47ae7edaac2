//! Everything behind the END section of RAM: device sections, the EOF byte and
//! the vmdesc.
//!
//! A device section has no length, and its body no structure of its own. What
//! there is to go by:
//!
//! * Its footer, `7e` and the section's id, followed by something that can
//!   follow: another section's header, or EOF byte and vmdesc. A body may hold
//!   the same bytes by chance; then the scan takes part of it for a section,
//!   until the real footer shows that it wasn't.
//! * The vmdesc, whose field sizes add up to the bodies' lengths.
//!
//! So the bytes are taken in and scanned once, from footer to footer, until the
//! end shows; then the sections are cut again by the vmdesc, and if that fits
//! to the byte it settles the matter. The sections' content stays opaque.

use std::collections::HashMap;

use super::cursor::{Cursor, Stop};
use super::vmdesc;
use super::{EOF, FULL, Limits, MainError, VMDESCRIPTION};

/// Type byte of a footer.
pub(super) const FOOTER: u8 = 0x7e;
/// Bytes of a footer: type byte and section id.
pub(super) const FOOTER_LEN: usize = 5;
/// Bytes before the JSON text: EOF, type byte, length.
const VMDESC_HEADER: usize = 6;

/// The state of all devices, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// From the first device section after RAM up to and including the EOF
    /// byte.
    pub bytes: Vec<u8>,
    /// Where the sections lie in `bytes`.
    pub sections: Vec<SectionInfo>,
    /// The vmdesc's JSON text, unless the machine suppresses it or it was
    /// damaged.
    pub vmdesc: Option<Vec<u8>>,
    /// The vmdesc describes the sections to the byte.
    pub agrees: bool,
}

/// One device section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionInfo {
    /// The source's number for it.
    pub id: u32,
    /// Name of the device.
    pub idstr: String,
    /// Tells devices of one name apart.
    pub instance: u32,
    /// Version of the body's format.
    pub version: u32,
    /// Offset of the section's type byte.
    pub start: usize,
    /// Offset behind the section's footer.
    pub end: usize,
}

/// The header of a START or FULL section.
#[derive(Debug, Clone, Copy)]
pub(super) struct SectionHeader<'a> {
    pub(super) id: u32,
    pub(super) idstr: &'a str,
    pub(super) instance: u32,
    pub(super) version: u32,
    /// Offset of the body.
    pub(super) end: usize,
}

impl<'a> SectionHeader<'a> {
    /// Reads the header whose type byte is at `at`.
    pub(super) fn parse(bytes: &'a [u8], at: usize) -> Result<Self, Stop> {
        let mut cursor = Cursor::new(bytes, at);
        cursor.u8()?;
        Ok(Self {
            id: cursor.u32()?,
            idstr: cursor.name()?,
            instance: cursor.u32()?,
            version: cursor.u32()?,
            end: cursor.at(),
        })
    }

    pub(super) fn into_info(self, start: usize, end: usize) -> SectionInfo {
        let Self { id, idstr, instance, version, .. } = self;
        SectionInfo { id, idstr: idstr.to_owned(), instance, version, start, end }
    }
}

/// Where the scan stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scan {
    /// Before the first section.
    First,
    /// Looking for the last section's footer.
    Body,
    /// An end was found at this offset; the vmdesc's text is to come.
    Vmdesc { eof: usize, len: usize },
}

/// What can follow a footer, judged by what has come so far.
enum Next {
    Section,
    Eof { len: usize },
    Nothing,
}

/// Takes in the bytes behind RAM and finds their end.
#[derive(Debug)]
pub(super) struct DeviceScanner {
    bytes: Vec<u8>,
    /// Everything before this offset is scanned.
    at: usize,
    scan: Scan,
    sections: Vec<SectionInfo>,
    /// Places in `sections` by id; a source numbers its sections, each number
    /// once.
    ids: HashMap<u32, usize>,
    /// An end behind which no good vmdesc was found.
    doubtful_eof: Option<usize>,
}

impl DeviceScanner {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            at: 0,
            scan: Scan::First,
            sections: Vec::new(),
            ids: HashMap::new(),
            doubtful_eof: None,
        }
    }

    /// Takes bytes in. Returns how many belong to the stream (all, unless the
    /// end was found) and the state, if it is complete.
    pub(super) fn take(
        &mut self,
        input: &[u8],
        limits: &Limits,
        early: &[String],
    ) -> Result<(usize, Option<DeviceState>), MainError> {
        let mut used = 0;
        loop {
            // Before its end is known, a vmdesc may be long: take no more.
            let want = match self.scan {
                Scan::Vmdesc { eof, len } => eof + VMDESC_HEADER + len - self.bytes.len(),
                Scan::First | Scan::Body => usize::MAX,
            };
            let taken = want.min(input.len() - used);
            self.bytes.extend_from_slice(&input[used..used + taken]);
            used += taken;

            match self.scan(limits)? {
                Some((eof, len)) => {
                    let end = eof + VMDESC_HEADER + len;
                    let surplus = self.bytes.len() - end;
                    let used = used.checked_sub(surplus).ok_or(MainError::DataAfterEnd)?;
                    return Ok((used, Some(self.complete(eof, Some(len), early))));
                }
                None if used == input.len() => return Ok((used, None)),
                None => {}
            }
        }
    }

    /// The last byte of the devices may have come.
    pub(super) fn eof_seen(&self) -> bool {
        matches!(self.scan, Scan::Vmdesc { .. })
            || self.doubtful_eof.is_some()
            || self.pending_eof().is_some()
    }

    /// No more bytes will come: makes do with an end without a good vmdesc, as
    /// long as the footers lead to it.
    pub(super) fn finish(
        &mut self,
        limits: &Limits,
        early: &[String],
    ) -> Result<DeviceState, MainError> {
        loop {
            if let Some((eof, len)) = self.scan(limits)? {
                if self.bytes.len() > eof + VMDESC_HEADER + len {
                    return Err(MainError::DataAfterEnd);
                }
                return Ok(self.complete(eof, Some(len), early));
            }
            match self.scan {
                Scan::Vmdesc { eof, .. } => self.doubt(eof),
                Scan::First | Scan::Body => break,
            }
        }
        match self.pending_eof().or(self.doubtful_eof) {
            Some(eof) => Ok(self.complete(eof, None, early)),
            None => Err(MainError::Stopped("among the device sections")),
        }
    }

    /// Offset of an EOF byte behind a footer, if the scan waits for what comes
    /// after it.
    fn pending_eof(&self) -> Option<usize> {
        let at = match self.scan {
            Scan::First => 0,
            Scan::Body if self.section_of_footer(self.at).is_some() => self.at + FOOTER_LEN,
            Scan::Body | Scan::Vmdesc { .. } => return None,
        };
        (self.bytes.get(at) == Some(&EOF)).then_some(at)
    }

    /// Scans what is there. Returns the offset of the EOF byte and the length
    /// of the vmdesc behind it once both are complete.
    fn scan(&mut self, limits: &Limits) -> Result<Option<(usize, usize)>, MainError> {
        loop {
            let next = match self.scan {
                Scan::First => match self.first(limits) {
                    Ok(next) => next,
                    Err(Stop::More) => return Ok(None),
                    Err(Stop::Error(error)) => return Err(error),
                },
                Scan::Body => {
                    let footer = self.find_footer();
                    if self.at > limits.max_device_bytes {
                        return Err(MainError::DevicesSize(limits.max_device_bytes));
                    }
                    let Some(section) = footer else {
                        return Ok(None);
                    };
                    let behind = self.at + FOOTER_LEN;
                    let next = match self.next_after(behind, Some(section), limits) {
                        Ok(next) => next,
                        Err(Stop::More) => return Ok(None),
                        // Names that aren't text mean that this is no footer.
                        Err(Stop::Error(_)) => Next::Nothing,
                    };
                    match next {
                        Next::Nothing => {
                            self.at += 1;
                            continue;
                        }
                        Next::Section => self.close_section(section, behind),
                        // Closed when the end turns out to be real.
                        Next::Eof { .. } => {}
                    }
                    next
                }
                Scan::Vmdesc { eof, len } => {
                    let start = eof + VMDESC_HEADER;
                    let Some(text) = self.bytes.get(start..start + len) else {
                        return Ok(None);
                    };
                    if vmdesc::is_json(text) {
                        return Ok(Some((eof, len)));
                    }
                    self.doubt(eof);
                    continue;
                }
            };
            let at = match self.scan {
                Scan::First => 0,
                _ => self.at + FOOTER_LEN,
            };
            match next {
                Next::Section => self.open_section(at, limits)?,
                Next::Eof { len } => self.scan = Scan::Vmdesc { eof: at, len },
                Next::Nothing => return Err(MainError::NoDeviceSection(self.bytes[0])),
            }
        }
    }

    /// Goes on behind an end that turned out not to have a good vmdesc.
    fn doubt(&mut self, eof: usize) {
        self.doubtful_eof = Some(eof);
        self.scan = Scan::Body;
        // Without any section there is no footer to look for; the scan then
        // runs through and finds nothing.
        self.at = self.at.max(eof.saturating_sub(FOOTER_LEN)) + 1;
    }

    /// What the very first byte begins; here nothing may be skipped.
    fn first(&self, limits: &Limits) -> Result<Next, Stop> {
        match self.bytes.first() {
            Some(&(FULL | EOF)) => self.next_after(0, None, limits),
            Some(&other) => Err(MainError::NoDeviceSection(other).into()),
            None => Err(Stop::More),
        }
    }

    /// Moves to the next place that can be a footer with something behind it,
    /// and returns the place of its section. `None` when all there is was
    /// looked at.
    fn find_footer(&mut self) -> Option<usize> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            let Some(skip) = rest.iter().position(|&b| b == FOOTER) else {
                self.at = self.bytes.len();
                return None;
            };
            self.at += skip;
            match self.bytes.get(self.at + FOOTER_LEN) {
                None => return None,
                Some(&(FULL | EOF)) => {
                    if let Some(section) = self.section_of_footer(self.at) {
                        return Some(section);
                    }
                }
                Some(_) => {}
            }
            self.at += 1;
        }
    }

    /// Place of the section whose footer is at `at`, if one is there. It need
    /// not be the last section: that one may be part of an earlier one's body.
    fn section_of_footer(&self, at: usize) -> Option<usize> {
        let (kind, id) = self.bytes.get(at..at + FOOTER_LEN)?.split_first()?;
        let id = u32::from_be_bytes(id.try_into().ok()?);
        (*kind == FOOTER).then(|| self.ids.get(&id).copied())?
    }

    /// The footer of the section at `index` ends at `end`. What was taken for
    /// sections since it began is part of its body.
    fn close_section(&mut self, index: usize, end: usize) {
        for section in self.sections.drain(index + 1..) {
            self.ids.remove(&section.id);
        }
        self.sections[index].end = end;
    }

    /// Judges what is at `at`, behind the footer of the section at `closed`, if
    /// any.
    fn next_after(&self, at: usize, closed: Option<usize>, limits: &Limits) -> Result<Next, Stop> {
        let mut cursor = Cursor::new(&self.bytes, at);
        Ok(match cursor.u8()? {
            FULL => {
                let header = SectionHeader::parse(&self.bytes, at)?;
                // Ids that were met only inside the closed section's body don't
                // count.
                let again = self.ids.get(&header.id).is_some_and(|&index| Some(index) <= closed);
                if again { Next::Nothing } else { Next::Section }
            }
            EOF => {
                if cursor.u8()? != VMDESCRIPTION {
                    return Ok(Next::Nothing);
                }
                let len = cursor.u32()? as usize;
                let is_object = cursor.u8()? == b'{';
                if len <= limits.max_vmdesc && is_object {
                    Next::Eof { len }
                } else {
                    Next::Nothing
                }
            }
            _ => Next::Nothing,
        })
    }

    fn open_section(&mut self, at: usize, limits: &Limits) -> Result<(), MainError> {
        if self.sections.len() >= limits.max_sections {
            return Err(MainError::TooManySections(limits.max_sections));
        }
        let header = match SectionHeader::parse(&self.bytes, at) {
            Ok(header) => header,
            Err(Stop::Error(error)) => return Err(error),
            Err(Stop::More) => return Err(MainError::NoDeviceSection(FULL)),
        };
        let body = header.end;
        self.ids.insert(header.id, self.sections.len());
        self.sections.push(header.into_info(at, at));
        self.at = body;
        self.scan = Scan::Body;
        Ok(())
    }

    /// Hands the state out, with its end at `eof` and `vmdesc_len` bytes of
    /// vmdesc behind.
    fn complete(&mut self, eof: usize, vmdesc_len: Option<usize>, early: &[String]) -> DeviceState {
        let vmdesc = vmdesc_len.map(|len| self.bytes[eof + VMDESC_HEADER..][..len].to_vec());
        let footer = eof.checked_sub(FOOTER_LEN);
        if let Some(section) = footer.and_then(|footer| self.section_of_footer(footer)) {
            self.close_section(section, eof);
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(eof + 1);
        let mut sections = std::mem::take(&mut self.sections);
        // Sections may have been seen behind an end that was taken back.
        sections.retain(|section| section.start < eof);
        let cut = vmdesc.as_ref().and_then(|text| vmdesc::cut(text, &bytes, early));
        let agrees = cut.is_some();
        DeviceState { bytes, sections: cut.unwrap_or(sections), vmdesc, agrees }
    }
}
