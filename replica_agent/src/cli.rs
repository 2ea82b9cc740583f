//! The command line: what can be typed, and which part of the agent each command is.
//!
//! In: arguments. Out: text on stdout, an exit status. Parsing has no effects; `run` has them all.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use log::LevelFilter;

use crate::config::{Config, Slave};
use crate::error::{Error, Kind, Result};
use crate::logging::{self, Format, Scopes};
use crate::pipeline::Mode;
use crate::skip_command::{skip, Wanted};
use crate::wake::Stop;
use crate::{daemon, everywhere, man, recopy, signals};

const AFTER_HELP: &str = "\
Exit status:
  0  done, or stopped by SIGTERM or SIGINT
  1  stopped on an error, a difference or a failed check
  2  usage or configuration

Signals:
  SIGHUP           reads the configuration again; slaves that have not changed do not notice
  SIGTERM, SIGINT  end it in order; a second one at once

Environment:
  RUST_LOG  what is logged, as in RUST_LOG=replica_agent=debug; wins over --verbose and --quiet
  PG*       defaults for what a dsn leaves open, as in libpq (PGHOST, PGUSER, PGPASSFILE, ...)";

/// Applies the log of a PyReplica master to its slaves.
#[derive(Parser, Debug)]
#[command(name = "replica_agent", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// The configuration file, or a directory in which every *.toml is one: a replication of its own
    #[arg(long, short, value_name = "PATH", default_value = "agent.toml", global = true)]
    pub config: PathBuf,

    /// Log each batch, and more
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Log warnings and errors only
    #[arg(long, short, global = true)]
    pub quiet: bool,

    /// The form of log lines; without it as log_format in [agent] says, else plain
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<Format>,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// Replicate until stopped (the default)
    Run,
    /// Apply all that was committed when it started, then exit
    Once,
    /// Verify configuration, connections, privileges and tables; report every problem at once, each with its cure
    Check {
        /// Send a test mail as well, as [mail] says
        #[arg(long)]
        mail: bool,
    },
    /// Make the initial copy of a slave again: empty its captured tables and fill them from the master
    Copy {
        /// Only this slave; all of them without it
        #[arg(long, value_name = "NAME")]
        slave: Option<String>,
        /// Only this table, as schema.name, also while an agent serves the slave; can be given again
        #[arg(long, value_name = "SCHEMA.NAME")]
        table: Vec<String>,
    },
    /// Compare master and slaves row by row, also while they replicate; exit 1 on a difference
    Verify {
        /// Only this slave
        #[arg(long, value_name = "NAME")]
        slave: Option<String>,
        /// Only this table, as schema.name; can be given again
        #[arg(long, value_name = "SCHEMA.NAME")]
        table: Vec<String>,
    },
    /// Set aside what a slave cannot apply: a queued statement, or a whole transaction; shows what is next when none is named
    Skip {
        /// The slave
        #[arg(long, value_name = "NAME")]
        slave: String,
        /// The transaction on the master, as shown without it
        #[arg(long, value_name = "XID")]
        transaction: Option<u64>,
        /// Which of the statements that it queued, if it has several
        #[arg(long, value_name = "N", requires = "transaction", conflicts_with = "whole_transaction")]
        statement: Option<i32>,
        /// All changes of the transaction; the slave then differs from the master
        #[arg(long, requires = "transaction")]
        whole_transaction: bool,
    },
    /// Show where each slave stands, how far behind it is, and what stops it
    Status {
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

impl Cli {
    /// How to log.
    pub fn asked(&self) -> logging::Asked {
        let level = match (self.verbose, self.quiet) {
            (true, _) => Some(LevelFilter::Debug),
            (_, true) => Some(LevelFilter::Warn),
            _ => None,
        };
        let usual = match &self.command {
            // What they find goes to stdout, and nothing else is news.
            Some(Command::Check { .. } | Command::Status { .. } | Command::Skip { .. } | Command::Man) => {
                LevelFilter::Error
            }
            Some(Command::Verify { .. }) => LevelFilter::Warn,
            _ => LevelFilter::Info,
        };
        logging::Asked { level, format: self.log_format, usual }
    }
}

/// Does what was asked for.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    let path = &cli.config;
    let stop = Stop::new();
    match cli.command.clone().unwrap_or(Command::Run) {
        Command::Run => ended(daemon::run(path, Mode::Run, &stop, &signals::listen(&stop)?)),
        Command::Once => ended(daemon::run(path, Mode::Once, &stop, &signals::listen(&stop)?)),
        Command::Check { mail } => everywhere::check(path, mail, &mut print),
        Command::Copy { slave, table } => {
            let config = everywhere::only(path, "copy", slave.as_deref())?;
            signals::listen(&stop)?;
            for slave in chosen(&config, slave.as_deref())? {
                let scope = Scopes::new(config.agent_name(), &config.logging).of(&slave.name);
                logging::within(scope, || match table.as_slice() {
                    [] => recopy::recopy(&config, slave, &stop),
                    tables => recopy::recopy_tables(&config, slave, tables, &stop),
                })?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify { slave, table } => {
            signals::listen(&stop)?;
            everywhere::verify(path, slave.as_deref(), &table, &stop, &mut print)
        }
        Command::Skip { slave, transaction, statement, whole_transaction: whole } => {
            let config = everywhere::only(path, "skip", Some(&slave))?;
            let wanted = Wanted { transaction, statement, whole };
            let slave = config.slave(&slave)?;
            let named = skip(&config, slave, wanted, &mut |line| print(&format!("{line}\n")))?;
            Ok(if named { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Status { json } => everywhere::status(path, json, &mut print),
        Command::Man => {
            let page = man::page(&Cli::command())
                .map_err(|e| Error::new(Kind::Refused, "could not write the manual page").source(e))?;
            print(&page).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// Being told to stop is a good end for what runs until it is told.
fn ended(result: Result<()>) -> Result<ExitCode> {
    match result {
        Err(e) if e.kind() != Kind::Stopped => Err(e),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The exit status for an error; of a command that was to come to an end, being stopped is one too.
pub fn exit_code(e: &Error) -> ExitCode {
    ExitCode::from(e.exit_code().max(1))
}

fn chosen<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a Slave>> {
    match name {
        Some(name) => Ok(vec![config.slave(name)?]),
        None => Ok(config.slaves.iter().collect()),
    }
}

/// To stdout; that the reader has gone (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Refused, "could not write to the standard output").source(e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> std::result::Result<Cli, clap::Error> {
        Cli::try_parse_from([&["replica_agent"], args].concat())
    }

    #[test]
    fn the_contract() {
        Cli::command().debug_assert();
        let cli = parse(&["--config", "a.toml"]).unwrap();
        assert!(cli.command.is_none() && cli.config.as_os_str() == "a.toml");
        assert!(matches!(
            parse(&["--config=a.toml", "status", "--json"]).unwrap().command,
            Some(Command::Status { json: true })
        ));
        assert!(parse(&["once", "--config", "a.toml"]).is_ok());
        assert!(parse(&["verify", "--slave", "x", "--table", "a.b", "--table", "c.d"]).is_ok());
        for wrong in [&["runn"][..], &["--confg", "x"], &["status", "--table", "x"], &["-v", "-q"]] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn help_names_every_command_and_status() {
        let help = Cli::command().render_long_help().to_string();
        for word in [
            "run",
            "once",
            "check",
            "copy",
            "verify",
            "skip",
            "status",
            "--config",
            "Exit status",
            "  2  usage",
        ] {
            assert!(help.contains(word), "{word} is missing in\n{help}");
        }
    }
}
