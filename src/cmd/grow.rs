//! `grow`: a checkpoint or a Hugging Face directory to a larger model, tensor by tensor.

use super::{open_checkpoint, print};
use crate::checkpoint::{Checkpoint, Clocks, Kind, Meta, Values, Whole, write_whole};
use crate::comm::{Mesh, processes};
use crate::config::{Grow, Init, ModelConfig, RunConfig, Sizes, grow};
use crate::device::{DType, Device};
use crate::hf::{self, Export, Family, HfSource, Options};
use crate::method::grow::{Grown, Growth, Quantity, stack_after};
use crate::model::Network;
use crate::params::{Dp, ParamSpec, TensorSource};
use crate::rng::Philox;
use crate::tape::Seq;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Tokens that `--check` compares logits of, if the model has as many positions.
const CHECKED: usize = 64;

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Examples:
  espalier grow runs/small grown --to layers=12,dim=768,heads=12,ffn_dim=3072 --check
  espalier grow runs/small grown --to dim=512,ffn_dim=1536 --width tile
  espalier grow runs/small grown --to layers=24 --depth stack --tokens 15e12       when G_stack would stack
  espalier grow runs/small runs/large --to dim=512 --optimizer carry               a run that goes on
  espalier grow hf-model hf-larger --to layers=8 --export                          Hugging Face to Hugging Face")]
pub struct GrowArgs {
    /// Run directory or checkpoint, PATH or PATH@STEP, or a Hugging Face directory
    src: String,
    /// Directory to write; it must not be there: a checkpoint, with --optimizer carry a run
    dest: PathBuf,
    /// Sizes of the larger model: layers, dim, heads, kv_heads, head_dim, ffn_dim, vocab
    #[arg(long, value_name = "KEY=N,..")]
    to: String,
    /// zero_pad and tile keep what the model computes; fpi does for whole multiples of dim, aki does not
    #[arg(long, default_value = "zero_pad")]
    width: String,
    /// identity keeps what the model computes; stack and interpolate do not
    #[arg(long, default_value = "identity")]
    depth: String,
    /// Of what is new and of random maps
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// reset: a checkpoint to begin a run with; carry: a run with the moments of SRC, which goes on
    #[arg(long, default_value = "reset")]
    optimizer: String,
    /// Compute the logits of both models for random tokens, and say how far they are apart; takes memory for both
    #[arg(long)]
    check: bool,
    /// Write a Hugging Face directory (f32) instead of a checkpoint
    #[arg(long)]
    export: bool,
    /// Tokens that the larger model will have seen in all: says after how many of them G_stack's formula stacks
    #[arg(long)]
    tokens: Option<f64>,
    /// Accept a Hugging Face directory without a head (an encoder); the head gets initial values
    #[arg(long)]
    allow_missing_head: bool,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

enum Source {
    HuggingFace(Box<HfSource>),
    Checkpoint(Box<Checkpoint>),
}

impl Source {
    fn open(args: &GrowArgs) -> Result<Source> {
        let dir = Path::new(&args.src);
        if dir.join("config.json").is_file() {
            let options = Options { allow_missing_head: args.allow_missing_head, seed: args.seed };
            return Ok(Source::HuggingFace(Box::new(HfSource::open_with(dir, options)?)));
        }
        let checkpoint = open_checkpoint(&args.src)?;
        checkpoint.verify()?;
        Ok(Source::Checkpoint(Box::new(checkpoint)))
    }
    fn model(&self) -> &ModelConfig {
        match self {
            Source::HuggingFace(s) => s.config(),
            Source::Checkpoint(c) => &c.manifest().meta.model,
        }
    }
    /// The weights that training would go on with.
    fn weights(&self) -> Box<dyn TensorSource + '_> {
        match self {
            Source::HuggingFace(s) => Box::new(By(s.as_ref())),
            Source::Checkpoint(c) => Box::new(c.weights(Values::Master)),
        }
    }
}

struct By<'a>(&'a dyn TensorSource);

impl TensorSource for By<'_> {
    fn read(&self, spec: &ParamSpec, b: crate::params::LocalBox, out: &mut [f32]) -> Result<()> {
        self.0.read(spec, b, out)
    }
}

