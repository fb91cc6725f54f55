//! Reads CUDA kernel images: fat binaries, cubins and PTX.
