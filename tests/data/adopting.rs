//! Corpora made of files that other programs wrote, and what is said of damaged ones.

use super::{flat, index};
use espalier::Error;
use espalier::config::Io;
use espalier::data::{Adopt, Adopted, Corpus, PartType, adopt, compress_corpus};
use std::fs;
use std::path::{Path, PathBuf};

fn u16s(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect()
}
fn u32s(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|&id| id.to_le_bytes()).collect()
}

/// A shard as llm.c's scripts write it.
fn llmc(magic: i32, version: i32, count: i32, tokens: &[u8]) -> Vec<u8> {
    let mut bytes = [magic, version, count].map(i32::to_le_bytes).concat();
    bytes.resize(1024, 0);
    bytes.extend(tokens);
    bytes
}
fn gpt2_shard(ids: &[u32]) -> Vec<u8> {
    llmc(20_240_520, 1, ids.len() as i32, &u16s(ids))
}

fn what(inputs: &[PathBuf], out: Option<PathBuf>, vocab: u32, eod: Option<u32>) -> Adopt {
    Adopt { inputs: inputs.to_vec(), out, tokenizer: "some".into(), vocab: Some(vocab), eod, dtype: None }
}

fn run(what: &Adopt) -> Result<Adopted, Error> {
    adopt(what, &mut |_, _| {})
}

/// The documents of a corpus that is sound.
fn documents(prefix: &Path) -> Vec<Vec<u32>> {
    let corpus = Corpus::open(prefix).unwrap();
    corpus.verify().unwrap();
    let (tokens, _) = flat(&corpus);
    let range = |doc| corpus.document_range(doc).unwrap();
    (0..corpus.documents()).map(|d| tokens[range(d).start as usize..range(d).end as usize].to_vec()).collect()
}

#[test]
fn shards_of_llm_c_are_one_stream_of_documents() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("in")).unwrap();
    // As its scripts cut them: the id 9 before each document, a document across two shards.
    fs::write(at("in/train_000001.bin"), gpt2_shard(&[4, 9, 5, 5])).unwrap();
    fs::write(at("in/train_000000.bin"), gpt2_shard(&[9, 1, 2, 9, 3])).unwrap();
    let found = run(&what(&[at("in")], Some(at("out/web")), 10, Some(9))).unwrap();
    assert_eq!((found.format, found.files, found.tokens, found.documents), ("llm.c", 2, 9, 3));
    assert!(found.eod_first);
    assert_eq!(documents(&at("out/web")), [vec![9, 1, 2], vec![9, 3, 4], vec![9, 5, 5]]);
    assert_eq!(Corpus::open(&at("out/web")).unwrap().meta().end_of_document, None);
    assert!(!at("out/web.bin").exists(), "the tokens stay where they are");

    // The folders may move together.
    fs::create_dir(at("moved")).unwrap();
    fs::rename(at("in"), at("moved/in")).unwrap();
    fs::rename(at("out"), at("moved/out")).unwrap();
    assert_eq!(documents(&at("moved/out/web")).len(), 3);
    let text = fs::read_to_string(at("moved/out/web.json")).unwrap();
    assert!(text.contains("\"../in/train_000000.bin\""), "{text}");

    // The id after documents; the last one is cut off.
    fs::write(at("a.bin"), gpt2_shard(&[1, 2, 9, 3])).unwrap();
    fs::write(at("b.bin"), gpt2_shard(&[4, 9, 9, 6])).unwrap();
    let (a, b) = (at("a.bin"), at("b.bin"));
    let found = run(&what(&[a.clone(), b.clone()], Some(at("web")), 10, Some(9))).unwrap();
    assert!(!found.eod_first);
    assert_eq!(documents(&at("web")), [vec![1, 2, 9], vec![3, 4, 9], vec![9], vec![6]]);
    assert_eq!(Corpus::open(&at("web")).unwrap().meta().end_of_document, Some(9));
    // Without an id each shard is a document.
    run(&what(&[a, b], Some(at("web")), 10, None)).unwrap();
    assert_eq!(documents(&at("web")), [vec![1, 2, 9, 3], vec![4, 9, 9, 6]]);
}

