//! `zerogpu trace`: reads and completes what `ZEROGPU_TRACE` wrote.
use anyhow::Context;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use zerogpu_trace::{recover, Order, Summary, Timeline};

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
    /// Write a timeline as one HTML page, to open in a browser: when the GPU was held, calls, bytes on the card
    View {
        /// A trace of any form
        file: PathBuf,
        /// The page; - is standard output. Default: FILE.html
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// What stands at the head of the page. Default: the program's command line
        #[arg(long)]
        title: Option<String>,
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
        Command::View { file, output, title } => view(&file, output, title.as_deref())?,
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

/// A trace of this size takes seconds to read.
const BIG: u64 = 32 << 20;

fn view(file: &Path, output: Option<PathBuf>, title: Option<&str>) -> anyhow::Result<()> {
    let size = file.metadata().map_or(0, |m| m.len());
    if size >= BIG {
        eprintln!("zerogpu: reading {}, {} MiB", file.display(), size >> 20);
    }
    let timeline = Timeline::read(file, title)?;
    for note in timeline.notes() {
        eprintln!("zerogpu: note: {note}");
    }
    if output.as_deref() == Some(Path::new("-")) {
        let mut page = BufWriter::new(std::io::stdout().lock());
        timeline.write(&mut page)?;
        return Ok(page.flush()?);
    }
    let output = output.unwrap_or_else(|| {
        let mut name = file.as_os_str().to_owned();
        name.push(".html");
        name.into()
    });
    if let (Ok(input), Ok(output)) = (file.canonicalize(), output.canonicalize()) {
        anyhow::ensure!(
            input != output,
            "{}: this is the trace itself; name another file with --output",
            file.display()
        );
    }
    let written = || -> std::io::Result<u64> {
        let mut page = BufWriter::new(File::create(&output)?);
        timeline.write(&mut page)?;
        page.into_inner()?.metadata().map(|m| m.len())
    };
    let bytes = written().with_context(|| format!("{}: can't be written", output.display()))?;
    println!("{}: {} events, {} KiB", output.display(), timeline.events(), bytes.div_ceil(1024));
    Ok(())
}
