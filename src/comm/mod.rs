//! (comm)
