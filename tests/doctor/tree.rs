//! Builds the files of a host.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use multifd_qpl::doctor::{
    Ending, LibraryProbe, NodeProbe, Probes, QplFound, Report, Root, RoundTrip, State,
    SymbolsFound, examine,
};
use tempfile::TempDir;

/// A host: its files, and what trying gives there.
pub struct Host {
    dir: TempDir,
    pub probes: Probes,
}

pub const PCI: &str = "sys/bus/pci/devices/0000:6a:02.0";
pub const BUS: &str = "sys/bus/dsa/devices";
pub const DMAR: &str = "sys/class/iommu/dmar3/intel-iommu";
/// Registers of a unit with scalable mode, PASIDs, page requests and five
/// levels, and of one without any of them.
pub const GOOD_CAP: &str = "19ed008c40780c66";
pub const GOOD_ECAP: &str = "3ef9ea6f050df";
pub const FOUR_LEVELS_CAP: &str = "9ed008c40780c66";
pub const PLAIN_ECAP: &str = "f020df";

impl Host {
    /// No file at all, and nothing tried.
    pub fn empty() -> Host {
        Host { dir: tempfile::tempdir().unwrap(), probes: Probes::default() }
    }

    /// An AMD host with a current kernel.
    pub fn amd() -> Host {
        let mut host = Host::empty();
        host.write("etc/os-release", "ID=debian\n");
        host.cpuinfo("AuthenticAMD", 25, 17, "AMD EPYC 9354", "fpu avx2 avx512f");
        host.write("proc/sys/kernel/osrelease", "6.12.9-amd64\n");
        host.write("proc/cmdline", "quiet\n");
        fs::create_dir_all(host.dir.path().join("sys/bus/pci/devices")).unwrap();
        host.probes.library = Some(LibraryProbe {
            accel_config: Some(Err("libaccel-config.so.1: cannot open".into())),
            qpl: Some(Err("libqpl.so.1: cannot open".into())),
            ..LibraryProbe::default()
        });
        host
    }

    /// A Sapphire Rapids host on which everything is right: one IAA with one
    /// shared queue, and a second queue that nobody set up.
    pub fn sapphire_rapids() -> Host {
        let mut host = Host::empty();
        host.write("etc/os-release", "ID=debian\n");
        host.write("etc/group", "root:x:0:\ndsadev:x:997:\n");
        let flags = "fpu la57 enqcmd avx512f";
        host.cpuinfo("GenuineIntel", 6, 143, "Intel(R) Xeon(R) Platinum 8480+", flags);
        host.write("proc/sys/kernel/osrelease", "6.8.0-31-generic\n");
        host.write("proc/cmdline", "root=/dev/sda1 intel_iommu=on,sm_on quiet\n");
        host.write(&format!("{DMAR}/cap"), GOOD_CAP);
        host.write(&format!("{DMAR}/ecap"), GOOD_ECAP);
        // One more, for other buses, that can do less.
        host.write("sys/class/iommu/dmar0/intel-iommu/cap", FOUR_LEVELS_CAP);
        host.write("sys/class/iommu/dmar0/intel-iommu/ecap", PLAIN_ECAP);
        host.write(&format!("{PCI}/vendor"), "0x8086\n");
        host.write(&format!("{PCI}/device"), "0x0cfe\n");
        host.write(&format!("{PCI}/numa_node"), "0\n");
        host.link(&format!("{PCI}/driver"), "../../../../bus/pci/drivers/idxd");
        host.link(&format!("{PCI}/iommu"), "../../virtual/iommu/dmar3");
        host.write("sys/module/idxd/initstate", "live\n");
        for (name, value) in [
            ("state", "enabled"),
            ("version", "0x100"),
            ("numa_node", "0"),
            ("pasid_enabled", "1"),
            ("max_engines", "8"),
        ] {
            host.write(&format!("{BUS}/iax1/{name}"), value);
        }
        host.queue("wq1.0", "enabled", "shared", "user", 128);
        host.queue("wq1.1", "disabled", "dedicated", "none", 0);
        host.write("dev/iax/wq1.0", "");
        host.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        host.write("proc/sys/kernel/numa_balancing", "0\n");
        host.write("sys/kernel/tracing/events/intel_iommu/prq_report/id", "7\n");
        host.write("sys/bus/event_source/devices/iax1/type", "30\n");
        host.write("proc/sys/kernel/perf_event_paranoid", "0\n");
        host.probes = Probes {
            nodes: [("wq1.0".to_owned(), NodeProbe::Mapped)].into(),
            library: Some(LibraryProbe {
                accel_config: Some(Ok(SymbolsFound {
                    path: "/lib/libaccel-config.so.1".into(),
                    ..SymbolsFound::default()
                })),
                qpl: Some(Ok(QplFound {
                    path: "/lib/libqpl.so.1".into(),
                    version: "1.9.0".into(),
                })),
                init: Some(0),
                trip: Some(RoundTrip { status: 0, output: 4096, equal: true, busy: 0, micros: 9 }),
                ending: Ending::Finished,
            }),
            userfaultfd: Some(Ok(())),
            populate: Some(Ok(())),
        };
        host
    }

