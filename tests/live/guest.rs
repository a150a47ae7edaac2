//! Builds the guest's ROM from `tests/guest/guest.S`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Port reads between two page writes. At this pace a guest dirties tens of MiB a second: a slow
/// migration does not catch up with that, a fast one does.
const PAUSE: u32 = 2000;

/// Assembles the ROM for a guest of `ram_mib` MiB into `directory`.
pub fn build(directory: &Path, ram_mib: u32) -> PathBuf {
    let rom = directory.join(format!("guest-{ram_mib}.bin"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/guest.S");
    let output = Command::new("cc")
        .args(["-m32", "-nostdlib", "-static", "-Wl,-Ttext=0xF0000"])
        .args(["-Wl,--oformat=binary", "-Wl,--build-id=none"])
        .arg(format!("-DRAM_PAGES={}", ram_mib * 256))
        .arg(format!("-DPAUSE={PAUSE}"))
        .arg("-o")
        .arg(&rom)
        .arg(source)
        .output()
        .expect("the C compiler `cc` starts");
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::metadata(&rom).expect("a ROM").len(), 0x10000, "size of the ROM");
    rom
}
