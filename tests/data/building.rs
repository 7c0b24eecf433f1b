//! Text to corpora: formats, compression, columns, loss weights, errors; whatever the number of threads.

use super::flat;
use espalier::data::build::{Control, Format, Keys, Options, Summary, Wanted, build};
use espalier::data::side::{Column, Stream, Value};
use espalier::data::tokenizer::{EndOfDocument, Spec, Tokenizer, TrainKind};
use espalier::data::{Corpus, CorpusWriter};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

pub fn run(options: &Options) -> espalier::Result<Summary> {
    let control = Control { stop: &|| false, show: &mut |_| {} };
    build(options, control).map(|summary| summary.unwrap())
}

/// Every file of the corpus but those of the build, by name.
pub fn files(out: &Path) -> Vec<(String, Vec<u8>)> {
    let stem = format!("{}.", out.file_name().unwrap().to_str().unwrap());
    let mut files = Vec::new();
    for entry in fs::read_dir(out.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Some(end) = name.strip_prefix(&stem) {
            assert!(path.is_file(), "{name} was left behind");
            files.push((end.to_string(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

fn texts(corpus: &Corpus) -> Vec<String> {
    let meta = corpus.meta();
    let tokenizer =
        Tokenizer::beside(corpus.prefix(), &meta.tokenizer, meta.end_of_document).unwrap().unwrap();
    let (tokens, _) = flat(corpus);
    let range = |doc| corpus.document_range(doc).unwrap();
    (0..corpus.documents())
        .map(|doc| tokenizer.decode(&tokens[range(doc).start as usize..range(doc).end as usize]).unwrap())
        .collect()
}

fn gzip(parts: &[&[u8]]) -> Vec<u8> {
    let pack = |part: &&[u8]| {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(part).unwrap();
        gz.finish().unwrap()
    };
    parts.iter().flat_map(pack).collect()
}

fn zstd(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| zstd::encode_all(*part, 3).unwrap()).collect()
}

/// Many megabytes of lines in which nothing repeats exactly, with some odd characters.
fn prose(lines: usize) -> String {
    let words =
        ["the", "of", "Союз", "naïve", "law's", "1789", "語", "and", "People", "don't", "x²", "😀", "to"];
    (0..lines)
        .map(|i| {
            let line: Vec<String> = (0..12)
                .map(|j| format!("{}{}", words[(i * 7 + j * 5 + i / 13) % words.len()], (i * j) % 97))
                .collect();
            format!("Line {i}: {}.\n", line.join(" "))
        })
        .collect()
}

fn jsonl(lines: &[serde_json::Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_number_of_threads_and_the_packing_of_the_input_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, packed) = (folder.path().join("plain"), folder.path().join("packed"));
    fs::create_dir_all(&plain).unwrap();
    fs::create_dir_all(&packed).unwrap();
    let long = prose(15_000);
    let lines: Vec<_> = prose(2000).lines().map(|l| serde_json::json!({ "text": l, "n": l.len() })).collect();
    let lines = jsonl(&lines);
    let (a, b) = long.as_bytes().split_at(long.len() / 3);
    let (c, d) = lines.as_bytes().split_at(lines.len() / 2);
    fs::write(plain.join("a.txt"), &long).unwrap();
    fs::write(plain.join("b.jsonl"), &lines).unwrap();
    fs::write(plain.join("c.md"), "short").unwrap();
    // By content, not by name.
    fs::write(packed.join("a.txt"), gzip(&[a, b])).unwrap();
    fs::write(packed.join("b.jsonl.gz"), zstd(&[c, d])).unwrap();
    fs::write(packed.join("c.md.zst"), "short").unwrap();
    let mut all = Vec::new();
    for (i, (input, threads)) in [(&plain, 1), (&plain, 2), (&plain, 5), (&packed, 3)].into_iter().enumerate()
    {
        let out = folder.path().join(format!("out/{i}/web"));
        let mut options = Options::new(std::slice::from_ref(input), &out);
        options.tokenizer = Spec::Gpt2;
        options.threads = threads;
        let summary = run(&options).unwrap();
        assert_eq!((summary.files, summary.documents, summary.vocab), (3, 2002, 50257));
        all.push(files(&out));
        if i == 0 {
            let corpus = Corpus::open(&out).unwrap();
            corpus.verify().unwrap();
            let texts = texts(&corpus);
            assert!(texts[0] == long, "a text of several chunks comes back whole");
            assert_eq!((texts[1].as_str(), texts[2001].as_str()), (long.lines().next().unwrap(), "short"));
            // One piece of text through the tokenizer gives the ids that the chunks gave.
            let (mut ids, range) = (Vec::new(), corpus.document_range(0).unwrap());
            Tokenizer::gpt2().unwrap().encoder().encode(&long, &mut ids).unwrap();
            assert!(flat(&corpus).0[..range.end as usize - 1] == ids);
            let lengths = Column::open(&corpus, "n").unwrap();
            let length = |doc| lengths.get(doc).unwrap().number().unwrap();
            assert!(length(0).is_nan() && length(1) == texts[1].len() as f64);
        }
    }
    let names: Vec<&str> = all[0].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["bin", "col.n", "idx", "json", "tokenizer.json"]);
    for other in &all[1..] {
        assert!(all[0] == *other);
    }
}

#[test]
fn metadata_becomes_columns_of_the_type_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("web"));
    let lines = [
        serde_json::json!({ "text": "a", "year": 1789, "score": 0.5, "ok": true, "lang": "en", "tags": ["x"], "id": 1 }),
        serde_json::json!({ "text": "", "year": "left out with its text" }),
        serde_json::json!({ "year": -3, "score": 2, "ok": false, "lang": null, "text": "b", "id": "é", "big": u64::MAX }),
    ];
    fs::write(&input, jsonl(&lines)).unwrap();
    let mut options = Options::new(std::slice::from_ref(&input), &out);
    let summary = run(&options).unwrap();
    assert_eq!(summary.columns, ["year", "score", "ok", "lang", "id", "big"]);
    assert_eq!((summary.documents, summary.empty), (2, 1));
    let corpus = Corpus::open(&out).unwrap();
    let values = |name: &str| {
        let column = Column::open(&corpus, name).unwrap();
        [0, 1].map(|doc| column.get(doc).unwrap())
    };
    let text = |a: &str, b: &str| [Value::Utf8(a.into()), Value::Utf8(b.into())];
    assert_eq!(values("year"), [Value::I64(1789), Value::I64(-3)]);
    assert_eq!(values("score"), [Value::F64(0.5), Value::F64(2.0)]);
    assert_eq!(values("ok"), [Value::U8(1), Value::U8(0)]);
    assert_eq!(values("lang"), text("en", ""));
    assert_eq!(values("id"), text("1", "é"));
    assert_eq!(values("big"), text("", "18446744073709551615"));

    let other = folder.path().join("named");
    options.out = other.clone();
    options.columns = Wanted::Named(vec!["tags".into(), "lang".into()]);
    assert_eq!(run(&options).unwrap().columns, ["lang", "tags"]);
    let corpus = Corpus::open(&other).unwrap();
    assert_eq!(Column::open(&corpus, "tags").unwrap().get(0).unwrap(), Value::Utf8("[\"x\"]".into()));
    options.columns = Wanted::Named(vec![]);
    run(&options).unwrap();
    options.columns = Wanted::Named(vec!["a b".into()]);
    assert!(run(&options).unwrap_err().to_string().contains("\"a b\" cannot name a document column"));
    // A line of a million keys: compared each with each they would take hours.
    let keys: String = (0..1_000_000).map(|i| format!("\"k{i}\":{i},")).collect();
    fs::write(&input, format!("{{{keys}\"text\":\"a\"}}")).unwrap();
    options.columns = Wanted::All;
    let error = run(&options).unwrap_err().to_string();
    assert!(error.contains("more than 64 keys"), "{error}");
}

#[test]
fn prompts_weigh_nothing_and_completions_with_their_end_one() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("pairs"));
    let pairs = [("ab", "xyz"), ("", "q"), ("p", ""), ("", "")];
    let lines: Vec<_> = pairs.iter().map(|(p, c)| serde_json::json!({ "q": p, "a": c })).collect();
    fs::write(&input, jsonl(&lines)).unwrap();
    let mut options = Options::new(std::slice::from_ref(&input), &out);
    options.keys = Keys::Pair { prompt: "q".into(), completion: "a".into() };
    let summary = run(&options).unwrap();
    assert_eq!((summary.documents, summary.empty), (3, 1));
    let corpus = Corpus::open(&out).unwrap();
    assert_eq!(corpus.meta().weights.as_deref(), Some("loss"));
    let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    assert_eq!(flat(&corpus).0, [ids("abxyz"), vec![256], ids("q"), vec![256], ids("p"), vec![256]].concat());
    let stream = Stream::open(&corpus, "loss").unwrap();
    stream.verify().unwrap();
    let mut weights = [9.0; 10];
    stream.read(0, &mut weights).unwrap();
    assert_eq!(weights, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]);
    fs::write(folder.path().join("x.txt"), "text").unwrap();
    options.inputs.push(folder.path().join("x.txt"));
    let error = run(&options).unwrap_err().to_string();
    assert!(error.contains("x.txt: is text, but prompts"), "{error}");
}

