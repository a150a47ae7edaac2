//! Fixed-Huffman pages on AVX2: four lanes to a vector, `GROUPS` vectors side
//! by side. The same steps as on AVX-512; what that does with permutations of
//! whole vectors is one gather from a small table here.

use std::arch::x86_64::*;

use super::lanes::{DISTANCES, END_OF_BLOCK, Event, Feed, INVALID, LENGTHS, Scratch, TOO_FAR};
use super::out::copy_match;
use super::{Job, PAGE};

/// Lanes of one vector.
const WIDTH: usize = 4;
/// Vectors side by side.
const GROUPS: usize = 3;
/// Lanes altogether.
pub(super) const LANES: usize = WIDTH * GROUPS;

/// Fewer pages than this are decoded sooner one by one.
pub(super) const WORTH_IT: usize = 4;

/// Bytes one copy moves.
const COPY: usize = 32;

/// What the next nine bits stand for.
///
/// * bits 0 to 5: bits of code and extra bits together
/// * bits 8 to 11: bits of the code
/// * bits 16 to 20: mask of the extra bits
/// * bits 24 to 31: what to add to the byte that an eight-bit literal would
///   have given
/// * bits 48 to 62: base length; one for a literal
/// * bit 63: set for a match
static SYMBOLS: [u64; 512] = {
    let mut table = [0; 512];
    let mut i = 0;
    while i < 512 {
        let code = (i as u8).reverse_bits() as u64;
        let ninth = i as u64 >> 8;
        table[i] = if code < 0x30 {
            let (base, extra) = match code >> 1 {
                0 => (END_OF_BLOCK, 0),
                symbol => LENGTHS[symbol as usize - 1],
            };
            length(base, extra, 7)
        } else if code < 0xc0 {
            1 << 48 | 8
        } else if code < 0xc8 {
            let (base, extra) = match code - 0xc0 {
                6.. => (INVALID, 0),
                symbol => LENGTHS[symbol as usize + 23],
            };
            length(base, extra, 8)
        } else {
            1 << 48 | ((code + ninth + 0x30) & 0xff) << 24 | 9
        };
        i += 1;
    }
    table
};

const fn length(base: u16, extra: u8, code: u64) -> u64 {
    1 << 63 | (base as u64) << 48 | ((1 << extra) - 1) << 16 | code << 8 | (code + extra as u64)
}

/// What the five bits of a distance code stand for.
///
/// * bits 0 to 5: bits of code and extra bits together
/// * bits 16 to 28: mask of the extra bits
/// * bits 32 to 47: base distance
static DISTANCE: [u64; 32] = {
    let mut table = [0; 32];
    let mut i = 0;
    while i < 32 {
        let code = (i as u8).reverse_bits() as usize >> 3;
        let (base, extra) = if code < 30 { DISTANCES[code] } else { (TOO_FAR, 0) };
        table[i] = (base as u64) << 32 | ((1 << extra) - 1) << 16 | (extra as u64 + 5);
        i += 1;
    }
    table
};

/// Row `d` makes 32 bytes of a match with distance `d` out of two copies of
/// the 16 bytes at its source; the last row leaves two halves as they are.
#[repr(align(32))]
struct Patterns([[u8; COPY]; 17]);

static PATTERNS: Patterns = {
    let mut rows = [[0; COPY]; 17];
    let mut distance = 1;
    while distance <= 16 {
        let mut i = 0;
        while i < COPY {
            rows[distance][i] = (i % distance) as u8;
            i += 1;
        }
        distance += 1;
    }
    Patterns(rows)
};

/// Four 64-bit numbers that pass between vector and scalar code.
#[derive(Clone, Copy)]
#[repr(align(32))]
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

