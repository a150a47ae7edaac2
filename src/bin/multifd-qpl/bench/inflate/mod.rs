//! `bench inflate`: the race of the page decoders, on this host and, if wished,
//! on one's own data. A build with the feature `rivals` adds the decoders of
//! other libraries.

pub mod coders;
pub mod corpus;
#[cfg(feature = "rivals")]
pub mod rivals;

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use multifd_qpl::inflate::{Decoder, INPUT_PADDING, InflateError, Job, Kind};
use serde::Serialize;

use coders::{Coder, Compressor};
use corpus::{Corpus, PAGE};

/// Race the page decoders: nanoseconds a page, and how many times ours.
#[derive(Debug, clap::Args)]
pub struct InflateArgs {
    /// Cut the pages from this file instead of from what the machine has
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,

    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Pages of each corpus
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pages: usize,

    /// How often each decoder gets each packet; the best turn counts
    #[arg(long, value_name = "N", default_value_t = 21)]
    rounds: usize,

    /// Race on blocks of every kind, not only on what QEMU sends
    #[arg(long)]
    all_blocks: bool,
}

/// The result of one corpus made in one way.
#[derive(Debug, Serialize)]
pub struct Race {
    /// The corpus.
    pub corpus: String,
    /// How its pages were compressed.
    pub made_by: &'static str,
    /// Pages that shrank, and so take part.
    pub pages: usize,
    /// Compressed bytes of a page, on average.
    pub bytes_per_page: f64,
    /// What each decoder took, ours first.
    pub decoders: Vec<Entrant>,
}

/// One decoder's figures.
#[derive(Debug, Serialize)]
pub struct Entrant {
    /// Name and version.
    pub name: String,
    /// Nanoseconds a page.
    pub ns_per_page: f64,
    /// Megabytes of pages (10^6) a second.
    pub mb_per_s: f64,
    /// Its time as a multiple of that of our fastest decoder here.
    pub ratio: f64,
}

/// Runs the races and prints them.
pub fn run(args: InflateArgs) -> Result<(), Box<dyn std::error::Error>> {
    let corpora = match &args.corpus {
        Some(path) => vec![Corpus::of_file(path)?],
        None => Corpus::of_this_machine(args.pages),
    };
    let mut compressor = Compressor::new();
    let coders = if args.all_blocks { compressor.coders() } else { vec![compressor.fixed()] };
    if compressor.fixed() == Coder::ZlibFixed {
        eprintln!("libqpl is not here (QPL_LIBRARY, libqpl.so.1): zlib makes the pages");
    }
    let mut races = Vec::new();
    for corpus in &corpora {
        for &coder in &coders {
            let Some(blocks) = Blocks::new(corpus, coder, &mut compressor) else {
                eprintln!("{}: no page shrinks", corpus.name);
                continue;
            };
            let race = blocks.race(args.rounds);
            print!("{}", race.table());
            races.push(race);
        }
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&races)?)?;
    }
    Ok(())
}

/// Pages a packet carries at most.
const PACKET: usize = 128;

/// A corpus, compressed.
pub struct Blocks {
    corpus: String,
    made_by: &'static str,
    payload: Vec<u8>,
    used: usize,
    /// Where each block is in the payload.
    spans: Vec<(usize, usize)>,
    /// The pages, as they must come out.
    pages: Vec<u8>,
}

impl Blocks {
    /// Compresses the pages of a corpus; `None` if none of them shrinks.
    pub fn new(corpus: &Corpus, coder: Coder, compressor: &mut Compressor) -> Option<Self> {
        let (mut payload, mut spans, mut pages) = (Vec::new(), Vec::new(), Vec::new());
        for page in corpus.pages.chunks_exact(PAGE) {
            if let Some(block) = compressor.compress(coder, page) {
                spans.push((payload.len(), block.len()));
                payload.extend_from_slice(&block);
                pages.extend_from_slice(page);
            }
        }
        let used = payload.len();
        payload.resize(used + INPUT_PADDING, 0);
        let made_by = coder.describe();
        let corpus = corpus.name.clone();
        (!spans.is_empty()).then_some(Self { corpus, made_by, payload, used, spans, pages })
    }

