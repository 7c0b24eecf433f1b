//! Megatron's files and Megatron's order, against files and hashes that its own classes wrote
//! (tools/oracle/megatron_goldens.py).

use super::domain;
use espalier::config::Order;
use espalier::data::{Attention, Corpus, CorpusWriter, Cursor, Domain, HeldOut, Ledger, Sampler, Tokenizer};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/megatron").join(name)
}

fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer { kind: "test".into(), hash: 1 }
}

/// PREFIX.json for .bin and .idx that are there already. Its fields come out of a corpus that the writer made.
pub fn describe(prefix: &Path, vocab: u32, documents: u64) -> Arc<Corpus> {
    let like = prefix.with_extension("like");
    let mut writer = CorpusWriter::create(&like, vocab, tokenizer(), None).unwrap();
    writer.push(&[0]).unwrap();
    writer.finish().unwrap();
    let json = |prefix: &Path| PathBuf::from(format!("{}.json", prefix.display()));
    let mut meta: Value = serde_json::from_slice(&fs::read(json(&like)).unwrap()).unwrap();
    let (bin, idx) = (fs::read(prefix.with_extension("bin")).unwrap(), prefix.with_extension("idx"));
    let item = if vocab < 65_500 { 2 } else { 4 };
    meta["tokens"] = json!(bin.len() / item);
    meta["documents"] = json!(documents);
    meta["bin_xxh3"] = json!(format!("{:016x}", xxh3_64(&bin)));
    meta["idx_xxh3"] = json!(format!("{:016x}", xxh3_64(&fs::read(idx).unwrap())));
    meta.as_object_mut().unwrap().remove("sampled_xxh3");
    fs::write(json(prefix), meta.to_string()).unwrap();
    Arc::new(Corpus::open(prefix).unwrap())
}

/// .bin and .idx of documents that are lists of sequences, by the published format.
pub fn write(prefix: &Path, vocab: u32, documents: &[Vec<Vec<u32>>]) -> Arc<Corpus> {
    let (mut bin, mut lengths, mut offsets, mut ends) = (vec![], vec![], vec![], 0i64.to_le_bytes().to_vec());
    for document in documents {
        for sequence in document {
            offsets.extend((bin.len() as i64).to_le_bytes());
            lengths.extend((sequence.len() as i32).to_le_bytes());
            match vocab < 65_500 {
                true => bin.extend(sequence.iter().flat_map(|&id| (id as u16).to_le_bytes())),
                false => bin.extend(sequence.iter().flat_map(|&id| id.to_le_bytes())),
            }
        }
        ends.extend((lengths.len() as i64 / 4).to_le_bytes());
    }
    let mut idx = b"MMIDIDX\0\0".to_vec();
    idx.extend(1u64.to_le_bytes());
    idx.push(if vocab < 65_500 { 8 } else { 4 });
    idx.extend((lengths.len() as u64 / 4).to_le_bytes());
    idx.extend((ends.len() as u64 / 8).to_le_bytes());
    idx.extend([lengths, offsets, ends].concat());
    fs::write(prefix.with_extension("bin"), bin).unwrap();
    fs::write(prefix.with_extension("idx"), idx).unwrap();
    describe(prefix, vocab, documents.len() as u64)
}

