//! What is on the screen. Everything fits in 80 columns and 24 lines: what does not is counted.

use crate::broker::Status;
use crate::cmd::status::{held_back, mib, name_of, standing, time};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};
use ratatui::Frame;
use std::time::Instant;
use zerogpu_lease::{CardReport, State};

/// What was seen last, and what moved since the time before.
#[derive(Default)]
pub struct Seen {
    last: Option<(Status, Instant)>,
    rates: Option<Rates>,
    /// Why nothing newer was seen.
    pub trouble: Option<String>,
}

/// Per second.
struct Rates {
    bytes_in: f64,
    bytes_out: f64,
    leases: f64,
}

impl Seen {
    /// Adds a look.
    pub fn add(&mut self, status: Status, at: Instant) {
        self.rates = self.last.as_ref().and_then(|(before, then)| {
            let seconds = at.saturating_duration_since(*then).as_secs_f64();
            // another broker counts anew
            (before.broker == status.broker && seconds > 0.0).then(|| {
                let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
                Rates {
                    bytes_in: rate(status.totals.bytes_in, before.totals.bytes_in),
                    bytes_out: rate(status.totals.bytes_out, before.totals.bytes_out),
                    leases: rate(status.totals.leases, before.totals.leases),
                }
            })
        });
        self.last = Some((status, at));
        self.trouble = None;
    }
}

/// Draws one frame.
pub fn draw(frame: &mut Frame, seen: &Seen) {
    let head = Layout::vertical([Constraint::Length(2), Constraint::Fill(1)]);
    let [top, rest] = head.areas(frame.area());
    let Some((status, _)) = &seen.last else {
        frame.render_widget(Paragraph::new(seen.trouble.as_deref().unwrap_or("looking")), top);
        return;
    };
    frame.render_widget(Paragraph::new(title(status, seen)), top);
    let width = rest.width.saturating_sub(2) as usize;
    let sections = [
        (" Cards: █ leased ▒ warm · free ".to_string(), cards(status, width)),
        (format!(" Waiting: {} ", status.scheduler.queue.len()), queue(status)),
        (spaces_title(status), spaces(status)),
    ];
    let heights = share(rest.height, [0, 1, 2].map(|i| sections[i].1.len()));
    let mut y = rest.y;
    for ((title, lines), height) in sections.into_iter().zip(heights) {
        let area = Rect { y, height, ..rest };
        y += height;
        let inside = usize::from(height.saturating_sub(2));
        frame.render_widget(Paragraph::new(fit(lines, inside)).block(Block::bordered().title(title)), area);
    }
}

/// How many lines of the screen each section gets, borders included: the first ones what they need, up to half of what is
/// left, and the last the rest.
fn share(height: u16, needs: [usize; 3]) -> [u16; 3] {
    let border = 2;
    let need = |lines: usize| u16::try_from(lines.max(1)).unwrap_or(u16::MAX).saturating_add(border);
    let cards =
        need(needs[0]).min((height / 2).max(height.saturating_sub(need(needs[1])).saturating_sub(need(needs[2]))));
    let left = height - cards.min(height);
    let queue = need(needs[1]).min((left / 2).max(left.saturating_sub(need(needs[2]))));
    [cards, queue, left - queue]
}

/// The first lines, and how many there are beyond.
fn fit(mut lines: Vec<Line<'static>>, room: usize) -> Vec<Line<'static>> {
    if lines.len() > room {
        let beyond = lines.len() - room.saturating_sub(1);
        lines.truncate(room.saturating_sub(1));
        lines.push(Line::from(format!("  ... and {beyond} lines more")).dim());
    }
    lines
}

fn title(status: &Status, seen: &Seen) -> Vec<Line<'static>> {
    let driver = status.driver.rsplit('/').next().unwrap_or_default().to_owned();
    let first = format!(
        "zerogpu {} broker, pid {}, up {}; {driver}; q quits",
        status.version,
        status.pid,
        time(status.scheduler.at)
    );
    let second = match (&seen.trouble, &seen.rates) {
        (Some(trouble), _) => Line::from(trouble.clone()).red(),
        _ if status.scheduler.held > 0.0 => Line::from(held_back(status.scheduler.held)).yellow(),
        (None, Some(rates)) => Line::from(format!(
            "in {:.2} GB/s   out {:.2} GB/s   {:.1} leases/s   {} leases, {} denied, {} ended",
            rates.bytes_in / 1e9,
            rates.bytes_out / 1e9,
            rates.leases,
            status.totals.leases,
            status.totals.denied,
            status.totals.killed
        )),
        (None, None) => Line::from("measuring"),
    };
    vec![Line::from(first).bold(), second]
}

