//! Blocks: what is stored compactly trains as the masked form of the same mask does, on every topology.

use super::*;
use espalier::config::ModelConfig;
use espalier::params::ParamSpec;

fn blocks(size: usize, sparsity: f64) -> Spdf {
    Spdf { pattern: Pattern::Block(size), ..super::spdf(sparsity) }
}

fn compact(model: ModelConfig, spdf: &Spdf) -> Setup {
    Setup { compact: Some(spdf.clone()), ..Setup::solo(model) }
}

/// With two kv heads, which four ranks of tp hold twice.
fn two_kv_heads() -> ModelConfig {
    ModelConfig { kv_heads: 2, ffn_dim: 128, ..llama() }
}

/// A compact tensor as the whole one, zeros and all. `dense`: how a dense network declares it.
fn expanded(t: &Whole, spdf: &Spdf, dense: &ParamSpec) -> Vec<f64> {
    if t.values.len() == dense.len() {
        return t.values.clone();
    }
    let size = spdf.pattern.block().expect("blocks");
    let spec = dense.in_blocks(size, spdf.sparsity, spdf.seed);
    let grid = spec.layout.grid().expect("blocks");
    let kept = grid.kept(&t.name);
    let mut all = vec![0.0; grid.rows * grid.cols];
    for (i, block) in t.values.chunks(size * size).enumerate() {
        let (row, col) = grid.place(&kept, i);
        for (r, values) in block.chunks(size).enumerate() {
            all[(row * size + r) * grid.cols + col * size..][..size].copy_from_slice(values);
        }
    }
    all
}

fn assert_near(case: &str, got: &[(f64, f64)], want: &[(f64, f64)], most: f64) {
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        let off = (a.0 / b.0 - 1.0).abs();
        assert!(off < most, "{case}: loss {} of step {i}, not {}: {off:e}", a.0, b.0);
    }
}

/// S2: fifty updates, and what they make of every weight.
#[test]
fn what_is_stored_as_blocks_trains_as_the_masked_form_does() {
    for (model, spdf) in
        [(gpt2(), blocks(16, 0.75)), (llama(), blocks(32, 0.5)), (two_kv_heads(), blocks(16, 0.5))]
    {
        let case = format!("{:?}", spdf.pattern);
        let (losses, gradients, weights, hash) = trained(&compact(model.clone(), &spdf), Some(&spdf), 50);
        let (masked, masked_gradients, masked_weights, same) =
            trained(&Setup::solo(model.clone()), Some(&spdf), 50);
        assert_eq!(hash, same, "{case}");
        assert_near(&case, &losses, &masked, 1e-5);
        let declared = |r: &mut Replica| Ok(r.params.iter().map(|(_, p)| p.spec.clone()).collect::<Vec<_>>());
        let specs = Setup::solo(model).run(declared).remove(0);
        let mut smaller = 0;
        for (ours, theirs) in [(&gradients, &masked_gradients), (&weights, &masked_weights)] {
            for ((a, b), spec) in ours.iter().zip(theirs).zip(&specs) {
                assert!(a.name == spec.name && b.name == spec.name);
                smaller += usize::from(a.values.len() < b.values.len());
                let largest = b.values.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                for (x, y) in expanded(a, &spdf, spec).iter().zip(&b.values) {
                    assert!(
                        y.to_bits() << 1 != 0 || x.to_bits() << 1 == 0,
                        "{case}: {} is zero where masked",
                        a.name
                    );
                    assert!((x - y).abs() < 2e-3 * largest, "{case}: {} has {x}, not {y}", a.name);
                }
            }
        }
        assert!(smaller > 20, "{case}: {smaller} tensors are smaller");
    }
}

/// S4
#[test]
fn blocks_train_alike_on_every_topology() {
    let spdf = blocks(16, 0.5);
    for (model, most_tp) in [(gpt2(), 4), (llama(), 2), (two_kv_heads(), 4)] {
        let solo = compact(model.clone(), &spdf);
        let (losses, _, weights, hash) = trained(&solo, Some(&spdf), 6);
        for (dp, tp, zero, shard, sequence_parallel) in [
            (2, 1, 0, 0, false),
            (2, 1, 1, 0, false),
            (1, 2, 0, 0, false),
            (1, 2, 0, 0, true),
            (2, 2, 2, 0, true),
            (2, 2, 3, 0, false),
            (4, 1, 1, 2, false),
            (4, 1, 3, 0, false),
            (1, 4, 0, 0, false),
        ] {
            if tp > most_tp {
                continue;
            }
            let case = format!("dp {dp}, tp {tp}, zero {zero}, sp {sequence_parallel}");
            let setup = Setup { dp, tp, zero, shard, sequence_parallel, ..solo.clone() };
            let (got, _, other, same) = trained(&setup, Some(&spdf), 6);
            assert_eq!(same, hash, "{case}");
            assert_near(&case, &got, &losses, 1e-5);
            for (a, b) in other.iter().zip(&weights) {
                assert_eq!((&a.name, a.values.len()), (&b.name, b.values.len()), "{case}");
            }
            let bf16 = Setup { dtype: DType::Bf16, kind: bf16_moments(), ..setup };
            assert_near(&case, &trained(&bf16, Some(&spdf), 6).0, &losses, 2e-2);
        }
    }
}

#[test]
fn zero_stages_give_the_same_bits_with_blocks() {
    let spdf = blocks(16, 0.75);
    let run = |zero| trained(&Setup { dp: 2, zero, ..compact(gpt2(), &spdf) }, Some(&spdf), 5);
    let (losses, _, weights, _) = run(0);
    for zero in 1..=3 {
        let (l, _, w, _) = run(zero);
        assert_eq!((l, bits(&w)), (losses.clone(), bits(&weights)), "zero {zero}");
    }
}

/// Weights, gradients and both moments: what is not kept takes no memory.
#[test]
fn state_is_as_large_as_what_is_kept() {
    use espalier::device::Category::{Grads, Optimizer, Weights};
    let model = ModelConfig { dim: 256, ffn_dim: 1024, heads: 4, kv_heads: 4, head_dim: 64, ..gpt2() };
    let spdf = blocks(32, 0.75);
    let used = |setup: &Setup| {
        setup.run(|r| {
            update_of(r, 0)?;
            Ok([Weights, Grads, Optimizer]
                .map(|c| r.dev.arena().used().live[c as usize])
                .iter()
                .sum::<usize>())
        })[0]
    };
    let (dense, kept) = (used(&Setup::solo(model.clone())), used(&compact(model.clone(), &spdf)));
    let matrices = 16 * model.block_matrix_params() as usize;
    // Units are padded to multiples of 1024 values.
    let left = (dense - kept) as f64 / matrices as f64;
    assert!((left - 0.75).abs() < 0.01, "{left} of the state of the matrices is left out");
}
