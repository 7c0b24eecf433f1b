//! MPI calls that rsmpi's safe layer lacks or cannot express: non-blocking messages on raw memory, many requests tested
//! in one call, errors that return, the library's collectives on raw memory. All unsafe calls into MPI are here.
//!
//! MPI is started for serialised threads: callers hold the lock of the engine (`super::engine`) around every call.

use crate::comm::{Kind, Reduce};
use crate::device::DType;
use half::bf16;
use mpi::ffi;
use std::ffi::{c_int, c_void};

/// What MPI says of an error.
pub type Outcome<T> = Result<T, String>;

fn check(code: c_int, call: &str) -> Outcome<()> {
    if code == ffi::MPI_SUCCESS as c_int { Ok(()) } else { Err(format!("{call}: {}", text(code))) }
}

fn text(code: c_int) -> String {
    let mut text = [0u8; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut length = 0;
    // SAFETY: the buffer has the size that MPI asks for.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut length) };
    String::from_utf8_lossy(&text[..(length.max(0) as usize).min(text.len())]).trim().to_string()
}

/// A communicator of MPI.
#[derive(Clone, Copy)]
pub struct Link(ffi::MPI_Comm);
// SAFETY: a handle, used only under the lock of the engine.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

/// A message or collective under way.
pub struct Request(ffi::MPI_Request);

impl Link {
    /// All ranks, as MPI started them; from now on errors return.
    pub fn world() -> Outcome<Link> {
        // SAFETY: MPI is started; its statics are initialised.
        let world = unsafe { ffi::RSMPI_COMM_WORLD };
        Link(world).errors_return()
    }
    /// The same ranks, whose messages do not meet those of others. Collective.
    pub fn copy(self) -> Outcome<Link> {
        let mut copy = self.0;
        // SAFETY: MPI writes the new handle.
        check(unsafe { ffi::MPI_Comm_dup(self.0, &mut copy) }, "MPI_Comm_dup")?;
        Link(copy).errors_return()
    }
    /// The ranks of the same color, ordered by key. Collective.
    pub fn split(self, color: usize, key: usize) -> Outcome<Link> {
        let mut part = self.0;
        // SAFETY: MPI writes the new handle.
        let code = unsafe { ffi::MPI_Comm_split(self.0, color as c_int, key as c_int, &mut part) };
        check(code, "MPI_Comm_split")?;
        Link(part).errors_return()
    }
    fn errors_return(self) -> Outcome<Link> {
        // SAFETY: a predefined handler.
        let code = unsafe { ffi::MPI_Comm_set_errhandler(self.0, ffi::RSMPI_ERRORS_RETURN) };
        check(code, "MPI_Comm_set_errhandler").map(|()| self)
    }
    /// The largest tag; at least 32767.
    pub fn most_tag(self) -> c_int {
        let (mut value, mut found): (*mut c_int, c_int) = (std::ptr::null_mut(), 0);
        let key = ffi::MPI_TAG_UB as c_int;
        // SAFETY: MPI writes a pointer to an int that stays.
        unsafe {
            let code = ffi::MPI_Comm_get_attr(self.0, key, (&raw mut value).cast(), &mut found);
            if code == ffi::MPI_SUCCESS as c_int && found != 0 && !value.is_null() { *value } else { 32767 }
        }
    }
    /// # Safety
    /// The bytes stay valid and unchanged until the request is done.
    pub unsafe fn send(self, at: *const u8, bytes: usize, to: usize, tag: c_int) -> Outcome<Request> {
        // SAFETY: the caller's promise.
        unsafe { self.send_as(at, bytes, to, tag, false) }
    }
    /// If `matched`, it is done no sooner than the receiver has a place for it.
    ///
    /// # Safety
    /// As for `send`.
    pub unsafe fn send_as(
        self,
        at: *const u8,
        bytes: usize,
        to: usize,
        tag: c_int,
        matched: bool,
    ) -> Outcome<Request> {
        assert!(bytes <= c_int::MAX as usize, "{bytes} bytes in one message");
        // SAFETY: the caller's promise.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let byte = ffi::RSMPI_UINT8_T;
            let (at, bytes, to) = (at.cast::<c_void>(), bytes as c_int, to as c_int);
            if matched {
                check(ffi::MPI_Issend(at, bytes, byte, to, tag, self.0, &mut request), "MPI_Issend")?;
            } else {
                check(ffi::MPI_Isend(at, bytes, byte, to, tag, self.0, &mut request), "MPI_Isend")?;
            }
            Ok(Request(request))
        }
    }
    /// From any rank, if none is given. The message may be shorter.
    ///
    /// # Safety
    /// The bytes stay valid and untouched until the request is done.
    pub unsafe fn receive(
        self,
        at: *mut u8,
        bytes: usize,
        from: Option<usize>,
        tag: c_int,
    ) -> Outcome<Request> {
        assert!(bytes <= c_int::MAX as usize, "{bytes} bytes in one message");
        // SAFETY: the caller's promise.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let byte = ffi::RSMPI_UINT8_T;
            let from = from.map_or(ffi::RSMPI_ANY_SOURCE, |rank| rank as c_int);
            let (at, bytes) = (at.cast::<c_void>(), bytes as c_int);
            check(ffi::MPI_Irecv(at, bytes, byte, from, tag, self.0, &mut request), "MPI_Irecv")?;
            Ok(Request(request))
        }
    }
    /// Ends all processes of the run.
    pub fn abort(self, code: i32) -> ! {
        // SAFETY: no preconditions.
        unsafe { ffi::MPI_Abort(self.0, code) };
        std::process::exit(code)
    }

    /// The library's own sum or maximum over all ranks.
    ///
    /// # Safety
    /// `from` and `to` have `len` values each, do not overlap, and stay untouched until the request is done.
    pub unsafe fn all_reduce(
        self,
        (from, to): (*const u8, *mut u8),
        len: usize,
        dtype: DType,
        by: Reduce,
    ) -> Outcome<Request> {
        // SAFETY: the caller's promise.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let (kind, op) = (datatype(dtype), operation(dtype, by)?);
            let (from, to, len) = (from.cast(), to.cast(), count(len));
            check(ffi::MPI_Iallreduce(from, to, len, kind, op, self.0, &mut request), "MPI_Iallreduce")?;
            Ok(Request(request))
        }
    }
    /// The library's own; every rank gets `each` values.
    ///
    /// # Safety
    /// As for `all_reduce`; `from` has `each` values for each rank.
    pub unsafe fn reduce_scatter(
        self,
        (from, to): (*const u8, *mut u8),
        each: usize,
        dtype: DType,
    ) -> Outcome<Request> {
        // SAFETY: the caller's promise.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let (kind, op) = (datatype(dtype), operation(dtype, Reduce::Sum)?);
            let (from, to, each) = (from.cast(), to.cast(), count(each));
            let code = ffi::MPI_Ireduce_scatter_block(from, to, each, kind, op, self.0, &mut request);
            check(code, "MPI_Ireduce_scatter_block")?;
            Ok(Request(request))
        }
    }
    /// The library's own; every rank gives `each` values.
    ///
    /// # Safety
    /// As for `all_reduce`; `to` has `each` values for each rank.
    pub unsafe fn all_gather(
        self,
        (from, to): (*const u8, *mut u8),
        each: usize,
        dtype: DType,
    ) -> Outcome<Request> {
        // SAFETY: the caller's promise.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let (kind, each) = (datatype(dtype), count(each));
            let (from, to) = (from.cast(), to.cast());
            let code = ffi::MPI_Iallgather(from, each, kind, to, each, kind, self.0, &mut request);
            check(code, "MPI_Iallgather")?;
            Ok(Request(request))
        }
    }
}

