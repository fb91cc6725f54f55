//! Reading settings: every variable, every default, every complaint.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zerogpu_settings::{size, Driver, Fault, Outside, Settings, SoftSettings, VARIABLES};

fn lookup<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
    move |name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into())
}

fn shim(set: &[(&str, &str)]) -> (Settings, Vec<String>) {
    Settings::from_lookup(&lookup(set))
}

fn soft(set: &[(&str, &str)]) -> (SoftSettings, Vec<String>) {
    SoftSettings::from_lookup(&lookup(set))
}

#[test]
fn the_table_names_exactly_what_is_read() {
    let asked = RefCell::new(BTreeSet::new());
    let record = |name: &str| {
        asked.borrow_mut().insert(name.to_string());
        None
    };
    Settings::from_lookup(&record);
    SoftSettings::from_lookup(&record);
    // Where the runtime folder lies is the system's affair, not a setting of ours.
    asked.borrow_mut().remove("XDG_RUNTIME_DIR");
    let table: BTreeSet<String> = VARIABLES.iter().map(|variable| variable.name.to_string()).collect();
    assert_eq!(asked.into_inner(), table);
    assert_eq!(table.len(), VARIABLES.len(), "a name stands twice");
}

#[test]
fn the_defaults_of_the_table_are_the_defaults() {
    let default = |name: &str| VARIABLES.iter().find(|variable| variable.name == name).unwrap().default;
    let names = [
        "ZEROGPU_DRIVER",
        "ZEROGPU_OUTSIDE",
        "ZEROGPU_RECORD",
        "ZEROGPU_IDLE",
        "ZEROGPU_HASH",
        "ZEROGPU_SOCKET",
        "ZEROGPU_WAIT",
        "SOFTCUDA_GBPS",
        "SOFTCUDA_CONTEXT_MS",
        "SOFTCUDA_LAUNCH_US",
    ];
    let set: Vec<_> = names.into_iter().map(|name| (name, default(name))).collect();
    assert_eq!(shim(&set), (Settings::default(), vec![]));
    assert_eq!(soft(&set), soft(&[]));
    assert_eq!(shim(&[]), (Settings::default(), vec![]));
}

#[test]
fn each_setting_arrives() {
    let (settings, complaints) = shim(&[
        ("ZEROGPU_DRIVER", "soft"),
        ("ZEROGPU_PROFILE", "h100-80gb"),
        ("ZEROGPU_VRAM", "40GiB"),
        ("CUDA_VISIBLE_DEVICES", "0,1"),
        ("ZEROGPU_TRACE", "text"),
        ("ZEROGPU_OUTSIDE", "borrow"),
        ("ZEROGPU_RECORD", "1MiB"),
        ("ZEROGPU_IDLE", "2s"),
        ("ZEROGPU_HASH", "1GiB"),
        ("ZEROGPU_SOCKET", "/run/zerogpu.sock"),
        ("ZEROGPU_WAIT", "5min"),
        ("ZEROGPU_NAME", "demo"),
        ("ZEROGPU_LIB", "/opt/zerogpu/lib"),
    ]);
    assert_eq!(complaints, Vec::<String>::new());
    let expected = Settings {
        driver: Driver::Soft,
        profile: Some("h100-80gb".into()),
        vram: Some(40 << 30),
        visible_devices: Some("0,1".into()),
        trace: Some("text".into()),
        outside: Outside::Borrow,
        record_limit: 1 << 20,
        idle: Duration::from_secs(2),
        hash: Some(1 << 30),
        socket: Some("/run/zerogpu.sock".into()),
        wait: Duration::from_secs(300),
        name: Some("demo".into()),
        lib: Some("/opt/zerogpu/lib".into()),
    };
    assert_eq!(settings, expected);
}

#[test]
fn each_setting_of_the_software_driver_arrives() {
    let (settings, complaints) = soft(&[
        ("SOFTCUDA_CARDS", "/tmp/cards"),
        ("SOFTCUDA_COUNT", "2"),
        ("SOFTCUDA_VRAM", "1GiB"),
        ("SOFTCUDA_PROFILE", "h100-80gb"),
        ("SOFTCUDA_POISON", "1"),
        ("SOFTCUDA_STRICT_PINS", "1"),
        ("SOFTCUDA_GBPS", "12.5"),
        ("SOFTCUDA_CONTEXT_MS", "100"),
        ("SOFTCUDA_LAUNCH_US", "2.5"),
        ("SOFTCUDA_LAUNCH_LOG", "/tmp/launches"),
        ("SOFTCUDA_CALL_LOG", "/tmp/calls"),
        ("SOFTCUDA_FAULT", "cuMemCreate:3=2, cuMemMap=999"),
        ("SOFTCUDA_OBSTACLE", "0x7000:2"),
        ("SOFTCUDA_FORK", "cuInit, cuMemMap"),
        ("SOFTCUDA_STRICT_LOG", "/tmp/strict"),
    ]);
    assert_eq!(complaints, Vec::<String>::new());
    let expected = SoftSettings {
        cards: "/tmp/cards".into(),
        count: Some(2),
        vram: Some(1 << 30),
        profile: Some("h100-80gb".into()),
        poison: true,
        strict_pins: true,
        copy_rate: Some(12_500_000_000),
        context_time: Duration::from_millis(100),
        launch_time: Duration::from_nanos(2500),
        launch_log: Some("/tmp/launches".into()),
        call_log: Some("/tmp/calls".into()),
        faults: vec![
            Fault { function: "cuMemCreate".into(), nth: Some(3), code: 2 },
            Fault { function: "cuMemMap".into(), nth: None, code: 999 },
        ],
        obstacle: Some((0x7000, Some(2))),
        forks: vec!["cuInit".into(), "cuMemMap".into()],
        strict_log: Some("/tmp/strict".into()),
    };
    assert_eq!(settings, expected);
}

