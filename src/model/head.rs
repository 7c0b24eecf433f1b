//! From x (N, C) to losses: the final norm (pre-norm models), the transform of a masked-LM head, and the projection
//! to the vocabulary, which is the loss's own (chunked, vocabulary-parallel; `ops/loss.rs`).

use super::block::declare_norm;
use super::embedding::{Embedding, VOCAB_UNIT};
use crate::Result;
use crate::comm::Comm;
use crate::config::{Activation as Kind, Head as HeadKind, ModelConfig, NormPlace};
use crate::device::gemm::Panels;
use crate::device::{Device, Elem};
use crate::ops::activation::Activation;
use crate::ops::distill::{Soft, Sums};
use crate::ops::linear::ColumnLinear;
use crate::ops::loss::{self, Targets, Vocab, VocabGrads};
use crate::ops::norm::Norm;
use crate::params::{Covers, Declare, Init, LocalBox, ParamSpec, Params, Shard};
use crate::tape::{Cx, ParamId, Shape, Tape, Var};
use crate::tensor::Tensor;
use crate::with_dtype;
use std::ops::Range;

pub struct Head {
    norm: Option<Norm>,
    transform: Option<Transform>,
    /// None: tied to the embedding
    w: Option<ParamId>,
    bias: Option<ParamId>,
    local: LocalBox,
    /// V
    vocab: usize,
    softcap: Option<f64>,
}

/// Another network with the same vocabulary, whose distribution the loss compares with.
#[derive(Clone, Copy)]
pub struct Taught<'a> {
    pub head: &'a Head,
    pub embed: &'a Embedding,
    pub params: &'a Params,
    /// (N, C of the teacher) what its projection reads
    pub h: &'a Tensor,
    pub soft: Soft,
}

/// BERT's masked-LM transform: norm(f(x·wᵀ + b)).
struct Transform {
    dense: (ParamId, ParamId),
    activation: Kind,
    norm: Norm,
}

impl Head {
    pub fn declare(c: &ModelConfig, embed: &Embedding, u: &mut Declare) -> Head {
        let zeros = |name: &str, len, shard| ParamSpec::vector(name, len, shard, Init::Zeros);
        let norm = (c.norm_place == NormPlace::Pre).then(|| declare_norm(c, "norm", u));
        let transform = (c.head == HeadKind::Mlm).then(|| {
            let w = ParamSpec::matrix("head.dense.weight", c.dim, c.dim, Shard::Replicated, c.init_std);
            let bias = zeros("head.dense.bias", c.dim, Shard::Replicated);
            let dense = (u.shared(w, Covers::Rows), u.shared(bias, Covers::Rows));
            Transform { dense, activation: c.activation.ungated(), norm: declare_norm(c, "head.norm", u) }
        });
        let rows = Shard::Rows { unit: VOCAB_UNIT };
        let w = (!c.tied).then(|| u.one(ParamSpec::matrix("head.weight", c.vocab, c.dim, rows, c.init_std)));
        let bias = c.head_bias.then(|| u.one(zeros("head.bias", c.vocab, rows)));
        Head { norm, transform, w, bias, local: embed.local, vocab: c.vocab, softcap: c.logit_softcap }
    }

    /// The weight of the projection and whether it is the head's own; else the embedding unit holds it.
    pub(super) fn projection(&self, embed: &Embedding) -> (ParamId, bool) {
        self.w.map_or((embed.tokens, false), |w| (w, true))
    }

    /// Of the masked-LM transform.
    pub(super) fn dense(&self) -> Option<ParamId> {
        self.transform.as_ref().map(|t| t.dense.0)
    }

    /// x (N, C) to what the projection reads (N, C)
    pub fn forward(&self, t: &mut Tape, cx: &Cx, mut x: Var) -> Result<Var> {
        if let Some(norm) = self.norm {
            let [normed, _stats] = t.push(cx, norm, &[x])?;
            x = normed;
        }
        if let Some(Transform { dense: (w, bias), activation, norm }) = &self.transform {
            let [u] =
                t.push(cx, ColumnLinear { w: (*w).into(), bias: Some(*bias), split: false, parts: 1 }, &[x])?;
            let [a] = t.push(cx, Activation(*activation), &[u])?;
            let [normed, _stats] = t.push(cx, *norm, &[a])?;
            x = normed;
        }
        Ok(x)
    }

