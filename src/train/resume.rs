//! Where a run begins: its own newest checkpoint, another run's weights, a Hugging Face directory, or nothing.

use super::corpora;
use super::council;
use super::numbers::Numbers;
use super::position::Position;
use super::replica::{self, Replica};
use crate::checkpoint::{self, Checkpoint, Clocks, CorpusId, Meta, SaveState, Saved, Saving, Search, Values};
use crate::comm::{Comm, Solo, processes};
use crate::config::{Every, Init, ModelConfig, Positions, Precision, RunConfig};
use crate::data::side::Stream;
use crate::data::{Domain, Snapshot, tokenizer};
use crate::device::Device;
use crate::hf::HfSource;
use crate::params::{Gathered, RandomInit, TensorSource};
use crate::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// What was found, the same for all ranks.
pub enum Start {
    Fresh(Origin),
    Resume(Box<Checkpoint>, Position),
}

/// Where the weights of a new run come from.
pub enum Origin {
    Random,
    Checkpoint(Box<Checkpoint>, Values),
    HuggingFace(Box<HfSource>),
}

impl Origin {
    /// The model that was trained; None for random weights.
    pub fn model(&self) -> Option<&ModelConfig> {
        match self {
            Origin::Random => None,
            Origin::Checkpoint(c, _) => Some(&c.manifest().meta.model),
            Origin::HuggingFace(source) => Some(source.config()),
        }
    }
}

impl Start {
    /// The update at which a checkpoint of this run lies on disk.
    pub fn step(&self) -> Option<u64> {
        match self {
            Start::Fresh(_) => None,
            Start::Resume(_, position) => Some(position.update),
        }
    }
}

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Start::Fresh(Origin::Random) => write!(f, "new run, random weights"),
            Start::Fresh(Origin::Checkpoint(c, values)) => {
                let averaged = if *values == Values::Ema { "averaged " } else { "" };
                write!(f, "new run, {averaged}weights of {}", c.path().display())
            }
            Start::Fresh(Origin::HuggingFace(s)) => write!(f, "new run, weights of {}", s.dir().display()),
            Start::Resume(c, p) => write!(f, "resuming at step {} from {}", p.update, c.path().display()),
        }
    }
}

/// Where a run begins, and a sentence about each newer checkpoint that is damaged.
pub struct Found {
    pub start: Start,
    pub passed_over: Vec<String>,
}

/// Looks for a checkpoint of this run, else for what `run.init` names, and checks that it fits. Nothing is written.
/// Collective over `world`, if ranks that look each for themselves are to find the same.
pub fn find(config: &RunConfig, domains: &[Domain], world: Option<&dyn Comm>) -> Result<Found> {
    let Search { found, passed_over } = newest(&config.run.dir.join("ckpt"), world)?;
    let start = match found {
        Some(c) => {
            let position = check_resume(config, domains, &c)?;
            Start::Resume(Box::new(c), position)
        }
        None => origin(config)?,
    };
    Ok(Found { start, passed_over })
}

/// The newest checkpoint that is sound wherever it is read. Each rank compares its share of the files with their
/// checksums; what rank 0 lists is looked at, and what one rank finds damaged is damaged for all.
fn newest(dir: &Path, world: Option<&dyn Comm>) -> Result<Search> {
    let alone = Solo::new();
    let (world, dev) = (world.unwrap_or(&alone), Device::cpu(1));
    let (rank, ranks) = (world.rank(), world.size());
    let listed = match rank {
        0 => Some(checkpoint::list(dir)?),
        _ => None,
    };
    let name = |f: checkpoint::Found| f.path.file_name().map(|n| n.to_string_lossy().into_owned());
    let names = listed.map(|all| all.into_iter().rev().filter_map(name).collect::<Vec<_>>().join("\n"));
    let names = council::first(&dev, world, names.as_deref(), "checkpoints")?.map_or(String::new(), |n| n.1);
    checkpoint::search(dir, names.lines().map(|name| dir.join(name)), |path| {
        let own = Checkpoint::open(path).and_then(|c| c.verify_share(rank, ranks).map(|()| c));
        let problem = own.as_ref().err().map(|e| e.to_string());
        Ok(match (council::first(&dev, world, problem.as_deref(), "soundness of a checkpoint")?, own) {
            (None, Ok(c)) => Ok(c),
            (Some((by, problem)), _) => Err(match processes::host(by) {
                Some(host) => format!("{problem} (found by rank {by} on {host})"),
                None => problem,
            }),
            (None, Err(e)) => Err(e.to_string()),
        })
    })
}

