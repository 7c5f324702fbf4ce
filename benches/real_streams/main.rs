//! lumpd on real images, from the outside: the built binary is started, fed and asked, and its answers are scored.
//!
//! ```text
//! cargo bench --bench real_streams -- DATA [gtsrb|cifar10] [--preset P] [--per-task N] [--rate R] [--settle SECONDS] [--set KEY=VALUE]...
//! ```
//!
//! DATA holds `gtsrb-tracks/` (frames/*.png, manifest.tsv) and `cifar-10-batches-bin/` (data_batch_*.bin, test_batch.bin) as
//! their authors publish them. GTSRB frames are copied one by one into a watched folder, in the order of the manifest; every
//! fourth track of a sign is held out. CIFAR-10 is sent as PNG files over the socket, task after task of two classes.
//!
//! The encoder is scored on images it never saw: weighted KNN (k 200, temperature 0.1) over a bank of images, embedded through
//! the API by the published encoder after the run and by the randomly initialised one of a fresh daemon.

mod cifar;
mod daemon;
mod gtsrb;
mod score;

use std::path::PathBuf;
use std::process::ExitCode;

/// What the command line asks for.
pub struct Options {
    /// Folder of the image sets.
    pub data: PathBuf,
    /// Encoder preset.
    pub preset: String,
    /// Images of a CIFAR-10 task.
    pub per_task: usize,
    /// Frames a second that are fed.
    pub rate: f64,
    /// Seconds of rehearsal after the stream has ended.
    pub settle_seconds: u64,
    /// Further settings for the daemon.
    pub settings: Vec<String>,
    streams: Vec<String>,
}

impl Options {
    /// Arguments of `lumpd run`: a source, if any, and the settings.
    pub fn arguments(&self, source: &[String]) -> Vec<String> {
        let preset = format!("encoder.preset={}", self.preset);
        let settings = std::iter::once(&preset).chain(&self.settings).flat_map(|s| ["--set".to_owned(), s.clone()]);
        source.iter().cloned().chain(settings).collect()
    }
}

fn options() -> Result<Options, String> {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let mut options = Options {
        data: PathBuf::new(),
        preset: "resnet18-w16".into(),
        per_task: 3000,
        rate: 60.0,
        settle_seconds: 30,
        settings: Vec::new(),
        streams: Vec::new(),
    };
    let mut folder = None;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| text.parse::<f64>().map_err(|e| format!("{text}: {e}"));
        match argument.as_str() {
            "--preset" => options.preset = value()?,
            "--per-task" => options.per_task = number(value()?)? as usize,
            "--rate" => options.rate = number(value()?)?,
            "--settle" => options.settle_seconds = number(value()?)? as u64,
            "--set" => options.settings.push(value()?),
            "gtsrb" | "cifar10" => options.streams.push(argument),
            _ if folder.is_none() && !argument.starts_with('-') => folder = Some(PathBuf::from(argument)),
            _ => return Err(format!("{argument} is not understood")),
        }
    }
    options.data = folder.or_else(|| std::env::var_os("LUMPD_DATA").map(PathBuf::from)).ok_or("DATA is missing")?;
    if options.streams.is_empty() {
        options.streams = vec!["gtsrb".into(), "cifar10".into()];
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    for stream in &options.streams {
        let report = match stream.as_str() {
            "gtsrb" => gtsrb::run(options)?,
            _ => cifar::run(options)?,
        };
        print!("{report}");
    }
    Ok(())
}

fn main() -> ExitCode {
    let outcome = options().and_then(|options| {
        if !options.data.is_dir() {
            println!("skipped: {} is no folder; give the folder of the image sets", options.data.display());
            return Ok(());
        }
        run(&options)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // `cargo bench` and `cargo test --benches` start every benchmark without arguments.
        Err(message) if message == "DATA is missing" => {
            println!("skipped: needs a folder of image sets: cargo bench --bench real_streams -- DATA");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("real_streams: {message}");
            ExitCode::FAILURE
        }
    }
}
