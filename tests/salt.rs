//! A teacher beside the training, on every topology: K1, K3, K6 and K9 of our list of invariants.

#[path = "common/batch.rs"]
mod batch;
#[path = "common/gather.rs"]
mod gather;
#[path = "common/random.rs"]
mod random;
#[path = "common/replica.rs"]
mod replica;
#[path = "common/whole.rs"]
mod whole;

use espalier::Result;
use espalier::config::{Distance, Init as From, Kind, Length, ModelConfig, Salt, Schedule, Segment};
use espalier::device::{DType, Real};
use espalier::params::{Init, LocalBox, ParamSpec, TensorSource};
use espalier::tape::At;
use espalier::train::corpora::weight_sum;
use espalier::train::replica::Replica;
use espalier::train::step::{MicroBatch, Outcome, Update, forward, step};
use espalier::train::teacher::Teacher;
use espalier::train::vote::Ballot;
use gather::{Part, all_gradients, all_weights};
use replica::{SEQ_LEN, Setup, VOCAB, gpt2, llama};
use whole::{Whole, whole};

const GLOBAL_BATCH: usize = 4;

fn salt(loss: Distance, temperature: f64) -> Salt {
    let segment = Segment { kind: Kind::Const, from: None, to: Some(0.5), length: Length::Rest };
    let weight = Schedule::resolve(vec![segment], 10).expect("a schedule");
    Salt { teacher: From::HuggingFace("unread".into()), loss, temperature, weight, passed_by: None }
}

/// Narrower and of one layer; another family than the student where that is a Llama.
fn small() -> ModelConfig {
    ModelConfig { layers: 1, dim: 32, heads: 4, kv_heads: 4, head_dim: 8, ffn_dim: 64, ..gpt2() }
}

/// Weights of the teacher: large enough that its distribution is far from flat.
struct Taught(f32);

impl TensorSource for Taught {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
        let mut varied = spec.clone();
        varied.init = Init::Normal { std: 0.3 };
        varied.fill(11, b, out);
        out.iter_mut().for_each(|x| *x *= self.0);
        Ok(())
    }
}

fn with_teacher(r: &mut Replica, salt: &Salt, factor: f32) -> Result<()> {
    let mut teacher = Teacher::beside(r, &small(), salt, SEQ_LEN)?;
    teacher.fill(&Taught(factor))?;
    r.teacher = Some(teacher);
    Ok(())
}

/// ω as given.
fn update_of(r: &mut Replica, i: u64, share: f64) -> Result<Outcome> {
    let dp = (r.mesh.dp.rank(), r.mesh.dp.size());
    let each = GLOBAL_BATCH / dp.1;
    let batches: [MicroBatch; 1] = [batch::rows(i, dp.0 * each, each, SEQ_LEN, VOCAB)];
    let all = weight_sum(&[batch::rows(i, 0, GLOBAL_BATCH, SEQ_LEN, VOCAB)]);
    let update = Update { step: i, lr: 1e-3, clip: Some(1.0), weight_sum: all, z_loss: 1e-3, teacher: share };
    step(r, &batches, &update, Ballot::new(1))
}

/// [loss, ce, kd, norm] of each of two updates, the gradients of the first, the weights.
type Trained = (Vec<[f64; 4]>, Vec<Whole>, Vec<Whole>);

fn trained(setup: &Setup, teacher: Option<(&Salt, f32)>, share: f64) -> Trained {
    let seen = setup.run(|r| {
        if let Some((salt, factor)) = teacher {
            with_teacher(r, salt, factor)?;
        }
        let of = |o: Outcome| [o.loss, o.ce, o.kd, o.grad_norm];
        let first = of(update_of(r, 0, share)?);
        let gradients = all_gradients(r)?;
        let losses = vec![first, of(update_of(r, 1, share)?)];
        Ok((losses, gradients, all_weights(r)?))
    });
    assert!(seen.iter().all(|s| s.0 == seen[0].0));
    let ranks = &seen[..setup.tp];
    let gradients: Vec<&[Part]> = ranks.iter().map(|s| s.1.as_slice()).collect();
    let weights: Vec<&[Part]> = ranks.iter().map(|s| s.2.as_slice()).collect();
    (seen[0].0.clone(), whole(&gradients), whole(&weights))
}

#[test]
fn k1_without_a_share_the_teacher_is_not_asked_and_the_bits_are_those_of_plain_training() {
    for zero in [0, 3] {
        let setup = Setup { dp: 2, zero, ..Setup::solo(llama()) };
        let plain = trained(&setup, None, 0.0);
        // Asked, it would say what is not a number.
        let silent = trained(&setup, Some((&salt(Distance::Kd, 1.0), f32::NAN)), 0.0);
        assert_eq!(plain.0, silent.0);
        assert!(plain.1.iter().zip(&silent.1).all(|(a, b)| a.values == b.values));
        assert!(plain.2.iter().zip(&silent.2).all(|(a, b)| a.values == b.values));
        let asked = setup.run(|r| {
            with_teacher(r, &salt(Distance::Kd, 1.0), f32::NAN)?;
            Ok(update_of(r, 0, 0.5).is_err())
        });
        assert!(asked.iter().all(|refused| *refused));
    }
}

fn near(got: &[Whole], want: &[Whole], bound: f64, what: &str) {
    for (a, b) in got.iter().zip(want) {
        let most = b.values.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
        for (i, (x, y)) in a.values.iter().zip(&b.values).enumerate() {
            assert!((x - y).abs() <= bound * most, "{what}: {} of {} [{i}] is {x}, not {y}", a.name, a.unit);
        }
    }
}

