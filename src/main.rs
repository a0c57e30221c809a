//! `varved`: see the crate `varved` for what is in it.

use std::io::Write;
use std::process::ExitCode;
use varved::allocator::Counted;
use varved::cmdline::{self, Action};
use varved::config::{self, load};
use varved::{log_warning, server};

#[global_allocator]
static ALLOCATOR: Counted = Counted(tikv_jemallocator::Jemalloc);

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    let text = match cmdline::parse(arguments) {
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
        Ok(Action::Version) => cmdline::version() + "\n",
        Ok(Action::Help) => cmdline::HELP.to_owned() + "\n",
        Ok(Action::PrintDefaultConfig) => config::manual::default_file(),
        Ok(Action::PrintManual) => config::manual::page(),
        Ok(Action::Serve(invocation)) => {
            let loaded = match load::load(&invocation) {
                Ok(loaded) => loaded,
                Err(why) => {
                    eprintln!("{why}");
                    return ExitCode::FAILURE;
                }
            };
            return match server::start::run(loaded) {
                Ok(code) => code,
                Err(why) => {
                    log_warning!("{why}");
                    ExitCode::FAILURE
                }
            };
        }
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
