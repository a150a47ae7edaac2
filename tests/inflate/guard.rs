//! Memory that must not be touched, made untouchable: a page that may not be
//! accessed follows each page of output and the padding of the input.

use multifd_qpl::inflate::{INPUT_PADDING, InflateError, Job, PAGE};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use crate::decoders;
use crate::tokens::{Token::*, block, expand, fit};

/// A mapping whose last page cannot be accessed.
struct Fenced {
    start: NonNull<std::ffi::c_void>,
    len: usize,
}

impl Fenced {
    /// At least `len` bytes before the fence.
    fn new(len: usize) -> Self {
        let open = len.next_multiple_of(PAGE);
        let whole = NonZeroUsize::new(open + PAGE).unwrap();
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping of our own; its last page is fenced.
        let start = unsafe {
            let start = mmap_anonymous(None, whole, access, MapFlags::MAP_PRIVATE).unwrap();
            mprotect(start.byte_add(open), PAGE, ProtFlags::PROT_NONE).unwrap();
            start
        };
        Self { start, len: open }
    }

    /// The `len` bytes right before the fence.
    fn last(&self, len: usize) -> *mut u8 {
        assert!(len <= self.len);
        self.start.as_ptr().cast::<u8>().wrapping_add(self.len - len)
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; no pointer outlives it.
        unsafe { munmap(self.start, self.len + PAGE).unwrap() };
    }
}

/// Pages that need all the slack there is: long matches up to the last byte,
/// damage that runs far behind the end of the input.
fn blocks() -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    for i in 0..40u16 {
        let tokens = (0..600u16).map(|j| match (i * 7 + j * 5) % 9 {
            0 => Match(258 - i, 1 + j % (i + 1)),
            1 => Match(3 + j % 60, 1 + j),
            2 => Literal(255 - (j % 100) as u8),
            _ => Literal((j % 140) as u8),
        });
        blocks.push(block(&fit(tokens.collect())));
    }
    for i in 0..40 {
        let mut damaged = blocks[i].clone();
        damaged.truncate(damaged.len() * i / 40);
        blocks.push(damaged);
    }
    blocks
}

#[test]
fn nothing_outside_page_and_padding_is_touched() {
    let blocks = blocks();
    for mut decoder in decoders() {
        for fill in [0x00, 0xff, 0x55, 0x03] {
            // One packet of all, then each block as the last of a payload.
            let mut groups: Vec<&[Vec<u8>]> = vec![&blocks];
            groups.extend(blocks.chunks(8));
            groups.extend(blocks.chunks(1));
            for group in groups {
                let used: usize = group.iter().map(Vec::len).sum();
                let input = Fenced::new(used + INPUT_PADDING);
                let payload = input.last(used + INPUT_PADDING);
                let pages: Vec<Fenced> = group.iter().map(|_| Fenced::new(2 * PAGE)).collect();
                let mut jobs = Vec::new();
                let mut start = 0;
                // SAFETY: all of it is inside `input`.
                unsafe { payload.write_bytes(fill, used + INPUT_PADDING) };
                for (block, page) in group.iter().zip(&pages) {
                    // SAFETY: inside `input`, which has room for all blocks.
                    unsafe { payload.add(start).copy_from(block.as_ptr(), block.len()) };
                    // SAFETY: the page before the one to be written.
                    unsafe { page.last(2 * PAGE).write_bytes(0x5a, PAGE) };
                    jobs.push(Job {
                        start: start as u32,
                        len: block.len() as u32,
                        dst: page.last(PAGE),
                        result: Err(InflateError::BadData),
                    });
                    start += block.len();
                }
                // SAFETY: the padding ends at the fence; each `dst` is a page.
                unsafe { decoder.decode_pages(payload, used, &mut jobs) };
                for (job, page) in jobs.iter().zip(&pages) {
                    // SAFETY: the page before `dst`, initialised above.
                    let before = unsafe { std::slice::from_raw_parts(page.last(2 * PAGE), PAGE) };
                    assert!(before.iter().all(|&b| b == 0x5a), "{:?}", decoder.kind());
                    if job.len == 0 {
                        assert!(job.result.is_err());
                    }
                }
            }
        }
    }
}

#[test]
fn a_page_may_lie_at_any_address() {
    let tokens =
        fit((0..900).map(|i| if i % 3 == 0 { Match(5, 2) } else { Literal(i as u8) }).collect());
    let (block, page) = (block(&tokens), expand(&tokens));
    for mut decoder in decoders() {
        for shift in [1, 7, 33, 100] {
            let out = Fenced::new(2 * PAGE);
            let payload = [block.clone(), vec![0; INPUT_PADDING]].concat();
            let dst = out.last(PAGE + shift);
            let job = || Job { start: 0, len: block.len() as u32, dst, result: Ok(()) };
            let mut jobs = [job()];
            // SAFETY: payload and page as in the test above.
            unsafe {
                out.last(2 * PAGE).write_bytes(0x5a, 2 * PAGE);
                decoder.decode_pages(payload.as_ptr(), block.len(), &mut jobs);
            }
            assert_eq!(jobs[0].result, Ok(()));
            // SAFETY: both pages before the fence.
            let all = unsafe { std::slice::from_raw_parts(out.last(2 * PAGE), 2 * PAGE) };
            assert!(all[..PAGE - shift].iter().all(|&b| b == 0x5a));
            assert_eq!(&all[PAGE - shift..2 * PAGE - shift], &page[..]);
            assert!(all[2 * PAGE - shift..].iter().all(|&b| b == 0x5a));
        }
    }
}
