//! The SQL text for changes of a table that a slave keeps in another form: computed values, a row filter, operations
//! left out.
//!
//! In: a relation as the log describes it, the table as the slave has it, its rule. Out: SQL whose parameters stand in
//! the order key, new values, old values; each an array for many rows, or a value. Pure; identifiers pass `quote`, values
//! are parameters, and expressions are the configuration's, in parentheses.
//!
//! # How a row is passed through
//!
//! The parameters become a row with the master's names and types, under the name of the master's table, and the
//! expressions are evaluated over it. An UPDATE does so twice, with the new values and with the old ones: what a column
//! held before is the expression of what the master held before.
//!
//! ```text
//! parameters -> u (k1, n1, o1) -> people (id, name) -> new (v1, kept), old (v1, kept) -> the slave's table
//! ```
//!
//! # A row filter
//!
//! With `old.kept` and `new.kept` an UPDATE is one of four things: a deletion, an insertion, an update, nothing. A row
//! that is not as expected is missing in the count: every statement that counts gives one row for each that it was
//! given if all is as planned.

use postgres::types::Type;

use crate::bind::type_of;
use crate::decode::{Column, Relation};
use crate::error::{Error, Kind, Result};
use crate::expression::columns_used;
use crate::mapping::{Operations, Rule};
use crate::own_types::OwnTypes;
use crate::quote;
use crate::set_statement::{element, same, TEXT};
use crate::slave_table::{SlaveColumn, SlaveTable};
use crate::statement::columns;

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// New values only. What the filter does not let through is not counted.
    Insert = b'1',
    /// Only rows whose old values are the master's.
    Update = b'2',
    /// Whatever the old values are.
    UpdateAny = b'3',
    /// For each column that an update would change whether its old value is the master's; locks the row.
    Probe = b'4',
    /// By key.
    Delete = b'5',
    /// The rows as the slave is to hold them, as text; new values only.
    Show = b'6',
}

/// Whether parameters are arrays or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Many,
    One,
}

/// The columns of a relation whose values a change carries, by number.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'c> {
    /// Values of the key before the change.
    pub key: &'c [usize],
    pub new: &'c [usize],
    /// Those that have changed; others are what they were.
    pub old: &'c [usize],
}

/// How the rows of a relation become those of the slave's table.
pub struct Transform<'t> {
    table: &'t SlaveTable,
    relation: &'t Relation<'t>,
    rule: &'t Rule,
    types: &'t OwnTypes,
    places: Vec<Place<'t>>,
    /// Columns that the filter uses.
    filtered_by: Vec<usize>,
}

/// A column of the slave's table and where its value comes from.
struct Place<'t> {
    here: &'t SlaveColumn,
    value: Value<'t>,
    /// Columns of the relation.
    uses: Vec<usize>,
}

enum Value<'t> {
    AsItIs(&'t Column<'t>),
    Computed(&'t str),
}

