//! A teacher as a phase gives it: a trained model whose distribution a part of the loss compares with (SALT, arXiv 2410.18779;
//! with a constant weight to the end of the run it is plain distillation, arXiv 1503.02531).

use super::read::weights_of;
use super::read_phase::segment;
use super::run::{EvalConfig, Every, Init};
use super::schedule::Schedule;
use super::table::Table;
use super::write;
use crate::Result;

pub(super) const LOSS: &[(&str, Distance)] =
    &[("kd", Distance::Kd), ("rkl", Distance::Rkl), ("js", Distance::Js)];
pub(super) const UNTIL: &[(&str, bool)] = &[("weight", false), ("passed", true)];
const WANTS_TEACHER: &str =
    "\"ckpt:PATH\", \"ckpt:PATH@STEP\", \"ema:PATH\", \"ema:PATH@STEP\" or \"hf:DIR\"";
const WANTS_WEIGHT: &str = "a share from 0 to 1";
const LIKE: &str = "weight = [{ kind = \"const\", to = 0.667, frac = 0.2 }, { kind = \"const\", to = 0.0 }]";

#[derive(Clone, Debug, PartialEq)]
pub struct Salt {
    /// Not `Init::Random`.
    pub teacher: Init,
    pub loss: Distance,
    /// Of the teacher's distribution; the student's is 1.
    pub temperature: f64,
    /// ω, the teacher's share of the loss, over the updates of the phase.
    pub weight: Schedule,
    /// The teacher goes when an evaluation of the phase finds a loss of the student below its own and this, nats per token;
    /// `None`: with its share.
    pub passed_by: Option<f64>,
}

/// How the distributions p of the teacher and q of the student are compared (`ops/distill.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// Cross-entropy of q under p.
    Kd,
    /// KL divergence of q from p.
    Rkl,
    /// Jensen-Shannon divergence.
    Js,
}

impl Distance {
    pub fn name(self) -> &'static str {
        LOSS.iter().find(|(_, d)| *d == self).expect("all are named").0
    }
}

impl Salt {
    /// ω of the update with index `step` (0-based) of the phase.
    pub fn weight_at(&self, step: u64) -> f64 {
        self.weight.at(step, 0.0)
    }

    /// The first update of the phase from which on the teacher has no share.
    pub fn ends(&self) -> u64 {
        self.weight.zero_from(0.0)
    }
}

/// Of a phase of so many updates, and how it is evaluated.
pub(super) fn read(t: &Table, steps: u64, eval: Option<&EvalConfig>) -> Result<Salt> {
    let Some(teacher) = weights_of(t, "teacher", WANTS_TEACHER)? else {
        return Err(t.missing("teacher", "teacher = \"ckpt:runs/small\""));
    };
    if let Some(source) = t.str("source", "\"live\"")?.filter(|s| *s != "live") {
        let problem = format!("{source:?}: what a teacher said cannot be read from a file yet");
        return Err(t.error("source", problem, "use \"live\", or leave it out"));
    }
    let temperature =
        t.float("temperature", "a number from 0.01 to 100", |x| (0.01..=100.0).contains(&x))?.unwrap_or(1.0);
    let segments = t.tables("weight")?.unwrap_or_default();
    if segments.is_empty() {
        return Err(t.missing("weight", LIKE));
    }
    let segments = segments
        .iter()
        .map(|s| segment(s, WANTS_WEIGHT, |x| (0.0..=1.0).contains(&x)))
        .collect::<Result<Vec<_>>>()?;
    let weight = Schedule::resolve(segments, steps).map_err(|(i, problem)| {
        let remedy = "change `frac` or `steps`; the last segment may leave both out";
        t.error(&format!("weight.{i}"), problem, remedy)
    })?;
    if let Some((i, from)) = weight.exp_from_zero(0.0) {
        let problem = format!("exp cannot go from {from:?}");
        return Err(t.error(&format!("weight.{i}"), problem, "give `from` and `to` above 0"));
    }
    if weight.zero_from(0.0) == 0 {
        return Err(t.error("weight", "the teacher never has a share", "give it one, or leave `salt` out"));
    }
    let margin = t.float("margin", "a number from -10 to 10", |x| (-10.0..=10.0).contains(&x))?;
    let passed_by = match t.choice("until", UNTIL)? {
        Some(true) if eval.is_none() => {
            let remedy = "give the phase an eval = { on = [..] }, or leave `until` out";
            return Err(t.error("until", "the phase is not evaluated, so nobody can tell", remedy));
        }
        Some(true) if eval.is_some_and(|e| matches!(e.every, Every::Minutes(_))) => {
            let problem = "evaluations by the clock would make the run depend on it";
            return Err(t.error("until", problem, "give eval.every like \"500 steps\""));
        }
        Some(true) => Some(margin.unwrap_or(0.0)),
        Some(false) | None if margin.is_some() => {
            return Err(t.error("margin", "it belongs to until = \"passed\"", "add that, or leave it out"));
        }
        Some(false) | None => None,
    };
    let loss = t.choice("loss", LOSS)?.unwrap_or(Distance::Kd);
    Ok(Salt { teacher, loss, temperature, weight, passed_by })
}

/// As the run file has it.
pub(super) fn text(s: &Salt) -> String {
    let quoted = |s: &str| toml::Value::from(s).to_string();
    let weight: Vec<String> = s.weight.segments().iter().map(write::segment).collect();
    let until =
        s.passed_by.map_or(String::new(), |margin| format!(", until = \"passed\", margin = {margin:?}"));
    format!(
        "{{ teacher = {}, source = \"live\", loss = {}, temperature = {:?}, weight = [{}]{until} }}",
        quoted(&s.teacher.to_string()),
        quoted(s.loss.name()),
        s.temperature,
        weight.join(", ")
    )
}
