//! The page: a template with its style, its program, and the picture as JSON.
use super::picture::Picture;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const PROGRAM: &str = concat!(
    "\"use strict\";\n",
    include_str!("page/model.js"),
    include_str!("page/draw.js"),
    include_str!("page/panel.js"),
    include_str!("page/main.js"),
);

/// Writes the page of `picture`. Whatever a program has called its kernels, it stays text: `<` can't stand in the title or in
/// the data, the page's program makes text nodes only, and the page's policy runs nothing but that program, which it knows
/// by a number that nobody could have guessed. The same policy forbids the page to fetch anything.
pub fn write(picture: &Picture, out: &mut dyn Write) -> io::Result<()> {
    let nonce = nonce()?;
    for (i, part) in TEMPLATE.split("{{").enumerate() {
        let after = match part.split_once("}}") {
            Some((name, after)) if i > 0 => {
                match name {
                    "title" => out.write_all(escaped(&picture.title).as_bytes())?,
                    "nonce" => out.write_all(nonce.as_bytes())?,
                    "style" => out.write_all(STYLE.as_bytes())?,
                    "program" => out.write_all(PROGRAM.as_bytes())?,
                    "data" => serde_json::to_writer(Data(&mut *out), picture)?,
                    other => return Err(io::Error::other(format!("the page's template asks for {other}"))),
                }
                after
            }
            _ => part,
        };
        out.write_all(after.as_bytes())?;
    }
    Ok(())
}

/// 128 random bits, as hexadecimal digits.
fn nonce() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // a String takes everything
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Writes JSON in which no `<` stands, so that nothing in it can end the element around it. `<` occurs in JSON only within
/// strings, where `\u003c` means the same.
struct Data<'a>(&'a mut dyn Write);

impl Write for Data<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for (i, part) in bytes.split(|byte| *byte == b'<').enumerate() {
            if i > 0 {
                self.0.write_all(b"\\u003c")?;
            }
            self.0.write_all(part)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
