//! `[[phase]]`: budgets become steps, mixtures become shares, learning rates are laid out over the steps.

use super::batches::{Batches, Ramp};
use super::doc::{Node, Origin, Value};
use super::grow;
use super::model::{ModelConfig, Positions};
use super::read::{ATTENTION, GLOBAL_BATCH, SEQ_LEN, TOKENS, eval, unknown_corpus, z_loss};
use super::run::*;
use super::salt;
use super::schedule::{Kind, Length, Schedule, Segment};
use super::spdf;
use super::table::{Table, number};
use crate::Result;

/// Sequences over which a batch may grow.
pub(super) const RAMP_SAMPLES: std::ops::RangeInclusive<u64> = 1..=1 << 62;
pub(super) const STEPS: std::ops::RangeInclusive<u64> = 1..=1 << 40;

pub(super) const OPTIMIZER: &[(&str, OptimState)] =
    &[("keep", OptimState::Keep), ("reset", OptimState::Reset), ("keep_v", OptimState::KeepV)];
pub(super) const SCHEDULE: &[(&str, ScheduleClock)] =
    &[("new", ScheduleClock::New), ("keep", ScheduleClock::Keep)];
pub(super) const CURSOR: &[(&str, Cursor)] = &[("keep", Cursor::Keep), ("new", Cursor::New)];
pub(super) const KINDS: &[(&str, Kind)] = &[
    ("const", Kind::Const),
    ("linear", Kind::Linear),
    ("cosine", Kind::Cosine),
    ("1-sqrt", Kind::OneMinusSqrt),
    ("inv-sqrt", Kind::InvSqrt),
    ("exp", Kind::Exp),
];

pub(super) fn phases(
    tables: &[Table],
    run: &RunSection,
    model: &ModelConfig,
    data: &[(String, DataConfig)],
    optim: &OptimConfig,
    default_eval: &Option<EvalConfig>,
) -> Result<Vec<PhaseConfig>> {
    let mut phases: Vec<PhaseConfig> = Vec::new();
    let mut model = model.clone();
    for t in tables {
        let name = t
            .str("name", "a name as a string")?
            .ok_or_else(|| t.missing("name", "name = \"main\""))?
            .to_string();
        if phases.iter().any(|p| p.name == name) {
            return Err(t.error("name", format!("two phases are called {name:?}"), "give each its own name"));
        }
        let seq_len = t.usize("seq_len", SEQ_LEN)?.unwrap_or(run.seq_len);
        if let Positions::Learned { max } = model.positions
            && seq_len > max
        {
            let owner = if t.get("seq_len").is_some() { &t.path } else { "run" };
            let problem = format!("{seq_len} is longer than the table of learned positions: {max}");
            let remedy = format!("lower it, or set model.max_positions = {seq_len}");
            return Err(t.doc.error(&format!("{owner}.seq_len"), problem, remedy));
        }
        let global_batch = t.usize("global_batch", GLOBAL_BATCH)?.unwrap_or(run.global_batch);
        let batches = batches(t, global_batch)?;
        let (steps, tokens) = budget(t, seq_len as u64, &batches)?;
        let spdf = t.opt_table("spdf")?.map(|t| spdf::read(&t, run.seed)).transpose()?;
        if spdf.is_some() && matches!(optim.kind, OptimKind::Muon(_)) {
            let problem = "an update of Muon is dense, it would fill the zeros";
            return Err(t.error("spdf", problem, "use optim.adamw, or leave it out"));
        }
        let grow = t.opt_table("grow")?.map(|t| grow::read(&t, &model, run.seed)).transpose()?;
        if let Some(g) = &grow {
            if spdf.is_some() {
                let problem = "zeros that are drawn anew would undo what was grown";
                return Err(t.error("spdf", problem, "leave it out of the phase that grows"));
            }
            model = g.model.clone();
        }
        // Weights that were zero have no moments, and would take steps of their own size with an old t.
        let freed = phases.last().is_some_and(|before| before.spdf.is_some() && before.spdf != spdf);
        // New weights have none either, and the rate is to be warmed up again.
        let optimizer = if freed || grow.is_some() { OptimState::Reset } else { OptimState::Keep };
        let eval = phase_eval(t, data, optim, default_eval)?;
        let salt = t.opt_table("salt")?.map(|t| salt::read(&t, steps, eval.as_ref())).transpose()?;
        let phase = PhaseConfig {
            name,
            steps,
            tokens,
            mix: mix(t, data)?,
            lr: Schedule::default(),
            lr_first: 0,
            lr_start: 0.0,
            optimizer: t.choice("optimizer", OPTIMIZER)?.unwrap_or(optimizer),
            schedule: t.choice("schedule", SCHEDULE)?.unwrap_or(ScheduleClock::New),
            cursor: t.choice("cursor", CURSOR)?.unwrap_or(Cursor::Keep),
            seq_len,
            global_batch,
            batches,
            attention: t.choice("attention", ATTENTION)?.unwrap_or(run.attention),
            z_loss: z_loss(t)?.unwrap_or(run.z_loss),
            eval,
            spdf,
            salt,
            grow,
        };
        if phase.optimizer == OptimState::KeepV && matches!(optim.kind, OptimKind::Sgd { .. }) {
            return Err(t.error(
                "optimizer",
                "sgd has no second moments to keep",
                "use \"keep\" or \"reset\"",
            ));
        }
        match phases.last() {
            None if phase.schedule == ScheduleClock::Keep => {
                return Err(t.error(
                    "schedule",
                    "the first phase has none to keep",
                    "set schedule = \"new\"",
                ));
            }
            Some(before) if phase.cursor == Cursor::Keep => same_data(t, before, &phase)?,
            _ => {}
        }
        phases.push(phase);
    }
    schedules(tables, &mut phases)?;
    Ok(phases)
}

