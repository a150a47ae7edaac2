//! libaccel-config, libqpl, and what libqpl says of the device.
//!
//! libqpl boils everything between itself and the device down to one status.
//! When a link below is known to be bad, that link is the answer and libqpl's
//! status only a remark; when none is, the status is all there is, and is put
//! into words.

use super::mend::Mend;
use super::probes::{Ending, LibraryProbe, Probes, QplFound};
use super::queues::Nodes;
use super::{Chain, Check, State};

/// The oldest libqpl whose calls and statuses are known.
const OLDEST: (u32, u32) = (1, 5);
/// The first libqpl that writes descriptors where it cannot map a portal.
const WRITES: (u32, u32) = (1, 6);
const PAGE: u32 = 4096;

/// What stands between libqpl and the device.
const BELOW: [&str; 8] =
    ["cpu", "pci", "driver", "sva", "queues", "accel-config", "libqpl", "portal"];

/// What a status of libqpl means, as far as a page can meet it.
pub fn explain(status: u32) -> &'static str {
    match status {
        0 => "done",
        1 => "the job is still running",
        2 => "the output did not fit",
        5 => "all work queues are full",
        6 => "an error inside libqpl",
        8 => "no work queue offers decompression",
        101 => "no memory",
        201..=218 | 230 | 235 | 236 => "the device says that the compressed block is damaged",
        219 => "the device's engine gave up in time",
        229 => "the checksum does not match",
        303 | 431 => "a page was missing, and the queue does not block on faults",
        304 | 432 => "a page was missing, and the kernel could not supply it",
        319 => "a size is above the queue's max_transfer_size, or libqpl's own time ran out",
        326 | 331 | 454 => "the device cannot translate an address",
        332..=334 => "a device error",
        335 => "the IOMMU did not answer a page request in time",
        336 => "the device's watchdog",
        340 => "the device knows no such PASID: SVA is off",
        500 => "this libqpl was built without the hardware path",
        501 => "libaccel-config is missing, or too old for this libqpl",
        502 => "libaccel-config does not start",
        503 => "no work queue that is enabled, shared and can be opened by this user",
        _ => "see the list of statuses of libqpl",
    }
}

pub(super) fn check(chain: &mut Chain, probes: &Probes, nodes: &Nodes, mend: &Mend) {
    let Some(library) = &probes.library else {
        for (id, title) in [
            ("accel-config", ACCEL_CONFIG),
            ("libqpl", LIBQPL),
            ("portal", PORTAL),
            ("qpl-init", INIT),
            ("round-trip", TRIP),
        ] {
            chain.push(Check::unknown(id, title, "not tried: only files are looked at"));
        }
        return;
    };
    let line = accel_config(chain, library, mend);
    chain.push(line);
    let line = libqpl(chain, library, mend);
    chain.push(line);
    let line = portal(chain, library, nodes, mend);
    chain.push(line);
    let line = init(chain, library, mend);
    chain.push(line);
    let line = round_trip(chain, library);
    chain.push(line);
}

const ACCEL_CONFIG: &str = "libaccel-config";
const LIBQPL: &str = "libqpl";
const PORTAL: &str = "way into the queues";
const INIT: &str = "hardware job";
const TRIP: &str = "page through the device";

fn accel_config(chain: &Chain, library: &LibraryProbe, mend: &Mend) -> Check {
    const ID: &str = "accel-config";
    match &library.accel_config {
        None => Check::unknown(ID, ACCEL_CONFIG, not_told(library)),
        Some(Err(why)) if chain.lacking(&["cpu", "pci"]).is_some() => {
            Check::not_needed(ID, ACCEL_CONFIG, format!("no device to list, and {why}"))
        }
        Some(Err(why)) => Check::bad(ID, ACCEL_CONFIG, why, mend.accel_config()),
        Some(Ok(found)) if !found.missing.is_empty() => Check::bad(
            ID,
            ACCEL_CONFIG,
            format!("{} is too old: no {}", found.path, found.missing.join(", ")),
            mend.accel_config(),
        ),
        Some(Ok(found)) if !found.missing_newer.is_empty() => Check::good(
            ID,
            ACCEL_CONFIG,
            format!("{}, older than 4.0: enough for IAA of the first generation", found.path),
        ),
        Some(Ok(found)) => Check::good(ID, ACCEL_CONFIG, format!("{}, 4.0 or newer", found.path)),
    }
}