    /// −log p of each target into `nll` (N). With `train`, adds to the gradients of the projection and returns dh, like h
    /// (N, C) or this rank's (N/R, C); beside it what the other terms add up to. Collective over tp.
    pub fn loss(
        &self,
        dev: &Device,
        tp: &dyn Comm,
        params: &mut Params,
        embed: &Embedding,
        h: &Tensor,
        targets: Targets,
        taught: Option<Taught>,
        nll: &mut [f32],
        train: bool,
    ) -> Result<(Tensor, Sums)> {
        let mut dh = if train { Shape::of(h).empty(dev) } else { Tensor::default() };
        let soft = taught.map(|t| t.soft);
        if dev.is_meta() {
            let vocab = (self.local.rows, self.local.stored_rows);
            let back = train.then_some(&mut dh);
            let bias = self.bias.is_some();
            loss::meta_cross_entropy(dev, tp, Shape::of(h), nll.len(), vocab, bias, soft, back)?;
            return Ok((dh, Sums::default()));
        }
        let [first, .., last] = params.units.as_mut_slice() else { panic!("embedding, blocks and head") };
        let sums = with_dtype!(h.dtype(), T => {
            let (len, start) = (self.local.rows * h.cols(), self.w.map_or(embed.tokens.start, |w| w.start));
            let grads = train.then(|| {
                let (w, rest) = match self.w {
                    None => (&mut first.grads.data_mut::<<T as Elem>::Acc>()[start..start + len], Some((0, last.grads.data_mut()))),
                    Some(w) => {
                        let (w_part, rest) = last.grads.data_mut::<<T as Elem>::Acc>().split_at_mut(w.start + w.len());
                        (&mut w_part[start..start + len], Some((w.start + w.len(), rest)))
                    }
                };
                let bias = self.bias.zip(rest).map(|(b, (offset, g))| &mut g[b.start - offset..][..self.local.rows]);
                VocabGrads { w, bias }
            });
            let vocab = self.vocab::<T>(embed, &first.weights, &last.weights, h.cols());
            let back = grads.map(|g| (g, &mut dh));
            let logits = |rows: Range<usize>, out: &mut [<T as Elem>::Acc]| {
                taught.expect("there is a teacher").logits::<T>(dev, rows, out);
            };
            let teacher = soft.map(|soft| loss::Teacher { logits: &logits, soft });
            loss::cross_entropy::<T>(dev, tp, h, vocab, targets, teacher, nll, back)?
        });
        Ok((dh, sums))
    }

    /// This rank's part of the projection, whose weight one of the two units holds.
    fn vocab<'a, T: Elem>(
        &self,
        embed: &Embedding,
        first: &'a Tensor,
        last: &'a Tensor,
        c: usize,
    ) -> Vocab<'a, T> {
        let (unit, start) = match self.w {
            None => (first, embed.tokens.start),
            Some(w) => (last, w.start),
        };
        Vocab {
            w: &unit.data::<T>()[start..start + self.local.rows * c],
            bias: self.bias.map(|b| &last.data::<T>()[b.start..b.start + self.local.rows]),
            first: self.local.row,
            valid: self.local.rows,
            widest: self.local.stored_rows,
            cap: self.softcap,
        }
    }

    /// All logits of the rows of h (N, V), on one rank whose weights lie in panels.
    pub fn logits_in_panels(&self, dev: &Device, params: &Params, embed: &Embedding, h: &Tensor) -> Tensor {
        let [first, .., last] = params.units.as_slice() else { panic!("embedding, blocks and head") };
        let (w, own) = self.projection(embed);
        assert_eq!(self.local.rows, self.vocab, "one rank holds the vocabulary");
        with_dtype!(h.dtype(), T => {
            let unit = if own { last } else { first };
            let panels = Panels { data: &unit.weights.data::<T>()[w.range()], rows: w.rows, cols: w.cols };
            let bias = self.bias.map(|b| &last.weights.data::<T>()[b.start..b.start + self.vocab]);
            loss::logits_in_panels::<T>(dev, h, panels, bias, self.softcap, self.vocab)
        })
    }

    /// All logits of the rows of h: (N, V) on every rank. Collective over tp.
    pub fn logits(
        &self,
        dev: &Device,
        tp: &dyn Comm,
        params: &Params,
        embed: &Embedding,
        h: &Tensor,
    ) -> Result<Tensor> {
        let [first, .., last] = params.units.as_slice() else { panic!("embedding, blocks and head") };
        with_dtype!(h.dtype(), T => {
            let vocab = self.vocab::<T>(embed, &first.weights, &last.weights, h.cols());
            loss::logits::<T>(dev, tp, h, vocab, self.vocab)
        })
    }
}

impl Taught<'_> {
    /// Logits of some rows (rows, valid), for a student that computes in T.
    fn logits<T: Elem>(&self, dev: &Device, rows: Range<usize>, out: &mut [T::Acc]) {
        let [first, .., last] = self.params.units.as_slice() else { panic!("embedding, blocks and head") };
        let c = self.h.cols();
        with_dtype!(self.h.dtype(), U => {
            let vocab = self.head.vocab::<U>(self.embed, &first.weights, &last.weights, c);
            let h = &self.h.data::<U>()[rows.start * c..rows.end * c];
            let out = bytemuck::cast_slice_mut(out);
            loss::teacher_logits::<U>(dev, h, vocab, out, c);
        });
    }
}
