//! The loader's cache, `/etc/ld.so.cache`: which file a library name stands for.
//!
//! Layout (glibc's `dl-cache.h`, `struct cache_file_new`): the magic, the number of entries, the length of the string
//! table, 20 more bytes, then entries of 24 bytes each: flags, offset of the name, offset of the path, 12 more bytes.
//! Offsets count from the magic. An older cache may stand in front of it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;

/// Flags of a library for this machine: an ELF for glibc (3) and the architecture's byte.
#[cfg(target_arch = "x86_64")]
const FLAGS: u32 = 0x0303;
#[cfg(target_arch = "aarch64")]
const FLAGS: u32 = 0x0a03;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const FLAGS: u32 = 0x0003;

/// The files that the cache names for the library `name`, in its order. What can't be read as a cache names none.
pub(super) fn paths_of(cache: &[u8], name: &str) -> Vec<PathBuf> {
    let Some(start) = cache.windows(MAGIC.len()).position(|window| window == MAGIC) else { return Vec::new() };
    let cache = &cache[start..];
    let count = word(cache, MAGIC.len()).unwrap_or(0) as usize;
    let entries = cache.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).take(count);
    entries
        .filter(|entry| word(entry, 0) == Some(FLAGS))
        .filter(|entry| word(entry, 4).and_then(|at| string(cache, at)) == Some(name.as_bytes()))
        .filter_map(|entry| word(entry, 8).and_then(|at| string(cache, at)))
        .map(|path| PathBuf::from(OsStr::from_bytes(path)))
        .filter(|path| path.is_absolute())
        .collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

fn string(cache: &[u8], at: u32) -> Option<&[u8]> {
    let rest = cache.get(at as usize..)?;
    rest.iter().position(|&byte| byte == 0).map(|end| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache as ldconfig writes it, with an old-format cache in front of it if asked.
    fn cache(entries: &[(u32, &str, &str)], with_old: bool) -> Vec<u8> {
        let mut strings = Vec::new();
        let mut table = Vec::new();
        let base = HEADER + entries.len() * ENTRY;
        for (flags, name, path) in entries {
            table.extend(flags.to_ne_bytes());
            for text in [name, path] {
                table.extend(((base + strings.len()) as u32).to_ne_bytes());
                strings.extend(text.bytes().chain([0]));
            }
            table.extend([0; 12]);
        }
        let mut bytes = if with_old { b"ld.so-1.7.0\0\0\0\0\0".to_vec() } else { Vec::new() };
        bytes.extend(MAGIC);
        bytes.extend((entries.len() as u32).to_ne_bytes());
        bytes.extend((strings.len() as u32).to_ne_bytes());
        bytes.extend([0; HEADER - MAGIC.len() - 8]);
        bytes.extend(table);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn names_the_files_of_this_architecture() {
        let entries = [
            (FLAGS, "libcuda.so.1", "/a/libcuda.so.1"),
            (3, "libcuda.so.1", "/i386/libcuda.so.1"),
            (FLAGS, "libcuda.so", "/a/libcuda.so"),
            (FLAGS, "libcuda.so.1", "relative/libcuda.so.1"),
            (FLAGS, "libcuda.so.1", "/b/libcuda.so.1"),
        ];
        let expected = [PathBuf::from("/a/libcuda.so.1"), PathBuf::from("/b/libcuda.so.1")];
        assert_eq!(paths_of(&cache(&entries, false), "libcuda.so.1"), expected);
        assert_eq!(paths_of(&cache(&entries, true), "libcuda.so.1"), expected);
        assert!(paths_of(&cache(&entries, false), "libnone.so").is_empty());
    }

    #[test]
    fn damage_names_nothing_and_never_panics() {
        let whole = cache(&[(FLAGS, "libcuda.so.1", "/a/libcuda.so.1")], false);
        for length in 0..whole.len() {
            assert!(paths_of(&whole[..length], "libcuda.so.1").is_empty(), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] = 0xff;
            let paths = paths_of(&bytes, "libcuda.so.1");
            assert!(paths.len() <= 1);
        }
    }

    #[test]
    fn reads_the_cache_of_this_machine() {
        // Each glibc system that has a cache lists the C library in it.
        if let Ok(bytes) = std::fs::read("/etc/ld.so.cache") {
            assert!(paths_of(&bytes, "libc.so.6").iter().any(|path| path.is_file()));
        }
    }
}
