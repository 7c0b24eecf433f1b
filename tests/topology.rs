//! Any split of an update over data-parallel ranks, tensor-parallel ranks and micro-batches trains the same model:
//! gradients, norm, weights and losses agree with one rank's to the rounding of f32.

#[path = "common/batch.rs"]
mod batch;
#[path = "common/gather.rs"]
mod gather;
#[path = "topology/moved.rs"]
mod moved;
#[path = "common/muon.rs"]
mod muon;
#[path = "common/random.rs"]
mod random;
#[path = "common/replica.rs"]
mod replica;
#[path = "common/whole.rs"]
mod whole;
#[path = "topology/withheld.rs"]
mod withheld;

use espalier::config::{ModelConfig, OptimKind, Positions, Precision};
use espalier::device::DType;
use espalier::params::Accumulate;
use espalier::tape::{At, Recompute};
use espalier::train::corpora::weight_sum;
use espalier::train::step::{MicroBatch, Terms, Update, evaluate, forward_backward, step};
use espalier::train::vote::Ballot;
use gather::{Part, all_gradients, all_weights};
use muon::muon;
use replica::{SEQ_LEN, Setup, VOCAB, gpt2, llama};
use whole::{Whole, whole};

/// Sequences per update.
const GLOBAL_BATCH: usize = 8;
/// Updates after which gradients and weights are compared.
const LOOKS: [u64; 2] = [1, 5];

/// How an update falls to the ranks.
#[derive(Clone, Copy, Debug)]
struct Topology {
    dp: usize,
    tp: usize,
    /// Ranks of a shard group.
    shard: usize,
    /// Of a rank.
    micro_batches: usize,
    zero: u8,
    accumulate: Accumulate,
    sequence_parallel: bool,
    recompute: Recompute,
}

const fn topology(dp: usize, tp: usize, micro_batches: usize, zero: u8) -> Topology {
    let (accumulate, recompute) = (Accumulate::Local, Recompute::Keep);
    Topology { dp, tp, shard: dp, micro_batches, zero, accumulate, sequence_parallel: false, recompute }
}

const fn sharded(t: Topology) -> Topology {
    Topology { accumulate: Accumulate::Sharded, ..t }
}

/// With sequence parallelism.
const fn sequence(t: Topology) -> Topology {
    Topology { sequence_parallel: true, ..t }
}

const fn full(t: Topology) -> Topology {
    Topology { recompute: Recompute::Full, ..t }
}

const ONE: Topology = topology(1, 1, 1, 0);

const TOPOLOGIES: [Topology; 31] = [
    topology(1, 1, 2, 0),
    topology(1, 1, 4, 1),
    topology(2, 1, 1, 0),
    topology(2, 1, 4, 1),
    topology(4, 1, 1, 0),
    topology(4, 1, 2, 1),
    topology(1, 2, 1, 0),
    topology(1, 4, 2, 0),
    topology(2, 2, 1, 1),
    topology(2, 2, 2, 0),
    topology(1, 1, 2, 3),
    topology(2, 1, 4, 2),
    topology(4, 1, 1, 3),
    topology(2, 2, 2, 2),
    topology(2, 2, 2, 3),
    sharded(topology(2, 1, 4, 2)),
    sharded(topology(4, 1, 2, 3)),
    Topology { shard: 2, ..topology(4, 1, 2, 1) },
    Topology { shard: 2, ..topology(4, 2, 1, 3) },
    Topology { shard: 2, ..sharded(topology(4, 1, 2, 3)) },
    sequence(topology(1, 2, 1, 0)),
    sequence(topology(1, 4, 2, 1)),
    sequence(topology(2, 2, 2, 1)),
    sequence(topology(2, 2, 1, 3)),
    sequence(topology(2, 4, 1, 1)),
    sequence(topology(2, 4, 2, 3)),
    sequence(full(topology(1, 2, 2, 1))),
    sequence(full(topology(2, 4, 1, 3))),
    sequence(Topology { recompute: Recompute::Cheap, ..topology(2, 2, 1, 1) }),
    sequence(sharded(topology(2, 2, 2, 3))),
    full(topology(2, 2, 2, 3)),
];

/// For models with fewer kv heads than ranks of tp.
const OF_KV_COPIES: [Topology; 6] = [
    topology(1, 4, 1, 0),
    topology(1, 4, 2, 1),
    topology(2, 4, 1, 3),
    sequence(topology(1, 4, 1, 0)),
    sequence(full(topology(2, 4, 2, 1))),
    sequence(sharded(topology(2, 4, 2, 3))),
];

