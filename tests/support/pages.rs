//! Contents of pages: each number makes another one.

/// A page.
pub type Page = [u8; 4096];

/// A page of text: compresses well.
pub fn text(number: u64) -> Page {
    let mut page = [0; 4096];
    for (index, line) in page.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let words = format!("page {number:10} line {index:4} says..");
        line.copy_from_slice(&words.as_bytes()[..32]);
    }
    page
}

/// A page that does not compress.
pub fn noise(number: u64) -> Page {
    let mut page = [0; 4096];
    let mut random = Random(number);
    for word in page.as_chunks_mut::<8>().0 {
        *word = random.next().to_le_bytes();
    }
    page
}

/// A page of zeros.
pub const ZERO: Page = [0; 4096];

/// SplitMix64: a good enough series of numbers from any seed.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
