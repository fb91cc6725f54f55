//! softcuda: a strict software CUDA driver over host memory.