#[target_feature(enable = "avx2")]
fn get(spill: &Spill) -> __m256i {
    // SAFETY: a spill is 32 bytes, aligned to 32.
    unsafe { _mm256_load_si256(spill.0.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn put(spill: &mut Spill, value: __m256i) {
    // SAFETY: a spill is 32 bytes, aligned to 32.
    unsafe { _mm256_store_si256(spill.0.as_mut_ptr().cast(), value) }
}

#[target_feature(enable = "avx2")]
fn all(value: i64) -> __m256i {
    _mm256_set1_epi64x(value)
}

/// `a` where the sign of `mask` is clear, `b` where it is set.
#[target_feature(enable = "avx2")]
fn choose(a: __m256i, b: __m256i, mask: __m256i) -> __m256i {
    _mm256_castpd_si256(_mm256_blendv_pd(
        _mm256_castsi256_pd(a),
        _mm256_castsi256_pd(b),
        _mm256_castsi256_pd(mask),
    ))
}

/// The 64 bits behind the first `shift` (0 to 63) of 128.
#[target_feature(enable = "avx2")]
fn funnel((low, high): (__m256i, __m256i), shift: __m256i) -> __m256i {
    _mm256_or_si256(
        _mm256_srlv_epi64(low, shift),
        _mm256_sllv_epi64(high, _mm256_sub_epi64(all(64), shift)),
    )
}

/// The bits of every byte in reverse order.
#[target_feature(enable = "avx2")]
fn reverse(value: __m256i) -> __m256i {
    let low = _mm256_set1_epi8(15);
    let up = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, -128, 64, -64, 32, -96, 96, -32, 16, -112, 80, -48, 48, -80, 112, -16,
    ));
    let down = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15,
    ));
    _mm256_or_si256(
        _mm256_shuffle_epi8(up, _mm256_and_si256(value, low)),
        _mm256_shuffle_epi8(down, _mm256_and_si256(_mm256_srli_epi16::<4>(value), low)),
    )
}

/// One group's lanes between steps.
struct Group {
    /// Bit position: eight times the address, plus the bit.
    bit: __m256i,
    /// Address of the next output byte.
    out: __m256i,
    /// Address of the first byte of each scratch page.
    page: __m256i,
    /// All ones for the lanes that have a job.
    active: __m256i,
    /// Which job each lane has.
    job: [u32; WIDTH],
}

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
            {
                #[allow(non_upper_case_globals)]
                const $g: usize = 2;
                $value
            },
        ]
    };
}

