//! `multifd-qpl bench`: what receiving costs on this host, side by side with
//! how other receivers go about it, and with published figures.
//!
//! ```text
//! case x method   -> one recording, generated or given
//!   contender x engine, in turn, several times over
//!                 -> a process of its own that replays it -> one sample
//! medians         -> tables (Markdown, JSON), plots (SVG, HTML), yardsticks
//! ```
//!
//! Contenders take turns, so that a change in the host's load meets all of
//! them, and each run is a process of its own, so that its faults and memory
//! are its own.

mod cases;
mod host;
#[allow(dead_code, reason = "the criterion bench shares this module and uses the rest of it")]
mod inflate;
mod plot;
mod published;
mod results;
mod tables;
mod trial;
mod yardsticks;

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use multifd_qpl::{
    recording::{GenerateOptions, generate},
    wire::MethodId,
};

use super::{args, output::Error};
use cases::{Case, Size};
use results::{Group, Results, Row};
use trial::Trial;

/// Measure receiving on this host.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    race: Option<Race>,
    /// small, published (VMs as in the published tables, takes minutes and
    /// gigabytes), or the RAM of the largest VM, such as 8G
    #[arg(long, value_name = "SIZE", value_parser = Size::from_str, default_value = "small")]
    size: Size,
    /// Data in the VM that is nearly full, which the published one has 56 GiB
    /// of [default: half of the memory available here]
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    full_data: Option<u64>,
    /// Measure these recordings instead; may be given several times
    #[arg(long, value_name = "DIR")]
    recording: Vec<PathBuf>,
    /// Only these cases: idle, full, dense, scattered, empty
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    cases: Vec<String>,
    /// Only these methods
    #[arg(long, value_name = "M", value_parser = args::method_parser(), value_delimiter = ',')]
    methods: Vec<MethodId>,
    /// Only these contenders: default, place, populate, huge, fault,
    /// read-check, one-bit
    #[arg(long, value_name = "C", value_delimiter = ',')]
    contenders: Vec<String>,
    /// Engines for method qpl [default: those of software, qpl-software and
    /// iaa that work here]
    #[arg(long, value_name = "E", value_delimiter = ',')]
    engines: Vec<String>,
    /// Runs of each contender
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..), default_value = "5")]
    runs: u32,
    /// Keep generated recordings here, and use those that are here
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// File for all samples and medians
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// File for the tables; standard output has them in any case
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// File for the plots
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// File for a page with tables and plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Measurements of one part alone.
#[derive(Debug, clap::Subcommand)]
enum Race {
    Inflate(inflate::InflateArgs),
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), Error> {
    if let Some(Race::Inflate(args)) = args.race {
        return inflate::run(args).map_err(|error| Error::Race(error.to_string()));
    }
    let store = Store::new(args.dir.as_deref())?;
    let (engines, missing) = if args.engines.is_empty() {
        working_engines(&store)?
    } else {
        (args.engines.clone(), Vec::new())
    };
    let mut results = Results::begin(args.runs, engines.clone(), missing);
    for case in selected(&args) {
        for &method in &case.methods {
            if !args.methods.is_empty() && !args.methods.contains(&method) {
                continue;
            }
            let dir = store.recording(&case, method)?;
            results.groups.push(measure(&args, &case, method, &engines, &dir)?);
            store.used(&dir);
        }
    }
    for dir in &args.recording {
        let case = Case::recorded(dir);
        let method = trial::method_of(dir)?;
        results.groups.push(measure(&args, &case, method, &engines, dir)?);
    }
    results.end();
    write(&args, &results)
}

fn selected(args: &Args) -> Vec<Case> {
    if !args.recording.is_empty() {
        return Vec::new();
    }
    let mut cases = Case::all(args.size, args.full_data.unwrap_or_else(host::half_of_memory));
    if !args.cases.is_empty() {
        cases.retain(|case| args.cases.contains(&case.name));
    }
    cases
}

