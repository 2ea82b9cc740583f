//! The text of one statement of a transform.
//!
//! In: a `Transform`, and which values are parameters. Out: SQL.

use super::{Carried, Place, Source, Step, Transform, WHOLE_ROWS};
use crate::decode::Column;
use crate::error::{Error, Kind, Result};
use crate::quote;
use crate::set_statement::unchanged;
use crate::slave_table::SlaveColumn;

/// One statement.
pub(super) struct Text<'x> {
    pub transform: &'x Transform<'x>,
    pub source: Source,
    pub carried: Carried<'x>,
}

/// Which values of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    New,
    Old,
}

impl Text<'_> {
    pub fn insert(&self, step: Step) -> Result<String> {
        let Transform { table, places, .. } = self.transform;
        let values: Vec<String> = places.iter().map(|place| place.sql(&self.row_name())).collect();
        let instead = match step {
            Step::InsertUnlessThere => " on conflict do nothing".to_owned(),
            _ => self.instead()?,
        };
        Ok(format!(
            "insert into {} ({}) overriding system value select {} from {}{}{instead}",
            table.sql_name,
            names(places.iter()),
            values.join(", "),
            self.new_rows()?,
            self.passing(),
        ))
    }

    pub fn new_row(&self) -> Result<String> {
        let value = |place: &Place| {
            let (sql, name) = (place.sql(&self.row_name()), quote::ident(&place.here.name));
            format!("cast({sql} as {}) as {name}", place.here.full_type)
        };
        let Transform { table, places, .. } = self.transform;
        let mut values: Vec<String> = places.iter().map(value).collect();
        let is_given = |here: &SlaveColumn| places.iter().any(|place| place.here.name == here.name);
        values.extend(table.nulls_for(|here| !is_given(here)));
        Ok(format!("select {} from {}{}", values.join(", "), self.new_rows()?, self.passing()))
    }

    pub fn show(&self) -> Result<String> {
        let value = |place: &Place| {
            format!("cast({} as {})::text", place.sql(&self.row_name()), place.here.full_type)
        };
        let values: Vec<String> = self.transform.places.iter().map(value).collect();
        Ok(format!("select {} from {}{}", values.join(", "), self.new_rows()?, self.passing()))
    }

    pub fn delete(&self) -> Result<String> {
        let (target, key) = (self.transform.table.target(), self.key()?);
        let delete = |from: &str| format!("delete from {target} as t using {from} where {key}");
        match self.source {
            Source::Many if self.transform.may_be_missing(Step::Delete) => Ok(delete(&self.parameters())),
            _ => Ok(self.counted(delete(&self.parameters()))),
        }
    }

    pub fn probe(&self) -> Result<String> {
        let touched = || self.transform.touched_places(self.carried.old);
        let same: Vec<String> =
            touched().zip(1..).map(|(place, n)| place.same(&format!("old.v{n}"))).collect();
        Ok(format!(
            "select {} from {} as t, {} cross join lateral {} where {} for update of t",
            same.join(", "),
            self.transform.table.target(),
            self.parameters(),
            self.values("old", touched(), When::Old)?,
            self.key()?
        ))
    }

    pub fn moves_in(&self) -> Result<String> {
        let kept = |name, when| self.values(name, std::iter::empty(), when);
        Ok(format!(
            "select new.kept and not old.kept from {} cross join lateral {} cross join lateral {}",
            self.parameters(),
            kept("new", When::New)?,
            kept("old", When::Old)?
        ))
    }

    pub fn update(&self, step: Step) -> Result<String> {
        let Transform { table, rule, places, .. } = self.transform;
        let touched: Vec<&Place> = self.transform.touched_places(self.carried.old).collect();
        let moves = self.transform.is_moved_by(self.carried.old);
        let missing_counts = self.source == Source::One || !self.transform.may_be_missing(Step::Update);
        // A row that moves in needs all its values.
        let new: Vec<&Place> = if moves { places.iter().collect() } else { touched.clone() };
        let is_touched = |place: &Place| place.is_touched_by(self.carried.old);
        let touched_new = || new.iter().zip(1..).filter(|(place, _)| is_touched(place));

        let key = self.key()?;
        // Of one row it has to be told whether it is missing or left out.
        let may_be_left_out = rule.row_filter.is_some();
        let is_plain = missing_counts && !moves && (self.source == Source::Many || !may_be_left_out);
        let (v_new, v_old) = if is_plain { ("new.v", "old.v") } else { ("u.new_", "u.old_") };
        let mut assignments = Vec::new();
        for (place, n) in touched_new() {
            assignments.push(format!("{} = {v_new}{n}", quote::ident(&place.here.name)));
        }
        if step == Step::UpdateMany && !assignments.is_empty() {
            let is_set = |here: &SlaveColumn| touched.iter().any(|place| place.here.name == here.name);
            assignments.extend(unchanged(table, is_set));
        }
        let mut same = vec![key.clone()];
        if step != Step::UpdateAny {
            same.extend(touched.iter().zip(1..).map(|(place, n)| place.same(&format!("{v_old}{n}"))));
        }
        let laterals = format!(
            "{} cross join lateral {} cross join lateral {}",
            self.parameters(),
            self.values("new", new.iter().copied(), When::New)?,
            self.values("old", touched.iter().copied(), When::Old)?
        );
        let update = |from: &str, condition: &str| {
            let set = assignments.join(", ");
            format!("update {} as t set {set} from {from} where {condition}", table.target())
        };
        if is_plain && !may_be_left_out {
            return Ok(self.counted(update(&laterals, &same.join(" and "))));
        }
        if is_plain {
            same.push("new.kept".to_owned());
            return Ok(format!(
                "with found as ({} returning 1), left_out as (select from {laterals} where not new.kept) {}",
                update(&laterals, &same.join(" and ")),
                fails_unless_all("(select from found union all select from left_out) as found")
            ));
        }

        // One row for each that was given, with its values side by side.
        let mut given = vec!["u.*".to_owned(), "new.kept".to_owned(), "old.kept as was_kept".to_owned()];
        given.extend((1..=new.len()).map(|n| format!("new.v{n} as new_{n}")));
        given.extend((1..=touched.len()).map(|n| format!("old.v{n} as old_{n}")));
        let mut parts = vec![format!("u as materialized (select {} from {laterals})", given.join(", "))];
        let mut found = Vec::new();
        let mut part = |name: &str, sql: String| {
            parts.push(format!("{name} as ({sql} returning 1)"));
            found.push(format!("select from {name}"));
        };
        let mut nothing = vec!["not u.was_kept and not u.kept".to_owned()];
        if !assignments.is_empty() {
            let condition = format!("u.was_kept and u.kept and {}", same.join(" and "));
            part("updated", update("u", &condition));
        } else {
            nothing.push("u.was_kept and u.kept".to_owned());
        }
        if moves && rule.operations.delete {
            let target = table.target();
            let condition = format!("u.was_kept and not u.kept and {key}");
            part("deleted", format!("delete from {target} as t using u where {condition}"));
        } else {
            nothing.push("u.was_kept and not u.kept".to_owned());
        }
        if moves && rule.operations.insert {
            let values: Vec<String> = (1..=new.len()).map(|n| format!("u.new_{n}")).collect();
            part(
                "inserted",
                format!(
                    "insert into {} ({}) overriding system value select {} from u \
                     where u.kept and not u.was_kept{}",
                    table.sql_name,
                    names(places.iter()),
                    values.join(", "),
                    self.instead()?
                ),
            );
        } else {
            nothing.push("u.kept and not u.was_kept".to_owned());
        }
        if !missing_counts {
            nothing
                .push(format!("u.was_kept and not exists (select from {} as t where {key})", table.target()));
        }
        found.push(format!("select from u where {}", nothing.join(" or ")));
        let (parts, found) = (parts.join(", "), found.join(" union all "));
        Ok(match self.source {
            Source::One => format!("with {parts} {found}"),
            Source::Many => format!("with {parts} {}", fails_unless_all(&format!("({found}) as found"))),
        })
    }

    /// A plain UPDATE or DELETE, which for many rows fails unless it finds them all.
    fn counted(&self, sql: String) -> String {
        match self.source {
            Source::One => sql,
            Source::Many => format!("with found as ({sql} returning 1) {}", fails_unless_all("found")),
        }
    }

    /// `(...) as name (v1, v2, kept)`: values of the slave's columns, and whether the row passes.
    fn values<'p>(
        &self,
        name: &str,
        places: impl Iterator<Item = &'p Place<'p>>,
        when: When,
    ) -> Result<String> {
        let Transform { rule, filtered_by, .. } = self.transform;
        let mut list = Vec::new();
        for (place, n) in places.zip(1..) {
            self.needs(&place.uses, &format!("column {}", quote::ident(&place.here.name)))?;
            list.push(format!("{} as v{n}", place.sql(&self.row_name())));
        }
        self.needs(filtered_by, "row_filter")?;
        list.push(match &rule.row_filter {
            Some(filter) => format!("({filter}\n) is true as kept"),
            None => "true as kept".to_owned(),
        });
        Ok(format!("(select {} from {}) as {name}", list.join(", "), self.row(when, "")?))
    }

    /// An expression is evaluated only over a row that has what it uses.
    fn needs(&self, uses: &[usize], what: &str) -> Result<()> {
        let Carried { key, new, .. } = self.carried;
        let lacks = |n: &&usize| !key.contains(n) && !new.contains(n);
        let Some(&n) = uses.iter().find(lacks) else { return Ok(()) };
        let name = self.transform.relation.columns[n].as_ref().map_or("", |column| column.name);
        Err(Error::new(
            Kind::Apply,
            format!(
                "the expression for {what} needs column {}, which the change does not carry",
                quote::ident(name)
            ),
        )
        .with_sqlstate("55000")
        .hint(WHOLE_ROWS))
    }

    /// All rows with their new values.
    pub fn new_rows(&self) -> Result<String> {
        self.row(When::New, &format!(" from {}", self.parameters()))
    }

    /// `(select u.n1 as "id", ...) as "people"`, where `u` is known, or with the FROM that gives it.
    fn row(&self, when: When, from: &str) -> Result<String> {
        let Carried { key, new, old } = self.carried;
        let mut list = Vec::new();
        for (n, column) in self.transform.relation.columns.iter().enumerate() {
            let Some(column) = column else { continue };
            let at = |columns: &[usize]| columns.iter().position(|&c| c == n).map(|i| i + 1);
            let parameter = match when {
                When::Old => at(old).map(|i| format!("u.o{i}")),
                When::New => None,
            };
            let parameter = parameter
                .or_else(|| at(new).map(|i| format!("u.n{i}")))
                .or_else(|| at(key).map(|i| format!("u.k{i}")));
            if let Some(parameter) = parameter {
                list.push(format!("{} as {}", self.typed(column, &parameter), quote::ident(column.name)));
            }
        }
        Ok(format!("(select {}{from}) as {}", list.join(", "), self.row_name()))
    }

    /// The value of a parameter, as the type that the master has; of a user's type nobody knows more than its name there,
    /// so it is what the slave's column is.
    fn typed(&self, column: &Column, parameter: &str) -> String {
        let Transform { table, types, .. } = self.transform;
        let type_name = match column {
            Column { binary: true, .. } => None,
            Column { type_oid: 0, name, .. } => table.column(name).ok().map(|here| &here.type_name),
            Column { type_oid, .. } => types.names.get(type_oid),
        };
        type_name.map_or_else(|| parameter.to_owned(), |name| format!("cast({parameter} as {name})"))
    }

    fn parameters(&self) -> String {
        let Carried { key, new, old } = self.carried;
        let groups = [('k', key.len()), ('n', new.len()), ('o', old.len())];
        let names =
            groups.iter().flat_map(|(letter, count)| (1..=*count).map(move |i| format!("{letter}{i}")));
        // In the list of a SELECT unnest gives its rows one by one; in FROM it keeps them all first.
        let parameter = |(name, n): (String, usize)| match self.source {
            Source::Many => format!("unnest(${n}) as {name}"),
            Source::One => format!("${n} as {name}"),
        };
        let list: Vec<String> = names.zip(1..).map(parameter).collect();
        format!("(select {}) as u", list.join(", "))
    }

    fn row_name(&self) -> String {
        quote::ident(self.transform.relation.name)
    }

    fn passing(&self) -> String {
        let filter = self.transform.rule.row_filter.as_ref();
        filter.map_or_else(String::new, |filter| format!(" where ({filter}\n)"))
    }

    fn key(&self) -> Result<String> {
        let mut conditions = Vec::new();
        for (&n, i) in self.carried.key.iter().zip(1..) {
            let Some(column) = &self.transform.relation.columns[n] else { continue };
            let SlaveColumn { name, equality, type_name, .. } = self.transform.table.column(column.name)?;
            conditions.push(format!("t.{} {equality} cast(u.k{i} as {type_name})", quote::ident(name)));
        }
        Ok(conditions.join(" and "))
    }

    /// A row that the master has deleted, or moved away from its key, may still be here: the new one takes its place.
    fn instead(&self) -> Result<String> {
        let Transform { table, relation, rule, places, .. } = self.transform;
        if !rule.replaces {
            return Ok(String::new());
        }
        let mut key = Vec::new();
        for &n in &relation.key {
            let Some(column) = &relation.columns[n] else { continue };
            key.push(&table.column(column.name)?.name);
        }
        let replaced: Vec<String> = places
            .iter()
            .filter(|place| !key.contains(&&place.here.name) && !place.here.always_identity)
            .map(|place| quote::ident(&place.here.name))
            .map(|name| format!("{name} = excluded.{name}"))
            .collect();
        let key: Vec<String> = key.into_iter().map(|name| quote::ident(name)).collect();
        let action = match replaced.is_empty() {
            true => "nothing".to_owned(),
            false => format!("update set {}", replaced.join(", ")),
        };
        Ok(format!(" on conflict ({}) do {action}", key.join(", ")))
    }
}

/// The first parameter of an UPDATE or DELETE is of the key, so it has an element for each row. The number in front of the
/// text makes it no integer.
fn fails_unless_all(found: &str) -> String {
    format!(
        "select case when count(*) <> cardinality($1) \
         then cast(count(*) || ' rows are as expected, which are now changed one by one' as int) end from {found}"
    )
}

fn names<'p>(places: impl Iterator<Item = &'p Place<'p>>) -> String {
    places.map(|place| quote::ident(&place.here.name)).collect::<Vec<_>>().join(", ")
}
