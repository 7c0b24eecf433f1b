//! The collectives of the MPI library itself, for `parallel.reductions = "library"` and `"fastest"`: their sums are in an order of the
//! library's choice. Heads are exchanged as for our own, so that a rank that calls something else or does not come is
//! named; the library then gets the calls of a group in the order in which they were made.
//!
//! MPI wants places to read and to write that do not overlap, so a copy lies in staging.

use super::cut::part;
use super::ffi::{Link, Outcome, Request};
use super::wire::SMALL;
use crate::comm::call::Call;
use crate::comm::{Job, Kind};

/// Whether the library does it: a sum or a gather that is not small. Its counts are 32 bits wide.
pub fn does(call: &Call, n: usize) -> bool {
    let kind = matches!(call.kind, Kind::AllReduce | Kind::ReduceScatter | Kind::AllGather);
    kind && n > 1 && part(call, n) > SMALL && i32::try_from(call.len).is_ok() && call.refusal(n).is_none()
}

/// What the library does of that.
#[derive(Debug)]
pub enum Share {
    All,
    These(Vec<Job>),
}

impl Share {
    pub fn has(&self, axis: &str, call: &Call) -> bool {
        let is = |j: &Job| (j.len, j.kind, j.dtype) == (call.len, call.kind, call.dtype) && *j.axis == *axis;
        match self {
            Share::All => true,
            Share::These(jobs) => jobs.iter().any(is),
        }
    }
}

/// Bytes besides the buffer.
pub fn staging(call: &Call, n: usize) -> usize {
    if call.kind == Kind::AllReduce { call.bytes() } else { call.bytes() / n }
}

/// # Safety
/// `base` has the values of the call and `staging` the bytes of `staging()`, untouched until the request is done.
pub unsafe fn start(
    link: Link,
    call: &Call,
    (me, n): (usize, usize),
    base: *mut u8,
    staging: *mut u8,
) -> Outcome<Request> {
    let (each, bytes) = (call.len / n, call.bytes() / n);
    // SAFETY: the caller's promise.
    unsafe {
        match call.kind {
            Kind::AllReduce => {
                std::ptr::copy_nonoverlapping(base, staging, call.bytes());
                link.all_reduce((staging, base), call.len, call.dtype, call.reduce)
            }
            Kind::ReduceScatter => link.reduce_scatter((base, staging), each, call.dtype),
            _ => {
                std::ptr::copy_nonoverlapping(base.add(me * bytes), staging, bytes);
                link.all_gather((staging, base), each, call.dtype)
            }
        }
    }
}

/// After the request is done.
///
/// # Safety
/// As for `start`.
pub unsafe fn finish(call: &Call, (me, n): (usize, usize), base: *mut u8, staging: *const u8) {
    if call.kind == Kind::ReduceScatter {
        let bytes = call.bytes() / n;
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(staging, base.add(me * bytes), bytes) };
    }
}
