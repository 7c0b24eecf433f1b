//! What a person sees of a run, on rank 0 only: on a terminal a bar that moves, elsewhere about one plain line a second.

use super::evaluate::EvalResult;
use super::resume::Start;
use super::run::Launch;
use super::step::{Outcome, Update};
use crate::config::RunConfig;
use crate::terminal::{self, Line, say};
use std::path::Path;
use std::time::{Duration, Instant};

pub struct Progress {
    total: u64,
    /// Of the whole run.
    tokens: u64,
    /// Full-attention and causal FLOPs of one token, forward and backward.
    pub flops_per_token: [f64; 2],
    last: Option<Instant>,
    line: Line,
    /// Smoothed tokens per second.
    rate: f64,
    phase: String,
}

impl Progress {
    pub fn new(total: u64, tokens: u64) -> Progress {
        Progress {
            total,
            tokens,
            flops_per_token: [0.0; 2],
            last: None,
            line: Line::new(None),
            rate: 0.0,
            phase: String::new(),
        }
    }

    pub fn begin(&self, config: &RunConfig, launch: &Launch, dp: usize, tp: usize, start: &Start) {
        let m = &config.model;
        say(&format!(
            "{}: {} layers, dim {}, {} heads, vocab {}: {} parameters, {}; {} rank{} (dp {dp} x tp {tp}), {} thread{} each",
            config.source_file,
            m.layers,
            m.dim,
            m.heads,
            m.vocab,
            count(m.params() as f64),
            match config.run.dtype {
                crate::config::Precision::F32 => "f32",
                crate::config::Precision::Bf16 => "bf16 with f32 masters",
            },
            dp * tp,
            if dp * tp == 1 { "" } else { "s" },
            launch.threads_per_rank(),
            if launch.threads_per_rank() == 1 { "" } else { "s" },
        ));
        say(&format!("{}; everything of this run is in {}", start, config.run.dir.display()));
    }

    /// `tokens`, with and without a target, that the run has seen; `rate` of this update.
    pub fn step(&mut self, update: u64, phase: &str, u: &Update, o: &Outcome, tokens: u64, rate: f64) {
        self.rate = if self.rate == 0.0 { rate } else { 0.9 * self.rate + 0.1 * rate };
        if std::mem::replace(&mut self.phase, phase.into()) != phase {
            say(&format!("phase {phase}"));
            self.last = None;
        }
        let left = self.tokens.saturating_sub(tokens) as f64 / self.rate.max(1e-9);
        if self.line.is_terminal() {
            return self.bar(update, u, o, time(left));
        }
        let quiet = self.last.is_some_and(|t| t.elapsed() < Duration::from_secs(1));
        if quiet && update != self.total {
            return;
        }
        self.last = Some(Instant::now());
        say(&format!(
            "step {update:>6}/{}  loss {:.4}  lr {:.2e}  grad {:.2}  {:>7} tok/s  {:.1} GFLOP/s  {} left",
            self.total,
            o.loss,
            u.lr,
            o.grad_norm,
            count(rate),
            rate * self.flops_per_token[1] / 1e9,
            time(left),
        ));
    }

    fn bar(&mut self, update: u64, u: &Update, o: &Outcome, left: String) {
        let (total, rate) = (self.total, self.rate);
        self.line.show(|_| {
            let text = format!(
                " {:>3.0} %  step {update}/{total}  loss {:.4}  lr {:.2e}  {} tok/s  {left} left",
                100.0 * update as f64 / total.max(1) as f64,
                o.loss,
                u.lr,
                count(rate),
            );
            let room = terminal::columns().saturating_sub(text.len() + 1);
            let bar = terminal::bar(update, total, room.min(40));
            // A terminal too narrow for the text would break the line, and what is broken cannot be rewritten.
            format!("{bar}{text}").chars().take(terminal::columns() - 1).collect()
        });
    }

    pub fn eval(&self, update: u64, corpus: &str, e: &EvalResult) {
        let bits = e.bits_byte.map_or(String::new(), |b| format!(", {b:.4} bits/byte"));
        say(&format!(
            "eval at {update}: {corpus} {:.4} nats/token{bits} over {} tokens",
            e.nll_token, e.tokens
        ));
    }

    pub fn saved(&self, update: u64, path: &Path, took: Duration) {
        say(&format!("checkpoint at {update}: {} ({:.1} s)", path.display(), took.as_secs_f64()));
    }

    pub fn end(&self, update: u64, dir: &Path) {
        say(&format!("done: {update} updates; try: espalier generate {} --prompt \"The \"", dir.display()));
    }
}

/// 1234567 as 1.23 M
pub fn count(x: f64) -> String {
    match x {
        x if x >= 1e9 => format!("{:.2} G", x / 1e9),
        x if x >= 1e6 => format!("{:.2} M", x / 1e6),
        x if x >= 1e4 => format!("{:.1} k", x / 1e3),
        x => format!("{x:.0}"),
    }
}

/// 3700 as 1 h 01 min
pub fn time(seconds: f64) -> String {
    match seconds as u64 {
        s if s >= 86400 => format!("{} d {} h", s / 86400, s / 3600 % 24),
        s if s >= 3600 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        s if s >= 60 => format!("{} min {:02} s", s / 60, s % 60),
        s => format!("{s} s"),
    }
}
