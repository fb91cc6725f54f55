use super::*;
use std::collections::{BTreeMap, BTreeSet};

fn card(key: &str) -> &'static Profile {
    Profile::by_name(key).unwrap_or_else(|| panic!("no profile {key}"))
}

fn recording() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/device-attributes-h100.tsv");
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_h100_answers_each_attribute_as_recorded() {
    let h100 = card("h100-80gb");
    let mut rows = 0;
    for line in recording().lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
        let numbers: Vec<i32> = line.split('\t').map(|n| n.parse().expect("a number")).collect();
        let [number, result, value] = numbers[..] else { panic!("{line:?}") };
        assert_eq!(h100.attribute(number), (result == 0).then_some(value), "attribute {number}");
        assert_eq!(h100.source(number), (result == 0).then_some(Source::Recorded), "attribute {number}");
        rows += 1;
    }
    assert_eq!(rows, 169, "rows of the recording");
}

#[test]
fn the_h100_has_the_recorded_name_and_memory() {
    let h100 = card("h100-80gb");
    let recording = recording();
    let row = |label: &str| {
        let line = recording.lines().find(|line| line.starts_with(label)).expect("the row is there");
        line.split('\t').skip(1).collect::<Vec<_>>()
    };
    assert_eq!(row("name"), [h100.name, &h100.total_bytes.to_string()]);
    let free = h100.total_bytes - h100.idle_overhead();
    assert_eq!(row("totalmem memgetinfo"), [h100.total_bytes.to_string(), free.to_string()]);
}

#[test]
fn there_is_no_attribute_outside_1_to_147() {
    for card in &cards::CARDS {
        for number in [i32::MIN, -1, 0, 148, 149, i32::MAX] {
            assert_eq!((card.attribute(number), card.source(number)), (None, None), "{} {number}", card.key);
        }
        assert_eq!((1..=147).filter(|&n| card.attribute(n).is_some()).count(), 147, "{}", card.key);
    }
}

/// Which rows of which card are derived; the rest are the H100's.
#[test]
fn the_derived_rows_are_these() {
    let derived = |key| {
        let is_derived = |n: &i32| matches!(card(key).source(*n), Some(Source::Derived(why)) if !why.is_empty());
        (1..=147).filter(is_derived).collect::<BTreeSet<i32>>()
    };
    let a100 = [13, 16, 34, 36, 37, 38, 75, 76, 81, 97, 108, 119, 120, 126, 127, 128, 139, 140].into();
    assert_eq!(derived("a100-40gb"), a100);
    assert_eq!(derived("a100-mig-3g.40gb"), a100);
    assert_eq!(derived("h100-80gb"), BTreeSet::new());
    assert_eq!(derived("h200"), [36, 37, 38, 108, 139, 140].into());
}

#[test]
fn no_row_is_derived_twice_for_a_card() {
    for card in &cards::CARDS {
        let mut seen = BTreeMap::new();
        for row in card.derived.iter().flat_map(|rows| rows.iter()) {
            assert_eq!(seen.insert(row.attribute, row.value), None, "{} attribute {}", card.key, row.attribute);
        }
    }
}

#[test]
fn attributes_agree_with_fields_and_with_each_other() {
    for card in &cards::CARDS {
        let value = |number| card.attribute(number).expect("an attribute");
        assert_eq!((value(75), value(76)), card.cc, "{}: compute capability", card.key);
        let pci = Pci { domain: value(50), bus: value(33), device: value(34) };
        assert_eq!(pci, card.pci, "{}: PCI", card.key);
        assert_eq!(value(139) & 0xffff, 0x10de, "{}: PCI vendor", card.key);
        let limits = card.limits();
        assert_eq!(limits.shared_per_block_optin, limits.shared - limits.shared_reserved, "{}: shared", card.key);
        assert!(limits.shared_per_block <= limits.shared_per_block_optin, "{}: shared per block", card.key);
        assert_eq!(value(108), value(38) / 8 * 5, "{}: persisting L2", card.key);
        assert_eq!(card.mig.is_some(), card.name.contains(" MIG "), "{}: MIG", card.key);
        if let Some(mig) = card.mig {
            assert!(card.name.starts_with(mig.gpu_name) && card.name.len() > mig.gpu_name.len(), "{}", card.name);
            assert_eq!(value(16) as u32, 14 * mig.slices, "{}: 14 multiprocessors per slice", card.key);
        }
    }
}

