//! `ckpt diff`: how the tensors of two checkpoints differ, whatever topologies wrote them.

use super::{locate, pretty, print};
use crate::Result;
use crate::checkpoint::{Area, Checkpoint, Kind};
use crate::params::ParamSpec;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// Elements compared at a time.
const CHUNK: usize = 1 << 20;

/// Prints the largest difference of each tensor of two checkpoints, whatever topologies wrote them. Returns whether
/// both have the same tensors with the same bits.
pub fn diff(a: &Path, b: &Path, json: bool) -> Result<bool> {
    let (a, b) = (Checkpoint::open(&locate(a)?)?, Checkpoint::open(&locate(b)?)?);
    let rows = compare(&a, &b)?;
    let equal = rows.iter().all(|r| r.result == Outcome::Equal);
    print(&if json {
        pretty(&serde_json::json!({ "equal": equal, "tensors": rows }))
    } else {
        table(&rows)
    })?;
    Ok(equal)
}

/// One kind of one tensor in both checkpoints.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    tensor: String,
    kind: Kind,
    #[serde(flatten)]
    result: Outcome,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "result")]
enum Outcome {
    /// Bit by bit.
    Equal,
    /// Null in JSON if a difference is not a number. Zeros of different sign differ by 0.
    Differs {
        max_abs: f64,
        elements: usize,
    },
    Shapes {
        a: Vec<usize>,
        b: Vec<usize>,
    },
    /// Of the same size, but others are kept.
    Blocks,
    OnlyA,
    OnlyB,
}

fn compare(a: &Checkpoint, b: &Checkpoint) -> Result<Vec<Row>> {
    let mut rows = vec![];
    let find = |c: &Checkpoint, name: &str| c.manifest().params.iter().find(|p| p.name == name).cloned();
    for p in &a.manifest().params {
        match find(b, &p.name) {
            None => rows.push(row(p, Kind::Weight, Outcome::OnlyA)),
            Some(q) if q.shape() == p.shape() && q.layout != p.layout => {
                rows.push(row(p, Kind::Weight, Outcome::Blocks));
            }
            Some(q) if q.shape() != p.shape() => {
                rows.push(row(p, Kind::Weight, Outcome::Shapes { a: p.shape(), b: q.shape() }));
            }
            Some(_) => {
                for kind in Kind::ALL {
                    if let Some(outcome) = compare_one(a, b, p, kind)? {
                        rows.push(row(p, kind, outcome));
                    }
                }
            }
        }
    }
    let only_b = b.manifest().params.iter().filter(|p| find(a, &p.name).is_none());
    rows.extend(only_b.map(|p| row(p, Kind::Weight, Outcome::OnlyB)));
    Ok(rows)
}

fn row(p: &ParamSpec, kind: Kind, result: Outcome) -> Row {
    Row { tensor: p.name.clone(), kind, result }
}