/// What `run.init` names, if the run's model can have it.
fn origin(config: &RunConfig) -> Result<Start> {
    let origin = origin_of(&config.run.init)?;
    match &origin {
        Origin::Random => {}
        Origin::Checkpoint(c, _) => check_model(config, &c.manifest().meta.model, c.path())?,
        Origin::HuggingFace(source) => check_model(config, source.config(), source.dir())?,
    }
    Ok(Start::Fresh(origin))
}

/// Opens the weights that a run file names.
pub fn origin_of(init: &Init) -> Result<Origin> {
    Ok(match init {
        Init::Random => Origin::Random,
        Init::Checkpoint { path, step, ema } => {
            let c = Checkpoint::open(&checkpoint::resolve(path, *step)?)?;
            let values = if *ema { Values::Ema } else { Values::Master };
            c.check_values(values)?;
            Origin::Checkpoint(Box::new(c), values)
        }
        Init::HuggingFace(dir) => Origin::HuggingFace(Box::new(HfSource::open(dir)?)),
    })
}

/// Weights only mean something in the model they were trained in: all of it must agree but how it was initialised
/// and, where positions are not learned, how many there are.
fn check_model(config: &RunConfig, theirs: &ModelConfig, path: &Path) -> Result<()> {
    let ours = &config.model;
    let mut expected = ModelConfig {
        init_std: ours.init_std,
        init_scale_residual: ours.init_scale_residual,
        ..theirs.clone()
    };
    if !matches!(ours.positions, Positions::Learned { .. }) {
        expected.max_positions = ours.max_positions;
    }
    let fields = |m: &ModelConfig| serde_json::to_value(m).ok().and_then(|v| v.as_object().cloned());
    let (Some(a), Some(b)) = (fields(&expected), fields(ours)) else { return Ok(()) };
    match a.iter().find(|(key, value)| b.get(*key) != Some(value)) {
        None => Ok(()),
        Some((key, value)) => Err(Error::config(
            &config.source_file,
            format!("model.{key}"),
            format!("it is {}, but the weights of {} were trained with {value}", b[key], path.display()),
            "make [model] the model of run.init",
        )),
    }
}

/// A resume may change what does not change results; everything else is a new run.
pub(super) fn check_resume(config: &RunConfig, domains: &[Domain], c: &Checkpoint) -> Result<Position> {
    let meta = &c.manifest().meta;
    let old = RunConfig::load(&c.path().join("run.toml"), &[])?;
    config.check_resume(&old)?;
    for CorpusId { name, hash, weights } in &meta.corpora {
        let Some(domain) = domains.iter().find(|d| d.name == *name) else { continue };
        let now = format!("{:016x}", domain.corpus.hash());
        if now != *hash {
            return Err(Error::data(
                domain.corpus.prefix(),
                format!("corpus \"{name}\" is not the one this run began with: {now}, it was {hash}"),
                "restore it, or start a new run with another run.dir",
            ));
        }
        let now = weights_id(domain);
        if let Some(then) = weights.as_ref().filter(|then| **then != now) {
            return Err(Error::data(
                domain.corpus.prefix(),
                format!(
                    "the side stream that weighs the targets of corpus \"{name}\" is not the one this run began \
                     with: now it is {now}, it was {then}"
                ),
                "restore it, or start a new run with another run.dir",
            ));
        }
    }
    let position = Position { update: meta.clocks.update, phase: meta.phase, phase_step: meta.phase_step };
    if let Some(cursor) = cursor_of(c)? {
        check_cursor(config, domains, position, &cursor)
            .map_err(|problem| Error::checkpoint(c.path(), problem, "use an earlier checkpoint"))?;
    }
    Ok(position.normalised(config))
}

