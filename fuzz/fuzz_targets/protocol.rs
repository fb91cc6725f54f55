//! Whatever the bytes are, reading them as a packet of the broker's protocol ends with a message or an error.
#![no_main]
use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use zerogpu_protocol::*;

/// A message that was read can be written, and is read again as it was.
fn read<M: Message + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = decode::<M>(bytes) else { return };
    let mut again = Vec::new();
    encode(&message, &mut again).unwrap();
    assert!(again.len() <= bytes.len());
    assert_eq!(decode::<M>(&again).unwrap(), message);
}

fuzz_target!(|bytes: &[u8]| {
    let mut again = Vec::new();
    if let Ok((theirs, Ok(hello))) = decode_hello(bytes, VERSIONS) {
        encode_hello(&hello, theirs, &mut again).unwrap();
        assert_eq!(decode_hello(&again, VERSIONS).unwrap(), (theirs, Ok(hello)));
    }
    if let Ok(Ok(answer)) = decode_answer(bytes, VERSIONS) {
        encode_answer(&answer, VERSIONS, &mut again).unwrap();
        assert_eq!(decode_answer(&again, VERSIONS).unwrap(), Ok(answer));
    }
    read::<ToBroker>(bytes);
    read::<ToClient>(bytes);
});
