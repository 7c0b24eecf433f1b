//! Packings and orders: what a pass reads, and that nothing but the seed, the mix and the number decides a sample.

use super::megatron::write;
use super::{corpus, domain, varied};
use espalier::config::{Order, Packing, RunConfig};
use espalier::data::side::{SideType, StreamWriter};
use espalier::data::{Attention, Batch, Corpus, Cursor, Domain, Ledger, Sampler};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Documents of these lengths whose tokens are 0, 1, 2, ..: a token is its place in the corpus.
fn counting(folder: &Path, name: &str, lengths: &[usize]) -> Arc<Corpus> {
    let mut next = 0u32;
    let document = |&length: &usize| {
        let tokens: Vec<u32> = (next..next + length as u32).collect();
        next += length as u32;
        vec![tokens]
    };
    write(&folder.join(name), 1 << 20, &lengths.iter().map(document).collect::<Vec<_>>())
}

fn packed(name: &str, corpus: &Arc<Corpus>, packing: Packing, group: u64) -> Domain {
    let mut domain = domain(name, corpus, 0.0);
    (domain.packing, domain.pack_group) = (packing, group);
    domain
}

fn alone(domain: &Domain, seq_len: usize, attention: Attention) -> Sampler {
    let ledger = Ledger::constant(&[(&domain.name, 1.0)]);
    Sampler::new(5, seq_len, attention, vec![domain.clone()], ledger).unwrap()
}

/// Lengths with empty documents, ones of one token, and ones of many windows.
fn mixed(documents: usize) -> Vec<usize> {
    let length = |i: usize| match i % 17 {
        3 => 0,
        5 => 1,
        11 => 90 + i % 200,
        _ => (i * i * 7 + i * 13) % 61,
    };
    (0..documents).map(length).collect()
}

fn document_of(corpus: &Corpus, token: u32) -> u64 {
    corpus.document_at(u64::from(token)).unwrap()
}

#[test]
fn one_pass_predicts_each_token_once_whatever_the_packing() {
    let folder = tempfile::tempdir().unwrap();
    for (n, documents) in [1, 2, 40, 300].into_iter().enumerate() {
        let lengths = if documents == 1 { vec![700] } else { mixed(documents) };
        let corpus = counting(folder.path(), &format!("web{n}"), &lengths);
        for (t, group) in [(1, 1), (7, 1), (16, 4), (16, 64), (33, 5), (64, 3)] {
            if corpus.tokens() <= t {
                continue;
            }
            for packing in [Packing::Window, Packing::BestFit] {
                let web = packed("web", &corpus, packing, group);
                let mut s = alone(&web, t as usize, Attention::Full);
                let rows = (corpus.tokens() - 1) / t;
                assert_eq!(s.windows(0), rows);
                for pass in 0..2 {
                    let batch = s.batch(pass * rows, rows as usize).unwrap();
                    let mut predicted = vec![0; corpus.tokens() as usize];
                    for (i, &target) in batch.targets.iter().enumerate() {
                        assert_eq!(target, batch.tokens[i] + 1, "{packing:?}, T {t}, G {group}");
                        assert_eq!(batch.weights[i], 1.0);
                        predicted[target as usize] += 1;
                    }
                    let reached = (rows * t) as usize;
                    assert_eq!(predicted[0], 0);
                    assert!(predicted[1..=reached].iter().all(|&n| n == 1), "{packing:?}, T {t}, G {group}");
                    assert!(predicted[reached + 1..].iter().all(|&n| n == 0));
                }
            }
        }
    }
}

