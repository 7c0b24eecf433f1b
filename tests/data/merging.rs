//! Corpora of corpora: merge and split.

use super::{corpus, flat, index, varied};
use espalier::data::side::{Column, ColumnWriter, SideType, Stream, StreamWriter, Value};
use espalier::data::{Adopt, Corpus, CorpusWriter, Share, Tokenizer, adopt, compress_corpus, merge, split};
use std::fs;
use std::path::Path;

fn open(prefix: &Path) -> Corpus {
    let corpus = Corpus::open(prefix).unwrap();
    corpus.verify().unwrap();
    corpus
}

fn documents(corpus: &Corpus) -> Vec<Vec<u32>> {
    let (tokens, _) = flat(corpus);
    let range = |doc| corpus.document_range(doc).unwrap();
    (0..corpus.documents()).map(|d| tokens[range(d).start as usize..range(d).end as usize].to_vec()).collect()
}

#[test]
fn merging_appends_tokens_lengths_and_documents_as_megatron_does() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Two sequences in one document, an empty document, and one with a sequence of no tokens.
    fs::write(at("a.idx"), index(8, &[3, 2, 4], &[0, 2, 2, 3])).unwrap();
    fs::write(at("a.bin"), [1u16, 2, 3, 4, 5, 6, 7, 8, 9].map(u16::to_le_bytes).concat()).unwrap();
    fs::write(at("b.idx"), index(8, &[0, 1], &[0, 1, 2])).unwrap();
    fs::write(at("b.bin"), 7u16.to_le_bytes()).unwrap();
    for name in ["a", "b"] {
        let what =
            Adopt { inputs: vec![at(name)], tokenizer: "some".into(), vocab: Some(10), ..Adopt::default() };
        adopt(&what, &mut |_, _| {}).unwrap();
    }
    compress_corpus(&at("b"), 1, false, None, &mut |_, _| {}).unwrap();
    fs::write(at("a.tokenizer.json"), "{}").unwrap();
    let parts = [open(&at("a")), open(&at("b")), open(&at("a"))];
    merge(&parts, &at("deep/all"), &mut |_, _| {}).unwrap();
    let want = index(8, &[3, 2, 4, 0, 1, 3, 2, 4], &[0, 2, 2, 3, 4, 5, 7, 7, 8]);
    assert_eq!(fs::read(at("deep/all.idx")).unwrap(), want);
    let ids = [1u16, 2, 3, 4, 5, 6, 7, 8, 9, 7, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    assert_eq!(fs::read(at("deep/all.bin")).unwrap(), ids.map(u16::to_le_bytes).concat());
    assert_eq!(fs::read_to_string(at("deep/all.tokenizer.json")).unwrap(), "{}");
    assert_eq!(documents(&open(&at("deep/all"))), parts.iter().flat_map(documents).collect::<Vec<_>>());
    assert_eq!(fs::read_dir(at("deep")).unwrap().count(), 4);
}

#[test]
fn what_does_not_belong_together_is_not_merged() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    corpus(folder.path(), "a", &[4, 5]);
    let mut writer =
        CorpusWriter::create(&at("b"), 300, Tokenizer { kind: "x".into(), hash: 1 }, None).unwrap();
    writer.push(&[1, 2]).unwrap();
    writer.end_document(1).unwrap();
    writer.finish().unwrap();
    let (a, b) = (open(&at("a")), open(&at("b")));
    let error = merge(&[b, a], &at("c"), &mut |_, _| {}).unwrap_err().to_string();
    assert!(
        error.contains("/a: has tokenizer byte") && error.contains("/b has tokenizer x 0000000000000001"),
        "{error}"
    );
    let error = merge(&[open(&at("a"))], &at("a"), &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("a.json: is read and would be written"), "{error}");
    open(&at("a"));
    assert!(!at("c.bin").exists());
}

#[test]
fn the_halves_of_a_split_have_every_document_once_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    corpus(folder.path(), "web", &varied(2000));
    let web = open(&at("web"));
    let all = documents(&web);
    let halves = split(&web, Share::Documents(700), &at("a"), &at("b"), &mut |_| {}).unwrap();
    assert_eq!(halves[0].documents, 700);
    assert_eq!(halves[0].source_bytes + halves[1].source_bytes, web.meta().source_bytes);
    assert_eq!([documents(&open(&at("a"))), documents(&open(&at("b")))].concat(), all);
    // Merged again they are what was split, byte for byte.
    merge(&[open(&at("a")), open(&at("b"))], &at("c"), &mut |_, _| {}).unwrap();
    for end in ["bin", "idx", "json"] {
        assert_eq!(
            fs::read(at("c").with_extension(end)).unwrap(),
            fs::read(at("web").with_extension(end)).unwrap()
        );
    }

    split(&web, Share::Hash(0.9), &at("a"), &at("b"), &mut |_| {}).unwrap();
    let (a, b) = (documents(&open(&at("a"))), documents(&open(&at("b"))));
    let share = a.len() as f64 / all.len() as f64;
    assert!((share - 0.9).abs() < 4.0 * (0.09f64 / 2000.0).sqrt(), "{share}");
    let (mut one, mut two) = (a.iter().peekable(), b.iter().peekable());
    for document in &all {
        let half = if one.peek() == Some(&document) { &mut one } else { &mut two };
        assert_eq!(half.next(), Some(document));
    }
    assert_eq!((one.next(), two.next()), (None, None));
    // What a smaller share took, a larger one takes.
    split(&web, Share::Hash(0.5), &at("c"), &at("d"), &mut |_| {}).unwrap();
    assert!(documents(&open(&at("c"))).iter().all(|document| a.contains(document)));
    // The half that gets the high hashes has held-out documents too: its share is drawn by another hash.
    let low =
        |c: &Corpus| (0..c.documents()).filter(|&d| c.document_hash(d).unwrap() < u64::MAX / 10).count();
    let half = open(&at("b"));
    assert!(low(&half) > 0 && low(&half) < b.len() / 2, "{} of {}", low(&half), b.len());
}

