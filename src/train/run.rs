//! A run: set up every rank, then phase by phase, update by update, to the end or to a signal.

use super::evaluate;
use super::evaluating::OWED;
use super::loader::{Drawn, Loader};
use super::lock;
use super::metrics::Metrics;
use super::numbers::{self, Numbers};
use super::position::Position;
use super::progress::Progress;
use super::rehearsal;
use super::replica::{Plan, Replica};
use super::resume;
use super::room;
use super::sparse::{blocks_fit, zeros_fit};
use super::step::{MicroBatch, Outcome, Update, step_unless};
use super::vote::{Ballot, Vote};
use super::{agreement, alike, corpora, council, fastest, teacher};
use crate::comm::nodes::dp_per_node;
use crate::comm::{Mesh, Setup, Spent, World, processes};
use crate::config::{self, Every, OptimState, PhaseConfig, Precision, RunConfig};
use crate::data::{Domain, HeldOut, Snapshot};
use crate::device::gemm::peak;
use crate::device::{DType, Device};
use crate::model::Network;
use crate::params::Accumulate;
use crate::signal;
use crate::tape::Recompute;
use crate::{Error, Result};
use serde_json::json;
use std::time::{Duration, Instant};

/// How the run was started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// All ranks: threads of this process, or processes that MPI joined.
    pub ranks: usize,
    /// Threads of each rank; None divides the machine's cores among its ranks.
    pub threads: Option<usize>,
    /// How long a collective waits for another rank.
    pub deadline: Duration,
    /// Ranks of a node, as a dry run may have it; None asks where ranks that are processes are, and has threads on one
    /// node.
    pub ranks_per_node: Option<usize>,
}

impl Launch {
    pub fn threads_per_rank(&self) -> usize {
        self.threads.unwrap_or_else(|| processes::threads_per_rank(self.ranks))
    }

    /// Ranks of a node; None if all are on one. Errors: `Launch`, if nodes have different numbers of them.
    pub fn node(&self) -> Result<Option<usize>> {
        match self.ranks_per_node {
            None => processes::ranks_per_node(),
            Some(n) if n > 0 && self.ranks.is_multiple_of(n) => Ok(Some(n)),
            Some(n) => {
                let problem = format!("--ranks-per-node {n} does not divide {} ranks", self.ranks);
                Err(Error::launch(problem, "give a divisor of --ranks"))
            }
        }
    }
}

/// Trains to the end of the last phase. Errors end all ranks; `Requeue` after a signal, with a checkpoint written.
pub fn train(config: &RunConfig, launch: &Launch) -> Result<()> {
    let config = &placed(config, launch)?;
    check(config, launch)?;
    // From here on: copying corpora and reading checkpoints may take minutes.
    signal::listen();
    let domains = corpora::open(config)?;
    teacher::check_corpora(config, &domains)?;
    std::fs::create_dir_all(&config.run.dir).map_err(Error::io(&config.run.dir, "create"))?;
    // Of several processes one holds it for all; they write nothing before they have met.
    let _lock = if processes::is_first() { lock::take(&config.run.dir)? } else { None };
    // Ranks that are threads begin from what is found once; processes look each for itself, and agree.
    let found =
        if processes::joined().is_none() { Some(resume::find(config, &domains, None)?) } else { None };
    let setup = Setup { deadline: launch.deadline, reductions: config.parallel.reductions };
    processes::run(launch.ranks, &setup, |world| {
        if let Some(found) = &found {
            return rank_main(config, launch, &domains, found, world);
        }
        // A rank with another run file would look elsewhere, and find everything damaged.
        agreement::check(&Device::cpu(1), world.as_ref(), &agreement::facts(config, &domains, None, &[]))?;
        let found = resume::find(config, &domains, Some(&*world))?;
        rank_main(config, launch, &domains, &found, world)
    })?;
    Ok(())
}

/// The run file with what the place of its ranks says, how many of a node `parallel.shard = "node"` means, and with the
/// checkpoints that its teachers are now. Errors: `Launch`, if nodes cannot be shard groups; `Checkpoint`.
pub fn placed(config: &RunConfig, launch: &Launch) -> Result<RunConfig> {
    let mut config = teacher::pinned(config)?;
    if let config::Shard::Node(size) = &mut config.parallel.shard {
        let tp = config.parallel.tp;
        *size = launch.node()?.map(|ranks| dp_per_node(ranks, tp)).transpose()?;
    }
    Ok(config)
}

