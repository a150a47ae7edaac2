//! The list of RAMBlocks and the records of RAM sections.

use multifd_qpl::{
    receiver::{Options, ReceiveError},
    wire::{
        MethodId,
        main_stream::{Limits, MainError},
    },
};

use crate::{
    refusal::{assert_refused, errors},
    support::{
        channel::Channel,
        deliver::patient,
        main_stream::{CONTINUE, MEM_SIZE, MainStream, ZERO},
        migration::Migration,
        pages::text,
    },
};

fn with(main: MainStream) -> Migration {
    Migration::new(main, [Channel::new(0, MethodId::None).sync().sync()])
}

/// A list that claims `total` bytes.
fn list(total: u64) -> MainStream {
    MainStream::new().start_head().number(total | MEM_SIZE)
}

/// A list that is fine, and the first mark.
fn part() -> MainStream {
    MainStream::new().start(&[("pc.ram", 64)]).flush().close().part()
}

#[test]
fn a_block_longer_than_the_total() {
    let main = list(8192).name("pc.ram").number(12288);
    assert_refused!(with(main), ReceiveError::Main(MainError::BlockLength { .. }));
}

#[test]
fn blocks_longer_than_the_total_together() {
    let main = list(8192).name("a").number(4096).name("b").number(8192);
    assert_refused!(with(main), ReceiveError::Main(MainError::BlockLength { .. }));
}

#[test]
fn a_block_that_is_no_number_of_pages() {
    for len in [0, 1, 4095, 4097, u64::MAX] {
        let main = list(8192).name("pc.ram").number(len);
        assert_refused!(with(main), ReceiveError::Main(MainError::BlockLength { .. }));
    }
}

#[test]
fn a_block_without_a_name() {
    let main = list(8192).name("").number(4096);
    assert_refused!(with(main), ReceiveError::Main(MainError::Text { .. }));
}

#[test]
fn a_block_whose_name_is_not_text() {
    let main = list(8192).raw(b"\x03a\0b").number(4096);
    assert_refused!(with(main), ReceiveError::Main(MainError::Text { .. }));
}

#[test]
fn a_block_listed_twice() {
    let main = list(8192).name("pc.ram").number(4096).name("pc.ram").number(4096);
    assert_refused!(with(main), ReceiveError::Main(MainError::BlockAgain(_)));
}

#[test]
fn an_absurd_total() {
    assert_refused!(with(list(1 << 60)), ReceiveError::Main(MainError::TooMuchRam { .. }));
    let limits = Limits { max_ram: 1 << 20, ..Limits::default() };
    let options = Options { limits, ..patient() };
    let main = MainStream::new().start(&[("pc.ram", 257)]).flush().close();
    for error in errors(with(main), &options) {
        assert!(matches!(error, ReceiveError::Main(MainError::TooMuchRam { .. })), "{error}");
    }
}

#[test]
fn a_list_without_blocks_or_with_too_many() {
    assert_refused!(with(list(0)), ReceiveError::Main(MainError::NoBlockList));
    let names: Vec<String> = (0..20).map(|number| format!("block{number}")).collect();
    let blocks: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let limits = Limits { max_blocks: 19, ..Limits::default() };
    let options = Options { limits, ..patient() };
    for error in errors(with(MainStream::new().start(&blocks).flush().close()), &options) {
        assert!(matches!(error, ReceiveError::Main(MainError::TooManyBlocks(19))), "{error}");
    }
}

#[test]
fn a_list_outside_start_or_twice() {
    let again = part().number(4096 | MEM_SIZE).name("more").number(4096);
    assert_refused!(with(again), ReceiveError::Main(MainError::BlockListAgain));
    let again = MainStream::new().start(&[("pc.ram", 64)]).number(4096 | MEM_SIZE);
    assert_refused!(with(again), ReceiveError::Main(MainError::BlockListAgain));
}

#[test]
fn records_before_the_list() {
    let main = MainStream::new().start_head().flush();
    assert_refused!(with(main), ReceiveError::Main(MainError::NoBlockList));
}

#[test]
fn records_of_features_that_exclude_multifd() {
    for kind in [0x001, 0x040, 0x080, 0x100] {
        let main = part().number(kind);
        assert_refused!(with(main), ReceiveError::Main(MainError::RefusedRecord(_)));
    }
}

#[test]
fn records_with_unknown_mixtures_of_flags() {
    for word in [0, 0x400, 0x00a, 0x012, 0x210, 0x1200, 0x1010, 0x220, 0x030] {
        assert_refused!(with(part().number(word)), ReceiveError::Main(MainError::Record(_)));
    }
}

#[test]
fn a_record_that_continues_nothing() {
    let main = part().number(ZERO | CONTINUE).raw(&[0]);
    assert_refused!(with(main), ReceiveError::Main(MainError::NothingToContinue));
}

#[test]
fn a_record_of_an_unknown_block() {
    let main = part().zero("pc.rom", 1);
    assert_refused!(with(main), ReceiveError::Main(MainError::UnknownBlock(_)));
}

#[test]
fn a_record_beyond_its_block() {
    for page in [64, 65, u64::MAX / 4096] {
        let main = part().zero("pc.ram", page);
        assert_refused!(with(main), ReceiveError::Main(MainError::OutOfBlock { .. }));
        let main = part().zero("pc.ram", 63).zero_more(page);
        assert_refused!(with(main), ReceiveError::Main(MainError::OutOfBlock { .. }));
        let main = part().page("pc.ram", page, &text(1));
        assert_refused!(with(main), ReceiveError::Main(MainError::OutOfBlock { .. }));
    }
}

#[test]
fn a_zero_page_filled_with_something_else() {
    let main = part().number(ZERO).name("pc.ram").raw(&[7]);
    assert_refused!(with(main), ReceiveError::Main(MainError::Fill(7)));
}

#[test]
fn a_flush_record_from_a_source_that_marks_by_section() {
    let main = MainStream::new().start(&[("pc.ram", 64)]).close().part().flush();
    assert_refused!(with(main), ReceiveError::UnexpectedFlush);
}
