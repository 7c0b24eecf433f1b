pub mod replica;
pub mod step;
pub mod vote;
