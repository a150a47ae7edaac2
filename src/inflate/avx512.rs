//! Fixed-Huffman pages on AVX-512: eight lanes to a vector, `GROUPS` vectors
//! side by side so that one group's arithmetic hides another's latency.

use std::arch::x86_64::*;

use super::lanes::{COPY, DISTANCE, Event, Feed, LENGTH, PATTERNS, Scratch, Table};
use super::{Job, PAGE};

/// Lanes of one vector.
const WIDTH: usize = 8;
/// Vectors side by side.
pub(super) const GROUPS: usize = 2;
/// Lanes altogether.
pub(super) const LANES: usize = WIDTH * GROUPS;

/// The same for every group, written out so that the compiler sees the groups'
/// instructions side by side.
macro_rules! each {
    ($g:ident => $value:expr) => {
        [
            {
                #[allow(non_upper_case_globals)]
                const $g: usize = 0;
                $value
            },
            {
                #[allow(non_upper_case_globals)]
                const $g: usize = 1;
                $value
            },
        ]
    };
}

/// Fewer pages than this are decoded sooner one by one: a turn of all lanes
/// takes as long for one page as for sixteen.
pub(super) const WORTH_IT: usize = 5;

/// Eight 64-bit numbers that pass between vector and scalar code.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Spill([u64; WIDTH]);