#[test]
fn best_fit_rows_are_full_and_keep_to_their_group() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = counting(folder.path(), "web", &mixed(400));
    for (t, group) in [(16, 4), (64, 8), (64, 64)] {
        let web = packed("web", &corpus, Packing::BestFit, group);
        let mut s = alone(&web, t as usize, Attention::Document);
        let mut rows: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for id in 0..s.windows(0) {
            let sample = s.sample(id).unwrap();
            assert_eq!(sample.origin.pieces.iter().map(|p| u64::from(p.inputs)).sum::<u64>(), t);
            let groups: Vec<u64> = sample.tokens.iter().map(|&x| u64::from(x) / (group * t)).collect();
            assert!(groups.iter().all(|&g| g == groups[0]), "T {t}, G {group}");
            rows.entry(groups[0]).or_default().extend(&sample.tokens);
            // Each piece is of one document, and where it ends with it, its last input predicts nothing.
            let starts: Vec<u32> = sample
                .origin
                .pieces
                .iter()
                .scan(0, |at, p| Some(std::mem::replace(at, *at + p.inputs)))
                .collect();
            assert_eq!(sample.documents, starts);
            for i in 0..t as usize {
                let (here, next) = (sample.tokens[i], sample.targets[i]);
                assert_eq!(next, here + 1);
                let same = document_of(&corpus, here) == document_of(&corpus, next);
                assert_eq!(sample.weights[i], f32::from(u8::from(same)));
            }
        }
        for (number, tokens) in &mut rows {
            tokens.sort();
            let first = number * group * t;
            let inputs = (s.windows(0) - number * group).min(group) * t;
            assert!(tokens.iter().map(|&x| u64::from(x)).eq(first..first + inputs), "group {number}");
        }
    }
}

#[test]
fn best_fit_cuts_few_documents() {
    // Documents longer than a window cannot stay whole; of the others, how many does each packing cut?
    let folder = tempfile::tempdir().unwrap();
    let lengths: Vec<usize> = (0..4000).map(|i| 5 + (i * i * 31 + i * 17) % 97).collect();
    let corpus = counting(folder.path(), "web", &lengths);
    let cut = |packing| {
        let mut s = alone(&packed("web", &corpus, packing, 64), 128, Attention::Document);
        let mut pieces = vec![0; lengths.len()];
        for id in 0..s.windows(0) {
            let sample = s.sample(id).unwrap();
            sample
                .documents
                .iter()
                .for_each(|&at| pieces[document_of(&corpus, sample.tokens[at as usize]) as usize] += 1);
        }
        pieces.iter().filter(|&&n| n > 1).count()
    };
    assert_eq!((cut(Packing::Window), cut(Packing::BestFit)), (1509, 145));
}

#[test]
fn one_doc_reads_each_document_once_and_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = counting(folder.path(), "web", &mixed(300));
    let own = |doc| corpus.document_range(doc).unwrap();
    let with_row: Vec<u64> = (0..300).filter(|&doc| own(doc).end - own(doc).start >= 2).collect();
    for attention in [Attention::Document, Attention::Full] {
        let mut s = alone(&packed("web", &corpus, Packing::OneDoc, 64), 32, attention);
        assert_eq!(s.windows(0), with_row.len() as u64);
        for pass in 0..2 {
            let mut seen = vec![];
            for id in pass * s.windows(0)..(pass + 1) * s.windows(0) {
                let sample = s.sample(id).unwrap();
                let doc = document_of(&corpus, sample.tokens[0]);
                seen.push(doc);
                let inputs = (own(doc).end - own(doc).start - 1).min(32);
                let place = |i: usize| own(doc).start + i as u64;
                for i in 0..32 {
                    let counts = (i as u64) < inputs;
                    assert_eq!(sample.weights[i], f32::from(u8::from(counts)));
                    let want = if counts { (place(i) as u32, place(i) as u32 + 1) } else { (0, 0) };
                    assert_eq!((sample.tokens[i], sample.targets[i]), want);
                }
                assert_eq!(sample.documents, if inputs < 32 { vec![0, inputs as u32] } else { vec![0] });
            }
            let order = seen.clone();
            seen.sort();
            assert_eq!(seen, with_row);
            assert_ne!(order, with_row, "documents come shuffled");
        }
    }
}

