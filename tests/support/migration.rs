//! Whole migrations made by hand.

use multifd_qpl::wire::MethodId;

use super::{
    channel::Channel,
    main_stream::MainStream,
    pages::{Page, noise, text},
};

/// The methods that are received.
pub const METHODS: [MethodId; 4] = [MethodId::None, MethodId::Zlib, MethodId::Zstd, MethodId::Qpl];

/// What each connection sends.
#[derive(Debug, Clone, Default)]
pub struct Migration {
    pub main: Vec<u8>,
    pub channels: Vec<Vec<u8>>,
}

impl Migration {
    /// Of a main stream and its channels.
    pub fn new(main: MainStream, channels: impl IntoIterator<Item = Channel>) -> Self {
        Self {
            main: main.bytes,
            channels: channels.into_iter().map(|channel| channel.bytes).collect(),
        }
    }

    /// One channel, one block `pc.ram` of 64 pages, one round whose packets
    /// `round` adds between two SYNCs.
    pub fn one_round(method: MethodId, round: impl FnOnce(Channel) -> Channel) -> Self {
        let channel = round(Channel::new(0, method).sync()).sync();
        Self::new(one_round(MainStream::new()), [channel])
    }

    /// A small migration with everything in it: two channels, two rounds, two
    /// blocks, pages that change, turn zero and turn back. `sample_page` tells
    /// what comes of it.
    pub fn sample(method: MethodId, return_path: bool) -> Self {
        let head = MainStream::new();
        let head = if return_path { head.return_path() } else { head };
        let main = head
            .start(&[("pc.ram", 64), ("vga.vram", 16)])
            .flush()
            .close()
            .part()
            .close()
            .part()
            .flush()
            .close()
            .end()
            .flush()
            .close()
            .finish();
        let first = Channel::new(0, method)
            .sync()
            .packet(&[(0, text(100)), (1, noise(1)), (5, text(105))], &[9, 8])
            .zero(&[20, 21, 22])
            .sync()
            .packet(&[(9, text(9))], &[5, 63])
            .sync();
        let second = Channel::new(1, method)
            .sync()
            .data(&[(2, text(2))])
            .block("vga.vram")
            .packet(&[(15, noise(15)), (3, text(3))], &[0])
            .sync()
            .block("pc.ram")
            .data(&[(0, text(0))])
            .sync();
        Self::new(main, [first, second])
    }
}

/// What a page of [`Migration::sample`] must hold in the end.
pub fn sample_page(block: &str, page: u32) -> Page {
    match (block, page) {
        ("pc.ram", 0 | 2 | 9) | ("vga.vram", 3) => text(page.into()),
        ("pc.ram", 1) | ("vga.vram", 15) => noise(page.into()),
        _ => [0; 4096],
    }
}

/// The rest of a main stream with one block `pc.ram` of 64 pages and one round.
pub fn one_round(head: MainStream) -> MainStream {
    head.start(&[("pc.ram", 64)]).flush().close().end().flush().close().finish()
}