#[test]
fn shards_of_llama_3_have_wide_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let ids = [128_000, 5, 70_000, 128_000, 6];
    fs::write(at("a.bin"), llmc(20_240_801, 7, 5, &u32s(&ids))).unwrap();
    run(&what(&[at("a.bin")], Some(at("web")), 128_256, Some(128_000))).unwrap();
    assert_eq!(documents(&at("web")), [vec![128_000, 5, 70_000], vec![128_000, 6]]);
    fs::write(at("b.bin"), llmc(20_240_801, 7, 2, &u32s(&[3, 3_000_000_000]))).unwrap();
    let error = run(&what(&[at("b.bin")], Some(at("far")), 128_256, None)).unwrap_err().to_string();
    assert!(error.contains("b.bin at byte 1028: token 3000000000 is above 2^31 - 1"), "{error}");
    assert!(!at("far.json").exists() && !at("far.idx").exists() && !at("far.lengths.tmp").exists());
    let error = run(&what(&[at("a.bin")], Some(at("far")), 70_000, None)).unwrap_err().to_string();
    assert!(error.contains("a.bin at byte 1024: token 128000 is outside the vocabulary of 70000"), "{error}");
}

#[test]
fn datatrove_files_bring_their_document_ends() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let ends = |ends: &[u64]| ends.iter().flat_map(|end| end.to_le_bytes()).collect::<Vec<u8>>();
    for (bytes, item) in [(u16s as fn(&[u32]) -> Vec<u8>, 2), (u32s, 4)] {
        fs::write(at("00000.ds"), bytes(&[1, 2, 0, 3, 0])).unwrap();
        fs::write(at("00000.ds.index"), ends(&[3, 5])).unwrap();
        fs::write(at("00001.ds"), bytes(&[4, 5, 6, 0])).unwrap();
        fs::write(at("00001.ds.index"), ends(&[0, 4])).unwrap();
        let inputs = [at("00000.ds"), at("00001.ds")];
        let found = run(&what(&inputs, Some(at("web")), 10, Some(0))).unwrap();
        assert_eq!((found.format, found.documents), ("datatrove", 4));
        assert_eq!(documents(&at("web")), [vec![1, 2, 0], vec![3, 0], vec![], vec![4, 5, 6, 0]]);
        assert_eq!(Corpus::open(&at("web")).unwrap().token_bytes(), item);
    }
}

#[test]
fn bare_numbers_need_their_type_and_big_files_are_read_in_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // More than one block of 2^18 tokens, documents of 1000 tokens ended by 0.
    let ids: Vec<u32> = (1..=600_123).map(|i| if i % 1000 == 0 { 0 } else { 1 + i % 50_000 }).collect();
    fs::write(at("train.bin"), u16s(&ids)).unwrap();
    let mut raw = what(&[at("train.bin")], Some(at("web")), 60_000, Some(0));
    let error = run(&raw).unwrap_err().to_string();
    assert!(error.contains("train.bin: is no Megatron index") && error.contains("say --dtype"), "{error}");
    raw.dtype = Some(PartType::U16);
    assert_eq!(run(&raw).unwrap().documents, 601);
    let found = documents(&at("web"));
    assert_eq!((found[0].len(), found[600].len(), found.concat()), (1000, 123, ids.clone()));
    // Adopted tokens can be staged, read by position, and made our own.
    let adopted = Corpus::open(&at("web")).unwrap();
    for io in [Io::Stage, Io::Pread] {
        let other = Corpus::open_with(&at("web"), io, Some(&at("node"))).unwrap();
        assert!(flat(&other) == flat(&adopted));
    }
    compress_corpus(&at("web"), 1, false, None, &mut |_, _| {}).unwrap();
    fs::remove_file(at("train.bin")).unwrap();
    let own = Corpus::open(&at("web")).unwrap();
    assert_eq!(own.hash(), adopted.hash());
    assert_eq!(documents(&at("web")).concat(), ids);
}

