//! What the ranks of a launcher attain, as findings: the median, and by name those that are a fifth slower.

use super::{Finding, State, fine, note};
use crate::bench::cluster::{Cluster, Rank, slow};

/// A quantity of a rank, its unit, and what to do about a rank that has less of it.
type Of = (&'static str, &'static str, fn(&Rank) -> f64, &'static str);

const OF: [Of; 4] = [
    (
        "arithmetic",
        "GFLOP/s",
        |r| r.gflops,
        "look there with top for other programs, at its clock and at how ranks are bound to cores",
    ),
    ("memory speed", "GB/s", |r| r.copy_gb_s, "look there with numastat, and for other programs with top"),
    (
        "write",
        "MB/s",
        |r| r.write_mb_s,
        "look at how that node mounts the directory (mount, df), or give another --dir",
    ),
    (
        "read",
        "MB/s",
        |r| r.read_mb_s,
        "look at how that node mounts the directory (mount, df), or give another --dir",
    ),
];

/// Of all ranks at work at once.
pub fn findings(c: &Cluster) -> Vec<Finding> {
    let place = |rank: usize| format!("rank {rank} on {}", c.ranks[rank].host);
    let mut all = vec![];
    for (what, unit, of, fix) in OF {
        let values: Vec<f64> = c.ranks.iter().map(of).collect();
        let (middle, odd) = slow(&values);
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let found = format!("median of {} ranks {middle:.3} {unit}, least {least:.3}", values.len());
        let one = |r: &usize| match values[*r].is_nan() {
            true => format!("{} cannot write", place(*r)),
            false => {
                format!("{} {:.3}, {:.0} % of the median", place(*r), values[*r], 100.0 * values[*r] / middle)
            }
        };
        all.push(rate(what, found, &odd, one, fix, odd.iter().any(|r| values[*r].is_nan())));
    }
    let values: Vec<f64> = c.pairs.iter().map(|p| p.gb_s).collect();
    if !values.is_empty() {
        let (middle, odd) = slow(&values);
        let pair = |i: usize| {
            let [a, b] = c.pairs[i].ranks;
            format!("{} and {}", place(a), place(b))
        };
        let least = (0..values.len()).min_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0);
        let found = format!(
            "median of {} pairs {middle:.3} GB/s each way, least {:.3}: {}",
            values.len(),
            values[least],
            pair(least)
        );
        let one = |i: &usize| format!("{} {:.0} %", pair(*i), 100.0 * values[*i] / middle);
        let fix = "pairs within a node are faster than those between two; among equals look at cable, port and counters";
        all.push(rate("pairs", found, &odd, one, fix, false));
    }
    let found = format!("{:.3} GB/s bus bandwidth over {} ranks, 32 MiB", c.all_reduce_gb_s, c.ranks.len());
    all.push(fine("all-reduce", found));
    all
}

/// At most this many slow ones are named.
const NAMED: usize = 4;

fn rate(
    what: &'static str,
    found: String,
    odd: &[usize],
    one: impl Fn(&usize) -> String,
    fix: &str,
    wrong: bool,
) -> Finding {
    if odd.is_empty() {
        return fine(what, found);
    }
    let named: Vec<String> = odd.iter().take(NAMED).map(one).collect();
    let more = if odd.len() > NAMED { format!(" and {} more", odd.len() - NAMED) } else { String::new() };
    let found = format!("{found}; slow: {}{more}", named.join(", "));
    match wrong {
        true => Finding { what, found, state: State::Wrong, fix: Some(fix.into()) },
        false => note(what, found, fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cluster::Pair;

    #[test]
    fn slow_ranks_and_pairs_are_named_with_their_hosts() {
        let rank = |rank: usize| Rank {
            rank,
            host: format!("n{}", rank / 2),
            threads: 1,
            memory_gib: 8.0,
            gflops: if rank == 3 { 20.0 } else { 40.0 },
            copy_gb_s: 10.0,
            write_mb_s: if rank == 1 { f64::NAN } else { 100.0 },
            read_mb_s: 900.0,
        };
        let pair = |a, b| Pair { ranks: [a, b], gb_s: if b == 2 { 0.5 } else { 5.0 } };
        let pairs = vec![pair(0, 1), pair(2, 3), pair(0, 3), pair(1, 2), pair(1, 3)];
        let all = findings(&Cluster { ranks: (0..4).map(rank).collect(), pairs, all_reduce_gb_s: 2.0 });
        let of = |what: &str| all.iter().find(|f| f.what == what).expect(what);
        assert!(of("arithmetic").found.contains("rank 3 on n1 20.000, 50 % of the median"));
        assert_eq!((of("arithmetic").state, of("memory speed").state), (State::Note, State::Fine));
        assert!(of("write").state == State::Wrong && of("write").found.contains("rank 1 on n0 cannot write"));
        assert!(
            of("pairs").found.contains("least 0.500: rank 1 on n0 and rank 2 on n1"),
            "{}",
            of("pairs").found
        );
        assert!(all.iter().all(|f| (f.state == State::Fine) == f.fix.is_none()));
    }
}
