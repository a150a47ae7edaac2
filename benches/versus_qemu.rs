//! The receiver side by side with a QEMU destination, on the same migration.
//!
//! A recording is made once for each method: a QEMU of 64 GiB, stopped, whose RAM holds 2 GiB of
//! the files under `/usr` and is zero elsewhere, migrates over two channels into
//! `multifd-qpl record`, with a return path. Then `multifd-qpl send` feeds the recording by turns
//! to a QEMU destination and to `multifd-qpl receive`, over a unix socket each time. The costs are
//! those of the receiving process from its start to its end, as the kernel counts them; the wall
//! time is that of the sender, which ends when the receiver has confirmed the migration.
//!
//! A QEMU's cost includes its start-up, which is measured and shown apart.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `QEMU` | the QEMU; without it nothing is measured | - |
//! | `QEMU_WRAPPER` | a command put before it, such as `chroot DIR` | none |
//! | `VERSUS_METHODS` | methods, with commas between them | none, zlib, zstd, qpl as far as QEMU has them |
//! | `VERSUS_TURNS` | turns for each method | 5 |
//! | `VERSUS_DIR` | keeps the recordings here and uses them again | a temporary directory |

#[path = "../tests/live/qmp.rs"]
mod qmp;

use qmp::Qmp;
use serde_json::{Value, json};
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const RAM: &str = "64G";
const DATA_BYTES: u64 = 2 << 30;
/// QEMU's loader takes files of less than 2 GiB.
const DATA_FILE_BYTES: u64 = 512 << 20;
const CHANNELS: u32 = 2;
const DEADLINE: Duration = Duration::from_secs(600);

fn main() -> Result<()> {
    let Some(binary) = std::env::var_os("QEMU") else {
        println!("versus_qemu: skipped, as QEMU is not set");
        return Ok(());
    };
    let temporary = tempfile::TempDir::new()?;
    let directory = match std::env::var_os("VERSUS_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => temporary.path().to_owned(),
    };
    fs::create_dir_all(&directory)?;
    let wrapper = std::env::var("QEMU_WRAPPER").unwrap_or_default();
    let mut words: Vec<_> = wrapper.split_whitespace().map(Into::into).collect();
    words.push(binary);
    let bench = Bench { words, scratch: temporary.path().to_owned(), directory };
    fs::write(bench.rom(), vec![0xf4; 0x10000])?;

    let turns: usize = match std::env::var("VERSUS_TURNS") {
        Ok(turns) => turns.parse()?,
        Err(_) => 5,
    };
    let methods = match std::env::var("VERSUS_METHODS") {
        Ok(methods) => methods.split(',').map(str::to_owned).collect(),
        Err(_) => bench.methods()?,
    };
    for method in &methods {
        bench.record(method)?;
    }
    let mut start_up = Vec::new();
    let mut rows: Vec<Row> = methods.into_iter().map(Row::new).collect();
    for turn in 0..turns {
        start_up.push(bench.start_up()?);
        for row in &mut rows {
            // The order changes from turn to turn, so that neither always finds warm caches.
            if turn % 2 == 0 {
                row.qemu.push(bench.qemu(&row.method)?);
                row.ours.push(bench.ours(&row.method)?);
            } else {
                row.ours.push(bench.ours(&row.method)?);
                row.qemu.push(bench.qemu(&row.method)?);
            }
        }
    }
    print_table(&bench.version()?, &start_up, &rows);
    Ok(())
}

/// What one run of a receiver cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    user: f64,
    system: f64,
    faults: f64,
    rss_mib: f64,
}

/// The runs of one method.
struct Row {
    method: String,
    qemu: Vec<Cost>,
    ours: Vec<Cost>,
}

impl Row {
    fn new(method: String) -> Self {
        Self { method, qemu: Vec::new(), ours: Vec::new() }
    }
}

struct Bench {
    /// The command line that starts QEMU, without arguments.
    words: Vec<std::ffi::OsString>,
    /// Sockets and the ROM.
    scratch: PathBuf,
    /// Data and recordings.
    directory: PathBuf,
}