#[test]
fn megatron_files_become_a_corpus_where_they_are_or_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Documents of 2, 0 and 1 sequences.
    let bytes = index(4, &[3, 2, 4], &[0, 2, 2, 3]);
    fs::write(at("corpus.idx"), &bytes).unwrap();
    fs::write(at("corpus.bin"), u32s(&[1, 2, 3, 4, 99_999, 6, 7, 8, 99_999])).unwrap();
    let want = [vec![1, 2, 3, 4, 99_999], vec![], vec![6, 7, 8, 99_999]];
    for input in ["corpus", "corpus.bin", "corpus.idx"] {
        let found = run(&what(&[at(input)], None, 100_000, Some(99_999))).unwrap();
        assert_eq!((found.prefix, found.format, found.documents), (at("corpus"), "megatron", 3));
        assert_eq!(documents(&at("corpus")), want);
        fs::remove_file(at("corpus.json")).unwrap();
    }
    run(&what(&[at("corpus")], Some(at("else/where")), 100_000, None)).unwrap();
    assert_eq!(documents(&at("else/where")), want);
    assert_eq!(fs::read(at("else/where.idx")).unwrap(), bytes);
    let corpus = Corpus::open(&at("else/where")).unwrap();
    assert_eq!((corpus.sequences(), corpus.sequence_range(1).unwrap()), (3, 3..5));
    let mut lengths = [0; 3];
    corpus.sequence_lengths(0, &mut lengths).unwrap();
    assert_eq!(lengths, [3, 2, 4]);
    // A second description would be a second truth.
    run(&what(&[at("corpus")], None, 100_000, None)).unwrap();
    let error = run(&what(&[at("corpus")], None, 100_000, None)).unwrap_err().to_string();
    assert!(error.contains("corpus.json: is there already"), "{error}");
}

#[test]
fn a_tokenizer_json_says_vocabulary_and_hash_and_lies_beside_the_corpus() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let tokenizer = r#"{"added_tokens": [{"id": 12, "content": "<eos>"}],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 10}}}"#;
    fs::write(at("tokenizer.json"), tokenizer).unwrap();
    fs::write(at("a.bin"), gpt2_shard(&[1, 12, 11, 12])).unwrap();
    let mut how = what(&[at("a.bin")], Some(at("web")), 0, Some(12));
    (how.tokenizer, how.vocab) = (at("tokenizer.json").to_str().unwrap().into(), None);
    run(&how).unwrap();
    let meta = Corpus::open(&at("web")).unwrap().meta().clone();
    assert_eq!((meta.vocab, meta.tokenizer.kind.as_str(), meta.end_of_document), (13, "bpe", Some(12)));
    assert_eq!(fs::read_to_string(at("web.tokenizer.json")).unwrap(), tokenizer);
    // Other white space, the same tokenizer.
    fs::write(at("tokenizer.json"), tokenizer.replace('\n', "")).unwrap();
    run(&how).unwrap();
    assert_eq!(Corpus::open(&at("web")).unwrap().meta().tokenizer, meta.tokenizer);
    for (text, want) in [("{", "is not JSON"), ("{\"a\": 1}", "has no model.type")] {
        fs::write(at("tokenizer.json"), text).unwrap();
        let error = run(&how).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json: ") && error.contains(want), "{error}");
    }
    how.tokenizer = "gone.json".into();
    assert!(run(&how).unwrap_err().to_string().contains("gone.json: there is no such file"));
}

