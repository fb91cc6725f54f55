//! Companion of the shim: `libcuda.so`, which leads to `libcuda.so.1`.
//!
//! cuDNN 8.5, NCCL and Triton open the driver by its development name, without a version. A loaded object of that
//! SONAME satisfies them; it has no symbols of its own, and `dlsym` on its handle goes on to what it needs: the shim.