#[test]
fn k3_every_topology_learns_from_the_teacher_what_one_rank_does() {
    for (model, loss) in [(llama(), Distance::Kd), (gpt2(), Distance::Rkl), (llama(), Distance::Js)] {
        let salt = salt(loss, 0.5);
        let solo = Setup::solo(model);
        let want = trained(&solo, Some((&salt, 1.0)), 0.6);
        let plain = trained(&solo, None, 0.0);
        let moved = want.1.iter().zip(&plain.1).filter(|(a, b)| a.values != b.values).count();
        assert!(moved > 10, "the teacher changed {moved} gradients");
        let split = Setup { tp: 2, sequence_parallel: true, ..solo.clone() };
        for setup in [
            Setup { dp: 2, zero: 1, ..solo.clone() },
            Setup { dp: 2, tp: 2, zero: 3, ..solo.clone() },
            Setup { tp: 4, ..solo.clone() },
            Setup { dp: 2, zero: 2, ..split },
            Setup { threads: 2, ..solo.clone() },
        ] {
            let Setup { dp, tp, zero, threads, .. } = setup;
            let what = format!("{loss:?}, dp {dp} tp {tp} ZeRO {zero}");
            let got = trained(&setup, Some((&salt, 1.0)), 0.6);
            if threads == 2 {
                assert_eq!(got.0, want.0);
            }
            for (a, b) in got.0.iter().flatten().zip(want.0.iter().flatten()) {
                assert!((a - b).abs() <= 1e-6 * b.abs(), "{what}: {a}, not {b}");
            }
            near(&got.1, &want.1, 2e-6, &what);
        }
    }
}

#[test]
fn k6_the_teacher_has_neither_gradients_nor_state_and_stays_as_it_is() {
    for (zero, dtype) in [(0, DType::F32), (3, DType::Bf16)] {
        let setup = Setup { dp: 2, zero, dtype, ..Setup::solo(gpt2()) };
        let kept = setup.run(|r| {
            with_teacher(r, &salt(Distance::Kd, 1.0), 1.0)?;
            let bytes = |r: &Replica| {
                let units = &r.teacher.as_ref().expect("a teacher").params().units;
                let held = units.iter().flat_map(|u| [&u.weights, &u.master]).filter(|t| t.exists());
                held.flat_map(|t| t.bytes().to_vec()).collect::<Vec<u8>>()
            };
            let before = bytes(r);
            for i in 0..3 {
                update_of(r, i, 0.5)?;
            }
            let units = &r.teacher.as_ref().expect("a teacher").params().units;
            assert!(units.iter().all(|u| !u.grads.exists() && !u.part_grads.exists()));
            assert!(zero == 3 || units.iter().all(|u| !u.master.exists()));
            assert!(zero == 0 || units.iter().all(|u| !u.weights.exists()));
            Ok((before.len(), before == bytes(r)))
        });
        assert!(kept.iter().all(|(n, same)| *n > 10_000 && *same), "{kept:?}");
    }
}

/// Logits of all tokens of the first batch, by the network that f takes from the replica.
fn logits(r: &mut Replica) -> Result<Vec<f64>> {
    let batch = batch::rows(0, 0, GLOBAL_BATCH, SEQ_LEN, VOCAB);
    let (_, h) = forward(r, &batch.seq, At::default(), false)?;
    let Replica { dev, mesh, net, params, .. } = r;
    Ok(net.head.logits(dev, mesh.tp.as_ref(), params, &net.embed, &h)?.to_f64())
}

/// The first batch, of which only token 7 has a target.
fn one_target() -> MicroBatch {
    let mut batch = batch::rows(0, 0, GLOBAL_BATCH, SEQ_LEN, VOCAB);
    batch.weights.iter_mut().enumerate().for_each(|(i, w)| *w = if i == 7 { 0.5 } else { 0.0 });
    batch
}

/// K9: what the student is compared with at a token is what the teacher says after that token, and after no other.
#[test]
fn k9_the_teachers_distribution_is_that_of_the_same_token() {
    let tau = 0.5;
    let teacher = Setup { model: small(), ..Setup::solo(gpt2()) }.run(|r| {
        r.params.fill(&r.dev, &Taught(1.0))?;
        logits(r)
    });
    let student = Setup::solo(gpt2()).run(logits);
    let found = Setup::solo(gpt2()).run(|r| {
        with_teacher(r, &salt(Distance::Kd, tau), 1.0)?;
        let update = Update { step: 0, lr: 0.0, clip: None, weight_sum: 0.5, z_loss: 1e-3, teacher: 0.25 };
        step(r, &[one_target()], &update, Ballot::new(1))
    });
    let at = 7;
    let log_softmax = |x: &[f64], scale: f64| -> Vec<f64> {
        let most = x.iter().fold(f64::MIN, |m, x| m.max(x * scale));
        let lse = most + x.iter().map(|x| (x * scale - most).exp()).sum::<f64>().ln();
        x.iter().map(|x| x * scale - lse).collect()
    };
    let kd_of = |shift: usize| -> f64 {
        let q = log_softmax(&student[0][at * VOCAB..][..VOCAB], 1.0);
        let p = log_softmax(&teacher[0][(at + shift) * VOCAB..][..VOCAB], 1.0 / tau);
        p.iter().zip(&q).map(|(p, q)| -p.exp() * q).sum()
    };
    let Outcome { loss, ce, kd, z, .. } = found[0];
    assert!((kd / kd_of(0) - 1.0).abs() < 1e-6, "{kd}, not {}", kd_of(0));
    assert!((kd / kd_of(1) - 1.0).abs() >= 1e-3, "a shift by one token is not seen");
    assert!((loss - (0.75 * ce + 0.25 * kd + z)).abs() < 1e-12);
    assert!(Real::is_finite(loss));
}
