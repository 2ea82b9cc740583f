//! Which columns an SQL expression of `agent.toml` uses. Pure.
//!
//! In: its text, the name of its row, the names of the columns. Out: the columns. Too many rather than too few: a word
//! that could be a column counts as one, so that nothing is computed from a row in which it is missing. Whether the
//! text is an expression at all the server says (`check`).

use crate::lexer::{opaque, word};

/// Those of the columns that the expression uses, in their order; all of them when it uses the row as a whole.
pub fn columns_used(text: &str, row: &str, columns: &[&str]) -> Vec<usize> {
    let words = words(text);
    let mut used = vec![false; columns.len()];
    for (i, found) in words.iter().enumerate() {
        let Word::Name(name) = found else { continue };
        let qualifier = match words[..i] {
            [.., Word::Name(ref qualifier), Word::Sign('.')] => Some(qualifier.as_str()),
            [.., Word::Sign('.')] => Some(""),
            _ => None,
        };
        if qualifier.is_some_and(|qualifier| qualifier != row) {
            continue;
        }
        match words[i + 1..] {
            [Word::Sign('('), ..] => {}
            [Word::Sign('.'), Word::Sign('*'), ..] => used.fill(true),
            [Word::Sign('.'), ..] => {}
            _ if name == UNKNOWN => used.fill(true),
            _ => match columns.iter().position(|column| column == name) {
                Some(column) => used[column] = true,
                None if name == row => used.fill(true),
                None => {}
            },
        }
    }
    (0..columns.len()).filter(|&n| used[n]).collect()
}

/// Does it have a `$1`? There is nothing that it could stand for.
pub fn has_parameter(text: &str) -> bool {
    words(text).contains(&Word::Sign('$'))
}

/// Does each parenthesis and bracket end what began in it? Then the text stays one expression between others.
pub fn is_closed(text: &str) -> bool {
    let mut open = Vec::new();
    for word in words(text) {
        match word {
            Word::Sign(sign @ ('(' | '[')) => open.push(sign),
            Word::Sign(')') if open.pop() != Some('(') => return false,
            Word::Sign(']') if open.pop() != Some('[') => return false,
            _ => {}
        }
    }
    open.is_empty()
}

/// Is it over columns by their bare names, and has no query inside? COPY takes such a condition.
pub fn is_of_columns_alone(text: &str, row: &str) -> bool {
    const QUERIES: [&str; 4] = ["select", "values", "table", "with"];
    !words(text).iter().any(|word| {
        matches!(word, Word::Name(name) if name == row || name == UNKNOWN || QUERIES.contains(&name.as_str()))
    })
}

/// What is not taken apart here: a name with escapes.
const UNKNOWN: &str = "U&";

#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// As the server would know it.
    Name(String),
    Sign(char),
}

fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if let Some(mut length) = opaque(text, at) {
            if c == '"' {
                // A quote that is doubled stands inside of the name.
                while rest[length..].starts_with('"') {
                    length += opaque(text, at + length).unwrap_or(1);
                }
                let inside = rest[1..length].strip_suffix('"').unwrap_or(&rest[1..length]);
                words.push(Word::Name(inside.replace("\"\"", "\"")));
            }
            at += length;
        } else if c.is_ascii_digit() {
            // 1e5 is no name; nor is the rest of 12abc, which the server refuses.
            at += word(rest);
        } else if word(rest) > 0 && c != '$' {
            let length = word(rest);
            let name = &rest[..length];
            let escaped = name.eq_ignore_ascii_case("u") && rest[length..].starts_with("&\"");
            words.push(Word::Name(if escaped { UNKNOWN.to_owned() } else { name.to_ascii_lowercase() }));
            at += length;
        } else {
            if !c.is_whitespace() {
                words.push(Word::Sign(c));
            }
            at += c.len_utf8();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COLUMNS: &[&str] = &["id", "name", "Mail", "région", "5\" \"x\""];

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let used = columns_used(text, "people", COLUMNS);
        assert_eq!(used.iter().map(|&n| COLUMNS[n]).collect::<Vec<_>>(), expected, "{text}");
    }

    #[test]
    fn what_an_expression_uses() {
        check("'name' || E'\\'name' || $$name$$ /* name */ -- name", &[]);
        check("split_part(NAME, ' ', 1)", &["name"]);
        check("md5(\"Mail\") || mail", &["Mail"]);
        check("région = 'EU' and id>1e5", &["id", "région"]);
        check("name(id) + name . name (1)", &["id"]);
        check("people.name || \"people\".\"Mail\"", &["name", "Mail"]);
        check("(select c.name from public.country c where c.id = people.id)", &["id"]);
        check("to_jsonb(people)", COLUMNS);
        check("to_jsonb(people.*)", COLUMNS);
        check("(address).name || public.name", &[]);
        check("U&\"n\\0061me\"", COLUMNS);
        check("\"5\"\" \"\"x\"\"\" > 1 and \"\"\"id\" is null", &["5\" \"x\""]);
        check("id::name", &["id", "name"]);
        check("$1", &[]);
    }

    #[test]
    fn parameters() {
        assert!(has_parameter("$1 + 1") && !has_parameter("a$1 || '$1' || $x$$1$x$"));
    }

    #[test]
    fn parentheses() {
        assert!(is_closed("(a[1] + b) * c(')', \"]\") /* ( */"));
        for open in ["a) or (b", "(a", "a)", "(a]", "a[1)]"] {
            assert!(!is_closed(open), "{open}");
        }
    }

    #[test]
    fn columns_alone() {
        assert!(is_of_columns_alone("lower(name) like 'select%' and id > 3", "people"));
        for other in ["people.id > 3", "people is not null", "id in (select 1)", "id = (values (1))"] {
            assert!(!is_of_columns_alone(other, "people"), "{other}");
        }
    }

    #[test]
    fn a_column_may_have_the_name_of_its_table() {
        let used = |text| columns_used(text, "id", COLUMNS);
        assert_eq!(used("id.name"), [1]);
        assert_eq!(used("id + 1"), [0]);
        assert_eq!(used("id.id"), [0]);
    }

    proptest! {
        #[test]
        fn a_column_is_found_wherever_it_stands(
            before in "[a-z0-9 +*/=<>,(]{0,20}[ +*/=<>,(]",
            after in "[ +*/=<>,)][a-z0-9 +*/=<>,)]{0,20}",
        ) {
            // What begins a comment before it makes it none.
            prop_assume!(!before.contains("/*"));
            let text = format!("{before}name{after}");
            prop_assume!(!after.trim_start().starts_with('('));
            prop_assert!(columns_used(&text, "people", COLUMNS).contains(&1), "{}", text);
        }

        #[test]
        fn any_text_comes_to_an_end(text in "[a-zU&E;'\"$()/*\\-\\\\\n é.]{0,60}") {
            prop_assert!(columns_used(&text, "people", COLUMNS).len() <= COLUMNS.len());
        }
    }
}
