//! `report`: a page about runs.

use crate::Result;
use crate::report;
use std::path::PathBuf;

/// One HTML page about one run or several, that opens without a network
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier report runs/quickstart
  espalier report runs/a runs/b --out compare.html")]
pub struct Report {
    /// Run directories; several are drawn into the same charts
    #[arg(required = true)]
    dir: Vec<PathBuf>,
    /// Where to write the page [default: report.html in the first directory]
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Report {
    pub fn run(self) -> Result<()> {
        let out = self.out.unwrap_or_else(|| self.dir[0].join("report.html"));
        let s = report::write(&self.dir, &out)?;
        let runs = if s.runs == 1 { "1 run".into() } else { format!("{} runs", s.runs) };
        println!("{}: {} updates of {runs}", s.path.display(), s.steps);
        Ok(())
    }
}
