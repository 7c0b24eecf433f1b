//! Training in a cell, and what one rank makes of the same data.

use crate::batch;
use crate::cell::{Cell, How};
use crate::gather::{Part, all_gradients, all_weights};
use crate::muon::muon;
use crate::replica::{Setup, VOCAB, Varied, gpt2, llama};
use espalier::Result;
use espalier::comm::{Comm, Reduce, World};
use espalier::config::{
    Distance, Init as From, Kind, Length, ModelConfig, OptimKind, Pattern, Positions, Precision, Salt,
    Schedule, Segment, Spdf,
};
use espalier::device::{Category, DType, Device};
use espalier::params::{LocalBox, Shard};
use espalier::tensor::Tensor;
use espalier::train::corpora::weight_sum;
use espalier::train::replica::Replica;
use espalier::train::step::{MicroBatch, Update, step};
use espalier::train::teacher::Teacher;
use espalier::train::vote::Ballot;
use std::collections::HashMap;
use xxhash_rust::xxh3::Xxh3;

const SEQ_LEN: usize = 16;
const STEPS: u64 = 20;
/// Updates after which gradients and weights are compared.
const LOOKS: [u64; 2] = [1, 5];

/// Largest differences, relative to the largest value of the tensor (of a gradient: of its block).
#[derive(Clone, Copy, Debug, Default)]
pub struct Gaps {
    gradient: f64,
    weight: f64,
    norm: f64,
    loss: f64,
}

impl Gaps {
    /// In f32. Sums of some hundred terms in another order differ by up to 1.7e-6 (tests/topology.rs has the sharp
    /// comparison in f64, to 1e-14).
    const BOUNDS: Gaps = Gaps { gradient: 2e-6, weight: 1e-6, norm: 1e-5, loss: 1e-5 };

    fn each(&self) -> [(&'static str, f64); 4] {
        [("gradients", self.gradient), ("weights", self.weight), ("norms", self.norm), ("losses", self.loss)]
    }
    pub fn max(self, other: Gaps) -> Gaps {
        let Gaps { gradient, weight, norm, loss } = other;
        let max = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
        Gaps {
            gradient: max(self.gradient, gradient),
            weight: max(self.weight, weight),
            norm: max(self.norm, norm),
            loss: max(self.loss, loss),
        }
    }
}

impl std::fmt::Display for Gaps {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let words: Vec<String> = self.each().iter().map(|(what, gap)| format!("{what} {gap:.1e}")).collect();
        f.write_str(&words.join(", "))
    }
}

/// What came of a cell, the same on every rank.
pub struct Report {
    pub name: String,
    pub gaps: Gaps,
    pub problems: Vec<String>,
    /// Of all losses, norms, gradients and weights.
    pub digest: u64,
}

/// Trains in each cell. Collective over the world.
pub fn cells(world: World, cells: &[Cell]) -> Result<Vec<Report>> {
    let mut alone: HashMap<(bool, How), Trace> = HashMap::new();
    let mut twins: Vec<(Cell, String, u64)> = vec![];
    let mut reports = vec![];
    for cell in cells {
        let want = alone.entry((cell.llama, cell.how)).or_insert_with(|| {
            let one =
                Cell { dp: 1, tp: 1, shard: 1, zero: 0, micro: 1, sequence_parallel: false, ..cell.twin() };
            setup(&one).run(|r| train(r, &one, batch_size(world.size()))).remove(0)
        });
        let mut replica = setup(cell).replica(world.clone())?;
        let trace = train(&mut replica, cell, batch_size(world.size()))?;
        replica.flow.settle(&mut replica.params)?;
        let (gaps, digest) = agree(world.as_ref(), trace.gaps(want, &model(cell)), trace.digest())?;
        let over = |((what, gap), (_, bound)): ((&str, f64), (_, f64))| {
            (gap > bound || gap.is_nan()).then(|| format!("{what} are off by {gap:.2e}"))
        };
        let mut problems: Vec<String> =
            gaps.each().into_iter().zip(Gaps::BOUNDS.each()).filter_map(over).collect();
        let twin = cell.twin();
        match twins.iter().find(|(known, ..)| *known == twin) {
            Some((_, name, other)) if *other != digest => {
                problems.push(format!("not the bits of {name}, which differs in the ZeRO stage alone"));
            }
            Some(_) => {}
            None => twins.push((twin, cell.name(), digest)),
        }
        reports.push(Report { name: cell.name(), gaps, problems, digest });
    }
    Ok(reports)
}

