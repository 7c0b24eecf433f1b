//! What a rank writes about its run: rows of metrics, and the line a person sees.

use super::resume;
use super::run::{Launch, Rank};
use super::step::{Outcome, Update};
use crate::comm::Spent;
use crate::config::PhaseConfig;
use serde_json::json;
use std::time::Duration;

impl Rank<'_> {
    pub(super) fn row(&mut self, kind: &str, fields: impl FnOnce() -> serde_json::Value) {
        self.row_of(self.position.update, kind, fields);
    }

    /// Of an earlier step of the phase.
    pub(super) fn row_of(&mut self, step: u64, kind: &str, fields: impl FnOnce() -> serde_json::Value) {
        let phase = self.config.phases.get(self.position.phase).map_or("", |p| p.name.as_str());
        if let Some(m) = &mut self.metrics {
            m.write(kind, step, phase, fields());
        }
    }

    /// What does not happen in every run: a row of metrics with a name of its kind and a sentence.
    pub(super) fn event(&mut self, name: &str, text: &str) {
        self.row("event", || json!({ "name": name, "text": text }));
    }

    pub(super) fn describe(&mut self, launch: &Launch, start: &resume::Found, programs: &[u64]) {
        let programs: Vec<_> = programs.iter().map(|p| format!("{p:016x}")).collect();
        let (config, mesh) = (self.config, &self.replica.mesh);
        let model = &self.replica.net.config;
        let (dp, tp, params) = (mesh.dp.size(), mesh.tp.size(), model.params());
        let shard = mesh.shard.size();
        let peak = self.peak_flops * (dp * tp) as f64 / 1e12;
        let [full, causal] = [false, true].map(|c| model.flops_per_token(config.run.seq_len, c));
        if let Some(p) = &mut self.progress {
            p.begin(config, launch, dp, tp, &start.start);
            p.flops_per_token = [full, causal];
        }
        if let Some(m) = &mut self.metrics {
            m.begin(self.position.update);
        }
        self.row("run", || {
            json!({
                "config_hash": format!("{:016x}", config.hash()), "git": crate::GIT, "host": hostname(),
                "ranks": dp * tp, "dp": dp, "tp": tp, "zero": config.parallel.zero,
                "shard": shard, "reductions": config.parallel.reductions.name(), "params": params,
                "flops_per_token_full": full, "flops_per_token_causal": causal,
                "threads_per_rank": launch.threads_per_rank(), "peak_tflops": peak, "program_hashes": programs,
            })
        });
        for text in &start.passed_over {
            self.event("checkpoint_passed_over", text);
        }
    }

    pub(super) fn log_step(
        &mut self,
        phase: &PhaseConfig,
        update: &Update,
        outcome: &Outcome,
        took: Duration,
        data_wait: Duration,
    ) {
        let batch = phase.batches.at(self.position.phase_step - 1);
        let rate = (batch * phase.seq_len) as f64 / (took + data_wait).as_secs_f64();
        let (total, sample) = (self.position.tokens(self.config), self.position.sample(self.config));
        let memory = self.replica.dev.arena().used();
        let by_domain: serde_json::Map<_, _> = self
            .domains
            .iter()
            .zip(outcome.vote.loss_by_domain.iter().zip(&outcome.vote.weight_by_domain))
            .filter(|(_, (_, weight))| **weight > 0.0)
            .map(|(d, (loss, weight))| (d.name.clone(), json!(loss / weight)))
            .collect();
        let mut terms = json!({ "ce": outcome.ce });
        if update.teacher > 0.0 {
            terms["kd"] = json!(outcome.kd);
        }
        if update.z_loss > 0.0 {
            terms["z"] = json!(outcome.z);
        }
        let now = self.replica.mesh.sent();
        let sent = [now[0] - self.sent[0], now[1] - self.sent[1]];
        let Spent { exposed, hidden } = self.replica.mesh.spent() - self.spent;
        let (model, left_out) = (&self.replica.net.config, 6.0 * self.left_out() as f64);
        let flops =
            [false, true].map(|causal| rate * (model.flops_per_token(phase.seq_len, causal) - left_out));
        let peak = self.peak_flops * self.replica.mesh.world.size() as f64;
        self.row("step", || {
            json!({
                "sample": sample, "tokens": total, "global_batch": batch, "loss": outcome.loss, "terms": terms,
                "grad_norm": outcome.grad_norm, "clip": outcome.clip, "skipped": outcome.fault.is_some(), "lr": update.lr,
                "teacher": update.teacher,
                "weight_sum": update.weight_sum,
                "step_ms": took.as_secs_f64() * 1e3, "tokens_per_s": rate,
                "data_wait_ms": data_wait.as_secs_f64() * 1e3,
                "mfu_full": flops[0] / peak, "mfu_causal": flops[1] / peak,
                "comm_bytes": { "dp": sent[0], "tp": sent[1] },
                "comm_exposed_ms": exposed.as_secs_f64() * 1e3, "comm_hidden_ms": hidden.as_secs_f64() * 1e3,
                "peak_mem_gib": memory.peak_fresh as f64 / (1u64 << 30) as f64,
                "loss_by_domain": by_domain,
            })
        });
        if let Some(p) = &mut self.progress {
            p.step(self.position.update, &phase.name, update, outcome, total, rate);
        }
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or(String::new(), |s| s.trim().into())
}
