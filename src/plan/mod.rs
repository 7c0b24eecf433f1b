//! `train --dry-run`: what a run is and what it needs, learned by rehearsing it on the Meta device. Nothing is allocated
//! or written; corpora are opened, since their sizes say how often they are read.

pub mod auto;
mod curve;
mod outside;
mod text;

pub use curve::Point;
pub use outside::Outside;

use crate::Result;
use crate::comm::processes;
use crate::config::{ModelConfig, OptimKind, OptimState, PhaseConfig, Precision, RunConfig, Shard};
use crate::data::{Domain, HeldOut};
use crate::device::{Category, arena::MemoryUse};
use crate::method::ledger;
use crate::method::salt::Costs;
use crate::method::spdf::AboutGrid;
use crate::train::corpora;
use crate::train::evaluate::{batch_rows, held_out};
use crate::train::position::Position;
use crate::train::rehearsal::Rehearsal;
use crate::train::run::{Launch, check, placed};
use crate::train::teacher;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// All of it; `Display` is for people. Sizes are in bytes.
#[derive(Serialize)]
pub struct DryRun {
    pub run_file: String,
    pub run_dir: String,
    pub model: Model,
    pub layout: Layout,
    pub corpora: Vec<Corpus>,
    pub phases: Vec<Phase>,
    /// Of the whole run, phase after phase.
    pub memory: Memory,
    pub checkpoint_bytes: u64,
    /// N of Slurm's `--signal=USR1@N`: time to write a checkpoint before the job's is up, seconds.
    pub slurm_signal_s: u64,
    /// How `parallel = "auto"` was resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto: Option<auto::Choice>,
    #[serde(skip)]
    curve: Vec<f64>,
}

#[derive(Serialize)]
pub struct Model {
    pub layers: usize,
    pub dim: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub vocab: usize,
    pub dtype: &'static str,
    pub params: u64,
    pub matmul_params: u64,
    /// Forward and backward, at the run's seq_len.
    pub flops_per_token_full: f64,
    pub flops_per_token_causal: f64,
}

#[derive(Serialize)]
pub struct Layout {
    pub ranks: usize,
    pub dp: usize,
    pub tp: usize,
    pub threads_per_rank: usize,
    pub zero: u8,
    /// Data-parallel ranks over which state is split.
    pub shard: usize,
    /// All, if they are on one node.
    pub ranks_per_node: usize,
    /// Whether the number of nodes makes a difference and nobody said it.
    #[serde(skip)]
    nodes_open: bool,
    pub recompute: &'static str,
}

#[derive(Serialize)]
pub struct Corpus {
    pub name: String,
    pub path: String,
    pub tokens: u64,
    pub documents: u64,
}

#[derive(Serialize)]
pub struct Phase {
    pub name: String,
    pub tokens: u64,
    pub steps: u64,
    pub seq_len: usize,
    /// Of an update, as the two below; with a ramp of the last one.
    pub global_batch: usize,
    pub micro_batch: usize,
    /// Micro-batches of a rank in an update.
    pub micro_steps: usize,
    /// Updates of one size after another.
    pub batches: Vec<Batch>,
    pub mix: Vec<Share>,
    pub start: Clocks,
    /// The first update, the last of each segment, the last of the phase.
    pub lr: Vec<Point>,
    /// Forward and backward of the whole phase, causal.
    pub flops: f64,
    /// The most in use at once if this phase were the run.
    pub peak_bytes: usize,
    /// Sent by a rank in an update (the last), by axis.
    pub sent_bytes: BTreeMap<&'static str, u64>,
    pub program: String,
    pub spdf: Option<Sparse>,
    pub salt: Option<Taught>,
    /// The network that the phase begins with, where it is another than before.
    pub grow: Option<Grown>,
}

/// The teacher of a phase.
#[derive(Serialize)]
pub struct Taught {
    pub teacher: String,
    pub params: u64,
    /// Updates in which it has a share.
    pub updates: u64,
    pub costs: Costs,
}

#[derive(Serialize)]
pub struct Grown {
    pub model: ModelConfig,
    pub params: u64,
    pub width: &'static str,
    pub depth: &'static str,
}