fn cards(status: &Status, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for card in &status.scheduler.cards {
        let label = status.cards.get(card.card.0 as usize).map_or("", |card| card.name.as_str());
        let before = format!("{:>2} {label:<22.22} ", card.card.0);
        let used = format!(" {:>5.1} + {:>5.1} of {:>5.1} GiB", gib(card.leased), gib(card.warm), gib(card.bytes));
        let mut line = vec![Span::from(before.clone())];
        line.extend(bar(card, width.saturating_sub(before.len() + used.len())));
        line.push(Span::from(used));
        lines.push(Line::from(line));
        for holder in &card.holders {
            let left = standing(status, holder);
            let kind = if holder.borrowed { ", borrowed" } else { "" };
            let name = name_of(status, holder.space);
            let text =
                format!("   {name:<32.32} {:>10}  for {}, {left}{kind}", mib(holder.bytes), time(holder.seconds));
            let amiss = holder.overdue || holder.ending;
            lines.push(Line::from(text).style(if amiss { Style::new().red() } else { Style::new() }));
        }
    }
    lines
}

/// A card's memory as a bar: what there is at all has a cell.
fn bar(card: &CardReport, width: usize) -> Vec<Span<'static>> {
    let cells = |bytes: u64| match bytes {
        0 => 0,
        bytes => ((bytes as f64 / card.bytes.max(1) as f64 * width as f64).round() as usize).max(1),
    };
    let leased = cells(card.leased).min(width);
    let warm = cells(card.warm).min(width - leased);
    vec![
        Span::from("█".repeat(leased)).green(),
        Span::from("▒".repeat(warm)).yellow(),
        Span::from("·".repeat(width - leased - warm)).dim(),
    ]
}

fn queue(status: &Status) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for waiting in &status.scheduler.queue {
        let estimate = waiting.estimate.map_or_else(String::new, |s| format!(", ~{} more", time(s)));
        let name = name_of(status, waiting.space);
        lines.push(Line::from(format!(
            "{:>2} {name:<24.24} {:>9}  asks {}, waited {}{estimate}",
            waiting.place,
            mib(waiting.bytes),
            time(waiting.seconds),
            time(waiting.waited)
        )));
    }
    lines
}

fn spaces_title(status: &Status) -> String {
    format!(
        " Spaces: {} attached; host memory {:.1} of {:.1} GiB ",
        status.scheduler.spaces.len(),
        gib(status.host_reserved),
        gib(status.host_memory)
    )
}

