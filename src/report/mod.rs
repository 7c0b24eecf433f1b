//! `report`: one HTML page about one run or several, from their directories alone. It opens without a network, in
//! light and dark, and holds its charts as SVG. Rows are read (`read`), thinned (`curve`), drawn (`chart`) and set into
//! the page (`page`, with `page.css` and `page.js`).

mod chart;
mod curve;
mod page;
mod read;
mod tables;

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// What a report found.
pub struct Summary {
    pub path: PathBuf,
    pub runs: usize,
    /// Steps of all runs.
    pub steps: usize,
}

/// Writes the page about the runs in `dirs` to `out`. A directory without `metrics.jsonl` is an error; a line that is
/// not JSON, as a kill leaves one, is passed over.
pub fn write(dirs: &[PathBuf], out: &Path) -> Result<Summary> {
    let runs = dirs.iter().map(|dir| read::Run::read(dir)).collect::<Result<Vec<_>>>()?;
    let html = page::page(&runs);
    if let Some(folder) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    std::fs::write(out, html).map_err(Error::io(out, "write"))?;
    Ok(Summary { path: out.into(), runs: runs.len(), steps: runs.iter().map(|r| r.steps.len()).sum() })
}
