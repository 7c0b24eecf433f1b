//! One update (`step`), what a rank holds for it (`replica`), and the loop over phases (`run`); losses of a whole corpus
//! (`score`).

pub mod agreement;
mod board;
pub mod choices;
pub mod corpora;
pub mod evaluate;
pub mod fits;
pub mod loader;
pub mod lock;
mod log;
pub mod metrics;
pub mod position;
pub mod progress;
pub mod rehearsal;
pub mod replica;
pub mod resume;
pub mod run;
pub mod score;
pub mod step;
pub mod vote;
