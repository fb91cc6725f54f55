//! The shim: a virtual CUDA driver that is preloaded as libcuda.so.1.
