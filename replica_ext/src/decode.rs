//! Chunk bytes back to messages: for the `replica_log` view, and for the buffer to look at what it holds.
//!
//! In: a payload (docs/log-format.md). Out: its messages in order, borrowed from it.
//! Pure, and independent of `encode`, so that each shows the other's mistakes.

use crate::encode::{self, tag, VERSION};

/// Before settings travelled with a statement, but for its search_path.
const VERSION_1: u8 = 1;

/// Where a payload stops making sense.
#[derive(Debug, PartialEq, Clone)]
pub struct Malformed {
    pub offset: usize,
    pub what: &'static str,
}

#[derive(Debug, Clone)]
pub struct Relation<'a> {
    #[cfg_attr(not(test), allow(dead_code))] // the golden tests write it anew
    pub oid: u32,
    pub schema: &'a [u8],
    pub name: &'a [u8],
    pub key: Vec<usize>,
    pub columns: Vec<Option<Column<'a>>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column<'a> {
    pub name: &'a [u8],
    /// 0 when the type has no oid that every server knows.
    pub type_oid: u32,
    pub binary: bool,
}

/// NULL or its bytes.
pub type Value<'a> = Option<&'a [u8]>;

#[derive(Debug, PartialEq)]
pub enum Message<'a> {
    /// Introduces a relation or a column; no change.
    Introduction,
    Insert {
        relation: usize,
        new: Vec<Value<'a>>,
    },
    Update {
        relation: usize,
        key: Vec<Value<'a>>,
        changed: Vec<Changed<'a>>,
    },
    KeyUpdate {
        relation: usize,
        key: Vec<Value<'a>>,
        new: Vec<Value<'a>>,
        old: Vec<(usize, Value<'a>)>,
    },
    Delete {
        relation: usize,
        key: Vec<Value<'a>>,
    },
    Truncate {
        restart_identity: bool,
        partitions: bool,
        relations: Vec<usize>,
    },
    Statement {
        sql: &'a [u8],
        role: &'a [u8],
        settings: Vec<(&'a [u8], &'a [u8])>,
    },
}

#[derive(Debug, PartialEq)]
pub struct Changed<'a> {
    pub column: usize,
    pub new: Value<'a>,
    pub old: Value<'a>,
}

/// Reads the messages of one payload.
pub struct Messages<'a> {
    payload: &'a [u8],
    at: usize,
    pub relations: Vec<Relation<'a>>,
}

impl<'a> Messages<'a> {
    pub fn new(payload: &'a [u8]) -> Result<Self, Malformed> {
        match payload.first() {
            None | Some(&(VERSION_1 | VERSION)) => {}
            Some(_) => return Err(Malformed { offset: 0, what: "unknown version" }),
        }
        Ok(Messages { payload, at: payload.len().min(1), relations: Vec::new() })
    }

