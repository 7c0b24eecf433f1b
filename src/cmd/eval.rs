//! `eval RUN`: loss on held-out text, beside n-gram models of the same tokens if asked; accuracy at multiple choice.

use super::generate::model::tokenizer;
use super::ranks::Ranks;
use crate::checkpoint::Checkpoint;
use crate::comm::{Mesh, Setup, World, processes};
use crate::config::{EvalWeights, RunConfig};
use crate::data::ngram::{MOST_TOKENS, Text};
use crate::data::{Corpus, Domain, HeldOut};
use crate::device::{DType, Device};
use crate::train::choices::{self, Accuracy, Question};
use crate::train::evaluate::{self, batch_rows};
use crate::train::fits;
use crate::train::replica::Replica;
use crate::train::run::Launch;
use crate::{Error, Result};
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Loss of a checkpoint on held-out text (nats per token, bits per byte), and accuracy at multiple choice
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier eval runs/quickstart                                 what the run evaluates itself
  espalier eval runs/quickstart --baselines                     beside bigram and trigram models of its training text
  espalier eval runs/a@500 --on web:heldout --tokens 200000     an older checkpoint, a corpus of the run
  espalier eval runs/a --corpus data/other                      all of any corpus made with the same tokenizer
  espalier eval runs/a --ema                                    by the moving average of its weights
  espalier eval runs/a --choices hellaswag.jsonl                acc and acc_norm")]
pub struct Eval {
    /// Run directory or checkpoint, PATH or PATH@STEP
    from: String,
    /// A corpus of the run: NAME, or NAME:heldout for what training leaves out; may be given several times
    /// [default: what the run evaluates]
    #[arg(long, value_name = "NAME[:heldout]")]
    on: Vec<String>,
    /// Prefix of another corpus, all of which is evaluated; may be given several times
    #[arg(long, value_name = "PREFIX")]
    corpus: Vec<PathBuf>,
    /// Predictions for each corpus at most [default: as the run, or 1000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens: Option<u64>,
    /// Also fit interpolated Kneser-Ney bigram and trigram models on the training part of each corpus of the run
    #[arg(long)]
    baselines: bool,
    /// Questions, a JSON object a line: context, endings, label
    #[arg(long, value_name = "FILE")]
    choices: Option<PathBuf>,
    /// Tokens of a window [default: what the model was trained with]
    #[arg(long, value_name = "T")]
    seq_len: Option<usize>,
    /// f32 or bf16 [default: as the checkpoint]
    #[arg(long, value_parser = ["f32", "bf16"])]
    dtype: Option<String>,
    #[command(flatten)]
    ranks: Ranks,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// A line of the result.
#[derive(Serialize)]
struct Line {
    corpus: String,
    /// "model", "bigram" or "trigram"
    by: &'static str,
    nll_token: f64,
    bits_byte: Option<f64>,
    tokens: u64,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let checkpoint = super::open_checkpoint(&self.from)?;
        let meta = &checkpoint.manifest().meta;
        let run = RunConfig::load(&checkpoint.path().join("run.toml"), &[])?;
        let phase = run.phases.get(meta.phase).or(run.phases.last());
        let seq_len = self.seq_len.or(phase.map(|p| p.seq_len)).unwrap_or(run.run.seq_len);
        let dtype = match self.dtype.as_deref().unwrap_or(&meta.dtype) {
            "bf16" => DType::Bf16,
            _ => DType::F32,
        };
        let (launch, weights) = (self.ranks.launch(Duration::from_secs(600))?, self.ranks.weights());
        fits::launch("eval", &checkpoint, &launch, self.ranks.tp, seq_len)?;
        checkpoint.check_values(weights.into())?;
        let held = self.held_out(&checkpoint, &run, seq_len)?;
        let questions = self.choices.as_deref().map(choices::read).transpose()?;
        let (mut lines, accuracy) = self.evaluate(&checkpoint, dtype, seq_len, &launch, &held, &questions)?;
        if !processes::is_first() {
            return Ok(());
        }
        if self.baselines {
            lines = with_baselines(lines, &held)?;
        }
        match self.json {
            true => println!(
                "{}",
                json!({
                    "checkpoint": checkpoint.path(), "update": meta.clocks.update, "weights": weights.name(),
                    "results": lines, "choices": accuracy,
                })
            ),
            false => print(&checkpoint, weights, &lines, accuracy.as_ref()),
        }
        Ok(())
    }