/// None if neither has this kind.
fn compare_one(a: &Checkpoint, b: &Checkpoint, p: &ParamSpec, kind: Kind) -> Result<Option<Outcome>> {
    let (mut max_abs, mut elements) = (0f64, 0);
    let step = (CHUNK / p.cols).max(1);
    for row in (0..p.rows).step_by(step) {
        let area = Area { row, rows: step.min(p.rows - row), col: 0, cols: p.cols };
        let [mut x, mut y] = [vec![0f32; area.len()], vec![0f32; area.len()]];
        match (a.read(kind, p, area, &mut x)?, b.read(kind, p, area, &mut y)?) {
            (None, None) => return Ok(None),
            (Some(()), None) => return Ok(Some(Outcome::OnlyA)),
            (None, Some(())) => return Ok(Some(Outcome::OnlyB)),
            (Some(()), Some(())) => {}
        }
        for (x, y) in x.iter().zip(&y).filter(|(x, y)| x.to_bits() != y.to_bits()) {
            elements += 1;
            let d = (f64::from(*x) - f64::from(*y)).abs();
            // Once NaN, always NaN: `f64::max` would drop it.
            max_abs = if d.is_nan() || max_abs.is_nan() { f64::NAN } else { max_abs.max(d) };
        }
    }
    Ok(Some(if elements == 0 { Outcome::Equal } else { Outcome::Differs { max_abs, elements } }))
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|r| r.tensor.len()).max().unwrap_or(0);
    let mut out = String::new();
    for r in rows {
        let text = match &r.result {
            Outcome::Equal => "equal".into(),
            Outcome::Differs { max_abs, elements } => {
                format!("differs by at most {max_abs:.3e}, {elements} elements")
            }
            Outcome::Shapes { a, b } => format!("has shape {a:?} in the first and {b:?} in the second"),
            Outcome::Blocks => "keeps other blocks".into(),
            Outcome::OnlyA => "only in the first".into(),
            Outcome::OnlyB => "only in the second".into(),
        };
        writeln!(out, "{:<width$}  {:<6}  {text}", r.tensor, r.kind.name()).expect("strings grow");
    }
    let equal = rows.iter().filter(|r| r.result == Outcome::Equal).count();
    writeln!(out, "{equal} of {} equal", rows.len()).expect("strings grow");
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{model, written};
    use super::*;
    use crate::config::ModelConfig;
    use std::path::Path;

    fn compared(a: &Path, b: &Path) -> Vec<Row> {
        compare(&Checkpoint::open(a).unwrap(), &Checkpoint::open(b).unwrap()).unwrap()
    }

    #[test]
    fn diff_sees_through_topologies_and_finds_one_changed_element() {
        let dirs = [(); 3].map(|_| tempfile::tempdir().unwrap());
        let a = written(dirs[0].path(), 1, &model(), 1, &|_| ());
        let b = written(dirs[1].path(), 2, &model(), 1, &|_| ());
        assert!(compared(&a, &b).iter().all(|r| r.result == Outcome::Equal));
        assert!(diff(dirs[0].path(), &b, true).unwrap());
        let c = written(dirs[2].path(), 1, &model(), 1, &|p| {
            let head = p.units.last_mut().unwrap();
            let at = head.params[0].start;
            head.weights.data_mut::<f32>()[at + 2] += 0.5;
        });
        let rows = compared(&b, &c);
        let differ: Vec<&Row> = rows.iter().filter(|r| r.result != Outcome::Equal).collect();
        assert_eq!(differ.len(), 1);
        assert_eq!(differ[0].tensor, "norm.weight");
        assert_eq!(differ[0].result, Outcome::Differs { max_abs: 0.5, elements: 1 });
        assert!(!diff(&b, &c, false).unwrap());
        let text = table(&rows);
        assert!(text.contains("differs by at most 5.000e-1, 1 elements"), "{text}");
        assert!(text.ends_with(&format!("{} of {} equal\n", rows.len() - 1, rows.len())), "{text}");
    }

    #[test]
    fn diff_reports_nan_and_tensors_that_only_one_has() {
        let dirs = [(); 3].map(|_| tempfile::tempdir().unwrap());
        let a = written(dirs[0].path(), 1, &model(), 1, &|_| ());
        let nan = written(dirs[1].path(), 1, &model(), 1, &|p| {
            p.units[0].weights.data_mut::<f32>()[..2].copy_from_slice(&[f32::NAN, 9.0]);
        });
        let rows = compared(&a, &nan);
        assert!(
            matches!(rows[0].result, Outcome::Differs { max_abs, elements: 2 } if max_abs.is_nan()),
            "{rows:?}"
        );
        let other = ModelConfig { tied: false, vocab: 71, ..model() };
        let other = written(dirs[2].path(), 1, &other, 1, &|_| ());
        let rows = compared(&a, &other);
        assert_eq!(rows[0].result, Outcome::Shapes { a: vec![70, 16], b: vec![71, 16] });
        assert_eq!(
            rows.last().unwrap(),
            &Row { tensor: "head.weight".into(), kind: Kind::Weight, result: Outcome::OnlyB }
        );
    }
}
