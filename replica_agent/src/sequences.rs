//! Sequences: where those of the master stand, and how a slave's follow.
//!
//! In: what the master tells of its replicated sequences. Out: the slave's sequences, never behind what the rows there
//! have used, and never set back.
//!
//! # Why they are never behind
//!
//! A value is on the sequence's page before a row can use it, so whoever reads the sequences after the log reads nothing
//! that is behind the rows. The reader does so with the statement that it sends after each batch anyway, and hears only
//! of those that have moved since the batch before. The slave's are set before its transaction is prepared or
//! committed; setting is not undone with it, which does no harm, since they only go forward. All of them are read at
//! the beginning of a stream and by the timer, which also finds what moved without leaving a row.
//!
//! One that counts in steps between those of the master goes its own way: what the one gives the other never does. The
//! slave says so when it is to be set, since either may be altered at any moment; and one that counts in another way than
//! the master's is set to a value of its own.
//! What a slave does not have, may not set, or has between other limits is left alone, and said once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use postgres::types::Type;
use postgres::{GenericClient, Row, Statement};

use crate::bind::Owned;
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::pipe::Pipe;
use crate::quote;
use crate::session::Ask;

/// A replicated sequence of the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// Schema, table and column that own it.
    pub owner: Option<(String, String, String)>,
    pub start: i64,
    pub increment: i64,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub sequence: Arc<Sequence>,
    pub value: i64,
    /// The value was used; else it is the next one.
    pub called: bool,
}

/// A sequence as a slave has it.
pub struct Found {
    pub oid: u32,
    /// As SQL.
    pub name: String,
    /// What our role lacks.
    pub lacks: Vec<String>,
    pub start: i64,
    pub bounds: Bounds,
}

impl Found {
    /// Whether it counts in steps between the master's, by the definitions of both (`pyreplica.spread_sequences`): then
    /// neither gives a value of the other's, and this one need not follow.
    pub fn goes_between(&self, masters: &Sequence) -> bool {
        let step = gcd(self.bounds.increment.unsigned_abs(), masters.increment.unsigned_abs());
        (i128::from(self.start) - i128::from(masters.start)) % i128::from(step) != 0
    }
}

/// Of increments, which are never 0.
fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}

/// The definition of a sequence, as far as its values depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cycle: bool,
}

