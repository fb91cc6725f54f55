//! What the objects of both JSON forms consist of: a line of JSON lines has these fields, and so have the `args` of a Chrome
//! event.
use super::{Call, Place, Record};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt::{self, Write};

/// What a trace is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Facts {
    /// The version that wrote it.
    pub zerogpu: String,
    pub pid: u32,
    /// The command line.
    pub program: String,
    /// The value of `ZEROGPU_TRACE`.
    pub settings: String,
    /// The start in UTC, as people write it.
    pub started: String,
}

/// A call's arguments: names, and values as they are shown, each list separated by `, `.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    pub names: String,
    pub values: String,
}

impl Arguments {
    pub fn push(&mut self, name: &str, value: impl fmt::Display) {
        if !self.names.is_empty() {
            self.names.push_str(", ");
            self.values.push_str(", ");
        }
        self.names.push_str(name);
        // a String takes everything
        let _ = write!(self.values, "{value}");
    }
}

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Arguments;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of arguments")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Arguments, A::Error> {
                let mut all = Arguments::default();
                while let Some(name) = map.next_key::<Cow<str>>()? {
                    map.next_value_seed(Shown { name: &name, all: &mut all })?;
                }
                Ok(all)
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Adds an argument to the lists: addresses are strings, the rest are numbers (null: not a number).
struct Shown<'b> {
    name: &'b str,
    all: &'b mut Arguments,
}

impl<'de> DeserializeSeed<'de> for Shown<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shown<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number or a string")
    }
    fn visit_u64<E>(self, v: u64) -> Result<(), E> {
        self.all.push(self.name, v);
        Ok(())
    }
    fn visit_i64<E>(self, v: i64) -> Result<(), E> {
        self.all.push(self.name, v);
        Ok(())
    }
    fn visit_f64<E>(self, v: f64) -> Result<(), E> {
        self.all.push(self.name, v);
        Ok(())
    }
    fn visit_str<E>(self, v: &str) -> Result<(), E> {
        self.all.push(self.name, v);
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        self.all.push(self.name, "NaN");
        Ok(())
    }
}

/// All fields that a record of any kind can have.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Fields<'a> {
    #[serde(borrow)]
    pub r#type: Cow<'a, str>,
    pub thread: u32,
    pub depth: u8,
    pub at_ns: u64,
    pub dur_ns: u64,
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    args: Arguments,
    result: u32,
    #[serde(borrow)]
    status: Cow<'a, str>,
    pub bytes: u64,
    #[serde(borrow)]
    call: Cow<'a, str>,
    #[serde(borrow)]
    kernel: Cow<'a, str>,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u64,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    text: Cow<'a, str>,
    pub value: u64,
    pub lost: u64,
}

impl<'a> Fields<'a> {
    pub fn call(self, place: Place, duration: u64, name: Cow<'a, str>) -> Record<'a> {
        let Fields { args: arguments, result, status, bytes, .. } = self;
        Record::Call(Call { place, duration, name, arguments, result, status, bytes })
    }

    pub fn launch(self, place: Place) -> Record<'a> {
        let Fields { call, kernel, grid, block, shared_bytes, stream, .. } = self;
        Record::Launch { place, call, kernel, grid, block, shared_bytes, stream }
    }

    pub fn message(self, place: Place, kind: Cow<'a, str>) -> Record<'a> {
        Record::Message { place, kind, text: self.text }
    }
}
