//! What the device did and saw, as numbers, and their report.
//!
//! All are plain atomics because a signal handler counts too. The report is one JSON object; several processes may share
//! one report file, and each then adds its numbers to those that are there.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};

use crate::inject::KINDS;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Every counter of the device.
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
            /// Completion records by status byte.
            pub statuses: [AtomicU64; 256],
            /// Decoder errors by error byte.
            pub errors: [AtomicU64; 256],
            /// Injections by kind, in the order of `KINDS`.
            pub injected: [AtomicU64; KINDS.len()],
        }

        /// The counters of this process.
        pub static COUNTERS: Counters = Counters {
            $($name: AtomicU64::new(0),)*
            statuses: [const { AtomicU64::new(0) }; 256],
            errors: [const { AtomicU64::new(0) }; 256],
            injected: [const { AtomicU64::new(0) }; KINDS.len()],
        };

        impl Counters {
            fn plain(&self) -> Map<String, Value> {
                let mut map = Map::new();
                $(map.insert(stringify!($name).into(), self.$name.load(Relaxed).into());)*
                map
            }

            /// Sets everything to zero.
            pub fn reset(&self) {
                $(self.$name.store(0, Relaxed);)*
                for counter in self.statuses.iter().chain(&self.errors).chain(&self.injected) {
                    counter.store(0, Relaxed);
                }
            }
        }
    };
}

counters! {
    /// Descriptors taken from the queues, without no-operations.
    descriptors,
    /// No-operation descriptors: a client's probe of the write path.
    noops,
    /// Completion records written for `descriptors`.
    completed,
    /// Descriptors that ended without a record, because it could not be written.
    lost,
    /// Descriptors by operation: decompression.
    decompress,
    /// Compression, without statistics passes.
    compress,
    /// Statistics passes.
    statistics,
    /// Submissions declined, for whatever reason.
    busy,
    /// Of these, because the queue was full.
    busy_queue_full,
    /// Submissions refused as the kernel does: from another process, or not a whole number of descriptors.
    submit_errors,
    /// Uses of a page that was not present for that use.
    io_page_faults,
    /// Of these, resolved by block on fault.
    io_page_faults_resolved,
    /// Faults on a source.
    faults_source,
    /// Faults on a destination.
    faults_destination,
    /// Faults on a completion record.
    faults_record,
    /// Faults on the AECS.
    faults_aecs,
    /// Distinct pages that the device used.
    translations,
    /// Times that a page was used again and its translation had changed in between.
    translations_changed,
    /// Source bytes of the descriptors.
    bytes_in,
    /// Bytes stored to destinations.
    bytes_out,
}

impl Counters {
    /// The report. `flushes` is the process's count of TLB flushes where it is known, `processes` is 1, or 0 when no
    /// device was used.
    pub fn report(&self, flushes: Option<u64>, processes: u64) -> Value {
        let mut map = self.plain();
        let changed = self.translations_changed.load(Relaxed);
        map.insert("iotlb_flushes".into(), flushes.unwrap_or(changed).into());
        if processes != 0 {
            let source = if flushes.is_some() { "tlb_flush" } else { "translations_changed" };
            map.insert("iotlb_flushes_from".into(), source.into());
        }
        let by_kind: Map<_, _> = KINDS
            .iter()
            .zip(&self.injected)
            .map(|(kind, n)| ((*kind).into(), n.load(Relaxed).into()))
            .collect();
        map.insert(
            "injected".into(),
            self.injected.iter().map(|n| n.load(Relaxed)).sum::<u64>().into(),
        );
        map.insert("injected_by_kind".into(), by_kind.into());
        map.insert("statuses".into(), nonzero(&self.statuses, |n| format!("{n:#04x}")).into());
        map.insert("errors".into(), nonzero(&self.errors, |n| n.to_string()).into());
        map.insert("processes".into(), processes.into());
        map.into()
    }
}

fn nonzero(counters: &[AtomicU64], name: impl Fn(usize) -> String) -> Map<String, Value> {
    let seen = counters.iter().map(|n| n.load(Relaxed)).enumerate().filter(|(_, n)| *n != 0);
    seen.map(|(index, n)| (name(index), n.into())).collect()
}

/// Adds `more` to `sum`: numbers are added, objects key by key, anything else is replaced.
fn add(sum: &mut Value, more: &Value) {
    match (&mut *sum, more) {
        (Value::Object(sum), Value::Object(more)) => {
            for (key, value) in more {
                add(sum.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Number(have), Value::Number(value)) => {
            *sum = json!(have.as_u64().unwrap_or(0) + value.as_u64().unwrap_or(0));
        }
        _ => *sum = more.clone(),
    }
}

/// Adds a report to the file at `path`, which may be empty or absent, under a lock of the file.
pub fn add_to_file(path: &str, report: &Value) -> std::io::Result<()> {
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    file.lock()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let mut sum = if text.trim().is_empty() { json!({}) } else { serde_json::from_str(&text)? };
    add(&mut sum, report);
    file.seek(SeekFrom::Start(0))?;
    file.set_len(0)?;
    writeln!(file, "{sum:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_several_processes_add_up() {
        let mut sum = json!({});
        add(
            &mut sum,
            &json!({"completed": 3, "injected_by_kind": {"never": 1}, "iotlb_flushes_from": "tlb_flush"}),
        );
        add(&mut sum, &json!({"completed": 4, "injected_by_kind": {"never": 1, "flip": 2}}));
        let wanted = json!({"completed": 7, "injected_by_kind": {"never": 2, "flip": 2}, "iotlb_flushes_from": "tlb_flush"});
        assert_eq!(sum, wanted);
    }

    #[test]
    fn a_report_has_the_promised_keys() {
        let report = COUNTERS.report(None, 0);
        for key in "descriptors completed busy io_page_faults io_page_faults_resolved iotlb_flushes injected bytes_out"
            .split(' ')
        {
            assert!(report[key].is_u64(), "{key}");
        }
    }
}
