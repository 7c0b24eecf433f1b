//! Samples and batches against a direct reading of the corpus.

use super::{corpus, domain, flat, varied};
use espalier::data::{Attention, Batch, Domain, Entry, Ledger, Sample, Sampler};
use std::collections::BTreeSet;

const T: usize = 16;

fn sampler(attention: Attention, domains: Vec<Domain>, ledger: &Ledger) -> Sampler {
    Sampler::new(11, T, attention, domains, ledger.clone()).unwrap()
}

fn two_phases() -> Ledger {
    let second = Entry { first_sample: 40, weights: vec![("laws".into(), 1.0), ("web".into(), 1.0)] };
    let mut ledger = Ledger::constant(&[("web", 0.8), ("laws", 0.2)]);
    ledger.entries.push(second);
    ledger
}

/// The T + 1 tokens of a window.
fn text(sample: &Sample) -> Vec<u32> {
    assert_eq!(sample.tokens[1..], sample.targets[..T - 1]);
    [&sample.tokens[..], &sample.targets[T - 1..]].concat()
}

/// The window a sample was cut from, found by its tokens.
fn window(tokens: &[u32], sample: &[u32]) -> usize {
    let places: Vec<usize> =
        (0..(tokens.len() - 1) / T).filter(|w| tokens[w * T..w * T + T + 1] == *sample).collect();
    assert_eq!(places.len(), 1, "the text repeats");
    places[0]
}

#[test]
fn an_epoch_reads_each_window_once_and_the_next_in_another_order() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), "web", &varied(100));
    let (tokens, _) = flat(&corpus);
    let mut s =
        sampler(Attention::Full, vec![domain("web", &corpus, 0.0)], &Ledger::constant(&[("web", 1.0)]));
    let windows = s.windows(0);
    assert_eq!(windows, (corpus.tokens() - 1) / T as u64);
    let mut epoch = |e: u64| -> Vec<usize> {
        (e * windows..(e + 1) * windows).map(|i| window(&tokens, &text(&s.sample(i).unwrap()))).collect()
    };
    let (first, second) = (epoch(0), epoch(1));
    for order in [&first, &second] {
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len() as u64, windows);
    }
    assert_ne!(first, second);
}

#[test]
fn weights_documents_and_positions_equal_a_token_by_token_reading() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), "web", &varied(400));
    let (tokens, document) = flat(&corpus);
    let ledger = Ledger::constant(&[("web", 1.0)]);
    for (attention, holdout) in [
        (Attention::Document, 0.0),
        (Attention::Document, 0.3),
        (Attention::Full, 0.0),
        (Attention::Full, 0.3),
    ] {
        let web = domain("web", &corpus, holdout);
        let mut s = sampler(attention, vec![web.clone()], &ledger);
        let (mut held, mut edges) = (0, 0);
        for id in 0..s.windows(0) {
            let sample = s.sample(id).unwrap();
            let first = window(&tokens, &text(&sample)) * T;
            let batch = s.batch(id, 1).unwrap();
            let mut start = 0;
            let mut starts = vec![0];
            for t in 0..T {
                let (here, next) = (document[first + t], document[first + t + 1]);
                if t > 0 && here != document[first + t - 1] && attention == Attention::Document {
                    start = t;
                    starts.push(t as u32);
                }
                let edge = here != next && attention == Attention::Document;
                let out = web.holds_out(next).unwrap();
                (held, edges) = (held + usize::from(out), edges + usize::from(edge));
                let want = if edge || out { 0.0 } else { 1.0 };
                assert_eq!(sample.weights[t], want, "{attention:?} holdout {holdout} sample {id} target {t}");
                assert_eq!(batch.positions[t], (t - start) as u32);
            }
            assert_eq!(sample.documents, starts);
            starts.push(T as u32);
            assert_eq!(batch.cu_seqlens, starts);
            assert_eq!((&batch.tokens, &batch.targets), (&sample.tokens, &sample.targets));
            assert_eq!(batch.weights, sample.weights);
        }
        assert_eq!(held > 0, holdout > 0.0, "the case is not empty");
        assert_eq!(edges > 100, attention == Attention::Document, "the case is not empty");
    }
}

