//! Building corpora and reading them back.

use super::{corpus, flat, varied};
use espalier::data::{BYTE_END, Corpus, build_bytes};
use std::fs;
use std::path::{Path, PathBuf};

fn text_folder(folder: &Path) {
    fs::create_dir_all(folder.join("in/deep")).unwrap();
    fs::write(folder.join("in/b.txt"), b"second\xff\xfe").unwrap();
    fs::write(folder.join("in/a.md"), "first").unwrap();
    fs::write(folder.join("in/empty.txt"), "").unwrap();
    fs::write(folder.join("in/skipped.html"), "not text").unwrap();
    let lines =
        "{\"text\": \"third\\nline\", \"source\": \"x\"}\n\n{\"text\": \"\"}\n{\"text\":\"fourth é\"}";
    fs::write(folder.join("in/deep/c.jsonl"), lines).unwrap();
}

fn documents(corpus: &Corpus) -> Vec<Vec<u8>> {
    let (tokens, _) = flat(corpus);
    (0..corpus.documents())
        .map(|doc| {
            let range = corpus.document_range(doc).unwrap();
            let (end, text) = tokens[range.start as usize..range.end as usize].split_last().unwrap();
            assert_eq!(*end, BYTE_END);
            text.iter().map(|&id| u8::try_from(id).unwrap()).collect()
        })
        .collect()
}

#[test]
fn text_comes_back_byte_for_byte_in_the_order_of_paths() {
    let folder = tempfile::tempdir().unwrap();
    text_folder(folder.path());
    let out = folder.path().join("out/web.v2");
    let summary = build_bytes(&[folder.path().join("in")], &out).unwrap();
    let corpus = Corpus::open(&out).unwrap();
    corpus.verify().unwrap();
    let want: [&[u8]; 4] = [b"first", b"second\xff\xfe", b"third\nline", "fourth é".as_bytes()];
    assert_eq!(documents(&corpus), want);
    assert_eq!((summary.files, summary.documents, summary.empty), (4, 4, 2));
    assert_eq!((summary.source_bytes, summary.tokens), (32, 36));
    assert_eq!((corpus.meta().source_bytes, corpus.tokens()), (32, 36));
    let mut names: Vec<_> = fs::read_dir(folder.path().join("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let want = ["web.v2.bin", "web.v2.col.source", "web.v2.idx", "web.v2.json"];
    assert_eq!(names, want, "temporary files are gone");
}

#[test]
fn the_same_text_gives_the_same_files_and_other_text_another_hash() {
    let folder = tempfile::tempdir().unwrap();
    text_folder(folder.path());
    let input = folder.path().join("in");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    build_bytes(&[input.join("deep"), input.join("a.md"), input.join("b.txt"), input.clone()], &one).unwrap();
    build_bytes(std::slice::from_ref(&input), &two).unwrap();
    for end in ["bin", "idx", "json"] {
        assert_eq!(fs::read(one.with_extension(end)).unwrap(), fs::read(two.with_extension(end)).unwrap());
    }
    let before = Corpus::open(&two).unwrap().hash();
    assert_eq!(Corpus::open(&one).unwrap().hash(), before);
    fs::write(input.join("a.md"), "First").unwrap();
    build_bytes(&[input], &two).unwrap();
    assert_ne!(Corpus::open(&two).unwrap().hash(), before);
}

#[test]
fn a_build_that_fails_names_the_line_and_leaves_the_old_corpus() {
    let folder = tempfile::tempdir().unwrap();
    text_folder(folder.path());
    let (input, out) = (folder.path().join("in"), folder.path().join("web"));
    build_bytes(std::slice::from_ref(&input), &out).unwrap();
    fs::write(input.join("z.jsonl"), "{\"text\": \"good\"}\n{\"body\": \"bad\"}\n").unwrap();
    let error = build_bytes(std::slice::from_ref(&input), &out).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let error = error.to_string();
    assert!(error.contains("z.jsonl at byte 17") && error.contains("has no \"text\""), "{error}");
    Corpus::open(&out).unwrap().verify().unwrap();
    assert!(!folder.path().join("web.bin.tmp").exists());
    let nothing = folder.path().join("nothing");
    let error = build_bytes(&[nothing], &out).unwrap_err().to_string();
    assert!(error.contains("nothing: cannot find"), "{error}");
    fs::create_dir(folder.path().join("bare")).unwrap();
    let error = build_bytes(&[folder.path().join("bare")], &out).unwrap_err().to_string();
    assert!(error.contains("bare: has no .txt, .md, .jsonl or .ndjson file"), "{error}");
    let error = build_bytes(&[input.join("empty.txt")], &out).unwrap_err().to_string();
    assert!(error.contains("the input has no text"), "{error}");
    Corpus::open(&out).unwrap().verify().unwrap();
}

#[test]
fn the_index_has_the_bytes_of_the_published_format() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path(), "web", &[3, 2]);
    let mut want = b"MMIDIDX\0\0".to_vec();
    want.extend(1u64.to_le_bytes());
    want.push(8);
    want.extend([2u64, 3].map(u64::to_le_bytes).concat());
    want.extend([3i32, 2].map(i32::to_le_bytes).concat());
    want.extend([0i64, 6].map(i64::to_le_bytes).concat());
    want.extend([0i64, 1, 2].map(i64::to_le_bytes).concat());
    assert_eq!(fs::read(folder.path().join("web.idx")).unwrap(), want);
    assert_eq!(fs::metadata(folder.path().join("web.bin")).unwrap().len(), 10);
}

#[test]
fn every_token_is_found_in_its_document() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), "web", &varied(300));
    let (tokens, documents) = flat(&corpus);
    for (token, &doc) in documents.iter().enumerate() {
        assert_eq!(corpus.document_at(token as u64).unwrap(), doc);
    }
    let mut some = [0; 7];
    corpus.read(1000, &mut some).unwrap();
    assert_eq!(some, tokens[1000..1007]);
    let end = corpus.tokens();
    for error in [
        corpus.read(end - 6, &mut some).unwrap_err(),
        corpus.read(u64::MAX - 1, &mut some).unwrap_err(),
        corpus.document_at(end).unwrap_err(),
        corpus.document_range(corpus.documents()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("asked for"), "{error}");
    }
}

#[test]
fn a_document_is_hashed_by_its_first_4096_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), "web", &[7, 5000, 2048, 2049]);
    let bin = fs::read(folder.path().join("web.bin")).unwrap();
    for (doc, bytes) in [(0, 0..14), (1, 14..14 + 4096), (2, 10_014..14_110), (3, 14_110..18_206)] {
        assert_eq!(
            corpus.document_hash(doc).unwrap(),
            xxhash_rust::xxh3::xxh3_64(&bin[bytes]),
            "document {doc}"
        );
    }
}

#[test]
fn the_public_domain_sample_makes_a_corpus() {
    let text = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/text");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sample");
    let summary = build_bytes(&[text], &out).unwrap();
    assert!(summary.documents >= 10 && summary.source_bytes > 200_000, "{summary:?}");
    let corpus = Corpus::open(&out).unwrap();
    corpus.verify().unwrap();
    let english = documents(&corpus).concat();
    let share = english.iter().filter(|&&b| b == b'e').count() as f64 / english.len() as f64;
    assert!((0.08..0.13).contains(&share), "share of the letter e: {share}");
}
