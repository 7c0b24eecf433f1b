//! `generate RUN --prompt TEXT`: continues a text, with the tokenizer that lies in the checkpoint.

use crate::checkpoint::{Checkpoint, Values};
use crate::comm::Mesh;
use crate::config::{OptimConfig, OptimKind};
use crate::data::tokenizer::Tokenizer;
use crate::device::{DType, Device};
use crate::rng::Philox;
use crate::tape::{At, Recompute, Seq};
use crate::train::replica::{Plan, Replica};
use crate::train::step::forward;
use crate::{Error, Result};
use std::io::Write;

#[derive(clap::Args)]
pub struct Generate {
    /// Run directory or checkpoint, PATH or PATH@STEP
    from: String,
    #[arg(long, default_value = "")]
    prompt: String,
    /// Tokens to add at most; the end of a document ends earlier
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Draw from the k likeliest tokens only
    #[arg(long)]
    top_k: Option<usize>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tokens of context [default: what the model was trained with]
    #[arg(long)]
    context: Option<usize>,
    #[arg(long)]
    threads: Option<usize>,
}

impl Generate {
    pub fn run(self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let problem = format!("{} is not a temperature", self.temperature);
            return Err(Error::config("generate", "--temperature", problem, "give 0 or more"));
        }
        let checkpoint = super::open_checkpoint(&self.from)?;
        let meta = &checkpoint.manifest().meta;
        let tokenizer = tokenizer(&checkpoint)?;
        if !meta.model.causal {
            let problem = "the model sees both directions";
            return Err(Error::checkpoint(checkpoint.path(), problem, "only causal models generate"));
        }
        let context = self.context.unwrap_or(meta.model.max_positions).clamp(1, meta.model.max_positions);
        let threads = self.threads.or(std::thread::available_parallelism().ok().map(|n| n.get()));
        let optim =
            OptimConfig { kind: OptimKind::Sgd { weight_decay: 0.0 }, clip: None, groups: vec![], ema: None };
        let plan = Plan {
            model: &meta.model,
            optim: &optim,
            dtype: DType::F32,
            recompute: Recompute::Keep,
            zero: 0,
            seq_len: context,
        };
        let mut r = Replica::new(Device::cpu(threads.unwrap_or(1)), Mesh::solo(), &plan);
        r.params.fill(&r.dev, &checkpoint.weights(Values::Master))?;

        // A document begins after the end of another.
        let end = tokenizer.end_of_document();
        let mut ids: Vec<u32> = end.into_iter().collect();
        let refused = |problem: String| Error::config("generate", "--prompt", problem, "give another text");
        tokenizer.encoder().encode(&self.prompt, &mut ids).map_err(refused)?;
        if ids.is_empty() {
            let problem =
                "there is no token to go on from: documents of this tokenizer have no end".to_string();
            return Err(Error::config("generate", "--prompt", problem, "give some text"));
        }
        let mut decoder = tokenizer.decoder();
        let random = Philox::new(self.seed, "generate");
        let mut out = std::io::stdout().lock();
        let mut put = |text: &str| {
            // A closed pipe only ends the listening, not the program.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        };
        put(&self.prompt);
        for i in 0..self.tokens {
            let window = &ids[ids.len().saturating_sub(context)..];
            if window.len() % LENGTH == 1 {
                r.dev.arena().trim(); // the next buffers have another size
            }
            let mut logits = last_logits(&r, window, context)?;
            // Ids beyond the tokenizer's are padding of the vocabulary.
            logits.truncate(tokenizer.vocab() as usize);
            let id = self.draw(&logits, random.uniform(i as u64, 0));
            if Some(id) == end {
                break;
            }
            put(&decoder.push(id)?);
            ids.push(id);
        }
        put(&decoder.finish());
        put("\n");
        Ok(())
    }

    /// One token out of softmax(logits / temperature), cut to the k likeliest; u in (0, 1).
    fn draw(&self, logits: &[f32], u: f64) -> u32 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        if self.temperature == 0.0 {
            return order[0];
        }
        order.truncate(self.top_k.unwrap_or(usize::MAX).max(1));
        let top = logits[order[0] as usize] as f64;
        let weight = |id: &u32| ((logits[*id as usize] as f64 - top) / self.temperature).exp();
        let mut left = u * order.iter().map(weight).sum::<f64>();
        for id in &order {
            left -= weight(id);
            if left <= 0.0 {
                return *id;
            }
        }
        order[order.len() - 1]
    }
}

/// Rows are padded to a multiple of this, so that buffers serve many tokens.
const LENGTH: usize = 64;

/// Logits (V) after the last of `tokens`. The padding is a document of its own, which they do not see.
fn last_logits(r: &Replica, tokens: &[u32], context: usize) -> Result<Vec<f32>> {
    let (n, length) = (tokens.len(), tokens.len().next_multiple_of(LENGTH).min(context));
    let mut padded = tokens.to_vec();
    padded.resize(length, 0);
    let lengths: Vec<usize> = [n].into_iter().chain((length > n).then_some(length - n)).collect();
    let (_, h) = forward(r, &Seq::packed(&padded, &lengths), At::default(), false)?;
    let c = h.cols();
    let last = crate::tensor::Tensor::from_slice(
        &r.dev,
        1,
        c,
        &h.data::<f32>()[(n - 1) * c..n * c],
        crate::device::Category::Activations,
    );
    let logits = r.net.head.logits(&r.dev, r.mesh.tp.as_ref(), &r.params, &r.net.embed, &last)?;
    Ok(logits.data::<f32>().to_vec())
}

/// The tokenizer the model was trained with: bytes, or that of the checkpoint's tokenizer.json.
pub(super) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    let hash = &checkpoint.manifest().meta.tokenizer_hash;
    let byte = Tokenizer::byte();
    if *hash == format!("{:016x}", byte.id().hash) {
        return Ok(byte);
    }
    let Some(definition) = checkpoint.text("tokenizer.json")? else {
        return Err(Error::checkpoint(
            checkpoint.path(),
            format!("the model was trained with tokenizer {hash}, but the checkpoint has no tokenizer.json"),
            "put the PREFIX.tokenizer.json of its corpus beside the corpus and train on for a checkpoint",
        ));
    };
    let mut tokenizer = Tokenizer::from_json(&definition, &checkpoint.path().join("tokenizer.json"))?;
    if *hash != format!("{:016x}", tokenizer.id().hash) {
        let problem = format!(
            "its tokenizer.json is {:016x}, but the model was trained with {hash}",
            tokenizer.id().hash
        );
        return Err(Error::checkpoint(checkpoint.path(), problem, "restore the checkpoint"));
    }
    // Which token ended documents is the corpus's choice.
    tokenizer.end_at(checkpoint.manifest().meta.end_of_document);
    Ok(tokenizer)
}
