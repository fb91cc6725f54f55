//! `docs/protocol.md` says what the code does.
mod common;

use std::collections::BTreeMap;

use zerogpu_protocol::*;

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");
const SOURCE: &str = include_str!("../src/message.rs");

/// Title of a message, and its fields with their types.
type Shape = (String, Vec<(String, String)>);

/// How the document calls a type.
fn documented(kind: &str) -> String {
    match kind {
        "String" => "text".into(),
        "Vec<Range>" => "ranges".into(),
        "Uuid" | "Range" | "Role" | "Reason" => kind.to_lowercase(),
        _ => match kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>')) {
            Some(inner) => format!("optional {}", documented(inner)),
            None => kind.into(),
        },
    }
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, kind) = line.trim().strip_suffix(',')?.split_once(": ")?;
    Some((name.trim_start_matches("pub ").into(), documented(kind)))
}

/// The lines of a declaration in the source, without comments.
fn body(declaration: &str) -> impl Iterator<Item = &'static str> {
    let (_, rest) = SOURCE.split_once(&format!("pub {declaration} {{\n")).unwrap();
    let (body, _) = rest.split_once("\n}").unwrap();
    body.lines().filter(|line| !line.trim().starts_with("//"))
}

fn structure(name: &str) -> Shape {
    (name.into(), body(&format!("struct {name}")).filter_map(field).collect())
}

fn variants(name: &str) -> Vec<Shape> {
    let mut all: Vec<Shape> = Vec::new();
    for line in body(&format!("enum {name}")) {
        if let Some(field) = field(line).filter(|_| line.starts_with("        ")) {
            all.last_mut().unwrap().1.push(field);
        } else if line.starts_with("    ") && line.trim().starts_with(char::is_uppercase) {
            let name = line.trim().trim_end_matches([',', ' ', '{']);
            all.push((format!("{} {name}", all.len()), Vec::new()));
        }
    }
    all
}

/// What the document says between two headings, by titles of the given level.
fn described(from: &str, to: &str, level: &str) -> Vec<Shape> {
    let (_, rest) = DOCUMENT.split_once(&format!("\n## {from}\n")).unwrap();
    let (section, _) = rest.split_once(&format!("\n## {to}\n")).unwrap();
    let mut all: Vec<Shape> = Vec::new();
    for line in section.lines() {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        if let Some(title) = line.strip_prefix(level) {
            all.push((title.trim().into(), Vec::new()));
        } else if line.starts_with("| `") && cells.len() == 5 && !all.is_empty() {
            assert!(!cells[3].is_empty(), "{line} says nothing");
            all.last_mut().unwrap().1.push((cells[1].into(), cells[2].into()));
        }
    }
    all
}

#[test]
fn each_message_is_described() {
    let (to_broker, to_client) = (variants("ToBroker"), variants("ToClient"));
    assert_eq!(described("To the broker", "To the client", "### "), to_broker);
    assert_eq!(described("To the client", "Limits", "### "), to_client);
    let first = ["Hello", "Holding", "Welcome", "Refused"].map(structure);
    assert_eq!(described("First packets", "Sequences", "#### "), first);
    assert!(first.iter().all(|(_, fields)| !fields.is_empty()));

    // The samples, and so the seeds, have each message under the number that the document gives.
    let numbers = |samples: Vec<u8>| samples.into_iter().map(usize::from).collect::<std::collections::BTreeSet<_>>();
    let mut bytes = Vec::new();
    let mut first_byte = |write: &mut dyn FnMut(&mut Vec<u8>)| {
        write(&mut bytes);
        bytes[0]
    };
    let sent = common::to_broker().iter().map(|(_, one)| first_byte(&mut |to| encode(one, to).unwrap())).collect();
    assert_eq!(numbers(sent), (0..to_broker.len()).collect());
    let sent = common::to_client().iter().map(|(_, one)| first_byte(&mut |to| encode(one, to).unwrap())).collect();
    assert_eq!(numbers(sent), (0..to_client.len()).collect());
}

#[test]
fn the_examples_are_what_is_sent() {
    let packets: BTreeMap<_, _> = common::packets().into_iter().collect();
    let mut seen = Vec::new();
    for block in DOCUMENT.split("```hex ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        let (lines, _) = rest.split_once("```").unwrap();
        let bytes: Vec<u8> = lines
            .lines()
            .flat_map(|line| line.split("  ").next().unwrap().split(' '))
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect();
        assert_eq!(bytes, packets[name], "{name}");
        seen.push(name);
    }
    assert_eq!(seen, ["hello", "answer-welcome", "claim"]);
}

#[test]
fn the_limits_are_the_code_s() {
    let limits: [(&str, u64); 11] = [
        ("PACKET_BYTES", PACKET_BYTES as u64),
        ("PACKET_FDS", PACKET_FDS as u64),
        ("PACKET_RANGES", PACKET_RANGES as u64),
        ("NAME_BYTES", NAME_BYTES as u64),
        ("TEXT_BYTES", TEXT_BYTES as u64),
        ("REPORT_BYTES", REPORT_BYTES as u64),
        ("SPACE_SLABS", SPACE_SLABS as u64),
        ("DIRTY_RANGES", DIRTY_RANGES as u64),
        ("CHUNK_BYTES", CHUNK_BYTES),
        ("SLAB_BYTES", SLAB_BYTES),
        ("BACKING_BYTES", BACKING_BYTES),
    ];
    for (name, value) in limits {
        assert!(DOCUMENT.contains(&format!("| `{name}` | {value} |")), "{name} is {value}");
    }
}

#[test]
fn reasons_and_roles_have_their_numbers() {
    for reason in Reason::ALL {
        assert!(DOCUMENT.contains(&format!("| {} | `{reason:?}` |", u8::from(*reason))), "{reason:?}");
    }
    for role in Role::ALL {
        assert!(DOCUMENT.contains(&format!("| {} | `{role:?}` |", u8::from(*role))), "{role:?}");
    }
    assert_eq!(VERSIONS.highest, 3);
    assert!(DOCUMENT.contains("This page is version 3."));
}
