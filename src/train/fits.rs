//! Whether a checkpoint, a launch and a corpus go together, for the commands that look at a trained model.

use super::run::Launch;
use crate::checkpoint::Checkpoint;
use crate::data::Corpus;
use crate::{Error, Result};

/// A causal model, windows it has positions for, ranks it divides into. `command` is named in errors.
pub fn launch(
    command: &str,
    checkpoint: &Checkpoint,
    launch: &Launch,
    tp: usize,
    seq_len: usize,
) -> Result<()> {
    let refuse = |key: &str, problem: String, remedy: &str| Err(Error::config(command, key, problem, remedy));
    let model = &checkpoint.manifest().meta.model;
    if !model.causal {
        let problem = "the model sees both directions and predicts no next token";
        return Err(Error::checkpoint(checkpoint.path(), problem, format!("{command} takes a causal model")));
    }
    if seq_len == 0 || seq_len > model.max_positions {
        let remedy = format!("give 1 to {}, the positions of the model", model.max_positions);
        return refuse("--seq-len", format!("it is {seq_len}"), &remedy);
    }
    if let Some((name, width)) = model.tp_problem(tp) {
        let problem = format!("{tp} does not divide the model's {name}: {width}");
        return refuse(
            "--tp",
            problem,
            "give a common divisor of heads and ffn_dim that divides kv_heads or is a multiple of it",
        );
    }
    if launch.ranks == 0 || !launch.ranks.is_multiple_of(tp) {
        let problem = format!("it is {}, of which --tp {tp} is no divisor", launch.ranks);
        return refuse("--ranks", problem, "give a multiple of --tp");
    }
    if launch.threads.is_some_and(|n| !(1..=1024).contains(&n)) {
        return refuse("--threads", "not a number of threads".into(), "give 1 to 1024");
    }
    Ok(())
}

/// The corpus was made with the tokenizer that the model was trained with.
pub fn corpus(checkpoint: &Checkpoint, corpus: &Corpus) -> Result<()> {
    let meta = &checkpoint.manifest().meta;
    let (ours, theirs) = (corpus.meta().tokenizer.hash, &meta.tokenizer_hash);
    if format!("{ours:016x}") != *theirs {
        let problem = format!("was made with tokenizer {ours:016x}, the model was trained with {theirs}");
        return Err(Error::data(corpus.prefix(), problem, "build it with the model's tokenizer"));
    }
    if corpus.vocab() as usize > meta.model.vocab {
        let problem =
            format!("has token ids below {}, the model's vocabulary is {}", corpus.vocab(), meta.model.vocab);
        return Err(Error::data(corpus.prefix(), problem, "take a model of this vocabulary"));
    }
    Ok(())
}