fn libqpl(chain: &Chain, library: &LibraryProbe, mend: &Mend) -> Check {
    const ID: &str = "libqpl";
    let found = match &library.qpl {
        None => return Check::unknown(ID, LIBQPL, not_told(library)),
        Some(Err(why)) if chain.lacking(&["cpu", "pci"]).is_some() => {
            return Check::not_needed(ID, LIBQPL, format!("no device to drive, and {why}"));
        }
        Some(Err(why)) => {
            let fix = format!(
                "{}\n# elsewhere than in the loader's path: export QPL_LIBRARY=/path/libqpl.so.1",
                mend.libqpl()
            );
            return Check::bad(ID, LIBQPL, why, fix);
        }
        Some(Ok(found)) => found,
    };
    let QplFound { path, version } = found;
    match found.numbers() {
        Some(numbers) if numbers >= OLDEST => Check::good(ID, LIBQPL, format!("{version}, {path}")),
        Some(_) => Check::bad(
            ID,
            LIBQPL,
            format!("{version} is older than {}.{}: {path}", OLDEST.0, OLDEST.1),
            mend.libqpl(),
        ),
        None => Check::unknown(ID, LIBQPL, format!("calls itself {version:?}: {path}")),
    }
}

fn portal(chain: &Chain, library: &LibraryProbe, nodes: &Nodes, mend: &Mend) -> Check {
    const ID: &str = "portal";
    if !nodes.mapped.is_empty() {
        let rest = match nodes.write_only.is_empty() {
            true => String::new(),
            false => format!("; write(2) for {}", nodes.write_only.join(", ")),
        };
        let names = nodes.mapped.join(", ");
        return Check::good(ID, PORTAL, format!("mapped portals of {names}{rest}"));
    }
    if nodes.write_only.is_empty() {
        return match chain.lacking(&["cpu", "pci", "driver", "sva", "queues"]) {
            Some(first) => Check::needs(ID, PORTAL, first),
            None => Check::unknown(ID, PORTAL, "no node was opened"),
        };
    }
    let why = "the kernel maps portals only for CAP_SYS_RAWIO (as Linux does from 6.9.1 on for \
               this IAA)";
    match library.qpl.as_ref().and_then(|qpl| qpl.as_ref().ok()).map(QplFound::numbers) {
        Some(Some(numbers)) if numbers >= WRITES => Check::good(
            ID,
            PORTAL,
            format!(
                "one write(2) for each descriptor: {why}; a service that is given the \
                     capability (AmbientCapabilities=CAP_SYS_RAWIO) saves the system call"
            ),
        ),
        Some(Some(_)) => Check::bad(
            ID,
            PORTAL,
            format!("{why}, and libqpl before 1.6 cannot write descriptors instead"),
            mend.libqpl(),
        ),
        Some(None) => Check::unknown(ID, PORTAL, format!("{why}; libqpl's version is not known")),
        None => match chain.lacking(&["libqpl"]) {
            Some(first) => Check::needs(ID, PORTAL, first),
            None => Check::unknown(ID, PORTAL, format!("{why}; libqpl was not found")),
        },
    }
}

fn init(chain: &Chain, library: &LibraryProbe, mend: &Mend) -> Check {
    const ID: &str = "qpl-init";
    let status = match library.init {
        Some(0) => return Check::good(ID, INIT, "libqpl has a way to a device"),
        Some(status) => status,
        None => {
            if let Some(check) = ended(ID, INIT, library, library.qpl_usable()) {
                return check;
            }
            // Not found where no device is, libqpl is "not needed", but needed
            // for this.
            let below = chain.lacking(&["libqpl", "cpu", "pci"]);
            return match below {
                Some(first) => Check::needs(ID, INIT, first),
                None => Check::unknown(ID, INIT, "libqpl was not asked"),
            };
        }
    };
    let said = format!("libqpl says {status}: {}", explain(status));
    if let Some(first) = chain.lacking(&BELOW) {
        let mut check = Check::needs(ID, INIT, first);
        check.detail = format!("{} ({said})", check.detail);
        return check;
    }
    let fix = match status {
        500 => mend.libqpl(),
        501 => mend.accel_config(),
        502 => "sudo accel-config list  # says what libaccel-config meets".into(),
        503 => "accel-config list  # as this user: state enabled, mode shared?\n\
                ls -l /dev/iax  # readable and writable for this user?"
            .into(),
        _ => "sudo dmesg | grep -i -e idxd -e DMAR".into(),
    };
    Check::bad(ID, INIT, said, fix)
}

