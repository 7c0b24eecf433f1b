//! `corpus sample`: one document, one training sample, or the proof that samples repeat and skip nothing.

use crate::config::{self, DataConfig, Io, RunConfig};
use crate::data::tokenizer::text;
use crate::data::{Attention, Corpus, Cursor, Domain, Ledger, Origin, Proof, Sample as Drawn, Sampler};
use crate::{Error, Result};
use serde_json::json;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Print one document, or the training sample that a run with these settings draws
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier corpus sample data/web --document 12
  espalier corpus sample data/web --seq-len 1024 --prove 0..5000
  espalier corpus sample --run run.toml --at 12345")]
pub struct Sample {
    /// Prefix of the .bin, .idx and .json files
    #[arg(required_unless_present = "run")]
    prefix: Option<PathBuf>,
    /// The text of this document [default: 0, without --at and --prove]
    #[arg(long, conflicts_with_all = ["at", "prove", "run"])]
    document: Option<u64>,
    /// The training sample with this number: its tokens, documents and places in the corpus
    #[arg(long)]
    at: Option<u64>,
    /// Check that the samples A..B repeat and skip nothing
    #[arg(long, value_name = "A..B", value_parser = range)]
    prove: Option<Range<u64>>,
    /// Take corpora, mix and settings from a run file
    #[arg(long, value_name = "FILE.toml", conflicts_with = "prefix")]
    run: Option<PathBuf>,
    /// Phase of the run file whose cursor is read [default: the first]
    #[arg(long, requires = "run")]
    phase: Option<String>,
    #[command(flatten)]
    settings: Settings,
    #[arg(long)]
    json: bool,
}

/// What a run file says otherwise.
#[derive(clap::Args)]
struct Settings {
    /// Tokens per sequence
    #[arg(long, conflicts_with = "run")]
    seq_len: Option<usize>,
    #[arg(long, default_value_t = 1234, conflicts_with = "run")]
    seed: u64,
    #[arg(long, default_value = "stream", conflicts_with = "run")]
    order: Order,
    #[arg(long, default_value = "window", conflicts_with = "run")]
    packing: Packing,
    /// Windows that best-fit packs together
    #[arg(long, default_value_t = 64, conflicts_with = "run")]
    pack_group: u64,
    /// Samples of the whole run, on which Megatron's order depends
    #[arg(long, conflicts_with = "run")]
    samples: Option<u64>,
    /// Shares of training, validation and test in Megatron's order [default: 969,30,1]
    #[arg(long, value_delimiter = ',', num_args = 1, conflicts_with = "run")]
    split: Option<Vec<f64>>,
    #[arg(long, default_value = "document", conflicts_with = "run")]
    attention: Attend,
    /// Name of the corpus in the run, which the stream order depends on [default: the last part of the prefix]
    #[arg(long, conflicts_with = "run")]
    name: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Order {
    Stream,
    Megatron,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Packing {
    Window,
    BestFit,
    OneDoc,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Attend {
    Document,
    Full,
}

fn range(text: &str) -> std::result::Result<Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    parsed.filter(|range: &Range<u64>| !range.is_empty()).ok_or(format!("{text} is not A..B with A below B"))
}

impl Sample {
    pub fn run(self) -> Result<()> {
        if self.at.is_none() && self.prove.is_none() && self.run.is_none() {
            return self.print_document(self.prefix.as_deref().unwrap_or(Path::new("")));
        }
        let mut sampler = match (&self.run, &self.prefix) {
            (Some(file), _) => self.of_run(file)?,
            (None, prefix) => self.settings.sampler(prefix.as_deref().unwrap_or(Path::new("")))?,
        };
        if let Some(range) = self.prove.clone() {
            return self.print_proof(&sampler.prove(range)?);
        }
        let sample = sampler.sample(self.at.unwrap_or(0))?;
        let domain = sampler.domains().nth(sample.origin.domain).expect("a sample is of one of the domains");
        self.print_sample(&sample, domain)
    }

    fn print_document(&self, prefix: &Path) -> Result<()> {
        let c = Corpus::open(prefix)?;
        let document = self.document.unwrap_or(0);
        let range = c.document_range(document)?;
        let mut ids = vec![0; (range.end - range.start) as usize];
        c.read(range.start, &mut ids)?;
        match (self.json, text(&c, &ids)?) {
            (true, text) => {
                println!(
                    "{:#}",
                    json!({ "document": document, "first": range.start, "tokens": ids, "text": text })
                )
            }
            (false, Some(text)) => println!("{text}"),
            (false, None) => println!("{}", spaced(&ids)),
        }
        Ok(())
    }

    fn of_run(&self, file: &Path) -> Result<Sampler> {
        let config = RunConfig::load(file, &[])?;
        let phase = match &self.phase {
            None => 0,
            Some(name) => config.phases.iter().position(|p| p.name == *name).ok_or_else(|| {
                let names: Vec<&str> = config.phases.iter().map(|p| p.name.as_str()).collect();
                let remedy = format!("it has: {}", names.join(", "));
                Error::config(file.display(), "phase", format!("there is no phase {name:?}"), remedy)
            })?,
        };
        let domains: Vec<Domain> =
            config.data.iter().map(|(n, d)| Domain::open(n, &in_place(d))).collect::<Result<_>>()?;
        Sampler::open(&Cursor::of_phase(&config, &domains, phase)?, domains)
    }

    fn print_sample(&self, sample: &Drawn, domain: &Domain) -> Result<()> {
        let spans = spans(&sample.origin, &domain.corpus)?;
        let text = text(&domain.corpus, &sample.tokens)?;
        if self.json {
            let mut row = serde_json::to_value(sample).expect("plain data");
            row["corpus"] = json!(domain.name);
            row["spans"] = json!(spans);
            row["text"] = json!(text);
            println!("{row}");
            return Ok(());
        }
        let o = &sample.origin;
        println!(
            "sample {}: number {} of corpus \"{}\", row {} of pass {}",
            o.id, o.index, domain.name, o.row, o.pass
        );
        for span in &spans {
            println!(
                "  inputs {:>6}: {:>6} tokens from token {} of document {}, corpus token {}",
                span.at, span.inputs, span.offset, span.document, span.first
            );
        }
        let counted = sample.weights.iter().filter(|&&w| w != 0.0).count();
        let sum: f64 = sample.weights.iter().map(|&w| f64::from(w)).sum();
        println!(
            "  {counted} of {} targets count, {sum} in all; attention is cut at {}",
            sample.weights.len(),
            spaced(&sample.documents)
        );
        println!("  tokens {}", spaced(&sample.tokens));
        if let Some(last) = sample.targets.last() {
            println!("  last target {last}");
        }
        if let Some(text) = text {
            println!("{text}");
        }
        Ok(())
    }

    fn print_proof(&self, proof: &Proof) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_value(proof).expect("plain data"));
        } else {
            for d in &proof.domains {
                println!(
                    "corpus \"{}\": {} samples, {} rows to a pass, {} whole passes of {} begun, {} predictions",
                    d.name, d.samples, d.rows, d.whole, d.begun, d.predicted
                );
                for (times, tokens) in &d.times {
                    println!("  {tokens} tokens predicted {times} times");
                }
            }
        }
        match proof.wrong() {
            None => {
                if !self.json {
                    println!("samples {}..{} repeat nothing and skip nothing", proof.first, proof.end);
                }
                Ok(())
            }
            Some((name, wrong)) => {
                let remedy = "this is a defect of the program or of the corpus: run `espalier corpus verify`";
                Err(Error::data(name, format!("samples {}..{}: {wrong}", proof.first, proof.end), remedy))
            }
        }
    }
}