    /// What is evaluated, by the name it is printed with.
    fn held_out(
        &self,
        checkpoint: &Checkpoint,
        run: &RunConfig,
        seq_len: usize,
    ) -> Result<Vec<(String, HeldOut)>> {
        let phase = run.phases.get(checkpoint.manifest().meta.phase).or(run.phases.last());
        let own = phase.and_then(|p| p.eval.as_ref());
        let mut names = self.on.clone();
        if names.is_empty() && self.corpus.is_empty() && self.choices.is_none() {
            let on = own.map(|e| &e.on[..]).unwrap_or_default();
            names = on
                .iter()
                .map(|t| format!("{}{}", t.corpus, if t.heldout { ":heldout" } else { "" }))
                .collect();
            if names.is_empty() {
                let problem = "the run evaluates nothing itself";
                return Err(Error::config("eval", "--on", problem, "give --on, --corpus or --choices"));
            }
        }
        let tokens = self.tokens.or(own.map(|e| e.tokens)).unwrap_or(1_000_000);
        let mut all = vec![];
        for name in names {
            let (corpus, heldout) = name.strip_suffix(":heldout").map_or((&name[..], false), |c| (c, true));
            let Some((_, data)) = run.data.iter().find(|(n, _)| n == corpus) else {
                let known: Vec<&str> = run.data.iter().map(|(n, _)| n.as_str()).collect();
                let problem = format!("the run has no corpus {corpus:?}");
                return Err(Error::config("eval", "--on", problem, format!("it has {}", known.join(", "))));
            };
            let mut domain = Domain::open(corpus, data)?;
            if !heldout {
                domain.holdout = 1.0; // all of it
            }
            all.push((name.clone(), domain));
        }
        for prefix in &self.corpus {
            let name = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut domain = Domain::new(&name, Arc::new(Corpus::open(prefix)?));
            domain.holdout = 1.0;
            all.push((prefix.display().to_string(), domain));
        }
        all.into_iter()
            .map(|(name, domain)| {
                fits::corpus(checkpoint, &domain.corpus)?;
                Ok((name, HeldOut::new(&domain, seq_len, tokens)?))
            })
            .collect()
    }

    fn evaluate(
        &self,
        checkpoint: &Checkpoint,
        dtype: DType,
        seq_len: usize,
        launch: &Launch,
        held: &[(String, HeldOut)],
        questions: &Option<Vec<Question>>,
    ) -> Result<(Vec<Line>, Option<Accuracy>)> {
        let step = checkpoint.manifest().meta.clocks.update;
        let tokenizer = questions.as_ref().map(|_| tokenizer(checkpoint)).transpose()?;
        let rank = |world: World| -> Result<(Vec<Line>, Option<Accuracy>)> {
            let mesh = Mesh::new(world, self.ranks.tp)?;
            let dev = Device::cpu(launch.threads_per_rank());
            let mut r = Replica::of_checkpoint(checkpoint, self.ranks.weights(), dtype, seq_len, dev, mesh)?;
            let mut lines = vec![];
            for (name, held) in held {
                let e = evaluate::run(&mut r, held, batch_rows(seq_len), step)?;
                let (nll_token, bits_byte, tokens) = (e.nll_token, e.bits_byte, e.tokens);
                lines.push(Line { corpus: name.clone(), by: "model", nll_token, bits_byte, tokens });
            }
            let accuracy = match (questions, &tokenizer, &self.choices) {
                (Some(questions), Some(tokenizer), Some(file)) => {
                    Some(choices::ask(&mut r, tokenizer, questions, file, seq_len)?)
                }
                _ => None,
            };
            Ok((lines, accuracy))
        };
        let all = processes::run(launch.ranks, &Setup::new(launch.deadline), |world| {
            let abort = world.clone();
            rank(world).inspect_err(|e| abort.abort(&e.to_string()))
        })?;
        // All ranks have the same.
        Ok(all.into_iter().next().expect("this process has a rank"))
    }
}

/// Each line followed by those of the n-gram models. Only what training left out can be compared.
fn with_baselines(lines: Vec<Line>, held: &[(String, HeldOut)]) -> Result<Vec<Line>> {
    let mut all = vec![];
    for (line, (name, held)) in lines.into_iter().zip(held) {
        if held.domain().holdout >= 1.0 {
            let problem = format!("{name} has no training part to fit n-gram models on");
            return Err(Error::config("eval", "--baselines", problem, "give corpora like --on NAME:heldout"));
        }
        if held.domain().weights.is_some() {
            let problem =
                format!("the predictions of {name} have weights, which n-gram models know nothing of");
            return Err(Error::config("eval", "--baselines", problem, "leave it out for this corpus"));
        }
        let text = Text::of_training(held.domain(), MOST_TOKENS)?;
        all.push(line);
        for (by, order) in [("trigram", 3), ("bigram", 2)] {
            let nll = text.fit(order).nll(held)?;
            all.push(Line {
                corpus: name.clone(),
                by,
                nll_token: nll / held.tokens() as f64,
                bits_byte: held.bytes().map(|bytes| nll / std::f64::consts::LN_2 / bytes as f64),
                tokens: held.tokens(),
            });
        }
    }
    Ok(all)
}

fn print(checkpoint: &Checkpoint, weights: EvalWeights, lines: &[Line], accuracy: Option<&Accuracy>) {
    let averaged = if weights == EvalWeights::Ema { ", by the average of its weights" } else { "" };
    println!("{}{averaged}", checkpoint.path().display());
    let name = |line: &Line| match line.by {
        "model" => line.corpus.clone(),
        order => format!("  Kneser-Ney {order}"),
    };
    let width = lines.iter().map(|l| name(l).chars().count()).max().unwrap_or(0);
    if !lines.is_empty() {
        println!("{:width$}  nats/token  bits/byte  predictions", "");
    }
    for line in lines {
        let bits = line.bits_byte.map_or("-".into(), |b| format!("{b:.4}"));
        println!("{:width$}  {:>10.4}  {bits:>9}  {:>11}", name(line), line.nll_token, line.tokens);
    }
    if let Some(a) = accuracy {
        println!("{} questions: acc {:.4}, acc_norm {:.4}", a.questions, a.acc, a.acc_norm);
        if a.cut > 0 {
            println!("{} endings were cut to fit the model's window", a.cut);
        }
    }
}
