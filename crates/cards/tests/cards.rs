//! The cards as one process sees them, and what a damaged or foreign file does to a reader.

use proptest::prelude::*;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use tempfile::TempDir;
use zerogpu_cards::{Cards, Refused, Snapshot, Wish};

const NAME: &str = "NVIDIA A100-SXM4-40GB";

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cards");
    (folder, path)
}

#[test]
fn the_snapshot_is_the_json_that_soft_smi_promises() {
    let (_folder, path) = place();
    let cards = Cards::open(&path, 2, 1000, NAME).unwrap();
    let slot = cards.join().unwrap();
    slot.take(1, 300).unwrap();
    slot.take(1, 40).unwrap();
    slot.contexts(1, 2).unwrap();
    slot.contexts(1, -1).unwrap();
    let pid = std::process::id();
    let expected = serde_json::json!({"cards": [
        {"index": 0, "name": NAME, "bytes_total": 1000, "bytes_used": 0, "contexts": 0, "processes": []},
        {"index": 1, "name": NAME, "bytes_total": 1000, "bytes_used": 340, "contexts": 1,
         "processes": [{"pid": pid, "bytes_used": 340, "contexts": 1}]},
    ]});
    assert_eq!(serde_json::to_value(cards.snapshot().unwrap()).unwrap(), expected);
    drop(slot);
    assert_eq!(cards.snapshot().unwrap(), Snapshot::idle(2, 1000, NAME));
}

#[test]
fn a_card_gives_what_it_has_and_no_more() {
    let (_folder, path) = place();
    let cards = Cards::open(&path, 2, 1000, NAME).unwrap();
    let slot = cards.join().unwrap();
    assert_eq!(slot.take(0, 1001), Err(Refused::Full { free: 1000 }));
    assert_eq!(slot.take(0, u64::MAX), Err(Refused::Full { free: 1000 }));
    assert_eq!(slot.take(0, 600), Ok(()));
    assert_eq!(slot.take(0, 401), Err(Refused::Full { free: 400 }));
    assert_eq!(slot.take(0, u64::MAX), Err(Refused::Full { free: 400 }));
    assert_eq!(slot.take(1, 1000), Ok(()), "cards are apart");
    assert_eq!(slot.take(0, 400), Ok(()));
    assert_eq!(slot.free(0), Ok(0));
    assert_eq!(slot.give(0, 1001), Err(Refused::NotHeld));
    assert_eq!(slot.give(0, 1000), Ok(()));
    assert_eq!(slot.free(0), Ok(1000));
    assert_eq!(slot.contexts(0, -1), Err(Refused::NotHeld));
    assert_eq!(slot.take(2, 1), Err(Refused::NoCard));
    assert_eq!(slot.give(u32::MAX, 1), Err(Refused::NoCard));
}

#[test]
fn a_process_has_one_slot_through_whatever_handle() {
    let (folder, path) = place();
    let cards = Cards::open(&path, 1, 1000, NAME).unwrap();
    let slot = cards.join().unwrap();
    let link = folder.path().join("link");
    fs::hard_link(&path, &link).unwrap();
    let again = Cards::open(&link, 1, 1000, NAME).unwrap();
    assert_eq!(again.join().unwrap_err().kind(), ErrorKind::AlreadyExists);
    slot.take(0, 10).unwrap();
    assert_eq!(Cards::look(&link).unwrap().snapshot().unwrap().cards[0].bytes_used, 10);
    drop(slot);
    again.join().unwrap().take(0, 1000).unwrap();
}

