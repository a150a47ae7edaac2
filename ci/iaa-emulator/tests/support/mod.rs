//! What the tests of the devices with the real libqpl share: a process of its own for each, and a small client.
//!
//! libqpl looks for devices once in a process, so every configuration needs a process. A test that calls `scenario` is
//! run twice: as it is, where it starts itself again with its settings in the environment, and there, where its body is
//! run. The body runs against a deadline, since libqpl waits for ever for a device that does not answer.

#![allow(dead_code)]

pub mod qpl;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use qpl::Qpl;

const SCENARIO: &str = "IAA_EMULATOR_TEST_SCENARIO";
const DEADLINE: Duration = Duration::from_secs(120);

/// The library under test, which cargo builds beside the tests; an older one may lie a directory higher.
pub fn emulator_path() -> PathBuf {
    let tests = std::env::current_exe().expect("the test knows its own path");
    let mut candidates =
        tests.ancestors().skip(1).take(2).map(|directory| directory.join("libiaa_emulator.so"));
    candidates.find(|path| path.exists()).expect("cargo builds the library beside the tests")
}

/// The real libqpl, if there is one: `QPL_LIBRARY`, or what `ci/get-libqpl` has made.
pub fn libqpl_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("QPL_LIBRARY") {
        return Some(path.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../get-libqpl");
    let output = Command::new(script).arg("--where").stderr(Stdio::null()).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim().into())
}

/// Like `libqpl_path`, and says what a test that has none does.
pub fn require_libqpl(name: &str) -> Option<PathBuf> {
    let path = libqpl_path();
    if path.is_none() {
        let text = "there is no libqpl; run ci/get-libqpl, or set QPL_LIBRARY";
        assert!(
            std::env::var_os("IAA_REQUIRE_LIBQPL").is_none_or(|value| value != "1"),
            "{name}: {text}"
        );
        // Not by eprintln, which the test runner shows for failures only.
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {text}");
    }
    path
}

/// Runs the body of the test called `name` in a process of its own, with devices as set. Gives false when it was skipped.
pub fn scenario(name: &str, settings: &str, body: fn(&Client)) -> bool {
    if std::env::var(SCENARIO).is_ok_and(|wanted| wanted == name) {
        body(&Client::load());
        return true;
    }
    let Some(libqpl) = require_libqpl(name) else { return false };
    let tests = std::env::current_exe().expect("the test knows its own path");
    let mut child = Command::new(tests)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(SCENARIO, name)
        .env("QPL_LIBRARY", libqpl)
        .env("IAA_EMULATOR_SETTINGS", format!("report=none;{settings}"))
        .env_remove("IAA_EMULATOR_CONFIG")
        .env_remove("IAA_EMULATOR_INJECT")
        .env_remove("IAA_EMULATOR_REPORT")
        .spawn()
        .expect("the test can be started again");
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            assert!(status.success(), "{name} ({settings}): {status}");
            return true;
        }
        if begun.elapsed() > DEADLINE {
            child.kill().expect("the child can be ended");
            panic!("{name} ({settings}) is not done after {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The emulator and libqpl, loaded.
pub struct Client {
    pub qpl: Arc<Qpl>,
    counters: unsafe extern "C" fn(*mut c_char, usize) -> isize,
    reset: extern "C" fn(),
    configure: unsafe extern "C" fn(*const c_char) -> c_int,
}

impl Client {
    fn load() -> Self {
        let emulator = open(&emulator_path());
        // SAFETY: the library is the one under test, and these are the types of its functions.
        unsafe {
            Client {
                counters: function(emulator, c"iaa_emulator_counters_json"),
                reset: function(emulator, c"iaa_emulator_reset_counters"),
                configure: function(emulator, c"iaa_emulator_configure"),
                qpl: Arc::new(Qpl::load(&libqpl_path().expect("the parent has found libqpl"))),
            }
        }
    }

    /// All counters.
    pub fn counters(&self) -> serde_json::Value {
        let mut buffer = vec![0u8; 1 << 16];
        // SAFETY: room for as many bytes as is said.
        let length = unsafe { (self.counters)(buffer.as_mut_ptr().cast(), buffer.len()) };
        serde_json::from_slice(&buffer[..length as usize]).expect("the counters are JSON")
    }

    /// One counter.
    pub fn count(&self, name: &str) -> u64 {
        self.counters()[name].as_u64().unwrap_or_else(|| panic!("there is no counter {name}"))
    }

    pub fn reset(&self) {
        (self.reset)();
    }

    pub fn inject(&self, specification: &str) {
        assert_eq!(self.configure(&format!("inject={specification}")), 0);
    }

    pub fn configure(&self, text: &str) -> c_int {
        let text = CString::new(text).expect("no NUL in settings");
        // SAFETY: a NUL-terminated string.
        unsafe { (self.configure)(text.as_ptr()) }
    }
}

/// Opens a library for good.
pub fn open(path: &Path) -> *mut c_void {
    let name = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
    // SAFETY: a NUL-terminated path; the libraries that the tests load have harmless constructors.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    // SAFETY: after a failed dlopen the message is a NUL-terminated string.
    assert!(!handle.is_null(), "{}", unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy());
    handle
}

/// A function that must be there.
///
/// # Safety
///
/// `F` must be the type of that function.
pub unsafe fn function<F: Copy>(library: *mut c_void, name: &CStr) -> F {
    // SAFETY: an open library and a NUL-terminated name.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?} is missing");
    assert_eq!(size_of::<F>(), size_of_val(&found));
    // SAFETY: the same size, and the caller has said that it is a function of this type.
    unsafe { std::mem::transmute_copy(&found) }
}

/// Anonymous memory of its own, on small pages, of which nothing is resident at first.
pub struct Mapping(*mut u8, usize);

impl Mapping {
    pub fn new(length: usize) -> Self {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory at an address of the kernel's choice touches nothing that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: the range was mapped just above.
        unsafe { libc::madvise(at, length, libc::MADV_NOHUGEPAGE) };
        Mapping(at.cast(), length)
    }

    pub fn at(&self) -> *mut u8 {
        self.0
    }

    /// The bytes, which makes them resident.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped, owned by this value and borrowed with it; no job is on its way when a test looks.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is owned by this value.
        unsafe { libc::munmap(self.0.cast(), self.1) };
    }
}

/// Pages of several natures, the same every time.
pub fn page(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let text = b"A page of guest memory, compressed as one block. ";
    match number % 4 {
        0 => (0..4096).map(|_| random()).collect(),
        1 => (0..4096)
            .map(|at| if random() < 8 { random() } else { text[at % text.len()] })
            .collect(),
        2 => (0..4096).map(|_| if random() < 12 { random() } else { 0 }).collect(),
        _ => (0..4096).map(|_| b'a' + random() % 5).collect(),
    }
}
