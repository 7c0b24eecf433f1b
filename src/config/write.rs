//! From a `RunConfig` back to a run file with every key, and to the hash of what determines results.

use super::batches::Ramp;
use super::grow;
use super::model::{ModelConfig, Positions};
use super::muon::{ADJUST, Rest};
use super::read::{ACCUMULATE, ATTENTION, DEVICES, EVAL_WEIGHTS, PRECISIONS, RECOMPUTE, REDUCTIONS};
use super::read_data::{IOS, ORDERS, PACKINGS};
use super::read_model::{ACTIVATIONS, HEADS, NORM_PLACES, NORMS};
use super::read_numerics::{ON_FAULT, ON_SPIKE};
use super::read_phase::{CURSOR, KINDS, OPTIMIZER, SCHEDULE};
use super::run::*;
use super::salt;
use super::schedule::{Length, Segment};
use super::spdf;
use std::fmt::Debug;
use std::path::Path;

/// One `key = value` of the resolved file.
pub(super) struct Line {
    /// "" for the top of the file, "phase.0" for the first phase.
    pub table: String,
    pub key: String,
    pub value: String,
    /// Whether it decides what the run computes.
    pub matters: bool,
}

impl RunConfig {
    /// A complete run file: `load` accepts it as it is and resolves it to the same `RunConfig`.
    pub fn resolved_toml(&self) -> String {
        let mut text = String::from("# Resolved by espalier; `espalier train` accepts this file as it is.\n");
        let mut table = String::new();
        for line in self.lines() {
            if line.table != table {
                text += &match line.table.starts_with("phase.") {
                    true => "\n[[phase]]\n".into(),
                    false => format!("\n[{}]\n", line.table),
                };
                table = line.table;
            }
            text += &format!("{} = {}\n", line.key, line.value);
        }
        text
    }

    /// xxh3 of everything that determines results: not where the run lies or computes (run.dir, run.device,
    /// parallel), nor where corpora lie and how they are read (data.*.path, io, stage_dir: their own hashes say what
    /// they hold), nor what watches it (eval, checkpoint, numerics).
    pub fn hash(&self) -> u64 {
        let lines = self.lines().into_iter().filter(|l| l.matters);
        let text: String = lines.map(|l| format!("{}\t{}\t{}\n", l.table, l.key, l.value)).collect();
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        let mut w = Writer::default();
        w.line("schema", self.schema.to_string());
        w.matters = false;
        if let Some(e) = &self.eval {
            w.line("eval", eval(e));
        }
        let c = &self.checkpoint;
        let keep = c.keep_every.as_ref().map_or(String::new(), |k| format!(", keep_every = {}", every(k)));
        w.line("checkpoint", format!("{{ every = {}, keep_last = {}{keep} }}", every(&c.every), c.keep_last));
        if self.parallel.open {
            w.line("parallel", "\"auto\"".into());
        }
        self.run_lines(&mut w);
        w.table("model", true);
        model_lines(&self.model, &mut w);
        for (name, d) in &self.data {
            data_lines(name, d, &mut w);
        }
        if !self.parallel.open {
            self.parallel_lines(&mut w);
        }
        self.optim_lines(&mut w);
        self.numerics_lines(&mut w);
        for (i, p) in self.phases.iter().enumerate() {
            w.table(&format!("phase.{i}"), true);
            self.phase_lines(p, &mut w);
        }
        w.lines
    }

    fn run_lines(&self, w: &mut Writer) {
        let r = &self.run;
        w.table("run", false);
        w.line("dir", path(&r.dir));
        w.line("device", word(DEVICES, r.device));
        w.matters = true;
        w.line("seed", r.seed.to_string());
        w.line("dtype", word(PRECISIONS, r.dtype));
        w.line("init", string(&r.init.to_string()));
        w.line("seq_len", r.seq_len.to_string());
        w.line("global_batch", r.global_batch.to_string());
        w.line("attention", word(ATTENTION, r.attention));
        w.line("z_loss", format!("{:?}", r.z_loss));
    }

    fn parallel_lines(&self, w: &mut Writer) {
        let p = &self.parallel;
        w.table("parallel", false);
        w.line("tp", p.tp.to_string());
        w.line("zero", p.zero.to_string());
        let shard = match p.shard {
            Shard::All => "all".into(),
            Shard::Ranks(n) => format!("{n} ranks"),
            // How many those are is a matter of each launch.
            Shard::Node(_) => "node".into(),
        };
        w.line("shard", string(&shard));
        w.line("sequence_parallel", p.sequence_parallel.to_string());
        if let Some(n) = p.micro_batch {
            w.line("micro_batch", n.to_string());
        }
        w.line("accumulate", word(ACCUMULATE, p.accumulate));
        w.line("recompute", word(RECOMPUTE, p.recompute));
        w.line("reductions", word(REDUCTIONS, p.reductions));
    }