/// What the run file asks that this build, or this model, cannot do. Nothing is written.
pub fn check(config: &RunConfig, launch: &Launch) -> Result<()> {
    if config.parallel.open {
        let problem = "\"auto\" was not resolved for these ranks";
        return Err(Error::config(&config.source_file, "parallel", problem, "resolve it, or give its keys"));
    }
    config.check_ranks(launch.ranks)?;
    let refuse = |key: &str, problem: &str, remedy: &str| {
        Err(Error::config(&config.source_file, key, problem, remedy))
    };
    if config.model.head == config::Head::Mlm || !config.model.causal {
        let problem = "training a masked language model is not built yet";
        return refuse("model", problem, "choose a causal model; BERT models can be imported and exported");
    }
    if let Some(Every::Minutes(_)) = config.checkpoint.keep_every {
        let problem = "checkpoints to keep are counted in steps";
        return refuse("checkpoint.keep_every", problem, "give it like \"5000 steps\"");
    }
    if launch.threads.is_some_and(|n| !(1..=1024).contains(&n)) {
        return Err(Error::launch(format!("--threads {}", launch.threads_per_rank()), "give 1 to 1024"));
    }
    if config.phases.first().is_some_and(|p| p.grow.is_some()) {
        let problem = "the first phase has no network before it to grow from";
        return refuse("phase.0.grow", problem, "begin with what `espalier grow` makes (run.init)");
    }
    zeros_fit(config)?;
    teacher::check(config)?;
    blocks_fit(config)?;
    // Those of smaller networks are among them.
    let specs = Network::specs(config.last_model());
    let names: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
    config.optim.check_names(&names, &config.source_file)
}

/// For the network of the first phase.
pub fn plan(config: &RunConfig) -> Plan<'_> {
    plan_of(config, 0)
}

/// For the network of a phase.
pub fn plan_of(config: &RunConfig, phase: usize) -> Plan<'_> {
    Plan {
        model: config.model_of(phase),
        spdf: config.blocks_of(phase),
        optim: &config.optim,
        dtype: match config.run.dtype {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
        },
        recompute: match config.parallel.recompute {
            config::Recompute::Keep => Recompute::Keep,
            config::Recompute::Cheap => Recompute::Cheap,
            config::Recompute::Full => Recompute::Full,
        },
        zero: config.parallel.zero,
        accumulate: match config.parallel.accumulate {
            config::Accumulate::Local => Accumulate::Local,
            config::Accumulate::Sharded => Accumulate::Sharded,
        },
        sequence_parallel: config.parallel.sequence_parallel,
        seq_len: config.phases.iter().map(|p| p.seq_len).max().unwrap_or(config.run.seq_len),
    }
}

/// One rank's side of a run.
pub(super) struct Rank<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) domains: &'a [Domain],
    pub(super) replica: Replica,
    pub(super) position: Position,
    /// Where the data cursor is; None where it must be counted.
    pub(super) cursor: Option<Snapshot>,
    /// What the next updates are judged by.
    pub(super) numbers: Numbers,
    /// Loss of this phase's teacher where the phase is evaluated, once it is known.
    pub(super) teachers_loss: Option<f64>,
    /// Rank 0 only.
    pub(super) metrics: Option<Metrics>,
    pub(super) progress: Option<Progress>,
    pub(super) last_save: Instant,
    pub(super) last_eval: Instant,
    pub(super) saved_at: Option<u64>,
    /// Bytes sent over dp and tp before this step.
    pub(super) sent: [u64; 2],
    /// Where the time of collectives had gone by then.
    pub(super) spent: Spent,
    /// Multiply-adds this rank's threads can do, measured at the start, as FLOP/s.
    pub(super) peak_flops: f64,
}

