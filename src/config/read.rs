//! The sections of a run file other than `[model]` and the phases, and the order in which all are read.

use super::doc::{Doc, Value};
use super::keys::nearest;
use super::run::*;
use super::table::{Table, number};
use super::{muon, read_data, read_model, read_numerics, read_phase};
use crate::Result;

pub(super) const SEQ_LEN: std::ops::RangeInclusive<usize> = 1..=1 << 28;
pub(super) const GLOBAL_BATCH: std::ops::RangeInclusive<usize> = 1..=1 << 31;
/// Beyond any corpus, and still a TOML integer.
pub(super) const TOKENS: std::ops::RangeInclusive<u64> = 1..=1 << 62;

pub(super) const ATTENTION: &[(&str, Attention)] =
    &[("document", Attention::Document), ("full", Attention::Full)];
pub(super) const EVAL_WEIGHTS: &[(&str, EvalWeights)] =
    &[(EvalWeights::Trained.name(), EvalWeights::Trained), (EvalWeights::Ema.name(), EvalWeights::Ema)];
pub(super) const DEVICES: &[(&str, DeviceChoice)] =
    &[("auto", DeviceChoice::Auto), ("cpu", DeviceChoice::Cpu), ("cuda", DeviceChoice::Cuda)];
pub(super) const PRECISIONS: &[(&str, Precision)] = &[("f32", Precision::F32), ("bf16", Precision::Bf16)];
pub(super) const ACCUMULATE: &[(&str, Accumulate)] =
    &[("local", Accumulate::Local), ("sharded", Accumulate::Sharded)];
pub(super) const REDUCTIONS: &[(&str, Reductions)] = &[
    (Reductions::Ordered.name(), Reductions::Ordered),
    (Reductions::Library.name(), Reductions::Library),
    (Reductions::Fastest.name(), Reductions::Fastest),
];
pub(super) const RECOMPUTE: &[(&str, Recompute)] =
    &[("keep", Recompute::Keep), ("cheap", Recompute::Cheap), ("full", Recompute::Full)];

pub(super) fn config(doc: &Doc) -> Result<RunConfig> {
    let root = Table::root(doc);
    let run = run_section(&root.table("run")?)?;
    let phase_tables = root.tables("phase")?.unwrap_or_default();
    if phase_tables.is_empty() {
        return Err(root.error(
            "phase",
            "there is no phase",
            "add a [[phase]] table with name, tokens and lr",
        ));
    }
    let mut longest = run.seq_len;
    for t in &phase_tables {
        longest = longest.max(t.usize("seq_len", SEQ_LEN)?.unwrap_or(0));
    }
    let Some(model) = root.opt_table("model")? else {
        return Err(root.error(
            "model",
            "there is no model",
            "add [model] with preset = \"gpt2-124m\" or sizes",
        ));
    };
    let model = read_model::model(&model, Some(longest))?;
    let data = read_data::data(&root.table("data")?)?;
    let optim = optim(&root.table("optim")?)?;
    let eval = match root.opt_table("eval")? {
        Some(t) => Some(eval(&t, &data, &optim)?),
        None => None,
    };
    let phases = read_phase::phases(&phase_tables, &run, &model, &data, &optim, &eval)?;
    let parallel = match root.get("parallel").map(|node| &node.value) {
        Some(Value::Str(s)) if s == "auto" => {
            let absent = Table { doc, path: "parallel".into(), entries: &[] };
            ParallelConfig { open: true, ..parallel(&absent)? }
        }
        Some(Value::Str(s)) => {
            let remedy = "give \"auto\", or a table [parallel] with its keys";
            return Err(root.error("parallel", format!("unknown value {s:?}"), remedy));
        }
        _ => parallel(&root.table("parallel")?)?,
    };
    let checkpoint = checkpoint(&root.table("checkpoint")?)?;
    let numerics = read_numerics::numerics(&root.table("numerics")?)?;
    let config = RunConfig {
        schema: 1,
        eval,
        checkpoint,
        run,
        model,
        data,
        parallel,
        optim,
        numerics,
        phases,
        source_file: doc.file.clone(),
    };
    match config.parallel_problem() {
        Some((key, problem, remedy)) => Err(doc.error(key, problem, remedy)),
        None => Ok(config),
    }
}

