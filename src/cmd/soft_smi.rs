//! `zerogpu soft-smi`: what is on the software cards.

use anyhow::Result;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use zerogpu_cards::{Card, Cards, Process, Snapshot};
use zerogpu_profile::Profile;
use zerogpu_settings::SoftSettings;

/// Show the software cards and the processes on them
///
/// Where no process has used them yet, the cards are shown as the settings say they will be.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// File of the cards. [SOFTCUDA_CARDS]
    #[arg(long, value_name = "PATH")]
    cards: Option<PathBuf>,
}

/// Prints the cards.
pub fn run(args: &Args) -> Result<()> {
    let (settings, complaints) = SoftSettings::from_env();
    for complaint in complaints {
        eprintln!("zerogpu: {complaint}");
    }
    let path = args.cards.as_ref().unwrap_or(&settings.cards);
    let snapshot = match Cards::look(path) {
        Ok(cards) => cards.snapshot()?,
        Err(error) if error.kind() == ErrorKind::NotFound => idle(&settings),
        Err(error) => return Err(error.into()),
    };
    let text = if args.json { serde_json::to_string(&snapshot)? + "\n" } else { table(&snapshot, path, &process_name) };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn idle(settings: &SoftSettings) -> Snapshot {
    let (profile, complaint) = Profile::chosen(settings.profile.as_deref(), settings.vram);
    if let Some(complaint) = complaint {
        eprintln!("zerogpu: {complaint}");
    }
    Snapshot::idle(settings.count.unwrap_or(1), profile.total_bytes, profile.name)
}

fn process_name(pid: u32) -> String {
    // It may be of another container, or gone.
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.is_empty() {
        "-".to_string()
    } else {
        name.trim_end().to_string()
    }
}

/// Width between the outer bars.
const WIDTH: usize = 77;

fn table(snapshot: &Snapshot, path: &Path, name_of: &dyn Fn(u32) -> String) -> String {
    let mut text = String::new();
    let rule = |text: &mut String, line: &str| writeln!(text, "{line}").expect("a String takes all");
    let full = format!("+{}+", "-".repeat(WIDTH));
    rule(&mut text, &full);
    rule(
        &mut text,
        &row(&format!("SOFT-SMI {}", env!("CARGO_PKG_VERSION")), "software cards: they run copies, no kernels"),
    );
    rule(&mut text, &row("Cards:", &path.display().to_string()));
    rule(&mut text, &format!("|{}|", "-".repeat(WIDTH)));
    rule(&mut text, &row("GPU  Name", &format!("{:>23} | {:>8}", "Memory-Usage", "Contexts")));
    rule(&mut text, &format!("|{}|", "=".repeat(WIDTH)));
    for Card { index, name, bytes_total, bytes_used, contexts, .. } in &snapshot.cards {
        let memory = format!("{}MiB / {}MiB", mebibytes(*bytes_used), bytes_total >> 20);
        rule(&mut text, &row(&format!("{index:>3}  {name}"), &format!("{memory:>23} | {contexts:>8}")));
    }
    rule(&mut text, &full);
    text.push('\n');
    rule(&mut text, &full);
    rule(&mut text, &row("Processes:", ""));
    rule(&mut text, &row("GPU       PID  Process name", &format!("{:>8} | {:>16}", "Contexts", "GPU Memory Usage")));
    rule(&mut text, &format!("|{}|", "=".repeat(WIDTH)));
    let processes = snapshot.cards.iter().flat_map(|card| card.processes.iter().map(move |process| (card, process)));
    for (card, Process { pid, bytes_used, contexts }) in processes.clone() {
        let left = format!("{:>3}  {pid:>8}  {}", card.index, name_of(*pid));
        rule(&mut text, &row(&left, &format!("{contexts:>8} | {:>13}MiB", mebibytes(*bytes_used))));
    }
    if processes.count() == 0 {
        rule(&mut text, &row("No running processes found", ""));
    }
    rule(&mut text, &full);
    text
}

/// Rounded up: what is on a card never shows as nothing.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// A line with text at both ends. What is too long on the left is cut.
fn row(left: &str, right: &str) -> String {
    let room = WIDTH.saturating_sub(right.chars().count() + 3);
    let left: String = left.chars().map(|c| if c.is_control() { '?' } else { c }).take(room).collect();
    format!("| {left:<room$} {right} |")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::idle(2, 40 << 30, "NVIDIA A100-SXM4-40GB");
        let card = &mut snapshot.cards[1];
        (card.bytes_used, card.contexts) = ((3 << 30) + 1, 2);
        card.processes = vec![
            Process { pid: 17, bytes_used: 3 << 30, contexts: 1 },
            Process { pid: 4_194_304, bytes_used: 1, contexts: 1 },
        ];
        snapshot
    }

    #[test]
    fn the_table_is_the_one_people_know() {
        let names = |pid: u32| if pid == 17 { "python".to_string() } else { "-".to_string() };
        let expected = "\
+-----------------------------------------------------------------------------+
| SOFT-SMI 0.1.0                   software cards: they run copies, no kernels |
| Cards:                                                                   /c |
|-----------------------------------------------------------------------------|
| GPU  Name                                            Memory-Usage | Contexts |
|=============================================================================|
|   0  NVIDIA A100-SXM4-40GB                     0MiB / 40960MiB |        0 |
|   1  NVIDIA A100-SXM4-40GB                  3073MiB / 40960MiB |        2 |
+-----------------------------------------------------------------------------+
";
        let text = table(&snapshot(), Path::new("/c"), &names);
        let squeezed = |text: &str| {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(squeezed(&text)[..9], squeezed(expected)[..9], "{text}");
        assert!(text.contains("  1        17  python"), "{text}");
        assert!(text.contains("3072MiB") && text.contains("1MiB |\n"), "{text}");
        assert!(text.lines().all(|line| line.is_empty() || line.chars().count() == WIDTH + 2), "{text}");
    }

    #[test]
    fn idle_cards_and_odd_names_keep_the_form() {
        let text = table(&Snapshot::idle(1, 1, &"long\n\u{1b}[31m".repeat(20)), Path::new("/c"), &|_| String::new());
        assert!(text.contains("No running processes found"));
        assert!(text.lines().all(|line| line.is_empty() || line.chars().count() == WIDTH + 2), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
