//! What a shared object says of itself.

use anyhow::{Context, Result};
use object::elf::{FileHeader64, Sym64, DT_NEEDED, DT_SONAME, SHT_DYNSYM};
use object::read::elf::{Dyn, FileHeader, Sym};
use object::Endianness;
use std::path::Path;

/// The dynamic section, as far as the doctor looks at it.
#[derive(Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// The name under which the loader knows the object.
    pub soname: Option<String>,
    /// The objects that it needs.
    pub needed: Vec<String>,
}

/// Reads a shared object of this machine's kind.
pub fn dynamic(path: &Path) -> Result<Dynamic> {
    let data = std::fs::read(path)?;
    let header = FileHeader64::<Endianness>::parse(&*data).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let sections = header.sections(endian, &*data)?;
    let (entries, strings) = sections.dynamic(endian, &*data)?.context("not a shared object")?;
    let strings = sections.strings(endian, &*data, strings)?;
    let texts = |tag| {
        let entries = entries.iter().filter(move |entry| entry.tag(endian) == tag);
        entries.map(move |entry| anyhow::Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned()))
    };
    Ok(Dynamic { soname: texts(DT_SONAME).next().transpose()?, needed: texts(DT_NEEDED).collect::<Result<_>>()? })
}

/// Whether a shared object exports the function `symbol`.
pub fn exports(path: &Path, symbol: &str) -> Result<bool> {
    let data = std::fs::read(path)?;
    let header = FileHeader64::<Endianness>::parse(&*data).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let symbols = header.sections(endian, &*data)?.symbols(endian, &*data, SHT_DYNSYM)?;
    let strings = symbols.strings();
    let is_it = |found: &&Sym64<Endianness>| {
        !found.is_undefined(endian) && found.name(endian, strings) == Ok(symbol.as_bytes())
    };
    let found = symbols.iter().find(is_it);
    Ok(found.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_loaded_here() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc =
            maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.ends_with("/libc.so.6"));
        let libc = Path::new(libc.unwrap());
        assert_eq!(dynamic(libc).unwrap().soname.as_deref(), Some("libc.so.6"));
        assert!(exports(libc, "fork").unwrap());
        assert!(!exports(libc, "zerogpu_region_begin").unwrap());
        let own = dynamic(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(own.soname, None);
        assert!(own.needed.iter().any(|name| name == "libc.so.6"));
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for content in [&b""[..], b"hello", b"\x7fELF\x02\x01\x01", &[0x7f; 4096]] {
            std::fs::write(file.path(), content).unwrap();
            assert!(dynamic(file.path()).is_err());
            assert!(exports(file.path(), "x").is_err());
        }
    }
}
