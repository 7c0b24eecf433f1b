//! `parallel = "auto"`: of the layouts that the ranks and their memory allow, the one that a rehearsal of its memory and
//! traffic and a model of its time (`cost`) find fastest, and in a few lines why.

mod cost;
mod space;

use super::text::bytes;
use super::{DryRun, Outside};
use crate::comm::{Comm, Job, Reduce, processes};
use crate::config::{Accumulate, ParallelConfig, Recompute, RunConfig, Shard};
use crate::device::{Category, DType, Device, memory};
use crate::tensor::Tensor;
use crate::train::corpora::Split;
use crate::train::rehearsal::Rehearsal;
use crate::train::run::Launch;
use crate::train::sparse::zeros_fit;
use crate::{Error, Result};
use cost::Ranks;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Of the memory there is, what runs may count on.
const SHARE: f64 = 0.9;
/// Times this close are equal; the simpler layout is taken.
const EQUAL: f64 = 1.02;

/// What was chosen and why; `Display` is for people.
#[derive(Debug, Serialize)]
pub struct Choice {
    ranks: usize,
    ranks_per_node: usize,
    /// Bytes that a rank may take, and who says so.
    memory: u64,
    memory_by: String,
    chosen: Fit,
    /// The best layout that differs in more than recompute and micro-batch.
    next: Option<Fit>,
    /// How many fit.
    fit: usize,
    rejected: Vec<Rejected>,
}

#[derive(Clone, Debug, Serialize)]
struct Fit {
    layout: String,
    /// Of a rank, bytes.
    memory: u64,
    /// Of an update, as foretold.
    compute_s: f64,
    comm_s: f64,
    #[serde(skip)]
    parallel: ParallelConfig,
}

#[derive(Clone, Debug, Serialize)]
struct Rejected {
    layout: String,
    why: String,
}

impl Fit {
    fn seconds(&self) -> f64 {
        self.compute_s + self.comm_s
    }
}

/// The run file with a layout in place of `parallel = "auto"`, and why; as it is where it says one. Collective where ranks
/// are processes. `memory`: bytes of a node that is not here.
///
/// Errors: `Launch` and `Config`, if no layout fits.
pub fn resolve(
    config: &RunConfig,
    launch: &Launch,
    memory: Option<u64>,
) -> Result<(RunConfig, Option<Choice>)> {
    if !config.parallel.open || launch.ranks == 0 {
        return Ok((config.clone(), None));
    }
    // What no layout can help, before any is tried.
    zeros_fit(config)?;
    let setup = crate::comm::Setup::new(launch.deadline);
    if processes::joined().is_none() {
        let (parallel, choice) = choose(config, launch, room(launch, memory)?)?;
        return Ok((RunConfig { parallel, ..config.clone() }, Some(choice)));
    }
    // Nodes may differ; the least is what a rank has. One rank chooses for all.
    let found = processes::run(launch.ranks, &setup, |world| {
        let dev = Device::cpu(1);
        let mut room = room(launch, memory)?;
        let least = Tensor::from_slice(&dev, 1, 1, &[-(room.0 as f64)], Category::Comm);
        let least = -world.all_reduce(least, Reduce::Max, "memory of a rank")?.wait()?.data::<f64>()[0];
        room.0 = least as u64;
        match world.rank() {
            0 => {
                let (parallel, choice) = choose(config, launch, room)?;
                tell(&dev, world.as_ref(), config, Some(&parallel)).map(|p| (p, Some(choice)))
            }
            _ => tell(&dev, world.as_ref(), config, None).map(|p| (p, None)),
        }
    })?;
    let (parallel, choice) = found.into_iter().next().expect("this process has a rank");
    Ok((RunConfig { parallel, ..config.clone() }, choice))
}

