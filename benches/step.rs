//! One training step (forward, backward, norm, AdamW) on random tokens; the last line is one JSON object.
//!
//!     cargo bench --bench step -- --config small [--threads 2] [--dtype f32|bf16] [--steps 7]
//!                                 [--recompute keep|cheap|full] [--batch B] [--seq T] [--profile] [--losses]
//!
//! The keys are those of the PyTorch program that `benches/README.md` describes, and so is the rule which steps
//! count: those during which others used less than `NOISE` cores, if there are three such, otherwise all.
//! FLOPs of a token = 6·M + 12·L·C·T, M the weights used in matrix products (the head once, look-ups not), no
//! discount for the causal mask. `cpu_ms` is the CPU time of all threads, which others do not change much.
//! `--profile` then times each op of one more step, with what it attains, on standard error.

use espalier::comm::Mesh;
use espalier::config::{Group, Head, ModelConfig, OptimConfig, OptimKind, Precision};
use espalier::device::{DType, Device};
use espalier::params::RandomInit;
use espalier::rng::Philox;
use espalier::tape::{Recompute, Seq, profile};
use espalier::train::replica::{Plan, Replica};
use espalier::train::step::{MicroBatch, Update, step};
use espalier::train::vote::Ballot;
use std::time::Instant;

/// Cores that others may use during a step that counts.
const NOISE: f64 = 0.15;
/// Targets of a masked-language model.
const MASKED: f64 = 0.15;

/// (preset, sequence length, sequences)
const CONFIGS: [(&str, usize, usize); 6] = [
    ("tiny", 256, 8),
    ("small", 256, 8),
    ("gpt2-t512", 512, 4),
    ("llama25", 256, 8),
    ("llama110", 512, 4),
    ("bert-base", 128, 16),
];

/// The command line: `--key value` pairs and flags.
struct Args(Vec<String>);

impl Args {
    fn value(&self, key: &str) -> Option<&str> {
        let at = self.0.iter().position(|a| a == key)?;
        self.0.get(at + 1).map(String::as_str)
    }
    fn number(&self, key: &str, default: usize) -> usize {
        self.value(key).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{key} takes a number: {v}")))
    }
    fn flag(&self, key: &str) -> bool {
        self.0.iter().any(|a| a == key)
    }
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

/// Busy seconds of the whole machine; NaN where /proc does not tell.
fn busy_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
    match ticks[..] {
        [user, nice, system, _idle, _wait, irq, soft, steal] => {
            (user + nice + system + irq + soft + steal) / 100.0
        }
        _ => f64::NAN,
    }
}

/// MiB at the peak.
fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[derive(Clone, Copy)]
struct Timed {
    ms: f64,
    cpu_ms: f64,
    /// Cores that others used meanwhile.
    foreign: f64,
}

/// One after the other for at least 0.4 s, so that the ticks of the machine's clock tell something; each step's time.
fn timed(steps: usize, mut f: impl FnMut()) -> Vec<Timed> {
    let (start, busy, cpu) = (Instant::now(), busy_seconds(), profile::cpu_seconds());
    let mut each = Vec::with_capacity(steps);
    for _ in 0..steps {
        let (began, cpu) = (Instant::now(), profile::cpu_seconds());
        f();
        let (wall, cpu) = (began.elapsed().as_secs_f64(), profile::cpu_seconds() - cpu);
        each.push(Timed { ms: wall * 1e3, cpu_ms: cpu * 1e3, foreign: 0.0 });
    }
    let own = profile::cpu_seconds() - cpu;
    let foreign = ((busy_seconds() - busy - own) / start.elapsed().as_secs_f64()).max(0.0);
    each.iter_mut().for_each(|t| t.foreign = foreign);
    each
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    (x[(x.len() - 1) / 2] + x[x.len() / 2]) / 2.0
}

fn table(rows: &mut [profile::Row], wall: f64, cpu: f64) {
    rows.sort_by(|a, b| b.cpu_seconds.total_cmp(&a.cpu_seconds));
    eprintln!(
        "{:>6} {:>9} {:>9} {:>6} {:>9} {:>7}  op",
        "share", "cpu ms", "wall ms", "calls", "GFLOP/s", "GB/s"
    );
    for r in rows.iter() {
        eprintln!(
            "{:5.1}% {:9.2} {:9.2} {:6} {:9.1} {:7.1}  {}",
            100.0 * r.cpu_seconds / cpu,
            r.cpu_seconds * 1e3,
            r.seconds * 1e3,
            r.calls,
            r.cost.flops / r.seconds / 1e9,
            r.cost.bytes / r.seconds / 1e9,
            r.name
        );
    }
    let inside: f64 = rows.iter().map(|r| r.seconds).sum();
    let products: f64 = rows.iter().filter(|r| r.cost.flops > 0.0).map(|r| r.cpu_seconds).sum();
    eprintln!(
        "{:.1} ms, of it {:.1} between the ops; {:.0} % of the CPU time in products",
        wall * 1e3,
        (wall - inside) * 1e3,
        100.0 * products / cpu
    );
}

