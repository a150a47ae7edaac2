//! Methods that keep one endless stream per channel: zlib and zstd.
//!
//! Such a stream can only be decoded in order, so a channel has one thread for
//! it: the channel reads packet after packet, the thread decodes them. Pages
//! are decoded into staging, never straight into guest memory: the decoder is
//! a library that takes Rust slices, and guest memory is never one.

use std::{
    io, slice,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Method, MethodError, Payload, Workshop, read_payload};
use crate::{
    engine::{BufferPool, PacketBuffer},
    ram::{InPlace, Landing, Placement, RamBlock, Staging},
    wire::{MethodId, PAGE_SIZE},
};

/// The decoder of an endless stream.
pub trait PageStream: Send + 'static {
    /// The method, for messages.
    const METHOD: MethodId;
    /// One call of the decoder: takes what it uses off the front of `input`
    /// and answers how many bytes came out.
    fn step(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<usize, MethodError>;
    /// Ends a packet after its last page: takes in what is left of `input`,
    /// and fails if that is more than the stream's own flush marks.
    fn end(&mut self, input: &mut &[u8]) -> Result<(), MethodError>;

    /// Decodes the next page of a packet from the front of `input`.
    fn page(&mut self, input: &mut &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), MethodError> {
        let mut done = 0;
        while done < PAGE_SIZE {
            let before = input.len();
            let made = self.step(input, &mut page[done..])?;
            if made == 0 && input.len() == before {
                return Err(Self::damaged("a packet holds fewer bytes than its pages need"));
            }
            done += made;
        }
        Ok(())
    }

    /// The error for a stream that is not what a source can have sent.
    fn damaged(reason: impl Into<String>) -> MethodError {
        MethodError::Stream { method: Self::METHOD, reason: reason.into() }
    }
}

/// What the channel tells its decoder thread.
enum Order {
    Packet { block: Arc<RamBlock>, pages: Vec<u32>, buffer: PacketBuffer },
    Drain(Sender<()>),
}

/// The decoder thread's end of the queue. A queue keeps what is in it when its
/// reader is gone, and a channel that waits for an answer or a buffer in there
/// would wait for ever: so a thread that ends, by an error or a panic, goes on
/// throwing away what it is told until the channel lets go.
struct Orders {
    queue: Receiver<Order>,
    ended: Arc<AtomicBool>,
}

impl Drop for Orders {
    fn drop(&mut self) {
        // Nothing is read by it; why the thread ended comes with its join.
        self.ended.store(true, Ordering::Relaxed);
        self.queue.iter().for_each(drop);
    }
}

/// A [`PageStream`] on a thread of its own.
#[derive(Debug)]
pub struct Streamed {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<Result<(), MethodError>>>,
    buffers: BufferPool,
    /// The thread takes no more packets; it has an error to tell.
    ended: Arc<AtomicBool>,
}

impl Streamed {
    /// Starts the decoder thread of one channel.
    pub fn new(stream: impl PageStream, workshop: &Workshop) -> Result<Self, MethodError> {
        let (send, queue) = bounded(workshop.packets);
        let ended = Arc::new(AtomicBool::new(false));
        let decoder = Decoder {
            orders: Orders { queue, ended: Arc::clone(&ended) },
            stream,
            placement: Arc::clone(&workshop.placement),
            staging: Some(Staging::new()?),
        };
        let thread = std::thread::Builder::new()
            .name("page-stream".to_owned())
            .spawn(move || decoder.run())
            .map_err(MethodError::Thread)?;
        Ok(Self {
            orders: Some(send),
            thread: Some(thread),
            buffers: BufferPool::new(workshop.packets),
            ended,
        })
    }

    fn send(&mut self, order: Order) -> Result<(), MethodError> {
        match &self.orders {
            Some(orders) if orders.send(order).is_ok() => Ok(()),
            _ => Err(self.why_ended()),
        }
    }

    /// The error the thread ended with.
    fn why_ended(&mut self) -> MethodError {
        self.orders = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error,
            _ => MethodError::Thread(io::Error::other("it has ended")),
        }
    }
}

impl Method for Streamed {
    fn packet(
        &mut self,
        block: &Arc<RamBlock>,
        pages: &[u32],
        payload: &mut dyn Payload,
    ) -> Result<(), MethodError> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(self.why_ended());
        }
        let buffer = read_payload(payload, pages.len(), || self.buffers.take())?;
        self.send(Order::Packet { block: Arc::clone(block), pages: pages.to_vec(), buffer })
    }

    fn drain(&mut self) -> Result<(), MethodError> {
        let (reply, answer) = bounded(1);
        self.send(Order::Drain(reply))?;
        answer.recv().map_err(|_| self.why_ended())
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // Whatever it ended with, nobody waits for it any more.
            let _ = thread.join();
        }
    }
}

struct Decoder<S> {
    orders: Orders,
    stream: S,
    placement: Arc<Placement>,
    staging: Option<Staging>,
}

impl<S: PageStream> Decoder<S> {
    /// Ends with the first error: the stream cannot be picked up after it.
    fn run(mut self) -> Result<(), MethodError> {
        while let Ok(order) = self.orders.queue.recv() {
            match order {
                Order::Packet { block, pages, buffer } => self.packet(&block, &pages, &buffer)?,
                // A channel that gave up no longer waits for the answer.
                Order::Drain(reply) => drop(reply.send(())),
            }
        }
        Ok(())
    }

    fn packet(
        &mut self,
        block: &Arc<RamBlock>,
        pages: &[u32],
        buffer: &PacketBuffer,
    ) -> Result<(), MethodError> {
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => Staging::new()?,
        };
        let landing = Landing::begin(&self.placement, block, pages, staging, InPlace::Never)?;
        let mut input = buffer.payload();
        for index in 0..pages.len() {
            // SAFETY: with InPlace::Never every destination is a page of
            // staging, which is private memory of this process and ours alone
            // until the commit; pages of one landing do not overlap.
            let page = unsafe { slice::from_raw_parts_mut(landing.destination(index), PAGE_SIZE) };
            let Ok(page) = page.try_into() else {
                unreachable!("the slice was made one page long");
            };
            self.stream.page(&mut input, page)?;
        }
        self.stream.end(&mut input)?;
        self.staging = Some(landing.commit()?);
        Ok(())
    }
}
