//! The two ways to write a connection string, taken apart into keywords and values.
//!
//! In: text. Out: pairs, neither known nor checked yet. No error repeats a piece that may belong to a password.

use super::{invalid, QUOTE_HINT};
use crate::error::Result;

pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => uri_pairs(rest),
        None => keyword_pairs(text),
    }
}

/// `keyword = value ...`; a value in single quotes may hold blanks, a backslash takes the next character as it is.
fn keyword_pairs(text: &str) -> Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut keyword = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            keyword.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next_if_eq(&'=').is_none() {
            let word = pairs.len() + 1;
            return Err(
                invalid(format!("missing \"=\" in option {word} of the connection string")).hint(QUOTE_HINT)
            );
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        let quoted = chars.next_if_eq(&'\'').is_some();
        loop {
            match chars.next_if(|c| quoted || !c.is_whitespace()) {
                Some('\'') if quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) => value.push(c),
                None if quoted => {
                    return Err(invalid(format!(
                        "unterminated quoted string in connection option \"{keyword}\""
                    )))
                }
                None => break,
            }
        }
        pairs.push((keyword, value));
    }
}

/// `[user[:password]@][host[:port]][,...][/dbname][?keyword=value[&...]]`
fn uri_pairs(rest: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut add = |keyword: &str, value: &str| -> Result<()> {
        if !value.is_empty() {
            pairs.push((keyword.to_owned(), percent_decode(value)?));
        }
        Ok(())
    };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let authority_end = rest.find(['@', '/']).filter(|at| rest[*at..].starts_with('@'));
    let rest = match authority_end {
        Some(at) => {
            let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
            add("user", user)?;
            add("password", password)?;
            &rest[at + 1..]
        }
        None => rest,
    };
    let (servers, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    // A password with a "/" in it would be taken for a host and a database, and shown.
    if dbname.contains('@') {
        return Err(invalid("database name in the URI contains \"@\"")
            .hint("In the user name or the password write %2F for a \"/\" and %40 for an \"@\"."));
    }
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for server in servers.split(',') {
        let (name, port) = if let Some(address) = server.strip_prefix('[') {
            let (name, after) = address
                .split_once(']')
                .ok_or_else(|| invalid("missing \"]\" after an IPv6 address in the URI"))?;
            match after.strip_prefix(':') {
                Some(port) => (name, port),
                None if after.is_empty() => (name, ""),
                None => return Err(invalid("unexpected character after \"]\" in the URI")),
            }
        } else {
            server.split_once(':').unwrap_or((server, ""))
        };
        names.push(name);
        ports.push(port);
    }
    if names.iter().any(|name| !name.is_empty()) {
        add("host", &names.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        add("port", &ports.join(","))?;
    }
    add("dbname", dbname)?;
    for option in query.into_iter().flat_map(|query| query.split('&')).filter(|option| !option.is_empty()) {
        let (keyword, value) =
            option.split_once('=').ok_or_else(|| invalid("missing \"=\" in the options of the URI"))?;
        match (percent_decode(keyword)?.as_str(), value) {
            ("ssl", "true") => add("sslmode", "require")?,
            (keyword, value) => add(keyword, value)?,
        }
    }
    Ok(pairs)
}

fn percent_decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(0), Some(0)) => return Err(invalid("forbidden %00 in the URI")),
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(invalid("\"%\" in the URI is not followed by two hexadecimal digits")),
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid("the URI is not UTF-8 after percent-decoding"))
}
