//! The same weights, tokens and documents in transformers and here (`tools/oracle` made the files): hidden states,
//! logits, loss, every gradient, and the losses of 20 steps of AdamW and of SGD.

use espalier::comm::{Mesh, run_ranks};
use espalier::config::{
    Distance, Group, Init, Kind, Length, OptimConfig, OptimKind, Precision, Salt, Schedule, Segment,
};
use espalier::device::{DType, Device};
use espalier::hf::HfSource;
use espalier::params::{Accumulate, LocalBox, ParamSpec, TensorSource};
use espalier::tape::{At, Recompute, Seq};
use espalier::train::replica::{Plan, Replica};
use espalier::train::step::{MicroBatch, Terms, Update, forward, forward_backward, step};
use espalier::train::teacher::Teacher;
use espalier::train::vote::Ballot;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CASES: [&str; 6] = ["gpt2", "llama", "llama-tied", "qwen2", "qwen3", "bert"];

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

/// All tensors of a file: shape and values (i32 as f32 is exact here: ids are small).
struct Golden(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Golden {
    fn read(path: &Path) -> Golden {
        let bytes = std::fs::read(path).expect("golden file");
        let file = SafeTensors::deserialize(&bytes).expect("golden file");
        let number = |t: &TensorView, b: &[u8]| match t.dtype() {
            Dtype::F32 => f32::from_le_bytes(b.try_into().expect("4 bytes")),
            _ => i32::from_le_bytes(b.try_into().expect("4 bytes")) as f32,
        };
        let values = |t: &TensorView| t.data().chunks(4).map(|b| number(t, b)).collect();
        Golden(file.tensors().iter().map(|(n, t)| (n.clone(), (t.shape().to_vec(), values(t)))).collect())
    }
    fn get(&self, name: &str) -> &[f32] {
        &self.0[name].1
    }
    /// Our batch out of row `row` of the tokens and targets called so.
    fn batch(&self, tokens: &str, targets: &str, row: usize) -> MicroBatch {
        let lengths: Vec<usize> = self.get("lengths").iter().map(|&n| n as usize).collect();
        let n: usize = lengths.iter().sum();
        let part = |name: &str| &self.get(name)[row * n..(row + 1) * n];
        let ids: Vec<u32> = part(tokens).iter().map(|&t| t as u32).collect();
        let mut seq = Seq::packed(&ids, &lengths);
        if self.0.contains_key("token_types") {
            seq.token_types = self.get("token_types").iter().map(|&t| t as u32).collect();
        }
        let targets = part(targets);
        MicroBatch {
            seq,
            targets: targets.iter().map(|&t| t.max(0.0) as u32).collect(),
            weights: targets.iter().map(|&t| if t < 0.0 { 0.0 } else { 1.0 }).collect(),
            domains: vec![0],
        }
    }
}

fn weight_sum(b: &MicroBatch) -> f64 {
    b.weights.iter().map(|w| *w as f64).sum()
}

/// As the oracle trains: no decay for biases and norms, no clip.
fn optim(kind: OptimKind) -> OptimConfig {
    let none =
        Group { patterns: vec!["*.bias".into(), "*norm*".into()], weight_decay: Some(0.0), lr_scale: None };
    OptimConfig { kind, clip: None, groups: vec![none], ema: None }
}

fn adamw() -> OptimKind {
    OptimKind::AdamW { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, moments: Precision::F32 }
}

fn with_replica<R: Send>(case: &str, kind: OptimKind, f: impl Fn(&mut Replica) -> R + Sync) -> R {
    let source = HfSource::open(&folder(case)).expect("the golden directory opens");
    let out = run_ranks(1, Duration::from_secs(60), |world| {
        let optim = optim(kind);
        let plan = Plan {
            model: source.config(),
            spdf: None,
            optim: &optim,
            dtype: DType::F32,
            recompute: Recompute::Cheap,
            zero: 0,
            accumulate: Accumulate::Local,
            sequence_parallel: false,
            seq_len: 96,
        };
        let mut r = Replica::new(Device::cpu(2), Mesh::new(world, 1)?, &plan)?;
        r.params.fill(&r.dev, &source)?;
        Ok(f(&mut r))
    });
    out.expect("the case runs").remove(0)
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// max|a − b| in units of `scale`
fn distance(a: &[f32], b: &[f32], scale: f32) -> f32 {
    assert_eq!(a.len(), b.len());
    let gap = a
        .iter()
        .zip(b)
        .fold(0.0f32, |m, (a, b)| if (a - b).is_nan() { f32::NAN } else { m.max((a - b).abs()) });
    gap / scale
}

#[test]
fn logits_and_losses_equal_those_of_transformers() {
    for case in CASES {
        let golden = Golden::read(&folder(case).join("golden.safetensors"));
        let batch = golden.batch("tokens", "targets", 0);
        let (logits, loss) = with_replica(case, adamw(), |r| {
            let (_, h) = forward(r, &batch.seq, At::default(), false).expect("forward");
            let tp = r.mesh.tp.clone();
            let logits = r.net.head.logits(&r.dev, tp.as_ref(), &r.params, &r.net.embed, &h).expect("logits");
            let z = weight_sum(&batch);
            let nll =
                forward_backward(r, &batch, At::default(), Terms::ce(1.0 / z), false).expect("backward").nll;
            (logits.data::<f32>().to_vec(), nll.iter().map(|l| *l as f64).sum::<f64>() / z)
        });
        let want = golden.get("logits");
        let gap = distance(&logits, want, largest(want));
        let loss_gap = (loss / golden.get("loss")[0] as f64 - 1.0).abs();
        println!("{case}: logits {gap:.1e}, loss {loss_gap:.1e}");
        assert!(gap <= 2e-5, "{case}: logits are off by {gap:e} of the largest");
        assert!(loss_gap <= 1e-5, "{case}: loss {loss}");
    }
}

/// The gradients of a golden file by our names: a Hugging Face directory whose "weights" are the gradients.
fn gradient_source(case: &str, golden: &Golden, dir: &Path) -> HfSource {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = golden
        .0
        .iter()
        .filter_map(|(name, (shape, v))| {
            let name = name.strip_prefix("grad.")?.to_string();
            Some((name, shape.clone(), v.iter().flat_map(|x| x.to_le_bytes()).collect()))
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(n, s, b)| (n.clone(), TensorView::new(Dtype::F32, s.clone(), b).expect("a tensor")));
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).expect("writes");
    std::fs::copy(folder(case).join("config.json"), dir.join("config.json")).expect("copies");
    HfSource::open(dir).expect("the gradients open as a model")
}

fn whole(source: &HfSource, spec: &ParamSpec) -> Vec<f32> {
    let mut out = vec![0.0; spec.len()];
    let all = LocalBox { row: 0, rows: spec.rows, stored_rows: spec.rows, col: 0, cols: spec.cols };
    source.read(spec, all, &mut out).expect("reads");
    out
}

#[test]
fn every_gradient_equals_that_of_transformers() {
    for case in CASES {
        let golden = Golden::read(&folder(case).join("golden.safetensors"));
        let batch = golden.batch("tokens", "targets", 0);
        let dir = tempfile::tempdir().expect("a directory");
        let want = gradient_source(case, &golden, dir.path());
        let ours: Vec<(String, ParamSpec, Vec<f32>)> = with_replica(case, adamw(), |r| {
            forward_backward(r, &batch, At::default(), Terms::ce(1.0 / weight_sum(&batch)), false)
                .expect("backward");
            let values = |(u, p): (&espalier::params::Unit, &espalier::params::Placed)| {
                (u.name.clone(), p.spec.clone(), u.grads.data::<f32>()[p.range()].to_vec())
            };
            r.params.iter().map(values).collect()
        });
        let mut worst = (0.0, String::new());
        let mut block: HashMap<&str, f32> = HashMap::new();
        for (unit, spec, _) in &ours {
            let most = block.entry(unit).or_default();
            *most = most.max(largest(&whole(&want, spec)));
        }
        for (unit, spec, got) in &ours {
            let want = whole(&want, spec);
            // Without rotation a key bias shifts all scores of a query alike and has no gradient: both are rounding.
            if ["gpt2", "bert"].contains(&case) && spec.name.ends_with("attn.k.bias") {
                let most = largest(got).max(largest(&want)) / block[unit.as_str()];
                assert!(
                    most <= 1e-6,
                    "{case}: {} should be zero, it is {most:e} of the block's largest",
                    spec.name
                );
                continue;
            }
            let gap = distance(got, &want, largest(&want).max(1e-4 * block[unit.as_str()]));
            assert!(gap <= 1e-4, "{case}: gradient of {} is off by {gap:e} of its largest", spec.name);
            if gap > worst.0 {
                worst = (gap, spec.name.clone());
            }
        }
        println!("{case}: {} gradients, worst {:.1e} ({})", ours.len(), worst.0, worst.1);
    }
}

#[test]
fn twenty_steps_of_adamw_and_sgd_follow_pytorch() {
    for case in CASES {
        let golden = Golden::read(&folder(case).join("golden.safetensors"));
        let runs =
            [("adamw_losses", adamw(), 1e-3), ("sgd_losses", OptimKind::Sgd { weight_decay: 0.0 }, 0.1)];
        for (name, kind, lr) in runs {
            let losses: Vec<f64> = with_replica(case, kind, |r| {
                (0..20)
                    .map(|i| {
                        let batch = golden.batch("train_tokens", "train_targets", i);
                        let weight_sum = weight_sum(&batch);
                        let update =
                            Update { step: i as u64, lr, clip: None, weight_sum, z_loss: 0.0, teacher: 0.0 };
                        step(r, &[batch], &update, Ballot::new(1)).expect("a step").loss
                    })
                    .collect()
            });
            let gap = losses
                .iter()
                .zip(golden.get(name))
                .fold(0.0f64, |m, (a, b)| m.max((a / *b as f64 - 1.0).abs()));
            println!("{case} {name}: worst {gap:.1e}");
            assert!(gap <= 1e-4, "{case} {name}: {losses:?}");
        }
    }
}

/// The hidden states before the head (N, C): what the head's tape was given.
fn hidden(r: &mut Replica, seq: &Seq) -> Vec<f32> {
    let (tapes, _) = forward(r, seq, At::default(), true).expect("forward");
    let (tape, input, _) = tapes.last().expect("the head's tape");
    tape.value(input.expect("the head has an input")).data::<f32>().to_vec()
}

#[test]
fn minilm_weights_give_the_hidden_states_of_transformers() {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/minilm");
    if !weights.join("model.safetensors").exists() {
        println!("skipped: no data/minilm; tools/get-minilm fetches it");
        return;
    }
    let golden = Golden::read(&folder("minilm").join("golden.safetensors"));
    let options = espalier::hf::Options { allow_missing_head: true, seed: 0 };
    let source = HfSource::open_with(&weights, options).expect("MiniLM opens");
    let lengths: Vec<usize> = golden.get("lengths").iter().map(|&n| n as usize).collect();
    let ids: Vec<u32> = golden.get("tokens").iter().map(|&t| t as u32).collect();
    let optim = optim(adamw());
    let plan = Plan {
        model: source.config(),
        spdf: None,
        optim: &optim,
        dtype: DType::F32,
        recompute: Recompute::Keep,
        zero: 0,
        accumulate: Accumulate::Local,
        sequence_parallel: false,
        seq_len: 64,
    };
    let mut r = Replica::new(Device::cpu(2), Mesh::solo(), &plan).expect("a replica");
    r.params.fill(&r.dev, &source).expect("weights");
    let got = hidden(&mut r, &Seq::packed(&ids, &lengths));
    let want = golden.get("hidden");
    let gap = distance(&got, want, largest(want));
    println!("minilm: hidden states {gap:.1e}");
    assert!(gap <= 2e-5, "hidden states are off by {gap:e} of the largest");
}

#[test]
fn bf16_training_follows_f32_within_what_its_eight_bits_allow() {
    for case in ["gpt2", "llama", "qwen3"] {
        let golden = Golden::read(&folder(case).join("golden.safetensors"));
        let source = HfSource::open(&folder(case)).expect("the golden directory opens");
        let optim = optim(adamw());
        let plan = Plan {
            model: source.config(),
            spdf: None,
            optim: &optim,
            dtype: DType::Bf16,
            recompute: Recompute::Cheap,
            zero: 0,
            accumulate: Accumulate::Local,
            sequence_parallel: false,
            seq_len: 96,
        };
        let mut r = Replica::new(Device::cpu(2), Mesh::solo(), &plan).expect("a replica");
        r.params.fill(&r.dev, &source).expect("weights");
        let mut worst = 0.0f64;
        for (i, want) in golden.get("adamw_losses").iter().enumerate() {
            let batch = golden.batch("train_tokens", "train_targets", i);
            let weight_sum = weight_sum(&batch);
            let update =
                Update { step: i as u64, lr: 1e-3, clip: None, weight_sum, z_loss: 0.0, teacher: 0.0 };
            let loss = step(&mut r, &[batch], &update, Ballot::new(1)).expect("a step").loss;
            worst = worst.max((loss / *want as f64 - 1.0).abs());
        }
        println!("{case}: bf16 losses within {worst:.1e} of f32");
        assert!(worst <= 5e-3, "{case}: bf16 losses are off by {worst:e}");
    }
}

/// Our name and those of transformers for it in GPT-2 and in the families of Llama.
const NAMED: [(&str, [&str; 2]); 4] = [
    ("embed.tokens.weight", ["transformer.wte.weight", "model.embed_tokens.weight"]),
    (
        "blocks.0.mlp.down.weight",
        ["transformer.h.0.mlp.c_proj.weight", "model.layers.0.mlp.down_proj.weight"],
    ),
    ("norm.weight", ["transformer.ln_f.weight", "model.norm.weight"]),
    ("head.weight", ["", "lm_head.weight"]),
];

#[test]
fn a_teacher_changes_loss_and_gradients_as_it_does_in_pytorch() {
    let text = std::fs::read_to_string(folder("distill.json")).expect("golden file");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("golden file");
    assert_eq!(cases.len(), 4);
    for want in &cases {
        let word = |key: &str| want[key].as_str().expect("a name");
        let number = |value: &Value| value.as_f64().expect("a number");
        let (student, weight) = (word("student"), number(&want["weight"]));
        let loss =
            [Distance::Kd, Distance::Rkl, Distance::Js].into_iter().find(|d| d.name() == word("loss_kind"));
        let constant = Segment { kind: Kind::Const, from: None, to: Some(weight), length: Length::Rest };
        let salt = Salt {
            teacher: Init::HuggingFace(folder(word("teacher"))),
            loss: loss.expect("a distance"),
            temperature: number(&want["temperature"]),
            weight: Schedule::resolve(vec![constant], 1).expect("a schedule"),
            passed_by: None,
        };
        let batch = Golden::read(&folder(student).join("golden.safetensors")).batch("tokens", "targets", 0);
        let (outcome, found) = with_replica(student, OptimKind::Sgd { weight_decay: 0.0 }, |r| {
            r.teacher = Some(Teacher::load(r, &salt, 96).expect("a teacher"));
            let weight_sum = weight_sum(&batch);
            let update = Update { step: 0, lr: 0.0, clip: None, weight_sum, z_loss: 0.0, teacher: weight };
            let outcome = step(r, std::slice::from_ref(&batch), &update, Ballot::new(1)).expect("an update");
            let of = |name: &str| {
                let (u, p) = r.params.iter().find(|(_, p)| p.spec.name == name)?;
                let g = &u.grads.data::<f32>()[p.range()];
                let square: f64 = g.iter().map(|x| f64::from(*x).powi(2)).sum();
                Some([g.iter().map(|x| f64::from(*x)).sum::<f64>(), square.sqrt()])
            };
            (outcome, NAMED.map(|(name, _)| of(name)))
        });
        let case = format!("{} teaches {student} by {}", word("teacher"), word("loss_kind"));
        let terms =
            [("ce", outcome.ce), ("kd", outcome.kd), ("loss", outcome.loss), ("norm", outcome.grad_norm)];
        for (key, got) in terms {
            let gap = (got / number(&want[key]) - 1.0).abs();
            assert!(gap <= 2e-6, "{case}: {key} {got} is off by {gap:e}");
        }
        let mut compared = 0;
        for ((name, theirs), found) in NAMED.iter().zip(found) {
            let golden = theirs.iter().find_map(|n| want["gradients"].get(n));
            let (Some(golden), Some([sum, norm])) = (golden, found) else { continue };
            let norm_gap = (norm / number(&golden[1]) - 1.0).abs();
            // A sum may cancel.
            let sum_gap = (sum - number(&golden[0])).abs() / norm;
            assert!(
                norm_gap <= 1e-5 && sum_gap <= 1e-4,
                "{case}: {name} is off by {norm_gap:e} and {sum_gap:e}"
            );
            compared += 1;
        }
        assert!(compared >= 3, "{case}: {compared} gradients");
    }
}
