//! Evaluation on the documents of a domain that training holds out: those that `holdout` chooses by their hash, or the
//! validation part of Megatron's split. A domain with holdout 1 is evaluated as a whole.
//!
//! Documents are taken in an order that depends only on the domain's name and size, so an evaluation with few tokens
//! sees all parts of the corpus and every run the same text. Each document is cut into windows of T inputs; its first
//! token has no prediction. Full windows are rows; shorter ones share rows, each its own document for attention and
//! positions; the rest of a row has weight 0.

use super::batch::{Attention, Batch};
use super::domain::Domain;
use super::order::Order;
use super::row::{Piece, Row};
use super::tokenizer::Tokenizer;
use crate::config;
use crate::{Error, Result};
use std::ops::Range;

#[derive(Debug, Clone)]
pub struct HeldOut {
    domain: Domain,
    /// The same, without documents that rows pass over.
    open: Domain,
    seq_len: usize,
    rows: Vec<Vec<Piece>>,
    /// The beginnings of documents that pieces are taken from.
    taken: Vec<Range<u64>>,
    documents: u64,
    tokens: u64,
    bytes: Option<u64>,
    /// Bytes of text that each id stands for, where they are known.
    byte_lengths: Vec<u16>,
}

impl HeldOut {
    /// At most `max_tokens` predictions. Touches the documents it takes and the beginnings of those it passes over.
    pub fn new(domain: &Domain, seq_len: usize, max_tokens: u64) -> Result<HeldOut> {
        let key = |end: &str| format!("data.{}.{end}", domain.name);
        let split = domain.order == config::Order::Megatron && domain.holdout < 1.0;
        let by_hash = domain.holdout > 0.0 && domain.holdout <= 1.0;
        if !split && !by_hash {
            let problem = format!("it is {}, which leaves nothing to evaluate", domain.holdout);
            return Err(Error::config(
                "run file",
                key("holdout"),
                problem,
                "give a share above 0, such as 0.005",
            ));
        }
        if seq_len == 0 || max_tokens == 0 {
            let problem = format!("an evaluation of {max_tokens} tokens in windows of {seq_len}");
            return Err(Error::config("run file", "eval.tokens", problem, "both must be at least 1"));
        }
        // Of predictions that count more or less than 1 the bytes would mean little.
        let byte_lengths = match (&domain.corpus, &domain.weights) {
            (corpus, None) => Tokenizer::of(corpus)?.and_then(|t| t.byte_lengths()),
            _ => None,
        };
        let mut open = domain.clone();
        open.holdout = 0.0;
        let mut held = HeldOut {
            domain: domain.clone(),
            open,
            seq_len,
            rows: Vec::new(),
            taken: Vec::new(),
            documents: 0,
            tokens: 0,
            bytes: byte_lengths.as_ref().map(|_| 0),
            byte_lengths: byte_lengths.unwrap_or_default(),
        };
        let units = if split { domain.parts()[1].clone() } else { 0..domain.corpus.documents() };
        held.collect(units, split, max_tokens)?;
        if held.tokens == 0 {
            let documents = domain.corpus.documents();
            let (problem, remedy) = match split {
                true => (
                    format!("the validation part of the split of \"{}\" predicts nothing", domain.name),
                    format!("raise the second share of data.{}.split or add documents", domain.name),
                ),
                false => (
                    format!(
                        "none of the {documents} documents of \"{}\" falls in the share {} that is held out",
                        domain.name, domain.holdout
                    ),
                    "raise holdout or add documents".into(),
                ),
            };
            return Err(Error::data(domain.corpus.prefix(), problem, remedy));
        }
        held.check_weight()?;
        Ok(held)
    }

