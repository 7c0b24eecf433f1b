//! Scoring: −log p of every token of a corpus under a checkpoint, in nats, on any topology.
//!
//! Batches are cut by one rule for all (`cut`). The data-parallel ranks of a mesh take one each, tensor-parallel ranks
//! split the model; rank 0 collects the losses and writes them in the order of the corpus (`sink`), so the files are
//! the same for any number of ranks and threads, and memory does not grow. What is on the disk is noted now and then
//! (`journal`); the same command goes on from there, on any topology, after a stop or a kill.

pub mod cut;
mod journal;
mod sink;
mod text;

pub use cut::Windows;
pub use sink::Output;
pub use text::TextBytes;

use super::fits;
use super::progress;
use super::replica::Replica;
use super::run::Launch;
use super::step::{MicroBatch, evaluate};
use crate::checkpoint::Checkpoint;
use crate::comm::{Mesh, Reduce, Setup, World, processes};
use crate::config::EvalWeights;
use crate::data::Corpus;
use crate::device::{Category, DType, Device};
use crate::signal;
use crate::tape::At;
use crate::tensor::Tensor;
use crate::{Error, Result};
use cut::{Cutter, Piece, Place};
use journal::{Found, Journal, Tally};
use serde_json::json;
use sink::Sink;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// What is scored, how, and where to.
pub struct Job<'a> {
    pub checkpoint: &'a Checkpoint,
    pub corpus: &'a Corpus,
    pub windows: Windows,
    pub documents: Range<u64>,
    /// F32 or Bf16: what the model computes with.
    pub dtype: DType,
    pub tp: usize,
    pub weights: EvalWeights,
    /// At least one.
    pub outputs: Vec<Output>,
    /// How often it is noted how far it is.
    pub save_every: Duration,
    /// Whether progress is told on stderr.
    pub tell: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub documents: u64,
    pub predictions: u64,
    /// −log p over all of them, nats.
    pub nll: f64,
    /// Of the text that was predicted.
    pub bytes: TextBytes,
    /// Predictions a second, of all ranks, without opening files and loading weights; None if none were left to make.
    pub tokens_per_s: Option<f64>,
}

impl Summary {
    /// Where the bytes are known.
    pub fn bits_byte(&self) -> Option<f64> {
        self.bytes.bits(self.nll)
    }
}

/// Writes the outputs. Error `Stopped` after a signal: the same call goes on.
pub fn score(job: &Job, launch: &Launch) -> Result<Summary> {
    job.check(launch)?;
    signal::listen();
    let files = job.files()?;
    // Of several processes one writes.
    let writer = if processes::is_first() { Some(Writer::open(job, &files)?) } else { None };
    let ends = processes::run(launch.ranks, &Setup::new(launch.deadline), |world| {
        let abort = world.clone();
        let done = rank_main(job, launch, writer.as_ref(), world);
        if let Err(e) = &done
            && !matches!(e, Error::Stopped { .. })
        {
            abort.abort(&e.to_string());
        }
        done
    })?;
    if let Some(writer) = writer {
        writer.journal.remove()?;
    }
    let [predictions, nll, rate] = ends[0];
    Ok(Summary {
        documents: job.documents.end - job.documents.start,
        predictions: predictions as u64,
        nll,
        bytes: TextBytes::of(job.corpus, &job.documents)?,
        tokens_per_s: (!rate.is_nan()).then_some(rate),
    })
}

/// What the process that writes has: the journal, and how far an earlier attempt came.
struct Writer {
    journal: Journal,
    start: Option<Tally>,
}

impl Writer {
    fn open(job: &Job, files: &[PathBuf]) -> Result<Writer> {
        let journal = Journal::open(&files[0], job.key())?;
        let start = match journal.find()? {
            Found::Same(tally) => Some(tally),
            Found::Other => {
                tracing::warn!("{}.journal is of another scoring and is replaced", files[0].display());
                None
            }
            Found::Nothing => None,
        };
        if start.as_ref().is_none_or(|tally| !tally.finishing)
            && let Some(file) = files.iter().find(|file| file.exists())
        {
            let remedy = "remove it or give another name";
            return Err(Error::data(file, "is there already and would be replaced", remedy));
        }
        Ok(Writer { journal, start })
    }
}

/// What rank 0 says, on all ranks.
fn of_first<const N: usize>(world: &World, values: [f64; N]) -> Result<[f64; N]> {
    let t = Tensor::from_slice(&Device::cpu(1), 1, N, &values, Category::Comm);
    let t = world.broadcast(t, 0, "scoring")?.wait()?;
    Ok(std::array::from_fn(|i| t.data::<f64>()[i]))
}

