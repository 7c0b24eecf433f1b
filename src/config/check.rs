//! What the parts of a run must agree on: with the model at load, with the number of ranks at start, with the
//! earlier attempt at resume.

use super::glob;
use super::model::{divisors, listed};
use super::muon::is_matrix_of_block;
use super::run::*;
use crate::{Error, Result};

type Problem = Option<(&'static str, String, String)>;

impl RunConfig {
    /// tp against the widths, micro_batch against the batches: what holds for any number of ranks.
    pub(super) fn parallel_problem(&self) -> Problem {
        let tp = self.parallel.tp;
        if let Some((name, width)) = self.models().find_map(|m| m.tp_problem(tp)) {
            let neither = if name == "kv_heads" { ", and is no multiple of it" } else { "" };
            let problem = format!("{tp} does not divide model.{name}: {width}{neither}");
            return Some(("parallel.tp", problem, format!("give one of {}", listed(&self.tp_values()))));
        }
        if let Some(problem) = self.sequence_problem() {
            return Some(problem);
        }
        let micro = self.parallel.micro_batch?;
        let cut = |p: &PhaseConfig| p.sizes().find(|size| !size.is_multiple_of(micro));
        let (phase, size) = self.phases.iter().find_map(|p| Some((p, cut(p)?)))?;
        let problem = match phase.batches.ramp() {
            None => format!("{micro} does not divide global_batch: {size}"),
            Some(_) => {
                format!("{micro} does not divide {size}, a size of the batch_ramp of phase {:?}", phase.name)
            }
        };
        let works = listed(&divisors(phase.sizes().fold(0, gcd)));
        Some(("parallel.micro_batch", problem, format!("give one of {works}")))
    }

    /// Sequence parallelism gives each rank of tp as many tokens of a micro-batch; if its size is open, it is any.
    fn sequence_problem(&self) -> Problem {
        let (tp, micro) = (self.parallel.tp, self.parallel.micro_batch.unwrap_or(1));
        let key = "parallel.sequence_parallel";
        if !self.parallel.sequence_parallel {
            return None;
        }
        if tp == 1 {
            let remedy = "set tp to 2 or more, or sequence_parallel to false";
            return Some((key, "true with tp = 1, where nothing is split".into(), remedy.into()));
        }
        let uneven = |p: &&PhaseConfig| !(p.seq_len * micro).is_multiple_of(tp);
        let phase = self.phases.iter().find(uneven)?;
        let (name, seq_len) = (&phase.name, phase.seq_len);
        let problem = format!(
            "a micro-batch of {micro} x {seq_len} tokens in phase {name:?} does not split over tp = {tp}"
        );
        let remedy = format!("give seq_len or micro_batch as a multiple of {tp}, or set it to false");
        Some((key, problem, remedy))
    }

    /// The tp sizes this model allows.
    fn tp_values(&self) -> Vec<usize> {
        let fits = |tp: &usize| self.models().all(|m| m.tp_problem(*tp).is_none());
        divisors(self.model.heads).into_iter().filter(fits).collect()
    }

    /// Splits `ranks` into dp · tp, or says which numbers would work.
    pub fn check_ranks(&self, ranks: usize) -> Result<Topology> {
        let tp = self.parallel.tp;
        let refuse = |key: &str, problem: String, remedy: String| {
            Err(Error::config(&self.source_file, key, problem, remedy))
        };
        if ranks == 0 {
            return Err(Error::launch("--ranks 0", format!("give {tp} or more")));
        }
        if !ranks.is_multiple_of(tp) {
            let works: Vec<usize> =
                self.tp_values().into_iter().filter(|t| ranks.is_multiple_of(*t)).collect();
            let more = ranks.checked_next_multiple_of(tp).unwrap_or(tp).max(tp);
            let remedy = match works.is_empty() {
                true => format!("start {more} ranks"),
                false => format!("start {more} ranks, or set tp to one of {}", listed(&works)),
            };
            return refuse("parallel.tp", format!("tp = {tp} does not divide {ranks} ranks"), remedy);
        }
        let dp = ranks / tp;
        let shard = self.parallel.shard_size(dp);
        if !dp.is_multiple_of(shard) {
            let problem = format!("{shard} ranks do not divide {dp} data-parallel ranks");
            let remedy = format!("set it to \"all\", or to one of {} ranks", listed(&divisors(dp)));
            return refuse("parallel.shard", problem, remedy);
        }
        for (i, phase) in self.phases.iter().enumerate() {
            let micro = self.parallel.micro_batch.unwrap_or(1);
            let unit = dp.saturating_mul(micro);
            let Some(batch) = phase.sizes().find(|size| !size.is_multiple_of(unit)) else { continue };
            let below = batch / unit * unit;
            let near = if below == 0 {
                format!("{unit}")
            } else {
                format!("{below} or {}", below.saturating_add(unit))
            };
            let mut remedy = format!("set global_batch to {near}");
            if batch.is_multiple_of(dp) {
                remedy += &format!(", or micro_batch to one of {}", listed(&divisors(batch / dp)));
            }
            let size = if phase.batches.ramp().is_some() { ", a size of its batch_ramp," } else { "" };
            let problem = format!(
                "{batch} sequences in phase {:?}{size} do not split into {dp} data-parallel ranks with micro-batches of {micro}",
                phase.name
            );
            if phase.batches.ramp().is_some() {
                let remedy = format!("make `from`, `by` and global_batch multiples of {unit}");
                return refuse(&format!("phase.{i}.batch_ramp"), problem, remedy);
            }
            let own = batch != self.run.global_batch;
            let key = if own { format!("phase.{i}.global_batch") } else { "run.global_batch".into() };
            return refuse(&key, problem, remedy);
        }
        Ok(Topology { dp, tp })
    }

    /// Whether a run started as `old` may go on as this: only parallel, device, eval, checkpoint cadence, numerics, run.dir
    /// and a larger budget of the last phase may differ, the last not in Megatron's order.
    pub fn check_resume(&self, old: &RunConfig) -> Result<()> {
        let (new, old) = (self.lines(), old.lines());
        let last = format!("phase.{}", self.phases.len().saturating_sub(1));
        let find = |lines: &[super::write::Line], table: &str, key: &str| {
            lines.iter().find(|l| l.table == table && l.key == key).map(|l| l.value.clone())
        };
        for line in new.iter().chain(&old).filter(|l| l.matters) {
            let now = find(&new, &line.table, &line.key);
            let then = find(&old, &line.table, &line.key);
            let tokens = |v: &Option<String>| v.as_ref().and_then(|v| v.parse::<u64>().ok());
            let longer = line.table == last && line.key == "tokens" && tokens(&now) >= tokens(&then);
            if now != then && longer && self.phases.last().is_some_and(|p| p.salt.is_some()) {
                return Err(Error::config(
                    &self.source_file,
                    super::keys::join(&line.table, &line.key),
                    "the teacher's share is laid out over the phase, so a longer one would have had another so far",
                    "change it back, and add a phase or start a new run.dir with init = \"ckpt:PATH\"",
                ));
            }
            if now != then && longer && self.ends_in_megatrons_order() {
                return Err(Error::config(
                    &self.source_file,
                    super::keys::join(&line.table, &line.key),
                    "Megatron's order depends on the length of the run, so a longer one has read other samples so far",
                    "change it back, or start a new run.dir with init = \"ckpt:PATH\"",
                ));
            }
            if now != then && !longer {
                let none = || "absent".to_string();
                let (now, then) = (now.unwrap_or_else(none), then.unwrap_or_else(none));
                return Err(Error::config(
                    &self.source_file,
                    super::keys::join(&line.table, &line.key),
                    format!("{now} differs from what the run was started with: {then}"),
                    "change it back, or start a new run.dir with init = \"ckpt:PATH\"",
                ));
            }
        }
        Ok(())
    }

    fn ends_in_megatrons_order(&self) -> bool {
        let megatron = |name: &str| self.data.iter().any(|(n, d)| n == name && d.order == Order::Megatron);
        self.phases.last().is_some_and(|p| p.mix.iter().any(|(name, weight)| *weight > 0.0 && megatron(name)))
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl OptimConfig {
    /// Weight decay and learning-rate factor of a parameter: each comes from the last group that matches the name
    /// and sets it.
    pub fn for_name(&self, name: &str) -> (f64, f64) {
        let mut decay = match self.kind {
            OptimKind::Muon(muon) if is_matrix_of_block(name) => muon.weight_decay,
            OptimKind::Muon(muon) => muon.adamw.weight_decay,
            OptimKind::AdamW { weight_decay, .. }
            | OptimKind::Adam { weight_decay, .. }
            | OptimKind::Sgd { weight_decay } => weight_decay,
        };
        let mut scale = 1.0;
        for g in self.groups.iter().filter(|g| g.matches(name)) {
            decay = g.weight_decay.unwrap_or(decay);
            scale = g.lr_scale.unwrap_or(scale);
        }
        (decay, scale)
    }

    /// Refuses a group that matches none of the parameters: a mistyped pattern would change nothing, silently.
    pub fn check_names(&self, names: &[&str], file: &str) -> Result<()> {
        match self.groups.iter().position(|g| !names.iter().any(|n| g.matches(n))) {
            None => Ok(()),
            Some(i) => Err(Error::config(
                file,
                format!("optim.group.{i}.match"),
                format!("no parameter is called like {}", self.groups[i].patterns.join(" or ")),
                format!("names look like {}", names.first().unwrap_or(&"embed.tokens.weight")),
            )),
        }
    }
}

impl Group {
    pub fn matches(&self, name: &str) -> bool {
        self.patterns.iter().any(|p| glob::matches(p, name))
    }
}
