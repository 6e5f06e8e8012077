//! One file for each thing that is measured.

pub mod fanout;
pub mod idle;
pub mod jobs;
pub mod pods;
pub mod sandbox;
