//! Training and evaluation split the documents between them.

use super::{corpus, domain, flat, varied};
use espalier::data::{Attention, BYTE_END, HeldOut, Ledger, Sampler};
use std::collections::BTreeMap;

const T: usize = 16;

#[test]
fn every_held_out_prediction_is_made_once_with_its_document_as_context() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), "web", &varied(300));
    let web = domain("web", &corpus, 0.2);
    let (tokens, _) = flat(&corpus);
    // What must come out: for each held-out document, windows of T inputs and their targets.
    let mut want: BTreeMap<(Vec<u32>, Vec<u32>), usize> = BTreeMap::new();
    let (mut documents, mut predictions, mut bytes) = (0, 0, 0);
    for doc in (0..corpus.documents()).filter(|&doc| web.holds_out(doc).unwrap()) {
        let range = corpus.document_range(doc).unwrap();
        let text = &tokens[range.start as usize..range.end as usize];
        documents += 1;
        predictions += text.len() - 1;
        bytes += text[1..].iter().filter(|&&id| id != BYTE_END).count();
        for (inputs, targets) in text[..text.len() - 1].chunks(T).zip(text[1..].chunks(T)) {
            *want.entry((inputs.to_vec(), targets.to_vec())).or_default() += 1;
        }
    }
    let held = HeldOut::new(&web, T, 1 << 40).unwrap();
    assert_eq!((held.documents(), held.tokens()), (documents, predictions as u64));
    assert_eq!(held.bytes(), Some(bytes as u64));
    assert!(held.rows() * T < predictions * 13 / 10, "{} rows for {predictions} tokens", held.rows());
    let mut found: BTreeMap<(Vec<u32>, Vec<u32>), usize> = BTreeMap::new();
    let mut ids = Vec::new();
    for batch in held.batches(4) {
        let batch = batch.unwrap();
        assert_eq!((batch.rows, batch.tokens.len(), batch.positions.len()), (4, 4 * T, 4 * T));
        assert_eq!((batch.cu_seqlens[0], batch.cu_seqlens.last()), (0, Some(&(4 * T as u32))));
        for cut in batch.cu_seqlens.windows(2) {
            let piece = cut[0] as usize..cut[1] as usize;
            assert!(piece.start < piece.end && piece.start / T == (piece.end - 1) / T, "rows are cut");
            assert!(batch.positions[piece.clone()].iter().copied().eq(0..piece.len() as u32));
            if batch.weights[piece.start] == 0.0 {
                assert!(batch.weights[piece].iter().all(|&w| w == 0.0), "padding");
            } else {
                assert!(batch.weights[piece.clone()].iter().all(|&w| w == 1.0));
                let key = (batch.tokens[piece.clone()].to_vec(), batch.targets[piece].to_vec());
                *found.entry(key).or_default() += 1;
            }
        }
        ids.extend(batch.sample_ids);
    }
    assert_eq!(found, want);
    assert_eq!(ids, (0..held.rows().next_multiple_of(4) as u64).collect::<Vec<_>>());
}

#[test]
fn no_token_is_both_trained_on_and_evaluated_and_all_others_are_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), "web", &varied(300));
    let web = domain("web", &corpus, 0.2);
    let (tokens, document) = flat(&corpus);
    let ledger = Ledger::constant(&[("web", 1.0)]);
    let mut s = Sampler::new(3, T, Attention::Full, vec![web.clone()], ledger).unwrap();
    let windows = s.windows(0);
    let mut trained = vec![false; tokens.len()];
    for id in 0..windows {
        let sample = s.sample(id).unwrap();
        let text = [&sample.tokens[..], &sample.targets[T - 1..]].concat();
        let first = (0..windows as usize).find(|w| tokens[w * T..][..T + 1] == text).unwrap() * T;
        for (t, &weight) in sample.weights.iter().enumerate() {
            trained[first + t + 1] |= weight != 0.0;
        }
    }
    for (token, &doc) in document.iter().enumerate() {
        let reached = token > 0 && token <= windows as usize * T;
        assert_eq!(trained[token], reached && !web.holds_out(doc).unwrap(), "token {token}");
    }
}

#[test]
fn the_share_held_out_is_as_asked_and_grows_by_adding() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), "web", &vec![30; 4000]);
    let held = |holdout| -> Vec<bool> {
        let web = domain("web", &corpus, holdout);
        (0..corpus.documents()).map(|doc| web.holds_out(doc).unwrap()).collect()
    };
    let (small, large) = (held(0.05), held(0.25));
    let count = |held: &[bool]| held.iter().filter(|&&h| h).count();
    // Standard deviations of the binomials: 14 and 27.
    assert!(count(&small).abs_diff(200) < 70 && count(&large).abs_diff(1000) < 135);
    assert!(small.iter().zip(&large).all(|(&small, &large)| !small || large));
    assert!(held(0.0).iter().all(|&h| !h) && held(1.0).iter().all(|&h| h));
}

#[test]
fn a_short_evaluation_makes_exactly_the_predictions_asked_for_from_all_parts_of_the_corpus() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), "web", &vec![30; 4000]);
    let web = domain("web", &corpus, 0.25);
    let (tokens, _) = flat(&corpus);
    for most in [1, 15, 16, 17, 1000] {
        let held = HeldOut::new(&web, T, most).unwrap();
        let total: f64 = held.batches(3).map(|batch| batch.unwrap().weight_sum()).sum();
        assert_eq!((held.tokens(), total), (most, most as f64));
    }
    let held = HeldOut::new(&web, T, 1000).unwrap();
    let halves: Vec<bool> = (0..held.rows())
        .filter_map(|row| {
            let batch = held.batch(row, 1).unwrap();
            let full = batch.weights.iter().all(|&w| w == 1.0) && batch.cu_seqlens.len() == 2;
            let at = tokens.windows(T).position(|w| w == &batch.tokens[..])?;
            full.then_some(at < tokens.len() / 2)
        })
        .collect();
    let early = halves.iter().filter(|&&h| h).count();
    assert!(halves.len() > 25 && (8..=halves.len() - 8).contains(&early), "{early} of {}", halves.len());
}

#[test]
fn an_evaluation_without_documents_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), "web", &[30; 5]);
    let error = HeldOut::new(&domain("web", &corpus, 0.0), T, 10).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("data.web.holdout: it is 0, which leaves nothing"), "{error}");
    let error = HeldOut::new(&domain("web", &corpus, 1e-9), T, 10).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("none of the 5 documents of \"web\" falls in the share"), "{error}");
    assert!(HeldOut::new(&domain("web", &corpus, 0.5), T, 0).is_err());
}
