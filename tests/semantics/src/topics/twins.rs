//! The kernels that our own programs launch: on a card they run, on softcuda their twins do.
use super::vmm::{create, map, reserve, PAGE};
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::{c_void, CString};
use std::ptr::null_mut;
use zerogpu_abi::*;
use zerogpu_hash::{hash_chunk, CHUNK, HASH_CHUNKS, PTX, THREADS, WRITE_BYTES};

fn kernel(d: &Driver, name: &str) -> CUfunction {
    let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, PTX.as_ptr().cast()));
    let name = CString::new(name).expect("a name has no NUL");
    must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

fn launch(d: &Driver, f: CUfunction, blocks: usize, mut words: [u64; 3], stream: CUstream) -> CUresult {
    let mut params = words.each_mut().map(|word| std::ptr::from_mut(word).cast::<c_void>());
    d.cuLaunchKernel(f, blocks as u32, 1, 1, THREADS as u32, 1, 1, 0, stream, params.as_mut_ptr(), null_mut())
}

fn hashes(d: &Driver, at: CUdeviceptr, count: usize) -> Vec<[u64; 2]> {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    d.read(at, count * 16).chunks(16).map(|hash| [word(&hash[..8]), word(&hash[8..])]).collect()
}

/// Hashes and written bytes, of memory in one piece and in two.
pub fn twins(d: &'static Driver, t: &mut Check) {
    d.start();
    let (hash, write) = (kernel(d, HASH_CHUNKS), kernel(d, WRITE_BYTES));
    let stream = d.stream(1);
    let (out, length) = (d.alloc(4096), 3 * CHUNK + 4096);
    // the pieces lie side by side in the device's addresses alone
    let pieces = reserve(d, 6 * PAGE);
    let (second, first) = (create(d, 3 * PAGE), create(d, 3 * PAGE));
    map(d, pieces, 3 * PAGE, first);
    map(d, pieces + 3 * PAGE as u64, 3 * PAGE, second);
    let plain = d.alloc(length);
    for (what, at) in [("allocated", plain), ("two mappings", pieces + (PAGE + PAGE / 2) as u64)] {
        must("cuMemsetD8", d.cuMemsetD8_v2(at, 0x11, length));
        t.code(format_args!("write to {what}"), launch(d, write, 64, [at, length as u64 - 64, 77], stream), 0);
        t.code(format_args!("hash of {what}"), launch(d, hash, 4, [at, length as u64, out], stream), 0);
        d.wait(stream);
        let mut want = vec![0x11; length];
        zerogpu_hash::write_bytes(&mut want[..length - 64], 77);
        let bytes = d.read(at, length);
        t.that(format_args!("the bytes of {what}"), bytes == want);
        t.same(
            format_args!("the hashes of {what}"),
            hashes(d, out, 4),
            want.chunks(CHUNK).map(hash_chunk).collect::<Vec<_>>(),
        );
    }
    t.code("nothing to hash", launch(d, hash, 1, [plain, 0, out], stream), 0);
    d.wait(stream);
    must("cuMemUnmap", d.cuMemUnmap(pieces, 6 * PAGE));
    [first, second].iter().for_each(|&handle| must("cuMemRelease", d.cuMemRelease(handle)));
}

/// A kernel that leaves its memory ends the process's use of the card.
pub fn astray(d: &'static Driver, t: &mut Check) {
    d.start();
    let (write, stream) = (kernel(d, WRITE_BYTES), d.stream(1));
    let at = reserve(d, 2 * PAGE);
    map(d, at, PAGE, create(d, PAGE));
    // a driver may say so at the launch or later
    let launched = launch(d, write, 64, [at, 2 * PAGE as u64, 1], stream);
    t.one_of("the launch", launched, &[0, 700]);
    t.code("a wait", d.cuStreamSynchronize(stream), 700);
    t.code("another wait", d.cuCtxSynchronize(), 700);
    t.code("a copy", d.cuMemsetD8Async(at, 1, 64, stream), 700);
}
