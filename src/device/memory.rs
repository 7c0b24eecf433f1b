//! How much memory this process may use, and who says so: the least of the machine's, its control group's and its own limit.

use std::path::Path;

#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    pub bytes: u64,
    /// "machine", "control group" or "ulimit": who set it.
    pub by: &'static str,
    /// Whether each process has it for itself; else all processes of a node share it.
    pub own: bool,
}

/// None where the system does not say.
pub fn limit() -> Option<Limit> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let group = group_files(&groups).into_iter().filter_map(|p| read(&p)?.trim().parse::<u64>().ok()).min();
    let all = [
        machine.map(|bytes| Limit { bytes, by: "machine", own: false }),
        group.map(|bytes| Limit { bytes, by: "control group", own: false }),
        [libc::RLIMIT_AS, libc::RLIMIT_DATA].into_iter().filter_map(own).min().map(|bytes| Limit {
            bytes,
            by: "ulimit",
            own: true,
        }),
    ];
    all.into_iter().flatten().min_by_key(|l| l.bytes)
}

/// Bytes of a line "MemTotal:  24638464 kB".
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Where the limits of this process's group and of those above it lie, by the text of /proc/self/cgroup.
fn group_files(text: &str) -> Vec<std::path::PathBuf> {
    let mut all = vec![];
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(kinds), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match kinds {
            "" => ("/sys/fs/cgroup", "memory.max"),
            kinds if kinds.split(',').any(|k| k == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let inside = Path::new(path.trim_start_matches('/'));
        all.extend(inside.ancestors().map(|p| Path::new(root).join(p).join(file)));
    }
    all
}

fn own(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a place to write to.
    let done = unsafe { libc::getrlimit(resource, &mut limit) };
    (done == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_found_in_the_tables_of_the_kernel() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24638464 kB\n"), Some(24638464 << 10));
        let files: Vec<String> = group_files("0::/a/b\n").iter().map(|p| p.display().to_string()).collect();
        let v2 = ["/a/b/", "/a/", "/"].map(|p| format!("/sys/fs/cgroup{p}memory.max"));
        assert_eq!(files, v2);
        let v1 = group_files("4:cpu,cpuacct:/x\n3:memory:/job\n");
        assert_eq!(v1[0], Path::new("/sys/fs/cgroup/memory/job/memory.limit_in_bytes"));
        assert_eq!(v1.len(), 2);
        assert!(limit().is_some_and(|l| l.bytes > 1 << 20));
    }
}