impl Job<'_> {
    fn check(&self, launch: &Launch) -> Result<()> {
        let refuse =
            |key: &str, problem: String, remedy: &str| Err(Error::config("score", key, problem, remedy));
        let Windows { seq_len, stride, rows } = self.windows;
        fits::launch("score", self.checkpoint, launch, self.tp, seq_len)?;
        self.checkpoint.check_values(self.weights.into())?;
        if stride == 0 || stride > seq_len {
            let problem = format!("windows of {seq_len} tokens begin {stride} apart");
            return refuse("--stride", problem, "give 1 up to --seq-len");
        }
        assert!(rows > 0 && !self.outputs.is_empty(), "a shape and an output");
        let (all, Range { start, end }) = (self.corpus.documents(), self.documents.clone());
        if start >= end || end > all {
            let remedy = format!("the corpus has the documents 0..{all}");
            return refuse("--documents", format!("{start}..{end} holds none or too many"), &remedy);
        }
        fits::corpus(self.checkpoint, self.corpus)
    }

    /// All that will be written; none twice.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = vec![];
        for file in self.outputs.iter().map(|o| o.files(self.corpus)).collect::<Result<Vec<_>>>()?.concat() {
            if files.contains(&file) {
                let problem = format!("two outputs would be {}", file.display());
                return Err(Error::config("score", "--as", problem, "give each a name of its own"));
            }
            files.push(file);
        }
        Ok(files)
    }

    /// All that values depend on to the bit (but tp), and where they go.
    fn key(&self) -> serde_json::Value {
        // It has the checksums of all files.
        let manifest = serde_json::to_vec(self.checkpoint.manifest()).expect("it was read from JSON");
        let Windows { seq_len, stride, rows } = self.windows;
        json!({
            "version": 1, "checkpoint": format!("{:016x}", xxh3_64(&manifest)),
            "corpus": format!("{:016x}", self.corpus.hash()), "dtype": self.dtype.name(),
            "weights": self.weights.name(),
            "seq_len": seq_len, "stride": stride, "rows": rows,
            "documents": [self.documents.start, self.documents.end],
            "outputs": self.outputs.iter().map(|o| format!("{o:?}")).collect::<Vec<_>>(),
        })
    }
}

/// One rank's side; returns predictions, their −log p, and predictions a second (NaN for none), of all ranks.
fn rank_main(job: &Job, launch: &Launch, writer: Option<&Writer>, world: World) -> Result<[f64; 3]> {
    let mesh = Mesh::new(world, job.tp)?;
    let documents = job.documents.clone();
    let writer = writer.filter(|_| mesh.world.rank() == 0);
    let start = writer.and_then(|w| w.start.as_ref());
    let place = start.map_or(Place { document: job.documents.start, made: 0 }, |tally| tally.place);
    // Exact below 2⁵³.
    let [document, made] = of_first(&mesh.world, [place.document, place.made].map(|n| n as f64))?;
    let place = Place { document: document as u64, made: made as u64 };
    let mut sink = match (mesh.world.rank(), start) {
        (0, None) => Some(Sink::create(job.corpus, documents, &job.outputs)?),
        (0, Some(tally)) => Some(Sink::resume(job.corpus, documents, &job.outputs, tally)?),
        _ => None,
    };
    let dev = Device::cpu(launch.threads_per_rank());
    let mut r =
        Replica::of_checkpoint(job.checkpoint, job.weights, job.dtype, job.windows.seq_len, dev, mesh)?;
    let mut cutter = Cutter::new(job.corpus, job.windows, place, job.documents.end);
    let mut pace = Pace::new(job, start)?;
    let mut saved = Instant::now();
    loop {
        let round = (0..r.mesh.dp.size()).map(|_| cutter.take()).collect::<Result<Vec<_>>>()?;
        if round[0].is_empty() {
            break;
        }
        let own = &round[r.mesh.dp.rank()];
        let batch = if own.is_empty() { None } else { Some(cutter.batch(own)?) };
        let nll = losses(&mut r, job, batch)?;
        if let Some(sink) = &mut sink {
            write(sink, job, &round, &nll)?;
            if job.tell {
                pace.tell(job.corpus, &sink.tally)?;
            }
        }
        let stop = stop(&r, signal::asked_to_stop())?;
        if let (Some(sink), Some(Writer { journal, .. })) = (&mut sink, writer)
            && (stop || saved.elapsed() >= job.save_every)
        {
            job.corpus.unchanged()?;
            sink.sync()?;
            journal.write(&sink.tally)?;
            saved = Instant::now();
        }
        if stop {
            return Err(Error::Stopped { what: format!("scoring at document {}", cutter.place().document) });
        }
    }
    let mut end = [0.0; 3];
    if let (Some(mut sink), Some(Writer { journal, .. })) = (sink, writer) {
        let rate = pace.rate(&sink.tally);
        if !sink.tally.finishing {
            job.corpus.unchanged()?;
            sink.end()?;
            sink.sync()?;
            journal.write(&sink.tally)?;
        }
        end = [sink.tally.predictions as f64, sink.tally.total, rate.unwrap_or(f64::NAN)];
        sink.finish()?;
    }
    of_first(&r.mesh.world, end)
}