#[test]
fn threads_that_open_at_once_share_one_slot() {
    for _ in 0..20 {
        let (_folder, path) = place();
        let start = std::sync::Barrier::new(4);
        let slots: Vec<_> = std::thread::scope(|scope| {
            let join = || {
                start.wait();
                Cards::open(&path, 1, 1000, NAME).unwrap().join()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(join)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let refused = slots.iter().filter_map(|slot| slot.as_ref().err().map(std::io::Error::kind));
        assert_eq!(refused.collect::<Vec<_>>(), [ErrorKind::AlreadyExists; 3]);
        slots.into_iter().flatten().next().unwrap().take(0, 1000).unwrap();
    }
}

#[test]
fn who_only_looks_sees_and_can_not_join() {
    let (_folder, path) = place();
    assert_eq!(Cards::look(&path).unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(&path, "").unwrap();
    assert_eq!(Cards::look(&path).unwrap_err().kind(), ErrorKind::NotFound);
    fs::remove_file(&path).unwrap();
    // Made under another name, so that this process looks at it with a descriptor of its own.
    let elsewhere = path.with_extension("made");
    Cards::open(&elsewhere, 1, 1000, NAME).unwrap();
    fs::copy(&elsewhere, &path).unwrap();
    let look = Cards::look(&path).unwrap();
    assert_eq!((look.count(), look.vram(), look.name()), (1, 1000, NAME));
    assert_eq!(look.join().unwrap_err().kind(), ErrorKind::PermissionDenied);
    let slot = Cards::open(&path, 1, 1000, NAME).unwrap().join().unwrap();
    slot.take(0, 7).unwrap();
    assert_eq!(look.snapshot().unwrap().cards[0].processes[0].bytes_used, 7);
}

#[test]
fn the_first_to_open_decides_the_sizes() {
    let (_folder, path) = place();
    Cards::open(&path, 2, 1000, NAME).unwrap();
    for (count, vram, name) in [(1, 1000, NAME), (2, 1001, NAME), (2, 1000, "other")] {
        let error = Cards::open(&path, count, vram, name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let text = error.to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && text.contains("2 x NVIDIA A100-SXM4-40GB of 1000 bytes"),
            "{text}"
        );
        assert!(text.contains("SOFTCUDA_CARDS") && text.contains("remove it"), "{text}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(Cards::open(&path, 1, 5, "other").unwrap().vram(), 5);
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    let (folder, path) = place();
    for content in [&b"hello, this is somebody's file"[..], &[0; 64], &[0xff; 300_000], b"softcuda"] {
        fs::write(&path, content).unwrap();
        for error in [Cards::open(&path, 1, 1000, NAME).unwrap_err(), Cards::look(&path).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert!(error.to_string().contains("remove it"), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), content);
        fs::remove_file(&path).unwrap();
    }
    assert!(Cards::open(folder.path(), 1, 1000, NAME).is_err(), "a folder");
    let error = Cards::open(&path.join("no/such/folder"), 1, 1000, NAME).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("SOFTCUDA_CARDS"), "{error}");
}

#[test]
fn a_pipe_does_not_hang_the_opener() {
    let (_folder, path) = place();
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    assert_eq!(Cards::open(&path, 1, 1000, NAME).unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(Cards::look(&path).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn what_a_killed_maker_left_is_made_anew() {
    let (_folder, path) = place();
    Cards::open(&path, 1, 1000, NAME).unwrap();
    let whole = fs::read(&path).unwrap();
    // A maker sets the length, writes the pages, and writes the first word last.
    for written in [0, 100, 4096, 50_000, whole.len()] {
        fs::remove_file(&path).unwrap();
        let mut half = whole.clone();
        half[..8].fill(0);
        half[written.max(8)..].fill(0);
        fs::write(&path, half).unwrap();
        assert_eq!(Cards::look(&path).unwrap_err().kind(), ErrorKind::NotFound);
        let cards = Cards::open(&path, 3, 77, "anew").unwrap();
        assert_eq!((cards.count(), cards.vram(), cards.name()), (3, 77, "anew"));
        cards.join().unwrap().take(2, 77).unwrap();
    }
}

#[test]
fn a_file_cut_short_is_an_error_not_a_crash() {
    let (_folder, path) = place();
    let cards = Cards::open(&path, 1, 1000, NAME).unwrap();
    let slot = cards.join().unwrap();
    slot.take(0, 10).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    for cut in [0, 8, 4096, length - 1] {
        truncate(&path, cut);
        assert_eq!(slot.take(0, 1), Err(Refused::Cut));
        assert_eq!(slot.give(0, 1), Err(Refused::Cut));
        assert_eq!(slot.free(0), Err(Refused::Cut));
        assert_eq!(cards.snapshot().unwrap_err().kind(), ErrorKind::UnexpectedEof);
        truncate(&path, length);
    }
    drop(slot);
    truncate(&path, 0);
    assert_eq!(cards.join().unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

/// Without opening the file: to close a descriptor of it would drop this process's locks.
fn truncate(path: &std::path::Path, length: u64) {
    assert!(std::process::Command::new("truncate")
        .arg(format!("--size={length}"))
        .arg(path)
        .status()
        .unwrap()
        .success());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_content_of_the_file_crashes_a_reader(
        spots in prop::collection::vec((0usize..75_000, any::<u64>()), 0..100),
        head in prop::option::of(prop::collection::vec(any::<u8>(), 128)),
        length in prop::option::of(0u64..450_000),
    ) {
        let (_folder, path) = place();
        let cards = Cards::open(&path, 2, 1000, NAME).unwrap();
        let slot = cards.join().unwrap();
        slot.take(0, 1).unwrap();
        let hostile = path.with_extension("hostile");
        fs::copy(&path, &hostile).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&hostile).unwrap();
        let magic = *b"softcuda";
        for (at, word) in spots {
            file.write_all_at(&word.to_ne_bytes(), (at * 8) as u64).unwrap();
        }
        if let Some(head) = head {
            file.write_all_at(&head, 8).unwrap();
            file.write_all_at(&magic, 0).unwrap();
        }
        if let Some(length) = length {
            file.set_len(length).unwrap();
        }
        drop(file);
        if let Ok(look) = Cards::look(&hostile) {
            let seen = look.snapshot().unwrap();
            prop_assert_eq!(seen.cards.len(), look.count() as usize);
            prop_assert!(seen.cards.iter().all(|card| card.processes.is_empty()), "nobody holds a lock on it");
            let open = Cards::open(&hostile, look.count(), look.vram(), look.name()).unwrap();
            let slot = open.join().unwrap();
            for card in 0..open.count() {
                prop_assert_eq!(slot.take(card, open.vram()), Ok(()), "what the dead hold is free");
                prop_assert_eq!(slot.give(card, open.vram()), Ok(()));
            }
        }
    }
}

#[test]
fn what_is_not_asked_for_is_as_in_the_file() {
    let (_folder, path) = place();
    let cards = Cards::follow(&path, Wish { count: Some(3), ..Wish::default() }, 1, 500, NAME).unwrap();
    assert_eq!((cards.count(), cards.vram(), cards.name()), (3, 500, NAME), "without a file as usual");
    for wish in [
        Wish::default(),
        Wish { count: Some(3), ..Wish::default() },
        Wish { vram: Some(500), name: Some(NAME), ..Wish::default() },
    ] {
        let cards = Cards::follow(&path, wish, 1, 900, "other").unwrap();
        assert_eq!((cards.count(), cards.vram(), cards.name()), (3, 500, NAME));
    }
    for wish in [
        Wish { count: Some(1), ..Wish::default() },
        Wish { vram: Some(900), ..Wish::default() },
        Wish { name: Some("other"), ..Wish::default() },
    ] {
        let error = Cards::follow(&path, wish, 1, 900, "other").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("of other sizes (3 x"), "{error}");
    }
}
