//! The golden examples of docs/log-format.md, read and written.

use crate::decode::{Message, Messages, Relation, Value};
use crate::encode;

const EXAMPLES: &str = include_str!("../../../tests/golden/payloads.txt");

struct Example {
    name: String,
    payload: Vec<u8>,
    changes: Vec<String>,
}

fn examples() -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for line in EXAMPLES.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix("= ") {
            examples.push(Example { name: name.into(), payload: Vec::new(), changes: Vec::new() });
            continue;
        }
        let example = examples.last_mut().expect("an example begins with its name");
        match line.strip_prefix("> ") {
            Some(change) => example.changes.push(change.into()),
            None => {
                let hex = |i: usize| u8::from_str_radix(&line[i..i + 2], 16).expect("hex digits");
                example.payload.extend((0..line.len()).step_by(2).map(hex));
            }
        }
    }
    examples
}

#[test]
fn golden_payloads_read_as_they_say() {
    let examples = examples();
    assert!(examples.len() > 10);
    for example in examples {
        let mut messages = Messages::new(&example.payload).expect("a version that is known");
        let mut changes = Vec::new();
        while let Some(message) = messages.next().expect("well-formed") {
            changes.extend(line(&message, &messages.relations));
        }
        assert_eq!(changes, example.changes, "{}", example.name);
    }
}

#[test]
fn golden_payloads_are_what_is_written() {
    for example in examples().into_iter().filter(|e| e.payload.first() == Some(&encode::VERSION)) {
        let mut messages = Messages::new(&example.payload).expect("a version that is known");
        let mut written = vec![encode::VERSION];
        let mut start = messages.offset();
        while let Some(message) = messages.next().expect("well-formed") {
            write(&example.payload[start..messages.offset()], &message, &messages.relations, &mut written);
            start = messages.offset();
        }
        assert_eq!(written, example.payload, "{}", example.name);
    }
}

/// Writes a message anew from what was read of it.
fn write(bytes: &[u8], message: &Message, relations: &[Relation], out: &mut Vec<u8>) {
    let value = |out: &mut Vec<u8>, v: &Value| match v {
        None => encode::null(out),
        Some(bytes) => encode::value(out, bytes),
    };
    let begin = |out: &mut Vec<u8>, relation: usize| encode::begin(out, bytes[0], relation as u32);
    match message {
        Message::Introduction if bytes[0] == encode::tag::RELATION => {
            let r = relations.last().expect("it was introduced");
            encode::relation(out, r.oid, r.schema, r.name, r.columns.len(), &r.key);
        }
        Message::Introduction => {
            // One byte for the relation, one or two for the column.
            let relation = usize::from(bytes[1]);
            let high = if bytes[2] < 0x80 { 0 } else { usize::from(bytes[3]) << 7 };
            let column = usize::from(bytes[2] & 0x7f) + high;
            let c = relations[relation].columns[column].as_ref().expect("it was introduced");
            begin(out, relation);
            encode::column(out, column, c.name, c.type_oid, c.binary);
        }
        Message::Insert { relation, new } => {
            begin(out, *relation);
            new.iter().for_each(|v| value(out, v));
        }
        Message::Update { relation, key, changed } => {
            begin(out, *relation);
            key.iter().for_each(|v| value(out, v));
            encode::varint(out, changed.len() as u64);
            for c in changed {
                encode::varint(out, c.column as u64);
                value(out, &c.new);
                value(out, &c.old);
            }
        }
        Message::KeyUpdate { relation, key, new, old } => {
            begin(out, *relation);
            key.iter().chain(new).for_each(|v| value(out, v));
            encode::varint(out, old.len() as u64);
            for (column, v) in old {
                encode::varint(out, *column as u64);
                value(out, v);
            }
        }
        Message::Delete { relation, key } => {
            begin(out, *relation);
            key.iter().for_each(|v| value(out, v));
        }
        Message::Truncate { restart_identity, partitions, relations } => {
            let flags =
                [(*restart_identity, encode::TRUNCATE_RESTART), (*partitions, encode::TRUNCATE_PARTITIONS)];
            let flags = flags.iter().filter(|f| f.0).map(|f| f.1).sum();
            encode::truncate(out, flags, &relations.iter().map(|&r| r as u32).collect::<Vec<_>>());
        }
        Message::Statement { sql, role, settings } => encode::statement(out, sql, role, settings),
    }
}

/// A change as the examples write it.
fn line(message: &Message, relations: &[Relation]) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let table = |r: &usize| format!("{}.{}", text(relations[*r].schema), text(relations[*r].name));
    let column = |r: &usize, c: usize| {
        let known = relations[*r].columns[c].as_ref().expect("it was introduced");
        format!("{}:{}{}", text(known.name), known.type_oid, if known.binary { 'b' } else { 't' })
    };
    let pair = |r: &usize, c: usize, v: &Value| format!(" {}={}", column(r, c), show(v));
    let key = |r: &usize, values: &[Value]| -> String {
        relations[*r].key.iter().zip(values).map(|(&c, v)| pair(r, c, v)).collect()
    };
    Some(match message {
        Message::Introduction => return None,
        Message::Insert { relation, new } => {
            let values: String = new.iter().enumerate().map(|(c, v)| pair(relation, c, v)).collect();
            format!("insert {}{values}", table(relation))
        }
        Message::Update { relation, key: k, changed } => {
            let set = |c: &crate::decode::Changed| {
                format!("{} was {}", pair(relation, c.column, &c.new), show(&c.old))
            };
            let set: String = changed.iter().map(set).collect();
            format!("update {} key{} set{set}", table(relation), key(relation, k))
        }
        Message::KeyUpdate { relation, key: k, new, old } => {
            let set = |c: usize, v: &Value| match old.iter().find(|(o, _)| *o == c) {
                Some((_, was)) => format!("{} was {}", pair(relation, c, v), show(was)),
                None => pair(relation, c, v),
            };
            let set: String = new
                .iter()
                .enumerate()
                .filter(|(c, _)| old.iter().any(|o| o.0 == *c))
                .map(|(c, v)| set(c, v))
                .collect();
            format!("update {} key{} set{set}", table(relation), key(relation, k))
        }
        Message::Delete { relation, key: k } => format!("delete {} key{}", table(relation), key(relation, k)),
        Message::Truncate { restart_identity, partitions, relations: truncated } => {
            let names: Vec<String> = truncated.iter().map(table).collect();
            let restart = if *restart_identity { " restart identity" } else { "" };
            match (partitions, names.as_slice()) {
                (true, [root, rest @ ..]) => format!("truncate {} of {root}{restart}", rest.join(" ")),
                _ => format!("truncate {}{restart}", names.join(" ")),
            }
        }
        Message::Statement { sql, role, settings } => {
            let settings: String = settings
                .iter()
                .map(|(name, value)| format!(" {}={}", text(name), show(&Some(value))))
                .collect();
            format!("statement {} role {}{settings}", show(&Some(sql)), show(&Some(role)))
        }
    })
}

fn show(value: &Value) -> String {
    let Some(bytes) = value else { return "NULL".into() };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    if bytes.len() > 64 {
        return format!("{} bytes \\x{}", bytes.len(), hex(&bytes[..8]));
    }
    let printable = |b: &u8| (0x20..0x7f).contains(b) && !b"'\\".contains(b);
    if bytes.iter().all(printable) {
        return format!("'{}'", String::from_utf8_lossy(bytes));
    }
    format!("\\x{}", hex(bytes))
}
