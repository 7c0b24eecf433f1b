//! SPDF: what is zero stays zero on every topology, and nothing else changes.

#[path = "common/batch.rs"]
mod batch;
#[path = "spdf/blocks.rs"]
mod blocks;
#[path = "common/gather.rs"]
mod gather;
#[path = "common/random.rs"]
mod random;
#[path = "common/replica.rs"]
mod replica;
#[path = "common/whole.rs"]
mod whole;

use espalier::Result;
use espalier::config::{OptimKind, Pattern, Precision, Spdf};
use espalier::device::DType;
use espalier::optim::Moment;
use espalier::rng::Philox;
use espalier::train::corpora::weight_sum;
use espalier::train::replica::Replica;
use espalier::train::step::{MicroBatch, Update, evaluate, step};
use espalier::train::vote::Ballot;
use gather::{Part, all_gradients, all_weights};
use replica::{SEQ_LEN, Setup, VOCAB, gpt2, llama};
use std::collections::BTreeSet;
use whole::{Whole, whole};

const GLOBAL_BATCH: usize = 4;

fn spdf(sparsity: f64) -> Spdf {
    let matches = vec!["blocks.*.attn.?.weight".into(), "blocks.*.mlp.*.weight".into()];
    Spdf { matches, pattern: Pattern::Unstructured, sparsity, seed: 5 }
}

fn of_four() -> Spdf {
    Spdf { pattern: Pattern::TwoOfFour, ..spdf(0.5) }
}

/// The zeros of a tensor by the definition: the smallest words, or of each four the two smallest.
fn zeros(spdf: &Spdf, name: &str, n: usize) -> BTreeSet<usize> {
    let stream = Philox::new(spdf.seed, &format!("mask/{name}"));
    let sorted = |range: std::ops::Range<usize>| {
        let mut all: Vec<(u32, usize)> = range.map(|i| (stream.at(i as u64, 0), i)).collect();
        all.sort_unstable();
        all.into_iter().map(|x| x.1)
    };
    match spdf.pattern {
        Pattern::Unstructured => sorted(0..n).take((spdf.sparsity * n as f64).floor() as usize).collect(),
        Pattern::TwoOfFour => (0..n).step_by(4).flat_map(|i| sorted(i..i + 4).take(2)).collect(),
        Pattern::Block(_) => panic!("blocks have tests of their own"),
    }
}

/// Loss and gradient norm.
fn update_of(r: &mut Replica, i: u64) -> Result<(f64, f64)> {
    let dp = (r.mesh.dp.rank(), r.mesh.dp.size());
    let each = GLOBAL_BATCH / dp.1;
    let batches: [MicroBatch; 1] = [batch::rows(i, dp.0 * each, each, SEQ_LEN, VOCAB)];
    let all = weight_sum(&[batch::rows(i, 0, GLOBAL_BATCH, SEQ_LEN, VOCAB)]);
    let update = Update { step: i, lr: 1e-3, clip: Some(1.0), weight_sum: all, z_loss: 0.0, teacher: 0.0 };
    let outcome = step(r, &batches, &update, Ballot::new(1))?;
    Ok((outcome.loss, outcome.grad_norm))
}

/// That masters and moments of this rank's slices are zero where they must be: those of no other rank are here.
fn check_state(r: &Replica, spdf: &Spdf) {
    for (u, unit) in r.params.units.iter().enumerate() {
        for (n, p) in unit.params.iter().enumerate().filter(|(_, p)| spdf.covers(&p.spec.name)) {
            let off = zeros(spdf, &p.spec.name, p.spec.len());
            for (run, first) in p.runs(p.within(&unit.slice)) {
                for (at, index) in run.zip(first as usize..) {
                    let kept =
                        [Moment::First, Moment::Second].into_iter().filter_map(|w| r.optim.moment(w, u, n));
                    let mut held: Vec<f64> = kept.map(|(t, begin)| t.to_f64()[at - begin]).collect();
                    if unit.master.exists() {
                        held.push(unit.master.to_f64()[at - unit.slice.start]);
                    }
                    if off.contains(&index) {
                        assert!(
                            held.iter().all(|x| x.to_bits() << 1 == 0),
                            "{} [{index}]: {held:?}",
                            p.spec.name
                        );
                    }
                }
            }
        }
    }
}

