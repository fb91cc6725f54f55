//! `zerogpu run`.

use crate::stage::{complaint, text, Stage};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

crate::tests![
    the_program_gets_the_three_objects_and_the_folders,
    what_was_set_stays_behind,
    options_become_variables,
    a_wrong_option_is_refused_with_the_way_out,
    this_process_becomes_the_program,
    with_a_trace_the_program_is_a_child_and_its_end_is_ours,
    signals_reach_the_traced_program,
    a_killed_programs_trace_is_completed,
    a_program_that_is_not_there_or_no_program,
    arguments_arrive_as_they_are,
    a_missing_library_is_named_with_the_way_out,
    a_wrong_variable_is_named_and_the_program_runs,
    what_cargo_built_is_used_through_links,
];

fn the_program_gets_the_three_objects_and_the_folders() {
    let stage = Stage::new();
    let (lib, script) = (stage.lib(), "echo $LD_PRELOAD; echo $LD_LIBRARY_PATH; echo $PYTHONPATH; echo $ZEROGPU_LIB");
    let expected = format!("{lib}/libcuda.so.1:{lib}/libcuda.so:{lib}/libnvidia-ml.so.1\n{lib}\n{lib}/python\n{lib}\n");
    assert_eq!(stage.prints(&["run", "--", "sh", "-c", script]), expected);
    // Not only named: loaded.
    let maps = stage.prints(&["run", "--", "cat", "/proc/self/maps"]);
    for name in ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"] {
        assert!(maps.contains(&format!("{lib}/{name}\n")), "{name}");
    }
    let nested =
        stage.zerogpu(&["run", "--", env!("CARGO_BIN_EXE_zerogpu"), "run", "--", "sh", "-c", script]).output().unwrap();
    assert_eq!(text(&nested.stdout), expected, "nothing comes twice");
    assert_eq!(text(&nested.stderr), "", "nothing is said when there is nothing to say");
}

fn what_was_set_stays_behind() {
    let stage = Stage::new();
    let other = stage.library("other/libother.so", "libother.so", "");
    let lib = stage.lib();
    let output = stage
        .zerogpu(&["run", "sh", "-c", "echo $LD_PRELOAD; echo $LD_LIBRARY_PATH; echo $PYTHONPATH"])
        .env("LD_PRELOAD", &other)
        .env("LD_LIBRARY_PATH", "/a:/b")
        .env("PYTHONPATH", "/c")
        .output()
        .unwrap();
    let expected = format!(
        "{lib}/libcuda.so.1:{lib}/libcuda.so:{lib}/libnvidia-ml.so.1:{}\n{lib}:/a:/b\n{lib}/python:/c\n",
        other.display()
    );
    assert_eq!(text(&output.stdout), expected);
}

fn options_become_variables() {
    let stage = Stage::new();
    let driver = stage.driver(13000, "return 0;");
    let print = "env | grep ^ZEROGPU_ | grep -v ^ZEROGPU_LIB= | sort";
    let options =
        ["--profile", "h100-80gb", "--vram", "16GiB", "--trace", "off", "--outside", "borrow", "--socket", "x/y"];
    let arguments = [&["run", "--driver", "driver/libcuda.so.1"], &options[..], &["--", "sh", "-c", print]].concat();
    let expected = format!(
        "ZEROGPU_DRIVER={}\nZEROGPU_OUTSIDE=borrow\nZEROGPU_PROFILE=h100-80gb\nZEROGPU_SOCKET={}\nZEROGPU_TRACE=off\nZEROGPU_VRAM=16GiB\n",
        driver.display(),
        stage.path("x/y").display()
    );
    assert_eq!(stage.prints(&arguments), expected);
    assert_eq!(stage.prints(&["run", "--driver", "none", "sh", "-c", "echo $ZEROGPU_DRIVER"]), "none\n");
    assert!(stage.complains(1, &["run", "--driver", "soft", "true"]).contains("libsoftcuda.so is not in"));
    let soft = stage.library("lib/libsoftcuda.so", "libsoftcuda.so", "");
    assert_eq!(
        stage.prints(&["run", "--driver", "soft", "sh", "-c", "echo $ZEROGPU_DRIVER"]),
        format!("{}\n", soft.display())
    );
    let outer = stage.zerogpu(&["run", "sh", "-c", "echo $ZEROGPU_VRAM"]).env("ZEROGPU_VRAM", "1GiB").output().unwrap();
    assert_eq!(text(&outer.stdout), "1GiB\n", "what no option names stays as it is");
}

