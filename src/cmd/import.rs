//! `import DIR`: opens a Hugging Face directory, which checks all of it, and says what it holds. A run reads such a
//! directory directly (`init = "hf:DIR"`), so there is no format in between.

use crate::Result;
use crate::hf::{HfSource, Options};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Examples:
  espalier import hf-model
  espalier import minilm --allow-missing-head --json")]
pub struct ImportArgs {
    /// Directory with config.json and model.safetensors (or its shards)
    pub dir: PathBuf,
    /// Accept weights without a head (an encoder); the head keeps its initial values
    #[arg(long)]
    pub allow_missing_head: bool,
    /// Seed of those initial values
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
}

impl ImportArgs {
    pub fn run(self) -> Result<()> {
        let source = open(&self)?;
        if self.json {
            println!("{:#}", summary(&source));
        } else {
            print!("{}", describe(&source));
        }
        Ok(())
    }
}

/// The directory as a source of tensors; `source.config()` is the model.
pub fn open(args: &ImportArgs) -> Result<HfSource> {
    let options = Options { allow_missing_head: args.allow_missing_head, seed: args.seed };
    HfSource::open_with(&args.dir, options)
}

/// What `--json` prints.
pub fn summary(source: &HfSource) -> Value {
    let types = source.stored_types().into_iter().map(|(name, n)| (name.to_string(), json!(n)));
    json!({
        "dir": source.dir().display().to_string(),
        "family": source.family().model_type(),
        "params": source.config().params(),
        "types": types.collect::<serde_json::Map<_, _>>(),
        "model": source.config(),
        "initial": source.missing(),
        "unused": source.unused(),
    })
}

/// The same for people.
pub fn describe(source: &HfSource) -> String {
    let c = source.config();
    let types: Vec<_> = source.stored_types().into_iter().map(|(name, _)| name).collect();
    let mut out = format!(
        "{}: {}, {} parameters in {}\n{} layers, dim {}, {} heads ({} kv) of {}, ffn {}, vocab {}, head {}\n",
        source.dir().display(),
        source.family(),
        c.params(),
        types.join(" and "),
        c.layers,
        c.dim,
        c.heads,
        c.kv_heads,
        c.head_dim,
        c.ffn_dim,
        c.vocab,
        if c.tied { "tied" } else { "of its own" },
    );
    for (what, names) in [("initial values", source.missing()), ("not used", source.unused())] {
        if !names.is_empty() {
            writeln!(out, "{what}: {}", names.join(", ")).expect("a String takes all");
        }
    }
    out
}
