//! What a session logs that writes on behalf of another node.

use pgrx::prelude::*;

use super::{captured, log_of};

const NODE: &str = "set local pyreplica.origin = 'n0123abcd'; ";
const AS_REPLICA: &str = "set local session_replication_role = replica; ";

#[pg_schema]
pub mod tests {
    use super::*;

    fn value(sql: &str) -> String {
        Spi::get_one::<String>(sql).expect("query").expect("a value")
    }

    fn logs(statements: &str) -> bool {
        !log_of(statements).is_empty()
    }

    #[pg_test]
    fn a_node_that_does_not_forward_logs_what_is_its_own() {
        captured("t", "id int primary key");
        assert!(!logs(&format!("{NODE} insert into t values (1); truncate t")));
        assert!(!logs(&format!("{NODE} {AS_REPLICA} insert into t values (1); truncate t")));
        let label = "set local session_replication_role = origin; set local pyreplica.origin = 'import'; ";
        assert!(logs(&format!("{label} insert into t values (2)")));
    }

    #[pg_test]
    fn a_node_that_forwards_logs_with_the_origin() {
        Spi::run("select pyreplica.forward()").expect("forward");
        captured("t", "id int primary key");
        assert!(!logs(&format!("{AS_REPLICA} insert into t values (1); truncate t")), "without an origin");
        let log = log_of(&format!("{NODE} insert into t values (2); truncate t"));
        assert_eq!(log, ["INSERT INTO public.t (id) VALUES (2)", "TRUNCATE public.t"]);
        assert_eq!(value("select string_agg(distinct origin, ',') from pyreplica.log"), "n0123abcd");
    }

    #[pg_test]
    fn only_an_agent_names_nodes() {
        captured("t", "id int primary key");
        Spi::run("create role somebody; grant insert on t to somebody").expect("role");
        let as_somebody = |row: i32| {
            Spi::run(&format!("set local role somebody; {NODE} insert into t values ({row})"))
                .expect("insert");
            crate::capture::before_commit(true);
            crate::capture::forget();
            Spi::run("reset role").expect("role");
            value("select format('%s %s', count(*), max(origin)) from pyreplica.log")
        };
        assert_eq!(as_somebody(1), "1 ");
        Spi::run("select pyreplica.allow_agent('somebody')").expect("allow");
        assert_eq!(as_somebody(2), "1 ");
    }

    /// Tables and partitions that come later, and triggers that a restored dump sets otherwise.
    #[pg_test]
    fn triggers_fire_as_the_node_forwards() {
        let firing = "select string_agg(distinct tgenabled::text, ',') from pg_trigger
                       where tgfoid in ('pyreplica.log_change'::regproc, 'pyreplica.log_truncate'::regproc)";
        captured("p", "id int primary key) partition by list (id");
        Spi::run("create table p1 partition of p for values in (1)").expect("partition");
        assert_eq!(value(firing), "O");
        Spi::run("select pyreplica.forward()").expect("forward");
        captured("t", "id int primary key");
        Spi::run(
            "set local session_replication_role = replica;
             create table p2 partition of p for values in (2)",
        )
        .expect("partition");
        assert_eq!(value(firing), "A");
        Spi::run("set local session_replication_role = origin; select pyreplica.forward(false)")
            .expect("stop");
        assert_eq!(value(firing), "O");
        Spi::run("alter table t enable always trigger \"!pyreplica\"").expect("as a dump says");
        assert_eq!(value(firing), "O");
        Spi::run("alter table t disable trigger all; alter table p enable replica trigger \"!pyreplica\"")
            .expect("a warning");
        assert_eq!(value(firing), "O", "what is captured stays captured");
    }
}
