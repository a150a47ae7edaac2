//! Machines without a usable device, several processes, and the script around it all.

mod support;

use std::path::Path;
use std::process::Command;

use support::qpl::{DECOMPRESS, HARDWARE, OMIT_VERIFY, SOFTWARE, WHOLE};
use support::{Client, emulator_path, page, require_libqpl, scenario};

/// The status of the hardware path's start, or of a page's decompression.
fn status(client: &Client, numa: i32) -> u32 {
    let (_, stream) = client.qpl.job(SOFTWARE).expect("software").compress(OMIT_VERIFY, &page(1));
    match client.qpl.job(HARDWARE) {
        Ok(mut job) => {
            job.raw().numa_id = numa;
            job.decompress(&stream, &mut vec![0; 4096]).0
        }
        Err(status) => status,
    }
}

macro_rules! start {
    ($($name:ident: $settings:literal, numa $numa:literal => $status:literal;)*) => {
        $(#[test]
        fn $name() {
            scenario(stringify!($name), $settings, |client| assert_eq!(status(client, $numa), $status));
        })*
    };
}

start! {
    no_device: "devices=0", numa -1 => 503;
    no_queue: "queues=0", numa -1 => 503;
    a_disabled_device: "device_state=disabled", numa -1 => 503;
    a_disabled_queue: "queue_state=disabled", numa -1 => 503;
    a_dedicated_queue: "mode=dedicated", numa -1 => 503;
    no_permission: "accessible=0", numa -1 => 503;
    a_small_transfer_size: "max_transfer_size=4096", numa -1 => 319;
    a_transfer_size_that_is_enough: "max_transfer_size=8192", numa -1 => 0;
    the_devices_node: "numa_nodes=0", numa 0 => 0;
    another_node: "numa_nodes=0", numa 7 => 503;
    one_of_two_nodes: "devices=2;numa_nodes=0,7", numa 7 => 0;
    no_capabilities: "gen_cap=0", numa -1 => 0;
}

#[test]
fn an_operation_that_no_queue_takes() {
    scenario("an_operation_that_no_queue_takes", "", |client| {
        let mut job = client.qpl.job(HARDWARE).expect("hardware");
        let (input, mut output) = ([1u8; 64], [0u8; 64]);
        // CRC64 is operation 5.
        job.set(5, WHOLE, (input.as_ptr(), 64), (output.as_mut_ptr(), 64));
        assert_eq!(job.run(), 8);
    });
}

#[test]
fn wrong_settings_are_no_device() {
    scenario("wrong_settings_are_no_device", "no such setting", |client| {
        assert_eq!(client.qpl.job(HARDWARE).map(|_| ()), Err(502));
    });
}

#[test]
fn settings_can_be_given_by_the_process_itself() {
    scenario("settings_can_be_given_by_the_process_itself", "devices=2", |client| {
        assert_eq!(client.configure("numa_nodes=3;inject=busy=1"), 0);
        assert_eq!(status(client, 3), 5);
        assert_eq!(client.configure("numa_nodes=4"), -1);
        assert_eq!(client.configure("inject=what=1"), -1);
        assert_eq!(client.configure("inject="), 0);
        assert_eq!(status(client, 3), 0);
        assert_eq!(status(client, 4), 503);
    });
}

/// A child has its parent's queues but not its devices: the kernel refuses what it submits.
#[test]
fn a_child_is_refused() {
    scenario("a_child_is_refused", "", |client| {
        let page = page(1);
        let (_, stream) = client.qpl.job(SOFTWARE).expect("software").compress(OMIT_VERIFY, &page);
        let mut job = client.qpl.job(HARDWARE).expect("hardware");
        let mut output = vec![0; 4096];
        assert_eq!(job.decompress(&stream, &mut output).0, 0);
        // SAFETY: the child calls libqpl, which takes no lock here that another thread could hold, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = job.decompress(&stream, &mut output).0;
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status as i32) };
        }
        let mut status = 0;
        // SAFETY: waits for the child, with room for its status.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 5);
        assert_eq!(job.decompress(&stream, &mut output).0, 0);
        assert!(output == page);
        assert_eq!(client.count("descriptors"), 2);
    });
}

