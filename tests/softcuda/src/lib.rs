//! softcuda: a strict software CUDA driver over host memory.
//!
//! It is loaded by path where NVIDIA's libcuda would be, by the shim and by tests, and answers the whole driver ABI. It runs
//! copies and memsets on the host; kernel launches are validated and written to a log, and executed only where the kernel
//! has a twin in Rust (`twins`): host code that reads another kernel's result sees what memory held before. Cards are shared with the other processes of the machine
//! through one file. Settings: docs/environment.md.
mod api;
mod card;
mod entry;
mod log;
mod obstacle;
mod pins;
mod tensor;
mod twins;
mod uses;
