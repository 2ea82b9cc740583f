//! Payload bytes to changes, as `docs/log-format.md` says. Pure: borrows from the payload, copies no value.
//!
//! In: a whole payload (pieces joined). Out: its messages one after the other, or an error of kind `Log`.
//! Malformed input never panics; what is allocated is bounded by the payload and the width of a table.

use crate::error::{Error, Kind, Result};

/// A value as it was sent; `None` is NULL.
pub type Value<'a> = Option<&'a [u8]>;

const VERSION: u8 = 2;
/// Before settings travelled with a statement, but for its search_path.
const VERSION_1: u8 = 1;
/// PostgreSQL's limit.
const MAX_COLUMNS: u64 = 1600;

/// A column as the payload introduces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a str,
    /// Type on every server, 0 when the values are text of a type that each server knows by its own oid.
    pub type_oid: u32,
    pub binary: bool,
}

/// A relation as the payload introduces it; columns become known before their first value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    pub oid: u32,
    pub schema: &'a str,
    pub name: &'a str,
    /// Column numbers of the primary key, in its order.
    pub key: Vec<usize>,
    pub columns: Vec<Option<Column<'a>>>,
}

/// One changed column: number, new and old value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed<'a> {
    pub column: usize,
    pub new: Value<'a>,
    pub old: Value<'a>,
}

/// A change; relations are numbers into [`Decoder::relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    Insert {
        relation: usize,
        row: Vec<Value<'a>>,
    },
    /// `key` is the old key. A changed key is among `changed`. The new values of all columns, if the log has them.
    Update {
        relation: usize,
        key: Vec<Value<'a>>,
        changed: Vec<Changed<'a>>,
        row: Option<Vec<Value<'a>>>,
    },
    Delete {
        relation: usize,
        key: Vec<Value<'a>>,
    },
    /// With a partition only that one of the (one) relation is emptied; it has its own name.
    Truncate {
        relations: Vec<usize>,
        partition: Option<usize>,
        restart_identity: bool,
    },
    Statement {
        sql: &'a str,
        role: &'a str,
        settings: Vec<(&'a str, &'a str)>,
    },
}

impl Change<'_> {
    /// As SQL calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Change::Insert { .. } => "INSERT",
            Change::Update { .. } => "UPDATE",
            Change::Delete { .. } => "DELETE",
            Change::Truncate { .. } => "TRUNCATE",
            Change::Statement { .. } => "STATEMENT",
        }
    }

    /// The relations it changes.
    pub fn relations(&self) -> &[usize] {
        match self {
            Change::Insert { relation, .. }
            | Change::Update { relation, .. }
            | Change::Delete { relation, .. } => std::slice::from_ref(relation),
            Change::Truncate { relations, .. } => relations,
            Change::Statement { .. } => &[],
        }
    }
}

/// Walks through a payload.
pub struct Decoder<'a> {
    version: u8,
    rest: &'a [u8],
    length: usize,
    relations: Vec<Relation<'a>>,
}

impl<'a> Decoder<'a> {
    pub fn new(payload: &'a [u8]) -> Result<Self> {
        let (version, rest) = match payload.split_first() {
            None => (VERSION, payload),
            Some((&version @ (VERSION_1 | VERSION), rest)) => (version, rest),
            Some((version, _)) => {
                return Err(Error::new(
                    Kind::Log,
                    format!("log has format version {version}, this agent knows {VERSION_1} to {VERSION}"),
                )
                .hint("Install the agent that belongs to the extension on the master."))
            }
        };
        Ok(Decoder { version, rest, length: payload.len(), relations: Vec::new() })
    }

