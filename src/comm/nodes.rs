//! How the ranks of a run lie on nodes: as many on each, neighbours together, or a sentence that says what is not so.

use crate::{Error, Result};

/// Ranks of a node, from the host of each rank. Error: `Launch`, if nodes have different numbers of ranks, or if a node's
/// ranks are not one after the other.
pub fn ranks_per_node(hosts: &[String]) -> Result<usize> {
    let mut blocks: Vec<(&str, usize)> = vec![];
    for (rank, host) in hosts.iter().enumerate() {
        match blocks.iter().position(|b| b.0 == host) {
            Some(i) if i + 1 == blocks.len() => blocks[i].1 += 1,
            Some(_) => {
                let between = blocks[blocks.len() - 1].0;
                return Err(Error::launch(
                    format!(
                        "rank {rank} is on {host} and the rank before it on {between}, but earlier ranks are on {host} \
                         too, so the ranks of a node are not neighbours"
                    ),
                    "place ranks node by node (srun --distribution=block, mpirun --map-by core), or give parallel.shard as \"N ranks\"",
                ));
            }
            None => blocks.push((host, 1)),
        }
    }
    let each = blocks.first().map_or(1, |b| b.1);
    if blocks.iter().all(|b| b.1 == each) {
        return Ok(each);
    }
    Err(Error::launch(
        format!("nodes have different numbers of ranks: {}", shown(&blocks)),
        "start as many on each (srun --ntasks-per-node, mpirun --map-by ppr:N:node), or give parallel.shard as \"N ranks\"",
    ))
}

/// "a 2, b 1", and of many the first and those that differ from it.
fn shown(blocks: &[(&str, usize)]) -> String {
    let odd = |(i, b): &(usize, &(&str, usize))| *i == 0 || b.1 != blocks[0].1;
    let each = |(_, b): (usize, &(&str, usize))| format!("{} {}", b.0, b.1);
    let all: Vec<String> = blocks.iter().enumerate().filter(odd).map(each).collect();
    let more = if all.len() > 8 { format!(" and {} more", all.len() - 8) } else { String::new() };
    format!("{}{more}", all[..all.len().min(8)].join(", "))
}

/// Data-parallel ranks of a node, where each has `ranks`. Error: `Launch`, if tp groups straddle nodes.
pub fn dp_per_node(ranks: usize, tp: usize) -> Result<usize> {
    if ranks.is_multiple_of(tp) {
        return Ok(ranks / tp);
    }
    Err(Error::launch(
        format!(
            "parallel.tp = {tp} does not divide the {ranks} ranks of a node, so its groups straddle nodes"
        ),
        format!("start a multiple of {tp} ranks on each node, or give parallel.shard as \"N ranks\""),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(hosts: &[&str]) -> Result<usize> {
        ranks_per_node(&hosts.iter().map(|h| h.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn nodes_with_as_many_neighbours_each_are_found() {
        assert_eq!(look(&["a"]).unwrap(), 1);
        assert_eq!(look(&["a", "a", "b", "b", "c", "c"]).unwrap(), 2);
        assert_eq!(look(&["b", "a"]).unwrap(), 1);
        assert_eq!(dp_per_node(8, 2).unwrap(), 4);
    }

    #[test]
    fn nodes_that_cannot_be_shard_groups_are_named() {
        let says = |r: Result<usize>, parts: &[&str]| {
            let e = r.unwrap_err();
            assert_eq!(e.exit_code(), 2);
            parts.iter().for_each(|p| assert!(e.to_string().contains(p), "no {p:?} in {e}"));
        };
        says(look(&["a", "a", "b"]), &["a 2, b 1; ", "--ntasks-per-node"]);
        says(look(&["a", "b", "a", "b"]), &["rank 2 is on a", "before it on b", "--distribution=block"]);
        says(dp_per_node(3, 2), &["tp = 2 does not divide the 3 ranks of a node", "multiple of 2"]);
    }
}