impl GrowArgs {
    pub fn run(self) -> Result<()> {
        let wanted = self.wanted()?;
        let carry = match self.optimizer.as_str() {
            "reset" => false,
            "carry" => true,
            other => return Err(wrong("--optimizer", format!("{other:?} is not known"), "reset or carry")),
        };
        if self.dest.exists() {
            return Err(Error::checkpoint(&self.dest, "is there already", "give a directory that is not"));
        }
        let source = Source::open(&self)?;
        let growth = Growth::resolve(&wanted, source.model(), "grow", "--to ")?;
        let weights = source.weights();
        let grown = Grown::new(&growth, weights.as_ref(), Quantity::Weight);
        let apart = if self.check { Some(apart(&growth, weights.as_ref(), &grown)?) } else { None };
        let next = match (&source, self.export) {
            (Source::Checkpoint(_) | Source::HuggingFace(_), true) if carry => {
                let problem = "a Hugging Face directory holds no moments";
                return Err(wrong("--optimizer", problem, "leave out --export or --optimizer"));
            }
            (source, true) => self.export(source, &growth, &grown)?,
            (Source::HuggingFace(_), false) if carry => {
                let problem = "a Hugging Face directory has no moments to carry";
                return Err(wrong("--optimizer", problem, "reset"));
            }
            (Source::HuggingFace(_), false) => self.plain(&growth, &grown)?,
            (Source::Checkpoint(c), false) => self.checkpoint(c, &growth, &grown, carry)?,
        };
        print(&if self.json {
            format!("{:#}\n", self.summary(&growth, apart, &next))
        } else {
            self.describe(&growth, apart, &next)
        })
    }

    fn wanted(&self) -> Result<Grow> {
        let mut to = Sizes::default();
        for part in self.to.split(',') {
            let sized = part.split_once('=').and_then(|(k, n)| Some((k.trim(), n.trim().parse().ok()?)));
            if !sized.is_some_and(|(key, n)| to.set(key, n)) {
                let known = Sizes::KEYS.join(", ");
                let problem = format!("{part:?} is not KEY=NUMBER");
                return Err(wrong("--to", problem, &format!("KEY is one of {known}")));
            }
        }
        let width = choice("--width", &self.width, grow::WIDTHS)?;
        let depth = choice("--depth", &self.depth, grow::DEPTHS)?;
        Ok(Grow { to, width, depth, seed: self.seed })
    }

    /// A Hugging Face directory; what to do with it.
    fn export(&self, source: &Source, growth: &Growth, grown: &Grown) -> Result<String> {
        let (family, extra) = match source {
            Source::HuggingFace(s) => (s.family(), Some(s.json())),
            Source::Checkpoint(_) => (Family::of(&growth.to)?, None),
        };
        hf::export(&self.dest, family, &growth.to, grown, Export { extra, ..Export::default() })?;
        Ok(format!("espalier import {}", self.dest.display()))
    }

    /// A checkpoint of what came from a Hugging Face directory; the command that begins with it.
    fn plain(&self, growth: &Growth, grown: &Grown) -> Result<String> {
        let meta = Meta {
            clocks: Clocks::default(),
            phase: 0,
            phase_step: 0,
            lr: 0.0,
            ledger: Value::Null,
            data: Value::Null,
            corpora: vec![],
            numbers: Value::Null,
            tokenizer_hash: String::new(),
            end_of_document: None,
            seed: self.seed,
            config_hash: String::new(),
            dtype: DType::F32.name().into(),
            model: growth.to.clone(),
            git: crate::GIT.into(),
        };
        let all = |_: &ParamSpec| Ok(Some(DType::F32));
        let kinds = [Whole { kind: Kind::Weight, source: grown, dtype: &all }];
        write_whole(&self.dest, &meta, &Network::specs(&growth.to), &kinds, &[])?;
        Ok(format!(
            "espalier ckpt inspect {0}; a run begins with it by init = \"ckpt:{0}\"",
            self.dest.display()
        ))
    }

