//! The value of `ZEROGPU_TRACE`, see `docs/trace.md` for the grammar.
use crate::{symbols, Error};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use wildmatch::WildMatch;

/// How the output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One line per record, for people.
    Text,
    /// One JSON object per line.
    Json,
    /// Chrome trace events, which Perfetto opens.
    Chrome,
}

/// What stands for the process's number in `file=`.
pub const PID: &str = "%p";

impl Format {
    /// `file=` where the settings don't say.
    fn default_file(self) -> &'static str {
        match self {
            Format::Text => "-",
            Format::Json => "zerogpu-%p.trace.jsonl",
            Format::Chrome => "zerogpu-%p.trace.json",
        }
    }
}

/// What to record, and where to write it.
#[derive(Debug, PartialEq)]
pub struct Settings {
    pub format: Format,
    /// None: standard error.
    pub output: Option<PathBuf>,
    /// Folder of the ring; None: beside the output.
    pub ring_folder: Option<PathBuf>,
    /// Slots of the ring.
    pub slots: u64,
    only: Vec<WildMatch>,
    not: Vec<WildMatch>,
    /// Shorter calls are left out.
    pub min: Duration,
    /// Calls that succeed are left out.
    pub errors: bool,
}

/// Size of the ring where the settings don't say: 32768 slots.
const DEFAULT_BUFFER: u64 = 4 << 20;
/// The smallest ring: room for two of the longest records.
const MIN_BUFFER: u64 = 2 * crate::ring::MAX_SLOTS as u64 * SLOT_BYTES;
const MAX_BUFFER: u64 = 1 << 30;
/// Slots of the largest ring.
pub const MOST_SLOTS: u64 = MAX_BUFFER / SLOT_BYTES;
const SLOT_BYTES: u64 = size_of::<crate::ring::Slot>() as u64;

impl Settings {
    /// Reads the value of the variable for process `pid`. None: tracing is off.
    pub fn parse(text: &str, pid: u32) -> Result<Option<Self>, Error> {
        Self::parse_as(text, &pid.to_string())
    }

    /// `pid` is what `%p` stands for.
    fn parse_as(text: &str, pid: &str) -> Result<Option<Self>, Error> {
        if matches!(text.trim(), "" | "0" | "off") {
            return Ok(None);
        }
        let mut s = Settings {
            format: Format::Text,
            output: None,
            ring_folder: None,
            slots: DEFAULT_BUFFER / SLOT_BYTES,
            only: vec![],
            not: vec![],
            min: Duration::ZERO,
            errors: false,
        };
        let mut file = None;
        for item in text.split(',').map(str::trim) {
            match item.split_once('=') {
                None => match item {
                    "text" | "1" | "on" => s.format = Format::Text,
                    "json" => s.format = Format::Json,
                    "chrome" => s.format = Format::Chrome,
                    "errors" => s.errors = true,
                    _ => return Err(wrong(item, "expected text, json, chrome, errors or KEY=VALUE")),
                },
                Some(("file", path)) if !path.is_empty() => file = Some(path.to_string()),
                Some(("ring", folder)) if !folder.is_empty() => s.ring_folder = Some(folder.into()),
                Some(("only", globs)) => s.only.extend(matchers(globs)?),
                Some(("not", globs)) => s.not.extend(matchers(globs)?),
                Some(("min", time)) => s.min = zerogpu_settings::duration(time).map_err(|e| wrong(item, &e))?,
                Some(("buffer", size)) => {
                    let bytes = zerogpu_settings::size(size).map_err(|e| wrong(item, &e))?;
                    s.slots = bytes.clamp(MIN_BUFFER, MAX_BUFFER).next_power_of_two() / SLOT_BYTES;
                }
                Some(_) => return Err(wrong(item, "expected file=, only=, not=, min=, ring= or buffer= with a value")),
            }
        }
        let file = file.as_deref().unwrap_or(s.format.default_file());
        s.output = (file != "-").then(|| PathBuf::from(file.replace(PID, pid)));
        Ok(Some(s))
    }

