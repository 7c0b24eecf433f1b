//! Side streams and document columns: what is written comes back, from the bytes that the format promises, bound to
//! one corpus; and every damaged or foreign file is refused with one sentence.

use super::corpus;
use espalier::config::RunConfig;
use espalier::data::side::{self, Column, ColumnWriter, SideType, Stream, StreamWriter, Value};
use espalier::data::{Attention, Corpus, Domain, Ledger, Sampler};
use half::f16;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

const TYPES: [SideType; 6] =
    [SideType::U8, SideType::F16, SideType::F32, SideType::F64, SideType::I64, SideType::Utf8];

/// Documents whose tokens fill several blocks of a reader.
fn web(folder: &Path) -> Arc<Corpus> {
    corpus(folder, "web", &[5000, 3, 2, 4095, 30, 4])
}

fn file(corpus: &Corpus, end: &str) -> PathBuf {
    let name = corpus.prefix().file_name().unwrap().to_str().unwrap();
    corpus.prefix().with_file_name(format!("{name}.{end}"))
}

/// Value `i` of a column.
fn value(dtype: SideType, i: u64) -> Value {
    let texts = ["", "plain", "zwölf Boxkämpfer", "\u{0}\u{10ffff}", "x"];
    match dtype {
        SideType::U8 => Value::U8((i * 51) as u8),
        SideType::F16 => Value::F16(f16::from_f64(-1.5 * i as f64)),
        SideType::F32 => Value::F32(0.1 * i as f32),
        SideType::F64 => Value::F64(1e300 / (1.0 + i as f64)),
        SideType::I64 => Value::I64(i64::MIN + i as i64),
        SideType::Utf8 => Value::Utf8(texts[i as usize % texts.len()].into()),
    }
}

fn write_column(corpus: &Corpus, name: &str, dtype: SideType) {
    let mut writer = ColumnWriter::create(corpus.prefix(), name, dtype).unwrap();
    (0..corpus.documents()).for_each(|doc| writer.push(&value(dtype, doc)).unwrap());
    writer.finish(corpus.hash()).unwrap();
}

/// Value `i` of a stream: numbers that both types hold, with a period that no block has.
fn weight(i: u64) -> f32 {
    (i * 37 % 251) as f32
}

fn write_stream(corpus: &Corpus, name: &str, dtype: SideType) {
    let mut writer = StreamWriter::create(corpus.prefix(), name, dtype).unwrap();
    let values: Vec<f32> = (0..corpus.tokens()).map(weight).collect();
    // In uneven parts, as documents end.
    values.chunks(777).for_each(|part| writer.push(part).unwrap());
    writer.finish(corpus.hash()).unwrap();
}

#[test]
fn a_stream_gives_each_token_its_value_from_any_offset() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = web(folder.path());
    for dtype in [SideType::U8, SideType::F16] {
        write_stream(&corpus, dtype.name(), dtype);
        let stream = Stream::open(&corpus, dtype.name()).unwrap();
        stream.verify().unwrap();
        assert_eq!(stream.side_type(), dtype);
        let n = corpus.tokens();
        for (first, count) in [(0, n), (0, 0), (n, 0), (n - 1, 1), (1, 4096), (4095, 2), (2047, 4099)] {
            let mut values = vec![-1.0; count as usize];
            stream.read(first, &mut values).unwrap();
            let want: Vec<f32> = (first..first + count).map(weight).collect();
            assert!(values == want, "{dtype}: {count} from {first}");
        }
        for (first, count) in [(n, 1), (n + 1, 0), (0, n + 1), (u64::MAX, 2)] {
            let error = stream.read(first, &mut vec![0.0; count as usize]).unwrap_err().to_string();
            assert!(
                error.contains(&format!("values of tokens {first} to {} were", first.saturating_add(count))),
                "{error}"
            );
        }
    }
}

