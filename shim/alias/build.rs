//! Links the alias: `libcuda.so`, which needs `libcuda.so.1`.

fn main() {
    zerogpu_linkage::cdylib("libcuda.so");
    zerogpu_linkage::needs("libcuda.so.1");
}
