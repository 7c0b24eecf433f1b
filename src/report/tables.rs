//! The tables of the page: what each run was, did and took.

use super::chart::escape;
use super::curve::median;
use super::read::Run;
use serde_json::Value;

/// 1.23 M
pub fn short(x: f64) -> String {
    const UNITS: [(f64, &str); 6] =
        [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let sign = if x < 0.0 { "−" } else { "" };
    let x = x.abs();
    match UNITS.iter().find(|(unit, _)| x >= *unit) {
        Some((unit, name)) => format!("{sign}{}\u{202f}{name}", digits(x / unit)),
        None => format!("{sign}{}", digits(x)),
    }
}

/// Three digits that say something.
pub fn digits(x: f64) -> String {
    let a = x.abs();
    let places = match a {
        a if a >= 100.0 || a == 0.0 => 0,
        a if a >= 10.0 => 1,
        a if a >= 0.1 => 2,
        a if a >= 0.001 => 4,
        _ => return format!("{x:.1e}").replace(".0e", "e"),
    };
    let text = format!("{x:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

pub fn seconds(s: f64) -> String {
    match s {
        s if s >= 172_800.0 => format!("{} d", digits(s / 86_400.0)),
        s if s >= 7200.0 => format!("{} h", digits(s / 3600.0)),
        s if s >= 120.0 => format!("{} min", digits(s / 60.0)),
        s => format!("{} s", digits(s)),
    }
}

/// A table with a row for each fact and a column for each run; facts that no run has are left out.
fn facts(caption: &str, runs: &[Run], rows: &[Fact]) -> String {
    let mut body = String::new();
    for (name, fact) in rows {
        let cells: Vec<Option<String>> = runs.iter().map(fact).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let cells: String =
            cells.iter().map(|c| format!("<td>{}</td>", escape(c.as_deref().unwrap_or("–")))).collect();
        body += &format!("<tr><th scope=\"row\">{name}</th>{cells}</tr>");
    }
    let heads: String = runs
        .iter()
        .enumerate()
        .map(|(i, r)| {
            format!("<th scope=\"col\"><span class=\"key c{}\"></span>{}</th>", i % 8, escape(&r.name))
        })
        .collect();
    format!(
        "<div class=\"scroll\"><table><caption>{caption}</caption><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )
}

type Fact = (&'static str, fn(&Run) -> Option<String>);

fn fact(run: &Run, key: &str) -> Option<f64> {
    run.facts.get(key)?.as_f64()
}

fn word(run: &Run, key: &str) -> Option<String> {
    match run.facts.get(key)? {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

pub fn result(runs: &[Run]) -> String {
    facts(
        "Result",
        runs,
        &[
            ("parameters", |r| fact(r, "params").map(short)),
            ("updates", |r| r.steps.last().map(|s| s.step.to_string())),
            ("tokens", |r| r.steps.last().map(|s| short(s.tokens))),
            ("last loss, mean of 20 updates (nats/token)", |r| {
                let last = &r.steps[r.steps.len().saturating_sub(20)..];
                let losses: Vec<f64> = last.iter().filter_map(|s| s.number("loss")).collect();
                (!losses.is_empty())
                    .then(|| format!("{:.4}", losses.iter().sum::<f64>() / losses.len() as f64))
            }),
            ("last evaluation (nats/token)", |r| {
                let last = r.evals.last()?;
                Some(format!("{:.4} on {}", last.nll_token?, last.corpus))
            }),
            ("last evaluation (bits/byte)", |r| {
                let last = r.evals.iter().rev().find(|e| e.bits_byte.is_some())?;
                Some(format!("{:.4} on {}", last.bits_byte?, last.corpus))
            }),
            ("time in updates", |r| r.steps.last().map(|s| seconds(s.seconds))),
            ("attempts", |r| Some(r.attempts.to_string())),
        ],
    )
}

pub fn speed(runs: &[Run]) -> String {
    facts(
        "Work, speed and memory",
        runs,
        &[
            ("FLOPs, attention counted in full", |r| {
                r.steps.last().filter(|s| s.flops > 0.0).map(|s| short(s.flops) + "FLOP")
            }),
            ("FLOPs a token, full attention", |r| fact(r, "flops_per_token_full").map(|x| short(x) + "FLOP")),
            ("FLOPs a token, causal attention", |r| {
                fact(r, "flops_per_token_causal").map(|x| short(x) + "FLOP")
            }),
            ("tokens a second, median", |r| median(r, "tokens_per_s").map(short)),
            ("update, median", |r| median(r, "step_ms").map(|x| format!("{} ms", digits(x)))),
            ("wait for data, median", |r| median(r, "data_wait_ms").map(|x| format!("{} ms", digits(x)))),
            ("attainable, measured at the start", |r| {
                fact(r, "peak_tflops").map(|x| short(x * 1e12) + "FLOP/s")
            }),
            ("share of it attained, full attention", |r| {
                median(r, "mfu_full").map(|x| format!("{:.1} %", 100.0 * x))
            }),
            ("share of it attained, causal attention", |r| {
                median(r, "mfu_causal").map(|x| format!("{:.1} %", 100.0 * x))
            }),
            ("peak memory of a rank", |r| {
                let most = r.steps.iter().filter_map(|s| s.number("peak_mem_gib")).fold(0.0, f64::max);
                (most > 0.0).then(|| format!("{} GiB", digits(most)))
            }),
            ("bytes sent by a rank, an update", |r| {
                let sent = r.steps.last()?.row.get("comm_bytes")?.as_object()?;
                let sum: f64 = sent.values().filter_map(Value::as_f64).sum();
                (sum > 0.0).then(|| short(sum) + "B")
            }),
            ("checkpoints", |r| {
                let last = r.checkpoints.last()?;
                let bytes = last["bytes"].as_f64()?;
                Some(format!("{}, {}B each", r.checkpoints.len(), short(bytes)))
            }),
        ],
    )
}

pub fn environment(runs: &[Run]) -> String {
    facts(
        "Environment",
        runs,
        &[
            ("directory", |r| Some(r.dir.display().to_string())),
            ("host", |r| word(r, "host")),
            ("ranks", |r| {
                Some(format!("{} = dp {} × tp {}", word(r, "ranks")?, word(r, "dp")?, word(r, "tp")?))
            }),
            ("threads a rank", |r| word(r, "threads_per_rank")),
            ("ZeRO stage", |r| word(r, "zero")),
            ("espalier", |r| word(r, "git")),
            ("hash of the configuration", |r| word(r, "config_hash")),
        ],
    )
}

pub fn phases(run: &Run) -> String {
    let rows: String = run
        .phases
        .iter()
        .map(|p| {
            let cell = |key: &str| p.row[key].as_u64().map_or("–".into(), |n| n.to_string());
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&p.name),
                p.step,
                cell("steps"),
                cell("seq_len"),
                match p.row["batch_ramp"]["from"].as_u64() {
                    Some(from) => format!("{from} to {}", cell("global_batch")),
                    None => cell("global_batch"),
                }
            )
        })
        .collect();
    format!(
        "<div class=\"scroll\"><table><caption>Phases of {}</caption><thead><tr><th></th><th>begins after</th><th>updates</th><th>tokens a sequence</th><th>sequences an update</th></tr></thead><tbody>{rows}</tbody></table></div>",
        escape(&run.name)
    )
}

pub fn evaluations(run: &Run) -> String {
    let rows: String = run
        .evals
        .iter()
        .map(|e| {
            let number = |x: Option<f64>| x.map_or("–".into(), |x| format!("{x:.4}"));
            let step = e.after.map_or(0, |i| run.steps[i].step);
            format!(
                "<tr><th scope=\"row\">{step}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&e.corpus),
                number(e.nll_token),
                number(e.bits_byte)
            )
        })
        .collect();
    format!(
        "<details><summary>Evaluations of {}</summary><div class=\"scroll\"><table><thead><tr><th>update</th><th>corpus</th><th>nats/token</th><th>bits/byte</th></tr></thead><tbody>{rows}</tbody></table></div></details>",
        escape(&run.name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_three_digits() {
        let cases = [
            (0.0, "0"),
            (7.0, "7"),
            (0.25, "0.25"),
            (0.0123, "0.0123"),
            (999.0, "999"),
            (1234.0, "1.23\u{202f}k"),
            (45_600_000.0, "45.6\u{202f}M"),
            (1e9, "1\u{202f}G"),
            (-2500.0, "−2.5\u{202f}k"),
            (3e-5, "3e-5"),
        ];
        for (x, want) in cases {
            assert_eq!(short(x), want);
        }
    }

    #[test]
    fn durations_take_the_unit_that_says_most() {
        let cases =
            [(0.5, "0.5 s"), (119.0, "119 s"), (600.0, "10 min"), (9000.0, "2.5 h"), (259_200.0, "3 d")];
        for (s, want) in cases {
            assert_eq!(seconds(s), want);
        }
    }
}