#[test]
fn a_column_gives_each_document_its_value_of_every_type() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = web(folder.path());
    for dtype in TYPES {
        write_column(&corpus, dtype.name(), dtype);
        let column = Column::open(&corpus, dtype.name()).unwrap();
        column.verify().unwrap();
        assert_eq!(column.side_type(), dtype);
        for doc in 0..corpus.documents() {
            assert_eq!(column.get(doc).unwrap(), value(dtype, doc), "{dtype}");
        }
        let error = column.get(6).unwrap_err().to_string();
        assert!(error.contains("values of documents 6 to 7 were asked for, it has 6"), "{error}");
    }
}

#[test]
fn files_have_the_bytes_of_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), "web", &[3, 2]);
    let mut stream = StreamWriter::create(corpus.prefix(), "loss", SideType::U8).unwrap();
    stream.fill(0.0, 2).unwrap();
    stream.push(&[1.0]).unwrap();
    stream.fill(1.0, 2).unwrap();
    stream.finish(corpus.hash()).unwrap();
    let mut column = ColumnWriter::create(corpus.prefix(), "source", SideType::Utf8).unwrap();
    for text in ["é", "ab"] {
        column.push(&Value::Utf8(text.into())).unwrap();
    }
    column.finish(corpus.hash()).unwrap();
    let halves = ColumnWriter::create(corpus.prefix(), "halves", SideType::F16).unwrap();
    let mut halves = halves;
    for x in [1.0, -2.0] {
        halves.push(&Value::F16(f16::from_f32(x))).unwrap();
    }
    halves.finish(corpus.hash()).unwrap();
    let mut texts = [0u64, 2, 4].map(u64::to_le_bytes).concat();
    texts.extend("éab".bytes());
    let cases: [(&str, [u8; 2], u64, Vec<u8>); 3] = [
        ("stream.loss", [0, 0], 5, vec![0, 0, 1, 1, 1]),
        ("col.source", [1, 5], 2, texts),
        ("col.halves", [1, 1], 2, vec![0x00, 0x3c, 0x00, 0xc0]),
    ];
    for (end, [kind, dtype], count, payload) in cases {
        let mut want = b"ESPSIDE\0\x01\0\0\0".to_vec();
        want.extend([kind, dtype, 0, 0]);
        want.extend([corpus.hash(), count, xxh3_64(&payload), 0, 0, 0].map(u64::to_le_bytes).concat());
        want.extend(payload);
        assert_eq!(fs::read(file(&corpus, end)).unwrap(), want, "{end}");
    }
}

#[test]
fn what_a_killed_writer_left_is_continued_to_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = web(folder.path());
    let prefix = corpus.prefix();
    for dtype in TYPES {
        write_column(&corpus, "whole", dtype);
        let whole = fs::read(file(&corpus, "col.whole")).unwrap();
        for keep in 0..=corpus.documents() {
            let mut killed = ColumnWriter::create(prefix, "part", dtype).unwrap();
            (0..keep).for_each(|i| killed.push(&value(dtype, i)).unwrap());
            killed.sync().unwrap();
            // Beyond what it noted it had written something else.
            (0..2).for_each(|i| killed.push(&value(dtype, i + 1)).unwrap());
            drop(killed);
            assert!(!file(&corpus, "col.part").exists());
            let mut resumed = ColumnWriter::resume(prefix, "part", dtype, keep).unwrap();
            assert_eq!(resumed.len(), keep);
            (keep..corpus.documents()).for_each(|i| resumed.push(&value(dtype, i)).unwrap());
            resumed.finish(corpus.hash()).unwrap();
            let part = file(&corpus, "col.part");
            assert!(fs::read(&part).unwrap() == whole, "{dtype} after {keep}");
            fs::remove_file(part).unwrap();
        }
    }
    for dtype in [SideType::U8, SideType::F16] {
        write_stream(&corpus, "whole", dtype);
        for keep in [0, 1, 5000, 8192, corpus.tokens()] {
            let mut killed = StreamWriter::create(prefix, "part", dtype).unwrap();
            (0..keep).for_each(|i| killed.push(&[weight(i)]).unwrap());
            killed.fill(9.0, 10_000).unwrap();
            drop(killed);
            let mut resumed = StreamWriter::resume(prefix, "part", dtype, keep).unwrap();
            assert_eq!(resumed.len(), keep);
            (keep..corpus.tokens()).for_each(|i| resumed.push(&[weight(i)]).unwrap());
            resumed.finish(corpus.hash()).unwrap();
            let read = |end| fs::read(file(&corpus, end)).unwrap();
            assert!(read("stream.part") == read("stream.whole"), "{dtype} after {keep}");
        }
    }
    // Less than was noted cannot be continued.
    drop(StreamWriter::create(prefix, "short", SideType::F16).unwrap());
    let error = StreamWriter::resume(prefix, "short", SideType::F16, 3).map(drop).unwrap_err().to_string();
    assert!(error.contains("web.stream.short.tmp: has 64 bytes, fewer than the 6"), "{error}");
    let error = StreamWriter::resume(prefix, "none", SideType::F16, 3).map(drop).unwrap_err().to_string();
    assert!(error.contains("web.stream.none.tmp: cannot continue"), "{error}");
}