    /// Whether calls of function `name` are recorded.
    pub fn wants(&self, name: &str) -> bool {
        (self.only.is_empty() || self.only.iter().any(|g| g.matches(name))) && !self.not.iter().any(|g| g.matches(name))
    }

    /// Where the ring of an output lies.
    pub fn ring_path(&self, output: Option<&Path>, pid: u32) -> PathBuf {
        match (output, &self.ring_folder) {
            (Some(output), None) => ring_of(output),
            (Some(output), Some(folder)) => folder.join(ring_of(Path::new(output.file_name().unwrap_or_default()))),
            (None, folder) => {
                folder.clone().unwrap_or_else(std::env::temp_dir).join(format!("zerogpu-{pid}.trace.{RING}"))
            }
        }
    }
}

/// The folder in which the rings of a trace with these settings lie (see [`crate::recover_folder`]), relative to the folder
/// that the process starts in. `%p` in it stands for the process's number. None: nothing is traced.
///
/// # Errors
/// The settings can't be understood.
pub fn ring_folder(settings: &str) -> Result<Option<PathBuf>, Error> {
    let Some(s) = Settings::parse_as(settings, PID)? else { return Ok(None) };
    let ring = s.ring_path(s.output.as_deref(), 0);
    Ok(Some(Path::new(".").join(ring.parent().unwrap_or(Path::new("")))))
}

/// The settings with paths that start at `folder`, wherever the process is when it starts its trace. None: there is
/// nothing to change, or the settings can't say it (a comma or `%p` in the folder's name).
///
/// # Errors
/// The settings can't be understood.
pub fn anchored(settings: &str, folder: &Path) -> Result<Option<String>, Error> {
    let Some(s) = Settings::parse_as(settings, PID)? else { return Ok(None) };
    let Some(_) = folder.to_str().filter(|name| !name.contains(',') && !name.contains(PID)) else { return Ok(None) };
    let mut items: Vec<String> = settings.split(',').map(|item| item.trim().to_owned()).collect();
    // of several items of one name the last one counts
    let paths = [("file", &s.output), ("ring", &s.ring_folder)];
    let relative = paths.into_iter().filter_map(|(key, path)| Some((key, path.as_ref().filter(|p| p.is_relative())?)));
    let more: Vec<String> = relative.map(|(key, path)| format!("{key}={}", folder.join(path).display())).collect();
    items.extend(more.iter().cloned());
    Ok((!more.is_empty()).then(|| items.join(",")))
}

/// Extension of a ring's file.
pub const RING: &str = "ring";

/// `<output>.ring`
pub fn ring_of(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".");
    name.push(RING);
    name.into()
}

fn matchers(globs: &str) -> Result<Vec<WildMatch>, Error> {
    let matcher = |glob: &str| {
        let m = WildMatch::new(glob);
        match symbols::functions().iter().any(|f| m.matches(&f.name)) {
            true => Ok(m),
            false => Err(wrong(glob, "no driver function has such a name (* and ? are wildcards, | separates)")),
        }
    };
    globs.split('|').map(matcher).collect()
}

