//! One defect on a perfect host: which line is bad, and which command mends it.

use multifd_qpl::doctor::{Ending, NodeProbe, Report, RoundTrip, State, SymbolsFound};

use crate::tree::{BUS, DMAR, FOUR_LEVELS_CAP, Host, PCI, PLAIN_ECAP, ids};

/// The only bad line is `id`, with these words in detail and fix, and it is
/// what the verdict names.
#[track_caller]
fn only(report: &Report, id: &str, detail: &str, fix: &str) {
    assert_eq!(ids(report, State::Bad), [id], "{report:#?}");
    let check = report.check(id).unwrap();
    assert!(check.detail.contains(detail), "{:?} lacks {detail:?}", check.detail);
    let mends = check.fix.as_deref().unwrap();
    assert!(mends.contains(fix), "{mends:?} lacks {fix:?}");
    assert_eq!(report.verdict.mend.as_deref(), Some(id));
}

#[track_caller]
fn software(report: &Report) {
    assert_eq!(report.verdict.engine, "software", "{report:#?}");
}

const SET_UP: &str = "for n in 0 1 2 3 4 5 6 7; do sudo accel-config config-engine \
                      iax1/engine1.$n -g 0; done\n\
                      sudo accel-config config-wq iax1/wq1.0 -g 0 -m shared -s 128 -t 120 -p 10 \
                      -b 1 -x 2097152 -y user -n app -d user\n\
                      sudo accel-config enable-device iax1\n\
                      sudo accel-config enable-wq iax1/wq1.0";

#[test]
fn enqcmd_hidden_by_the_kernel_or_a_virtual_machine() {
    let mut host = Host::sapphire_rapids();
    host.without_sva();
    host.without_flag("enqcmd");
    only(
        &host.examine(),
        "cpu",
        "Sapphire Rapids",
        "grep -E 'INTEL_IOMMU_SVM|INTEL_IDXD' /boot/config-$(uname -r)",
    );
    host.write("boot/config-6.8.0-31-generic", "CONFIG_INTEL_IDXD=m\n");
    only(&host.examine(), "cpu", "enqcmd", "# use a kernel built with CONFIG_INTEL_IOMMU_SVM=y");
    host.write(
        "proc/cpuinfo",
        "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 143\n\
                                flags : fpu hypervisor\n",
    );
    only(&host.examine(), "cpu", "enqcmd", "# this is a virtual machine");
}

#[test]
fn an_older_xeon_has_one_bad_line() {
    let mut host = Host::sapphire_rapids();
    host.without_idxd();
    host.remove(PCI);
    host.write(
        "proc/cpuinfo",
        "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 106\n\
                                flags : fpu la57\n",
    );
    host.write("proc/sys/kernel/osrelease", "5.10.0\n");
    host.write("proc/cmdline", "quiet\n");
    host.write(&format!("{DMAR}/cap"), FOUR_LEVELS_CAP);
    host.write(&format!("{DMAR}/ecap"), PLAIN_ECAP);
    only(&host.examine(), "cpu", "has no IAA", "# use a host with a 4th generation Xeon");
}

#[test]
fn old_kernel() {
    let mut host = Host::sapphire_rapids();
    host.write("proc/sys/kernel/osrelease", "5.15.0-1\n");
    host.without_idxd();
    let report = host.examine();
    only(
        &report,
        "kernel",
        "5.15.0-1, needs 5.18 or newer for IAA of the first generation",
        "# install and boot Linux 5.18 or newer",
    );
    assert_eq!(report.check("driver").unwrap().detail, "needs kernel version first");
}

#[test]
fn second_generation_needs_a_newer_kernel() {
    let mut host = Host::sapphire_rapids();
    host.set("iax1", "version", "0x200");
    assert_eq!(host.examine().check("kernel").unwrap().state, State::Good);
    host.write("proc/sys/kernel/osrelease", "6.1.0\n");
    host.without_sva();
    only(&host.examine(), "kernel", "needs 6.3 or newer", "6.3");
}

#[test]
fn kernel_built_without_sva() {
    let mut host = Host::sapphire_rapids();
    host.write("boot/config-6.8.0-31-generic", "CONFIG_INTEL_IDXD=m\n# CONFIG_INTEL_IOMMU_SVM\n");
    host.libqpl_says(503);
    let report = host.examine();
    assert_eq!(
        report.check("kernel").unwrap().fix.as_deref(),
        Some("# use a kernel built with CONFIG_INTEL_IOMMU_SVM")
    );
}