/// What rank 0 chose. Collective.
fn tell(
    dev: &Device,
    world: &dyn Comm,
    config: &RunConfig,
    own: Option<&ParallelConfig>,
) -> Result<ParallelConfig> {
    const RECOMPUTE: [Recompute; 3] = [Recompute::Keep, Recompute::Cheap, Recompute::Full];
    let mut t = Tensor::zeros(dev, 1, 7, DType::F64, Category::Comm);
    if let Some(p) = own {
        let near = if let Shard::Node(Some(n)) = p.shard { n } else { 0 };
        let recompute = RECOMPUTE.iter().position(|r| *r == p.recompute).expect("there are three");
        let numbers = [
            p.tp,
            p.zero.into(),
            near,
            p.sequence_parallel.into(),
            p.micro_batch.unwrap_or(0),
            (p.accumulate == Accumulate::Sharded).into(),
            recompute,
        ];
        t.data_mut::<f64>().iter_mut().zip(numbers).for_each(|(to, n)| *to = n as f64);
    }
    let t = world.broadcast(t, 0, "layout of the run")?.wait()?;
    let n: Vec<usize> = t.data::<f64>().iter().map(|x| *x as usize).collect();
    Ok(ParallelConfig {
        tp: n[0],
        zero: n[1] as u8,
        shard: if n[2] == 0 { Shard::All } else { Shard::Node(Some(n[2])) },
        sequence_parallel: n[3] == 1,
        micro_batch: (n[4] > 0).then_some(n[4]),
        accumulate: if n[5] == 1 { Accumulate::Sharded } else { Accumulate::Local },
        recompute: RECOMPUTE[n[6].min(2)],
        open: false,
        reductions: config.parallel.reductions,
    })
}

/// Bytes that a rank may take, and who says so.
fn room(launch: &Launch, told: Option<u64>) -> Result<(u64, String)> {
    let of_a_node = launch.node()?.unwrap_or(launch.ranks);
    let share = |bytes: u64, by: usize| (SHARE * bytes as f64) as u64 / by.max(1) as u64;
    if let Some(bytes) = told {
        return Ok((share(bytes, of_a_node), "--node-memory".into()));
    }
    let Some(limit) = memory::limit() else {
        let problem = "the system does not say how much memory it has, so parallel = \"auto\" cannot choose";
        return Err(Error::launch(problem, "give the keys of [parallel]"));
    };
    let by = if limit.own && processes::joined().is_some() { 1 } else { of_a_node };
    Ok((share(limit.bytes, by), format!("limit by {}", limit.by)))
}

fn choose(config: &RunConfig, launch: &Launch, room: (u64, String)) -> Result<(ParallelConfig, Choice)> {
    let ranks = Ranks {
        all: launch.ranks,
        of_a_node: launch.node()?.unwrap_or(launch.ranks),
        threads: launch.threads_per_rank(),
    };
    let space = space::space(config, ranks);
    let mut fits = vec![];
    let reject = |(layout, why): (String, String)| Rejected { layout, why };
    let mut rejected: Vec<Rejected> = space.out.into_iter().map(reject).collect();
    let mut least: Option<Fit> = None;
    for layout in space.layouts {
        match largest(config, launch, ranks, &layout, room.0)? {
            Ok(fit) => fits.push(fit),
            Err(need) => {
                let why = format!("needs {} of {} at least", bytes(need.memory), bytes(room.0));
                rejected.push(Rejected { layout: space::name(&layout), why });
                if least.as_ref().is_none_or(|l| need.memory < l.memory) {
                    least = Some(need);
                }
            }
        }
    }
    let count = fits.len();
    while let Some(i) = best(&fits) {
        let chosen = fits.remove(i);
        let placed = RunConfig { parallel: chosen.parallel.clone(), ..config.clone() };
        // With evaluations, on every kind of rank, as a dry run has it.
        let memory = DryRun::new(&placed, launch)?.memory;
        let need = memory.rank + program(&memory.outside, ranks);
        if need as u64 > room.0 {
            let why = format!("needs {} of {} when it evaluates", bytes(need as u64), bytes(room.0));
            rejected.push(Rejected { layout: chosen.layout.clone(), why });
            least = least.or(Some(Fit { memory: need as u64, ..chosen }));
            continue;
        }
        let chosen = Fit { memory: need as u64, ..chosen };
        let parallel = chosen.parallel.clone();
        let next = best(&fits).map(|i| fits.remove(i));
        let (memory, memory_by) = room;
        let (ranks, ranks_per_node) = (ranks.all, ranks.of_a_node);
        let choice = Choice { ranks, ranks_per_node, memory, memory_by, chosen, next, fit: count, rejected };
        return Ok((parallel, choice));
    }
    let problem = match (least, rejected.first()) {
        (Some(l), _) => format!(
            "no layout of {} ranks fits into {} each ({}): {} needs {}, the least",
            ranks.all,
            bytes(room.0),
            room.1,
            l.layout,
            bytes(l.memory)
        ),
        (None, Some(r)) => format!("no layout of {} ranks is possible: {}: {}", ranks.all, r.layout, r.why),
        (None, None) => format!("no layout of {} ranks is possible", ranks.all),
    };
    let remedy = "start another number of ranks, fewer on a node, or take a smaller model, seq_len or batch";
    Err(Error::config(&config.source_file, "parallel", problem, remedy))
}