/// The zeros of a phase.
#[derive(Serialize)]
pub struct Sparse {
    /// Values of the tensors that have any, and how many are zero.
    pub values: u64,
    pub zeros: u64,
    /// Zeros are neither stored nor multiplied.
    pub compact: bool,
    /// What matrices keep of their blocks, if the zeros are blocks.
    pub grids: Vec<AboutGrid>,
    pub flops_per_token: ledger::Ledger,
}

#[derive(Serialize)]
pub struct Batch {
    pub updates: u64,
    pub global_batch: u64,
    pub micro_batch: usize,
    pub micro_steps: usize,
}

#[derive(Serialize)]
pub struct Share {
    pub corpus: String,
    pub share: f64,
    pub tokens: u64,
    /// Passes over the corpus when the phase ends, counted from where its cursor began.
    pub epochs: f64,
}

/// Where the clocks stand when a phase begins.
#[derive(Serialize)]
pub struct Clocks {
    pub update: u64,
    pub schedule: u64,
    pub sample: u64,
    pub tokens: u64,
    pub adam_t: u64,
}

#[derive(Serialize)]
pub struct Memory {
    /// The most of each category, of the rank that needs most.
    pub peak: BTreeMap<&'static str, usize>,
    /// The most of all together.
    pub at_once: usize,
    /// What the arena asks of the system: it keeps a buffer of each size for the next request of that size.
    pub arena: usize,
    pub outside: Outside,
    pub rank: usize,
    /// All ranks where they are threads of one process, one where each is a process.
    pub process: usize,
}

impl DryRun {
    /// Errors are those that `train` would end with before its first update.
    pub fn new(config: &RunConfig, launch: &Launch) -> Result<DryRun> {
        let config = &placed(config, launch)?;
        check(config, launch)?;
        let domains = corpora::look(config)?;
        let held = config.phases.iter().map(|p| held_out(&domains, p)).collect::<Result<Vec<_>>>()?;
        let (tp, dp) = (config.parallel.tp, launch.ranks / config.parallel.tp);
        let threads = launch.threads_per_rank();
        let ranks_per_node = match launch.ranks_per_node {
            Some(_) => launch.node()?,
            // Where nobody asks for nodes, any will do.
            None => launch.node().ok().flatten(),
        };

        let phases = (0..config.phases.len()).map(|i| Phase::new(config, &domains, i, dp));
        let phases = phases.collect::<Result<Vec<_>>>()?;
        let moments = rehearse(config, &held, dp)?;
        let outside = Outside::new(config, dp, threads);
        let m = &config.model;
        let left_out = |p: &Phase| p.spdf.as_ref().filter(|s| s.compact).map_or(0, |s| s.zeros);
        let checkpoint_bytes = checkpoint_bytes(config, phases.iter().map(left_out).min().unwrap_or(0));
        Ok(DryRun {
            run_file: config.source_file.clone(),
            run_dir: config.run.dir.display().to_string(),
            model: Model {
                layers: m.layers,
                dim: m.dim,
                heads: m.heads,
                kv_heads: m.kv_heads,
                vocab: m.vocab,
                dtype: match config.run.dtype {
                    Precision::F32 => "f32",
                    Precision::Bf16 => "bf16",
                },
                params: m.params(),
                matmul_params: m.matmul_params(),
                flops_per_token_full: m.flops_per_token(config.run.seq_len, false),
                flops_per_token_causal: m.flops_per_token(config.run.seq_len, true),
            },
            layout: Layout {
                ranks: launch.ranks,
                dp,
                tp,
                threads_per_rank: threads,
                zero: config.parallel.zero,
                shard: config.parallel.shard_size(dp),
                ranks_per_node: ranks_per_node.unwrap_or(launch.ranks),
                nodes_open: ranks_per_node.is_none() && config.parallel.shard == Shard::Node(None),
                recompute: match config.parallel.recompute {
                    crate::config::Recompute::Keep => "keep",
                    crate::config::Recompute::Cheap => "cheap",
                    crate::config::Recompute::Full => "full",
                },
            },
            corpora: domains.iter().map(Corpus::new).collect(),
            curve: curve::sample(config),
            auto: None,
            checkpoint_bytes,
            slurm_signal_s: slurm_signal_s(checkpoint_bytes),
            memory: Memory::new(&moments, outside),
            phases,
        })
    }
}