/// A mix of all packings, or of two corpora in Megatron's order, and its samples.
fn cases(folder: &Path) -> Vec<(Cursor, Vec<Domain>)> {
    let corpora: Vec<Arc<Corpus>> = ["a", "b", "c"]
        .iter()
        .enumerate()
        .map(|(i, name)| corpus(folder, name, &varied(60 + 50 * i)))
        .collect();
    let packings = [Packing::Window, Packing::BestFit, Packing::OneDoc];
    let stream = || -> Vec<Domain> {
        let one = |((name, corpus), packing)| packed(name, corpus, packing, 8);
        ["a", "b", "c"].into_iter().zip(&corpora).zip(packings).map(one).collect()
    };
    let mut megatron = stream();
    for domain in &mut megatron {
        (domain.order, domain.packing) = (Order::Megatron, Packing::Window);
    }
    let ledger = Ledger::constant(&[("a", 0.5), ("b", 0.3), ("c", 0.2)]);
    let mut held = stream();
    held[1].holdout = 0.3;
    let cursor = |attention| Cursor { samples: Some(600), ..Cursor::new(11, 16, attention, ledger.clone()) };
    vec![
        (cursor(Attention::Document), stream()),
        (cursor(Attention::Full), held),
        (cursor(Attention::Document), megatron.clone()),
        (cursor(Attention::Full), megatron),
    ]
}

/// All that a batch says of its row `row`, as one of its own.
fn row(batch: &Batch, row: usize) -> Batch {
    let t = batch.seq_len;
    let n = row * t..(row + 1) * t;
    let cuts = batch.cu_seqlens.iter().map(|&cut| cut as usize).filter(|cut| (n.start..=n.end).contains(cut));
    Batch {
        rows: 1,
        seq_len: t,
        tokens: batch.tokens[n.clone()].to_vec(),
        targets: batch.targets[n.clone()].to_vec(),
        weights: batch.weights[n.clone()].to_vec(),
        positions: batch.positions[n.clone()].to_vec(),
        cu_seqlens: cuts.map(|cut| (cut - n.start) as u32).collect(),
        sample_ids: vec![batch.sample_ids[row]],
        domains: vec![batch.domains[row]],
        token_types: None,
    }
}

#[test]
fn samples_are_the_same_for_any_ranks_micro_batches_and_resumes_in_every_order() {
    let folder = tempfile::tempdir().unwrap();
    for (cursor, domains) in cases(folder.path()) {
        let new = || Sampler::open(&cursor, domains.clone()).unwrap();
        let whole = new().batch(0, 600).unwrap();
        let mut again = new();
        // Updates of 24 samples on `dp` ranks in micro-batches of `micro`: sample first + (m · dp + r) · micro + i.
        for (dp, micro) in [(1, 24), (2, 3), (3, 8), (24, 1)] {
            for update in [7u64, 0, 24] {
                for rank in 0..dp {
                    for m in 0..24 / dp / micro {
                        let first = update * 24 + ((m * dp + rank) * micro) as u64;
                        let batch = again.batch(first, micro).unwrap();
                        for i in 0..micro {
                            assert_eq!(
                                row(&batch, i),
                                row(&whole, first as usize + i),
                                "dp {dp}, micro {micro}"
                            );
                        }
                    }
                }
            }
        }
        // Resumes: from the saved counters, and by the number alone.
        for at in [1, 77, 256, 599] {
            again.seek(at);
            let state = serde_json::to_string(&again.state()).unwrap();
            let mut resumed = new();
            resumed.restore(&serde_json::from_str(&state).unwrap()).unwrap();
            assert_eq!(row(&resumed.batch(at, 1).unwrap(), 0), row(&whole, at as usize));
            assert_eq!(row(&new().batch(at, 1).unwrap(), 0), row(&whole, at as usize));
        }
    }
}

#[test]
fn the_weight_sum_of_every_order_is_known_before_the_tokens_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for (cursor, mut domains) in cases(folder.path()) {
        for weighed in [false, true] {
            if weighed {
                domains.iter_mut().for_each(weigh);
            }
            let mut s = Sampler::open(&cursor, domains.clone()).unwrap();
            for (first, rows) in [(0, 64), (7, 1), (30, 40)] {
                let early = s.weight_sum(first, rows).unwrap();
                assert_eq!(early, s.batch(first, rows).unwrap().weight_sum());
                assert!(early > 0.0);
            }
        }
    }
}

