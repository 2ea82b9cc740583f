//! The password file, `~/.pgpass` or `PGPASSFILE`, read by libpq's rules.
//!
//! In: the file and whom to connect to. Out: the password of the first line that fits, if any.
//! Invariant: a file that others may read is not used, and said so; nothing of its content reaches a log.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Once;

pub fn look_up(file: &Path, host: &str, port: u16, dbname: &str, user: &str) -> Option<String> {
    let mut opened = File::open(file).ok()?;
    let meta = opened.metadata().ok()?;
    if !meta.is_file() {
        return None;
    }
    if meta.mode() & 0o077 != 0 {
        // Reconnecting asks again and again; once is enough to be heard.
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            log::warn!(
                "password file \"{}\" has group or world access and is not used; permissions should be u=rw (0600) or less",
                file.display()
            );
        });
        return None;
    }
    let mut text = String::new();
    if let Err(e) = opened.read_to_string(&mut text) {
        log::warn!("could not read password file \"{}\": {e}", file.display());
        return None;
    }
    find(&text, &[host, &port.to_string(), dbname, user])
}

/// Lines are `host:port:database:user:password`; `*` fits anything, `\` takes the next character as it is.
fn find(text: &str, wanted: &[&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for want in wanted {
            let (raw, after) = field(rest)?;
            if raw != "*" && unescape(raw) != *want {
                return None;
            }
            rest = after;
        }
        // The password is the rest of the line; a colon in it need not be escaped.
        Some(unescape(rest)).filter(|password| !password.is_empty())
    })
}

/// Up to the next colon without a backslash before it.
fn field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            ':' if !escaped => return Some((&text[..at], &text[at + 1..])),
            _ => escaped = c == '\\' && !escaped,
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut chars = text.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn check(line: &str, expected: Option<&str>) {
        assert_eq!(find(line, &["db1", "5432", "shop", "ann"]).as_deref(), expected, "{line}");
    }

    #[test]
    fn lines() {
        check("db1:5432:shop:ann:secret", Some("secret"));
        check("*:*:*:*:a:b", Some("a:b"));
        check("db1:5432:shop:bob:no\ndb1:*:shop:ann:yes", Some("yes"));
        check("# db1:5432:shop:ann:no\n\n*:*:*:ann:yes", Some("yes"));
        check(r"db1:5432:shop:ann:a\:b\\c", Some(r"a:b\c"));
        check("db1:5433:shop:ann:no", None);
        check("db1:5432:shop:ann:", None);
        check("nonsense", None);
        assert_eq!(find(r"a\:b:1:x\\y:\*:p", &["a:b", "1", r"x\y", "*"]).as_deref(), Some("p"));
        assert_eq!(find(r"h:1:d:\*:p", &["h", "1", "d", "ann"]), None, "an escaped star is no wildcard");
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let file = std::env::temp_dir().join(format!("pgpass-{}", std::process::id()));
        std::fs::write(&file, "*:*:*:*:secret\n").unwrap();
        let permit = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        permit(0o640);
        assert_eq!(look_up(&file, "h", 1, "d", "u"), None);
        permit(0o600);
        assert_eq!(look_up(&file, "h", 1, "d", "u").as_deref(), Some("secret"));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(look_up(&file, "h", 1, "d", "u"), None);
    }
}
