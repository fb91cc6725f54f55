//! Companion of the shim: libcuda.so, which leads to libcuda.so.1.
