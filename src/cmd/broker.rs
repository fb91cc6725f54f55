//! `zerogpu broker`: the daemon of a node.

use crate::broker::{self, Config};
use crate::environment::LibChoice;
use crate::find::READY;
use anyhow::{Context, Result};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;
use zerogpu_cards::{Cards, Wish};
use zerogpu_profile::Profile;
use zerogpu_settings::{driver_path, Driver, SoftSettings, MAX_CARDS};

/// Share the GPUs of this machine among programs: queue, leases, memory
///
/// Programs find it with `zerogpu run --socket PATH`. One broker serves all cards of the driver. It ends by SIGTERM or SIGINT
/// once bytes that travel have arrived; programs keep theirs and find the next broker. SIGHUP reads the configuration
/// again. The log goes to standard error; RUST_LOG=debug says more.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where programs connect, and beside which the broker's files lie; a socket that systemd passes is used instead, wherever it
    /// is. Without it: the configuration's, else /run/zerogpu/broker.sock for root, for others $XDG_RUNTIME_DIR/zerogpu/broker.sock
    /// or /tmp/zerogpu-UID/broker.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Configuration in TOML; packaging/zerogpu.toml shows each key. Without it: the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The driver: auto (the machine's own), soft (software cards), or the path of a library. Without it: the
    /// configuration's, else auto
    #[arg(long, value_name = "auto|soft|PATH")]
    driver: Option<String>,
    /// How many software cards, with --driver soft. Programs find the same. Without it: as many as there are, else 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CARDS)))]
    cards: Option<u32>,
    /// Memory of each software card, with --driver soft, as in 40GiB. Without it: as there is, else that
    /// of SOFTCUDA_PROFILE, an A100 of 40 GB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    vram: Option<String>,
    /// Serve metrics for Prometheus here, as in 127.0.0.1:9464. Without it: the configuration's, else none
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// The longest call, in seconds. Without it: the configuration's, else 120
    #[arg(long, value_name = "SECONDS")]
    max_seconds: Option<f64>,
    /// End after this time without programs, as in 60s. Without it: the configuration's, else never
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle_exit: Option<String>,
    /// Say so on standard output when programs can connect.
    #[arg(long, hide = true)]
    announce: bool,
    #[command(flatten)]
    lib: LibChoice,
}

fn duration(text: &str) -> Result<String, String> {
    zerogpu_settings::duration(text).map(|_| text.to_string())
}

fn size(text: &str) -> Result<String, String> {
    zerogpu_settings::some_memory(text).map(|_| text.to_string())
}

/// Runs the daemon.
pub fn run(args: Args) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // who reads the log may go away: the cards are lent on
        .log_internal_errors(false)
        .init();
    let mut config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    config.socket = args.socket.or(config.socket);
    config.driver = args.driver.or(config.driver);
    config.metrics = args.metrics.or(config.metrics);
    config.idle_exit = args.idle_exit.or(config.idle_exit);
    config.longest = args.max_seconds;
    let driver = config.driver()?;
    if driver == Driver::Soft {
        software_cards(args.cards, args.vram)?;
    } else if args.cards.is_some() || args.vram.is_some() {
        anyhow::bail!("--cards and --vram make software cards; add --driver soft");
    }
    let install = args.lib.install()?;
    let path =
        driver_path::find(&driver, Some(&install.lib), Some(&install.objects()[0])).map_err(anyhow::Error::msg)?;
    let path =
        path.context("this machine has no CUDA driver; install NVIDIA's, or use --driver soft for software cards")?;
    let announce = || {
        if args.announce {
            // whoever asked for it may be gone
            let _unheard = writeln!(std::io::stdout(), "{READY}");
        }
    };
    broker::serve(config, args.config, &path, announce)
}

/// Makes the software cards, before the driver looks for them. Cards of other sizes that no program uses are made anew.
fn software_cards(count: Option<u32>, vram: Option<String>) -> Result<()> {
    // softcuda reads its settings from the environment, in this process too; nothing runs yet that could look
    for (name, value) in [("SOFTCUDA_COUNT", count.map(|n| n.to_string())), ("SOFTCUDA_VRAM", vram)] {
        if let Some(value) = value {
            std::env::set_var(name, value);
        }
    }
    let (settings, complaints) = SoftSettings::from_env();
    let (profile, complaint) = Profile::chosen(settings.profile.as_deref(), settings.vram);
    complaints.into_iter().chain(complaint).for_each(|complaint| tracing::warn!("{complaint}"));
    let wish = Wish {
        count: settings.count,
        vram: settings.vram.map(|_| profile.total_bytes),
        name: settings.profile.as_ref().map(|_| profile.name),
    };
    Cards::remake(&settings.cards, wish, settings.count.unwrap_or(1), profile.total_bytes, profile.name)?;
    Ok(())
}
