//! Ranks that are processes of a real MPI launcher. This test program starts itself under `mpirun` as the worker of a
//! scenario, and the program itself for whole runs. Built with the feature `mpi`, for the library that `mpicc` (or MPICC)
//! belongs to; the launcher of that library must be installed.

#![allow(clippy::unwrap_used)]

#[path = "mpi/collectives.rs"]
mod collectives;
#[path = "mpi/failures.rs"]
mod failures;
#[path = "mpi/launcher.rs"]
mod launcher;
#[path = "common/layouts.rs"]
mod layouts;
#[path = "mpi/memory.rs"]
mod memory;
#[path = "mpi/program.rs"]
mod program;
#[path = "mpi/reshard.rs"]
mod reshard;
