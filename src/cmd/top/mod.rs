//! `zerogpu top`: the broker's status, live.

mod view;

use super::status::{read, socket, text, Watcher};
use anyhow::Result;
use nix::sys::signal::{signal, SigHandler, Signal};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use view::{draw, Seen};

/// Watch the cards, who holds them, and who waits
///
/// Shows what `zerogpu status` does, and what moves, until q is pressed. Where the output is no terminal it prints the status
/// once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The broker's socket. Without it: this user's usual place, else the system's. [ZEROGPU_SOCKET]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Time between two looks, as in 500ms or 2s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    every: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let shortest = Duration::from_millis(50);
    zerogpu_settings::duration(text).map(|time| time.max(shortest))
}

/// Shows the status until the user has seen enough.
pub fn run(args: &Args) -> Result<()> {
    let socket = socket(args.socket.as_deref())?;
    let mut watcher = Watcher::connect(&socket)?;
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Ok(write!(std::io::stdout(), "{}", text(&read(&watcher.ask()?)?))?);
    }
    for ends in [Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only sets a flag.
        unsafe { signal(ends, SigHandler::Handler(end)) }?;
    }
    // also sets a panic hook that restores the terminal
    let mut terminal = ratatui::try_init()?;
    let done = watch(&mut terminal, watcher, &socket, args.every);
    ratatui::restore();
    done
}

/// Whether a signal has asked for the end: the terminal is to be as it was.
static ENDS: AtomicBool = AtomicBool::new(false);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(200);

extern "C" fn end(_: i32) {
    ENDS.store(true, Ordering::Relaxed);
}

fn watch(terminal: &mut DefaultTerminal, watcher: Watcher, socket: &Path, every: Duration) -> Result<()> {
    let mut watcher = Some(watcher);
    let mut seen = Seen::default();
    while !ENDS.load(Ordering::Relaxed) {
        let next = Instant::now() + every;
        match look(&mut watcher, socket) {
            Ok(status) => seen.add(status, Instant::now()),
            // the next broker is found here too
            Err(error) => {
                watcher = None;
                seen.trouble = Some(format!("{error:#}"));
            }
        }
        terminal.draw(|frame| draw(frame, &seen))?;
        while !ENDS.load(Ordering::Relaxed) {
            let left = next.saturating_duration_since(Instant::now());
            if !event::poll(left.min(LOOK))? {
                if left <= LOOK {
                    break;
                }
                continue;
            }
            let event = event::read()?;
            if ends(&event) {
                return Ok(());
            }
            if let Event::Resize(..) = event {
                terminal.draw(|frame| draw(frame, &seen))?;
            }
        }
    }
    Ok(())
}

fn look(watcher: &mut Option<Watcher>, socket: &Path) -> Result<crate::broker::Status> {
    let connected = match watcher.take() {
        Some(connected) => connected,
        None => Watcher::connect(socket)?,
    };
    read(&watcher.insert(connected).ask()?)
}

fn ends(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press
        && match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => control,
            _ => false,
        }
}