    pub fn relation(&self, number: usize) -> &Relation<'a> {
        &self.relations[number]
    }

    /// Those introduced so far.
    pub fn relations(&self) -> &[Relation<'a>] {
        &self.relations
    }

    /// The next change, or `None` at the end.
    #[allow(clippy::should_implement_trait)] // an iterator could not lend `relation` in between
    pub fn next(&mut self) -> Result<Option<Change<'a>>> {
        while let Some((&tag, rest)) = self.rest.split_first() {
            self.rest = rest;
            match tag {
                b'R' => self.relation_message()?,
                b'C' => self.column_message()?,
                b'I' => return self.insert().map(Some),
                b'U' => return self.update().map(Some),
                b'K' => return self.key_update().map(Some),
                b'D' => return self.delete().map(Some),
                b'T' => return self.truncate().map(Some),
                b'S' => return self.statement().map(Some),
                _ => return Err(self.malformed("unknown message")),
            }
        }
        Ok(None)
    }

    /// Takes in what is introduced before the next change. Gives the tag of that change, and the number of bytes up to
    /// behind it.
    pub fn introduce(&mut self) -> Result<(u8, usize)> {
        while let Some((&tag, rest)) = self.rest.split_first() {
            self.rest = rest;
            match tag {
                b'R' => self.relation_message()?,
                b'C' => self.column_message()?,
                _ => return Ok((tag, self.length - rest.len())),
            }
        }
        Err(self.malformed("payload ends early"))
    }

    /// The number that these bytes are.
    pub fn number_of(bytes: &[u8]) -> Result<usize> {
        let mut decoder =
            Decoder { version: VERSION, rest: bytes, length: bytes.len(), relations: Vec::new() };
        let number = decoder.varint()?;
        usize::try_from(number).map_err(|_| decoder.malformed("number out of range"))
    }

    fn relation_message(&mut self) -> Result<()> {
        let oid = self.oid()?;
        let schema = self.string()?;
        let name = self.string()?;
        let columns = self.varint()?;
        if columns > MAX_COLUMNS {
            return Err(self.malformed("too many columns"));
        }
        let columns = columns as usize;
        let keys = self.number(columns + 1)?;
        let key = (0..keys).map(|_| self.number(columns)).collect::<Result<_>>()?;
        self.relations.push(Relation { oid, schema, name, key, columns: vec![None; columns] });
        Ok(())
    }

    fn column_message(&mut self) -> Result<()> {
        let relation = self.relation_number()?;
        let column = self.number(self.relations[relation].columns.len())?;
        let name = self.string()?;
        let kind = self.varint()?;
        let type_oid = u32::try_from(kind >> 1).map_err(|_| self.malformed("type out of range"))?;
        self.relations[relation].columns[column] = Some(Column { name, type_oid, binary: kind & 1 == 1 });
        Ok(())
    }

    fn insert(&mut self) -> Result<Change<'a>> {
        let relation = self.relation_number()?;
        let row = self.row(relation)?;
        Ok(Change::Insert { relation, row })
    }

    fn update(&mut self) -> Result<Change<'a>> {
        let relation = self.relation_number()?;
        let key = self.key(relation)?;
        let changed = (0..self.changed_count(relation)?)
            .map(|_| {
                let column = self.known_column(relation)?;
                Ok(Changed { column, new: self.value()?, old: self.value()? })
            })
            .collect::<Result<_>>()?;
        Ok(Change::Update { relation, key, changed, row: None })
    }

    fn key_update(&mut self) -> Result<Change<'a>> {
        let relation = self.relation_number()?;
        let key = self.key(relation)?;
        let row = self.row(relation)?;
        let changed = (0..self.changed_count(relation)?)
            .map(|_| {
                let column = self.known_column(relation)?;
                Ok(Changed { column, new: row[column], old: self.value()? })
            })
            .collect::<Result<_>>()?;
        Ok(Change::Update { relation, key, changed, row: Some(row) })
    }

    fn delete(&mut self) -> Result<Change<'a>> {
        let relation = self.relation_number()?;
        let key = self.key(relation)?;
        Ok(Change::Delete { relation, key })
    }

    fn truncate(&mut self) -> Result<Change<'a>> {
        let flags = self.varint()?;
        if flags > 3 {
            return Err(self.malformed("unknown flag of truncate"));
        }
        let count = self.number(self.relations.len() + 1)?;
        let relations: Vec<usize> = (0..count).map(|_| self.relation_number()).collect::<Result<_>>()?;
        let restart_identity = flags & 1 != 0;
        if flags & 2 == 0 {
            return Ok(Change::Truncate { relations, partition: None, restart_identity });
        }
        match relations[..] {
            [root, partition] => {
                Ok(Change::Truncate { relations: vec![root], partition: Some(partition), restart_identity })
            }
            _ => Err(self.malformed("truncate of a partition does not name two relations")),
        }
    }

    fn statement(&mut self) -> Result<Change<'a>> {
        let sql = self.string()?;
        if self.version == VERSION_1 {
            let (search_path, role) = (self.string()?, self.string()?);
            return Ok(Change::Statement { sql, role, settings: vec![("search_path", search_path)] });
        }
        let role = self.string()?;
        let settings =
            (0..self.varint()?).map(|_| Ok((self.string()?, self.string()?))).collect::<Result<_>>()?;
        Ok(Change::Statement { sql, role, settings })
    }

    /// A value of every column; each must have been introduced.
    fn row(&mut self, relation: usize) -> Result<Vec<Value<'a>>> {
        if self.relations[relation].columns.iter().any(Option::is_none) {
            return Err(self.malformed("value of a column that was not introduced"));
        }
        (0..self.relations[relation].columns.len()).map(|_| self.value()).collect()
    }

    fn key(&mut self, relation: usize) -> Result<Vec<Value<'a>>> {
        let Relation { key, columns, .. } = &self.relations[relation];
        if key.is_empty() || key.iter().any(|&k| columns[k].is_none()) {
            return Err(self.malformed("value of a key that was not introduced"));
        }
        (0..key.len()).map(|_| self.value()).collect()
    }

    fn changed_count(&mut self, relation: usize) -> Result<usize> {
        self.number(self.relations[relation].columns.len() + 1)
    }

    fn known_column(&mut self, relation: usize) -> Result<usize> {
        let column = self.number(self.relations[relation].columns.len())?;
        if self.relations[relation].columns[column].is_none() {
            return Err(self.malformed("value of a column that was not introduced"));
        }
        Ok(column)
    }

    fn relation_number(&mut self) -> Result<usize> {
        self.number(self.relations.len())
    }

    /// A number below `limit`.
    fn number(&mut self, limit: usize) -> Result<usize> {
        match usize::try_from(self.varint()?) {
            Ok(n) if n < limit => Ok(n),
            _ => Err(self.malformed("number out of range")),
        }
    }

    fn oid(&mut self) -> Result<u32> {
        u32::try_from(self.varint()?).map_err(|_| self.malformed("oid out of range"))
    }

    fn value(&mut self) -> Result<Value<'a>> {
        match self.varint()? {
            0 => Ok(None),
            length => self.bytes(length - 1).map(Some),
        }
    }

    fn string(&mut self) -> Result<&'a str> {
        let length = self.varint()?;
        std::str::from_utf8(self.bytes(length)?).map_err(|_| self.malformed("string is not UTF-8"))
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8]> {
        match usize::try_from(length).ok().and_then(|n| self.rest.split_at_checked(n)) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(self.malformed("payload ends early")),
        }
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = self.rest.split_first() else {
                return Err(self.malformed("payload ends early"));
            };
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.malformed("number out of range"))
    }

    fn malformed(&self, what: &str) -> Error {
        let at = self.length - self.rest.len();
        Error::new(Kind::Log, format!("malformed log: {what}"))
            .detail(format!("Before byte {at} of a payload of {} bytes.", self.length))
    }
}

#[cfg(test)]
mod tests;
