//! Damaged and foreign files: each is refused with one sentence that names the file, and never a panic.

use super::corpus;
use espalier::Error;
use espalier::data::{Corpus, Meta};
use std::fs;
use std::path::Path;

/// Opens and reads everything.
fn use_all(prefix: &Path) -> Result<(), Error> {
    let corpus = Corpus::open(prefix)?;
    corpus.verify()?;
    for token in 0..corpus.tokens() {
        corpus.document_at(token)?;
    }
    (0..corpus.documents()).try_for_each(|doc| corpus.document_hash(doc).map(drop))
}

fn edit(prefix: &Path, end: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = prefix.with_extension(end);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn put<const N: usize>(at: usize, value: [u8; N]) -> impl Fn(&mut Vec<u8>) {
    move |bytes| bytes[at..at + N].copy_from_slice(&value)
}

fn replace(from: &'static str, to: &'static str) -> impl Fn(&mut Vec<u8>) {
    move |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains(from), "{text}");
        *bytes = text.replace(from, to).into();
    }
}

type Change = Box<dyn Fn(&mut Vec<u8>)>;

/// Three documents of 4, 5 and 6 tokens: idx = 34 header, lengths at 34, offsets at 46, documents at 70, end 102.
fn table() -> Vec<(&'static str, Change, &'static str)> {
    let i64_at = |at, value: i64| -> Change { Box::new(put(at, value.to_le_bytes())) };
    let huge = u64::MAX.to_le_bytes();
    vec![
        ("idx", Box::new(|b| b.clear()), "ends before its header of 34 bytes"),
        ("idx", Box::new(|b| b.truncate(20)), "at byte 20: ends before its header"),
        ("idx", Box::new(|b| b.truncate(101)), "need 102 bytes, not 101"),
        ("idx", Box::new(|b| b.extend([0; 4])), "need 102 bytes, not 106"),
        ("idx", Box::new(put(0, *b"MMIDIDY")), "does not begin with MMIDIDX"),
        ("idx", i64_at(9, 2), "at byte 9: version 2"),
        ("idx", Box::new(put(17, [7])), "at byte 17: number type 7; allowed are 8 (u16) and 4 (i32)"),
        (
            "idx",
            Box::new(put(17, [4])),
            "sequence 2 of 6 tokens of 4 bytes begins at byte 18, but .bin has 30",
        ),
        ("idx", Box::new(put(18, huge)), "overflow"),
        ("idx", Box::new(put(26, huge)), "overflow"),
        ("idx", i64_at(18, 1 << 40), "need 13194139533378 bytes, not 102"),
        ("idx", i64_at(26, 5), "need 110 bytes, not 102"),
        ("idx", Box::new(put(34, (-4i32).to_le_bytes())), "sequence 0 of -4 tokens"),
        ("idx", Box::new(put(42, i32::MAX.to_le_bytes())), "sequence 2 of 2147483647 tokens"),
        ("idx", i64_at(46, 2), "the first sequence begins at byte 2, not 0"),
        (
            "idx",
            i64_at(54, 20),
            "sequence 0 of 4 tokens of 2 bytes begins at byte 0, but the next one begins at 20",
        ),
        ("idx", i64_at(54, -8), "but the next one begins at 18446744073709551608"),
        ("idx", i64_at(62, 1 << 62), "begins at byte 4611686018427387904"),
        ("idx", i64_at(70, 1), "the first document begins at sequence 1, not 0"),
        ("idx", i64_at(94, 2), "the last document ends at sequence 2, not 3"),
        ("idx", i64_at(78, 3), "document 1 runs from sequence 3 to 2 of 3"),
        ("idx", i64_at(78, -1), "document 0 runs from sequence 0 to 18446744073709551615"),
        ("bin", Box::new(|b| b.clear()), "but .bin has 0"),
        ("bin", Box::new(|b| b.truncate(28)), "but .bin has 28"),
        ("bin", Box::new(|b| b.extend([0, 0])), "but .bin has 32"),
        ("bin", Box::new(put(8, 7u16.to_le_bytes())), "tokens sampled from all parts of it have checksum"),
        ("json", Box::new(|b| b.clear()), "is not JSON"),
        ("json", Box::new(|b| b.truncate(40)), "is not JSON"),
        ("json", Box::new(|b| *b = b"[1]".to_vec()), "\"format\" is null"),
        ("json", Box::new(|b| b.resize(17 << 20, b' ')), "has at most 16777216"),
        ("json", Box::new(replace("espalier-corpus", "other")), "\"format\" is \"other\""),
        (
            "json",
            Box::new(replace("\"version\": 1", "\"version\": 2")),
            "\"version\" is 2; this program reads 1",
        ),
        ("json", Box::new(replace("\"vocab\": 257", "\"vocab\": 0")), "\"vocab\" is 0"),
        ("json", Box::new(replace("\"vocab\": 257", "\"vocab\": -1")), "invalid value: integer `-1`"),
        (
            "json",
            Box::new(replace("\"vocab\": 257", "\"vocab\": 256")),
            "\"end_of_document\" is 256, outside",
        ),
        ("json", Box::new(replace("\"vocab\": 257", "\"vocab\": 300")), "calls the tokenizer \"byte\" but"),
        ("json", Box::new(replace("\"tokens\"", "\"tokns\"")), "unknown field `tokns`"),
        ("json", Box::new(replace("\"tokens\": 15", "\"tokens\": 16")), "states 16 tokens in 3 documents"),
        (
            "json",
            Box::new(replace("\"tokens\": 15", "\"tokens\": 18446744073709551615")),
            "are not of one corpus",
        ),
        (
            "json",
            Box::new(replace("\"documents\": 3", "\"documents\": 2")),
            "in 2 documents, but .bin and .idx hold",
        ),
        (
            "json",
            Box::new(replace("\"bin_xxh3\": \"", "\"bin_xxh3\": \"+")),
            "a hash is 16 hexadecimal digits",
        ),
    ]
}