struct Seen {
    losses: Vec<(f64, f64)>,
    gradients: Vec<Part>,
    weights: Vec<Part>,
    hash: u64,
}

/// Loss and norm of each step, the last gradients, the weights, the hash of the masks.
type Trained = (Vec<(f64, f64)>, Vec<Whole>, Vec<Whole>, u64);

fn trained(setup: &Setup, spdf: Option<&Spdf>, steps: u64) -> Trained {
    let seen = setup.run(|r| {
        r.sparsify(spdf)?;
        let mut losses = vec![];
        for i in 0..steps {
            losses.push(update_of(r, i)?);
        }
        if let (Some(spdf), true) = (spdf, steps == 2) {
            check_state(r, spdf);
        }
        let hash = r.masks.as_ref().map_or(0, |m| m.about.hash);
        Ok(Seen { losses, gradients: all_gradients(r)?, weights: all_weights(r)?, hash })
    });
    let of = |pick: fn(&Seen) -> &Vec<Part>| {
        let group: Vec<&[Part]> = seen[..setup.tp].iter().map(|s| pick(s).as_slice()).collect();
        whole(&group)
    };
    assert!(seen.iter().all(|s| s.losses == seen[0].losses && s.hash == seen[0].hash));
    (seen[0].losses.clone(), of(|s| &s.gradients), of(|s| &s.weights), seen[0].hash)
}

/// S1, S4, S5: weights and gradients are zero exactly where the definition says, so many as it says.
fn check_zeros(tensors: &[Whole], spdf: &Spdf, case: &str) {
    let mut covered = 0;
    for t in tensors {
        let is_zero = |i: &usize| t.values[*i] == 0.0;
        let off = zeros(spdf, &t.name, t.values.len());
        if spdf.covers(&t.name) {
            covered += 1;
            assert!(off.iter().all(is_zero), "{case}: {} has values where there are zeros", t.name);
            let kept = (0..t.values.len()).filter(|i| !off.contains(i));
            let still = kept.filter(is_zero).count();
            assert!(still * 50 < t.values.len(), "{case}: {still} more zeros in {}", t.name);
        } else {
            assert!(t.values.iter().any(|x| *x != 0.0), "{case}: {} of {} is zero", t.name, t.unit);
        }
    }
    assert!(covered > 10, "{case}: {covered} tensors");
}

fn bf16_moments() -> OptimKind {
    OptimKind::AdamW { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, moments: Precision::Bf16 }
}

#[test]
fn what_is_zero_stays_zero_on_every_topology() {
    for (model, spdf) in [(gpt2(), spdf(0.75)), (llama(), spdf(0.5)), (llama(), of_four())] {
        let solo = Setup::solo(model.clone());
        let (losses, _, _, hash) = trained(&solo, Some(&spdf), 6);
        for (dp, tp, zero, shard) in
            [(1, 1, 0, 0), (2, 1, 1, 0), (1, 2, 0, 0), (2, 2, 2, 0), (2, 2, 3, 0), (4, 1, 1, 2), (1, 4, 0, 0)]
        {
            for (dtype, kind) in [(DType::F32, solo.kind), (DType::Bf16, bf16_moments()), (DType::F32, sgd())]
            {
                let setup = Setup { dp, tp, zero, shard, dtype, kind, ..solo.clone() };
                let case = format!("dp {dp}, tp {tp}, zero {zero}, {dtype}, {:?}", spdf.pattern);
                for steps in [2, 6] {
                    let (got, gradients, weights, drawn) = trained(&setup, Some(&spdf), steps);
                    check_zeros(&gradients, &spdf, &format!("{case}, gradients"));
                    check_zeros(&weights, &spdf, &format!("{case}, weights"));
                    assert_eq!(drawn, hash, "{case}");
                    // The norm that is clipped by is that of what is trained.
                    let squares: f64 = gradients.iter().flat_map(|t| &t.values).map(|g| g * g).sum();
                    let norm = got[got.len() - 1].1;
                    assert!(
                        (norm / squares.sqrt() - 1.0).abs() < 1e-5,
                        "{case}: {norm}, not {}",
                        squares.sqrt()
                    );
                    if dtype == DType::F32 && kind == solo.kind {
                        let off = got.iter().zip(&losses).map(|(a, b)| (a.0 / b.0 - 1.0).abs());
                        assert!(off.fold(0.0, f64::max) < 1e-5, "{case}: {got:?}, not {losses:?}");
                    }
                }
            }
        }
    }
}