#[test]
fn only_finished_files_are_listed_and_nothing_else_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = web(folder.path());
    write_stream(&corpus, "nll", SideType::F16);
    write_stream(&corpus, "loss", SideType::U8);
    write_column(&corpus, "url", SideType::Utf8);
    let before = fs::read(file(&corpus, "stream.nll")).unwrap();
    // Another attempt does not disturb what is there, and can be dropped.
    let mut again = StreamWriter::create(corpus.prefix(), "nll", SideType::F16).unwrap();
    again.push(&[3.0]).unwrap();
    let other = ColumnWriter::create(corpus.prefix(), "year", SideType::Utf8).unwrap();
    fs::write(folder.path().join("web2.stream.far"), "").unwrap();
    fs::write(folder.path().join("web.stream.a b"), "").unwrap();
    let names = side::list(corpus.prefix()).unwrap();
    assert_eq!(names.streams, ["loss", "nll"]);
    assert_eq!(names.columns, ["url"]);
    assert_eq!(fs::read(file(&corpus, "stream.nll")).unwrap(), before);
    again.discard().unwrap();
    other.discard().unwrap();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|f| !f.to_str().unwrap().ends_with(".tmp")), "{left:?}");
}

#[test]
fn what_a_type_cannot_hold_is_refused_not_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    let mut bytes = StreamWriter::create(&prefix, "u8", SideType::U8).unwrap();
    for bad in [0.5, -1.0, 256.0, f32::NAN, f32::INFINITY] {
        let error = bytes.push(&[1.0, bad]).unwrap_err().to_string();
        assert!(error.contains(&format!("the value {bad} does not fit into u8; u8 holds whole")), "{error}");
    }
    let mut halves = StreamWriter::create(&prefix, "f16", SideType::F16).unwrap();
    halves.push(&[65504.0, -65504.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-30]).unwrap();
    for bad in [65520.0, -1e30] {
        let error = halves.push(&[bad]).unwrap_err().to_string();
        assert!(error.contains("does not fit into f16"), "{error}");
    }
    for dtype in [SideType::F32, SideType::F64, SideType::I64, SideType::Utf8] {
        let error = StreamWriter::create(&prefix, "x", dtype).map(drop).unwrap_err().to_string();
        assert!(
            error.contains(&format!("a side stream of type {dtype}; side streams are u8 or f16")),
            "{error}"
        );
    }
    let mut column = ColumnWriter::create(&prefix, "year", SideType::I64).unwrap();
    let error = column.push(&Value::F64(1.0)).unwrap_err().to_string();
    assert!(error.contains("web.col.year: a value of type f64 for a column of i64"), "{error}");
    for name in ["", "a/b", "..", "a.b", "ü", "a b", &"x".repeat(101)] {
        let errors = [
            StreamWriter::create(&prefix, name, SideType::U8).map(drop).unwrap_err(),
            ColumnWriter::create(&prefix, name, SideType::U8).map(drop).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains(&format!("{name:?} cannot name a ")), "{error}");
        }
    }
}

