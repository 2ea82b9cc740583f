//! Random histories of a table that a slave keeps in another form: a view on the master says what it should hold.
//!
//! A failure prints its seed; PYREPLICA_SEED=<n> replays the same operations.

use pyreplica_tests::trio::{Setup, Trio};

const PEOPLE: &str = "create table people (id int primary key, name text, mail text, born date, region text)";

/// What happens is the same for the same seed; what fails (a key that exists) leaves no trace.
const HISTORY: &str = "create procedure history(seed float8, steps int) language plpgsql as $$
    declare k int; n int;
    begin
        perform setseed(seed);
        for i in 1 .. steps loop
            k := floor(random() * 40);
            n := floor(random() * 13);
            if n = 12 then commit; end if;
            begin
                case n
                    when 0, 1, 2 then
                        insert into people values (k, 'N' || i || ' x', i || '@x', date '2000-01-01' + k, 'r' || k % 3);
                    when 3 then
                        insert into people select g, 'many', null, null, 'r' || g % 4 from generate_series(100, 130) g;
                    when 4, 5 then
                        update people set mail = i || '@y', name = case when k % 2 = 0 then name else 'U ' || i end
                         where id between k and k + 5;
                    when 6 then
                        update people set region = case region when 'r1' then 'r2' else 'r1' end where id between k and k + 9;
                    when 7 then update people set id = id + 1 where id = k;
                    when 8 then update people set id = id + 50, region = null, mail = upper(mail) where id = k;
                    when 9 then delete from people where id between k and k + 2 or id > 100 and id % 3 = k % 3;
                    when 10 then update people set born = null, name = 'O ' || name where id > k;
                    when 11 then if k = 0 then truncate people; end if;
                    else null;
                end case;
            exception when unique_violation then null;
            end;
        end loop;
    end $$";

/// The slave's table is to hold what `should` gives on the master, by a `[[slave.table]]` with these lines.
fn follow(setup: impl Fn(Setup) -> Setup, slave: &str, lines: &str, should: &str) {
    follow_added("", setup, slave, lines, should);
}

/// The same where the master sends whole rows.
fn follow_whole(setup: impl Fn(Setup) -> Setup, slave: &str, lines: &str, should: &str) {
    let again =
        "select pyreplica.remove_table('people'); select pyreplica.add_table('people', whole_rows => true)";
    follow_added(again, setup, slave, lines, should);
}

fn follow_added(added: &str, setup: impl Fn(Setup) -> Setup, slave: &str, lines: &str, should: &str) {
    let lines = format!("[[slave.table]]\nname = \"public.people\"\n{lines}");
    let setup = setup(Setup::new(PEOPLE).slave_schema(slave).slaves(1)).slave_line(&lines);
    let trio = setup.build();
    trio.master.run(added);
    trio.master.run(HISTORY);
    trio.master.run(&format!("create view should as {should}"));
    let seed = std::env::var("PYREPLICA_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u32 = seed.unwrap_or_else(|| std::process::id() % 1000);
    eprintln!("history with PYREPLICA_SEED={seed}");
    for round in 0..6 {
        let seed = f64::from((seed + round * 37) % 1000) / 1000.0;
        trio.master.run(&format!("call history({seed}, {})", 30 * (round + 1)));
        compare(&trio, seed);
    }
    assert_ne!(trio.master.value("select count(*) from should"), "0", "nothing came of it");
}

#[track_caller]
fn compare(trio: &Trio, seed: f64) {
    trio.once().expect_code(0);
    let rows = "order by id";
    let holds = trio.slaves[0].rows(&format!("select * from people {rows}"));
    assert_eq!(holds, trio.master.rows(&format!("select * from should {rows}")), "seed {seed}");
    assert_eq!(trio.conflicts(0), [""; 0], "seed {seed}");
    trio.agent.run(&["verify"]).expect_code(0);
}

const VALUES: &str = "columns = { born = false, region = \"area\" }
    values = { mail = \"md5(mail)\", first = \"split_part(name, ' ', 1)\", source = \"'shop'\" }";
const VALUES_SLAVE: &str =
    "create table people (id int primary key, name text, mail text, area text, first text, source text)";
const VALUES_VIEW: &str =
    "select id, name, md5(mail) as mail, region, split_part(name, ' ', 1), 'shop' from people";

const BY_KEY: &str = "row_filter = \"id % 2 = 1 or id > 110\"";
const BY_KEY_VIEW: &str = "select * from people where id % 2 = 1 or id > 110";

#[test]
fn computed_values_follow() {
    follow(|setup| setup, VALUES_SLAVE, VALUES, VALUES_VIEW);
    follow(|setup| setup.slave_line("apply = \"exact\""), VALUES_SLAVE, VALUES, VALUES_VIEW);
    follow(|setup| setup.one_phase().agent_line("batch_rows = 3"), VALUES_SLAVE, VALUES, VALUES_VIEW);
}

#[test]
fn rows_filtered_by_their_key_follow() {
    follow(|setup| setup, PEOPLE, BY_KEY, BY_KEY_VIEW);
    follow(|setup| setup.slave_line("apply = \"exact\""), PEOPLE, BY_KEY, BY_KEY_VIEW);
}

const WHOLE: &str = "columns = { region = false }
    values = { more = \"region || ': ' || coalesce(name, mail)\", born = \"case when region = 'r2' then born end\" }
    row_filter = \"region in ('r1', 'r2') and mail is not null -- NULL is no\"";
const WHOLE_SLAVE: &str =
    "create table people (id int primary key, name text, mail text, born date, more text)";
const WHOLE_VIEW: &str = "select id, name, mail, case when region = 'r2' then born end as born,
    region || ': ' || coalesce(name, mail) from people where region in ('r1', 'r2') and mail is not null";

#[test]
fn rows_move_in_and_out_of_a_filter_over_any_column() {
    follow_whole(|setup| setup, WHOLE_SLAVE, WHOLE, WHOLE_VIEW);
    follow_whole(|setup| setup.slave_line("apply = \"exact\""), WHOLE_SLAVE, WHOLE, WHOLE_VIEW);
    follow_whole(|setup| setup.one_phase().agent_line("batch_rows = 3"), WHOLE_SLAVE, WHOLE, WHOLE_VIEW);
    follow_whole(|setup| setup, VALUES_SLAVE, VALUES, VALUES_VIEW);
    follow_whole(|setup| setup, PEOPLE, BY_KEY, BY_KEY_VIEW);
}

/// The plain slave of a table that sends whole rows.
#[test]
fn whole_rows_follow_as_they_are() {
    follow_whole(|setup| setup, PEOPLE, "", "select * from people");
}
