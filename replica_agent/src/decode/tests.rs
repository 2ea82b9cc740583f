//! Golden examples, and any bytes at all: decoded or refused, never a panic.

use super::*;
use proptest::prelude::*;

const GOLDEN: &str = include_str!("../../../tests/golden/payloads.txt");

fn value(v: Value) -> String {
    let printable = |b: &u8| (0x20..=0x7e).contains(b) && *b != b'\'' && *b != b'\\';
    match v {
        None => "NULL".into(),
        Some(bytes) if bytes.len() > 64 => format!("{} bytes {}", bytes.len(), value(Some(&bytes[..8]))),
        Some(bytes) if bytes.iter().all(printable) => format!("'{}'", String::from_utf8_lossy(bytes)),
        Some(bytes) => format!("\\x{}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

fn describe(decoder: &Decoder, change: &Change) -> String {
    let name = |r: usize| format!("{}.{}", decoder.relation(r).schema, decoder.relation(r).name);
    let column = |r: usize, c: usize| {
        let column = decoder.relation(r).columns[c].as_ref().unwrap();
        format!("{}:{}{}", column.name, column.type_oid, if column.binary { 'b' } else { 't' })
    };
    let pairs = |r: usize, columns: &[usize], values: &[Value]| {
        let pair = |(&c, &v): (&usize, &Value)| format!("{}={}", column(r, c), value(v));
        columns.iter().zip(values).map(pair).collect::<Vec<_>>().join(" ")
    };
    match change {
        Change::Insert { relation: r, row } => {
            format!("insert {} {}", name(*r), pairs(*r, &(0..row.len()).collect::<Vec<_>>(), row))
        }
        Change::Update { relation: r, key, changed, row: _ } => {
            let set = |c: &Changed| format!("{}={} was {}", column(*r, c.column), value(c.new), value(c.old));
            let set = changed.iter().map(set).collect::<Vec<_>>().join(" ");
            format!("update {} key {} set {set}", name(*r), pairs(*r, &decoder.relation(*r).key, key))
        }
        Change::Delete { relation: r, key } => {
            format!("delete {} key {}", name(*r), pairs(*r, &decoder.relation(*r).key, key))
        }
        Change::Truncate { relations, partition, restart_identity } => {
            let names = relations.iter().map(|&r| name(r)).collect::<Vec<_>>().join(" ");
            let partition = partition.map(|p| format!("{} of ", name(p))).unwrap_or_default();
            format!("truncate {partition}{names}{}", if *restart_identity { " restart identity" } else { "" })
        }
        Change::Statement { sql, role, settings } => {
            let show = |text: &str| value(Some(text.as_bytes()));
            let settings: String =
                settings.iter().map(|(name, value)| format!(" {name}={}", show(value))).collect();
            format!("statement {} role {}{settings}", show(sql), show(role))
        }
    }
}

fn decode(payload: &[u8]) -> Result<Vec<String>> {
    let mut decoder = Decoder::new(payload)?;
    let mut lines = Vec::new();
    while let Some(change) = decoder.next()? {
        lines.push(describe(&decoder, &change));
    }
    Ok(lines)
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Name, payload and changes of each golden example.
fn golden() -> Vec<(&'static str, Vec<u8>, Vec<&'static str>)> {
    let mut examples: Vec<(&str, Vec<u8>, Vec<&str>)> = Vec::new();
    for line in GOLDEN.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix("= ") {
            examples.push((name, Vec::new(), Vec::new()));
            continue;
        }
        let (_, payload, changes) = examples.last_mut().unwrap();
        match line.strip_prefix("> ") {
            Some(change) => changes.push(change),
            None => payload.extend(unhex(line)),
        }
    }
    examples
}

#[test]
fn golden_examples() {
    let examples = golden();
    assert!(examples.len() >= 15);
    for (name, payload, changes) in examples {
        assert_eq!(decode(&payload).unwrap(), changes, "{name}");
    }
}

/// A payload cut anywhere is refused, or says less; it never says something else.
#[test]
fn cut_payloads() {
    for (name, payload, changes) in golden() {
        for length in 0..payload.len() {
            if let Ok(some) = decode(&payload[..length]) {
                assert!(
                    changes.iter().map(|c| c.to_string()).collect::<Vec<_>>().starts_with(&some),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn refuses() {
    let check = |hex: &str, what: &str| {
        let text = decode(&unhex(hex)).unwrap_err().to_string();
        assert!(text.contains(what), "{hex}: {text}");
    };
    check("03", "format version 3");
    check("0158", "unknown message");
    check("014900", "number out of range"); // a relation that was not introduced
    check("0152018080808080808080808001", "number out of range"); // a varint of more than 64 bits
    check("01520101730174c10c00", "too many columns");
    check("01520101730174010100490001", "not introduced"); // a row before its column
    check("015201017301740100440000", "not introduced"); // a delete without a key
    check("01520102fffe", "not UTF-8");
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        let _ = decode(&[&[1u8][..], &bytes].concat());
        let _ = decode(&[&[2u8][..], &bytes].concat());
    }

    #[test]
    fn mutated_examples(pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(), extra in proptest::collection::vec(any::<u8>(), 0..4)) {
        let examples = golden();
        let mut payload = pick.get(&examples).1.clone();
        if !payload.is_empty() {
            let at = at.index(payload.len());
            payload.splice(at..=at, std::iter::once(byte).chain(extra));
        }
        let _ = decode(&payload);
    }
}
