//! Decoding with a cache is the full forward, computed once: the same bits for every family, any batch, any number of
//! threads and any instruction set; and draws follow the distribution they are asked for.

use espalier::config::{Activation, ModelConfig, Norm, NormPlace, Positions};
use espalier::device::gemm::{Mat, MatMut, Out, Panels, gemm_panels, gemm_with, panel_row, to_panels};
use espalier::device::simd::{Isa, force};
use espalier::device::{Category, DType, Device, Elem, Pool};
use espalier::hf::HfSource;
use espalier::infer::{Engine, Event, Piece, Request, Run, Sampling, Setup, window_start};
use espalier::params::{RandomInit, TensorSource};
use espalier::rng::Philox;
use half::bf16;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

const CAUSAL: [&str; 5] = ["gpt2", "llama", "llama-tied", "qwen2", "qwen3"];
const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: None, top_p: None };

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

/// The golden models, and what no family has: post-norm, no positions, gates by erf, squared ReLU, every bias.
fn models() -> Vec<(String, ModelConfig, Box<dyn TensorSource>)> {
    let mut all: Vec<(String, ModelConfig, Box<dyn TensorSource>)> = vec![];
    for case in CAUSAL {
        let source = HfSource::open(&folder(case)).expect("the golden directory opens");
        all.push((case.into(), source.config().clone(), Box::new(source)));
    }
    let gpt2 = all[0].1.clone();
    let post = ModelConfig {
        norm_place: NormPlace::Post,
        positions: Positions::None,
        activation: Activation::GeGlu,
        embed_norm: true,
        head_bias: true,
        kv_heads: 3,
        tied: false,
        ..gpt2.clone()
    };
    let relu = ModelConfig {
        norm: Norm::Rms,
        norm_bias: false,
        activation: Activation::Relu2,
        logit_softcap: Some(3.0),
        qk_norm: true,
        kv_heads: 1,
        dim: 48,
        head_dim: 20,
        ffn_dim: 1040,
        ..gpt2
    };
    for (name, config) in [("post-norm", post), ("relu2", relu)] {
        all.push((name.into(), ModelConfig { init_std: 0.1, ..config }, Box::new(RandomInit { seed: 3 })));
    }
    all
}

fn engine(
    config: &ModelConfig,
    source: &dyn TensorSource,
    threads: usize,
    dtype: DType,
    cache: bool,
) -> Engine {
    let setup = Setup { dtype, slots: 3, capacity: 96, cache };
    Engine::new(config, source, Device::cpu(threads), &setup).expect("the model loads")
}