#[test]
fn a_file_of_another_corpus_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let web = web(folder.path());
    // Of the same sizes, with one letter changed.
    let other = corpus(folder.path(), "other", &[5000, 3, 2, 4094, 31, 4]);
    assert_eq!((web.tokens(), web.documents()), (other.tokens(), other.documents()));
    write_stream(&web, "nll", SideType::F16);
    write_column(&web, "url", SideType::Utf8);
    fs::copy(file(&web, "stream.nll"), file(&other, "stream.nll")).unwrap();
    fs::copy(file(&web, "col.url"), file(&other, "col.url")).unwrap();
    let (made, here) = (web.hash(), other.hash());
    let want = format!("was made for corpus {made:016x}, but the one beside it is {here:016x}");
    for error in [
        Stream::open(&other, "nll").map(drop).unwrap_err(),
        Column::open(&other, "url").map(drop).unwrap_err(),
    ] {
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(&want), "{error}");
    }
    // A copy of the corpus under another name takes them.
    for end in ["bin", "idx", "json", "stream.nll"] {
        fs::copy(file(&web, end), folder.path().join(format!("copy.{end}"))).unwrap();
    }
    Stream::open(&Corpus::open(&folder.path().join("copy")).unwrap(), "nll").unwrap().verify().unwrap();
    let error = Stream::open(&web, "loss").unwrap_err().to_string();
    assert!(
        error.contains("web.stream.loss: there is no such file; this corpus has the side streams nll"),
        "{error}"
    );
    let error = Column::open(&other, "loss").unwrap_err().to_string();
    assert!(error.contains("this corpus has the document columns url"), "{error}");
}

type Change = Box<dyn Fn(&mut Vec<u8>)>;

fn put<const N: usize>(at: usize, value: [u8; N]) -> Change {
    Box::new(move |bytes| bytes[at..at + N].copy_from_slice(&value))
}

fn word(at: usize, value: u64) -> Change {
    put(at, value.to_le_bytes())
}

/// Of `stream.f16` (9134 tokens) and `col.utf8` (6 texts of 0, 5, 18, 5, 1, 0 bytes from byte 120 on).
fn table() -> Vec<(&'static str, Change, &'static str)> {
    let (stream, text) = ("stream.f16", "col.utf8");
    vec![
        (stream, Box::new(|b| b.clear()), "at byte 0: ends before its header of 64 bytes does"),
        (stream, Box::new(|b| b.truncate(63)), "at byte 63: ends before its header of 64 bytes does"),
        (stream, put(0, *b"ESPSIDF"), "at byte 0: does not begin with ESPSIDE"),
        (stream, put(8, [2]), "at byte 8: version 2; this program reads 1"),
        (stream, put(12, [2]), "at byte 12: kind 2; allowed are 0 (side stream) and 1 (document column)"),
        (stream, put(12, [1]), "at byte 12: is a document column, but its name is that of a side stream"),
        (text, put(12, [0, 1]), "at byte 12: is a side stream, but its name is that of a document column"),
        (stream, put(13, [2]), "at byte 13: number type 2 of a side stream; allowed are 0 (u8), 1 (f16)"),
        (
            text,
            put(13, [6]),
            "at byte 13: number type 6 of a document column; allowed are 0 (u8), 1 (f16), 2 (f32)",
        ),
        (stream, put(15, [1]), "at byte 15: has 1 where version 1 has 0"),
        (stream, put(63, [7]), "at byte 63: has 7 where version 1 has 0"),
        (stream, word(16, 5), "at byte 16: was made for corpus 0000000000000005, but"),
        (stream, word(24, 9133), "at byte 24: has 9133 values for the corpus' 9134 tokens"),
        (text, word(24, u64::MAX), "at byte 24: has 18446744073709551615 values for the corpus' 6 documents"),
        (stream, put(13, [0]), "at byte 24: 9134 values of type u8 need 9198 bytes, not 18332"),
        (stream, Box::new(|b| b.truncate(18331)), "values of type f16 need 18332 bytes, not 18331"),
        (stream, Box::new(|b| b.push(0)), "values of type f16 need 18332 bytes, not 18333"),
        (text, Box::new(|b| b.truncate(119)), "at byte 24: 6 texts need 120 bytes or more, not 119"),
        (text, Box::new(|b| b.truncate(140)), "at byte 112: the texts end at 29, but the file has 20 bytes"),
        (text, Box::new(|b| b.push(0)), "at byte 112: the texts end at 29, but the file has 30 bytes"),
        (text, word(64, 1), "at byte 64: the first text begins at 1, not 0"),
        (text, word(112, u64::MAX), "the texts end at 18446744073709551615, but the file has 29 bytes"),
        (text, word(72, 6), "at byte 72: text 1 runs from 6 to 5 of 29"),
        (text, word(80, 1 << 63), "text 1 runs from 0 to 9223372036854775808 of 29"),
        (text, put(130, [0xff]), "at byte 125: text 2 is not UTF-8: invalid utf-8 sequence"),
        (text, put(121, *b"Q"), "its values have checksum "),
        (stream, put(18331, [1]), "its values have checksum "),
    ]
}

