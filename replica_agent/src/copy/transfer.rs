//! Passes the rows of one COPY on to another, as they come.
//!
//! In: a COPY on the master and one on the slave, in the same format. Out: how many rows went over. The server on
//! either side holds the other back, so that memory is bounded by a buffer and one row.

use std::io::{BufRead, Write};

use postgres::{Client, CopyInWriter, CopyOutReader};

use super::progress::TableProgress;
use super::{table, CapturedTable};
use crate::error::{Error, Kind, Result};
use crate::mapping::Rule;
use crate::quote;
use crate::wake::Stop;

/// Larger messages cost the slave less, up to about here.
const BUFFER: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A quarter faster on the slave, and possible where each column's type is the same on both sides.
    Binary,
    Text,
}

impl Format {
    pub fn option(self) -> &'static str {
        match self {
            Format::Binary => " (format binary)",
            Format::Text => "",
        }
    }
}

/// The columns that are copied, ready for a statement, and the format that suits both sides.
pub(super) struct Columns {
    /// By their names on the slave.
    pub list: String,
    /// By their names on the master.
    pub names: String,
    /// What is selected for them on the master. Where types differ it casts, as the stream does when it applies.
    pub source: String,
    pub format: Format,
}

impl Columns {
    /// Generated columns are not copied: the slave computes them.
    pub fn choose(
        master: &mut impl postgres::GenericClient,
        slave: &mut Client,
        (table, there): (&CapturedTable, &CapturedTable),
        rule: Option<&Rule>,
    ) -> std::result::Result<Columns, postgres::Error> {
        let statement = include_str!("../sql/copied_columns.sql");
        let sent = master.query(statement, &[&table.schema, &table.name])?;
        let here = slave.query(statement, &[&there.schema, &there.name])?;
        let (mut list, mut names, mut source) = (Vec::new(), Vec::new(), Vec::new());
        let mut format = Format::Binary;
        for row in &sent {
            let name: &str = row.get(0);
            let type_of = |row: &postgres::Row| row.get::<_, Option<u32>>(1);
            if !table.part.sends(name) {
                continue;
            }
            let Some(name_there) = rule.map_or(Some(name), |rule| rule.column(name)) else { continue };
            let other = here.iter().find(|other| other.get::<_, &str>(0) == name_there);
            list.push(quote::ident(name_there));
            names.push(quote::ident(name));
            source.push(match (type_of(row), other.and_then(type_of)) {
                (Some(sent), Some(here)) if sent == here => quote::ident(name),
                (Some(_), Some(_)) => {
                    let type_name: &str = other.map_or("", |other| other.get(2));
                    format!("cast({} as {type_name})", quote::ident(name))
                }
                _ => {
                    format = Format::Text;
                    quote::ident(name)
                }
            });
        }
        Ok(Columns { list: list.join(", "), names: names.join(", "), source: source.join(", "), format })
    }
}

/// What went over the line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Rows that the master sent.
    pub rows: u64,
    /// Rows that the slave says it stored.
    pub stored: u64,
}

/// Both ends of one copy, for its errors.
pub(super) struct Ends<'a> {
    pub table: &'a str,
    pub slave: &'a str,
}

impl Ends<'_> {
    pub fn on_master(&self, e: postgres::Error) -> Error {
        Error::from_pg(format!("could not copy table \"{}\" from the master", self.table), e)
    }

    pub fn on_slave(&self, e: postgres::Error) -> Error {
        Error::from_pg(format!("could not copy table \"{}\" to slave \"{}\"", self.table, self.slave), e)
    }
}

pub(super) fn transfer(
    mut reader: CopyOutReader,
    mut writer: CopyInWriter,
    format: Format,
    ends: &Ends,
    stop: &Stop,
    progress: &TableProgress,
) -> Result<Sent> {
    let mut sent = Sent::default();
    let mut buffer = Vec::with_capacity(2 * BUFFER);
    let mut rows = 0;
    let mut send = |buffer: &mut Vec<u8>, rows| {
        writer.write_all(buffer).map_err(|e| unwrap_pg(e, |e| ends.on_slave(e)))?;
        progress.add(rows, buffer.len() as u64);
        sent.rows += rows;
        buffer.clear();
        Ok::<(), Error>(())
    };
    // In binary, header and trailer come to one message more than there are rows.
    let mut skip = format == Format::Binary;
    loop {
        if stop.is_set() {
            return Err(table::stopped(ends.table));
        }
        let data = reader.fill_buf().map_err(|e| unwrap_pg(e, |e| ends.on_master(e)))?;
        let ended = data.is_empty();
        // The protocol has each row in a message of its own.
        rows += u64::from(!ended && !std::mem::take(&mut skip));
        // A large row goes on in pieces, or it would be in memory three times.
        for piece in data.chunks(BUFFER) {
            buffer.extend_from_slice(piece);
            if buffer.len() >= BUFFER {
                send(&mut buffer, std::mem::take(&mut rows))?;
            }
        }
        let length = data.len();
        reader.consume(length);
        if ended {
            send(&mut buffer, rows)?;
            break;
        }
    }
    sent.stored = writer.finish().map_err(|e| ends.on_slave(e))?;
    Ok(sent)
}

/// The streams of COPY hide the server's error in one of I/O.
pub(super) fn unwrap_pg(e: std::io::Error, context: impl FnOnce(postgres::Error) -> Error) -> Error {
    match e.into_inner().map(|inner| inner.downcast::<postgres::Error>()) {
        Some(Ok(e)) => context(*e),
        Some(Err(e)) => Error::new(Kind::Connection, format!("copy was interrupted: {e}")),
        None => Error::new(Kind::Connection, "copy was interrupted"),
    }
}