impl Spill {
    /// One of the numbers, from memory. Left to itself the compiler takes it
    /// out of the vector register by two or three shuffles.
    #[inline(always)]
    fn at(&self, lane: usize) -> u64 {
        // SAFETY: a reference to an initialised number.
        unsafe { std::ptr::read_volatile(&self.0[lane]) }
    }
}

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
/// below `jobs.len()` and every such job has at least one byte; `scratch` has
/// [`LANES`] lanes.
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

    // SAFETY: the caller's.
    let mut feed = unsafe { Feed::new(payload, jobs, order) };
    let mut groups = each!(g => {
        let mut bit = Spill([feed.parked(); WIDTH]);
        let page = Spill(std::array::from_fn(|lane| scratch.page(g * WIDTH + lane) as u64));
        let mut active = 0;
        let mut job = [0; WIDTH];
        for (lane, job) in job.iter_mut().enumerate() {
            if let Some(next) = feed.next() {
                *job = next.job;
                bit.0[lane] = next.bit;
                active |= 1 << lane;
            }
        }
        Group { bit: get(&bit), out: get(&page), page: get(&page), active, job }
    });
    let none = [Spill([0; WIDTH]); GROUPS];
    let (mut addr, mut literals, mut start) = (none, none, none);
    let (mut dst, mut src, mut row) = (none, none, none);

    while feed.is_busy() {
        // Sixteen bytes of input for every lane, as two vectors.
        each!(g => put(&mut addr[g], _mm512_srli_epi64::<3>(groups[g].bit)));
        let input = each!(g => {
            // SAFETY: a lane's position is inside its block or at most one
            // page's worth of codes behind it, which INPUT_PADDING covers.
            let fetch = |lane: usize| unsafe { _mm_loadu_si128(addr[g].0[lane] as *const __m128i) };
            let at = |to, lane, mask| _mm512_mask_broadcast_i64x2(to, mask, fetch(lane));
            let even = _mm512_castsi128_si512(fetch(0));
            let even = at(at(at(even, 2, 0x0c), 4, 0x30), 6, 0xc0);
            let odd = _mm512_castsi128_si512(fetch(1));
            let odd = at(at(at(odd, 3, 0x0c), 5, 0x30), 7, 0xc0);
            (_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd))
        });

        // Up to seven literals: the bytes whose reversed value is in
        // 0x30..0xc0, up to the first that is not. The last byte never is.
        let phase = each!(g => _mm512_and_si512(groups[g].bit, _mm512_set1_epi64(7)));
        let codes = each!(g => _mm512_gf2p8affine_epi64_epi8::<0>(
            _mm512_shrdv_epi64(input[g].0, input[g].1, phase[g]),
            reverse,
        ));
        let bytes = each!(g => _mm512_sub_epi8(codes[g], _mm512_set1_epi8(0x30)));
        let other = each!(g => _mm512_or_si512(
            _mm512_subs_epu8(bytes[g], _mm512_set1_epi8(0x8fu8 as i8)),
            _mm512_set1_epi64(i64::MIN),
        ));
        let below = each!(g => _mm512_andnot_si512(other[g], _mm512_sub_epi64(other[g], one)));
        let run = each!(g =>
            _mm512_and_si512(_mm512_popcnt_epi64(below[g]), _mm512_set1_epi64(0x38)));

        // The symbol behind them.
        let code = each!(g =>
            _mm512_and_si512(_mm512_srlv_epi64(codes[g], run[g]), _mm512_set1_epi64(0xff)));
        let bits = each!(g =>
            _mm512_shrdv_epi64(input[g].0, input[g].1, _mm512_add_epi64(phase[g], run[g])));
        let is_short = each!(g => _mm512_cmplt_epu64_mask(code[g], _mm512_set1_epi64(0x30)));
        let is_match = each!(g => is_short[g]
        | _mm512_cmpeq_epi64_mask(
            _mm512_and_si512(code[g], _mm512_set1_epi64(0xf8)),
            _mm512_set1_epi64(0xc0),
        ));
        let is_nine = each!(g => _mm512_cmpge_epu64_mask(code[g], _mm512_set1_epi64(0xc8)));

        // As a length: index 0..24 by seven bits, 24..32 by eight.
        let index = each!(g => _mm512_min_epu8(
            _mm512_srli_epi64::<1>(code[g]),
            _mm512_sub_epi8(code[g], _mm512_set1_epi64(0xa8)),
        ));
        let len_used = each!(g => _mm512_maskz_permutexvar_epi16(LOW, index[g], len_bits));
        let extra = each!(g =>
            _mm512_mask_srli_epi64::<7>(_mm512_srli_epi64::<8>(bits[g]), is_short[g], bits[g]));
        // And its distance.
        let bits_d = each!(g => _mm512_srlv_epi64(bits[g], len_used[g]));
        let match_used = each!(g => _mm512_add_epi64(
            len_used[g],
            _mm512_maskz_permutexvar_epi16(LOW, bits_d[g], dist_bits),
        ));
        let literal_used = each!(g =>
            _mm512_mask_mov_epi64(_mm512_set1_epi64(8), is_nine[g], _mm512_set1_epi64(9)));
        let used = each!(g => _mm512_add_epi64(
            run[g],
            _mm512_mask_mov_epi64(literal_used[g], is_match[g], match_used[g]),
        ));
        let block_end = each!(g =>
            _mm512_add_epi64(_mm512_add_epi64(groups[g].bit, run[g]), _mm512_set1_epi64(7)));
        each!(g => groups[g].bit =
            _mm512_mask_add_epi64(groups[g].bit, groups[g].active, groups[g].bit, used[g]));

        let len_all = each!(g => _mm512_add_epi64(
            _mm512_maskz_permutexvar_epi16(LOW, index[g], len_base),
            _mm512_and_si512(extra[g], _mm512_maskz_permutexvar_epi16(LOW, index[g], len_mask)),
        ));
        let dist = each!(g => _mm512_add_epi64(
            _mm512_maskz_permutexvar_epi16(LOW, bits_d[g], dist_base),
            _mm512_and_si512(
                _mm512_srli_epi64::<5>(bits_d[g]),
                _mm512_maskz_permutexvar_epi16(LOW, bits_d[g], dist_mask),
            ),
        ));

        // As a literal of nine bits (value 2 * code + ninth bit) or eight
        // (which is in `bytes` already). What the sum carries on into
        // higher bytes is behind the output and overwritten later.
        each!(g => {
            let ninth = _mm512_and_si512(_mm512_srli_epi64::<8>(bits[g]), one);
            let delta =
                _mm512_add_epi64(_mm512_add_epi64(code[g], _mm512_set1_epi64(0x30)), ninth);
            put(
                &mut literals[g],
                _mm512_mask_add_epi64(
                    bytes[g],
                    is_nine[g],
                    bytes[g],
                    _mm512_sllv_epi64(delta, run[g]),
                ),
            )
        });

        // Where everything goes.
        let here = each!(g => _mm512_add_epi64(groups[g].out, _mm512_srli_epi64::<3>(run[g])));
        let len = each!(g => _mm512_mask_mov_epi64(one, is_match[g], len_all[g]));
        let next = each!(g => _mm512_add_epi64(here[g], len[g]));
        let from = each!(g => _mm512_mask_sub_epi64(groups[g].page, is_match[g], here[g], dist[g]));
        each!(g => {
            put(&mut start[g], groups[g].out);
            put(&mut dst[g], _mm512_mask_mov_epi64(next[g], is_match[g], here[g]));
            put(&mut src[g], from[g]);
            put(
                &mut row[g],
                _mm512_slli_epi64::<6>(_mm512_min_epu64(
                    dist[g],
                    _mm512_set1_epi64(COPY as i64),
                )),
            )
        });
        let events = each!(g => {
            let full = _mm512_add_epi64(groups[g].page, _mm512_set1_epi64(PAGE as i64));
            (_mm512_cmpgt_epu64_mask(len[g], _mm512_set1_epi64(COPY as i64))
                | _mm512_cmpgt_epu64_mask(next[g], full)
                | _mm512_cmplt_epu64_mask(from[g], groups[g].page))
                & groups[g].active
        });
        each!(g => groups[g].out =
            _mm512_mask_mov_epi64(groups[g].out, groups[g].active, next[g]));

        each!(g => for lane in 0..WIDTH {
            // SAFETY: an active or parked lane's output address is inside
            // its scratch page or at its end; BEHIND has room for a step.
            unsafe { (start[g].at(lane) as *mut u64).write_unaligned(literals[g].0[lane]) };
        });
        each!(g => for lane in 0..WIDTH {
            // SAFETY: the source is at most BEFORE bytes before the
            // scratch page, the row one of the 65 of the table.
            unsafe {
                let bytes = _mm512_loadu_si512(src[g].at(lane) as *const __m512i);
                let pattern = _mm512_load_si512(
                    PATTERNS.0.as_ptr().cast::<u8>().add(row[g].at(lane) as usize).cast(),
                );
                _mm512_storeu_si512(
                    dst[g].at(lane) as *mut __m512i,
                    _mm512_permutexvar_epi8(pattern, bytes),
                );
            }
        });
        each!(g => if events[g] != 0 {
            let group = &mut groups[g];
            let (mut bit, mut out, mut page) = (none[0], none[0], none[0]);
            let (mut lens, mut ends) = (none[0], none[0]);
            put(&mut bit, group.bit);
            put(&mut out, group.out);
            put(&mut page, group.page);
            put(&mut lens, len[g]);
            put(&mut ends, block_end[g]);
            let mut left = events[g];
            while left != 0 {
                let lane = left.trailing_zeros() as usize;
                left &= left - 1;
                let event = Event {
                    bit: bit.0[lane],
                    block_end: ends.0[lane],
                    out: out.0[lane],
                    len: lens.0[lane],
                    src: src[g].0[lane],
                };
                // SAFETY: this is the lane's scratch page.
                if unsafe { feed.settle(group.job[lane], page.0[lane], &event) }.is_none() {
                    let repeat = row[g].0[lane] as usize / COPY;
                    // SAFETY: settled: the match is in the page, which has
                    // room behind it.
                    unsafe {
                        finish_match(event.src, dst[g].0[lane], repeat, event.len as usize);
                    }
                    continue;
                }
                out.0[lane] = page.0[lane];
                if let Some(next) = feed.next() {
                    group.job[lane] = next.job;
                    bit.0[lane] = next.bit;
                } else {
                    group.active &= !(1 << lane);
                    bit.0[lane] = feed.parked();
                }
            }
            group.bit = get(&bit);
            group.out = get(&out);
        });
    }
}

/// Copies what is left of a match behind its first `COPY` bytes.
///
/// # Safety
///
/// The match lies in a scratch page; `distance` is its distance, or `COPY` if
/// it is greater.
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