/// A side stream that gives token i the weight i mod 5 / 4, 0 for every fifth.
fn weigh(domain: &mut Domain) {
    let mut writer = StreamWriter::create(domain.corpus.prefix(), "loss", SideType::F16).unwrap();
    let values: Vec<f32> = (0..domain.corpus.tokens()).map(|i| (i % 5) as f32 / 4.0).collect();
    writer.push(&values).unwrap();
    writer.finish(domain.corpus.hash()).unwrap();
    domain.weights = Some(Arc::new(espalier::data::side::Stream::open(&domain.corpus, "loss").unwrap()));
}

#[test]
fn a_target_weighs_what_the_side_stream_says_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = counting(folder.path(), "web", &mixed(300));
    let mut cases = vec![];
    for packing in [Packing::Window, Packing::BestFit, Packing::OneDoc] {
        cases.push(packed("web", &corpus, packing, 8));
    }
    let mut megatron = packed("web", &corpus, Packing::Window, 8);
    (megatron.order, megatron.split) = (Order::Megatron, [1.0, 0.0, 0.0]);
    cases.push(megatron);
    for plain in cases {
        let mut weighed = plain.clone();
        weigh(&mut weighed);
        for attention in [Attention::Document, Attention::Full] {
            let open = |domain: &Domain| {
                let ledger = Ledger::constant(&[("web", 1.0)]);
                let cursor = Cursor { samples: Some(300), ..Cursor::new(3, 24, attention, ledger) };
                Sampler::open(&cursor, vec![domain.clone()]).unwrap().batch(0, 250).unwrap()
            };
            let (plain, weighed) = (open(&plain), open(&weighed));
            let mut some = 0;
            for i in 0..plain.weights.len() {
                let value = (plain.targets[i] % 5) as f32 / 4.0;
                assert_eq!(weighed.weights[i], plain.weights[i] * value, "target {}", plain.targets[i]);
                some += usize::from(weighed.weights[i] > 0.0);
            }
            assert!(some > 1000);
        }
    }
}

#[test]
fn another_corpus_in_the_mix_leaves_the_first_ones_order_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (web, laws) = (corpus(folder.path(), "web", &varied(80)), corpus(folder.path(), "laws", &varied(20)));
    for packing in [Packing::Window, Packing::BestFit, Packing::OneDoc] {
        let own = packed("web", &web, packing, 8);
        let mut one = alone(&own, 16, Attention::Document);
        let domains = vec![packed("laws", &laws, Packing::Window, 8), own];
        let ledger = Ledger::constant(&[("web", 0.7), ("laws", 0.3)]);
        let mut two = Sampler::new(5, 16, Attention::Document, domains, ledger).unwrap();
        let of_web = (0..300).map(|id| two.sample(id).unwrap()).filter(|s| s.origin.domain == 1);
        let mut count = 0;
        for (j, sample) in of_web.enumerate() {
            let own = one.sample(j as u64).unwrap();
            assert_eq!((sample.origin.index, &sample.origin.pieces), (own.origin.index, &own.origin.pieces));
            assert_eq!((sample.tokens, sample.weights), (own.tokens, own.weights));
            count += 1;
        }
        assert_eq!(count, 210);
        // Nor do two corpora share an order.
        let mut other = alone(&packed("other", &web, packing, 8), 16, Attention::Document);
        assert!((0..20).any(|id| other.origin(id).unwrap() != one.origin(id).unwrap()));
    }
}

#[test]
fn a_far_sample_is_found_without_those_before_it() {
    // 10^18 samples on: what went through them one after another would not come back.
    let folder = tempfile::tempdir().unwrap();
    let web = corpus(folder.path(), "web", &varied(80));
    for packing in [Packing::Window, Packing::BestFit, Packing::OneDoc] {
        let mut s = alone(&packed("web", &web, packing, 8), 16, Attention::Document);
        let far = 1_000_000_000_000;
        let (near, pass) = (s.sample(0).unwrap(), far / s.windows(0));
        assert_eq!(s.sample(far).unwrap().origin.pass, pass);
        assert_eq!(s.sample(far).unwrap(), s.sample(far).unwrap());
        assert_eq!(s.sample(0).unwrap(), near);
    }
}