/// The data cursor must be where the clocks are, and one that the run's mix can have come to. A sampler that cannot be
/// opened is reported where it is needed.
fn check_cursor(
    config: &RunConfig,
    domains: &[Domain],
    position: Position,
    cursor: &Snapshot,
) -> std::result::Result<(), String> {
    let (drawn, sample) = (cursor.sample, position.sample(config));
    if drawn != sample || position.phase >= config.phases.len() {
        return Err(format!("its data cursor is at sample {drawn}, but the run is at sample {sample}"));
    }
    match corpora::sampler(config, domains, position.phase) {
        Ok(sampler) => sampler
            .check_state(cursor)
            .map_err(|problem| format!("its data cursor does not fit the run: {problem}")),
        Err(_) => Ok(()),
    }
}

/// Where the data cursor of a checkpoint is, if it says so.
fn cursor_of(c: &Checkpoint) -> Result<Option<Snapshot>> {
    serde_json::from_value(c.manifest().meta.data.clone()).map_err(|e| {
        let problem = format!("\"data\" of its manifest is no data cursor: {e}");
        Error::checkpoint(c.path(), problem, "use an earlier checkpoint")
    })
}

/// Where the data cursor of a resumed run is, so that the samples before it need not be counted.
pub fn cursor(start: &Start) -> Result<Option<Snapshot>> {
    match start {
        Start::Resume(c, _) => cursor_of(c),
        Start::Fresh(_) => Ok(None),
    }
}

/// What a resumed run remembers of its updates.
pub fn numbers(start: &Start) -> Result<Numbers> {
    let Start::Resume(c, _) = start else { return Ok(Numbers::default()) };
    Numbers::from_note(&c.manifest().meta.numbers).map_err(|e| {
        let problem = format!("\"numbers\" of its manifest cannot be read: {e}");
        Error::checkpoint(c.path(), problem, "use an earlier checkpoint")
    })
}

/// The phase whose network a start has weights for.
pub fn network(config: &RunConfig, start: &Start) -> usize {
    match start {
        Start::Fresh(_) => 0,
        Start::Resume(_, at) => config.network_at(at.phase, at.phase_step),
    }
}

/// Fills weights (and, on a resume, optimizer state) of this rank.
pub fn load(config: &RunConfig, start: &Start, r: &mut Replica) -> Result<Position> {
    let random = RandomInit { seed: config.run.seed };
    let fill = |r: &mut Replica, source: &dyn TensorSource| r.params.fill(&r.dev, source);
    match start {
        Start::Fresh(Origin::Random) => fill(r, &random)?,
        Start::Fresh(Origin::Checkpoint(c, values)) => c.load_weights(&r.dev, &mut r.params, *values)?,
        Start::Fresh(Origin::HuggingFace(source)) => fill(r, &Gathered(source.as_ref()))?,
        Start::Resume(c, position) => {
            fill(r, &c.weights(Values::Stored))?;
            c.load_optimizer(&mut r.params, &mut r.optim)?;
            return Ok(*position);
        }
    }
    Ok(Position::default())
}

/// Writes a checkpoint and removes those that need not stay. Collective over all ranks.
pub fn save(
    config: &RunConfig,
    domains: &[Domain],
    r: &Replica,
    position: Position,
    cursor: Option<&Snapshot>,
    numbers: &Numbers,
    lr: f64,
) -> Result<Saved> {
    let dir = config.run.dir.join("ckpt");
    let saving = begin(&dir, config, domains, r, position, cursor, numbers, lr)?;
    finish(config, r, saving, position.update)
}

/// Ends a save of `step` into the run's directory of checkpoints, and removes those that need not stay. Collective over
/// all ranks; an error is one on all.
pub fn finish(config: &RunConfig, r: &Replica, saving: Saving, step: u64) -> Result<Saved> {
    let (dir, world) = (config.run.dir.join("ckpt"), &r.mesh.world);
    let saved = saving.finish(&|| world.barrier("checkpoint"))?;
    if world.rank() == 0 {
        let keep = match config.checkpoint.keep_every {
            Some(Every::Steps(n)) => Some(n),
            Some(Every::Minutes(_)) | None => None,
        };
        // One more than need be is no reason to stop.
        if let Err(e) = checkpoint::prune(&dir, step, config.checkpoint.keep_last, keep) {
            tracing::warn!("an old checkpoint stays: {e}");
        }
    }
    world.barrier("checkpoint pruned")?;
    Ok(saved)
}

