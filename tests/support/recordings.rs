//! Recordings of real sources, with what an independent decoder made of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use multifd_qpl::receiver::Received;
use sha2::{Digest, Sha256};

use super::migration::Migration;

/// The small ones that live with the tests.
pub fn all() -> Vec<PathBuf> {
    inside(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"))
}

/// All recordings in a directory.
pub fn inside(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory of recordings");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a directory that can be read").path())
        .filter(|path| path.join("expected.json").is_file())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no recordings in {}", directory.display());
    found
}

/// What its connections sent.
pub fn load(path: &Path) -> Migration {
    let read = |name: &str| fs::read(path.join(name));
    let channels = (0..).map_while(|id| read(&format!("ch{id}.bin")).ok()).collect();
    Migration { main: read("main.bin").expect("a main stream"), channels }
}

/// What must come of it.
pub fn expected(path: &Path) -> serde_json::Value {
    let text = fs::read(path.join("expected.json")).expect("a list of digests");
    serde_json::from_slice(&text).expect("the list is JSON")
}

/// The whole content of each block, by name.
pub fn contents(received: &Received) -> Vec<(String, Vec<u8>)> {
    let blocks = received.blocks().iter();
    blocks
        .map(|block| {
            let mut bytes = vec![0; block.used_length() as usize];
            block.read_at(0, &mut bytes).expect("the whole block");
            (block.name().to_owned(), bytes)
        })
        .collect()
}

/// Compares every block with the digest in `expected.json`, and that list with
/// the blocks.
pub fn check_digests(path: &Path, received: &Received) {
    let expected = expected(path);
    let blocks = expected["blocks"].as_object().expect("digests by block");
    assert_eq!(blocks.len(), received.blocks().len(), "{}", path.display());
    for (name, bytes) in contents(received) {
        let digest: String =
            Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(blocks[&name]["sha256"], digest, "{} of {}", name, path.display());
    }
}
