//! Initialisers of variables.
use super::declare::{integer, Declared};
use super::lex::{Lexer, Token};
use crate::Error;

const BAD: Error = Error::InvalidPtx("an initialiser");

/// The first contents of a variable.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Initial {
    /// The bytes given; the variable's further ones are zeros.
    pub bytes: Vec<u8>,
    /// Some are addresses, which are known only to the loader (zeros here).
    pub relocated: bool,
}

/// Reads what follows the `=` of a declaration. Values fill the variable one after the other: braces group them, but a
/// short row is not filled up (so NVIDIA's compiler does it).
pub(super) fn initial(tokens: &mut Lexer, variable: &Declared) -> Result<Initial, Error> {
    let mut initial = Initial::default();
    let mut depth = 0;
    if let Some(Token::Mark(b',' | b';')) = tokens.peek() {
        return Err(BAD);
    }
    loop {
        match tokens.peek().ok_or(BAD)? {
            Token::Mark(b'{') => depth += 1,
            Token::Mark(b'}') if depth > 0 => depth -= 1,
            Token::Mark(b',') if depth > 0 => {}
            Token::Mark(b',' | b';') => break,
            _ => {
                initial.push(tokens, variable.kind.scalar)?;
                continue;
            }
        }
        tokens.next();
    }
    match variable.size() {
        Some(size) if initial.bytes.len() as u64 > size => Err(BAD),
        _ => Ok(initial),
    }
}

impl Initial {
    /// Reads one value up to the comma, brace or semicolon behind it.
    fn push(&mut self, tokens: &mut Lexer, size: u64) -> Result<(), Error> {
        let (mut negative, mut address, mut value) = (false, false, None);
        let mut depth = 0;
        loop {
            match tokens.peek().ok_or(BAD)? {
                Token::Mark(b',' | b'}' | b';') if depth == 0 => break,
                Token::Mark(b'(') => depth += 1,
                Token::Mark(b')') => depth -= 1,
                Token::Mark(b'-') => negative = true,
                Token::Mark(b'+') => {}
                Token::Name(_) => address = true,
                Token::Number(digits) => value = value.or(Some(digits)),
                _ => return Err(BAD),
            }
            tokens.next();
        }
        let bits = match (address, value) {
            (true, _) => 0,
            (false, Some(digits)) => bits(digits, negative, size).ok_or(BAD)?,
            (false, None) => return Err(BAD),
        };
        self.relocated |= address;
        self.bytes.extend_from_slice(&bits.to_le_bytes()[..size.min(16) as usize]);
        Ok(())
    }
}

/// The bits of a number in a scalar of `size` bytes.
fn bits(digits: &[u8], negative: bool, size: u64) -> Option<u128> {
    let text = std::str::from_utf8(digits).ok()?;
    let float = match text.get(..2) {
        Some("0f" | "0F") => Some(f32::from_bits(u32::from_str_radix(&text[2..], 16).ok()?).into()),
        Some("0d" | "0D") => Some(f64::from_bits(u64::from_str_radix(&text[2..], 16).ok()?)),
        Some("0x" | "0X" | "0b" | "0B") => None,
        _ if text.contains(['.', 'e', 'E']) => Some(text.parse::<f64>().ok()?),
        _ => None,
    };
    Some(match float {
        Some(value) => {
            let value = if negative { -value } else { value };
            match size {
                4 => (value as f32).to_bits().into(),
                _ => value.to_bits().into(),
            }
        }
        None => {
            let value = u128::from(integer(digits)?);
            if negative {
                value.wrapping_neg()
            } else {
                value
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::declare::{declared, kind};
    use super::*;

    fn read(text: &str) -> Result<Initial, Error> {
        let mut tokens = Lexer::new(text.as_bytes());
        let kind = kind(&mut tokens)?;
        let variable = declared(&mut tokens, kind)?;
        assert_eq!(tokens.next(), Some(Token::Mark(b'=')));
        let initial = initial(&mut tokens, &variable)?;
        assert_eq!(tokens.next(), Some(Token::Mark(b';')));
        Ok(initial)
    }

    fn bytes(text: &str) -> Vec<u8> {
        let initial = read(text).unwrap();
        assert!(!initial.relocated);
        initial.bytes
    }

    #[test]
    fn numbers_take_the_bits_of_their_type() {
        assert_eq!(bytes(".u32 a = 7;"), [7, 0, 0, 0]);
        assert_eq!(bytes(".s16 a = -2;"), [0xfe, 0xff]);
        assert_eq!(bytes(".b8 a[5] = {1, 0x80, 255};"), [1, 128, 255]);
        assert_eq!(bytes(".f32 a[3] = {0f3F800000, -1.5, 2e1};"), [1.0_f32, -1.5, 20.0].map(f32::to_le_bytes).concat());
        assert_eq!(bytes(".f64 a = 0dBFF0000000000000;"), (-1.0_f64).to_le_bytes());
    }

    #[test]
    fn rows_follow_one_another() {
        assert_eq!(bytes(".b8 a[2][3] = {{1}, {2, 3}};"), [1, 2, 3]);
        assert_eq!(bytes(".b8 a[2][3] = {1, 2, 3, 4};"), [1, 2, 3, 4]);
    }

    #[test]
    fn addresses_are_left_to_the_loader() {
        let found = read(".u64 a[3] = {generic(b), b+8, 5};").unwrap();
        assert!(found.relocated);
        assert_eq!(found.bytes, [[0; 8], [0; 8], 5_u64.to_le_bytes()].concat());
        assert_eq!(read(".b8 a[2] = {0xFF(b), 0xFF00(b)};").unwrap(), Initial { bytes: vec![0, 0], relocated: true });
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in [".u32 a = ;", ".u32 a[2] = {1, 2", ".u32 a = {\"x\"};", ".b8 a[2] = {1, 2, 3};", ".u32 a = 1x;"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