#[test]
fn every_damaged_file_is_refused_with_its_place_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = web(folder.path());
    write_stream(&corpus, "f16", SideType::F16);
    write_column(&corpus, "utf8", SideType::Utf8);
    let use_all = || {
        Stream::open(&corpus, "f16")?.verify()?;
        let column = Column::open(&corpus, "utf8")?;
        (0..corpus.documents()).try_for_each(|doc| column.get(doc).map(drop))?;
        column.verify()
    };
    use_all().unwrap();
    for (end, change, want) in table() {
        let path = file(&corpus, end);
        let sound = fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        change(&mut bytes);
        assert!(bytes != sound, "{want}: nothing was changed");
        fs::write(&path, bytes).unwrap();
        let error = use_all().expect_err(want);
        assert_eq!(error.exit_code(), 3);
        let error = error.to_string();
        assert!(
            error.contains(want) && error.contains(&format!("web.{end}")),
            "want {want:?}, got {error:?}"
        );
        assert!(!error.contains('\n'), "{error}");
        fs::write(&path, sound).unwrap();
    }
}

#[test]
fn no_cut_and_no_changed_byte_of_the_header_panics() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = web(folder.path());
    write_column(&corpus, "utf8", SideType::Utf8);
    let path = file(&corpus, "col.utf8");
    let sound = fs::read(&path).unwrap();
    let use_all = || {
        let column = Column::open(&corpus, "utf8")?;
        (0..corpus.documents()).try_for_each(|doc| column.get(doc).map(drop))?;
        column.verify()
    };
    for at in 0..sound.len() {
        fs::write(&path, &sound[..at]).unwrap();
        assert!(use_all().is_err(), "cut at {at}");
        for change in [1, 0x80, 0xff] {
            let mut bytes = sound.clone();
            bytes[at] ^= change;
            fs::write(&path, bytes).unwrap();
            assert!(use_all().is_err(), "byte {at} xor {change}");
        }
    }
}

#[test]
fn a_file_that_shrinks_or_is_replaced_in_use_is_an_error_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = web(folder.path());
    write_stream(&corpus, "f16", SideType::F16);
    write_column(&corpus, "utf8", SideType::Utf8);
    let (stream, column) = (Stream::open(&corpus, "f16").unwrap(), Column::open(&corpus, "utf8").unwrap());
    stream.unchanged().unwrap();
    for end in ["stream.f16", "col.utf8"] {
        fs::File::options().write(true).open(file(&corpus, end)).unwrap().set_len(0).unwrap();
    }
    let mut values = [0.0; 5];
    let n = corpus.tokens();
    for error in [
        stream.read(n - 5, &mut values).unwrap_err(),
        stream.verify().unwrap_err(),
        stream.unchanged().unwrap_err(),
    ] {
        assert!(error.to_string().contains("web.stream.f16") && error.exit_code() == 3, "{error}");
    }
    let error = column.get(2).unwrap_err();
    assert!(error.to_string().contains("web.col.utf8"), "{error}");
}

