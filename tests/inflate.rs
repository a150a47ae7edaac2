//! The page decoders seen from outside: every kind this CPU runs gives the
//! same pages and refuses the same damage.

use multifd_qpl::inflate::{Decoder, INPUT_PADDING, InflateError, Job, Kind, PAGE};

fn decoders() -> impl Iterator<Item = Decoder> {
    Kind::ALL.iter().filter_map(|&kind| Decoder::with_kind(kind))
}

/// A stored block of `bytes`.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).unwrap();
    let mut block = vec![1];
    block.extend_from_slice(&len.to_le_bytes());
    block.extend_from_slice(&(!len).to_le_bytes());
    block.extend_from_slice(bytes);
    block
}

fn page() -> [u8; PAGE] {
    std::array::from_fn(|i| (i * i / 7) as u8)
}

#[test]
fn a_stored_page_comes_out_as_it_was() {
    for mut decoder in decoders() {
        let mut out = [0; PAGE];
        assert_eq!(decoder.decode_page(&stored(&page()), &mut out), Ok(()));
        assert_eq!(out, page(), "{:?}", decoder.kind());
    }
}

#[test]
fn short_long_and_trailing_are_errors() {
    for mut decoder in decoders() {
        let mut out = [0; PAGE];
        let short = stored(&page()[1..]);
        assert_eq!(decoder.decode_page(&short, &mut out), Err(InflateError::OutputShort));
        let mut long = page().to_vec();
        long.push(0);
        assert_eq!(decoder.decode_page(&stored(&long), &mut out), Err(InflateError::OutputLong));
        let mut trailing = stored(&page());
        trailing.push(0);
        assert_eq!(decoder.decode_page(&trailing, &mut out), Err(InflateError::TrailingBytes));
        assert!(decoder.decode_page(&[], &mut out).is_err());
    }
}

#[test]
fn a_packet_of_pages_goes_where_its_jobs_say() {
    for mut decoder in decoders() {
        let mut payload = stored(&page());
        let len = payload.len();
        payload.extend_from_slice(&stored(&page()));
        payload.extend_from_slice(&[0x07; 9]);
        let used = payload.len();
        payload.resize(used + INPUT_PADDING, 0xff);
        let mut pages = vec![0u8; 3 * PAGE];
        let mut jobs: Vec<Job> = (0..3)
            .map(|i| Job {
                start: (i * len) as u32,
                len: if i < 2 { len as u32 } else { 9 },
                dst: pages.as_mut_ptr().wrapping_add(i * PAGE),
                result: Ok(()),
            })
            .collect();
        // SAFETY: the payload has its padding, the jobs lie in it, and each
        // `dst` is a page of `pages`, which nobody else uses.
        unsafe { decoder.decode_pages(payload.as_ptr(), used, &mut jobs) };
        assert_eq!(jobs[0].result, Ok(()));
        assert_eq!(jobs[1].result, Ok(()));
        assert!(jobs[2].result.is_err());
        assert_eq!(pages[..PAGE], page());
        assert_eq!(pages[PAGE..2 * PAGE], page());
    }
}