/// Spaces that neither compute nor wait: warm ones, then parked ones.
fn spaces(status: &Status) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for card in &status.scheduler.cards {
        for resident in card.residents.iter().rev() {
            let (name, bytes) = (name_of(status, resident.space), mib(resident.bytes));
            let text = format!("   {name:<32.32} {bytes:>10}  warm on {} for {}", card.card, time(resident.seconds));
            lines.push(Line::from(text).yellow());
        }
    }
    for space in status.scheduler.spaces.iter().filter(|space| space.state == State::Parked) {
        let program = status.programs.iter().find(|program| program.space == space.space.0);
        let bytes = mib(program.map_or(0, |program| program.host_bytes));
        lines
            .push(Line::from(format!("   {:<32.32} {bytes:>10}  parked in host memory", name_of(status, space.space))));
    }
    lines
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{CardName, Program, Totals};
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;
    use std::time::Duration;
    use zerogpu_lease::{Action, CardSpec, Claim, Policy, Scheduler, SpaceSpec};

    const GIB: u64 = 1 << 30;

    /// One Space computes, one is warm, one waits, and `parked` more do nothing.
    fn status(parked: usize) -> Status {
        let card = CardSpec { kind: (8, 0), bytes: 8 * GIB };
        let mut scheduler = Scheduler::new(Policy::default(), &[card]);
        let at = Duration::from_secs;
        let attach = |scheduler: &mut Scheduler| {
            scheduler.attach(at(0), "uid-0", SpaceSpec { kind: (8, 0), vram: 8 * GIB }).unwrap()
        };
        let spaces: Vec<_> = (0..3 + parked).map(|_| attach(&mut scheduler)).collect();
        let claim = |bytes, seconds| Claim { seconds, bytes, wait: None, borrowed: false };
        scheduler.claim(at(1), spaces[0], claim(2 * GIB, 10.0)).unwrap();
        let Some(Action::Grant(first)) = scheduler.poll(at(1)).into_iter().next() else { panic!("no grant") };
        scheduler.release(at(2), first.lease, 2 * GIB);
        scheduler.claim(at(3), spaces[1], claim(4 * GIB, 60.0)).unwrap();
        assert!(matches!(scheduler.poll(at(3)).first(), Some(Action::Grant(_))));
        scheduler.claim(at(4), spaces[2], claim(GIB, 30.0)).unwrap();
        assert!(scheduler.poll(at(4)).is_empty());
        let name = |(i, space): (usize, &zerogpu_lease::SpaceId)| Program {
            space: space.0,
            name: format!("program-{i}.py"),
            pid: 100 + i as i32,
            uid: 0,
            host_bytes: GIB,
            pinned: 0,
            parting: None,
            bound_by: None,
            aside: false,
        };
        Status {
            version: "1.2.3".into(),
            broker: 7,
            pid: 99,
            driver: "/lib/libsoftcuda.so".into(),
            software_cards: None,
            host_memory: 64 * GIB,
            host_reserved: 3 * GIB,
            totals: Totals { leases: 10, bytes_in: 5_000_000_000, bytes_out: 1_000_000_000, ..Totals::default() },
            cards: vec![CardName { name: "NVIDIA A100-SXM4-40GB".into(), uuid: String::new(), bytes: 8 * GIB }],
            programs: spaces.iter().enumerate().map(name).collect(),
            scheduler: scheduler.report(at(5)),
        }
    }

    fn screen(seen: &Seen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, seen)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_tells_all_in_80_columns() {
        let mut seen = Seen::default();
        let start = Instant::now();
        seen.add(status(1), start);
        assert!(screen(&seen, 80, 24).contains("measuring"));
        let mut later = status(1);
        later.totals.bytes_in += 3_000_000_000;
        later.totals.leases += 5;
        seen.add(later, start + Duration::from_secs(2));
        let screen = screen(&seen, 80, 24);
        for part in [
            "zerogpu 1.2.3 broker, pid 99, up 5.0 s; libsoftcuda.so; q quits",
            "in 1.50 GB/s   out 0.00 GB/s   2.5 leases/s",
            " 0 NVIDIA A100-SXM4-40GB  █",
            "▒▒",
            "program-1.py (pid 101)",
            "58 s left",
            " Waiting: 1 ",
            " 1 program-2.py (pid 102)",
            "asks 30 s, waited 1.0 s, ~53 s more",
            "program-0.py (pid 100)             2048 MiB  warm on",
            "program-3.py (pid 103)             1024 MiB  parked in host memory",
            "host memory 3.0 of 64.0 GiB",
        ] {
            assert!(screen.contains(part), "{part} is missing in\n{screen}");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut seen = Seen::default();
        seen.add(status(40), Instant::now());
        let shown = screen(&seen, 80, 24);
        assert!(shown.contains("lines more") && shown.contains("program-2.py"), "{shown}");
        for (width, height) in [(1, 1), (10, 3), (40, 8), (200, 60)] {
            screen(&seen, width, height);
        }
    }

    #[test]
    fn a_broker_that_went_is_told_and_another_counts_anew() {
        let mut seen = Seen { trouble: Some("no broker answers".into()), ..Seen::default() };
        assert!(screen(&seen, 80, 24).contains("no broker answers"));
        seen.add(status(0), Instant::now());
        seen.trouble = Some("no broker answers".into());
        let shown = screen(&seen, 80, 24);
        assert!(shown.contains("no broker answers") && shown.contains("program-1.py"), "what was seen last stays");
        seen.add(Status { broker: 8, ..status(0) }, Instant::now() + Duration::from_secs(1));
        assert!(seen.rates.is_none() && seen.trouble.is_none());
    }
}