#[test]
fn scalable_mode_missing_from_the_command_line() {
    for (line, detail) in [
        ("quiet", "intel_iommu=on,sm_on is missing"),
        ("intel_iommu=on", "sm_on is missing"),
        ("intel_iommu=on,sm_on intel_iommu=sm_off", "sm_on is missing"),
        ("intel_iommu=sm_on", "intel_iommu=on is missing"),
        ("intel_iommu=on,sm_on iommu=off", "intel_iommu=on is missing"),
    ] {
        let mut host = Host::sapphire_rapids();
        host.write("proc/cmdline", line);
        host.without_sva();
        let report = host.examine();
        only(
            &report,
            "cmdline",
            detail,
            "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on,sm_on /' /etc/default/grub\n\
             sudo update-grub\nsudo reboot",
        );
        software(&report);
        assert_eq!(report.check("sva").unwrap().detail, "needs kernel command line first");
        assert_eq!(report.check("queue:wq1.0").unwrap().state, State::Unknown);
    }
}

#[test]
fn the_kernels_own_default_needs_no_command_line() {
    let mut host = Host::sapphire_rapids();
    host.write("proc/cmdline", "quiet");
    host.write(
        "boot/config-6.8.0-31-generic",
        "CONFIG_INTEL_IDXD=m\nCONFIG_INTEL_IOMMU_SVM=y\nCONFIG_INTEL_IOMMU_DEFAULT_ON=y\n\
         CONFIG_INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON=y\n",
    );
    host.without_idxd();
    let report = host.examine();
    assert_eq!(report.check("cmdline").unwrap().detail, "the kernel's own default");
}

#[test]
fn fedora_changes_the_command_line_with_grubby() {
    let mut host = Host::sapphire_rapids();
    host.write("etc/os-release", "ID=\"rhel\"\n");
    host.write("proc/cmdline", "quiet");
    host.without_sva();
    only(
        &host.examine(),
        "cmdline",
        "missing",
        "sudo grubby --update-kernel=ALL --args=\"intel_iommu=on,sm_on\"\nsudo reboot",
    );
}

#[test]
fn iommu_switched_off_in_the_bios() {
    let mut host = Host::sapphire_rapids();
    host.remove("sys/class/iommu");
    host.without_sva();
    only(&host.examine(), "iommu", "no Intel IOMMU", "VT-d");
}

#[test]
fn iommu_without_scalable_mode() {
    let mut host = Host::sapphire_rapids();
    host.write(&format!("{DMAR}/ecap"), PLAIN_ECAP);
    host.without_sva();
    only(&host.examine(), "iommu", "dmar3 without scalable mode", "BIOS");
}

#[test]
fn five_level_paging_before_a_four_level_iommu() {
    let mut host = Host::sapphire_rapids();
    host.write(&format!("{DMAR}/cap"), FOUR_LEVELS_CAP);
    host.without_sva();
    let report = host.examine();
    only(
        &report,
        "paging",
        "the IOMMU knows four",
        "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&no5lvl /' /etc/default/grub",
    );
    assert_eq!(report.check("sva").unwrap().detail, "needs paging levels first");
    // Booted with no5lvl, the kernel hides the flag.
    host.without_flag("la57");
    assert_eq!(host.examine().check("paging").unwrap().state, State::NotNeeded);
}

#[test]
fn no_device() {
    let mut host = Host::sapphire_rapids();
    host.without_idxd();
    host.remove(PCI);
    host.write("sys/bus/pci/devices/0000:00:00.0/vendor", "0x8086\n");
    only(&host.examine(), "pci", "no PCI device 8086:0cfe", "lspci -d 8086:0cfe");
}

#[test]
fn dsa_only() {
    let mut host = Host::sapphire_rapids();
    host.write(&format!("{PCI}/device"), "0x0b25\n");
    host.remove(&format!("{BUS}/iax1"));
    host.remove(&format!("{BUS}/wq1.0"));
    host.remove(&format!("{BUS}/wq1.1"));
    host.remove("sys/bus/event_source");
    host.set("dsa0", "state", "enabled");
    host.queue("wq0.0", "enabled", "shared", "user", 128);
    host.libqpl_says(503);
    let report = host.examine();
    only(&report, "pci", "1 DSA devices (8086:0b25) cannot decompress", "lspci");
    assert_eq!(report.check("driver").unwrap().detail, "needs IAA devices first");
    assert!(report.check("queue:wq0.0").is_none());
}

