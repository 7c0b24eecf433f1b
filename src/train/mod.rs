//! One update (`step`), what a rank holds for it (`replica`), and the loop over phases (`run`); losses of a whole corpus
//! (`score`).

pub mod agreement;
pub mod alike;
mod appender;
mod board;
pub mod choices;
pub mod corpora;
mod council;
pub mod evaluate;
mod evaluating;
mod fastest;
pub mod fits;
pub mod loader;
pub mod lock;
mod log;
pub mod metrics;
pub mod numbers;
pub mod position;
pub mod progress;
mod rebuild;
pub mod rehearsal;
pub mod replay;
pub mod replica;
pub mod resume;
mod room;
pub mod run;
pub mod saving;
pub mod score;
pub mod sparse;
pub mod step;
pub mod teacher;
pub mod vote;