impl Link {
    /// The library's blocking collectives of f32: `from` and `to` as MPI wants them.
    pub fn blocking(self, kind: Kind, from: &[f32], to: &mut [f32]) -> Outcome<()> {
        let (at, place) = (from.as_ptr().cast(), to.as_mut_ptr().cast());
        // SAFETY: as many values as the slices have, by how the counts are made.
        unsafe {
            let (float, sum) = (ffi::RSMPI_FLOAT, ffi::RSMPI_SUM);
            match kind {
                Kind::AllReduce => {
                    assert_eq!(from.len(), to.len(), "values of an all_reduce");
                    let code = ffi::MPI_Allreduce(at, place, count(to.len()), float, sum, self.0);
                    check(code, "MPI_Allreduce")
                }
                Kind::ReduceScatter => {
                    assert!(from.len().is_multiple_of(to.len()), "values of a reduce_scatter");
                    let code = ffi::MPI_Reduce_scatter_block(at, place, count(to.len()), float, sum, self.0);
                    check(code, "MPI_Reduce_scatter_block")
                }
                Kind::AllGather => {
                    assert!(to.len().is_multiple_of(from.len()), "values of an all_gather");
                    let each = count(from.len());
                    check(ffi::MPI_Allgather(at, each, float, place, each, float, self.0), "MPI_Allgather")
                }
                other => Err(format!("{other} of the library is not used")),
            }
        }
    }
}

