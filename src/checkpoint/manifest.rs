//! The manifest: what a checkpoint is, which files it has, and their checksums. It is written last, so a directory
//! with a manifest is a finished checkpoint. Its own last line is the checksum of everything above that line.

use super::disk;
use crate::config::ModelConfig;
use crate::params::{Grid, ParamSpec};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

pub const FORMAT_VERSION: u32 = 1;
pub const MANIFEST: &str = "manifest.json";

/// The four clocks of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// Updates since the run began; never resets.
    pub update: u64,
    /// The optimizer's t; resets with its state.
    pub adam_t: u64,
    /// Updates since the learning-rate schedule began.
    pub schedule: u64,
    /// The next sample of the run.
    pub sample: u64,
}

/// The corpus a run reads, by its hash (16 hex digits).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusId {
    pub name: String,
    pub hash: String,
    /// The side stream that weighs its targets, as `NAME HASH`, or `none`. Absent where the program that wrote the
    /// checkpoint did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

/// What a resume needs besides tensors, and where they came from. No times, hosts or attempts: equal states give
/// equal bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    pub clocks: Clocks,
    pub phase: usize,
    /// Updates made in this phase.
    pub phase_step: u64,
    /// Of the last update.
    pub lr: f64,
    /// Mixture weights by first sample.
    pub ledger: serde_json::Value,
    /// Where the data cursor is: the samples drawn in all, `clocks.sample`, and from each corpus. Null before the first
    /// sample, in an import, and in checkpoints of programs that did not note it; then a resume counts from the cursor's
    /// beginning.
    pub data: serde_json::Value,
    pub corpora: Vec<CorpusId>,
    /// The losses and norms that the next are compared with, and how many updates were skipped. Null where there are none.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub numbers: serde_json::Value,
    pub tokenizer_hash: String,
    /// The token that ends documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_of_document: Option<u32>,
    pub seed: u64,
    pub config_hash: String,
    /// Of the weights: f32 or bf16.
    pub dtype: String,
    pub model: ModelConfig,
    pub git: String,
}

/// The ranks that wrote a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    pub dp: usize,
    pub tp: usize,
    pub zero: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    /// XXH3, 64 bits, 16 hex digits.
    pub xxh3: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format_version: u32,
    pub topology: Topology,
    pub meta: Meta,
    /// Every tensor of the network, global shapes.
    pub params: Vec<ParamSpec>,
    /// By name.
    pub files: Vec<FileEntry>,
}

/// 16 hex digits.
pub fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

/// The end of the file: closes the JSON object with the checksum of everything before.
fn seal(body: &[u8]) -> String {
    format!(",\n  \"xxh3\": \"{}\"\n}}\n", hex(xxh3_64(body)))
}

impl Manifest {
    /// The bytes of all files but the manifest.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Makes the directory a checkpoint: everything in it is durable before the manifest appears.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|e| {
            Error::checkpoint(dir.join(MANIFEST), format!("the manifest cannot be written as JSON: {e}"), "")
        })?;
        let body = json.strip_suffix("\n}").expect("a pretty object ends like this");
        disk::sync_dir(dir)?;
        disk::replace(&dir.join(MANIFEST), (body.to_string() + &seal(body.as_bytes())).as_bytes())
    }

    /// Reads and checks the manifest of a checkpoint directory.
    pub fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST);
        let text = std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::checkpoint(
                dir,
                format!("no {MANIFEST}, so this is not a finished checkpoint"),
                "name a directory like RUN/ckpt/step-00000500",
            ),
            _ => Error::io(&path, "read")(e),
        })?;
        let damaged = |problem: String| Error::checkpoint(&path, problem, "use an earlier checkpoint");
        let body = &text[..text.len().saturating_sub(seal(b"").len())];
        if text[body.len()..] != *seal(body).as_bytes() {
            return Err(damaged("damaged: its checksum does not match its content".into()));
        }
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let Version { format_version } =
            serde_json::from_slice(&text).map_err(|e| damaged(format!("not a manifest: {e}")))?;
        if format_version != FORMAT_VERSION {
            return Err(Error::checkpoint(
                &path,
                format!("format version {format_version}, and this program reads {FORMAT_VERSION}"),
                "use the program that wrote it",
            ));
        }
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|e| damaged(format!("not a manifest: {e}")))?;
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    /// What the rest of the program relies on: plain file names and tensor names that occur once, sizes that multiply.
    fn check(&self) -> Result<(), String> {
        let mut seen = std::collections::HashSet::new();
        for f in &self.files {
            if f.name.is_empty()
                || f.name.starts_with('.')
                || f.name.contains(['/', '\\'])
                || f.name == MANIFEST
            {
                return Err(format!("file name {:?} is not the name of a file of a checkpoint", f.name));
            }
            if !seen.insert(&f.name) {
                return Err(format!("file {} is listed twice", f.name));
            }
        }
        seen.clear();
        for p in &self.params {
            if p.rows.checked_mul(p.cols).is_none_or(|n| n == 0 || n > 1 << 60) || (p.vector && p.cols != 1) {
                return Err(format!("tensor {} has the impossible size {} x {}", p.name, p.rows, p.cols));
            }
            let fits = |g: &Grid| {
                let whole = g.rows.checked_mul(g.cols).is_some_and(|n| n <= 1 << 60);
                whole && g.is_sound() && (p.rows, p.cols, p.vector) == (g.blocks(), g.block * g.block, false)
            };
            if !p.layout.grid().is_none_or(fits) {
                return Err(format!(
                    "tensor {} has blocks that do not fit its size {} x {}",
                    p.name, p.rows, p.cols
                ));
            }
            if !seen.insert(&p.name) {
                return Err(format!("tensor {} is listed twice", p.name));
            }
        }
        Ok(())
    }
}
