//! Lists every kernel of a shared library (or of a fat binary or cubin) as a driver of one architecture sees it.
//!
//!     kernels FILE.so 80
//!
//! Tab-separated: name, registers, static shared memory, local memory, constant memory, most threads of a block by the
//! launch bounds, PTX version, binary version, bytes of parameters, offset:size of each parameter, and the index of the fat
//! binary in the file.
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection};
use std::error::Error;
use std::io::Write;
use zerogpu_image::{Image, Input, Source};

/// Sections in which a program carries fat binaries.
const SECTIONS: [&str; 2] = [".nv_fatbin", "__nv_relfatbin"];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, arch] = &arguments[..] else { return Err("usage: kernels FILE ARCH".into()) };
    let arch: u32 = arch.trim_start_matches("sm_").parse()?;
    let cc = (arch / 10, arch % 10);
    let bytes = std::fs::read(file)?;
    let sources = match carried(&bytes)? {
        none if none.is_empty() => vec![Source::from_bytes(bytes)?],
        fatbins => fatbins.into_iter().map(Source::from_bytes).collect::<Result<_, _>>()?,
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (index, source) in sources.into_iter().enumerate() {
        if source.fits(cc) {
            list(&source.image_for(cc)?, index, &mut out)?;
        }
    }
    Ok(out.flush()?)
}

/// The fat binaries that a program carries; none if `file` is no program.
fn carried(file: &[u8]) -> Result<Vec<&[u8]>, Box<dyn Error>> {
    let mut found = Vec::new();
    let Ok(program) = ElfFile64::<LittleEndian>::parse(file) else { return Ok(found) };
    for section in SECTIONS.iter().filter_map(|name| program.section_by_name(name)) {
        let mut rest = section.data()?;
        while rest.len() >= 16 {
            match Input::of(rest) {
                Ok(Input::Fatbin(fatbin)) => {
                    found.push(fatbin);
                    rest = &rest[fatbin.len()..];
                }
                // Zeros between two of them.
                _ => rest = &rest[8..],
            }
        }
    }
    Ok(found)
}

fn list(image: &Image, index: usize, out: &mut impl Write) -> std::io::Result<()> {
    for k in image.kernels() {
        write!(out, "{}\t{}\t{}\t{}\t{}\t", k.name, k.registers, k.shared_static, k.local, k.const_size)?;
        write!(out, "{}\t{}\t{}\t{}\t", k.max_threads, k.ptx_version, k.binary_version, k.param_bytes)?;
        let layout: Vec<String> = k.params.iter().map(|param| format!("{}:{}", param.offset, param.size)).collect();
        writeln!(out, "{}\t{index}", layout.join(","))?;
    }
    Ok(())
}