fn count(len: usize) -> c_int {
    c_int::try_from(len).expect("larger calls are not given to the library")
}

fn datatype(dtype: DType) -> ffi::MPI_Datatype {
    // SAFETY: MPI is started; its statics are initialised.
    unsafe {
        match dtype {
            DType::F32 => ffi::RSMPI_FLOAT,
            DType::F64 => ffi::RSMPI_DOUBLE,
            // MPI has no bf16: two bytes, and an operation of our own.
            DType::Bf16 => ffi::RSMPI_UINT16_T,
        }
    }
}

struct Op(ffi::MPI_Op);
// SAFETY: a handle, used only under the lock of the engine.
unsafe impl Send for Op {}
// SAFETY: as above.
unsafe impl Sync for Op {}

fn operation(dtype: DType, by: Reduce) -> Outcome<ffi::MPI_Op> {
    static SUM: std::sync::OnceLock<Outcome<Op>> = std::sync::OnceLock::new();
    static MAX: std::sync::OnceLock<Outcome<Op>> = std::sync::OnceLock::new();
    let make = |f: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_int, *mut ffi::MPI_Datatype)| {
        // SAFETY: MPI writes the handle; the statics are initialised.
        unsafe {
            let mut op = ffi::RSMPI_SUM;
            check(ffi::MPI_Op_create(Some(f), 1, &mut op), "MPI_Op_create").map(|()| Op(op))
        }
    };
    let own = match (dtype, by) {
        (DType::Bf16, Reduce::Sum) => SUM.get_or_init(|| make(add_bf16)),
        (DType::Bf16, Reduce::Max) => MAX.get_or_init(|| make(max_bf16)),
        // SAFETY: MPI is started; its statics are initialised.
        (_, Reduce::Sum) => return Ok(unsafe { ffi::RSMPI_SUM }),
        // SAFETY: as above.
        (_, Reduce::Max) => return Ok(unsafe { ffi::RSMPI_MAX }),
    };
    own.as_ref().map(|op| op.0).map_err(String::clone)
}

/// # Safety
/// As MPI calls it: `len` values at both places.
unsafe fn bf16_each(from: *mut c_void, to: *mut c_void, len: *mut c_int, f: impl Fn(f32, f32) -> f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let len = *len as usize;
        let from = std::slice::from_raw_parts(from.cast::<bf16>(), len);
        let to = std::slice::from_raw_parts_mut(to.cast::<bf16>(), len);
        for (y, x) in to.iter_mut().zip(from) {
            *y = bf16::from_f32(f(y.to_f32(), x.to_f32()));
        }
    }
}

