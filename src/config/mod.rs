//! The run file: parsed strictly, validated, resolved. Text -> tree with lines (`doc`), `--set` over it (`set`),
//! preset under it (`preset`), keys judged (`keys`), values read (`read*`) into `RunConfig`, and back (`write`).

pub mod batches;
mod check;
mod curve;
mod doc;
pub mod glob;
pub mod grow;
mod keys;
pub mod model;
pub mod muon;
mod preset;
mod read;
mod read_data;
mod read_model;
mod read_numerics;
mod read_phase;
mod reference;
pub mod run;
pub mod salt;
pub mod schedule;
pub mod schema;
mod set;
pub mod spdf;
mod table;
mod write;

pub use batches::{Batches, Ramp};
pub use grow::{Depth, Grow, PhaseGrow, Sizes, Width};
pub use model::{Activation, Head, ModelConfig, Norm, NormPlace, Positions, RopeScaling};
pub use muon::{Adjust, MATRICES, MuonConfig, is_matrix_of_block};
pub use reference::reference;
pub use run::*;
pub use salt::{Distance, Salt};
pub use schedule::{Kind, Length, Schedule, Segment};
pub use spdf::{Pattern, Spdf};

use crate::{Error, Result};
use std::path::Path;

impl RunConfig {
    /// Reads a run file and applies the `--set` arguments over it, in order.
    pub fn load(path: &Path, set: &[String]) -> Result<RunConfig> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::config(&file, "run file", format!("cannot be read: {e}"), "give the path of a TOML file")
        })?;
        RunConfig::parse(&text, &file, set)
    }

    /// The same from text; `file` is only its name, for messages.
    pub fn parse(text: &str, file: &str, set: &[String]) -> Result<RunConfig> {
        let mut doc = doc::Doc::parse(text, file)?;
        for arg in set {
            doc.set(arg)?;
        }
        // First of all, so that a file of a later dialect is not blamed for its keys.
        match table::Table::root(&doc).int("schema", 0..=u64::MAX)? {
            Some(1) => {}
            Some(n) => {
                return Err(doc.error("schema", format!("{n} is not known here"), "this program reads 1"));
            }
            None => return Err(doc.error("schema", "this required key is missing", "add `schema = 1`")),
        }
        preset::merge(&mut doc)?;
        keys::check(&doc)?;
        read::config(&doc)
    }
}
