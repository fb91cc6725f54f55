//! Bytes that nobody checked: whatever they are, reading them ends with an answer or an error.
mod common;
use common::*;
use proptest::prelude::*;
use zerogpu_image::{Image, Source};

const DEVICES: [(u32, u32); 6] = [(6, 1), (7, 5), (8, 0), (8, 6), (9, 0), (10, 0)];

/// Asks everything there is to ask of a source, and checks what callers build on.
fn exercise(bytes: &[u8]) {
    let Ok(mut source) = Source::from_bytes(bytes) else { return };
    for cc in DEVICES {
        let fits = source.fits(cc);
        if let Ok(image) = source.image_for(cc) {
            assert!(fits);
            check(&image);
        }
    }
    if source.keep_only((8, 0)).is_ok() {
        assert!(source.copied_bytes() <= bytes.len() + 1);
    }
}

fn check(image: &Image) {
    for kernel in image.kernels() {
        assert_eq!(image.kernel(&kernel.name), Some(kernel));
        for (place, param) in kernel.params.iter().enumerate() {
            assert_eq!(param.ordinal as usize, place);
            assert!(param.offset + param.size <= kernel.param_bytes);
        }
    }
    for global in image.globals() {
        assert_eq!(image.global(&global.name), Some(global));
        assert!(image.initial(global).len() as u64 <= global.size);
    }
    assert!(image.bytes().is_ok());
}

#[derive(Clone, Debug)]
enum Change {
    Byte(prop::sample::Index, u8),
    Word(prop::sample::Index, u32),
    Long(prop::sample::Index, u64),
    Cut(prop::sample::Index),
    Copy(prop::sample::Index, prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let word = prop_oneof![Just(0), Just(1), Just(u32::MAX), Just(0x7fff_ffff), 0..0x1000_u32, any::<u32>()];
    let long = prop_oneof![Just(u64::MAX), Just(1 << 63), Just(1 << 32), 0..0x10000_u64, any::<u64>()];
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        4 => (at(), word).prop_map(|(at, word)| Change::Word(at, word)),
        2 => (at(), long).prop_map(|(at, long)| Change::Long(at, long)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at(), 1_usize..200).prop_map(|(from, to, size)| Change::Copy(from, to, size)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    // Numbers of a header are aligned; so are those that replace them.
    let mut put = |at: &prop::sample::Index, value: &[u8]| {
        let at = at.index(bytes.len()) & !3;
        let room = value.len().min(bytes.len() - at);
        bytes[at..at + room].copy_from_slice(&value[..room]);
    };
    match change {
        Change::Word(at, word) => put(at, &word.to_le_bytes()),
        Change::Long(at, long) => put(at, &long.to_le_bytes()),
        Change::Byte(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Change::Copy(from, to, size) => {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            let room = (*size).min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + room, to);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(
        magic in prop::sample::select(vec![&b""[..], b"\x50\xed\x55\xba\x01\x00\x10\x00", b"\x7fELF\x02\x01\x01\x33\x07", b".version 8.0\n.target sm_80\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        exercise(&[magic, &bytes].concat());
    }

    #[test]
    fn damaged_images_never_panic(image in 0..ALL.len(), changes in prop::collection::vec(change(), 1..8)) {
        let mut bytes = ALL[image].0.to_vec();
        for change in &changes {
            apply(&mut bytes, change);
        }
        exercise(&bytes);
    }

    #[test]
    fn shuffled_ptx_never_panics(words in prop::collection::vec(word(), 0..60)) {
        exercise(format!(".version 8.0 .target sm_80 {}", words.join(" ")).as_bytes());
    }
}

/// Words and marks that mean something in PTX.
fn word() -> impl Strategy<Value = String> {
    let words = ". .entry .func .param .global .const .shared .local .extern .align .b8 .u64 .f32 .v4 .ptr .texref .maxntid .reqntid .section \
                 .attribute ( ) { } [ ] , ; : = - + 0 1 16 4294967295 18446744073709551615 0x 0f3F800000 1e9 name other \" // /* */";
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).chain(["\n".to_owned()]).collect();
    prop::sample::select(words)
}

#[test]
fn the_images_themselves_hold_what_is_checked() {
    for (bytes, cc) in ALL {
        exercise(bytes);
        assert!(!image(bytes, cc).kernels().is_empty());
    }
}

/// Cuts an image at each of its first bytes and at every 64th.
#[test]
fn every_beginning_of_an_image_is_an_image_or_an_error() {
    for (bytes, _) in ALL {
        for end in (0..bytes.len()).filter(|end| *end < 300 || end % 64 == 0) {
            exercise(&bytes[..end]);
        }
    }
}