/// A child that does not outlive an error.
struct Guarded(Option<Child>);

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Bench {
    fn rom(&self) -> PathBuf {
        self.scratch.join("rom.bin")
    }

    fn recording(&self, method: &str) -> PathBuf {
        self.directory.join(format!("recording-{method}"))
    }

    fn qemu_command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        command
    }

    fn version(&self) -> Result<String> {
        let output = self.qemu_command().arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or("QEMU of an unknown version").to_owned())
    }

    /// Starts a stopped machine of 64 GiB and connects to its monitor.
    fn start_qemu(&self, arguments: &[String]) -> Result<(Guarded, Qmp)> {
        let socket = self.scratch.join("qmp");
        let _ = fs::remove_file(&socket);
        let memory = format!("memory-backend-ram,id=pc.ram,size={RAM},reserve=off");
        let child = self
            .qemu_command()
            .args(["-S", "-M", "pc,memory-backend=pc.ram", "-accel", "tcg", "-m", RAM])
            .args(["-object", &memory, "-nodefaults", "-no-user-config", "-display", "none"])
            .arg("-bios")
            .arg(self.rom())
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()?;
        let guarded = Guarded(Some(child));
        let end = Instant::now() + DEADLINE;
        loop {
            match Qmp::connect(&socket, DEADLINE) {
                Ok(qmp) => return Ok((guarded, qmp)),
                Err(error) if Instant::now() > end => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn configure(qmp: &mut Qmp, method: &str) -> io::Result<()> {
        let capabilities = json!([
            {"capability": "multifd", "state": true},
            {"capability": "return-path", "state": true},
        ]);
        qmp.execute("migrate-set-capabilities", json!({"capabilities": capabilities}))?;
        let parameters = json!({"multifd-channels": CHANNELS, "multifd-compression": method});
        qmp.execute("migrate-set-parameters", parameters)?;
        Ok(())
    }

    /// The methods this QEMU was built with.
    fn methods(&self) -> Result<Vec<String>> {
        let (child, mut qmp) = self.start_qemu(&[])?;
        let known = ["none", "zlib", "zstd", "qpl"].into_iter();
        let methods = known.filter(|method| Self::configure(&mut qmp, method).is_ok());
        let methods = methods.map(str::to_owned).collect();
        quit(child, &mut qmp)?;
        Ok(methods)
    }

    /// Makes the recording of a method, unless it is there.
    fn record(&self, method: &str) -> Result<()> {
        let recording = self.recording(method);
        if recording.join("main.bin").exists() {
            return Ok(());
        }
        eprintln!("versus_qemu: recording a migration with method {method}");
        let mut arguments = Vec::new();
        for (number, file) in self.data()?.iter().enumerate() {
            let address = (16 << 20) + number as u64 * DATA_FILE_BYTES;
            let file = file.display();
            arguments.push("-device".to_owned());
            arguments.push(format!("loader,file={file},addr={address:#x},force-raw=on"));
        }
        let (source, mut qmp) = self.start_qemu(&arguments)?;
        let partial = self.directory.join(format!("partial-{method}"));
        let _ = fs::remove_dir_all(&partial);
        let socket = self.socket();
        let recorder = Command::new(env!("CARGO_BIN_EXE_multifd-qpl"))
            .arg("record")
            .args(["--listen", &socket, "--channels", &CHANNELS.to_string()])
            .arg(&partial)
            .stdin(Stdio::null())
            .spawn()?;
        let recorder = Guarded(Some(recorder));
        self.await_socket()?;
        Self::configure(&mut qmp, method)?;
        qmp.execute("migrate-set-parameters", json!({"max-bandwidth": 32_u64 << 30}))?;
        qmp.execute("migrate", json!({"uri": socket}))?;
        await_completion(&mut qmp)?;
        finish(recorder)?;
        quit(source, &mut qmp)?;
        fs::rename(&partial, &recording)?;
        Ok(())
    }

    /// Files with the content of `/usr`, as large as the loader takes them.
    fn data(&self) -> Result<Vec<PathBuf>> {
        let files: Vec<PathBuf> = (0..DATA_BYTES / DATA_FILE_BYTES)
            .map(|number| self.directory.join(format!("data-{number}.bin")))
            .collect();
        if files.iter().all(|file| file.exists()) {
            return Ok(files);
        }
        let mut everything = Concatenation { pending: vec![PathBuf::from("/usr")], file: None };
        for file in &files {
            let mut output = File::create(file)?;
            let bytes = io::copy(&mut everything.by_ref().take(DATA_FILE_BYTES), &mut output)?;
            if bytes < DATA_FILE_BYTES {
                return Err("/usr has less than 2 GiB of files".into());
            }
            output.flush()?;
        }
        Ok(files)
    }

    fn socket_path(&self) -> PathBuf {
        self.scratch.join("migration")
    }

    fn socket(&self) -> String {
        let _ = fs::remove_file(self.socket_path());
        format!("unix:{}", self.socket_path().display())
    }

    fn await_socket(&self) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while !self.socket_path().exists() {
            if Instant::now() > end {
                return Err("the receiver does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Bound already, and listening in the same breath.
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    /// Feeds a recording to whoever listens; returns the seconds it took.
    fn send(&self, method: &str) -> Result<f64> {
        let start = Instant::now();
        let sender = Command::new(env!("CARGO_BIN_EXE_multifd-qpl"))
            .arg("send")
            .arg(self.recording(method))
            .arg("--to")
            .arg(format!("unix:{}", self.socket_path().display()))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        finish(Guarded(Some(sender)))?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// A QEMU that starts and quits.
    fn start_up(&self) -> Result<Cost> {
        let start = Instant::now();
        let (child, mut qmp) = self.start_qemu(&["-incoming".to_owned(), "defer".to_owned()])?;
        let mut cost = quit(child, &mut qmp)?;
        cost.wall = start.elapsed().as_secs_f64();
        Ok(cost)
    }

    fn qemu(&self, method: &str) -> Result<Cost> {
        let (child, mut qmp) = self.start_qemu(&["-incoming".to_owned(), "defer".to_owned()])?;
        Self::configure(&mut qmp, method)?;
        qmp.execute("migrate-incoming", json!({"uri": self.socket()}))?;
        let wall = self.send(method)?;
        await_completion(&mut qmp)?;
        Ok(Cost { wall, ..quit(child, &mut qmp)? })
    }

    fn ours(&self, method: &str) -> Result<Cost> {
        let receiver = Command::new(env!("CARGO_BIN_EXE_multifd-qpl"))
            .args(["receive", "--listen", &self.socket(), "--max-ram", "72G"])
            .args(["--channels", &CHANNELS.to_string(), "--method", method])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let receiver = Guarded(Some(receiver));
        self.await_socket()?;
        let wall = self.send(method)?;
        Ok(Cost { wall, ..finish(receiver)? })
    }
}

/// Reads all regular files below some directories one after the other, in the order of their
/// names, so that the same machine gives the same bytes.
struct Concatenation {
    /// Directories and files still to come, the next one last.
    pending: Vec<PathBuf>,
    file: Option<File>,
}

impl Read for Concatenation {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.file {
                let bytes = file.read(buffer)?;
                if bytes > 0 {
                    return Ok(bytes);
                }
                self.file = None;
            }
            let Some(path) = self.pending.pop() else { return Ok(0) };
            let kind = fs::symlink_metadata(&path)?.file_type();
            if kind.is_dir() {
                let entries = fs::read_dir(&path)?.map(|entry| entry.map(|entry| entry.path()));
                let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
                entries.sort_by(|a, b| b.cmp(a));
                self.pending.extend(entries);
            } else if kind.is_file() {
                self.file = Some(File::open(&path)?);
            }
        }
    }
}

/// Waits until a QEMU says that its migration has completed, in or out.
fn await_completion(qmp: &mut Qmp) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        let state: Value = qmp.execute("query-migrate", json!({}))?;
        match state["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => return Err(format!("migration: {state}").into()),
            _ if Instant::now() > end => return Err(format!("no end: {state}").into()),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Ends a QEMU and returns what it cost.
fn quit(child: Guarded, qmp: &mut Qmp) -> Result<Cost> {
    qmp.execute("quit", json!({}))?;
    finish(child)
}

/// Waits for a child that must end well, and returns what it cost.
fn finish(mut guarded: Guarded) -> Result<Cost> {
    let pid = guarded.0.as_ref().ok_or("no child")?.id();
    let end = Instant::now() + DEADLINE;
    loop {
        let mut status = 0;
        // SAFETY: rusage is a plain C structure of integers, for which all zeros is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live variables of the types that wait4 fills in; the
        // process is a child of ours that nobody else has waited for.
        let waited =
            unsafe { libc::wait4(pid.cast_signed(), &mut status, libc::WNOHANG, &mut usage) };
        if waited == 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        if waited == 0 {
            return Err("a child does not end".into());
        }
        if waited < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // The child is gone, and its number may be given to another process.
        guarded.0 = None;
        if status != 0 {
            return Err(format!("a child ended with wait status {status:#x}").into());
        }
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        return Ok(Cost {
            wall: 0.0,
            user: seconds(usage.ru_utime),
            system: seconds(usage.ru_stime),
            faults: usage.ru_minflt as f64,
            rss_mib: usage.ru_maxrss as f64 / 1024.0,
        });
    }
}

fn median(costs: &[Cost], value: impl Fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The least of a value: what it costs when nothing else is in the way.
fn least(costs: &[Cost], value: impl Fn(&Cost) -> f64) -> f64 {
    costs.iter().map(value).fold(f64::INFINITY, f64::min)
}

fn print_table(version: &str, start_up: &[Cost], rows: &[Row]) {
    println!("\n{version}; {RAM} VM, {} GiB of data, {CHANNELS} channels;", DATA_BYTES >> 30);
    println!("medians of {} turns, by turns on the same machine\n", start_up.len());
    println!(
        "| method | receiver | wall s | user s | system s | CPU s | least CPU s | minor faults | max RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let cpu = |cost: &Cost| cost.user + cost.system;
    let line = |method: &str, name: &str, costs: &[Cost]| {
        println!(
            "| {method} | {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            median(costs, |cost| cost.wall),
            median(costs, |cost| cost.user),
            median(costs, |cost| cost.system),
            median(costs, cpu),
            least(costs, cpu),
            median(costs, |cost| cost.faults),
            median(costs, |cost| cost.rss_mib),
        );
    };
    line("-", "QEMU, start-up only", start_up);
    for row in rows {
        line(&row.method, "QEMU", &row.qemu);
        line(&row.method, "multifd-qpl", &row.ours);
        let ratio =
            |value: &dyn Fn(&Cost) -> f64| median(&row.ours, value) / median(&row.qemu, value);
        println!(
            "| {} | ratio | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            row.method,
            ratio(&|cost| cost.wall),
            ratio(&|cost| cost.user),
            ratio(&|cost| cost.system),
            ratio(&cpu),
            least(&row.ours, cpu) / least(&row.qemu, cpu),
            ratio(&|cost| cost.faults),
            ratio(&|cost| cost.rss_mib),
        );
    }
}
