//! The PCI devices, the idxd driver that runs them, and their SVA.
//!
//! An IAA device is `8086:0cfe`. Its sibling DSA (`8086:0b25`) has the same
//! driver and tools but copies instead of decompressing, and is often taken
//! for it. Bound to idxd, each IAA becomes `iaxN` on the bus `dsa`.

use super::root::{Lack, Root};
use super::{Chain, Check};

const INTEL: &str = "0x8086";
const IAA: &str = "0x0cfe";
const DSA: &str = "0x0b25";
const PCI: &str = "sys/bus/pci/devices";
/// Where idxd shows devices and queues, whatever their kind.
pub(super) const BUS: &str = "sys/bus/dsa/devices";
/// Version register of the second generation.
const SECOND_GENERATION: u64 = 0x200;

/// An IAA on the PCI bus.
#[derive(Debug)]
pub(super) struct PciDevice {
    address: String,
    node: String,
    driver: Option<String>,
}

impl PciDevice {
    pub(super) fn path(&self) -> String {
        format!("{PCI}/{}", self.address)
    }
}

/// An IAA that idxd drives.
#[derive(Debug)]
pub(super) struct Iax {
    /// `iax1`, say.
    pub(super) name: String,
    /// `enabled`, `disabled` or `halted`.
    pub(super) state: Result<String, Lack>,
    pub(super) engines: u32,
    /// What the driver says of the last command that it was given.
    pub(super) complaint: Option<String>,
    node: String,
    version: Option<u64>,
    pasid: Result<bool, Lack>,
}

impl Iax {
    /// The number that the names of its queues begin with.
    pub(super) fn number(&self) -> &str {
        self.name.trim_start_matches("iax")
    }

    pub(super) fn enabled(&self) -> bool {
        self.state.as_deref() == Ok("enabled")
    }
}

/// All devices of the host.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) pci: Result<Vec<PciDevice>, Lack>,
    dsa: usize,
    pub(super) iax: Vec<Iax>,
    bus: Option<Lack>,
}

impl Devices {
    pub(super) fn read(root: &Root) -> Devices {
        let mut dsa = 0;
        let pci = root.names(PCI).map(|addresses| {
            let of = |address: &str, name: &str| root.read(&format!("{PCI}/{address}/{name}"));
            let mut found = Vec::new();
            for address in addresses {
                if of(&address, "vendor").as_deref() != Ok(INTEL) {
                    continue;
                }
                match of(&address, "device").as_deref() {
                    Ok(DSA) => dsa += 1,
                    Ok(IAA) => found.push(PciDevice {
                        node: of(&address, "numa_node").unwrap_or_else(|_| "?".into()),
                        driver: root.link_name(&format!("{PCI}/{address}/driver")),
                        address,
                    }),
                    _ => {}
                }
            }
            found
        });
        let names = root.names(BUS);
        let bus = names.as_ref().err().cloned();
        let iax = names
            .unwrap_or_default()
            .into_iter()
            .filter(|name| name.starts_with("iax"))
            .map(|name| {
                let of = |attribute: &str| root.read(&format!("{BUS}/{name}/{attribute}"));
                let version = of("version").ok();
                Iax {
                    state: of("state"),
                    complaint: of("cmd_status").ok().and_then(|status| complaint(&status)),
                    engines: of("max_engines").ok().and_then(|n| n.parse().ok()).unwrap_or(8),
                    node: of("numa_node").unwrap_or_else(|_| "?".into()),
                    version: version
                        .and_then(|v| u64::from_str_radix(v.trim_start_matches("0x"), 16).ok()),
                    pasid: of("pasid_enabled").map(|value| value == "1"),
                    name,
                }
            })
            .collect();
        Devices { pci, dsa, iax, bus }
    }

    pub(super) fn second_generation(&self) -> bool {
        self.iax.iter().any(|iax| iax.version.is_some_and(|v| v >= SECOND_GENERATION))
    }

    /// Whether SVA is seen to work, which proves everything below it.
    pub(super) fn any_with_pasid(&self) -> bool {
        self.iax.iter().any(|iax| iax.pasid == Ok(true))
    }

    /// Whether there is any IAA to speak of.
    pub(super) fn any(&self) -> bool {
        !self.iax.is_empty() || self.pci.as_ref().is_ok_and(|pci| !pci.is_empty())
    }
}

/// Puts the attribute `cmd_status` into words; `None` when there is nothing to
/// complain about.
fn complaint(status: &str) -> Option<String> {
    let number = u32::from_str_radix(status.trim_start_matches("0x"), 16).ok()?;
    // As in Linux's include/uapi/linux/idxd.h.
    let words = match number {
        0 => return None,
        0x8000_0010 => "the device is enabled already",
        0x8000_0020 => "the device is not enabled",
        0x8000_0021 => "the queue is enabled already",
        0x8003_0000 => "the queue belongs to no group",
        0x8004_0000 => "the queue has no name",
        0x8005_0000 => "the queue needs SVA, which is off",
        0x8006_0000 => "the queue has no threshold",
        0x8007_0000 => "the portal cannot be mapped",
        0x800c_0000 => "shared queues are not supported, which means that SVA is off",
        0x800d_0000 => "no queue is set up",
        0x800e_0000 => "the queue has no size",
        0x800f_0000 => "the queue may not be privileged",
        0x8011_0000 => "user queues need SVA, which is off",
        0x8020_0000 => "the queue has no driver_name, or another one",
        _ => "see the kernel's log",
    };
    Some(format!("idxd's last word is {number:#x}: {words}"))
}

