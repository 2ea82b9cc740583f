//! Sequences: who may have one replicated, and where those that are stand, for the agent.
//!
//! In: the register of sequences (sql/70_sequence.sql). Out: their values, straight from their pages: a value that a
//! committed row has used was on the page before the row was written, so whoever reads the log first and the
//! sequences then reads nothing that is behind the rows.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

use crate::add_table::{as_extension_owner, owned_by_caller};
use crate::pg::{sequence, session, xact};

thread_local! {
    static READER: RefCell<Reader> = RefCell::default();
}

/// What this session, if it reads the log for the agent, was told.
#[derive(Default)]
struct Reader {
    /// The replicated sequences; `None` when that may have changed.
    sequences: Option<Vec<Oid>>,
    told: HashMap<Oid, (i64, bool)>,
}

#[pg_extern(sql = false)]
fn add_sequence(sequence: Option<Oid>) {
    let sequence = owned_by_caller(sequence, "sequence");
    as_extension_owner("select pyreplica.register_sequence($1)", &[sequence.into()]);
    session::invalidate(sequence);
}

#[pg_extern(sql = false)]
fn remove_sequence(sequence: Option<Oid>) {
    let sequence = owned_by_caller(sequence, "sequence");
    as_extension_owner("select pyreplica.forget_sequence($1)", &[sequence.into()]);
    session::invalidate(sequence);
}

/// Last value and whether it was used, as `(value, 0 or 1)`; NULL when the sequence is gone.
#[pg_extern(sql = false)]
fn sequence_state(sequence: Oid) -> Option<Vec<i64>> {
    sequence::states(&[sequence])[0].map(|(value, called)| vec![value, called.into()])
}

/// The replicated sequences that have moved since this session last asked, or all of them, as oid, last value, 0 or 1,
/// start and increment.
#[pg_extern(sql = false)]
fn moved_sequences(all: bool) -> Vec<i64> {
    READER.with_borrow_mut(|reader| {
        if all {
            reader.told.clear();
        }
        if xact::take_changed() {
            reader.sequences = None;
        }
        let sequences = reader.sequences.get_or_insert_with(list);
        let mut moved = Vec::new();
        for (&sequence, state) in sequences.iter().zip(sequence::states(sequences)) {
            let Some((value, called)) = state else { continue };
            if reader.told.insert(sequence, (value, called)) != Some((value, called)) {
                // After the value: who altered the sequence has done so before it gave a value of the new kind.
                let Some((start, increment)) = sequence::definition(sequence) else { continue };
                moved.extend([i64::from(sequence.to_u32()), value, called.into(), start, increment]);
            }
        }
        moved
    })
}

fn list() -> Vec<Oid> {
    let query = "select pg_catalog.array_agg(relation::pg_catalog.oid order by relation::pg_catalog.oid)
                   from pyreplica.replicated_sequence";
    match Spi::get_one::<Vec<Oid>>(query) {
        Ok(oids) => oids.unwrap_or_default(),
        Err(e) => error!("could not read the list of replicated sequences: {e}"),
    }
}
