//! Multiple choice: which of several endings of a text a model finds likeliest, as HellaSwag asks it.
//!
//! With c the tokens of the context and e those that an ending adds to it,
//!
//!     S = Σ_i log p(e_i | c, e_<i)        right: argmax S;   normalised: argmax S / characters of the ending
//!
//! An ending's tokens are those of context and ending encoded together, after as many as the context alone has; between
//! the two stands a space unless one brings its own. Texts longer than T + 1 tokens lose their beginning. These are the
//! rules of EleutherAI's evaluation harness (acc and acc_norm), so that figures can be compared.

use super::evaluate::batch_rows;
use super::replica::Replica;
use super::step::{MicroBatch, evaluate};
use crate::comm::Reduce;
use crate::data::tokenizer::Tokenizer;
use crate::device::{Category, DType};
use crate::tape::{At, Seq};
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One question of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub context: String,
    pub endings: Vec<String>,
    /// Index of the right one.
    pub label: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    pub questions: usize,
    /// Share of questions whose right ending is the likeliest,
    pub acc: f64,
    /// and the likeliest per character.
    pub acc_norm: f64,
    /// Endings that were cut because they did not fit in T.
    pub cut: usize,
}

const CONTEXTS: [&str; 4] = ["context", "ctx", "query", "question"];
const ENDINGS: [&str; 2] = ["endings", "choices"];
const LABELS: [&str; 3] = ["label", "gold", "answer"];

/// Reads JSON lines with a context, a list of endings and the index of the right one, under the names of `CONTEXTS`,
/// `ENDINGS` and `LABELS`; the index may be a string of digits. Other keys are passed over.
pub fn read(path: &Path) -> Result<Vec<Question>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let mut all = vec![];
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        all.push(question(line).map_err(|problem| {
            let remedy =
                "a line is like {\"context\": \"...\", \"endings\": [\"...\", \"...\"], \"label\": 0}";
            Error::data(path, format!("line {}: {problem}", i + 1), remedy)
        })?);
    }
    if all.is_empty() {
        return Err(Error::data(path, "has no question", "give one JSON object a line"));
    }
    Ok(all)
}

fn question(line: &str) -> Result<Question, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("is not JSON: {e}"))?;
    let find = |names: &[&str]| {
        let found = names.iter().find_map(|name| value.get(name));
        found.ok_or_else(|| format!("has no key {}", names.join(" or ")))
    };
    let context = find(&CONTEXTS)?.as_str().ok_or("the context is not a string")?;
    let list = find(&ENDINGS)?.as_array().ok_or("the endings are not a list")?;
    let endings: Option<Vec<String>> = list.iter().map(|e| e.as_str().map(String::from)).collect();
    let endings = endings.ok_or("an ending is not a string")?;
    if endings.len() < 2 || endings.iter().any(String::is_empty) {
        return Err("needs two endings or more, none empty".into());
    }
    let label = find(&LABELS)?;
    let label = label.as_u64().or_else(|| label.as_str()?.trim().parse().ok());
    match label.and_then(|l| usize::try_from(l).ok()).filter(|l| *l < endings.len()) {
        Some(label) => Ok(Question { context: context.into(), endings, label }),
        None => Err(format!("the label is not an index of its {} endings", endings.len())),
    }
}

/// The tokens of a context with one ending; the last `counted` of them are the ending's.
struct Item {
    tokens: Vec<u32>,
    counted: usize,
}