#[test]
fn a_bad_value_is_named_with_the_way_out_and_the_default_holds() {
    let bad = [
        ("ZEROGPU_DRIVER", "sotf", "write auto, soft, none or a path"),
        ("ZEROGPU_VRAM", "lots", "as in 40GiB"),
        ("ZEROGPU_VRAM", "0", "above 0"),
        ("ZEROGPU_OUTSIDE", "maybe", "write defer, borrow or error"),
        ("ZEROGPU_RECORD", "-1", "as in 40GiB"),
        ("ZEROGPU_IDLE", "soon", "as in 200ms"),
    ];
    for (name, value, remedy) in bad {
        let (settings, complaints) = shim(&[(name, value)]);
        assert_eq!(settings, Settings::default(), "{name}");
        assert_eq!(complaints.len(), 1, "{name}");
        assert!(complaints[0].starts_with(&format!("{name}={value} is ignored: ")), "{complaints:?}");
        assert!(complaints[0].contains(remedy), "{complaints:?}");
    }
    let bad = [
        ("SOFTCUDA_COUNT", "17"),
        ("SOFTCUDA_COUNT", "-1"),
        ("SOFTCUDA_VRAM", "0GiB"),
        ("SOFTCUDA_GBPS", "fast"),
        ("SOFTCUDA_CONTEXT_MS", "1e300"),
        ("SOFTCUDA_LAUNCH_US", "nan"),
        ("SOFTCUDA_FAULT", "cuMemCreate"),
        ("SOFTCUDA_FAULT", "cuMemCreate:0=2"),
        ("SOFTCUDA_FAULT", "=2"),
        ("SOFTCUDA_FAULT", "cuMemMap=1,cuMemCreate=x"),
        ("SOFTCUDA_OBSTACLE", "7000"),
        ("SOFTCUDA_OBSTACLE", "0x7000:often"),
    ];
    for (name, value) in bad {
        let (settings, complaints) = soft(&[(name, value)]);
        assert_eq!(settings, soft(&[]).0, "{name}");
        assert_eq!(complaints.len(), 1, "{name}={value}");
        assert!(complaints[0].contains("; write "), "{complaints:?}");
    }
}

#[test]
fn empty_is_unset_but_for_visible_devices() {
    let set: Vec<_> = VARIABLES.iter().map(|variable| (variable.name, "")).collect();
    let (settings, complaints) = shim(&set);
    assert_eq!(settings, Settings { visible_devices: Some(String::new()), ..Settings::default() });
    assert_eq!(complaints, Vec::<String>::new());
    assert_eq!(soft(&set), soft(&[]));
}

#[test]
fn a_value_that_is_not_text_is_a_complaint_and_a_path_need_not_be_text() {
    let bytes = OsStr::from_bytes(b"/tmp/\xff");
    let odd = |name: &str| {
        matches!(name, "ZEROGPU_DRIVER" | "ZEROGPU_LIB" | "CUDA_VISIBLE_DEVICES").then(|| bytes.to_os_string())
    };
    let (settings, complaints) = Settings::from_lookup(&odd);
    assert_eq!(settings.driver, Driver::Auto);
    assert_eq!(settings.lib.as_deref(), Some(Path::new(bytes)));
    assert!(settings.visible_devices.is_some());
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].contains("not UTF-8"), "{complaints:?}");
}

#[test]
fn paths_become_absolute() {
    let here = std::env::current_dir().unwrap();
    assert_eq!(shim(&[("ZEROGPU_DRIVER", "./x/libcuda.so.1")]).0.driver, Driver::Path(here.join("x/libcuda.so.1")));
    assert_eq!(shim(&[("ZEROGPU_LIB", "lib")]).0.lib, Some(here.join("lib")));
}

#[test]
fn the_cards_lie_in_the_runtime_folder_if_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(soft(&[("XDG_RUNTIME_DIR", path)]).0.cards, folder.path().join("softcuda-cards"));
    let shared = soft(&[]).0.cards;
    assert_eq!(shared.parent(), Some(Path::new("/dev/shm")));
    assert_eq!(soft(&[("XDG_RUNTIME_DIR", "/no/such/folder")]).0.cards, shared);
    assert_eq!(soft(&[("XDG_RUNTIME_DIR", "relative")]).0.cards, shared);
    assert_eq!(soft(&[("XDG_RUNTIME_DIR", path), ("SOFTCUDA_CARDS", "/x")]).0.cards, PathBuf::from("/x"));
}

#[test]
fn the_public_parsers_serve_the_command_line() {
    assert_eq!("soft".parse(), Ok(Driver::Soft));
    assert_eq!("/a/b".parse(), Ok(Driver::Path("/a/b".into())));
    assert_eq!("error".parse(), Ok(Outside::Error));
    assert_eq!(size("1KiB"), Ok(1024));
}
