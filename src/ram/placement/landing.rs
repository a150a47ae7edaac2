//! A landing: one batch of pages on its way into guest memory.
//!
//! Order of marks and stores, for each page: guard taken, *written* set, bytes
//! stored, *received* set, guard released. A page that could not be placed
//! loses its *written* bit again before its guard is released: with policy
//! `place` the bit also says that the page is present, and a store to an absent
//! page would wait for ever.
//!
//! Guards are held from `begin` to `commit` only for pages written in place.
//! `commit` releases those before it waits for any other, so two landings never
//! wait for each other.

use std::sync::Arc;

use super::{
    Placement, PlacementError, Staging, Way,
    batch::{Batch, Positions, Run, positions, positions_in},
    report::Tally,
    run::{place_run, populate_run, pwrite_run},
    staging::SparePage,
};
use crate::{
    ram::{RamBlock, map::WORD_PAGES},
    wire::PAGE_SIZE,
};

/// Whether pages that are present may be handed out for writing directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// For decoders. Landings of one thread, or of the workers of one queue,
    /// are committed in the order they began: a commit may wait for the guard
    /// of a page that an earlier landing writes in place.
    Allowed,
    /// For devices with several landings in flight and no order among them:
    /// every page is staged, and guards are held only inside `commit`.
    Never,
}

/// A page whose staging slot was lost to a device.
#[derive(Debug)]
struct Moved {
    position: usize,
    page: SparePage,
}

/// At most 128 pages of one block on their way into guest memory. Dropping it
/// without [`commit`](Self::commit) marks nothing received.
#[derive(Debug)]
pub struct Landing {
    placement: Arc<Placement>,
    block: Arc<RamBlock>,
    /// Gone once it was given back or quarantined.
    staging: Option<Staging>,
    way: Way,
    batch: Batch,
    /// Pages written in place; their guards are held.
    direct: Positions,
    moved: Vec<Moved>,
    tally: Tally,
}

/// Staging that a device may still write. Whoever holds it drops it when the
/// device is known to be done, and forgets it otherwise; then it is used again,
/// or never.
#[derive(Debug)]
#[must_use = "dropping it allows the memory to be used again"]
pub struct Lost {
    _staging: Option<Staging>,
    _pages: Vec<Moved>,
}

impl Landing {
    /// Gives every page a destination. `pages` come in the order of the
    /// packet's payload and are distinct.
    pub fn begin(
        placement: &Arc<Placement>,
        block: &Arc<RamBlock>,
        pages: &[u32],
        staging: Staging,
        in_place: InPlace,
    ) -> Result<Self, PlacementError> {
        let mut landing = Self {
            batch: Batch::new(block, pages)?,
            way: placement.way_of(block),
            placement: Arc::clone(placement),
            block: Arc::clone(block),
            staging: Some(staging),
            direct: 0,
            moved: Vec::new(),
            tally: Tally::default(),
        };
        placement.decide_regions(block, landing.way, landing.batch.sorted());
        if in_place == InPlace::Allowed && landing.way != Way::Pwrite {
            landing.claim()?;
        }
        Ok(landing)
    }

    /// Pages in the landing.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index in the block of the packet's page `i`.
    ///
    /// # Panics
    ///
    /// If there is no page `i`, as in all methods that take one.
    pub fn page(&self, i: usize) -> u32 {
        self.batch.sorted()[self.batch.rank(i)]
    }

    /// Where the packet's page `i` has to be stored: 4096 bytes that are
    /// writable and this landing's alone until it is committed or dropped, and
    /// resident except with policy `fault`.
    pub fn destination(&self, i: usize) -> *mut u8 {
        self.place_of(self.batch.rank(i))
    }

    /// Whether page `i` goes through staging, and not straight to its place.
    pub fn is_staged(&self, i: usize) -> bool {
        self.direct >> self.batch.rank(i) & 1 == 0
    }

