//! Checks that a range of samples repeats nothing and skips nothing, from where the samples are taken: no row of a pass
//! comes twice, and each token of the corpus is predicted as often as the passes in the range say.

use super::row::Piece;
use super::sample::Origin;
use super::sampler::Sampler;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;

/// Most pieces that are looked at together, 32 bytes each.
const MOST: usize = 1 << 26;

/// What was found, for the domains the range draws from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proof {
    pub first: u64,
    pub end: u64,
    pub domains: Vec<DomainProof>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DomainProof {
    pub name: String,
    pub samples: u64,
    /// Rows of one pass over the domain.
    pub rows: u64,
    /// Passes that the range has all samples of, and passes it has some of.
    pub whole: u64,
    pub begun: u64,
    /// Targets, whether or not they have a weight.
    pub predicted: u64,
    /// How many tokens of the corpus are predicted how often.
    pub times: BTreeMap<u64, u64>,
    /// What is wrong; nothing if the order is sound.
    pub wrong: Option<String>,
}

#[derive(Default)]
struct Seen {
    /// Pass and row of each sample.
    rows: Vec<(u64, u64)>,
    indices: Option<Range<u64>>,
    /// Where runs of predicted tokens begin (+1) and end (-1).
    edges: Vec<(u64, i64)>,
    predicted: u64,
}

impl Proof {
    /// The first thing that is wrong.
    pub fn wrong(&self) -> Option<(&str, &str)> {
        self.domains.iter().find_map(|d| Some((d.name.as_str(), d.wrong.as_deref()?)))
    }
}

impl Sampler {
    /// Looks at the samples of `range` without reading tokens. Errors: a range too large to keep in memory, and what
    /// drawing them can end with; an order that is not sound is no error but `Proof::wrong`.
    pub fn prove(&mut self, range: Range<u64>) -> Result<Proof> {
        let mut seen: Vec<Seen> = (0..self.sources.len()).map(|_| Seen::default()).collect();
        let mut pieces = 0;
        for id in range.clone() {
            let origin = self.origin(id)?;
            pieces += origin.pieces.len();
            if pieces > MOST {
                let problem = format!("{} samples have more than {MOST} pieces", range.end - range.start);
                return Err(Error::config("command line", "--prove", problem, "give a shorter range"));
            }
            seen[origin.domain].add(&origin);
        }
        let drawn = seen.into_iter().enumerate().filter(|(_, seen)| !seen.rows.is_empty());
        let domains = drawn.map(|(d, seen)| self.judge(d, seen)).collect();
        Ok(Proof { first: range.start, end: range.end, domains })
    }

    fn judge(&self, domain: usize, mut seen: Seen) -> DomainProof {
        let source = &self.sources[domain];
        let (rows, samples) = (source.per_pass(), seen.rows.len() as u64);
        let indices = seen.indices.clone().unwrap_or(0..0);
        let times = times(&mut seen.edges, source.domain.corpus.tokens());
        let (whole, begun) = match source.epochs() {
            // Megatron's passes are shuffled together.
            Some(epochs) => (0, epochs),
            None => {
                let (first, end) = (indices.start.div_ceil(rows), indices.end / rows);
                (end.saturating_sub(first), indices.end.div_ceil(rows) - indices.start / rows)
            }
        };
        seen.rows.sort_unstable();
        let twice = seen.rows.windows(2).find(|two| two[0] == two[1]);
        let most = times.last_key_value().map_or(0, |(most, _)| *most);
        let least = times.keys().copied().find(|&n| n > 0).unwrap_or(0);
        let reached: u64 = times.iter().filter(|(n, _)| **n > 0).map(|(_, tokens)| tokens).sum();
        let wrong = if indices.end - indices.start != samples {
            Some(format!("its {samples} samples are not those numbered {} to {}", indices.start, indices.end))
        } else if let Some(two) = twice {
            Some(format!("row {} comes twice in pass {}", two[0].1, two[0].0))
        } else if most > begun {
            Some(format!("a token is predicted {most} times in {begun} passes"))
        } else if whole > 0 && (least < whole || reached != source.reached()) {
            let of = source.reached();
            Some(format!("{whole} whole passes predict {reached} of {of} tokens, some {least} times"))
        } else {
            None
        };
        let (name, predicted) = (source.domain.name.clone(), seen.predicted);
        DomainProof { name, samples, rows, whole, begun, predicted, times, wrong }
    }
}

