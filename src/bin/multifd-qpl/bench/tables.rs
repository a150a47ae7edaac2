//! The results as tables, in Markdown or HTML.

use std::fmt::Write;

use super::{
    cases::CONTENDERS,
    published::{PUBLISHED, Pair},
    results::{Group, Results, Row, Sample},
};

/// A table with a heading and a remark.
pub struct Table {
    title: String,
    remark: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// All tables as Markdown.
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    for table in tables(results) {
        let _ = writeln!(text, "### {}\n", table.title);
        if !table.remark.is_empty() {
            let _ = writeln!(text, "{}\n", table.remark);
        }
        let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let _ = writeln!(text, "{}", line(&table.head));
        let _ = writeln!(text, "|{}", "---|".repeat(table.head.len()));
        for row in &table.rows {
            let _ = writeln!(text, "{}", line(row));
        }
        text.push('\n');
    }
    text
}

/// All tables as HTML.
pub fn html(results: &Results) -> String {
    let mut text = String::new();
    for table in tables(results) {
        let _ = write!(
            text,
            "<h2>{}</h2>\n<p>{}</p>\n<table>",
            escape(&table.title),
            escape(&table.remark)
        );
        let line = |cells: &[String], tag: &str| {
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect::<String>()
        };
        let _ = writeln!(text, "<tr>{}</tr>", line(&table.head, "th"));
        for row in &table.rows {
            let _ = writeln!(text, "<tr>{}</tr>", line(row, "td"));
        }
        text.push_str("</table>\n");
    }
    text
}

/// Text for HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn tables(results: &Results) -> Vec<Table> {
    let mut tables = vec![host(results)];
    tables.extend(published_none(results));
    tables.extend(published_qpl(results));
    tables.extend(results.groups.iter().map(group));
    tables.push(yardsticks(results));
    tables
}

fn strings<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn host(results: &Results) -> Table {
    let host = &results.host;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("CPU", host.cpu.clone()),
        row("CPUs", host.cpus.to_string()),
        row("memory", super::results::bytes(host.memory)),
        row("kernel", host.kernel.clone()),
        row("transparent huge pages", host.huge_pages.clone()),
        row("multifd-qpl", host.version.to_owned()),
        row(
            "load average before and after",
            format!("{} and {}", host.load_before, host.load_after),
        ),
        row("runs of each row", format!("{}, medians are shown", results.runs)),
        row("engines for method qpl", results.engines.join(", ")),
    ];
    rows.extend(results.missing.iter().map(|why| row("not measured", why.clone())));
    rows.extend(CONTENDERS.map(|contender| row(contender.name, contender.about.to_owned())));
    Table {
        title: "Host and contenders".into(),
        remark: String::new(),
        head: strings(["", ""]),
        rows,
    }
}

const PUBLISHED_REMARK: &str = "Published: with the map / without it, on a 64 GiB VM. Here: \
    default / read-check / one-bit.";

/// The group that is like a published row, and how its VM is called here.
fn counterpart<'a>(results: &'a Results, case: &str, method: &str) -> Option<&'a Group> {
    results.groups.iter().find(|group| group.case.name == case && group.method == method)
}

fn three(group: &Group, engine: Option<&str>, show: impl Fn(&Sample) -> String) -> String {
    let cell = |name| group.row(name, engine).map_or("-".to_owned(), |row| show(&row.median));
    ["default", "read-check", "one-bit"].map(cell).join(" / ")
}

fn vm(group: &Group) -> String {
    use super::results::bytes;
    format!("{} of {}", bytes(group.case.used), bytes(group.case.ram))
}

fn published_none(results: &Results) -> Option<Table> {
    let mut rows = Vec::new();
    for published in PUBLISHED.iter().filter(|published| published.method == "none") {
        let Some(group) = counterpart(results, published.case, "none") else { continue };
        rows.push(vec![
            published.vm.to_owned(),
            pair(published.total_ms),
            published.page_faults.map_or("-".into(), pair),
            vm(group),
            three(group, None, |median| round(median.wall_ms)),
            three(group, None, |median| round(median.minor_faults)),
            three(group, None, |median| maybe(median.tlb_flushes)),
        ]);
    }
    let head = strings([
        "published VM",
        "total ms",
        "page faults",
        "VM here",
        "total ms here",
        "page faults here",
        "TLB flushes here",
    ]);
    let title = "The published table, method none".to_owned();
    (!rows.is_empty()).then(|| Table { title, remark: PUBLISHED_REMARK.to_owned(), head, rows })
}

