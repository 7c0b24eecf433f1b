//! The same run gives the same bits: again, on any number of threads, and whatever is kept for the backward or computed
//! again. And a step asks the system for no memory that the step before it did not need.

#[path = "common/batch.rs"]
mod batch;
#[path = "common/muon.rs"]
mod muon;
#[path = "common/random.rs"]
mod random;
#[path = "common/replica.rs"]
mod replica;

use espalier::config::ModelConfig;
use espalier::device::DType;
use espalier::tape::Recompute;
use espalier::tensor::Tensor;
use espalier::train::corpora::weight_sum;
use espalier::train::step::{Update, step};
use espalier::train::vote::Ballot;
use muon::muon;
use replica::{SEQ_LEN, Setup, VOCAB, gpt2, llama};

const STEPS: u64 = 3;
/// Rows of a step, in micro-batches of these. 240 tokens are no multiple of any block.
const ROWS: [usize; 2] = [3, 2];

/// What a rank has after `STEPS` steps, to the bit.
#[derive(PartialEq)]
struct Bits {
    losses: Vec<u64>,
    norms: Vec<u64>,
    /// By unit: weights, gradients, masters and moments.
    units: Vec<(String, [Vec<u8>; 5])>,
}

fn train(setup: &Setup) -> Vec<Bits> {
    setup.run(|r| {
        let (mut losses, mut norms) = (vec![], vec![]);
        for i in 0..STEPS {
            let first = r.mesh.dp.rank() * ROWS.iter().sum::<usize>();
            let batches = [
                batch::rows(i, first, ROWS[0], SEQ_LEN, VOCAB),
                batch::rows(i, first + ROWS[0], ROWS[1], SEQ_LEN, VOCAB),
            ];
            let weight_sum = weight_sum(&batches) * r.mesh.dp.size() as f64;
            let update = Update { step: i, lr: 1e-3, clip: Some(1.0), weight_sum, z_loss: 0.0, teacher: 0.0 };
            let outcome = step(r, &batches, &update, Ballot::new(1))?;
            losses.push(outcome.loss.to_bits());
            norms.push(outcome.grad_norm.to_bits());
        }
        r.flow.settle(&mut r.params)?;
        let bytes = |t: &Tensor| if t.exists() { t.bytes().to_vec() } else { vec![] };
        let unit = |(i, u): (usize, &espalier::params::Unit)| {
            let [m, v] = r.optim.moments[i].each_ref().map(bytes);
            (u.name.clone(), [bytes(&u.weights), bytes(&u.grads), bytes(&u.master), m, v])
        };
        Ok(Bits { losses, norms, units: r.params.units.iter().enumerate().map(unit).collect() })
    })
}

fn assert_same(got: &[Bits], want: &[Bits], case: &str) {
    for (rank, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.losses, want.losses, "{case}: losses of rank {rank}");
        assert_eq!(got.norms, want.norms, "{case}: gradient norms of rank {rank}");
        for ((name, got), (_, want)) in got.units.iter().zip(&want.units) {
            let what = ["weights", "gradients", "masters", "first moments", "second moments"];
            for ((what, got), want) in what.into_iter().zip(got).zip(want) {
                assert!(got == want, "{case}: {what} of {name} on rank {rank}");
            }
        }
    }
}

/// A model whose matrices are worth more than one task.
fn wide() -> ModelConfig {
    ModelConfig { dim: 256, heads: 6, kv_heads: 2, head_dim: 32, ffn_dim: 768, ..llama() }
}

/// Both models, alone and on other topologies, in f32 and bf16.
fn setups() -> Vec<Setup> {
    let of = |model: ModelConfig, dtype, dp, tp, zero| Setup { dtype, dp, tp, zero, ..Setup::solo(model) };
    [DType::F32, DType::Bf16]
        .into_iter()
        .flat_map(|d| {
            [
                of(gpt2(), d, 1, 1, 0),
                of(gpt2(), d, 1, 2, 0),
                of(llama(), d, 1, 1, 0),
                of(wide(), d, 1, 1, 0),
                of(llama(), d, 1, 2, 0),
                of(llama(), d, 2, 1, 1),
                Setup { kind: muon(), ..of(wide(), d, 1, 1, 0) },
                Setup { kind: muon(), ..of(llama(), d, 2, 1, 1) },
            ]
        })
        .collect()
}

fn name(s: &Setup) -> String {
    format!("{}, {} heads, dp {}, tp {}", s.dtype, s.model.heads, s.dp, s.tp)
}

#[test]
fn one_two_and_three_threads_give_the_same_bits_and_so_does_a_second_run() {
    for setup in setups() {
        let want = train(&setup);
        for threads in [1, 2, 3] {
            let got = train(&Setup { threads, ..setup.clone() });
            assert_same(&got, &want, &format!("{}, {threads} threads", name(&setup)));
        }
    }
}

#[test]
fn what_is_computed_again_has_the_same_bits_as_what_was_kept() {
    for setup in setups() {
        let want = train(&setup);
        for recompute in [Recompute::Cheap, Recompute::Full] {
            let got = train(&Setup { recompute, threads: 2, ..setup.clone() });
            assert_same(&got, &want, &format!("{}, {recompute:?}", name(&setup)));
        }
    }
}

#[test]
fn from_the_second_step_on_no_memory_is_asked_for() {
    for setup in setups() {
        for recompute in [Recompute::Keep, Recompute::Cheap, Recompute::Full] {
            let setup = Setup { recompute, threads: 2, ..setup.clone() };
            let fresh = setup.run(|r| {
                let mut fresh = vec![];
                for i in 0..6 {
                    let batches = ROWS.map(|n| batch::rows(i, 0, n, SEQ_LEN, VOCAB));
                    let weight_sum = weight_sum(&batches) * r.mesh.dp.size() as f64;
                    let update =
                        Update { step: i, lr: 1e-3, clip: Some(1.0), weight_sum, z_loss: 0.0, teacher: 0.0 };
                    step(r, &batches, &update, Ballot::new(1))?;
                    fresh.push(r.dev.arena().used().fresh_bytes);
                }
                Ok(fresh)
            });
            for fresh in fresh {
                let still = fresh.iter().all(|f| *f == fresh[0]);
                assert!(fresh[0] > 0 && still, "{}, {recompute:?}: {fresh:?}", name(&setup));
            }
        }
    }
}
