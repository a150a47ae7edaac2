//! Whole hosts: nothing there, everything right, and what follows from what.

use multifd_qpl::doctor::State;

use crate::tree::{BUS, DMAR, Host, PCI, ids};

#[test]
fn nothing_at_all_is_no_error() {
    let report = Host::empty().examine();
    assert!(ids(&report, State::Good).iter().all(|id| *id == "numa-balancing"));
    assert_eq!(report.check("cpu").unwrap().detail, "/proc/cpuinfo does not exist");
    assert_eq!(report.check("kernel").unwrap().state, State::Unknown);
    assert_eq!(report.check("round-trip").unwrap().state, State::Unknown);
    assert!(!report.iaa_usable());
}

#[test]
fn a_host_without_iaa_has_one_thing_to_say() {
    let report = Host::amd().examine();
    let chain: Vec<_> = ids(&report, State::Bad).into_iter().collect();
    assert_eq!(chain, ["cpu", "hugepages"], "hugepages stand beside the chain");
    for id in ["cmdline", "iommu", "pci", "driver", "sva", "queues", "portal", "qpl-init"] {
        let check = report.check(id).unwrap();
        assert_eq!((check.state, check.detail.as_str()), (State::Unknown, "needs CPU first"));
        assert_eq!(check.fix, None);
    }
    for id in ["accel-config", "libqpl", "paging"] {
        assert_eq!(report.check(id).unwrap().state, State::NotNeeded, "{id}");
    }
    assert_eq!(report.verdict.engine, "software");
    assert_eq!(report.verdict.mend.as_deref(), Some("cpu"));
}

#[test]
fn a_perfect_host_is_good_throughout_and_in_order() {
    let report = Host::sapphire_rapids().examine();
    let all = [
        "cpu",
        "kernel",
        "cmdline",
        "iommu",
        "paging",
        "pci",
        "driver",
        "sva",
        "device:iax1",
        "queue:wq1.0",
        "node:wq1.0",
        "queues",
        "accel-config",
        "libqpl",
        "portal",
        "qpl-init",
        "round-trip",
        "userfaultfd",
        "populate",
        "hugepages",
        "numa-balancing",
        "tracefs",
        "perf",
    ];
    assert_eq!(ids(&report, State::Good), all);
    assert_eq!(report.checks.len(), all.len());
    assert!(report.checks.iter().all(|check| check.fix.is_none()));
    assert!(report.iaa_usable());
    assert_eq!(report.verdict.mend, None);
    assert_eq!(
        report.verdict.sentence,
        "Pages are decompressed by engine iaa here; nothing has to be mended."
    );
}

#[test]
fn before_idxd_runs_the_iommu_is_judged_by_its_registers() {
    let mut host = Host::sapphire_rapids();
    host.without_idxd();
    let report = host.examine();
    let iommu = report.check("iommu").unwrap();
    assert_eq!(iommu.state, State::Good);
    assert_eq!(iommu.detail, "dmar3: scalable mode, PASIDs, page requests");
    assert_eq!(report.check("paging").unwrap().state, State::Good);

    // Which unit serves the device is not to be seen: the poor one proves
    // nothing, and the rich one neither.
    host.remove(&format!("{PCI}/iommu"));
    let report = host.examine();
    assert_eq!(report.check("iommu").unwrap().state, State::Good);
    assert_eq!(report.check("paging").unwrap().state, State::Unknown);

    host.write(&format!("{DMAR}/ecap"), "no number");
    assert_eq!(host.examine().check("iommu").unwrap().state, State::Unknown);
}

#[test]
fn one_cause_gives_one_bad_line() {
    let mut host = Host::sapphire_rapids();
    host.without_idxd();
    let report = host.examine();
    assert_eq!(ids(&report, State::Bad), ["driver"]);
    for id in ["sva", "queues", "portal"] {
        assert_eq!(report.check(id).unwrap().detail, "needs idxd driver first", "{id}");
    }
    let init = &report.check("qpl-init").unwrap().detail;
    assert!(init.starts_with("needs idxd driver first (libqpl says 503: "), "{init}");
    assert_eq!(report.check("round-trip").unwrap().detail, "needs idxd driver first");
}

#[test]
fn a_page_that_came_through_outweighs_all_doubt() {
    // As with a stand-in for libaccel-config on a host without a device.
    let mut host = Host::amd();
    host.probes.library = Host::sapphire_rapids().probes.library;
    let report = host.examine();
    assert!(report.iaa_usable());
    let trip = report.check("round-trip").unwrap();
    assert!(trip.detail.contains("something else answers"));
    assert!(report.verdict.sentence.contains("stands in for libaccel-config"));
    assert_eq!(report.verdict.mend, None);
}

#[test]
fn directories_in_the_place_of_files_are_unknown_and_nothing_breaks() {
    let host = Host::sapphire_rapids();
    for path in ["proc/cpuinfo", "proc/cmdline", "proc/sys/kernel/osrelease"] {
        host.remove(path);
        host.write(&format!("{path}/inside"), "");
    }
    for name in ["state", "mode", "type", "size", "max_transfer_size", "block_on_fault"] {
        host.remove(&format!("{BUS}/wq1.0/{name}"));
        host.write(&format!("{BUS}/wq1.0/{name}/inside"), "");
    }
    let report = host.examine();
    for id in ["cpu", "kernel", "queue:wq1.0"] {
        let check = report.check(id).unwrap();
        assert_eq!(check.state, State::Unknown, "{id}");
        assert!(check.detail.contains("cannot be read"), "{id}: {}", check.detail);
    }
}

#[test]
fn a_copy_of_a_good_host_is_not_proof() {
    let mut host = Host::sapphire_rapids();
    host.probes = Default::default();
    let report = host.examine();
    assert_eq!(ids(&report, State::Bad), [""; 0]);
    assert_eq!(report.verdict.engine, "unknown");
    assert!(!report.iaa_usable());

    // One queue that may serve is enough not to blame another.
    host.queue("wq1.1", "enabled", "dedicated", "user", 16);
    let report = host.examine();
    assert_eq!(ids(&report, State::Bad), ["queue:wq1.1"]);
    assert_eq!(report.verdict.engine, "unknown");
}

#[test]
fn json_has_its_keys() {
    let report = serde_json::to_value(Host::amd().examine()).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&report), ["checks", "verdict"]);
    assert_eq!(keys(&report["checks"][0]), ["detail", "fix", "id", "state", "title"]);
    assert_eq!(keys(&report["verdict"]), ["engine", "mend", "sentence"]);
    let states = report["checks"].as_array().unwrap().iter().map(|check| &check["state"]);
    let known = ["good", "bad", "unknown", "not-needed"];
    assert!(states.clone().all(|state| known.contains(&state.as_str().unwrap())));
    assert_eq!(report["checks"][0]["state"], "bad");
}