#[test]
fn samples_do_not_depend_on_what_was_drawn_before_or_how_batches_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (web, laws) = (corpus(folder.path(), "web", &varied(80)), corpus(folder.path(), "laws", &varied(20)));
    let domains = || vec![domain("web", &web, 0.1), domain("laws", &laws, 0.0)];
    let new = || sampler(Attention::Document, domains(), &two_phases());
    let whole = new().batch(0, 120).unwrap();
    assert_eq!(whole.sample_ids, (0..120).collect::<Vec<_>>());
    let rows = |batch: &Batch, from: usize, count: usize| {
        let n = from * T..(from + count) * T;
        let cuts = |b: &Batch, n: &std::ops::Range<usize>| -> Vec<u32> {
            b.cu_seqlens.iter().filter(|&&c| (n.start..=n.end).contains(&(c as usize))).copied().collect()
        };
        (
            batch.tokens[n.clone()].to_vec(),
            batch.targets[n.clone()].to_vec(),
            batch.weights[n.clone()].to_vec(),
            batch.positions[n.clone()].to_vec(),
            cuts(batch, &n).iter().map(|c| c - n.start as u32).collect::<Vec<_>>(),
            batch.sample_ids[from..from + count].to_vec(),
            batch.domains[from..from + count].to_vec(),
        )
    };
    let mut s = new();
    for (first, count) in [(100, 20), (0, 1), (39, 3), (1, 38), (64, 8), (40, 24), (42, 0), (119, 1)] {
        let part = s.batch(first as u64, count).unwrap();
        assert_eq!(rows(&part, 0, count), rows(&whole, first, count), "samples {first} + {count}");
    }
    // A resume from the saved state, through its text.
    s.seek(57);
    let state = serde_json::to_string(&s.state()).unwrap();
    let mut resumed = new();
    resumed.restore(&serde_json::from_str(&state).unwrap()).unwrap();
    assert_eq!(resumed.state().sample, 57);
    assert_eq!(rows(&resumed.batch(57, 30).unwrap(), 0, 30), rows(&whole, 57, 30));
    // The mix is as asked: 80 % of the first 40 samples, half of the rest.
    let of_web = |range: std::ops::Range<usize>| whole.domains[range].iter().filter(|&&d| d == 0).count();
    assert_eq!((of_web(0..40), of_web(40..120)), (32, 40));
}

#[test]
fn the_weight_sum_is_known_before_the_tokens_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (web, laws) = (corpus(folder.path(), "web", &varied(80)), corpus(folder.path(), "laws", &varied(20)));
    for attention in [Attention::Document, Attention::Full] {
        let mut s =
            sampler(attention, vec![domain("web", &web, 0.2), domain("laws", &laws, 0.0)], &two_phases());
        for (first, rows) in [(0, 64), (7, 1), (30, 40)] {
            let early = s.weight_sum(first, rows).unwrap();
            let batch = s.batch(first, rows).unwrap();
            assert_eq!(early, batch.weight_sum());
            assert!(rows < 40 || (early > 0.0 && early < (rows * T) as f64), "the case is not empty");
        }
    }
}

#[test]
fn a_corpus_added_without_weight_changes_no_sample() {
    let folder = tempfile::tempdir().unwrap();
    let (web, laws) = (corpus(folder.path(), "web", &varied(80)), corpus(folder.path(), "laws", &varied(20)));
    let ledger = Ledger::constant(&[("web", 1.0)]);
    let mut alone = sampler(Attention::Document, vec![domain("web", &web, 0.0)], &ledger);
    let mut both =
        sampler(Attention::Document, vec![domain("web", &web, 0.0), domain("laws", &laws, 0.0)], &ledger);
    assert_eq!(alone.batch(0, 100).unwrap(), both.batch(0, 100).unwrap());
}

#[test]
fn the_seed_changes_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let web = corpus(folder.path(), "web", &varied(80));
    let with = |seed| {
        let ledger = Ledger::constant(&[("web", 1.0)]);
        Sampler::new(seed, T, Attention::Full, vec![domain("web", &web, 0.0)], ledger).unwrap()
    };
    assert_eq!(with(1).batch(0, 20).unwrap(), with(1).batch(0, 20).unwrap());
    assert_ne!(with(1).batch(0, 20).unwrap().tokens, with(2).batch(0, 20).unwrap().tokens);
}

#[test]
fn what_cannot_be_sampled_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (web, tiny) = (corpus(folder.path(), "web", &varied(80)), corpus(folder.path(), "tiny", &[T]));
    let ledger = Ledger::constant(&[("web", 1.0)]);
    let new = |domains| Sampler::new(1, T, Attention::Full, domains, ledger.clone()).map(drop).unwrap_err();
    let error = {
        let both = Ledger::constant(&[("web", 1.0), ("small", 1e-9)]);
        let domains = vec![domain("web", &web, 0.0), domain("small", &tiny, 0.0)];
        // A corpus that is only evaluated may be shorter than a window.
        Sampler::new(1, T, Attention::Full, domains.clone(), ledger.clone()).unwrap().batch(0, 9).unwrap();
        Sampler::new(1, T, Attention::Full, domains, both).map(drop).unwrap_err()
    };
    assert_eq!(error.exit_code(), 3);
    assert!(
        error.to_string().contains("corpus \"small\" has 16 tokens, fewer than seq_len + 1 = 17"),
        "{error}"
    );
    for holdout in [-0.1, 1.0, f64::NAN] {
        let error = new(vec![domain("web", &web, holdout)]).to_string();
        assert!(error.contains(&format!("data.web.holdout: it is {holdout}")), "{error}");
    }
    let error = new(vec![domain("web", &web, 0.0), domain("web", &web, 0.0)]).to_string();
    assert!(error.contains("two corpora of this name"), "{error}");
    let mut twice = domain("web", &web, 0.0);
    twice.max_epochs = Some(2);
    let mut s = sampler(Attention::Full, vec![twice], &ledger);
    let most = 2 * s.windows(0);
    s.batch(most - 3, 3).unwrap();
    s.check_budget(most).unwrap();
    for error in [s.batch(most - 3, 4).map(drop).unwrap_err(), s.check_budget(most + 1).unwrap_err()] {
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("data.web.max_epochs: it is 2, but"), "{error}");
    }
}