#[test]
fn corpus_verify_reads_all_that_lies_beside_a_corpus() {
    let folder = tempfile::tempdir().unwrap();
    let web = web(folder.path());
    let verify = |more: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
        command.args(["corpus", "verify"]).arg(web.prefix()).args(more).output().unwrap()
    };
    assert!(verify(&[]).status.success());
    write_stream(&web, "nll", SideType::F16);
    write_stream(&web, "loss", SideType::U8);
    write_column(&web, "url", SideType::Utf8);
    let output = verify(&["--json"]);
    assert!(output.status.success(), "{output:?}");
    let row: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&row["streams"], &row["columns"]), (&["loss", "nll"][..].into(), &["url"][..].into()));
    let text = verify(&[]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("side streams too: loss, nll\n  document columns too: url"), "{text}");
    for end in ["stream.nll", "stream.loss", "col.url"] {
        let path = file(&web, end);
        let sound = fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let output = verify(&[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(&format!("web.{end}: its values have checksum ")),
            "{said}"
        );
        fs::write(&path, sound).unwrap();
    }
    assert!(verify(&[]).status.success());
}

#[test]
fn a_stream_is_read_as_its_corpus_is_and_one_cut_off_ends_the_run_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let stage = folder.path().join("stage");
    let web = web(folder.path());
    write_stream(&web, "loss", SideType::U8);
    let path = file(&web, "stream.loss");
    let sound = fs::read(&path).unwrap();
    let mapped = |path: &Path| {
        let path = fs::canonicalize(path).unwrap();
        fs::read_to_string("/proc/self/maps").unwrap().contains(path.to_str().unwrap())
    };
    for io in ["mmap", "pread", "stage"] {
        let more = if io == "stage" { format!(", stage_dir = {stage:?}") } else { String::new() };
        let text = format!(
            "schema = 1\n[run]\ndir = \"x\"\nseq_len = 16\nglobal_batch = 4\n[model]\npreset = \"gpt2-tiny\"\n\
             [data]\nweb = {{ path = {:?}, weights = \"loss\", io = \"{io}\"{more} }}\n[[phase]]\nname = \"main\"\n\
             steps = 50\nlr = [{{ kind = \"const\", to = 1e-3 }}]\n",
            web.prefix()
        );
        let config = RunConfig::parse(&text, "run.toml", &[]).unwrap();
        let domain = Domain::open("web", &config.data[0].1).unwrap();
        assert_eq!(mapped(&path), io == "mmap", "{io}");
        let copies = || fs::read_dir(&stage).map_or(0, |folders| folders.count());
        assert_eq!(copies(), if io == "stage" { 2 } else { 0 }, "a corpus and its stream");
        domain.unchanged().unwrap();
        let ledger = Ledger::constant(&[("web", 1.0)]);
        let mut sampler = Sampler::new(3, 16, Attention::Full, vec![domain.clone()], ledger).unwrap();
        let before = sampler.batch(0, 20).unwrap();
        assert!(before.weights.iter().any(|&w| w > 1.0));
        fs::File::options().write(true).open(&path).unwrap().set_len(64).unwrap();
        if io == "stage" {
            assert_eq!(sampler.batch(0, 20).unwrap(), before);
            domain.unchanged().unwrap();
        } else {
            for error in [sampler.batch(0, 20).unwrap_err(), domain.unchanged().unwrap_err()] {
                let (want, said) = (
                    format!("had {} bytes when it was opened and now has 64", sound.len()),
                    error.to_string(),
                );
                assert!(said.contains("web.stream.loss") && said.contains(&want), "{io}: {said}");
                assert_eq!(error.exit_code(), 3);
            }
        }
        drop((sampler, domain));
        assert_eq!(copies(), 0, "the last reader removes copies");
        fs::write(&path, &sound).unwrap();
    }
}