#[test]
fn a_corpus_of_10_12_tokens_is_sampled_from_all_its_parts_without_repeats() {
    // A .bin without content: 2 TB that take no room on the disk, documents of 2^31 - 1 tokens.
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    let (documents, length) = (466u64, (1u64 << 31) - 1);
    let tokens = documents * length;
    assert!(tokens > 1_000_000_000_000);
    let small = write(&prefix, 257, &[vec![vec![0; 2]]]);
    let mut idx = std::fs::read(prefix.with_extension("idx")).unwrap()[..18].to_vec();
    idx.extend([documents, documents + 1].map(u64::to_le_bytes).concat());
    (0..documents).for_each(|_| idx.extend((length as i32).to_le_bytes()));
    (0..documents).for_each(|i| idx.extend((2 * i * length).to_le_bytes()));
    (0..=documents).for_each(|i| idx.extend(i.to_le_bytes()));
    std::fs::write(prefix.with_extension("idx"), idx).unwrap();
    drop(small);
    let bin = std::fs::File::options().write(true).open(prefix.with_extension("bin")).unwrap();
    if bin.set_len(2 * tokens).is_err() {
        return; // a file system without holes
    }
    let json = folder.path().join("web.json");
    let mut meta: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    (meta["tokens"], meta["documents"]) = (tokens.into(), documents.into());
    std::fs::write(&json, meta.to_string()).unwrap();
    let web = Arc::new(Corpus::open(&prefix).unwrap());
    for packing in [Packing::Window, Packing::BestFit] {
        let mut s = alone(&packed("web", &web, packing, 64), 1024, Attention::Document);
        let rows = s.windows(0);
        let mut firsts: Vec<u64> = vec![];
        let (mut low, count) = (0, 2000);
        for i in 0..count {
            let origin = s.origin(rows / count * i).unwrap();
            assert_eq!(origin.pass, 0);
            firsts.extend(origin.pieces.iter().map(|p| p.first));
            low += usize::from(origin.pieces[0].first < tokens / 2);
        }
        assert!((900..1100).contains(&low), "{low} of {count} in the first half");
        firsts.sort();
        assert_eq!(s.sample(rows - 1).unwrap().tokens, [0; 1024]);
        let distinct = firsts.windows(2).all(|w| w[0] < w[1]);
        assert!(distinct && *firsts.last().unwrap() > tokens / 100 * 99);
    }
}

#[test]
fn a_new_cursor_reads_other_orders_and_max_epochs_counts_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let web = counting(folder.path(), "web", &mixed(300));
    let (t, rows) = (16, (web.tokens() - 1) / 16);
    let text = |max: u64, seed: u64| {
        let phase = |name: &str, steps: u64, more: &str| {
            format!(
                "[[phase]]\nname = \"{name}\"\nsteps = {steps}\n{more}\nlr = [{{ kind = \"const\", to = 1e-3 }}]\n"
            )
        };
        let path = folder.path().join("web");
        format!(
            "schema = 1\n[run]\ndir = \"x\"\nseq_len = {t}\nglobal_batch = 1\nseed = {seed}\n[model]\npreset = \"gpt2-tiny\"\n\
             [data]\nweb = {{ path = {path:?}, max_epochs = {max} }}\n{}{}{}",
            phase("one", rows, ""),
            phase("two", rows / 2, ""),
            phase("three", rows, "cursor = \"new\"")
        )
    };
    let config = |max| RunConfig::parse(&text(max, 3), "run.toml", &[]).unwrap();
    let sampler = |max, phase| {
        let config = config(max);
        let mut web = packed("web", &web, Packing::Window, 1);
        web.max_epochs = Some(max);
        Sampler::open(&Cursor::of_phase(&config, std::slice::from_ref(&web), phase).unwrap(), vec![web])
            .unwrap()
    };
    let pass = |s: &mut Sampler, first: u64| s.batch(first, rows as usize).unwrap().tokens;
    let (first, third) = (pass(&mut sampler(3, 0), 0), pass(&mut sampler(3, 2), 0));
    assert_eq!(first, pass(&mut sampler(3, 1), 0), "the second phase reads on with the cursor of the first");
    assert_ne!(first, third);
    assert_ne!(pass(&mut sampler(4, 1), rows), third, "nor is it the pass that phase two had begun");
    let sorted = |mut tokens: Vec<u32>| {
        tokens.sort();
        tokens
    };
    assert_eq!(sorted(first), sorted(third), "the same windows");
    // 1.5 passes are made before the third phase, which makes another.
    sampler(3, 2).check_budget(rows).unwrap();
    let error = sampler(2, 2).check_budget(rows).unwrap_err().to_string();
    assert!(error.contains("data.web.max_epochs: it is 2, but") && error.contains("where 0.5"), "{error}");
    let error = sampler(2, 2).batch(0, rows as usize).map(drop).unwrap_err().to_string();
    assert!(error.contains("data.web.max_epochs: it is 2, but sample"), "{error}");
}

