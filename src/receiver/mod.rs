//! Receives one migration: connections, epochs, the verdict.
//!
//! ```text
//!             +-- accept --> gate --> channel 0 --> method --> guest RAM
//!  listener --+              (first   channel 1 --> method --> guest RAM
//!             |               bytes)    ...           ^
//!             +                       main ---> blocks, marks, device state, verdict
//!                                               ^ epochs keep channels and main in step
//! ```
//!
//! Each connection has a thread of its own, because a source may send on any of
//! them first and waits for none. The first error of any thread ends the
//! session: all readers wake, all connections close, the RAM is discarded, and
//! the source is told where it listens.
//!
//! [`Receiver::receive`] returns when everything has arrived; the source is
//! then still waiting (if its return path is open) for [`Received::complete`]
//! or [`Received::refuse`]. Between the two the caller can put the guest where
//! it is safe: until `complete` the source has not let go of it.

mod channel;
mod connection;
mod door;
mod epoch;
mod error;
mod gate;
mod listener;
mod main_stream;
mod record;
mod report;
mod session;
mod shared;

use std::{
    fs::File,
    num::NonZeroUsize,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

pub use error::ReceiveError;
pub use listener::{Address, AddressError, Listener};
pub use main_stream::SwitchoverAck;
pub use record::{Recorded, record};
pub use report::{BlockReport, DeviceReport, Pages, Report, Status};
pub use session::Counters;

use crate::{
    engine::{EngineChoice, hardware},
    measure::Meter,
    method::Workshop,
    ram::{Placement, Policy, RamBlock, ZeroMode},
    wire::{
        Hello, MethodId, ReturnMessage,
        main_stream::{BlockInfo, Configuration, DeviceState, EarlyDevice, Limits},
    },
};
use connection::Connection;
use door::{Door, Source};
use main_stream::{Arrived, Main};
use session::Session;
use shared::{Blocks, Shared};

/// How a migration is to be received. `Options::default()` fits a source at
/// its own defaults.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of channels, `multifd-channels` at the source. Found out when
    /// `None`; 0 receives a migration without multifd.
    pub channels: Option<usize>,
    /// The only method accepted, or whichever the source uses.
    pub method: Option<MethodId>,
    /// What decodes pages of method qpl.
    pub engine: EngineChoice,
    /// How a device is used, where there is one.
    pub device: hardware::Options,
    /// Worker threads of software engines; one per core when `None`.
    pub workers: Option<NonZeroUsize>,
    /// How pages get into guest memory; the best on this host when `None`.
    pub placement: Option<Policy>,
    /// What is done about zero pages. Anything but the map is for measuring.
    pub zero_mode: ZeroMode,
    /// Limits on what the main stream may ask for.
    pub limits: Limits,
    /// Longest silence of all connections, or of one in mid-item.
    pub idle_timeout: Duration,
    /// Longest silence of a new connection.
    pub hello_timeout: Duration,
    /// When SWITCHOVER_ACK is sent.
    pub switchover_ack: SwitchoverAck,
    /// Fail unless the source opens the return path.
    pub need_return_path: bool,
    /// Count TLB flushes and page faults by tracepoints of the kernel, where
    /// that is permitted.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            channels: None,
            method: None,
            engine: EngineChoice::default(),
            device: hardware::Options::default(),
            workers: None,
            placement: None,
            zero_mode: ZeroMode::Map,
            limits: Limits::default(),
            idle_timeout: Duration::from_secs(60),
            hello_timeout: Duration::from_secs(10),
            switchover_ack: SwitchoverAck::Auto,
            need_return_path: false,
            trace: false,
        }
    }
}

/// Makes the memory of a RAMBlock.
pub type MakeBlock<'a> = dyn FnMut(&BlockInfo) -> Result<Arc<RamBlock>, ReceiveError> + Send + 'a;

/// Fresh anonymous memory for every block: untouched pages take no memory and
/// read as zero.
pub fn anonymous_block(info: &BlockInfo) -> Result<Arc<RamBlock>, ReceiveError> {
    Ok(Arc::new(RamBlock::anonymous(info.name.clone(), info.used_length)?))
}