/// What a run left, the same for all ranks.
struct Trace {
    losses: Vec<f64>,
    norms: Vec<f64>,
    /// Gradients and weights at each of `LOOKS`.
    looks: Vec<[Vec<Whole>; 2]>,
}

/// What one rank saw.
struct Seen {
    outcomes: Vec<(f64, f64)>,
    looks: Vec<[Vec<Part>; 2]>,
}

fn setup(model: &ModelConfig, topology: Topology) -> Setup {
    let Topology { dp, tp, shard, zero, accumulate, sequence_parallel, recompute, .. } = topology;
    let base = Setup::solo(model.clone());
    Setup { dp, tp, shard, zero, accumulate, sequence_parallel, recompute, ..base }
}

/// What rank `dp.0` of `dp.1` sees of an update.
fn micro_batches(step: u64, dp: (usize, usize), accumulate: usize) -> Vec<MicroBatch> {
    let micro = GLOBAL_BATCH / dp.1 / accumulate;
    let first = |m: usize| (m * dp.1 + dp.0) * micro;
    (0..accumulate).map(|m| batch::rows(step, first(m), micro, SEQ_LEN, VOCAB)).collect()
}

/// The normaliser of an update: of all ranks, which here is known without asking them.
fn weight_of(step: u64) -> f64 {
    weight_sum(&[batch::rows(step, 0, GLOBAL_BATCH, SEQ_LEN, VOCAB)])
}

fn train(model: &ModelConfig, kind: OptimKind, (steps, lr): (u64, f64), topology: Topology) -> Trace {
    let Topology { dp, tp, micro_batches: micro, .. } = topology;
    let setup = Setup { kind, ..setup(model, topology) };
    let seen = setup.run(|r| {
        let mut seen = Seen { outcomes: vec![], looks: vec![] };
        for i in 0..steps {
            let batches = micro_batches(i, (r.mesh.dp.rank(), dp), micro);
            // Gradients are clipped, those of the last steps of GPT-2 are not.
            let update =
                Update { step: i, lr, clip: Some(1.2), weight_sum: weight_of(i), z_loss: 0.0, teacher: 0.0 };
            let outcome = step(r, &batches, &update, Ballot::new(1))?;
            seen.outcomes.push((outcome.loss, outcome.grad_norm));
            if LOOKS.contains(&(i + 1)) {
                seen.looks.push([all_gradients(r)?, all_weights(r)?]);
            }
        }
        Ok(seen)
    });
    let gathered = |look: usize, what: usize, dp_rank: usize| {
        let group: Vec<&[Part]> =
            (0..tp).map(|t| seen[dp_rank * tp + t].looks[look][what].as_slice()).collect();
        whole(&group)
    };
    for rank in &seen {
        assert_eq!(rank.outcomes, seen[0].outcomes, "losses and norms are the same on every rank");
    }
    let looks: Vec<_> = (0..LOOKS.len()).map(|look| [0, 1].map(|what| gathered(look, what, 0))).collect();
    for (look, what) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for (a, b) in (1..dp).flat_map(|d| gathered(look, what, d)).zip(looks[look][what].iter().cycle()) {
            assert!(same_bits(&a.values, &b.values), "{} differs between data-parallel ranks", a.name);
        }
    }
    let (losses, norms) = seen[0].outcomes.iter().copied().unzip();
    Trace { losses, norms, looks }
}

fn same_bits(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn largest<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    values.into_iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// max|a − b|; NaN if there is one
fn gap(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() || d > m { d } else { m })
}

/// max|a / b − 1|
fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a / b - 1.0).abs()))
}

/// With the usual ε of 1e-8 the first updates of AdamW are lr · g / |g|: where g is nothing but rounding (a rare
/// token's, a key bias's) they are a whole step in either direction. A larger ε makes them continuous in g.
fn adamw() -> OptimKind {
    OptimKind::AdamW { betas: [0.9, 0.95], eps: 1e-3, weight_decay: 0.1, moments: Precision::F32 }
}

/// Whose rounding draws random bits.
fn bf16_moments() -> OptimKind {
    OptimKind::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1, moments: Precision::Bf16 }
}

fn sgd() -> OptimKind {
    OptimKind::Sgd { weight_decay: 0.01 }
}