#[test]
fn idxd_not_loaded() {
    let mut host = Host::sapphire_rapids();
    host.without_idxd();
    only(&host.examine(), "driver", "not loaded", "sudo modprobe idxd");
}

#[test]
fn device_given_to_another_driver() {
    let mut host = Host::sapphire_rapids();
    host.without_idxd();
    host.link(&format!("{PCI}/driver"), "../../../../bus/pci/drivers/vfio-pci");
    only(
        &host.examine(),
        "driver",
        "0000:6a:02.0 is bound to vfio-pci",
        "echo 0000:6a:02.0 | sudo tee /sys/bus/pci/drivers/idxd/bind",
    );
}

#[test]
fn sva_off_for_no_reason_to_be_seen() {
    let mut host = Host::sapphire_rapids();
    host.without_sva();
    only(&host.examine(), "sva", "pasid_enabled is 0 for iax1", "dmesg");
}

#[test]
fn device_disabled() {
    let mut host = Host::sapphire_rapids();
    host.set("iax1", "state", "disabled");
    host.queue_is_off();
    let report = host.examine();
    only(&report, "device:iax1", "disabled", "sudo accel-config enable-device iax1");
    assert_eq!(report.check("queue:wq1.0").unwrap().detail, "needs device iax1 first");
    assert_eq!(report.check("queues").unwrap().detail, "needs device iax1 first");
}

#[test]
fn device_halted() {
    let mut host = Host::sapphire_rapids();
    host.set("iax1", "state", "halted");
    host.queue_is_off();
    only(&host.examine(), "device:iax1", "halted", "modprobe idxd");
}

#[test]
fn nothing_set_up() {
    let mut host = Host::sapphire_rapids();
    host.set("iax1", "state", "disabled");
    host.queue_is_off();
    host.queue("wq1.0", "disabled", "dedicated", "none", 0);
    let report = host.examine();
    only(&report, "device:iax1", "no work queue is set up", SET_UP);
    assert_eq!(report.check("device:iax1").unwrap().fix.as_deref(), Some(SET_UP));
}

#[test]
fn queue_dedicated() {
    let mut host = Host::sapphire_rapids();
    host.set("wq1.0", "mode", "dedicated");
    host.libqpl_says(503);
    let report = host.examine();
    only(&report, "queue:wq1.0", "mode is dedicated, must be shared", SET_UP);
    let fix = report.check("queue:wq1.0").unwrap().fix.as_deref().unwrap();
    assert!(fix.starts_with("sudo accel-config disable-device iax1\n"), "{fix}");
    assert_eq!(report.check("queues").unwrap().detail, "needs work queue wq1.0 first");
    assert!(report.check("node:wq1.0").is_none());
    software(&report);
}

#[test]
fn a_mended_queue_warns_of_its_neighbours() {
    let mut host = Host::sapphire_rapids();
    host.queue("wq1.1", "enabled", "shared", "kernel", 16);
    host.set("wq1.0", "mode", "dedicated");
    host.libqpl_says(503);
    let report = host.examine();
    only(
        &report,
        "queue:wq1.0",
        "dedicated",
        "# this stops the other queues of iax1 as well: wq1.1",
    );
    assert_eq!(report.check("queue:wq1.1").unwrap().state, State::NotNeeded);
}

#[test]
fn all_queues_the_kernels() {
    let mut host = Host::sapphire_rapids();
    host.queue("wq1.0", "enabled", "shared", "kernel", 128);
    host.libqpl_says(503);
    only(&host.examine(), "queues", "all belong to the kernel", "config-wq iax1/wq1.1");
}

#[test]
fn queue_disabled() {
    let mut host = Host::sapphire_rapids();
    host.queue_is_off();
    let report = host.examine();
    only(&report, "queue:wq1.0", "not enabled", "sudo accel-config enable-wq iax1/wq1.0");
    software(&report);
}

#[test]
fn idxd_says_why_it_does_not_enable_a_queue() {
    let mut host = Host::sapphire_rapids();
    host.queue_is_off();
    host.set("iax1", "cmd_status", "0x80060000");
    only(&host.examine(), "queue:wq1.0", "0x80060000: the queue has no threshold", "enable-wq");
}

