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
#[path = "common/whole.rs"]
mod whole;

use espalier::Result;
use espalier::checkpoint::Manifest;
use espalier::comm::Mesh;
use espalier::config::{ModelConfig, OptimKind, RunConfig};
use espalier::data::side::{SideType, StreamWriter};
use espalier::data::{Corpus, CorpusWriter, Tokenizer};
use espalier::device::{DType, Device};
use espalier::params::RandomInit;
use espalier::tape::{At, Seq};
use espalier::train::corpora::weight_sum;
use espalier::train::replica::Replica;
use espalier::train::run::{Launch, plan, train};
use espalier::train::step::{MicroBatch, Terms, Update, forward, forward_backward, step};
use espalier::train::vote::Ballot;
use gather::{Part, all_gradients, all_weights};
use random::Random;
use replica::{SEQ_LEN, Setup, VOCAB, gpt2, llama};
use std::path::Path;
use std::time::Duration;
use whole::{Whole, whole};

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
fn losses(r: &mut Replica, seq: &Seq, targets: &[u32]) -> Result<Vec<f64>> {
    let (_, h) = forward(r, seq, At::default(), false)?;
    let logits = r.net.head.logits(&r.dev, r.mesh.tp.as_ref(), &r.params, &r.net.embed, &h)?;
    let of = |(l, &target): (&[f64], &u32)| {
        let most = l.iter().fold(f64::MIN, |m, x| m.max(*x));
        most + l.iter().map(|x| (x - most).exp()).sum::<f64>().ln() - l[target as usize]
    };
    Ok(logits.to_f64().chunks(VOCAB).zip(targets).map(of).collect())
}

