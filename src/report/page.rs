//! The page itself: charts over each of the three axes, of which the chosen one is shown, then tables, samples and
//! run files.

use super::chart::{Chart, Line, escape};
use super::curve::{self, Axis};
use super::read::Run;
use super::tables::{self, seconds, short};

const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

/// Title, key of the step rows, text of a value, whether a logarithmic axis may be chosen.
type Quantity = (&'static str, &'static str, fn(f64) -> String, bool);

const QUANTITIES: [Quantity; 5] = [
    ("Loss (nats/token)", "loss", tables::digits, false),
    ("Learning rate", "lr", tables::digits, false),
    ("Gradient norm, before the clip", "grad_norm", tables::digits, true),
    ("Tokens a second", "tokens_per_s", short, false),
    ("Wait for data (ms)", "data_wait_ms", tables::digits, false),
];

pub fn page(runs: &[Run]) -> String {
    let title = match runs {
        [one] => one.name.clone(),
        _ => format!("{} runs", runs.len()),
    };
    let radios: String = Axis::ALL
        .iter()
        .enumerate()
        .map(|(i, a)| {
            let checked = if i == 0 { " checked" } else { "" };
            format!("<input type=\"radio\" name=\"axis\" id=\"by-{}\"{checked}>", a.id())
        })
        .collect();
    let labels: String =
        Axis::ALL.iter().map(|a| format!("<label for=\"by-{}\">{}</label>", a.id(), a.title())).collect();
    let keys: String = runs
        .iter()
        .enumerate()
        .map(|(i, r)| format!("<span><span class=\"key c{}\"></span>{}</span>", i % 8, escape(&r.name)))
        .collect();
    let charts: String = QUANTITIES.iter().map(|q| figure(runs, q)).collect();
    let each = |f: fn(&Run) -> String| runs.iter().map(f).collect::<String>();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} · espalier</title><style>{CSS}</style></head><body>{radios}<header><h1>{title}</h1>\
         <nav aria-label=\"horizontal axis\">over {labels}</nav><p class=\"keys\">{keys}</p></header>\
         <main><section class=\"charts\">{charts}</section><section>{}{}{}</section>\
         <section>{}{}</section><section>{}{}</section></main>\
         <footer>Bands span the least and the largest value, lines are means, dots are evaluations. FLOPs are counted as \
         6·M + 12·L·C·T a token (M weights in matrix products, attention in full).</footer><script>{JS}</script></body></html>\n",
        tables::result(runs),
        tables::speed(runs),
        tables::environment(runs),
        each(tables::phases),
        each(tables::evaluations),
        each(samples),
        each(config),
        title = escape(&title),
    )
}

/// One quantity over every axis.
fn figure(runs: &[Run], (title, key, text, log): &Quantity) -> String {
    let svgs: String = Axis::ALL
        .iter()
        .filter_map(|&axis| {
            let svg = chart(runs, title, key, *text, *log, axis).svg()?;
            Some(format!("<div class=\"by-{}\">{svg}</div>", axis.id()))
        })
        .collect();
    if svgs.is_empty() {
        return String::new();
    }
    format!("<figure><figcaption>{title}<output></output></figcaption>{svgs}</figure>")
}

fn chart<'a>(
    runs: &[Run],
    title: &'a str,
    key: &str,
    y_text: fn(f64) -> String,
    log: bool,
    axis: Axis,
) -> Chart<'a> {
    let lines = runs.iter().enumerate().map(|(colour, run)| {
        let dot = |e: &super::read::Eval| {
            let x = axis.of(&run.steps[e.after?]);
            Some((x, e.nll_token.filter(|y| y.is_finite())?, format!("{} {}", run.name, e.corpus)))
        };
        let dots = if key == "loss" { run.evals.iter().filter_map(dot).collect() } else { vec![] };
        Line { name: run.name.clone(), colour, points: curve::of(run, key, axis), dots }
    });
    // Phases are shaded where all runs share the axis of one of them.
    let phases = match runs {
        [run] => run.phases.iter().map(|p| (axis.at(run, p.step), p.name.clone())).collect(),
        _ => vec![],
    };
    Chart {
        title,
        x_title: axis.title(),
        x_text: if axis == Axis::Time { seconds } else { short },
        y_text,
        log,
        lines: lines.collect(),
        phases,
    }
}

fn samples(run: &Run) -> String {
    if run.samples.is_empty() {
        return String::new();
    }
    let texts: String = run
        .samples
        .iter()
        .map(|(name, text)| format!("<h3>{}</h3><pre>{}</pre>", escape(name), escape(text)))
        .collect();
    format!("<details open><summary>Samples of {}</summary>{texts}</details>", escape(&run.name))
}

fn config(run: &Run) -> String {
    if run.config.is_empty() {
        return String::new();
    }
    format!(
        "<details><summary>Run file of {}, resolved</summary><pre>{}</pre></details>",
        escape(&run.name),
        escape(&run.config)
    )
}
