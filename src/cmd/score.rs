//! `score RUN CORPUS`: losses of every token and document of a corpus.

use super::ranks::Ranks;
use crate::comm::processes;
use crate::config::{EvalWeights, RunConfig};
use crate::data::Corpus;
use crate::device::DType;
use crate::train::evaluate::batch_rows;
use crate::train::progress;
use crate::train::score::{Job, Output, Summary, TextBytes, Windows, score};
use crate::{Error, Result};
use serde_json::json;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier score runs/small data/web                              losses of tokens, as side stream nll
  espalier score runs/small data/web --as column:small --ranks 2  losses of documents, as a column
  espalier score runs/small data/web --as jsonl:losses.jsonl --documents ..1000
  espalier score runs/small data/web --as stream:averaged --ema   by the moving average of the weights")]
pub struct Score {
    /// Run directory or checkpoint, PATH or PATH@STEP
    from: String,
    /// Prefix of the corpus
    corpus: PathBuf,
    /// What to compute: nll, the loss of each token in nats
    #[arg(long, default_value = "nll", value_parser = ["nll"])]
    emit: String,
    /// Where to: stream:NAME (nats of each token, NaN for the first of a document), column:NAME (columns NAME, NAME_sum
    /// and NAME_count: mean, sum and number of predictions of each document) or jsonl:FILE (a line for each document);
    /// may be given several times
    #[arg(long = "as", value_name = "KIND:NAME", default_value = "stream:nll")]
    outputs: Vec<String>,
    /// Tokens of a window; longer documents are cut [default: what the model was trained with]
    #[arg(long, value_name = "T")]
    seq_len: Option<usize>,
    /// Tokens from one window of a document to the next; below T a prediction has T - S tokens of context or more
    /// [default: T]
    #[arg(long, value_name = "S")]
    stride: Option<usize>,
    /// Only these: A..B, A.. or ..B
    #[arg(long, value_name = "RANGE")]
    documents: Option<String>,
    /// f32 or bf16 [default: as the checkpoint]
    #[arg(long)]
    dtype: Option<String>,
    #[command(flatten)]
    ranks: Ranks,
    /// Seconds a rank waits for another before it calls it lost
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    deadline: u64,
    /// Seconds between notes of how far it is; after a kill the same command goes on from the last
    #[arg(long, default_value_t = 10)]
    save_every: u64,
    /// The summary as one JSON object
    #[arg(long)]
    json: bool,
}

impl Score {
    pub fn run(self) -> Result<()> {
        let checkpoint = super::open_checkpoint(&self.from)?;
        let corpus = Corpus::open(&self.corpus)?;
        let meta = &checkpoint.manifest().meta;
        let seq_len = match self.seq_len {
            Some(t) => t,
            None => {
                let run = RunConfig::load(&checkpoint.path().join("run.toml"), &[])?;
                let phase = run.phases.get(meta.phase).or(run.phases.last());
                phase.map_or(run.run.seq_len, |p| p.seq_len)
            }
        };
        let rows = batch_rows(seq_len.max(1));
        let job = Job {
            checkpoint: &checkpoint,
            corpus: &corpus,
            windows: Windows { seq_len, stride: self.stride.unwrap_or(seq_len), rows },
            documents: match &self.documents {
                None => 0..corpus.documents(),
                Some(text) => documents(text, corpus.documents())?,
            },
            dtype: dtype(self.dtype.as_deref().unwrap_or(&meta.dtype))?,
            weights: self.ranks.weights(),
            tp: self.ranks.tp,
            outputs: self.outputs.iter().map(|text| output(text)).collect::<Result<_>>()?,
            save_every: Duration::from_secs(self.save_every),
            tell: true,
        };
        let s = score(&job, &self.ranks.launch(Duration::from_secs(self.deadline))?)?;
        let averaged = if job.weights == EvalWeights::Ema { " by the average of the weights" } else { "" };
        match self.json {
            _ if !processes::is_first() => {}
            true => println!("{}", row(&s, job.weights)),
            false => println!("{}{averaged}: {}", self.corpus.display(), line(&s)),
        }
        Ok(())
    }
}

fn row(s: &Summary, weights: EvalWeights) -> serde_json::Value {
    let bytes_of = match s.bytes {
        TextBytes::Predicted(_) => Some("predictions"),
        TextBytes::Source(_) => Some("source"),
        TextBytes::Unknown(_) => None,
    };
    json!({
        "documents": s.documents, "predictions": s.predictions, "nll_sum": s.nll,
        "nll": s.nll / s.predictions as f64,
        "bits_byte": s.bits_byte(), "bytes": s.bytes.count(), "bytes_of": bytes_of,
        "tokens_per_s": s.tokens_per_s, "weights": weights.name(),
    })
}

fn line(s: &Summary) -> String {
    let mean = s.nll / s.predictions as f64;
    let mut line = format!("{} documents, {} predictions, {mean:.4} nats each", s.documents, s.predictions);
    let bits = s.bits_byte().map(|bits| format!(", {bits:.4} bits/byte"));
    line += &match (s.bytes, bits) {
        (TextBytes::Predicted(_), Some(bits)) => bits,
        (TextBytes::Source(_), Some(bits)) => format!("{bits} of the source text"),
        (TextBytes::Unknown(why), _) => format!(", bits/byte not known ({why})"),
        (_, None) => ", no text for bits/byte".into(),
    };
    if let Some(rate) = s.tokens_per_s {
        line += &format!(", {} tok/s", progress::count(rate));
    }
    line
}

fn dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::Bf16),
        other => Err(Error::config("score", "--dtype", format!("{other:?} is not known"), "f32 or bf16")),
    }
}

fn output(text: &str) -> Result<Output> {
    match text.split_once(':') {
        Some(("stream", name)) => Ok(Output::Stream(name.into())),
        Some(("column", name)) => Ok(Output::Column(name.into())),
        Some(("jsonl", file)) if !file.is_empty() => Ok(Output::Lines(file.into())),
        _ => {
            let problem = format!("{text:?} names no output");
            Err(Error::config("score", "--as", problem, "give stream:NAME, column:NAME or jsonl:FILE"))
        }
    }
}

fn documents(text: &str, all: u64) -> Result<Range<u64>> {
    let bound = |text: &str, open: u64| if text.is_empty() { Some(open) } else { text.parse().ok() };
    let range = text.split_once("..").and_then(|(a, b)| Some(bound(a, 0)?..bound(b, all)?));
    range.ok_or_else(|| {
        let problem = format!("{text:?} is no range of documents");
        Error::config("score", "--documents", problem, "give it like 0..1000, 500.. or ..500")
    })
}
