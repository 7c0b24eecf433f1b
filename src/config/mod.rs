//! The run file: parsed strictly, validated, resolved. Text -> `RunConfig`, and back.

pub mod model;
pub mod run;
pub mod schedule;

pub use model::{Activation, Head, ModelConfig, Norm, NormPlace, Positions, RopeScaling};
pub use run::*;
pub use schedule::{Kind, Length, Schedule, Segment};
