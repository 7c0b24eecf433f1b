//! What one rank has to save, and which of it: what several ranks hold alike one of them writes.

use super::manifest::Meta;
use super::piece::{Kind, Outgoing};
use crate::device::DType;
use crate::optim::{Moment, Optimizer};
use crate::params::{Dp, Params, Unit};
use crate::tensor::Tensor;

/// The live state of one rank; it is written from where it lies.
pub struct SaveState<'a> {
    pub params: &'a Params,
    /// None: no moments (an import, a grown network).
    pub optim: Option<&'a Optimizer>,
    /// (rank, size); tp is the inner dimension of the mesh
    pub tp: (usize, usize),
    pub dp: Dp,
}

impl SaveState<'_> {
    /// Of the whole run.
    pub(super) fn rank(&self) -> usize {
        (self.dp.replica.0 * self.dp.size + self.dp.rank) * self.tp.1 + self.tp.0
    }
    pub(super) fn ranks(&self) -> usize {
        self.dp.replica.1 * self.dp.size * self.tp.1
    }

    /// The weights this rank writes.
    pub(super) fn weights(&self) -> Vec<Outgoing> {
        self.pieces(Kind::Weight, |_, u, _| match u.weights.exists() {
            true => Some((&u.weights, 0, u.dtype)),
            false => Some((&u.master, u.slice.start, u.dtype)),
        })
    }

    /// The state of the optimizer that this rank writes.
    pub(super) fn optimizer(&self) -> Vec<Outgoing> {
        let mut out = vec![];
        for kind in [Kind::Master, Kind::M, Kind::V, Kind::Ema] {
            out.extend(self.pieces(kind, |i, u, param| {
                let moment = |which| self.optim.and_then(|o| o.moment(which, i, param));
                let buffer = match kind {
                    Kind::M => moment(Moment::First),
                    Kind::V => moment(Moment::Second),
                    Kind::Ema => {
                        self.optim.and_then(|o| o.ema.as_ref()).map(|e| (&e.average[i], u.slice.start))
                    }
                    // f32 masters are the weights.
                    _ => (u.dtype == DType::Bf16 && u.master.exists()).then_some((&u.master, u.slice.start)),
                };
                buffer.map(|(b, start)| (b, start, b.dtype()))
            }));
        }
        out
    }

    /// What this rank updates; of what several ranks update, the first writes it: replicas, all dp ranks without ZeRO,
    /// and the tp ranks that hold the same. `buffer` of (unit, parameter of it) says where the unit's elements lie, from
    /// which on.
    fn pieces<'a>(
        &self,
        kind: Kind,
        buffer: impl Fn(usize, &'a Unit, usize) -> Option<(&'a Tensor, usize, DType)>,
    ) -> Vec<Outgoing>
    where
        Self: 'a,
    {
        let Self { params, dp, .. } = *self;
        let mut out = vec![];
        for (i, u) in params.units.iter().enumerate() {
            let shared = u.slice == (0..u.len) && dp.rank != 0;
            if dp.replica.0 != 0 || shared {
                continue;
            }
            let ours = u.params.iter().enumerate().filter(|(_, p)| p.first);
            out.extend(ours.filter_map(|(n, p)| {
                let buffer = buffer(i, u, n)?;
                Outgoing::new(kind, (&p.spec, p.local, p.range()), &u.slice, buffer, self.rank())
            }));
        }
        out
    }

    pub(super) fn check(&self, meta: &Meta) -> Result<(), String> {
        let dtype = self.params.units.first().map(|u| u.dtype.name());
        if dtype != Some(meta.dtype.as_str()) {
            return Err(format!("the weights are {dtype:?} and the manifest would say {}", meta.dtype));
        }
        match self.optim {
            Some(o) if o.t != meta.clocks.adam_t => {
                Err(format!("the optimizer's t is {} and the manifest would say {}", o.t, meta.clocks.adam_t))
            }
            // JSON has no NaN: the manifest could not be read again.
            _ if !meta.lr.is_finite() => Err(format!("the learning rate is {}", meta.lr)),
            _ => Ok(()),
        }
    }
}
