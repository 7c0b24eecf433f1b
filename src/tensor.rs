//! (tensor)
