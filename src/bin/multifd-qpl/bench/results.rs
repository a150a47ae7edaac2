//! Samples, medians, and all of them as JSON.

use multifd_qpl::wire::MethodId;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    cases::{Case, Contender},
    host::Host,
    yardsticks::{self, Yardstick},
};

/// Figures of one run, or the medians of several.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sample {
    /// First connection to verdict.
    pub wall_ms: f64,
    /// User CPU time.
    pub user_ms: f64,
    /// System CPU time.
    pub system_ms: f64,
    /// User and system CPU time.
    pub cpu_ms: f64,
    /// Minor faults of the receiver.
    pub minor_faults: f64,
    /// Of these, and of those that found the page present by then, the ones that
    /// stopped a thread; the rest happen inside of system calls that populate.
    pub traps: Option<f64>,
    /// Minor faults of the process, from exec to exit.
    pub process_faults: f64,
    /// TLB flushes of the process.
    pub tlb_flushes: Option<f64>,
    /// Growth of resident memory, at its most.
    pub rss_growth_bytes: f64,
    /// Guest RAM that takes memory in the end.
    pub resident_bytes: f64,
    /// Pages that came as data.
    pub data_pages: f64,
    /// Pages that came as zero.
    pub zero_pages: f64,
    /// Pages that a software IAA found absent.
    pub io_page_faults: Option<f64>,
    /// IOTLB flushes, as a software IAA counts them.
    pub iotlb_flushes: Option<f64>,
}

impl Sample {
    /// From the report of a replay, the process's faults, and the counters of
    /// a software IAA.
    pub fn new(report: &Value, process_faults: u64, device: Option<&Value>) -> Self {
        let number = |key: &str| report[key].as_f64().unwrap_or(0.0);
        let pages = |key: &str| report["pages"][key].as_f64().unwrap_or(0.0);
        let blocks = report["blocks"].as_array().map_or(&[][..], Vec::as_slice);
        let (user_ms, system_ms) =
            (number("cpu_user_seconds") * 1e3, number("cpu_system_seconds") * 1e3);
        // Only a device that was used has anything to tell.
        let used = device.filter(|counters| counters["completed"].as_u64().is_some_and(|n| n > 0));
        let counted = |key: &str| used.and_then(|counters| counters[key].as_f64());
        Self {
            wall_ms: number("wall_seconds") * 1e3,
            user_ms,
            system_ms,
            cpu_ms: user_ms + system_ms,
            minor_faults: number("minor_faults"),
            traps: report["page_faults_user"]
                .as_f64()
                .zip(report["page_faults_kernel"].as_f64())
                .map(|(user, kernel)| user + kernel),
            process_faults: process_faults as f64,
            tlb_flushes: report["tlb_flushes"].as_f64(),
            rss_growth_bytes: number("rss_growth_bytes"),
            resident_bytes: blocks.iter().filter_map(|b| b["resident_bytes"].as_f64()).sum(),
            data_pages: pages("normal"),
            zero_pages: pages("zero") + pages("legacy_zero"),
            io_page_faults: counted("io_page_faults"),
            iotlb_flushes: counted("iotlb_flushes"),
        }
    }

    /// The median of each figure.
    fn median(samples: &[Self]) -> Self {
        let of = |get: fn(&Self) -> f64| middle(samples.iter().map(get).collect()).unwrap_or(0.0);
        let maybe =
            |get: fn(&Self) -> Option<f64>| middle(samples.iter().filter_map(get).collect());
        Self {
            wall_ms: of(|s| s.wall_ms),
            user_ms: of(|s| s.user_ms),
            system_ms: of(|s| s.system_ms),
            cpu_ms: of(|s| s.cpu_ms),
            minor_faults: of(|s| s.minor_faults),
            traps: maybe(|s| s.traps),
            process_faults: of(|s| s.process_faults),
            tlb_flushes: maybe(|s| s.tlb_flushes),
            rss_growth_bytes: of(|s| s.rss_growth_bytes),
            resident_bytes: of(|s| s.resident_bytes),
            data_pages: of(|s| s.data_pages),
            zero_pages: of(|s| s.zero_pages),
            io_page_faults: maybe(|s| s.io_page_faults),
            iotlb_flushes: maybe(|s| s.iotlb_flushes),
        }
    }
}

/// The middle one, or the mean of the two in the middle.
fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}