fn rank_main(
    config: &RunConfig,
    launch: &Launch,
    domains: &[Domain],
    found: &resume::Found,
    world: World,
) -> Result<()> {
    let start = &found.start;
    let dp = world.size() / config.parallel.tp;
    let mesh = Mesh::grid(world, config.parallel.tp, config.parallel.shard_size(dp))?;
    let first = mesh.world.rank() == 0;
    let dev = Device::cpu(launch.threads_per_rank());
    let (programs, bytes) = rehearsal::programs(config, mesh.world.rank(), mesh.dp.size())?;
    agreement::check(&dev, mesh.world.as_ref(), &agreement::facts(config, domains, start.step(), &programs))?;
    if council::any(&dev, mesh.world.as_ref(), signal::asked_to_stop(), "stop")? {
        return Err(Error::Requeue { step: start.step().unwrap_or(0) });
    }
    room::check(&dev, mesh.world.as_ref(), bytes)?;
    let mut replica = Replica::new(dev, mesh, &plan_of(config, resume::network(config, start)))?;
    let reductions = fastest::choose(config, &replica.mesh)?;
    let position = resume::load(config, start, &mut replica)?;
    let mut rank = Rank {
        config,
        domains,
        position,
        cursor: resume::cursor(start)?,
        numbers: resume::numbers(start)?,
        teachers_loss: None,
        metrics: if first { Some(Metrics::open(&config.run.dir)?) } else { None },
        progress: first.then(|| Progress::new(Position::total_steps(config), Position::total_tokens(config))),
        last_save: Instant::now(),
        last_eval: Instant::now(),
        saved_at: start.step(),
        sent: [0; 2],
        spent: Spent::default(),
        peak_flops: if first { 1e9 * peak(replica.dev.pool()) } else { 0.0 },
        replica,
    };
    if first {
        resume::write_run_file(config)?;
        rank.describe(launch, found, &programs);
        if let Some(text) = reductions {
            crate::terminal::say(&text);
            rank.event("reductions", &text);
        }
    }
    let done = rank.phases();
    if let (Err(e), world) = (&done, &rank.replica.mesh.world)
        && !matches!(e, Error::Requeue { .. })
    {
        world.abort(&e.to_string());
    }
    done
}

