//! Applies changes to a slave inside the transaction that its caller has begun: the net effect of a window at once
//! (`setwise`), or one change after the other (`walk`), which is slower, and names what fails.
//!
//! In: chunks, in order. Out: the slave's rows changed, conflicts recorded. Every statement's row count is checked.
//! After a change that failed the transaction has been rolled back. Never commits and never moves the position.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::types::Type;
use postgres::Statement;

use crate::bind::param_type;
use crate::config::{InsertExists, Slave, UpdateDiffers};
use crate::decode::{Change, Column, Decoder, Relation};
use crate::error::{Error, Kind, Result};
use crate::event::Note;
use crate::failure::{self, failed_on, full_name, on_table, Failed};
use crate::mapping::{Mapping, Name};
use crate::own_types::OwnTypes;
use crate::pipe::Pipe;
use crate::reader::{Chunk, Transaction};
use crate::retry;
use crate::set_statement::ArrayTypes;
use crate::skip::{self, Skips, WHOLE};
use crate::slave_table::{describe, SlaveTable};
use crate::statement::{build, columns, Operation};
use crate::tables::{Gate, Tables};
use crate::tell::Teller;

use chain::Chain;

pub use setwise::Target;

mod chain;
mod exact;
mod large;
mod mapped;
mod rivals;
mod setwise;
mod truncate;
mod walk;

/// Prepared statements kept per session; a stream with more shapes than that starts over.
const STATEMENTS_MAX: usize = 1000;
/// Conflicts reported in the log within so long; all of them are in the table.
const REPORTS_MAX: u64 = 5;
const REPORTS_WITHIN: Duration = Duration::from_secs(30);

/// What became of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// It changes a table that this slave does not have yet, or not by this name (`Tables::met`): nothing more of the
    /// batch may be applied.
    UnknownTable {
        schema: String,
        name: String,
    },
    /// A constraint refused a change, in an attempt: the transaction has to go back to where it was.
    Refused,
}

/// What had been found before an attempt.
#[derive(Clone, Copy)]
pub struct Before {
    conflicts: u64,
    noted: usize,
}

/// The slave logs what is applied, for slaves of its own.
pub struct Forwards {
    /// Under which it does.
    pub origin: String,
    /// The session may keep it from doing so.
    pub replica: bool,
}

pub struct Applier {
    agent: String,
    slave: String,
    /// As it is in the transaction at hand.
    pub forwards: Option<Forwards>,
    mapping: Arc<Mapping>,
    skips: Skips,
    insert_exists: InsertExists,
    update_differs: UpdateDiffers,
    statements: HashMap<Vec<u8>, Statement>,
    /// Those of `setwise`; `None` where it has to do without.
    set_statements: HashMap<Vec<u8>, Option<Statement>>,
    arrays: ArrayTypes,
    own_types: Arc<OwnTypes>,
    /// Tables that statements for many rows have changed in the transaction at hand, by their oids on the slave: those
    /// found to be what they were when they were described, and those to be looked up.
    checked: HashSet<u32>,
    unchecked: HashSet<u32>,
    /// How to look that up.
    same: Option<Statement>,
    /// How to describe a table.
    describe: Option<Statement>,
    /// By their names on the master.
    tables: HashMap<Name, Arc<SlaveTable>>,
    /// Relations of the batch at hand that the slave has by another of their names.
    aliases: HashMap<(Name, u32), Name>,
    chain: Chain,
    /// Key into `statements`, kept to spare an allocation per change.
    shape: Vec<u8>,
    /// What a constraint refuses is to be tried in another way before it is an error.
    attempt: bool,
    /// Something in the batch at hand may have set sequences of the slave back.
    restarted: bool,
    /// Of the batch at hand.
    conflicts: u64,
    /// The first of them.
    noted: Vec<Note>,
    teller: Teller,
    /// Since `recent_since`.
    recent: u64,
    recent_since: Instant,
}

impl Applier {
    pub fn new(agent: &str, slave: &Slave, skips: Skips) -> Self {
        Applier {
            skips,
            agent: agent.to_owned(),
            slave: slave.name.clone(),
            forwards: None,
            mapping: Arc::clone(&slave.mapping),
            insert_exists: slave.insert_exists,
            update_differs: slave.update_differs,
            statements: HashMap::new(),
            set_statements: HashMap::new(),
            arrays: ArrayTypes::new(),
            own_types: Arc::default(),
            checked: HashSet::new(),
            unchecked: HashSet::new(),
            same: None,
            describe: None,
            tables: HashMap::new(),
            aliases: HashMap::new(),
            chain: Chain::default(),
            shape: Vec::new(),
            attempt: false,
            restarted: false,
            conflicts: 0,
            noted: Vec::new(),
            teller: Teller::default(),
            recent: 0,
            recent_since: Instant::now(),
        }
    }

