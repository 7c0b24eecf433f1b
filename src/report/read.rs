//! A run directory as the report needs it: `metrics.jsonl`, `run.toml`, `samples/`.

use crate::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub struct Run {
    pub name: String,
    pub dir: PathBuf,
    /// The `run` row of the last attempt; null if there is none.
    pub facts: Value,
    pub attempts: u64,
    pub phases: Vec<Phase>,
    pub steps: Vec<Step>,
    pub evals: Vec<Eval>,
    pub checkpoints: Vec<Value>,
    /// The resolved run file.
    pub config: String,
    /// Name and text of each file in `samples/`.
    pub samples: Vec<(String, String)>,
}

pub struct Phase {
    pub name: String,
    /// Updates before it.
    pub step: u64,
    pub row: Value,
}

/// One update, and what the run had used up after it.
pub struct Step {
    pub step: u64,
    pub tokens: f64,
    /// By the parameters used in matrix products and full attention: 6·M + 12·L·C·T a token.
    pub flops: f64,
    /// Seconds of steps and of waiting for data, over all attempts that count.
    pub seconds: f64,
    pub row: Value,
}

impl Step {
    /// None where the row has none, or one that is not finite.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.row.get(key)?.as_f64().filter(|x| x.is_finite())
    }
}

pub struct Eval {
    /// Index of the last step before it; none if it came first.
    pub after: Option<usize>,
    pub corpus: String,
    pub nll_token: Option<f64>,
    pub bits_byte: Option<f64>,
}

impl Run {
    pub fn read(dir: &Path) -> Result<Run> {
        let path = dir.join("metrics.jsonl");
        let bytes = std::fs::read(&path).map_err(|e| Error::Config {
            file: path.display().to_string(),
            key: "DIR".into(),
            problem: format!("cannot be read: {e}"),
            remedy: "give directories that `espalier train` wrote (run.dir of the run file)".into(),
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut run = Run {
            name: dir.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into()),
            dir: dir.into(),
            facts: Value::Null,
            attempts: 0,
            phases: vec![],
            steps: vec![],
            evals: vec![],
            checkpoints: vec![],
            config: std::fs::read_to_string(dir.join("run.toml")).unwrap_or_default(),
            samples: samples(&dir.join("samples")),
        };
        run.collect(rows);
        Ok(run)
    }

    /// Of several rows of one kind for a step the highest attempt counts; of equal ones the last.
    fn collect(&mut self, rows: impl Iterator<Item = Value>) {
        // Within a step the update comes first: evaluations and checkpoints follow it.
        let mut best: BTreeMap<(u64, bool, String), (u64, Value)> = BTreeMap::new();
        for row in rows {
            let (Some(kind), Some(step)) = (row["kind"].as_str(), row["step"].as_u64()) else { continue };
            let attempt = row["attempt"].as_u64().unwrap_or(0);
            self.attempts = self.attempts.max(attempt + 1);
            let key = match kind {
                "run" => {
                    self.facts = row;
                    continue;
                }
                "eval" => format!("eval {}", row["corpus"]),
                // A phase is announced again when a run resumes within it.
                "phase" if self.phases.iter().any(|p| p.name == row["name"]) => continue,
                "phase" => {
                    let name = row["name"].as_str().unwrap_or_default().into();
                    self.phases.push(Phase { name, step, row });
                    continue;
                }
                kind => kind.into(),
            };
            let later = key != "step";
            let place = best.entry((step, later, key)).or_insert((attempt, Value::Null));
            if attempt >= place.0 {
                *place = (attempt, row);
            }
        }
        let per_token = self.facts["flops_per_token_full"].as_f64().unwrap_or(0.0);
        let (mut seconds, mut flops, mut tokens) = (0.0, 0.0, 0.0);
        for ((step, ..), (_, row)) in best {
            match row["kind"].as_str() {
                Some("step") => {
                    let ms = |key: &str| row[key].as_f64().unwrap_or(0.0);
                    seconds += (ms("step_ms") + ms("data_wait_ms")) / 1e3;
                    let now = row["tokens"].as_f64().unwrap_or(tokens);
                    flops += (now - tokens) * per_token;
                    tokens = now;
                    self.steps.push(Step { step, tokens, flops, seconds, row });
                }
                Some("eval") => self.evals.push(Eval {
                    after: self.steps.len().checked_sub(1),
                    corpus: row["corpus"].as_str().unwrap_or_default().into(),
                    nll_token: row["nll_token"].as_f64(),
                    bits_byte: row["bits_byte"].as_f64(),
                }),
                Some("checkpoint") => self.checkpoints.push(row),
                _ => {}
            }
        }
    }
}

/// Files that cannot be read as text are passed over.
fn samples(folder: &Path) -> Vec<(String, String)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    let text =
        |p: &PathBuf| Some((p.file_name()?.to_string_lossy().into(), std::fs::read_to_string(p).ok()?));
    files.iter().filter_map(text).collect()
}
