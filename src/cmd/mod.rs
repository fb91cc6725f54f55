//! One file for each command.

pub mod broker;
pub mod doctor;
pub mod env;
pub mod revoke;
pub mod run;
pub mod soft_smi;
pub mod status;
pub mod top;
pub mod trace;
