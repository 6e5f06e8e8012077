//! The languages that code can be run in.
