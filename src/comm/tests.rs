//! Collectives of threads against straightforward computations.