    /// A checkpoint, or a run that has it; the command that goes on.
    fn checkpoint(&self, from: &Checkpoint, growth: &Growth, grown: &Grown, carry: bool) -> Result<String> {
        let old = from.manifest();
        if carry && !from.has_moments() {
            let problem = "it has no moments to carry";
            return Err(Error::checkpoint(from.path(), problem, "take --optimizer reset"));
        }
        let mut meta = Meta { model: growth.to.clone(), ..old.meta.clone() };
        let mut texts = from.texts()?;
        let config = texts.iter().position(|(name, _)| name == "run.toml").map(|i| texts.remove(i));
        let config = config.map(|(_, text)| self.run_file(&text, from, growth, carry)).transpose()?;
        if carry && config.is_none() {
            let problem = "it has no run.toml to go on with";
            return Err(Error::checkpoint(from.path(), problem, "take --optimizer reset"));
        }
        if let Some(config) = &config {
            meta.config_hash = format!("{:016x}", config.hash());
            texts.push(("run.toml".into(), config.resolved_toml()));
        }
        if !carry {
            (meta.clocks, meta.phase, meta.phase_step) = (Clocks::default(), 0, 0);
            (meta.data, meta.numbers) = (Value::Null, Value::Null);
        }
        let kinds = if carry { &Kind::ALL[..] } else { &[Kind::Weight, Kind::Master][..] };
        let quantity = |kind| match kind {
            Kind::M => Quantity::Gradient,
            Kind::V => Quantity::Square,
            Kind::Weight | Kind::Master | Kind::Ema => Quantity::Weight,
        };
        let values: Vec<_> = kinds.iter().map(|&kind| from.values(kind)).collect();
        let sources: Vec<_> =
            kinds.iter().zip(&values).map(|(k, v)| Grown::new(growth, v, quantity(*k))).collect();
        let of = |kind: Kind| {
            move |spec: &ParamSpec| match growth.source_of(spec) {
                Some(spec) => from.dtype(kind, spec),
                None => Ok(None),
            }
        };
        let types: Vec<_> = kinds.iter().map(|&kind| of(kind)).collect();
        // Weights are what the masters round to.
        let source = |kind: Kind, own| if kind == Kind::Weight { grown as &dyn TensorSource } else { own };
        let whole = kinds.iter().zip(&sources).zip(&types);
        let whole: Vec<Whole> =
            whole.map(|((&kind, own), dtype)| Whole { kind, source: source(kind, own), dtype }).collect();
        let dest = self.dest.display();
        let path = if carry {
            let dir = self.dest.join("ckpt");
            std::fs::create_dir_all(&dir).map_err(Error::io(&dir, "create"))?;
            dir.join(format!("step-{:08}", meta.clocks.update))
        } else {
            self.dest.clone()
        };
        write_whole(&path, &meta, &Network::specs(&growth.to), &whole, &texts)?;
        Ok(match (carry, &config) {
            (true, Some(config)) => {
                crate::checkpoint::replace(&self.dest.join("run.toml"), config.resolved_toml().as_bytes())?;
                format!("espalier train {dest}/run.toml, with a longer last phase if it was at its end")
            }
            (_, Some(_)) => format!("espalier train {dest}/run.toml --set run.dir=RUN"),
            (_, None) => format!("begin a run with init = \"ckpt:{dest}\""),
        })
    }

    /// The run file of the source with the larger model: one that begins with it, or goes on.
    fn run_file(&self, text: &str, from: &Checkpoint, growth: &Growth, carry: bool) -> Result<RunConfig> {
        let mut config = RunConfig::parse(text, &from.path().join("run.toml").display().to_string(), &[])?;
        // Growth that lies behind is in the model, and what is still to come would begin from another.
        let meta = &from.manifest().meta;
        let begun = (meta.phase + 1).min(config.phases.len());
        let (behind, ahead) = config.phases.split_at_mut(begun);
        if let Some(phase) = ahead.iter().find(|p| p.grow.is_some()) {
            let problem = format!("its phase {:?} grows the model that this would replace", phase.name);
            return Err(Error::checkpoint(from.path(), problem, "grow what comes after that phase"));
        }
        behind.iter_mut().for_each(|phase| phase.grow = None);
        let sparse = behind.last().filter(|p| carry && p.spdf.is_some());
        if let Some(phase) = sparse {
            let problem = format!("phase {:?} keeps zeros, which growth undoes", phase.name);
            return Err(Error::checkpoint(from.path(), problem, "leave --optimizer carry out"));
        }
        config.model = growth.to.clone();
        if carry {
            config.run.dir = self.dest.clone();
        } else {
            config.run.init = Init::Checkpoint { path: self.dest.clone(), step: None, ema: false };
        }
        Ok(config)
    }

