//! `zerogpu trace`: reads and completes what `ZEROGPU_TRACE` wrote.
use std::io::Write;
use std::path::PathBuf;
use zerogpu_trace::{recover, Order, Summary};

/// Read or complete a trace made with ZEROGPU_TRACE
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print a table of calls by count, time, bytes and errors
    Summary {
        /// A JSON-lines or Chrome trace
        file: PathBuf,
        /// What to sort by
        #[arg(long, value_enum, default_value_t = By::Time)]
        by: By,
    },
    /// Complete the trace of a process that was killed, crashed or ended by os._exit
    Recover {
        /// The trace, or its ring (FILE.ring)
        file: PathBuf,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum By {
    Time,
    Count,
    Bytes,
    Errors,
    Name,
}

impl From<By> for Order {
    fn from(by: By) -> Self {
        match by {
            By::Time => Order::Time,
            By::Count => Order::Count,
            By::Bytes => Order::Bytes,
            By::Errors => Order::Errors,
            By::Name => Order::Name,
        }
    }
}

/// Runs `zerogpu trace`.
///
/// # Errors
/// The file can't be read, is no trace, or belongs to a process that still runs.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        // not print!: that panics where the reader of a pipe has seen enough
        Command::Summary { file, by } => write!(std::io::stdout(), "{}", Summary::read(&file, by.into())?)?,
        Command::Recover { file } => match recover(&file)? {
            None => println!("{}: complete, nothing to recover", file.display()),
            Some(done) => {
                let output = done.output.map_or("standard error".into(), |o| o.display().to_string());
                println!("{output}: {} records recovered, {} lost", done.records, done.lost);
            }
        },
    }
    Ok(())
}
