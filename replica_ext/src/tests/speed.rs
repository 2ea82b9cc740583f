//! What the trigger costs a writer, shown by each `cargo pgrx test`; `benches` measures it properly.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use super::*;

    /// pgrx starts its server for the first of these.
    #[pg_test]
    fn a_server_for_the_benchmark() {}
}

#[cfg(test)]
mod shown {
    use std::io::Write;
    use std::time::{Duration, Instant};

    const ROUNDS: usize = 5;

    /// Name and statement.
    const WORKLOADS: [(&str, &str); 4] = [
        (
            "INSERTs of one row",
            "do $$ begin for i in 1 .. 10000 loop
                 insert into $t values (-i, 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0);
             end loop; end $$",
        ),
        (
            "INSERT ... SELECT",
            "insert into $t select i, 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 20000) i",
        ),
        ("UPDATE of one column", "update $t set b = b + 1"),
        ("DELETE", "delete from $t"),
    ];

    /// Nothing is asserted of times. The tables go with the transaction, which is not committed.
    #[test]
    fn the_ratios_of_the_trigger() {
        let options = crate::pg_test::postgresql_conf_options();
        pgrx_tests::run_test("a_server_for_the_benchmark", None, options).expect("a server");
        let (mut client, _) = pgrx_tests::client().expect("a session");
        let mut transaction = client.transaction().expect("a transaction");
        for table in ["plain", "captured"] {
            let columns = "id int primary key, a text, b float8, c timestamp, d boolean";
            transaction.batch_execute(&format!("create table {table} ({columns})")).expect("a table");
        }
        transaction.batch_execute("select pyreplica.add_table('captured')").expect("captured");

        let mut ratios = WORKLOADS.map(|_| Vec::new());
        for round in 0..ROUNDS {
            for ((_, statement), ratios) in WORKLOADS.iter().zip(&mut ratios) {
                let mut times = [Duration::ZERO; 2];
                // Who goes first changes from round to round.
                for turn in [round % 2, (round + 1) % 2] {
                    let statement = statement.replace("$t", ["plain", "captured"][turn]);
                    let began = Instant::now();
                    transaction.batch_execute(&statement).expect("the statement runs");
                    times[turn] = began.elapsed();
                }
                ratios.push(times[1].as_secs_f64() / times[0].as_secs_f64());
            }
        }
        let shown: Vec<String> =
            WORKLOADS.iter().zip(ratios).map(|((name, _), r)| format!("{name} {:.2}", median(r))).collect();
        let build = match cfg!(debug_assertions) {
            true => "not a release build, which costs less (cargo pgrx test --release)",
            false => "release build",
        };
        // Past the test harness, which keeps what println writes to itself.
        writeln!(
            std::io::stderr(),
            "trigger benchmark, time as a ratio to no trigger: {}; {build}; medians of {ROUNDS} while other tests run",
            shown.join(", ")
        )
        .expect("standard error");
    }

    fn median(mut figures: Vec<f64>) -> f64 {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    }
}
