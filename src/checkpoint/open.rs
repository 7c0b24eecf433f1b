//! Reading a checkpoint: by memory map, into any topology.

use super::disk;
use super::file::StoredFile;
use super::index::{Index, Layout};
use super::manifest::Manifest;
use super::piece::{Area, Kind, overlap};
use crate::config::EvalWeights;
use crate::device::{DType, Device, Elem};
use crate::optim::{Moment, Optimizer};
use crate::params::{LocalBox, ParamSpec, Params, Placed, TensorSource, Unit, read_as};
use crate::tensor::Tensor;
use crate::{Error, Result};
use half::bf16;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Threads that verify: enough for a striped file system, few enough to leave the machine usable.
const VERIFIERS: usize = 4;

/// Values read at a time where they are kept in bf16.
const NARROW: usize = 1 << 16;

/// Which weights to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// What the model computed with (bf16 or f32).
    Stored,
    /// In f32: the masters where there are some, else the weights.
    Master,
    /// In f32: the moving average.
    Ema,
}

/// In f32, the masters of what is trained.
impl From<EvalWeights> for Values {
    fn from(weights: EvalWeights) -> Values {
        match weights {
            EvalWeights::Trained => Values::Master,
            EvalWeights::Ema => Values::Ema,
        }
    }
}

/// A finished checkpoint, its manifest and headers checked. Values are compared with their file's checksum before
/// the first one is used, so whatever is read is what was written.
pub struct Checkpoint {
    path: PathBuf,
    manifest: Manifest,
    /// In the order of the manifest.
    files: Vec<StoredFile>,
    index: Index,
}

impl Checkpoint {
    /// Checks everything but the values: manifest, sizes, headers, and that every element is stored exactly once.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let manifest = Manifest::read(path)?;
        let specs: HashMap<&str, &ParamSpec> = manifest.params.iter().map(|p| (p.name.as_str(), p)).collect();
        let open = |f| StoredFile::open(path, f, &specs);
        let files = manifest.files.iter().map(open).collect::<Result<Vec<_>>>()?;
        let index = match Index::new(path, &files, &manifest.params) {
            Ok(index) => index,
            // A file that lies about its pieces is most likely damaged: then that is what to say.
            Err(e) => return files.iter().try_for_each(|f| f.check()).and(Err(e)),
        };
        Ok(Checkpoint { path: path.into(), manifest, files, index })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether optimizer state can be loaded.
    pub fn has_moments(&self) -> bool {
        self.manifest.params.first().is_some_and(|p| self.index.get(Kind::M, &p.name).is_some())
    }

    /// That the checkpoint has these values: not every run keeps an average.
    pub fn check_values(&self, values: Values) -> Result<()> {
        let has = |p: &ParamSpec| self.index.get(Kind::Ema, &p.name).is_some();
        match values == Values::Ema && !self.manifest.params.first().is_some_and(has) {
            true => Err(Error::checkpoint(
                &self.path,
                "it has no average of the weights",
                "take its trained weights; a run keeps an average with optim.ema = { decay = 0.999 }",
            )),
            false => Ok(()),
        }
    }

    /// Compares all files with their checksums; the error names the first bad one.
    pub fn verify(&self) -> Result<()> {
        self.verify_share(0, 1)
    }

