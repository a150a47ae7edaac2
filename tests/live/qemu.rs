//! QEMU processes: finding them, starting them, migrating out of and into them.

use crate::qmp::Qmp;
use crate::{DEADLINE, guest, wait_for};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The QEMUs that `ci/install-qemu` installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V7_2,
    V10_0,
}

impl Version {
    fn number(self) -> &'static str {
        match self {
            Self::V7_2 => "7.2",
            Self::V10_0 => "10.0",
        }
    }

    /// The QEMU's path: out of `QEMU_7_2` or `QEMU_10_0`, where `ci/install-qemu` puts it, or the
    /// installed one if it has this version.
    fn find(self) -> Option<PathBuf> {
        let number = self.number();
        let variable = format!("QEMU_{}", number.replace('.', "_"));
        if let Some(path) = std::env::var_os(&variable) {
            let path = PathBuf::from(path);
            assert!(path.exists(), "{variable}={} does not exist", path.display());
            return Some(path);
        }
        let directory =
            std::env::var("QEMU_DIR").unwrap_or_else(|_| "/opt/multifd-qpl-qemu".to_owned());
        let candidates = [
            Path::new(&directory).join(number).join("usr/bin/qemu-system-x86_64"),
            PathBuf::from("qemu-system-x86_64"),
        ];
        candidates.into_iter().find(|path| {
            let output = Command::new(path).arg("--version").output();
            output.is_ok_and(|output| {
                String::from_utf8_lossy(&output.stdout).contains(&format!("version {number}."))
            })
        })
    }

    /// The QEMU's path, or `None` after a loud word that the calling test is skipped.
    pub fn require(self) -> Option<PathBuf> {
        let found = self.find();
        if found.is_none() {
            let test = std::thread::current().name().unwrap_or("?").to_owned();
            let number = self.number();
            let required = std::env::var_os("MULTIFD_QPL_REQUIRE_QEMU").is_some_and(|v| v == "1");
            assert!(!required, "QEMU {number} is required and missing: run ci/install-qemu");
            // Written past the test runner's capture, so that a passing run shows it.
            let line = format!("SKIPPED {test}: no QEMU {number}; ci/install-qemu installs it\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        found
    }
}

/// What a source and its destination have in common.
#[derive(Clone, Debug)]
pub struct Machine {
    pub qemu: PathBuf,
    pub kind: &'static str,
    pub ram_mib: u32,
}

impl Machine {
    /// The newest PC of a QEMU, with 16 MiB.
    pub fn pc(qemu: &Path) -> Self {
        Self { qemu: qemu.to_owned(), kind: "pc", ram_mib: 16 }
    }

    pub fn ram_bytes(&self) -> usize {
        self.ram_mib as usize * 1024 * 1024
    }
}

/// The settings of one migration, the same at both ends.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub method: &'static str,
    pub channels: u32,
    pub return_path: bool,
    /// `zero-page-detection`, where it is not left alone.
    pub zero_pages: Option<&'static str>,
    /// Capabilities besides those that follow from the above.
    pub capabilities: &'static [&'static str],
}

impl Migration {
    pub fn new(method: &'static str, channels: u32, return_path: bool) -> Self {
        Self { method, channels, return_path, zero_pages: None, capabilities: &[] }
    }
}

const UUID: &str = "6c1f3a52-0d4e-4b7a-9f6e-2a8b51c07d93";