/// Begins a checkpoint in a directory of checkpoints: it is written behind the caller, who leaves weights and optimizer
/// as they are until `Saving::fence`. No weights are on their way. `cursor`: where the data cursor is at `position`.
/// Collective over all ranks.
pub fn begin(
    dir: &Path,
    config: &RunConfig,
    domains: &[Domain],
    r: &Replica,
    position: Position,
    cursor: Option<&Snapshot>,
    numbers: &Numbers,
    lr: f64,
) -> Result<Saving> {
    let meta = Meta {
        clocks: Clocks {
            update: position.update,
            adam_t: r.optim.t,
            schedule: position.schedule(config),
            sample: position.sample(config),
        },
        phase: position.phase,
        phase_step: position.phase_step,
        lr,
        ledger: ledger(config),
        data: cursor.map_or(serde_json::Value::Null, |c| serde_json::to_value(c).expect("names and numbers")),
        corpora: domains.iter().map(corpus_id).collect(),
        numbers: numbers.note(),
        tokenizer_hash: domains
            .first()
            .map_or(String::new(), |d| format!("{:016x}", d.corpus.meta().tokenizer.hash)),
        end_of_document: domains.first().and_then(|d| d.corpus.meta().end_of_document),
        seed: config.run.seed,
        config_hash: format!("{:016x}", config.hash()),
        dtype: match config.run.dtype {
            Precision::F32 => "f32".into(),
            Precision::Bf16 => "bf16".into(),
        },
        model: r.net.config.clone(),
        git: crate::GIT.into(),
    };
    let mesh = &r.mesh;
    let state = SaveState {
        params: &r.params,
        optim: Some(&r.optim),
        tp: (mesh.tp.rank(), mesh.tp.size()),
        dp: replica::dp(mesh, r.flow.zero),
    };
    let world = &mesh.world;
    let barrier = || world.barrier("checkpoint");
    let run_toml = config.resolved_toml();
    let mut texts = vec![("run.toml", run_toml.as_str())];
    // Read by the rank that writes it; a corpus that came without one leaves the checkpoint without.
    // Reading it may fail on one rank alone, which must not leave the others waiting.
    let tokenizer = domains.first().filter(|_| world.rank() == 0).and_then(|d| {
        tokenizer::definition(&d.corpus)
            .inspect_err(|e| tracing::warn!("the checkpoint gets no tokenizer.json: {e}"))
            .ok()?
    });
    texts.extend(tokenizer.as_deref().map(|text| ("tokenizer.json", text)));
    checkpoint::begin(dir, &state, &meta, &texts, &barrier)
}

fn corpus_id(d: &Domain) -> CorpusId {
    let hash = format!("{:016x}", d.corpus.hash());
    CorpusId { name: d.name.clone(), hash, weights: Some(weights_id(d)) }
}

/// The stream by which a corpus weighs its targets, as checkpoints name it.
fn weights_id(d: &Domain) -> String {
    let id = |stream: &Arc<Stream>| format!("{} {:016x}", stream.name(), stream.hash());
    d.weights.as_ref().map_or("none".into(), id)
}

/// The mix of each phase by its first sample, for the record.
fn ledger(config: &RunConfig) -> serde_json::Value {
    let entry = |(i, p): (usize, &crate::config::PhaseConfig)| serde_json::json!({ "first_sample": super::corpora::first_sample(config, i), "weights": p.mix });
    config.phases.iter().enumerate().map(entry).collect()
}

/// RUN/run.toml, complete: `train` accepts it as it is.
pub fn write_run_file(config: &RunConfig) -> Result<()> {
    let (path, text) = (Path::new(&config.run.dir).join("run.toml"), config.resolved_toml());
    // Written only if need be, and beside the old one: a full disk must not leave half of it.
    match std::fs::read(&path) {
        Ok(old) if old == text.as_bytes() => Ok(()),
        _ => checkpoint::replace(&path, text.as_bytes()),
    }
}
