//! Companion of the shim: libnvidia-ml.so.1 that agrees with the virtual device.