    fn cpuinfo(&self, vendor: &str, family: u32, model: u32, name: &str, flags: &str) {
        let text = format!(
            "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
             model name\t: {name}\nflags\t\t: {flags}\n\nprocessor\t: 1\n"
        );
        self.write("proc/cpuinfo", &text);
    }

    /// Takes a word out of the CPU's flags.
    pub fn without_flag(&self, flag: &str) {
        let text = fs::read_to_string(self.dir.path().join("proc/cpuinfo")).unwrap();
        self.write("proc/cpuinfo", &text.replace(&format!(" {flag}"), ""));
    }

    pub fn queue(&self, name: &str, state: &str, mode: &str, kind: &str, size: u32) {
        for (attribute, value) in [
            ("state", state),
            ("mode", mode),
            ("type", kind),
            ("driver_name", if kind == "user" { "user" } else { "" }),
            ("size", &size.to_string()),
            ("threshold", "120"),
            ("priority", "10"),
            ("max_transfer_size", "2097152"),
            ("block_on_fault", "1"),
        ] {
            self.set(name, attribute, value);
        }
    }

    /// Sets an attribute of a device or queue.
    pub fn set(&self, name: &str, attribute: &str, value: &str) {
        self.write(&format!("{BUS}/{name}/{attribute}"), &format!("{value}\n"));
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn link(&self, path: &str, target: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    pub fn remove(&self, path: &str) {
        let path = self.dir.path().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    /// Takes idxd and all that comes with it away.
    pub fn without_idxd(&mut self) {
        self.remove("sys/bus/dsa");
        self.remove("sys/module/idxd");
        self.remove("sys/bus/event_source");
        self.remove("dev/iax");
        self.remove(&format!("{PCI}/driver"));
        self.probes.nodes.clear();
        self.libqpl_says(503);
    }

    /// SVA is off, so no user queue can be enabled.
    pub fn without_sva(&mut self) {
        self.set("iax1", "pasid_enabled", "0");
        self.queue_is_off();
    }

    /// The queue is disabled.
    pub fn queue_is_off(&mut self) {
        self.set("wq1.0", "state", "disabled");
        self.remove("dev/iax/wq1.0");
        self.probes.nodes.clear();
        self.libqpl_says(503);
    }

    pub fn library(&mut self) -> &mut LibraryProbe {
        self.probes.library.get_or_insert_default()
    }

    /// The initialisation of a hardware job gives this status.
    pub fn libqpl_says(&mut self, status: u32) {
        let library = self.library();
        library.init = Some(status);
        library.trip = None;
    }

    pub fn libqpl_is(&mut self, version: &str) {
        let found = QplFound { path: "/lib/libqpl.so.1".into(), version: version.into() };
        self.library().qpl = Some(Ok(found));
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn examine(&self) -> Report {
        examine(&Root::at(self.dir.path()), &self.probes)
    }
}

/// The ids in this state, in order.
pub fn ids(report: &Report, state: State) -> Vec<&str> {
    let checks = report.checks.iter().filter(|check| check.state == state);
    checks.map(|check| check.id.as_str()).collect()
}