fn published_qpl(results: &Results) -> Option<Table> {
    let mut rows = Vec::new();
    for published in PUBLISHED.iter().filter(|published| published.method == "qpl") {
        let Some(group) = counterpart(results, published.case, "qpl") else { continue };
        for engine in group.engines() {
            rows.push(vec![
                published.vm.to_owned(),
                pair(published.total_ms),
                published.iotlb_flushes.map_or("-".into(), pair),
                published.io_page_faults.map_or("-".into(), pair),
                published.longest_us.map_or("-".into(), pair),
                vm(group),
                engine.unwrap_or("-").to_owned(),
                three(group, engine, |median| round(median.wall_ms)),
                three(group, engine, |median| round(median.minor_faults)),
                three(group, engine, |median| maybe(median.tlb_flushes)),
                three(group, engine, |median| maybe(median.io_page_faults)),
            ]);
        }
    }
    let head = strings([
        "published VM",
        "total ms",
        "IOTLB flushes",
        "IO page faults",
        "longest, us",
        "VM here",
        "engine here",
        "total ms here",
        "page faults here",
        "TLB flushes here (bound of IOTLB flushes)",
        "IO page faults here",
    ]);
    let title = "The published table, method qpl".to_owned();
    (!rows.is_empty()).then(|| Table { title, remark: PUBLISHED_REMARK.to_owned(), head, rows })
}

fn group(group: &Group) -> Table {
    let head = strings([
        "contender",
        "wall ms (least - most)",
        "CPU ms (user + system)",
        "minor faults",
        "traps",
        "minor faults, exec to exit",
        "TLB flushes",
        "growth of memory, MiB",
        "guest RAM resident, MiB",
        "IO page faults",
    ]);
    Table {
        title: group.title(),
        remark: group.rows.first().map_or(String::new(), |row| {
            format!(
                "{} data pages and {} zero pages.",
                round(row.median.data_pages),
                round(row.median.zero_pages)
            )
        }),
        head,
        rows: group.rows.iter().map(line).collect(),
    }
}

fn line(row: &Row) -> Vec<String> {
    let median = &row.median;
    let (least, most) = row.wall_range();
    let mib = |bytes: f64| format!("{:.1}", bytes / 1_048_576.0);
    vec![
        row.label(),
        format!("{} ({} - {})", round(median.wall_ms), round(least), round(most)),
        format!(
            "{} ({} + {})",
            round(median.cpu_ms),
            round(median.user_ms),
            round(median.system_ms)
        ),
        round(median.minor_faults),
        maybe(median.traps),
        round(median.process_faults),
        maybe(median.tlb_flushes),
        mib(median.rss_growth_bytes),
        mib(median.resident_bytes),
        maybe(median.io_page_faults),
    ]
}

fn yardsticks(results: &Results) -> Table {
    let rows = results.yardsticks.iter().map(|yardstick| {
        vec![
            yardstick.name.clone(),
            fine(yardstick.value),
            fine(yardstick.limit),
            if yardstick.met { "yes" } else { "NO" }.to_owned(),
        ]
    });
    Table {
        title: "Yardsticks".to_owned(),
        remark: "Medians of the default, and the most they may be.".to_owned(),
        head: strings(["what", "measured", "at most", "met"]),
        rows: rows.collect(),
    }
}

fn pair(pair: Pair) -> String {
    format!("{} / {}", pair.0, pair.1)
}

fn round(value: f64) -> String {
    format!("{value:.0}")
}

fn fine(value: f64) -> String {
    if value >= 100.0 { round(value) } else { format!("{value:.3}") }
}

fn maybe(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), round)
}
