//! Fixed-Huffman pages on AVX-512: eight lanes to a vector, `GROUPS` vectors
//! side by side so that one group's arithmetic hides another's latency.

use std::arch::x86_64::*;

use super::lanes::{
    COPY, DISTANCE, END_OF_BLOCK, Event, INVALID, LENGTH, PATTERNS, Scratch, Table, deliver,
};
use super::{InflateError, Job, PAGE};

/// Lanes of one vector.
const WIDTH: usize = 8;
/// Vectors side by side.
pub(super) const GROUPS: usize = 2;
/// Lanes altogether.
pub(super) const LANES: usize = WIDTH * GROUPS;

/// Eight 64-bit numbers that pass between vector and scalar code.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Spill([u64; WIDTH]);

/// What this kernel needs of the CPU.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("avx512vpopcntdq")
        && is_x86_feature_detected!("gfni")
}

#[target_feature(enable = "avx512f")]
fn load(table: &Table) -> __m512i {
    // SAFETY: a table is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(table.0.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn get(spill: &Spill) -> __m512i {
    // SAFETY: a spill is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(spill.0.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn put(spill: &mut Spill, value: __m512i) {
    // SAFETY: a spill is 64 bytes, aligned to 64.
    unsafe { _mm512_store_si512(spill.0.as_mut_ptr().cast(), value) }
}

/// One group's lanes between steps.
struct Group {
    /// Bit position: eight times the address, plus the bit.
    bit: __m512i,
    /// Address of the next output byte.
    out: __m512i,
    /// Address of the first byte of each scratch page.
    page: __m512i,
    /// The lanes that have a job.
    active: __mmask8,
    /// Which job each lane has.
    job: [u32; WIDTH],
}

