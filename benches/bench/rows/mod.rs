//! One file for each thing that is measured.

pub mod fanout;
pub mod idle;
pub mod jobs;
pub mod memory;
pub mod peers;
pub mod pods;
pub mod rest;
pub mod sandbox;
pub mod storm;
pub mod upload;