#[test]
fn damaged_files_are_refused_with_one_sentence_that_names_the_file() {
    for (end, change, want) in table() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("web");
        corpus(folder.path(), "web", &[4, 5, 6]);
        use_all(&prefix).unwrap();
        edit(&prefix, end, change);
        let error = use_all(&prefix).expect_err(want);
        assert_eq!(error.exit_code(), 3, "{error}");
        let error = error.to_string();
        assert!(error.contains(want) && error.contains("/web.") && !error.contains('\n'), "{want}: {error}");
    }
}

#[test]
fn damage_between_the_blocks_that_opening_samples_is_found_by_reading_and_verifying() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    corpus(folder.path(), "web", &[200_000, 200_000]);
    let good = fs::read(prefix.with_extension("bin")).unwrap();
    // 800,000 bytes in 64 blocks of 4096: block i begins at (800,000 - 4096) i / 63.
    let at = 12_632 * 20 + 4096 + 1000;
    edit(&prefix, "bin", put(at, 300u16.to_le_bytes()));
    let damaged = Corpus::open(&prefix).unwrap();
    let mut tokens = [0; 64];
    let mut want = format!("web.bin at byte {at}: token 300 is outside the vocabulary of 257");
    let error = damaged.read(at as u64 / 2 - 10, &mut tokens).unwrap_err().to_string();
    assert!(error.contains(&want), "{error}");
    let error = damaged.verify().unwrap_err().to_string();
    assert!(error.contains(&want), "{error}");
    drop(damaged);
    let other = if good[at] == 7 { 8u16 } else { 7 };
    edit(&prefix, "bin", put(at, other.to_le_bytes()));
    want = "web.bin: has checksum".into();
    let error = Corpus::open(&prefix).unwrap().verify().unwrap_err().to_string();
    assert!(error.contains(&want), "{error}");
}

#[test]
fn every_single_byte_of_the_index_matters_or_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    corpus(folder.path(), "web", &[4, 5, 6]);
    let idx = prefix.with_extension("idx");
    let good = fs::read(&idx).unwrap();
    for at in 0..good.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            fs::write(&idx, bad).unwrap();
            assert!(use_all(&prefix).is_err(), "byte {at} changed by {flip:#x} went unnoticed");
        }
    }
}

