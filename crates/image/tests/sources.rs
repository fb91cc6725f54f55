//! Which image of several is picked, how it is unpacked, and how it is found at a bare pointer.
mod common;
use common::*;
use zerogpu_image::{open, open_preserved, Error, Input, Source};

/// The names of the kernels that a source has for a compute capability.
fn names(source: &Source, cc: (u32, u32)) -> Vec<String> {
    assert!(source.fits(cc));
    source.image_for(cc).unwrap().kernels().iter().map(|kernel| kernel.name.to_string()).collect()
}

/// The kernel that the test fat binaries have for each compute capability: they have machine code for 8.0, 8.6, 9.0,
/// 9.0a and 10.0f, PTX for 7.5 and 8.0.
const PICKS: [((u32, u32), &str); 10] = [
    ((8, 0), "sm_80"),
    ((8, 5), "sm_80"),
    ((8, 6), "sm_86"),
    ((8, 9), "sm_86"),
    ((9, 0), "sm_90a"),
    ((10, 0), "sm_100f"),
    ((10, 3), "sm_100f"),
    ((7, 5), "ptx_75"),
    ((7, 9), "ptx_75"),
    ((12, 1), "ptx_80"),
];

#[test]
fn the_nearest_image_is_picked_however_it_is_compressed() {
    for fatbin in [PLAIN, LZ4, ZSTD, GROUP] {
        let source = Source::from_bytes(fatbin).unwrap();
        for (cc, name) in PICKS {
            assert_eq!(names(&source, cc), [name], "for {cc:?}");
            assert_eq!(source.image_for(cc).unwrap().is_ptx(), name.starts_with("ptx"));
        }
        assert!(!source.fits((7, 0)));
        assert_eq!(source.image_for((7, 0)).unwrap_err(), Error::NoFit);
    }
}

#[test]
fn compressed_and_plain_images_are_the_same_bytes() {
    let images = |fatbin| PICKS.map(|(cc, _)| image(fatbin, cc).bytes().unwrap());
    let plain = images(PLAIN);
    for fatbin in [LZ4, ZSTD, GROUP] {
        for (unpacked, plain) in images(fatbin).iter().zip(&plain) {
            assert!(plain.starts_with(unpacked), "a plain image is padded at its end");
            assert!(plain.len() - unpacked.len() < 8);
        }
    }
}

#[test]
fn asking_for_a_fit_unpacks_nothing() {
    for fatbin in [LZ4, ZSTD, GROUP] {
        // Spoil every payload: the bytes behind an entry's header.
        let mut fatbin = fatbin.to_vec();
        let mut at = 16;
        while at < fatbin.len() {
            let word = |at: usize| u32::from_le_bytes(fatbin[at..at + 4].try_into().unwrap()) as usize;
            let (start, end) = (at + word(at + 4), at + word(at + 4) + word(at + 8));
            fatbin[start..end].fill(0xff);
            at = end;
        }
        let source = Source::from_bytes(fatbin).unwrap();
        assert!(source.fits((8, 0)) && source.fits((12, 0)) && !source.fits((7, 0)));
        assert!(matches!(source.image_for((8, 0)), Err(Error::Malformed(_))));
    }
}

#[test]
fn what_follows_a_fat_binary_is_not_looked_at() {
    let mut longer = LZ4.to_vec();
    longer.extend_from_slice(b"something else");
    assert_eq!(Input::of(&longer), Ok(Input::Fatbin(LZ4)));
    let source = Source::from_bytes(longer).unwrap();
    assert_eq!(source.copied_bytes(), LZ4.len());
    assert_eq!(names(&source, (8, 0)), ["sm_80"]);
}

#[test]
fn damaged_or_other_bytes_are_errors() {
    for bytes in [&b""[..], b"garbage", b"\x7fEL", b"PK\x03\x04", &[0x50, 0xed, 0x55], &[0; 100]] {
        assert_eq!(Source::from_bytes(bytes).map(|_| ()).unwrap_err(), Error::NotAnImage, "{bytes:?}");
    }
    assert_eq!(Error::NotAnImage.code().0, 200);
    for cut in [16, 40, 100, LZ4.len() - 1] {
        assert!(matches!(Source::from_bytes(&LZ4[..cut]), Err(Error::Malformed(_))), "cut at {cut}");
    }
    let host_program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let source = Source::from_bytes(host_program).unwrap();
    assert!(!source.fits((8, 0)));
    assert!(matches!(source.image_for((8, 0)), Err(Error::Malformed(_))));
}

#[test]
fn sizes_that_an_image_only_claims_are_not_believed() {
    let claim = |fatbin: &[u8], size: u64| {
        let mut fatbin = fatbin.to_vec();
        fatbin[16 + 56..16 + 64].copy_from_slice(&size.to_le_bytes());
        let found = Source::from_bytes(fatbin).unwrap().image_for((8, 0));
        found.map(|_| ()).unwrap_err()
    };
    for fatbin in [LZ4, ZSTD] {
        for size in [0, 1, 2983, 2985, 1 << 29, 1 << 30, (1 << 30) + 1, u64::MAX] {
            assert!(matches!(claim(fatbin, size), Error::Malformed(_)), "{size}");
        }
    }
}

