//! A corpus as a run uses it: which of its documents are trained on, in what order, as what rows, with what weights.

use super::corpus::Corpus;
use super::megatron::{Arrays, Key, Size, blend};
use super::packing::OneDoc;
use super::side::Stream;
use crate::config::{DataConfig, MEGATRON_SPLIT, Order, Packing};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Megatron's arrays of all corpora of a run may take this much memory.
pub(super) const MOST_BYTES: u64 = 8 << 30;

/// Entries of the index that are read at once.
pub(super) const BLOCK: usize = 1 << 12;

#[derive(Clone)]
pub struct Domain {
    pub name: String,
    pub corpus: Arc<Corpus>,
    /// The share of documents that is never trained on: those whose hash / 2^64 is below this. Under Megatron's order
    /// it is 0, since `split` holds documents out, or 1.
    pub holdout: f64,
    /// Most passes over the corpus in one run.
    pub max_epochs: Option<u64>,
    pub order: Order,
    pub packing: Packing,
    /// Windows that best-fit packs together.
    pub pack_group: u64,
    /// Shares of training, validation and test under Megatron's order.
    pub split: [f64; 3],
    /// What each target counts in the loss; without it each counts 1.
    pub weights: Option<Arc<Stream>>,
    shared: Arc<Shared>,
}

/// What is computed once for all ranks and phases: the last of its kind that was asked for.
#[derive(Default)]
struct Shared {
    lengths: Mutex<Option<Arc<Lengths>>>,
    arrays: Mutex<Option<Arc<Arrays>>>,
    one_doc: Mutex<Option<(usize, Arc<OneDoc>)>>,
}

/// Tokens of the sequences of a part of the corpus.
pub(super) struct Lengths {
    pub sequences: Range<u64>,
    pub of: Vec<u32>,
    pub tokens: u64,
}

impl std::fmt::Debug for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Domain({}, {:?}, {:?}, {:?})", self.name, self.corpus, self.order, self.packing)
    }
}

impl Domain {
    /// All of a corpus, windows in stream order. Other settings are set on the value.
    pub fn new(name: &str, corpus: Arc<Corpus>) -> Domain {
        Domain {
            name: name.into(),
            corpus,
            holdout: 0.0,
            max_epochs: None,
            order: Order::Stream,
            packing: Packing::Window,
            pack_group: 64,
            split: MEGATRON_SPLIT,
            weights: None,
            shared: Arc::default(),
        }
    }

    /// As the run file has it; with `io = "stage"` the corpus is copied first. Errors: a corpus or side stream that is
    /// missing or damaged.
    pub fn open(name: &str, config: &DataConfig) -> Result<Domain> {
        let corpus = Arc::new(Corpus::open_with(&config.path, config.io, config.stage_dir.as_deref())?);
        let stream =
            config.weights.as_ref().or(corpus.meta().weights.as_ref()).filter(|name| *name != "none");
        let weights = stream.map(|name| Stream::open(&corpus, name).map(Arc::new)).transpose()?;
        Ok(Domain {
            holdout: config.holdout,
            max_epochs: config.max_epochs,
            order: config.order,
            packing: config.packing,
            pack_group: config.pack_group,
            split: config.split.unwrap_or(MEGATRON_SPLIT),
            weights,
            ..Domain::new(name, corpus)
        })
    }

    /// An error if a file that training reads was replaced, changed its length or was written to since it was opened: see
    /// `Corpus::unchanged`.
    pub fn unchanged(&self) -> Result<()> {
        self.corpus.unchanged()?;
        self.weights.as_ref().map_or(Ok(()), |stream| stream.unchanged())
    }

    /// Whether document `doc` is held out. A function of its first bytes and `holdout`; a larger holdout keeps all
    /// that a smaller one held.
    pub fn holds_out(&self, doc: u64) -> Result<bool> {
        if self.holdout <= 0.0 || self.holdout >= 1.0 {
            return Ok(self.holdout >= 1.0);
        }
        // 2^64; that the hash is rounded to 53 bits moves no document by a share that matters.
        Ok((self.corpus.document_hash(doc)? as f64) < self.holdout * 18_446_744_073_709_551_616.0)
    }