fn round_trip(chain: &Chain, library: &LibraryProbe) -> Check {
    const ID: &str = "round-trip";
    let Some(trip) = &library.trip else {
        if let Some(first) = chain.lacking(&["qpl-init"]) {
            return Check::needs(ID, TRIP, first);
        }
        if let Some(check) = ended(ID, TRIP, library, library.init == Some(0)) {
            return check;
        }
        return Check::unknown(ID, TRIP, "no page was tried");
    };
    let busy = match trip.busy {
        0 => String::new(),
        n => format!(", after {n} refusals by full queues"),
    };
    if trip.status == 0 && trip.output == PAGE && trip.equal {
        let unseen = if chain.is("queues", State::Good) {
            ""
        } else {
            "; no usable queue is to be seen, so something else answers"
        };
        return Check::good(
            ID,
            TRIP,
            format!("decompressed and equal in {} microseconds{busy}{unseen}", trip.micros),
        );
    }
    let (detail, fix) = match trip.status {
        0 => (
            format!("status 0, but {} bytes came out, and not the page that went in", trip.output),
            "# stay with --engine software, and report this device",
        ),
        1 => ("the device does not finish a page in 2 s".into(), LOG),
        5 => (
            format!("the work queues were full for 2 s{busy}"),
            "cat /sys/bus/dsa/devices/wq*/clients  # who else uses them",
        ),
        status => (format!("libqpl says {status}: {}{busy}", explain(status)), LOG),
    };
    Check::bad(ID, TRIP, detail, fix)
}

const LOG: &str = "sudo dmesg | grep -i -e idxd -e DMAR  # says why";

impl LibraryProbe {
    fn qpl_usable(&self) -> bool {
        let found = self.qpl.as_ref().and_then(|qpl| qpl.as_ref().ok());
        found.and_then(QplFound::numbers).is_some_and(|numbers| numbers >= OLDEST)
    }
}

/// The check for a process that died while it was at this step.
fn ended(id: &str, title: &str, library: &LibraryProbe, here: bool) -> Option<Check> {
    if !here {
        return None;
    }
    Some(match &library.ending {
        Ending::Finished => return None,
        Ending::Signal(signal) => Check::bad(
            id,
            title,
            format!("the process was ended by signal {signal} inside libqpl"),
            "sudo dmesg | tail  # shows where; with signal 4 the CPU lacks ENQCMD, with 11 the \
             kernel gave no PASID",
        ),
        Ending::TimedOut(seconds) => Check::bad(
            id,
            title,
            format!("no answer in {seconds} s: libqpl waits for its first descriptor"),
            LOG,
        ),
        Ending::NotRun(why) => Check::unknown(id, title, format!("could not be tried: {why}")),
    })
}

fn not_told(library: &LibraryProbe) -> String {
    match &library.ending {
        Ending::Finished => "the process that looks for it told nothing".into(),
        Ending::Signal(signal) => format!("looking for it ended by signal {signal}"),
        Ending::TimedOut(seconds) => format!("looking for it took longer than {seconds} s"),
        Ending::NotRun(why) => format!("could not be tried: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let numbers =
            |version: &str| QplFound { path: String::new(), version: version.into() }.numbers();
        assert!(numbers("1.10.0") > numbers("1.9.0"));
        assert!(numbers("v1.5") >= Some(OLDEST));
        assert_eq!(numbers("unknown"), None);
    }

    #[test]
    fn every_status_of_the_set_up_has_words() {
        for status in 500..=503 {
            assert!(!explain(status).starts_with("see"), "{status}");
        }
    }
}
