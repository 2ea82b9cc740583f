//! What of the master a slave gets, by which names, and what becomes of the rows on the way: `agent.toml`, resolved. Pure.
//!
//! In: the name of a captured table. Out: whether the slave takes it, what it is called there, and its rule, if it has
//! one. The log and what the agent keeps about tables speak the master's names; only statements to the slave's tables do not.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::copy::CapturedTable;

/// Schema and name.
pub type Name = (String, String);

/// The mapping of one slave; the default takes everything as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Empty: all.
    pub include: Vec<Pattern>,
    /// Goes before `include`.
    pub exclude: Vec<Pattern>,
    /// Other names of schemas.
    pub schemas: BTreeMap<String, String>,
    /// The first that matches counts.
    pub rules: Vec<Arc<Rule>>,
}

/// What becomes of a table, or of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub pattern: Pattern,
    pub to: Option<Name>,
    /// Master's name to slave's name; `None` leaves the column out.
    pub columns: BTreeMap<String, Option<String>>,
    /// SQL over the master's row.
    pub row_filter: Option<String>,
    pub operations: Operations,
    /// Whether an INSERT takes the place of a row under its key: that of one that the slave has kept. Where agent.toml says
    /// what becomes of rows that are in the way (`insert_exists`), it says so of those as well.
    pub replaces: bool,
    /// Column of the slave, and SQL over the master's row.
    pub values: BTreeMap<String, String>,
}

/// What of a table's changes a slave takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub truncate: bool,
}

impl Operations {
    pub const ALL: Operations = Operations { insert: true, update: true, delete: true, truncate: true };

    /// Does the slave keep rows that the master no longer has under their key?
    pub fn keep_rows(self) -> bool {
        !(self.update && self.delete && self.truncate)
    }

    pub fn and(self, other: Operations) -> Operations {
        Operations {
            insert: self.insert && other.insert,
            update: self.update && other.update,
            delete: self.delete && other.delete,
            truncate: self.truncate && other.truncate,
        }
    }
}

impl Mapping {
    /// Takes every table by its own name as it is.
    pub fn is_plain(&self) -> bool {
        let Mapping { include, exclude, schemas, rules } = self;
        include.is_empty() && exclude.is_empty() && schemas.is_empty() && rules.is_empty()
    }

    /// Are there tables that have other names or columns than on the master?
    pub fn has_other_shapes(&self) -> bool {
        let other =
            |rule: &Arc<Rule>| rule.to.is_some() || !rule.columns.is_empty() || !rule.values.is_empty();
        !self.schemas.is_empty() || self.rules.iter().any(other)
    }

    /// Does the slave get this table?
    pub fn wants(&self, schema: &str, name: &str) -> bool {
        let named = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(schema, name));
        (self.include.is_empty() || named(&self.include)) && !named(&self.exclude)
    }

    /// Those of the captured tables that the slave gets.
    pub fn wanted(&self, tables: Vec<CapturedTable>) -> Vec<CapturedTable> {
        tables.into_iter().filter(|table| self.wants(&table.schema, &table.name)).collect()
    }

    pub fn rule(&self, schema: &str, name: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.pattern.matches(schema, name))
    }

    /// What the table is called on the slave.
    pub fn target(&self, schema: &str, name: &str) -> Name {
        if let Some(to) = self.rule(schema, name).and_then(|rule| rule.to.as_ref()) {
            return to.clone();
        }
        let schema = self.schemas.get(schema).map_or(schema, String::as_str);
        (schema.to_owned(), name.to_owned())
    }

    /// A captured table as it is to be found on the slave.
    pub fn on_slave(&self, table: &CapturedTable) -> CapturedTable {
        let (schema, name) = self.target(&table.schema, &table.name);
        let rule = self.rule(&table.schema, &table.name);
        let here = |column: &String| {
            rule.and_then(|rule| rule.column(column)).map_or_else(|| column.clone(), str::to_owned)
        };
        CapturedTable {
            schema,
            name,
            key_columns: match rule {
                Some(_) => table.key_columns.iter().map(here).collect(),
                None => table.key_columns.clone(),
            },
            ..table.clone()
        }
    }
}

impl Rule {
    /// What the slave calls a column of the master; `None` when it does not get it.
    pub fn column<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.columns.get(name).map_or(Some(name), Option::as_deref)
    }

    /// Are statements needed that know more than names?
    pub fn is_transform(&self) -> bool {
        !self.values.is_empty() || self.row_filter.is_some() || self.operations != Operations::ALL
    }
}

/// `schema.table`, with stars for anything; what is quoted stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    schema: Glob,
    name: Glob,
}