#[test]
fn input_that_cannot_be_read_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let out = path("web");
    let text = prose(3000);
    let (gz, zst) = (gzip(&[text.as_bytes()]), zstd(&[text.as_bytes()]));
    let mut damaged = gz.clone();
    damaged[gz.len() / 2] ^= 0x55;
    let long = "no place to cut ".repeat(100_000);
    let inputs: [(&str, &[u8], Spec, &str); 9] = [
        ("latin.txt", b"caf\xe9", Spec::Gpt2, "latin.txt at byte 3: the text is not UTF-8 from here on"),
        (
            "a.jsonl",
            b"{\"text\":\"x\"}\n{\"text\":",
            Spec::Byte,
            "a.jsonl at byte 13: this line is not a JSON object",
        ),
        ("b.jsonl", b"\n[1]\n", Spec::Byte, "b.jsonl at byte 1: this line is not a JSON object"),
        ("c.jsonl", b"{\"body\":\"x\"}", Spec::Byte, "c.jsonl at byte 0: this line has no \"text\""),
        ("d.jsonl", b"{\"text\":5}", Spec::Byte, "has something else than a string under \"text\""),
        ("e.jsonl", b"{\"text\":\"\xff\"}", Spec::Byte, "e.jsonl at byte 0: this line is not a JSON object"),
        ("cut.gz", &gz[..gz.len() - 9], Spec::Byte, "is cut short: its gzip data ends in the middle"),
        ("cut.zst", &zst[..zst.len() - 9], Spec::Byte, "is cut short: its zstd data ends in the middle"),
        ("bad.gz", &damaged, Spec::Byte, "its gzip data is damaged"),
    ];
    for (name, bytes, tokenizer, says) in inputs {
        fs::write(path(name), bytes).unwrap();
        let mut options = Options::new(&[path(name)], &out);
        options.tokenizer = tokenizer;
        let error = run(&options).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        let error = error.to_string();
        assert!(error.contains(says) && error.contains(name) && error.contains(';'), "{error}");
        assert!(!path("web.build").exists() && !path("web.json").exists(), "{name}");
    }
    fs::write(path("long.txt"), long).unwrap();
    let mut options = Options::new(&[path("long.txt")], &out);
    options.tokenizer = Spec::Gpt2;
    options.max_document = Some(1 << 20);
    let error = run(&options).unwrap_err().to_string();
    assert!(
        error.contains("long.txt at byte 0: here begins a stretch") && error.contains("--max-document"),
        "{error}"
    );
    options.max_document = None;
    run(&options).unwrap();
}