fn run_section(t: &Table) -> Result<RunSection> {
    let dir = t.str("dir", "a path as a string")?.ok_or_else(|| t.missing("dir", "dir = \"runs/first\""))?;
    let device = t.choice("device", DEVICES)?.unwrap_or(DeviceChoice::Auto);
    if device == DeviceChoice::Cuda {
        return Err(t.not_built("device", "device = \"cuda\"", "use \"auto\" or \"cpu\""));
    }
    Ok(RunSection {
        dir: dir.into(),
        seed: t.int("seed", 0..=i64::MAX as u64)?.unwrap_or(1234),
        device,
        dtype: t.choice("dtype", PRECISIONS)?.unwrap_or(Precision::F32),
        init: init(t)?,
        seq_len: t.usize("seq_len", SEQ_LEN)?.ok_or_else(|| t.missing("seq_len", "seq_len = 1024"))?,
        global_batch: t
            .usize("global_batch", GLOBAL_BATCH)?
            .ok_or_else(|| t.missing("global_batch", "global_batch = 64"))?,
        attention: t.choice("attention", ATTENTION)?.unwrap_or(Attention::Document),
        z_loss: z_loss(t)?.unwrap_or(0.0),
    })
}

pub(super) fn z_loss(t: &Table) -> Result<Option<f64>> {
    t.float("z_loss", "a number from 0 to 1, such as 1e-4", |x| (0.0..=1.0).contains(&x))
}

fn init(t: &Table) -> Result<Init> {
    let wants =
        "\"random\", \"ckpt:PATH\", \"ckpt:PATH@STEP\", \"ema:PATH\", \"ema:PATH@STEP\" or \"hf:DIR\"";
    if t.str("init", wants)? == Some("random") {
        return Ok(Init::Random);
    }
    Ok(weights_of(t, "init", wants)?.unwrap_or(Init::Random))
}