#[test]
fn a_copied_fat_binary_can_be_cut_down_to_what_a_device_needs() {
    for (fatbin, kept) in [(PLAIN, 16 + 64 + 2984), (LZ4, 16 + 64 + 1048), (ZSTD, 16 + 64 + 768)] {
        let mut source = Source::from_bytes(fatbin).unwrap();
        source.keep_only((8, 0)).unwrap();
        assert_eq!(source.copied_bytes(), kept);
        assert_eq!(names(&source, (8, 0)), ["sm_80"]);
        assert!(!source.fits((7, 5)));
        // What is left is a fat binary, for a driver to load.
        let left = unsafe_free::bytes(&source);
        assert_eq!(names(&Source::from_bytes(left).unwrap(), (8, 0)), ["sm_80"]);
    }
    let mut none = Source::from_bytes(LZ4).unwrap();
    none.keep_only((7, 0)).unwrap();
    assert_eq!((none.copied_bytes(), none.fits((7, 0))), (16, false));
    let mut cubin = Source::from_bytes(SM80).unwrap();
    cubin.keep_only((9, 0)).unwrap();
    assert_eq!(cubin.copied_bytes(), SM80.len());
}

/// Reading back what [`Source::as_ptr`] points to.
mod unsafe_free {
    use zerogpu_image::Source;

    pub fn bytes(source: &Source) -> Vec<u8> {
        // SAFETY: the pointer is to the source's own copy, of that size.
        unsafe { std::slice::from_raw_parts(source.as_ptr(), source.copied_bytes()) }.to_vec()
    }
}

/// The wrapper that nvcc puts around a program's fat binaries.
#[repr(C)]
struct Wrapper {
    magic: u32,
    version: u32,
    fatbin: *const u8,
    more: *const *const u8,
}

fn wrapper(version: u32, fatbin: &'static [u8], more: *const *const u8) -> Wrapper {
    Wrapper { magic: 0x4662_43b1, version, fatbin: fatbin.as_ptr(), more }
}

fn at<T>(image: &T) -> *const u8 {
    std::ptr::from_ref(image).cast()
}

#[test]
fn a_detached_source_outlives_the_memory_of_the_program() {
    for (fatbin, cc, kept) in [(PLAIN, (8, 0), 16 + 64 + 2984), (LZ4, (7, 0), LZ4.len())] {
        let memory: &'static [u8] = fatbin.to_vec().leak();
        let wrapper = wrapper(1, memory, std::ptr::null());
        // SAFETY: a wrapper whose fat binary lives for ever.
        let source = unsafe { open(at(&wrapper)) }.unwrap();
        assert!(source.is_preserved());
        let copy = source.detached(cc).unwrap();
        assert_eq!((copy.is_preserved(), copy.copied_bytes()), (false, kept));
        let own = copy.as_ptr() as usize;
        assert!(!(memory.as_ptr() as usize..memory.as_ptr() as usize + memory.len()).contains(&own));
        assert_eq!(names(&copy, (8, 0)), ["sm_80"]);
    }
}

#[test]
fn a_wrapper_is_read_in_place() {
    let name = b"file.fatbin\0";
    let wrapper = wrapper(1, LZ4, name.as_ptr().cast());
    // SAFETY: the wrapper and its fat binary outlive the source.
    let source = unsafe { open(at(&wrapper)) }.unwrap();
    assert_eq!(source.copied_bytes(), 0);
    assert_eq!(source.as_ptr(), LZ4.as_ptr());
    for (cc, name) in PICKS {
        assert_eq!(names(&source, cc), [name]);
    }
}

/// A fat binary of the entries of another one that `wanted` names by their place.
fn only(fatbin: &[u8], wanted: &[usize]) -> &'static [u8] {
    let mut body = Vec::new();
    let (mut at, mut place) = (16, 0);
    while at < fatbin.len() {
        let word = |at: usize| u32::from_le_bytes(fatbin[at..at + 4].try_into().unwrap()) as usize;
        let end = at + word(at + 4) + word(at + 8);
        if wanted.contains(&place) {
            body.extend_from_slice(&fatbin[at..end]);
        }
        (at, place) = (end, place + 1);
    }
    let mut all = fatbin[..8].to_vec();
    all.extend_from_slice(&(body.len() as u64).to_le_bytes());
    all.extend_from_slice(&body);
    all.leak()
}

#[test]
fn linked_code_is_picked_before_what_it_was_linked_from_and_else_all_parts_together() {
    // Linked: machine code for 8.0. Parts: PTX for 7.5 in one, for 8.0 in the other.
    let (linked, first, second) = (only(LZ4, &[0]), only(ZSTD, &[5]), only(PLAIN, &[6]));
    let list = [first.as_ptr(), second.as_ptr(), std::ptr::null()];
    let wrapper = wrapper(2, linked, list.as_ptr());
    // SAFETY: the wrapper, the list and the fat binaries outlive the source.
    let source = unsafe { open(at(&wrapper)) }.unwrap();
    assert_eq!(names(&source, (8, 0)), ["sm_80"]);
    assert_eq!(names(&source, (9, 0)), ["ptx_75", "ptx_80"]);
    assert_eq!(names(&source, (7, 5)), ["ptx_75"]);
    assert!(!source.fits((7, 0)));
    let image = source.image_for((9, 0)).unwrap();
    assert_eq!(image.kernel("ptx_80").unwrap().ptx_version, 80);
    assert_eq!(image.kernel("ptx_75").unwrap().ptx_version, 75);
}

