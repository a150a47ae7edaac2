//! What the kernel offers for putting pages where they belong.
//!
//! The device must find every page present, and every change of the page
//! tables costs it a flush of its IOTLB. Populating pages by the run, copying
//! them in through a userfaultfd, and large pages keep both small; NUMA
//! balancing, which unmaps pages to see who touches them, makes both large.
//! None of this decides whether the device works.

use super::pci::Devices;
use super::probes::Probes;
use super::root::{Lack, Root};
use super::{Chain, Check};

const NOT_TRIED: &str = "not tried: only files are looked at";

pub(super) fn check(chain: &mut Chain, root: &Root, probes: &Probes, devices: &Devices) {
    chain.push(userfaultfd(probes).advice());
    chain.push(populate(probes).advice());
    chain.push(hugepages(root).advice());
    chain.push(numa_balancing(root, devices).advice());
}

fn userfaultfd(probes: &Probes) -> Check {
    const ID: &str = "userfaultfd";
    const TITLE: &str = "userfaultfd";
    match &probes.userfaultfd {
        None => Check::unknown(ID, TITLE, NOT_TRIED),
        Some(Ok(())) => Check::good(ID, TITLE, "this process gets one"),
        Some(Err(why)) => Check::bad(
            ID,
            TITLE,
            format!("{why}; pages are placed in another way"),
            "grep CONFIG_USERFAULTFD /boot/config-$(uname -r)  # must be y\n\
             # in a container: allow the system call userfaultfd in its seccomp profile",
        ),
    }
}

fn populate(probes: &Probes) -> Check {
    const ID: &str = "populate";
    const TITLE: &str = "MADV_POPULATE_WRITE";
    match &probes.populate {
        None => Check::unknown(ID, TITLE, NOT_TRIED),
        Some(Ok(())) => Check::good(ID, TITLE, "the kernel populates pages by the run"),
        Some(Err(why)) => Check::bad(
            ID,
            TITLE,
            format!("{why}; pages are touched one by one"),
            "# install and boot Linux 5.14 or newer",
        ),
    }
}

/// The word in brackets of a file such as `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(word, _)| word)
}

fn hugepages(root: &Root) -> Check {
    const ID: &str = "hugepages";
    const TITLE: &str = "transparent huge pages";
    const DIR: &str = "sys/kernel/mm/transparent_hugepage";
    let read = |name: &str| root.read(&format!("{DIR}/{name}"));
    let enabled = match read("enabled") {
        Ok(text) => text,
        Err(Lack::Absent) => {
            return Check::bad(
                ID,
                TITLE,
                "the kernel has none",
                "# use a kernel built with CONFIG_TRANSPARENT_HUGEPAGE=y",
            );
        }
        Err(lack) => return Check::unknown(ID, TITLE, format!("/{DIR}/enabled {lack}")),
    };
    let shmem = read("shmem_enabled").ok();
    let shmem = shmem.as_deref().and_then(chosen).unwrap_or("?");
    match chosen(&enabled) {
        Some("never") => Check::bad(
            ID,
            TITLE,
            format!("never for private memory, {shmem} for shared memory"),
            format!("echo madvise | sudo tee /{DIR}/enabled"),
        ),
        Some(word) => {
            Check::good(ID, TITLE, format!("{word} for private memory, {shmem} for shared memory"))
        }
        None => Check::unknown(ID, TITLE, format!("/{DIR}/enabled says {enabled:?}")),
    }
}

fn numa_balancing(root: &Root, devices: &Devices) -> Check {
    const ID: &str = "numa-balancing";
    const TITLE: &str = "NUMA balancing";
    match root.read("proc/sys/kernel/numa_balancing").as_deref() {
        Err(Lack::Absent) => Check::good(ID, TITLE, "the kernel has none"),
        Err(lack) => Check::unknown(ID, TITLE, format!("numa_balancing {lack}")),
        Ok("0") => Check::good(ID, TITLE, "off"),
        Ok(_) if !devices.any() => Check::not_needed(ID, TITLE, "on, and no device minds"),
        Ok(_) => Check::bad(
            ID,
            TITLE,
            "on: each page it looks at costs the device an IOTLB flush",
            "sudo sysctl kernel.numa_balancing=0",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn the_bracketed_word_is_chosen() {
        assert_eq!(chosen("always [madvise] never"), Some("madvise"));
        assert_eq!(chosen("always"), None);
        assert_eq!(chosen("always [madv"), None);
    }
}
