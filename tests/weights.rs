//! Token-level loss weights: the loss is Σ w·nll / Σ w over the whole update, whatever ranks and micro-batches it is
//! split into, and a token of weight 0 (a prompt's) is context and nothing else.

#[path = "common/batch.rs"]
mod batch;
#[path = "common/gather.rs"]
mod gather;
#[path = "common/random.rs"]
mod random;
#[path = "common/replica.rs"]
mod replica;

use espalier::Result;
use espalier::config::{ModelConfig, OptimKind};
use espalier::device::DType;
use espalier::tape::{At, Seq};
use espalier::train::corpora::weight_sum;
use espalier::train::replica::Replica;
use espalier::train::step::{MicroBatch, Outcome, Update, forward, forward_backward, step};
use espalier::train::vote::Ballot;
use gather::{Part, Whole, parts, whole};
use random::Random;
use replica::{SEQ_LEN, Setup, VOCAB, gpt2, llama};

/// Sequences of an update.
const ROWS: usize = 4;

/// In f64, where what should be equal is equal to a dozen digits.
fn setup(model: ModelConfig) -> Setup {
    Setup { dtype: DType::F64, kind: OptimKind::Sgd { weight_decay: 0.0 }, ..Setup::solo(model) }
}

/// Weights of all kinds: many 0, many 1, fractions that f16 holds, some above 1.
fn weighted(first: usize, rows: usize) -> MicroBatch {
    let mut batch = batch::rows(0, first, rows, SEQ_LEN, VOCAB);
    let mut random = Random(99 + first as u64);
    for w in &mut batch.weights {
        *w = [0.0, 0.0, 1.0, 1.0, 0.25, 0.9375, 0.0009765625, 3.5][random.below(8)];
    }
    batch
}

/// The same with other weights.
fn with_weights(batch: &MicroBatch, weights: Vec<f32>) -> MicroBatch {
    let MicroBatch { seq, targets, domains, .. } = batch;
    MicroBatch { seq: seq.clone(), targets: targets.clone(), weights, domains: domains.clone() }
}

fn with_targets(batch: &MicroBatch, targets: Vec<u32>) -> MicroBatch {
    let MicroBatch { seq, weights, domains, .. } = batch;
    MicroBatch { seq: seq.clone(), targets, weights: weights.clone(), domains: domains.clone() }
}

/// −log softmax(logits) of every target, in f64, by the definition.
fn losses(r: &Replica, seq: &Seq, targets: &[u32]) -> Result<Vec<f64>> {
    let (_, h) = forward(r, seq, At::default(), false)?;
    let logits = r.net.head.logits(&r.dev, r.mesh.tp.as_ref(), &r.params, &r.net.embed, &h)?;
    let of = |(l, &target): (&[f64], &u32)| {
        let most = l.iter().fold(f64::MIN, |m, x| m.max(*x));
        most + l.iter().map(|x| (x - most).exp()).sum::<f64>().ln() - l[target as usize]
    };
    Ok(logits.to_f64().chunks(VOCAB).zip(targets).map(of).collect())
}

/// Σ w·nll / Σ w, by hand.
fn by_hand(r: &Replica, batches: &[MicroBatch]) -> Result<f64> {
    let (mut sum, mut weights) = (0.0, 0.0);
    for b in batches {
        let nll = losses(r, &b.seq, &b.targets)?;
        sum += b.weights.iter().zip(nll).map(|(w, l)| f64::from(*w) * l).sum::<f64>();
        weights += b.weights.iter().map(|w| f64::from(*w)).sum::<f64>();
    }
    Ok(sum / weights)
}

/// All gradients of a rank, unit after unit.
fn gradients(r: &mut Replica, batches: &[MicroBatch]) -> Result<Vec<f64>> {
    r.params.zero_grads(&r.dev);
    let scale = 1.0 / weight_sum(batches);
    for b in batches {
        forward_backward(r, b, At::default(), scale, None)?;
    }
    Ok(r.params.units.iter().flat_map(|u| u.grads.to_f64()).collect())
}

/// Moves the weights by `by` times a direction.
fn shift(r: &mut Replica, direction: &[f64], by: f64) {
    let mut rest = direction;
    for unit in &mut r.params.units {
        let (own, after) = rest.split_at(unit.len);
        unit.weights.data_mut::<f64>().iter_mut().zip(own).for_each(|(w, d)| *w += by * d);
        rest = after;
    }
}