#[test]
fn images_of_one_architecture_in_one_fat_binary_are_read_together() {
    let mut both = only(PLAIN, &[6]).to_vec();
    let other = only(LZ4, &[6]);
    both.extend_from_slice(&other[16..]);
    let size = both.len() as u64 - 16;
    both[8..16].copy_from_slice(&size.to_le_bytes());
    let source = Source::from_bytes(both).unwrap();
    assert_eq!(names(&source, (8, 0)), ["ptx_80"], "the first that has a name wins");
    assert_eq!(source.image_for((8, 0)).unwrap().kernels().len(), 1);
}

#[test]
fn a_bare_image_is_copied_whole_and_no_more() {
    for bytes in [LZ4, SM80, SM90, SM90A_ABI8, LARGE, PLAIN] {
        let mut buffer = bytes.to_vec();
        // SAFETY: the buffer holds an image.
        let source = unsafe { open(buffer.as_ptr()) }.unwrap();
        buffer.fill(0);
        assert_eq!(source.copied_bytes(), bytes.len());
        assert_ne!(source.as_ptr(), buffer.as_ptr());
        assert_eq!(unsafe_free::bytes(&source), bytes);
    }
}

#[test]
fn ptx_ends_with_its_nul() {
    let mut buffer = PTX80.to_vec();
    buffer.extend_from_slice(b"\0.entry not_this_one() { }");
    // SAFETY: the buffer holds PTX with a NUL.
    let source = unsafe { open(buffer.as_ptr()) }.unwrap();
    buffer.fill(b'x');
    assert_eq!(source.copied_bytes(), PTX80.len() + 1);
    assert_eq!(unsafe_free::bytes(&source).last(), Some(&0));
    assert_eq!(source.image_for((8, 0)).unwrap().kernels().len(), 12);
    assert_eq!(Source::from_bytes(PTX80).unwrap().copied_bytes(), PTX80.len() + 1);
}

#[test]
fn a_preserved_image_is_not_copied() {
    let mut ptx = PTX80.to_vec();
    ptx.push(0);
    for (bytes, kernel) in [(LZ4, "sm_80"), (SM80, "many"), (&ptx, "many")] {
        // SAFETY: the bytes outlive the source.
        let source = unsafe { open_preserved(bytes.as_ptr()) }.unwrap();
        assert_eq!((source.copied_bytes(), source.as_ptr()), (0, bytes.as_ptr()));
        assert!(source.image_for((8, 0)).unwrap().kernel(kernel).is_some());
    }
}

/// Bytes right before memory that can't be read.
struct Guarded(*mut u8, usize);

impl Guarded {
    fn new(bytes: &[u8]) -> Guarded {
        const PAGE: usize = 4096;
        let size = bytes.len().next_multiple_of(PAGE) + PAGE;
        // SAFETY: a fresh mapping; its last page is made unreadable, the bytes go right before that.
        unsafe {
            let map =
                libc::mmap(std::ptr::null_mut(), size, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0).cast::<u8>();
            assert_ne!(map.cast(), libc::MAP_FAILED);
            assert_eq!(libc::mprotect(map.add(size - PAGE).cast(), PAGE, libc::PROT_NONE), 0);
            let start = map.add(size - PAGE - bytes.len());
            start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            Guarded(start, bytes.len())
        }
    }
}

#[test]
fn nothing_is_read_beyond_the_end_of_an_image() {
    let mut ptx = PTX80.to_vec();
    ptx.push(0);
    for bytes in [LZ4, ZSTD, GROUP, PLAIN, SM80, SM90A_ABI8, LARGE, &ptx] {
        let guarded = Guarded::new(bytes);
        // SAFETY: an image, after which a read would fault.
        let source = unsafe { open(guarded.0) }.unwrap();
        assert_eq!(source.copied_bytes(), guarded.1);
    }
    for bytes in [
        &b"\0"[..],
        b"g",
        b"\x7f\0",
        b"\x7fELG",
        b"\x50\xed\0",
        b"/\0",
        b"/* \0",
        b".version\0",
        b".versio\0",
        b"\xb1\x43\0",
    ] {
        let guarded = Guarded::new(bytes);
        // SAFETY: what is no image must be told from its first bytes.
        let found = unsafe { open(guarded.0) };
        assert!(found.is_err_and(|e| e == Error::NotAnImage) || bytes == b".version\0", "{bytes:?}");
    }
    // SAFETY: a null pointer is told apart.
    assert_eq!(unsafe { open(std::ptr::null()) }.map(|_| ()), Err(Error::NotAnImage));
}