fn item(q: &Question, ending: &str, tokenizer: &Tokenizer, seq_len: usize) -> Result<(Item, bool), String> {
    let apart = q.context.is_empty()
        || q.context.ends_with(char::is_whitespace)
        || ending.starts_with(char::is_whitespace);
    let whole = format!("{}{}{ending}", q.context, if apart { "" } else { " " });
    let (mut tokens, mut context) = (vec![], vec![]);
    let mut encoder = tokenizer.encoder();
    encoder.encode(&whole, &mut tokens)?;
    // A space at the end of the context belongs to the ending's first word.
    encoder.encode(q.context.trim_end(), &mut context)?;
    let mut counted = tokens.len().saturating_sub(context.len()).max(1).min(tokens.len());
    if counted == tokens.len() {
        // Nothing comes before the first token but the end of the document before.
        match tokenizer.end_of_document() {
            Some(end) => tokens.insert(0, end),
            None => counted -= 1,
        }
    }
    if tokens.len() < 2 {
        return Err("its ending is one token with nothing before it".into());
    }
    let cut = tokens.len() > seq_len + 1;
    if cut {
        tokens.drain(..tokens.len() - seq_len - 1);
        counted = counted.min(seq_len);
    }
    Ok((Item { tokens, counted }, cut))
}

/// Rows of T that items share, each a document of its own: item numbers by row.
fn pack(items: &[Item], seq_len: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = vec![];
    let mut free = 0;
    for (i, item) in items.iter().enumerate() {
        let inputs = item.tokens.len() - 1;
        if inputs > free || rows.is_empty() {
            rows.push(vec![]);
            free = seq_len;
        }
        rows.last_mut().expect("a row was pushed").push(i);
        free -= inputs;
    }
    rows
}

fn batch(items: &[Item], rows: &[Vec<usize>], count: usize, seq_len: usize) -> MicroBatch {
    let n = count * seq_len;
    let mut b = MicroBatch {
        seq: Seq {
            rows: count,
            seq_len,
            tokens: Vec::with_capacity(n),
            positions: Vec::with_capacity(n),
            cu_seqlens: vec![],
            token_types: vec![],
            sample_ids: (0..count as u64).collect(),
        },
        targets: Vec::with_capacity(n),
        weights: Vec::with_capacity(n),
        domains: vec![0; count],
    };
    for r in 0..count {
        for &i in rows.get(r).map_or(&[][..], Vec::as_slice) {
            let Item { tokens, counted } = &items[i];
            let inputs = tokens.len() - 1;
            b.seq.cu_seqlens.push(b.seq.tokens.len() as u32);
            b.seq.tokens.extend(&tokens[..inputs]);
            b.seq.positions.extend(0..inputs as u32);
            b.targets.extend(&tokens[1..]);
            b.weights.extend((0..inputs).map(|p| if p + counted >= inputs { 1.0 } else { 0.0 }));
        }
        // What is left of the row is a document that counts nothing.
        let (at, end) = (b.seq.tokens.len(), (r + 1) * seq_len);
        if at < end {
            b.seq.cu_seqlens.push(at as u32);
            b.seq.positions.extend(0..(end - at) as u32);
            b.seq.tokens.resize(end, 0);
            b.targets.resize(end, 0);
            b.weights.resize(end, 0.0);
        }
    }
    b.seq.cu_seqlens.push(n as u32);
    b
}

