//! Return path messages and received bitmaps: whatever is read is written the
//! same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use multifd_qpl::wire::{ReturnMessage, received_bitmap};

fuzz_target!(|input: (u16, &[u8])| {
    let (pages, bytes) = (u64::from(input.0), input.1);
    if let Ok(Some((used, message))) = ReturnMessage::parse(bytes) {
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(again, bytes[..used]);
    }
    if let Ok(words) = received_bitmap::parse(bytes, pages) {
        let mut again = Vec::new();
        received_bitmap::encode(words, pages, &mut again);
        assert_eq!(again, bytes);
    }
});