#[test]
fn queue_of_another_type_size_or_driver() {
    for (attribute, value, detail) in [
        ("type", "none", "type is none, must be user"),
        ("driver_name", "crypto", "driver_name is \"crypto\", must be user"),
        ("size", "0", "size is 0"),
        ("threshold", "0", "threshold is 0"),
    ] {
        let mut host = Host::sapphire_rapids();
        host.set("wq1.0", attribute, value);
        host.libqpl_says(503);
        only(&host.examine(), "queue:wq1.0", detail, SET_UP);
    }
}

#[test]
fn kernels_before_the_driver_name_attribute() {
    let host = Host::sapphire_rapids();
    host.remove(&format!("{BUS}/wq1.0/driver_name"));
    assert_eq!(host.examine().check("queue:wq1.0").unwrap().state, State::Good);
}

#[test]
fn transfer_limit_of_one_page() {
    let mut host = Host::sapphire_rapids();
    host.set("wq1.0", "max_transfer_size", "4096");
    let trip = RoundTrip { status: 319, ..RoundTrip::default() };
    host.library().trip = Some(trip);
    let report = host.examine();
    let queue = report.check("queue:wq1.0").unwrap();
    assert_eq!(queue.state, State::Bad);
    assert!(queue.detail.contains("max_transfer_size is 4096, must be 8192 or more"));
    assert!(queue.fix.as_deref().unwrap().contains("-x 2097152"));
    assert_eq!(report.verdict.mend.as_deref(), Some("queue:wq1.0"));
    software(&report);
}

#[test]
fn faults_not_blocked_on_work_but_are_worth_mending() {
    let host = Host::sapphire_rapids();
    host.set("wq1.0", "block_on_fault", "0");
    let report = host.examine();
    only(&report, "queue:wq1.0", "block_on_fault is 0", "-b 1");
    assert!(report.iaa_usable());
    assert!(report.verdict.sentence.contains("engine iaa"));
}

#[test]
fn a_bad_queue_beside_a_good_one_is_not_to_blame() {
    let mut host = Host::sapphire_rapids();
    host.queue("wq1.1", "enabled", "dedicated", "user", 16);
    host.library().qpl = Some(Err("libqpl.so.1: cannot open".into()));
    host.library().init = None;
    host.library().trip = None;
    let report = host.examine();
    assert_eq!(ids(&report, State::Bad), ["queue:wq1.1", "libqpl"]);
    assert_eq!(report.verdict.mend.as_deref(), Some("libqpl"));
}

#[test]
fn no_right_to_open_the_node() {
    let mut host = Host::sapphire_rapids();
    let denied = NodeProbe::Denied { why: "Permission denied (os error 13)".into() };
    host.probes.nodes.insert("wq1.0".into(), denied);
    host.libqpl_says(503);
    let report = host.examine();
    only(&report, "node:wq1.0", "Permission denied", "sudo usermod -aG dsadev $USER");
    let init = &report.check("qpl-init").unwrap().detail;
    assert!(init.starts_with("needs node /dev/iax/wq1.0 first (libqpl says 503"), "{init}");
    software(&report);

    host.write("etc/group", "root:x:0:\n");
    only(&host.examine(), "node:wq1.0", "may not", "sudo chown $USER /dev/iax/wq1.0");
}

#[test]
fn node_missing_or_broken() {
    let mut host = Host::sapphire_rapids();
    let failed = NodeProbe::Failed { why: "No such device (os error 19)".into() };
    host.probes.nodes.insert("wq1.0".into(), failed);
    host.libqpl_says(503);
    only(&host.examine(), "node:wq1.0", "No such device", "dmesg");
    host.remove("dev/iax/wq1.0");
    only(&host.examine(), "node:wq1.0", "does not exist", "--device /dev/iax/wq1.0");
}

#[test]
fn portal_not_mapped_is_fine_with_libqpl_1_6() {
    let mut host = Host::sapphire_rapids();
    host.write("proc/sys/kernel/osrelease", "6.9.1\n");
    let why = "Operation not permitted (os error 1)".to_owned();
    host.probes.nodes.insert("wq1.0".into(), NodeProbe::WriteOnly { why });
    host.libqpl_is("1.6.0");
    let report = host.examine();
    assert_eq!(ids(&report, State::Bad), [""; 0]);
    assert!(report.check("portal").unwrap().detail.contains("one write(2) for each descriptor"));
    assert!(report.iaa_usable());

    host.libqpl_is("1.5.0");
    host.libqpl_says(503);
    let report = host.examine();
    only(&report, "portal", "libqpl before 1.6 cannot", "sudo apt install libqpl1");
    let init = &report.check("qpl-init").unwrap().detail;
    assert!(init.starts_with("needs way into the queues first"), "{init}");
    software(&report);
}

