//! What capture costs a writer, beside no trigger, an empty trigger and other replicators; servers with fsync on.
//!
//! Sections: bulk (time, processor time, log and WAL of bulk statements), tpcb (pgbench with and without an agent),
//! writers (what concurrent writers wait for), memory (of a backend in large transactions).
//! Fair: the same tables, statements and commits, in databases of one server, taking turns.
//! Unfair to us: in section bulk nothing reads the log, so that its tables grow all through a statement.
#![forbid(unsafe_code)]

mod bulk;
mod memory;
mod rivals;
mod tpcb;
mod variant;
mod waits;
mod workload;
mod writers;

use std::sync::Arc;

use pyreplica_benches::arguments::Arguments;
use pyreplica_benches::report::Report;
use pyreplica_tests::cluster::Cluster;

const SECTIONS: [&str; 4] = ["bulk", "tpcb", "writers", "memory"];

fn main() {
    // Words for a part of section bulk, unless another is named.
    let parts = [workload::names(), variant::names(), tpcb::names()].concat();
    let arguments = Arguments::parse(&[&SECTIONS[..], &parts].concat());
    let mut report = Report::new("capture_overhead", arguments.results);
    let in_part = arguments.any(&parts);
    let wants = |section: &str| match in_part && !arguments.any(&SECTIONS) {
        true => section == "bulk",
        false => arguments.wants(section, &SECTIONS),
    };
    if arguments.results && in_part {
        eprintln!("--results keeps whole sections: choose none or some of {}", SECTIONS.join(" "));
        std::process::exit(2);
    }
    if wants("bulk") {
        report.add(bulk::run(&arguments));
    }
    if wants("tpcb") {
        report.add(tpcb::run(&arguments));
    }
    if wants("writers") {
        report.add(writers::run());
    }
    if wants("memory") {
        report.add(memory::run());
    }
}

/// A server as an installation has it, without what comes by the clock: autovacuum and timed checkpoints.
fn start_server(name: &str, more: &[(&str, &str)]) -> Arc<Cluster> {
    let settings = [
        ("fsync", "on"),
        ("shared_buffers", "1GB"),
        ("min_wal_size", "2GB"),
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "1h"),
        ("autovacuum", "off"),
        ("wal_writer_delay", "200ms"),
    ];
    Cluster::start(name, &[&settings, more].concat())
}

const SETTINGS: &str =
    "Settings: fsync on, synchronous_commit on, shared_buffers 1 GB, no timed checkpoints, no autovacuum.";

/// For people: how the figures come about.
fn medians_of(rounds: usize) -> String {
    format!("Medians of {rounds} rounds; ratios and differences are medians within a round.")
}
