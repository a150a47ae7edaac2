//! The CPU, the kernel's version and its command line.
//!
//! A program hands work to a shared queue with ENQCMD, so the CPU must have
//! it and the kernel must let it be used. User queues need SVA, which idxd and
//! the Intel IOMMU driver give from Linux 5.18 on for devices of the first
//! generation and from 6.3 on for the second, once the IOMMU runs in scalable
//! mode.

use super::mend::Mend;
use super::pci::Devices;
use super::root::{Lack, Root};
use super::{Chain, Check};

const KNOWN_MODELS: [(u32, &str); 6] = [
    (143, "Sapphire Rapids"),
    (207, "Emerald Rapids"),
    (173, "Granite Rapids"),
    (174, "Granite Rapids-D"),
    (175, "Sierra Forest"),
    (221, "Clearwater Forest"),
];

/// What several checks want to know of CPU and kernel.
#[derive(Debug)]
pub(super) struct Host {
    cpu: Result<Cpu, Lack>,
    release: Result<String, Lack>,
    config: Option<String>,
    cmdline: Result<String, Lack>,
}

#[derive(Debug)]
struct Cpu {
    vendor: String,
    family: u32,
    model: u32,
    name: String,
    flags: Vec<String>,
}

impl Host {
    pub(super) fn read(root: &Root) -> Host {
        let release = root.read("proc/sys/kernel/osrelease");
        let config = release
            .as_ref()
            .ok()
            .and_then(|release| root.read(&format!("boot/config-{release}")).ok());
        Host {
            cpu: root.read("proc/cpuinfo").map(|text| Cpu::parse(&text)),
            release,
            config,
            cmdline: root.read("proc/cmdline"),
        }
    }

    /// Whether the kernel runs the CPU with this feature; `None` if unknown.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.cpu.as_ref().ok().map(|cpu| cpu.has(name))
    }

    /// Whether the kernel was built with `name=y` or `=m`; `None` if unknown.
    fn built_with(&self, name: &str) -> Option<bool> {
        let config = self.config.as_ref()?;
        let is =
            |line: &str| line.strip_prefix(name).is_some_and(|rest| rest == "=y" || rest == "=m");
        Some(config.lines().any(is))
    }
}

impl Cpu {
    /// Reads the first processor of `/proc/cpuinfo`.
    fn parse(text: &str) -> Cpu {
        let first = text.split("\n\n").next().unwrap_or_default();
        let value = |key: &str| {
            let fields = first.lines().filter_map(|line| line.split_once(':'));
            fields
                .map(|(name, value)| (name.trim(), value.trim()))
                .find(|(name, _)| *name == key)
                .map_or("", |(_, value)| value)
        };
        Cpu {
            vendor: value("vendor_id").into(),
            family: value("cpu family").parse().unwrap_or(0),
            model: value("model").parse().unwrap_or(0),
            name: value("model name").into(),
            flags: value("flags").split_whitespace().map(str::to_owned).collect(),
        }
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|have| have == flag)
    }

    fn generation(&self) -> Option<&'static str> {
        let known = KNOWN_MODELS.iter().find(|(model, _)| *model == self.model);
        known.filter(|_| self.vendor == "GenuineIntel" && self.family == 6).map(|(_, name)| *name)
    }
}

/// The leading numbers of a release such as `6.9.1-2-amd64`.
fn version(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse().ok())
        .chain(std::iter::repeat(0));
    let (major, minor, patch) = (numbers.next()?, numbers.next()?, numbers.next()?);
    (major > 0).then_some((major, minor, patch))
}

pub(super) fn check(chain: &mut Chain, root: &Root, host: &Host, devices: &Devices, mend: &Mend) {
    chain.push(cpu(root, host));
    let kernel = kernel(chain, host, devices);
    chain.push(kernel);
    let cmdline = cmdline(chain, host, devices, mend);
    chain.push(cmdline);
}

fn cpu(root: &Root, host: &Host) -> Check {
    const ID: &str = "cpu";
    const TITLE: &str = "CPU";
    let cpu = match &host.cpu {
        Ok(cpu) if !cpu.vendor.is_empty() => cpu,
        Ok(_) => return Check::unknown(ID, TITLE, "/proc/cpuinfo names no vendor"),
        Err(lack) => return Check::unknown(ID, TITLE, format!("/proc/cpuinfo {lack}")),
    };
    let generation = cpu.generation().map(|name| format!(", {name}")).unwrap_or_default();
    let who = format!("{}{generation} (family {} model {})", cpu.name, cpu.family, cpu.model);
    if cpu.has("enqcmd") {
        return Check::good(ID, TITLE, format!("{who}, enqcmd"));
    }
    let hidden = cpu.generation().is_some();
    let detail = if hidden {
        format!("{who} has IAA, but the kernel does not offer enqcmd")
    } else {
        format!("{who} has no IAA: no enqcmd")
    };
    let fix = if !hidden {
        "# use a host with a 4th generation Xeon Scalable CPU (Sapphire Rapids) or a later one"
            .into()
    } else if cpu.has("hypervisor") {
        "# this is a virtual machine: give it a host CPU model (-cpu host) and a virtual IOMMU \
         with PASID, or run on the host"
            .into()
    } else if host.built_with("CONFIG_INTEL_IOMMU_SVM") == Some(false) {
        "# use a kernel built with CONFIG_INTEL_IOMMU_SVM=y".to_owned()
    } else if root.exists("proc/config.gz") {
        "zgrep -E 'INTEL_IOMMU_SVM|INTEL_IDXD' /proc/config.gz  # each must be set".into()
    } else {
        "grep -E 'INTEL_IOMMU_SVM|INTEL_IDXD' /boot/config-$(uname -r)  # each must be set".into()
    };
    Check::bad(ID, TITLE, detail, fix)
}

