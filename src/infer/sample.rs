//! One token out of softmax(logits / temperature), cut to the k likeliest and to the smallest set of likeliest tokens
//! that together have probability p (nucleus sampling, arXiv 1904.09751), in this order, as transformers has it.

use crate::device::{Real, simd};
use crate::rng::Philox;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f64,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
}

impl Sampling {
    /// The token at u in (0, 1) of the distribution, tokens in the order of their ids. Of equal logits at a cut, the
    /// lowest ids stay.
    pub fn draw(&self, logits: &[f32], u: f64) -> u32 {
        if self.temperature == 0.0 {
            return likeliest(logits);
        }
        let kept = self.kept(logits);
        let mut left = u * kept.iter().map(|(_, w)| w).sum::<f64>();
        for (id, w) in &kept {
            left -= w;
            if left <= 0.0 {
                return *id;
            }
        }
        kept.last().map_or(0, |(id, _)| *id)
    }

    /// The tokens that may be drawn, by id, and their weights: exp((logit − largest) / temperature).
    pub fn kept(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let weights = self.weights(logits);
        let all = |ids: &mut dyn Iterator<Item = u32>| -> Vec<(u32, f64)> {
            ids.map(|id| (id, weights[id as usize] as f64)).collect()
        };
        let mut kept = match self.top_k {
            Some(k) if k < logits.len() => {
                let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
                let order =
                    |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
                ids.select_nth_unstable_by(k.max(1) - 1, order);
                ids.truncate(k.max(1));
                all(&mut ids.into_iter())
            }
            _ => all(&mut (0..logits.len() as u32)),
        };
        if let Some(p) = self.top_p.filter(|p| *p < 1.0) {
            let total: f64 = kept.iter().map(|(_, w)| w).sum();
            // What all tokens below this have together is less than 1 − p, so the set holds none of them.
            let least = (1.0 - p) * total / kept.len() as f64;
            kept.retain(|(_, w)| *w >= least);
            kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let mut sum = 0.0;
            let enough = kept.iter().position(|(_, w)| {
                sum += w;
                sum >= p * total
            });
            kept.truncate(enough.map_or(kept.len(), |last| last + 1));
        }
        kept.sort_unstable_by_key(|(id, _)| *id);
        kept
    }

    fn weights(&self, logits: &[f32]) -> Vec<f32> {
        let top = logits[likeliest(logits) as usize];
        let scale = (1.0 / self.temperature) as f32;
        let mut weights = logits.to_vec();
        simd(
            #[inline(always)]
            || weights.iter_mut().for_each(|w| *w = Real::exp((*w - top) * scale)),
        );
        weights
    }
}

/// The u of a position: a function of nothing else, so that neither the batch nor the order of work matters.
pub fn uniform(seed: u64, prompt: u32, sample: u32, position: usize) -> f64 {
    Philox::new(seed, "generate").uniform(position as u64, u64::from(prompt) | u64::from(sample) << 32)
}

/// The largest logit, of equal ones the first. NaN is never the largest.
fn likeliest(logits: &[f32]) -> u32 {
    simd(
        #[inline(always)]
        || {
            let mut most = [f32::NEG_INFINITY; 16];
            let chunks = logits.chunks_exact(16);
            let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &x| Real::max(x, m));
            for c in chunks {
                (0..16).for_each(|l| most[l] = Real::max(c[l], most[l]));
            }
            let top = most.iter().fold(rest, |m, &x| Real::max(x, m));
            logits.iter().position(|x| *x == top).unwrap_or(0) as u32
        },
    )
}
