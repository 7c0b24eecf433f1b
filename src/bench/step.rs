//! One training step (forward, backward, norm, AdamW) on random tokens.
//!
//! The keys are those of the PyTorch program in `tools/peer`, and so is the rule which steps
//! count: those during which others used less than `NOISE` cores, if there are three such, otherwise all.
//! FLOPs of a token = 6·M + 12·L·C·T, M the weights used in matrix products (the head once, look-ups not), no
//! discount for the causal mask. `cpu_ms` is the CPU time of all threads, which others do not change much.
//! `share_of_peak` counts what must be computed, causal attention half, against multiply-adds on registers.
//! `profile` then times each op of more steps, beside the time that the roof over it allows.

use crate::comm::Mesh;
use crate::config::{Group, Head, ModelConfig, OptimConfig, OptimKind, Precision, Spdf};
use crate::device::gemm::peak;
use crate::device::{DType, Device};
use crate::method::ledger::{Embedding, flops_per_token};
use crate::params::{Accumulate, RandomInit};
use crate::rng::Philox;
use crate::tape::{Recompute, Seq, profile};
use crate::train::replica::{Plan, Replica};
use crate::train::sparse::misfit;
use crate::train::step::{MicroBatch, Update, step};
use crate::train::vote::Ballot;
use crate::{Error, Result};
use serde::Serialize;
use std::time::Instant;

use super::roof::Roof;
use super::{busy_seconds, median, resident_mib};

/// Cores that others may use during a step that counts.
const NOISE: f64 = 0.15;
/// Targets of a masked-language model.
const MASKED: f64 = 0.15;

/// (preset, sequence length, sequences)
pub const CONFIGS: [(&str, usize, usize); 7] = [
    ("tiny", 256, 8),
    ("small", 256, 8),
    ("gpt2-t512", 512, 4),
    ("llama25", 256, 8),
    ("llama110", 512, 4),
    ("bert-base", 128, 16),
    ("wide", 256, 8),
];

/// What is timed.
pub struct Step {
    /// One of `CONFIGS`
    pub config: String,
    /// None: as the configuration has them
    pub seq: Option<usize>,
    pub batch: Option<usize>,
    pub threads: usize,
    pub dtype: DType,
    pub recompute: Recompute,
    /// The matrices of blocks stored as blocks.
    pub spdf: Option<Spdf>,
    pub steps: usize,
    /// A table of ops on stderr
    pub profile: bool,
    /// All losses in the result
    pub losses: bool,
}

/// Random tokens, each predicted from those before it; of a masked-language model a random share is predicted.
fn batch(c: &ModelConfig, rows: usize, seq_len: usize, update: u64) -> MicroBatch {
    let n = rows * seq_len;
    let ids = Philox::new(1, "bench/tokens");
    let id = |i: usize| (ids.uniform(i as u64, update) * c.vocab as f64) as u32;
    let row = |i: usize| i / seq_len * (seq_len + 1) + i % seq_len;
    let masked = Philox::new(1, "bench/masked");
    let mlm = c.head == Head::Mlm;
    let seq = Seq {
        rows,
        seq_len,
        tokens: (0..n).map(|i| id(row(i))).collect(),
        positions: (0..n).map(|i| (i % seq_len) as u32).collect(),
        cu_seqlens: (0..=rows).map(|i| (i * seq_len) as u32).collect(),
        token_types: vec![],
        sample_ids: (0..rows as u64).collect(),
    };
    let weight = |i: usize| if mlm && masked.uniform(i as u64, update) > MASKED { 0.0 } else { 1.0 };
    MicroBatch {
        targets: (0..n).map(|i| id(row(i) + usize::from(!mlm))).collect(),
        weights: (0..n).map(weight).collect(),
        domains: vec![0; rows],
        seq,
    }
}

#[derive(Clone, Copy)]
struct Timed {
    ms: f64,
    cpu_ms: f64,
    /// Cores that others used meanwhile.
    foreign: f64,
}

/// One after the other for at least 0.4 s, so that the ticks of the machine's clock tell something; each step's time.
fn timed(steps: usize, mut f: impl FnMut() -> Result<()>) -> Result<Vec<Timed>> {
    let (start, busy, cpu) = (Instant::now(), busy_seconds(), profile::cpu_seconds());
    let mut each = Vec::with_capacity(steps);
    for _ in 0..steps {
        let (began, cpu) = (Instant::now(), profile::cpu_seconds());
        f()?;
        let (wall, cpu) = (began.elapsed().as_secs_f64(), profile::cpu_seconds() - cpu);
        each.push(Timed { ms: wall * 1e3, cpu_ms: cpu * 1e3, foreign: 0.0 });
    }
    let own = profile::cpu_seconds() - cpu;
    let foreign = ((busy_seconds() - busy - own) / start.elapsed().as_secs_f64()).max(0.0);
    each.iter_mut().for_each(|t| t.foreign = foreign);
    Ok(each)
}

