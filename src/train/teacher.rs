//! A trained model that runs beside the one in training and whose distribution a part of the loss compares with. It has the
//! mesh of the student, weights only, and with ZeRO 3 its weights are split like the student's.

use super::evaluate::{self, EvalResult};
use super::fits;
use super::replica::{Plan, Replica};
use super::resume::{Origin, origin_of};
use super::run::Rank;
use crate::checkpoint::{self, Checkpoint};
use crate::config::{
    Head, Init, ModelConfig, OptimConfig, OptimKind, PhaseConfig, Positions, RunConfig, Salt,
};
use crate::data::{Domain, HeldOut};
use crate::method::salt;
use crate::model::head::Taught;
use crate::ops::distill::Soft;
use crate::params::{Accumulate, Params, TensorSource};
use crate::tape::{At, Recompute, Seq};
use crate::tensor::Tensor;
use crate::{Error, Result, signal};
use serde_json::{Value, json};

pub struct Teacher {
    replica: Box<Replica>,
    soft: Soft,
}

impl Teacher {
    /// Of this model, beside `student`, for sequences of up to `seq_len`; weights are zero until `fill`. Collective over tp.
    pub fn beside(student: &Replica, model: &ModelConfig, salt: &Salt, seq_len: usize) -> Result<Teacher> {
        // The smallest of optimizer states, which is none.
        let optim =
            OptimConfig { kind: OptimKind::Sgd { weight_decay: 0.0 }, clip: None, groups: vec![], ema: None };
        let plan = Plan {
            model,
            spdf: None,
            optim: &optim,
            dtype: student.net.dtype,
            recompute: Recompute::Keep,
            zero: if student.flow.zero == 3 { 3 } else { 0 },
            accumulate: Accumulate::Local,
            sequence_parallel: false,
            seq_len,
        };
        let mut replica = Replica::new(student.dev.clone(), student.mesh.clone(), &plan)?;
        replica.params.forget_gradients();
        if plan.zero == 0 {
            replica.params.forget_training();
        }
        let soft = Soft { distance: salt.loss, weight: 0.0, temperature: salt.temperature };
        Ok(Teacher { replica: Box::new(replica), soft })
    }

    /// Reads the weights that this rank keeps.
    pub fn fill(&mut self, source: &dyn TensorSource) -> Result<()> {
        let Replica { dev, params, .. } = &mut *self.replica;
        params.fill(dev, source)
    }

    /// The teacher of a phase, as the run file names it. On the Meta device its weights have no values. Collective over tp.
    pub fn load(student: &Replica, salt: &Salt, seq_len: usize) -> Result<Teacher> {
        let origin = origin_of(&salt.teacher)?;
        let mut teacher = Teacher::beside(student, model_of(&origin), salt, seq_len)?;
        match &origin {
            Origin::Random => unreachable!("a teacher is trained"),
            Origin::Checkpoint(c, values) => teacher.fill(&c.weights(*values))?,
            Origin::HuggingFace(source) => teacher.fill(source.as_ref())?,
        }
        Ok(teacher)
    }

    /// What its projection reads (N, C). The weights of the projection stay until `release`. Collective over dp and tp.
    pub fn forward(&mut self, seq: &Seq, at: At) -> Result<Tensor> {
        super::step::forward(&mut self.replica, seq, at, false).map(|(_, h)| h)
    }

    /// Its side of the loss; `weight` is its share.
    pub fn taught<'a>(&'a self, h: &'a Tensor, weight: f64) -> Taught<'a> {
        let Replica { net, params, .. } = &*self.replica;
        Taught { head: &net.head, embed: &net.embed, params, h, soft: Soft { weight, ..self.soft } }
    }

    /// After the loss.
    pub fn release(&mut self) {
        let Replica { net, params, flow, .. } = &mut *self.replica;
        for unit in net.loss_units() {
            flow.release(params, unit);
        }
    }

    pub fn params(&self) -> &Params {
        &self.replica.params
    }
}

/// The model of the teacher. Errors: as it is opened.
pub fn model(salt: &Salt) -> Result<ModelConfig> {
    Ok(model_of(&origin_of(&salt.teacher)?).clone())
}

fn model_of(origin: &Origin) -> &ModelConfig {
    origin.model().expect("the run file was checked: a teacher is trained")
}

/// The run file with the checkpoints that its teachers are now, where it leaves open of which step.
pub fn pinned(config: &RunConfig) -> Result<RunConfig> {
    let mut config = config.clone();
    for salt in config.phases.iter_mut().filter_map(|p| p.salt.as_mut()) {
        if let Init::Checkpoint { path, step: step @ None, .. } = &mut salt.teacher {
            let newest = checkpoint::resolve(path, None)?;
            *step = Some(Checkpoint::open(&newest)?.manifest().meta.clocks.update);
        }
    }
    Ok(config)
}

