//! Packets of generated pages, and what guest RAM has to hold after them.

use std::sync::Arc;

use multifd_qpl::{
    engine::{BufferPool, Engine, EngineError, PageJob, PagePacket, PageQueue},
    ram::{Placement, RamBlock},
    wire::PAGE_SIZE,
};
use zlib_rs::{DeflateConfig, ReturnCode};

/// A generator for pages: Lehmer's, so that every run is the same.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed << 1 | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0xda94_2042_e4dd_58b5);
        self.0 >> 16
    }

    /// A page as guests have them: records, text, pointers, or noise.
    pub fn page(&mut self) -> [u8; PAGE_SIZE] {
        let kind = self.next() % 5;
        let mut page = [0; PAGE_SIZE];
        for (i, byte) in page.iter_mut().enumerate() {
            *byte = match kind {
                0 => self.next() as u8,
                1 => b"the quick brown fox "[(i + self.next() as usize % 2) % 20],
                2 if i % 8 < 2 => self.next() as u8,
                3 if i % 64 == 0 => self.next() as u8,
                2 | 3 => (i % 8) as u8,
                _ => (self.next() % 4) as u8,
            };
        }
        page
    }
}

/// Compresses as QEMU does for an IAA: raw, in a window of 4 KiB, and not at all
/// where that makes a page larger. libdeflate is no good here, see
/// `engine::hardware::status`.
pub fn compress<'a>(page: &[u8; PAGE_SIZE], block: &'a mut [u8]) -> Option<&'a [u8]> {
    let config = DeflateConfig { level: 1, window_bits: -12, ..DeflateConfig::default() };
    match zlib_rs::compress_slice(block, page, config) {
        (compressed, ReturnCode::Ok) => Some(compressed),
        _ => None,
    }
}

/// A block of guest RAM under test, with what it has to hold.
pub struct Guest {
    pub block: Arc<RamBlock>,
    pub expected: Vec<u8>,
    pub placement: Arc<Placement>,
}

/// Pages sent as they are and compressed ones.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub raw: u64,
    pub compressed: u64,
}

impl Guest {
    pub fn new(pages: usize) -> Self {
        Self::with_placement(pages, Placement::new(None).unwrap())
    }

    pub fn with_placement(pages: usize, placement: Arc<Placement>) -> Self {
        let block = RamBlock::anonymous("pc.ram", (pages * PAGE_SIZE) as u64).unwrap();
        placement.attach(&block).unwrap();
        Self { block: Arc::new(block), expected: vec![0; pages * PAGE_SIZE], placement }
    }

    /// A packet of new content for these pages.
    pub fn packet(
        &mut self,
        queue: &mut dyn PageQueue,
        pool: &mut BufferPool,
        pages: &[u32],
        random: &mut Random,
        sent: &mut Sent,
    ) -> Result<PagePacket, EngineError> {
        let mut payload = Vec::new();
        let mut jobs = Vec::new();
        for &page in pages {
            let content = random.page();
            let mut block = [0; PAGE_SIZE - 1];
            let start = payload.len() as u32;
            match compress(&content, &mut block) {
                Some(block) => {
                    payload.extend_from_slice(block);
                    sent.compressed += 1;
                }
                None => {
                    payload.extend_from_slice(&content);
                    sent.raw += 1;
                }
            }
            jobs.push(PageJob { page, start, len: payload.len() as u32 - start });
            let at = page as usize * PAGE_SIZE;
            self.expected[at..at + PAGE_SIZE].copy_from_slice(&content);
        }
        let mut buffer = queue.buffer(pool)?;
        buffer.payload_mut(payload.len()).copy_from_slice(&payload);
        Ok(PagePacket { block: Arc::clone(&self.block), buffer, jobs })
    }

    /// Sends every page `times` times in packets of `per_packet`, the first
    /// time in order and then shuffled, and drains after each time.
    pub fn send_all(
        &mut self,
        engine: &dyn Engine,
        times: usize,
        per_packet: usize,
    ) -> Result<Sent, EngineError> {
        let mut queue = engine.open()?;
        let mut pool = BufferPool::new(4);
        let mut random = Random::new(7);
        let mut sent = Sent::default();
        let mut order: Vec<u32> = (0..(self.expected.len() / PAGE_SIZE) as u32).collect();
        for _ in 0..times {
            for pages in order.chunks(per_packet) {
                let packet = self.packet(&mut *queue, &mut pool, pages, &mut random, &mut sent)?;
                queue.submit(packet)?;
            }
            queue.drain()?;
            self.check();
            for i in (1..order.len()).rev() {
                order.swap(i, random.next() as usize % (i + 1));
            }
        }
        Ok(sent)
    }

    /// Compares guest RAM with what it has to hold.
    pub fn check(&self) {
        let mut page = [0; PAGE_SIZE];
        for (index, expected) in self.expected.chunks_exact(PAGE_SIZE).enumerate() {
            self.block.read_page(index as u32, &mut page).unwrap();
            assert!(page == expected, "page {index} is wrong");
            assert!(self.block.map().is_received(index as u32), "page {index} is not marked");
        }
    }
}