/// Without rotation a key bias shifts all scores of a query alike and has no gradient: what is computed is rounding.
fn without_gradient(model: &ModelConfig, name: &str) -> bool {
    matches!(model.positions, Positions::Learned { .. }) && name.ends_with("attn.k.bias")
}

/// Two gradients within `bound` of the largest of their block, and five times that of their own tensor's.
fn check_gradients(model: &ModelConfig, got: &[Whole], wants: &[Whole], bound: f64, case: &str) {
    for (got, want) in got.iter().zip(wants) {
        let (gap, name) = (gap(&got.values, &want.values), &want.name);
        let block = largest(wants.iter().filter(|w| w.unit == want.unit).flat_map(|w| &w.values));
        let own = if without_gradient(model, name) { block } else { largest(&want.values) };
        assert!(
            gap <= bound * block,
            "{case}: gradient of {name} is off by {:e} of its block's",
            gap / block
        );
        assert!(gap <= 5.0 * bound * own, "{case}: gradient of {name} is off by {:e} of its own", gap / own);
    }
}

fn every_topology_trains_like_one_rank(
    model: ModelConfig,
    kind: OptimKind,
    lr: f64,
    topologies: &[Topology],
) {
    let want = train(&model, kind, (20, lr), ONE);
    for &topology in topologies {
        let got = train(&model, kind, (20, lr), topology);
        let (loss, norm) = (relative(&got.losses, &want.losses), relative(&got.norms, &want.norms));
        println!("{topology:?}: losses {loss:.1e}, norms {norm:.1e}");
        assert!(loss <= 1e-5, "{topology:?}: losses are off by {loss:e}");
        assert!(norm <= 1e-5, "{topology:?}: gradient norms are off by {norm:e}");
        assert!(relative(&got.norms[..5], &want.norms[..5]) <= 1e-6, "{topology:?}: first gradient norms");
        for (i, step) in LOOKS.into_iter().enumerate() {
            let case = format!("{topology:?}, step {step}");
            // In f32 sums of some hundred terms in another order are up to 1.7e-6 apart: the next test is the sharp one.
            check_gradients(&model, &got.looks[i][0], &want.looks[i][0], 2e-6, &case);
            for (got, want) in got.looks[i][1].iter().zip(&want.looks[i][1]) {
                let gap = gap(&got.values, &want.values) / largest(&want.values);
                assert!(gap <= 1e-6, "{case}: {} is off by {gap:e} of its largest", want.name);
            }
        }
    }
}

#[test]
fn every_topology_trains_gpt2_by_adamw_like_one_rank() {
    every_topology_trains_like_one_rank(gpt2(), adamw(), 3e-4, &TOPOLOGIES);
}

#[test]
fn every_topology_trains_gpt2_by_sgd_like_one_rank() {
    every_topology_trains_like_one_rank(gpt2(), sgd(), 0.1, &TOPOLOGIES);
}

#[test]
fn every_topology_trains_llama_by_adamw_like_one_rank() {
    every_topology_trains_like_one_rank(llama(), adamw(), 3e-4, &TOPOLOGIES);
}

#[test]
fn every_topology_trains_llama_by_sgd_like_one_rank() {
    every_topology_trains_like_one_rank(llama(), sgd(), 0.1, &TOPOLOGIES);
}

/// Of 8 q heads; with biases, and QK-norms, whose gradients are sums over heads.
fn few_kv_heads(kv_heads: usize) -> ModelConfig {
    ModelConfig { kv_heads, qkv_bias: true, ..llama() }
}

#[test]
fn a_kv_head_on_several_ranks_trains_like_one_on_one() {
    every_topology_trains_like_one_rank(few_kv_heads(1), adamw(), 3e-4, &OF_KV_COPIES);
    every_topology_trains_like_one_rank(few_kv_heads(2), sgd(), 0.1, &OF_KV_COPIES);
}

fn assert_same_training(a: &Trace, b: &Trace, case: &str) {
    assert_eq!(a.losses, b.losses, "{case}: losses");
    assert_eq!(a.norms, b.norms, "{case}: norms");
    for (a, b) in a.looks.iter().flatten().flatten().zip(b.looks.iter().flatten().flatten()) {
        assert!(same_bits(&a.values, &b.values), "{case}: {}", a.name);
    }
}