#[test]
fn a_weighted_batch_has_the_loss_and_the_gradient_of_the_definition() {
    for model in [gpt2(), llama()] {
        setup(model).run(|r| {
            let batches = [weighted(0, 1), weighted(1, 3)];
            let sum = weight_sum(&batches);
            assert!(sum.fract() != 0.0, "fractions are among the weights");
            // The gradient along random directions, by central differences of the loss computed by hand.
            let g = gradients(r, &batches)?;
            let own: Vec<bool> = {
                let mut own = vec![];
                for u in &r.params.units {
                    let first = own.len();
                    own.resize(first + u.len, false);
                    u.params.iter().for_each(|p| own[first..][p.range()].fill(true));
                }
                own
            };
            let mut random = Random(5);
            for _ in 0..4 {
                let number = |own: &bool| if *own { random.below(2001) as f64 / 1000.0 - 1.0 } else { 0.0 };
                let direction: Vec<f64> = own.iter().map(number).collect();
                let eps = 1e-5;
                let mut at = |by: f64| -> Result<f64> {
                    shift(r, &direction, by);
                    let loss = by_hand(r, &batches)?;
                    shift(r, &direction, -by);
                    Ok(loss)
                };
                let slope = (at(eps)? - at(-eps)?) / (2.0 * eps);
                let want: f64 = g.iter().zip(&direction).map(|(g, d)| g * d).sum();
                assert!((slope - want).abs() <= 1e-6 * want.abs().max(1.0), "slope {slope}, gradient {want}");
            }
            // The step's own loss is that of the definition; its losses per token are f32.
            let want = by_hand(r, &batches)?;
            let update = Update { step: 0, lr: 0.0, clip: None, weight_sum: sum };
            let got = step(r, &batches, &update, Ballot::new(1))?;
            assert!((got.loss / want - 1.0).abs() < 1e-7, "{} and by hand {want}", got.loss);
            let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
            assert!((got.grad_norm / norm - 1.0).abs() < 1e-12, "{} and {norm}", got.grad_norm);
            Ok(())
        });
    }
}

#[test]
fn weights_scaled_alike_train_alike() {
    setup(llama()).run(|r| {
        let batch = weighted(0, ROWS);
        // By a power of two: the same bits.
        let doubled = with_weights(&batch, batch.weights.iter().map(|w| 4.0 * w).collect());
        assert!(gradients(r, &[batch])? == gradients(r, &[doubled])?);
        Ok(())
    });
}

#[test]
fn a_prompt_gets_no_gradient_from_its_own_prediction() {
    for model in [gpt2(), llama()] {
        setup(model).run(|r| {
            // Each document begins with a prompt: what predicts a token of it counts nothing.
            let mut batch = batch::rows(0, 0, ROWS, SEQ_LEN, VOCAB);
            let mut random = Random(1);
            let mut prompt = vec![false; batch.weights.len()];
            for cut in batch.seq.cu_seqlens.windows(2) {
                let (begin, end) = (cut[0] as usize, cut[1] as usize);
                let length = random.below(end - begin);
                prompt[begin..begin + length].fill(true);
            }
            for (w, prompt) in batch.weights.iter_mut().zip(&prompt) {
                *w = if *prompt { 0.0 } else { 1.0 };
            }
            assert!(
                prompt.iter().filter(|p| **p).count() > 40 && weight_sum(std::slice::from_ref(&batch)) > 40.0
            );
            let before = gradients(r, std::slice::from_ref(&batch))?;
            assert!(before.iter().any(|g| *g != 0.0));

            let change = |of: bool| -> Vec<u32> {
                let other = |(t, p): (&u32, &bool)| if *p == of { (t + 1) % VOCAB as u32 } else { *t };
                batch.targets.iter().zip(&prompt).map(other).collect()
            };
            let others = with_targets(&batch, change(true));
            assert!(before == gradients(r, &[others])?, "targets of prompts move the gradient");
            let others = with_targets(&batch, change(false));
            assert!(before != gradients(r, &[others])?, "targets of completions do not");
            // The prompt is context all the same.
            let mut seen = with_targets(&batch, batch.targets.clone());
            let first = prompt.iter().position(|p| *p).expect("a prompt");
            seen.seq.tokens[first] = (seen.seq.tokens[first] + 1) % VOCAB as u32;
            assert!(before != gradients(r, &[seen])?, "what a prompt says changes nothing");
            Ok(())
        });
    }
}

/// How the rows of an update fall to the ranks: dp, tp, micro-batches of a rank, ZeRO stage.
type Topology = (usize, usize, usize, u8);

/// What one update leaves: outcome, gradients, weights.
type Trained = (Outcome, Vec<Whole>, Vec<Whole>);

