//! One channel's file: hello, packets, SYNCs.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use super::{
    GenerateError, GenerateOptions, WriteError,
    compress::Compressor,
    content::Page,
    plan::{Plan, Sent},
};
use crate::wire::{Generation, Hello, MAX_PACKET_PAGES, PacketHeader};

/// What the channels have sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) syncs: u64,
    pub(super) normal: u64,
    pub(super) zero: u64,
    pub(super) raw: u64,
    pub(super) zero_after_data: u64,
    pub(super) zero_again: u64,
    pub(super) normal_again: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
        self.syncs += other.syncs;
        self.normal += other.normal;
        self.zero += other.zero;
        self.raw += other.raw;
        self.zero_after_data += other.zero_after_data;
        self.zero_again += other.zero_again;
        self.normal_again += other.normal_again;
    }
}

/// A channel that is being written. It walks over the packets of all channels,
/// because their turns and numbers depend on each other, and makes its own.
pub(super) struct Channel<'a> {
    plan: &'a Plan,
    options: &'a GenerateOptions,
    id: u8,
    out: BufWriter<File>,
    path: &'a Path,
    compressor: Compressor,
    page: Page,
    payload: Vec<u8>,
    /// Number of the next packet of any channel.
    packet_num: u64,
    /// Packets with pages so far, for taking turns.
    turn: u64,
    counts: Counts,
}

/// The pages of a packet, data first.
#[derive(Default)]
struct Batch {
    pages: Vec<(u32, Sent)>,
}

impl<'a> Channel<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        options: &'a GenerateOptions,
        id: u8,
        out: BufWriter<File>,
        path: &'a Path,
    ) -> Result<Self, GenerateError> {
        Ok(Self {
            plan,
            options,
            id,
            out,
            path,
            compressor: Compressor::new(options.method)?,
            page: Page::new(),
            payload: Vec::new(),
            packet_num: 0,
            turn: 0,
            counts: Counts::default(),
        })
    }

    /// Writes the whole file. `tick` is told of every page of the first round
    /// and answers whether to go on.
    pub(super) fn write(mut self, tick: &dyn Fn(u64) -> bool) -> Result<Counts, GenerateError> {
        self.put(&Hello { uuid: [0; 16], id: self.id }.encode())?;
        // The mark in START: before any page.
        self.sync()?;
        for round in 0..self.options.rounds {
            for block in 0..self.plan.blocks().len() {
                if round == 0 {
                    self.first_round(block, tick)?;
                } else {
                    self.later_round(block, round, tick)?;
                }
            }
            self.sync()?;
        }
        // The second mark in END.
        self.sync()?;
        self.out.flush().map_err(WriteError::at(self.path))?;
        Ok(self.counts)
    }

    /// Every page, 128 by 128; other channels' packets are skipped unseen.
    fn first_round(
        &mut self,
        block: usize,
        tick: &dyn Fn(u64) -> bool,
    ) -> Result<(), GenerateError> {
        let pages = self.plan.blocks()[block].pages;
        let mut batch = Batch::default();
        for start in (0..pages).step_by(MAX_PACKET_PAGES) {
            if self.takes_turn() {
                let end = pages.min(start + MAX_PACKET_PAGES as u64);
                let sent = |page| Some((page, self.plan.sent(block, page, 0)?));
                batch.pages.extend((start as u32..end as u32).filter_map(sent));
                self.packet(block, 0, &mut batch)?;
                if !tick(end - start) {
                    return Err(GenerateError::Stopped);
                }
            }
            self.packet_num += 1;
        }
        Ok(())
    }

    /// The pages that changed.
    fn later_round(
        &mut self,
        block: usize,
        round: u32,
        tick: &dyn Fn(u64) -> bool,
    ) -> Result<(), GenerateError> {
        let mut batch = Batch::default();
        let pages = self.plan.blocks()[block].pages;
        for page in 0..pages {
            let page = page as u32;
            if let Some(sent) = self.plan.sent(block, page, round) {
                batch.pages.push((page, sent));
            }
            let end = u64::from(page) + 1 == pages;
            if batch.pages.len() == MAX_PACKET_PAGES || (end && !batch.pages.is_empty()) {
                if self.takes_turn() {
                    self.packet(block, round, &mut batch)?;
                }
                batch.pages.clear();
                self.packet_num += 1;
                if !tick(0) {
                    return Err(GenerateError::Stopped);
                }
            }
        }
        Ok(())
    }

    /// Whether the next packet with pages is this channel's.
    fn takes_turn(&mut self) -> bool {
        let mine = self.turn % u64::from(self.options.channels) == u64::from(self.id);
        self.turn += 1;
        mine
    }

    /// Writes the batch as a packet and empties it.
    fn packet(&mut self, block: usize, round: u32, batch: &mut Batch) -> Result<(), GenerateError> {
        let normal_count = batch.sort_zero_to_the_back();
        for (_, sent) in batch.pages.iter().filter(|_| round > 0) {
            match (sent.before.is_some(), sent.now.is_some()) {
                (true, false) => self.counts.zero_after_data += 1,
                (true, true) => self.counts.normal_again += 1,
                (false, false) => self.counts.zero_again += 1,
                (false, true) => {}
            }
        }

        let (plan, kind) = (self.plan, self.plan.kind(block));
        let fill = |page: &mut Page, index: usize| {
            if let (number, Sent { now: Some(version), .. }) = batch.pages[index] {
                page.fill(kind, plan.page_seed(block, number, version));
            }
        };
        self.counts.raw +=
            self.compressor.payload(normal_count, &mut self.page, fill, &mut self.payload)?;

        let mut numbers = [0; MAX_PACKET_PAGES];
        for (number, (page, _)) in numbers.iter_mut().zip(&batch.pages) {
            *number = *page;
        }
        let (normal, zero) = numbers[..batch.pages.len()].split_at(normal_count);
        let header = PacketHeader {
            generation: Generation::From9_0,
            sync: false,
            method: self.options.method,
            packet_num: self.packet_num,
            block: plan.blocks()[block].name,
            normal,
            zero,
            payload_len: self.payload.len() as u32,
        }
        .encode();
        self.counts.packets += 1;
        self.counts.normal += normal.len() as u64;
        self.counts.zero += zero.len() as u64;
        batch.pages.clear();
        self.put(&header)?;
        let payload = std::mem::take(&mut self.payload);
        self.put(&payload)?;
        self.payload = payload;
        Ok(())
    }

    /// Writes this channel's SYNC; every channel has one with its own number.
    fn sync(&mut self) -> Result<(), GenerateError> {
        let packet_num = self.packet_num + u64::from(self.id);
        self.packet_num += u64::from(self.options.channels);
        self.counts.packets += 1;
        self.counts.syncs += 1;
        self.put(&PacketHeader::sync(Generation::From9_0, packet_num).encode())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), GenerateError> {
        self.counts.bytes += bytes.len() as u64;
        Ok(self.out.write_all(bytes).map_err(WriteError::at(self.path))?)
    }
}

impl Batch {
    /// Moves zero pages behind the others by swapping, as sources do, which
    /// leaves neither part in order. Returns how many pages have data.
    fn sort_zero_to_the_back(&mut self) -> usize {
        let mut at = 0;
        let mut end = self.pages.len();
        while at < end {
            if self.pages[at].1.now.is_some() {
                at += 1;
            } else {
                end -= 1;
                self.pages.swap(at, end);
            }
        }
        at
    }
}
