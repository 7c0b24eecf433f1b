//! Parameters: what a tensor is globally (`ParamSpec`), where a rank keeps its part (`Unit`), how parts are filled, how
//! ranks bring each other's (`Flow`), and what of a gradient they sum because each has a part of it (`Partial`); and which blocks of a
//! block-sparse matrix are stored (`Layout`).

mod convert;
mod fill;
mod flow;
mod layout;
mod partial;
mod spec;
mod unit;

pub use convert::{Gathered, read_as};
pub use fill::{RandomInit, TensorSource};
pub use flow::{Accumulate, Flow};
pub use layout::{BLOCKS, Grid, Layout};
pub use partial::Partial;
pub use spec::{Init, LocalBox, ParamSpec, Shard};
pub use unit::{Covers, Declare, Dp, Params, Placed, Unit, reduced};