/// The losses of the round's batches, by dp rank; empty where tp rank is not 0. Collective over dp and tp.
fn losses(r: &mut Replica, job: &Job, batch: Option<MicroBatch>) -> Result<Vec<f32>> {
    let n = job.windows.rows * job.windows.seq_len;
    let step = job.checkpoint.manifest().meta.clocks.update;
    let own = match &batch {
        Some(batch) => evaluate(r, batch, At { step, layer: 0 })?,
        None => vec![0.0; n],
    };
    let (rank, size) = (r.mesh.dp.rank(), r.mesh.dp.size());
    if r.mesh.tp.rank() > 0 || size == 1 {
        return Ok(own);
    }
    let mut all = Tensor::zeros(&r.dev, size, n, DType::F32, Category::Comm);
    all.data_mut::<f32>()[rank * n..(rank + 1) * n].copy_from_slice(&own);
    let all = r.mesh.dp.all_gather(all, "losses")?.wait()?;
    Ok(all.data::<f32>().to_vec())
}

fn write(sink: &mut Sink, job: &Job, round: &[Vec<Piece>], nll: &[f32]) -> Result<()> {
    let Windows { seq_len, rows, .. } = job.windows;
    for (pieces, nll) in round.iter().zip(nll.chunks(rows * seq_len)) {
        for piece in pieces {
            let nll = &nll[piece.counted(seq_len)];
            if let Some(i) = nll.iter().position(|l| !l.is_finite()) {
                let token = piece.first + (piece.context + i) as u64 + 1;
                return Err(Error::Numerics {
                    step: job.checkpoint.manifest().meta.clocks.update,
                    problem: format!("the loss of token {token} (document {}) is {}", piece.document, nll[i]),
                    remedy: "score with an earlier checkpoint or --dtype f32".into(),
                });
            }
            sink.take(piece, nll)?;
        }
    }
    Ok(())
}

/// Whether any rank was asked to stop. Collective over all ranks.
fn stop(r: &Replica, asked: bool) -> Result<bool> {
    let flag = Tensor::from_slice(&r.dev, 1, 1, &[f64::from(u8::from(asked))], Category::Comm);
    Ok(r.mesh.world.all_reduce(flag, Reduce::Max, "stop")?.wait()?.data::<f64>()[0] > 0.0)
}

/// Progress as a person sees it, about one line a second.
struct Pace {
    began: Instant,
    last: Instant,
    /// Predictions and tokens before this attempt.
    before: (u64, u64),
    /// The first token and one past the last.
    tokens: Range<u64>,
}

impl Pace {
    fn new(job: &Job, start: Option<&Tally>) -> Result<Pace> {
        let at = |document| token_at(job.corpus, Place { document, made: 0 });
        let tokens = at(job.documents.start)?..at(job.documents.end)?;
        let before = match start {
            Some(tally) => (tally.predictions, token_at(job.corpus, tally.place)?),
            None => (0, tokens.start),
        };
        Ok(Pace { began: Instant::now(), last: Instant::now(), before, tokens })
    }

    /// Predictions a second of this attempt.
    fn rate(&self, tally: &Tally) -> Option<f64> {
        let made = tally.predictions - self.before.0;
        (made > 0).then(|| made as f64 / self.began.elapsed().as_secs_f64().max(1e-9))
    }

    fn tell(&mut self, corpus: &Corpus, tally: &Tally) -> Result<()> {
        if self.last.elapsed() < Duration::from_secs(1) {
            return Ok(());
        }
        self.last = Instant::now();
        let (seconds, now) = (self.began.elapsed().as_secs_f64(), token_at(corpus, tally.place)?);
        let left = (self.tokens.end - now) as f64 / ((now - self.before.1) as f64 / seconds).max(1e-9);
        crate::terminal::say(&format!(
            "scored {} of {} tokens  {:.4} nats each  {:>7} tok/s  {} left",
            progress::count((now - self.tokens.start) as f64),
            progress::count((self.tokens.end - self.tokens.start) as f64),
            (tally.total + tally.sum) / tally.predictions.max(1) as f64,
            progress::count(self.rate(tally).unwrap_or(0.0)),
            progress::time(left),
        ));
        Ok(())
    }
}

/// The token of the corpus that a place has come to.
fn token_at(corpus: &Corpus, place: Place) -> Result<u64> {
    match place.document == corpus.documents() {
        true => Ok(corpus.tokens()),
        false => Ok(corpus.document_range(place.document)?.start + place.made),
    }
}