/// `n` ids below `vocab`.
fn ids(n: usize, vocab: usize, stream: &str) -> Vec<u32> {
    let random = Philox::new(7, stream);
    (0..n).map(|i| (random.uniform(i as u64, 0) * vocab as f64) as u32).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn logits(e: &mut Engine, pieces: &[(usize, usize, &[u32])]) -> Vec<f32> {
    let pieces: Vec<_> = pieces.iter().map(|&(slot, first, tokens)| Piece { slot, first, tokens }).collect();
    e.read(&pieces).expect("reads").data::<f32>().to_vec()
}

#[test]
fn logits_of_tokens_read_one_by_one_have_the_bits_of_a_full_forward() {
    for (name, config, source) in models() {
        for dtype in [DType::F32, DType::Bf16] {
            let text = ids(90, config.vocab, &name);
            let [mut cached, mut full] =
                [true, false].map(|cache| engine(&config, source.as_ref(), 2, dtype, cache));
            // Slot 0 is read whole, slot 1 in two pieces, slot 2 later; then all go on together.
            let (a, b, c) = (&text[..70], &text[..20], &text[5..6]);
            let [alone_a, alone_b, alone_c] = [a, b, c].map(|t| logits(&mut full, &[(0, 0, t)]));
            assert_eq!(
                bits(&logits(&mut cached, &[(0, 0, a), (1, 0, &b[..7])])[..config.vocab]),
                bits(&alone_a)
            );
            assert_eq!(bits(&logits(&mut cached, &[(1, 7, &b[7..])])), bits(&alone_b), "{name} {dtype}");
            assert_eq!(bits(&logits(&mut cached, &[(2, 0, c)])), bits(&alone_c), "{name} {dtype}");
            for i in 0..12 {
                let ends = [(0, 70 + i, 0), (1, 20 + i, 0), (2, 1 + i, 5)];
                let step = ends.map(|(slot, at, from)| (slot, at, &text[from + at..from + at + 1]));
                let together = logits(&mut cached, &step);
                for (row, (_, at, from)) in together.chunks(config.vocab).zip(ends) {
                    let want = logits(&mut full, &[(0, 0, &text[from..from + at + 1])]);
                    assert!(want.iter().all(|x| x.is_finite()) && want[0] != want[1]);
                    assert_eq!(bits(row), bits(&want), "{name} {dtype}: the token at {at}");
                }
            }
        }
    }
}

#[test]
fn logits_of_tokens_read_one_by_one_equal_those_of_transformers() {
    for case in CAUSAL {
        let bytes = std::fs::read(folder(case).join("golden.safetensors")).expect("golden file");
        let file = SafeTensors::deserialize(&bytes).expect("golden file");
        let words = |name: &str| -> Vec<[u8; 4]> {
            let data = file.tensor(name).expect("golden tensor").data().to_vec();
            data.chunks(4).map(|b| b.try_into().expect("4 bytes")).collect()
        };
        let numbers = |name: &str| -> Vec<usize> {
            words(name).into_iter().map(|b| i32::from_le_bytes(b) as usize).collect()
        };
        let want: Vec<f32> = words("logits").into_iter().map(f32::from_le_bytes).collect();
        let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let source = HfSource::open(&folder(case)).expect("opens");
        let mut e = engine(source.config(), &source, 2, DType::F32, true);
        let tokens: Vec<u32> = numbers("tokens").into_iter().map(|t| t as u32).collect();
        let (mut worst, mut row) = (0.0f32, 0);
        for n in numbers("lengths") {
            for at in 0..n {
                let got = logits(&mut e, &[(1, at, &tokens[row..row + 1])]);
                let want = &want[row * got.len()..(row + 1) * got.len()];
                worst = got.iter().zip(want).fold(worst, |m, (a, b)| m.max((a - b).abs()));
                row += 1;
            }
        }
        println!("{case}: {row} tokens, worst {:.1e} of the largest logit", worst / largest);
        assert!(worst <= 2e-5 * largest, "{case}: logits are off by {:e}", worst / largest);
    }
}

/// The tokens that every request gets.
fn run(
    e: &mut Engine,
    requests: &[Request],
    sampling: Sampling,
    vocab: usize,
    context: usize,
) -> Vec<Vec<u32>> {
    let mut out = vec![vec![]; requests.len()];
    let run = Run { sampling, seed: 5, ends: &[], vocab, context };
    let mut told = vec![vec![]; requests.len()];
    let totals = run.go(e, requests, |event| {
        match event {
            Event::Token { request, id } => told[request].push(id),
            Event::Done(done) => out[done.request] = done.tokens.clone(),
        }
        Ok(true)
    });
    assert_eq!(out, told);
    assert_eq!(totals.expect("runs").made, out.iter().map(Vec::len).sum::<usize>());
    out
}

fn requests(vocab: usize, limit: usize) -> Vec<Request> {
    let lengths = [5, 33, 1, 60, 12];
    let request = |(i, n): (usize, &usize)| Request {
        prompt: i as u32,
        sample: 0,
        tokens: ids(*n, vocab, &format!("prompt {i}")),
        limit: limit + i,
    };
    lengths.iter().enumerate().map(request).collect()
}

#[test]
fn greedy_tokens_with_the_cache_are_those_without_also_beyond_the_context() {
    for (name, config, source) in models() {
        let asked = requests(config.vocab, 30);
        // 40: two prompts are longer than the context, and all outgrow it but one.
        for context in [96, 40] {
            let [with, without] = [true, false].map(|cache| {
                let mut e = engine(&config, source.as_ref(), 2, DType::F32, cache);
                run(&mut e, &asked, GREEDY, config.vocab, context)
            });
            assert_eq!(with, without, "{name}, context {context}");
            assert_eq!(with.iter().map(Vec::len).collect::<Vec<_>>(), [30, 31, 32, 33, 34]);
        }
    }
}

#[test]
fn one_thread_two_threads_and_every_instruction_set_give_the_same_bits() {
    for (name, config, source) in models() {
        let text = ids(40, config.vocab, "threads");
        let all = |threads: usize, dtype: DType| {
            let mut e = engine(&config, source.as_ref(), threads, dtype, true);
            let mut out = logits(&mut e, &[(0, 0, &text[..30]), (2, 0, &text[..9])]);
            out.extend(logits(&mut e, &[(0, 30, &text[30..31]), (2, 9, &text[9..10])]));
            bits(&out)
        };
        for dtype in [DType::F32, DType::Bf16] {
            let want = all(1, dtype);
            assert_eq!(all(2, dtype), want, "{name} {dtype}");
            if ["gpt2", "relu2"].contains(&name.as_str()) {
                for isa in [Isa::Portable, Isa::Avx2] {
                    force(isa);
                    let got = all(2, dtype);
                    force(Isa::Avx512);
                    assert_eq!(got, want, "{name} {dtype} {isa:?}");
                }
            }
        }
    }
}

#[test]
fn draws_do_not_depend_on_the_batch() {
    let (_, config, source) = models().remove(1);
    let sampling = Sampling { temperature: 1.3, top_k: Some(80), top_p: Some(0.9) };
    let mut e = engine(&config, source.as_ref(), 2, DType::F32, true);
    let mut asked = requests(config.vocab, 20);
    asked.push(Request { sample: 1, ..asked[0].clone() });
    let together = run(&mut e, &asked, sampling, config.vocab, 96);
    for (request, want) in asked.iter().zip(&together) {
        let alone = run(&mut e, std::slice::from_ref(request), sampling, config.vocab, 96);
        assert_eq!(&alone[0], want);
    }
    asked.reverse();
    let mut other = run(&mut e, &asked, sampling, config.vocab, 96);
    other.reverse();
    assert_eq!(other, together);
    assert_ne!(together[0], together[5], "another sample of the same prompt is another draw");
}

#[test]
fn a_window_drops_its_oldest_quarter_and_never_exceeds_the_context() {
    for context in [1, 2, 3, 5, 40, 1024] {
        for n in 1..4 * context + 3 {
            let start = window_start(n, context);
            assert!(n > start && n - start <= context, "{n} tokens in {context} from {start}");
            assert!(n <= context || n - start > context - (context / 4).max(1));
            assert!(n > context || start == 0);
        }
    }
}

#[test]
fn a_draw_takes_each_token_of_the_cut_as_often_as_its_probability_says() {
    let logits: Vec<f32> = (0..40).map(|i| ((i * 17 % 40) as f32 * 0.11).sin() * 3.0).collect();
    let cases = [(1.0, None, None), (0.7, Some(7), None), (1.5, None, Some(0.8)), (0.9, Some(12), Some(0.6))];
    for (temperature, top_k, top_p) in cases {
        // Straight from the definition: sort, cut, normalise, cut.
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.truncate(top_k.unwrap_or(order.len()));
        let weight = |i: usize| (logits[i] as f64 / temperature).exp();
        let mut p: Vec<f64> = order.iter().map(|&i| weight(i)).collect();
        let total: f64 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= total);
        if let Some(most) = top_p {
            let before = |n: usize| p[..n].iter().sum::<f64>();
            let keep = (0..p.len()).filter(|&n| before(n) < most).count();
            p.truncate(keep);
            let total: f64 = p.iter().sum();
            p.iter_mut().for_each(|p| *p /= total);
        }
        let sampling = Sampling { temperature, top_k, top_p };
        let draws = 200_000;
        let (random, mut counts) = (Philox::new(1, "draws"), vec![0; logits.len()]);
        for i in 0..draws {
            counts[sampling.draw(&logits, random.uniform(i, 0)) as usize] += 1;
        }
        let mut chi2 = 0.0;
        for (&i, p) in order.iter().zip(&p) {
            let want = p * draws as f64;
            chi2 += (counts[i] as f64 - want).powi(2) / want;
            counts[i] = 0;
        }
        assert_eq!(counts.iter().sum::<i32>(), 0, "{sampling:?} drew a token that was cut off");
        let freedom = p.len() as f64 - 1.0;
        assert!(chi2 < freedom + 5.0 * (2.0 * freedom).sqrt() + 5.0, "{sampling:?}: χ² {chi2} of {freedom}");
    }
    let flat = Sampling { temperature: 1.0, top_k: Some(3), top_p: None };
    let ids: Vec<u32> = flat.kept(&[1.0; 9]).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [0, 1, 2], "of equal logits the lowest ids stay");
    assert_eq!(GREEDY.draw(&[0.0, 2.0, f32::NAN, 2.0], 0.9), 1);
}