/// Decodes the jobs whose numbers are in `order`, all of them single final
/// fixed blocks.
///
/// # Safety
///
/// As [`super::Decoder::decode_pages`]; `available()` holds; every number is
/// below `jobs.len()` and every such job has at least one byte.
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vpopcntdq,gfni,bmi1,bmi2,lzcnt,popcnt"
)]
pub(super) unsafe fn decode(
    scratch: &mut Scratch,
    payload: *const u8,
    jobs: &mut [Job],
    order: &[u32],
) {
    let reverse = _mm512_set1_epi64(0x8040_2010_0804_0201u64 as i64);
    let len_base = load(&LENGTH.base);
    let len_mask = load(&LENGTH.mask);
    let len_bits = load(&LENGTH.bits);
    let dist_base = load(&DISTANCE.base);
    let dist_mask = load(&DISTANCE.mask);
    let dist_bits = load(&DISTANCE.bits);
    let one = _mm512_set1_epi64(1);
    const LOW: __mmask32 = 0x1111_1111;

    let mut order = order.iter();
    let mut groups: [Group; GROUPS] = std::array::from_fn(|g| {
        let mut bit = Spill([payload as u64 * 8; WIDTH]);
        let mut page = Spill([0; WIDTH]);
        let mut job = [0; WIDTH];
        let mut active = 0;
        for lane in 0..WIDTH {
            page.0[lane] = scratch.page(g * WIDTH + lane) as u64;
            if let Some(&number) = order.next() {
                job[lane] = number;
                active |= 1 << lane;
                bit.0[lane] = (payload as u64 + u64::from(jobs[number as usize].start)) * 8 + 3;
            }
        }
        Group { bit: get(&bit), out: get(&page), page: get(&page), active, job }
    });

    let mut addr = Spill([0; WIDTH]);
    let mut literals = Spill([0; WIDTH]);
    let mut start = Spill([0; WIDTH]);
    let mut dst = Spill([0; WIDTH]);
    let mut src = Spill([0; WIDTH]);
    let mut row = Spill([0; WIDTH]);

    while groups.iter().any(|group| group.active != 0) {
        for group in &mut groups {
            // Sixteen bytes of input for every lane, as two vectors.
            put(&mut addr, _mm512_srli_epi64::<3>(group.bit));
            // SAFETY: a lane's position is inside its block or at most one
            // page's worth of codes behind it, which INPUT_PADDING covers.
            let fetch =
                |lane: usize| unsafe { _mm_loadu_si128(addr.0[lane] as *const __m128i) };
            let even = _mm512_inserti64x2::<3>(
                _mm512_inserti64x2::<2>(
                    _mm512_inserti64x2::<1>(_mm512_castsi128_si512(fetch(0)), fetch(2)),
                    fetch(4),
                ),
                fetch(6),
            );
            let odd = _mm512_inserti64x2::<3>(
                _mm512_inserti64x2::<2>(
                    _mm512_inserti64x2::<1>(_mm512_castsi128_si512(fetch(1)), fetch(3)),
                    fetch(5),
                ),
                fetch(7),
            );
            let low = _mm512_unpacklo_epi64(even, odd);
            let high = _mm512_unpackhi_epi64(even, odd);

            // Up to seven literals: the bytes whose reversed value is in
            // 0x30..0xc0, up to the first that is not. The last byte never is.
            let phase = _mm512_and_si512(group.bit, _mm512_set1_epi64(7));
            let codes = _mm512_gf2p8affine_epi64_epi8::<0>(
                _mm512_shrdv_epi64(low, high, phase),
                reverse,
            );
            let bytes = _mm512_sub_epi8(codes, _mm512_set1_epi8(0x30));
            let other = _mm512_or_si512(
                _mm512_subs_epu8(bytes, _mm512_set1_epi8(0x8fu8 as i8)),
                _mm512_set1_epi64(i64::MIN),
            );
            let below = _mm512_andnot_si512(other, _mm512_sub_epi64(other, one));
            let run = _mm512_and_si512(_mm512_popcnt_epi64(below), _mm512_set1_epi64(0x38));

            // The symbol behind them.
            let code = _mm512_and_si512(_mm512_srlv_epi64(codes, run), _mm512_set1_epi64(0xff));
            let bits = _mm512_shrdv_epi64(low, high, _mm512_add_epi64(phase, run));
            let is_short = _mm512_cmplt_epu64_mask(code, _mm512_set1_epi64(0x30));
            let is_match = is_short
                | _mm512_cmpeq_epi64_mask(
                    _mm512_and_si512(code, _mm512_set1_epi64(0xf8)),
                    _mm512_set1_epi64(0xc0),
                );
            let is_nine = _mm512_cmpge_epu64_mask(code, _mm512_set1_epi64(0xc8));

            // As a length: index 0..24 by seven bits, 24..32 by eight.
            let index = _mm512_mask_srli_epi64::<1>(
                _mm512_or_si512(code, _mm512_set1_epi64(0x18)),
                is_short,
                code,
            );
            let extra = _mm512_mask_srli_epi64::<7>(_mm512_srli_epi64::<8>(bits), is_short, bits);
            let len_all = _mm512_add_epi64(
                _mm512_maskz_permutexvar_epi16(LOW, index, len_base),
                _mm512_and_si512(extra, _mm512_maskz_permutexvar_epi16(LOW, index, len_mask)),
            );
            let len_used = _mm512_maskz_permutexvar_epi16(LOW, index, len_bits);

            // And its distance.
            let bits_d = _mm512_srlv_epi64(bits, len_used);
            let dist = _mm512_add_epi64(
                _mm512_maskz_permutexvar_epi16(LOW, bits_d, dist_base),
                _mm512_and_si512(
                    _mm512_srli_epi64::<5>(bits_d),
                    _mm512_maskz_permutexvar_epi16(LOW, bits_d, dist_mask),
                ),
            );
            let match_used =
                _mm512_add_epi64(len_used, _mm512_maskz_permutexvar_epi16(LOW, bits_d, dist_bits));

            // As a literal of nine bits (value 2 * code + ninth bit) or eight
            // (which is in `bytes` already). What the sum carries on into
            // higher bytes is behind the output and overwritten later.
            let ninth = _mm512_and_si512(_mm512_srli_epi64::<8>(bits), one);
            let delta = _mm512_add_epi64(
                _mm512_add_epi64(code, _mm512_set1_epi64(0x30)),
                ninth,
            );
            put(
                &mut literals,
                _mm512_mask_add_epi64(bytes, is_nine, bytes, _mm512_sllv_epi64(delta, run)),
            );
            let literal_used =
                _mm512_mask_mov_epi64(_mm512_set1_epi64(8), is_nine, _mm512_set1_epi64(9));

            // Where everything goes.
            let here = _mm512_add_epi64(group.out, _mm512_srli_epi64::<3>(run));
            let len = _mm512_mask_mov_epi64(one, is_match, len_all);
            let next = _mm512_add_epi64(here, len);
            let from = _mm512_mask_sub_epi64(group.page, is_match, here, dist);
            let used = _mm512_add_epi64(
                run,
                _mm512_mask_mov_epi64(literal_used, is_match, match_used),
            );
            let next_bit = _mm512_add_epi64(group.bit, used);
            put(&mut start, group.out);
            put(&mut dst, _mm512_mask_mov_epi64(next, is_match, here));
            put(&mut src, from);
            put(
                &mut row,
                _mm512_slli_epi64::<6>(_mm512_min_epu64(dist, _mm512_set1_epi64(COPY as i64))),
            );
            let full = _mm512_add_epi64(group.page, _mm512_set1_epi64(PAGE as i64));
            let events = (_mm512_cmpgt_epu64_mask(len, _mm512_set1_epi64(COPY as i64))
                | _mm512_cmpgt_epu64_mask(next, full)
                | _mm512_cmplt_epu64_mask(from, group.page))
                & group.active;

            for lane in 0..WIDTH {
                // SAFETY: an active or parked lane's output address is inside
                // its scratch page or at its end; BEHIND has room for a step.
                unsafe { (start.0[lane] as *mut u64).write_unaligned(literals.0[lane]) };
            }
            for lane in 0..WIDTH {
                // SAFETY: the source is at most BEFORE bytes before the
                // scratch page, the row one of the 65 of the table.
                unsafe {
                    let bytes = _mm512_loadu_si512(src.0[lane] as *const __m512i);
                    let pattern = _mm512_load_si512(
                        PATTERNS.0.as_ptr().cast::<u8>().add(row.0[lane] as usize).cast(),
                    );
                    _mm512_storeu_si512(
                        dst.0[lane] as *mut __m512i,
                        _mm512_permutexvar_epi8(pattern, bytes),
                    );
                }
            }
            let block_end = _mm512_add_epi64(_mm512_add_epi64(group.bit, run), _mm512_set1_epi64(7));
            let old_out = group.out;
            group.bit = _mm512_mask_mov_epi64(group.bit, group.active, next_bit);
            group.out = _mm512_mask_mov_epi64(old_out, group.active, next);

            if events != 0 {
                let (mut bit, mut out, mut lens, mut page, mut ends) = (addr, addr, addr, addr, addr);
                put(&mut ends, block_end);
                put(&mut bit, group.bit);
                put(&mut out, group.out);
                put(&mut lens, len);
                put(&mut page, group.page);
                let mut left = events;
                while left != 0 {
                    let lane = left.trailing_zeros() as usize;
                    left &= left - 1;
                    let job = &mut jobs[group.job[lane] as usize];
                    let end = payload as u64 + u64::from(job.start) + u64::from(job.len);
                    let event = Event {
                        bit: bit.0[lane],
                        block_end: ends.0[lane],
                        out: out.0[lane],
                        len: lens.0[lane],
                        src: src.0[lane],
                    };
                    match event.verdict(page.0[lane], end) {
                        None => {
                            // SAFETY: checked by the verdict: the match lies
                            // in the page.
                            unsafe { finish_match(src.0[lane], dst.0[lane], row.0[lane] as usize / COPY, event.len as usize) }
                        }
                        Some(result) => {
                            job.result = result;
                            if result.is_ok() {
                                // SAFETY: the scratch page is full, `dst` is
                                // the caller's.
                                unsafe { deliver(page.0[lane] as *const u8, job) };
                            }
                            out.0[lane] = page.0[lane];
                            match order.next() {
                                Some(&number) => {
                                    group.job[lane] = number;
                                    bit.0[lane] = (payload as u64
                                        + u64::from(jobs[number as usize].start))
                                        * 8
                                        + 3;
                                }
                                None => {
                                    group.active &= !(1 << lane);
                                    bit.0[lane] = payload as u64 * 8;
                                }
                            }
                        }
                    }
                }
                group.bit = get(&bit);
                group.out = get(&out);
            }
        }
    }
    let _ = (INVALID, END_OF_BLOCK, InflateError::BadData);
}

/// Copies what is left of a match behind its first `COPY` bytes.
///
/// # Safety
///
/// The match lies in a scratch page; `distance` is its distance, at most
/// `COPY`.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn finish_match(src: u64, dst: u64, distance: usize, len: usize) {
    let (src, dst) = (src as *const u8, dst as *mut u8);
    // SAFETY: reads from before `dst + len`, writes up to COPY bytes behind
    // it, which BEHIND covers.
    unsafe {
        if distance == COPY {
            let mut done = COPY;
            while done < len {
                let bytes = _mm512_loadu_si512(src.add(done).cast());
                _mm512_storeu_si512(dst.add(done).cast(), bytes);
                done += COPY;
            }
        } else {
            // The first COPY bytes repeat at every multiple of the distance.
            let bytes = _mm512_loadu_si512(dst.cast_const().cast());
            let step = COPY - COPY % distance;
            let mut done = step;
            while done < len {
                _mm512_storeu_si512(dst.add(done).cast(), bytes);
                done += step;
            }
        }
    }
}