fn taught(config: &RunConfig, i: usize) -> Result<Option<Taught>> {
    let phase = &config.phases[i];
    let Some(salt) = &phase.salt else { return Ok(None) };
    let model = teacher::model(salt)?;
    Ok(Some(Taught {
        teacher: salt.teacher.to_string(),
        params: model.params(),
        updates: salt.ends(),
        costs: Costs::new(&model, config.model_of(i), phase),
    }))
}

impl Phase {
    fn new(config: &RunConfig, domains: &[Domain], i: usize, dp: usize) -> Result<Phase> {
        let phase = &config.phases[i];
        let mut alone = Rehearsal::of_phase(config, i, 0, dp);
        let program = alone.program(phase)?;
        let sent = |r: &Rehearsal| {
            let mesh = &r.replica.mesh;
            let [dp, tp] = mesh.sent();
            [("dp", dp), ("tp", tp), ("world", mesh.world.traffic().bytes())]
        };
        let before = sent(&alone);
        alone.update(phase)?;
        let after = sent(&alone).into_iter().zip(before);
        let sent_bytes = after.map(|((axis, now), (_, then))| (axis, now - then)).collect();
        for kind in alone.kinds(phase).into_iter().rev().skip(1) {
            alone.update_of(phase, kind)?;
        }
        let splits = alone.splits(phase);
        let (split, _) = *splits.last().expect("a phase has updates");

        let before = &config.phases[..i];
        let begin = Position { update: before.iter().map(|p| p.steps).sum(), phase: i, phase_step: 0 };
        // Updates since the optimizer's state was new.
        let adam_t = (0..=i).fold(0, |t, n| match config.phases[n].optimizer {
            OptimState::Reset => 0,
            _ if n > 0 => t + config.phases[n - 1].steps,
            _ => 0,
        });
        let sampler = corpora::sampler(config, domains, i)?;
        let samples = phase.all_samples();
        let all: f64 = phase.mix.iter().map(|(_, w)| w).sum();
        let share = |(name, weight): &(String, f64)| {
            let d = domains.iter().position(|d| d.name == *name).expect("the run file was checked");
            let share = weight / all;
            let drawn = sampler.expected(begin.sample(config) + samples)[d];
            Share {
                corpus: name.clone(),
                share,
                tokens: (share * phase.tokens as f64).round() as u64,
                epochs: drawn / sampler.windows(d) as f64,
            }
        };
        let left_out = alone.replica.masks.as_ref().map_or(0, |masks| masks.about.left_out());
        let spdf = alone.replica.masks.as_ref().map(|masks| Sparse {
            values: masks.about.values,
            zeros: masks.about.zeros,
            compact: masks.about.compact,
            grids: masks.about.grids.clone(),
            flops_per_token: ledger::of_phase(config.model_of(i), phase.seq_len, &masks.about),
        });
        Ok(Phase {
            name: phase.name.clone(),
            spdf,
            salt: taught(config, i)?,
            grow: phase.grow.as_ref().map(|g| Grown {
                params: g.model.params(),
                model: g.model.clone(),
                width: g.grow.width.name(),
                depth: g.grow.depth.name(),
            }),
            tokens: samples * phase.seq_len as u64,
            steps: phase.steps,
            seq_len: phase.seq_len,
            global_batch: split.samples() as usize,
            micro_batch: split.micro_batch,
            micro_steps: split.micro_steps,
            batches: splits
                .iter()
                .map(|&(split, updates)| Batch {
                    updates,
                    global_batch: split.samples(),
                    micro_batch: split.micro_batch,
                    micro_steps: split.micro_steps,
                })
                .collect(),
            mix: phase.mix.iter().map(share).collect(),
            start: Clocks {
                update: begin.update,
                schedule: begin.schedule(config),
                sample: begin.sample(config),
                tokens: begin.tokens(config),
                adam_t,
            },
            lr: curve::boundaries(phase, begin.update),
            flops: (config.model_of(i).flops_per_token(phase.seq_len, true) - 6.0 * left_out as f64)
                * (samples * phase.seq_len as u64) as f64,
            peak_bytes: alone.replica.dev.arena().used().peak_total,
            sent_bytes,
            program: format!("{program:016x}"),
        })
    }
}

impl Corpus {
    fn new(d: &Domain) -> Corpus {
        Corpus {
            name: d.name.clone(),
            path: d.corpus.prefix().display().to_string(),
            tokens: d.corpus.tokens(),
            documents: d.corpus.documents(),
        }
    }
}

