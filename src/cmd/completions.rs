//! `completions SHELL`: a script that completes commands and options.

use crate::Result;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

/// Print a script that makes a shell complete espalier's commands and options
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier completions bash > ~/.local/share/bash-completion/completions/espalier
  espalier completions zsh > ~/.zfunc/_espalier       with ~/.zfunc in fpath
  espalier completions fish > ~/.config/fish/completions/espalier.fish")]
pub struct Completions {
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut super::Cli::command(), "espalier", &mut script);
        super::print(&String::from_utf8_lossy(&script))
    }
}