impl Sequence {
    fn of(row: &Row) -> Sequence {
        let owner: Option<String> = row.get("owner_schema");
        Sequence {
            oid: row.get("oid"),
            schema: row.get("schema_name"),
            name: row.get("sequence_name"),
            owner: owner.map(|schema| (schema, row.get("owner_table"), row.get("owner_column"))),
            start: row.get("start"),
            increment: row.get("increment"),
        }
    }

    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

impl Bounds {
    pub fn of(row: &Row) -> Bounds {
        Bounds {
            increment: row.get("increment"),
            min: row.get("min"),
            max: row.get("max"),
            cycle: row.get("cycle"),
        }
    }
}

/// The replicated sequences of the master as they stand: all, or only those of table `of` and of no table.
pub fn on_master(master: &mut impl GenericClient, of: Option<&str>) -> Result<Vec<(Moved, Bounds)>> {
    let rows = master
        .query_typed(include_str!("sql/master_sequences.sql"), &[(&of, Type::TEXT)])
        .map_err(|e| Error::from_pg("could not read the sequences of the master", e))?;
    Ok(rows
        .iter()
        .map(|row| {
            let (value, called) = (row.get("last_value"), row.get("is_called"));
            (Moved { sequence: Arc::new(Sequence::of(row)), value, called }, Bounds::of(row))
        })
        .collect())
}

/// Whether a slave gets it: with the table that owns it, or as one that belongs to none.
pub fn is_wanted(mapping: &Mapping, sequence: &Sequence) -> bool {
    sequence.owner.as_ref().is_none_or(|(schema, table, _)| mapping.wants(schema, table))
}

/// The sequences of a slave that are those of the master: owned by the same column, or else of the same name. `None` for
/// one that the slave does not have.
pub fn on_slave(
    slave: &mut impl Ask,
    mapping: &Mapping,
    sequences: &[&Sequence],
) -> Result<Vec<Option<Found>>> {
    let schemas: Vec<&str> =
        sequences.iter().map(|s| mapping.schemas.get(&s.schema).unwrap_or(&s.schema).as_str()).collect();
    let names: Vec<&str> = sequences.iter().map(|s| s.name.as_str()).collect();
    let mut owners: [Vec<Option<String>>; 3] = Default::default();
    for sequence in sequences {
        let owner = sequence.owner.as_ref().map(|(schema, table, column)| {
            let rule = mapping.rule(schema, table);
            let (schema, table) = mapping.target(schema, table);
            (schema, table, rule.map_or(Some(column.as_str()), |rule| rule.column(column)).map(str::to_owned))
        });
        let (schema, table, column) =
            owner.map_or((None, None, None), |(schema, table, column)| (Some(schema), Some(table), column));
        owners.iter_mut().zip([schema, table, column]).for_each(|(all, of)| all.push(of));
    }
    let rows = slave
        .query(
            include_str!("sql/slave_sequences.sql"),
            &[&schemas, &names, &owners[0], &owners[1], &owners[2]],
        )
        .map_err(|e| Error::from_pg("could not look for the sequences of the slave", e))?;
    Ok(rows
        .iter()
        .map(|row| {
            row.get::<_, Option<u32>>("oid").map(|oid| Found {
                oid,
                name: quote::qualified(row.get("schema_name"), row.get("sequence_name")),
                lacks: row.get("lacks"),
                start: row.get("start"),
                bounds: Bounds::of(row),
            })
        })
        .collect())
}

/// Names for what the reader of the log hears of by oid.
#[derive(Default)]
pub struct Names(HashMap<u32, Arc<Sequence>>);

impl Names {
    /// `flat`: of each its oid, last value, 1 if that was used, start and increment.
    pub fn resolve(&mut self, master: &mut impl Ask, flat: &[i64]) -> Result<Arc<[Moved]>> {
        let oid = |m: &[i64]| u32::try_from(m[0]).unwrap_or(0);
        let unknown: Vec<u32> =
            flat.chunks_exact(5).map(oid).filter(|oid| !self.0.contains_key(oid)).collect();
        if !unknown.is_empty() {
            let rows = master
                .query(include_str!("sql/sequence_names.sql"), &[&unknown])
                .map_err(|e| Error::from_pg("could not read the names of sequences of the master", e))?;
            self.0.extend(rows.iter().map(Sequence::of).map(|s| (s.oid, Arc::new(s))));
        }
        // One that was dropped meanwhile has no name.
        let moved = flat.chunks_exact(5).filter_map(|m| {
            let sequence = self.0.get_mut(&oid(m))?;
            let (start, increment) = (m[3], m[4]);
            if (sequence.start, sequence.increment) != (start, increment) {
                *sequence = Arc::new(Sequence { start, increment, ..Sequence::clone(sequence) });
            }
            Some(Moved { sequence: Arc::clone(sequence), value: m[1], called: m[2] != 0 })
        });
        Ok(moved.collect())
    }
}

/// The sequences of one slave.
pub struct Follower {
    slave: String,
    mapping: Arc<Mapping>,
    /// Those of the master, by their oid there, as the slave has them; `None` where they are left alone.
    known: HashMap<u32, Option<u32>>,
    /// What the slave has not been told yet.
    news: BTreeMap<u32, Moved>,
    /// What was heard last of each.
    heard: BTreeMap<u32, Moved>,
    set: Option<Statement>,
    /// What was said, for it is said once; `None`: others will say it.
    said: Option<BTreeSet<String>>,
}

/// The slave's sequences that may be behind: what sets them, where the master's stand, and how those count.
struct Behind {
    set: Statement,
    oids: Vec<u32>,
    values: Vec<i64>,
    called: Vec<bool>,
    starts: Vec<i64>,
    increments: Vec<i64>,
}

impl Follower {
    pub fn new(slave: &str, mapping: &Arc<Mapping>) -> Follower {
        Follower {
            slave: slave.to_owned(),
            mapping: Arc::clone(mapping),
            known: HashMap::new(),
            news: BTreeMap::new(),
            heard: BTreeMap::new(),
            set: None,
            said: Some(BTreeSet::new()),
        }
    }

    pub fn silent(slave: &str, mapping: &Arc<Mapping>) -> Follower {
        Follower { said: None, ..Follower::new(slave, mapping) }
    }

    /// Takes in what was heard of the master; the slave's are set by `catch_up`.
    pub fn hear(&mut self, moved: &[Moved]) {
        for moved in moved.iter().filter(|moved| is_wanted(&self.mapping, &moved.sequence)) {
            self.news.insert(moved.sequence.oid, moved.clone());
            self.heard.insert(moved.sequence.oid, moved.clone());
        }
    }