impl Memory {
    /// `moments` has a row for each rank.
    fn new(moments: &[Vec<MemoryUse>], outside: Outside) -> Memory {
        let of_rank = |rank: &Vec<MemoryUse>, f: fn(&MemoryUse) -> usize| rank.iter().map(f).max();
        let most = moments.iter().max_by_key(|r| of_rank(r, |m| m.peak_fresh)).expect("a run has ranks");
        let arena = of_rank(most, |m| m.peak_fresh).unwrap_or(0);
        // Ranks move from moment to moment together.
        let at = |moment: usize| moments.iter().map(|rank| rank[moment].peak_fresh).sum::<usize>();
        let arenas = (0..most.len()).map(at).max().unwrap_or(0);
        let peak = |c: Category| most.iter().map(|m| m.peak[c as usize]).max().unwrap_or(0);
        Memory {
            peak: Category::ALL.map(|c| (c.name(), peak(c))).into(),
            at_once: of_rank(most, |m| m.peak_total).unwrap_or(0),
            arena,
            rank: arena + outside.rank(),
            process: match processes::joined() {
                None => arenas + moments.len() * outside.rank() + outside.process,
                Some(_) => arena + outside.rank() + outside.process,
            },
            outside,
        }
    }
}

/// The moments of a run on the Meta device, for each rank: two updates of each kind of a phase, an evaluation of each phase.
/// Between them a run trims its arena, so each begins with what always stays.
fn rehearse(config: &RunConfig, held: &[Vec<HeldOut>], dp: usize) -> Result<Vec<Vec<MemoryUse>>> {
    let tp = config.parallel.tp;
    // Ranks differ in their part of the vocabulary and in whether they have a batch of an evaluation.
    let mut known: HashMap<(usize, Vec<bool>), Vec<MemoryUse>> = HashMap::new();
    let rows: Vec<Vec<usize>> = held.iter().map(|h| h.iter().map(HeldOut::rows).collect()).collect();
    let mut of_rank = |rank: usize| {
        let evaluates = |(phase, rows): (&PhaseConfig, &Vec<usize>)| -> Vec<bool> {
            rows.iter().map(|n| rank / tp < n.div_ceil(batch_rows(phase.seq_len))).collect()
        };
        let key = (rank % tp, config.phases.iter().zip(&rows).flat_map(evaluates).collect());
        if let Some(moments) = known.get(&key) {
            return Ok(moments.clone());
        }
        let mut moments = vec![];
        for (i, (phase, rows)) in config.phases.iter().zip(&rows).enumerate() {
            let mut training = Rehearsal::of_phase(config, i, rank, dp);
            training.begin()?;
            for kind in training.kinds(phase) {
                training.replica.dev.arena().trim();
                training.update_of(phase, kind)?;
                training.update_of(phase, kind)?;
            }
            let mut evaluation = Rehearsal::of_phase(config, i, rank, dp);
            evaluation.evaluate(phase, rows)?;
            moments.extend([training, evaluation].map(|r| r.replica.dev.arena().used()));
        }
        Ok(known.entry(key).or_insert(moments).clone())
    };
    (0..dp * tp).map(&mut of_rank).collect()
}

/// Weights and optimizer state as stored, without headers: each value once, whatever the topology, but those that are left
/// out.
fn checkpoint_bytes(config: &RunConfig, left_out: u64) -> u64 {
    let (weights, master) = match config.run.dtype {
        Precision::F32 => (4, 0),
        Precision::Bf16 => (2, 4),
    };
    let all = config.last_model().params() - left_out;
    let size = |moments| if moments == Precision::Bf16 { 2 } else { 4 };
    let moments = match config.optim.kind {
        OptimKind::AdamW { moments, .. } | OptimKind::Adam { moments, .. } => 2 * all * size(moments),
        OptimKind::Muon(muon) => (2 * all - config.last_model().block_matrix_params()) * size(muon.moments),
        OptimKind::Sgd { .. } => 0,
    };
    let ema = if config.optim.ema.is_some() { 4 } else { 0 };
    all * (weights + master + ema) + moments
}

/// A minute for the update under way, and twice what a checkpoint takes at 100 MB/s, which shared file systems manage.
fn slurm_signal_s(checkpoint_bytes: u64) -> u64 {
    60 + 2 * checkpoint_bytes.div_ceil(100_000_000)
}
