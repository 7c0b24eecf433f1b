//! Documents without tokens: written as Megatron's builder writes them, and read by everything that reads a corpus.

use super::building::run;
use super::{domain, flat};
use espalier::config::{Io, Order, Packing};
use espalier::data::build::{Keys, Options};
use espalier::data::side::{Column, Stream, Value};
use espalier::data::{
    Attention, BYTE_END, BYTE_VOCAB, Corpus, CorpusWriter, Cursor, HeldOut, Ledger, Sampler, Share,
    Tokenizer, compress_corpus, merge, split,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn golden(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/megatron");
    fs::read(folder.join(name)).unwrap()
}

/// The texts of the golden files; six of ten are empty, among them the first and the last.
fn texts() -> Vec<String> {
    serde_json::from_slice(&golden("empty.json")).unwrap()
}

/// A corpus of bytes built with `keep_empty`.
fn built(inputs: &[PathBuf], out: &Path, keys: Keys) -> Corpus {
    let mut options = Options::new(inputs, out);
    (options.keep_empty, options.keys) = (true, keys);
    let summary = run(&options).unwrap();
    assert_eq!((summary.documents, summary.empty, summary.tokens), (10, 6, 20));
    Corpus::open(out).unwrap()
}

/// One of a line for each text, with its number.
fn of_lines(folder: &Path, out: &str) -> Corpus {
    let input = folder.join("in.jsonl");
    let line = |(i, text)| serde_json::json!({ "text": text, "n": i }).to_string() + "\n";
    fs::write(&input, texts().iter().enumerate().map(line).collect::<String>()).unwrap();
    built(&[input], &folder.join(out), Keys::Text("text".into()))
}

fn assert_golden(prefix: &Path, name: &str) {
    for end in ["bin", "idx"] {
        let bytes = fs::read(prefix.with_extension(end)).unwrap();
        assert!(bytes == golden(&format!("{name}.{end}")), "{name}.{end}");
    }
}

#[test]
fn the_writer_keeps_empty_documents_with_the_bytes_of_megatrons_writer() {
    let folder = tempfile::tempdir().unwrap();
    let other = Tokenizer { kind: "test".into(), hash: 1 };
    for (name, vocab, tokenizer) in
        [("empty-u16", BYTE_VOCAB, Tokenizer::byte()), ("empty-i32", 65_500, other)]
    {
        let prefix = folder.path().join(name);
        let mut writer = CorpusWriter::create(&prefix, vocab, tokenizer, Some(BYTE_END)).unwrap();
        writer.keep_empty(true);
        for text in texts() {
            writer.push(&text.bytes().map(u32::from).collect::<Vec<_>>()).unwrap();
            writer.end_document(text.len() as u64).unwrap();
        }
        let meta = writer.finish().unwrap();
        assert_eq!((meta.documents, meta.tokens), (10, 20));
        assert_golden(&prefix, name);
    }
}

#[test]
fn a_build_keeps_empty_lines_pairs_and_files_with_the_bytes_of_megatrons_writer() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let lines = of_lines(folder.path(), "lines");
    assert_golden(&at("lines"), "empty-u16");
    let column = Column::open(&lines, "n").unwrap();
    assert!((0..10).all(|doc| column.get(doc as u64).unwrap() == Value::I64(doc)), "one value a document");

    let pair = |text: &String| serde_json::json!({ "q": "", "a": text }).to_string() + "\n";
    fs::write(at("pairs.jsonl"), texts().iter().map(pair).collect::<String>()).unwrap();
    let keys = Keys::Pair { prompt: "q".into(), completion: "a".into() };
    let pairs = built(&[at("pairs.jsonl")], &at("pairs"), keys);
    assert_golden(&at("pairs"), "empty-u16");
    let mut weights = [0.0; 20];
    Stream::open(&pairs, "loss").unwrap().read(0, &mut weights).unwrap();
    assert_eq!(weights, [1.0; 20]);

    fs::create_dir(at("in")).unwrap();
    for (i, text) in texts().iter().enumerate() {
        fs::write(at("in").join(format!("{i}.txt")), text).unwrap();
    }
    built(&[at("in")], &at("files"), Keys::Text("text".into()));
    assert_golden(&at("files"), "empty-u16");
}

#[test]
fn whatever_reads_a_corpus_reads_one_with_empty_documents() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    of_lines(folder.path(), "web");
    of_lines(folder.path(), "zst");
    compress_corpus(&at("zst"), 3, false, None, &mut |_, _| {}).unwrap();
    for (name, io) in
        [("web", Io::Mmap), ("web", Io::Pread), ("web", Io::Stage), ("zst", Io::Mmap), ("zst", Io::Pread)]
    {
        let corpus = Arc::new(Corpus::open_with(&at(name), io, Some(&at("stage"))).unwrap());
        corpus.verify().unwrap();
        let (tokens, documents) = flat(&corpus);
        for (doc, text) in texts().iter().enumerate() {
            let range = corpus.document_range(doc as u64).unwrap();
            let mut want: Vec<u32> = text.bytes().map(u32::from).collect();
            want.extend((!text.is_empty()).then_some(BYTE_END));
            assert_eq!(tokens[range.start as usize..range.end as usize], want);
            corpus.document_hash(doc as u64).unwrap();
        }
        for (token, doc) in documents.iter().enumerate() {
            assert_eq!(corpus.document_at(token as u64).unwrap(), *doc);
        }
        for (order, packing, rows) in [
            (Order::Stream, Packing::Window, 4),
            (Order::Stream, Packing::BestFit, 4),
            (Order::Stream, Packing::OneDoc, 4),
            (Order::Megatron, Packing::Window, 4),
        ] {
            for attention in [Attention::Document, Attention::Full] {
                let mut web = domain("web", &corpus, 0.0);
                (web.order, web.packing, web.split) = (order, packing, [1.0, 0.0, 0.0]);
                let cursor = Cursor::new(3, 4, attention, Ledger::constant(&[("web", 1.0)]));
                let cursor = Cursor { samples: Some(2 * rows), ..cursor };
                let mut sampler = Sampler::open(&cursor, vec![web]).unwrap();
                assert_eq!(sampler.windows(0), rows, "{order:?} {packing:?}");
                sampler.batch(0, 2 * rows as usize).unwrap();
                assert_eq!(sampler.prove(0..rows).unwrap().wrong(), None);
            }
        }
        // The documents have 10, 2, 4 and 4 tokens, one less predictions each.
        for seq_len in [3, 64] {
            let held = HeldOut::new(&domain("web", &corpus, 1.0), seq_len, 1000).unwrap();
            assert_eq!((held.tokens(), held.bytes()), (16, Some(12)));
            assert_eq!(held.batches(2).map(|b| b.unwrap().weight_sum()).sum::<f64>(), 16.0);
        }
    }
    let web = Corpus::open(&at("web")).unwrap();
    split(&web, Share::Documents(6), &at("a"), &at("b"), &mut |_| {}).unwrap();
    let parts = ["a", "b"].map(|name| Corpus::open(&at(name)).unwrap());
    assert_eq!(parts.each_ref().map(Corpus::documents), [6, 4]);
    merge(&parts, &at("both"), &mut |_, _| {}).unwrap();
    assert_golden(&at("both"), "empty-u16");
    split(&web, Share::Hash(0.5), &at("c"), &at("d"), &mut |_| {}).unwrap();
    for name in ["c", "d"] {
        Corpus::open(&at(name)).unwrap().verify().unwrap();
    }
}