/// The fastest; of those that are as fast the first, which is the simplest.
fn best(fits: &[Fit]) -> Option<usize> {
    let least = fits.iter().map(Fit::seconds).fold(f64::INFINITY, f64::min);
    fits.iter().position(|f| f.seconds() <= EQUAL * least)
}

/// A layout with as little recomputing and then as large a micro-batch as memory allows, or the least that it needs.
fn largest(
    config: &RunConfig,
    launch: &Launch,
    ranks: Ranks,
    layout: &ParallelConfig,
    room: u64,
) -> Result<std::result::Result<Fit, Fit>> {
    let sizes = space::micro_batches(config, ranks.all / layout.tp);
    let mut fit = None::<Fit>;
    let mut least = None::<Fit>;
    for recompute in [Recompute::Keep, Recompute::Cheap, Recompute::Full] {
        for &micro in &sizes {
            let longest = config.phases.iter().map(|p| p.seq_len).max().unwrap_or(1);
            if layout.sequence_parallel && !(micro * longest).is_multiple_of(layout.tp) {
                continue;
            }
            let parallel = ParallelConfig { recompute, micro_batch: Some(micro), ..layout.clone() };
            let it = estimate(config, launch, ranks, parallel)?;
            if it.memory > room {
                if least.as_ref().is_none_or(|l| it.memory < l.memory) {
                    least = Some(it);
                }
                continue;
            }
            if fit.as_ref().is_none_or(|f| it.seconds() < f.seconds()) {
                fit = Some(it);
            }
            break;
        }
        // The largest micro-batch fits: recomputing gains nothing more.
        if fit.as_ref().is_some_and(|f| f.parallel.micro_batch == sizes.first().copied()) {
            break;
        }
    }
    Ok(match (fit, least) {
        (Some(fit), _) => Ok(fit),
        (None, Some(least)) => Err(least),
        (None, None) => {
            let parallel = ParallelConfig { micro_batch: Some(1), ..layout.clone() };
            Err(estimate(config, launch, ranks, parallel)?)
        }
    })
}

/// A rank's share of what its process takes.
fn program(outside: &Outside, ranks: Ranks) -> usize {
    if processes::joined().is_some() { outside.process } else { outside.process / ranks.all }
}

