//! The JSON dialect: what clients say ([`incoming`]) and what they are told ([`outgoing`]).

mod ephemeral;
pub mod faces;
mod fields;
pub mod incoming;
pub mod outgoing;
pub mod shown;