fn main() {
    let args = Args(std::env::args().skip(1).collect());
    let name = args.value("--config").unwrap_or("tiny");
    let Some((preset, seq_len, rows)) = CONFIGS.into_iter().find(|c| c.0 == name) else {
        panic!("--config {name}: known are {}", CONFIGS.map(|c| c.0).join(", "));
    };
    let (threads, steps) = (args.number("--threads", 2), args.number("--steps", 7));
    let (seq_len, rows) = (args.number("--seq", seq_len), args.number("--batch", rows));
    let dtype = match args.value("--dtype").unwrap_or("f32") {
        "f32" => DType::F32,
        "bf16" => DType::Bf16,
        other => panic!("--dtype {other}: f32 or bf16"),
    };
    let recompute = match args.value("--recompute").unwrap_or("keep") {
        "keep" => Recompute::Keep,
        "cheap" => Recompute::Cheap,
        "full" => Recompute::Full,
        other => panic!("--recompute {other}: keep, cheap or full"),
    };

    let c = ModelConfig::preset(preset).expect("the preset exists");
    let no_decay =
        Group { patterns: vec!["*.bias".into(), "*norm*".into()], weight_decay: Some(0.0), lr_scale: None };
    let kind = OptimKind::AdamW { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, moments: Precision::F32 };
    let optim = OptimConfig { kind, clip: None, groups: vec![no_decay], ema: None };
    let began = Instant::now();
    let plan = Plan { model: &c, optim: &optim, dtype, recompute, zero: 0, seq_len };
    let mut r = Replica::new(Device::cpu(threads), Mesh::solo(), &plan);
    r.params.fill(&r.dev, &RandomInit { seed: 0 }).expect("random values cannot fail");
    let init_s = began.elapsed().as_secs_f64();

    let (mut losses, mut update) = (vec![], 0);
    let mut one = || {
        let b = [batch(&c, rows, seq_len, update)];
        let weight_sum = b[0].weights.iter().map(|w| *w as f64).sum();
        let update_now = Update { step: update, lr: 3e-4, clip: None, weight_sum, z_loss: 0.0 };
        let outcome = step(&mut r, &b, &update_now, Ballot::new(1)).expect("a step on random tokens");
        losses.push(outcome.loss);
        update += 1;
    };
    let first = timed(1, &mut one)[0].ms;
    let block = (400.0 / timed(2, &mut one)[1].ms).ceil().max(1.0) as usize;
    let mut all: Vec<Timed> = vec![];
    let clean = |all: &[Timed]| all.iter().filter(|t| t.foreign <= NOISE).copied().collect::<Vec<_>>();
    while clean(&all).len() < steps && all.len() < 2 * steps {
        all.extend(timed(block, &mut one));
    }
    let used = if clean(&all).len() >= 3 { clean(&all) } else { all.clone() };
    let ms = median(used.iter().map(|t| t.ms).collect());
    let ms_min = used.iter().map(|t| t.ms).fold(f64::INFINITY, f64::min);
    if args.flag("--profile") {
        profile::start();
        let (began, cpu) = (Instant::now(), profile::cpu_seconds());
        (0..block).for_each(|_| one());
        let (wall, cpu) = (began.elapsed().as_secs_f64(), profile::cpu_seconds() - cpu);
        table(&mut profile::stop(), wall, cpu);
    }

    let (dim, ffn, width) = (c.dim, c.ffn_dim, c.heads * c.head_dim);
    let attention = dim * (width + 2 * c.kv_heads * c.head_dim) + dim * width;
    let mlp = if c.is_glu() { 3 } else { 2 } * dim * ffn;
    let head = dim * c.vocab + if c.head == Head::Mlm { dim * dim } else { 0 };
    let products = c.layers * (attention + mlp) + head;
    let flops = (rows * seq_len * (6 * products + 12 * c.layers * dim * seq_len)) as f64;
    let round = |x: f64, digits: i32| (x * 10f64.powi(digits)).round() / 10f64.powi(digits);
    let mut out = serde_json::json!({
        "tool": concat!("espalier-", env!("CARGO_PKG_VERSION")),
        "config": name, "layers": c.layers, "d": dim, "heads": c.heads, "kv": c.kv_heads, "ffn": ffn,
        "vocab": c.vocab, "seq": seq_len, "batch": rows,
        "params": c.params(), "nmm": products, "threads": threads, "dtype": dtype.name(),
        "recompute": format!("{recompute:?}").to_lowercase(),
        "ms": round(ms, 2), "ms_min": round(ms_min, 2),
        "cpu_ms": round(median(used.iter().map(|t| t.cpu_ms).collect()), 2),
        "tok_s": round((rows * seq_len) as f64 / ms * 1e3, 1),
        "gflops": round(flops / ms / 1e6, 1), "gflops_best": round(flops / ms_min / 1e6, 1),
        "rss_mib": resident_mib(), "init_s": round(init_s, 2), "first_s": round(first / 1e3, 2),
        "timed": all.len(), "clean": clean(&all).len(),
        "foreign": round(all.last().map_or(0.0, |t| t.foreign), 2),
        "loss0": round(losses[0], 4), "loss": round(*losses.last().expect("at least one step"), 4),
    });
    if args.flag("--losses") {
        out["losses"] = losses.iter().map(|l| round(*l, 5)).collect();
    }
    println!("{out}");
}