fn a_wrong_option_is_refused_with_the_way_out() {
    let stage = Stage::new();
    for (option, value, way_out) in [
        ("--driver", "sotf", "write auto, soft, none or a path"),
        ("--profile", "t4", "possible values: a100-40gb"),
        ("--vram", "many", "as in 40GiB"),
        ("--vram", "0", "above 0"),
        ("--outside", "x", "possible values: defer, borrow, error"),
    ] {
        let said = stage.complains(2, &["run", option, value, "true"]);
        assert!(said.contains(way_out), "{said}");
    }
    assert!(stage.complains(2, &["run"]).contains("<CMD>"));
    assert!(stage.complains(1, &["run", "--driver", "/no/such.so", "true"]).contains("set ZEROGPU_DRIVER"));
    let own = stage.path("lib/libcuda.so.1");
    assert!(stage.complains(1, &["run", "--driver", own.to_str().unwrap(), "true"]).contains("the shim itself"));
}

fn this_process_becomes_the_program() {
    let stage = Stage::new();
    let child = stage.zerogpu(&["run", "sh", "-c", "echo $$; exit 7"]).stdout(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), format!("{id}\n"));
    assert_eq!(output.status.code(), Some(7));
    let killed = stage.zerogpu(&["run", "sh", "-c", "kill -9 $$"]).status().unwrap();
    assert_eq!(killed.signal(), Some(9));
}

fn with_a_trace_the_program_is_a_child_and_its_end_is_ours() {
    let stage = Stage::new();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        assert_eq!(stage.complains(code, &["run", "--trace", "json", "sh", "-c", script]), "", "{script}");
    }
    let status = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"];
    let bare = Command::new(status[0]).args(&status[1..]).output().unwrap();
    let traced = stage.prints(&[&["run", "--trace", "json"], &status[..]].concat());
    assert_eq!(traced, text(&bare.stdout), "the program starts with the signals as they are without us");
}

fn signals_reach_the_traced_program() {
    let stage = Stage::new();
    for (signal, name) in
        [(libc::SIGTERM, "TERM"), (libc::SIGINT, "INT"), (libc::SIGHUP, "HUP"), (libc::SIGUSR1, "USR1")]
    {
        // The reading ends with the signal, or when this test ends.
        let script = format!("trap 'echo got {name}; exit 42' {name}; echo ready; read line");
        let mut command = stage.zerogpu(&["run", "--trace", "json", "sh", "-c", &script]);
        // A signal that is ignored here (HUP, under nohup) would be ignored by all below, and a shell can't trap it then.
        // SAFETY: signal(2) may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::signal(signal, libc::SIG_DFL);
                Ok(())
            })
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        // SAFETY: kill(2) on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        // Only `run` was sent the signal, so the answer shows that it was passed on.
        assert_eq!(lines.next().unwrap().unwrap(), format!("got {name}"));
        assert_eq!(child.wait().unwrap().code(), Some(42));
    }
}

