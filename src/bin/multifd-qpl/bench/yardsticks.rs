//! What is asked of the default settings, checked against the medians.

use serde::Serialize;

use super::results::{Group, Row};

/// One demand.
#[derive(Debug, Clone, Serialize)]
pub struct Yardstick {
    /// What is measured, and where.
    pub name: String,
    /// The median.
    pub value: f64,
    /// The most it may be.
    pub limit: f64,
    /// Whether it is at most that.
    pub met: bool,
}

/// Memory beyond guest data.
const MOST_BEYOND: f64 = (64 << 20) as f64;
const MIB: f64 = (1 << 20) as f64;

/// All demands that the measured groups can answer.
pub fn all(groups: &[Group]) -> Vec<Yardstick> {
    let mut found = Vec::new();
    for group in groups {
        for engine in group.engines() {
            let Some(row) = group.row("default", engine) else { continue };
            let place = match engine {
                Some(engine) => format!("{}, {} ({engine})", group.case.name, group.method),
                None => format!("{}, {}", group.case.name, group.method),
            };
            let mut add = |what: &str, value: f64, limit: f64| {
                let name = format!("{place}: {what}");
                found.push(Yardstick { name, value, limit, met: value <= limit });
            };
            of_row(group, row, &mut add);
            for rival in ["read-check", "one-bit"] {
                // Time on a device made of software says nothing.
                let Some(other) = group.row(rival, engine).filter(|_| engine != Some("iaa")) else {
                    continue;
                };
                let ratio = |ours: f64, theirs: f64| ours / theirs.max(f64::MIN_POSITIVE);
                add(
                    &format!("wall time, times that of {rival}"),
                    ratio(row.median.wall_ms, other.median.wall_ms),
                    1.0,
                );
                add(
                    &format!("CPU time, times that of {rival}"),
                    ratio(row.median.cpu_ms, other.median.cpu_ms),
                    1.0,
                );
            }
        }
    }
    found
}

fn of_row(group: &Group, row: &Row, add: &mut impl FnMut(&str, f64, f64)) {
    let median = &row.median;
    let data = median.data_pages * 4096.0;
    match group.case.name.as_str() {
        "idle" | "full" => {
            add("minor faults", median.minor_faults, 1000.0);
            if let Some(flushes) = median.tlb_flushes {
                add("TLB flushes", flushes, 100.0);
            }
            add("growth of memory, times the data", median.rss_growth_bytes / data, 1.05);
        }
        name @ ("dense" | "scattered") => {
            add("minor faults per data page", median.minor_faults / median.data_pages, 0.02);
            let limit = if name == "dense" { 1.05 } else { 1.1 };
            add("growth of memory, times the data", median.rss_growth_bytes / data, limit);
        }
        "empty" => {
            let per_page = median.user_ms * 1e6 / median.zero_pages.max(1.0);
            add("user CPU time per zero page, ns", per_page, 5.0);
        }
        _ => {}
    }
    let beyond = (median.rss_growth_bytes - median.resident_bytes).max(0.0);
    add("memory beyond guest data, MiB", beyond / MIB, MOST_BEYOND / MIB);
    if let Some(faults) = median.io_page_faults {
        add("IO page faults", faults, 0.0);
    }
}
