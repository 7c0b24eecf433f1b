//! `parallel.reductions = "fastest"`: at the start of a run the ranks time each collective of its updates both ways, summed
//! in rank order by this program and left to the MPI library, and give the library those that it does clearly faster.
//!
//! What was chosen is kept beside the checkpoints, in RUN/reductions.json, and holds for every later start with as many
//! ranks under the same library: bits do not change over a restart by another measurement.

use super::council;
use super::rehearsal;
use crate::checkpoint;
use crate::comm::{Comm, Job, Kind, Mesh, Reduce, processes};
use crate::config::{Reductions, RunConfig};
use crate::device::{Category, DType, Device};
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Timings of each way, after one that does not count.
const ROUNDS: usize = 5;
/// The library must take less than this share of our time: what is as fast stays reproducible.
const CLEARLY: f64 = 0.9;

/// RUN/reductions.json. Collectives by name, as `Job` displays itself.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Chosen {
    /// What the times depend on besides.
    transport: String,
    ranks: usize,
    dp: usize,
    shard: usize,
    collectives: BTreeMap<String, Times>,
}

/// Median of the slowest rank's times, us.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Times {
    ordered_us: f64,
    library_us: f64,
    library: bool,
}

impl Times {
    fn new(ordered_us: f64, library_us: f64) -> Times {
        Times { ordered_us, library_us, library: library_us < CLEARLY * ordered_us }
    }
}

/// Chooses, and hands the library its part; a sentence about it. None where there is nothing to choose. Collective.
pub fn choose(config: &RunConfig, mesh: &Mesh) -> Result<Option<String>> {
    if config.parallel.reductions != Reductions::Fastest || processes::joined().is_none() {
        return Ok(None);
    }
    let (world, dev) = (mesh.world.as_ref(), Device::cpu(1));
    let jobs = rehearsal::jobs(config, world.rank(), mesh.dp.size())?;
    let jobs: Vec<Job> = jobs
        .into_iter()
        .filter(|job| mesh.group(&job.axis).is_some_and(|g| processes::library_can(job, g.size())))
        .collect();
    let path = config.run.dir.join("reductions.json");
    let mut chosen = Chosen {
        transport: processes::transport(),
        ranks: world.size(),
        dp: mesh.dp.size(),
        shard: mesh.shard.size(),
        ..Chosen::default()
    };
    chosen.collectives = chosen.earlier(&path, world, &dev)?;
    let open: Vec<&Job> = jobs.iter().filter(|j| !chosen.collectives.contains_key(&j.to_string())).collect();
    let times = measure(&open, mesh, &dev)?;
    chosen.collectives.extend(open.iter().map(|j| j.to_string()).zip(times));
    let by_library = |job: &Job| chosen.collectives.get(&job.to_string()).is_some_and(|t| t.library);
    let theirs: Vec<Job> = jobs.iter().filter(|j| by_library(j)).cloned().collect();
    processes::give_library(theirs.clone());
    if world.rank() == 0 && !open.is_empty() {
        let text = serde_json::to_string_pretty(&chosen).expect("names and numbers");
        checkpoint::replace(&path, text.as_bytes())?;
    }
    Ok(Some(chosen.sentence(&jobs, theirs.len(), open.len())))
}

impl Chosen {
    /// What an earlier start of the run chose under the same circumstances, as rank 0 reads it. A file that cannot be read
    /// is measured anew. Collective.
    fn earlier(&self, path: &Path, world: &dyn Comm, dev: &Device) -> Result<BTreeMap<String, Times>> {
        let own = if world.rank() == 0 { std::fs::read_to_string(path).ok() } else { None };
        let told = council::first(dev, world, own.as_deref(), "earlier choice of reductions")?;
        Ok(told.map_or(BTreeMap::new(), |(_, text)| self.fitting(&text)))
    }

    fn fitting(&self, text: &str) -> BTreeMap<String, Times> {
        let it = |c: &Chosen| (c.transport.clone(), c.ranks, c.dp, c.shard);
        match serde_json::from_str::<Chosen>(text) {
            Ok(then) if it(&then) == it(self) => then.collectives,
            _ => BTreeMap::new(),
        }
    }

