//! Keeps `docs/environment.md` in step with the table. `UPDATE_DOCS=1 cargo test -p zerogpu-settings` writes it.

use std::fmt::Write;
use std::path::Path;
use zerogpu_settings::{Variable, VARIABLES};

const HEAD: &str = "# Environment variables

Made from the table in `crates/settings/src/variables.rs` by `UPDATE_DOCS=1 cargo test -p zerogpu-settings`: change it there.

Unset and empty mean the default, except for `CUDA_VISIBLE_DEVICES`, where empty hides every device. A value that can't be
understood is ignored: standard error, the trace and `zerogpu doctor` name it. Sizes are bytes, or a whole number with KiB, MiB, GiB, TiB
(powers of 1024) or kB, MB, GB, TB (powers of 1000). Durations are a number with us, ms, s or min; alone it counts
milliseconds. A relative path is taken from the folder in which the process starts.
";

const FOOT: &str = "
## Set by `zerogpu run` and `zerogpu env`

| variable | what it gets |
|---|---|
| `LD_PRELOAD` | our `libcuda.so.1`, `libcuda.so` and `libnvidia-ml.so.1`, in front of what was there |
| `LD_LIBRARY_PATH` | their folder, in front of what was there: some libraries look for the files |
| `LIBRARY_PATH` | their folder, in front of what was there: Triton 2 builds with `cc -lcuda` |
| `PYTHONPATH` | the folder of the `spaces` hook, in front of what was there |
| `ZEROGPU_LIB` | their folder |
| `ZEROGPU_*` | what the options say; `ZEROGPU_SOCKET` also if `run` found a broker |
| `SOFTCUDA_PROFILE` | the profile of `--profile`, with `--driver soft` |

## Others that are read

| variable | by whom | for what |
|---|---|---|
| `CUDA_MODULE_LOADING` | the virtual device | `EAGER`: what `cuModuleGetLoadingMode` answers; nothing else |
| `LD_LIBRARY_PATH` | shim, `zerogpu doctor` | where the machine's driver is looked for, besides the usual folders |
| `XDG_RUNTIME_DIR` | all | folder of a user's broker (`zerogpu/broker.sock`), its log and its locks, else `/tmp/zerogpu-UID` (of root's `/run/zerogpu`, whatever this says); and of the software cards, else `/dev/shm` |
| `TMPDIR` | traces | folder of the ring of a trace on standard error; `/tmp` without it |
| `SPACES_GRADIO_AUTO_WRAP` | the hook | `1`, `t` or `true`: each handler given to Gradio counts as marked, where Gradio finds itself in a Space (`SYSTEM=spaces`, `SPACE_ID`) |
| `RUST_LOG` | `zerogpu broker` | what its log says: `info` without it, `debug` for more |
| `LISTEN_PID`, `LISTEN_FDS` | `zerogpu broker` | the socket that systemd passes |
| `STATE_DIRECTORY` | `zerogpu broker` | where the use of the last 24 hours is kept, unless `state` says otherwise; systemd sets it |
";

fn section(text: &mut String, title: &str, of: impl Fn(&Variable) -> bool) {
    write!(text, "\n## {title}\n\n| variable | default | values | what it does |\n|---|---|---|---|\n").unwrap();
    for Variable { name, default, values, what } in VARIABLES.iter().filter(|variable| of(variable)) {
        writeln!(text, "| `{name}` | {default} | {values} | {what} |").unwrap();
    }
}

#[test]
fn the_page_is_in_step_with_the_table() {
    let mut text = HEAD.to_string();
    let of_softcuda = |variable: &Variable| variable.name.starts_with("SOFTCUDA_");
    section(&mut text, "The virtual device", |variable| !of_softcuda(variable));
    section(&mut text, "The software driver", of_softcuda);
    text += FOOT;

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/environment.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, &text).unwrap();
    }
    let written = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(written == text, "docs/environment.md is out of step; run UPDATE_DOCS=1 cargo test -p zerogpu-settings");
}