    /// The files that fall to one of several ranks, so that together they read the checkpoint once.
    pub fn verify_share(&self, rank: usize, ranks: usize) -> Result<()> {
        let share: Vec<&StoredFile> = self.files.iter().skip(rank).step_by(ranks).collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..VERIFIERS.min(share.len()) {
                s.spawn(|| {
                    while let Some(f) = share.get(next.fetch_add(1, Relaxed)) {
                        // Kept by the file, and reported below in the order of the manifest.
                        let _ = f.check();
                    }
                });
            }
        });
        share.iter().try_for_each(|f| f.check())
    }

    /// A file that was given as text: `run.toml`, `tokenizer.json`. None if the checkpoint has no such file.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(at) = self.manifest.files.iter().position(|f| f.name == name) else { return Ok(None) };
        self.files[at].check()?;
        let path = &self.files[at].path;
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        disk::check_size(path, &self.manifest.files[at], bytes.len() as u64)?;
        String::from_utf8(bytes).map(Some).map_err(|e| Error::checkpoint(path, format!("not text: {e}"), ""))
    }

    /// The weights as a source for any topology.
    pub fn weights(&self, values: Values) -> Weights<'_> {
        Weights { checkpoint: self, values }
    }

    /// One value of every kind: any part of any tensor as it is stored, for tools. None if the checkpoint has no such kind.
    pub fn read(&self, kind: Kind, spec: &ParamSpec, area: Area, out: &mut [f32]) -> Result<Option<()>> {
        self.known(spec)?;
        let Some(layout) = self.index.get(kind, &spec.name) else { return Ok(None) };
        layout.read(&self.files, area, 0..area.len(), out).map(Some)
    }

    /// The type that the values of a kind of a tensor are stored in; None if the checkpoint has no such kind.
    pub fn dtype(&self, kind: Kind, spec: &ParamSpec) -> Result<Option<DType>> {
        let Some(layout) = self.index.get(kind, &spec.name) else { return Ok(None) };
        let mixed = || self.unfit(format!("{kind} of tensor {} is stored in two types", spec.name));
        layout.dtype().map(Some).ok_or_else(mixed)
    }

    /// The values of one kind as a source for any topology; reading a tensor that has none is an error.
    pub fn values(&self, kind: Kind) -> OfKind<'_> {
        OfKind { checkpoint: self, kind }
    }

    /// All files that were given as texts, (name, content).
    pub fn texts(&self) -> Result<Vec<(String, String)>> {
        let names = self.manifest.files.iter().map(|f| &f.name).filter(|n| !n.ends_with(".safetensors"));
        names.map(|name| Ok((name.clone(), self.text(name)?.expect("the manifest lists it")))).collect()
    }

    /// That the checkpoint and the model have the same tensors, in whatever layout.
    pub fn matches(&self, params: &Params) -> Result<()> {
        let mut ours = HashMap::new();
        for (_, p) in params.iter() {
            self.known(&p.spec)?;
            ours.insert(p.spec.name.as_str(), ());
        }
        match self.manifest.params.iter().find(|p| !ours.contains_key(p.name.as_str())) {
            None => Ok(()),
            Some(p) => Err(self.unfit(format!("tensor {} {:?} is not in the model", p.name, p.shape()))),
        }
    }

    /// Weights and masters of this rank. The model must have exactly the tensors of the checkpoint.
    pub fn load_weights(&self, dev: &Device, params: &mut Params, values: Values) -> Result<()> {
        self.matches(params)?;
        params.fill(dev, &self.weights(values))
    }

    /// Moments, masters, average and t of this rank, whatever the topology that wrote them. f32 weights serve as masters of a
    /// bf16 model. An optimizer without moments reads none.
    pub fn load_optimizer(&self, params: &mut Params, optim: &mut Optimizer) -> Result<()> {
        self.matches(params)?;
        for (_, p) in params.iter() {
            if self.known(&p.spec)?.layout != p.spec.layout {
                let problem = format!("tensor {} is stored in other blocks than the run trains", p.spec.name);
                let remedy = "start from its weights (run.init) or with optimizer = \"reset\"";
                return Err(Error::checkpoint(&self.path, problem, remedy));
            }
        }
        for (i, unit) in params.units.iter_mut().enumerate() {
            let Unit { params, slice, master, .. } = unit;
            for (kind, which) in [(Kind::M, Moment::First), (Kind::V, Moment::Second)] {
                let start = |n| optim.moment(which, i, n).map(|(_, start)| start);
                let starts: Vec<_> = (0..params.len()).map(start).collect();
                if let Some(moments) = optim.moments.get_mut(i) {
                    self.read_slice(kind, params, slice, |n| starts[n], &mut moments[which as usize])?;
                }
            }
            let whole = |_| Some(slice.start);
            if let Some(ema) = &mut optim.ema {
                self.read_slice(Kind::Ema, params, slice, whole, &mut ema.average[i])?;
            }
            if master.exists() {
                self.read_slice(Kind::Master, params, slice, whole, master)?;
            }
        }
        optim.t = self.manifest.meta.clocks.adam_t;
        Ok(())
    }

    /// Fills a buffer of a unit's slice, f32 or bf16; padding stays as it is. `start`: the element of the unit that the
    /// buffer would begin with, for each tensor, if it has the tensor.
    fn read_slice(
        &self,
        kind: Kind,
        params: &[Placed],
        slice: &Range<usize>,
        start: impl Fn(usize) -> Option<usize>,
        out: &mut Tensor,
    ) -> Result<()> {
        let mut narrow = vec![];
        for (n, p) in params.iter().enumerate() {
            let own = overlap(&p.range(), slice);
            let Some(start) = start(n).filter(|_| !own.is_empty()) else { continue };
            let layout = self.layout(kind, &p.spec.name)?;
            let place = own.start - start..own.end - start;
            let first = own.start - p.start;
            if out.dtype() == DType::F32 {
                let out = &mut out.data_mut::<f32>()[place];
                layout.read(&self.files, p.local.into(), first..first + own.len(), out)?;
                continue;
            }
            for (i, out) in out.data_mut::<bf16>()[place].chunks_mut(NARROW).enumerate() {
                narrow.resize(out.len(), 0.0);
                let first = first + i * NARROW;
                layout.read(&self.files, p.local.into(), first..first + out.len(), &mut narrow)?;
                out.iter_mut().zip(&narrow).for_each(|(o, x)| *o = <bf16 as Elem>::store(*x));
            }
        }
        Ok(())
    }

    fn layout(&self, kind: Kind, name: &str) -> Result<&Layout> {
        let exact = self.index.get(kind, name);
        let f32_weights = || self.index.get(Kind::Weight, name).filter(|l| l.dtype() == Some(DType::F32));
        exact.or_else(|| if kind == Kind::Master { f32_weights() } else { None }).ok_or_else(|| {
            Error::checkpoint(
                &self.path,
                format!("no {kind} of tensor {name}"),
                "start from its weights (run.init) or with optimizer = \"reset\"",
            )
        })
    }

    /// This tensor as the checkpoint stores it. It has the shape of the model's, in whatever layout.
    fn known(&self, spec: &ParamSpec) -> Result<&ParamSpec> {
        let params = &self.manifest.params;
        let Some(found) = params.iter().find(|p| p.name == spec.name) else {
            let near = params.iter().min_by_key(|p| strsim::levenshtein(&p.name, &spec.name));
            let near = near.map_or(String::new(), |p| format!(" (nearest: {} {:?})", p.name, p.shape()));
            return Err(self.unfit(format!("no tensor {} {:?}{near}", spec.name, spec.shape())));
        };
        let (name, here, there) = (&spec.name, found.dense().shape(), spec.dense().shape());
        match here == there {
            true => Ok(found),
            false => Err(self.unfit(format!("tensor {name} is {here:?} here and {there:?} in the model"))),
        }
    }

    fn unfit(&self, problem: String) -> Error {
        Error::checkpoint(&self.path, problem, "the [model] table must be that of the checkpoint's run.toml")
    }
}

/// The weights of a checkpoint.
pub struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    values: Values,
}

impl TensorSource for Weights<'_> {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
        let c = self.checkpoint;
        let stored = c.known(spec)?;
        let layout = match (self.values, c.index.get(Kind::Master, &spec.name)) {
            (Values::Ema, _) => c.layout(Kind::Ema, &spec.name)?,
            (Values::Master, Some(master)) => master,
            (Values::Master | Values::Stored, _) => c.layout(Kind::Weight, &spec.name)?,
        };
        let read = |b: LocalBox, out: &mut [f32]| {
            let area = Area::from(b);
            layout.read(&c.files, area, 0..area.len(), out)
        };
        read_as(spec, b, stored, &read, out)
    }
}

/// The values of one kind of a checkpoint.
pub struct OfKind<'a> {
    checkpoint: &'a Checkpoint,
    kind: Kind,
}

impl TensorSource for OfKind<'_> {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
        let c = self.checkpoint;
        let (stored, layout) = (c.known(spec)?, c.layout(self.kind, &spec.name)?);
        let read = |b: LocalBox, out: &mut [f32]| {
            let area = Area::from(b);
            layout.read(&c.files, area, 0..area.len(), out)
        };
        read_as(spec, b, stored, &read, out)
    }
}
