//! Thousands of damaged migrations: whatever comes of them, it is not a panic,
//! a hang, or more memory than was allowed.

use std::{num::NonZeroUsize, sync::mpsc, thread};

use multifd_qpl::{ram::Policy, receiver::Options, wire::main_stream::Limits};

use crate::{
    refusal::check_sentence,
    support::{
        DEADLINE,
        deliver::{Order, Pace, Via, Way, hasty, over, replay},
        migration::{METHODS, Migration},
        pages::Random,
    },
};

/// Damaged migrations for each method.
const ROUNDS: u64 = 500;

/// Numbers that lengths, counts and flags are tried with.
const NUMBERS: [u32; 12] =
    [0, 1, 2, 127, 128, 129, 4095, 4096, 4097, 0x10_0000, 0x7fff_ffff, u32::MAX];

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    match random.below(10) {
        0..4 => bytes[at] ^= 1 << random.below(8),
        4 => bytes[at] = random.next() as u8,
        5 => {
            let number = NUMBERS[random.below(NUMBERS.len())].to_be_bytes();
            let at = at & !3;
            let end = bytes.len().min(at + 4);
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        6 => bytes.truncate(at),
        7 => drop(bytes.drain(at..bytes.len().min(at + random.below(2000)))),
        8 => {
            let end = bytes.len().min(at + random.below(2000));
            let copy = bytes[at..end].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, copy);
        }
        _ => bytes.insert(at, random.next() as u8),
    }
}

/// Damage that packet headers and payload tables are more sensitive to: the
/// first bytes of everything.
fn damage_front(bytes: &mut [u8], random: &mut Random) {
    let packets = bytes.len().saturating_sub(64) / 1344;
    let at = 64 + random.below(packets.max(1)) * 1344 + random.below(40);
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn mutated(whole: &Migration, random: &mut Random) -> Migration {
    let mut migration = whole.clone();
    for _ in 0..=random.below(2) {
        let which = random.below(5);
        let bytes = match which {
            0 => &mut migration.main,
            1 | 2 => &mut migration.channels[0],
            _ => &mut migration.channels[1],
        };
        if which > 0 && random.below(2) == 0 {
            damage_front(bytes, random);
        } else {
            damage(bytes, random);
        }
    }
    migration
}

fn options() -> Options {
    let limits = Limits { max_ram: 1 << 30, ..Limits::default() };
    Options { workers: NonZeroUsize::new(2), placement: Some(Policy::Place), limits, ..hasty() }
}

#[test]
fn damaged_migrations_end_in_order() {
    let (send, alive) = mpsc::channel();
    let worker = thread::spawn(move || {
        for (method, seed) in METHODS.into_iter().zip(1_u64..) {
            let whole = Migration::sample(method, true);
            for round in 0..ROUNDS {
                let number = seed << 32 | round;
                send.send(number).expect("the watchdog lives");
                let migration = mutated(&whole, &mut Random(number));
                // Mostly from files, which is quick; silence needs sockets.
                let outcome = if round % 25 == 24 {
                    let way = Way { via: Via::Sockets, order: Order::Reversed, pace: Pace::AtOnce };
                    over(way, &migration, options())
                } else {
                    replay(&migration, options())
                };
                if let Err(failed) = outcome {
                    check_sentence(&failed.to_string());
                }
            }
        }
    });
    let mut last = 0;
    loop {
        match alive.recv_timeout(DEADLINE) {
            Ok(number) => last = number,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("seed {last:#x} hangs"),
        }
    }
    if worker.join().is_err() {
        panic!("seed {last:#x} panics");
    }
}