/// Steps and tokens from whichever is given. One given by `--set` replaces the other in the file.
fn budget(t: &Table, seq_len: u64, batches: &Batches) -> Result<(u64, u64)> {
    let set = |key: &str| matches!(t.get(key), Some(Node { origin: Origin::Set(_), .. }));
    let (steps, tokens) = match (t.int("steps", STEPS)?, t.int("tokens", TOKENS)?) {
        (steps @ Some(_), Some(_)) if set("steps") && !set("tokens") => (steps, None),
        (Some(_), tokens @ Some(_)) if set("tokens") && !set("steps") => (None, tokens),
        either => either,
    };
    match (steps, tokens) {
        (Some(_), Some(_)) => Err(t.error("steps", "steps and tokens are both given", "keep one of the two")),
        (None, None) => Err(t.missing("tokens", "tokens = 50_000_000")),
        (Some(steps), None) => {
            let tokens = batches.samples(steps).and_then(|samples| samples.checked_mul(seq_len));
            match tokens.filter(|n| TOKENS.contains(n)) {
                Some(tokens) => Ok((steps, tokens)),
                None => {
                    let each = seq_len * batches.at(steps) as u64;
                    Err(t.error("steps", format!("{steps} of {each} tokens each are too many"), "lower it"))
                }
            }
        }
        (None, Some(tokens)) => Ok((batches.steps_for(tokens.div_ceil(seq_len)), tokens)),
    }
}

/// `batch_ramp = { from = 16, by = 16, samples = 200_000 }`; without it every update has `global_batch`.
fn batches(t: &Table, global_batch: usize) -> Result<Batches> {
    let Some(r) = t.opt_table("batch_ramp")? else { return Ok(Batches::fixed(global_batch)) };
    let ramp = Ramp {
        from: r.usize("from", GLOBAL_BATCH)?.ok_or_else(|| r.missing("from", "from = 16"))?,
        by: r.usize("by", GLOBAL_BATCH)?.ok_or_else(|| r.missing("by", "by = 16"))?,
        samples: r.int("samples", RAMP_SAMPLES)?.ok_or_else(|| r.missing("samples", "samples = 200_000"))?,
    };
    Batches::growing(ramp, global_batch).map_err(|(key, problem, remedy)| r.error(key, problem, remedy))
}

fn mix(t: &Table, data: &[(String, DataConfig)]) -> Result<Vec<(String, f64)>> {
    let Some(weights) = t.opt_table("mix")? else {
        return match data {
            [(only, _)] => Ok(vec![(only.clone(), 1.0)]),
            _ => Err(t.missing("mix", &format!("mix = {{ {} = 1.0 }}", data[0].0))),
        };
    };
    let mut mix = Vec::new();
    for (name, _) in weights.entries {
        if !data.iter().any(|(n, _)| n == name) {
            return Err(unknown_corpus(&weights, name, name, data));
        }
        let weight = weights.float(name, "a weight from 0 to 1e9", |x| (0.0..=1e9).contains(&x))?;
        mix.push((name.clone(), weight.unwrap_or(0.0)));
    }
    let sum: f64 = mix.iter().map(|(_, w)| w).sum();
    if sum <= 0.0 {
        return Err(t.error("mix", "the weights add up to 0", "give at least one corpus a weight > 0"));
    }
    // Shares stay as they are, so that a resolved file resolves to itself; so do weights of corpora in Megatron's order,
    // whose blend depends on their last bits.
    let megatron = |(_, d): &(String, DataConfig)| d.order == Order::Megatron;
    if (sum - 1.0).abs() > 1e-9 && !data.iter().any(megatron) {
        mix.iter_mut().for_each(|(_, w)| *w /= sum);
    }
    Ok(mix)
}