#[test]
fn the_cache_is_taken_at_once_and_counted_and_training_memory_is_not_taken() {
    let (_, config, source) = models().remove(0);
    let e = engine(&config, source.as_ref(), 1, DType::Bf16, true);
    let used = e.device().arena().used();
    // Two tiles of 64 tokens in each of 3 slots; a value row of 12 is padded to 16.
    let bytes = config.layers * 3 * 128 * config.kv_heads * (config.head_dim + 16) * 2;
    let slack = 4096 * 2 * config.layers;
    assert!((bytes..bytes + slack).contains(&used.live[Category::Cache as usize]), "{used:?}");
    assert_eq!(used.live[Category::Grads as usize] + used.live[Category::Optimizer as usize], 0);
    assert!(used.fresh_bytes < used.live.iter().sum::<usize>() + (1 << 16), "{used:?}");
}

fn panels_equal_gemm<T: Elem>(m: usize, n: usize, k: usize, isa: Isa) {
    let pool = Pool::new(2);
    let random = Philox::new(1, "panels");
    let values = |n: usize, update: u64| -> Vec<T> {
        (0..n).map(|i| T::store(espalier::device::Real::of(random.normal(i as u64, update)))).collect()
    };
    let (a, w, bias) = (values(m * k, 1), values(n * k, 2), values(n, 3));
    let add = |_: usize, col: usize, acc: &mut [T::Acc]| {
        acc.iter_mut().zip(&bias[col..]).for_each(|(s, b)| *s += b.load());
    };
    let mut want = vec![T::default(); m * n];
    let b = Mat::new(&w, n, k).t();
    gemm_with(&pool, MatMut::new(&mut want, m, n), Out::Store, Mat::new(&a, m, k), b, add);
    let (mut laid, mut row) = (w.clone(), vec![T::default(); k]);
    to_panels(&pool, &mut laid, n, k);
    let panels = Panels { data: &laid, rows: n, cols: k };
    for i in [0, n / 2, n - 1] {
        panel_row(panels, i, &mut row);
        assert_eq!(
            bytemuck::cast_slice::<T, u8>(&row),
            bytemuck::cast_slice::<T, u8>(&w[i * k..(i + 1) * k])
        );
    }
    force(isa);
    for cut in [0, 1.min(n - 1)] {
        let mut got = vec![T::default(); m * (n - cut)];
        gemm_panels(&pool, MatMut::new(&mut got, m, n - cut), Mat::new(&a, m, k), panels, add);
        for (got, want) in got.chunks(n - cut).zip(want.chunks(n)) {
            let (got, want) =
                (bytemuck::cast_slice::<T, u8>(got), bytemuck::cast_slice::<T, u8>(&want[..n - cut]));
            assert!(got == want, "({m}, {n}, {k}) {isa:?} without {cut} columns");
        }
    }
    force(Isa::Avx512);
}

