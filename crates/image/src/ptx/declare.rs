//! Declarations of variables and parameters.
use super::lex::{Lexer, Token};
use crate::Error;

/// What stands before the names of a declaration and holds for each of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Size of one scalar in bytes.
    pub scalar: u64,
    /// Scalars of one element: 1, or those of a vector.
    pub lanes: u64,
    /// Alignment in bytes.
    pub align: u64,
    pub managed: bool,
    /// A texture, surface or sampler reference, not memory.
    pub opaque: bool,
}

/// A declared variable: all that stands between the state space and an initialiser.
#[derive(Debug)]
pub(super) struct Declared<'a> {
    pub kind: Kind,
    pub name: &'a [u8],
    /// Lengths of the array's dimensions; None for one left open. Empty: no array.
    pub dimensions: Vec<Option<u64>>,
}

impl Declared<'_> {
    /// Size in bytes; None with an open dimension, or one beyond all bounds.
    pub fn size(&self) -> Option<u64> {
        self.dimensions.iter().try_fold(self.kind.element(), |size, length| size.checked_mul((*length)?))
    }
}

impl Kind {
    /// Size of one element of an array in bytes.
    pub fn element(&self) -> u64 {
        self.scalar * self.lanes
    }
}

const BAD: Error = Error::InvalidPtx("a declaration");

/// Reads the kind of a declaration, up to the first name.
pub(super) fn kind(tokens: &mut Lexer) -> Result<Kind, Error> {
    let (mut scalar, mut lanes, mut align) = (None, 1, None);
    let (mut managed, mut opaque, mut points) = (false, false, false);
    while let Some(Token::Dot(word)) = tokens.peek() {
        tokens.next();
        match word {
            b"align" => {
                let bytes = number(tokens).filter(|bytes| bytes.is_power_of_two()).ok_or(BAD)?;
                // After .ptr it is the alignment of what a parameter points to.
                align = if points { align } else { Some(bytes) };
            }
            b"ptr" => points = true,
            b"attribute" => managed |= attributes_name_managed(tokens),
            b"v2" => lanes = 2,
            b"v4" => lanes = 4,
            b"v8" => lanes = 8,
            b"texref" | b"samplerref" | b"surfref" => (scalar, opaque) = (Some(8), true),
            word => scalar = size_of(word).or(scalar),
        }
    }
    let scalar = scalar.ok_or(BAD)?;
    Ok(Kind { scalar, lanes, align: align.unwrap_or(scalar * lanes), managed, opaque })
}

/// Reads a name and its dimensions.
pub(super) fn declared<'a>(tokens: &mut Lexer<'a>, kind: Kind) -> Result<Declared<'a>, Error> {
    let Some(Token::Name(name)) = tokens.next() else { return Err(BAD) };
    let mut dimensions = Vec::new();
    while tokens.peek() == Some(Token::Mark(b'[')) {
        tokens.next();
        dimensions.push(match tokens.peek() {
            Some(Token::Mark(b']')) => None,
            _ => Some(number(tokens).ok_or(BAD)?),
        });
        if tokens.next() != Some(Token::Mark(b']')) {
            return Err(BAD);
        }
    }
    Ok(Declared { kind, name, dimensions })
}

/// Reads a non-negative integer.
pub(super) fn number(tokens: &mut Lexer) -> Option<u64> {
    match tokens.next()? {
        Token::Number(digits) => integer(digits),
        _ => None,
    }
}

/// The value of an integer in C's notation, with PTX's binary form and `U` suffix.
pub(super) fn integer(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    let digits = digits.strip_suffix('U').unwrap_or(digits);
    let (digits, radix) = match digits.get(..2) {
        Some("0x" | "0X") => (&digits[2..], 16),
        Some("0b" | "0B") => (&digits[2..], 2),
        Some(octal) if octal.starts_with('0') => (&digits[1..], 8),
        _ => (digits, 10),
    };
    u64::from_str_radix(digits, radix).ok()
}

fn attributes_name_managed(tokens: &mut Lexer) -> bool {
    let mut depth = 0;
    let mut managed = false;
    for token in tokens {
        match token {
            Token::Mark(b'(') => depth += 1,
            Token::Mark(b')') => depth -= 1,
            Token::Dot(b"managed") => managed = true,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    managed
}

/// Bytes of a scalar type.
fn size_of(kind: &[u8]) -> Option<u64> {
    Some(match kind {
        b"b8" | b"u8" | b"s8" => 1,
        b"b16" | b"u16" | b"s16" | b"f16" | b"bf16" => 2,
        b"b32" | b"u32" | b"s32" | b"f32" | b"f16x2" | b"bf16x2" => 4,
        b"b64" | b"u64" | b"s64" | b"f64" | b"f32x2" => 8,
        b"b128" => 16,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Option<u64>, u64) {
        let mut tokens = Lexer::new(text.as_bytes());
        let kind = kind(&mut tokens).unwrap();
        let found = declared(&mut tokens, kind).unwrap();
        (String::from_utf8(found.name.to_vec()).unwrap(), found.size(), found.kind.align)
    }

    #[test]
    fn sizes_and_alignments_follow_type_vector_and_dimensions() {
        assert_eq!(read(".u64 a"), ("a".into(), Some(8), 8));
        assert_eq!(read(".align 8 .b8 a[24]"), ("a".into(), Some(24), 8));
        assert_eq!(read(".v4 .f32 a[3][0x10]"), ("a".into(), Some(768), 16));
        assert_eq!(read(".align 16 .b8 a[]"), ("a".into(), None, 16));
        assert_eq!(read(".u64 .ptr .global .align 64 a"), ("a".into(), Some(8), 8));
        assert_eq!(read(".attribute(.managed) .align 4 .u32 a"), ("a".into(), Some(4), 4));
        assert_eq!(read(".f64 a[0xFFFFFFFFFFFFFFFF]"), ("a".into(), None, 8));
    }

    #[test]
    fn integers_have_four_notations() {
        let value = |digits: &str| integer(digits.as_bytes());
        assert_eq!(
            [value("0"), value("10"), value("0x1fU"), value("0b101"), value("017")].map(Option::unwrap),
            [0, 10, 31, 5, 15]
        );
        assert_eq!([value("0x"), value("9z"), value("08"), value("99999999999999999999")], [None; 4]);
    }
}
