//! Where the agent's log lines go: to stderr, one line each, with time and level.
//!
//! In: how much was asked for on the command line, and RUST_LOG, which wins. Nothing else sets up logging.

use std::io::Write;

use log::LevelFilter;

/// Starts logging; once, before anything is logged.
pub fn start(level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level.min(LevelFilter::Warn)).filter_module("replica_agent", level);
    builder.parse_default_env();
    builder.format(|out, record| {
        let time = out.timestamp_millis();
        // A report has lines for detail and hint; they stay one entry.
        let text = record.args().to_string().replace('\n', "\n\t");
        writeln!(out, "{time} {:<5} {text}", record.level())
    });
    builder.init();
}