#[test]
fn entries_that_opening_does_not_look_at_give_errors_when_used() {
    // 1000 documents: opening looks at 64 of them. Offsets and boundaries are damaged in between.
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    corpus(folder.path(), "web", &[3; 1000]);
    for (at, value) in [(34 + 4000 + 8 * 503, 1 << 62), (34 + 12_000 + 8 * 503, 1 << 62)] {
        let idx = fs::read(prefix.with_extension("idx")).unwrap();
        edit(&prefix, "idx", put(at, i64::to_le_bytes(value)));
        let corpus = Corpus::open(&prefix).unwrap();
        assert!(corpus.document_range(503).is_err() && corpus.document_range(502).is_err());
        assert!(corpus.document_hash(503).is_err() && corpus.verify().is_err());
        fs::write(prefix.with_extension("idx"), idx).unwrap();
    }
    for at in [34 + 4000 + 8 * 503, 34 + 12_000 + 8 * 503] {
        let idx = fs::read(prefix.with_extension("idx")).unwrap();
        edit(&prefix, "idx", put(at, 0i64.to_le_bytes()));
        let corpus = Corpus::open(&prefix).unwrap();
        assert!(corpus.document_range(502).unwrap_err().to_string().contains("document 502 runs from token"));
        fs::write(prefix.with_extension("idx"), idx).unwrap();
    }
}

#[test]
fn missing_files_are_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    for end in ["bin", "idx", "json"] {
        corpus(folder.path(), "web", &[4, 5]);
        fs::remove_file(prefix.with_extension(end)).unwrap();
        let error = Corpus::open(&prefix).unwrap_err().to_string();
        assert!(
            error.contains(&format!("web.{end}: there is no such file; a corpus is PREFIX.bin")),
            "{error}"
        );
    }
    corpus(folder.path(), "web", &[4, 5]);
    let error = Corpus::open(&prefix.with_extension("bin")).unwrap_err().to_string();
    assert!(error.contains("web.bin.json: there is no such file; give the path without .bin"), "{error}");
}

#[test]
fn the_description_of_another_corpus_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path(), "web", &[4, 5]);
    corpus(folder.path(), "other", &[4, 5, 6]);
    let json = folder.path().join("other.json");
    fs::copy(&json, folder.path().join("web.json")).unwrap();
    let error = Corpus::open(&folder.path().join("web")).unwrap_err().to_string();
    assert!(
        error.contains("web.json: states 15 tokens in 3 documents, but .bin and .idx hold 9 in 2"),
        "{error}"
    );
    corpus(folder.path(), "other", &[5, 4]);
    fs::copy(&json, folder.path().join("web.json")).unwrap();
    let error = Corpus::open(&folder.path().join("web")).unwrap_err().to_string();
    assert!(error.contains("web.bin: tokens sampled from all parts of it"), "{error}");
    // An index of the same size passes until the checksums are compared.
    corpus(folder.path(), "web", &[4, 5]);
    fs::copy(folder.path().join("other.idx"), folder.path().join("web.idx")).unwrap();
    let error = Corpus::open(&folder.path().join("web")).unwrap().verify().unwrap_err().to_string();
    assert!(error.contains("web.idx: has checksum"), "{error}");
}

#[test]
fn an_index_without_documents_is_no_corpus() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    corpus(folder.path(), "web", &[4]);
    let header = |sequences: u64, entries: u64| {
        let mut idx = fs::read(prefix.with_extension("idx")).unwrap()[..18].to_vec();
        idx.extend([sequences, entries, 0].map(u64::to_le_bytes).concat());
        idx.truncate(34 + 8 * entries as usize);
        idx
    };
    for entries in [0, 1] {
        fs::write(prefix.with_extension("idx"), header(0, entries)).unwrap();
        fs::write(prefix.with_extension("bin"), b"").unwrap();
        let error = Corpus::open(&prefix).unwrap_err().to_string();
        assert!(error.contains("web.idx at byte 18: has 0 sequences and 0 documents: no text"), "{error}");
    }
    assert!(Meta::read(&prefix.with_extension("json")).is_ok());
}
