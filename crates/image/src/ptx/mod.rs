//! PTX: text that a driver compiles when it loads it.
//!
//! Only declarations are read: kernels with their parameters and launch bounds, and module variables. What the compiler
//! will decide (registers, stack) is estimated.
mod declare;
mod initial;
mod lex;
mod module;

use crate::arch::{Arch, Reach};
use crate::Error;
use lex::{Lexer, Token};
pub(crate) use module::read;

/// Whether a text begins as PTX must: with `.version`, after comments and white space. Takes no more of the text than it
/// needs to tell.
pub(crate) fn begins(text: impl Iterator<Item = u8>) -> bool {
    let mut text = text.peekable();
    loop {
        match text.next() {
            Some(byte) if byte.is_ascii_whitespace() => {}
            Some(b'/') => match text.next() {
                Some(b'/') => while text.next_if(|&byte| byte != b'\n').is_some() {},
                Some(b'*') => {
                    let mut star = false;
                    while !(star && text.next_if_eq(&b'/').is_some()) {
                        let Some(byte) = text.next() else { return false };
                        star = byte == b'*';
                    }
                }
                _ => return false,
            },
            Some(b'.') => return b"version".iter().all(|&byte| text.next() == Some(byte)),
            _ => return false,
        }
    }
}

/// The architecture a text is for, from its `.target`.
pub(crate) fn arch(text: &[u8]) -> Result<Arch, Error> {
    let mut tokens = Lexer::new(text);
    tokens.find(|token| *token == Token::Dot(b"target"));
    match tokens.next() {
        Some(Token::Name(name)) => target(name),
        _ => None,
    }
    .ok_or(Error::InvalidPtx("no .target"))
}

/// Reads `sm_80`, `sm_90a`, `sm_100f`.
fn target(name: &[u8]) -> Option<Arch> {
    let name = name.strip_prefix(b"sm_")?;
    let (number, reach) = match name {
        [number @ .., b'a'] => (number, Reach::Exact),
        [number @ .., b'f'] => (number, Reach::Family),
        number => (number, Reach::Forward),
    };
    Some(Arch { sm: std::str::from_utf8(number).ok()?.parse().ok()?, reach })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_is_known_by_its_first_directive() {
        let begins = |text: &[u8]| begins(text.iter().copied());
        assert!(begins(b".version 8.0\n.target sm_80"));
        assert!(begins(b"\n//\n// by NVVM ** /*\n/* a **/ /***/ \t.version"));
        assert!(!begins(b"") && !begins(b"garbage") && !begins(b".target sm_80") && !begins(b"// only a comment"));
        assert!(!begins(b"/* open") && !begins(b"/") && !begins(b"/*/ .version"));
    }

    #[test]
    fn the_target_gives_the_architecture() {
        let arch = |text: &[u8]| arch(text).ok();
        let of = |sm, reach| Some(Arch { sm, reach });
        assert_eq!(arch(b".version 8.0 .target sm_80, debug"), of(80, Reach::Forward));
        assert_eq!(arch(b".version 8.0 .target sm_90a"), of(90, Reach::Exact));
        assert_eq!(arch(b".version 8.0 .target sm_100f"), of(100, Reach::Family));
        assert_eq!(arch(b".version 8.0 .target sm_"), None);
        assert_eq!(arch(b".version 8.0 // .target sm_80"), None);
    }
}
