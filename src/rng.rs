//! (rng)
