//! The page decoders seen from outside: every kind this CPU runs gives the
//! same pages, refuses the same damage and touches nothing but its page.

mod differential;
mod guard;
mod stories;
mod tokens;

use multifd_qpl::inflate::{Decoder, INPUT_PADDING, InflateError, Job, Kind, PAGE};

/// A decoder of every kind that this CPU runs.
fn decoders() -> impl Iterator<Item = Decoder> {
    Kind::ALL.iter().filter_map(|&kind| Decoder::with_kind(kind))
}

/// Decodes blocks as one packet, so that the decoders that take pages side by
/// side do so. Where there are few, each comes several times: the answers must
/// agree.
fn decode(decoder: &mut Decoder, blocks: &[Vec<u8>]) -> Vec<Result<Vec<u8>, InflateError>> {
    let repeat = 16usize.div_ceil(blocks.len());
    let mut payload = Vec::new();
    let mut jobs = Vec::new();
    let mut pages = vec![0xa5u8; repeat * blocks.len() * PAGE];
    for (i, block) in blocks.iter().cycle().take(repeat * blocks.len()).enumerate() {
        jobs.push(Job {
            start: payload.len() as u32,
            len: block.len() as u32,
            dst: pages.as_mut_ptr().wrapping_add(i * PAGE),
            result: Err(InflateError::BadData),
        });
        payload.extend_from_slice(block);
    }
    let used = payload.len();
    payload.resize(used + INPUT_PADDING, 0xff);
    // SAFETY: the payload has its padding, the jobs lie in it, and each `dst`
    // is a page of `pages`, which nobody else uses.
    unsafe { decoder.decode_pages(payload.as_ptr(), used, &mut jobs) };
    let results: Vec<_> = jobs
        .iter()
        .zip(pages.chunks_exact(PAGE))
        .map(|(job, page)| job.result.map(|()| page.to_vec()))
        .collect();
    for (i, result) in results.iter().enumerate() {
        let first = &results[i % blocks.len()];
        assert_eq!(result, first, "{:?}: one block, two answers", decoder.kind());
    }
    results[..blocks.len()].to_vec()
}

/// What every kind makes of each block, which must be the same but for the
/// kind of error of the reference.
fn verdicts(blocks: &[Vec<u8>]) -> Vec<Result<Vec<u8>, InflateError>> {
    let mut agreed: Option<Vec<_>> = None;
    for mut decoder in decoders() {
        let results = decode(&mut decoder, blocks);
        for (block, result) in blocks.iter().zip(&results) {
            let mut page = [0; PAGE];
            let alone = decoder.decode_page(block, &mut page);
            assert_eq!(&alone.map(|()| page.to_vec()), result, "{:?} alone", decoder.kind());
        }
        let agreed = agreed.get_or_insert_with(|| results.clone());
        for (result, agreed) in results.iter().zip(agreed) {
            if decoder.kind() == Kind::Libdeflate {
                assert_eq!(result.as_ref().ok(), agreed.as_ref().ok(), "libdeflate");
            } else {
                assert_eq!(result, agreed, "{:?}", decoder.kind());
            }
        }
    }
    agreed.unwrap()
}

/// What every kind makes of one block.
fn verdict(block: &[u8]) -> Result<Vec<u8>, InflateError> {
    verdicts(&[block.to_vec()]).remove(0)
}