#[test]
fn bad_lines_are_passed_over_up_to_the_number_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("web"));
    fs::write(&input, "{\"text\":\"a\"}\nnot json\n{\"text\":\"b\"}\n{}\n{\"text\":\"c\"}\n").unwrap();
    let mut options = Options::new(std::slice::from_ref(&input), &out);
    for (allowed, says) in [(0, "at byte 13: "), (1, "at byte 35: ")] {
        options.skip_bad = allowed;
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("--skip-bad"), "{error}");
    }
    options.skip_bad = 2;
    let summary = run(&options).unwrap();
    assert_eq!((summary.bad, summary.bad_examples.len(), summary.documents), (2, 2, 3));
    assert!(summary.bad_examples[1].contains("at byte 35"), "{:?}", summary.bad_examples);
    assert_eq!(texts(&Corpus::open(&out).unwrap()), ["a", "b", "c"]);
}

#[test]
fn a_trained_vocabulary_lies_beside_its_corpus_and_is_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.txt");
    fs::write(&input, prose(4000)).unwrap();
    for (kind, end) in [(TrainKind::Bpe, "<|endoftext|>"), (TrainKind::WordPiece, "[SEP]")] {
        let outs = ["one", "two"].map(|name| folder.path().join(format!("{kind:?}/{name}")));
        let mut all = Vec::new();
        for (out, threads) in outs.iter().zip([1, 3]) {
            let mut options = Options::new(std::slice::from_ref(&input), out);
            options.tokenizer = Spec::Train(kind, 500);
            options.pad_vocab = Some(64);
            options.threads = threads;
            assert_eq!(run(&options).unwrap().vocab, 512);
            all.push(files(out));
        }
        assert!(all[0] == all[1], "{kind:?}");
        let corpus = Corpus::open(&outs[0]).unwrap();
        let tokenizer = Tokenizer::read(&folder.path().join(format!("{kind:?}/one.tokenizer.json"))).unwrap();
        assert_eq!((tokenizer.vocab(), corpus.vocab()), (500, 512));
        assert_eq!(corpus.meta().end_of_document, tokenizer.token_id(end));
        assert_eq!(corpus.meta().tokenizer, *tokenizer.id());
        // The same ids from the file.
        let mut options = Options::new(std::slice::from_ref(&input), &folder.path().join("again"));
        options.tokenizer = Spec::File(folder.path().join(format!("{kind:?}/one.tokenizer.json")));
        options.end = EndOfDocument::None;
        run(&options).unwrap();
        let again = Corpus::open(&folder.path().join("again")).unwrap();
        assert_eq!(again.meta().end_of_document, None);
        assert!(flat(&again).0 == flat(&corpus).0[..corpus.tokens() as usize - 1]);
    }
}