    /// Takes documents out of `units`; under Megatron's split, sequences.
    fn collect(&mut self, units: Range<u64>, split: bool, max_tokens: u64) -> Result<()> {
        let count = units.end - units.start;
        if count == 0 {
            return Ok(());
        }
        let order = Order::new(0, &format!("heldout/{}", self.domain.name), count);
        // The row that short pieces are added to, and the inputs it has.
        let mut open: Option<(usize, usize)> = None;
        for i in 0..count {
            let unit = units.start + order.window(0, i);
            let corpus = &self.domain.corpus;
            let range = match split {
                true => corpus.sequence_range(unit)?,
                false if self.domain.holds_out(unit)? => corpus.document_range(unit)?,
                false => continue,
            };
            self.documents += 1;
            let predicted = (range.end - range.start).saturating_sub(1).min(max_tokens - self.tokens);
            self.taken.push(range.start..range.start + predicted + 1);
            let mut first = range.start;
            while first + 1 < range.end {
                let most = (range.end - 1 - first).min(max_tokens - self.tokens);
                let inputs = most.min(self.seq_len as u64) as u32;
                self.place(Piece { first, inputs }, &mut open)?;
                first += u64::from(inputs);
                if self.tokens == max_tokens {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A side stream may give no prediction any weight.
    fn check_weight(&self) -> Result<()> {
        if self.domain.weights.is_none() {
            return Ok(());
        }
        let mut row = Row::new(self.seq_len);
        for pieces in &self.rows {
            self.lay(pieces, &mut row)?;
            if row.weight(&self.open)? > 0.0 {
                return Ok(());
            }
        }
        let problem = format!(
            "the side stream of \"{}\" gives none of the {} predictions of the evaluation a weight",
            self.domain.name, self.tokens
        );
        let remedy = format!("set data.{}.weights = \"none\" or raise eval.tokens", self.domain.name);
        Err(Error::data(self.domain.corpus.prefix(), problem, remedy))
    }

    /// Pieces lie within documents and all are held out, so all their targets count.
    fn lay(&self, pieces: &[Piece], row: &mut Row) -> Result<()> {
        row.clear();
        row.pieces.extend_from_slice(pieces);
        row.lay_out(&self.open, Attention::Document)
    }

    fn place(&mut self, piece: Piece, open: &mut Option<(usize, usize)>) -> Result<()> {
        let inputs = piece.inputs as usize;
        match open {
            Some((row, used)) if *used + inputs <= self.seq_len => {
                self.rows[*row].push(piece);
                *used += inputs;
            }
            _ => {
                if inputs < self.seq_len {
                    *open = Some((self.rows.len(), inputs));
                }
                self.rows.push(vec![piece]);
            }
        }
        self.tokens += inputs as u64;
        if let Some(bytes) = &mut self.bytes {
            let mut targets = vec![0; inputs];
            self.domain.corpus.read(piece.first + 1, &mut targets)?;
            // Ids of a padded vocabulary stand for nothing.
            let length = |&id: &u32| u64::from(self.byte_lengths.get(id as usize).copied().unwrap_or(0));
            *bytes += targets.iter().map(length).sum::<u64>();
        }
        Ok(())
    }

    pub fn domain(&self) -> &Domain {
        &self.domain
    }
    /// What it predicts of each document (or sequence) it takes from: the document's first token, and the tokens predicted.
    pub fn predictions(&self) -> impl Iterator<Item = (u64, Range<u64>)> + '_ {
        self.taken.iter().map(|taken| (taken.start, taken.start + 1..taken.end))
    }
    /// Documents it takes from.
    pub fn documents(&self) -> u64 {
        self.documents
    }
    /// Predictions: without a side stream, the total weight of all batches.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
    /// Bytes of text among the predictions (ends of documents are predicted but are no text), for bits per byte;
    /// known for the byte vocabulary and byte-level BPE where all predictions count alike.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }
    /// Rows of T that hold something.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Rows first to first + rows; those past the end have weight 0, so that all batches have one shape.
    pub fn batch(&self, first: usize, rows: usize) -> Result<Batch> {
        let mut batch = Batch::with_capacity(rows, self.seq_len);
        let mut row = Row::new(self.seq_len);
        for i in first..first + rows {
            self.lay(self.rows.get(i).map_or(&[], Vec::as_slice), &mut row)?;
            row.append(&self.open, i as u64, 0, &mut batch)?;
        }
        Ok(batch)
    }

    /// All of it, `rows` rows at a time.
    pub fn batches(&self, rows: usize) -> impl Iterator<Item = Result<Batch>> + '_ {
        (0..self.rows.len()).step_by(rows.max(1)).map(move |first| self.batch(first, rows.max(1)))
    }
}