/// Traces one message, and is killed before the trace is written out.
pub fn traced_program() {
    let settings = std::env::var("ZEROGPU_TRACE").unwrap();
    assert!(zerogpu_trace::start(&settings).unwrap());
    zerogpu_trace::message(zerogpu_trace::Message::Explain, "the last words");
    // SAFETY: kill(2) on this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

fn a_killed_programs_trace_is_completed() {
    let stage = Stage::new();
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    for spec in ["json,file=out.jsonl", "json,file=out2.jsonl,ring=rings"] {
        fs::create_dir_all(stage.path("rings")).unwrap();
        stage.complains(137, &["run", "--trace", spec, program, "traced"]);
        let file = stage.path(spec.split(['=', ',']).nth(2).unwrap());
        let trace = fs::read_to_string(&file).unwrap();
        assert_eq!(trace.matches("the last words").count(), 1, "{trace}");
        for folder in [stage.folder(), &stage.path("rings")] {
            let left = fs::read_dir(folder)
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().path().extension() == Some(OsStr::new("ring")));
            assert_eq!(left.count(), 0, "no ring is left");
        }
    }
}

fn a_program_that_is_not_there_or_no_program() {
    let stage = Stage::new();
    fs::write(stage.path("data"), "x").unwrap();
    fs::set_permissions(stage.path("data"), fs::Permissions::from_mode(0o644)).unwrap();
    for trace in ["off", "json"] {
        let said = stage.complains(127, &["run", "--trace", trace, "no-such-program"]);
        assert_eq!(said, "zerogpu: no-such-program was not found; check its name and PATH\n");
        let said = stage.complains(126, &["run", "--trace", trace, "./data"]);
        assert_eq!(said, "zerogpu: ./data is not executable; check its permissions\n");
    }
}

fn arguments_arrive_as_they_are() {
    let stage = Stage::new();
    let mut command = stage.zerogpu(&["run", "printf", "%s|", "--vram", "--", "-x", "a b", ""]);
    let output = command.arg(OsStr::from_bytes(b"\xff")).output().unwrap();
    assert_eq!(output.stdout, b"--vram|--|-x|a b||\xff|");
}

fn a_missing_library_is_named_with_the_way_out() {
    let stage = Stage::new();
    fs::remove_file(stage.path("lib/libcuda.so")).unwrap();
    let said = stage.complains(1, &["run", "true"]);
    assert_eq!(
        said,
        format!(
            "zerogpu: {} lacks libcuda.so; point --lib or ZEROGPU_LIB to the folder that holds them\n",
            stage.lib()
        )
    );
    assert!(stage.complains(1, &["run", "--lib", "/no/such", "true"]).contains("/no/such lacks"));
    fs::remove_dir_all(stage.path("lib/python")).unwrap();
    stage.library("lib/libcuda.so", "libcuda.so", "");
    let spaced = stage.path("with space");
    fs::rename(stage.path("lib"), &spaced).unwrap();
    assert!(stage.complains(1, &["run", "--lib", "with space", "true"]).contains("install zerogpu elsewhere"));
}

fn a_wrong_variable_is_named_and_the_program_runs() {
    let stage = Stage::new();
    let mut command = stage.zerogpu(&["run", "echo", "runs"]);
    let output = command.env("ZEROGPU_VRAM", "many").output().unwrap();
    assert_eq!(text(&output.stdout), "runs\n");
    assert!(complaint(0, &output).starts_with("zerogpu: ZEROGPU_VRAM=many is ignored: "));
    let mut command = stage.zerogpu(&["run", "--vram", "1GiB", "true"]);
    assert_eq!(complaint(0, &command.env("ZEROGPU_VRAM", "many").output().unwrap()), "", "the option counts");
}

fn what_cargo_built_is_used_through_links() {
    let stage = Stage::new();
    let names = [
        ("libcuda.so.1", "libzerogpu.so"),
        ("libcuda.so", "libzerogpu_alias.so"),
        ("libnvidia-ml.so.1", "libzerogpu_nvml.so"),
    ];
    fs::create_dir(stage.path("built")).unwrap();
    for (name, built) in names {
        fs::rename(stage.path("lib").join(name), stage.path("built").join(built)).unwrap();
    }
    let maps = stage.prints(&["run", "--lib", "built", "cat", "/proc/self/maps"]);
    for (name, built) in names {
        assert!(maps.contains(&format!("{}\n", stage.path("built").join(built).display())), "{built}");
        assert!(stage.path("built/zerogpu-lib").join(name).exists());
    }
}