#[test]
fn libraries_missing_or_old() {
    let mut host = Host::sapphire_rapids();
    host.libqpl_says(501);
    host.library().accel_config = Some(Err("libaccel-config.so.1: cannot open".into()));
    let fix = "sudo apt install libaccel-config1 accel-config";
    only(&host.examine(), "accel-config", "cannot open", fix);
    host.library().accel_config = Some(Ok(SymbolsFound {
        path: "/lib/libaccel-config.so.1".into(),
        missing: vec!["accfg_wq_get_max_transfer_size".into()],
        missing_newer: Vec::new(),
    }));
    only(&host.examine(), "accel-config", "no accfg_wq_get_max_transfer_size", fix);

    let mut host = Host::sapphire_rapids();
    host.libqpl_is("1.4.1");
    host.library().init = None;
    host.library().trip = None;
    let report = host.examine();
    only(&report, "libqpl", "1.4.1 is older than 1.5", "-DQPL_LIBRARY_TYPE=SHARED");
    assert_eq!(report.check("qpl-init").unwrap().detail, "needs libqpl first");

    host.library().qpl = Some(Err("libqpl.so.1: cannot open".into()));
    only(&host.examine(), "libqpl", "cannot open", "QPL_LIBRARY=");
}

#[test]
fn libqpl_refuses_though_nothing_else_is_wrong() {
    for (status, detail, fix) in [
        (500, "without the hardware path", "libqpl1"),
        (501, "libaccel-config is missing, or too old", "libaccel-config1"),
        (502, "libaccel-config does not start", "accel-config list"),
        (503, "no work queue that is enabled, shared and can be opened", "ls -l /dev/iax"),
    ] {
        let mut host = Host::sapphire_rapids();
        host.libqpl_says(status);
        let report = host.examine();
        only(&report, "qpl-init", detail, fix);
        assert_eq!(report.check("round-trip").unwrap().detail, "needs hardware job first");
    }
}

#[test]
fn libqpl_hangs_or_dies() {
    let mut host = Host::sapphire_rapids();
    host.library().init = None;
    host.library().trip = None;
    host.library().ending = Ending::TimedOut(10);
    only(&host.examine(), "qpl-init", "no answer in 10 s", "dmesg");

    host.library().init = Some(0);
    host.library().ending = Ending::Signal(4);
    only(&host.examine(), "round-trip", "signal 4", "ENQCMD");

    host.probes.library = Some(Default::default());
    host.library().ending = Ending::NotRun("no such file".into());
    let report = host.examine();
    assert_eq!(ids(&report, State::Bad), [""; 0]);
    software(&report);
}

#[test]
fn the_page_does_not_come_back() {
    for (trip, detail) in [
        (RoundTrip { status: 5, busy: 900, ..RoundTrip::default() }, "after 900 refusals"),
        (RoundTrip { status: 1, ..RoundTrip::default() }, "does not finish"),
        (RoundTrip { status: 304, ..RoundTrip::default() }, "libqpl says 304: a page was missing"),
        (RoundTrip { status: 0, output: 4096, ..RoundTrip::default() }, "not the page"),
        (RoundTrip { status: 0, output: 12, equal: true, ..RoundTrip::default() }, "12 bytes"),
    ] {
        let mut host = Host::sapphire_rapids();
        host.library().trip = Some(trip);
        let report = host.examine();
        only(&report, "round-trip", detail, "");
        software(&report);
    }
}

#[test]
fn what_stands_beside_the_chain_never_decides() {
    let mut host = Host::sapphire_rapids();
    host.probes.userfaultfd = Some(Err("Operation not permitted".into()));
    host.probes.populate = Some(Err("Invalid argument".into()));
    host.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    host.write("proc/sys/kernel/numa_balancing", "1\n");
    host.remove("sys/kernel/tracing");
    host.write("proc/sys/kernel/perf_event_paranoid", "2\n");
    let report = host.examine();
    let beside = ["userfaultfd", "populate", "hugepages", "numa-balancing", "tracefs", "perf"];
    assert_eq!(ids(&report, State::Bad), beside);
    for id in beside {
        assert!(report.check(id).unwrap().fix.is_some(), "{id}");
    }
    assert!(report.iaa_usable());
}