/// Receives one migration.
#[derive(Debug)]
pub struct Receiver {
    options: Options,
    session: Arc<Session>,
    workshop: Workshop,
    meter: Meter,
}

/// A migration that did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failed {
    /// Why.
    pub error: ReceiveError,
    /// What had happened until then.
    pub report: Box<Report>,
}

/// A migration that is here, whole. The source may still be waiting for the
/// verdict; dropping this closes the connection, which it takes for a refusal.
#[derive(Debug)]
pub struct Received {
    blocks: Vec<Arc<RamBlock>>,
    machine: Option<Configuration>,
    early_devices: Vec<EarlyDevice>,
    devices: DeviceState,
    report: Report,
    /// The main connection, if the source listens on it.
    return_path: Option<Connection>,
}

impl Receiver {
    /// Sets up engine and placement.
    pub fn new(options: Options) -> Result<Self, ReceiveError> {
        let meter = Meter::start(options.trace);
        let workshop = Workshop::new(
            Placement::new(options.placement)?,
            options.engine,
            options.device.clone(),
            options.workers,
            options.channels,
        );
        let session = Arc::new(Session::new(options.idle_timeout)?);
        Ok(Self { options, session, workshop, meter })
    }

    /// What is being received, for a progress display.
    pub fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.session))
    }

    /// Receives one migration on `listener`.
    pub fn receive(
        self,
        listener: Listener,
        make_block: &mut MakeBlock<'_>,
    ) -> Result<Received, Failed> {
        self.run(Source::Listener(listener), make_block)
    }

    /// Receives a recording: its main stream and channels, in any order.
    pub fn replay(
        self,
        files: Vec<File>,
        make_block: &mut MakeBlock<'_>,
    ) -> Result<Received, Failed> {
        self.run(Source::Files(files), make_block)
    }

    /// Receives on sockets that are connected already, in any order.
    pub fn receive_connected(
        self,
        sockets: Vec<OwnedFd>,
        make_block: &mut MakeBlock<'_>,
    ) -> Result<Received, Failed> {
        self.run(Source::Sockets(sockets), make_block)
    }

    fn run(self, source: Source, make_block: &mut MakeBlock<'_>) -> Result<Received, Failed> {
        let shared = Shared {
            session: &self.session,
            workshop: &self.workshop,
            zero_mode: self.options.zero_mode,
            blocks: OnceLock::new(),
            method: self.options.method,
        };
        let session = &self.session;
        let serve = |hello: &Hello, connection| channel::run(&shared, hello.id, connection);
        let (door, ready) = Door::new(source, &self.options, session, &serve);
        let mut return_path = false;
        let (arrived, connection) = thread::scope(|scope| {
            let main = door.open(scope, ready);
            // There is none if the session failed before it came.
            let Ok(mut connection) = main.recv() else {
                let (channels, main) = door.gate.present();
                session.fail(ReceiveError::Incomplete { channels, main });
                return (None, None);
            };
            let main = Main {
                shared: &shared,
                connection: &mut connection,
                return_path: &mut return_path,
                limits: self.options.limits.clone(),
                switchover_ack: self.options.switchover_ack,
                need_return_path: self.options.need_return_path,
                make_block,
                settle: &mut || door.settle(),
            };
            let outcome = main.run().and_then(|arrived| {
                if let Some(uuid) = arrived.machine.as_ref().and_then(|machine| machine.uuid) {
                    door.gate.check_uuid(&uuid)?;
                }
                Ok(arrived)
            });
            match outcome {
                Ok(arrived) => {
                    session.finish();
                    // Channels that end later see for themselves.
                    if let Some(channel) = session.epochs.loose_end() {
                        session.fail(ReceiveError::AfterLastMark.on_channel(channel));
                    }
                    (Some(arrived), Some(connection))
                }
                Err(error) => {
                    session.fail(error);
                    (None, Some(connection))
                }
            }
        });
        let channels = door.gate.present().0;
        drop(door);
        let return_path = connection.filter(|_| return_path);
        let blocks = shared.blocks.into_inner();
        match (arrived, session.take_error(), blocks) {
            (Some(arrived), None, Some(blocks)) => {
                Ok(self.received(arrived, blocks, channels, return_path))
            }
            (_, error, blocks) => {
                drop(blocks);
                let error = error.unwrap_or(ReceiveError::Stopped);
                if let Some(connection) = return_path {
                    // A source that is gone cannot be told, and need not be.
                    let _ = connection.answer(&ReturnMessage::Shut(1));
                }
                Err(self.failed(error, channels))
            }
        }
    }

    fn received(
        self,
        arrived: Arrived,
        blocks: Blocks,
        channels: usize,
        return_path: Option<Connection>,
    ) -> Received {
        let mut report = self.report(Status::Received, channels);
        report.rounds = arrived.marks.saturating_sub(1);
        report.machine = arrived.machine.as_ref().map(|machine| machine.machine.clone());
        report.devices = DeviceReport {
            sections: arrived.devices.sections.len(),
            bytes: arrived.devices.bytes.len(),
            described: arrived.devices.agrees,
        };
        report.blocks = blocks
            .list()
            .iter()
            .map(|block| BlockReport {
                name: block.name().to_owned(),
                bytes: block.used_length(),
                resident_bytes: block.resident_bytes().unwrap_or(0),
                sha256: None,
            })
            .collect();
        Received {
            blocks: blocks.into_list(),
            machine: arrived.machine,
            early_devices: arrived.early_devices,
            devices: arrived.devices,
            report,
            return_path,
        }
    }

    fn failed(self, error: ReceiveError, channels: usize) -> Failed {
        let mut report = self.report(Status::Failed, channels);
        report.error = Some(error.to_string());
        Failed { error, report: Box::new(report) }
    }

    fn report(&self, status: Status, channels: usize) -> Report {
        let counters = &self.session.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let engine = self.workshop.engine.report();
        Report {
            status,
            method: self.session.method.get().map(ToString::to_string),
            channels,
            wall_seconds: self.session.since_first().as_secs_f64(),
            pages: Pages {
                normal: count(&counters.normal),
                zero: count(&counters.zero),
                zero_untouched: count(&counters.zero_untouched),
                zero_cleared: count(&counters.zero_cleared),
                raw: engine.raw,
                legacy_zero: count(&counters.legacy_zero),
            },
            bytes_received: count(&counters.bytes),
            engine,
            placement: Some(self.workshop.placement.report()),
            used: self.meter.read(),
            ..Report::default()
        }
    }
}

