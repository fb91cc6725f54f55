//! `zerogpu doctor`.

use crate::stage::{text, Stage};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

crate::tests![
    a_sound_installation_without_a_driver,
    what_can_not_be_written_or_loaded,
    a_driver_without_a_card,
    a_driver_with_cards,
    a_driver_that_crashes_prints_or_is_none,
    a_wrong_soname,
    objects_that_can_not_be_loaded,
    what_is_preloaded_and_what_is_missing,
    wrong_settings,
    a_process_that_uses_the_shim,
    a_process_that_does_not,
];

fn examine(command: &mut Command) -> (Value, bool) {
    let output = command.arg("--json").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(report["ok"].as_bool().unwrap(), output.status.success(), "{report:#}");
    assert_eq!(text(&output.stderr), "");
    let ok = output.status.success();
    (report, ok)
}

/// Level and text of the finding about `topic` that contains `part`.
fn finding(report: &Value, topic: &str, part: &str) -> (String, String) {
    let findings = report["findings"].as_array().unwrap();
    let found =
        findings.iter().find(|finding| finding["topic"] == topic && finding["text"].as_str().unwrap().contains(part));
    let found = found.unwrap_or_else(|| panic!("nothing about {topic} with '{part}': {report:#}"));
    if found["level"] == "problem" {
        assert!(!found["remedy"].as_str().unwrap().is_empty());
    }
    (found["level"].as_str().unwrap().to_string(), found["text"].as_str().unwrap().to_string())
}

fn a_sound_installation_without_a_driver() {
    let stage = Stage::new();
    let (report, ok) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", "none"));
    assert!(ok, "{report:#}");
    assert_eq!(report["driver"], Value::Null);
    assert_eq!(finding(&report, "installation", "each with its SONAME").0, "ok");
    assert_eq!(finding(&report, "installation", "spaces is in").0, "ok");
    assert_eq!(finding(&report, "driver", "none was chosen").0, "note");
    assert_eq!(finding(&report, "system", "glibc").0, "ok");
    let plain = stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", "none").output().unwrap();
    assert!(text(&plain.stdout).ends_with("nothing stands in the way\n"), "{plain:?}");
}

fn what_can_not_be_written_or_loaded() {
    let stage = Stage::new();
    let doctor = |driver: &str| {
        let mut command = stage.zerogpu(&["doctor"]);
        command.env("ZEROGPU_DRIVER", driver).env("SOFTCUDA_CARDS", "/dev/null/cards");
        examine(&mut command).0
    };
    assert_eq!(finding(&doctor("none"), "system", "software cards can't be used in /dev/null/cards").0, "note");
    assert_eq!(finding(&doctor("soft"), "system", "software cards can't be used in /dev/null/cards").0, "problem");

    let odd = stage.path("a;b");
    fs::create_dir(&odd).unwrap();
    for name in ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"] {
        fs::copy(stage.path(&stage.lib()).join(name), odd.join(name)).unwrap();
    }
    let (report, ok) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", "none").env("ZEROGPU_LIB", &odd));
    assert!(!ok);
    assert_eq!(finding(&report, "installation", "a space, colon or semicolon").0, "problem");
}

fn a_driver_without_a_card() {
    let stage = Stage::new();
    let driver = stage.driver(12020, "return 100;");
    let (report, _) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", &driver));
    assert_eq!(finding(&report, "driver", "is a driver of CUDA 12.2").0, "ok");
    assert!(finding(&report, "cards", "CUDA_ERROR_NO_DEVICE").1.contains("card"));
    assert_eq!(report["driver"]["version"], 12020);
    assert_eq!(report["driver"]["init"], 100);
    assert_eq!(report["driver"]["path"], driver.to_str().unwrap());
}

fn a_driver_with_cards() {
    let stage = Stage::new();
    let driver = stage.driver(13000, "return 0;");
    let (report, ok) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", &driver));
    assert!(ok, "{report:#}");
    assert_eq!(report["driver"]["cards"], serde_json::json!(["A", "B"]));
    assert!(finding(&report, "cards", "2: A, B").0 == "ok");
    let found = stage.zerogpu(&["doctor", "--json"]).env("LD_LIBRARY_PATH", stage.path("driver")).output().unwrap();
    let report: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(report["driver"]["path"], driver.to_str().unwrap(), "found by itself, as the loader would");
}