/// `eval = { .. }` replaces the run's, `eval = "none"` switches it off for this phase.
fn phase_eval(
    t: &Table,
    data: &[(String, DataConfig)],
    optim: &OptimConfig,
    default: &Option<EvalConfig>,
) -> Result<Option<EvalConfig>> {
    match t.get("eval") {
        None => Ok(default.clone()),
        Some(Node { value: Value::Str(s), .. }) if s == "none" => Ok(None),
        Some(_) => Ok(Some(eval(&t.table("eval")?, data, optim)?)),
    }
}

/// A cursor can only be kept over the same sequences of the same corpora.
fn same_data(t: &Table, before: &PhaseConfig, phase: &PhaseConfig) -> Result<()> {
    let corpora = |p: &PhaseConfig| {
        let mut names: Vec<String> = p.mix.iter().map(|(n, _)| n.clone()).collect();
        names.sort();
        names.join(", ")
    };
    let problem = if before.seq_len != phase.seq_len {
        format!("seq_len changes from {} to {}", before.seq_len, phase.seq_len)
    } else if corpora(before) != corpora(phase) {
        format!("the corpora change from {} to {}", corpora(before), corpora(phase))
    } else {
        return Ok(());
    };
    let remedy = "set cursor = \"new\", or name the same corpora with weight 0";
    Err(t.error("cursor", format!("the data cursor cannot be kept when {problem}"), remedy))
}

/// Lays each schedule out over the phase that starts it and all that follow with `schedule = "keep"`.
fn schedules(tables: &[Table], phases: &mut [PhaseConfig]) -> Result<()> {
    let (mut at, mut start) = (0, 0.0);
    while at < phases.len() {
        let t = &tables[at];
        let kept = phases[at + 1..].iter().take_while(|p| p.schedule == ScheduleClock::Keep).count();
        let end = at + 1 + kept;
        if let Some(t) = tables[at + 1..end].iter().find(|t| t.get("lr").is_some()) {
            let problem = "a phase that keeps the schedule has no lr of its own";
            return Err(t.error("lr", problem, "leave lr out or set schedule = \"new\""));
        }
        let steps = phases[at..end].iter().map(|p| p.steps).sum();
        let segments = segments(t)?;
        let lr = Schedule::resolve(segments, steps).map_err(|(i, problem)| {
            t.error(
                &format!("lr.{i}"),
                problem,
                "change `frac` or `steps`; the last segment may leave both out",
            )
        })?;
        if let Some((i, from)) = lr.exp_from_zero(start) {
            let problem = format!("exp cannot go from {from:?}");
            return Err(t.error(&format!("lr.{i}"), problem, "give `from` and `to` above 0"));
        }
        let mut first = 0;
        for phase in &mut phases[at..end] {
            (phase.lr, phase.lr_first, phase.lr_start) = (lr.clone(), first, start);
            first += phase.steps;
        }
        start = lr.end(start);
        at = end;
    }
    Ok(())
}

fn segments(t: &Table) -> Result<Vec<Segment>> {
    let like = "lr = [{ kind = \"linear\", to = 6e-4, frac = 0.02 }, { kind = \"cosine\", to = 6e-5 }]";
    if let Some(rate) = t.get("lr").and_then(number) {
        let remedy = format!("for a constant rate write `lr = [{{ kind = \"const\", to = {rate:?} }}]`");
        return Err(t.error("lr", "a schedule is a list of segments", remedy));
    }
    let tables = t.tables("lr")?.unwrap_or_default();
    if tables.is_empty() {
        return Err(t.missing("lr", like));
    }
    tables.iter().map(|t| segment(t, "a rate from 0 to 1e6", |x| (0.0..=1e6).contains(&x))).collect()
}

/// A segment whose values are `fits`, which `wants` says.
pub(super) fn segment(t: &Table, wants: &str, fits: fn(f64) -> bool) -> Result<Segment> {
    let kind = t.choice("kind", KINDS)?.ok_or_else(|| t.missing("kind", "kind = \"linear\""))?;
    let rate = |key: &str| t.float(key, wants, fits);
    let current = matches!(t.get("from").map(|n| &n.value), Some(Value::Str(s)) if s == "current");
    let from = if current { None } else { rate("from")? };
    let to = rate("to")?;
    if kind == Kind::Const && t.get("from").is_some() {
        return Err(t.error("from", "a const segment has only one value", "give it as `to`"));
    }
    if kind != Kind::Const && to.is_none() {
        return Err(t.missing("to", "to = 6e-5"));
    }
    let frac = t.float("frac", "a share > 0 and at most 1", |x| x > 0.0 && x <= 1.0)?;
    let length = match (frac, t.int("steps", STEPS)?) {
        (Some(_), Some(_)) => {
            return Err(t.error("steps", "frac and steps are both given", "keep one of the two"));
        }
        (Some(f), None) => Length::Frac(f),
        (None, Some(n)) => Length::Steps(n),
        (None, None) => Length::Rest,
    };
    Ok(Segment { kind, from, to, length })
}
