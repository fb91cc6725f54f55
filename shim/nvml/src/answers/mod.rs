//! The functions that have an answer, by what they are about. The names are nvml.h's, which documents each.

mod health;
mod identity;
mod links;
mod memory;
mod mig;
mod system;