fn a_driver_that_crashes_prints_or_is_none() {
    let stage = Stage::new();
    let driver = stage.driver(13000, "__builtin_trap();");
    let (report, ok) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", &driver));
    assert!(!ok);
    assert_eq!(finding(&report, "driver", "ended the process with signal").0, "problem");

    let chatty = stage.driver(13000, "extern int puts(const char *); puts(\"hello from the driver\"); return 0;");
    let (report, ok) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", &chatty));
    assert!(ok, "{report:#}");

    let other = stage.library("other.so", "other.so", "int other(void) { return 0; }");
    let (report, _) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", &other));
    assert_eq!(finding(&report, "driver", "is no CUDA driver").0, "problem");

    fs::write(stage.path("text.so"), "not a library").unwrap();
    let (report, _) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", stage.path("text.so")));
    assert_eq!(finding(&report, "driver", "can't be loaded").0, "problem");

    let (report, _) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", stage.path("lib/libcuda.so.1")));
    assert_eq!(finding(&report, "driver", "the shim itself").0, "problem");
}

fn a_wrong_soname() {
    let stage = Stage::new();
    stage.library("lib/libcuda.so", "libwrong.so", "");
    let (report, ok) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", "none"));
    assert!(!ok);
    assert!(finding(&report, "installation", "has the SONAME libwrong.so, not libcuda.so").0 == "problem");
}

fn objects_that_can_not_be_loaded() {
    let stage = Stage::new();
    stage.library("lib/libnvidia-ml.so.1", "libnvidia-ml.so.1", "extern int nowhere; int *p = &nowhere;");
    let (report, ok) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", "none"));
    assert!(!ok);
    assert_eq!(finding(&report, "installation", "nowhere").0, "problem");
}

fn what_is_preloaded_and_what_is_missing() {
    let stage = Stage::new();
    let zerogpu = env!("CARGO_BIN_EXE_zerogpu");
    let (report, ok) = examine(&mut stage.zerogpu(&["run", "--driver", "none", zerogpu, "doctor"]));
    assert!(ok, "{report:#}");
    assert_eq!(finding(&report, "preload", "all three objects").0, "ok");
    let only_shim = stage.path("lib/libcuda.so.1");
    let (report, ok) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", "none").env("LD_PRELOAD", &only_shim));
    assert!(!ok);
    let lacks = finding(&report, "preload", "LD_PRELOAD lacks").1;
    assert!(lacks.contains("libcuda.so, ") && lacks.contains("libnvidia-ml.so.1"), "{lacks}");
    let stranger = stage.library("stranger.so", "libcuda.so.1", "");
    let (report, _) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", "none").env("LD_PRELOAD", &stranger));
    assert_eq!(finding(&report, "preload", "another stand-in for the driver").0, "problem");
}

fn wrong_settings() {
    let stage = Stage::new();
    let mut command = stage.zerogpu(&["doctor"]);
    command.env("ZEROGPU_DRIVER", "none").env("ZEROGPU_VRAM", "many").env("SOFTCUDA_COUNT", "99");
    command.env("ZEROGPU_PROFILE", "t4").env("ZEROGPU_DIRVER", "soft");
    let (report, ok) = examine(&mut command);
    assert!(!ok);
    for part in ["ZEROGPU_VRAM=many is ignored", "SOFTCUDA_COUNT=99 is ignored", "profile 't4' is unknown"] {
        assert_eq!(finding(&report, "settings", part).0, "problem");
    }
    assert_eq!(finding(&report, "settings", "ZEROGPU_DIRVER is not a setting").0, "note");
    fs::write(stage.path("cards"), "somebody's file").unwrap();
    let (report, _) = examine(stage.zerogpu(&["doctor"]).env("ZEROGPU_DRIVER", "none"));
    assert_eq!(finding(&report, "system", "is not a file of software cards").0, "problem");
}

fn a_process_that_uses_the_shim() {
    let stage = Stage::new();
    // `sh` is the process itself, waiting for the input that this test holds.
    let mut program = stage.zerogpu(&["run", "--driver", "none", "sh", "-c", "echo ready; read line"]);
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let (report, ok) = examine(&mut stage.zerogpu(&["doctor", "--pid", &child.id().to_string()]));
    assert!(ok, "{report:#}");
    let found = finding(&report, "process", "uses the shim").1;
    assert!(found.contains(&stage.lib()) && found.contains("(sh)"), "{found}");
    drop(child.stdin.take());
    child.wait().unwrap();
}

fn a_process_that_does_not() {
    let stage = Stage::new();
    let own = std::process::id().to_string();
    let (report, ok) = examine(&mut stage.zerogpu(&["doctor", "--pid", &own]));
    assert!(!ok);
    assert_eq!(finding(&report, "process", "started without the shim").0, "problem");
    let (report, ok) = examine(&mut stage.zerogpu(&["doctor", "--pid", "8388608"]));
    assert!(!ok);
    assert_eq!(finding(&report, "process", "there is no process 8388608").0, "problem");
}
