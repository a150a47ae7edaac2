//! The IOMMU: there, in scalable mode, and with the CPU's paging levels.
//!
//! Shared virtual memory means that the IOMMU walks the process's own page
//! tables. That takes PASIDs and scalable mode, and tables of a depth that the
//! IOMMU knows: on a CPU that pages with five levels (LA57) before an IOMMU
//! that knows four, the kernel leaves SVA off without a word.

use super::cpu_kernel::Host;
use super::mend::Mend;
use super::pci::Devices;
use super::root::{Lack, Root};
use super::{Chain, Check};

/// Bit of the capability register: first-level tables may have five levels.
const CAP_FIVE_LEVELS: u32 = 60;
/// Bits of the extended capability register.
const ECAP_SCALABLE: u32 = 43;
const ECAP_PASID: u32 = 40;
const ECAP_PAGE_REQUESTS: u32 = 29;

/// The registers of one unit, as sysfs shows them.
struct Unit {
    name: String,
    cap: Result<u64, Lack>,
    ecap: Result<u64, Lack>,
}

fn units(root: &Root) -> Result<Vec<Unit>, Lack> {
    let register = |name: &str, register: &str| {
        let text = root.read(&format!("sys/class/iommu/{name}/intel-iommu/{register}"))?;
        u64::from_str_radix(text.trim_start_matches("0x"), 16)
            .map_err(|_| Lack::Refused(format!("{text:?} is no number")))
    };
    let names = match root.names("sys/class/iommu") {
        Ok(names) => names,
        Err(Lack::Absent) => Vec::new(),
        Err(lack) => return Err(lack),
    };
    let units = names.into_iter().filter(|name| name.starts_with("dmar"));
    Ok(units
        .map(|name| {
            let (cap, ecap) = (register(&name, "cap"), register(&name, "ecap"));
            Unit { name, cap, ecap }
        })
        .collect())
}

/// The units that IAA devices sit behind.
///
/// A host has others that serve other buses and may well do less. Where sysfs
/// does not tell which are which, all are here, and nothing can be held against
/// the devices unless all of them lack it.
struct Matter<'a> {
    units: Vec<&'a Unit>,
    known: bool,
}

impl<'a> Matter<'a> {
    fn of(root: &Root, units: &'a [Unit], devices: &Devices) -> Matter<'a> {
        let before: Vec<String> = devices
            .pci
            .iter()
            .flatten()
            .filter_map(|device| root.link_name(&format!("{}/iommu", device.path())))
            .collect();
        let these: Vec<_> = units.iter().filter(|unit| before.contains(&unit.name)).collect();
        match these.is_empty() {
            true => Matter { units: units.iter().collect(), known: false },
            false => Matter { units: these, known: true },
        }
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.units.iter().map(|unit| unit.name.as_str()).collect();
        names.join(", ")
    }

    /// Whether the devices' units have a bit; `None` if that cannot be told.
    fn have(&self, register: fn(&Unit) -> &Result<u64, Lack>, bit: u32) -> Option<bool> {
        let mut seen = [0, 0];
        for unit in &self.units {
            let value = register(unit).as_ref().ok()?;
            seen[usize::from(value >> bit & 1 == 1)] += 1;
        }
        match seen {
            [0, _] => Some(true),
            [_, 0] => Some(false),
            _ if self.known => Some(false),
            _ => None,
        }
    }
}

pub(super) fn check(chain: &mut Chain, root: &Root, host: &Host, devices: &Devices, mend: &Mend) {
    let units = units(root);
    let present = present(chain, root, &units, devices);
    chain.push(present);
    let paging = paging(chain, root, &units, host, devices, mend);
    chain.push(paging);
}

fn present(
    chain: &Chain,
    root: &Root,
    units: &Result<Vec<Unit>, Lack>,
    devices: &Devices,
) -> Check {
    const ID: &str = "iommu";
    const TITLE: &str = "IOMMU";
    let units = match units {
        Ok(units) => units,
        Err(lack) => return Check::unknown(ID, TITLE, format!("/sys/class/iommu {lack}")),
    };
    if devices.any_with_pasid() {
        let detail = format!("{} Intel units; SVA is on, so they do what is needed", units.len());
        return Check::good(ID, TITLE, detail);
    }
    if units.is_empty() {
        if let Some(first) = chain.lacking(&["cpu", "cmdline"]) {
            return Check::needs(ID, TITLE, first);
        }
        return Check::bad(
            ID,
            TITLE,
            "the kernel found no Intel IOMMU (no /sys/class/iommu/dmar*)",
            "# switch on VT-d in the BIOS set-up; in a virtual machine, give it a virtual IOMMU",
        );
    }
    let matter = Matter::of(root, units, devices);
    for (bit, what) in [(ECAP_SCALABLE, "scalable mode"), (ECAP_PASID, "PASIDs")] {
        if matter.have(|unit| &unit.ecap, bit) == Some(false) {
            if let Some(first) = chain.lacking(&["cpu"]) {
                return Check::needs(ID, TITLE, first);
            }
            return Check::bad(
                ID,
                TITLE,
                format!("{} without {what}", matter.names()),
                "# update the BIOS and switch on VT-d there; an IOMMU without it cannot serve IAA",
            );
        }
    }
    if let Some(Err(lack)) = matter.units.iter().map(|unit| &unit.ecap).find(|ecap| ecap.is_err()) {
        return Check::unknown(ID, TITLE, format!("{}: ecap {lack}", matter.names()));
    }
    let requests = match matter.have(|unit| &unit.ecap, ECAP_PAGE_REQUESTS) {
        Some(true) => ", page requests",
        Some(false) => ", no page requests",
        None => "",
    };
    Check::good(ID, TITLE, format!("{}: scalable mode, PASIDs{requests}", matter.names()))
}

fn paging(
    chain: &Chain,
    root: &Root,
    units: &Result<Vec<Unit>, Lack>,
    host: &Host,
    devices: &Devices,
    mend: &Mend,
) -> Check {
    const ID: &str = "paging";
    const TITLE: &str = "paging levels";
    match host.flag("la57") {
        None => return Check::unknown(ID, TITLE, "the CPU is not known"),
        Some(false) => return Check::not_needed(ID, TITLE, "the CPU pages with four levels"),
        Some(true) => {}
    }
    if devices.any_with_pasid() {
        return Check::good(ID, TITLE, "the CPU pages with five levels, and SVA is on");
    }
    if let Some(first) = chain.lacking(&["cpu"]) {
        return Check::needs(ID, TITLE, first);
    }
    let units = match units {
        Ok(units) if !units.is_empty() => units,
        _ => match chain.lacking(&["iommu"]) {
            Some(first) => return Check::needs(ID, TITLE, first),
            None => return Check::unknown(ID, TITLE, "the IOMMU is not known"),
        },
    };
    match Matter::of(root, units, devices).have(|unit| &unit.cap, CAP_FIVE_LEVELS) {
        Some(true) => Check::good(ID, TITLE, "CPU and IOMMU know five levels"),
        Some(false) => Check::bad(
            ID,
            TITLE,
            "the CPU pages with five levels and the IOMMU knows four, so the kernel leaves SVA \
             off",
            mend.boot_with("no5lvl"),
        ),
        None => Check::unknown(
            ID,
            TITLE,
            "the CPU pages with five levels; whether the IOMMU before the device does is not \
             to be seen",
        ),
    }
}