impl Rank<'_> {
    fn phases(&mut self) -> Result<()> {
        self.owed_evaluation()?;
        while let Some(phase) = self.config.phases.get(self.position.phase) {
            self.phase(phase)?;
            self.position = Position { phase: self.position.phase + 1, phase_step: 0, ..self.position };
        }
        if let Some(m) = &mut self.metrics {
            m.end()?;
        }
        if let Some(p) = &self.progress {
            p.end(self.position.update, &self.config.run.dir);
        }
        Ok(())
    }

    /// The rest of one phase.
    fn phase(&mut self, phase: &PhaseConfig) -> Result<()> {
        let Rank { config, position, .. } = *self;
        if position.phase_step == 0 {
            self.numbers.begin_phase();
        }
        let grown = self.rebuild(phase)?;
        if position.phase_step == 0 && position.update > 0 {
            match phase.optimizer {
                OptimState::Keep => {}
                OptimState::Reset => self.replica.optim.reset(),
                OptimState::KeepV => self.replica.optim.reset_first_moments(),
            }
        }
        let spdf = self.sparsify(phase)?;
        let salt = self.begin_teaching(phase)?;
        self.row("phase", || {
            let p = position;
            json!({
                "name": phase.name,
                "clocks": { "update": p.update, "schedule": p.schedule(config), "sample": p.sample(config) },
                "steps": phase.steps, "seq_len": phase.seq_len, "global_batch": phase.global_batch,
                "batch_ramp": phase.batches.ramp(), "spdf": spdf, "grow": grown,
                "salt": salt,
            })
        });
        self.replica.dev.arena().trim();
        let mut sampler = corpora::sampler(config, self.domains, position.phase)?;
        // A phase that begins a cursor begins at sample 0.
        let first = position.sample(config);
        if let Some(cursor) = self.cursor.as_ref().filter(|cursor| cursor.sample == first) {
            sampler.restore(cursor)?;
        }
        let held = evaluate::held_out(self.domains, phase)?;
        let dp = (self.replica.mesh.dp.rank(), self.replica.mesh.dp.size());
        let splits = corpora::splits(config, phase, dp, position.phase_step);
        let mut loader = Loader::start(sampler, splits, first)?;
        let mut now = loader.take()?;
        let mut rows = now.rows();
        let vote = self.say(&now.batches, 0)?.cast_now(self)?;
        if vote.stop {
            return self.stop(phase);
        }
        let mut weight_sum = vote.next_weight_sum;
        for i in position.phase_step..phase.steps {
            let asked = Instant::now();
            let next = loader.take()?;
            let data_wait = asked.elapsed();
            let update = Update {
                step: self.position.update,
                lr: phase.lr_at(i),
                clip: config.optim.clip,
                weight_sum: weight_sum.max(1e-300),
                z_loss: phase.z_loss,
                teacher: self.numbers.teachers_share(phase, i),
            };
            self.end_teaching(phase);
            let ballot = self.say(&next.batches, self.domains.len())?;
            (self.sent, self.spent) = (self.replica.mesh.sent(), self.replica.mesh.spent());
            let began = Instant::now();
            if std::mem::replace(&mut rows, now.rows()) != now.rows() {
                // Buffers for micro-batches of one size are none for those of another.
                self.replica.dev.arena().trim();
            }
            let Drawn { batches, cursor } = std::mem::replace(&mut now, next);
            let (numbers, policy) = (&self.numbers, &config.numerics);
            let judge = |loss, norm| numbers.judge(policy, loss, norm);
            let outcome = step_unless(&mut self.replica, &batches, &update, ballot, judge)?;
            let took = began.elapsed();
            // On a run that ends here nothing is lost that was to be saved.
            if !outcome.vote.writing || outcome.fault.as_ref().is_some_and(|fault| fault.stops) {
                self.finish_save(false)?;
            }
            self.judged(phase, &update, &outcome)?;
            (weight_sum, self.cursor) = (outcome.vote.next_weight_sum, cursor);
            self.position =
                Position { update: self.position.update + 1, phase_step: i + 1, phase: self.position.phase };
            if let (None, Some(steps)) = (&outcome.fault, policy.compare_replicas)
                && self.position.update.is_multiple_of(steps)
            {
                alike::compare(&mut self.replica, self.position.update)?;
            }
            self.log_step(phase, &update, &outcome, took, data_wait);
            self.after_step(phase, &held, &outcome.vote, i + 1 == phase.steps)?;
        }
        self.replica.teacher = None;
        Ok(())
    }

    /// What comes of an update that was made, or was not.
    fn judged(&mut self, phase: &PhaseConfig, update: &Update, outcome: &Outcome) -> Result<()> {
        let Some(fault) = &outcome.fault else {
            // What was judged: without the teacher, whose share may change.
            self.numbers.made(&self.config.numerics, outcome.ce + outcome.z, outcome.grad_norm);
            return Ok(());
        };
        self.keep_for_replay(phase, update, outcome, &fault.what)?;
        if fault.stops {
            self.event("update_refused", &fault.what);
            return Err(numbers::error(update.step, fault.what.clone()));
        }
        self.numbers.skipped();
        let text = format!("update {} is skipped: {}", update.step, fault.what);
        if self.replica.mesh.world.rank() == 0 {
            tracing::warn!("{text}");
        }
        self.event("update_skipped", &text);
        Ok(())
    }

    /// What this rank puts into the vote.
    fn say(&self, next: &[MicroBatch], domains: usize) -> Result<Ballot> {
        let mut ballot = Ballot::new(domains);
        ballot.stop = signal::asked_to_stop();
        if self.replica.mesh.tp.rank() == 0 {
            ballot.next_weight_sum = corpora::weight_sum(next);
        }
        if self.replica.mesh.world.rank() == 0 {
            ballot.save = due(self.config.checkpoint.every, self.position.update + 1, self.last_save);
            let every =
                self.config.phases.get(self.position.phase).and_then(|p| p.eval.as_ref()).map(|e| e.every);
            ballot.eval = every.is_some_and(|every| due(every, self.position.update + 1, self.last_eval));
        }
        Ok(ballot)
    }

    /// Evaluation, checkpoint, stop: as all ranks agreed in the vote.
    fn after_step(&mut self, phase: &PhaseConfig, held: &[HeldOut], vote: &Vote, end: bool) -> Result<()> {
        let due = (end || vote.eval) && !held.is_empty();
        let evaluated = !due || (!vote.stop && self.evaluate(phase, held)?);
        let over = end && self.position.phase + 1 == self.config.phases.len();
        if !evaluated {
            self.event(
                OWED,
                "an evaluation was due when the run was stopped; it is made when the run goes on",
            );
        }
        if !evaluated || (vote.stop && !over) {
            return self.stop(phase);
        }
        match (end, vote.save) {
            // The next phase may begin with another optimizer state.
            (true, _) => self.save(phase, over),
            (false, true) => self.begin_save(phase),
            (false, false) => Ok(()),
        }
    }

    /// Leaves what the same command needs to go on.
    pub(super) fn stop(&mut self, phase: &PhaseConfig) -> Result<()> {
        if self.position.update > 0 {
            self.save(phase, true)?;
        }
        Err(Error::Requeue { step: self.position.update })
    }
}

impl Ballot {
    fn cast_now(self, rank: &Rank) -> Result<Vote> {
        self.cast(&rank.replica.dev, &rank.replica.mesh)
    }
}

fn due(every: Every, update: u64, last: Instant) -> bool {
    match every {
        Every::Steps(n) => update.is_multiple_of(n),
        Every::Minutes(m) => last.elapsed().as_secs_f64() >= 60.0 * m,
    }
}