/// That the teachers are there and fit. Their headers are read.
pub fn check(config: &RunConfig) -> Result<()> {
    for (i, phase) in config.phases.iter().enumerate() {
        let Some(salt) = &phase.salt else { continue };
        let origin = origin_of(&salt.teacher)?;
        let (theirs, ours) = (model_of(&origin), config.model_of(i));
        let refuse = |problem: String, remedy: &str| {
            let key = format!("phase.{i}.salt.teacher");
            Err(Error::config(&config.source_file, key, format!("{}: {problem}", salt.teacher), remedy))
        };
        if theirs.vocab != ours.vocab {
            let problem = format!("its vocabulary is {} and the student's {}", theirs.vocab, ours.vocab);
            return refuse(problem, "take a teacher with the student's tokenizer and vocab");
        }
        if theirs.head == Head::Mlm || !theirs.causal {
            return refuse("it does not predict the next token".into(), "take a causal model");
        }
        if let Positions::Learned { max } = theirs.positions
            && phase.seq_len > max
        {
            let problem = format!("it has {max} positions, fewer than seq_len {}", phase.seq_len);
            return refuse(problem, "lower seq_len, or take another teacher");
        }
        let tp = config.parallel.tp;
        if let Some((name, width)) = theirs.tp_problem(tp) {
            let problem = format!("tp = {tp} does not divide its {name}: {width}");
            return refuse(problem, "change parallel.tp, or take another teacher");
        }
    }
    Ok(())
}

/// That the corpora were made with the tokenizers of the teachers.
pub fn check_corpora(config: &RunConfig, domains: &[Domain]) -> Result<()> {
    for salt in config.phases.iter().filter_map(|p| p.salt.as_ref()) {
        if let Origin::Checkpoint(c, _) = origin_of(&salt.teacher)? {
            domains.iter().try_for_each(|d| fits::corpus(&c, &d.corpus))?;
        }
    }
    Ok(())
}

impl Rank<'_> {
    /// Whether the teacher of the phase has a share in the update to come, or may have one later.
    fn is_taught(&self, salt: &Salt) -> bool {
        self.position.phase_step < salt.ends() && !self.numbers.passed_teacher
    }

    /// Before the first update of this attempt at a phase: its teacher, if it still has a share, and what the row of the phase
    /// says of it. Collective.
    pub(super) fn begin_teaching(&mut self, phase: &PhaseConfig) -> Result<Value> {
        (self.replica.teacher, self.teachers_loss) = (None, None);
        let Some(salt) = &phase.salt else { return Ok(Value::Null) };
        if self.is_taught(salt) {
            self.replica.teacher = Some(Teacher::load(&self.replica, salt, phase.seq_len)?);
        }
        let model = model(salt)?;
        let costs = salt::Costs::new(&model, &self.replica.net.config, phase);
        Ok(json!({
            "teacher": salt.teacher.to_string(), "params": model.params(), "loss": salt.loss.name(),
            "temperature": salt.temperature, "updates": salt.ends(),
            "flops_per_token": costs.teacher, "extra_while_taught": costs.while_taught, "extra": costs.of_phase,
        }))
    }

    /// The teacher is freed when it has no share any more.
    pub(super) fn end_teaching(&mut self, phase: &PhaseConfig) {
        if phase.salt.as_ref().is_some_and(|salt| !self.is_taught(salt))
            && self.replica.teacher.take().is_some()
        {
            self.replica.dev.arena().trim();
            let why =
                if self.numbers.passed_teacher { "the student has passed it" } else { "its share is over" };
            self.event("teacher_freed", why);
        }
    }

    /// Whether the student has passed its teacher, by an evaluation of the phase: then it is taught no more. False if a signal
    /// cut short what the teacher makes of the same text. Collective.
    pub(super) fn compare_with_teacher(
        &mut self,
        phase: &PhaseConfig,
        held: &[HeldOut],
        student: &[EvalResult],
    ) -> Result<bool> {
        let Some((salt, margin)) = phase.salt.as_ref().and_then(|s| Some((s, s.passed_by?))) else {
            return Ok(true);
        };
        if !self.is_taught(salt) {
            return Ok(true);
        }
        let mean = |results: &[EvalResult]| {
            let sum: f64 = results.iter().map(|r| r.nll_token * r.tokens as f64).sum();
            sum / results.iter().map(|r| r.tokens as f64).sum::<f64>()
        };
        let theirs = match self.teachers_loss {
            Some(loss) => loss,
            None => {
                // What was owed is made up for before the phase has begun.
                let mut teacher = match self.replica.teacher.take() {
                    Some(teacher) => teacher,
                    None => Teacher::load(&self.replica, salt, phase.seq_len)?,
                };
                let (rows, stop) = (evaluate::batch_rows(phase.seq_len), &signal::asked_to_stop);
                let r = &mut *teacher.replica;
                let all = held.iter().map(|h| evaluate::run(r, h, rows, self.position.update, stop));
                let results = all.collect::<Result<Vec<_>>>();
                self.replica.dev.arena().trim();
                self.replica.teacher = Some(teacher);
                match results {
                    Err(Error::Stopped { .. }) => return Ok(false),
                    results => mean(&results?),
                }
            }
        };
        self.teachers_loss = Some(theirs);
        let ours = mean(student);
        if ours < theirs + margin {
            self.numbers.passed_teacher = true;
            let text = format!(
                "the student's loss {ours:.4} has passed the teacher's {theirs:.4}; it is taught no more"
            );
            self.event("teacher_passed", &text);
            if self.replica.mesh.world.rank() == 0 {
                crate::terminal::say(&text);
            }
        }
        Ok(true)
    }
}
