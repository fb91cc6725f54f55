//! Numbers for Prometheus: `GET /metrics` on an address of the administrator's choice.
//!
//! A thread of its own talks to scrapers, so that a slow one holds up nobody; it asks the daemon for what stands now.
use anyhow::{Context, Result};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use prometheus_client::registry::{Registry, Unit};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerogpu_lease::{Report, State};

/// How long a scraper may take to ask, and to read, in all: one after the other is served.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request's head at most.
const HEAD: u64 = 8 << 10;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfCard {
    card: u32,
    kind: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Way {
    way: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTenant {
    tenant: String,
}

type Seconds = Family<OfTenant, Gauge<f64, AtomicU64>>;

/// What has happened since the broker's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Leases given.
    pub leases: u64,
    /// Claims that got no card.
    pub denied: u64,
    /// Processes ended.
    pub killed: u64,
    /// Bytes copied to cards.
    pub bytes_in: u64,
    /// Bytes copied home.
    pub bytes_out: u64,
}

/// All metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    card_bytes: Family<OfCard, Gauge<u64, AtomicU64>>,
    spaces: Family<OfState, Gauge<u64, AtomicU64>>,
    waiting: Gauge<u64, AtomicU64>,
    tenant_seconds: Seconds,
    granted: Counter,
    wait: Histogram,
    held: Histogram,
    copied: Family<Way, Counter>,
    copying: Family<Way, Counter<f64, AtomicU64>>,
    denied: Counter,
    killed: Family<OfCause, Counter>,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfCause {
    cause: &'static str,
}

/// Why a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It kept a card beyond its time.
    Overdue,
    /// It broke the protocol while it held a card.
    Protocol,
    /// It said that it holds a card when that was another's.
    Late,
    /// It kept memory of a card that it had said to have let go of.
    Memory,
}

impl Cause {
    const ALL: [Cause; 4] = [Cause::Overdue, Cause::Protocol, Cause::Late, Cause::Memory];

    /// What metrics and log call it.
    pub fn label(self) -> &'static str {
        match self {
            Cause::Overdue => "overdue",
            Cause::Protocol => "protocol",
            Cause::Late => "late",
            Cause::Memory => "memory",
        }
    }
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        // 1 ms to 17 min
        let times = || Histogram::new((0..21).map(|n| 0.001 * 2f64.powi(n)));
        let mut all = Metrics {
            registry: Arc::default(),
            card_bytes: Family::default(),
            spaces: Family::default(),
            waiting: Gauge::default(),
            tenant_seconds: Family::default(),
            granted: Counter::default(),
            wait: times(),
            held: times(),
            copied: Family::default(),
            copying: Family::default(),
            denied: Counter::default(),
            killed: Family::default(),
        };
        let mut r = Registry::with_prefix("zerogpu");
        r.register_with_unit("card", "Memory of a card by use", Unit::Bytes, all.card_bytes.clone());
        r.register("spaces", "Attached Spaces by what they do", all.spaces.clone());
        r.register("claims_waiting", "Claims in the queue", all.waiting.clone());
        r.register_with_unit(
            "tenant_used",
            "GPU time of a tenant within 24 hours",
            Unit::Seconds,
            all.tenant_seconds.clone(),
        );
        r.register("leases", "Leases given", all.granted.clone());
        r.register_with_unit("claim_wait", "Time of claims in the queue", Unit::Seconds, all.wait.clone());
        r.register_with_unit("lease_held", "Time from grant to release", Unit::Seconds, all.held.clone());
        r.register_with_unit("copied", "Bytes copied to cards (in) and home (out)", Unit::Bytes, all.copied.clone());
        r.register_with_unit("copying", "Time spent copying", Unit::Seconds, all.copying.clone());
        r.register("claims_denied", "Claims that got no card", all.denied.clone());
        r.register("spaces_killed", "Processes ended, by cause", all.killed.clone());
        all.registry = Arc::new(r);
        all
    }
}

impl Metrics {
    /// A claim got a card.
    pub fn granted(&self, waited: f64) {
        self.granted.inc();
        self.wait.observe(waited);
    }

    /// A claim got none.
    pub fn denied(&self) {
        self.denied.inc();
    }

    /// A process was ended.
    pub fn killed(&self, cause: Cause) {
        self.killed.get_or_create(&OfCause { cause: cause.label() }).inc();
    }

    /// A lease ended.
    pub fn ended(&self, held: Duration) {
        self.held.observe(held.as_secs_f64());
    }

    /// Bytes were copied to a card.
    pub fn brought(&self, bytes: u64, took: Duration) {
        self.moved("in", bytes, took);
    }

    /// Bytes were copied home.
    pub fn taken(&self, bytes: u64, took: Duration) {
        self.moved("out", bytes, took);
    }

    fn moved(&self, way: &'static str, bytes: u64, took: Duration) {
        self.copied.get_or_create(&Way { way }).inc_by(bytes);
        self.copying.get_or_create(&Way { way }).inc_by(took.as_secs_f64());
    }

    /// The counters, for the status.
    pub fn totals(&self) -> Totals {
        let copied = |way| self.copied.get_or_create(&Way { way }).get();
        Totals {
            leases: self.granted.get(),
            denied: self.denied.get(),
            killed: Cause::ALL
                .iter()
                .map(|cause| self.killed.get_or_create(&OfCause { cause: cause.label() }).get())
                .sum(),
            bytes_in: copied("in"),
            bytes_out: copied("out"),
        }
    }

