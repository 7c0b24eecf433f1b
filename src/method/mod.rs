//! What makes a phase of a run more than plain training: a file or folder for each method.

pub mod grow;
pub mod ledger;
pub mod salt;
pub mod spdf;