#[test]
fn products_with_panels_have_the_bits_of_gemm() {
    let shapes = [
        (1, 48, 8),
        (1, 1, 1),
        (3, 50, 33),
        (8, 96, 1030),
        (9, 77, 2049),
        (17, 113, 72),
        (300, 64, 40),
        (2, 31, 3000),
    ];
    for isa in [Isa::Avx512, Isa::Avx2, Isa::Portable] {
        for (m, n, k) in shapes {
            panels_equal_gemm::<f32>(m, n, k, isa);
            panels_equal_gemm::<bf16>(m, n, k, isa);
        }
        panels_equal_gemm::<f64>(5, 70, 1100, isa);
    }
}

fn espalier(dir: &Path, args: &[&str]) -> std::process::Output {
    let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_espalier"));
    for name in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", "SLURM_STEP_ID"] {
        c.env_remove(name);
    }
    c.current_dir(dir).args(args).output().expect("the program starts")
}

/// A Hugging Face directory with a byte-level tokenizer: a tiny GPT-2 with random weights of its own.
fn hugging_face(dir: &Path) {
    let vocab = 257;
    let width = 32;
    let random = Philox::new(9, "cli");
    let tensors: Vec<(String, Vec<usize>)> = [
        ("wte.weight", vec![vocab, width]),
        ("wpe.weight", vec![48, width]),
        ("h.0.ln_1.weight", vec![width]),
        ("h.0.ln_1.bias", vec![width]),
        ("h.0.attn.c_attn.weight", vec![width, 3 * width]),
        ("h.0.attn.c_attn.bias", vec![3 * width]),
        ("h.0.attn.c_proj.weight", vec![width, width]),
        ("h.0.attn.c_proj.bias", vec![width]),
        ("h.0.ln_2.weight", vec![width]),
        ("h.0.ln_2.bias", vec![width]),
        ("h.0.mlp.c_fc.weight", vec![width, 4 * width]),
        ("h.0.mlp.c_fc.bias", vec![4 * width]),
        ("h.0.mlp.c_proj.weight", vec![4 * width, width]),
        ("h.0.mlp.c_proj.bias", vec![width]),
        ("ln_f.weight", vec![width]),
        ("ln_f.bias", vec![width]),
    ]
    .into_iter()
    .map(|(name, shape)| (format!("transformer.{name}"), shape))
    .collect();
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .enumerate()
        .map(|(t, (_, shape))| {
            let n: usize = shape.iter().product();
            (0..n).flat_map(|i| (0.4 * random.normal(i as u64, t as u64) as f32).to_le_bytes()).collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.clone(), view.expect("a tensor"))
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).expect("writes");
    let config = serde_json::json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": vocab, "n_embd": width, "n_head": 4,
        "n_layer": 1, "n_positions": 48, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "bos_token_id": 256, "eos_token_id": 256, "tie_word_embeddings": true
    });
    std::fs::write(dir.join("config.json"), config.to_string()).expect("writes");
    // Every byte is a token, as byte-level BPE writes bytes as characters: 256 ids, then the end.
    let shown = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut hidden = 255;
    let characters = (0..256u32).map(|b| {
        let code = if shown(b) {
            b
        } else {
            hidden += 1;
            hidden
        };
        char::from_u32(code).expect("a character").to_string()
    });
    let mut map: serde_json::Map<_, _> =
        characters.enumerate().map(|(i, c)| (c, serde_json::json!(i))).collect();
    map.insert("<|endoftext|>".into(), serde_json::json!(256));
    let end = serde_json::json!({
        "id": 256, "content": "<|endoftext|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false
    });
    let level = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": map, "merges": []
        }
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).expect("writes");
}

