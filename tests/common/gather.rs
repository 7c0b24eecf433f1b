//! What ranks hold of every tensor: their tensor-parallel part, whoever of dp keeps it.

use espalier::Result;
use espalier::device::Category;
use espalier::params::{LocalBox, ParamSpec, Params, Placed, Unit, reduced};
use espalier::tensor::Tensor;
use espalier::train::replica::Replica;

/// A rank's part of a tensor.
pub struct Part {
    pub unit: String,
    pub spec: ParamSpec,
    pub local: LocalBox,
    /// (rows, cols) of the box
    pub values: Vec<f64>,
}

/// What a rank holds of every tensor, by `pick` from the weights or the gradients of a unit.
pub fn parts(params: &Params, pick: impl Fn(&Unit) -> Tensor) -> Vec<Part> {
    let part = |(unit, p): (&Unit, &Placed)| Part {
        unit: unit.name.clone(),
        spec: p.spec.clone(),
        local: p.local,
        values: pick(unit).to_f64()[p.range()].to_vec(),
    };
    params.iter().map(part).collect()
}

/// The reduced gradients of every tensor, from whoever keeps them. Collective over the shard group.
pub fn all_gradients(r: &mut Replica) -> Result<Vec<Part>> {
    let mut whole = vec![];
    for u in &r.params.units {
        if r.flow.zero == 0 {
            whole.push(u.grads.clone());
            continue;
        }
        let (own, first) = reduced(&u.grads, &u.part_grads, &u.part);
        let mut all = Tensor::zeros(&r.dev, 1, u.len, u.grad_dtype(), Category::Comm);
        let bytes = |at: usize| at * u.grad_dtype().bytes();
        all.bytes_mut()[bytes(u.part.start)..bytes(u.part.end)]
            .copy_from_slice(&own.bytes()[bytes(u.part.start - first)..bytes(u.part.end - first)]);
        whole.push(r.mesh.shard.all_gather(all, "test")?.wait()?);
    }
    let index = |unit: &Unit| {
        r.params.units.iter().position(|u| std::ptr::eq(u, unit)).expect("a unit of the replica")
    };
    Ok(parts(&r.params, |u| whole[index(u)].clone()))
}

/// The weights of every tensor. Collective over the shard group.
pub fn all_weights(r: &mut Replica) -> Result<Vec<Part>> {
    r.flow.settle(&mut r.params)?;
    for unit in 0..r.params.units.len() {
        r.flow.ready(&r.dev, &mut r.params, unit)?;
    }
    let all = parts(&r.params, |u| u.weights.clone());
    r.flow.settle(&mut r.params)?;
    Ok(all)
}
