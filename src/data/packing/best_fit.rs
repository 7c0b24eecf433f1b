//! Documents packed whole into rows, group by group.
//!
//! A group is G windows of the corpus, G·T inputs one after another; its documents, cut at the group's borders and into
//! at most T inputs, are packed by best-fit decreasing: the longest first, each into the row that it leaves least room
//! in. Those that fit nowhere are cut to fill what is left, so a group is exactly G full rows and each input of the
//! corpus lies in one of them. (Ding et al., "Fewer truncations improve language modeling", ICML 2024, in groups, so
//! that any row is found without packing what is before it.)

use crate::Result;
use crate::data::Corpus;
use crate::data::row::Piece;
use std::cmp::Reverse;

/// Finds the pieces of a row; keeps the last group it packed.
#[derive(Debug)]
pub struct Packer {
    seq_len: u64,
    /// G.
    group: u64,
    /// R.
    rows: u64,
    packed: Option<u64>,
    /// Of the group that is packed: row and piece, by row.
    pieces: Vec<(u32, Piece)>,
    items: Vec<Piece>,
    /// Room and number of each row that has room, ascending.
    room: Vec<(u32, u32)>,
}

impl Packer {
    /// For rows 0..`rows`, the windows of the corpus; G = `group` of them are packed together, at most 2^20.
    pub fn new(seq_len: usize, group: u64, rows: u64) -> Packer {
        let (pieces, items, room) = Default::default();
        Packer { seq_len: seq_len as u64, group, rows, packed: None, pieces, items, room }
    }

    /// Appends the pieces of row `row` to `out`.
    pub fn lay(&mut self, corpus: &Corpus, row: u64, out: &mut Vec<Piece>) -> Result<()> {
        let group = row / self.group;
        if self.packed != Some(group) {
            self.packed = None;
            self.collect(corpus, group)?;
            self.pack((self.rows - group * self.group).min(self.group) as u32);
            self.packed = Some(group);
        }
        let row = (row % self.group) as u32;
        let begin = self.pieces.partition_point(|(r, _)| *r < row);
        out.extend(self.pieces[begin..].iter().take_while(|(r, _)| *r == row).map(|(_, piece)| *piece));
        Ok(())
    }

    /// The parts of documents in a group, none longer than T.
    fn collect(&mut self, corpus: &Corpus, group: u64) -> Result<()> {
        let first = group * self.group * self.seq_len;
        let end = (group + 1).saturating_mul(self.group).min(self.rows) * self.seq_len;
        self.items.clear();
        let mut doc = corpus.document_at(first)?;
        let mut at = first;
        while at < end {
            let stop = corpus.document_range(doc)?.end.min(end);
            while at < stop {
                let inputs = (stop - at).min(self.seq_len);
                self.items.push(Piece { first: at, inputs: inputs as u32 });
                at += inputs;
            }
            doc += 1;
        }
        Ok(())
    }

    /// Items to `rows` rows, which they fill exactly.
    fn pack(&mut self, rows: u32) {
        self.pieces.clear();
        self.room.clear();
        self.room.extend((0..rows).map(|row| (self.seq_len as u32, row)));
        self.items.sort_unstable_by_key(|item| (Reverse(item.inputs), item.first));
        let mut left = 0;
        for i in 0..self.items.len() {
            let item = self.items[i];
            match self.least_room(item.inputs) {
                Some(at) => self.put(at, item),
                None => {
                    self.items[left] = item;
                    left += 1;
                }
            }
        }
        // What is left over is as long as what is left free.
        for i in 0..left {
            let mut item = self.items[i];
            loop {
                if let Some(at) = self.least_room(item.inputs) {
                    self.put(at, item);
                    break;
                }
                let at = self.room.len() - 1;
                let inputs = self.room[at].0;
                self.put(at, Piece { inputs, ..item });
                item = Piece { first: item.first + u64::from(inputs), inputs: item.inputs - inputs };
            }
        }
        self.pieces.sort_by_key(|(row, _)| *row);
    }

    /// The row with the least room of those that have `inputs`.
    fn least_room(&self, inputs: u32) -> Option<usize> {
        let at = self.room.partition_point(|&(room, _)| room < inputs);
        (at < self.room.len()).then_some(at)
    }

    /// Puts a piece into the row at place `at` of `room`, and the row to its new place.
    fn put(&mut self, at: usize, piece: Piece) {
        let (room, row) = self.room[at];
        self.pieces.push((row, piece));
        let now = (room - piece.inputs, row);
        if now.0 == 0 {
            self.room.remove(at);
        } else {
            let to = self.room[..at].partition_point(|&other| other < now);
            self.room[to..=at].rotate_right(1);
            self.room[to] = now;
        }
    }
}
