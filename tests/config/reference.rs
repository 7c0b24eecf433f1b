//! The schema against the readers: they take every key it has, refuse what it says they refuse, in its words, and an
//! absent key is what it says. And the page in docs/ is the one the program prints.

use espalier::config::schema::{Absent, Key, TABLES, Table, Takes};
use espalier::config::{RunConfig, reference};

/// As little as a run file can say without a preset.
const BASE: &str = r#"
schema = 1
[run]
dir = "runs/x"
seq_len = 64
global_batch = 8
[model]
layers = 1
dim = 64
heads = 4
vocab = 257
[data]
web = { path = "data/web" }
[[phase]]
name = "main"
steps = 100
lr = [{ kind = "linear", to = 1e-3 }]
"#;

/// What must be given before the keys of a table mean anything.
fn setting(path: &str) -> &'static [&'static str] {
    match path {
        "eval" => &["eval.on=[\"web\"]"],
        "phase.*.eval" => &["phase.0.eval.on=[\"web\"]"],
        "model.rope.scaling" => &["model.rope.scaling={ factor = 8.0, original_max = 64 }"],
        "optim.sgd" => &["optim.sgd={}"],
        "optim.adam" => &["optim.adam={}"],
        "optim.muon" => &["optim.muon={}"],
        "optim.muon.adamw" => &["optim.muon={}"],
        "optim.ema" => &["optim.ema={ decay = 0.9 }"],
        "phase.*.batch_ramp" => &["phase.0.batch_ramp={ from = 2, by = 2, samples = 100 }"],
        "phase.*.grow" | "phase.*.grow.to" => &["phase.0.grow={ to = { layers = 2 } }"],
        "phase.*.spdf" => &["phase.0.spdf={ sparsity = 0.5 }"],
        "phase.*.salt" | "phase.*.salt.weight.*" => {
            &["phase.0.salt={ teacher = \"ckpt:runs/small\", weight = [{ kind = \"const\", to = 0.5 }] }"]
        }
        "optim.group.*" => &["optim.group=[{ match = [\"*\"], lr_scale = 0.5 }]"],
        _ => &[],
    }
}

/// "phase.*.lr.*" as "phase.0.lr.0", "data.*" as "data.web", and the key behind it.
fn place(table: &Table, key: &Key) -> String {
    let path = table.path.replace("data.*", "data.web").replace('*', "0");
    if path.is_empty() { key.name.into() } else { format!("{path}.{}", key.name) }
}

fn parse(sets: &[&str]) -> espalier::Result<RunConfig> {
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    RunConfig::parse(BASE, "run.toml", &sets)
}

fn each(mut f: impl FnMut(&Table, &Key, String)) {
    for table in TABLES {
        table.keys.iter().for_each(|key| f(table, key, place(table, key)));
    }
}

#[test]
fn the_reader_of_every_key_refuses_what_it_does_not_take_in_the_words_of_the_schema() {
    let mut seen = 0;
    each(|table, key, place| {
        let wrong = match key.takes {
            Takes::List(_) | Takes::Tables => "true",
            _ => "[[]]",
        };
        let set = format!("{place}={wrong}");
        let text = match parse(&[setting(table.path), &[set.as_str()]].concat()) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("nothing reads {place}: {set} is accepted"),
        };
        let wants = match key.takes {
            Takes::List(_) | Takes::Tables => "a list in [ ]".into(),
            _ => key.takes.wants(),
        };
        assert!(text.contains(&place) && text.contains(&wants), "{set}\n  gives   {text}\n  without {wants}");
        seen += 1;
    });
    assert!(seen > 90, "only {seen} keys");
}

#[test]
fn a_list_is_refused_with_what_the_schema_says_of_its_entries() {
    // Three of the lists take strings, and say so of an entry that is none.
    let mut seen = 0;
    each(|table, key, place| {
        if let Takes::List(wants) = key.takes {
            let set = format!("{place}=[true]");
            let text = parse(&[setting(table.path), &[set.as_str()]].concat()).unwrap_err().to_string();
            let words = wants.split(|c: char| !c.is_alphanumeric()).filter(|w| w.len() > 3);
            assert!(words.clone().any(|w| text.contains(w)), "{set} gives {text}, without any of {wants}");
            seen += 1;
        }
    });
    assert_eq!(seen, 8);
}

#[test]
fn numbers_beyond_the_ends_are_refused_and_words_are_those_of_the_reader() {
    each(|table, key, place| {
        let refuses = |value: String| {
            let set = format!("{place}={value}");
            let e = parse(&[setting(table.path), &[set.as_str()]].concat()).expect_err(&set);
            e.to_string()
        };
        match &key.takes {
            Takes::Whole(low, high) => {
                if *low > 0 {
                    assert!(refuses((low - 1).to_string()).contains("out of range"), "{place}");
                }
                if *high < i64::MAX as u64 {
                    assert!(refuses((high + 1).to_string()).contains("out of range"), "{place}");
                }
            }
            Takes::Words(words) => {
                let text = refuses("no-such-word".into());
                assert!(text.contains(&format!("allowed: {}", words().join(", "))), "{place}: {text}");
            }
            _ => {}
        }
    });
}

#[test]
fn an_absent_key_is_the_same_as_the_default_of_the_schema() {
    let mut seen = 0;
    each(|table, key, place| {
        if let Absent::Is(default) = key.absent {
            let (without, set) = (setting(table.path), format!("{place}={default}"));
            let with = parse(&[without, &[set.as_str()]].concat()).unwrap_or_else(|e| panic!("{set}: {e}"));
            assert_eq!(with, parse(without).unwrap(), "{set}");
            seen += 1;
        }
    });
    assert!(seen > 40, "only {seen} defaults");
}

#[test]
fn a_required_key_is_missed() {
    let mut seen = 0;
    each(|table, key, place| {
        if !matches!(key.absent, Absent::Required) {
            return;
        }
        let mut file: toml::Table = toml::from_str(BASE).unwrap();
        for set in setting(table.path) {
            let (path, value) = set.split_once('=').unwrap();
            let value = toml::from_str::<toml::Table>(&format!("x = {value}")).unwrap()["x"].clone();
            put(&mut file, path, Some(value));
        }
        put(&mut file, &place, None);
        let e = RunConfig::parse(&file.to_string(), "run.toml", &[]).expect_err(&place).to_string();
        assert!(e.contains(key.name), "without {place}: {e}");
        seen += 1;
    });
    assert!(seen > 15, "only {seen} required keys");
}

/// Puts a value at a dotted path, or removes what is there.
fn put(file: &mut toml::Table, path: &str, value: Option<toml::Value>) {
    let (parents, last) = path.rsplit_once('.').map_or(("", path), |(p, l)| (p, l));
    let mut at = file;
    let mut parts = parents.split('.').filter(|p| !p.is_empty()).peekable();
    while let Some(part) = parts.next() {
        let next = at.entry(part).or_insert_with(|| toml::Table::new().into());
        at = match next {
            toml::Value::Array(list) => {
                let i = parts.next().and_then(|i| i.parse::<usize>().ok()).expect("the number of an entry");
                list[i].as_table_mut().expect("a table")
            }
            other => other.as_table_mut().expect("a table"),
        };
    }
    match value {
        Some(value) => drop(at.insert(last.into(), value)),
        None => assert!(at.remove(last).is_some(), "{path} is not in the file"),
    }
}

#[test]
fn the_page_in_docs_is_what_the_program_prints() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/run-file.md"));
    let same = page.is_ok_and(|page| page == reference());
    assert!(same, "write it again: espalier config reference > docs/run-file.md");
}
