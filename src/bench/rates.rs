//! What the machine can do at most: arithmetic on registers, copies between buffers that no cache holds, a file.

use super::seconds_each;
use crate::device::Pool;
use crate::device::gemm::peak;
use crate::{Error, Result};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

/// Bytes of each of the two buffers of the copy, much larger than any cache.
const COPY: usize = 256 << 20;
const BLOCK: usize = 1 << 20;

/// f32 multiply-adds of all threads, GFLOP/s.
pub fn arithmetic(pool: &Pool) -> f64 {
    peak(pool)
}

/// Bytes read and written by a copy on all threads, GB/s.
pub fn copy(pool: &Pool) -> f64 {
    let (from, mut to) = (vec![1u8; COPY], vec![0u8; COPY]);
    let to_address = to.as_mut_ptr() as usize;
    let seconds = seconds_each(0.3, || {
        pool.run(COPY / BLOCK, |task| {
            let at = task * BLOCK;
            // SAFETY: each task writes a block of its own, and `to` lives until all have.
            unsafe { ((to_address + at) as *mut u8).copy_from_nonoverlapping(from.as_ptr().add(at), BLOCK) }
        });
    });
    std::hint::black_box(&to);
    2.0 * COPY as f64 / seconds / 1e9
}

/// Writing `mib` MiB to a new file in `dir` with fsync, and reading them back past the page cache where the system lets
/// us, MB/s each.
pub fn file(dir: &Path, mib: usize) -> Result<(f64, f64)> {
    let mut file = tempfile(dir)?;
    let io = |what| Error::io(dir, what);
    let block = vec![7u8; BLOCK];
    let began = Instant::now();
    for _ in 0..mib {
        file.write_all(&block).map_err(io("write to"))?;
    }
    file.sync_all().map_err(io("write to"))?;
    let write = began.elapsed().as_secs_f64();
    // SAFETY: advice about an open file.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    file.seek(SeekFrom::Start(0)).map_err(io("read from"))?;
    let (began, mut buffer) = (Instant::now(), vec![0u8; BLOCK]);
    for _ in 0..mib {
        file.read_exact(&mut buffer).map_err(io("read from"))?;
    }
    let read = began.elapsed().as_secs_f64();
    let rate = |seconds: f64| (mib << 20) as f64 / seconds / 1e6;
    Ok((rate(write), rate(read)))
}

/// A file without a name: gone with the process however that ends.
fn tempfile(dir: &Path) -> Result<std::fs::File> {
    let path = dir.join(format!(".espalier-{}", std::process::id()));
    let options = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path);
    let file = options.map_err(Error::io(&path, "create"))?;
    std::fs::remove_file(&path).map_err(Error::io(&path, "remove"))?;
    Ok(file)
}