/// Sequences of an update: what every cell of this many ranks divides.
fn batch_size(ranks: usize) -> usize {
    4 * ranks
}

/// The largest gaps of all ranks, and a digest of their digests.
fn agree(world: &dyn Comm, own: Gaps, digest: u64) -> Result<(Gaps, u64)> {
    let dev = Device::cpu(1);
    let most: Vec<f64> = own.each().iter().map(|(_, gap)| *gap).collect();
    let most = Tensor::from_slice(&dev, 1, 4, &most, Category::Comm);
    let most = world.all_reduce(most, Reduce::Max, "gaps")?.wait()?;
    let most = most.data::<f64>();
    let gaps = Gaps { gradient: most[0], weight: most[1], norm: most[2], loss: most[3] };
    let mut all = Tensor::zeros(&dev, world.size(), 2, DType::F64, Category::Comm);
    let halves = [(digest >> 32) as f64, (digest & 0xffff_ffff) as f64];
    all.data_mut::<f64>()[2 * world.rank()..][..2].copy_from_slice(&halves);
    let all = world.all_gather(all, "digests")?.wait()?;
    Ok((gaps, xxhash_rust::xxh3::xxh3_64(all.bytes())))
}

/// What one rank saw.
struct Trace {
    losses: Vec<f64>,
    norms: Vec<f64>,
    /// Gradients and weights at each of `LOOKS`, as this rank's tp part has them.
    looks: Vec<[Vec<Part>; 2]>,
}

fn model(cell: &Cell) -> ModelConfig {
    if cell.llama { llama() } else { gpt2() }
}

fn zeros(cell: &Cell) -> Option<Spdf> {
    let (pattern, sparsity) = match cell.how {
        How::Sparse => (Pattern::Unstructured, 0.75),
        How::Blocks => (Pattern::Block(16), 0.5),
        How::Plain | How::Muon | How::Taught => return None,
    };
    let matches = vec!["blocks.*.attn.?.weight".into(), "blocks.*.mlp.*.weight".into()];
    Some(Spdf { matches, pattern, sparsity, seed: 5 })
}

fn setup(cell: &Cell) -> Setup {
    // With the usual ε, first updates of AdamW are lr · g / |g| and amplify the rounding of tiny gradients.
    let adamw =
        OptimKind::AdamW { betas: [0.9, 0.95], eps: 1e-3, weight_decay: 0.1, moments: Precision::F32 };
    let kind = match (cell.llama, cell.how) {
        (_, How::Muon) => muon(),
        (true, _) => adamw,
        (false, _) => OptimKind::Sgd { weight_decay: 0.01 },
    };
    let Cell { dp, tp, shard, zero, accumulate, recompute, sequence_parallel, .. } = *cell;
    Setup {
        compact: zeros(cell).filter(|s| s.pattern.block().is_some()),
        kind,
        dp,
        tp,
        shard,
        zero,
        accumulate,
        recompute,
        sequence_parallel,
        seq_len: SEQ_LEN,
        ..Setup::solo(model(cell))
    }
}

