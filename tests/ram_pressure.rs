//! A memory cgroup that is too small for the guest: a clear error, and nothing
//! corrupted.
//!
//! Needs a writable memory cgroup of version 1 that can refuse memory instead
//! of killing; elsewhere the kernel kills the receiver, which leaves nothing to
//! test, and this test does nothing.

#![cfg(not(loom))]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use multifd_qpl::ram::{
    InPlace, Landing, Placement, PlacementError, Policy, RamBlock, Staging, placement::Way,
};

const CGROUP: &str = "MULTIFD_QPL_TEST_CGROUP";
const LIMIT: &str = "memory.limit_in_bytes";

#[test]
fn too_little_memory_is_a_clear_error() {
    if let Some(cgroup) = std::env::var_os(CGROUP) {
        return inside(Path::new(&cgroup));
    }
    let cgroup = PathBuf::from(format!("/sys/fs/cgroup/memory/multifd-qpl-{}", std::process::id()));
    if fs::create_dir(&cgroup).is_err() {
        return;
    }
    let prepared = fs::write(cgroup.join(LIMIT), (48u64 << 20).to_string())
        .and_then(|()| fs::write(cgroup.join("memory.oom_control"), "1"));
    let outcome = prepared.map(|()| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["too_little_memory_is_a_clear_error", "--exact", "--nocapture"])
            .env(CGROUP, &cgroup)
            .spawn()
            .unwrap();
        // A page fault of its own would wait for memory: it gets some once the
        // refusal must have happened.
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.success();
            }
            if begun.elapsed() > Duration::from_secs(5) {
                fs::write(cgroup.join(LIMIT), "-1").unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    fs::remove_dir(&cgroup).unwrap();
    assert!(outcome.unwrap_or(true), "see the output of the process in the cgroup");
}

fn inside(cgroup: &Path) {
    let placement = Placement::new(Some(Policy::Place)).unwrap();
    let block = Arc::new(RamBlock::anonymous("pc.ram", 256 << 20).unwrap());
    placement.attach(&block).unwrap();
    if placement.report().blocks[0].way != Way::Place {
        return;
    }
    let mut staging = Some(Staging::new().unwrap());
    // Opened while there is room: an open file takes memory of the cgroup, too.
    let parent = cgroup.parent().expect("the root of the hierarchy");
    let outside = File::options().write(true).open(parent.join("cgroup.procs")).unwrap();
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let mut refused = None;
    for first in (0..block.pages()).step_by(128) {
        let pages: [u32; 128] = std::array::from_fn(|i| first + i as u32);
        let taken = staging.take().unwrap();
        let landing = Landing::begin(&placement, &block, &pages, taken, InPlace::Allowed).unwrap();
        for i in 0..128 {
            // SAFETY: a destination is 4096 writable bytes of this landing.
            unsafe { landing.destination(i).write_bytes((first >> 7) as u8 | 1, 4096) };
        }
        match landing.commit() {
            Ok(back) => staging = Some(back),
            Err(error) => {
                refused = Some((first, error));
                break;
            }
        }
    }
    // Out of the cgroup for the rest of the test: what is left to do must not
    // depend on how the kernel treats a task without room. What was placed
    // stays charged to it.
    (&outside).write_all(std::process::id().to_string().as_bytes()).unwrap();
    let (first, error) = refused.expect("256 MiB do not fit into 48 MiB");
    println!("{error}");
    assert!(matches!(&error, PlacementError::Refused { action: "place", source, .. }
        if source.raw_os_error() == Some(libc::ENOMEM)));
    assert!(error.to_string().contains("no room for the guest"));
    placement.detach(&block);
    let mut bytes = [0; 4096];
    for page in 0..first + 128 {
        block.read_page(page, &mut bytes).unwrap();
        let value = (page >> 7) as u8 | 1;
        if page < first || block.map().is_written(page) {
            assert!(bytes.iter().all(|&byte| byte == value), "page {page}");
        } else {
            assert_eq!(bytes, [0; 4096], "page {page}");
        }
        assert_eq!(block.map().is_received(page), page < first);
    }
}
