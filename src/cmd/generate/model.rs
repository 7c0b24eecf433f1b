//! What `generate FROM` names: weights, and the tokenizer and special tokens that belong to them.

use crate::checkpoint::{Checkpoint, Values};
use crate::config::{Head, ModelConfig};
use crate::data::tokenizer::Tokenizer;
use crate::hf::HfSource;
use crate::params::{LocalBox, ParamSpec, TensorSource};
use crate::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

pub struct Model {
    pub config: ModelConfig,
    pub weights: Box<dyn TensorSource>,
    pub tokenizer: Tokenizer,
    /// A text begins after this one.
    begin: Option<u32>,
    /// Ids that end a text.
    pub ends: Vec<u32>,
    path: PathBuf,
}

/// A Hugging Face directory has a config.json; everything else is a run or a checkpoint.
pub fn open(from: &str, ema: bool) -> Result<Model> {
    let dir = Path::new(from);
    let model = match dir.join("config.json").is_file() {
        true if ema => {
            let problem = "it has no average of the weights: it is a Hugging Face directory";
            return Err(Error::checkpoint(dir, problem, "leave --ema out, or name a run"));
        }
        true => hugging_face(dir)?,
        false => checkpoint(super::super::open_checkpoint(from)?, ema)?,
    };
    if !model.config.causal || model.config.head != Head::Lm {
        let problem = "the model sees both directions";
        return Err(Error::checkpoint(&model.path, problem, "only causal models generate"));
    }
    Ok(model)
}

impl Model {
    /// The ids of a prompt, after the token that begins a text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.begin.into_iter().collect();
        let refused = |problem: String, remedy: &str| Error::config("generate", "--prompt", problem, remedy);
        let mut encoder = self.tokenizer.encoder();
        encoder.encode(text, &mut ids).map_err(|problem| refused(problem, "give another text"))?;
        if ids.is_empty() {
            let problem = "there is no token to go on from: documents of this tokenizer have no end";
            return Err(refused(problem.into(), "give some text"));
        }
        match ids.iter().find(|id| **id as usize >= self.config.vocab) {
            None => Ok(ids),
            Some(id) => Err(refused(
                format!("its token {id} is beyond the model's vocabulary of {}", self.config.vocab),
                "the tokenizer must be the model's",
            )),
        }
    }
}

fn hugging_face(dir: &Path) -> Result<Model> {
    let source = HfSource::open(dir)?;
    let file = dir.join("tokenizer.json");
    if !file.is_file() {
        let remedy = "copy the tokenizer.json of the model there";
        return Err(Error::checkpoint(dir, "there is no tokenizer.json to read prompts with", remedy));
    }
    let tokenizer = Tokenizer::read(&file)?;
    let ids = |key: &str| -> Vec<u32> {
        let known =
            |id: &Value| id.as_u64().filter(|id| *id < source.config().vocab as u64).map(|id| id as u32);
        match source.json().get(key) {
            Some(Value::Array(list)) => list.iter().filter_map(known).collect(),
            Some(id) => known(id).into_iter().collect(),
            None => vec![],
        }
    };
    let mut ends = ids("eos_token_id");
    ends.extend(tokenizer.end_of_document());
    let begin = ids("bos_token_id").first().or(ends.first()).copied();
    let config = source.config().clone();
    Ok(Model { config, weights: Box::new(source), tokenizer, begin, ends, path: dir.into() })
}

/// The weights that a checkpoint would go on training with, or their average.
struct Weights(Checkpoint, Values);

impl TensorSource for Weights {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
        self.0.weights(self.1).read(spec, b, out)
    }
}

fn checkpoint(checkpoint: Checkpoint, ema: bool) -> Result<Model> {
    let values = if ema { Values::Ema } else { Values::Master };
    checkpoint.check_values(values)?;
    let tokenizer = tokenizer(&checkpoint)?;
    let end = tokenizer.end_of_document();
    Ok(Model {
        config: checkpoint.manifest().meta.model.clone(),
        tokenizer,
        // A document begins after the end of another.
        begin: end,
        ends: end.into_iter().collect(),
        path: checkpoint.path().to_path_buf(),
        weights: Box::new(Weights(checkpoint, values)),
    })
}

/// The tokenizer the model was trained with: bytes, or that of the checkpoint's tokenizer.json.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
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
