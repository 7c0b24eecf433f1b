//! `espalier report`: what the page shows is what the metrics hold, and it needs nothing but itself.

use serde_json::json;
use std::path::{Path, PathBuf};

fn row(attempt: u64, kind: &str, step: u64, fields: serde_json::Value) -> String {
    let mut row = json!({ "v": 1, "attempt": attempt, "kind": kind, "step": step, "phase": "p", "t_s": 1.0 });
    row.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    row.to_string() + "\n"
}

fn step(attempt: u64, step: u64, loss: f64) -> String {
    let tokens = step * 100;
    let fields = json!({ "tokens": tokens, "loss": loss, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_s": 50.0,
        "step_ms": 2000.0, "data_wait_ms": 0.0 });
    row(attempt, "step", step, fields)
}

/// A run of two phases that was killed after update 3 and went on from update 2 with other losses.
fn write_run(dir: &Path, first_loss: f64) {
    let mut text =
        row(0, "run", 0, json!({ "params": 1234, "host": "<node&1>", "flops_per_token_full": 6e3 }));
    text += &row(0, "phase", 0, json!({ "name": "one", "steps": 2, "seq_len": 10, "global_batch": 10 }));
    for (n, loss) in [(1, first_loss), (2, 4.0), (3, 99.0)] {
        text += &step(0, n, loss);
    }
    text += "{\"v\":1,\"attempt\":0,\"kind\":\"ste\n";
    text += &row(1, "run", 2, json!({ "params": 1234, "host": "<node&1>", "flops_per_token_full": 6e3 }));
    text += &row(
        1,
        "phase",
        2,
        json!({ "name": "two", "steps": 2, "seq_len": 10, "global_batch": 10, "batch_ramp": { "from": 3 } }),
    );
    text += &step(1, 3, 3.0);
    text += &step(1, 4, 2.0);
    text += &row(1, "eval", 4, json!({ "corpus": "web:heldout", "nll_token": 2.125, "bits_byte": 1.0625 }));
    std::fs::create_dir_all(dir.join("samples")).expect("a folder");
    std::fs::write(dir.join("metrics.jsonl"), text).expect("written");
    std::fs::write(dir.join("run.toml"), "schema = 1 # <b>").expect("written");
    std::fs::write(dir.join("samples/a.txt"), "once upon <i>a time").expect("written");
}

fn page(dirs: &[PathBuf], out: &Path) -> String {
    espalier::report::write(dirs, out).expect("a report");
    std::fs::read_to_string(out).expect("the page")
}

/// What `attribute` of the lines in the chart under `title` says, over tokens first.
fn lines(html: &str, title: &str, attribute: &str) -> Vec<Vec<f64>> {
    let figure =
        html.split("<figure>").find(|f| f.contains(&format!("<figcaption>{title}"))).expect("a chart");
    let chart = figure.split("class=\"by-").nth(1).expect("a chart over tokens");
    let mark = format!("{attribute}=\"");
    let values = chart.split(&mark).skip(1);
    let parse = |list: &str| list.split(' ').map(|x| x.parse().expect("a number")).collect();
    values.map(|rest| parse(rest.split('"').next().expect("quoted"))).collect()
}

#[test]
fn the_page_shows_the_highest_attempt_of_each_step_and_its_evaluations() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = folder.path().join("run");
    write_run(&run, 5.0);
    let html = page(&[run], &folder.path().join("page.html"));
    assert_eq!(lines(&html, "Loss", "data-y"), [[5.0, 4.0, 3.0, 2.0]]);
    assert_eq!(lines(&html, "Loss", "data-x"), [[100.0, 200.0, 300.0, 400.0]]);
    assert!(html.contains("<title>run web:heldout: 2.1250</title>"));
    assert!(html.contains("<td>1.0625</td>") && html.contains("2.4\u{202f}MFLOP"), "400 tokens of 6000");
    assert!(html.contains("<td>8 s</td>"), "four updates of two seconds");
    assert!(html.contains("<title>phase two</title>"));
    assert!(
        html.contains("<td>10</td></tr>") && html.contains("<td>3 to 10</td></tr>"),
        "batches of the phases"
    );
}

#[test]
fn several_runs_share_the_charts() {
    let folder = tempfile::tempdir().expect("a folder");
    let runs = ["a", "b"].map(|name| folder.path().join(name));
    write_run(&runs[0], 5.0);
    write_run(&runs[1], 6.0);
    let html = page(&runs, &folder.path().join("page.html"));
    assert_eq!(lines(&html, "Loss", "data-y"), [[5.0, 4.0, 3.0, 2.0], [6.0, 4.0, 3.0, 2.0]]);
    for (attribute, name) in [("data-name", "a"), ("data-name", "b")] {
        assert!(html.contains(&format!("{attribute}=\"{name}\"")));
    }
}

#[test]
fn the_page_asks_nothing_of_a_network_and_text_cannot_become_markup() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = folder.path().join("run");
    write_run(&run, 5.0);
    let html = page(&[run], &folder.path().join("page.html"));
    for outside in ["http:", "https:", "//cdn", "@import", "url(", "<link", "src="] {
        assert!(!html.contains(outside), "{outside}");
    }
    for (raw, safe) in [
        ("<node&1>", "&lt;node&amp;1&gt;"),
        ("<i>a time", "upon &lt;i&gt;a time"),
        ("# <b>", "schema = 1 # &lt;b&gt;"),
    ] {
        assert!(!html.contains(raw) && html.contains(safe), "{safe}");
    }
    let count = |tag: &str| html.matches(tag).count();
    for tag in ["svg", "figure", "table", "details", "section", "div", "pre"] {
        assert_eq!(
            count(&format!("<{tag}>")) + count(&format!("<{tag} ")),
            count(&format!("</{tag}>")),
            "{tag}"
        );
    }
}

#[test]
fn one_step_in_a_million_that_spikes_stays_visible_and_the_page_small() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = folder.path().join("long");
    std::fs::create_dir(&run).expect("a folder");
    let loss = |n| if n == 70_001 { 50.0 } else { 3.0 };
    let text: String = (1..=100_000).map(|n| step(0, n, loss(n))).collect();
    std::fs::write(run.join("metrics.jsonl"), text).expect("written");
    let html = page(&[run], &folder.path().join("page.html"));
    assert!(html.len() < 1 << 20, "{} bytes", html.len());
    let figure = html.split("<figure>").find(|f| f.contains("Loss")).expect("a chart");
    let band = figure
        .split("class=\"band c0\" points=\"")
        .nth(1)
        .expect("a band")
        .split('"')
        .next()
        .expect("quoted");
    let heights = band.split([' ', ',']).skip(1).step_by(2).map(|y| y.parse::<f64>().expect("a number"));
    let (low, high) = heights.fold((f64::MAX, f64::MIN), |(a, b), y| (a.min(y), b.max(y)));
    assert!(high - low > 200.0, "the spike rises over the chart: {low} to {high}");
}

#[test]
fn a_directory_without_metrics_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("page.html");
    let error = espalier::report::write(&[folder.path().into()], &out).err().expect("refused").to_string();
    assert!(error.contains("metrics.jsonl") && error.contains("give directories that"), "{error}");
    assert!(!out.exists());
}