/// A process that forks before it uses a device: parent and child have each their own.
#[test]
fn a_child_may_have_devices_of_its_own() {
    scenario("a_child_may_have_devices_of_its_own", "", |client| {
        // SAFETY: the child calls libqpl and ends; no other thread of this process holds a lock that it needs.
        let child = unsafe { libc::fork() };
        let done = status(client, -1);
        if child == 0 {
            let good = done == 0 && client.count("descriptors") == 1;
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!good)) };
        }
        assert_eq!((done, client.count("descriptors")), (0, 1));
        let mut status = 0;
        // SAFETY: waits for the child, with room for its status.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
    });
}

const CLIENT: &str = "IAA_EMULATOR_TEST_CLIENT";

/// Not a test of its own: what `the_script_*` run as their command, knowing of nothing but libqpl.
#[test]
fn client_of_the_script() {
    let Some(pages) = std::env::var(CLIENT).ok().and_then(|pages| pages.parse().ok()) else {
        return;
    };
    let library = std::env::var_os("QPL_LIBRARY").expect("the script says where libqpl is");
    let qpl = std::sync::Arc::new(support::qpl::Qpl::load(Path::new(&library)));
    let mut job = qpl.job(HARDWARE).expect("the script provides devices");
    let mut encoder = qpl.job(SOFTWARE).expect("software");
    let mut output = vec![0; 4096];
    for number in 0..pages {
        let page = page(number);
        let (_, stream) = encoder.compress(OMIT_VERIFY, &page);
        job.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (output.as_mut_ptr(), 4096));
        assert_eq!(job.run(), 0);
        assert!(output == page);
    }
}

/// The script with this test's own `client_of_the_script` as its command, under a shell.
fn script(arguments: &[&str], shell: &str, libqpl: &Path) -> std::process::Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../with-iaa-emulator");
    Command::new(script)
        .args(arguments)
        .args(["--", "sh", "-c", shell])
        .env("IAA_EMULATOR_LIBRARY", emulator_path())
        .env("QPL_LIBRARY", libqpl)
        .env("CLIENT", std::env::current_exe().expect("the test knows its own path"))
        .output()
        .expect("the script can be started")
}

const ONE: &str = "IAA_EMULATOR_TEST_CLIENT=10 \"$CLIENT\" client_of_the_script --exact";

fn report_of(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("there is a report"))
        .expect("the report is JSON")
}

fn report_path(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("iaa-emulator-{name}-{}.json", std::process::id()))
}

#[test]
fn the_script_adds_up_processes_and_passes_the_status() {
    let Some(libqpl) = require_libqpl("the_script_adds_up_processes_and_passes_the_status") else {
        return;
    };
    let report = report_path("sum");
    let arguments = ["--report", report.to_str().expect("UTF-8"), "--inject", "delay-us=5"];
    let output = script(&arguments, &format!("{ONE} && {ONE} & {ONE}; wait; exit 7"), &libqpl);
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let counters = report_of(&report);
    assert_eq!(counters["completed"], 30, "{counters}");
    assert_eq!((&counters["bytes_out"], &counters["processes"]), (&(30 * 4096).into(), &3.into()));
    std::fs::remove_file(report).expect("the report can be removed");
}

#[test]
fn the_script_reports_zeros_when_no_device_was_used() {
    let report = report_path("zeros");
    let output =
        script(&["--report", report.to_str().expect("UTF-8")], "exit 0", Path::new("/nowhere"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counters = report_of(&report);
    assert_eq!((&counters["completed"], &counters["processes"]), (&0.into(), &0.into()));
    std::fs::remove_file(report).expect("the report can be removed");
}

#[test]
fn the_script_refuses_wrong_settings() {
    for arguments in
        [["--inject", "nothing=1"], ["--settings", "devices=x"], ["--config", "/nowhere/at/all"]]
    {
        let output = script(&arguments, "echo ran", Path::new("/nowhere"));
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("iaa-emulator:"), "{arguments:?}");
    }
}
