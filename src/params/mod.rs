//! Parameters: what a tensor is globally (`ParamSpec`), where a rank keeps its part (`Unit`), and how parts are filled.

mod spec;
mod unit;

pub use spec::{Init, LocalBox, ParamSpec, Shard};
pub use unit::{Declare, Dp, Params, Placed, RandomInit, TensorSource, Unit};