#[test]
fn damaged_and_foreign_files_are_refused_with_one_sentence() {
    let ends = |ends: &[u64]| ends.iter().flat_map(|end| end.to_le_bytes()).collect::<Vec<u8>>();
    let ds = u16s(&[1, 2, 3, 4]);
    type File = (&'static str, Vec<u8>);
    let rows: Vec<(Vec<File>, &str)> = vec![
        (vec![("x.bin", vec![])], "x.bin: is no Megatron index, llm.c shard or datatrove file"),
        (vec![("x.bin", llmc(20_240_522, 1, 2, &u16s(&[1, 2])))], "x.bin: is no Megatron index, llm.c shard"),
        (
            vec![("x.bin", llmc(20_240_520, 2, 2, &u16s(&[1, 2])))],
            "x.bin at byte 4: version 2 of an llm.c shard",
        ),
        (
            vec![("x.bin", llmc(20_240_801, 1, 2, &u32s(&[1, 2])))],
            "version 1 of an llm.c shard; this program reads 7",
        ),
        (
            vec![("x.bin", llmc(20_240_520, 1, 3, &u16s(&[1, 2])))],
            "at byte 8: an llm.c shard of 3 tokens has 1030 bytes, not 1028",
        ),
        (vec![("x.bin", llmc(20_240_520, 1, 0, &[]))], "an llm.c shard of 0 tokens"),
        (vec![("x.bin", llmc(20_240_520, 1, -1, &u16s(&[1, 2])))], "an llm.c shard of 4294967295 tokens"),
        (vec![("x.bin", llmc(20_240_801, 7, 2, &u16s(&[1, 2])))], "has 1032 bytes, not 1028"),
        (
            vec![("x.bin", llmc(20_240_520, 1, 2, &u16s(&[1, 70])))],
            "x.bin at byte 1026: token 70 is outside the vocabulary of 50",
        ),
        (
            vec![("x.bin", ds.clone()), ("x.bin.index", vec![])],
            "x.bin.index: has 0 bytes, which are no list of document ends",
        ),
        (
            vec![("x.bin", ds.clone()), ("x.bin.index", ends(&[2, 4])[..15].into())],
            "has 15 bytes, which are no list",
        ),
        (
            vec![("x.bin", ds.clone()), ("x.bin.index", ends(&[2, 5]))],
            "x.bin.index at byte 8: the last document ends at token 5",
        ),
        (
            vec![("x.bin", ds.clone()), ("x.bin.index", ends(&[2, 3]))],
            "the last document ends at token 3, and",
        ),
        (
            vec![("x.bin", ds.clone()), ("x.bin.index", ends(&[u64::MAX]))],
            "the last document ends at token 18446744073709551615",
        ),
        (vec![("x.bin", vec![]), ("x.bin.index", ends(&[0]))], "the last document ends at token 0"),
        (
            vec![("x.bin", ds.clone()), ("x.bin.index", ends(&[3, 1, 4]))],
            "x.bin.index at byte 8: a document ends at token 1 of 4, the one before it at 3",
        ),
        (
            vec![("x.bin", ds.clone()), ("x.bin.index", ends(&[u64::MAX, 4]))],
            "at byte 0: a document ends at token 18446744073709551615 of 4",
        ),
        (vec![("x.bin", ds.clone()), ("x.idx", vec![])], "x.idx at byte 0: ends before its header"),
        (
            vec![("x.bin", ds.clone()), ("x.idx", index(5, &[4], &[0, 1]))],
            "x.idx at byte 17: number type 5; allowed are 8 (u16) and 4 (i32)",
        ),
        (
            vec![("x.bin", ds.clone()), ("x.idx", index(8, &[3], &[0, 1]))],
            "sequence 0 of 3 tokens of 2 bytes begins at byte 0, but .bin has 8",
        ),
        (
            vec![("x.bin", u16s(&[1, 70])), ("x.idx", index(8, &[2], &[0, 1]))],
            "x.bin at byte 2: token 70 is outside",
        ),
    ];
    for (files, want) in rows {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in &files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let input = folder.path().join("x.bin");
        let error = run(&what(&[input], Some(folder.path().join("out")), 50, None)).expect_err(want);
        assert_eq!(error.exit_code(), 3, "{error}");
        let error = error.to_string();
        assert!(error.contains(want) && error.contains("/x.") && !error.contains('\n'), "{want}: {error}");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            files.len(),
            "nothing is left behind: {want}"
        );
    }
}

