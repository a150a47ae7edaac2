//! Faults on real mappings: the kernel's own answers are what the model must follow.

use super::*;

struct Mapping(*mut c_void, usize);

impl Mapping {
    fn new(length: usize, protection: i32) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: the range was mapped just above. Small pages, so that each page is a fault of its own.
        unsafe { libc::madvise(at, length, libc::MADV_NOHUGEPAGE) };
        Mapping(at, length)
    }

    fn address(&self) -> u64 {
        self.0 as u64
    }

    fn store(&self, offset: usize, value: u8) {
        // SAFETY: tests call this with offsets inside the mapping, which is writable then.
        unsafe { self.0.cast::<u8>().add(offset).write_volatile(value) }
    }

    fn load(&self, offset: usize) -> u8 {
        // SAFETY: as for `store`, with a readable mapping.
        unsafe { self.0.cast::<u8>().add(offset).read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is owned by this value and nothing borrows from it.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;

#[test]
fn a_resident_page_takes_no_fault() {
    let memory = Memory::open().unwrap();
    let map = Mapping::new(8192, BOTH);
    map.store(0, 1);
    map.store(4096, 2);
    let mut resolved = 0;
    memory
        .write(map.address() + 4090, b"across the border", false, Use::Destination, &mut resolved)
        .unwrap();
    let back = memory.read(map.address() + 4090, 17, false, Use::Source, &mut resolved).unwrap();
    assert_eq!((back.as_slice(), resolved), (b"across the border".as_slice(), 0));
}

#[test]
fn a_missing_page_is_resolved_or_reported() {
    let memory = Memory::open().unwrap();
    let map = Mapping::new(8192, BOTH);
    map.store(0, 1);
    let mut resolved = 0;
    let fault = memory
        .write(map.address() + 4000, &[7; 200], false, Use::Destination, &mut resolved)
        .unwrap_err();
    assert_eq!(fault, Fault { address: map.address() + 4096, write: true, refused: false });
    memory.write(map.address() + 4000, &[7; 200], true, Use::Destination, &mut resolved).unwrap();
    assert_eq!((resolved, map.load(4000), map.load(4199), map.load(4200)), (1, 7, 7, 0));
}

#[test]
fn writing_the_shared_zero_page_is_a_fault() {
    let memory = Memory::open().unwrap();
    let map = Mapping::new(4096, BOTH);
    assert_eq!(map.load(0), 0);
    let mut resolved = 0;
    memory.read(map.address(), 64, false, Use::Source, &mut resolved).unwrap();
    assert!(memory.write(map.address(), &[1; 64], false, Use::Destination, &mut resolved).is_err());
    memory.write(map.address(), &[1; 64], true, Use::Destination, &mut resolved).unwrap();
    assert_eq!((resolved, map.load(63)), (1, 1));
}

#[test]
fn protections_hold_with_block_on_fault() {
    let memory = Memory::open().unwrap();
    let mut resolved = 0;
    let read_only = Mapping::new(4096, libc::PROT_READ);
    let fault =
        memory.write(read_only.address(), &[1], true, Use::Destination, &mut resolved).unwrap_err();
    assert_eq!(fault, Fault { address: read_only.address(), write: true, refused: true });
    read_only.load(0);
    assert!(
        memory.write(read_only.address(), &[1], true, Use::Destination, &mut resolved).is_err()
    );
    let none = Mapping::new(4096, libc::PROT_NONE);
    assert!(memory.read(none.address(), 1, true, Use::Source, &mut resolved).unwrap_err().refused);
    assert_eq!(resolved, 0);
}

#[test]
fn wild_addresses_are_errors() {
    let memory = Memory::open().unwrap();
    let mut resolved = 0;
    for address in [0, 8, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, u64::MAX - 3, u64::MAX] {
        assert!(
            memory.read(address, 64, true, Use::Source, &mut resolved).is_err(),
            "{address:#x}"
        );
        assert!(
            memory.write(address, &[0; 64], true, Use::Destination, &mut resolved).is_err(),
            "{address:#x}"
        );
        assert!(memory.complete(address, &[0; 64], true).is_err(), "{address:#x}");
    }
}

#[test]
fn the_record_arrives_whole() {
    let memory = Memory::open().unwrap();
    let map = Mapping::new(4096, BOTH);
    let record: [u8; 64] = std::array::from_fn(|n| n as u8 + 1);
    memory.complete(map.address(), &record, true).unwrap();
    assert!((0..64).all(|n| map.load(n) == n as u8 + 1));
}
