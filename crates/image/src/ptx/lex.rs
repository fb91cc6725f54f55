//! The tokens of PTX.

/// One token. Words keep their bytes: identifiers need not be ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    /// A word after a dot: a directive, a type, a modifier.
    Dot(&'a [u8]),
    /// An identifier, a register, a mnemonic.
    Name(&'a [u8]),
    /// A number, as written.
    Number(&'a [u8]),
    /// A string.
    Text,
    /// Any other character.
    Mark(u8),
}

/// Splits PTX into tokens; comments and white space are left out.
#[derive(Clone, Copy)]
pub(super) struct Lexer<'a> {
    rest: &'a [u8],
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a [u8]) -> Lexer<'a> {
        Lexer { rest: text }
    }

    /// The token that [`Iterator::next`] gives next.
    pub fn peek(&self) -> Option<Token<'a>> {
        let mut ahead = *self;
        ahead.next()
    }

    fn skip_blanks(&mut self) {
        loop {
            let blanks = self.rest.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b).count();
            self.rest = &self.rest[blanks..];
            let comment = match self.rest {
                [b'/', b'/', ..] => self.rest.iter().position(|&byte| byte == b'\n'),
                [b'/', b'*', inner @ ..] => inner.windows(2).position(|two| two == b"*/").map(|at| at + 4),
                _ => return,
            };
            self.rest = &self.rest[comment.unwrap_or(self.rest.len())..];
        }
    }

    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let size = self.rest.iter().take_while(|byte| belongs(**byte)).count();
        let (word, rest) = self.rest.split_at(size);
        self.rest = rest;
        word
    }

    fn number(&mut self) -> &'a [u8] {
        let hexadecimal = matches!(self.rest, [b'0', b'x' | b'X' | b'f' | b'F' | b'd' | b'D', ..]);
        let mut size = 0;
        let mut previous = 0;
        for &byte in self.rest {
            let sign_of_exponent = !hexadecimal && matches!(previous, b'e' | b'E') && matches!(byte, b'+' | b'-');
            if !byte.is_ascii_alphanumeric() && byte != b'.' && !sign_of_exponent {
                break;
            }
            (size, previous) = (size + 1, byte);
        }
        let (word, rest) = self.rest.split_at(size);
        self.rest = rest;
        word
    }

    fn skip_string(&mut self) {
        let mut escaped = false;
        let end = self.rest.iter().position(|&byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        self.rest = &self.rest[end.map_or(self.rest.len(), |at| at + 1)..];
    }
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        let (&first, after) = self.rest.split_first()?;
        if first.is_ascii_digit() {
            return Some(Token::Number(self.number()));
        }
        if in_word(first) {
            return Some(Token::Name(self.take_while(in_word)));
        }
        self.rest = after;
        Some(match first {
            b'.' => Token::Dot(self.take_while(in_word)),
            b'%' => Token::Name(self.take_while(in_word)),
            b'"' => {
                self.skip_string();
                Token::Text
            }
            mark => Token::Mark(mark),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Lexer, Token::*};

    #[test]
    fn comments_strings_and_numbers_are_told_apart() {
        let text =
            b"// .entry a\n/* .entry b */.version 8.1 .file 1 \"a\\\".entry c\" x$y 0f3F800000 1.5e-3 -2 0x1F+4;";
        let tokens: Vec<_> = Lexer::new(text).collect();
        assert_eq!(
            tokens,
            [
                Dot(b"version"),
                Number(b"8.1"),
                Dot(b"file"),
                Number(b"1"),
                Text,
                Name(b"x$y"),
                Number(b"0f3F800000"),
                Number(b"1.5e-3"),
                Mark(b'-'),
                Number(b"2"),
                Number(b"0x1F"),
                Mark(b'+'),
                Number(b"4"),
                Mark(b';'),
            ]
        );
    }

    #[test]
    fn what_does_not_end_ends_with_the_text() {
        assert_eq!(Lexer::new(b"a /* b").collect::<Vec<_>>(), [Name(b"a")]);
        assert_eq!(Lexer::new(b"a \"b").collect::<Vec<_>>(), [Name(b"a"), Text]);
        assert_eq!(Lexer::new(b"a // b").collect::<Vec<_>>(), [Name(b"a")]);
    }
}