/// What an op of the profile took.
#[derive(Serialize)]
struct OpRow {
    op: String,
    /// Of the CPU time of the step
    share: f64,
    cpu_ms: f64,
    wall_ms: f64,
    calls: usize,
    gflops: f64,
    gbs: f64,
    /// The time that its FLOPs and bytes need at least, of its wall time. More than 1 where a cache holds its operands.
    attained: f64,
}

/// Of one step each, the longest first.
fn ops(rows: Vec<profile::Row>, steps: usize, cpu: f64, roof: &Roof) -> Vec<OpRow> {
    let each = |seconds: f64| seconds * 1e3 / steps as f64;
    let of = |r: profile::Row| OpRow {
        share: r.cpu_seconds / cpu,
        cpu_ms: each(r.cpu_seconds),
        wall_ms: each(r.seconds),
        calls: r.calls / steps,
        gflops: r.cost.flops / r.seconds / 1e9,
        gbs: r.cost.bytes / r.seconds / 1e9,
        attained: roof.seconds(r.cost) / r.seconds,
        op: r.name,
    };
    let mut all: Vec<OpRow> = rows.into_iter().map(of).collect();
    all.sort_by(|a, b| b.cpu_ms.total_cmp(&a.cpu_ms));
    all
}

fn table(rows: &[OpRow], wall_ms: f64, cpu_ms: f64, roof: &Roof) {
    eprintln!(
        "{:>6} {:>9} {:>9} {:>6} {:>9} {:>7} {:>9}  op",
        "share", "cpu ms", "wall ms", "calls", "GFLOP/s", "GB/s", "attained"
    );
    for r in rows {
        eprintln!(
            "{:5.1}% {:9.2} {:9.2} {:6} {:9.1} {:7.1} {:8.1}%  {}",
            100.0 * r.share,
            r.cpu_ms,
            r.wall_ms,
            r.calls,
            r.gflops,
            r.gbs,
            100.0 * r.attained,
            r.op
        );
    }
    let inside: f64 = rows.iter().map(|r| r.wall_ms).sum();
    let products: f64 = rows.iter().filter(|r| r.gflops > 0.0).map(|r| r.cpu_ms).sum();
    eprintln!(
        "{wall_ms:.1} ms, of it {:.1} between the ops; {:.0} % of the CPU time in products; the roof: {:.1} GFLOP/s, {:.1} GB/s",
        wall_ms - inside,
        100.0 * products / cpu_ms,
        roof.f32_gflops,
        roof.memory()
    );
}