impl Pattern {
    /// The error says what is wrong with it.
    pub fn parse(text: &str) -> std::result::Result<Pattern, String> {
        let mut globs = vec![Glob::default()];
        let mut chars = text.chars().peekable();
        let mut quoted = false;
        while let Some(c) = chars.next() {
            let Some(glob) = globs.last_mut() else { break };
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    glob.push('"');
                }
                '"' => quoted = !quoted,
                '.' if !quoted => globs.push(Glob::default()),
                '*' if !quoted => glob.0.push(String::new()),
                c => glob.push(c),
            }
        }
        if quoted {
            return Err("has a quote that does not end".to_owned());
        }
        let Ok([schema, name]) = <[Glob; 2]>::try_from(globs) else {
            return Err("is not of the form schema.table".to_owned());
        };
        if [&schema, &name].iter().any(|glob| glob.0 == [""]) {
            return Err("has an empty name".to_owned());
        }
        Ok(Pattern { text: text.to_owned(), schema, name })
    }

    pub fn matches(&self, schema: &str, name: &str) -> bool {
        self.schema.matches(schema) && self.name.matches(name)
    }

    /// The only name that it matches, if it is one.
    pub fn name(&self) -> Option<Name> {
        match (&self.schema.0[..], &self.name.0[..]) {
            ([schema], [name]) => Some((schema.clone(), name.clone())),
            _ => None,
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The texts between the stars: one more than there are stars.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob(Vec<String>);

impl Default for Glob {
    fn default() -> Self {
        Glob(vec![String::new()])
    }
}

impl Glob {
    fn push(&mut self, c: char) {
        if let Some(last) = self.0.last_mut() {
            last.push(c);
        }
    }

    fn matches(&self, text: &str) -> bool {
        let [first, between @ .., last] = &self.0[..] else { return self.0 == [text] };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for part in between {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, (schema, name): (&str, &str), expected: bool) {
        assert_eq!(Pattern::parse(pattern).unwrap().matches(schema, name), expected, "{pattern}");
    }

    #[test]
    fn patterns() {
        check("public.t", ("public", "t"), true);
        check("public.t", ("public", "tt"), false);
        check("public.*", ("public", "a.b"), true);
        check("public.*", ("Public", "t"), false);
        check("*.*", ("", ""), true);
        check("*.a*b*c", ("x", "abc"), true);
        check("*.a*b*c", ("x", "a b--bb c"), true);
        check("*.a*b*c", ("x", "acb"), false);
        check("*.ab*ba", ("x", "aba"), false);
        check("\"a.b\".\"c*\"\"d\"", ("a.b", "c*\"d"), true);
        check("\"a.b\".\"c*\"\"d\"", ("a.b", "cx\"d"), false);
        assert_eq!(Pattern::parse("a.\"b c\"").unwrap().name(), Some(("a".into(), "b c".into())));
        assert_eq!(Pattern::parse("a.b*").unwrap().name(), None);
    }

    #[test]
    fn bad_patterns() {
        for (text, fault) in [
            ("t", "is not of the form schema.table"),
            ("a.b.c", "is not of the form schema.table"),
            ("a.", "has an empty name"),
            ("a.\"b", "has a quote that does not end"),
        ] {
            assert_eq!(Pattern::parse(text).unwrap_err(), fault, "{text}");
        }
    }

    #[test]
    fn tables() {
        let pattern = |text: &str| Pattern::parse(text).unwrap();
        let rule = |text: &str, to: Option<(&str, &str)>| {
            Arc::new(Rule {
                pattern: pattern(text),
                to: to.map(|(schema, name)| (schema.to_owned(), name.to_owned())),
                columns: BTreeMap::from([("id".into(), Some("no".into())), ("x".into(), None)]),
                row_filter: None,
                operations: Operations::ALL,
                replaces: false,
                values: BTreeMap::new(),
            })
        };
        let mapping = Mapping {
            include: vec![pattern("public.*"), pattern("b.t")],
            exclude: vec![pattern("*.audit_*")],
            schemas: BTreeMap::from([("public".into(), "shop".into())]),
            rules: vec![rule("public.customers", Some(("crm", "clients"))), rule("public.c*", None)],
        };
        assert!(mapping.wants("public", "t") && mapping.wants("b", "t"));
        assert!(!mapping.wants("public", "audit_x") && !mapping.wants("b", "u"));
        let target = |name| mapping.target("public", name);
        assert_eq!(target("customers"), ("crm".into(), "clients".into()));
        assert_eq!(target("cats"), ("shop".into(), "cats".into()));
        assert_eq!(mapping.target("b", "t"), ("b".into(), "t".into()));
        let rule = mapping.rule("public", "cats").unwrap();
        assert_eq!([rule.column("id"), rule.column("x"), rule.column("y")], [Some("no"), None, Some("y")]);
        assert!(!mapping.is_plain() && Mapping::default().is_plain() && Mapping::default().wants("a", "b"));
    }
}