#[test]
fn the_command_continues_several_prompts_alike_in_any_batch_with_and_without_the_cache() {
    let dir = tempfile::tempdir().expect("a directory");
    hugging_face(dir.path());
    std::fs::write(dir.path().join("p.txt"), "Once\nA longer prompt, of some words\n").expect("writes");
    std::fs::write(dir.path().join("p.jsonl"), "{\"prompt\": \"Two\\nlines\"}\n").expect("writes");
    let out = |args: &[&str]| {
        let out = espalier(dir.path(), &[&["generate", "."], args].concat());
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.lines().count() == 1 && said.contains("tokens/s"), "{said}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let rows = |args: &[&str]| -> Vec<serde_json::Value> {
        let text = out(&[args, &["--json"]].concat());
        let row = |line: &str| {
            let mut row: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert!(row["seconds"].take().as_f64().is_some_and(|s| s > 0.0));
            row
        };
        text.lines().map(row).collect()
    };
    let asked = [
        "--prompt",
        "Hello",
        "--prompts",
        "p.txt",
        "--samples",
        "2",
        "--top-k",
        "90",
        "--top-p",
        "0.95",
        "--tokens",
        "60",
    ];
    let all = rows(&asked);
    assert_eq!(all.len(), 6);
    for (i, row) in all.iter().enumerate() {
        let prompt = ["Hello", "Once", "A longer prompt, of some words"][i / 2];
        assert_eq!((&row["prompt"], &row["sample"]), (&prompt.into(), &(i % 2).into()));
        assert!(row["tokens"].as_u64() == Some(60) || row["ended"] == true, "{row}");
    }
    assert_ne!(all[0]["completion"], all[1]["completion"]);
    for other in [&["--batch", "1"][..], &["--no-cache"], &["--threads", "1", "--batch", "4"]] {
        assert_eq!(rows(&[&asked[..], other].concat()), all, "{other:?}");
    }
    assert_ne!(rows(&[&asked[..], &["--seed", "2"]].concat()), all);
    assert_eq!(rows(&["--prompts", "p.jsonl", "--dtype", "bf16"])[0]["prompt"], "Two\nlines");
    // One text is printed as it comes, and is the same text.
    let one = out(&["--prompt", "Hello", "--top-k", "90", "--top-p", "0.95", "--tokens", "60"]);
    let completion = all[0]["completion"].as_str().expect("text");
    assert_eq!(one, format!("Hello{completion}\n"));
    let several = out(&["--prompt", "a", "--prompt", "b", "--temperature", "0"]);
    assert!(
        several.starts_with("--- prompt 1, sample 1\na") && several.contains("\n--- prompt 2, sample 1\nb")
    );
    assert_eq!(out(&["--prompt", "Hello", "--tokens", "0"]), "Hello\n");
}