    /// Packets of this corpus.
    pub fn packets(&self) -> usize {
        self.spans.len().div_ceil(PACKET)
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> usize {
        self.pages.len()
    }

    fn packet(&self, number: usize) -> &[(usize, usize)] {
        let first = number * PACKET;
        &self.spans[first..(first + PACKET).min(self.spans.len())]
    }

    /// Decodes one packet by a decoder of ours into the first pages of `out`.
    pub fn ours(&self, decoder: &mut Decoder, packet: usize, out: &mut [u8]) -> bool {
        let spans = self.packet(packet);
        assert!(out.len() >= spans.len() * PAGE);
        let job = |(i, &(start, len)): (usize, &(usize, usize))| Job {
            start: start as u32,
            len: len as u32,
            dst: out.as_mut_ptr().wrapping_add(i * PAGE),
            result: Err(InflateError::BadData),
        };
        let mut jobs: Vec<Job> = spans.iter().enumerate().map(job).collect();
        // SAFETY: the payload has its padding, the spans lie in it, and each
        // page of `out` is given to one job.
        unsafe { decoder.decode_pages(self.payload.as_ptr(), self.used, &mut jobs) };
        jobs.iter().all(|job| job.result.is_ok())
    }

    /// The same by another library.
    #[cfg(feature = "rivals")]
    pub fn theirs(&self, rival: &mut rivals::Rival, packet: usize, out: &mut [u8]) -> bool {
        let pages = out.chunks_exact_mut(PAGE);
        self.packet(packet)
            .iter()
            .zip(pages)
            .all(|(&(start, len), page)| (rival.decode)(&self.payload[start..start + len], page))
    }

    /// Runs all decoders, in turns, so that what disturbs the machine disturbs
    /// all. Each packet counts with its best turn.
    pub fn race(&self, rounds: usize) -> Race {
        type Turn<'a> = Box<dyn FnMut(&Blocks, usize, &mut [u8]) -> bool + 'a>;
        let mut entrants: Vec<(String, Turn)> = Vec::new();
        for mut decoder in Kind::ALL.iter().filter_map(|&kind| Decoder::with_kind(kind)) {
            entrants.push((
                format!("ours, {}", decoder.kind().name()),
                Box::new(move |blocks, packet, out| blocks.ours(&mut decoder, packet, out)),
            ));
        }
        #[cfg(feature = "rivals")]
        for mut rival in rivals::all() {
            entrants.push((
                rival.name.clone(),
                Box::new(move |blocks, packet, out| blocks.theirs(&mut rival, packet, out)),
            ));
        }
        let mut out = vec![0u8; PACKET * PAGE];
        let mut best = vec![vec![f64::INFINITY; self.packets()]; entrants.len()];
        for round in 0..rounds.max(1) {
            for ((name, decode), best) in entrants.iter_mut().zip(&mut best) {
                for (packet, best) in best.iter_mut().enumerate() {
                    let start = Instant::now();
                    let good = decode(self, packet, black_box(&mut out));
                    *best = best.min(start.elapsed().as_nanos() as f64);
                    if round == 0 {
                        let first = packet * PACKET * PAGE;
                        let len = self.packet(packet).len() * PAGE;
                        let right = good && out[..len] == self.pages[first..first + len];
                        assert!(right, "{name} decodes {} wrongly", self.corpus);
                        out.fill(0);
                    }
                }
            }
        }
        let per_page = |entrant: usize| best[entrant].iter().sum::<f64>() / self.spans.len() as f64;
        let decoders = entrants
            .iter()
            .enumerate()
            .map(|(entrant, (name, _))| Entrant {
                name: name.clone(),
                ns_per_page: per_page(entrant),
                mb_per_s: PAGE as f64 * 1e3 / per_page(entrant),
                ratio: per_page(entrant) / per_page(0),
            })
            .collect();
        Race {
            corpus: self.corpus.clone(),
            made_by: self.made_by,
            pages: self.spans.len(),
            bytes_per_page: self.used as f64 / self.spans.len() as f64,
            decoders,
        }
    }
}

impl Race {
    /// The race as a table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}: {} pages of {:.0} bytes, made by {}\n",
            self.corpus, self.pages, self.bytes_per_page, self.made_by
        );
        for entrant in &self.decoders {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  {:32} {:6.0} ns/page {:8.0} MB/s  x{:.2}",
                entrant.name, entrant.ns_per_page, entrant.mb_per_s, entrant.ratio
            );
        }
        text
    }
}
