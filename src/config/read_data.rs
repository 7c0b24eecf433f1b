//! `[data]`: the corpora of a run and how samples are made of them.

use super::run::{DataConfig, Io, MEGATRON_SPLIT, Order, Packing};
use super::table::Table;
use crate::Result;
use std::path::PathBuf;

pub(super) const ORDERS: &[(&str, Order)] = &[("stream", Order::Stream), ("megatron", Order::Megatron)];
pub(super) const PACKINGS: &[(&str, Packing)] =
    &[("window", Packing::Window), ("best-fit", Packing::BestFit), ("one-doc", Packing::OneDoc)];
pub(super) const IOS: &[(&str, Io)] = &[("mmap", Io::Mmap), ("pread", Io::Pread), ("stage", Io::Stage)];

/// A row is packed with all of its group, so large groups are slow.
pub(super) const PACK_GROUPS: std::ops::RangeInclusive<u64> = 1..=1 << 12;
/// Windows of a pack group where the run file leaves it open: few enough that packing one costs microseconds, enough
/// that its borders cut few documents.
const PACK_GROUP: u64 = 64;

pub(super) fn data(t: &Table) -> Result<Vec<(String, DataConfig)>> {
    let mut corpora = Vec::new();
    for (name, _) in t.entries {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            let problem = format!("{name:?} is not a name for a corpus");
            return Err(t.error(name, problem, "use letters, digits, _ and -"));
        }
        corpora.push((name.clone(), corpus(&t.table(name)?)?));
    }
    if corpora.is_empty() {
        let add = "add [data] with web = { path = \"data/web\" }";
        return Err(t.doc.error("data", "there is no corpus", add));
    }
    Ok(corpora)
}

fn corpus(c: &Table) -> Result<DataConfig> {
    let path = c.str("path", "the prefix of the corpus files as a string")?;
    let path = PathBuf::from(path.ok_or_else(|| c.missing("path", "path = \"data/web\""))?);
    let order = c.choice("order", ORDERS)?.unwrap_or(Order::Stream);
    let packing = c.choice("packing", PACKINGS)?.unwrap_or(Packing::Window);
    let io = c.choice("io", IOS)?.unwrap_or(Io::Mmap);
    let holdout = c.float("holdout", "a share of at least 0 and less than 1", |x| (0.0..1.0).contains(&x))?;
    let pack_group = c.int("pack_group", PACK_GROUPS)?;
    let split = split(c)?;
    let stage_dir = c.str("stage_dir", "a folder on a disk of the node")?.map(PathBuf::from);
    let weights = c.str("weights", "the name of a side stream, or \"none\"")?.map(String::from);
    let only = |key: &str, given: bool, with: &str| match given {
        true => {
            Err(c.error(key, format!("it has no meaning without {with}"), format!("remove it or set {with}")))
        }
        false => Ok(()),
    };
    only("split", split.is_some() && order != Order::Megatron, "order = \"megatron\"")?;
    only("pack_group", pack_group.is_some() && packing != Packing::BestFit, "packing = \"best-fit\"")?;
    only("stage_dir", stage_dir.is_some() && io != Io::Stage, "io = \"stage\"")?;
    if order == Order::Megatron && packing != Packing::Window {
        let problem = "Megatron's order cuts windows and packs no documents";
        return Err(c.error("packing", problem, "remove it or set order = \"stream\""));
    }
    if order == Order::Megatron && holdout.is_some() {
        let problem = "Megatron's order holds documents out by its split";
        return Err(c.error("holdout", problem, "set split = [949, 50, 1] instead"));
    }
    Ok(DataConfig {
        path,
        order,
        packing,
        pack_group: pack_group.unwrap_or(PACK_GROUP),
        split: split.or((order == Order::Megatron).then_some(MEGATRON_SPLIT)),
        io,
        stage_dir,
        weights,
        holdout: holdout.unwrap_or(0.0),
        max_epochs: c.int("max_epochs", 1..=1 << 32)?,
    })
}

/// Shares of training, validation and test, of any sum: `split = [949, 50, 1]`.
fn split(c: &Table) -> Result<Option<[f64; 3]>> {
    let Some(items) = c.list("split")? else { return Ok(None) };
    let numbers: Vec<f64> = items.iter().filter_map(super::table::number).collect();
    let good =
        numbers.iter().all(|x| x.is_finite() && *x >= 0.0) && numbers.first().is_some_and(|x| *x > 0.0);
    match <[f64; 3]>::try_from(numbers) {
        Ok(split) if good && items.len() == 3 => Ok(Some(split)),
        _ => Err(c.error(
            "split",
            "this is not a split",
            "give the shares of training, validation and test, such as [949, 50, 1]",
        )),
    }
}
