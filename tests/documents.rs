//! Documents packed into one row do not see each other: what is in one of them changes neither the loss of a token of
//! another nor the gradient of that loss, to the bit. Without the document mask it does.

#[path = "common/random.rs"]
mod random;
#[path = "common/replica.rs"]
mod replica;

use espalier::config::{Activation, Head, ModelConfig, Positions};
use espalier::data::{
    Attention, BYTE_END, BYTE_VOCAB, Corpus, CorpusWriter, Domain, Entry, Ledger, Sampler, Tokenizer,
};
use espalier::tape::{At, Seq};
use espalier::train::replica::Replica;
use espalier::train::step::{MicroBatch, Terms, evaluate, forward_backward};
use random::Random;
use replica::{Setup, gpt2, llama};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// T: documents of several blocks of the attention.
const LONG: usize = 160;
/// The documents of each row: first, in the middle and last, long and of one token.
const ROWS: [&[usize]; 2] = [&[40, 1, 75, 44], &[1, 158, 1]];

/// Causal and not, with learned positions and with rotation.
fn models() -> [(&'static str, ModelConfig); 4] {
    let learned = ModelConfig { positions: Positions::Learned { max: LONG }, max_positions: LONG, ..gpt2() };
    let both_ways = |m: ModelConfig| ModelConfig { causal: false, head: Head::Mlm, ..m };
    [
        ("causal, learned", learned.clone()),
        ("causal, rope", llama()),
        ("both ways, learned", ModelConfig { activation: Activation::Gelu, ..both_ways(learned) }),
        ("both ways, rope", both_ways(llama())),
    ]
}

fn with_replica<R: Send>(model: &ModelConfig, f: impl Fn(&mut Replica) -> R + Sync) -> R {
    let setup = Setup { seq_len: LONG, threads: 2, ..Setup::solo(model.clone()) };
    setup.run(|r| Ok(f(r))).remove(0)
}

/// Where the documents are among the tokens of all rows.
fn documents() -> Vec<Range<usize>> {
    let mut begin = 0;
    let next = |length: &usize| {
        begin += length;
        begin - length..begin
    };
    ROWS.into_iter().flatten().map(next).collect()
}

/// Random tokens, and for each a random target that counts, so that every token's loss is seen.
fn packed(attention: Attention) -> MicroBatch {
    let (rows, n) = (ROWS.len(), ROWS.len() * LONG);
    let parts = match attention {
        Attention::Document => documents(),
        Attention::Full => (0..rows).map(|r| r * LONG..(r + 1) * LONG).collect(),
    };
    let mut random = Random(3);
    let mut ids = || (0..n).map(|_| random.below(replica::VOCAB) as u32).collect();
    let seq = Seq {
        rows,
        seq_len: LONG,
        tokens: ids(),
        positions: parts.iter().flat_map(|p| 0..p.len() as u32).collect(),
        cu_seqlens: [0].into_iter().chain(parts.iter().map(|p| p.end as u32)).collect(),
        token_types: vec![],
        sample_ids: (0..rows as u64).collect(),
    };
    MicroBatch { seq, targets: ids(), weights: vec![1.0; n], domains: vec![0; rows] }
}

/// The same with every token of a document another.
fn changed(batch: &MicroBatch, document: &Range<usize>) -> MicroBatch {
    let mut seq = batch.seq.clone();
    seq.tokens[document.clone()].iter_mut().for_each(|t| *t = (*t + 100) % replica::VOCAB as u32);
    let MicroBatch { targets, weights, domains, .. } = batch;
    MicroBatch { seq, targets: targets.clone(), weights: weights.clone(), domains: domains.clone() }
}

fn nll(r: &mut Replica, batch: &MicroBatch) -> Vec<f32> {
    evaluate(r, batch, At::default()).expect("a forward")
}

/// Whether two losses per token are the same bits on all tokens of a range.
fn same(a: &[f32], b: &[f32], range: &Range<usize>) -> bool {
    range.clone().all(|i| a[i].to_bits() == b[i].to_bits())
}

#[test]
fn no_token_of_a_document_changes_the_loss_of_a_token_of_another() {
    for (name, model) in models() {
        with_replica(&model, |r| {
            let batch = packed(Attention::Document);
            let before = nll(r, &batch);
            assert!(before.iter().all(|l| *l > 0.0));
            for (d, document) in documents().iter().enumerate() {
                let after = nll(r, &changed(&batch, document));
                for (e, other) in documents().iter().enumerate() {
                    assert_eq!(
                        same(&before, &after, other),
                        d != e,
                        "{name}: document {d} changed, seen in {e}"
                    );
                }
            }
        });
    }
}

#[test]
fn without_the_document_mask_a_document_is_seen_by_others_of_its_row_and_by_no_other_row() {
    for (name, model) in models() {
        with_replica(&model, |r| {
            let batch = packed(Attention::Full);
            let before = nll(r, &batch);
            let row = |d: usize| usize::from(d >= ROWS[0].len());
            for (d, document) in documents().iter().enumerate() {
                let after = nll(r, &changed(&batch, document));
                for (e, other) in documents().iter().enumerate() {
                    let seen = row(d) == row(e) && (d <= e || !model.causal);
                    assert_eq!(
                        same(&before, &after, other),
                        !seen,
                        "{name}: document {d} changed, seen in {e}"
                    );
                }
            }
        });
    }
}

/// The gradients of the loss on one document alone.
fn gradients(r: &mut Replica, batch: &MicroBatch, counts: &Range<usize>) -> Vec<Vec<f32>> {
    let weights = (0..batch.weights.len()).map(|i| if counts.contains(&i) { 1.0 } else { 0.0 }).collect();
    let (targets, domains) = (batch.targets.clone(), batch.domains.clone());
    let batch = MicroBatch { seq: batch.seq.clone(), targets, weights, domains };
    r.params.zero_grads(&r.dev);
    forward_backward(r, &batch, At::default(), Terms::ce(0.1), false).expect("a backward");
    r.params.units.iter().map(|u| u.grads.data::<f32>().to_vec()).collect()
}

#[test]
fn no_token_of_a_document_changes_the_gradient_of_another_documents_loss() {
    for (name, model) in models() {
        with_replica(&model, |r| {
            for (attention, leaks) in [(Attention::Document, false), (Attention::Full, true)] {
                let batch = packed(attention);
                // The last of the first row: it would see all of its row.
                let (d, own) = (3, &documents()[3]);
                let before = gradients(r, &batch, own);
                assert!(before.iter().flatten().any(|g| *g != 0.0));
                for (e, other) in documents().iter().enumerate().filter(|(e, _)| *e != d) {
                    // Equal as numbers: of a zero the sign may differ.
                    let same = gradients(r, &changed(&batch, other), own) == before;
                    let seen = leaks && e < ROWS[0].len();
                    assert_eq!(same, !seen, "{name}, {attention:?}: document {e} changed, gradient of {d}");
                }
            }
        });
    }
}

/// A byte corpus of documents of all lengths from 1 token (the end alone) on. With `other`, every byte of that
/// document is another.
fn corpus(prefix: &Path, other: Option<usize>) -> Arc<Corpus> {
    let writer = CorpusWriter::create(prefix, BYTE_VOCAB, Tokenizer::byte(), Some(BYTE_END));
    let mut writer = writer.expect("a corpus");
    let mut random = Random(5);
    for doc in 0..24 {
        let length = if doc % 5 == 4 { 1 } else { 3 + random.below(70) };
        let shift = if other == Some(doc) { 7 } else { 0 };
        let text: Vec<u32> = (1..length).map(|_| (random.below(256) as u32 + shift) % 256).collect();
        writer.push(&text).expect("written");
        writer.end_document(text.len() as u64).expect("written");
    }
    writer.finish().expect("written");
    Arc::new(Corpus::open(prefix).expect("a corpus"))
}

/// The first batches of a run over a corpus.
fn draw(corpus: &Arc<Corpus>, attention: Attention) -> Vec<MicroBatch> {
    let domain = Domain::new("text", corpus.clone());
    let entries = vec![Entry { first_sample: 0, weights: vec![("text".into(), 1.0)] }];
    let sampler = Sampler::new(11, LONG, attention, vec![domain], Ledger { entries });
    let mut sampler = sampler.expect("a sampler");
    (0..2).map(|i| sampler.batch(2 * i, 2).expect("a batch").into()).collect()
}

#[test]
fn drawn_from_a_corpus_a_changed_document_changes_only_its_own_losses() {
    let dir = tempfile::tempdir().expect("a folder");
    let plain = corpus(&dir.path().join("plain"), None);
    let (name, model) = &models()[0];
    let (mut hidden, mut leaked, mut ends) = (0, 0, 0);
    for doc in 0..plain.documents() as usize {
        let other = corpus(&dir.path().join(format!("other-{doc}")), Some(doc));
        for attention in [Attention::Document, Attention::Full] {
            for (a, b) in draw(&plain, attention).iter().zip(&draw(&other, attention)) {
                assert_eq!(a.seq.cu_seqlens, b.seq.cu_seqlens);
                for (token, weight) in a.seq.tokens.iter().zip(&a.weights) {
                    if *token == BYTE_END && attention == Attention::Document {
                        assert_eq!(*weight, 0.0, "the last token of a document predicts nothing");
                        ends += 1;
                    }
                }
                // Not the changed document, its end included, nor the token before, which has it as its target.
                let differs: Vec<usize> =
                    (0..a.seq.len()).filter(|&i| a.seq.tokens[i] != b.seq.tokens[i]).collect();
                let (Some(&first), Some(&last)) = (differs.first(), differs.last()) else { continue };
                let [x, y] = with_replica(model, |r| [a, b].map(|batch| nll(r, batch)));
                let counted =
                    |i: &usize| a.weights[*i] > 0.0 && !(first.saturating_sub(1)..last + 2).contains(i);
                let elsewhere = (0..a.seq.len()).filter(counted).collect::<Vec<_>>();
                let same = elsewhere.iter().all(|&i| x[i].to_bits() == y[i].to_bits());
                match attention {
                    Attention::Document => assert!(same, "{name}: document {doc} is seen by others"),
                    Attention::Full => leaked += usize::from(!same),
                }
                hidden += elsewhere.len();
            }
        }
    }
    assert!(hidden > 1000 && leaked > 10 && ends > 50, "{hidden} tokens, {leaked} leaks, {ends} ends");
}