impl Received {
    /// The guest's RAM, block by block in the source's order.
    pub fn blocks(&self) -> &[Arc<RamBlock>] {
        &self.blocks
    }

    /// The device state, as the source sent it.
    pub fn devices(&self) -> &DeviceState {
        &self.devices
    }

    /// Device sections that came before the RAM (virtio-mem).
    pub fn early_devices(&self) -> &[EarlyDevice] {
        &self.early_devices
    }

    /// What the source said about itself.
    pub fn machine(&self) -> Option<&Configuration> {
        self.machine.as_ref()
    }

    /// The figures so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether the source waits for a verdict.
    pub fn has_return_path(&self) -> bool {
        self.return_path.is_some()
    }

    /// Tells the source that all is well: it lets go of the guest.
    pub fn complete(self) -> Result<Report, ReceiveError> {
        self.answer(0)
    }

    /// Tells the source that the migration failed: its guest runs on.
    pub fn refuse(self) -> Result<Report, ReceiveError> {
        self.answer(1)
    }

    fn answer(self, value: u32) -> Result<Report, ReceiveError> {
        if let Some(connection) = &self.return_path {
            connection.answer(&ReturnMessage::Shut(value))?;
        }
        Ok(self.report)
    }
}

/// A look at a migration in progress.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Session>);

impl Progress {
    /// What has been counted so far.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Marks that main has passed.
    pub fn marks(&self) -> u64 {
        self.0.epochs.marks()
    }

    /// Gives the migration up from outside.
    pub fn cancel(&self) {
        self.0.fail(ReceiveError::Cancelled);
    }
}
