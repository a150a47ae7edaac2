//! A line that tells how far a migration is, on terminals only.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use multifd_qpl::receiver::Progress;

/// A progress line that goes when it is dropped.
pub struct Bar {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bar {
    /// Shows how `progress` goes on, if standard error is a terminal.
    pub fn start(progress: Progress) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::io::stderr().is_terminal().then(|| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || show(&progress, &stop))
        });
        Self { stop, thread }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A progress line that failed is no reason to fail the migration.
            let _ = thread.join();
        }
    }
}

fn show(progress: &Progress, stop: &AtomicBool) {
    let style = ProgressStyle::with_template("{spinner} {elapsed} {bar:30} {msg}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    while !stop.load(Ordering::Relaxed) {
        let counters = progress.counters();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let pages = load(&counters.normal) + load(&counters.zero) + load(&counters.legacy_zero);
        // Pages of later rounds go over the size of the RAM.
        let ram = load(&counters.ram_bytes);
        bar.set_length(ram.max(pages * 4096));
        bar.set_position(pages * 4096);
        bar.set_message(format!(
            "{} of {} RAM, {} received, mark {}",
            HumanBytes(pages * 4096),
            HumanBytes(ram),
            HumanBytes(load(&counters.bytes)),
            progress.marks(),
        ));
        std::thread::park_timeout(Duration::from_millis(100));
    }
    bar.finish_and_clear();
}