/// All runs over one recording.
fn measure(
    args: &Args,
    case: &Case,
    method: MethodId,
    engines: &[String],
    dir: &Path,
) -> Result<Group, Error> {
    let mut rows = Vec::new();
    for contender in case.contenders.iter().copied() {
        if !args.contenders.is_empty() && !args.contenders.iter().any(|c| c == contender.name) {
            continue;
        }
        if method == MethodId::Qpl {
            rows.extend(engines.iter().map(|engine| Row::new(contender, Some(engine))));
        } else {
            rows.push(Row::new(contender, None));
        }
    }
    // The first run reads the recording from the disk, and does not count.
    if let Some(row) = rows.first() {
        Trial { dir, row }.run()?;
    }
    for run in 0..args.runs as usize {
        for turn in 0..rows.len() {
            let index = (turn + run) % rows.len();
            eprintln!(
                "{}, {method}, {}: run {} of {}",
                case.name,
                rows[index].label(),
                run + 1,
                args.runs,
            );
            let sample = Trial { dir, row: &rows[index] }.run()?;
            rows[index].samples.push(sample);
        }
    }
    rows.iter_mut().for_each(Row::settle);
    Ok(Group::new(case, method, rows))
}

/// The engines that work here, and why the others do not.
fn working_engines(store: &Store) -> Result<(Vec<String>, Vec<String>), Error> {
    let case = Case::probe();
    let dir = store.recording(&case, MethodId::Qpl)?;
    let (mut working, mut missing) = (Vec::new(), Vec::new());
    for engine in ["software", "qpl-software", "iaa"] {
        let row = Row::new(case.contenders[0], Some(engine));
        match (Trial { dir: &dir, row: &row }).run() {
            Ok(_) => working.push(engine.to_owned()),
            Err(error) => missing.push(error.to_string()),
        }
    }
    store.used(&dir);
    Ok((working, missing))
}

fn write(args: &Args, results: &Results) -> Result<(), Error> {
    let put = |path: &Option<PathBuf>, text: &dyn Fn() -> String| match path {
        Some(path) => fs::write(path, text()).map_err(|error| Error::File(path.clone(), error)),
        None => Ok(()),
    };
    let markdown = tables::markdown(results);
    print!("{markdown}");
    put(&args.markdown, &|| markdown.clone())?;
    put(&args.json, &|| results.to_json())?;
    put(&args.svg, &|| plot::svg(results))?;
    put(&args.html, &|| plot::html(results))
}

/// Where generated recordings lie: in a directory that is kept, or in one of
/// our own that is removed, each recording as soon as it has been used.
struct Store {
    dir: PathBuf,
    keep: bool,
}

impl Store {
    fn new(keep: Option<&Path>) -> Result<Self, Error> {
        let own = || std::env::temp_dir().join(format!("multifd-qpl-bench-{}", std::process::id()));
        let dir = keep.map_or_else(own, Path::to_owned);
        fs::create_dir_all(&dir).map_err(|error| Error::File(dir.clone(), error))?;
        Ok(Self { dir, keep: keep.is_some() })
    }

    fn recording(&self, case: &Case, method: MethodId) -> Result<PathBuf, Error> {
        let options = GenerateOptions {
            ram: case.ram,
            used: case.used,
            pattern: case.pattern,
            method,
            channels: 2,
            rounds: 1,
            ..GenerateOptions::default()
        };
        // The name tells what is in it: a recording of another size is another.
        let dir = self.dir.join(format!(
            "{}-{method}-{}M-{}M",
            case.name,
            case.ram >> 20,
            case.used >> 20
        ));
        let whole = dir.join("whole");
        if !whole.exists() {
            eprintln!("generating {}", dir.display());
            if dir.exists() {
                fs::remove_dir_all(&dir).map_err(|error| Error::File(dir.clone(), error))?;
            }
            generate(&dir, &options, &|_, _| {})?;
            fs::write(&whole, "").map_err(|error| Error::File(whole.clone(), error))?;
        }
        Ok(dir)
    }

    fn used(&self, recording: &Path) {
        if !self.keep {
            // What cannot be removed now is tried again at the end.
            let _ = fs::remove_dir_all(recording);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.keep {
            // A directory for temporary files; the measurement is good anyhow.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