pub(super) fn check(chain: &mut Chain, root: &Root, devices: &Devices) {
    let pci = pci(chain, devices);
    chain.push(pci);
    let driver = driver(chain, root, devices);
    chain.push(driver);
    let sva = sva(chain, devices);
    chain.push(sva);
}

fn pci(chain: &Chain, devices: &Devices) -> Check {
    const ID: &str = "pci";
    const TITLE: &str = "IAA devices";
    let found = match &devices.pci {
        Ok(found) => found.as_slice(),
        Err(lack) if devices.iax.is_empty() => {
            return match chain.lacking(&["cpu"]) {
                Some(first) => Check::needs(ID, TITLE, first),
                None => Check::unknown(ID, TITLE, format!("/{PCI} {lack}")),
            };
        }
        Err(_) => &[],
    };
    if !found.is_empty() {
        let list: Vec<_> =
            found.iter().map(|d| format!("{} (NUMA node {})", d.address, d.node)).collect();
        return Check::good(ID, TITLE, list.join(", "));
    }
    if !devices.iax.is_empty() {
        return Check::good(ID, TITLE, "none on the PCI bus here, but idxd drives some");
    }
    if let Some(first) = chain.lacking(&["cpu"]) {
        return Check::needs(ID, TITLE, first);
    }
    let detail = match devices.dsa {
        0 => "no PCI device 8086:0cfe".to_owned(),
        n => format!("no PCI device 8086:0cfe; the {n} DSA devices (8086:0b25) cannot decompress"),
    };
    Check::bad(
        ID,
        TITLE,
        detail,
        "lspci -d 8086:0cfe  # nothing listed: switch on IAA in the BIOS set-up, see whether this \
         CPU model has it (or has it through Intel On Demand); in a virtual machine, pass it on",
    )
}

fn driver(chain: &Chain, root: &Root, devices: &Devices) -> Check {
    const ID: &str = "driver";
    const TITLE: &str = "idxd driver";
    if !devices.iax.is_empty() {
        let how = match root.exists("sys/module/idxd/initstate") {
            true => "as a module",
            false => "built in",
        };
        let names: Vec<_> = devices
            .iax
            .iter()
            .map(|iax| format!("{} (NUMA node {})", iax.name, iax.node))
            .collect();
        return Check::good(ID, TITLE, format!("{how}, drives {}", names.join(", ")));
    }
    if let Some(first) = chain.lacking(&["pci", "kernel"]) {
        return Check::needs(ID, TITLE, first);
    }
    if let Some(Lack::Refused(why)) = &devices.bus {
        return Check::unknown(ID, TITLE, format!("/{BUS} cannot be read: {why}"));
    }
    let pci = devices.pci.as_deref().unwrap_or_default();
    if pci.is_empty() {
        return Check::unknown(ID, TITLE, "the PCI devices are not known");
    }
    let foreign = pci.iter().find_map(|device| {
        let driver = device.driver.as_deref().filter(|driver| *driver != "idxd")?;
        Some((&device.address, driver))
    });
    if let Some((address, driver)) = foreign {
        return Check::bad(
            ID,
            TITLE,
            format!("{address} is bound to {driver}"),
            format!(
                "echo {address} | sudo tee /sys/bus/pci/devices/{address}/driver/unbind\n\
                 sudo modprobe idxd\n\
                 echo {address} | sudo tee /sys/bus/pci/drivers/idxd/bind"
            ),
        );
    }
    if devices.bus.is_some() {
        return Check::bad(ID, TITLE, "not loaded: no /sys/bus/dsa", "sudo modprobe idxd");
    }
    Check::bad(
        ID,
        TITLE,
        "loaded, but drives no IAA",
        "sudo dmesg | grep -i idxd  # says why\nsudo modprobe -r idxd && sudo modprobe idxd",
    )
}

fn sva(chain: &Chain, devices: &Devices) -> Check {
    const ID: &str = "sva";
    const TITLE: &str = "shared virtual memory";
    let which = |want: &Result<bool, Lack>| -> Vec<&str> {
        let these = devices.iax.iter().filter(|iax| iax.pasid == *want);
        these.map(|iax| iax.name.as_str()).collect()
    };
    let (with, without) = (which(&Ok(true)), which(&Ok(false)));
    if !with.is_empty() {
        let rest = match without.is_empty() {
            true => String::new(),
            false => format!("; off for {}", without.join(", ")),
        };
        return Check::good(ID, TITLE, format!("on for {}{rest}", with.join(", ")));
    }
    if let Some(first) = chain.lacking(&["cpu", "driver", "kernel", "cmdline", "iommu", "paging"]) {
        return Check::needs(ID, TITLE, first);
    }
    if without.is_empty() {
        let lack = devices.iax.iter().find_map(|iax| iax.pasid.as_ref().err());
        let why =
            lack.map_or("there is no device to ask".into(), |lack| format!("pasid_enabled {lack}"));
        return Check::unknown(ID, TITLE, why);
    }
    Check::bad(
        ID,
        TITLE,
        format!("pasid_enabled is 0 for {}", without.join(", ")),
        "sudo dmesg | grep -i -e DMAR -e SVA -e idxd  # says why\n\
         sudo modprobe -r iaa_crypto idxd; sudo modprobe idxd",
    )
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn the_drivers_word_is_understood() {
        assert_eq!(complaint("0x0"), None);
        assert_eq!(complaint("0"), None);
        assert_eq!(complaint("garbage"), None);
        let said = complaint("0x80110000").unwrap();
        assert_eq!(said, "idxd's last word is 0x80110000: user queues need SVA, which is off");
    }
}
