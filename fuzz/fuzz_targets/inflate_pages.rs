//! Any bytes as a packet of blocks: every decoder this CPU runs gives the same
//! answers, zlib agrees under our rules, and nothing behind a page is written.
//!
//! The first byte says how many blocks the rest is cut into.

#![no_main]

use std::cell::RefCell;
use std::mem::MaybeUninit;

use libfuzzer_sys::fuzz_target;
use libz_rs_sys as z;
use multifd_qpl::inflate::{Decoder, INPUT_PADDING, InflateError, Job, Kind, PAGE};

thread_local! {
    static DECODERS: RefCell<Vec<Decoder>> = RefCell::new(
        Kind::ALL.iter().filter_map(|&kind| Decoder::with_kind(kind)).collect(),
    );
}

/// zlib's page, if the block is exactly one.
fn zlib(block: &[u8]) -> Option<Vec<u8>> {
    let mut page = vec![0; PAGE + 1];
    // SAFETY: an all-zero stream is what the interface asks for; it points at
    // two live buffers and is ended here.
    unsafe {
        let mut stream: z::z_stream = MaybeUninit::zeroed().assume_init();
        let size = size_of::<z::z_stream>() as i32;
        assert_eq!(z::inflateInit2_(&mut stream, -15, z::zlibVersion(), size), z::Z_OK);
        stream.next_in = block.as_ptr().cast_mut();
        stream.avail_in = block.len() as u32;
        stream.next_out = page.as_mut_ptr();
        stream.avail_out = page.len() as u32;
        let result = z::inflate(&mut stream, z::Z_FINISH);
        z::inflateEnd(&mut stream);
        page.truncate(PAGE);
        (result == z::Z_STREAM_END && stream.avail_in == 0 && stream.avail_out == 1).then_some(page)
    }
}

/// The same answer. A damaged block may be cut off as well; then a decoder that
/// looks at a code and its extra bits in one go may see the end first.
fn same(a: &Result<(), InflateError>, b: &Result<(), InflateError>) -> bool {
    let cut = |result: &Result<(), InflateError>| *result == Err(InflateError::InputTruncated);
    a == b || (a.is_err() && b.is_err() && (cut(a) || cut(b)))
}

/// Behind every page lies a strip that must stay as it is.
const STRIDE: usize = PAGE + 64;

fuzz_target!(|input: &[u8]| {
    let Some((&count, bytes)) = input.split_first() else { return };
    let size = bytes.len().div_ceil(usize::from(count % 24) + 1).max(1);
    let blocks: Vec<&[u8]> = bytes.chunks(size).collect();
    let expected: Vec<_> = blocks.iter().map(|block| zlib(block)).collect();
    let mut payload = bytes.to_vec();
    payload.resize(bytes.len() + INPUT_PADDING, count);
    DECODERS.with_borrow_mut(|decoders| {
        let mut agreed: Option<Vec<Result<(), InflateError>>> = None;
        for decoder in decoders {
            let mut pages = vec![0xa5u8; blocks.len() * STRIDE];
            let mut jobs: Vec<Job> = (0..blocks.len())
                .map(|i| Job {
                    start: (i * size) as u32,
                    len: blocks[i].len() as u32,
                    dst: pages.as_mut_ptr().wrapping_add(i * STRIDE),
                    result: Err(InflateError::BadData),
                })
                .collect();
            // SAFETY: the payload has its padding, the jobs lie in it, and each
            // has a page of its own.
            unsafe { decoder.decode_pages(payload.as_ptr(), bytes.len(), &mut jobs) };
            for ((job, page), expected) in jobs.iter().zip(pages.chunks(STRIDE)).zip(&expected) {
                assert!(page[PAGE..].iter().all(|&byte| byte == 0xa5));
                // libdeflate lets a few headers pass that zlib does not.
                if decoder.kind() != Kind::Libdeflate || expected.is_some() {
                    assert_eq!(job.result.is_ok(), expected.is_some(), "{:?}", decoder.kind());
                    assert!(expected.as_ref().is_none_or(|good| good[..] == page[..PAGE]));
                }
            }
            if decoder.kind() != Kind::Libdeflate {
                let results: Vec<_> = jobs.iter().map(|job| job.result).collect();
                let agreed = agreed.get_or_insert_with(|| results.clone());
                assert!(
                    agreed.iter().zip(&results).all(|(a, b)| same(a, b)),
                    "{agreed:?} {results:?}"
                );
            }
        }
    });
});
