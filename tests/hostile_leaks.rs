//! Nothing is left of a migration, however it ended: no thread, no descriptor,
//! and at no time much memory. One test in a program of its own, because it
//! counts what the whole process has.

#[path = "support/mod.rs"]
mod support;

use std::{fs, io::Write, thread, time::Duration, time::Instant};

use multifd_qpl::{
    receiver::{Address, Listener, Receiver, anonymous_block},
    wire::MethodId,
};
use support::{
    channel::Channel,
    deliver::{Live, Order, Pace, Via, Way, hasty, over, patient, replay},
    main_stream::MainStream,
    migration::{METHODS, Migration, one_round},
    pages::noise,
};

fn entries(directory: &str) -> usize {
    fs::read_dir(directory).expect("a directory of /proc").count()
}

/// Most memory this process ever had resident, in KiB.
fn peak_rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// Runs `work` and demands that nothing of it is left.
fn leaves_nothing(what: &str, work: impl FnOnce()) {
    let before = (entries("/proc/self/task"), entries("/proc/self/fd"));
    work();
    // A thread that was joined takes a moment to disappear from /proc.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let now = (entries("/proc/self/task"), entries("/proc/self/fd"));
        if now == before {
            return;
        }
        assert!(Instant::now() < end, "{what}: threads and descriptors {before:?} became {now:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_is_left_of_a_migration() {
    for method in METHODS {
        let good = Migration::sample(method, true);
        leaves_nothing("a good migration", || {
            drop(replay(&good, patient()).expect("a good migration"));
        });
        for via in [Via::Sockets, Via::Tcp] {
            let way = Way { via, order: Order::Reversed, pace: Pace::AtOnce };
            leaves_nothing("a good migration over sockets", || {
                drop(over(way, &good, patient()).expect("a good migration"));
            });
        }
        leaves_nothing("a damaged payload", || {
            let damaged = Migration::one_round(method, |mut channel| {
                channel = channel.payload(&[1], &[0xff; 4096]).edit_u32(20, 4096);
                if method == MethodId::None {
                    channel = channel.edit_u32(20, 4095);
                }
                for _ in 0..50 {
                    channel = channel.data(&[(2, noise(2)), (3, noise(3))]);
                }
                channel
            });
            assert!(replay(&damaged, patient()).is_err());
            assert!(over(Way::PLAIN, &damaged, patient()).is_err());
        });
        leaves_nothing("a cut channel", || {
            let mut cut = good.clone();
            let half = cut.channels[1].len() / 2;
            cut.channels[1].truncate(half);
            assert!(replay(&cut, patient()).is_err());
            assert!(over(Way::PLAIN, &cut, patient()).is_err());
        });
        leaves_nothing("a cut main stream", || {
            let mut cut = good.clone();
            let half = cut.main.len() / 2;
            cut.main.truncate(half);
            assert!(replay(&cut, patient()).is_err());
            assert!(over(Way::PLAIN, &cut, patient()).is_err());
        });
        leaves_nothing("a peer that stalls inside a packet", || {
            let mut cut = good.clone();
            let half = cut.channels[1].len() / 2;
            cut.channels[1].truncate(half);
            let mut live = Live::new(2, hasty());
            live.send(&cut);
            assert!(live.outcome().0.is_err());
        });
        leaves_nothing("a migration that is cancelled", || {
            let mut live = Live::new(2, patient());
            live.channels[0].write_all(&good.channels[0]).expect("the receiver listens");
            live.progress.cancel();
            assert!(live.outcome().0.is_err());
        });
    }
    leaves_nothing("a listener that nobody calls", || {
        let address = "tcp:127.0.0.1:0".parse::<Address>().expect("an address");
        let receiver = Receiver::new(hasty()).expect("a receiver");
        let progress = receiver.progress();
        let listener = Listener::bind(&address).expect("a free port");
        let waiting = thread::spawn(move || {
            assert!(receiver.receive(listener, &mut anonymous_block).is_err());
        });
        progress.cancel();
        waiting.join().expect("no panic");
    });

    bounded_memory();
}

/// Claims of much memory that cost a sender nothing.
fn bounded_memory() {
    let before = peak_rss();
    let channel = || Channel::new(0, MethodId::None).sync().sync();
    let replayed = |main: MainStream| replay(&Migration::new(main, [channel()]), patient());
    // 256 GiB of RAM, all of it untouched.
    let huge = MainStream::new().start(&[("pc.ram", 1 << 26)]).flush().close();
    let received = replayed(huge.end().flush().close().finish()).expect("within the limits");
    assert_eq!(received.blocks()[0].used_length(), 256 << 30);
    drop(received);
    // A description that claims to be long, and a list that never ends.
    let long = one_round(MainStream::new()).bytes;
    let head = long.iter().rposition(|&byte| byte == 6).expect("the vmdesc's head");
    let long = MainStream::default().raw(&long[..head + 1]).raw(&(60_u32 << 20).to_be_bytes());
    drop(replayed(long.raw(b"{")).expect("only the description is missing"));
    let list = MainStream::new().start_head().number((1 << 30) | 4);
    let list = (0..5000).fold(list, |list, n| list.name(&format!("b{n}")).number(4096));
    assert!(replayed(list).is_err());
    // Every channel may hold packets, and a window of zstd, in memory.
    let frame =
        [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 15 << 3][..], &[0x00, 0x80, 0x00], &noise(1)].concat();
    let channels = (0..40).map(|id| Channel::new(id, MethodId::Zstd).sync().payload(&[1], &frame));
    let channels: Vec<Channel> = channels.map(Channel::sync).collect();
    drop(replay(&Migration::new(one_round(MainStream::new()), channels), patient()));
    let grown = peak_rss() - before;
    assert!(grown < 64 << 10, "{grown} KiB more than before");
}
