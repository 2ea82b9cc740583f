//! How long a commit on the master takes to be visible on a slave: two-phase, one-phase, and a native subscription.
//!
//! A client commits single rows at a steady pace; a session on the slave looks at the greatest number there about every
//! tenth of a millisecond. The time runs from the moment the commit has returned on the master. One consumer at a time;
//! the others stand still, and catch up before it is their turn. `PYREPLICA_OTHER_AGENT` names another agent to measure
//! beside, with one-phase commit.

use std::time::Duration;

use pyreplica_benches::consumer::{wait, Consumer, SERVER};
use pyreplica_benches::live::latencies;
use pyreplica_benches::{median, paired, rounds, turns};
use pyreplica_tests::cluster::Cluster;

const SCHEMA: &str = "create table t (n int primary key, v text)";

/// Commits a second, and seconds.
const PACES: &[(u32, u32)] = &[(50, 10), (1000, 5)];

fn main() {
    let rounds = rounds();
    let master = Cluster::start("master", SERVER).create_db("bench", "");
    master.run("create extension pyreplica");
    master.run(SCHEMA);
    master.run(
        "select pyreplica.add_all_tables('public'); create publication bench for tables in schema public",
    );
    let mut consumers = vec![
        Consumer::native(&master, SCHEMA),
        Consumer::ours("two-phase", &master, SCHEMA, ""),
        Consumer::ours("one-phase", &master, SCHEMA, "two_phase = false\n"),
    ];
    consumers.extend(Consumer::other(&master, SCHEMA, "two_phase = false\n"));
    // Milliseconds (p50, p99) by pace, consumer, round.
    let mut figures = vec![vec![Vec::new(); consumers.len()]; PACES.len()];
    let mut n = 0;
    for round in 0..rounds {
        for (pace, &(a_second, seconds)) in PACES.iter().enumerate() {
            for turn in turns(consumers.len(), round) {
                consumers.iter().for_each(Consumer::stand_still);
                let consumer = &consumers[turn];
                consumer.go_on();
                let caught_up = format!("select coalesce(max(n), 0) = {n} from t");
                wait(&mut consumer.slave.session(), &caught_up, Duration::from_secs(60));
                let count = a_second * seconds;
                figures[pace][turn].push(latencies(&master, &consumer.slave, n, count, a_second));
                n += count;
                consumers.iter().for_each(Consumer::go_on);
            }
        }
    }
    println!(
        "{:<16} {:<10} {:>10} {:>10} {:>12} {:>14}",
        "commits/s", "", "p50 ms", "p99 ms", "p50 ratio", "p99 more ms"
    );
    for ((a_second, _), figures) in PACES.iter().zip(&figures) {
        let native = &figures[0];
        for (consumer, figures) in consumers.iter().zip(figures) {
            let middle = |of: fn(&(f64, f64)) -> f64| median(figures.iter().map(of).collect());
            println!(
                "{a_second:<16} {:<10} {:>10.2} {:>10.2} {:>12.2} {:>14.2}",
                consumer.name,
                middle(|f| f.0),
                middle(|f| f.1),
                paired(figures, native, |a, b| a.0 / b.0),
                paired(figures, native, |a, b| a.1 - b.1),
            );
        }
    }
    println!("medians of {rounds} rounds; ratios and differences to native are medians within a round");
}
