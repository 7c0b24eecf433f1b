//! The families, and which of them can say what a model is.

use super::map::{Layout, Module};
use super::{bert, config, gpt2, llama, qwen};
use crate::config::ModelConfig;
use crate::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Gpt2,
    Llama,
    Qwen2,
    Qwen3,
    Bert,
}

impl Family {
    /// The order in which `of` tries them.
    pub const ALL: [Family; 5] = [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gpt2, Family::Bert];

    /// `model_type` of config.json, and the name on the command line.
    pub const fn model_type(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Bert => "bert",
        }
    }

    /// The classes whose weights can be read; the first is the one written.
    pub(super) const fn architectures(self) -> &'static [&'static str] {
        match self {
            Family::Gpt2 => &["GPT2LMHeadModel", "GPT2Model"],
            Family::Llama => &["LlamaForCausalLM", "LlamaModel"],
            Family::Qwen2 => &["Qwen2ForCausalLM", "Qwen2Model"],
            Family::Qwen3 => &["Qwen3ForCausalLM", "Qwen3Model"],
            Family::Bert => &["BertForMaskedLM", "BertForPreTraining", "BertModel"],
        }
    }

    pub fn parse(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|f| f.model_type() == name)
    }

    /// The names of all families, for messages.
    pub fn names() -> String {
        Family::ALL.map(Family::model_type).join(", ")
    }

    /// The first family whose config can say exactly what `c` is.
    ///
    /// # Errors
    /// `Error::Config` with the reason of every family.
    pub fn of(c: &ModelConfig) -> Result<Family> {
        let mut reasons = vec![];
        for family in Family::ALL {
            match family.mismatch(c) {
                None => return Ok(family),
                Some((key, why)) => reasons.push(format!("{}: {key} {why}", family.model_type())),
            }
        }
        let problem = format!("no Hugging Face family has this shape ({})", reasons.join("; "));
        Err(Error::config("export", "model", problem, ""))
    }

    /// Whether this family's config can say exactly what `c` is.
    ///
    /// # Errors
    /// `Error::Config` with the first key that it cannot say.
    pub fn fits(self, c: &ModelConfig) -> Result<()> {
        let Some((key, why)) = self.mismatch(c) else { return Ok(()) };
        let remedy = Family::of(c).map_or(String::new(), |f| format!("the family {} can", f.model_type()));
        let problem = format!("a {} directory cannot say this: {why}", self.model_type());
        Err(Error::config("export", format!("model.{key}"), problem, remedy))
    }

    /// Writes the config, reads it back and returns the first key that changed: no list of rules to keep.
    fn mismatch(self, c: &ModelConfig) -> Option<(String, String)> {
        let back = match config::parse(&config::config_json(self, c, None), "config.json") {
            Ok((_, back)) => back,
            Err(Error::Config { key, problem, .. }) => return Some((key, problem)),
            Err(e) => return Some(("model".into(), e.to_string())),
        };
        // Only initial values depend on this one, and the files hold trained ones.
        let back = ModelConfig { init_scale_residual: c.init_scale_residual, ..back };
        if back == *c {
            return None;
        }
        let value = |c: &ModelConfig| serde_json::to_value(c).expect("plain data");
        let (ours, theirs) = (value(c), value(&back));
        let fields = ours.as_object().expect("a struct is an object");
        let (key, ours) = fields.iter().find(|(k, v)| theirs[k.as_str()] != **v)?;
        Some((key.clone(), format!("{ours} would be read back as {}", theirs[key.as_str()])))
    }

    /// What `transformers` puts before the names of the model without its head.
    pub(super) const fn base(self) -> &'static str {
        match self {
            Family::Gpt2 => "transformer.",
            Family::Llama | Family::Qwen2 | Family::Qwen3 => "model.",
            Family::Bert => "bert.",
        }
    }

    /// What stands before the number of a block.
    pub(super) const fn blocks(self) -> &'static str {
        match self {
            Family::Gpt2 => gpt2::BLOCKS,
            Family::Llama | Family::Qwen2 | Family::Qwen3 => llama::BLOCKS,
            Family::Bert => bert::BLOCKS,
        }
    }

    pub(super) fn module(self, m: Module) -> Option<(&'static str, Layout)> {
        match self {
            Family::Gpt2 => gpt2::module(m),
            Family::Llama | Family::Qwen2 => llama::module(m),
            Family::Qwen3 => qwen::module(m),
            Family::Bert => bert::module(m),
        }
    }

    /// Whether a tensor of the file, by its full name, is one that the language model does not use.
    pub(super) fn unused(self, name: &str) -> bool {
        match self {
            Family::Gpt2 => gpt2::unused(name),
            Family::Llama | Family::Qwen2 | Family::Qwen3 => llama::unused(name),
            Family::Bert => bert::unused(name),
        }
    }

    /// (tensor, its copy): files of tied models may hold either or both, with equal values.
    pub(super) fn tied(self, c: &ModelConfig) -> &'static [(&'static str, &'static str)] {
        match self {
            _ if !c.tied => &[],
            Family::Gpt2 => gpt2::TIED,
            Family::Llama | Family::Qwen2 | Family::Qwen3 => llama::TIED,
            Family::Bert => bert::TIED,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.model_type())
    }
}
