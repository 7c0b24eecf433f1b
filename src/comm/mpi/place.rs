//! Where each rank is: host, process, cores, program. Exchanged once, at the start.

use crate::{Error, Result};
use mpi::traits::CommunicatorCollectives;
use xxhash_rust::xxh3::xxh3_64;

/// What one rank says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub host: String,
    pub pid: u32,
    /// When the process began, in ticks of the kernel; a pid may be used again.
    began: u64,
    /// Which pids this process sees: those of a container are others than those of its host.
    pid_space: u64,
    /// Of the program's file.
    pub program: u64,
    /// The processors it may use, as bits.
    cores: [u64; CORES],
}

/// Words of a mask of processors.
const CORES: usize = 16;
const HOST: usize = 64;
const BYTES: usize = HOST + 4 * 8 + CORES * 8;

impl Place {
    pub fn own() -> Place {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        let pid = std::process::id();
        let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let program = std::fs::read("/proc/self/exe").map_or(0, |bytes| xxh3_64(&bytes));
        Place {
            host: host[..host.floor_char_boundary(HOST)].into(),
            pid,
            began: began(pid).unwrap_or(0),
            pid_space: xxh3_64(space.as_os_str().as_encoded_bytes()),
            program,
            cores: cores(),
        }
    }

    /// Of all ranks, by rank. Collective.
    pub fn exchange(world: &impl CommunicatorCollectives) -> Vec<Place> {
        let own = Place::own().write();
        let mut all = vec![0u8; BYTES * world.size() as usize];
        world.all_gather_into(&own[..], &mut all[..]);
        all.chunks(BYTES).map(Place::read).collect()
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = self.host.as_bytes().to_vec();
        bytes.resize(HOST, 0);
        let numbers = [self.pid as u64, self.began, self.pid_space, self.program];
        numbers.iter().chain(&self.cores).for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes
    }
    fn read(bytes: &[u8]) -> Place {
        let number = |i: usize| {
            let at = HOST + 8 * i;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        Place {
            host: String::from_utf8_lossy(&bytes[..HOST]).trim_end_matches('\0').into(),
            pid: number(0) as u32,
            began: number(1),
            pid_space: number(2),
            program: number(3),
            cores: std::array::from_fn(|i| number(4 + i)),
        }
    }

    /// Whether the process has ended, as far as `seer` can know.
    pub fn is_gone(&self, seer: &Place) -> bool {
        let visible = self.host == seer.host && self.pid_space == seer.pid_space && self.began != 0;
        visible && began(self.pid) != Some(self.began)
    }
}

/// When a process began; None if there is none or it has ended and its parent has not looked yet.
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which is in brackets and may hold anything: state, and 18 fields on the time.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    (!["Z", "X"].contains(&state)).then_some(ticks)
}

fn cores() -> [u64; CORES] {
    let mut mask = [0u64; CORES];
    // SAFETY: the kernel writes at most as many bytes as it is told.
    unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
    mask
}

/// The cores of its host that are a rank's share: each that it may use counts by one over the ranks that may use it.
pub fn share(places: &[Place], rank: usize) -> f64 {
    let own = &places[rank];
    let has = |p: &Place, core: usize| p.cores[core / 64] >> (core % 64) & 1 == 1;
    let users = |core: usize| places.iter().filter(|p| p.host == own.host && has(p, core)).count();
    (0..64 * CORES).filter(|&core| has(own, core)).map(|core| 1.0 / users(core) as f64).sum()
}

/// Threads that a rank may run so that the ranks of its host share their cores.
pub fn threads(places: &[Place], rank: usize) -> usize {
    let own = &places[rank];
    let here = places.iter().filter(|p| p.host == own.host).count();
    // A quota of the job, which the ranks of the host share, may be below the cores.
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    let cores = own.cores.iter().map(|word| word.count_ones() as usize).sum::<usize>();
    let quota = if allowed < cores { allowed / here } else { usize::MAX };
    // Thirds add up to a little less than one.
    ((share(places, rank) + 1e-6) as usize).min(quota).max(1)
}

/// Error: `Launch`, if a rank runs another program than rank 0.
pub fn same_program(places: &[Place]) -> Result<()> {
    match places.iter().position(|p| p.program != places[0].program) {
        None => Ok(()),
        Some(rank) => Err(Error::launch(
            format!(
                "rank {rank} on {} runs another program than rank 0 on {}: the files differ",
                places[rank].host, places[0].host
            ),
            "install the same build on all hosts",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str, cores: u64) -> Place {
        let mut mask = [0; CORES];
        mask[0] = cores;
        Place { host: host.into(), cores: mask, ..Place::own() }
    }

    #[test]
    fn a_place_comes_back_as_it_was_and_this_process_is_not_gone() {
        let own = Place::own();
        assert_eq!(Place::read(&own.write()), own);
        assert!(!own.is_gone(&own));
        assert!(Place { began: 1, ..own.clone() }.is_gone(&own));
        assert!(!Place { began: 1, host: "elsewhere".into(), ..own.clone() }.is_gone(&own));
    }

    #[test]
    fn ranks_of_a_host_share_the_cores_they_have_in_common() {
        let bound = [place("a", 0b01), place("a", 0b10), place("b", 0b11)];
        assert_eq!([0, 1, 2].map(|r| share(&bound, r)), [1.0, 1.0, 2.0]);
        let free = [place("a", 0b11), place("a", 0b11), place("a", 0b11), place("a", 0b11)];
        assert_eq!(share(&free, 1), 0.5);
        assert_eq!(threads(&free, 1), 1);
    }
}
