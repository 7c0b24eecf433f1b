//! Evaluation on the documents of a domain that training holds out.
//!
//! Documents are taken in an order that depends only on the domain's name and size, so an evaluation with few tokens
//! sees all parts of the corpus and every run the same text. Each document is cut into windows of T inputs; its first
//! token has no prediction. Full windows are rows; shorter ones share rows, each its own document for attention and
//! positions; the rest of a row has weight 0.

use super::batch::Batch;
use super::order::Order;
use super::sample::Domain;
use super::tokenizer::Tokenizer;
use crate::{Error, Result};

#[derive(Debug, Clone)]
pub struct HeldOut {
    domain: Domain,
    seq_len: usize,
    rows: Vec<Vec<Piece>>,
    documents: u64,
    tokens: u64,
    bytes: Option<u64>,
    /// Bytes of text that each id stands for, where they are known.
    byte_lengths: Vec<u16>,
}

/// `inputs` tokens from `first` and their targets, one further on.
#[derive(Debug, Clone, Copy)]
struct Piece {
    first: u64,
    inputs: usize,
}

impl HeldOut {
    /// At most `max_tokens` predictions. Touches the documents it takes and the beginnings of those it passes over.
    pub fn new(domain: &Domain, seq_len: usize, max_tokens: u64) -> Result<HeldOut> {
        let key = |end: &str| format!("data.{}.{end}", domain.name);
        if !(domain.holdout > 0.0 && domain.holdout <= 1.0) {
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
        let (corpus, meta) = (&domain.corpus, domain.corpus.meta());
        let tokenizer = Tokenizer::beside(corpus.prefix(), &meta.tokenizer, meta.end_of_document)?;
        let byte_lengths = tokenizer.and_then(|t| t.byte_lengths());
        let mut held = HeldOut {
            domain: domain.clone(),
            seq_len,
            rows: Vec::new(),
            documents: 0,
            tokens: 0,
            bytes: byte_lengths.as_ref().map(|_| 0),
            byte_lengths: byte_lengths.unwrap_or_default(),
        };
        held.collect(max_tokens)?;
        if held.tokens == 0 {
            let problem = format!(
                "none of the {} documents of \"{}\" falls in the share {} that is held out",
                domain.corpus.documents(),
                domain.name,
                domain.holdout
            );
            return Err(Error::data(domain.corpus.prefix(), problem, "raise holdout or add documents"));
        }
        Ok(held)
    }

    fn collect(&mut self, max_tokens: u64) -> Result<()> {
        let documents = self.domain.corpus.documents();
        let order = Order::new(0, &format!("heldout/{}", self.domain.name), documents);
        // The row that short pieces are added to, and the inputs it has.
        let mut open: Option<(usize, usize)> = None;
        for i in 0..documents {
            let doc = order.window(0, i);
            if !self.domain.holds_out(doc)? {
                continue;
            }
            let range = self.domain.corpus.document_range(doc)?;
            self.documents += 1;
            let mut first = range.start;
            while first + 1 < range.end {
                let most = (range.end - 1 - first).min(max_tokens - self.tokens);
                let inputs = most.min(self.seq_len as u64) as usize;
                self.place(Piece { first, inputs }, &mut open)?;
                first += inputs as u64;
                if self.tokens == max_tokens {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn place(&mut self, piece: Piece, open: &mut Option<(usize, usize)>) -> Result<()> {
        match open {
            Some((row, used)) if *used + piece.inputs <= self.seq_len => {
                self.rows[*row].push(piece);
                *used += piece.inputs;
            }
            _ => {
                if piece.inputs < self.seq_len {
                    *open = Some((self.rows.len(), piece.inputs));
                }
                self.rows.push(vec![piece]);
            }
        }
        self.tokens += piece.inputs as u64;
        if let Some(bytes) = &mut self.bytes {
            let mut targets = vec![0; piece.inputs];
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
    /// Documents it takes from.
    pub fn documents(&self) -> u64 {
        self.documents
    }
    /// Predictions: the total weight of all batches.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
    /// Bytes of text among the predictions (ends of documents are predicted but are no text), for bits per byte;
    /// known for the byte vocabulary and byte-level BPE.
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
        for row in first..first + rows {
            self.fill(row, &mut batch)?;
        }
        Ok(batch)
    }

    /// All of it, `rows` rows at a time.
    pub fn batches(&self, rows: usize) -> impl Iterator<Item = Result<Batch>> + '_ {
        (0..self.rows.len()).step_by(rows.max(1)).map(move |first| self.batch(first, rows.max(1)))
    }

    /// The target of a piece's last input is the piece's own next token, not the first of the piece that follows it
    /// in the row, so targets are copied beside the inputs.
    fn fill(&self, row: usize, batch: &mut Batch) -> Result<()> {
        let t = self.seq_len;
        let (mut tokens, mut targets, mut weights) = (vec![0; t], vec![0; t], vec![0.0; t]);
        let mut documents = Vec::new();
        let mut used = 0;
        for piece in self.rows.get(row).map_or(&[][..], Vec::as_slice) {
            let places = used..used + piece.inputs;
            documents.push(used as u32);
            self.domain.corpus.read(piece.first, &mut tokens[places.clone()])?;
            self.domain.corpus.read(piece.first + 1, &mut targets[places.clone()])?;
            weights[places].fill(1.0);
            used += piece.inputs;
        }
        if used < t {
            documents.push(used as u32);
        }
        batch.push_row(row as u64, 0, &tokens, &targets, &weights, &documents);
        Ok(())
    }
}