    /// Offset of the next message.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The next message; None at the end.
    pub fn next(&mut self) -> Result<Option<Message<'a>>, Malformed> {
        let Some(&kind) = self.payload.get(self.at) else { return Ok(None) };
        self.at += 1;
        let message = match kind {
            tag::RELATION => {
                let oid = self.number()? as u32;
                let (schema, name) = (self.string()?, self.string()?);
                let columns = self.count(1600)?;
                let key = (0..self.count(columns)?)
                    .map(|_| self.below(columns, "key column out of range"))
                    .collect::<Result<_, _>>()?;
                self.relations.push(Relation { oid, schema, name, key, columns: vec![None; columns] });
                Message::Introduction
            }
            tag::COLUMN => {
                let relation = self.relation()?;
                let column = self.below(self.relations[relation].columns.len(), "column out of range")?;
                let name = self.string()?;
                let kind = self.number()?;
                let known = Column { name, type_oid: (kind / 2) as u32, binary: kind % 2 == 1 };
                self.relations[relation].columns[column] = Some(known);
                Message::Introduction
            }
            tag::INSERT => {
                let relation = self.relation()?;
                Message::Insert { relation, new: self.values(self.relations[relation].columns.len())? }
            }
            tag::UPDATE => {
                let relation = self.relation()?;
                let key = self.values(self.relations[relation].key.len())?;
                let columns = self.relations[relation].columns.len();
                let changed = (0..self.count(columns)?)
                    .map(|_| {
                        let column = self.below(columns, "column out of range")?;
                        Ok(Changed { column, new: self.value()?, old: self.value()? })
                    })
                    .collect::<Result<_, _>>()?;
                Message::Update { relation, key, changed }
            }
            tag::KEY_UPDATE => {
                let relation = self.relation()?;
                let key = self.values(self.relations[relation].key.len())?;
                let columns = self.relations[relation].columns.len();
                let new = self.values(columns)?;
                let old = (0..self.count(columns)?)
                    .map(|_| Ok((self.below(columns, "column out of range")?, self.value()?)))
                    .collect::<Result<_, _>>()?;
                Message::KeyUpdate { relation, key, new, old }
            }
            tag::DELETE => {
                let relation = self.relation()?;
                Message::Delete { relation, key: self.values(self.relations[relation].key.len())? }
            }
            tag::TRUNCATE => {
                let flags = self.number()?;
                let relations = (0..self.count(self.relations.len())?)
                    .map(|_| self.relation())
                    .collect::<Result<_, _>>()?;
                Message::Truncate {
                    restart_identity: flags & encode::TRUNCATE_RESTART != 0,
                    partitions: flags & encode::TRUNCATE_PARTITIONS != 0,
                    relations,
                }
            }
            tag::STATEMENT if self.payload[0] == VERSION_1 => {
                let (sql, search_path, role) = (self.string()?, self.string()?, self.string()?);
                Message::Statement { sql, role, settings: vec![(b"search_path", search_path)] }
            }
            tag::STATEMENT => {
                let (sql, role) = (self.string()?, self.string()?);
                let settings = (0..self.number()?)
                    .map(|_| Ok((self.string()?, self.string()?)))
                    .collect::<Result<_, _>>()?;
                Message::Statement { sql, role, settings }
            }
            _ => return Err(Malformed { offset: self.at - 1, what: "unknown message" }),
        };
        Ok(Some(message))
    }

    fn wrong(&self, what: &'static str) -> Malformed {
        Malformed { offset: self.at, what }
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.payload.get(self.at).ok_or_else(|| self.wrong("payload ends early"))?;
            self.at += 1;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(self.wrong("number too long"))
    }

    fn count(&mut self, most: usize) -> Result<usize, Malformed> {
        let n = self.number()?;
        usize::try_from(n).ok().filter(|n| *n <= most).ok_or_else(|| self.wrong("count too large"))
    }

    fn below(&mut self, end: usize, what: &'static str) -> Result<usize, Malformed> {
        let n = self.number()?;
        usize::try_from(n).ok().filter(|n| *n < end).ok_or_else(|| self.wrong(what))
    }

    fn relation(&mut self) -> Result<usize, Malformed> {
        self.below(self.relations.len(), "relation not introduced")
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(len).map_err(|_| self.wrong("length too large"))?;
        let end = self.at.checked_add(len).filter(|e| *e <= self.payload.len());
        let end = end.ok_or_else(|| self.wrong("payload ends early"))?;
        let bytes = &self.payload[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.number()?;
        self.take(len)
    }

    fn value(&mut self) -> Result<Value<'a>, Malformed> {
        match self.number()? {
            0 => Ok(None),
            n => Ok(Some(self.take(n - 1)?)),
        }
    }

    fn values(&mut self, n: usize) -> Result<Vec<Value<'a>>, Malformed> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// The primary key that a message takes, as values in key order, and the number of the relation.
pub fn key_taken<'a>(message: &Message<'a>, relations: &[Relation]) -> Option<(usize, Vec<Value<'a>>)> {
    match message {
        Message::Insert { relation, new } => {
            Some((*relation, relations[*relation].key.iter().map(|&k| new[k]).collect()))
        }
        Message::KeyUpdate { relation, key, new, .. } => {
            let taken: Vec<Value<'a>> = relations[*relation].key.iter().map(|&k| new[k]).collect();
            // A whole row may be logged without a change of its key.
            (taken != *key).then_some((*relation, taken))
        }
        _ => None,
    }
}