/// Memory and time of rank 0, by two updates of each phase on the Meta device.
fn estimate(config: &RunConfig, launch: &Launch, ranks: Ranks, parallel: ParallelConfig) -> Result<Fit> {
    let (tp, dp) = (parallel.tp, ranks.all / parallel.tp);
    let config = &RunConfig { parallel, ..config.clone() };
    let shard = config.parallel.shard_size(dp);
    let near = (ranks.of_a_node / tp).max(1);
    let of_axis = |axis: &str| match axis {
        "tp" | "kv" => (tp, tp),
        "shard" => (shard, near.min(shard)),
        "replicate" => (dp / shard, (near / shard).clamp(1, dp / shard)),
        "dp" => (dp, near.min(dp)),
        _ => (ranks.all, ranks.of_a_node),
    };
    let (mut memory, mut compute, mut comm, mut updates) = (0, 0.0, 0.0, 0.0);
    for (i, phase) in config.phases.iter().enumerate() {
        let mut one = Rehearsal::of_phase(config, i, 0, dp);
        let (split, _) = *one.splits(phase).last().expect("a phase has updates");
        // What a further micro-batch adds is what the second, or third, did.
        let mut counted = vec![one.replica.mesh.jobs()];
        for steps in [2, 3].map(|n| split.micro_steps.min(n)) {
            one.update_of(phase, Split { micro_steps: steps, ..split })?;
            counted.push(one.replica.mesh.jobs());
        }
        let more = split.micro_steps.saturating_sub(3) as f64;
        let delta = |job: &Job, i: usize| {
            let at = |i: usize| counted[i].get(job).copied().unwrap_or(0) as f64;
            at(i + 1) - at(i)
        };
        let of_update = |job: &Job| delta(job, 1) + more * (delta(job, 1) - delta(job, 0)).max(0.0);
        let jobs: BTreeMap<Job, f64> = counted[2].keys().map(|j| (j.clone(), of_update(j))).collect();
        memory = memory.max(one.replica.dev.arena().used().peak_fresh);
        let (steps, samples) = (phase.steps as f64, phase.all_samples() as f64);
        compute += cost::compute(config, ranks, samples, phase.seq_len, split.micro_batch);
        comm += steps * cost::communication(&jobs, ranks, of_axis);
        updates += steps;
    }
    let outside = Outside::new(config, dp, launch.threads_per_rank());
    let program = program(&outside, ranks);
    Ok(Fit {
        layout: space::full_name(&config.parallel),
        memory: (memory + outside.rank() + program) as u64,
        compute_s: compute / updates,
        comm_s: comm / updates,
        parallel: config.parallel.clone(),
    })
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let time = |s: f64| if s < 1.0 { format!("{:.1} ms", 1e3 * s) } else { format!("{s:.2} s") };
        let fit = |c: &Fit| {
            format!(
                "{}: {} of a rank, {} an update ({} in collectives)",
                c.layout,
                bytes(c.memory),
                time(c.seconds()),
                time(c.comm_s)
            )
        };
        writeln!(
            f,
            "parallel    \"auto\" for {} ranks, {} on a node; a rank may take {} ({})",
            self.ranks,
            self.ranks_per_node,
            bytes(self.memory),
            self.memory_by
        )?;
        writeln!(f, "  chosen    {}", fit(&self.chosen))?;
        writeln!(
            f,
            "            the least time, and the simplest within 2 % of it, of {} that fit",
            self.fit
        )?;
        if let Some(next) = &self.next {
            writeln!(f, "  next      {}", fit(next))?;
        }
        for r in self.rejected.iter().take(LISTED) {
            writeln!(f, "  rejected  {}: {}", r.layout, r.why)?;
        }
        if self.rejected.len() > LISTED {
            writeln!(f, "  rejected  {} more", self.rejected.len() - LISTED)?;
        }
        writeln!(
            f,
            "  assumed   {:.0} GFLOP/s a thread; {:.0} GB/s in a node, {:.0} GB/s between nodes; nothing overlaps",
            cost::RATE / 1e9,
            cost::BANDWIDTH[0] / 1e9,
            cost::BANDWIDTH[1] / 1e9
        )
    }
}

/// Rejected layouts on the page.
const LISTED: usize = 6;
