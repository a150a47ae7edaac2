//! One run: a process of its own that replays the recording.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
};

use multifd_qpl::{
    recording::Recording,
    wire::{Hello, MethodId, Packet},
};
use serde_json::Value;

use super::results::{Row, Sample};
use crate::output::Error;

/// Where a software IAA puts its counters when its process ends.
const DEVICE_REPORT: &str = "IAA_EMULATOR_REPORT";

/// A run to be made.
pub struct Trial<'a> {
    /// The recording.
    pub dir: &'a Path,
    /// The way of receiving it.
    pub row: &'a Row,
}

impl Trial<'_> {
    /// Makes the run.
    pub fn run(&self) -> Result<Sample, Error> {
        let wrong = |what: String| Error::Bench(format!("{}: {what}", self.row.label()));
        let fails = |error: std::io::Error| wrong(error.to_string());
        let program = std::env::current_exe().map_err(fails)?;
        let mut command = Command::new(program);
        command.arg("replay").arg(self.dir).args(["--json", "--trace"]);
        command.args(["--zero-mode", self.row.contender.zero_mode]);
        if let Some(placement) = self.row.contender.placement {
            command.args(["--placement", placement]);
        }
        if let Some(engine) = &self.row.engine {
            command.args(["--engine", engine]);
        }
        let device = std::env::var_os(DEVICE_REPORT).map(|_| {
            std::env::temp_dir().join(format!("multifd-qpl-device-{}.json", std::process::id()))
        });
        if let Some(path) = &device {
            // From the run before; the counters of processes are added up.
            let _ = fs::remove_file(path);
            command.env(DEVICE_REPORT, path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(fails)?;
        let (mut text, mut complaint) = (String::new(), String::new());
        // The report fits a pipe, so neither end waits for the other.
        if let Some(mut out) = child.stdout.take() {
            out.read_to_string(&mut text).map_err(fails)?;
        }
        if let Some(mut out) = child.stderr.take() {
            out.read_to_string(&mut complaint).map_err(fails)?;
        }
        let (success, faults) = reap(&mut child).map_err(fails)?;
        if !success {
            let complaint = complaint.trim();
            return Err(wrong(complaint.strip_prefix("multifd-qpl: ").unwrap_or(complaint).into()));
        }
        let report: Value =
            serde_json::from_str(&text).map_err(|error| wrong(format!("no report: {error}")))?;
        let counters = device.and_then(|path| {
            let text = fs::read_to_string(&path).ok()?;
            // Nobody needs it any more.
            let _ = fs::remove_file(&path);
            serde_json::from_str::<Value>(&text).ok()
        });
        Ok(Sample::new(&report, faults, counters.as_ref()))
    }
}

/// Waits for the process. Tells whether it succeeded, and the minor faults of
/// its whole life.
fn reap(child: &mut Child) -> std::io::Result<(bool, u64)> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the child is ours and nobody else waits for it; both pointers are
    // to live values of the types that wait4 fills.
    let pid = unsafe { libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr()) };
    if pid < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: all-zero is a valid rusage, and the kernel has filled it besides.
    let usage = unsafe { usage.assume_init() };
    let success = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
    Ok((success, usage.ru_minflt.max(0) as u64))
}

/// The method of a recording, from the first packet with data in a channel.
pub fn method_of(dir: &Path) -> Result<MethodId, Error> {
    let recording = Recording::open(dir)?;
    for mut file in recording.open_files()?.into_iter().skip(1) {
        let mut head = vec![0; Hello::LEN + 64 * Packet::HEADER_LEN];
        let mut len = 0;
        while let Ok(count @ 1..) = file.read(&mut head[len..]) {
            len += count;
        }
        let mut rest = head.get(Hello::LEN..len).unwrap_or_default();
        while let Some(packet) = rest.first_chunk().and_then(|head| Packet::parse(head).ok()) {
            if packet.normal_pages() > 0 {
                return Ok(packet.method());
            }
            rest = rest.get(Packet::HEADER_LEN..).unwrap_or_default();
        }
    }
    Ok(MethodId::None)
}
