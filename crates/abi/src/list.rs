//! Reads `driver.abi`, the list in which each driver symbol is declared once.
use std::sync::OnceLock;

/// One declared symbol.
#[derive(Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The exported name, for example `cuMemcpyHtoDAsync_v2`.
    pub name: &'static str,
    /// The name without its `_vN`: what is asked of `cuGetProcAddress`.
    pub base: &'static str,
    /// The CUDA version (1000 * major + 10 * minor) from which `base` is answered with this symbol; None: never.
    pub since: Option<u32>,
    /// The twin for the per-thread default stream.
    pub twin: Option<Twin>,
    /// Parameters: name and type, as Rust text.
    pub params: Vec<(&'static str, &'static str)>,
}

/// `symbol_ptsz` or `symbol_ptds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Twin {
    /// `ptsz` (the stream is a parameter) or `ptds` (the stream is implied).
    pub suffix: &'static str,
    /// The version from which it is answered.
    pub since: u32,
}

/// All symbols, in the order of the file (sorted by name).
pub fn symbols() -> &'static [Symbol] {
    static SYMBOLS: OnceLock<Vec<Symbol>> = OnceLock::new();
    SYMBOLS.get_or_init(|| include_str!("../driver.abi").lines().filter(|l| !l.starts_with('#')).map(parse).collect())
}

fn parse(line: &'static str) -> Symbol {
    let (head, params) = line.split_once(" (").unwrap_or_else(|| panic!("driver.abi: no parameter list in: {line}"));
    let mut words =
        head.split(' ').map(|w| w.split_once('@').unwrap_or_else(|| panic!("driver.abi: no '@' in: {line}")));
    let (name, since) = words.next().expect("split gives at least one word");
    let twin = words.next().map(|(suffix, since)| Twin { suffix, since: number(since, line) });
    let params = params.strip_suffix(')').unwrap_or_else(|| panic!("driver.abi: no ')' in: {line}"));
    Symbol {
        name,
        base: base(name),
        since: (since != "-").then(|| number(since, line)),
        twin,
        params: params.split(", ").filter(|p| !p.is_empty()).map(|p| p.split_once(": ").expect("name: type")).collect(),
    }
}

fn number(text: &str, line: &str) -> u32 {
    text.parse().unwrap_or_else(|_| panic!("driver.abi: not a version: {line}"))
}

fn base(name: &str) -> &str {
    match name.rsplit_once("_v") {
        Some((base, version)) if version.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => name,
    }
}

/// One answer of `cuGetProcAddress`: from version `since` on, `base` (with or without the per-thread flag) is the
/// symbol at `index` of [`symbols`], or its twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// The name asked for.
    pub base: &'static str,
    /// Whether the per-thread default stream was asked for.
    pub per_thread: bool,
    /// The first version that gets this answer.
    pub since: u32,
    /// Index of the symbol.
    pub index: usize,
    /// Whether the answer is the symbol's twin.
    pub twin: bool,
}

/// The whole table of `cuGetProcAddress`, sorted. A name that has a twin gives, with the per-thread flag, only twins.
pub fn answers() -> &'static [Answer] {
    static ANSWERS: OnceLock<Vec<Answer>> = OnceLock::new();
    ANSWERS.get_or_init(|| {
        let mut rows = Vec::new();
        for (index, s) in symbols().iter().enumerate() {
            let twinned = symbols().iter().any(|t| t.base == s.base && t.twin.is_some());
            if let Some(since) = s.since {
                rows.push(Answer { base: s.base, per_thread: false, since, index, twin: false });
                if !twinned {
                    rows.push(Answer { base: s.base, per_thread: true, since, index, twin: false });
                }
            }
            if let Some(t) = s.twin {
                rows.push(Answer { base: s.base, per_thread: true, since: t.since, index, twin: true });
            }
        }
        rows.sort();
        rows
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The versions that the record was taken at.
    const PROBED: [u32; 29] = [
        2000, 3020, 4000, 5050, 6050, 7000, 8000, 9000, 9020, 10000, 10010, 10020, 11000, 11010, 11020, 11030, 11040,
        11060, 11070, 11080, 12000, 12010, 12020, 12030, 12040, 12050, 12060, 12080, 13000,
    ];

    /// Each row that driver 580 answered, line by line, and nothing that it did not.
    #[test]
    fn answers_agree_with_the_recorded_driver() {
        let recorded = include_str!("../../../tests/data/procaddress-580.tsv");
        let mut seen = 0;
        for line in recorded.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let f: Vec<&str> = line.split('\t').collect();
            let (name, per_thread, since) = (f[0], f[1] == "1", f[2].parse::<u32>().unwrap());
            let a = answers().iter().rfind(|a| a.base == name && a.per_thread == per_thread && a.since <= since);
            let a = a.unwrap_or_else(|| panic!("no answer for {line}"));
            // between two probed versions NVIDIA's headers know the exact one
            let before = PROBED.iter().copied().filter(|&v| v < since).max().unwrap_or(0);
            assert!(before < a.since && a.since <= since, "{line}: {}", a.since);
            let s = &symbols()[a.index];
            let full = if a.twin { format!("{}_{}", s.name, s.twin.unwrap().suffix) } else { s.name.to_string() };
            assert_eq!(full, f[3], "{line}");
            seen += 1;
        }
        let listed: std::collections::HashSet<&str> = recorded.lines().filter_map(|l| l.split('\t').next()).collect();
        let probed = answers().iter().filter(|a| listed.contains(a.base));
        // a row that a newer symbol replaced before the next probe left no trace in the record
        let visible = probed.filter(|a| {
            let next = PROBED.iter().copied().find(|&v| v >= a.since).unwrap_or(u32::MAX);
            !answers()
                .iter()
                .any(|b| (b.base, b.per_thread) == (a.base, a.per_thread) && a.since < b.since && b.since <= next)
        });
        assert_eq!(visible.count(), seen, "rows the driver does not have");
    }

    #[test]
    fn the_list_is_sorted_and_without_repeats() {
        assert!(symbols().windows(2).all(|w| w[0].name < w[1].name));
    }
}
