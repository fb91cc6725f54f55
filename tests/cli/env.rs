//! `zerogpu env`.

use crate::stage::{text, Stage};
use std::process::Command;

crate::tests![
    a_shell_takes_the_variables,
    a_container_gets_only_ours,
    json_is_one_object,
    a_folder_that_is_not_absolute_is_refused
];

fn a_shell_takes_the_variables() {
    let stage = Stage::new();
    let lib = stage.lib();
    let script = format!(
        "unset PYTHONPATH LD_PRELOAD ZEROGPU_LIB; eval \"$('{0}' env --lib '{lib}' --vram 1GiB)\"; eval \"$('{0}' env)\"; \
         echo $LD_PRELOAD; echo $LD_LIBRARY_PATH; echo $ZEROGPU_VRAM; env | grep -c ^LD_PRELOAD=",
        env!("CARGO_BIN_EXE_zerogpu")
    );
    let output = Command::new("sh").arg("-c").arg(script).env("LD_LIBRARY_PATH", "/a").output().unwrap();
    let expected = format!("{lib}/libcuda.so.1:{lib}/libcuda.so:{lib}/libnvidia-ml.so.1\n{lib}:/a\n1GiB\n1\n");
    assert_eq!(text(&output.stdout), expected, "{output:?}");
    assert_eq!(text(&output.stderr), "");
}

fn a_container_gets_only_ours() {
    let stage = Stage::new();
    stage.library("lib/libsoftcuda.so", "libsoftcuda.so", "");
    let mut command = stage.zerogpu(&["env", "--format", "docker", "--at", "/zg", "--driver", "soft"]);
    let output = command.env("LD_LIBRARY_PATH", "/outside").output().unwrap();
    let expected = "LD_PRELOAD=/zg/libcuda.so.1:/zg/libcuda.so:/zg/libnvidia-ml.so.1\n\
                    LD_LIBRARY_PATH=/zg\nLIBRARY_PATH=/zg\nPYTHONPATH=/zg/python\nZEROGPU_LIB=/zg\nZEROGPU_DRIVER=/zg/libsoftcuda.so\n";
    assert_eq!(text(&output.stdout), expected);
}

fn json_is_one_object() {
    let stage = Stage::new();
    let object: serde_json::Value =
        serde_json::from_str(&stage.prints(&["env", "--format", "json", "--driver", "auto"])).unwrap();
    assert_eq!(object["ZEROGPU_DRIVER"], "auto");
    assert_eq!(object["LD_LIBRARY_PATH"], stage.lib());
    assert_eq!(object.as_object().unwrap().len(), 6);
}

fn a_folder_that_is_not_absolute_is_refused() {
    let stage = Stage::new();
    assert!(stage.complains(1, &["env", "--at", "zg"]).contains("is not absolute"));
}
