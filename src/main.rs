//! The daemon's entry: what the command line asks for.

use std::process::ExitCode;

use varved::cmdline::{self, Action};
use varved::{config, log_notice, log_warning, logger};

fn main() -> ExitCode {
    let invocation = match cmdline::parse(std::env::args_os().skip(1)) {
        Ok(Action::Serve(invocation)) => invocation,
        Ok(Action::Version) => return print(&cmdline::version()),
        Ok(Action::Help) => return print(cmdline::HELP),
        Ok(Action::PrintDefaultConfig) => return print(config::manual::default_file().trim_end()),
        Ok(Action::PrintManual) => return print(config::manual::page().trim_end()),
        Err(error) => return fail(&error),
    };
    let loaded = match config::load(&invocation) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error.to_string()),
    };
    if let Err(error) = logger::init(&loaded.config.logfile, loaded.config.loglevel) {
        return fail(&format!("Can't open the log file: {error}"));
    }
    for notice in &loaded.notices {
        log_warning!("{notice}");
    }
    log_notice!("Configuration loaded");
    ExitCode::SUCCESS
}

fn print(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

fn fail(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}
