//! The `multifd-qpl` command as a child process.

use crate::wait_for;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A `multifd-qpl` under way. It is killed when dropped.
pub struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

/// How a `multifd-qpl` ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stderr: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `multifd-qpl` with arguments separated by blanks, which no path here contains.
pub fn start(arguments: &str) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_multifd-qpl"))
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("multifd-qpl starts");
    let stderr = child.stderr.take().expect("a pipe");
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            sink.lock().expect("no reader panics").push(line);
        }
    });
    Running { child, lines, reader: Some(reader) }
}

/// Runs `multifd-qpl` to its end, which must be a good one.
pub fn run(arguments: &str) {
    start(arguments).expect_success();
}

impl Running {
    fn stderr(&self) -> String {
        self.lines.lock().expect("no reader panics").join("\n")
    }

    /// Waits for the command to listen, and returns the address in QEMU's form.
    pub fn address(&mut self) -> String {
        wait_for("multifd-qpl to listen", || {
            let lines = self.lines.lock().expect("no reader panics").clone();
            let address = lines.iter().find_map(|line| line.strip_prefix("listening on "));
            if address.is_none()
                && let Some(status) = self.child.try_wait().expect("the child's state")
            {
                panic!("multifd-qpl ended at once ({status}): {}", self.stderr());
            }
            address.map(str::to_owned)
        })
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Ended {
        let status =
            wait_for("multifd-qpl to end", || self.child.try_wait().expect("the child's state"));
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of standard error");
        }
        Ended { code: status.code(), stderr: self.stderr() }
    }

    /// Waits for the end, which must be a good one.
    pub fn expect_success(self) {
        let ended = self.wait();
        assert_eq!(ended.code, Some(0), "multifd-qpl failed: {}", ended.stderr);
    }
}

/// Reads a report written by `--report`.
pub fn report(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("a report");
    serde_json::from_str(&text).expect("a report in JSON")
}