    /// What was applied may have set the slave's back, or made them anew: all are set again, to what was heard last.
    pub fn set_back(&mut self) {
        self.known.clear();
        self.news = self.heard.clone();
    }

    /// The same for all of them, and looks anew which of them the slave has.
    pub fn hear_all(&mut self, moved: &[Moved]) {
        self.known.clear();
        self.heard.clear();
        self.hear(moved);
    }

    /// Takes in where all of them stand, and looks anew for those that the slave did not have.
    pub fn hear_anew(&mut self, moved: &[Moved]) {
        self.known.retain(|_, oid| oid.is_some());
        let new = |moved: &&Moved| {
            let oid = moved.sequence.oid;
            !self.known.contains_key(&oid) || self.heard.get(&oid) != Some(*moved)
        };
        let new: Vec<Moved> = moved.iter().filter(new).cloned().collect();
        self.hear(&new);
    }

    /// Sends what sets the slave's sequences that are behind. Part of no transaction: only the rows wait for it.
    pub fn catch_up(&mut self, client: &mut Pipe) -> Result<()> {
        if let Some(Behind { set, oids, values, called, starts, increments }) = self.behind(client)? {
            let definitions = [Owned::Int8s(starts), Owned::Int8s(increments)];
            let states = [Owned::Oids(oids), Owned::Int8s(values), Owned::Bools(called)];
            client.send(&set, states.into_iter().chain(definitions).collect());
        }
        Ok(())
    }

    /// The same in another session, and waits.
    pub fn catch_up_now(&mut self, client: &mut impl GenericClient) -> Result<()> {
        if let Some(Behind { set, oids, values, called, starts, increments }) = self.behind(client)? {
            client
                .execute(&set, &[&oids, &values, &called, &starts, &increments])
                .map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn behind(&mut self, client: &mut impl Ask) -> Result<Option<Behind>> {
        if self.news.is_empty() {
            return Ok(None);
        }
        self.look_up(client)?;
        let (mut oids, mut values, mut called) = (Vec::new(), Vec::new(), Vec::new());
        let (mut starts, mut increments) = (Vec::new(), Vec::new());
        for moved in std::mem::take(&mut self.news).into_values() {
            if let Some(Some(oid)) = self.known.get(&moved.sequence.oid) {
                oids.push(*oid);
                values.push(moved.value);
                called.push(moved.called);
                starts.push(moved.sequence.start);
                increments.push(moved.sequence.increment);
            }
        }
        if oids.is_empty() {
            return Ok(None);
        }
        let set = match &self.set {
            Some(statement) => statement.clone(),
            None => {
                let prepared = client.prepare(include_str!("sql/set_sequences.sql"));
                self.set.insert(prepared.map_err(|e| self.failed(e))?).clone()
            }
        };
        Ok(Some(Behind { set, oids, values, called, starts, increments }))
    }

    fn failed(&self, e: postgres::Error) -> Error {
        Error::from_pg(format!("could not set the sequences of slave \"{}\"", self.slave), e)
    }

    fn look_up(&mut self, client: &mut impl Ask) -> Result<()> {
        let unknown: Vec<Moved> =
            self.news.values().filter(|m| !self.known.contains_key(&m.sequence.oid)).cloned().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let sequences: Vec<&Sequence> = unknown.iter().map(|moved| &*moved.sequence).collect();
        for (moved, found) in unknown.iter().zip(on_slave(client, &self.mapping, &sequences)?) {
            let known = match found {
                Some(found) if found.goes_between(&moved.sequence) => None,
                Some(found) if found.lacks.is_empty() => {
                    if !(found.bounds.min..=found.bounds.max).contains(&moved.value) {
                        self.say(&format!("{} does not reach {}", found.name, moved.value));
                    }
                    Some(found.oid)
                }
                Some(found) => {
                    self.say(&format!("our role lacks {} on {}", found.lacks.join(", "), found.name));
                    None
                }
                None => {
                    self.say(&format!("there is no {}", moved.sequence.full_name()));
                    None
                }
            };
            self.known.insert(moved.sequence.oid, known);
        }
        Ok(())
    }

    fn say(&mut self, what: &str) {
        if self.said.as_mut().is_some_and(|said| said.insert(what.to_owned())) {
            log::warn!(
                "slave \"{}\": a sequence does not follow the master: {what}; \"replica_agent check\" tells the cure",
                self.slave
            );
        }
    }
}
