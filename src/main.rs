use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use clap::Parser;
use lumpd::cli::{self, CommandLine};

fn main() -> ExitCode {
    lumpd::device::let_idle_threads_sleep();
    let line = CommandLine::parse();
    let mut out = stdout();
    match line.run(&mut out).and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = cli::code(&error);
            if code != 0 {
                cli::report(&error, &mut stderr());
            }
            ExitCode::from(code)
        }
    }
}