    fn summary(&self, growth: &Growth, apart: Option<(f64, f64)>, next: &str) -> Value {
        json!({
            "src": self.src,
            "dest": self.dest.display().to_string(),
            "params": [growth.from.params(), growth.to.params()],
            "model": growth.to,
            "exact": growth.losses().is_empty(),
            "inexact": growth.losses(),
            "logits_apart": apart.map(|(off, _)| off),
            "largest_logit": apart.map(|(_, most)| most),
            "stack_after_tokens": self.tokens.map(|tokens| stack_after(growth.to.params() as f64, tokens)),
            "next": next,
        })
    }

    fn describe(&self, growth: &Growth, apart: Option<(f64, f64)>, next: &str) -> String {
        let (from, to) = (&growth.from, &growth.to);
        let mut out = format!("{}: {} -> {} parameters\n", self.dest.display(), from.params(), to.params());
        let mut line = |text: String| writeln!(out, "  {text}").expect("strings grow");
        for (key, old, new) in growth.sizes().into_iter().filter(|(_, old, new)| old != new) {
            line(format!("{key} {old} -> {new}"));
        }
        if from.norm_eps != to.norm_eps {
            line(format!(
                "norm_eps {:?} -> {:?}, for statistics over more channels",
                from.norm_eps, to.norm_eps
            ));
        }
        match growth.losses().as_slice() {
            [] if growth.nearly() => {
                line(format!("exact but for {:?} of the variance: idle blocks norm twice", from.norm_eps));
            }
            [] => line("exact: the logits stay what they are, to rounding".into()),
            why => line(format!("not exact: {}", why.join("; "))),
        }
        if let Some((off, most)) = apart {
            line(format!("checked: logits at most {off:.1e} apart, the largest is {most:.3}"));
        }
        if let Some(tokens) = self.tokens {
            let after = stack_after(to.params() as f64, tokens);
            let large =
                if after > tokens { ", more than there are: the formula is for large models" } else { "" };
            line(format!("G_stack stacks after {:.3e} tokens of {tokens:.3e}{large}", after));
        }
        line(format!("next: {next}"));
        out
    }
}

fn wrong(key: &str, problem: impl ToString, remedy: &str) -> Error {
    Error::config("grow", key, problem, remedy)
}

fn choice<T: Copy>(key: &str, text: &str, all: &[(&str, T)]) -> Result<T> {
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    match all.iter().find(|(name, _)| *name == text) {
        Some((_, one)) => Ok(*one),
        None => Err(wrong(key, format!("{text:?} is not known"), &format!("one of {}", names.join(", ")))),
    }
}

/// The largest difference between logits of the two models for the same random tokens, and the largest logit.
fn apart(growth: &Growth, small: &dyn TensorSource, large: &dyn TensorSource) -> Result<(f64, f64)> {
    let random = Philox::new(growth.grow.seed, "grow/check");
    let n = CHECKED.min(growth.from.max_positions);
    let vocab = growth.from.vocab;
    let tokens: Vec<u32> = (0..n as u64).map(|i| (random.wide(i, 0) % vocab as u64) as u32).collect();
    let seq = Seq::packed(&tokens, &[n]);
    let before = logits(&growth.from, small, &seq)?;
    let after = logits(&growth.to, large, &seq)?;
    let pairs = before.chunks(vocab).zip(after.chunks(growth.to.vocab)).flat_map(|(a, b)| a.iter().zip(b));
    let off = pairs.fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
    Ok((off, before.iter().fold(0.0, |most: f64, x| most.max(x.abs()))))
}

/// (N, V) in f32
fn logits(model: &ModelConfig, source: &dyn TensorSource, seq: &Seq) -> Result<Vec<f64>> {
    let (dev, mesh) = (Device::cpu(processes::threads_per_rank(1)), Mesh::solo());
    let (net, mut params) = Network::build(model, &dev, DType::F32, (0, 1), Dp::SOLO, seq.seq_len);
    params.forget_training();
    params.fill(&dev, source)?;
    let h = net.forward(&dev, mesh.tp.as_ref(), &params, seq, None)?;
    Ok(net.head.logits(&dev, mesh.tp.as_ref(), &params, &net.embed, &h)?.to_f64())
}
