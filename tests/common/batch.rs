//! Rows of packed documents of uneven lengths, so that ranks and micro-batches have uneven weights.

use crate::random::Random;
use espalier::tape::Seq;
use espalier::train::step::MicroBatch;

/// A micro-batch of the rows `first` to `first + rows` of update `step`. A row is a function of (step, its number), so
/// any split of an update has the same rows. The last token of a document predicts nothing, nor does every third row
/// but for its first document.
pub fn rows(step: u64, first: usize, rows: usize, seq_len: usize, vocab: usize) -> MicroBatch {
    let mut batch = MicroBatch {
        seq: Seq { rows, seq_len, cu_seqlens: vec![0], ..Seq::default() },
        targets: vec![],
        weights: vec![],
        domains: vec![0; rows],
    };
    for row in first..first + rows {
        let mut random = Random(step << 32 | row as u64);
        let seq = &mut batch.seq;
        seq.sample_ids.push(row as u64);
        let tokens: Vec<u32> = (0..=seq_len).map(|_| skewed(&mut random, vocab)).collect();
        seq.tokens.extend(&tokens[..seq_len]);
        batch.targets.extend(&tokens[1..]);
        let mut begin = 0;
        while begin < seq_len {
            let length = (1 + random.below(seq_len)).min(seq_len - begin);
            seq.positions.extend(0..length as u32);
            let end = seq.cu_seqlens.last().expect("0 at least") + length as u32;
            seq.cu_seqlens.push(end);
            let counts = if begin > 0 && row % 3 == 0 { 0.0 } else { 1.0 };
            batch.weights.extend(std::iter::repeat_n(counts, length - 1));
            batch.weights.push(0.0);
            begin += length;
        }
    }
    batch
}

/// Few tokens are frequent, as in text, so that there is something to learn.
fn skewed(random: &mut Random, vocab: usize) -> u32 {
    let most = 1 + random.below(vocab);
    random.below(most) as u32
}
