//! Takes a script as pg_dump writes it apart into statements. Pure.
//!
//! In: text for psql. Out: its statements, without comments before them and without psql's own commands. The rules are
//! psql's: a semicolon ends a statement outside of quotes, dollar quotes, comments, parentheses and BEGIN ATOMIC bodies.

use crate::lexer::{comment, is_word, line, opaque, word};

pub(super) fn statements(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = skip_between(rest);
        if rest.is_empty() {
            return found;
        }
        let length = length(rest);
        let (statement, after) = rest.split_at(length);
        found.push(statement.trim_end());
        rest = after;
    }
}

/// What may stand between two statements: blanks, comments, commands of psql such as `\restrict`.
fn skip_between(mut text: &str) -> &str {
    loop {
        text = text.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        let skipped = match text.as_bytes() {
            [b'-', b'-', ..] | [b'\\', ..] => line(text),
            [b'/', b'*', ..] => comment(text),
            _ => return text,
        };
        text = &text[skipped..];
    }
}

/// The bytes of the statement that the text begins with, its semicolon included.
fn length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut parentheses = 0usize;
    // BEGIN ATOMIC ... END of an SQL function, in which CASE has an END too.
    let mut words: Vec<String> = Vec::new();
    let mut blocks = 0usize;
    while at < bytes.len() {
        let rest = &text[at..];
        if let Some(length) = opaque(text, at) {
            at += length;
            continue;
        }
        at += match bytes[at] {
            b'(' => {
                parentheses += 1;
                1
            }
            b')' => {
                parentheses = parentheses.saturating_sub(1);
                1
            }
            b';' if parentheses == 0 && blocks == 0 => return at + 1,
            byte if is_word(byte) => {
                let end = word(rest);
                let word = rest[..end].to_ascii_lowercase();
                match word.as_str() {
                    "begin" if is_routine(&words) => blocks += 1,
                    "case" if blocks > 0 => blocks += 1,
                    "end" => blocks = blocks.saturating_sub(1),
                    _ => {}
                }
                if words.len() < 4 {
                    words.push(word);
                }
                end
            }
            _ => 1,
        };
    }
    at
}

fn is_routine(words: &[String]) -> bool {
    let words: Vec<&str> =
        words.iter().map(String::as_str).filter(|w| !["or", "replace"].contains(w)).collect();
    matches!(words.as_slice(), ["create", "function" | "procedure", ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(statements(text), expected);
    }

    #[test]
    fn statements_end_where_psql_ends_them() {
        check("", &[]);
        check(
            "\n--\n-- Name: x; Type: y\n--\n\nSET a = 1;\n\\restrict abc\nselect 2;",
            &["SET a = 1;", "select 2;"],
        );
        check("select 'a;''b', \"c;\"\"d\" -- e;\n, 1; x", &["select 'a;''b', \"c;\"\"d\" -- e;\n, 1;", "x"]);
        check("select E'\\';', 'a\\'; b", &["select E'\\';', 'a\\';", "b"]);
        check("select $$;$$, $a$;$$;$a$, $1; b;", &["select $$;$$, $a$;$$;$a$, $1;", "b;"]);
        check("/* a; /* b; */ c; */ d; e", &["d;", "e"]);
        check(
            "create rule r as on insert to t do (a; b); c;",
            &["create rule r as on insert to t do (a; b);", "c;"],
        );
        check(
            "CREATE FUNCTION s.f() RETURNS int BEGIN ATOMIC SELECT CASE 1 WHEN 2 THEN 3 END; SELECT 1; END; b;",
            &["CREATE FUNCTION s.f() RETURNS int BEGIN ATOMIC SELECT CASE 1 WHEN 2 THEN 3 END; SELECT 1; END;", "b;"],
        );
        check("begin; a; end;", &["begin;", "a;", "end;"]);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_taken_apart(text in "[a-zE;'\"$()/*\\-\\\\\n é]{0,60}") {
            let found: usize = statements(&text).iter().map(|s| s.len()).sum();
            prop_assert!(found <= text.len());
        }
    }
}
