//! Parameters: what a tensor is globally (`ParamSpec`), where a rank keeps its part (`Unit`), how parts are filled, and
//! how ranks bring each other's (`Flow`).

mod fill;
mod flow;
mod spec;
mod unit;

pub use fill::{RandomInit, TensorSource};
pub use flow::{Accumulate, Flow};
pub use spec::{Init, LocalBox, ParamSpec, Shard};
pub use unit::{Declare, Dp, Params, Placed, Unit, reduced};
