//! Staging: resident memory where pages are decoded before they are placed.
//!
//! A staging has room for one packet. Four of them share an area of 2 MiB that
//! is one huge page where the host allows it, so that making it resident costs
//! one fault and a device needs one translation for it. Stagings return to
//! their pool when dropped and are used again while still warm in the cache.

use std::{
    io,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::PlacementError;
use crate::{
    ram::mapping::{HUGE_PAGE, Mapping},
    wire::{MAX_PACKET_PAGES, PAGE_SIZE},
};

/// Bytes of one staging.
const STAGING: usize = MAX_PACKET_PAGES * PAGE_SIZE;

/// One staging's place in its area. The area is unmapped with its last slot.
#[derive(Debug)]
struct Slot {
    area: Arc<Mapping>,
    offset: usize,
}

#[derive(Debug, Default)]
struct Pool {
    free: Mutex<Vec<Slot>>,
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, Vec<Slot>> {
        // A list of slots is whole after each operation on it.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> io::Result<Slot> {
        if let Some(slot) = self.free().pop() {
            return Ok(slot);
        }
        let area = Mapping::new(HUGE_PAGE, HUGE_PAGE, None)?;
        area.advise_huge(true);
        area.make_resident()?;
        let area = Arc::new(area);
        let slot = |offset| Slot { area: Arc::clone(&area), offset };
        self.free().extend((STAGING..HUGE_PAGE).step_by(STAGING).map(slot));
        Ok(slot(0))
    }
}

/// Makes stagings and takes them back. Clones share the same stagings.
#[derive(Debug, Clone, Default)]
pub struct StagingPool(Arc<Pool>);

impl StagingPool {
    /// An empty pool; memory is mapped when a staging is taken.
    pub fn new() -> Self {
        Self::default()
    }

    /// A staging for one packet.
    pub fn take(&self) -> Result<Staging, PlacementError> {
        let slot = self.0.take().map_err(PlacementError::Staging)?;
        Ok(Staging { slot: Some(slot), pool: Arc::clone(&self.0) })
    }
}

/// Resident memory for up to 128 decoded pages, owned by one landing at a time.
#[derive(Debug)]
pub struct Staging {
    /// Gone only while the value is dropped.
    slot: Option<Slot>,
    pool: Arc<Pool>,
}

impl Staging {
    /// A staging of the process-wide pool, whose memory is unmapped when the
    /// last of its stagings is dropped.
    pub fn new() -> Result<Self, PlacementError> {
        static SHARED: Mutex<Weak<Pool>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = shared.upgrade().unwrap_or_else(|| {
            let pool = Arc::<Pool>::default();
            *shared = Arc::downgrade(&pool);
            pool
        });
        drop(shared);
        StagingPool(pool).take()
    }

    /// Address of the 4096 bytes of slot `slot % 128`.
    pub fn page_ptr(&self, slot: usize) -> *mut u8 {
        let area = match &self.slot {
            Some(slot) => slot.area.start().as_ptr().wrapping_add(slot.offset),
            None => NonNull::dangling().as_ptr(),
        };
        area.wrapping_add(slot % MAX_PACKET_PAGES * PAGE_SIZE)
    }

    /// Another staging of the same pool.
    pub(super) fn another(&self) -> Result<Self, PlacementError> {
        StagingPool(Arc::clone(&self.pool)).take()
    }

    /// Keeps the memory for ever, and never uses it again: a device that missed
    /// its deadline may still write it.
    pub fn quarantine(mut self) {
        // The slot holds its area; a slot that is never dropped keeps it mapped.
        std::mem::forget(self.slot.take());
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.pool.free().push(slot);
        }
    }
}

/// One resident page, for a page whose first staging slot was lost.
#[derive(Debug)]
pub(super) struct SparePage(Mapping);

impl SparePage {
    pub(super) fn new() -> Result<Self, PlacementError> {
        let page = Mapping::new(PAGE_SIZE, PAGE_SIZE, None).map_err(PlacementError::Staging)?;
        page.make_resident().map_err(PlacementError::Staging)?;
        Ok(Self(page))
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.0.start().as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::mapping::resident_pages;

    #[test]
    fn stagings_are_resident_apart_and_reused() {
        let pool = StagingPool::new();
        let stagings: Vec<Staging> = (0..5).map(|_| pool.take().unwrap()).collect();
        let mut starts: Vec<usize> = stagings.iter().map(|s| s.page_ptr(0).addr()).collect();
        for staging in &stagings {
            assert_eq!(resident_pages(staging.page_ptr(0), MAX_PACKET_PAGES).unwrap(), 128);
        }
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= STAGING));
        drop(stagings);
        let again = pool.take().unwrap();
        assert!(starts.contains(&again.page_ptr(0).addr()));
    }

    #[test]
    fn a_quarantined_staging_never_comes_back() {
        let pool = StagingPool::new();
        let lost = pool.take().unwrap();
        let address = lost.page_ptr(0);
        lost.quarantine();
        let others: Vec<Staging> = (0..8).map(|_| pool.take().unwrap()).collect();
        assert!(others.iter().all(|staging| staging.page_ptr(0) != address));
        drop(others);
        drop(pool);
        // SAFETY: the quarantined area stays mapped, and nobody else uses it.
        unsafe { address.write_volatile(1) };
    }
}