/// One sample is no reason to copy a corpus.
fn in_place(d: &DataConfig) -> DataConfig {
    DataConfig { io: if d.io == Io::Stage { Io::Mmap } else { d.io }, ..d.clone() }
}

impl Settings {
    fn sampler(&self, prefix: &Path) -> Result<Sampler> {
        let bad =
            |key: &str, problem: &str, remedy: &str| Err(Error::config("command line", key, problem, remedy));
        let Some(seq_len) = self.seq_len else {
            return bad(
                "--seq-len",
                "a sample has no length without it",
                "give --seq-len, or --run FILE.toml",
            );
        };
        if matches!(self.order, Order::Megatron) && self.samples.is_none() {
            let problem = "Megatron's order depends on the number of samples of the whole run";
            return bad("--samples", problem, "give --samples, steps times global_batch");
        }
        let last = prefix.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut domain = Domain::new(self.name.as_ref().unwrap_or(&last), Arc::new(Corpus::open(prefix)?));
        domain.order = match self.order {
            Order::Stream => config::Order::Stream,
            Order::Megatron => config::Order::Megatron,
        };
        domain.packing = match self.packing {
            Packing::Window => config::Packing::Window,
            Packing::BestFit => config::Packing::BestFit,
            Packing::OneDoc => config::Packing::OneDoc,
        };
        domain.pack_group = self.pack_group;
        if let Some(split) = &self.split {
            let good = split.iter().all(|x| x.is_finite() && *x >= 0.0) && split.iter().sum::<f64>() > 0.0;
            let Some(split) = <[f64; 3]>::try_from(&split[..]).ok().filter(|_| good) else {
                return bad("--split", "this is not a split", "give three shares, such as 949,50,1");
            };
            domain.split = split;
        }
        let attention = match self.attention {
            Attend::Document => Attention::Document,
            Attend::Full => Attention::Full,
        };
        let cursor = Cursor::new(self.seed, seq_len, attention, Ledger::constant(&[(&domain.name, 1.0)]));
        Sampler::open(&Cursor { samples: self.samples, ..cursor }, vec![domain])
    }
}

/// The part of one document in a row.
#[derive(serde::Serialize)]
struct Span {
    /// Inputs of the row from here.
    at: u64,
    inputs: u64,
    document: u64,
    /// Where in the document and where in the corpus it begins.
    offset: u64,
    first: u64,
}

fn spans(origin: &Origin, corpus: &Corpus) -> Result<Vec<Span>> {
    let (mut spans, mut at) = (vec![], 0);
    for piece in &origin.pieces {
        let (mut first, end) = (piece.first, piece.first + u64::from(piece.inputs));
        while first < end {
            let document = corpus.document_at(first)?;
            let range = corpus.document_range(document)?;
            let inputs = range.end.min(end).saturating_sub(first).max(1);
            spans.push(Span { at, inputs, document, offset: first - range.start, first });
            (at, first) = (at + inputs, first + inputs);
        }
    }
    Ok(spans)
}

fn spaced(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}