    fn optim_lines(&self, w: &mut Writer) {
        let o = &self.optim;
        w.table("optim", true);
        let adam = |betas: [f64; 2], eps: f64, decay: f64, moments| {
            let moments = word(PRECISIONS, moments);
            format!("{{ betas = {betas:?}, eps = {eps:?}, weight_decay = {decay:?}, moments = {moments} }}")
        };
        match o.kind {
            OptimKind::AdamW { betas, eps, weight_decay, moments } => {
                w.line("adamw", adam(betas, eps, weight_decay, moments))
            }
            OptimKind::Adam { betas, eps, weight_decay, moments } => {
                w.line("adam", adam(betas, eps, weight_decay, moments))
            }
            OptimKind::Muon(m) => {
                let (adjust, moments) = (word(ADJUST, m.adjust), word(PRECISIONS, m.moments));
                let Rest { betas, eps, weight_decay } = m.adamw;
                w.line("muon", format!(
                    "{{ momentum = {:?}, nesterov = {}, steps = {}, weight_decay = {:?}, adjust = {adjust}, \
                     moments = {moments}, adamw = {{ betas = {betas:?}, eps = {eps:?}, weight_decay = {weight_decay:?} }} }}",
                    m.momentum, m.nesterov, m.steps, m.weight_decay
                ));
            }
            OptimKind::Sgd { weight_decay } => {
                w.line("sgd", format!("{{ weight_decay = {weight_decay:?} }}"))
            }
        }
        w.line("clip", o.clip.map_or("\"none\"".into(), |c| format!("{c:?}")));
        let groups = o.groups.iter().map(|g| {
            let patterns: Vec<String> = g.patterns.iter().map(|p| string(p)).collect();
            let decay = g.weight_decay.map_or(String::new(), |x| format!(", weight_decay = {x:?}"));
            let scale = g.lr_scale.map_or(String::new(), |x| format!(", lr_scale = {x:?}"));
            format!("{{ match = [{}]{decay}{scale} }}", patterns.join(", "))
        });
        w.line("ema", o.ema.map_or("\"none\"".into(), |d| format!("{{ decay = {d:?} }}")));
        w.line("group", format!("[{}]", groups.collect::<Vec<_>>().join(", ")));
    }

    /// A run that stopped for its numerics may go on by other rules.
    fn numerics_lines(&self, w: &mut Writer) {
        let n = &self.numerics;
        w.table("numerics", false);
        w.line("nonfinite", word(ON_FAULT, n.nonfinite));
        w.line("spike", word(ON_SPIKE, n.spike));
        w.line("sigma", format!("{:?}", n.sigma));
        w.line("window", n.window.to_string());
        w.line("max_skips", n.max_skips.to_string());
        w.line("replays", n.replays.to_string());
        if let Some(steps) = n.compare_replicas {
            w.line("compare_replicas", every(&Every::Steps(steps)));
        }
    }

    fn phase_lines(&self, p: &PhaseConfig, w: &mut Writer) {
        w.line("name", string(&p.name));
        // Before `tokens`: where `steps` were given another ramp has another budget, and the ramp is what to name then.
        if let Some(Ramp { from, by, samples }) = p.batches.ramp() {
            w.line("batch_ramp", format!("{{ from = {from}, by = {by}, samples = {samples} }}"));
        }
        w.line("tokens", p.tokens.to_string());
        let shares: Vec<String> = p.mix.iter().map(|(n, x)| format!("{n} = {x:?}")).collect();
        w.line("mix", format!("{{ {} }}", shares.join(", ")));
        w.line("optimizer", word(OPTIMIZER, p.optimizer));
        w.line("schedule", word(SCHEDULE, p.schedule));
        w.line("cursor", word(CURSOR, p.cursor));
        // Only what differs from the run's, or a later `--set run.seq_len` would be shadowed in silence.
        let r = &self.run;
        if p.seq_len != r.seq_len {
            w.line("seq_len", p.seq_len.to_string());
        }
        if p.global_batch != r.global_batch {
            w.line("global_batch", p.global_batch.to_string());
        }
        if p.attention != r.attention {
            w.line("attention", word(ATTENTION, p.attention));
        }
        if p.z_loss != r.z_loss {
            w.line("z_loss", format!("{:?}", p.z_loss));
        }
        if p.schedule == ScheduleClock::New {
            let segments: Vec<String> = p.lr.segments().iter().map(segment).collect();
            w.line("lr", format!("[{}]", segments.join(", ")));
        }
        if let Some(g) = &p.grow {
            w.line("grow", grow::text(&g.grow));
        }
        if let Some(s) = &p.spdf {
            w.line("spdf", spdf::text(s));
        }
        if let Some(s) = &p.salt {
            w.line("salt", salt::text(s));
        }
        // Where an evaluation decides when the teacher goes, it changes the run.
        let decides = p.salt.as_ref().is_some_and(|s| s.passed_by.is_some());
        if p.eval != self.eval || decides {
            w.matters = decides;
            w.line("eval", p.eval.as_ref().map_or("\"none\"".into(), eval));
        }
    }
}

