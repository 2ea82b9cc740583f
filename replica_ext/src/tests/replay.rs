//! What was logged, run on an empty copy of the table, makes the same table: random rows of many shapes, with
//! NULLs, dropped and added columns, short, long, compressed and TOASTed values.

use pgrx::prelude::*;

use super::{both_ways, captured, log_of};

const COLUMNS: &str =
    "id int primary key, gone int, a int2, b text, c float8, n numeric, t timestamp, f bool,
    y bytea, u uuid, i interval, k \"char\", s text generated always as (a::text) stored, j jsonb";

/// Rows that are older than the last columns have those columns' defaults nowhere in their tuples.
const YOUNGER: &str = "alter table t drop gone, add late text default 'late', add later int8 default 7";

/// `$what` in one of four cases, else NULL or the column as it is.
fn random_columns(otherwise: impl Fn(&str) -> String) -> String {
    let some = |column: &str, what: &str| {
        format!(
            "case when random() < 0.25 then {what} when random() < 0.1 then null else {} end",
            otherwise(column)
        )
    };
    [
        some("a", "(random() * 1000)::int2"),
        some("b", "repeat(md5(random()::text), (power(random(), 4) * 400)::int)"),
        some("c", "random()"),
        some("n", "random()::numeric * 1000"),
        some("t", "timestamp '2020-01-01' + random() * interval '1 year'"),
        some("f", "random() < 0.5"),
        some("y", "(select string_agg(decode(md5(random()::text), 'hex'), '') from generate_series(1, (random() * 3)::int))"),
        some("u", "md5(random()::text)::uuid"),
        some("i", "random() * interval '1 year'"),
        some("k", "'x'"),
        some("j", "jsonb_build_object('a', random())"),
    ]
    .join(", ")
}

#[pg_schema]
pub mod tests {
    use super::*;

    #[pg_test]
    fn the_log_replayed_makes_the_same_table() {
        both_ways(|| {
            captured("t", COLUMNS);
            let names = "a, b, c, n, t, f, y, u, i, k, j";
            let insert = |first: u32| {
                let values = random_columns(|_| "null".into());
                format!("insert into t (id, {names}) select g, {values} from generate_series({first}, {first} + 99) g;")
            };
            let values = random_columns(str::to_string);
            let change = format!(
                "update t set ({names}) = row({values}) where random() < 0.7;
             update t set id = id + 1000 where random() < 0.02 and id < 1000;
             delete from t where random() < 0.03;"
            );
            let younger_change = "update t set late = null, later = later + 1 where random() < 0.1;
             update t set later = null, late = repeat('x', (random() * 300)::int) where random() < 0.1;";
            let log = log_of(&format!(
                "select setseed(0.5); {} {change} {YOUNGER}; {} {} {}",
                insert(1),
                change.repeat(4),
                insert(200),
                format!("{younger_change} {change}").repeat(4),
            ));
            assert!(log.len() > 500, "{}", log.len());
            Spi::run("create table copy (like t including all); alter table copy add gone int")
                .expect("a copy");
            for statement in log {
                Spi::run(&statement.replacen(" public.t ", " public.copy ", 1)).expect(&statement);
            }
            Spi::run("alter table copy drop gone").expect("the column is there");
            // By their text, which tells apart what is equal: 1.0 and 1.00.
            let differences = "select count(*) from t master full join copy slave using (id)
             where master::text is distinct from slave::text";
            assert_eq!(Spi::get_one::<i64>(differences), Ok(Some(0)));
            assert_eq!(Spi::get_one::<bool>("select count(*) > 50 from copy"), Ok(Some(true)));
        });
    }
}
