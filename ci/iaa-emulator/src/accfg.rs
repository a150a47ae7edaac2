//! The 22 functions of libaccel-config that libqpl asks for.
//!
//! A context is the machine, a device and a queue are themselves; all live as long as the process, so nothing is freed.
//! Every function answers a null pointer with a null, a zero or a failure, and a panic with the same.

use std::ffi::{c_char, c_int, c_uint};
use std::panic::catch_unwind;

use crate::machine::{Device, Machine, say_once, start};
use crate::queue::Queue;

/// Bits of the operations that a queue takes: eight words, the most significant first.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OperationConfig {
    bits: [u32; 8],
}

const STATE_DISABLED: c_int = 0;
const STATE_ENABLED: c_int = 1;
const MODE_SHARED: c_int = 0;
const MODE_DEDICATED: c_int = 1;
const PRIORITY: c_uint = 10;

fn machine() -> Option<&'static Machine> {
    crate::machine::current()
}

/// Turns a handle that was given out back into what it names. A handle of a parent process names what it did there.
///
/// # Safety
///
/// `handle` must be null or have been returned by one of the functions here.
unsafe fn handed<T>(handle: *const T) -> Option<&'static T> {
    // SAFETY: handles are references to parts of a leaked machine, only ever shared.
    unsafe { handle.as_ref() }
}

/// Makes a context, and with it the devices.
///
/// # Safety
///
/// `context` must be null or room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_new(context: *mut *const Machine) -> c_int {
    let machine = match catch_unwind(start) {
        Ok(Ok(machine)) => machine,
        Ok(Err(error)) => {
            say_once(&error);
            return -libc::EINVAL;
        }
        Err(_) => return -libc::EIO,
    };
    if context.is_null() {
        return -libc::EINVAL;
    }
    // SAFETY: not null, so room for a pointer by the caller's duty.
    unsafe { context.write(machine) };
    0
}

/// Gives a context back.
///
/// # Safety
///
/// None: the context is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_unref(_context: *const Machine) -> *const Machine {
    std::ptr::null()
}

/// The first device.
///
/// # Safety
///
/// `context` must be null or from `accfg_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_device_get_first(context: *const Machine) -> *const Device {
    // SAFETY: passed on to the caller.
    let machine = unsafe { handed(context) };
    machine.and_then(|machine| machine.devices.first()).map_or(std::ptr::null(), |device| device)
}

/// The device after this one.
///
/// # Safety
///
/// `device` must be null or a device's handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_device_get_next(device: *const Device) -> *const Device {
    // SAFETY: passed on to the caller.
    let next = unsafe { handed(device) }.map(|device| device.index + 1);
    let found = next.and_then(|next| machine()?.devices.get(next));
    found.map_or(std::ptr::null(), |device| device)
}

/// The device's name.
///
/// # Safety
///
/// `device` must be null or a device's handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_device_get_devname(device: *const Device) -> *const c_char {
    // SAFETY: passed on to the caller.
    unsafe { handed(device) }.map_or(std::ptr::null(), |device| device.name.as_ptr())
}

/// Whether the device is enabled.
///
/// # Safety
///
/// None: the handle is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_device_get_state(_device: *const Device) -> c_int {
    let enabled = machine().is_some_and(|machine| machine.settings.device_enabled);
    if enabled { STATE_ENABLED } else { STATE_DISABLED }
}

/// The device's version.
///
/// # Safety
///
/// None: the handle is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_device_get_version(_device: *const Device) -> c_uint {
    machine().map_or(0, |machine| machine.settings.version)
}

/// The device's general capabilities.
///
/// # Safety
///
/// None: the handle is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_device_get_gen_cap(_device: *const Device) -> u64 {
    machine().map_or(0, |machine| machine.settings.gen_cap)
}

/// The device's IAA capabilities.
///
/// # Safety
///
/// `capabilities` must be null or room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_device_get_iaa_cap(
    _device: *const Device,
    capabilities: *mut u64,
) -> c_int {
    let Some(machine) = machine() else { return -libc::ENODEV };
    if capabilities.is_null() {
        return -libc::EINVAL;
    }
    // SAFETY: not null, so room for a number by the caller's duty.
    unsafe { capabilities.write(machine.settings.iaa_cap) };
    0
}

/// The device's NUMA node.
///
/// # Safety
///
/// `device` must be null or a device's handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_device_get_numa_node(device: *const Device) -> c_int {
    // SAFETY: passed on to the caller.
    unsafe { handed(device) }.map_or(-1, |device| device.node)
}