#[test]
fn parts_that_changed_since_they_were_adopted_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let good = gpt2_shard(&[1, 2, 9, 3]);
    fs::write(at("a.bin"), &good).unwrap();
    fs::write(at("b.bin"), &good).unwrap();
    run(&what(&[at("a.bin"), at("b.bin")], Some(at("web")), 10, Some(9))).unwrap();
    let refused = |file: &str, change: &dyn Fn(&mut Vec<u8>), want: &str| {
        let before = fs::read(at(file)).unwrap();
        let mut bytes = before.clone();
        change(&mut bytes);
        fs::write(at(file), bytes).unwrap();
        let error = Corpus::open(&at("web")).unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
        fs::write(at(file), before).unwrap();
    };
    refused(
        "b.bin",
        &|b| b.truncate(1030),
        "b.bin: has 1030 bytes, not the 8 from 1024 that the corpus needs",
    );
    refused("b.bin", &|b| b[1026] = 5, "a.bin: tokens sampled from all parts of it have checksum");
    let edit = |from: &'static str, to: &'static str| {
        move |b: &mut Vec<u8>| {
            let text = String::from_utf8(b.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            *b = text.replacen(from, to, 1).into();
        }
    };
    for (from, to, want) in [
        ("\"tokens\": 4", "\"tokens\": 5", "\"parts\" have 9 tokens, and \"tokens\" is 8"),
        (
            "\"tokens\": 4",
            "\"tokens\": 18446744073709551615",
            "part 0 has 18446744073709551615 tokens from byte 1024",
        ),
        (
            "\"offset\": 1024",
            "\"offset\": 18446744073709551615",
            "from byte 18446744073709551615, which overflows",
        ),
        ("\"offset\": 1024", "\"offset\": 1026", "a.bin: has 1032 bytes, not the 8 from 1026"),
        ("\"dtype\": \"u16\"", "\"dtype\": \"i8\"", "unknown variant `i8`"),
        ("\"dtype\": \"u16\"", "\"dtype\": \"i32\"", "part 1 has numbers of 2 bytes, the first of 4"),
        ("\"a.bin\"", "\"gone.bin\"", "gone.bin: cannot open"),
        ("\"a.bin\"", "\"\"", "is not a file"),
    ] {
        refused("web.json", &edit(from, to), want);
    }
    fs::remove_file(at("b.bin")).unwrap();
    assert!(Corpus::open(&at("web")).unwrap_err().to_string().contains("b.bin: cannot open"));
}

#[test]
fn what_is_missing_on_the_command_line_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.bin"), gpt2_shard(&[1, 2])).unwrap();
    fs::write(at("b.ds"), u16s(&[1, 2])).unwrap();
    fs::write(at("b.ds.index"), 2u64.to_le_bytes()).unwrap();
    fs::create_dir(at("empty")).unwrap();
    let good = what(&[at("a.bin")], Some(at("web")), 10, None);
    for (how, want) in [
        (Adopt { vocab: None, ..good.clone() }, "--vocab: the vocabulary is not known"),
        (Adopt { vocab: Some(0), ..good.clone() }, "\"vocab\" is 0"),
        (Adopt { eod: Some(10), ..good.clone() }, "--eod: it is 10, outside the vocabulary of 10"),
        (Adopt { out: None, ..good.clone() }, "--out: it is missing"),
        (Adopt { inputs: vec![], ..good.clone() }, "INPUT: there is none"),
        (Adopt { inputs: vec![at("empty")], ..good.clone() }, "empty: has no .bin, .ds or .npy file"),
        (Adopt { inputs: vec![at("gone")], ..good.clone() }, "gone: cannot open"),
        (Adopt { dtype: Some(PartType::U32), ..good.clone() }, "has tokens of 2 bytes, and --dtype says 4"),
        (
            Adopt { tokenizer: "byte".into(), vocab: Some(300), ..good.clone() },
            "calls the tokenizer \"byte\" but",
        ),
        (Adopt { inputs: vec![at("a.bin"), at("b.ds")], ..good.clone() }, "b.ds: is of another kind than"),
    ] {
        let error = run(&how).expect_err(want).to_string();
        assert!(error.contains(want) && !error.contains('\n'), "{want}: {error}");
    }
}