    /// `library`: how many of the jobs it does; `open`: how many were measured now.
    fn sentence(&self, jobs: &[Job], library: usize, open: usize) -> String {
        let when = match (jobs.len(), open) {
            (0, _) => return "reductions: no collective of this run is large enough to choose".into(),
            (_, 0) => "as this run chose when it began",
            (n, open) if n == open => "measured now",
            _ => "in part measured now",
        };
        let gain = |t: &Times| t.ordered_us - t.library_us;
        let all = jobs.iter().filter_map(|j| self.collectives.get_key_value(&j.to_string()));
        let best = all.max_by(|a, b| gain(a.1).abs().total_cmp(&gain(b.1).abs()));
        let best = best.map_or(String::new(), |(name, t)| {
            format!("; {name}: {:.0} us in rank order, {:.0} us by the library", t.ordered_us, t.library_us)
        });
        format!("reductions: the library does {library} of {} collectives, {when}{best}", jobs.len())
    }
}

/// Times of each job, the same on all ranks. Collective.
fn measure(jobs: &[&Job], mesh: &Mesh, dev: &Device) -> Result<Vec<Times>> {
    if jobs.is_empty() {
        return Ok(vec![]);
    }
    let mut us = Tensor::zeros(dev, jobs.len() * 2, ROUNDS, DType::F64, Category::Comm);
    for (i, job) in jobs.iter().enumerate() {
        let group = mesh.group(&job.axis).expect("jobs of groups that are here");
        let mut t = Tensor::zeros(dev, 1, job.len, job.dtype, Category::Comm);
        // One way and then the other, so that what disturbs one disturbs both.
        for round in 0..ROUNDS + 1 {
            for way in 0..2 {
                processes::give_library(if way == 1 { vec![(*job).clone()] } else { vec![] });
                group.barrier("timing")?;
                let began = Instant::now();
                t = match job.kind {
                    Kind::AllReduce => group.all_reduce(t, Reduce::Sum, "timing")?,
                    Kind::ReduceScatter => group.reduce_scatter(t, "timing")?,
                    Kind::AllGather => group.all_gather(t, "timing")?,
                    other => {
                        let problem = format!("a {other} is no reduction");
                        return Err(Error::RankLost { rank: group.rank(), problem });
                    }
                }
                .wait()?;
                if round > 0 {
                    us.data_mut::<f64>()[(2 * i + way) * ROUNDS + round - 1] =
                        began.elapsed().as_secs_f64() * 1e6;
                }
            }
        }
        drop(t);
        dev.arena().trim();
    }
    let us = mesh.world.all_reduce(us, Reduce::Max, "times of reductions")?.wait()?;
    let of = |row: usize| {
        let mut times = us.data::<f64>()[row * ROUNDS..][..ROUNDS].to_vec();
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    };
    Ok((0..jobs.len()).map(|i| Times::new(of(2 * i), of(2 * i + 1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_choice_holds_for_the_same_ranks_and_library_only() {
        let mut then = Chosen { transport: "MPI 1".into(), ranks: 4, dp: 4, shard: 2, ..Default::default() };
        then.collectives.insert("dp all_reduce f32 10".into(), Times::new(10.0, 8.9));
        let text = serde_json::to_string(&then).unwrap();
        let now = |ranks, transport: &str| Chosen {
            transport: transport.into(),
            ranks,
            dp: 4,
            shard: 2,
            ..Default::default()
        };
        assert_eq!(now(4, "MPI 1").fitting(&text), then.collectives);
        for (other, text) in [(now(2, "MPI 1"), &text[..]), (now(4, "MPI 2"), &text), (now(4, "MPI 1"), "{")]
        {
            assert!(other.fitting(text).is_empty());
        }
    }

    #[test]
    fn the_library_gets_what_it_does_clearly_faster() {
        assert!(Times::new(10.0, 8.9).library);
        assert!(!Times::new(10.0, 9.1).library && !Times::new(10.0, 10.0).library);
        let jobs = [Job { axis: "dp".into(), kind: Kind::AllReduce, dtype: DType::F32, len: 10 }];
        let mut chosen = Chosen::default();
        chosen.collectives.insert(jobs[0].to_string(), Times::new(10.0, 5.0));
        let said = chosen.sentence(&jobs, 1, 0);
        assert!(
            said.contains("the library does 1 of 1 collectives, as this run chose when it began"),
            "{said}"
        );
        assert!(said.contains("dp all_reduce of 10 f32: 10 us in rank order, 5 us by the library"), "{said}");
    }
}