/// SplitMix64 of the parts, one after another.
fn word(parts: &[u64]) -> u64 {
    parts.iter().fold(0u64, |z, part| {
        let z = part.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_add(z << 6);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// The corpora of the cases: number, sequences, most tokens of a sequence, vocabulary.
const CORPORA: [(&str, u64, u64, u64, u32); 4] = [
    ("a", 1, 5000, 120, 50_257),
    ("b", 2, 900, 700, 70_000),
    ("c", 3, 64, 300, 50_257),
    ("d", 4, 3000, 40, 50_257),
];

fn case_corpora(folder: &Path) -> Vec<Arc<Corpus>> {
    let one = |&(name, number, count, most, vocab): &(&str, u64, u64, u64, u32)| {
        let length = |i| match (i % 11, i % 13) {
            (5, _) => 0,
            (_, 7) => 1,
            _ => word(&[number, i]) % most + 2,
        };
        let token = |i, t| (word(&[number, i, t]) % u64::from(vocab)) as u32;
        let sequences = (0..count).map(|i| (0..length(i)).map(|t| token(i, t)).collect::<Vec<_>>());
        let mut documents: Vec<Vec<Vec<u32>>> = vec![vec![]];
        for sequence in sequences {
            let n = documents.len() - 1;
            if documents[n].len() == n % 3 + 1 {
                documents.push(vec![]);
            }
            documents.last_mut().unwrap().push(sequence);
        }
        write(&folder.join(name), vocab, &documents)
    };
    CORPORA.iter().map(one).collect()
}

#[test]
fn files_of_megatrons_writer_are_read() {
    let documents: Vec<Vec<Vec<u32>>> = serde_json::from_value(golden_json("tiny.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, vocab) in [("tiny-u16", 65_499), ("tiny-i32", 65_500)] {
        for end in ["bin", "idx"] {
            let file = format!("{name}.{end}");
            fs::copy(golden(&file), folder.path().join(&file)).unwrap();
        }
        let corpus = describe(&folder.path().join(name), vocab, documents.len() as u64);
        corpus.verify().unwrap();
        let read = |range: std::ops::Range<u64>| {
            let mut tokens = vec![0; (range.end - range.start) as usize];
            corpus.read(range.start, &mut tokens).unwrap();
            tokens
        };
        let own = |sequence: &Vec<u32>| sequence.iter().map(|id| id % vocab).collect::<Vec<_>>();
        for (doc, sequences) in documents.iter().enumerate() {
            let want: Vec<u32> = sequences.iter().flat_map(own).collect();
            assert_eq!(read(corpus.document_range(doc as u64).unwrap()), want, "{name}, document {doc}");
        }
        for (i, sequence) in documents.iter().flatten().enumerate() {
            assert_eq!(read(corpus.sequence_range(i as u64).unwrap()), own(sequence), "{name}, sequence {i}");
        }
        assert_eq!(corpus.sequences(), documents.iter().flatten().count() as u64);
    }
}

#[test]
fn our_files_have_the_bytes_of_megatrons_writer() {
    // The test's own writer, with empty documents and several sequences.
    let documents: Vec<Vec<Vec<u32>>> = serde_json::from_value(golden_json("tiny.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("tiny-i32"), 65_500, &documents);
    for file in ["tiny-i32.bin", "tiny-i32.idx"] {
        assert_eq!(fs::read(folder.path().join(file)).unwrap(), fs::read(golden(file)).unwrap(), "{file}");
    }
    case_corpora(folder.path());
    let stated = &golden_json("samples.json")["files"];
    for (name, ..) in CORPORA {
        for (i, end) in ["bin", "idx"].iter().enumerate() {
            let bytes = fs::read(folder.path().join(format!("{name}.{end}"))).unwrap();
            assert_eq!(stated[name][i], format!("{:016x}", xxh3_64(&bytes)), "{name}.{end}");
        }
    }
    // The program's writer, which makes each document one sequence, as Megatron's preprocessing does; of empty
    // documents see `empty`.
    let golden = golden_json("samples.json")["writer"].clone();
    for (name, vocab) in [("writer-u16", 50_257), ("writer-i32", 70_000)] {
        let mut writer = CorpusWriter::create(&folder.path().join(name), vocab, tokenizer(), None).unwrap();
        for i in 0..1000 {
            let length = if i % 7 == 0 { 1 } else { word(&[9, i]) % 50 + 1 };
            let text: Vec<u32> = (0..length).map(|t| (word(&[9, i, t]) % u64::from(vocab)) as u32).collect();
            writer.push(&text).unwrap();
            writer.end_document(0).unwrap();
        }
        writer.finish().unwrap();
        for (i, end) in ["bin", "idx"].iter().enumerate() {
            let bytes = fs::read(folder.path().join(format!("{name}.{end}"))).unwrap();
            assert_eq!(golden[name][i], format!("{:016x}", xxh3_64(&bytes)), "{name}.{end}");
        }
    }
}

/// A cursor over one mix of domains in Megatron's order.
fn cursor(seed: u64, seq_len: usize, domains: &[Domain], weights: &[f64], samples: u64) -> Cursor {
    let named: Vec<(&str, f64)> =
        domains.iter().map(|d| d.name.as_str()).zip(weights.iter().copied()).collect();
    let ledger = Ledger::constant(&named);
    Cursor { samples: Some(samples), ..Cursor::new(seed, seq_len, Attention::Full, ledger) }
}

fn megatron(name: &str, corpus: &Arc<Corpus>, split: [f64; 3]) -> Domain {
    let mut domain = domain(name, corpus, 0.0);
    (domain.order, domain.split) = (Order::Megatron, split);
    domain
}

#[test]
fn the_first_samples_are_those_of_megatrons_own_datasets() {
    let folder = tempfile::tempdir().unwrap();
    let corpora = case_corpora(folder.path());
    let cases = golden_json("samples.json")["cases"].as_array().unwrap().clone();
    assert!(cases.len() >= 17);
    for case in &cases {
        let split: [f64; 3] = serde_json::from_value(case["split"].clone()).unwrap();
        let names: Vec<String> = serde_json::from_value(case["corpora"].clone()).unwrap();
        let weights: Option<Vec<f64>> = serde_json::from_value(case["weights"].clone()).unwrap();
        let weights = weights.unwrap_or(vec![1.0; names.len()]);
        let named = |name: &String| {
            let i = CORPORA.iter().position(|c| c.0 == name).unwrap();
            megatron(name, &corpora[i], split)
        };
        let domains: Vec<Domain> = names.iter().map(named).collect();
        let (t, samples) = (case["seq_len"].as_u64().unwrap() as usize, case["samples"].as_u64().unwrap());
        let cursor = cursor(case["seed"].as_u64().unwrap(), t, &domains, &weights, samples);
        let mut sampler = Sampler::open(&cursor, domains).unwrap();
        for (block, want) in case["hashes"].as_array().unwrap().iter().enumerate() {
            let first = block as u64 * 1000;
            let mut hash = Xxh3::new();
            let batch = sampler.batch(first, (samples - first).min(1000) as usize).unwrap();
            for (tokens, targets) in batch.tokens.chunks(t).zip(batch.targets.chunks(t)) {
                assert_eq!(tokens[1..], targets[..t - 1]);
                for id in tokens.iter().chain(targets.last()) {
                    hash.update(&i64::from(*id).to_le_bytes());
                }
            }
            assert!(batch.weights.iter().all(|&w| w == 1.0));
            assert_eq!(*want, format!("{:016x}", hash.digest()), "{case}: samples from {first}");
        }
        // Past what Megatron built, the run ends with a sentence.
        if names.len() == 1 {
            let built = case["built"][0]["samples"].as_u64().unwrap();
            sampler.batch(built - 1, 1).unwrap();
            let error = sampler.batch(built, 1).unwrap_err().to_string();
            assert!(error.contains(&format!("which has {built}")), "{error}");
        }
    }
}

#[test]
fn attention_within_documents_weighs_no_target_of_another_sequence() {
    let folder = tempfile::tempdir().unwrap();
    // Sequence i consists of tokens 1000 i + t, so a target's sequence is seen.
    let documents: Vec<Vec<Vec<u32>>> =
        (0..50).map(|i| vec![(0..i % 9).map(|t| 1000 * i + t).collect()]).collect();
    let corpus = write(&folder.path().join("web"), 50_257, &documents);
    let domains = vec![megatron("web", &corpus, [1.0, 0.0, 0.0])];
    let mut cursor = cursor(7, 10, &domains, &[1.0], 60);
    let mut full = Sampler::open(&cursor, domains.clone()).unwrap();
    cursor.attention = Attention::Document;
    let mut own = Sampler::open(&cursor, domains).unwrap();
    for id in 0..60 {
        let (full, own) = (full.sample(id).unwrap(), own.sample(id).unwrap());
        assert_eq!((&full.tokens, &full.targets), (&own.tokens, &own.targets));
        assert_eq!((full.documents, full.weights), (vec![0], vec![1.0; 10]));
        let mut starts = vec![];
        for t in 0..10 {
            if t == 0 || own.tokens[t] != own.tokens[t - 1] + 1 {
                starts.push(t as u32);
            }
            let same = own.targets[t] == own.tokens[t] + 1;
            assert_eq!(own.weights[t], f32::from(u8::from(same)), "sample {id}: {:?}", own.tokens);
        }
        assert_eq!(own.documents, starts);
    }
}

#[test]
fn what_training_leaves_out_is_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let documents: Vec<Vec<Vec<u32>>> =
        (0..40).map(|i| vec![(0..8).map(|t| 1000 * i + t).collect()]).collect();
    let corpus = write(&folder.path().join("web"), 50_257, &documents);
    let web = megatron("web", &corpus, [0.7, 0.2, 0.1]);
    let [train, valid, test] = web.parts();
    assert_eq!((train, valid.clone(), test), (0..28, 28..36, 36..40));
    let sequences = |tokens: &[u32]| -> Vec<u32> {
        let mut all: Vec<u32> = tokens.iter().map(|id| id / 1000).collect();
        all.sort();
        all.dedup();
        all
    };
    let domains = vec![web.clone()];
    let mut sampler = Sampler::open(&cursor(1, 5, &domains, &[1.0], 100), domains).unwrap();
    let batch = sampler.batch(0, 100).unwrap();
    assert_eq!(sequences(&[batch.tokens, batch.targets].concat()), (0..28).collect::<Vec<_>>());
    let held = HeldOut::new(&web, 5, 1000).unwrap();
    assert_eq!((held.documents(), held.tokens()), (8, 8 * 7));
    let batch = held.batch(0, held.rows()).unwrap();
    let tokens: Vec<u32> =
        batch.targets.iter().zip(&batch.weights).filter(|(_, w)| **w > 0.0).map(|(t, _)| *t).collect();
    assert_eq!(sequences(&tokens), (28..36).collect::<Vec<_>>());
    let mut whole = web.clone();
    whole.holdout = 1.0;
    assert_eq!(HeldOut::new(&whole, 5, 1000).unwrap().documents(), 40);
    let none = megatron("web", &corpus, [1.0, 0.0, 1.0]);
    let error = HeldOut::new(&none, 5, 1000).unwrap_err().to_string();
    assert!(error.contains("raise the second share of data.web.split"), "{error}");
}

#[test]
fn what_megatrons_order_cannot_do_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let corpora = case_corpora(folder.path());
    let (a, d) = (megatron("a", &corpora[0], [1.0, 0.0, 0.0]), megatron("d", &corpora[3], [1.0, 0.0, 0.0]));
    let refused = |cursor: &Cursor, domains: &[Domain]| {
        let error = Sampler::open(cursor, domains.to_vec()).map(drop).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    let both = [a.clone(), d.clone()];
    let good = cursor(1, 32, &both, &[1.0, 1.0], 100);
    assert!(Sampler::open(&good, both.to_vec()).is_ok());
    let mut stream = d.clone();
    stream.order = Order::Stream;
    let error = refused(&good, &[a.clone(), stream.clone()]);
    assert!(error.contains("data.d.order: it is \"stream\", but corpus \"a\" of the same mix"), "{error}");
    // One that is only evaluated may have any order.
    assert!(Sampler::open(&cursor(1, 32, &both, &[1.0, 0.0], 100), vec![a.clone(), stream]).is_ok());
    let error = refused(&Cursor { seed: 1 << 32, ..good.clone() }, &both);
    assert!(error.contains("run.seed: it is 4294967296;"), "{error}");
    let last = Cursor { seed: (1 << 32) - 2, number: 1, ..good.clone() };
    assert!(Sampler::open(&last, both.to_vec()).is_ok());
    let error = refused(&Cursor { number: 2, ..last }, &both);
    assert!(error.contains("run.seed: it is 4294967294, and a new cursor adds 1, here 2 in all"), "{error}");
    let mut changed = good.clone();
    let mut second = changed.ledger.entries[0].clone();
    (second.first_sample, second.weights[0].1) = (50, 0.5);
    changed.ledger.entries.push(second);
    let error = refused(&changed, &both);
    assert!(error.contains("phase.mix: it changes at sample 50"), "{error}");
    let error = refused(&Cursor { samples: Some(1 << 31), ..good.clone() }, &both);
    assert!(error.contains("above the 8 GiB") && error.contains("order = \"stream\""), "{error}");
    let error = refused(&Cursor { samples: None, ..good.clone() }, &both);
    assert!(error.contains("depends on the number of samples"), "{error}");
    let mut packed = d.clone();
    packed.packing = espalier::config::Packing::BestFit;
    let error = refused(&good, &[a.clone(), packed]);
    assert!(error.contains("data.d.order"), "{error}");
}
