//! Whether there is room for a run: each rank asks the system for all the memory it will need before it fills any of it, so
//! that a run that cannot fit ends at its start, with a sentence, on all ranks.

use super::council;
use crate::comm::{Comm, processes};
use crate::device::{Device, arena};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// `bytes`: what the arena of this rank will ask for at least. Error: `Launch`, the same on all ranks. Collective.
pub fn check(dev: &Device, world: &dyn Comm, bytes: usize) -> Result<()> {
    let ranks_here = if processes::joined().is_none() { world.size() } else { 1 };
    // Ranks that are threads must have it all at once: each holds its own until all have asked.
    let (held, problem) = match arena::hold(bytes) {
        Ok(held) => (Some(held), beyond(bytes * ranks_here, ranks_here, group_limit(Path::new("/")))),
        Err(refused) => (None, Some(refusal(bytes, &refused.to_string()))),
    };
    let said = council::first(dev, world, problem.as_deref(), "room in memory")?;
    drop(held);
    match said {
        None => Ok(()),
        Some((rank, problem)) => Err(Error::launch(
            format!(
                "rank {rank}{}: {problem}",
                processes::host(rank).map_or(String::new(), |h| format!(" on {h}"))
            ),
            "raise the limit, or split the state over more ranks with parallel.zero = 3 (train --dry-run says what a \
             rank needs)",
        )),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

fn refusal(bytes: usize, said: &str) -> String {
    let limits: Vec<String> = [("-d", libc::RLIMIT_DATA), ("-v", libc::RLIMIT_AS)]
        .into_iter()
        .filter_map(|(flag, resource)| Some(format!(", ulimit {flag} is {}", mib(resource_limit(resource)?))))
        .collect();
    format!("it needs {} of memory and the system refuses them: {said}{}", mib(bytes as u64), limits.concat())
}

/// None without a limit.
fn resource_limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a place to write to.
    let read = unsafe { libc::getrlimit(resource, &mut limit) } == 0;
    (read && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// The system gives a control group more than its limit and kills what then uses it.
fn beyond(bytes: usize, ranks: usize, limit: Option<(u64, PathBuf)>) -> Option<String> {
    let (limit, file) = limit.filter(|(limit, _)| bytes as u64 > *limit)?;
    let who =
        if ranks == 1 { "it needs".to_string() } else { format!("the {ranks} ranks of its process need") };
    Some(format!("{who} {} of memory and {} is {}", mib(bytes as u64), file.display(), mib(limit)))
}

/// The smallest memory limit of this process's control group and those above it, and the file that says so. `root` is / but
/// for tests.
fn group_limit(root: &Path) -> Option<(u64, PathBuf)> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let files = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        // Version 2 has one hierarchy, without a name.
        let (tree, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            c if c.split(',').any(|c| c == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        let folders = Path::new(path).ancestors().map(|p| p.strip_prefix("/").unwrap_or(p));
        Some(folders.map(|p| root.join(tree).join(p).join(file)).collect::<Vec<_>>())
    });
    let limit = |file: PathBuf| Some((std::fs::read_to_string(&file).ok()?.trim().parse().ok()?, file));
    files.flatten().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_smallest_limit_of_a_control_group_and_those_above_it_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let found = || group_limit(root.path());
        assert_eq!(found(), None);
        write("proc/self/cgroup", "0::/job/step\n");
        write("sys/fs/cgroup/memory.max", "max\n");
        write("sys/fs/cgroup/job/step/memory.max", "max\n");
        assert_eq!(found(), None);
        write("sys/fs/cgroup/job/memory.max", "1048576000\n");
        write("sys/fs/cgroup/job/step/memory.max", "2000000000\n");
        let limit = Some((1048576000, root.path().join("sys/fs/cgroup/job/memory.max")));
        assert_eq!(found(), limit);
        write("proc/self/cgroup", "4:cpu,cpuacct:/a\n3:memory:/b\n");
        write("sys/fs/cgroup/memory/b/memory.limit_in_bytes", "7340032\n");
        let limit = found();
        assert_eq!(limit.as_ref().map(|l| l.0), Some(7340032));

        assert_eq!(beyond(7 << 20, 1, limit.clone()), None);
        let said = beyond(8 << 20, 4, limit).expect("more than the limit");
        assert!(said.starts_with("the 4 ranks of its process need 8 MiB of memory and "), "{said}");
        assert!(said.ends_with("memory.limit_in_bytes is 7 MiB"), "{said}");
    }
}
