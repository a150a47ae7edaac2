//! The counters with which a person sees page faults and IOTLB flushes.
//!
//! Tracepoints of the IOMMU driver tell each page request of a device, and a
//! perf PMU for each device counts translations, operations and errors. Both
//! are for looking on: nothing here decides whether the device works.

use super::pci::Devices;
use super::root::{Lack, Root};
use super::{Chain, Check};

pub(super) fn check(chain: &mut Chain, root: &Root, devices: &Devices) {
    let tracefs = tracefs(chain, root);
    chain.push(tracefs.advice());
    let perf = perf(chain, root, devices);
    chain.push(perf.advice());
}

fn tracefs(chain: &Chain, root: &Root) -> Check {
    const ID: &str = "tracefs";
    const TITLE: &str = "tracepoints of the IOMMU";
    const DIR: &str = "sys/kernel/tracing/events/intel_iommu";
    match root.names(DIR) {
        Ok(names) if names.iter().any(|name| name == "prq_report") => {
            return Check::good(ID, TITLE, format!("/{DIR}/prq_report tells page requests"));
        }
        Ok(names) if !names.is_empty() => {
            return Check::good(ID, TITLE, format!("/{DIR}, without prq_report"));
        }
        _ => {}
    }
    if let Some(first) = chain.lacking(&["cpu", "pci"]) {
        return Check::needs(ID, TITLE, first);
    }
    match root.names("sys/kernel/tracing/events") {
        Ok(_) => Check::unknown(ID, TITLE, "the kernel has no tracepoints of the Intel IOMMU"),
        Err(Lack::Absent) => Check::bad(
            ID,
            TITLE,
            "tracefs is not mounted, or this user may not look into it",
            "sudo mount -t tracefs tracefs /sys/kernel/tracing\n\
             sudo ls /sys/kernel/tracing/events/intel_iommu",
        ),
        Err(Lack::Refused(why)) => Check::bad(
            ID,
            TITLE,
            format!("/sys/kernel/tracing: {why}"),
            "sudo ls /sys/kernel/tracing/events/intel_iommu  # works as root only",
        ),
    }
}

fn perf(chain: &Chain, root: &Root, devices: &Devices) -> Check {
    const ID: &str = "perf";
    const TITLE: &str = "perf counters of the devices";
    const DIR: &str = "sys/bus/event_source/devices";
    let names = root.names(DIR).unwrap_or_default();
    let units: Vec<_> = names.into_iter().filter(|name| name.starts_with("iax")).collect();
    if units.is_empty() {
        if let Some(first) = chain.lacking(&["cpu", "pci", "driver"]) {
            return Check::needs(ID, TITLE, first);
        }
        let fix = "grep CONFIG_INTEL_IDXD_PERFMON /boot/config-$(uname -r)  # must be y";
        let detail = format!("no /{DIR}/iax* for {} devices", devices.iax.len());
        return Check::bad(ID, TITLE, detail, fix);
    }
    let units = units.join(", ");
    let paranoid = root.read("proc/sys/kernel/perf_event_paranoid").ok();
    match paranoid.and_then(|level| level.parse::<i32>().ok()) {
        Some(level) if level <= 0 => Check::good(ID, TITLE, units),
        Some(level) => Check::bad(
            ID,
            TITLE,
            format!("{units}; perf_event_paranoid is {level}, so only root may count"),
            "sudo sysctl kernel.perf_event_paranoid=0",
        ),
        None => Check::unknown(ID, TITLE, format!("{units}; perf_event_paranoid is not known")),
    }
}