unsafe extern "C" fn add_bf16(a: *mut c_void, b: *mut c_void, n: *mut c_int, _: *mut ffi::MPI_Datatype) {
    // SAFETY: called by MPI.
    unsafe { bf16_each(a, b, n, |y, x| y + x) }
}

unsafe extern "C" fn max_bf16(a: *mut c_void, b: *mut c_void, n: *mut c_int, _: *mut ffi::MPI_Datatype) {
    // SAFETY: called by MPI.
    unsafe { bf16_each(a, b, n, |y, x| if x > y || x.is_nan() { x } else { y }) }
}

/// Requests under way, each with what it is.
pub struct Requests<T> {
    raw: Vec<ffi::MPI_Request>,
    tokens: Vec<T>,
    found: Vec<c_int>,
    statuses: Vec<ffi::MPI_Status>,
}
// SAFETY: handles, used only under the lock of the engine.
unsafe impl<T: Send> Send for Requests<T> {}

impl<T> Requests<T> {
    pub fn new() -> Requests<T> {
        Requests { raw: vec![], tokens: vec![], found: vec![], statuses: vec![] }
    }
    pub fn add(&mut self, request: Request, token: T) {
        self.raw.push(request.0);
        self.tokens.push(token);
    }
    /// Lets MPI work, and hands out what is done since the last time, each with its error if it failed.
    pub fn test(&mut self, done: &mut Vec<(T, Outcome<()>)>) -> Outcome<()> {
        let n = self.raw.len();
        if n == 0 {
            return Ok(());
        }
        // SAFETY: plain numbers.
        self.statuses.resize(n, unsafe { std::mem::zeroed() });
        self.found.resize(n, 0);
        let mut count = 0;
        // SAFETY: all arrays have n entries.
        let code = unsafe {
            ffi::MPI_Testsome(
                n as c_int,
                self.raw.as_mut_ptr(),
                &mut count,
                self.found.as_mut_ptr(),
                self.statuses.as_mut_ptr(),
            )
        };
        let some_failed = code == ffi::MPI_ERR_IN_STATUS as c_int;
        if !some_failed {
            check(code, "MPI_Testsome")?;
        }
        if count <= 0 {
            return Ok(());
        }
        let found = &mut self.found[..count as usize];
        let mut failed: Vec<(usize, c_int)> = vec![];
        if some_failed {
            let codes = found.iter().zip(&self.statuses).map(|(&i, s)| (i as usize, s.MPI_ERROR));
            failed = codes.filter(|&(_, code)| code != ffi::MPI_SUCCESS as c_int).collect();
        }
        // From the last, so that what moves into a gap is not itself done.
        found.sort_unstable();
        for &i in found.iter().rev() {
            let i = i as usize;
            self.raw.swap_remove(i);
            let outcome = failed.iter().find(|f| f.0 == i).map_or(Ok(()), |f| Err(text(f.1)));
            done.push((self.tokens.swap_remove(i), outcome));
        }
        // In the order of their posting, roughly: sums want the oldest first.
        done.reverse();
        Ok(())
    }
    pub fn count(&self, is: impl Fn(&T) -> bool) -> usize {
        self.tokens.iter().filter(|token| is(token)).count()
    }
    /// Gives up the requests that `is` says, which are receives.
    pub fn cancel(&mut self, is: impl Fn(&T) -> bool) {
        for i in (0..self.raw.len()).rev().filter(|&i| is(&self.tokens[i])).collect::<Vec<_>>() {
            let mut request = self.raw.swap_remove(i);
            self.tokens.swap_remove(i);
            // SAFETY: an active request, not used again.
            unsafe {
                ffi::MPI_Cancel(&mut request);
                ffi::MPI_Wait(&mut request, ffi::RSMPI_STATUS_IGNORE);
            }
        }
    }
}

/// What the library calls itself, in one line.
pub fn library() -> String {
    let said = mpi::environment::library_version().unwrap_or_default();
    let line = said.lines().next().unwrap_or("").split(", package").next().unwrap_or("");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