/// Asks all questions; `file` names them in errors. Collective over all ranks, batches are dealt to dp ranks in turn.
pub fn ask(
    r: &mut Replica,
    tokenizer: &Tokenizer,
    questions: &[Question],
    file: &PathBuf,
    seq_len: usize,
) -> Result<Accuracy> {
    let (mut items, mut cut) = (vec![], 0);
    for (i, q) in questions.iter().enumerate() {
        for ending in &q.endings {
            let (item, was_cut) = item(q, ending, tokenizer, seq_len)
                .map_err(|e| Error::data(file, format!("question {}: {e}", i + 1), "change its text"))?;
            cut += usize::from(was_cut);
            items.push(item);
        }
    }
    let (rows, count) = (pack(&items, seq_len), batch_rows(seq_len));
    let mut sums = Tensor::zeros(&r.dev, items.len(), 1, DType::F64, Category::Comm);
    let (dp, tp) = (r.mesh.dp.clone(), r.mesh.tp.clone());
    for (i, rows) in rows.chunks(count).enumerate().skip(dp.rank()).step_by(dp.size()) {
        let batch = batch(&items, rows, count, seq_len);
        let nll = evaluate(r, &batch, At { step: i as u64, layer: 0 })?;
        if tp.rank() > 0 {
            continue;
        }
        let sums = sums.data_mut::<f64>();
        for (row, own) in rows.iter().enumerate() {
            let mut at = row * seq_len;
            for &i in own {
                let inputs = items[i].tokens.len() - 1;
                let last = at + inputs - items[i].counted..at + inputs;
                sums[i] = -nll[last].iter().map(|l| f64::from(*l)).sum::<f64>();
                at += inputs;
            }
        }
    }
    let sums = r.mesh.world.all_reduce(sums, Reduce::Sum, "choices")?.wait()?;
    let (mut right, mut right_norm, mut at) = (0, 0, 0);
    for q in questions {
        let own = &sums.data::<f64>()[at..at + q.endings.len()];
        at += q.endings.len();
        let best = |score: &dyn Fn(usize) -> f64| {
            (0..own.len()).reduce(|a, b| if score(b) > score(a) { b } else { a }) == Some(q.label)
        };
        right += usize::from(best(&|i| own[i]));
        right_norm += usize::from(best(&|i| own[i] / q.endings[i].chars().count() as f64));
    }
    let share = |n: usize| n as f64 / questions.len() as f64;
    Ok(Accuracy { questions: questions.len(), acc: share(right), acc_norm: share(right_norm), cut })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_several_benchmarks_are_read_and_others_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("q.jsonl");
        let good = "{\"ctx\": \"a\", \"endings\": [\"b\", \"c\"], \"label\": \"1\", \"id\": 7}\n\n\
                    {\"question\": \"\", \"choices\": [\"x\", \"y\", \"z\"], \"answer\": 2}\n";
        std::fs::write(&file, good).unwrap();
        let all = read(&file).unwrap();
        assert_eq!((all[0].label, all[1].endings.len(), all[1].context.as_str()), (1, 3, ""));
        for (line, want) in [
            ("{\"ctx\": \"a\", \"endings\": [\"b\"], \"label\": 0}", "two endings"),
            ("{\"ctx\": \"a\", \"endings\": [\"b\", \"c\"], \"label\": 2}", "not an index of its 2 endings"),
            ("{\"endings\": [\"b\", \"c\"], \"label\": 1}", "no key context or ctx"),
            ("[", "line 1: is not JSON"),
            ("", "no question"),
        ] {
            std::fs::write(&file, line).unwrap();
            let e = read(&file).unwrap_err().to_string();
            assert!(e.contains(want) && e.contains("q.jsonl"), "{e}");
        }
    }

    #[test]
    fn only_the_tokens_of_the_ending_count_and_long_texts_lose_their_beginning() {
        let q = Question { context: "ab ".into(), endings: vec!["cd".into(), "e".into()], label: 0 };
        let (whole, cut) = item(&q, "cd", &Tokenizer::byte(), 100).unwrap();
        assert_eq!((whole.tokens.clone(), whole.counted, cut), (b"ab cd".map(u32::from).to_vec(), 3, false));
        let (short, cut) = item(&q, "cd", &Tokenizer::byte(), 2).unwrap();
        assert_eq!((short.tokens, short.counted, cut), (b" cd".map(u32::from).to_vec(), 2, true));
        let none = Question { context: String::new(), ..q };
        let (from_nothing, _) = item(&none, "e", &Tokenizer::byte(), 9).unwrap();
        assert_eq!((from_nothing.tokens, from_nothing.counted), (vec![256, u32::from(b'e')], 1));

        let items = [4, 3, 5].map(|n| Item { tokens: (0..n).collect(), counted: 2 });
        let rows = pack(&items, 5);
        assert_eq!(rows, [vec![0, 1], vec![2]]);
        let b = batch(&items, &rows, 3, 5);
        assert_eq!(b.seq.cu_seqlens, [0, 3, 5, 9, 10, 15]);
        assert_eq!(b.weights, [0., 1., 1., 1., 1., 0., 0., 1., 1., 0., 0., 0., 0., 0., 0.]);
        assert_eq!(b.targets[..5], [1, 2, 3, 1, 2]);
        assert_eq!(b.seq.positions[..5], [0, 1, 2, 0, 1]);
    }
}
