//! What comes before and between the sections: configuration and commands, and
//! the check that a START section is one that can be received.

use super::cursor::{Cursor, Stop};
use super::devices::SectionHeader;
use super::{CONFIGURATION, Command, Configuration, MainError, SUBSECTION};
use crate::wire::{MAIN_MAGIC, PAGE_SIZE};

const VERSION: u32 = 3;
const MAX_MACHINE_NAME: u32 = 1024;
const MAX_CAPABILITIES: u32 = 64;
const PAGE_BITS: u32 = PAGE_SIZE.trailing_zeros();

/// Reads file header and configuration. Also tells whether the source ignores
/// shared memory, which changes the list of RAMBlocks.
///
/// Subsections have neither count nor end mark: only the byte behind them tells
/// that there are no more, so it has to be there.
pub(super) fn configuration(cursor: &mut Cursor<'_>) -> Result<(Configuration, bool), Stop> {
    let magic = *cursor.array()?;
    if magic != MAIN_MAGIC {
        return Err(MainError::Magic(u32::from_be_bytes(magic)).into());
    }
    let version = cursor.u32()?;
    if version != VERSION {
        return Err(MainError::Version(version).into());
    }
    if cursor.u8()? != CONFIGURATION {
        return Err(MainError::NoConfiguration.into());
    }

    let len = cursor.u32()?;
    if len > MAX_MACHINE_NAME {
        return Err(MainError::MachineName(len).into());
    }
    let machine = cursor.text(len as usize)?;

    let mut capabilities = None;
    let mut uuid = None;
    let mut page_bits = None;
    loop {
        let mut part = *cursor;
        if part.u8()? != SUBSECTION {
            break;
        }
        let name = part.name()?;
        let version = part.u32()?;
        match (name, version) {
            ("configuration/capabilities", 1) if capabilities.is_none() => {
                capabilities = Some(read_capabilities(&mut part)?);
            }
            ("configuration/uuid", 1) if uuid.is_none() => uuid = Some(*part.array()?),
            ("configuration/target-page-bits", 1) if page_bits.is_none() => {
                page_bits = Some(part.u32()?);
            }
            _ => return Err(MainError::ConfigurationPart(name.to_owned(), version).into()),
        }
        *cursor = part;
    }
    if let Some(bits) = page_bits.filter(|&bits| bits != PAGE_BITS) {
        return Err(MainError::PageBits(bits).into());
    }

    let capabilities: Vec<String> =
        capabilities.unwrap_or_default().into_iter().map(str::to_owned).collect();
    let ignore_shared = !capabilities.is_empty();
    Ok((Configuration { machine: machine.to_owned(), capabilities, uuid }, ignore_shared))
}

/// Only `x-ignore-shared` passes; of any other the stream's form isn't known.
fn read_capabilities<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<&'a str>, Stop> {
    let count = cursor.u32()?;
    if count > MAX_CAPABILITIES {
        return Err(MainError::CapabilityCount(count).into());
    }
    let mut names = Vec::new();
    for _ in 0..count {
        let name = cursor.name()?;
        if name != "x-ignore-shared" {
            return Err(MainError::Capability(name.to_owned()).into());
        }
        names.push(name);
    }
    Ok(names)
}

/// Reads a command behind its type byte. With POSTCOPY_ADVISE comes the OR of
/// all host page sizes, if RAM is meant.
pub(super) fn command(cursor: &mut Cursor<'_>) -> Result<(Command, Option<u64>), Stop> {
    let command = cursor.u16()?;
    let len = cursor.u16()?;
    let refuse = |name, feature| Err(Stop::from(MainError::Command { name, feature }));
    let wrong_length = || Err(Stop::from(MainError::CommandLength { command, len }));
    let postcopy = "postcopy";
    match (command, len) {
        (1, 0) => Ok((Command::OpenReturnPath, None)),
        (2, 4) => Ok((Command::Ping(cursor.u32()?), None)),
        (3, 0) => Ok((Command::PostcopyAdvise, None)),
        (3, 16) => {
            let sizes = cursor.u64()?;
            let page = cursor.u64()?;
            if page != PAGE_SIZE as u64 {
                return Err(MainError::PageBits(page.trailing_zeros()).into());
            }
            Ok((Command::PostcopyAdvise, Some(sizes)))
        }
        (4, _) => refuse("POSTCOPY_LISTEN", postcopy),
        (5, _) => refuse("POSTCOPY_RUN", postcopy),
        (6, _) => refuse("POSTCOPY_RAM_DISCARD", postcopy),
        (7, _) => refuse("PACKAGED", postcopy),
        (8, _) => refuse("ENABLE_COLO", "COLO"),
        (9, _) => refuse("POSTCOPY_RESUME", "postcopy recovery"),
        (10, _) => refuse("RECV_BITMAP", "postcopy recovery"),
        (11, 0) => Ok((Command::SwitchoverStart, None)),
        (1 | 2 | 3 | 11, _) => wrong_length(),
        _ => Err(MainError::UnknownCommand(command).into()),
    }
}

/// START sections of anything but RAM have bodies of unknown form and length.
pub(super) fn check_ram(start: &SectionHeader<'_>) -> Result<(), MainError> {
    let SectionHeader { idstr, instance, version, .. } = *start;
    let hint = match idstr {
        "ram" if (instance, version) == (0, 4) => return Ok(()),
        "ram" => return Err(MainError::RamVersion { instance, version }),
        "dirty-bitmap" => "turn off the capability dirty-bitmaps",
        "block" => "migrate without block migration",
        _ if idstr.ends_with("/vfio") => "unplug assigned devices before migrating",
        _ => "only RAM may be sent in parts",
    };
    Err(MainError::Section { idstr: idstr.to_owned(), hint })
}
