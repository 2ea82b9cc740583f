//! What may stand in a section of the file: its keys, and what each holds.
//!
//! In: a section as TOML has it. Out: nothing, or an error that names key and section in the words of the file. It never
//! shows a value, which may be a password. What passes here becomes settings without a further error of form.

use toml::{Table, Value};

use super::invalid;
use crate::dsn::nearest;
use crate::error::Result;

#[derive(Clone, Copy)]
pub(super) enum Holds {
    Text,
    Switch,
    /// From the one to the other.
    Whole(i64, i64),
    Number(f64, f64),
    Word(&'static [&'static str]),
    Texts,
    TextOrTexts,
    /// Texts by names.
    NamedTexts,
    /// What has names; whoever reads it looks at them.
    Named,
    /// Sections of their own.
    Sections,
}

pub(super) type Keys = &'static [(&'static str, Holds)];

/// The section has no other keys, those that it needs, and in each what it may hold. `place` is as in "in [agent]".
pub(super) fn check(section: &Table, keys: Keys, needed: &[&str], place: &str) -> Result<()> {
    let names = || keys.iter().map(|(name, _)| *name);
    for (key, value) in section {
        let Some((_, holds)) = keys.iter().find(|(name, _)| name == key) else {
            let error = invalid(format!("unknown key \"{key}\" {place}"));
            return Err(match nearest(key, names()) {
                Some(near) => error.hint(format!("Perhaps you meant \"{near}\".")),
                None => error.hint(format!("Known are: {}.", names().collect::<Vec<_>>().join(", "))),
            });
        };
        if !holds.takes(value) {
            let error = invalid(format!("{key} {place} is not {}", holds.described()));
            return Err(match (holds, value) {
                (Holds::Word(words), Value::String(text)) => match nearest(text, words.iter().copied()) {
                    Some(near) => error.hint(format!("Perhaps you meant \"{near}\".")),
                    None => error,
                },
                _ => error,
            });
        }
    }
    match needed.iter().find(|needed| !section.contains_key(**needed)) {
        Some(missing) => Err(invalid(format!("key \"{missing}\" is missing {place}"))),
        None => Ok(()),
    }
}

impl Holds {
    fn takes(self, value: &Value) -> bool {
        match self {
            Holds::Text => value.is_str(),
            Holds::Switch => value.is_bool(),
            Holds::Whole(from, to) => value.as_integer().is_some_and(|n| (from..=to).contains(&n)),
            Holds::Number(from, to) => {
                let number = value.as_float().or(value.as_integer().map(|n| n as f64));
                number.is_some_and(|n| (from..=to).contains(&n))
            }
            Holds::Word(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Holds::Texts => value.as_array().is_some_and(|texts| texts.iter().all(Value::is_str)),
            Holds::TextOrTexts => Holds::Text.takes(value) || Holds::Texts.takes(value),
            Holds::NamedTexts => value.as_table().is_some_and(|texts| texts.values().all(Value::is_str)),
            Holds::Named => value.is_table(),
            Holds::Sections => true,
        }
    }

    fn described(self) -> String {
        match self {
            Holds::Text => "text in quotes".to_owned(),
            Holds::Switch => "true or false".to_owned(),
            Holds::Whole(from, i64::MAX) => format!("a whole number from {from} on"),
            Holds::Whole(from, to) => format!("a whole number from {from} to {to}"),
            Holds::Number(from, to) => format!("a number from {from} to {to}"),
            Holds::Word(words) => format!("one of \"{}\"", words.join("\", \"")),
            Holds::Texts => "a list of texts, as [\"...\", \"...\"]".to_owned(),
            Holds::TextOrTexts => "text in quotes or a list of texts".to_owned(),
            Holds::NamedTexts => "a list of names with texts, as { name = \"...\" }".to_owned(),
            Holds::Named => "a list of names, as { name = ... }".to_owned(),
            Holds::Sections => "a section".to_owned(),
        }
    }
}
