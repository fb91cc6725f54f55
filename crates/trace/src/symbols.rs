//! Names and parameters of the exported functions, and how their arguments are shown.
//!
//! Functions are numbered as the exports are: each symbol of `driver.abi`, followed by its twin.
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::OnceLock;
use zerogpu_abi::{codegen, list};

/// One exported function.
pub struct Function {
    /// The exported name.
    pub name: String,
    /// Parameters: name and shape.
    pub params: Vec<(&'static str, Shape)>,
}

/// How an argument is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Unsigned(u32),
    Signed,
    Float,
    /// Pointers, handles, addresses, and structs by value (their first 8 bytes).
    Hex,
}

/// All functions, in the order of their numbers.
pub fn functions() -> &'static [Function] {
    static FUNCTIONS: OnceLock<Vec<Function>> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        let all = list::symbols().iter().flat_map(|s| {
            codegen::names(s)
                .into_iter()
                .map(|name| Function { name, params: s.params.iter().map(|(n, t)| (*n, shape(t))).collect() })
        });
        all.collect()
    })
}

/// The number of an exported function, None if there is none of that name.
pub fn id(name: &str) -> Option<u32> {
    functions().iter().position(|f| f.name == name).map(|at| at as u32)
}

/// A number that differs when names, parameters or their order do (FNV-1a).
pub fn digest() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for f in functions() {
        for byte in format!("{} {:?}\n", f.name, f.params).bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    hash
}

fn shape(rust_type: &str) -> Shape {
    match rust_type {
        "u8" => Shape::Unsigned(8),
        "u16" => Shape::Unsigned(16),
        "u32" | "CUresult" => Shape::Unsigned(32),
        "u64" | "usize" => Shape::Unsigned(64),
        "i32" | "CUdevice" => Shape::Signed,
        "f32" => Shape::Float,
        _ => Shape::Hex,
    }
}

/// One argument, ready to show.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    Unsigned(u64),
    Signed(i32),
    Float(f32),
    Hex(u64),
}

impl Shape {
    /// The value in the low bytes of `word`; what stands above them is ignored.
    fn value(self, word: u64) -> Value {
        match self {
            Shape::Unsigned(bits) => Value::Unsigned(word & (u64::MAX >> (64 - bits))),
            Shape::Signed => Value::Signed(word as u32 as i32),
            Shape::Float => Value::Float(f32::from_bits(word as u32)),
            Shape::Hex => Value::Hex(word),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Value::Unsigned(v) => v.fmt(f),
            Value::Signed(v) => v.fmt(f),
            Value::Float(v) => v.fmt(f),
            Value::Hex(v) => write!(f, "{v:#x}"),
        }
    }
}

impl Serialize for Value {
    /// Addresses become strings: a JSON number keeps 53 bits in most readers.
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Unsigned(v) => s.serialize_u64(*v),
            Value::Signed(v) => s.serialize_i32(*v),
            Value::Float(v) => s.serialize_f32(*v),
            Value::Hex(_) => s.collect_str(self),
        }
    }
}

/// The call of function `id` with `args`.
pub struct Args<'a> {
    id: u32,
    args: &'a [u64],
}

impl<'a> Args<'a> {
    pub fn new(id: u32, args: &'a [u64]) -> Self {
        Args { id, args }
    }

    /// The function's name.
    pub fn function(&self) -> &'static str {
        name_of(self.id)
    }

    /// Name and value of each argument.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Value)> + 'a {
        let params = functions().get(self.id as usize).map_or(&[][..], |f| &f.params);
        params.iter().zip(self.args).map(|((name, shape), word)| (*name, shape.value(*word)))
    }

    /// The bytes that the arguments say are moved, set or allocated; 0 where they don't say.
    pub fn bytes(&self) -> u64 {
        let name = self.function();
        let count = |wanted: &str| {
            self.iter().find(|(n, _)| *n == wanted).and_then(|(_, v)| match v {
                Value::Unsigned(v) => Some(v),
                _ => None,
            })
        };
        if let Some(bytes) = count("ByteCount").or_else(|| count("bytesize")) {
            return bytes;
        }
        if name == "cuMemCreate" {
            return count("size").unwrap_or(0);
        }
        if !name.starts_with("cuMemset") {
            return 0;
        }
        let element = ["D8", "D16", "D32"].iter().position(|d| name[8..].contains(d)).map_or(0, |at| 1u64 << at);
        let elements = count("N").or_else(|| Some(count("Width")?.saturating_mul(count("Height")?))).unwrap_or(0);
        elements.saturating_mul(element)
    }
}

impl Serialize for Args<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

/// The name of function `id`.
pub fn name_of(id: u32) -> &'static str {
    functions().get(id as usize).map_or("unknown function", |f| &f.name)
}

/// The driver's name of a result code.
pub fn result_name(result: u32) -> &'static str {
    let known = zerogpu_abi::describe(zerogpu_abi::CUresult(result));
    known.and_then(|(name, _)| name.to_str().ok()).unwrap_or("unknown result")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args<'a>(name: &str, args: &'a [u64]) -> Args<'a> {
        Args::new(id(name).unwrap(), args)
    }

    fn shown(a: Args) -> String {
        a.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn numbers_follow_the_generated_exports() {
        let code = codegen::exports(&[], "call", "default");
        let order: Vec<&str> = code.lines().filter_map(|l| l.trim().strip_prefix("default!(")).collect();
        assert_eq!(order.len(), functions().len());
        for (at, line) in order.iter().enumerate() {
            assert!(line.starts_with(&format!("{at}, {})", functions()[at].name)), "{line}");
        }
    }

    #[test]
    fn arguments_are_shown_by_their_type() {
        let copy = args("cuMemcpyHtoDAsync_v2", &[0x7000_0000_0000, 0x10, 4 << 20, 0]);
        assert_eq!(shown(copy), "dstDevice=0x700000000000, srcHost=0x10, ByteCount=4194304, hStream=0x0");
        assert_eq!(shown(args("cuDeviceGet", &[1, u64::MAX])), "device=0x1, ordinal=-1");
        // only the parameter's own bytes count
        assert_eq!(shown(args("cuMemsetD8_v2", &[1, 0xff05, 3])), "dstDevice=0x1, uc=5, N=3");
        let float = f32::to_bits(1.5).into();
        assert_eq!(shown(args("cuTexRefSetMipmapLevelBias", &[2, float])), "hTexRef=0x2, bias=1.5");
    }

    #[test]
    fn bytes_come_from_the_arguments() {
        for (name, words, bytes) in [
            ("cuMemcpyDtoH_v2", &[1, 2, 77][..], 77),
            ("cuMemcpyDtoH", &[1, 2, 77], 77),
            ("cuMemAlloc_v2", &[1, 5], 5),
            ("cuMemCreate", &[1, 2 << 20, 3, 0], 2 << 20),
            ("cuMemHostRegister_v2", &[1, 4096, 0], 4096),
            ("cuMemsetD8_v2", &[1, 2, 3], 3),
            ("cuMemsetD32Async", &[1, 2, 3, 4], 12),
            ("cuMemsetD2D16_v2", &[1, 2, 3, 4, 5], 40),
            ("cuCtxGetCurrent", &[1], 0),
        ] {
            assert_eq!(args(name, words).bytes(), bytes, "{name}");
        }
    }

    #[test]
    fn unknown_numbers_have_names_too() {
        assert_eq!(name_of(u32::MAX), "unknown function");
        assert_eq!(result_name(700), "CUDA_ERROR_ILLEGAL_ADDRESS");
        assert_eq!(result_name(12345), "unknown result");
    }
}
