//! Received RAM: what `--ram-dir` left behind, and comparisons with what a QEMU has.

use crate::qemu::Qemu;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PAGE: usize = 4096;
/// Where a PC's RAM block shows as something else: video memory and ROMs.
const HOLE: std::ops::Range<usize> = 0xa0000..0x10_0000;

/// A directory written by `--ram-dir`.
pub struct ReceivedRam {
    directory: PathBuf,
    manifest: Value,
}

impl ReceivedRam {
    pub fn open(directory: &Path) -> Self {
        let text = std::fs::read_to_string(directory.join("manifest.json"))
            .expect("a manifest in the RAM directory");
        let manifest = serde_json::from_str(&text).expect("a manifest in JSON");
        Self { directory: directory.to_owned(), manifest }
    }

    fn path(&self, name: &str) -> PathBuf {
        let blocks = self.manifest["blocks"].as_array().expect("a list of blocks");
        let block = blocks.iter().find(|block| block["name"] == name);
        let block = block.unwrap_or_else(|| panic!("no block {name} in {}", self.manifest));
        let path = self.directory.join(block["file"].as_str().expect("a block's file"));
        let bytes = std::fs::metadata(&path).expect("the block's file").len();
        assert_eq!(block["bytes"].as_u64(), Some(bytes), "size of block {name}");
        path
    }

    /// A block's content.
    pub fn block(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("the block's file")
    }

    /// Bytes of the block's file that take up space.
    fn allocated(&self, name: &str) -> u64 {
        std::fs::metadata(self.path(name)).expect("the block's file").blocks() * 512
    }

    /// Demands that the RAM and the boot ROM are those of a QEMU whose guest is stopped.
    pub fn assert_equals(&self, qemu: &mut Qemu) {
        self.assert_ram(&qemu.ram());
        assert_same("pc.bios", &self.block("pc.bios"), &qemu.bios(), 0..0);
        let devices = std::fs::read(self.directory.join("devices.bin")).expect("devices.bin");
        assert_eq!(devices.first(), Some(&4), "the device state begins with a full section");
        assert_eq!(devices.last(), Some(&0), "the device state ends with the end mark");
        let description = std::fs::read(self.directory.join("vmdesc.json")).expect("vmdesc.json");
        let description: Value = serde_json::from_slice(&description).expect("valid vmdesc.json");
        assert!(description["devices"].is_array(), "vmdesc.json lists the devices");
    }

    /// Demands that the RAM block holds `expected`, apart from the places where a PC has no RAM.
    pub fn assert_ram(&self, expected: &[u8]) {
        assert_same("pc.ram", &self.block("pc.ram"), expected, HOLE);
    }

    /// Demands that no page that was zero all the time takes up space: the guest leaves one page
    /// in eight alone.
    pub fn assert_untouched_zeros(&self, ram_bytes: usize) {
        let limit = ram_bytes as u64 / 8 * 7;
        let allocated = self.allocated("pc.ram");
        assert!(allocated <= limit, "{allocated} bytes of pc.ram take up space, over {limit}");
    }
}

/// Compares page by page, so that a failure says which pages differ and not only that some do.
fn assert_same(name: &str, received: &[u8], expected: &[u8], except: std::ops::Range<usize>) {
    assert_eq!(received.len(), expected.len(), "size of {name}");
    let pages = received.chunks(PAGE).zip(expected.chunks(PAGE)).enumerate();
    let different: Vec<String> = pages
        .filter(|(page, (ours, theirs))| !except.contains(&(page * PAGE)) && ours != theirs)
        .map(|(page, (ours, theirs))| {
            format!("{:#x} ({} / {})", page * PAGE, describe(ours), describe(theirs))
        })
        .collect();
    let first = &different[..different.len().min(8)];
    assert!(different.is_empty(), "{} pages of {name} differ: {first:?}", different.len());
}

fn describe(page: &[u8]) -> &'static str {
    if page.iter().all(|&byte| byte == 0) { "zero" } else { "data" }
}