impl<'t> Transform<'t> {
    /// `None` if the table has no rule that needs one.
    pub fn new(
        table: &'t SlaveTable,
        relation: &'t Relation<'t>,
        types: &'t OwnTypes,
    ) -> Result<Option<Transform<'t>>> {
        let Some(rule) = table.rule.as_deref().filter(|rule| rule.is_transform()) else { return Ok(None) };
        // A column that the payload has not introduced has no value in it either.
        let names: Vec<&str> = relation.columns.iter().map(|c| c.as_ref().map_or("", |c| c.name)).collect();
        let uses = |text: &str| columns_used(text, relation.name, &names);
        let mut places = Vec::new();
        for (n, column) in relation.columns.iter().enumerate() {
            let Some(column) = column else { continue };
            let Some(name) = rule.column(column.name) else { continue };
            if !rule.values.contains_key(name) {
                let here = table.column(column.name)?;
                places.push(Place { here, value: Value::AsItIs(column), uses: vec![n] });
            }
        }
        for (name, text) in &rule.values {
            let here = table.own_column(name)?;
            places.push(Place { here, value: Value::Computed(text), uses: uses(text) });
        }
        let filtered_by = rule.row_filter.as_deref().map_or(Vec::new(), uses);
        Ok(Some(Transform { table, relation, rule, types, places, filtered_by }))
    }

    pub fn table(&self) -> &'t SlaveTable {
        self.table
    }

    pub fn relation(&self) -> &'t Relation<'t> {
        self.relation
    }

    /// For each expression what it is for, the columns that it uses, and a statement that fails if it is none: over the row
    /// whose values are the parameters, and where an aggregate, a window or a set of rows is refused.
    pub fn expressions(&self, carried: Carried) -> Result<Vec<(String, Vec<usize>, String)>> {
        let text = Text { transform: self, source: Source::One, carried };
        let row = text.new_rows()?;
        let computed = self.places.iter().filter_map(|place| match place.value {
            Value::AsItIs(_) => None,
            Value::Computed(text) => {
                let what = format!("values of column \"{}\"", place.here.name);
                Some((what, place.uses.clone(), format!("select from {row} where ({text}\n) is null")))
            }
        });
        let filter = self.rule.row_filter.iter().map(|filter| {
            let uses = self.filtered_by.clone();
            ("row_filter".to_owned(), uses, format!("select from {row} where ({filter}\n)"))
        });
        Ok(computed.chain(filter).collect())
    }

    pub fn takes_updates(&self) -> bool {
        self.rule.operations.update
    }

    /// Does the slave take such a change?
    pub fn takes(&self, step: Step, carried: Carried) -> bool {
        let Operations { insert, update, delete, .. } = self.rule.operations;
        match step {
            Step::Insert => insert,
            Step::Update | Step::UpdateAny => update && self.is_touched_by(carried.old),
            Step::Delete => delete,
            Step::Probe | Step::Show => true,
        }
    }

    /// Does a row that is not there say nothing? A DELETE carries the key only, so nobody knows whether the row passed
    /// the filter; and what was not inserted, or not updated to another key, cannot be found.
    pub fn may_be_missing(&self, step: Step) -> bool {
        let Operations { insert, update, .. } = self.rule.operations;
        !insert || step == Step::Delete && (!update || self.rule.row_filter.is_some())
    }

    /// Does a change of these columns change anything here?
    fn is_touched_by(&self, changed: &[usize]) -> bool {
        self.is_moved_by(changed) || self.places.iter().any(|place| place.is_touched_by(changed))
    }

    /// May it move the row into the filter or out of it?
    fn is_moved_by(&self, changed: &[usize]) -> bool {
        self.filtered_by.iter().any(|n| changed.contains(n))
    }

    /// The names here of the columns that an update changes, in the order of `Step::Probe`.
    pub fn touched(&self, changed: &[usize]) -> Vec<&str> {
        self.touched_places(changed).map(|place| place.here.name.as_str()).collect()
    }

    /// The names here of all columns that have a value, in the order of `Step::Show`.
    pub fn names(&self) -> Vec<String> {
        self.places.iter().map(|place| place.here.name.clone()).collect()
    }

    pub fn build(&self, step: Step, source: Source, carried: Carried) -> Result<String> {
        let text = Text { transform: self, source, carried };
        match step {
            Step::Insert => text.insert(),
            Step::Show => text.show(),
            Step::Delete => text.delete(),
            Step::Probe => text.probe(),
            Step::Update => text.update(true),
            Step::UpdateAny => text.update(false),
        }
    }

    /// The types of the parameters; `None` when there are no arrays of them.
    pub fn parameter_types(&self, source: Source, carried: Carried) -> Option<Vec<Type>> {
        let arrays = &self.types.arrays;
        let numbers = [carried.key, carried.new, carried.old].concat();
        let type_oid = |column: &&Column| match source {
            Source::Many => element(column, arrays).and_then(|e| arrays.get(&e)).copied(),
            Source::One if column.binary => Some(column.type_oid),
            Source::One => Some(TEXT),
        };
        columns(self.relation, &numbers).iter().map(|column| type_oid(column).map(type_of)).collect()
    }

    fn touched_places<'s>(&'s self, changed: &'s [usize]) -> impl Iterator<Item = &'s Place<'t>> {
        self.places.iter().filter(|place| place.is_touched_by(changed))
    }
}

