//! The command line: one file per command.

pub mod export;
pub mod import;
