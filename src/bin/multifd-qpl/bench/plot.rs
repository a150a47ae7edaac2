//! Plots: one panel of bars for each recording and figure, as SVG, alone or in
//! a page with the tables.

use std::fmt::Write;

use super::{
    results::{Group, Results, Sample},
    tables,
};

/// A figure that is plotted.
struct Figure {
    title: &'static str,
    /// Bars grow with the logarithm.
    logarithmic: bool,
    get: fn(&Sample) -> Option<f64>,
}

const FIGURES: [Figure; 4] = [
    Figure { title: "wall time, ms", logarithmic: false, get: |s| Some(s.wall_ms) },
    Figure { title: "CPU time, ms", logarithmic: false, get: |s| Some(s.cpu_ms) },
    Figure { title: "minor faults (log)", logarithmic: true, get: |s| Some(s.minor_faults) },
    Figure { title: "TLB flushes (log)", logarithmic: true, get: |s| s.tlb_flushes },
];

const PANEL: f64 = 310.0;
const LABEL: f64 = 150.0;
const BAR: f64 = 14.0;
const STEP: f64 = 18.0;
const HEAD: f64 = 56.0;

/// The plots.
pub fn svg(results: &Results) -> String {
    let height: f64 = results.groups.iter().map(height).sum();
    let width = LABEL + PANEL * FIGURES.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let mut top = 0.0;
    for group in &results.groups {
        panel_row(&mut text, group, top);
        top += self::height(group);
    }
    text.push_str("</svg>\n");
    text
}

/// The page.
pub fn html(results: &Results) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>multifd-qpl bench</title>\n<style>body {{ font-family: sans-serif }} \
         table {{ border-collapse: collapse }} \
         td, th {{ border: 1px solid #ccc; padding: 2px 8px; text-align: left }}</style></head>\n\
         <body><h1>multifd-qpl bench</h1>\n{}{}</body></html>\n",
        svg(results),
        tables::html(results),
    )
}

fn height(group: &Group) -> f64 {
    HEAD + STEP * group.rows.len() as f64
}

fn panel_row(text: &mut String, group: &Group, top: f64) {
    let title = tables::escape(&group.title());
    let _ = writeln!(
        text,
        "<text x=\"8\" y=\"{}\" font-size=\"14\" font-weight=\"bold\">{title}</text>",
        top + 20.0
    );
    let line = |index: usize| top + HEAD - 10.0 + STEP * index as f64;
    for (index, row) in group.rows.iter().enumerate() {
        let label = tables::escape(&row.label());
        let y = line(index) + BAR - 3.0;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{label}</text>",
            LABEL - 6.0
        );
    }
    for (column, figure) in FIGURES.iter().enumerate() {
        let left = LABEL + PANEL * column as f64;
        let _ = writeln!(
            text,
            "<text x=\"{left}\" y=\"{}\" fill=\"#555\">{}</text>",
            top + 38.0,
            figure.title
        );
        let length = |value: f64| if figure.logarithmic { (value + 1.0).log10() } else { value };
        let values = group.rows.iter().map(|row| (figure.get)(&row.median));
        let most = values.clone().flatten().map(length).fold(f64::MIN_POSITIVE, f64::max);
        for (index, value) in values.enumerate() {
            let Some(value) = value else { continue };
            let width = (PANEL - 80.0) * length(value) / most;
            let ours = group.rows[index].contender.zero_mode == "map";
            let colour = if ours { "#2a7fbf" } else { "#c9803a" };
            let y = line(index);
            let _ = writeln!(
                text,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{value:.0}</text>",
                left + width + 4.0,
                y + BAR - 3.0,
            );
        }
    }
}