    /// The destinations in the packet's order, neighbours merged, so that one
    /// `readv` fills them from a socket.
    pub fn io_slices(&self) -> impl Iterator<Item = (*mut u8, usize)> + '_ {
        let mut i = 0;
        std::iter::from_fn(move || {
            if i == self.len() {
                return None;
            }
            let start = self.destination(i);
            let mut len = PAGE_SIZE;
            i += 1;
            while i < self.len() && self.destination(i) == start.wrapping_add(len) {
                len += PAGE_SIZE;
                i += 1;
            }
            Some((start, len))
        })
    }

    /// Gives page `i` a fresh destination. The old one is never used again,
    /// because a device that missed its deadline may still write it: it becomes
    /// part of what the landing has [lost](Lost).
    pub fn restage(&mut self, i: usize) -> Result<*mut u8, PlacementError> {
        if !self.is_staged(i) {
            let (block, page) = (self.block.name().to_owned(), self.page(i));
            return Err(PlacementError::NotStaged { block, page });
        }
        let page = SparePage::new()?;
        let address = page.as_ptr();
        self.moved.push(Moved { position: self.batch.rank(i), page });
        Ok(address)
    }

    /// Puts the staged pages into guest memory, marks all pages received and
    /// gives the staging back. Every destination has been filled. What was lost
    /// to a device is kept for ever.
    pub fn commit(self) -> Result<Staging, PlacementError> {
        let (staging, lost) = self.commit_with_lost()?;
        std::mem::forget(lost);
        Ok(staging)
    }

    /// Like [`commit`](Self::commit), but hands over what was lost to a device,
    /// and gives back another staging where this one was.
    pub fn commit_with_lost(mut self) -> Result<(Staging, Option<Lost>), PlacementError> {
        let landed = self.land_all();
        self.placement.counters.add(&self.tally);
        landed?;
        if self.moved.is_empty() {
            let staging = self.staging.take().map_or_else(Staging::new, Ok)?;
            return Ok((staging, None));
        }
        let another = self.staging.as_ref().map_or_else(Staging::new, Staging::another)?;
        Ok((another, Some(self.abandon())))
    }

    /// Gives up: marks nothing, and hands over the destinations, which a device
    /// may still write.
    pub fn abandon(mut self) -> Lost {
        Lost { _staging: self.staging.take(), _pages: std::mem::take(&mut self.moved) }
    }

    /// Gives up while a device may still write destinations: marks nothing and
    /// keeps them for ever.
    pub fn quarantine(self) {
        std::mem::forget(self.abandon());
    }

    /// Destination of the page at a position.
    fn place_of(&self, position: usize) -> *mut u8 {
        if self.direct >> position & 1 != 0 {
            return self.block.page(self.batch.sorted()[position]);
        }
        if let Some(moved) = self.moved.iter().rev().find(|moved| moved.position == position) {
            return moved.page.as_ptr();
        }
        // Only `commit` and `quarantine`, which end the value, take it out.
        self.staging.as_ref().map_or(std::ptr::null_mut(), |staging| staging.page_ptr(position))
    }

    /// Takes the guards that are free and hands the pages out for writing in
    /// place: all pages, or where absent ones are placed those that are present.
    fn claim(&mut self) -> Result<(), PlacementError> {
        let (map, guards) = (self.block.map(), self.block.guards());
        let mut absent = 0;
        let mut words = self.batch.words(self.batch.all());
        while let Some((word, mask, taken)) = words.next_with_positions() {
            let only_present = self.places(word);
            let wanted = if only_present { map.written(word) & mask } else { mask };
            if wanted == 0 {
                continue;
            }
            let mut got = guards.try_acquire(word, wanted);
            self.tally.write_conflicts += u32::from(got != wanted);
            if only_present {
                // What was present a moment ago may have been cleared since;
                // under the guard it is for certain.
                let gone = got & !map.written(word);
                guards.release(word, gone);
                got &= !gone;
            }
            if got == 0 {
                continue;
            }
            let without = got & !self.present(word);
            map.mark_written(word, got);
            let positions =
                |pages| if pages == mask { taken } else { positions_in(&self.batch, taken, pages) };
            self.direct |= positions(got);
            if without != 0 {
                absent |= positions(without);
            }
        }
        self.tally.in_place += (self.direct & !absent).count_ones();
        self.make_present(absent)
    }

    /// The pages of a word that hold memory, as far as the map knows.
    fn present(&self, word: u32) -> u64 {
        match self.block.callers_memory() {
            // All of it counts as written; only what came through here is known
            // to have memory.
            Some(crate::ram::Initial::Unknown) => self.block.map().received(word),
            _ => self.block.map().written(word),
        }
    }

    /// Whether absent pages of a word are placed with UFFDIO_COPY.
    fn places(&self, word: u32) -> bool {
        match self.way {
            Way::Place => true,
            // A word lies in one region.
            Way::Huge => {
                !self.block.regions.get().is_some_and(|regions| regions.is_large(word * WORD_PAGES))
            }
            _ => false,
        }
    }

    /// Gives absent pages memory before they are stored to, by the way of the
    /// block.
    fn make_present(&mut self, absent: Positions) -> Result<(), PlacementError> {
        let count = absent.count_ones();
        match (self.way, self.block.regions.get()) {
            (Way::Populate, _) => self.tally.populated += count,
            (Way::Huge | Way::HugePopulate, Some(regions)) => {
                let large = |run: Run| run.pages().filter(|&page| regions.is_large(page)).count();
                let large = self.batch.runs(absent).map(large).sum::<usize>() as u32;
                self.tally.huge += large;
                self.tally.populated += count - large;
            }
            _ => {
                self.tally.stored += count;
                return Ok(());
            }
        }
        self.batch.runs(absent).try_for_each(|run| populate_run(&self.block, run.pages()))
    }

    fn land_all(&mut self) -> Result<(), PlacementError> {
        let staged = self.batch.all() & !self.direct;
        for (word, mask) in self.batch.words(self.direct) {
            self.block.map().mark_received(word, mask);
        }
        self.release_direct();
        let mut left = staged;
        while left != 0 {
            let part = self.batch.within(left, self.block.guards().span());
            self.land_staged(part)?;
            left &= !part;
        }
        Ok(())
    }

    /// Lands staged pages whose words share no guard entry.
    fn land_staged(&mut self, part: Positions) -> Result<(), PlacementError> {
        let waits = self.block.guards().acquire_all(self.batch.words(part));
        let stuck = |_| PlacementError::Stuck { block: self.block.name().to_owned() };
        self.tally.write_conflicts += u32::from(waits.map_err(stuck)? > 0);
        let landed = self.store_staged(part);
        let (map, guards) = (self.block.map(), self.block.guards());
        for (word, mask) in self.batch.words(part) {
            if landed.is_ok() {
                map.mark_received(word, mask);
            }
            guards.release(word, mask);
        }
        landed
    }

    /// Stores staged pages; their guards are held.
    fn store_staged(&mut self, part: Positions) -> Result<(), PlacementError> {
        let map = self.block.map();
        let mut absent = 0;
        let mut placed = 0;
        let mut words = self.batch.words(part);
        while let Some((word, mask, taken)) = words.next_with_positions() {
            let without = mask & !self.present(word);
            if without != 0 {
                let positions =
                    if without == mask { taken } else { positions_in(&self.batch, taken, without) };
                if self.places(word) {
                    placed |= positions;
                } else {
                    absent |= positions;
                }
            }
            map.mark_written(word, mask);
        }
        if self.way == Way::Pwrite {
            return self.pwrite(part);
        }
        self.tally.in_place += (part & !absent & !placed).count_ones();
        let made = if absent == 0 { Ok(()) } else { self.make_present(absent) };
        if made.is_ok() {
            self.store(part & !placed);
        }
        // Also after an error: it takes *written* from what is not placed.
        self.place(placed, made)
    }

    /// Runs of `select` whose staging slots are neighbours too: a page that was
    /// staged anew stands alone.
    fn staged_runs(&self, select: Positions) -> impl Iterator<Item = Run> + '_ {
        let moved = self.moved.iter().fold(0, |set: Positions, moved| set | 1 << moved.position);
        let alone = (0..self.batch.len())
            .filter(move |position| (select & moved) >> position & 1 != 0)
            .flat_map(|position| self.batch.runs(1 << position));
        self.batch.runs(select & !moved).chain(alone)
    }

    fn store(&self, select: Positions) {
        for run in self.staged_runs(select) {
            // SAFETY: the batch's pages lie in the block and their guards are
            // held; the run's slots are neighbours in staging, which is no part
            // of a block.
            unsafe { self.block.store(run.pages(), self.place_of(run.first)) };
        }
    }

    /// Places absent pages, unless something went wrong `before`.
    fn place(
        &mut self,
        absent: Positions,
        before: Result<(), PlacementError>,
    ) -> Result<(), PlacementError> {
        let Some(uffd) = &self.placement.uffd else {
            // A way `Place` without a userfaultfd does not come about; and if
            // it did, a store would be right.
            self.store(absent);
            return before;
        };
        let mut tally = self.tally;
        let mut left = absent;
        let mut result = before;
        for run in self.staged_runs(absent) {
            if result.is_err() {
                break;
            }
            let source = self.place_of(run.first);
            // SAFETY: as in `store`.
            let (done, placed) = unsafe { place_run(uffd, &self.block, run, source, &mut tally) };
            left &= !positions(run.first..run.first + done);
            result = placed;
        }
        if result.is_err() {
            for (word, mask) in self.batch.words(left) {
                self.block.map().mark_cleared(word, mask);
            }
        }
        self.tally = tally;
        result
    }

    fn pwrite(&mut self, part: Positions) -> Result<(), PlacementError> {
        for run in self.staged_runs(part) {
            // SAFETY: as in `store`.
            unsafe { pwrite_run(&self.block, run.pages(), self.place_of(run.first)) }?;
        }
        self.tally.pwritten += part.count_ones();
        Ok(())
    }

    fn release_direct(&mut self) {
        for (word, mask) in self.batch.words(self.direct) {
            self.block.guards().release(word, mask);
        }
        self.direct = 0;
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.release_direct();
        if !self.moved.is_empty() {
            // What was lost to a device once is kept from every later use. So
            // are spare pages: any of them may have been lost as well.
            if let Some(staging) = self.staging.take() {
                staging.quarantine();
            }
            std::mem::forget(std::mem::take(&mut self.moved));
        }
    }
}
