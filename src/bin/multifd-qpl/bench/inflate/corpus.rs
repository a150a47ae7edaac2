//! What the race runs on: guest-like pages made from what any machine has, or
//! from a file of the user's, each compressed into a raw DEFLATE block of its
//! own the way a QEMU source does it.

use std::fs;
use std::path::Path;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Pages of one kind of data.
#[derive(Debug)]
pub struct Corpus {
    /// Its name in reports.
    pub name: String,
    /// The pages, one behind the other; none of them is all zero.
    pub pages: Vec<u8>,
}

impl Corpus {
    /// The corpora of this machine, `pages` pages each.
    pub fn of_this_machine(pages: usize) -> Vec<Self> {
        vec![
            Self::files("files", pages, &["/usr"]),
            Self::text(pages),
            Self::files("binaries", pages, &["/usr/bin", "/usr/sbin", "/usr/lib"]),
            Self::sparse(pages),
        ]
    }

    /// The pages of one file, for a race on one's own data.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        let mut pages = Vec::new();
        push_pages(&mut pages, &fs::read(path)?, usize::MAX);
        Ok(Self { name: path.display().to_string(), pages })
    }

    /// Pages evenly drawn from the files below `roots`. For `binaries` only
    /// files that begin as an ELF file count.
    fn files(name: &str, pages: usize, roots: &[&str]) -> Self {
        let elf = name == "binaries";
        let wanted = |head: &[u8]| !elf || head.starts_with(b"\x7fELF");
        Self { name: name.into(), pages: draw(pages, roots, wanted) }
    }

    /// Pages of documents, scripts and headers; source text of our own where
    /// a machine has none.
    fn text(pages: usize) -> Self {
        let text = |head: &[u8]| {
            !head.is_empty()
                && head.iter().all(|&b| b == b'\n' || b == b'\t' || (b >= 32 && b != 127))
        };
        let mut out = draw(pages, &["/usr/share", "/usr/include", "/etc", "/usr/lib"], text);
        if out.is_empty() {
            push_pages(&mut out, include_bytes!("corpus.rs"), pages);
        }
        Self { name: "text".into(), pages: out }
    }

    /// Pages as a kernel leaves them: arrays of small structures with
    /// pointers, counters and long runs of zero, from a fixed seed.
    fn sparse(pages: usize) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut out = vec![0u8; pages * PAGE];
        for page in out.chunks_exact_mut(PAGE) {
            let size = [64, 128, 192, 256, 512, 1024][random.below(6)];
            let filled = 1 + random.below(8);
            let base = 0xffff_8880_0000_0000u64 | ((random.next() & 0x3fff) << 20);
            for object in page.chunks_mut(size) {
                if random.below(8) >= filled {
                    continue;
                }
                for slot in 0..object.len() / 8 {
                    let value = match random.below(16) {
                        0 | 1 => base + (random.next() & 0xf_ffc0),
                        2 => random.next() & 0xff,
                        3 => 1,
                        4 => (random.next() & 0xffff) << 32 | (random.next() & 0xfff),
                        _ => 0,
                    };
                    object[slot * 8..slot * 8 + 8].copy_from_slice(&value.to_le_bytes());
                }
            }
            page[0] |= 1;
        }
        Self { name: "sparse".into(), pages: out }
    }
}

/// Up to `pages` pages from the regular files below `roots`, at most 64 from
/// each file so that no single one rules the result.
fn draw(pages: usize, roots: &[&str], wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut files = Vec::new();
    for root in roots {
        list(Path::new(root), &mut files, 60_000);
    }
    // A fixed stride walks the whole tree instead of its first folders.
    files.sort();
    let mut out = Vec::new();
    let count = files.len();
    for i in 0..count {
        if out.len() >= pages * PAGE {
            break;
        }
        let path = &files[(i * 7919) % count];
        let Ok(bytes) = fs::read(path) else { continue };
        if wanted(&bytes[..bytes.len().min(512)]) {
            push_pages(&mut out, &bytes, 64);
        }
    }
    out.truncate(pages * PAGE);
    out
}

/// The regular files below `folder`, without following links.
fn list(folder: &Path, files: &mut Vec<std::path::PathBuf>, limit: usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if files.len() >= limit {
            return;
        }
        let Ok(kind) = entry.file_type() else { continue };
        let fits = |len| (PAGE as u64..64 << 20).contains(&len);
        if kind.is_dir() {
            list(&entry.path(), files, limit);
        } else if kind.is_file() && entry.metadata().is_ok_and(|data| fits(data.len())) {
            files.push(entry.path());
        }
    }
}

/// Adds up to `limit` whole pages of `bytes` that are not all zero, spread
/// over the file.
fn push_pages(out: &mut Vec<u8>, bytes: &[u8], limit: usize) {
    let step = (bytes.len() / PAGE).div_ceil(limit).max(1);
    for page in bytes.chunks_exact(PAGE).step_by(step) {
        if page.iter().any(|&b| b != 0) {
            out.extend_from_slice(page);
        }
    }
}

/// A small generator with a fixed seed, so that every run sees the same pages.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> usize {
        ((self.next() >> 33) % end) as usize
    }
}
