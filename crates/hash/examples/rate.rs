//! How fast the Rust twin is: cargo run --release -p zerogpu-hash --example rate
use std::hint::black_box;
use std::time::Instant;
use zerogpu_hash::{hash_chunks, write_bytes, CHUNK};

fn main() {
    let mut data = vec![0; 64 * CHUNK];
    write_bytes(&mut data, 1);
    let mut out = vec![[0; 2]; 64];
    for _ in 0..5 {
        let start = Instant::now();
        hash_chunks(black_box(&data), black_box(&mut out));
        println!("{:.2} GB/s", data.len() as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
}