/// Σ w·nll / Σ w, by hand.
fn by_hand(r: &mut Replica, batches: &[MicroBatch]) -> Result<f64> {
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
        forward_backward(r, b, At::default(), Terms::ce(scale), false)?;
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

/// With a soft-cap that bends its logits, which `Head::logits` has to give as the loss sees them.
fn capped() -> ModelConfig {
    ModelConfig { logit_softcap: Some(0.5), ..llama() }
}

#[test]
fn a_weighted_batch_has_the_loss_and_the_gradient_of_the_definition() {
    for model in [gpt2(), llama(), capped()] {
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
            // The losses that a step sums up are f32.
            let mut got = 0.0;
            for b in &batches {
                let nll = forward_backward(r, b, At::default(), Terms::ce(0.0), false)?.nll;
                got += b.weights.iter().zip(&nll).map(|(w, l)| f64::from(w * l)).sum::<f64>() / sum;
            }
            let want = by_hand(r, &batches)?;
            assert!((got / want - 1.0).abs() < 1e-6, "{got} and by hand {want}");
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

/// What one update leaves: its loss, gradients and weights.
type Trained = (f64, Vec<Whole>, Vec<Whole>);

/// One update, whose normaliser the ranks learn from one another as in a run. In f64, which the optimizer does not
/// know, the gradients of a step without the step.
fn update(
    model: &ModelConfig,
    dtype: DType,
    rows: &[MicroBatch],
    (dp, tp, micro_steps, zero): Topology,
) -> Trained {
    let setup = Setup { dtype, dp, tp, zero, ..setup(model.clone()) };
    let ranks = setup.run(|r| {
        let each = rows.len() / dp / micro_steps;
        let own: Vec<MicroBatch> =
            (0..micro_steps).map(|m| join(&rows[(m * dp + r.mesh.dp.rank()) * each..][..each])).collect();
        let mut before = Ballot::new(1);
        if r.mesh.tp.rank() == 0 {
            before.next_weight_sum = weight_sum(&own);
        }
        let weight_sum = before.cast(&r.dev, &r.mesh)?.next_weight_sum;
        let update = Update { step: 0, lr: 0.1, clip: None, weight_sum, z_loss: 0.0, teacher: 0.0 };
        let loss = match dtype {
            DType::F64 => reduced(r, &own, weight_sum)?,
            _ => step(r, &own, &update, Ballot::new(1))?.loss,
        };
        Ok((loss, all_gradients(r)?, all_weights(r)?))
    });
    #[allow(clippy::type_complexity)] // a table of cases
    let group = |pick: fn(&(f64, Vec<Part>, Vec<Part>)) -> &Vec<Part>| {
        whole(&ranks[..tp].iter().map(|r| pick(r).as_slice()).collect::<Vec<_>>())
    };
    for rank in &ranks {
        assert_eq!(rank.0.to_bits(), ranks[0].0.to_bits(), "the loss is the same on every rank");
    }
    (ranks[0].0, group(|r| &r.1), group(|r| &r.2))
}

/// Gradients of all ranks, summed; returns the loss.
fn reduced(r: &mut Replica, batches: &[MicroBatch], weight_sum: f64) -> Result<f64> {
    let mut ballot = Ballot::new(1);
    for (i, batch) in batches.iter().enumerate() {
        let last = i + 1 == batches.len();
        let terms = Terms::ce(1.0 / weight_sum);
        let losses = forward_backward(r, batch, At::default(), terms, last)?;
        ballot.add_losses(batch, &losses, r.mesh.tp.rank() == 0);
    }
    r.flow.finish(&r.dev, &mut r.params)?;
    Ok(ballot.cast(&r.dev, &r.mesh)?.loss_sum / weight_sum)
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

fn close(a: &[Whole], b: &[Whole], bound: f64, what: &str) {
    for (a, b) in a.iter().zip(b) {
        let most = b.values.iter().fold(0f64, |m, v| m.max(v.abs())).max(1e-3);
        let gap = a.values.iter().zip(&b.values).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(gap <= bound * most, "{what}: {} of {} is {gap:e} off, at most {most:e}", a.name, a.unit);
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
        let topologies: [Topology; 6] =
            [(2, 1, 1, 0), (2, 1, 2, 1), (4, 1, 1, 0), (1, 1, 4, 0), (1, 2, 2, 0), (2, 2, 1, 1)];
        for (name, rows) in cases {
            // The gradients to a dozen digits; the update as a run makes it, in f32.
            for (dtype, bound) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
                let (loss, grads, weights) = update(&model, dtype, &rows, (1, 1, 1, 0));
                for topology in topologies {
                    let case = format!("{name}, {dtype}, {topology:?}");
                    let (l, g, w) = update(&model, dtype, &rows, topology);
                    assert!((l / loss - 1.0).abs() < 1e-6, "{case}: {l} and {loss}");
                    close(&g, &grads, bound, &format!("{case}, gradients"));
                    close(&w, &weights, bound, &format!("{case}, weights"));
                }
            }
        }
    }
}

/// A corpus of prompts and completions, and what each token counts as a target: prompts nothing, completions 1 or a
/// fraction. Returns the tokens and the values.
fn prompts_and_completions(prefix: &Path) -> (Vec<u32>, Vec<f32>) {
    let tokenizer = Tokenizer { kind: "test".into(), hash: 7 };
    let mut writer = CorpusWriter::create(prefix, VOCAB as u32, tokenizer, None).expect("a corpus");
    let mut stream = StreamWriter::create(prefix, "loss", SideType::F16).expect("a stream");
    let (mut random, mut tokens, mut values) = (Random(4), vec![], vec![]);
    for doc in 0..60 {
        let (prompt, mut completion) = (1 + random.below(30), 1 + random.below(40));
        if doc == 59 {
            // Whole updates of whole windows, and the last target.
            completion += ROWS * SEQ_LEN + 1 - (tokens.len() + prompt + completion) % (ROWS * SEQ_LEN);
        }
        let text: Vec<u32> = (0..prompt + completion).map(|_| random.below(VOCAB) as u32).collect();
        writer.push(&text).expect("written");
        writer.end_document(0).expect("written");
        stream.fill(0.0, prompt as u64).expect("written");
        let value = [1.0, 0.25, 2.0][doc % 3];
        stream.fill(value, completion as u64).expect("written");
        values.extend(std::iter::repeat_n(0.0, prompt).chain(std::iter::repeat_n(value, completion)));
        tokens.extend(text);
    }
    writer.finish().expect("written");
    stream.finish(Corpus::open(prefix).expect("a corpus").hash()).expect("written");
    (tokens, values)
}

const RUN: &str = r#"
schema = 1
[run]
dir = "DIR"
seed = 7
seq_len = 48
global_batch = 4
attention = "full"
[model]
preset = "llama-tiny"
layers = 1
dim = 32
heads = 4
kv_heads = 2
ffn_dim = 64
vocab = 517
[data]
web = { path = "CORPUS", weights = "WEIGHTS" }
[parallel]
micro_batch = 1
[[phase]]
name = "only"
steps = STEPS
mix = { web = 1.0 }
lr = [{ kind = "const", to = LR }]
"#;

/// Loss and weight of each step.
fn run(
    folder: &Path,
    name: &str,
    weights: &str,
    (steps, lr): (usize, f64),
    ranks: usize,
) -> (RunConfig, Vec<(f64, f64)>) {
    let dir = folder.join(name);
    let text = RUN.replace("DIR", dir.to_str().expect("UTF-8"));
    let text =
        text.replace("CORPUS", folder.join("web").to_str().expect("UTF-8")).replace("WEIGHTS", weights);
    let text = text.replace("STEPS", &steps.to_string()).replace("LR", &format!("{lr:e}"));
    let file = folder.join(format!("{name}.toml"));
    std::fs::write(&file, text).expect("written");
    let config = RunConfig::load(&file, &[]).unwrap_or_else(|e| panic!("{e}"));
    let launch = Launch { ranks, threads: Some(1), deadline: Duration::from_secs(300), ranks_per_node: None };
    train(&config, &launch).unwrap_or_else(|e| panic!("{e}"));
    let rows = std::fs::read_to_string(dir.join("metrics.jsonl")).expect("metrics");
    let rows = rows.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("a row"));
    let number = |row: &serde_json::Value, key: &str| row[key].as_f64().expect("a number");
    let steps = rows.filter(|row| row["kind"] == "step");
    (config, steps.map(|row| (number(&row, "loss"), number(&row, "weight_sum"))).collect())
}

#[test]
fn a_run_counts_its_targets_as_the_side_stream_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let (tokens, values) = prompts_and_completions(&folder.path().join("web"));
    // One pass over all windows by a model that stays as it was initialised: whatever the order, the mean over the
    // pass is that of the corpus.
    let windows = (tokens.len() - 1) / SEQ_LEN;
    let steps = windows / ROWS;
    let all = windows * SEQ_LEN;
    let (config, seen) = run(folder.path(), "still", "loss", (steps, 1e-30), 1);
    let plan = plan(&config);
    let mut r = Replica::new(Device::cpu(1), Mesh::solo(), &plan).expect("a replica");
    r.params.fill(&r.dev, &RandomInit { seed: 7 }).expect("filled");
    let by_window: Vec<(f64, f64)> = (0..windows)
        .map(|w| {
            let range = w * SEQ_LEN..(w + 1) * SEQ_LEN;
            let seq = Seq::packed(&tokens[range.clone()], &[SEQ_LEN]);
            let nll = losses(&mut r, &seq, &tokens[range.start + 1..range.end + 1]).expect("a forward");
            let weights = &values[range.start + 1..range.end + 1];
            (
                weights.iter().zip(nll).map(|(w, l)| f64::from(*w) * l).sum(),
                weights.iter().map(|w| f64::from(*w)).sum(),
            )
        })
        .collect();
    let sum =
        |pairs: &mut dyn Iterator<Item = (f64, f64)>| pairs.fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    let got = sum(&mut seen.iter().map(|(loss, weight)| (loss * weight, *weight)));
    assert_eq!(steps * ROWS, windows, "the pass is whole");
    let want = sum(&mut by_window.iter().copied());
    assert_eq!(got.1, want.1, "the weight of a pass is that of the stream");
    assert_eq!(got.1, values[1..all + 1].iter().map(|v| f64::from(*v)).sum::<f64>());
    assert!((got.0 / want.0 - 1.0).abs() < 1e-5, "{got:?}, by hand {want:?}");
    // Without the stream each target counts 1.
    let (_, plain) = run(folder.path(), "plain", "none", (steps, 1e-30), 1);
    assert!(plain.iter().all(|(_, weight)| *weight == (ROWS * SEQ_LEN) as f64));
}

#[test]
fn a_weighted_run_trains_the_same_on_any_number_of_ranks() {
    let folder = tempfile::tempdir().expect("a folder");
    prompts_and_completions(&folder.path().join("web"));
    let (_, one) = run(folder.path(), "one", "loss", (10, 3e-3), 1);
    let uneven =
        one.iter().map(|(_, weight)| *weight).fold((f64::MAX, 0.0f64), |(a, b), w| (a.min(w), b.max(w)));
    assert!(uneven.1 > 1.2 * uneven.0, "{uneven:?}: updates have uneven weights");
    for ranks in [2, 4] {
        let (_, some) = run(folder.path(), &format!("{ranks}"), "loss", (10, 3e-3), ranks);
        for ((a, b), (x, y)) in one.iter().zip(&some) {
            assert_eq!(b, y, "weights of an update");
            assert!((a / x - 1.0).abs() < 1e-5, "{ranks} ranks: {a} and {x}");
        }
    }
}

#[test]
fn a_resume_with_another_side_stream_is_refused_by_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let prefix = folder.path().join("web");
    let (_, values) = prompts_and_completions(&prefix);
    let hash = Corpus::open(&prefix).expect("a corpus").hash();
    let write = |values: &[f32]| {
        let mut stream = StreamWriter::create(&prefix, "loss", SideType::F16).expect("a stream");
        stream.push(values).expect("written");
        stream.finish(hash).expect("written");
    };
    let (config, _) = run(folder.path(), "run", "loss", (2, 1e-3), 1);
    let again = || {
        train(
            &config,
            &Launch { ranks: 1, threads: Some(1), deadline: Duration::from_secs(300), ranks_per_node: None },
        )
    };
    let mut other = values.clone();
    *other.last_mut().expect("values") += 1.0;
    write(&other);
    let error = again().expect_err("another stream");
    assert_eq!(error.exit_code(), 3);
    let said = error.to_string();
    let want = "the side stream that weighs the targets of corpus \"web\" is not the one this run began with: now it is loss ";
    assert!(said.contains(want) && said.contains(", it was loss "), "{said}");
    write(&values);
    again().expect("the same stream");

    // A checkpoint that does not say which stream it was.
    let at = config.run.dir.join("ckpt/step-00000002");
    let mut manifest = Manifest::read(&at).expect("a manifest");
    assert!(manifest.meta.corpora[0].weights.take().is_some_and(|weights| weights.starts_with("loss ")));
    manifest.write(&at).expect("written");
    write(&other);
    again().expect("nothing to compare with");

    let (config, _) = run(folder.path(), "plain", "none", (2, 1e-3), 1);
    let manifest = Manifest::read(&config.run.dir.join("ckpt/step-00000002")).expect("a manifest");
    assert_eq!(manifest.meta.corpora[0].weights.as_deref(), Some("none"));
}