    /// The tokens of each document that training draws from; under Megatron's order, of each sequence of its part.
    pub fn training_ranges(&self) -> impl Iterator<Item = Result<Range<u64>>> + '_ {
        let split = self.order == Order::Megatron && self.holdout < 1.0;
        let units = if split { self.parts()[0].clone() } else { 0..self.corpus.documents() };
        units.filter_map(move |unit| match split {
            true => Some(self.corpus.sequence_range(unit)),
            false => match self.holds_out(unit) {
                Ok(true) => None,
                Ok(false) => Some(self.corpus.document_range(unit)),
                Err(e) => Some(Err(e)),
            },
        })
    }

    /// The sequences that Megatron's split gives to training, validation and test.
    pub fn parts(&self) -> [Range<u64>; 3] {
        blend::split(self.split, self.corpus.sequences())
    }

    /// The sequences of the training part under Megatron's order. Reads the index once.
    pub(super) fn training_part(&self) -> Result<Arc<Lengths>> {
        let [sequences, ..] = self.parts();
        let mut known = self.shared.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lengths) = known.as_ref().filter(|known| known.sequences == sequences) {
            return Ok(lengths.clone());
        }
        let count = sequences.end - sequences.start;
        if count * 4 > MOST_BYTES || sequences.end > 1 << 32 {
            return Err(self.too_large(&format!("an index of {count} sequences")));
        }
        let mut of = Vec::with_capacity(count as usize);
        let mut block = vec![0; BLOCK.min(count as usize)];
        while (of.len() as u64) < count {
            let some = &mut block[..(count as usize - of.len()).min(BLOCK)];
            self.corpus.sequence_lengths(sequences.start + of.len() as u64, some)?;
            of.extend(some.iter().map(|&length| length as u32));
        }
        let tokens: u64 = of.iter().map(|&length| u64::from(length)).sum();
        if tokens < 2 {
            let problem = format!(
                "the training part of corpus \"{}\", {count} sequences, has {tokens} tokens",
                self.name
            );
            let remedy = format!("raise the first share of data.{}.split or add text", self.name);
            return Err(Error::data(self.corpus.prefix(), problem, remedy));
        }
        Ok(known.insert(Arc::new(Lengths { sequences, of, tokens })).clone())
    }

    /// Megatron's arrays, built or as they were built last. Ranks that ask at the same time wait for the first.
    pub(super) fn arrays(&self, key: Key, size: Size) -> Result<Arc<Arrays>> {
        let lengths = self.training_part()?;
        let mut known = self.shared.arrays.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_ref().filter(|arrays| *arrays.key() == key) {
            Some(arrays) => Ok(arrays.clone()),
            None => {
                *known = None; // two at a time would need twice the memory
                Ok(known.insert(Arc::new(Arrays::build(&self.name, key, size, &lengths.of))).clone())
            }
        }
    }

    /// The documents that have a row of their own. Reads the index once and says what is lost.
    pub(super) fn one_doc(&self, seq_len: usize) -> Result<Arc<OneDoc>> {
        let mut known = self.shared.one_doc.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, one)) = known.as_ref().filter(|(known, _)| *known == seq_len) {
            return Ok(one.clone());
        }
        let one = OneDoc::new(&self.corpus, seq_len)?;
        if one.rows() == 0 {
            let problem = format!("no document of corpus \"{}\" has two tokens or more", self.name);
            return Err(Error::data(self.corpus.prefix(), problem, "add text or set packing = \"window\""));
        }
        tracing::info!(
            "corpus \"{}\": {} rows of one document; {} documents have fewer than two tokens and no row, {} are cut \
             after {} tokens, by {} tokens in all",
            self.name,
            one.rows(),
            one.left_out(),
            one.cut,
            seq_len + 1,
            one.lost
        );
        Ok(known.insert((seq_len, Arc::new(one))).1.clone())
    }

    pub(super) fn too_large(&self, what: &str) -> Error {
        let problem = format!(
            "Megatron's order needs {what} in memory, above the {} GiB this program allows it",
            MOST_BYTES >> 30
        );
        let remedy = "set order = \"stream\", which needs none";
        Error::config("run file", format!("data.{}.order", self.name), problem, remedy)
    }
}
