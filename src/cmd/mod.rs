//! (cmd)