#[test]
fn empty_documents_and_sequences_are_written_as_megatrons_builder_does() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("mega");
    let id = espalier::data::Tokenizer { kind: "test".into(), hash: 1 };
    let mut writer = CorpusWriter::create(&out, 100, id, None).unwrap();
    // add_item([1, 2]); add_item([3]); end_document(); end_document(); add_item([]); end_document()
    writer.push(&[1, 2]).unwrap();
    writer.end_sequence().unwrap();
    writer.push(&[3]).unwrap();
    writer.end_sequence().unwrap();
    for empty in [false, false, true] {
        if empty {
            writer.end_sequence().unwrap();
        }
        writer.close_document(0).unwrap();
    }
    writer.finish().unwrap();
    let mut want = b"MMIDIDX\0\0".to_vec();
    want.extend(1u64.to_le_bytes());
    want.push(8);
    want.extend([3u64, 4].map(u64::to_le_bytes).concat());
    want.extend([2i32, 1, 0].map(i32::to_le_bytes).concat());
    want.extend([0i64, 4, 6].map(i64::to_le_bytes).concat());
    want.extend([0i64, 2, 2, 3].map(i64::to_le_bytes).concat());
    assert_eq!(fs::read(folder.path().join("mega.idx")).unwrap(), want);
    assert_eq!(fs::read(folder.path().join("mega.bin")).unwrap(), [1, 0, 2, 0, 3, 0]);
}

#[test]
fn lines_are_lines_by_name_or_by_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("in")).unwrap();
    for name in ["in/a.jsonl.gz", "in/b.ndjson", "in/c.json"] {
        fs::write(path(name), "{\"body\":\"x\"}\n").unwrap();
    }
    fs::write(path("in/d.log"), "{\"body\":\"y\"}\n").unwrap();
    let mut options = Options::new(&[path("in")], &path("web"));
    options.keys = Keys::Text("body".into());
    let documents = |options: &Options| {
        run(options).unwrap();
        texts(&Corpus::open(&options.out).unwrap())
    };
    assert_eq!(documents(&options), ["x", "x"], "folders give what is surely text");
    options.inputs = ["in/c.json", "in/d.log", "in/d.log"].map(path).to_vec();
    assert_eq!(documents(&options), ["x", "{\"body\":\"y\"}\n"]);
    options.format = Format::Jsonl;
    assert_eq!(documents(&options), ["x", "y"]);
    options.format = Format::Text;
    options.inputs = vec![path("in/b.ndjson")];
    assert_eq!(documents(&options), ["{\"body\":\"x\"}\n"]);
}

/// Fills a folder with input of some thirty chunks and a small tokenizer.json, for builds by the program.
pub fn slow_input(folder: &Path) -> Vec<PathBuf> {
    let pairs: Vec<_> = prose(60_000)
        .lines()
        .enumerate()
        .map(|(i, l)| serde_json::json!({ "prompt": &l[..7], "completion": &l[7..], "n": i, "odd": i % 2 == 1 }))
        .collect();
    let lines = jsonl(&pairs);
    let definition = espalier::data::tokenizer::train(TrainKind::Bpe, 400, &[prose(300)], folder).unwrap();
    fs::write(folder.join("tokenizer.json"), definition).unwrap();
    fs::write(folder.join("a.jsonl"), &lines).unwrap();
    fs::write(folder.join("b.jsonl.gz"), gzip(&[lines.as_bytes()])).unwrap();
    fs::write(folder.join("c.jsonl.zst"), zstd(&[lines.as_bytes()])).unwrap();
    ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst"].map(|name| folder.join(name)).to_vec()
}