/// Where the files lie and how they are read decides nothing: a resume compares the hashes of the corpora.
fn data_lines(name: &str, d: &DataConfig, w: &mut Writer) {
    w.table(&format!("data.{name}"), false);
    w.line("path", path(&d.path));
    w.line("io", word(IOS, d.io));
    if let Some(dir) = &d.stage_dir {
        w.line("stage_dir", path(dir));
    }
    w.matters = true;
    w.line("order", word(ORDERS, d.order));
    if let Some(split) = d.split {
        w.line("split", format!("{split:?}"));
    }
    w.line("packing", word(PACKINGS, d.packing));
    if d.packing == Packing::BestFit {
        w.line("pack_group", d.pack_group.to_string());
    }
    if let Some(weights) = &d.weights {
        w.line("weights", string(weights));
    }
    if d.order != Order::Megatron {
        w.line("holdout", format!("{:?}", d.holdout));
    }
    if let Some(n) = d.max_epochs {
        w.line("max_epochs", n.to_string());
    }
}

fn model_lines(m: &ModelConfig, w: &mut Writer) {
    let sizes = [
        ("layers", m.layers),
        ("dim", m.dim),
        ("heads", m.heads),
        ("kv_heads", m.kv_heads),
        ("head_dim", m.head_dim),
        ("ffn_dim", m.ffn_dim),
        ("vocab", m.vocab),
        ("max_positions", m.max_positions),
        ("token_types", m.token_types),
    ];
    for (key, n) in sizes {
        w.line(key, n.to_string());
    }
    w.line("norm", word(NORMS, m.norm));
    w.line("norm_eps", format!("{:?}", m.norm_eps));
    w.line("norm_place", word(NORM_PLACES, m.norm_place));
    match m.positions {
        Positions::Learned { .. } => w.line("positions", string("learned")),
        Positions::None => w.line("positions", string("none")),
        Positions::Rope { theta, scaling } => {
            let scaling = scaling.map_or("\"none\"".into(), |s| {
                format!(
                    "{{ factor = {:?}, low_freq = {:?}, high_freq = {:?}, original_max = {} }}",
                    s.factor, s.low_freq, s.high_freq, s.original_max
                )
            });
            w.line("positions", string("rope"));
            w.line("rope", format!("{{ theta = {theta:?}, scaling = {scaling} }}"));
        }
    }
    w.line("activation", word(ACTIVATIONS, m.activation));
    w.line("head", word(HEADS, m.head));
    let switches = [
        ("qk_norm", m.qk_norm),
        ("qkv_bias", m.qkv_bias),
        ("out_bias", m.out_bias),
        ("mlp_bias", m.mlp_bias),
        ("norm_bias", m.norm_bias),
        ("head_bias", m.head_bias),
        ("tied", m.tied),
        ("causal", m.causal),
        ("embed_norm", m.embed_norm),
        ("init_scale_residual", m.init_scale_residual),
    ];
    for (key, on) in switches {
        w.line(key, on.to_string());
    }
    w.line("logit_softcap", m.logit_softcap.map_or("\"none\"".into(), |c| format!("{c:?}")));
    w.line("init_std", format!("{:?}", m.init_std));
}

struct Writer {
    lines: Vec<Line>,
    table: String,
    matters: bool,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer { lines: Vec::new(), table: String::new(), matters: true }
    }
}

impl Writer {
    fn table(&mut self, path: &str, matters: bool) {
        self.table = path.into();
        self.matters = matters;
    }

    fn line(&mut self, key: &str, value: String) {
        let (table, matters) = (self.table.clone(), self.matters);
        self.lines.push(Line { table, key: key.into(), value, matters });
    }
}

fn string(s: &str) -> String {
    toml::Value::from(s).to_string()
}

fn path(p: &Path) -> String {
    string(&p.to_string_lossy()) // came from TOML, so it is UTF-8
}

fn word<T: PartialEq + Debug>(words: &[(&str, T)], value: T) -> String {
    let found = words.iter().find(|(_, v)| *v == value);
    string(found.map(|(w, _)| *w).expect("the table of words has every variant"))
}

fn every(e: &Every) -> String {
    match e {
        Every::Steps(n) => format!("\"{n} steps\""),
        Every::Minutes(m) => format!("\"{m} min\""),
    }
}

fn eval(e: &EvalConfig) -> String {
    let target = |t: &EvalTarget| format!("\"{}{}\"", t.corpus, if t.heldout { ":heldout" } else { "" });
    let on: Vec<String> = e.on.iter().map(target).collect();
    let (every, weights) = (every(&e.every), word(EVAL_WEIGHTS, e.weights));
    format!("{{ on = [{}], every = {every}, tokens = {}, weights = {weights} }}", on.join(", "), e.tokens)
}

pub(super) fn segment(s: &Segment) -> String {
    let value = |key: &str, x: Option<f64>| x.map_or(String::new(), |x| format!(", {key} = {x:?}"));
    let length = match s.length {
        Length::Frac(f) => format!(", frac = {f:?}"),
        Length::Steps(n) => format!(", steps = {n}"),
        Length::Rest => String::new(),
    };
    format!("{{ kind = {}{}{}{length} }}", word(KINDS, s.kind), value("from", s.from), value("to", s.to))
}