/// The device's largest transfer.
///
/// # Safety
///
/// None: the handle is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_device_get_max_transfer_size(_device: *const Device) -> u64 {
    machine().map_or(0, |machine| machine.settings.max_transfer_size)
}

/// The device's first queue.
///
/// # Safety
///
/// `device` must be null or a device's handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_first(device: *const Device) -> *const Queue {
    // SAFETY: passed on to the caller.
    let device = unsafe { handed(device) };
    device.and_then(|device| device.queues.first()).map_or(std::ptr::null(), |queue| queue)
}

/// The queue after this one in its device.
///
/// # Safety
///
/// `queue` must be null or a queue's handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_next(queue: *const Queue) -> *const Queue {
    // SAFETY: passed on to the caller.
    let Some(queue) = (unsafe { handed(queue) }) else { return std::ptr::null() };
    let found = machine().and_then(|machine| {
        let device = machine
            .devices
            .iter()
            .find(|device| device.queues.iter().any(|q| q.number == queue.number))?;
        device.queues.get(queue.id as usize + 1)
    });
    found.map_or(std::ptr::null(), |queue| queue)
}

/// Whether the queue is enabled.
///
/// # Safety
///
/// None: the handle is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_state(_queue: *const Queue) -> c_int {
    let enabled = machine().is_some_and(|machine| machine.settings.queue_enabled);
    if enabled { STATE_ENABLED } else { STATE_DISABLED }
}

/// Whether the queue is shared.
///
/// # Safety
///
/// None: the handle is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_mode(_queue: *const Queue) -> c_int {
    let shared = machine().is_some_and(|machine| machine.settings.shared);
    if shared { MODE_SHARED } else { MODE_DEDICATED }
}

/// Stores the path of the queue's node.
///
/// # Safety
///
/// `queue` must be null or a queue's handle, `path` null or room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_user_dev_path(
    queue: *const Queue,
    path: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: passed on to the caller.
    let Some(queue) = (unsafe { handed(queue) }) else { return -libc::EINVAL };
    let bytes = queue.path.as_bytes_with_nul();
    if path.is_null() || size < bytes.len() {
        return -libc::ENAMETOOLONG;
    }
    // SAFETY: there is room for `size` bytes, which is enough, and the caller's room is not part of our string.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), path, bytes.len()) };
    bytes.len() as c_int - 1
}

/// The queue's priority.
///
/// # Safety
///
/// None: the handle is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_priority(_queue: *const Queue) -> c_uint {
    PRIORITY
}

/// Whether descriptors of the queue may block on a fault.
///
/// # Safety
///
/// None: the handle is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_block_on_fault(_queue: *const Queue) -> c_int {
    machine().map_or(0, |machine| machine.settings.block_on_fault.into())
}

/// The queue's largest transfer.
///
/// # Safety
///
/// None: the handle is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_max_transfer_size(_queue: *const Queue) -> u64 {
    machine().map_or(0, |machine| machine.settings.max_transfer_size)
}

/// Stores which operations the queue takes; a failure where the queue does not tell.
///
/// # Safety
///
/// `config` must be null or room for the eight words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_op_config(
    _queue: *const Queue,
    config: *mut OperationConfig,
) -> c_int {
    let Some(true) = machine().map(|machine| machine.settings.op_config) else {
        return -libc::ENOENT;
    };
    if config.is_null() {
        return -libc::EINVAL;
    }
    let mut bits = [0; 8];
    for opcode in
        [crate::descriptor::NOOP, crate::descriptor::DECOMPRESS, crate::descriptor::COMPRESS]
    {
        bits[7 - usize::from(opcode) / 32] |= 1 << (opcode % 32);
    }
    // SAFETY: not null, so room for the words by the caller's duty.
    unsafe { config.write(OperationConfig { bits }) };
    0
}

/// The queue's number in its device.
///
/// # Safety
///
/// `queue` must be null or a queue's handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_id(queue: *const Queue) -> c_int {
    // SAFETY: passed on to the caller.
    unsafe { handed(queue) }.map_or(-1, |queue| queue.id)
}

/// The queue's name.
///
/// # Safety
///
/// `queue` must be null or a queue's handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accfg_wq_get_devname(queue: *const Queue) -> *const c_char {
    // SAFETY: passed on to the caller.
    unsafe { handed(queue) }.map_or(std::ptr::null(), |queue| queue.name.as_ptr())
}