#[test]
fn shares_that_leave_a_half_empty_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let web = corpus(folder.path(), "web", &[4, 5]);
    for (share, a, want) in [
        (Share::Hash(1.0), "a", "--share: it is 1; give one between 0 and 1"),
        (Share::Hash(f64::NAN), "a", "--share: it is NaN"),
        (Share::Documents(0), "a", "--documents: it is 0, and the corpus has 2 documents"),
        (Share::Documents(2), "a", "--documents: it is 2"),
        (Share::Hash(0.5), "b", "--out: both halves have one name"),
        (Share::Hash(1e-9), "a", "/a: none of the 2 documents falls to it"),
        (Share::Documents(1), "web", "web.json: is read and would be written"),
    ] {
        let error = split(&web, share, &at(a), &at("b"), &mut |_| {}).expect_err(want).to_string();
        assert!(error.contains(want), "{want}: {error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "{want} leaves files");
    }
}

/// Side values that say which token or document they belong to.
fn with_sides(folder: &Path, name: &str, lengths: &[usize], columns: &[&str]) -> Corpus {
    corpus(folder, name, lengths);
    let prefix = folder.join(name);
    let corpus = open(&prefix);
    let (tokens, _) = flat(&corpus);
    let mut loss = StreamWriter::create(&prefix, "loss", SideType::U8).unwrap();
    let mut score = StreamWriter::create(&prefix, "score", SideType::F16).unwrap();
    for &token in &tokens {
        loss.push(&[(token % 250) as f32]).unwrap();
        score.push(&[token as f32 / 4.0]).unwrap();
    }
    loss.finish(corpus.hash()).unwrap();
    score.finish(corpus.hash()).unwrap();
    for &column in columns {
        let mut text = ColumnWriter::create(&prefix, column, SideType::Utf8).unwrap();
        for document in documents(&corpus) {
            text.push(&Value::Utf8(format!("{} tokens, first {}", document.len(), document[0]))).unwrap();
        }
        text.finish(corpus.hash()).unwrap();
    }
    corpus
}

fn sides_fit(prefix: &Path) {
    let corpus = open(prefix);
    let (tokens, _) = flat(&corpus);
    let mut values = vec![0.0; tokens.len()];
    let loss = Stream::open(&corpus, "loss").unwrap();
    loss.verify().unwrap();
    loss.read(0, &mut values).unwrap();
    assert!(values.iter().zip(&tokens).all(|(&v, &t)| v == (t % 250) as f32));
    let score = Stream::open(&corpus, "score").unwrap();
    score.read(0, &mut values).unwrap();
    assert!(values.iter().zip(&tokens).all(|(&v, &t)| v == t as f32 / 4.0));
    let about = Column::open(&corpus, "about").unwrap();
    about.verify().unwrap();
    for (doc, document) in (0..).zip(documents(&corpus)) {
        let want = format!("{} tokens, first {}", document.len(), document[0]);
        assert_eq!(about.get(doc).unwrap(), Value::Utf8(want));
    }
}

#[test]
fn side_streams_and_columns_follow_their_tokens_and_documents() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let a = with_sides(folder.path(), "a", &varied(300), &["about", "only"]);
    let b = with_sides(folder.path(), "b", &[7, 2, 900], &["about"]);
    let merged = merge(&[a, b], &at("all"), &mut |_, _| {}).unwrap();
    assert_eq!(merged.left_out, ["col.only"]);
    sides_fit(&at("all"));
    split(&open(&at("all")), Share::Hash(0.3), &at("one"), &at("two"), &mut |_| {}).unwrap();
    sides_fit(&at("one"));
    sides_fit(&at("two"));
    // One of another corpus is not taken over.
    fs::copy(at("b.stream.loss"), at("a.stream.loss")).unwrap();
    let parts = [open(&at("a")), open(&at("b"))];
    assert!(merge(&parts, &at("again"), &mut |_, _| {}).is_err());
    assert!(!at("again.bin").exists() && !at("again.idx").exists());
}
