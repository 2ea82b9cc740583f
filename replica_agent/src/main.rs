//! The program: parse, start logging, run, exit status; nothing else.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use replica_agent::{cli, logging};

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help that is piped into something that has gone is no error.
            e.print().ok();
            return ExitCode::from(e.exit_code() as u8);
        }
    };
    logging::start(cli.asked());
    cli::run(&cli).unwrap_or_else(|e| {
        match logging::is_json() {
            true => log::error!("{}", e.report()),
            false => drop(writeln!(std::io::stderr(), "{}", e.report())),
        }
        cli::exit_code(&e)
    })
}