    /// Whom conflicts are told to, when they are committed.
    pub fn tell_to(&mut self, teller: Teller) {
        self.teller = teller;
    }

    fn unknown(&mut self, relation: &Relation, tables: &mut Tables) -> Applied {
        let &Relation { oid, schema, name, .. } = relation;
        tables.meet(schema, name, oid);
        self.forget_aliases();
        Applied::UnknownTable { schema: schema.to_owned(), name: name.to_owned() }
    }

    /// Whether to apply the changes of a relation. The slave may have it by another of its names: then the master has
    /// to have said that it is the same table.
    fn gate(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        tables: &Tables,
        transaction: &Transaction,
    ) -> Result<Gate> {
        let &Relation { oid, schema, name, .. } = relation;
        let gate = tables.gate(schema, name, oid, transaction.xid);
        if gate != Gate::Apply || self.find(client, relation, self.name_of(relation))? {
            return Ok(gate);
        }
        let Some(others) = tables.other_names(schema, name, oid) else { return Ok(Gate::Unknown) };
        for other in others {
            if self.find(client, relation, other.clone())? {
                let own = (schema.to_owned(), name.to_owned());
                self.aliases.insert((own, oid), other);
                break;
            }
        }
        // If it has none, the change fails and says so.
        Ok(gate)
    }

    /// Is there a table on the slave for the master's of this name?
    fn find(&mut self, client: &mut Pipe, relation: &Relation, name: Name) -> Result<bool> {
        if self.tables.contains_key(&name) {
            return Ok(true);
        }
        let found = describe(client, &mut self.describe, relation, &self.mapping, &name)?;
        let there = found.is_some();
        if let Some(table) = found {
            self.tables.insert(name, Arc::new(table));
        }
        Ok(there)
    }

    /// That of a relation's names by which the slave knows it.
    fn name_of(&self, relation: &Relation) -> Name {
        let own = (relation.schema.to_owned(), relation.name.to_owned());
        if self.aliases.is_empty() {
            return own;
        }
        let key = (own, relation.oid);
        self.aliases.get(&key).cloned().unwrap_or(key.0)
    }

    /// From now on what a constraint refuses is no error, until `attempted`.
    pub fn attempt(&mut self) -> Before {
        self.attempt = true;
        Before { conflicts: self.conflicts, noted: self.noted.len() }
    }

    pub fn attempted(&mut self) {
        self.attempt = false;
    }

    /// What the attempt found is undone.
    pub fn back_to(&mut self, before: Before) {
        self.conflicts = before.conflicts;
        self.noted.truncate(before.noted);
    }

    /// A slave transaction begins.
    pub fn begin_batch(&mut self) {
        self.restarted = false;
        self.skips.begin();
    }

    /// May sequences of the slave stand behind where they stood when the batch began? Asked once.
    pub fn restarted(&mut self) -> bool {
        std::mem::take(&mut self.restarted)
    }

    /// Is any transaction of the window to be set aside as a whole? Then its net effect is not to be applied.
    pub fn sets_aside_any_of(&self, chunks: &[Chunk]) -> bool {
        self.skips.hold_any_of(chunks.iter().map(|chunk| &*chunk.transaction))
    }

    /// Is all of it to be set aside? Then that is on record now.
    fn sets_aside_all_of(&mut self, client: &mut Pipe, transaction: &Transaction) -> Result<bool> {
        let all = self.skips.holds(transaction.xid, WHOLE);
        if all {
            self.set_aside(client, transaction, WHOLE, None)?;
        }
        Ok(all)
    }

    fn set_aside(
        &mut self,
        client: &mut Pipe,
        transaction: &Transaction,
        statement: i32,
        sql: Option<&str>,
    ) -> Result<()> {
        if skip::record(client, &self.agent, &self.slave, transaction, statement, sql)? {
            self.conflicts += 1;
            let what = match sql {
                Some(sql) => format!("statement {statement} of transaction {}: {sql}", transaction.xid),
                None => format!("all of transaction {}", transaction.xid),
            };
            log::warn!("slave \"{}\": set aside, as asked by \"skip\": {what}", self.slave);
        }
        Ok(())
    }

    /// The batch is over: how many conflicts it had. Those that were not reported are counted in the log.
    pub fn end_batch(&mut self) -> u64 {
        self.forget_aliases();
        self.checked.clear();
        self.unchecked.clear();
        if self.recent > 0 && self.recent_since.elapsed() > REPORTS_WITHIN {
            if self.recent > REPORTS_MAX {
                let more = self.recent - REPORTS_MAX;
                log::warn!(
                    "slave \"{}\": {more} more conflicts, see pyreplica_agent.conflict there",
                    self.slave
                );
            }
            self.recent = 0;
        }
        if self.recent == 0 {
            self.recent_since = Instant::now();
        }
        self.teller.conflicts(self.conflicts, std::mem::take(&mut self.noted));
        std::mem::take(&mut self.conflicts)
    }

