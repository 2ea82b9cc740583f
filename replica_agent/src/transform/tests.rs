use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::decode::Relation;
use crate::mapping::Pattern;

const ALL: Carried = Carried { key: &[], new: &[0, 1, 2], old: &[] };

fn table(values: &[(&str, &str)], row_filter: Option<&str>, operations: Operations) -> SlaveTable {
    let column = |name: &str, from: Option<&str>, type_name: &str, oid| SlaveColumn {
        name: name.into(),
        from: from.map(str::to_owned),
        type_name: type_name.into(),
        full_type: type_name.into(),
        own_type: oid,
        base_type: oid,
        is_enum: false,
        always_identity: false,
        generated: false,
        leads_index: name == "mood",
        equality: "=".into(),
    };
    SlaveTable {
        sql_name: "\"s\".\"t\"".into(),
        oid: 1,
        only: true,
        one_by_one: false,
        fires_for_nothing: false,
        columns: vec![
            column("id", Some("id"), "integer", 23),
            column("name", Some("name"), "text", 25),
            column("hash", None, "text", 25),
            column("mood", Some("mood"), "public.mood", 99999),
        ],
        rule: Some(Arc::new(Rule {
            pattern: Pattern::parse("s.t").unwrap(),
            to: None,
            columns: BTreeMap::new(),
            row_filter: row_filter.map(str::to_owned),
            operations,
            replaces: operations.keep_rows(),
            values: values.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect(),
        })),
    }
}

#[track_caller]
fn check(table: &SlaveTable, step: Step, source: Source, carried: Carried, expected: &str) {
    let column = |name, type_oid| Some(Column { name, type_oid, binary: type_oid != 0 });
    let relation = Relation {
        oid: 1,
        schema: "s",
        name: "t",
        key: vec![0],
        columns: vec![column("id", 23), column("name", 25), column("mood", 0)],
    };
    let types = OwnTypes::default();
    let transform = Transform::new(table, &relation, &types).unwrap().unwrap();
    assert_eq!(transform.build(step, source, carried).unwrap_or_else(|e| e.to_string()), expected);
}

const KEY: Carried = Carried { key: &[0], new: &[], old: &[] };
const NAME: Carried = Carried { key: &[0], new: &[1], old: &[1] };
const COUNTED: &str = "select case when count(*) <> cardinality($1) then cast(count(*) \
    || ' rows are as expected, which are now changed one by one' as int) end from found";

#[test]
fn values() {
    let table = table(&[("hash", "md5(name) -- x")], None, Operations::ALL);
    check(
        &table,
        Step::Insert,
        Source::Many,
        ALL,
        "insert into \"s\".\"t\" (\"id\", \"name\", \"mood\", \"hash\") overriding system value \
         select \"t\".\"id\", \"t\".\"name\", \"t\".\"mood\", cast((md5(name) -- x\n) as text) \
         from (select u.n1 as \"id\", u.n2 as \"name\", cast(u.n3 as public.mood) as \"mood\" \
         from (select unnest($1) as n1, unnest($2) as n2, unnest($3) as n3) as u) as \"t\"",
    );
    check(
        &table,
        Step::Update,
        Source::One,
        NAME,
        "update only \"s\".\"t\" as t set \"name\" = new.v1, \"hash\" = new.v2 \
         from (select $1 as k1, $2 as n1, $3 as o1) as u \
         cross join lateral (select \"t\".\"name\" as v1, cast((md5(name) -- x\n) as text) as v2, true as kept \
         from (select u.k1 as \"id\", u.n1 as \"name\") as \"t\") as new \
         cross join lateral (select \"t\".\"name\" as v1, cast((md5(name) -- x\n) as text) as v2, true as kept \
         from (select u.k1 as \"id\", u.o1 as \"name\") as \"t\") as old \
         where t.\"id\" = cast(u.k1 as integer) \
         and t.\"name\" collate \"C\" is not distinct from old.v1 collate \"C\" \
         and t.\"hash\" collate \"C\" is not distinct from cast(old.v2 as text) collate \"C\"",
    );
    check(
        &table,
        Step::Delete,
        Source::Many,
        KEY,
        &format!(
            "with found as (delete from only \"s\".\"t\" as t using (select unnest($1) as k1) as u \
             where t.\"id\" = cast(u.k1 as integer) returning 1) {COUNTED}"
        ),
    );
}

/// It neither moves in nor out; the ones that the slave has not are counted as well.
#[test]
fn an_update_of_what_the_filter_does_not_use() {
    let table = table(&[], Some("id > 0"), Operations::ALL);
    let given = "(select unnest($1) as k1, unnest($2) as n1, unnest($3) as o1) as u \
        cross join lateral (select \"t\".\"name\" as v1, (id > 0\n) is true as kept \
        from (select u.k1 as \"id\", u.n1 as \"name\") as \"t\") as new \
        cross join lateral (select \"t\".\"name\" as v1, (id > 0\n) is true as kept \
        from (select u.k1 as \"id\", u.o1 as \"name\") as \"t\") as old";
    check(
        &table,
        Step::UpdateMany,
        Source::Many,
        NAME,
        &format!(
            "with found as (update only \"s\".\"t\" as t set \"name\" = new.v1, \"mood\" = t.\"mood\" from {given} \
             where t.\"id\" = cast(u.k1 as integer) \
             and t.\"name\" collate \"C\" is not distinct from old.v1 collate \"C\" and new.kept returning 1), \
             left_out as (select from {given} where not new.kept) {}",
            COUNTED.replace("from found", "from (select from found union all select from left_out) as found")
        ),
    );
}

#[test]
fn what_a_change_does_not_carry() {
    let table = table(&[("hash", "name || mood")], None, Operations::ALL);
    let error = "the expression for column \"hash\" needs column \"mood\", which the change does not carry";
    check(&table, Step::Update, Source::Many, NAME, error);
}

#[test]
fn a_filter_decides_what_becomes_of_an_update() {
    let table = table(&[], Some("name <> ''"), Operations { delete: false, ..Operations::ALL });
    let row = "(select u.n1 as \"id\", u.n2 as \"name\", cast(u.n3 as public.mood) as \"mood\") as \"t\"";
    check(
        &table,
        Step::UpdateAny,
        Source::One,
        Carried { key: &[0], new: &[0, 1, 2], old: &[1] },
        &format!(
            "with u as materialized (select u.*, new.kept, old.kept as was_kept, new.v1 as new_1, new.v2 as new_2, \
             new.v3 as new_3, old.v1 as old_1 \
             from (select $1 as k1, $2 as n1, $3 as n2, $4 as n3, $5 as o1) as u \
             cross join lateral (select \"t\".\"id\" as v1, \"t\".\"name\" as v2, \"t\".\"mood\" as v3, \
             (name <> ''\n) is true as kept from {row}) as new \
             cross join lateral (select \"t\".\"name\" as v1, (name <> ''\n) is true as kept from {}) as old), \
             updated as (update only \"s\".\"t\" as t set \"name\" = u.new_2 from u \
             where u.was_kept and u.kept and t.\"id\" = cast(u.k1 as integer) returning 1), \
             inserted as (insert into \"s\".\"t\" (\"id\", \"name\", \"mood\") overriding system value \
             select u.new_1, u.new_2, u.new_3 from u where u.kept and not u.was_kept on conflict (\"id\") do update \
             set \"name\" = excluded.\"name\", \"mood\" = excluded.\"mood\" returning 1) \
             select from updated union all select from inserted union all select from u \
             where not u.was_kept and not u.kept or u.was_kept and not u.kept",
            row.replace("u.n2", "u.o1")
        ),
    );
}