/// One update, whose normaliser the ranks learn from one another as in a run.
fn update(model: &ModelConfig, rows: &[MicroBatch], (dp, tp, micro_steps, zero): Topology) -> Trained {
    let setup = Setup { dp, tp, zero, ..setup(model.clone()) };
    let ranks = setup.run(|r| {
        let each = rows.len() / dp / micro_steps;
        let own: Vec<MicroBatch> =
            (0..micro_steps).map(|m| join(&rows[(m * dp + r.mesh.dp.rank()) * each..][..each])).collect();
        let mut before = Ballot::new(1);
        if r.mesh.tp.rank() == 0 {
            before.next_weight_sum = weight_sum(&own);
        }
        let weight_sum = before.cast(&r.dev, &r.mesh)?.next_weight_sum;
        let update = Update { step: 0, lr: 0.1, clip: Some(0.5), weight_sum };
        let outcome = step(r, &own, &update, Ballot::new(1))?;
        Ok((outcome, parts(&r.params, |u| &u.grads), parts(&r.params, |u| &u.weights)))
    });
    let group = |pick: fn(&(Outcome, Vec<Part>, Vec<Part>)) -> &Vec<Part>| {
        whole(&ranks[..tp].iter().map(|r| pick(r).as_slice()).collect::<Vec<_>>())
    };
    (ranks[0].0.clone(), group(|r| &r.1), group(|r| &r.2))
}

/// Rows side by side.
fn join(rows: &[MicroBatch]) -> MicroBatch {
    let mut all = MicroBatch {
        seq: Seq { seq_len: SEQ_LEN, cu_seqlens: vec![0], ..Seq::default() },
        targets: vec![],
        weights: vec![],
        domains: vec![],
    };
    for row in rows {
        let first = all.seq.tokens.len() as u32;
        all.seq.rows += row.seq.rows;
        all.seq.tokens.extend(&row.seq.tokens);
        all.seq.positions.extend(&row.seq.positions);
        all.seq.cu_seqlens.extend(row.seq.cu_seqlens[1..].iter().map(|c| first + c));
        all.seq.sample_ids.extend(&row.seq.sample_ids);
        all.targets.extend(&row.targets);
        all.weights.extend(&row.weights);
        all.domains.extend(&row.domains);
    }
    all
}

fn close(a: &[Whole], b: &[Whole], what: &str) {
    for (a, b) in a.iter().zip(b) {
        let most = b.values.iter().fold(0f64, |m, v| m.max(v.abs())).max(1e-6);
        let gap = a.values.iter().zip(&b.values).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(
            gap <= 1e-11 * most,
            "{what}: {} of {} is {gap:e} off, its largest is {most:e}",
            a.name,
            a.unit
        );
    }
}

#[test]
fn the_normaliser_is_global_however_unevenly_the_weight_lies() {
    for model in [gpt2(), llama()] {
        // The last two rows alone have weight, or the first alone, or each another amount.
        let only = |row: usize, keep: std::ops::Range<usize>, scale: f32| {
            let b = weighted(row, 1);
            let by = if keep.contains(&row) { scale } else { 0.0 };
            with_weights(&b, b.weights.iter().map(|w| by * w).collect())
        };
        let cases: [(&str, Vec<MicroBatch>); 3] = [
            ("all weight on the last rows", (0..ROWS).map(|row| only(row, 2..4, 1.0)).collect()),
            ("all weight on the first row", (0..ROWS).map(|row| only(row, 0..1, 1.0)).collect()),
            ("uneven", (0..ROWS).map(|row| only(row, 0..4, 1.0 / (1 + row * row) as f32)).collect()),
        ];
        for (name, rows) in cases {
            let (want, grads, weights) = update(&model, &rows, (1, 1, 1, 0));
            let topologies: [Topology; 6] =
                [(2, 1, 1, 0), (2, 1, 2, 1), (4, 1, 1, 0), (1, 1, 4, 0), (1, 2, 2, 0), (2, 2, 1, 1)];
            for topology in topologies {
                let case = format!("{name}, {topology:?}");
                let (got, g, w) = update(&model, &rows, topology);
                assert!((got.loss / want.loss - 1.0).abs() < 1e-6, "{case}: {} and {}", got.loss, want.loss);
                assert!((got.grad_norm / want.grad_norm - 1.0).abs() < 1e-11, "{case}: norms");
                if topology.3 == 0 {
                    close(&g, &grads, &format!("{case}, gradients"));
                }
                close(&w, &weights, &format!("{case}, weights"));
            }
        }
    }
}