fn wrong(item: &str, why: &str) -> Error {
    Error::Settings { item: item.to_string(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Settings {
        Settings::parse(text, 7).unwrap().unwrap()
    }

    fn complaint(text: &str) -> String {
        Settings::parse(text, 7).unwrap_err().to_string()
    }

    #[test]
    fn off_in_three_spellings() {
        for text in ["", " ", "0", "off"] {
            assert_eq!(Settings::parse(text, 7).unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn formats_and_their_default_outputs() {
        let outputs = ["1", "text", "json", "chrome", "json,file=-"].map(|t| parse(t).output);
        let expected = [None, None, Some("zerogpu-7.trace.jsonl"), Some("zerogpu-7.trace.json"), None];
        assert_eq!(outputs, expected.map(|o| o.map(PathBuf::from)));
        assert_eq!(parse("file=a-%p,chrome"), parse("chrome,file=a-7"));
    }

    #[test]
    fn names_are_chosen_by_globs() {
        let s = parse("text,only=cuMem*|cuLaunchKernel,not=cuMemGet*,only=cuInit");
        let wanted = ["cuMemAlloc_v2", "cuLaunchKernel", "cuInit", "cuMemGetInfo_v2", "cuLaunchKernelEx"];
        assert_eq!(wanted.map(|name| s.wants(name)), [true, true, true, false, false]);
        assert!(parse("text").wants("cuCtxGetCurrent"));
    }

    #[test]
    fn the_ring_lies_beside_the_output_or_where_one_says() {
        let at = |text: &str, output: Option<&str>| parse(text).ring_path(output.map(Path::new), 7);
        assert_eq!(at("json", Some("/a/b.jsonl")), Path::new("/a/b.jsonl.ring"));
        assert_eq!(at("json,ring=/r", Some("/a/b.jsonl")), Path::new("/r/b.jsonl.ring"));
        assert_eq!(at("text,ring=/r", None), Path::new("/r/zerogpu-7.trace.ring"));
        assert_eq!(at("text", None), std::env::temp_dir().join("zerogpu-7.trace.ring"));
    }

    #[test]
    fn the_folder_of_the_rings() {
        for (text, folder) in [
            ("off", None),
            ("json", Some(".")),
            ("chrome,file=a/b.json", Some("./a")),
            ("json, file=/a/b.jsonl", Some("/a")),
            ("json,file=/a/b.jsonl,ring=/r", Some("/r")),
            ("text,ring=r", Some("./r")),
            ("json,file=/a/%p/t", Some("/a/%p")),
        ] {
            assert_eq!(ring_folder(text).unwrap(), folder.map(PathBuf::from), "{text}");
        }
        assert_eq!(ring_folder("text").unwrap(), Some(std::env::temp_dir()));
        assert!(ring_folder("jsno").is_err());
    }

    #[test]
    fn paths_are_made_to_start_at_a_folder() {
        let at = |text: &str, folder: &str| anchored(text, Path::new(folder)).unwrap();
        for (text, expected) in [
            ("json", Some("json,file=/w/zerogpu-%p.trace.jsonl")),
            ("chrome, file=a.json,errors", Some("chrome,file=a.json,errors,file=/w/a.json")),
            ("text,ring=r", Some("text,ring=r,ring=/w/r")),
            ("json,file=a-%p,ring=r", Some("json,file=a-%p,ring=r,file=/w/a-%p,ring=/w/r")),
            ("json,file=/a", None),
            ("json,text", None),
            ("off", None),
        ] {
            assert_eq!(at(text, "/w").as_deref(), expected, "{text}");
            let anchored = expected.unwrap_or(text);
            assert_eq!(at(anchored, "/elsewhere"), None, "{anchored}");
        }
        assert_eq!((at("json", "/a,b"), at("json", "/a%p")), (None, None));
        assert!(anchored("jsno", Path::new("/w")).is_err());
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(parse("text").slots, 32768);
        assert_eq!(parse("text,buffer=1").slots, 128);
        assert_eq!(parse("text,buffer=100KiB").slots, 1024);
        let s = parse("text,min=10us,errors");
        assert_eq!((s.min, s.errors), (Duration::from_micros(10), true));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(complaint("jsno").contains("'jsno': expected text, json, chrome"));
        assert!(complaint("json,colour=red").contains("'colour=red': expected file="));
        assert!(complaint("json,min=soon").contains("'min=soon': "));
        assert!(complaint("json,only=cuMem|cudaMalloc").contains("'cuMem': no driver function"));
        assert!(complaint("json,file=").contains("with a value"));
    }
}
