//! Every type reaches the log exactly, whatever the session has set.

use pgrx::prelude::*;

use super::{captured, log_of};

/// A type, and values of it that have lost something on the way in other replicators.
const VALUES: &[(&str, &[&str])] = &[
    ("bool", &["t", "f"]),
    ("int2", &["-32768", "32767"]),
    ("int4", &["-2147483648", "2147483647"]),
    ("int8", &["-9223372036854775808", "9223372036854775807"]),
    ("numeric", &["NaN", "Infinity", "-Infinity", "0.000000000000000000000001", "1.500", "1e1000", "-0"]),
    ("numeric(10,3)", &["1234567.891"]),
    ("float4", &["NaN", "Infinity", "-0", "1.1754944e-38", "3.4028235e+38", "0.1"]),
    ("float8", &["NaN", "-Infinity", "-0", "5e-324", "1.7976931348623157e+308", "0.1"]),
    ("money", &["-92233720368547758.08", "12.34"]),
    ("text", &["", "it's \\ \"odd\"\n\t€ 🐘"]),
    ("varchar(9)", &["öäü"]),
    ("char(5)", &["a", "ab c"]),
    ("\"char\"", &["x"]),
    ("name", &["a name"]),
    ("bytea", &["\\x00ff10", "\\x"]),
    ("date", &["infinity", "4713-01-01 BC", "5874897-12-31", "2000-02-29"]),
    ("time", &["24:00:00", "00:00:00.000001"]),
    ("timetz", &["12:34:56.789+05:45"]),
    ("timestamp", &["infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"]),
    ("timestamptz", &["infinity", "2024-03-31 02:30:00.123456+02"]),
    ("interval", &["1 year 2 mons -3 days +04:05:06.789", "-178000000 years"]),
    ("uuid", &["123e4567-e89b-12d3-a456-426614174000"]),
    ("json", &["{\"a\":  1, \"a\": 1.0}"]),
    ("jsonb", &["{\"b\": [1.10, null, \"ü\"]}", "[123456789012345678901234567890.10, 1e400]"]),
    ("xml", &["<a b=\"c\">d</a>"]),
    ("inet", &["192.168.0.1/24", "::1"]),
    ("cidr", &["10.0.0.0/8"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(3)", &["101"]),
    ("varbit", &["", "1011001"]),
    ("point", &["(0.1,-2)"]),
    ("lseg", &["[(1,2),(3,4)]"]),
    ("path", &["((1,2),(3,4))", "[(1,2),(3,4)]"]),
    ("box", &["(3,4),(1,2)"]),
    ("polygon", &["((1,2),(3,4),(5,6))"]),
    ("line", &["{1,2,3}"]),
    ("circle", &["<(1,2),3>"]),
    ("tsvector", &["'cat':1A 'fat':2B"]),
    ("tsquery", &["'fat' & !'cat'"]),
    ("jsonpath", &["$.\"a\"[*]"]),
    ("pg_lsn", &["16/B374D848"]),
    ("xid8", &["18446744073709551615"]),
    ("pg_snapshot", &["10:20:10,14"]),
    ("regclass", &["pg_class", "app.t"]),
    ("oid", &["4294967295"]),
    ("int4[]", &["[0:2]={1,NULL,3}", "{{1,2},{3,4}}", "{}"]),
    ("text[]", &["{a,NULL,\"NULL\",\"\",\"q\\\"\\\\\"}"]),
    ("timestamptz[]", &["{\"2024-03-31 00:30:00+00\"}"]),
    ("float8[]", &["{0.1,NaN}"]),
    ("int4range", &["empty", "[1,5)", "(,)"]),
    ("numrange", &["[1.10,2.20]"]),
    ("tstzrange", &["[\"2024-01-01 00:00:00+00\",infinity]"]),
    ("datemultirange", &["{[2020-01-01,2020-02-01)}"]),
    ("mood", &["so so"]),
    ("mood[]", &["{\"so so\",NULL}"]),
    ("posint", &["5"]),
    ("pair", &["(1,\"a, \"\"b\"\"\",2024-01-02,0.1,$3.45)"]),
    ("pair[]", &["{\"(1,a,2024-01-02,0.1,)\"}"]),
    ("moods", &["[bad,\"so so\"]"]),
];

/// Settings under which text looks different.
const ODD_SETTINGS: &str = "
    set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard'; set extra_float_digits = -15;
    set bytea_output = 'escape'; set timezone = 'Asia/Kathmandu'; set search_path = app, public;
    set client_encoding = 'LATIN1'; set quote_all_identifiers = on";

/// The settings under which the log has its text.
const LOG_SETTINGS: &str = "
    set datestyle = 'ISO'; set intervalstyle = 'postgres'; set extra_float_digits = 1; set bytea_output = 'hex';
    set lc_monetary = 'C'; set timezone = 'GMT'; set search_path = pg_catalog; set client_encoding = 'UTF8';
    set quote_all_identifiers = off";

#[pg_schema]
pub mod tests {
    use super::*;

    #[pg_test]
    fn every_value_comes_back_as_it_was() {
        Spi::run(
            "create schema app; set search_path = app, public;
             create type mood as enum ('bad', 'so so', 'good');
             create domain posint as int check (value > 0);
             create type pair as (a int, b text, c date, d float8, e money);
             create type moods as range (subtype = mood)",
        )
        .expect("types");
        let mut columns = vec!["id int primary key".to_string()];
        let mut inserts = Vec::new();
        let mut expected = Vec::new();
        for (i, (ty, values)) in VALUES.iter().enumerate() {
            columns.push(format!("c{i} {ty}"));
            for value in *values {
                let id = expected.len();
                inserts.push(format!("insert into t (id, c{i}) values ({id}, $v${value}$v$)"));
                expected.push(format!("c{i}"));
            }
        }
        captured("app.t", &columns.join(", "));
        log_of(&format!("{ODD_SETTINGS}; {}", inserts.join(";")));
        Spi::run(LOG_SETTINGS).expect("settings");
        for (id, column) in expected.iter().enumerate() {
            let same = format!(
                "select case when pg_typeof(t.{column}) in ('json'::regtype, 'jsonb'::regtype)
                             then l.new->'{column}' = t.{column}::text::jsonb
                             when pg_typeof(t.{column}) = 'bool'::regtype
                             then l.new->>'{column}' = t.{column}::text
                             else l.new->>'{column}' = format('%s', t.{column}) end
                   from app.t, pyreplica.replica_log l
                  where t.id = {id} and (l.key->>'id')::int = {id}"
            );
            let shown = Spi::get_one::<String>(&format!(
                "select format('%s, logged %s', t.{column}, l.new->>'{column}')
                   from app.t, pyreplica.replica_log l where t.id = {id} and (l.key->>'id')::int = {id}"
            ));
            assert_eq!(Spi::get_one::<bool>(&same), Ok(Some(true)), "{column}: {shown:?}");
        }
    }
}
