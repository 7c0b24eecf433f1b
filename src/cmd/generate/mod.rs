//! `generate FROM --prompt TEXT`: continues texts with the model of a run, a checkpoint or a Hugging Face directory.

pub(super) mod model;
mod output;
mod prompts;

use crate::device::{DType, Device};
use crate::infer::{Engine, Event, Request, Run, Sampling, Setup};
use crate::{Error, Result};
use output::Output;
use std::path::PathBuf;
use std::time::Instant;

/// Continue texts with a trained model
#[derive(clap::Args)]
pub struct Generate {
    /// Run directory or checkpoint, PATH or PATH@STEP, or a Hugging Face directory
    from: String,
    /// The moving average of the weights (optim.ema) instead of the trained ones
    #[arg(long)]
    ema: bool,
    /// Text to go on with; may be given several times
    #[arg(long)]
    prompt: Vec<String>,
    /// Prompts from a file, one a line; from NAME.jsonl the field `prompt` of each line
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Texts for each prompt
    #[arg(long, default_value_t = 1)]
    samples: usize,
    /// Tokens to add at most; the end of a document ends earlier
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f64,
    /// Draw from the k likeliest tokens only
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw from the smallest set of likeliest tokens that have this probability together
    #[arg(long, allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// A draw depends on the seed, the prompt's number, the sample and the position, not on the batch
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tokens that a prediction sees at most; a longer text loses its oldest quarter at a time [default: the model's
    /// positions]
    #[arg(long)]
    context: Option<usize>,
    /// f32 | bf16: of weights, activations and cache; bf16 reads half the memory
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Sequences at a time
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Compute every token from all before it, as training does
    #[arg(long)]
    no_cache: bool,
    /// One JSON object a text: prompt, sample, completion, tokens, ended, seconds
    #[arg(long)]
    json: bool,
    #[arg(long)]
    threads: Option<usize>,
}

impl Generate {
    pub fn run(self) -> Result<()> {
        let dtype = self.check()?;
        let texts = prompts::all(&self.prompt, self.prompts.as_deref())?;
        let model = model::open(&self.from, self.ema)?;
        let context = self.context(&model)?;
        let mut requests = vec![];
        for (i, text) in texts.iter().enumerate() {
            let tokens = model.encode(text)?;
            for sample in 0..self.samples as u32 {
                requests.push(Request {
                    prompt: i as u32,
                    sample,
                    tokens: tokens.clone(),
                    limit: self.tokens,
                });
            }
        }
        let longest = requests.iter().map(|r| r.tokens.len() + r.limit).max().unwrap_or(1);
        let threads = self.threads.or(std::thread::available_parallelism().ok().map(|n| n.get()));
        let setup = Setup {
            dtype,
            slots: self.batch.min(requests.len()).max(1),
            capacity: context.min(longest),
            cache: !self.no_cache,
        };
        let mut engine =
            Engine::new(&model.config, model.weights.as_ref(), Device::cpu(threads.unwrap_or(1)), &setup)?;

        let sampling = Sampling { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p };
        // Ids beyond the tokenizer's are padding of the vocabulary.
        let vocab = (model.tokenizer.vocab() as usize).min(model.config.vocab);
        let run = Run { sampling, seed: self.seed, ends: &model.ends, vocab, context };
        let mut out = Output::new(&model.tokenizer, &texts, &requests, self.json);
        let began = Instant::now();
        out.begin();
        let totals = run.go(&mut engine, &requests, |event| match event {
            Event::Token { request, id } => out.token(request, id),
            Event::Done(done) => out.done(done),
        })?;
        let seconds = began.elapsed().as_secs_f64();
        let read: usize = requests.iter().map(|r| r.tokens.len()).sum();
        eprintln!(
            "{} tokens in {seconds:.2} s, {:.1} tokens/s, after prompts of {read} tokens{}",
            totals.made,
            totals.made as f64 / seconds.max(1e-9),
            if self.ema { "; by the average of the weights" } else { "" },
        );
        Ok(())
    }

    /// What is wrong with the options by themselves; the dtype.
    fn check(&self) -> Result<DType> {
        let wrong =
            |key: &str, problem: String, remedy: &str| Err(Error::config("generate", key, problem, remedy));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let problem = format!("{} is not a temperature", self.temperature);
            return wrong("--temperature", problem, "give 0 or more");
        }
        if self.temperature > 0.0 && self.temperature < 1e-3 {
            let problem = format!("{} is too small to divide by", self.temperature);
            return wrong("--temperature", problem, "give 0 for the likeliest token, or 0.001 and more");
        }
        if self.top_k == Some(0) {
            return wrong("--top-k", "0 leaves no token".into(), "give 1 or more, or leave it out");
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return wrong("--top-p", format!("{p} is not a probability"), "give more than 0 and at most 1");
        }
        if self.samples == 0 || self.samples > 1_000_000 {
            let problem = format!("{} texts for each prompt", self.samples);
            return wrong("--samples", problem, "give 1 to 1000000");
        }
        if !(1..=1024).contains(&self.batch) {
            return wrong("--batch", format!("{} sequences at a time", self.batch), "give 1 to 1024");
        }
        if self.threads.is_some_and(|n| !(1..=1024).contains(&n)) {
            return wrong("--threads", "not a number of threads".into(), "give 1 to 1024");
        }
        match self.dtype.as_str() {
            "f32" => Ok(DType::F32),
            "bf16" => Ok(DType::Bf16),
            other => wrong("--dtype", format!("\"{other}\" is not known"), "give f32 or bf16"),
        }
    }

    fn context(&self, model: &model::Model) -> Result<usize> {
        let most = model.config.max_positions;
        match self.context {
            None => Ok(most),
            Some(n) if (1..=most).contains(&n) => Ok(n),
            Some(n) => {
                let problem = format!("the model has {most} positions, not {n}");
                Err(Error::config("generate", "--context", problem, format!("give 1 to {most}")))
            }
        }
    }
}