/// The published figures that programs look at first.
#[test]
fn the_a100_has_its_published_limits() {
    let a100 = card("a100-40gb");
    assert_eq!((a100.name, a100.total_bytes), ("NVIDIA A100-SXM4-40GB", 42_505_273_344));
    let published =
        [(13, 1_410_000), (16, 108), (36, 1_215_000), (37, 5120), (38, 41_943_040), (81, 167_936), (97, 166_912)];
    for (number, value) in published {
        assert_eq!(a100.attribute(number), Some(value), "attribute {number}");
    }
    let Limits { warp_size, threads_per_block, warps, blocks, registers, registers_per_block, .. } = a100.limits();
    assert_eq!([warp_size, threads_per_block, warps, blocks], [32, 1024, 64, 32]);
    assert_eq!([registers, registers_per_block], [65536, 65536]);
    assert_eq!([a100.limits().shared_per_block, a100.limits().shared_reserved], [49152, 1024]);
}

#[test]
fn the_mig_slice_is_as_the_service_showed_it() {
    let mig = card("a100-mig-3g.40gb");
    assert_eq!((mig.name, mig.total_bytes), ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 42_144_366_592));
    assert_eq!(mig.total_bytes - mig.idle_overhead(), 41_911_451_648);
    assert_eq!((mig.cc, mig.attribute(16)), ((8, 0), Some(42)));
}

#[test]
fn uuids_are_of_version_4_and_differ() {
    let mut seen = BTreeSet::new();
    let uuids = cards::CARDS.iter().flat_map(|card| [Some(card.uuid), card.mig.map(|mig| mig.gpu_uuid)]).flatten();
    for uuid in uuids {
        assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (4, 2), "{uuid:02x?}");
        assert!(seen.insert(uuid), "{uuid:02x?} twice");
    }
    assert_eq!(seen.len(), 5);
    // Fixed for good: programs keep it.
    let text: String = card("a100-40gb").uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, "28bb74348fce43ec95bdd1b5cb0ad262");
}

#[test]
fn a_card_is_chosen_by_name_and_size() {
    assert_eq!(Profile::names().collect::<Vec<_>>(), ["a100-40gb", "a100-mig-3g.40gb", "h100-80gb", "h200"]);
    for key in ["a100-40gb", "h100-80gb"] {
        let (chosen, complaint) = Profile::chosen(Some(key), None);
        // where nothing else is on this machine's bus
        assert_eq!((Profile { pci: card(key).pci, ..chosen }, complaint), (*card(key), None));
    }
    let (small, complaint) = Profile::chosen(Some("h100-80gb"), Some(1 << 30));
    assert_eq!((small.key, small.total_bytes, complaint), ("h100-80gb", 1 << 30, None));
    let (large, complaint) = Profile::chosen(Some("h100-80gb"), Some(200 << 30));
    assert_eq!((large.total_bytes, complaint.is_some()), (MOST_BYTES, true));
    assert_eq!(Profile::chosen(None, Some(MOST_BYTES)).1, None);
    let (unknown, complaint) = Profile::chosen(Some("t4"), Some(1 << 30));
    assert_eq!((unknown.key, unknown.total_bytes), ("a100-40gb", 1 << 30));
    assert_eq!(complaint.as_deref().map(|text| text.contains("'t4'") && text.contains("a100-mig-3g.40gb")), Some(true));
}

#[test]
fn a_smaller_card_keeps_its_identity_and_most_of_its_memory() {
    let whole = card("a100-40gb");
    let small = whole.with_vram(64 << 20);
    assert_eq!((small.uuid, small.attribute(16)), (whole.uuid, whole.attribute(16)));
    assert_eq!(small.idle_overhead(), 4 << 20);
    assert_eq!(whole.with_vram(1 << 40).idle_overhead(), whole.idle_overhead());
    assert_eq!(whole.with_vram(0).idle_overhead(), 0);
}
