//! `export`: a checkpoint (or any other source of tensors) to a Hugging Face directory.

use crate::checkpoint::Values;
use crate::config::ModelConfig;
use crate::device::DType;
use crate::hf::{self, Export, Family};
use crate::params::TensorSource;
use crate::{Error, Result};
use serde_json::Value;
use std::path::PathBuf;

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Examples:
  espalier export runs/quickstart --out hf-model
  espalier export runs/quickstart@100 --out hf-model --dtype bf16 --max-shard 2GB
  espalier export runs/averaged --out hf-model --ema              the moving average of the weights")]
pub struct ExportArgs {
    /// Run directory or checkpoint, PATH or PATH@STEP
    pub from: String,
    /// Directory to write; it must not hold a model yet
    #[arg(long)]
    pub out: PathBuf,
    /// llama, qwen2, qwen3, gpt2 or bert; without it the first of these that can say what the model is
    #[arg(long)]
    pub family: Option<String>,
    /// f32 or bf16
    #[arg(long, default_value = "f32")]
    pub dtype: String,
    /// The moving average of the weights (optim.ema) instead of the trained ones
    #[arg(long)]
    pub ema: bool,
    /// Bytes of tensors in one file, such as 5GB or 500MB
    #[arg(long, default_value = "5GB")]
    pub max_shard: String,
}

impl ExportArgs {
    pub fn run(self) -> Result<()> {
        let checkpoint = super::open_checkpoint(&self.from)?;
        let model = &checkpoint.manifest().meta.model;
        let values = if self.ema { Values::Ema } else { Values::Master };
        checkpoint.check_values(values)?;
        let family = export(&self, model, &checkpoint.weights(values), None)?;
        let averaged = if self.ema { ", the average of the weights" } else { "" };
        println!("{}: {family}, {} parameters{averaged}", self.out.display(), model.params());
        Ok(())
    }
}

/// Writes the directory and returns the family. `extra` is an earlier config.json whose token ids are kept.
pub fn export(
    args: &ExportArgs,
    c: &ModelConfig,
    source: &dyn TensorSource,
    extra: Option<&Value>,
) -> Result<Family> {
    let wrong = |key: &str, value: &str, remedy: String| {
        Err(Error::config("export", key, format!("{value:?} is not known"), remedy))
    };
    let family = match args.family.as_deref() {
        None => Family::of(c)?,
        Some(name) => match Family::parse(name) {
            Some(family) => family,
            None => return wrong("--family", name, format!("one of {}", Family::names())),
        },
    };
    let dtype = match args.dtype.as_str() {
        "f32" => DType::F32,
        "bf16" => DType::Bf16,
        other => return wrong("--dtype", other, "f32 or bf16".into()),
    };
    let Some(max_shard_bytes) = bytes(&args.max_shard) else {
        return wrong("--max-shard", &args.max_shard, "a size above 0 such as 5GB or 500MB".into());
    };
    hf::export(&args.out, family, c, source, Export { dtype, max_shard_bytes, extra })?;
    Ok(family)
}

/// "5GB" in bytes; decimal units, as `save_pretrained` counts them.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::RandomInit;

    #[test]
    fn the_family_is_found_and_unknown_arguments_are_named() {
        let c = ModelConfig::preset("llama-tiny").unwrap();
        let source = RandomInit { seed: 1 };
        let dir = tempfile::tempdir().unwrap();
        let good = ExportArgs {
            from: String::new(),
            out: dir.path().join("a/b"),
            family: None,
            dtype: "bf16".into(),
            ema: false,
            max_shard: "5GB".into(),
        };
        let bad = [
            ("gemma", ExportArgs { family: Some("gemma".into()), ..good.clone() }),
            ("f16", ExportArgs { dtype: "f16".into(), ..good.clone() }),
            ("lots", ExportArgs { max_shard: "lots".into(), ..good.clone() }),
        ];
        for (word, args) in &bad {
            let error = export(args, &c, &source, None).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("not known"), "{error}");
        }
        assert!(!good.out.exists());
        assert_eq!(export(&good, &c, &source, None).unwrap(), Family::Llama);
        assert_eq!(hf::HfSource::open(&good.out).unwrap().stored_types(), [("BF16", c.params())]);
    }

    #[test]
    fn shard_sizes_are_decimal_and_nothing_else_is_taken() {
        let cases =
            [("5GB", Some(5_000_000_000)), ("500 MB", Some(500_000_000)), ("12", Some(12)), ("7B", Some(7))];
        for (text, want) in cases {
            assert_eq!(bytes(text), want, "{text}");
        }
        for text in ["", "GB", "0GB", "-1GB", "5GiB", "1.5GB", "99999999999GB", "5é"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
