//! `config reference`: every key of a run file.

use crate::Result;
use crate::config::reference;

#[derive(clap::Subcommand)]
pub enum Config {
    /// Every key of a run file with what it takes, its default and its meaning, as Markdown
    #[command(after_help = "Examples:
  espalier config reference                     the page that is docs/run-file.md
  espalier config reference | grep weight_decay")]
    Reference,
}

impl Config {
    pub fn run(self) -> Result<()> {
        match self {
            Config::Reference => super::print(&reference()),
        }
    }
}
