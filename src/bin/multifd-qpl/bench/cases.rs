//! The VMs that are measured, and the ways of receiving them.

use std::{path::Path, str::FromStr};

use multifd_qpl::{recording::Pattern, wire::MethodId};
use serde::Serialize;

use crate::args;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// How large the VMs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Seconds, on any host.
    Small,
    /// As published, as far as memory goes.
    Published,
    /// RAM of the largest VM.
    Ram(u64),
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "small" => Ok(Self::Small),
            "published" => Ok(Self::Published),
            _ => match args::size(text)? {
                // Below this nothing but start-up would be measured.
                ram if ram < 256 * MIB => Err("256M is the least".to_owned()),
                ram => Ok(Self::Ram(ram / (256 * MIB) * (256 * MIB))),
            },
        }
    }
}

/// A way of receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Contender {
    /// What it is called in tables.
    pub name: &'static str,
    /// Placement; what the receiver chooses when `None`.
    pub placement: Option<&'static str>,
    /// What is done about zero pages.
    pub zero_mode: &'static str,
    /// What it stands for.
    pub about: &'static str,
}

const fn contender(
    name: &'static str,
    placement: Option<&'static str>,
    zero_mode: &'static str,
    about: &'static str,
) -> Contender {
    Contender { name, placement, zero_mode, about }
}

/// All ways of receiving, the default first.
pub const CONTENDERS: [Contender; 7] = [
    contender("default", None, "map", "no option given: the map, and the placement found best"),
    contender("place", Some("place"), "map", "UFFDIO_COPY of runs from resident staging"),
    contender("populate", Some("populate"), "map", "MADV_POPULATE_WRITE of runs, then stores"),
    contender("huge", Some("huge"), "map", "transparent huge pages where a region is dense"),
    contender("fault", Some("fault"), "map", "the map, and stores that fault page by page"),
    contender(
        "read-check",
        Some("fault"),
        "read-check",
        "receivers before the map: each zero page is read, stores fault page by page",
    ),
    contender(
        "one-bit",
        Some("fault"),
        "one-bit",
        "QEMU's map today: one bit a page, stores fault page by page",
    ),
];

/// The default and those that it is compared with in every case.
fn main_contenders() -> Vec<Contender> {
    let names = ["default", "huge", "read-check", "one-bit"];
    CONTENDERS.into_iter().filter(|contender| names.contains(&contender.name)).collect()
}

/// One VM.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// Bytes of RAM.
    pub ram: u64,
    /// Bytes of it that hold data.
    pub used: u64,
    /// What the data is like.
    #[serde(skip)]
    pub pattern: Pattern,
    /// Methods to measure it with.
    #[serde(skip)]
    pub methods: Vec<MethodId>,
    /// Ways of receiving it.
    #[serde(skip)]
    pub contenders: Vec<Contender>,
}

impl Case {
    /// The VMs of a size. `full_data` is the data of the nearly full VM in size
    /// published.
    pub fn all(size: Size, full_data: u64) -> Vec<Self> {
        let case = |name: &str, ram, used, pattern, methods: &[MethodId], contenders| Self {
            name: name.to_owned(),
            ram,
            used,
            pattern,
            methods: methods.to_vec(),
            contenders,
        };
        let whole = |bytes: u64| (bytes / MIB).max(1) * MIB;
        let (idle_ram, idle_used, full_used, dense, empty) = match size {
            Size::Small => (4 * GIB, 128 * MIB, 112 * MIB, 128 * MIB, 4 * GIB),
            Size::Published => (64 * GIB, 2 * GIB, full_data.min(56 * GIB), 2 * GIB, 16 * GIB),
            Size::Ram(ram) => (ram, ram / 32, ram / 8, ram / 32, ram),
        };
        let full_ram = whole(full_used / 56 * 64);
        let every = [MethodId::None, MethodId::Qpl, MethodId::Zstd, MethodId::Zlib];
        let published = [MethodId::None, MethodId::Qpl];
        let few = main_contenders;
        vec![
            case("idle", idle_ram, idle_used, Pattern::Dense, &every, CONTENDERS.to_vec()),
            case("full", full_ram, whole(full_used), Pattern::Dense, &published, few()),
            case("dense", dense, dense, Pattern::Dense, &published, few()),
            case("scattered", 8 * dense, dense, Pattern::Scattered, &published, few()),
            case("empty", empty, 0, Pattern::Dense, &[MethodId::None], few()),
        ]
    }

    /// A recording that exists.
    pub fn recorded(dir: &Path) -> Self {
        let name = dir.file_name().map_or_else(|| dir.to_string_lossy(), |n| n.to_string_lossy());
        Self {
            name: name.into_owned(),
            ram: 0,
            used: 0,
            pattern: Pattern::Dense,
            methods: Vec::new(),
            contenders: CONTENDERS.to_vec(),
        }
    }

    /// A VM to try engines with.
    pub fn probe() -> Self {
        Self {
            name: "probe".to_owned(),
            ram: 2 * MIB,
            used: MIB,
            pattern: Pattern::Text,
            methods: Vec::new(),
            contenders: CONTENDERS[..1].to_vec(),
        }
    }
}