fn train(r: &mut Replica, cell: &Cell, batch: usize) -> Result<Trace> {
    let lr = if cell.llama || cell.how == How::Muon { 3e-4 } else { 0.1 };
    r.sparsify(zeros(cell).as_ref())?;
    if cell.how == How::Taught {
        let segment = Segment { kind: Kind::Const, from: None, to: Some(0.5), length: Length::Rest };
        let salt = Salt {
            teacher: From::HuggingFace("unread".into()),
            loss: Distance::Kd,
            temperature: 0.5,
            weight: Schedule::resolve(vec![segment], 1).expect("a schedule"),
            passed_by: None,
        };
        let mut teacher = Teacher::beside(r, &ModelConfig { layers: 1, ..model(cell) }, &salt, SEQ_LEN)?;
        teacher.fill(&Varied)?;
        r.teacher = Some(teacher);
    }
    let mut trace = Trace { losses: vec![], norms: vec![], looks: vec![] };
    for i in 0..STEPS {
        let batches = micro_batches(r, i, cell, batch);
        let all = weight_sum(&[batch::rows(i, 0, batch, SEQ_LEN, VOCAB)]);
        // The last update is made without the teacher.
        let teacher = if cell.how == How::Taught && i + 1 < STEPS { 0.6 } else { 0.0 };
        let update = Update { step: i, lr, clip: Some(1.2), weight_sum: all, z_loss: 0.0, teacher };
        let outcome = step(r, &batches, &update, Ballot::new(1))?;
        trace.losses.push(outcome.loss);
        trace.norms.push(outcome.grad_norm);
        if LOOKS.contains(&(i + 1)) {
            trace.looks.push([all_gradients(r)?, all_weights(r)?]);
        }
    }
    Ok(trace)
}

/// What this rank sees of an update.
fn micro_batches(r: &Replica, step: u64, cell: &Cell, batch: usize) -> Vec<MicroBatch> {
    let each = batch / cell.dp / cell.micro;
    let first = |m: usize| (m * cell.dp + r.mesh.dp.rank()) * each;
    (0..cell.micro).map(|m| batch::rows(step, first(m), each, SEQ_LEN, VOCAB)).collect()
}

impl Trace {
    fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        let parts = self.looks.iter().flatten().flatten().flat_map(|part| &part.values);
        for value in self.losses.iter().chain(&self.norms).chain(parts) {
            hash.update(&value.to_bits().to_le_bytes());
        }
        hash.digest()
    }

    /// How far this rank is from one that holds everything.
    fn gaps(&self, one: &Trace, model: &ModelConfig) -> Gaps {
        let relative = |a: &[f64], b: &[f64]| largest(a.iter().zip(b).map(|(a, b)| a / b - 1.0));
        let mut gaps = Gaps {
            loss: relative(&self.losses, &one.losses),
            norm: relative(&self.norms, &one.norms),
            ..Gaps::default()
        };
        for (ours, theirs) in self.looks.iter().zip(&one.looks) {
            let blocks = block_sizes(&theirs[0]);
            for (part, whole) in ours[0].iter().zip(&theirs[0]) {
                gaps.gradient = max(gaps.gradient, gap(part, whole) / blocks[whole.unit.as_str()]);
            }
            for (part, whole) in ours[1].iter().zip(&theirs[1]) {
                // Without rotation a key bias has no gradient: what moves it is rounding.
                let free = matches!(model.positions, Positions::Learned { .. })
                    && whole.spec.name.ends_with("attn.k.bias");
                let size = if free { 1.0 } else { largest(whole.values.iter().copied()) };
                gaps.weight = max(gaps.weight, gap(part, whole) / size);
            }
        }
        gaps
    }
}

fn max(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, |m, v| max(m, v.abs()))
}

/// Of each block: its largest gradient.
fn block_sizes(gradients: &[Part]) -> HashMap<&str, f64> {
    let mut sizes = HashMap::new();
    for part in gradients {
        let size = sizes.entry(part.unit.as_str()).or_insert(0.0);
        *size = max(*size, largest(part.values.iter().copied()));
    }
    sizes
}

/// max|part − its box of the whole|
fn gap(part: &Part, whole: &Part) -> f64 {
    assert_eq!(part.spec.name, whole.spec.name);
    let all = whole.spec.cols.max(1);
    let LocalBox { row, col, cols, .. } = part.local;
    let start = if part.spec.shard == Shard::Replicated { 0 } else { row };
    largest(part.values.chunks(cols.max(1)).enumerate().flat_map(|(i, values)| {
        let first = (start + i) * all + col;
        values.iter().zip(&whole.values[first..]).map(|(a, b)| a - b)
    }))
}