fn sgd() -> OptimKind {
    OptimKind::Sgd { weight_decay: 0.01 }
}

fn bits(tensors: &[Whole]) -> Vec<Vec<u64>> {
    tensors.iter().map(|t| t.values.iter().map(|x| x.to_bits()).collect()).collect()
}

/// S3
#[test]
fn no_zeros_are_the_dense_run_to_the_bit() {
    for zero in [0, 1, 3] {
        let setup = Setup { dp: 2, zero, ..Setup::solo(gpt2()) };
        let (none, _, with, _) = trained(&setup, Some(&spdf(0.0)), 4);
        let (dense, _, without, _) = trained(&setup, None, 4);
        assert_eq!((none, bits(&with)), (dense, bits(&without)));
    }
}

#[test]
fn zero_stages_give_the_same_bits() {
    let run = |zero| trained(&Setup { dp: 2, zero, ..Setup::solo(llama()) }, Some(&spdf(0.75)), 5);
    let (losses, _, weights, _) = run(0);
    for zero in 1..=3 {
        let (l, _, w, _) = run(zero);
        assert_eq!((l, bits(&w)), (losses.clone(), bits(&weights)), "zero {zero}");
    }
}

/// S7: freeing the zeros changes no logit; the first dense update moves them.
#[test]
fn the_switch_to_dense_changes_nothing_until_the_first_update_which_moves_what_was_zero() {
    let spdf = spdf(0.75);
    for zero in [0, 3] {
        let setup = Setup { dp: 2, zero, ..Setup::solo(gpt2()) };
        let seen = setup.run(|r| {
            // What a resume within a phase refuses is counted: values that should have been zero.
            assert!(r.sparsify(Some(&spdf))? > 0);
            for i in 0..5 {
                update_of(r, i)?;
            }
            assert_eq!(r.sparsify(Some(&spdf))?, 0);
            let batch = batch::rows(9, 0, 2, SEQ_LEN, VOCAB);
            let before = evaluate(r, &batch, Default::default())?;
            r.sparsify(None)?;
            r.optim.reset();
            assert_eq!(evaluate(r, &batch, Default::default())?, before);
            update_of(r, 5)?;
            let weights = all_weights(r)?;
            assert!(r.sparsify(Some(&spdf))? > 0);
            Ok(weights)
        });
        let (mut moved, mut all) = (0, 0);
        for t in whole(&[&seen[0]]).iter().filter(|t| spdf.covers(&t.name)) {
            let off = zeros(&spdf, &t.name, t.values.len());
            all += off.len();
            moved += off.iter().filter(|i| t.values[**i] != 0.0).count();
        }
        assert!(moved as f64 >= 0.999 * all as f64, "{moved} of {all}");
    }
}

/// With more sparsity the same weights are zero, and others.
#[test]
fn masks_of_one_seed_lie_within_each_other() {
    let [half, most] = [0.5, 0.9].map(|s| zeros(&spdf(s), "blocks.0.attn.q.weight", 4096));
    assert!(half.is_subset(&most) && half.len() == 2048 && most.len() == 3686);
    let other = zeros(&Spdf { seed: 6, ..spdf(0.5) }, "blocks.0.attn.q.weight", 4096);
    let shared = half.intersection(&other).count();
    // Two independent halves share a quarter, give or take five standard deviations.
    assert!((shared as f64 - 1024.0).abs() < 5.0 * 16.0, "{shared}");
}
