//! The JSON dialect: what clients say ([`incoming`]) and what they are told ([`outgoing`]).

pub mod incoming;
pub mod outgoing;