#[test]
fn wrong_options_get_one_sentence_and_their_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    hugging_face(dir.path());
    for part in ["empty", "no-tokenizer", "bert"] {
        std::fs::create_dir(dir.path().join(part)).expect("a directory");
    }
    for file in ["config.json", "model.safetensors"] {
        let copy =
            |from: PathBuf, to: &str| std::fs::copy(from, dir.path().join(to).join(file)).expect("copies");
        copy(dir.path().join(file), "no-tokenizer");
        copy(folder("bert").join(file), "bert");
    }
    std::fs::copy(dir.path().join("tokenizer.json"), dir.path().join("bert/tokenizer.json")).expect("copies");
    std::fs::write(dir.path().join("bad.jsonl"), "{\"text\": \"x\"}\n").expect("writes");
    let cases: &[(i32, &[&str], &[&str])] = &[
        (2, &[".", "--temperature", "-1"], &["--temperature", "0 or more"]),
        (2, &[".", "--temperature", "1e-9"], &["--temperature", "0 for the likeliest"]),
        (2, &[".", "--top-k", "0"], &["--top-k", "1 or more"]),
        (2, &[".", "--top-p", "1.5"], &["--top-p", "1.5"]),
        (2, &[".", "--samples", "0"], &["--samples"]),
        (2, &[".", "--batch", "0"], &["--batch"]),
        (2, &[".", "--threads", "0"], &["--threads"]),
        (2, &[".", "--dtype", "f16"], &["--dtype", "f16", "bf16"]),
        (2, &[".", "--context", "49"], &["--context", "48"]),
        (2, &[".", "--context", "0"], &["--context", "48"]),
        (3, &[".", "--prompts", "bad.jsonl"], &["bad.jsonl", "line 1", "prompt"]),
        (3, &[".", "--prompts", "nowhere.txt"], &["nowhere.txt"]),
        (4, &["no-tokenizer"], &["tokenizer.json"]),
        (4, &["bert"], &["both directions", "causal"]),
        (4, &["empty"], &["empty"]),
        (4, &["nowhere"], &["nowhere"]),
    ];
    for (code, args, says) in cases {
        let out = espalier(dir.path(), &[&["generate"], *args].concat());
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(*code), "{args:?}: {text}");
        assert!(text.lines().count() == 1 && text.starts_with("espalier: "), "{args:?}: {text}");
        for part in *says {
            assert!(text.contains(part), "{args:?}: no {part:?} in {text}");
        }
    }
}
