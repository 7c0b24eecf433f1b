//! Ranks that come to one mind about what happens rarely: outside of the updates, whose vote does it for them.

use crate::Result;
use crate::comm::{Comm, Reduce};
use crate::device::{Category, DType, Device};
use crate::tensor::Tensor;

/// Whether it is so on any rank. Collective; on the Meta device it only counts.
pub fn any(dev: &Device, world: &dyn Comm, here: bool, what: &str) -> Result<bool> {
    let mut flag = Tensor::zeros(dev, 1, 1, DType::F64, Category::Comm);
    if dev.is_meta() {
        return world.all_reduce(flag, Reduce::Max, what)?.wait().map(|_| false);
    }
    flag.data_mut::<f64>()[0] = f64::from(u8::from(here));
    Ok(world.all_reduce(flag, Reduce::Max, what)?.wait()?.data::<f64>()[0] > 0.0)
}

/// What the first rank that has something to say says, and which rank that is, the same on all ranks. Collective.
pub fn first(
    dev: &Device,
    world: &dyn Comm,
    says: Option<&str>,
    what: &str,
) -> Result<Option<(usize, String)>> {
    let mut lengths = Tensor::zeros(dev, 1, world.size(), DType::F64, Category::Comm);
    // Nothing to say is not an empty text.
    lengths.data_mut::<f64>()[world.rank()] = says.map_or(-1.0, |text| text.len() as f64);
    let lengths = world.all_gather(lengths, what)?.wait()?;
    let Some(rank) = lengths.data::<f64>().iter().position(|n| *n >= 0.0) else { return Ok(None) };
    // At least one value, so that an empty text is one too; a value holds a byte, which is exact.
    let len = lengths.data::<f64>()[rank] as usize;
    let mut text = Tensor::zeros(dev, 1, len + 1, DType::F64, Category::Comm);
    if rank == world.rank() {
        let bytes = says.unwrap_or_default().bytes();
        text.data_mut::<f64>().iter_mut().zip(bytes).for_each(|(to, byte)| *to = f64::from(byte));
    }
    let text = world.broadcast(text, rank, what)?.wait()?;
    let bytes: Vec<u8> = text.data::<f64>()[..len].iter().map(|byte| *byte as u8).collect();
    Ok(Some((rank, String::from_utf8_lossy(&bytes).into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::run_ranks;
    use std::time::Duration;

    #[test]
    fn the_first_rank_with_something_to_say_is_heard_by_all() {
        let said = [None, Some("größer"), Some("later")];
        for (n, want) in [(1, None), (2, Some((1, "größer".to_string()))), (3, Some((1, "größer".into())))]
        {
            let heard = run_ranks(n, Duration::from_secs(60), |world| {
                let dev = Device::cpu(1);
                let any = any(&dev, world.as_ref(), world.rank() == 1, "test")?;
                Ok((any, first(&dev, world.as_ref(), said[world.rank()], "test")?))
            });
            assert!(heard.unwrap().iter().all(|h| *h == (n > 1, want.clone())), "{n} ranks");
        }
        let empty =
            run_ranks(2, Duration::from_secs(60), |w| first(&Device::cpu(1), w.as_ref(), Some(""), "test"));
        assert_eq!(empty.unwrap(), [Some((0, String::new())), Some((0, String::new()))]);
    }
}
