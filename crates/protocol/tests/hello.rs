//! The first packets: versions that fit, and those that don't.
mod common;

use std::path::Path;

use common::{answers, hello};
use zerogpu_protocol::*;

fn versions(lowest: u16, highest: u16) -> Versions {
    Versions { lowest, highest }
}

#[test]
fn the_highest_common_version() {
    for (ours, theirs, common) in [
        ((1, 1), (1, 1), Some(1)),
        ((1, 3), (2, 5), Some(3)),
        ((2, 5), (1, 3), Some(3)),
        ((1, 9), (4, 4), Some(4)),
        ((1, 1), (2, 3), None),
        ((4, 5), (2, 3), None),
    ] {
        let result = negotiate(versions(ours.0, ours.1), versions(theirs.0, theirs.1));
        assert_eq!(result.ok(), common, "{ours:?} {theirs:?}");
    }
}

#[test]
fn a_mismatch_is_one_sentence_with_a_remedy() {
    let mismatch = negotiate(versions(1, 1), versions(2, 3)).unwrap_err();
    assert_eq!(
        mismatch.at_client(Path::new("/run/zerogpu/broker.sock")),
        "this program's zerogpu speaks protocol 1, the broker on /run/zerogpu/broker.sock speaks 2 to 3: install the \
         same version on both"
    );
    let mismatch = negotiate(versions(2, 3), versions(1, 1)).unwrap_err();
    assert_eq!(
        mismatch.at_broker(),
        "this program's zerogpu speaks protocol 1, the broker speaks 2 to 3: install the same version on both"
    );
}

#[test]
fn any_version_reads_the_versions_of_any_other() {
    let mut bytes = Vec::new();
    encode_hello(&hello(Role::Space), versions(7, 9), &mut bytes).unwrap();
    bytes.truncate(12);
    bytes.extend([0xff; 40]); // what version 7 may have made of it
    let (theirs, mismatch) = decode_hello(&bytes, VERSIONS).unwrap();
    assert_eq!(theirs, versions(7, 9));
    assert_eq!(mismatch.unwrap_err(), Mismatch { ours: VERSIONS, theirs });

    encode_answer(&answers()[0], versions(7, 9), &mut bytes).unwrap();
    bytes.truncate(12);
    bytes.extend([0xff; 40]);
    assert_eq!(decode_answer(&bytes, VERSIONS).unwrap().unwrap_err().theirs, versions(7, 9));
}

#[test]
fn hellos_grow_at_their_end() {
    let hello = hello(Role::Space);
    let mut bytes = Vec::new();
    encode_hello(&hello, versions(1, 4), &mut bytes).unwrap();
    bytes.extend([1, 2, 3]);
    assert_eq!(decode_hello(&bytes, VERSIONS).unwrap(), (versions(1, 4), Ok(hello.clone())));
    // But not without a new version.
    encode_hello(&hello, VERSIONS, &mut bytes).unwrap();
    bytes.push(0);
    decode_hello(&bytes, VERSIONS).unwrap_err();
}

#[test]
fn what_is_no_hello() {
    let mut bytes = Vec::new();
    encode_hello(&hello(Role::Observer), VERSIONS, &mut bytes).unwrap();
    for end in 0..bytes.len() {
        decode_hello(&bytes[..end], VERSIONS).unwrap_err();
    }
    for place in 0..MAGIC.len() {
        let mut wrong = bytes.clone();
        wrong[place] ^= 1;
        assert!(decode_hello(&wrong, VERSIONS).unwrap_err().0.contains("no hello of zerogpu"));
        assert!(decode_answer(&wrong, VERSIONS).unwrap_err().0.contains("no hello of zerogpu"));
    }
    encode_hello(&hello(Role::Observer), versions(3, 1), &mut bytes).unwrap();
    assert!(decode_hello(&bytes, VERSIONS).unwrap_err().0.contains("above its highest"));
}