/// A running QEMU. It is killed when dropped.
pub struct Qemu {
    child: Child,
    qmp: Qmp,
    machine: Machine,
    directory: TempDir,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Qemu {
    /// Starts a guest and waits until it has filled its RAM.
    pub fn source(machine: &Machine) -> Self {
        let qemu = Self::start(machine, &[]);
        wait_for("the guest to fill its RAM", || (qemu.console_bytes() > 0).then_some(()));
        qemu
    }

    /// Starts a QEMU that waits for a migration, and will leave the guest stopped after it.
    pub fn destination(machine: &Machine) -> Self {
        Self::start(machine, &["-S", "-incoming", "defer"])
    }

    fn start(machine: &Machine, extra: &[&str]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let rom = guest::build(directory.path(), machine.ram_mib);
        let socket = directory.path().join("qmp");
        let messages = directory.path().join("stderr");
        let mut command = Command::new(&machine.qemu);
        // A QEMU unpacked in a directory of its own finds its data beside itself.
        if let Some(data) = machine.qemu.parent().map(|bin| bin.join("../share/qemu"))
            && data.exists()
        {
            command.arg("-L").arg(data);
        }
        let mut child = command
            .args(["-M", machine.kind, "-accel", "tcg", "-m", &format!("{}M", machine.ram_mib)])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-uuid", UUID])
            .arg("-bios")
            .arg(rom)
            .arg("-debugcon")
            .arg(format!("file:{}", directory.path().join("console").display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(extra)
            .stdin(Stdio::null())
            .stderr(File::create(&messages).expect("a file for QEMU's messages"))
            .spawn()
            .expect("QEMU starts");
        let qmp = wait_for("QEMU's monitor", || {
            if let Some(status) = child.try_wait().expect("QEMU's state") {
                let messages = std::fs::read_to_string(&messages).unwrap_or_default();
                panic!("QEMU ended at once ({status}): {messages}");
            }
            Qmp::connect(&socket, DEADLINE).ok()
        });
        Self { child, qmp, machine: machine.clone(), directory }
    }

    /// Runs a command of the monitor that must succeed.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        self.qmp.execute(command, arguments).unwrap_or_else(|error| panic!("QMP: {error}"))
    }

    /// The bytes the guest has written to its debug console so far.
    pub fn console_bytes(&self) -> u64 {
        std::fs::metadata(self.directory.path().join("console")).map_or(0, |file| file.len())
    }

    /// Ends QEMU as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("QEMU is running");
    }

    /// Sets what both ends must agree on.
    fn configure(&mut self, migration: &Migration) {
        let mut capabilities = vec!["multifd"];
        capabilities.extend(migration.return_path.then_some("return-path"));
        capabilities.extend(migration.capabilities);
        let capabilities: Vec<Value> = capabilities
            .into_iter()
            .map(|capability| json!({"capability": capability, "state": true}))
            .collect();
        self.execute("migrate-set-capabilities", json!({"capabilities": capabilities}));
        let mut parameters = json!({
            "multifd-channels": migration.channels,
            "multifd-compression": migration.method,
        });
        if let Some(detection) = migration.zero_pages {
            parameters["zero-page-detection"] = json!(detection);
        }
        self.execute("migrate-set-parameters", parameters);
    }

    /// Migrates a running guest in several rounds: slowly, so that the guest keeps ahead, until RAM
    /// has been gone through a few times; then as fast as it goes, to the end. Returns when the
    /// source needs no more help.
    pub fn migrate(&mut self, migration: &Migration, uri: &str) {
        self.start_migration(migration, uri, 8 << 20);
        wait_for("several rounds", || {
            let state = self.migration();
            (state["ram"]["dirty-sync-count"].as_u64() > Some(3)).then_some(())
        });
        let fast = json!({"max-bandwidth": 8_u64 << 30, "downtime-limit": 60_000});
        self.execute("migrate-set-parameters", fast);
    }

    /// Starts a migration that takes minutes, and returns when data has begun to flow.
    pub fn migrate_endlessly(&mut self, migration: &Migration, uri: &str) {
        self.start_migration(migration, uri, 128 << 10);
        wait_for("the first data", || {
            let state = self.migration();
            (state["ram"]["transferred"].as_u64() > Some(64 << 10)).then_some(())
        });
    }

    /// Starts a migration with little bandwidth and next to no time to stop the guest in.
    fn start_migration(&mut self, migration: &Migration, uri: &str, bandwidth: u32) {
        self.configure(migration);
        let slow = json!({"max-bandwidth": bandwidth, "downtime-limit": 1});
        self.execute("migrate-set-parameters", slow);
        self.execute("migrate", json!({"uri": uri}));
    }

    /// The migration of a stopped guest, which takes one round.
    pub fn migrate_stopped(&mut self, migration: &Migration, uri: &str) {
        self.execute("stop", json!({}));
        self.configure(migration);
        self.execute("migrate", json!({"uri": uri}));
    }

    /// Listens on `uri` for a migration; returns the address with the port that was chosen.
    pub fn listen(&mut self, migration: &Migration, uri: &str) -> String {
        self.configure(migration);
        self.execute("migrate-incoming", json!({"uri": uri}));
        if !uri.starts_with("tcp:") {
            return uri.to_owned();
        }
        let state = self.migration();
        let port = state["socket-address"][0]["port"].as_str();
        format!("tcp:127.0.0.1:{}", port.unwrap_or_else(|| panic!("no port in {state}")))
    }

    fn migration(&mut self) -> Value {
        self.execute("query-migrate", json!({}))
    }

    /// Waits until the migration has ended, and demands how.
    pub fn expect_migration(&mut self, wanted: &str) {
        let status = wait_for("the migration's end", || {
            let state = self.migration();
            let status = state["status"].as_str().unwrap_or("none");
            matches!(status, "completed" | "failed" | "cancelled").then(|| state.clone())
        });
        assert_eq!(status["status"], wanted, "{status}");
    }

    /// The run state: `running`, `paused`, `postmigrate`, ...
    pub fn run_state(&mut self) -> String {
        let state = self.execute("query-status", json!({}));
        state["status"].as_str().unwrap_or("?").to_owned()
    }

    /// The guest's physical memory from `start` on, as QEMU has it. The guest must be stopped.
    fn physical(&mut self, start: u64, bytes: usize) -> Vec<u8> {
        let file = self.directory.path().join("physical");
        let arguments = json!({"val": start, "size": bytes, "filename": file.to_str()});
        self.execute("pmemsave", arguments);
        let memory = std::fs::read(&file).expect("the file of pmemsave");
        assert_eq!(memory.len(), bytes, "bytes saved by pmemsave");
        memory
    }

    /// All RAM from address 0. Where the PC has no RAM (the video memory's and the ROMs' places
    /// between 640 KiB and 1 MiB) it holds something else than the RAM block does.
    pub fn ram(&mut self) -> Vec<u8> {
        let bytes = self.machine.ram_bytes();
        self.physical(0, bytes)
    }

    /// The boot ROM under 4 GiB, which migrates as a block of its own.
    pub fn bios(&mut self) -> Vec<u8> {
        self.physical(0xffff_0000, 0x10000)
    }
}
