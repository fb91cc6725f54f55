//! `zerogpu soft-smi`.

use crate::stage::{complaint, text, Stage};
use serde_json::{json, Value};
use std::fs;
use zerogpu_cards::Cards;

crate::tests![
    json_says_who_has_what,
    cards_that_nobody_used_yet,
    the_table_shows_processes_by_name,
    a_file_that_is_none,
    two_ways_to_name_the_file
];

fn json_says_who_has_what() {
    let stage = Stage::new();
    let cards = Cards::open(&stage.path("cards"), 2, 1 << 30, "card").unwrap();
    let slot = cards.join().unwrap();
    slot.take(1, 3 << 20).unwrap();
    slot.contexts(1, 1).unwrap();
    let printed: Value = serde_json::from_str(&stage.prints(&["soft-smi", "--json"])).unwrap();
    let expected = json!({"cards": [
        {"index": 0, "name": "card", "bytes_total": 1 << 30, "bytes_used": 0, "contexts": 0, "processes": []},
        {"index": 1, "name": "card", "bytes_total": 1 << 30, "bytes_used": 3 << 20, "contexts": 1,
         "processes": [{"pid": std::process::id(), "bytes_used": 3 << 20, "contexts": 1}]},
    ]});
    assert_eq!(printed, expected);
}

fn cards_that_nobody_used_yet() {
    let stage = Stage::new();
    let mut command = stage.zerogpu(&["soft-smi", "--json"]);
    command.env("SOFTCUDA_COUNT", "2").env("SOFTCUDA_VRAM", "1GiB").env("SOFTCUDA_PROFILE", "h100-80gb");
    let printed: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let cards = printed["cards"].as_array().unwrap();
    assert_eq!(cards.len(), 2);
    assert!(cards.iter().all(|card| card["bytes_total"] == 1 << 30 && card["bytes_used"] == 0));
    assert!(cards[0]["name"].as_str().unwrap().contains("H100"));
    assert!(!stage.path("cards").exists(), "looking makes nothing");
    let none = stage.zerogpu(&["soft-smi", "--json"]).env("SOFTCUDA_COUNT", "0").output().unwrap();
    assert_eq!(text(&none.stdout), "{\"cards\":[]}\n");
}

fn the_table_shows_processes_by_name() {
    let stage = Stage::new();
    let cards = Cards::open(&stage.path("cards"), 1, 1 << 30, "card").unwrap();
    let slot = cards.join().unwrap();
    slot.take(0, 5 << 20).unwrap();
    let table = stage.prints(&["soft-smi"]);
    assert!(table.contains("5MiB / 1024MiB"), "{table}");
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    let row = table.lines().find(|line| line.contains(&std::process::id().to_string())).unwrap();
    assert!(row.contains(name.trim()) && row.contains("5MiB"), "{table}");
}

fn a_file_that_is_none() {
    let stage = Stage::new();
    fs::write(stage.path("cards"), "somebody's file").unwrap();
    let said = stage.complains(1, &["soft-smi"]);
    assert!(
        said.contains("is not a file of software cards; choose another file with SOFTCUDA_CARDS, or remove it"),
        "{said}"
    );
    let mut odd = stage.zerogpu(&["soft-smi"]);
    let odd = odd.env("SOFTCUDA_CARDS", stage.path("none")).env("SOFTCUDA_VRAM", "many").output().unwrap();
    assert!(complaint(0, &odd).contains("SOFTCUDA_VRAM=many is ignored"));
}

fn two_ways_to_name_the_file() {
    let stage = Stage::new();
    Cards::open(&stage.path("elsewhere"), 3, 1 << 30, "card").unwrap();
    let by_option: Value =
        serde_json::from_str(&stage.prints(&["soft-smi", "--json", "--cards", "elsewhere"])).unwrap();
    assert_eq!(by_option["cards"].as_array().unwrap().len(), 3);
}
