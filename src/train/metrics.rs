//! `metrics.jsonl` (and TensorBoard's files, see `board`): one JSON object a line, appended only. Every row has v, attempt, kind, step, phase, t_s; of
//! several rows for one step (after a crash and a resume) the highest attempt counts.
//!
//! - `run`, once per attempt: config_hash, git, host, ranks, dp, tp, zero, params, flops_per_token_{full,causal} at
//!   run.seq_len, threads_per_rank, peak_tflops (multiply-adds on registers, measured on rank 0 and multiplied by the
//!   ranks), program_hashes.
//! - `phase`: name, clocks, steps, seq_len, global_batch, batch_ramp.
//! - `step`: sample (the cursor after it), tokens (seen by the run, with and without target), global_batch, loss (mean over the
//!   update's targets, nats: the sum of its terms), terms (ce, and z where there is a z term), grad_norm (before the clip), clip (the factor), lr, weight_sum (the number of
//!   targets), step_ms, tokens_per_s, data_wait_ms, mfu_full, mfu_causal, comm_bytes (what a ring would send for the
//!   rank's dp and tp collectives), comm_exposed_ms and comm_hidden_ms (of all collectives: waited for; under way meanwhile), peak_mem_gib (the arena of rank 0), loss_by_domain (ce).
//! - `eval`: corpus, nll_token, bits_byte (where the tokenizer's bytes are known), tokens, weights (trained, or ema:
//!   the moving average).
//! - `checkpoint`: path, bytes, blocked_ms (training waited), total_ms (until it was durable; updates may be made meanwhile).
//! - `event`: name, text. What does not happen in every run: a checkpoint passed over or not written, an update skipped,
//!   an evaluation that a signal put off.

use super::appender::Appender;
use super::board::Board;
use super::evaluating::OWED;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

pub struct Metrics {
    rows: Appender,
    attempt: u64,
    owed: Option<u64>,
    start: Instant,
    board: Board,
}

impl Metrics {
    /// Appends to DIR/metrics.jsonl; the attempt is one more than the highest in it.
    pub fn open(dir: &Path) -> Result<Metrics> {
        let path = dir.join("metrics.jsonl");
        let (mut attempt, mut owed) = (0, None);
        if let Ok(old) = File::open(&path) {
            let rows = BufReader::new(old).lines().map_while(|line| line.ok());
            for row in rows.filter_map(|line| serde_json::from_str::<Value>(&line).ok()) {
                attempt = attempt.max(row["attempt"].as_u64().map_or(0, |attempt| attempt + 1));
                match row["kind"].as_str() {
                    Some("event") if row["name"] == OWED => owed = row["step"].as_u64(),
                    Some("eval") => owed = None,
                    _ => {}
                }
            }
        }
        let open = File::options().create(true).append(true).read(true).open(&path);
        let mut rows = Appender::new(&path, open.map_err(Error::io(&path, "open"))?);
        // A kill may have left half a line.
        if !ends_with_newline(&path) {
            rows.append(b"\n");
        }
        Ok(Metrics { rows, attempt, owed, start: Instant::now(), board: Board::create(dir, attempt)? })
    }

    /// The step at which an earlier attempt was stopped with an evaluation due.
    pub fn owed(&self) -> Option<u64> {
        self.owed
    }

    /// From `step` on this attempt counts.
    pub fn begin(&mut self, step: u64) {
        self.board.begin(step);
    }

    /// Appends one row; `fields` must be an object. On a full disk it waits in memory.
    pub fn write(&mut self, kind: &str, step: u64, phase: &str, fields: Value) {
        self.board.row(kind, step, &fields);
        let mut row = Map::new();
        row.insert("v".into(), json!(1));
        row.insert("attempt".into(), json!(self.attempt));
        row.insert("kind".into(), json!(kind));
        row.insert("step".into(), json!(step));
        row.insert("phase".into(), json!(phase));
        row.insert("t_s".into(), json!((self.start.elapsed().as_secs_f64() * 1e3).round() / 1e3));
        if let Value::Object(fields) = fields {
            row.extend(fields);
        }
        let mut line = Value::Object(row).to_string();
        line.push('\n');
        self.rows.append(line.as_bytes());
    }

    /// The run ends: error if rows still wait for room.
    pub fn end(&mut self) -> Result<()> {
        self.rows.end()
    }
}

fn ends_with_newline(path: &Path) -> bool {
    use std::io::{Read, Seek, SeekFrom};
    let last = || -> std::io::Result<u8> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        Ok(byte[0])
    };
    last().map_or(true, |b| b == b'\n') // an empty file has no last byte
}
