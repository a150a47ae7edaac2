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

/// Faults that the model sees when it writes to each of these pages.
fn faults(memory: &Memory, address: u64, pages: u64) -> u64 {
    let mut resolved = 0;
    for page in 0..pages {
        memory
            .write(address + page * PAGE, &[9; 4096], true, Use::Destination, &mut resolved)
            .unwrap();
    }
    resolved
}

fn map(length: usize, flags: i32, file: i32) -> Mapping {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length, BOTH, flags, file, 0) };
    assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    Mapping(at, length)
}

#[test]
fn populated_memory_of_every_kind_takes_no_fault() {
    let memory = Memory::open().unwrap();
    let populated = |mapping: &Mapping| {
        // SAFETY: makes pages of the mapping present; their content stays.
        let done = unsafe { libc::madvise(mapping.0, mapping.1, libc::MADV_POPULATE_WRITE) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    };
    let private = Mapping::new(64 * 4096, BOTH);
    populated(&private);
    assert_eq!(faults(&memory, private.address(), 64), 0);

    // Guest memory as QEMU shares it: one file, mapped twice.
    // SAFETY: a NUL-terminated name.
    let file = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(file >= 0);
    // SAFETY: an open file.
    assert_eq!(unsafe { libc::ftruncate(file, 64 * 4096) }, 0);
    let (first, second) =
        (map(64 * 4096, libc::MAP_SHARED, file), map(64 * 4096, libc::MAP_SHARED, file));
    assert_eq!(faults(&memory, first.address(), 8), 8, "not populated yet");
    populated(&first);
    populated(&second);
    assert_eq!(faults(&memory, first.address(), 64), 0);
    assert_eq!(faults(&memory, second.address(), 64), 0);
    assert_eq!(second.load(63 * 4096), 9);
    // SAFETY: opened above and not used afterwards.
    unsafe { libc::close(file) };

    // A huge page, where the kernel gives one.
    let huge = map(4 << 20, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
    // SAFETY: advice on a mapping of this test.
    unsafe { libc::madvise(huge.0, huge.1, libc::MADV_HUGEPAGE) };
    populated(&huge);
    assert_eq!(faults(&memory, huge.address(), 1024), 0);
}

#[test]
fn pages_placed_by_userfaultfd_take_no_fault() {
    let memory = Memory::open().unwrap();
    let target = Mapping::new(8 * 4096, BOTH);
    let staging = Mapping::new(4 * 4096, BOTH);
    staging.store(0, 5);
    // SAFETY: the calls get structures of the sizes that are coded in their numbers, and keep none of them; the ranges
    // are those of the two mappings.
    let placed = unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) as i32;
        if fd < 0 {
            return eprintln!("not tested here: userfaultfd is not permitted");
        }
        let mut api = [0xaa_u64, 0, 0];
        assert_eq!(libc::ioctl(fd, 0xc018_aa3f, api.as_mut_ptr()), 0);
        let mut register = [target.address(), 8 * 4096, 1, 0];
        assert_eq!(libc::ioctl(fd, 0xc020_aa00, register.as_mut_ptr()), 0);
        let mut copy = [target.address(), staging.address(), 4 * 4096, 0, 0];
        assert_eq!(libc::ioctl(fd, 0xc028_aa03, copy.as_mut_ptr()), 0);
        fd
    };
    assert_eq!(faults(&memory, target.address(), 4), 0);
    let mut resolved = 0;
    let missing = target.address() + 4 * 4096;
    let fault = memory.write(missing, &[1], true, Use::Destination, &mut resolved).unwrap_err();
    assert_eq!(fault, Fault { address: missing, write: true, refused: true });
    let fault = memory.read(missing, 1, true, Use::Source, &mut resolved).unwrap_err();
    assert_eq!(fault, Fault { address: missing, write: false, refused: true });
    // SAFETY: opened above and not used afterwards.
    unsafe { libc::close(placed) };
}