/// Times it; the result is one JSON object.
pub fn run(what: &Step) -> Result<serde_json::Value> {
    let name = &what.config;
    let Some((preset, seq_len, rows)) = CONFIGS.into_iter().find(|c| c.0 == name) else {
        let known = CONFIGS.map(|c| c.0).join(", ");
        return Err(Error::config(
            "bench step",
            "--config",
            format!("{name:?} is not known"),
            format!("give {known}"),
        ));
    };
    let &Step { threads, steps, dtype, recompute, .. } = what;
    let (seq_len, rows) = (what.seq.unwrap_or(seq_len), what.batch.unwrap_or(rows));
    let c = ModelConfig::preset(preset)?;
    let spdf = what.spdf.as_ref();
    if let (Some(problem), Some(s)) = (spdf.and_then(|s| misfit(&c, s)), spdf) {
        let size = s.pattern.block().unwrap_or(0);
        return Err(Error::config("bench step", format!("--blocks {size}"), problem, "take smaller blocks"));
    }
    let no_decay =
        Group { patterns: vec!["*.bias".into(), "*norm*".into()], weight_decay: Some(0.0), lr_scale: None };
    let kind = OptimKind::AdamW { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, moments: Precision::F32 };
    let optim = OptimConfig { kind, clip: None, groups: vec![no_decay], ema: None };
    let began = Instant::now();
    let plan = Plan {
        model: &c,
        spdf,
        optim: &optim,
        dtype,
        recompute,
        zero: 0,
        accumulate: Accumulate::Local,
        sequence_parallel: false,
        seq_len,
    };
    let mut r = Replica::new(Device::cpu(threads), Mesh::solo(), &plan)?;
    r.sparsify(spdf)?;
    let zeros = r.masks.as_ref().map_or(0, |m| m.about.zeros);
    r.params.fill(&r.dev, &RandomInit { seed: 0 })?;
    let init_s = began.elapsed().as_secs_f64();

    let dev = r.dev.clone();
    let arithmetic = peak(dev.pool());
    let (mut losses, mut update) = (vec![], 0);
    let mut one = || {
        let b = [batch(&c, rows, seq_len, update)];
        let weight_sum = b[0].weights.iter().map(|w| *w as f64).sum();
        let update_now = Update { step: update, lr: 3e-4, clip: None, weight_sum, z_loss: 0.0, teacher: 0.0 };
        losses.push(step(&mut r, &b, &update_now, Ballot::new(1))?.loss);
        update += 1;
        Ok(())
    };
    let first = timed(1, &mut one)?[0].ms;
    let block = (400.0 / timed(2, &mut one)?[1].ms).ceil().max(1.0) as usize;
    let mut all: Vec<Timed> = vec![];
    let clean = |all: &[Timed]| all.iter().filter(|t| t.foreign <= NOISE).copied().collect::<Vec<_>>();
    while clean(&all).len() < steps && all.len() < 2 * steps {
        all.extend(timed(block, &mut one)?);
    }
    let used = if clean(&all).len() >= 3 { clean(&all) } else { all.clone() };
    let ms = median(used.iter().map(|t| t.ms).collect());
    let ms_min = used.iter().map(|t| t.ms).fold(f64::INFINITY, f64::min);
    // The buffers that measure memory must not count.
    let rss_mib = resident_mib();
    let mut profiled = None;
    if what.profile {
        let roof = Roof::measure(dev.pool(), false);
        profile::start();
        let (began, cpu) = (Instant::now(), profile::cpu_seconds());
        (0..block).try_for_each(|_| one())?;
        let (wall, cpu) = (began.elapsed().as_secs_f64(), profile::cpu_seconds() - cpu);
        let found = ops(profile::stop(), block, cpu, &roof);
        table(&found, wall * 1e3 / block as f64, cpu * 1e3 / block as f64, &roof);
        profiled = Some((found, roof));
    }
    let arithmetic = arithmetic.max(peak(dev.pool()));

    let tokens = (rows * seq_len) as f64;
    let of_token = |causal| flops_per_token(&c, seq_len, causal, Embedding::LookUp, zeros);
    let (flops, needed) = (tokens * of_token(false), tokens * of_token(c.causal));
    let round = |x: f64, digits: i32| (x * 10f64.powi(digits)).round() / 10f64.powi(digits);
    let mut out = serde_json::json!({
        "tool": concat!("espalier-", env!("CARGO_PKG_VERSION")),
        "config": preset, "layers": c.layers, "d": c.dim, "heads": c.heads, "kv": c.kv_heads, "ffn": c.ffn_dim,
        "vocab": c.vocab, "seq": seq_len, "batch": rows,
        "params": c.params(), "zeros": zeros, "nmm": c.matmul_params(), "threads": threads, "dtype": dtype.name(),
        "recompute": format!("{recompute:?}").to_lowercase(),
        "ms": round(ms, 2), "ms_min": round(ms_min, 2),
        "cpu_ms": round(median(used.iter().map(|t| t.cpu_ms).collect()), 2),
        "tok_s": round(tokens / ms * 1e3, 1),
        "gflops": round(flops / ms / 1e6, 1), "gflops_best": round(flops / ms_min / 1e6, 1),
        "peak_gflops": round(arithmetic, 1), "share_of_peak": round(needed / ms / 1e6 / arithmetic, 4),
        "rss_mib": rss_mib, "init_s": round(init_s, 2), "first_s": round(first / 1e3, 2),
        "timed": all.len(), "clean": clean(&all).len(),
        "foreign": round(all.last().map_or(0.0, |t| t.foreign), 2),
        "loss0": round(losses[0], 4), "loss": round(*losses.last().expect("at least one step"), 4),
    });
    if let Some((rows, roof)) = profiled {
        out["ops"] = serde_json::json!(rows);
        out["roof"] = serde_json::json!(roof);
    }
    if what.losses {
        out["losses"] = losses.iter().map(|l| round(*l, 5)).collect();
    }
    Ok(out)
}