#[test]
fn the_command_prints_the_samples_that_a_run_draws_and_proves_a_pass() {
    let folder = tempfile::tempdir().unwrap();
    let web = corpus(folder.path(), "web", &varied(80));
    corpus(folder.path(), "laws", &varied(20));
    let command = |args: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_espalier"));
        let out = command
            .current_dir(folder.path())
            .args(["corpus", "sample"])
            .args(args.split(' '))
            .output()
            .unwrap();
        assert!(out.status.success(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let json = |args: &str| -> serde_json::Value { serde_json::from_str(&command(args)).unwrap() };
    // From settings.
    let sample = json("web --at 30 --seq-len 16 --seed 5 --packing best-fit --pack-group 8 --json");
    let want = alone(&packed("web", &web, Packing::BestFit, 8), 16, Attention::Document).sample(30).unwrap();
    assert_eq!(sample["tokens"], serde_json::json!(want.tokens));
    assert_eq!(sample["pieces"], serde_json::json!(want.origin.pieces));
    let mut at = 0;
    for span in sample["spans"].as_array().unwrap() {
        let number = |key: &str| span[key].as_u64().unwrap();
        let own = web.document_range(number("document")).unwrap();
        assert_eq!((number("at"), number("first")), (at, own.start + number("offset")));
        assert!(number("first") + number("inputs") <= own.end);
        at += number("inputs");
    }
    assert_eq!(at, 16);
    let text = command("web --at 30 --seq-len 16 --seed 5 --packing best-fit --pack-group 8");
    let tokens: Vec<String> = want.tokens.iter().map(u32::to_string).collect();
    assert!(
        text.contains("sample 30: number 30 of corpus \"web\"") && text.contains(&tokens.join(" ")),
        "{text}"
    );
    // From a run file.
    let run = "schema = 1\n[run]\ndir = \"x\"\nseq_len = 16\nglobal_batch = 4\nseed = 5\n[model]\npreset = \"gpt2-tiny\"\n\
               [data]\nweb = { path = \"web\" }\nlaws = { path = \"laws\", packing = \"one-doc\" }\n[[phase]]\nname = \"main\"\n\
               steps = 50\nmix = { web = 0.7, laws = 0.3 }\nlr = [{ kind = \"const\", to = 1e-3 }]\n";
    std::fs::write(folder.path().join("run.toml"), run).unwrap();
    let config = RunConfig::parse(run, "run.toml", &[]).unwrap();
    let mut domains: Vec<Domain> = vec![];
    for (name, mut data) in config.data.clone() {
        data.path = folder.path().join(data.path);
        domains.push(Domain::open(&name, &data).unwrap());
    }
    let mut s = Sampler::open(&Cursor::of_phase(&config, &domains, 0).unwrap(), domains).unwrap();
    for id in [0, 1, 2, 77] {
        let sample = json(&format!("--run run.toml --at {id} --json"));
        assert_eq!(sample["tokens"], serde_json::json!(s.sample(id).unwrap().tokens), "sample {id}");
    }
    // Proofs.
    let rows = (web.tokens() - 1) / 16;
    let proof = json(&format!("web --prove 0..{} --seq-len 16 --json", 2 * rows));
    assert_eq!(proof["domains"][0]["times"]["2"], rows * 16);
    let text = command("--run run.toml --prove 0..200");
    assert!(
        text.contains("corpus \"laws\": 60 samples") && text.contains("repeat nothing and skip nothing"),
        "{text}"
    );
}