impl Seen {
    fn add(&mut self, origin: &Origin) {
        self.rows.push((origin.pass, origin.row));
        let index = origin.index..origin.index + 1;
        let known = self.indices.take().unwrap_or(index.clone());
        self.indices = Some(known.start.min(index.start)..known.end.max(index.end));
        for (i, piece) in origin.pieces.iter().enumerate() {
            let targets = targets(origin, i, piece);
            self.predicted += targets.end - targets.start;
            self.edges.extend([(targets.start, 1), (targets.end, -1)]);
        }
    }
}

/// The tokens of the corpus that a piece has as targets.
fn targets(origin: &Origin, i: usize, piece: &Piece) -> Range<u64> {
    let end = piece.first + u64::from(piece.inputs);
    match origin.joined {
        false => piece.first + 1..end + 1,
        // The first token of the row is no target, the last one is.
        true => piece.first + u64::from(i == 0)..end + u64::from(i + 1 == origin.pieces.len()),
    }
}

/// How many of the tokens 0..tokens lie in how many of the runs.
fn times(edges: &mut [(u64, i64)], tokens: u64) -> BTreeMap<u64, u64> {
    edges.sort_unstable();
    let mut times = BTreeMap::new();
    let (mut at, mut depth) = (0, 0i64);
    for &(edge, step) in edges.iter() {
        if edge > at {
            *times.entry(depth as u64).or_default() += edge - at;
        }
        (at, depth) = (edge, depth + step);
    }
    if tokens > at {
        *times.entry(0).or_default() += tokens - at;
    }
    times
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // here it is how a test fails
mod tests {
    use super::*;
    use crate::config::Packing;
    use crate::data::{Attention, BYTE_END, BYTE_VOCAB, Corpus, CorpusWriter, Domain, Ledger, Tokenizer};
    use std::sync::Arc;

    /// 25 documents of 8 tokens as rows of 16 tokens.
    fn sampler(folder: &std::path::Path, packing: Packing) -> Sampler {
        let prefix = folder.join("web");
        let mut writer =
            CorpusWriter::create(&prefix, BYTE_VOCAB, Tokenizer::byte(), Some(BYTE_END)).unwrap();
        for i in 0..25 {
            writer.push(&[i; 7]).unwrap();
            writer.end_document(7).unwrap();
        }
        writer.finish().unwrap();
        let mut web = Domain::new("web", Arc::new(Corpus::open(&prefix).unwrap()));
        web.packing = packing;
        Sampler::new(1, 16, Attention::Full, vec![web], Ledger::constant(&[("web", 1.0)])).unwrap()
    }

    #[test]
    fn whole_passes_predict_every_token_as_often() {
        let folder = tempfile::tempdir().unwrap();
        for (packing, rows, reached) in
            [(Packing::Window, 12, 192), (Packing::BestFit, 12, 192), (Packing::OneDoc, 25, 175)]
        {
            let mut s = sampler(folder.path(), packing);
            let proof = s.prove(0..3 * rows).unwrap();
            assert_eq!(proof.wrong(), None);
            let d = &proof.domains[0];
            assert_eq!((d.samples, d.rows, d.whole, d.begun), (3 * rows, rows, 3, 3));
            assert_eq!(d.predicted, 3 * reached);
            assert_eq!(d.times, BTreeMap::from([(0, 200 - reached), (3, reached)]), "{packing:?}");
            // Parts of two passes, and one whole between them.
            let d = s.prove(rows - 3..2 * rows + 5).unwrap().domains.remove(0);
            assert_eq!((d.whole, d.begun, d.wrong), (1, 3, None));
        }
    }

    #[test]
    fn what_repeats_or_is_left_out_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut s = sampler(folder.path(), Packing::Window);
        let origins: Vec<Origin> = (0..12).map(|id| s.origin(id).unwrap()).collect();
        let judge = |change: &dyn Fn(&mut Vec<Origin>)| {
            let (mut changed, mut seen) = (origins.clone(), Seen::default());
            change(&mut changed);
            changed.iter().for_each(|origin| seen.add(origin));
            s.judge(0, seen).wrong.unwrap_or_default()
        };
        assert_eq!(judge(&|_| {}), "");
        let same_row = judge(&|o| (o[3].row, o[3].pieces) = (o[7].row, o[7].pieces.clone()));
        assert!(same_row.contains("comes twice in pass 0"), "{same_row}");
        let same_place = judge(&|o| o[3].pieces = o[7].pieces.clone());
        assert_eq!(same_place, "a token is predicted 2 times in 1 passes");
        let shorter = judge(&|o| o[3].pieces[0].inputs -= 1);
        assert_eq!(shorter, "1 whole passes predict 191 of 192 tokens, some 1 times");
        let gone = judge(&|o| drop(o.remove(3)));
        assert_eq!(gone, "its 11 samples are not those numbered 0 to 12");
    }
}