/// Trained weights that a key names, if it is there.
pub(super) fn weights_of(t: &Table, key: &str, wants: &str) -> Result<Option<Init>> {
    let Some(s) = t.str(key, wants)? else { return Ok(None) };
    let refuse = || t.error(key, format!("unknown value {s:?}"), format!("give {wants}"));
    match s.split_once(':') {
        Some(("hf", dir)) if !dir.is_empty() => Ok(Some(Init::HuggingFace(dir.into()))),
        Some((kind @ ("ckpt" | "ema"), path)) if !path.is_empty() => {
            let ema = kind == "ema";
            let step = path.rsplit_once('@').filter(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
            Ok(Some(match step {
                Some(("", _)) => return Err(refuse()),
                Some((path, n)) => {
                    let step = n.parse().map_err(|_| refuse())?;
                    Init::Checkpoint { path: path.into(), step: Some(step), ema }
                }
                None => Init::Checkpoint { path: path.into(), step: None, ema },
            }))
        }
        _ => Err(refuse()),
    }
}

fn parallel(t: &Table) -> Result<ParallelConfig> {
    let zero = t.int("zero", 0..=3)?.unwrap_or(1);
    let sequence_parallel = t.bool("sequence_parallel")?.unwrap_or(false);
    let accumulate = t.choice("accumulate", ACCUMULATE)?.unwrap_or(Accumulate::Local);
    if accumulate == Accumulate::Sharded && zero < 2 {
        let problem = format!("\"sharded\" with zero = {zero}, where every rank keeps whole gradients");
        return Err(t.error("accumulate", problem, "set zero to 2 or 3, or accumulate to \"local\""));
    }
    let shard = shard(t, zero)?;
    Ok(ParallelConfig {
        tp: t.usize("tp", 1..=1 << 20)?.unwrap_or(1),
        zero: zero as u8,
        shard,
        sequence_parallel,
        micro_batch: t.usize("micro_batch", GLOBAL_BATCH)?,
        accumulate,
        recompute: t.choice("recompute", RECOMPUTE)?.unwrap_or(Recompute::Keep),
        reductions: t.choice("reductions", REDUCTIONS)?.unwrap_or(Reductions::Ordered),
        open: false,
    })
}

fn shard(t: &Table, zero: u64) -> Result<Shard> {
    let Some(s) = t.str("shard", "\"all\", \"node\" or \"N ranks\"")? else { return Ok(Shard::All) };
    let ranks = || s.strip_suffix(" ranks").and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    let shard = match s {
        "all" => return Ok(Shard::All),
        "node" => Some(Shard::Node(None)),
        _ => ranks().map(Shard::Ranks),
    };
    match shard {
        None => {
            let allowed = "allowed: \"all\", \"node\", \"N ranks\"";
            Err(t.error("shard", format!("unknown value {s:?}"), allowed))
        }
        Some(_) if zero == 0 => {
            let problem = format!("{s:?} with zero = 0, where nothing is split");
            Err(t.error("shard", problem, "set zero to 1, 2 or 3, or shard to \"all\""))
        }
        Some(shard) => Ok(shard),
    }
}

pub(super) fn decay(t: &Table) -> Result<Option<f64>> {
    t.float("weight_decay", "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

fn optim(t: &Table) -> Result<OptimConfig> {
    let given: Vec<&str> =
        ["adamw", "adam", "sgd", "muon"].into_iter().filter(|k| t.get(k).is_some()).collect();
    let kind = match given[..] {
        ["adam"] => {
            let (betas, eps, weight_decay, moments) = adam(&t.table("adam")?, 0.0)?;
            OptimKind::Adam { betas, eps, weight_decay, moments }
        }
        ["muon"] => muon::read(&t.table("muon")?)?,
        ["sgd"] => OptimKind::Sgd { weight_decay: decay(&t.table("sgd")?)?.unwrap_or(0.0) },
        [one, other, ..] => {
            let problem = format!("{one} and {other} are both given");
            return Err(t.error(other, problem, "keep one of the two tables"));
        }
        _ => {
            let (betas, eps, weight_decay, moments) = adam(&t.table("adamw")?, 0.1)?;
            OptimKind::AdamW { betas, eps, weight_decay, moments }
        }
    };
    let none = matches!(t.get("clip").map(|n| &n.value), Some(Value::Str(s)) if s == "none");
    let clip = match none {
        true => None,
        false => Some(t.float("clip", "a number > 0 or \"none\"", |x| x > 0.0)?.unwrap_or(1.0)),
    };
    let groups = match t.tables("group")? {
        Some(tables) => tables.iter().map(group).collect::<Result<_>>()?,
        None => vec![Group {
            patterns: vec!["*.bias".into(), "*norm*".into()],
            weight_decay: Some(0.0),
            lr_scale: None,
        }],
    };
    Ok(OptimConfig { kind, clip, groups, ema: ema(t)? })
}

/// `ema = { decay = 0.999 }`, or "none".
fn ema(t: &Table) -> Result<Option<f64>> {
    if matches!(t.get("ema").map(|n| &n.value), Some(Value::Str(s)) if s == "none") {
        return Ok(None);
    }
    let Some(t) = t.opt_table("ema")? else { return Ok(None) };
    let decay = t.float("decay", "a number > 0 and < 1, such as 0.999", |x| x > 0.0 && x < 1.0)?;
    decay.map(Some).ok_or_else(|| t.missing("decay", "decay = 0.999"))
}

/// betas, eps, weight_decay (with its default), moments
pub(super) fn adam(t: &Table, usual_decay: f64) -> Result<([f64; 2], f64, f64, Precision)> {
    let moments = t.choice("moments", PRECISIONS)?.unwrap_or(Precision::F32);
    let betas = match t.list("betas")? {
        None => [0.9, 0.95],
        Some([a, b]) => {
            let mut betas = [0.0; 2];
            for (i, node) in [a, b].into_iter().enumerate() {
                betas[i] = number(node).filter(|x| (0.0..1.0).contains(x)).ok_or_else(|| {
                    let problem = format!("this is {}", node.describe());
                    t.error(&format!("betas.{i}"), problem, "give a number of at least 0 and less than 1")
                })?;
            }
            betas
        }
        Some(list) => {
            let problem = format!("this is a list of {}", list.len());
            return Err(t.error("betas", problem, "give two numbers, such as [0.9, 0.95]"));
        }
    };
    let eps = t.float("eps", "a number > 0 and at most 1", |x| x > 0.0 && x <= 1.0)?.unwrap_or(1e-8);
    Ok((betas, eps, decay(t)?.unwrap_or(usual_decay), moments))
}

fn group(t: &Table) -> Result<Group> {
    let patterns = t.strs("match", "a list of patterns such as \"*.bias\"")?.unwrap_or_default();
    if patterns.is_empty() {
        return Err(t.missing("match", "match = [\"*.bias\"]"));
    }
    let weight_decay = decay(t)?;
    let lr_scale = t.float("lr_scale", "a number of at least 0", |x| x >= 0.0)?;
    if weight_decay.is_none() && lr_scale.is_none() {
        return Err(t.error(
            "match",
            "this group changes nothing",
            "give weight_decay or lr_scale, or drop it",
        ));
    }
    let patterns = patterns.into_iter().map(String::from).collect();
    Ok(Group { patterns, weight_decay, lr_scale })
}

fn checkpoint(t: &Table) -> Result<CheckpointConfig> {
    Ok(CheckpointConfig {
        every: every(t, "every")?.unwrap_or(Every::Minutes(20.0)),
        keep_last: t.usize("keep_last", 1..=1 << 20)?.unwrap_or(2),
        keep_every: every(t, "keep_every")?,
    })
}

pub(super) fn eval(t: &Table, data: &[(String, DataConfig)], optim: &OptimConfig) -> Result<EvalConfig> {
    let wants = "corpora as in [\"web:heldout\"]";
    let targets = t.strs("on", wants)?.unwrap_or_default();
    if targets.is_empty() {
        return Err(t.missing("on", "on = [\"web:heldout\"]"));
    }
    let mut on = Vec::new();
    for (i, s) in targets.into_iter().enumerate() {
        let key = format!("on.{i}");
        let (name, heldout) = match s.split_once(':') {
            None => (s, false),
            Some((name, "heldout")) => (name, true),
            Some((name, part)) => {
                let problem = format!("corpus {name} has no part {part:?}");
                return Err(t.error(&key, problem, "write NAME or NAME:heldout"));
            }
        };
        let (_, corpus) =
            data.iter().find(|(n, _)| n == name).ok_or_else(|| unknown_corpus(t, &key, name, data))?;
        if heldout && corpus.holdout == 0.0 && corpus.order == Order::Stream {
            let remedy = format!("set data.{name}.holdout to a share such as 0.005");
            return Err(t.error(&key, format!("corpus {name} holds nothing out"), remedy));
        }
        on.push(EvalTarget { corpus: name.into(), heldout });
    }
    let weights = t.choice("weights", EVAL_WEIGHTS)?.unwrap_or(EvalWeights::Trained);
    if weights == EvalWeights::Ema && optim.ema.is_none() {
        return Err(t.error(
            "weights",
            "no average of the weights is kept",
            "set optim.ema = { decay = 0.999 }",
        ));
    }
    Ok(EvalConfig {
        on,
        weights,
        every: every(t, "every")?.unwrap_or(Every::Steps(500)),
        tokens: t.int("tokens", TOKENS)?.unwrap_or(1_000_000),
    })
}

pub(super) fn unknown_corpus(
    t: &Table,
    key: &str,
    name: &str,
    data: &[(String, DataConfig)],
) -> crate::Error {
    let names: Vec<&str> = data.iter().map(|(n, _)| n.as_str()).collect();
    let near = nearest(name, &names).map_or(String::new(), |n| format!(", nearest is `{n}`"));
    let problem = format!("there is no corpus `{name}` in [data]{near}");
    t.error(key, problem, format!("corpora: {}", names.join(", ")))
}

pub(super) fn every(t: &Table, key: &str) -> Result<Option<Every>> {
    let wants = "a string such as \"500 steps\" or \"20 min\"";
    let Some(s) = t.str(key, wants)? else { return Ok(None) };
    let every = s.split_once(' ').and_then(|(n, unit)| match unit.trim() {
        "step" | "steps" => n.parse().ok().filter(|&n| n > 0).map(Every::Steps),
        "min" => n.parse().ok().filter(|&m: &f64| m.is_finite() && m > 0.0).map(Every::Minutes),
        _ => None,
    });
    every.map(Some).ok_or_else(|| t.error(key, format!("{s:?} is not a cadence"), format!("give {wants}")))
}