    /// The text that a scraper gets.
    pub fn text(&self, report: &Report) -> Result<String> {
        for card in &report.cards {
            for (kind, bytes) in [("leased", card.leased), ("warm", card.warm), ("free", card.free)] {
                self.card_bytes.get_or_create(&OfCard { card: card.card.0, kind }).set(bytes);
            }
        }
        for (state, name) in
            [(State::Claimed, "claimed"), (State::Waiting, "waiting"), (State::Warm, "warm"), (State::Parked, "parked")]
        {
            let count = report.spaces.iter().filter(|space| space.state == state).count();
            self.spaces.get_or_create(&OfState { state: name }).set(count as u64);
        }
        self.waiting.set(report.queue.len() as u64);
        // a tenant that is long gone is not listed for ever
        self.tenant_seconds.clear();
        for tenant in &report.tenants {
            self.tenant_seconds.get_or_create(&OfTenant { tenant: tenant.tenant.clone() }).set(tenant.used);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Serves scrapers on an address, in a thread of its own; the address, with its port. `ask` gets the text from the daemon.
    pub fn serve(address: SocketAddr, ask: impl Fn() -> Option<String> + Send + 'static) -> Result<SocketAddr> {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("metrics can't be served on {address}; choose another address"))?;
        let address = listener.local_addr()?;
        let serve = move || {
            for stream in listener.incoming() {
                if let Err(e) = stream.and_then(|stream| answer(stream, &ask, PATIENCE)) {
                    tracing::debug!("a scraper was not served: {e}");
                }
            }
        };
        std::thread::Builder::new().name("metrics".into()).spawn(serve).context("no thread for metrics")?;
        Ok(address)
    }
}

/// A connection that ends at a moment, however much of it is heard by then.
struct Until<'a>(&'a TcpStream, Instant);

impl Until<'_> {
    fn left(&self) -> std::io::Result<Option<Duration>> {
        let left = self.1.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(Some(left)).ok_or_else(|| std::io::ErrorKind::TimedOut.into())
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.set_read_timeout(self.left()?)?;
        self.0.read(buffer)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.set_write_timeout(self.left()?)?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn answer(stream: TcpStream, ask: &impl Fn() -> Option<String>, patience: Duration) -> std::io::Result<()> {
    let end = Instant::now() + patience;
    let mut head = BufReader::new(Until(&stream, end).take(HEAD));
    let mut first = String::new();
    head.read_line(&mut first)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let asked = first.split(' ').nth(1).and_then(|target| target.split('?').next());
    let (status, kind, body) = match asked {
        Some("/metrics") => match ask() {
            Some(text) => ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            None => ("503 Service Unavailable", "text/plain", "the broker is ending\n".into()),
        },
        _ => ("404 Not Found", "text/plain", "metrics are at /metrics\n".into()),
    };
    let length = body.len();
    write!(
        Until(&stream, end),
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerogpu_lease::{CardSpec, Policy, Scheduler};

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_slow_scraper_has_its_time_and_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut slow, (stream, _)) =
            (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap());
        let patience = Duration::from_millis(300);
        std::thread::scope(|scope| {
            // a byte now and then, until nobody listens any more
            scope.spawn(move || {
                let end = Instant::now() + Duration::from_secs(20);
                while Instant::now() < end && slow.write_all(b"G").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let start = Instant::now();
            assert!(answer(stream, &|| None, patience).is_err());
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        });
    }

    #[test]
    fn a_scraper_gets_what_stands_now() {
        let metrics = Metrics::default();
        metrics.granted(0.5);
        metrics.brought(1 << 20, Duration::from_millis(10));
        let totals = metrics.totals();
        assert_eq!((totals.leases, totals.bytes_in, totals.bytes_out), (1, 1 << 20, 0));
        let scheduler = Scheduler::new(Policy::default(), &[CardSpec { kind: (8, 0), bytes: 1 << 30 }]);
        let text = metrics.text(&scheduler.report(Duration::ZERO)).unwrap();
        for line in [
            "zerogpu_card_bytes{card=\"0\",kind=\"free\"} 1073741824",
            "zerogpu_copied_bytes_total{way=\"in\"} 1048576",
            "zerogpu_claim_wait_seconds_count 1",
            "zerogpu_leases_total 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        let page = include_str!("../../docs/operations.md");
        let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        for name in &names {
            assert!(page.contains(&format!("| `{name}")), "{name} is not in docs/operations.md");
        }
        for row in page.lines().filter_map(|line| line.strip_prefix("| `")).filter(|row| row.starts_with("zerogpu_")) {
            assert!(names.iter().any(|name| row.starts_with(name)), "there is no metric {row}");
        }
        let at = Metrics::serve("127.0.0.1:0".parse().unwrap(), move || Some(text.clone())).unwrap();
        assert!(get(at, "/metrics").starts_with("HTTP/1.1 200 OK"));
        assert!(get(at, "/metrics?module=gpu").starts_with("HTTP/1.1 200 OK"));
        assert!(get(at, "/").starts_with("HTTP/1.1 404"));
    }
}
