//! The report as a person reads it.

use std::fmt::Write;

use super::{Report, State};

/// One line for each check, its mending commands below it, the verdict at the
/// end.
pub fn render(report: &Report) -> String {
    let width = report.checks.iter().map(|check| check.title.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in &report.checks {
        // Writing to a String does not fail.
        let _ =
            writeln!(text, "{:<10}  {:<width$}  {}", check.state.word(), check.title, check.detail);
        for line in check.fix.iter().flat_map(|fix| fix.lines()) {
            let prompt = if line.starts_with('#') { "" } else { "$ " };
            let _ = writeln!(text, "{:<10}  {prompt}{line}", "");
        }
    }
    let count = |state| report.checks.iter().filter(|check| check.state == state).count();
    let _ = writeln!(
        text,
        "\n{} good, {} bad, {} unknown, {} not needed.\n{}",
        count(State::Good),
        count(State::Bad),
        count(State::Unknown),
        count(State::NotNeeded),
        report.verdict.sentence
    );
    text
}
