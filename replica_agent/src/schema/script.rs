//! Takes a script as pg_dump writes it apart into statements. Pure.
//!
//! In: text for psql. Out: its statements, without comments before them and without psql's own commands. The rules are
//! psql's: a semicolon ends a statement outside of quotes, dollar quotes, comments, parentheses and BEGIN ATOMIC bodies.

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
        at += match bytes[at] {
            b'\'' => quoted(rest, b'\'', is_escape_string(&bytes[..at])),
            b'"' => quoted(rest, b'"', false),
            b'-' if rest.starts_with("--") => line(rest),
            b'/' if rest.starts_with("/*") => comment(rest),
            b'$' => dollar_quoted(rest),
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
                let end = rest.bytes().take_while(|b| is_word(*b) || *b == b'$').count();
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

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn is_routine(words: &[String]) -> bool {
    let words: Vec<&str> =
        words.iter().map(String::as_str).filter(|w| !["or", "replace"].contains(w)).collect();
    matches!(words.as_slice(), ["create", "function" | "procedure", ..])
}

/// Is the quote that follows that of E'...'?
fn is_escape_string(before: &[u8]) -> bool {
    matches!(before, [.., b'e' | b'E']) && !matches!(before, [.., b, _] if is_word(*b))
}

fn line(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |end| end + 1)
}

fn quoted(text: &str, quote: u8, escapes: bool) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            // A doubled quote ends one literal and begins another, which comes to the same.
            _ if byte == quote && !escaped => return at + 1,
            _ => escaped = escapes && byte == b'\\' && !escaped,
        }
    }
    text.len()
}

/// Comments nest.
fn comment(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// `$tag$ ... $tag$`; a dollar that begins no such thing stands for itself.
fn dollar_quoted(text: &str) -> usize {
    let tag = text.bytes().skip(1).take_while(|byte| is_word(*byte)).count();
    let begin = tag + 2;
    if text.as_bytes().get(begin - 1) != Some(&b'$') || text.as_bytes()[1].is_ascii_digit() {
        return 1;
    }
    let end = text[begin..].find(&text[..begin]);
    end.map_or(text.len(), |end| begin + end + begin)
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
