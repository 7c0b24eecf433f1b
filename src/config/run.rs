//! The validated run: every default filled in, every reference resolved. Plain data; `read` makes it from text,
//! `write` turns it back, `check` holds the rules that need the number of ranks.

use super::batches::Batches;
use super::grow::PhaseGrow;
use super::model::ModelConfig;
use super::muon::MuonConfig;
use super::salt::Salt;
use super::schedule::Schedule;
use super::spdf::Spdf;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// Version of the run file's dialect; 1.
    pub schema: u32,
    pub eval: Option<EvalConfig>,
    pub checkpoint: CheckpointConfig,
    pub run: RunSection,
    pub model: ModelConfig,
    /// Corpora by name, in the order of the file.
    pub data: Vec<(String, DataConfig)>,
    pub parallel: ParallelConfig,
    pub optim: OptimConfig,
    pub numerics: NumericsConfig,
    /// At least one.
    pub phases: Vec<PhaseConfig>,
    /// The file this came from, for messages.
    pub source_file: String,
}

/// How often something happens: "500 steps" or "20 min".
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Every {
    Steps(u64),
    Minutes(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub struct EvalConfig {
    pub on: Vec<EvalTarget>,
    pub every: Every,
    /// Tokens scored per target.
    pub tokens: u64,
    pub weights: EvalWeights,
}

/// Which weights an evaluation computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalWeights {
    Trained,
    /// The moving average of `optim.ema`.
    Ema,
}

impl EvalWeights {
    /// As the run file and the metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            EvalWeights::Trained => "trained",
            EvalWeights::Ema => "ema",
        }
    }
}

/// "web:heldout" is the held-out part of corpus web, "web" all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalTarget {
    pub corpus: String,
    pub heldout: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointConfig {
    pub every: Every,
    pub keep_last: usize,
    /// Checkpoints on this cadence are never pruned.
    pub keep_every: Option<Every>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RunSection {
    pub dir: PathBuf,
    pub seed: u64,
    pub device: DeviceChoice,
    pub dtype: Precision,
    pub init: Init,
    pub seq_len: usize,
    /// Sequences per update, whatever the topology.
    pub global_batch: usize,
    pub attention: Attention,
    /// Coefficient of the z term of the loss; 0 = none.
    pub z_loss: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    Auto,
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    Bf16,
}

/// Where the weights of the first step come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    Random,
    /// A run directory or checkpoint directory; without a step its newest valid checkpoint.
    Checkpoint {
        path: PathBuf,
        step: Option<u64>,
        /// Its averaged weights instead of the trained ones.
        ema: bool,
    },
    /// A Hugging Face directory.
    HuggingFace(PathBuf),
}

/// As the run file has it.
impl std::fmt::Display for Init {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Init::Random => write!(f, "random"),
            Init::Checkpoint { path, step, ema } => {
                let step = step.map_or(String::new(), |n| format!("@{n}"));
                write!(f, "{}:{}{step}", if *ema { "ema" } else { "ckpt" }, path.display())
            }
            Init::HuggingFace(dir) => write!(f, "hf:{}", dir.display()),
        }
    }
}

/// What a token may attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Only its own document within the sequence.
    Document,
    /// The whole sequence.
    Full,
}

/// Megatron-LM's own default, `--split 969,30,1`.
pub const MEGATRON_SPLIT: [f64; 3] = [969.0, 30.0, 1.0];

#[derive(Clone, Debug, PartialEq)]
pub struct DataConfig {
    /// Prefix of .bin or .bin.zst, .idx, .json.
    pub path: PathBuf,
    pub order: Order,
    pub packing: Packing,
    /// Windows of a pack group, for best-fit packing.
    pub pack_group: u64,
    /// Shares of training, validation and test; Megatron's order only.
    pub split: Option<[f64; 3]>,
    pub io: Io,
    /// Where `Io::Stage` copies to; None is the system's folder for temporary files.
    pub stage_dir: Option<PathBuf>,
    /// The side stream that weighs each target, "none" for none; absent is what the corpus says of itself.
    pub weights: Option<String>,
    /// Share of the documents kept out of training.
    pub holdout: f64,
    /// Passes after which drawing from this corpus is an error.
    pub max_epochs: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A keyed permutation of windows; no arrays.
    Stream,
    /// That of Megatron-LM, exactly, with its arrays.
    Megatron,
}