/// One way of receiving one recording.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Placement and zero pages.
    pub contender: Contender,
    /// Engine, for method qpl.
    pub engine: Option<String>,
    /// One for each run.
    pub samples: Vec<Sample>,
    /// Of the samples.
    pub median: Sample,
}

impl Row {
    /// No samples yet.
    pub fn new(contender: Contender, engine: Option<&str>) -> Self {
        let engine = engine.map(str::to_owned);
        Self { contender, engine, samples: Vec::new(), median: Sample::default() }
    }

    /// Name in tables and plots.
    pub fn label(&self) -> String {
        match &self.engine {
            Some(engine) => format!("{}, {engine}", self.contender.name),
            None => self.contender.name.to_owned(),
        }
    }

    /// Works the medians out.
    pub fn settle(&mut self) {
        self.median = Sample::median(&self.samples);
    }

    /// Shortest and longest wall time.
    pub fn wall_range(&self) -> (f64, f64) {
        let walls = || self.samples.iter().map(|sample| sample.wall_ms);
        (walls().fold(f64::INFINITY, f64::min), walls().fold(0.0, f64::max))
    }
}

/// One recording.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    /// The VM.
    pub case: Case,
    /// Compression method.
    pub method: String,
    /// The ways it was received.
    pub rows: Vec<Row>,
}

impl Group {
    /// Of rows that are settled.
    pub fn new(case: &Case, method: MethodId, rows: Vec<Row>) -> Self {
        let mut case = case.clone();
        // A recording that was given does not tell beforehand.
        if let (0, Some(row)) = (case.ram, rows.first()) {
            let pages = |count: f64| count as u64 * 4096;
            case.ram = pages(row.median.data_pages + row.median.zero_pages);
            case.used = pages(row.median.data_pages);
        }
        Self { case, method: method.to_string(), rows }
    }

    /// The row of a contender with the engine given, if it was measured.
    pub fn row(&self, contender: &str, engine: Option<&str>) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.contender.name == contender && row.engine.as_deref() == engine)
    }

    /// The engines that were measured; one `None` for other methods than qpl.
    pub fn engines(&self) -> Vec<Option<&str>> {
        let mut engines: Vec<_> = self.rows.iter().map(|row| row.engine.as_deref()).collect();
        let mut seen = Vec::new();
        engines.retain(|engine| {
            let new = !seen.contains(engine);
            seen.push(*engine);
            new
        });
        engines
    }

    /// What it is, in a few words.
    pub fn title(&self) -> String {
        format!(
            "{}: {} with {} of data, method {}",
            self.case.name,
            bytes(self.case.ram),
            bytes(self.case.used),
            self.method,
        )
    }
}

/// Bytes in a round unit.
pub fn bytes(count: u64) -> String {
    match count {
        0 => "none".to_owned(),
        count if count >= 1 << 30 => {
            format!("{} GiB", (count as f64 / 1.073_741_824e7).round() / 100.0)
        }
        count => format!("{} MiB", count >> 20),
    }
}

/// Everything.
#[derive(Debug)]
pub struct Results {
    /// Where.
    pub host: Host,
    /// Runs of each row.
    pub runs: u32,
    /// Engines for method qpl.
    pub engines: Vec<String>,
    /// Why other engines were not measured.
    pub missing: Vec<String>,
    /// Recording by recording.
    pub groups: Vec<Group>,
    /// What is asked of the default, and whether it is so.
    pub yardsticks: Vec<Yardstick>,
}

impl Results {
    /// Nothing measured yet.
    pub fn begin(runs: u32, engines: Vec<String>, missing: Vec<String>) -> Self {
        let host = Host::look();
        Self { host, runs, engines, missing, groups: Vec::new(), yardsticks: Vec::new() }
    }

    /// All is measured.
    pub fn end(&mut self) {
        self.host.settle();
        self.yardsticks = yardsticks::all(&self.groups);
    }

    /// The keys are stable.
    pub fn to_json(&self) -> String {
        let value = json!({
            "host": self.host,
            "runs": self.runs,
            "engines": self.engines,
            "engines_missing": self.missing,
            "groups": self.groups,
            "yardsticks": self.yardsticks,
        });
        format!("{value:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(middle(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(middle(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(middle(Vec::new()), None);
    }

    #[test]
    fn sizes_in_words() {
        assert_eq!(bytes(64 << 30), "64 GiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(64 << 20), "64 MiB");
    }
}
