//! (tape)