    fn prepare(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        operation: Operation,
        key: &[usize],
        set: &[usize],
    ) -> Result<Statement> {
        let (key, set) = (columns(relation, key), columns(relation, set));
        self.put_shape(relation, operation as u8, &key, &set);
        if let Some(statement) = self.statements.get(&self.shape) {
            return Ok(statement.clone());
        }

        let (sql, types) = self.one_row(client, relation, operation, &key, &set)?;
        let statement = client.prepare_typed(&sql, &types).map_err(|e| failed_on(relation, e))?;
        self.keep_few_statements();
        self.statements.insert(self.shape.clone(), statement.clone());
        Ok(statement)
    }

    /// The statement for one row, and the types of its parameters.
    fn one_row(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        operation: Operation,
        key: &[&Column],
        set: &[&Column],
    ) -> Result<(String, Vec<Type>)> {
        let table = self.table(client, relation)?;
        let sql = build(&table, operation, key, set).map_err(|e| on_table(e, relation))?;
        let mut types: Vec<Type> = key.iter().chain(set).map(|c| param_type(c)).collect();
        if operation == Operation::UpdateExact {
            types.extend(set.iter().map(|c| param_type(c)));
        }
        Ok((sql, types))
    }

    /// What tells a statement from others.
    fn put_shape(&mut self, relation: &Relation, operation: u8, key: &[&Column], set: &[&Column]) {
        self.shape.clear();
        self.shape.push(operation);
        if self.aliases.is_empty() {
            put_name(&mut self.shape, relation.schema);
            put_name(&mut self.shape, relation.name);
        } else {
            let (schema, name) = self.name_of(relation);
            put_name(&mut self.shape, &schema);
            put_name(&mut self.shape, &name);
        }
        self.shape.extend((key.len() as u16).to_be_bytes());
        for column in key.iter().chain(set) {
            put_name(&mut self.shape, column.name);
            self.shape.extend(column.type_oid.to_be_bytes());
            self.shape.push(column.binary.into());
        }
    }

    fn keep_few_statements(&mut self) {
        if self.statements.len() + self.set_statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
            self.set_statements.clear();
        }
    }

    fn table(&mut self, client: &mut Pipe, relation: &Relation) -> Result<Arc<SlaveTable>> {
        let name = self.name_of(relation);
        if self.find(client, relation, name.clone())? {
            return Ok(Arc::clone(&self.tables[&name]));
        }
        let message = format!("table \"{}\" does not exist on the slave", full_name(relation));
        Err(Error::new(Kind::Apply, message).with_sqlstate("42P01"))
    }

    /// Has somebody altered the slave's table since its statements were made? Asked before a conflict is believed: the
    /// old values were compared as the types of that time.
    fn was_altered(&mut self, client: &mut Pipe, relation: &Relation) -> Result<bool> {
        let known = self.table(client, relation)?;
        let name = self.name_of(relation);
        let found = describe(client, &mut self.describe, relation, &self.mapping, &name)?;
        let altered = Some(&*known) != found.as_ref();
        if altered {
            self.forget();
        }
        Ok(altered)
    }

    /// Somebody may rename the slave's table as soon as the transaction is over, and give its name to another.
    fn forget_aliases(&mut self) {
        if !self.aliases.is_empty() {
            self.aliases.clear();
            self.forget();
        }
    }

    pub fn forget(&mut self) {
        self.checked.clear();
        self.unchecked.clear();
        self.statements.clear();
        self.set_statements.clear();
        self.tables.clear();
    }

    /// Rolls back and says which change failed.
    fn failed(
        &mut self,
        client: &mut Pipe,
        decoder: &Decoder,
        change: &Change,
        transaction: &Transaction,
        e: Error,
    ) -> Error {
        self.aliases.clear();
        self.forget();
        self.conflicts = 0;
        self.noted.clear();
        // In the stream the session is read only outside of a transaction; but the conflict is recorded there.
        if let Err(rollback) = client.batch_execute("rollback; set default_transaction_read_only = off") {
            log::debug!("slave \"{}\": could not roll back: {rollback}", self.slave);
            return failure::place_only(e, transaction);
        }
        let mut rivals = 0;
        if let (Change::Insert { relation, row }, Some(state)) = (change, e.sqlstate()) {
            if retry::is_insert_exists(state) {
                rivals = self.count_rivals(client, decoder.relation(*relation), row).unwrap_or_else(|e| {
                    log::debug!("slave \"{}\": {e:#}", self.slave);
                    0
                });
            }
        }
        Failed { decoder, change, transaction, rivals }.explain(client, &self.agent, &self.slave, e)
    }
}

fn put_name(shape: &mut Vec<u8>, name: &str) {
    shape.extend(name.as_bytes());
    shape.push(0);
}