impl Place<'_> {
    fn is_touched_by(&self, changed: &[usize]) -> bool {
        self.uses.iter().any(|n| changed.contains(n))
    }

    /// Over the row of this name.
    fn sql(&self, row: &str) -> String {
        match self.value {
            Value::AsItIs(column) => format!("{row}.{}", quote::ident(column.name)),
            Value::Computed(text) => format!("cast(({text}\n) as {})", self.here.type_name),
        }
    }

    /// Whether the slave's row has this value.
    fn same(&self, value: &str) -> String {
        match self.value {
            Value::AsItIs(column) => {
                let own_type = self.here.own_type == column.type_oid && column.binary;
                same(self.here, value, own_type)
            }
            Value::Computed(_) => same(self.here, &format!("cast({value} as {})", self.here.full_type), true),
        }
    }
}

/// One statement.
struct Text<'x> {
    transform: &'x Transform<'x>,
    source: Source,
    carried: Carried<'x>,
}

/// Which values of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    New,
    Old,
}

impl Text<'_> {
    fn insert(&self) -> Result<String> {
        let Transform { table, places, .. } = self.transform;
        let values: Vec<String> = places.iter().map(|place| place.sql(&self.row_name())).collect();
        Ok(format!(
            "insert into {} ({}) overriding system value select {} from {}{}{}",
            table.sql_name,
            names(places.iter()),
            values.join(", "),
            self.new_rows()?,
            self.passing(),
            self.instead()?
        ))
    }

    fn show(&self) -> Result<String> {
        let value = |place: &Place| {
            format!("cast({} as {})::text", place.sql(&self.row_name()), place.here.full_type)
        };
        let values: Vec<String> = self.transform.places.iter().map(value).collect();
        Ok(format!("select {} from {}{}", values.join(", "), self.new_rows()?, self.passing()))
    }

    fn delete(&self) -> Result<String> {
        let (target, key) = (self.transform.table.target(), self.key()?);
        let delete = |from: &str| format!("delete from {target} as t using {from} where {key}");
        if self.source == Source::Many && self.transform.may_be_missing(Step::Delete) {
            let u = format!("select * from {}", self.parameters());
            return Ok(format!("with u as materialized ({u}), d as ({}) select from u", delete("u")));
        }
        Ok(delete(&self.parameters()))
    }

    fn probe(&self) -> Result<String> {
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

    fn update(&self, exact: bool) -> Result<String> {
        let Transform { table, rule, places, .. } = self.transform;
        let touched: Vec<&Place> = self.transform.touched_places(self.carried.old).collect();
        let moves = self.transform.is_moved_by(self.carried.old);
        let missing_counts = self.source == Source::One || !self.transform.may_be_missing(Step::Update);
        // A row that moves in needs all its values.
        let new: Vec<&Place> = if moves { places.iter().collect() } else { touched.clone() };
        let is_touched = |place: &Place| place.is_touched_by(self.carried.old);
        let touched_new = || new.iter().zip(1..).filter(|(place, _)| is_touched(place));

        let key = self.key()?;
        let is_plain = rule.row_filter.is_none() && missing_counts;
        let (v_new, v_old) = if is_plain { ("new.v", "old.v") } else { ("u.new_", "u.old_") };
        let mut assignments = Vec::new();
        for (place, n) in touched_new() {
            assignments.push(format!("{} = {v_new}{n}", quote::ident(&place.here.name)));
        }
        let mut same = vec![key.clone()];
        if exact {
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
        if is_plain {
            return Ok(update(&laterals, &same.join(" and ")));
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
        Ok(format!("with {} {}", parts.join(", "), found.join(" union all ")))
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
    fn new_rows(&self) -> Result<String> {
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
        if rule.operations.delete && rule.operations.update && rule.operations.truncate {
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

/// What helps an expression that needs what an UPDATE does not carry.
pub const WHOLE_ROWS: &str =
    "An UPDATE carries the key and the columns that it changes. For an expression over more add \
    the table on the master with pyreplica.add_table(..., whole_rows => true).";

fn names<'p>(places: impl Iterator<Item = &'p Place<'p>>) -> String {
    places.map(|place| quote::ident(&place.here.name)).collect::<Vec<_>>().join(", ")
}