/// How the documents of a corpus become rows of seq_len tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// The concatenated corpus, cut every seq_len tokens.
    Window,
    /// Whole documents where they fit, within groups of windows; only what fills the last gaps is cut.
    BestFit,
    /// One document in each row, the rest of the row empty.
    OneDoc,
}

/// How the bytes of a corpus are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    Mmap,
    Pread,
    /// Copied to a disk of the node at the start, then mapped.
    Stage,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ParallelConfig {
    pub tp: usize,
    /// ZeRO stage, 0 to 3.
    pub zero: u8,
    pub shard: Shard,
    pub sequence_parallel: bool,
    /// Sequences per rank and micro-step; `None` leaves the choice to the trainer.
    pub micro_batch: Option<usize>,
    pub accumulate: Accumulate,
    pub recompute: Recompute,
    pub reductions: Reductions,
    /// `parallel = "auto"`: the launch chooses all of it (`plan::auto`), and what stands here is not it.
    pub open: bool,
}

/// Who sums over ranks that are processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reductions {
    /// This program, in rank order: the same bits for every transport.
    Ordered,
    /// The MPI library, in an order of its choice.
    Library,
    /// For each collective the one that the start of the run finds faster.
    Fastest,
}

impl Reductions {
    /// As the run file and the metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Reductions::Ordered => "ordered",
            Reductions::Library => "library",
            Reductions::Fastest => "fastest",
        }
    }
}

impl ParallelConfig {
    /// Data-parallel ranks of a shard group, of `dp`.
    pub fn shard_size(&self, dp: usize) -> usize {
        match self.shard {
            Shard::All => dp,
            Shard::Ranks(n) => n,
            Shard::Node(n) => n.unwrap_or(dp),
        }
    }
}

/// The ranks over which state is sharded; the rest of dp replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shard {
    All,
    Ranks(usize),
    /// Those of a node: so many of dp, which the launch says (`train::run::placed`), or all where the run is on one node.
    Node(Option<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    Local,
    Sharded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// All activations the backward reads stay.
    Keep,
    /// What costs little is computed again: norms, activations, rotations.
    Cheap,
    /// Only the input of each block stays.
    Full,
}

#[derive(Clone, Debug, PartialEq)]
pub struct OptimConfig {
    pub kind: OptimKind,
    /// Largest global gradient norm; `None` = no clipping.
    pub clip: Option<f64>,
    pub groups: Vec<Group>,
    /// Decay of the moving average of the weights; `None` = no average is kept.
    pub ema: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptimKind {
    /// Decay is decoupled from the gradient.
    AdamW {
        betas: [f64; 2],
        eps: f64,
        weight_decay: f64,
        moments: Precision,
    },
    /// Decay is coupled: weight_decay · w is a part of the gradient.
    Adam {
        betas: [f64; 2],
        eps: f64,
        weight_decay: f64,
        moments: Precision,
    },
    Sgd {
        weight_decay: f64,
    },
    /// The matrices of blocks; AdamW for the rest.
    Muon(MuonConfig),
}

/// What happens to updates that go wrong, and how it is noticed.
#[derive(Clone, Debug, PartialEq)]
pub struct NumericsConfig {
    /// Of an update whose loss or gradient norm is not finite.
    pub nonfinite: OnFault,
    /// Of an update whose loss or gradient norm is more than `sigma` standard deviations above the mean of the `window`
    /// updates before it; `None` = no such thing.
    pub spike: Option<OnFault>,
    pub sigma: f64,
    pub window: usize,
    /// Updates skipped one after the other before the run stops.
    pub max_skips: usize,
    /// Most replay files of a run.
    pub replays: usize,
    /// Updates between two comparisons of what ranks hold alike.
    pub compare_replicas: Option<u64>,
}

/// What becomes of an update that went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFault {
    /// The run ends before it is made.
    Stop,
    /// It is not made, and the run goes on with the next data.
    Skip,
}

