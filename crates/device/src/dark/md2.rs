//! MD2 and its HMAC, which the integrity check is made of. Long broken as cryptography; here it is a format.

use hmac::{Hmac, Mac};
use md2::{Digest, Md2};

/// The MD2 digest of `data` (RFC 1319).
#[cfg_attr(not(test), allow(dead_code))] // the RFC's vectors show which hash the HMAC stands on
pub fn md2(data: &[u8]) -> [u8; 16] {
    Md2::digest(data).into()
}

/// HMAC (RFC 2104) of `data` with MD2, whose block is 16 bytes. A longer key is hashed first.
pub fn hmac_md2(key: &[u8], data: &[u8]) -> [u8; 16] {
    let mac = Hmac::<Md2>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.chain_update(data).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: [u8; 16]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn md2_gives_the_digests_of_rfc_1319() {
        for (text, digest) in [
            ("", "8350e5a3e24c153df2275c9f80692773"),
            ("a", "32ec01ec4a6dac72c0ab96fb34c0b5d1"),
            ("abc", "da853b0d3f88d99b30283a69e6ded6bb"),
            ("message digest", "ab4f496bfb2a530b219ff33031fe06b0"),
            ("abcdefghijklmnopqrstuvwxyz", "4e8ddff3650292ab5a4108c3aa47940b"),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", "da33def2a42df13975352846c30338cd"),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                "d5976f79d83d3a0dc9806c3c66f3efd8",
            ),
        ] {
            assert_eq!(hex(md2(text.as_bytes())), digest, "{text:?}");
        }
    }

    /// RFC 2104, written out: `H(key ^ 5c.. || H(key ^ 36.. || data))`, the key filled up with zeros to 16 bytes.
    #[test]
    fn the_hmac_is_that_of_rfc_2104_with_blocks_of_16_bytes() {
        let by_hand = |key: &[u8], data: &[u8]| {
            let mut block = [0; 16];
            match key.len() {
                0..=16 => block[..key.len()].copy_from_slice(key),
                _ => block = md2(key),
            }
            let inner = md2(&[&block.map(|byte| byte ^ 0x36), data].concat());
            md2(&[block.map(|byte| byte ^ 0x5c), inner].concat())
        };
        for (key, data) in
            [(&b""[..], &b""[..]), (b"Jefe", b"what do ya want for nothing?"), (&[0xaa; 16], &[0xdd; 50])]
        {
            assert_eq!(hmac_md2(key, data), by_hand(key, data), "{key:?}");
        }
        let long = [0xaa; 80];
        assert_eq!(hmac_md2(&long, b"a key longer than a block"), by_hand(&long, b"a key longer than a block"));
    }
}
