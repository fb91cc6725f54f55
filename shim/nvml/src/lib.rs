//! Companion of the shim: `libnvidia-ml.so.1` that agrees with the virtual device.
//!
//! PyTorch asks NVML before CUDA, or instead of it: how many cards there are (`PYTORCH_NVML_BASED_CUDA_CHECK`), and who
//! uses the memory when it runs out. The answers come from the same settings and profile as the shim's, and never
//! initialise CUDA: a process that has only asked NVML can still fork. Nothing happens in a process before `nvmlInit`.
//!
//! `symbols.txt` names all that is exported; what [`answers`] does not answer is NOT_SUPPORTED.
#![allow(non_snake_case)]

mod answers;
mod card;
mod entry;
mod layout;
mod not_supported;
mod shim;
mod status;