/// Decodes the jobs whose numbers are in `order`, all of them single final
/// fixed blocks.
///
/// # Safety
///
/// As [`super::Decoder::decode_pages`]; the CPU has AVX2 and BMI2; every number
/// is below `jobs.len()` and every such job has at least one byte; `scratch`
/// has [`LANES`] lanes.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) unsafe fn decode(
    scratch: &mut Scratch,
    payload: *const u8,
    jobs: &mut [Job],
    order: &[u32],
) {
    // SAFETY: the caller's.
    let mut feed = unsafe { Feed::new(payload, jobs, order) };
    let mut groups = each!(g => {
        let mut bit = Spill([feed.parked(); WIDTH]);
        let page = Spill(std::array::from_fn(|lane| scratch.page(g * WIDTH + lane) as u64));
        let mut active = Spill([0; WIDTH]);
        let mut job = [0; WIDTH];
        for (lane, job) in job.iter_mut().enumerate() {
            if let Some(next) = feed.next() {
                *job = next.job;
                bit.0[lane] = next.bit;
                active.0[lane] = u64::MAX;
            }
        }
        Group { bit: get(&bit), out: get(&page), page: get(&page), active: get(&active), job }
    });
    let none = [Spill([0; WIDTH]); GROUPS];
    let (mut literals, mut start) = (none, none);
    let (mut dst, mut src, mut second, mut row) = (none, none, none, none);

    while feed.is_busy() {
        // Sixteen bytes of input for every lane, as two vectors.
        let input = each!(g => {
            let mut addr = Spill([0; WIDTH]);
            put(&mut addr, _mm256_srli_epi64::<3>(groups[g].bit));
            // SAFETY: a lane's position is inside its block or at most one
            // page's worth of codes behind it, which INPUT_PADDING covers.
            let fetch = |lane: usize| unsafe { _mm_loadu_si128(addr.0[lane] as *const __m128i) };
            let even = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(fetch(0)), fetch(2));
            let odd = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(fetch(1)), fetch(3));
            (_mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd))
        });

        // Up to seven literals: the bytes whose reversed value is in
        // 0x30..0xc0, up to the first that is not. The last byte never is.
        let phase = each!(g => _mm256_and_si256(groups[g].bit, all(7)));
        let bytes = each!(g => _mm256_sub_epi8(
            reverse(funnel(input[g], phase[g])),
            _mm256_set1_epi8(0x30),
        ));
        let run = each!(g => {
            let other = _mm256_or_si256(
                _mm256_subs_epu8(bytes[g], _mm256_set1_epi8(0x8fu8 as i8)),
                all(i64::MIN),
            );
            let below = _mm256_andnot_si256(other, _mm256_add_epi64(other, all(-1)));
            let whole = _mm256_cmpeq_epi8(below, _mm256_set1_epi8(-1));
            _mm256_sad_epu8(
                _mm256_and_si256(whole, _mm256_set1_epi8(8)),
                _mm256_setzero_si256(),
            )
        });

        // The symbol behind them.
        let bits = each!(g => funnel(input[g], _mm256_add_epi64(phase[g], run[g])));
        let symbol = each!(g => {
            // SAFETY: nine bits index a table of 512.
            unsafe {
                _mm256_i64gather_epi64::<8>(
                    SYMBOLS.as_ptr().cast(),
                    _mm256_and_si256(bits[g], all(511)),
                )
            }
        });
        let taken = each!(g => _mm256_and_si256(symbol[g], all(63)));
        // And its distance, if it has one.
        let bits_d = each!(g => _mm256_srlv_epi64(bits[g], taken[g]));
        let distance = each!(g => {
            // SAFETY: five bits index a table of 32.
            unsafe {
                _mm256_i64gather_epi64::<8>(
                    DISTANCE.as_ptr().cast(),
                    _mm256_and_si256(bits_d[g], all(31)),
                )
            }
        });
        let is_match = each!(g => _mm256_cmpgt_epi64(_mm256_setzero_si256(), symbol[g]));
        let block_end =
            each!(g => _mm256_add_epi64(_mm256_add_epi64(groups[g].bit, run[g]), all(7)));
        each!(g => {
            let more =
                _mm256_and_si256(is_match[g], _mm256_and_si256(distance[g], all(63)));
            let used = _mm256_add_epi64(_mm256_add_epi64(run[g], taken[g]), more);
            groups[g].bit = _mm256_add_epi64(
                groups[g].bit,
                _mm256_and_si256(used, groups[g].active),
            );
        });

        // A nine-bit literal corrects its byte. What the
        // sum carries on into higher bytes is overwritten later.
        each!(g => put(
            &mut literals[g],
            _mm256_add_epi64(
                bytes[g],
                _mm256_sllv_epi64(_mm256_srli_epi64::<24>(symbol[g]), run[g]),
            ),
        ));

        // Where everything goes.
        let len = each!(g => {
            let code = _mm256_and_si256(_mm256_srli_epi64::<8>(symbol[g]), all(15));
            let mask = _mm256_and_si256(_mm256_srli_epi64::<16>(symbol[g]), all(31));
            let base = _mm256_and_si256(_mm256_srli_epi64::<48>(symbol[g]), all(0x7fff));
            let extra = _mm256_and_si256(_mm256_srlv_epi64(bits[g], code), mask);
            _mm256_add_epi64(base, extra)
        });
        let dist = each!(g => {
            let mask = _mm256_and_si256(_mm256_srli_epi64::<16>(distance[g]), all(0x1fff));
            let extra = _mm256_and_si256(_mm256_srli_epi64::<5>(bits_d[g]), mask);
            _mm256_add_epi64(_mm256_srli_epi64::<32>(distance[g]), extra)
        });
        let here = each!(g => _mm256_add_epi64(groups[g].out, _mm256_srli_epi64::<3>(run[g])));
        let next = each!(g => _mm256_add_epi64(here[g], len[g]));
        let from = each!(g => choose(
            groups[g].page,
            _mm256_sub_epi64(here[g], dist[g]),
            symbol[g],
        ));
        let events = each!(g => {
            // Too long for one copy, or reaching into its own second half.
            let long = _mm256_cmpgt_epi64(len[g], all(COPY as i64));
            let folded = _mm256_and_si256(
                _mm256_cmpgt_epi64(len[g], all(16)),
                _mm256_and_si256(
                    _mm256_cmpgt_epi64(all(32), dist[g]),
                    _mm256_cmpgt_epi64(dist[g], all(15)),
                ),
            );
            let full = _mm256_add_epi64(groups[g].page, all(PAGE as i64));
            let over = _mm256_cmpgt_epi64(next[g], full);
            let before = _mm256_cmpgt_epi64(groups[g].page, from[g]);
            let any = _mm256_or_si256(_mm256_or_si256(long, folded), _mm256_or_si256(over, before));
            let any = _mm256_and_si256(any, groups[g].active);
            _mm256_movemask_pd(_mm256_castsi256_pd(any)) as u32
        });
        each!(g => {
            put(&mut start[g], groups[g].out);
            put(&mut dst[g], choose(next[g], here[g], symbol[g]));
            put(&mut src[g], from[g]);
            let near = _mm256_cmpgt_epi64(all(16), dist[g]);
            put(&mut second[g], _mm256_add_epi64(from[g], _mm256_andnot_si256(near, all(16))));
            put(
                &mut row[g],
                _mm256_slli_epi64::<5>(choose(all(16), dist[g], near)),
            );
            groups[g].out = choose(groups[g].out, next[g], groups[g].active);
        });

        each!(g => for lane in 0..WIDTH {
            // SAFETY: an output address is inside its scratch page or at its
            // end; `lanes` has room behind it for a step.
            unsafe { (start[g].at(lane) as *mut u64).write_unaligned(literals[g].at(lane)) };
        });
        each!(g => for lane in 0..WIDTH {
            // SAFETY: both sources are at most `lanes::BEFORE` bytes before
            // the scratch page and not behind its output; the row is one of
            // the table's 17; the destination has room for a step.
            unsafe {
                let low = _mm_loadu_si128(src[g].at(lane) as *const __m128i);
                let high = _mm_loadu_si128(second[g].at(lane) as *const __m128i);
                let pattern = _mm256_load_si256(
                    PATTERNS.0.as_ptr().cast::<u8>().add(row[g].at(lane) as usize).cast(),
                );
                _mm256_storeu_si256(
                    dst[g].at(lane) as *mut __m256i,
                    _mm256_shuffle_epi8(_mm256_set_m128i(high, low), pattern),
                );
            }
        });

        each!(g => if events[g] != 0 {
            let group = &mut groups[g];
            let (mut bit, mut out, mut page) = (none[0], none[0], none[0]);
            let (mut lens, mut ends, mut active) = (none[0], none[0], none[0]);
            put(&mut bit, group.bit);
            put(&mut out, group.out);
            put(&mut page, group.page);
            put(&mut lens, len[g]);
            put(&mut ends, block_end[g]);
            put(&mut active, group.active);
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
                    let to = dst[g].0[lane];
                    // SAFETY: settled: the match is in the page, which has
                    // room behind it.
                    unsafe {
                        copy_match(to as *mut u8, (to - event.src) as usize, event.len as usize);
                    }
                    continue;
                }
                out.0[lane] = page.0[lane];
                if let Some(next) = feed.next() {
                    group.job[lane] = next.job;
                    bit.0[lane] = next.bit;
                } else {
                    active.0[lane] = 0;
                    bit.0[lane] = feed.parked();
                }
            }
            group.bit = get(&bit);
            group.out = get(&out);
            group.active = get(&active);
        });
    }
}
