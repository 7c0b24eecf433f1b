//! Tokens per second of greedy decoding with random prompts; the last line is one JSON object.
//!
//!     cargo bench --bench decode -- --model HF_DIR|PRESET [--batch 1] [--prompt 32] [--tokens 64] [--threads 2]
//!                                   [--dtype f32|bf16] [--repeats 3] [--profile]
//!
//! `tokens_s` counts what was made over all the time from the prompts to the last token, of the best repeat and of the
//! median one. `benches/decode.py` runs it beside transformers.

use espalier::config::ModelConfig;
use espalier::device::{DType, Device};
use espalier::hf::HfSource;
use espalier::infer::{Engine, Request, Run, Sampling, Setup};
use espalier::params::{RandomInit, TensorSource};
use espalier::rng::Philox;
use espalier::tape::profile;
use std::path::Path;
use std::time::Instant;

/// The command line: `--key value` pairs and flags.
struct Args(Vec<String>);

impl Args {
    fn value(&self, key: &str) -> Option<&str> {
        let at = self.0.iter().position(|a| a == key)?;
        self.0.get(at + 1).map(String::as_str)
    }
    fn number(&self, key: &str, default: usize) -> usize {
        self.value(key).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{key} takes a number: {v}")))
    }
}

fn model(name: &str) -> (ModelConfig, Box<dyn TensorSource>) {
    match Path::new(name).is_dir() {
        true => {
            let source = HfSource::open(Path::new(name)).expect("the directory opens");
            (source.config().clone(), Box::new(source))
        }
        false => {
            let config = ModelConfig::preset(name).expect("a preset");
            (config, Box::new(RandomInit { seed: 1 }))
        }
    }
}

fn main() {
    let args = Args(std::env::args().collect());
    let (batch, prompt) = (args.number("--batch", 1), args.number("--prompt", 32));
    let (tokens, threads) = (args.number("--tokens", 64), args.number("--threads", 2));
    let dtype = match args.value("--dtype").unwrap_or("f32") {
        "f32" => DType::F32,
        "bf16" => DType::Bf16,
        other => panic!("--dtype takes f32 or bf16: {other}"),
    };
    let (config, source) = model(args.value("--model").expect("--model names a directory or a preset"));
    let setup = Setup { dtype, slots: batch, capacity: prompt + tokens, cache: true };
    let mut engine = Engine::new(&config, source.as_ref(), Device::cpu(threads), &setup).expect("loads");
    let random = Philox::new(1, "bench/prompts");
    let id = |i: usize| (random.uniform(i as u64, 0) * config.vocab as f64) as u32;
    let request = |b: usize| Request {
        prompt: b as u32,
        sample: 0,
        tokens: (0..prompt).map(|i| id(b * prompt + i)).collect(),
        limit: tokens,
    };
    let requests: Vec<_> = (0..batch).map(request).collect();
    let sampling = Sampling { temperature: 0.0, top_k: None, top_p: None };
    let run = Run { sampling, seed: 1, ends: &[], vocab: config.vocab, context: prompt + tokens };
    let mut once = || {
        let (began, cpu) = (Instant::now(), profile::cpu_seconds());
        let totals = run.go(&mut engine, &requests, |_| Ok(true)).expect("runs");
        assert_eq!(totals.made, batch * tokens);
        (began.elapsed().as_secs_f64(), profile::cpu_seconds() - cpu, totals)
    };
    once();
    let mut runs: Vec<_> = (0..args.number("--repeats", 3)).map(|_| once()).collect();
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (seconds, cpu, totals) = runs[runs.len() / 2];
    if args.0.iter().any(|a| a == "--profile") {
        profile::start();
        once();
        let mut rows = profile::stop();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        for r in rows {
            let gbs = r.cost.bytes / r.seconds / 1e9;
            eprintln!("{:9.2} ms {:6} calls {gbs:7.1} GB/s  {}", r.seconds * 1e3, r.calls, r.name);
        }
    }
    let made = (batch * tokens) as f64;
    println!(
        "{{\"dtype\": \"{dtype}\", \"batch\": {batch}, \"prompt\": {prompt}, \"tokens\": {tokens}, \"threads\": {threads}, \
         \"tokens_s\": {:.2}, \"best_tokens_s\": {:.2}, \"ms_step\": {:.3}, \"read_ms\": {:.2}, \"cpu_s\": {cpu:.3}}}",
        made / seconds,
        made / runs[0].0,
        totals.making.as_secs_f64() * 1e3 / (tokens - 1).max(1) as f64,
        totals.reading.as_secs_f64() * 1e3,
    );
}