fn kernel(chain: &Chain, host: &Host, devices: &Devices) -> Check {
    const ID: &str = "kernel";
    const TITLE: &str = "kernel version";
    let release = match &host.release {
        Ok(release) => release,
        Err(lack) => {
            return Check::unknown(ID, TITLE, format!("/proc/sys/kernel/osrelease {lack}"));
        }
    };
    let Some((major, minor, _)) = version(release) else {
        return Check::unknown(ID, TITLE, format!("{release:?} is no version number"));
    };
    let second = devices.second_generation();
    let (need, which) = if second { ((6, 3), "second") } else { ((5, 18), "first") };
    let needed = format!("{}.{} or newer for IAA of the {which} generation", need.0, need.1);
    let missing: Vec<_> = ["CONFIG_INTEL_IOMMU_SVM", "CONFIG_INTEL_IDXD"]
        .into_iter()
        .filter(|name| host.built_with(name) == Some(false))
        .collect();
    let names = missing.join(" and ");
    let (detail, fix) = if (major, minor) < need {
        let fix = format!("# install and boot Linux {}.{} or newer", need.0, need.1);
        (format!("{release}, needs {needed}"), fix)
    } else if !missing.is_empty() {
        let fix = format!("# use a kernel built with {names}");
        (format!("{release} was built without {names}"), fix)
    } else {
        return Check::good(ID, TITLE, format!("{release} ({needed})"));
    };
    match chain.lacking(&["cpu"]) {
        Some(first) => Check::needs(ID, TITLE, first),
        None => Check::bad(ID, TITLE, detail, fix),
    }
}

fn cmdline(chain: &Chain, host: &Host, devices: &Devices, mend: &Mend) -> Check {
    const ID: &str = "cmdline";
    const TITLE: &str = "kernel command line";
    if devices.any_with_pasid() {
        return Check::good(ID, TITLE, "SVA is on, so scalable mode is");
    }
    let line = match &host.cmdline {
        Ok(line) => line,
        Err(lack) => return Check::unknown(ID, TITLE, format!("/proc/cmdline {lack}")),
    };
    let mut on = host.built_with("CONFIG_INTEL_IOMMU_DEFAULT_ON") == Some(true);
    let mut scalable = host.built_with("CONFIG_INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON") == Some(true);
    let built_in = on && scalable;
    let given = line.split_whitespace().filter_map(|word| word.strip_prefix("intel_iommu="));
    for option in given.flat_map(|value| value.split(',')) {
        match option {
            "on" => on = true,
            "off" => on = false,
            "sm_on" => scalable = true,
            "sm_off" => scalable = false,
            _ => {}
        }
    }
    if line.split_whitespace().any(|word| word == "iommu=off") {
        on = false;
    }
    if on && scalable {
        let how = if built_in { "the kernel's own default" } else { "intel_iommu=on,sm_on" };
        return Check::good(ID, TITLE, how);
    }
    if let Some(first) = chain.lacking(&["cpu"]) {
        return Check::needs(ID, TITLE, first);
    }
    let missing = match (on, scalable) {
        (true, false) => "the IOMMU is on but not in scalable mode: sm_on is missing",
        (false, true) => "the IOMMU is not switched on: intel_iommu=on is missing",
        _ => "intel_iommu=on,sm_on is missing",
    };
    Check::bad(ID, TITLE, missing, mend.boot_with("intel_iommu=on,sm_on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(version("6.9.1-2-amd64"), Some((6, 9, 1)));
        assert_eq!(version("5.18.0"), Some((5, 18, 0)));
        assert_eq!(version("6.12-rc3"), Some((6, 12, 0)));
        assert_eq!(version("7"), Some((7, 0, 0)));
        assert_eq!(version("next"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn the_first_processor_speaks_for_all() {
        let cpu = Cpu::parse(
            "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n\
             model name\t: Intel(R) Xeon(R)\nflags\t\t: fpu la57 enqcmd\n\nprocessor\t: 1\n",
        );
        assert_eq!(cpu.generation(), Some("Sapphire Rapids"));
        assert!(cpu.has("enqcmd") && cpu.has("la57") && !cpu.has("enq"));
        assert!(Cpu::parse("").vendor.is_empty());
    }
}
