//! A multifd channel made by hand, packet by packet, with real codecs.

use multifd_qpl::wire::{Generation, Hello, MethodId, Packet, PacketHeader, qpl::write_lengths};
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use super::pages::Page;

/// The bytes of a channel so far.
pub struct Channel {
    pub bytes: Vec<u8>,
    method: MethodId,
    coder: Coder,
    generation: Generation,
    block: String,
    number: u64,
    /// Where the last packet's header begins.
    last: usize,
}

/// What a method keeps between packets.
enum Coder {
    Stateless,
    Zlib(zlib_rs::Deflate),
    Zstd(CCtx<'static>),
}

impl Channel {
    /// A channel that has said hello.
    pub fn new(id: u8, method: MethodId) -> Self {
        Self::with_uuid(id, method, [0; 16])
    }

    /// A channel of the machine with this UUID.
    pub fn with_uuid(id: u8, method: MethodId, uuid: [u8; 16]) -> Self {
        let coder = match method {
            MethodId::Zlib => Coder::Zlib(zlib_rs::Deflate::new(1, true, 15)),
            MethodId::Zstd => {
                let mut context = CCtx::create();
                context.set_parameter(CParameter::CompressionLevel(1)).expect("level 1 exists");
                Coder::Zstd(context)
            }
            _ => Coder::Stateless,
        };
        Self {
            bytes: Hello { uuid, id }.encode().to_vec(),
            method,
            coder,
            generation: Generation::From9_0,
            block: "pc.ram".to_owned(),
            number: 0,
            last: 0,
        }
    }

    /// Like a source up to 8.2 from now on.
    pub fn old(mut self) -> Self {
        self.generation = Generation::UpTo8_2;
        self
    }

    /// Pages of another block from now on.
    pub fn block(mut self, name: &str) -> Self {
        name.clone_into(&mut self.block);
        self
    }

    /// Any bytes.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A packet that is only a SYNC.
    pub fn sync(mut self) -> Self {
        let header = PacketHeader::sync(self.generation, self.number);
        self.put(&header.encode(), &[]);
        self
    }

    /// A packet without pages and flags, as sources up to 8.2 send behind a
    /// SYNC that rode on data.
    pub fn empty(mut self) -> Self {
        let header =
            PacketHeader { sync: false, ..PacketHeader::sync(self.generation, self.number) };
        self.put(&header.encode(), &[]);
        self
    }

    /// A packet of data and zero pages.
    pub fn packet(self, data: &[(u32, Page)], zero: &[u32]) -> Self {
        self.packet_with(data, zero, false)
    }

    /// A packet of data pages.
    pub fn data(self, data: &[(u32, Page)]) -> Self {
        self.packet(data, &[])
    }

    /// A packet of zero pages.
    pub fn zero(self, zero: &[u32]) -> Self {
        self.packet(&[], zero)
    }

    /// A packet of data pages that is a SYNC as well.
    pub fn data_sync(self, data: &[(u32, Page)]) -> Self {
        self.packet_with(data, &[], true)
    }

    fn packet_with(mut self, data: &[(u32, Page)], zero: &[u32], sync: bool) -> Self {
        let payload = self.encode(data);
        let normal: Vec<u32> = data.iter().map(|page| page.0).collect();
        self.any_packet(&normal, zero, sync, &payload)
    }

    /// A packet with any payload at all.
    pub fn payload(self, normal: &[u32], payload: &[u8]) -> Self {
        self.any_packet(normal, &[], false, payload)
    }

    fn any_packet(mut self, normal: &[u32], zero: &[u32], sync: bool, payload: &[u8]) -> Self {
        let header = PacketHeader {
            generation: self.generation,
            sync,
            method: self.method,
            packet_num: self.number,
            block: &self.block,
            normal,
            zero,
            payload_len: payload.len() as u32,
        }
        .encode();
        self.put(&header, payload);
        self
    }

    fn put(&mut self, header: &[u8; Packet::HEADER_LEN], payload: &[u8]) {
        self.last = self.bytes.len();
        self.number += 1;
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(payload);
    }

    /// Overwrites bytes of the last packet from `offset` on: header or payload.
    pub fn edit(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.bytes[self.last + offset..][..bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Overwrites a 32-bit field of the last packet's header.
    pub fn edit_u32(self, offset: usize, value: u32) -> Self {
        self.edit(offset, &value.to_be_bytes())
    }

    /// The payload of these pages, continuing the channel's stream.
    pub fn encode(&mut self, data: &[(u32, Page)]) -> Vec<u8> {
        let pages: Vec<u8> = data.iter().flat_map(|page| page.1).collect();
        match &mut self.coder {
            _ if data.is_empty() => Vec::new(),
            Coder::Zlib(deflate) => {
                let mut out = vec![0; pages.len() + pages.len() / 100 + 1024];
                let before = deflate.total_out();
                deflate
                    .compress(&pages, &mut out, zlib_rs::DeflateFlush::SyncFlush)
                    .expect("there is room for the worst case");
                out.truncate((deflate.total_out() - before) as usize);
                out
            }
            Coder::Zstd(context) => {
                let mut out = vec![0; pages.len() + pages.len() / 100 + 1024];
                let mut to = OutBuffer::around(&mut out[..]);
                let mut from = InBuffer::around(&pages);
                context.compress_stream(&mut to, &mut from).expect("zstd compresses");
                while context.flush_stream(&mut to).expect("zstd flushes") > 0 {}
                let len = to.pos();
                out.truncate(len);
                out
            }
            Coder::Stateless if self.method == MethodId::Qpl => {
                let blocks: Vec<Vec<u8>> = data.iter().map(|page| deflate(&page.1)).collect();
                qpl_payload(&blocks)
            }
            Coder::Stateless => pages,
        }
    }
}

/// A qpl payload of these blocks.
pub fn qpl_payload(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    write_lengths(blocks.iter().map(|block| block.len() as u32), &mut out);
    blocks.iter().for_each(|block| out.extend_from_slice(block));
    out
}

/// One page as a raw DEFLATE stream, or as it is if that is not shorter.
pub fn deflate(page: &Page) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut out = vec![0; compressor.deflate_compress_bound(page.len())];
    let len = compressor.deflate_compress(page, &mut out).expect("there is room");
    out.truncate(len);
    if len < page.len() { out } else { page.to_vec() }
}
