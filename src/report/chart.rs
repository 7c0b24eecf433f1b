//! One chart as SVG: axes with round numbers, shaded phases, a band from least to most and a line of means for each
//! run, dots for evaluations. The numbers behind the lines are in `data-*` attributes for `page.js` to read out.

use super::curve::Point;
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

pub struct Line {
    pub name: String,
    /// Number of the colour.
    pub colour: usize,
    pub points: Vec<Point>,
    /// Evaluations: x, y, what they are of.
    pub dots: Vec<(f64, f64, String)>,
}

pub struct Chart<'a> {
    pub title: &'a str,
    pub x_title: &'a str,
    /// How x and y are written.
    pub x_text: fn(f64) -> String,
    pub y_text: fn(f64) -> String,
    pub log: bool,
    pub lines: Vec<Line>,
    /// Beginning and name, in rising order.
    pub phases: Vec<(f64, String)>,
}

/// A scale from values to pixels.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let map = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).log10() } else { v };
        let share = (map(value) - map(self.low)) / (map(self.high) - map(self.low));
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }
}

/// Round numbers within low..=high, about `count` of them: steps of 1, 2 or 5 times a power of ten.
pub fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count.max(1) as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step - 1e-9).ceil() as i64;
    (first..).map(|i| i as f64 * step).take_while(|t| *t <= high + 1e-9 * step).take(20).collect()
}

/// Powers of ten within low..=high, with 2 and 5 between them if they are few.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let between: &[f64] = if last - first <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let all = (first..=last).flat_map(|p| between.iter().map(move |m| m * 10f64.powi(p)));
    all.filter(|t| (low..=high).contains(t)).collect()
}

impl Chart<'_> {
    /// None if no line has a point.
    pub fn svg(&self) -> Option<String> {
        let points = || self.lines.iter().flat_map(|l| &l.points);
        let dots = || self.lines.iter().flat_map(|l| &l.dots);
        let xs = points().map(|p| p.x).chain(dots().map(|d| d.0));
        let right = xs.fold(f64::MIN, f64::max);
        let ys = || points().flat_map(|p| [p.least, p.most]).chain(dots().map(|d| d.1));
        let (mut low, mut high) = ys().fold((f64::MAX, f64::MIN), |(a, b), y| (a.min(y), b.max(y)));
        if low > high {
            return None;
        }
        let log = self.log && low > 0.0 && high > 20.0 * low;
        if !log {
            let air = (0.04 * (high - low)).max(0.02 * high.abs()).max(1e-12);
            (low, high) = (if low >= 0.0 { (low - air).max(0.0) } else { low - air }, high + air);
        }
        let x = Scale { low: 0.0, high: right.max(1e-12), from: LEFT, to: WIDTH - RIGHT, log: false };
        let y = Scale { low, high, from: HEIGHT - BOTTOM, to: TOP, log };
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\" data-left=\"{LEFT}\" data-right=\"{}\" data-high=\"{}\">",
            escape(self.title),
            WIDTH - RIGHT,
            x.high
        );
        self.shade(&mut out, &x);
        self.axes(&mut out, &x, &y);
        for line in &self.lines {
            self.line(&mut out, line, &x, &y);
        }
        let _ = write!(
            out,
            "<line class=\"cross\" y1=\"{TOP}\" y2=\"{}\" x1=\"-9\" x2=\"-9\"/></svg>",
            HEIGHT - BOTTOM
        );
        Some(out)
    }

    /// Every second phase; the names at the top where there is room.
    fn shade(&self, out: &mut String, x: &Scale) {
        if self.phases.len() < 2 {
            return;
        }
        for (i, (begin, name)) in self.phases.iter().enumerate() {
            let end = self.phases.get(i + 1).map_or(x.high, |p| p.0);
            let (a, b) = (x.at(*begin), x.at(end));
            let class = if i % 2 == 0 { "phase" } else { "phase odd" };
            let _ = write!(
                out,
                "<rect class=\"{class}\" x=\"{a:.1}\" width=\"{:.1}\" y=\"{TOP}\" height=\"{:.1}\"><title>phase {}</title></rect>",
                (b - a).max(0.0),
                HEIGHT - BOTTOM - TOP,
                escape(name)
            );
            if b - a > 7.0 * name.chars().count() as f64 {
                let _ = write!(
                    out,
                    "<text class=\"phase-name\" x=\"{:.1}\" y=\"{}\">{}</text>",
                    a + 4.0,
                    TOP + 11.0,
                    escape(name)
                );
            }
        }
    }

    fn axes(&self, out: &mut String, x: &Scale, y: &Scale) {
        let floor = HEIGHT - BOTTOM;
        let y_ticks = if y.log { log_ticks(y.low, y.high) } else { ticks(y.low, y.high, 5) };
        for t in y_ticks {
            let at = y.at(t);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                (self.y_text)(t)
            );
        }
        for t in ticks(x.low, x.high, 6) {
            let at = x.at(t);
            let _ = write!(
                out,
                "<line class=\"tick\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{floor}\" y2=\"{}\"/><text class=\"x\" x=\"{at:.1}\" y=\"{}\">{}</text>",
                floor + 4.0,
                floor + 17.0,
                (self.x_text)(t)
            );
        }
        let _ = write!(
            out,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{floor}\" y2=\"{floor}\"/><text class=\"x\" x=\"{}\" y=\"{}\">{}</text>",
            WIDTH - RIGHT,
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 6.0,
            escape(self.x_title)
        );
    }

    fn line(&self, out: &mut String, line: &Line, x: &Scale, y: &Scale) {
        let colour = line.colour % 8;
        let place = |px: f64, py: f64| format!("{:.1},{:.1}", x.at(px), y.at(py));
        let path = |v: fn(&Point) -> f64| line.points.iter().map(move |p| place(p.x, v(p)));
        if line.points.iter().any(|p| p.most > p.least) {
            let above: Vec<String> = path(|p| p.most).collect();
            let below: Vec<String> = path(|p| p.least).collect();
            let around = above.into_iter().chain(below.into_iter().rev()).collect::<Vec<_>>().join(" ");
            let _ = write!(out, "<polygon class=\"band c{colour}\" points=\"{around}\"/>");
        }
        let means = path(|p| p.mean).collect::<Vec<_>>().join(" ");
        let list = |v: fn(&Point) -> f64| {
            line.points.iter().map(|p| format!("{:.5e}", v(p))).collect::<Vec<_>>().join(" ")
        };
        let _ = write!(
            out,
            "<polyline class=\"line c{colour}\" points=\"{means}\" data-name=\"{}\" data-x=\"{}\" data-y=\"{}\"/>",
            escape(&line.name),
            list(|p| p.x),
            list(|p| p.mean)
        );
        for (px, py, what) in &line.dots {
            let _ = write!(
                out,
                "<circle class=\"dot c{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.2\"><title>{}: {py:.4}</title></circle>",
                x.at(*px),
                y.at(*py),
                escape(what)
            );
        }
    }
}

pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}