/// Settings for the parameters whose name matches one of the patterns.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub patterns: Vec<String>,
    pub weight_decay: Option<f64>,
    pub lr_scale: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PhaseConfig {
    pub name: String,
    /// The fewest updates that have `tokens` tokens: ceil(tokens / (seq_len · global_batch)) without a ramp.
    pub steps: u64,
    pub tokens: u64,
    /// Corpus and share of the tokens, in the order of the file; the shares add up to 1, but where a corpus has
    /// Megatron's order they are the weights as given.
    pub mix: Vec<(String, f64)>,
    /// With `schedule = keep` this is the schedule of the phase that started it, stretched over all that keep it.
    pub lr: Schedule,
    /// Schedule clock at the first step of this phase: 0 unless the schedule is kept.
    pub lr_first: u64,
    /// The rate "current" stands for in the first segment.
    pub lr_start: f64,
    pub optimizer: OptimState,
    pub schedule: ScheduleClock,
    pub cursor: Cursor,
    pub seq_len: usize,
    /// Sequences of an update, with a ramp of the last.
    pub global_batch: usize,
    /// Those of each update.
    pub batches: Batches,
    pub attention: Attention,
    pub z_loss: f64,
    pub eval: Option<EvalConfig>,
    /// Weights that are zero during this phase; `None` = all are trained.
    pub spdf: Option<Spdf>,
    /// Who teaches during this phase.
    pub salt: Option<Salt>,
    /// The larger network that this phase and those after it train.
    pub grow: Option<PhaseGrow>,
}

/// What happens to the optimizer's state at the start of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimState {
    Keep,
    Reset,
    /// First moments start at zero, second moments stay.
    KeepV,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleClock {
    New,
    Keep,
}

/// Whether a phase reads on where the one before stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    Keep,
    New,
}

/// Ranks = dp · tp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    pub dp: usize,
    pub tp: usize,
}

impl RunConfig {
    /// The network of a phase: that of the last growth, or of `[model]`. A phase beyond the last has that of the last.
    pub fn model_of(&self, phase: usize) -> &ModelConfig {
        let grown = self.phases.iter().take(phase + 1).rev().find_map(|p| p.grow.as_ref());
        grown.map_or(&self.model, |g| &g.model)
    }

    /// What the network of a phase stores as blocks. A phase beyond the last has that of the last.
    pub fn blocks_of(&self, phase: usize) -> Option<&Spdf> {
        let phase = self.phases.get(phase).or(self.phases.last())?;
        phase.spdf.as_ref().filter(|s| s.pattern.block().is_some())
    }

    /// Whether a phase trains another network than the one before it: a larger one, or one that is stored in another way.
    pub fn begins_anew(&self, phase: usize) -> bool {
        let grows = self.phases.get(phase).is_some_and(|p| p.grow.is_some());
        phase > 0 && (grows || self.blocks_of(phase) != self.blocks_of(phase - 1))
    }

    /// The phase whose network there is before update `phase_step` of `phase`: the one before, where that is another.
    pub fn network_at(&self, phase: usize, phase_step: u64) -> usize {
        if phase_step == 0 && self.begins_anew(phase) { phase - 1 } else { phase }
    }

    /// The largest, which the last phase trains.
    pub fn last_model(&self) -> &ModelConfig {
        self.model_of(self.phases.len())
    }

    /// All networks of the run, the first first.
    pub fn models(&self) -> impl Iterator<Item = &ModelConfig> {
        std::iter::once(&self.model).chain(self.phases.iter().filter_map(|p| Some(&p.grow.as_ref()?.model)))
    }
}

impl PhaseConfig {
    /// Learning rate of the update with index `step` (0-based) of this phase.
    pub fn lr_at(&self, step: u64) -> f64 {
        self.lr.at(self.lr_first.saturating_add(step), self.lr_start)
    }

    /// The teacher's share of the loss of the update with index `step` (0-based) of this phase.
    pub fn teacher_at(&self, step: u64) -> f64 {
        self.salt.as_ref().map_or(0.0, |salt| salt.weight_at(step))
    }

    /// Samples of the first `steps` updates of this phase, which are not more than it has.
    pub fn samples(&self, steps: u64) -> u64 {
        self.batches.samples(steps).expect("the budget was checked as the run file was read")
    }

    /// Samples of all its updates.
    pub fn all_samples(&self) -> u64 {
        self.samples(self.steps)
    }

    /// The sizes that its updates have, each once, from the smallest up.
    pub fn sizes(&self) -> impl Iterator<Item = usize> {
        self.batches.runs(0..self.steps).map(|(batch, _)| batch)
    }
}