#[test]
fn all_zero_stages_give_the_same_bits() {
    let adamw = Setup::solo(gpt2()).kind;
    for (model, kind) in [
        (gpt2(), adamw),
        (llama(), bf16_moments()),
        (llama(), sgd()),
        (gpt2(), muon()),
        (few_kv_heads(2), moved::muon_in_bf16()),
    ] {
        for (dp, tp, micro_batches) in [(2, 1, 2), (4, 1, 1), (2, 2, 2)] {
            let run = |topology| train(&model, kind, (5, 3e-4), topology);
            let want = run(topology(dp, tp, micro_batches, 0));
            for zero in 1..=3 {
                let case = format!("dp {dp}, tp {tp}, zero {zero}");
                assert_same_training(&run(topology(dp, tp, micro_batches, zero)), &want, &case);
            }
            let [two, three] = [2, 3].map(|zero| run(sharded(topology(dp, tp, micro_batches, zero))));
            assert_same_training(&two, &three, &format!("dp {dp}, tp {tp}, sharded sums"));
        }
        let replicated = |zero| Topology { shard: 2, ..topology(4, 1, 2, zero) };
        let [one, two, three] = [1, 2, 3].map(|zero| train(&model, kind, (5, 3e-4), replicated(zero)));
        assert_same_training(&one, &two, "two replicas of two shards, zero 1 and 2");
        assert_same_training(&one, &three, "two replicas of two shards, zero 1 and 3");
    }
}

#[test]
fn recomputing_gives_the_same_bits_with_sequence_parallelism() {
    for model in [gpt2(), llama(), few_kv_heads(1)] {
        let run = |recompute| {
            train(&model, adamw(), (5, 3e-4), sequence(Topology { recompute, ..topology(2, 4, 2, 3) }))
        };
        let keep = run(Recompute::Keep);
        for recompute in [Recompute::Cheap, Recompute::Full] {
            assert_same_training(&run(recompute), &keep, &format!("{recompute:?}"));
        }
    }
}

/// 47 tokens do not split over 4 ranks, and an evaluation keeps nothing that would be worth splitting.
#[test]
fn an_evaluation_takes_rows_that_sequence_parallelism_could_not_split() {
    let batch = batch::rows(0, 0, 1, SEQ_LEN - 1, VOCAB);
    for model in [gpt2(), few_kv_heads(1)] {
        let losses = |t: Topology| {
            let nll = setup(&model, t).run(|r| evaluate(r, &batch, At::default())).remove(0);
            nll.into_iter().map(f64::from).collect::<Vec<_>>()
        };
        let gap = gap(&losses(sequence(topology(1, 4, 1, 0))), &losses(ONE));
        assert!(gap <= 1e-5, "losses are off by {gap:e}");
    }
}

/// Logits that a soft-cap bends, which are trained with a z term.
fn capped() -> ModelConfig {
    ModelConfig { logit_softcap: Some(0.5), ..llama() }
}

fn z_loss(model: &ModelConfig) -> f64 {
    if model.logit_softcap.is_some() { 1e-2 } else { 0.0 }
}

/// The gradients of one update in f64, without an optimizer.
fn gradients(model: &ModelConfig, topology: Topology) -> Vec<Whole> {
    let setup = Setup { dtype: DType::F64, kind: sgd(), ..setup(model, topology) };
    let Topology { dp, tp, micro_batches: micro, .. } = topology;
    let parts = setup.run(|r| {
        let batches = micro_batches(0, (r.mesh.dp.rank(), dp), micro);
        for (i, batch) in batches.iter().enumerate() {
            let last = i + 1 == batches.len();
            let terms = Terms { scale: 1.0 / weight_of(0), z: z_loss(model), teacher: 0.0 };
            forward_backward(r, batch, At::default(), terms, last)?;
        }
        r.flow.finish(&r.dev, &mut r.params)?;
        all_gradients(r)
    });
    whole(&parts[..tp].iter().map(Vec::as_slice).collect::<Vec<_>>())
}

#[test]
fn in_f64_the_gradients_of_every_topology_are_those_of_one_rank() {
    for model in [gpt2(), llama(), capped()] {
        let want = gradients(&model, ONE);
        for topology in TOPOLOGIES {
            let case = format!("f64, {topology:?}");
            check_gradients(&model, &gradients(&model, topology), &want, 1e-14, &case);
        }
    }
    for model in [1, 2].map(few_kv_heads) {
        let want = gradients(&model, ONE);
        for topology in OF_KV_COPIES {
            let case = format!("f64, {} kv heads, {topology:?}", model.kv_heads);
            check_gradients(&model, &gradients(&model, topology), &want, 1e-14, &case);
        }
    }
}
