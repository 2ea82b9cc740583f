//! The buffer against a model: a list of changes, cut back by rollbacks.

use proptest::prelude::*;

use crate::buffer::order::SpilledTooEarly;
use crate::buffer::{Buffer, KeyChange, Spot, CHUNK_BYTES};
use crate::decode::{Message, Messages};
use crate::encode;

/// What is written, by `(seq, id)` as the agent reads it.
#[derive(Default)]
struct Log {
    chunks: Vec<(i64, Vec<u8>)>,
    finals: usize,
}

impl Log {
    /// The statements in the order in which a slave would run them.
    fn read(&self) -> Vec<String> {
        let mut chunks: Vec<_> = self.chunks.iter().enumerate().collect();
        chunks.sort_by_key(|(id, (seq, _))| (*seq, *id));
        let mut read = Vec::new();
        for (_, (_, payload)) in chunks {
            let mut messages = Messages::new(payload).expect("version");
            while let Some(message) = messages.next().expect("well-formed") {
                if let Message::Statement { sql, .. } = message {
                    read.push(String::from_utf8(sql.to_vec()).expect("text"));
                }
            }
        }
        read
    }
}

thread_local! {
    /// The chunk that knows the relation, and its number there.
    static KNOWN: std::cell::RefCell<(u64, u32)> = const { std::cell::RefCell::new((0, 0)) };
}

fn add(buffer: &mut Buffer, cid: u32, depth: i32, superseded_by: Option<u32>, sql: &str) {
    let spot = Spot { cid, depth, superseded_by };
    let place = buffer.place(spot, KeyChange::default).expect("a place");
    write(buffer, place, sql);
}

fn write(buffer: &mut Buffer, place: crate::buffer::Place, sql: &str) {
    loop {
        let open = buffer.open(place);
        let start = open.start;
        // Refers to a relation, which fails when it is read unless the chunk introduces it.
        let number = KNOWN.with_borrow_mut(|(serial, number)| {
            if *serial != open.serial {
                (*serial, *number) = (open.serial, *open.relations);
                *open.relations += 1;
                encode::relation(open.bytes, 1, b"s", b"t", 1, &[0]);
            }
            *number
        });
        encode::truncate(open.bytes, 0, &[number]);
        encode::statement(open.bytes, sql.as_bytes(), b"", &[(b"search_path".as_slice(), b"")]);
        if buffer.close(place, start) {
            break;
        }
    }
}

fn spill(buffer: &mut Buffer, depth: i32, log: &mut Log) {
    let wrote: Result<(), ()> = buffer.spill(depth, |chunk| {
        log.chunks.push((chunk.seq, chunk.payload.to_vec()));
        Ok(())
    });
    wrote.expect("writing does not fail");
}

fn finish(buffer: &mut Buffer, log: &mut Log) {
    let totals = buffer.totals_at_end();
    let wrote: Result<(), ()> = buffer.finish(|chunk, last| {
        log.chunks.push((chunk.seq, chunk.payload.to_vec()));
        log.finals += usize::from(last);
        Ok(())
    });
    wrote.expect("writing does not fail");
    assert_eq!(totals.changes as usize, log.read().len());
}

fn finished(mut buffer: Buffer) -> Vec<String> {
    let mut log = Log::default();
    finish(&mut buffer, &mut log);
    log.read()
}

#[test]
fn a_late_change_joins_the_run_of_its_command() {
    let mut buffer = Buffer::default();
    add(&mut buffer, 1, 1, None, "insert 1");
    add(&mut buffer, 2, 2, None, "update 2");
    add(&mut buffer, 1, 1, Some(2), "insert 2");
    add(&mut buffer, 3, 2, None, "update 3");
    add(&mut buffer, 1, 1, Some(3), "insert 3");
    assert_eq!(finished(buffer), ["insert 1", "insert 2", "insert 3", "update 2", "update 3"]);
}

#[test]
fn a_late_change_finds_its_place_among_spilled_ones() {
    let mut buffer = Buffer::default();
    let mut log = Log::default();
    add(&mut buffer, 1, 1, None, "insert 1");
    add(&mut buffer, 2, 2, None, "update 2");
    spill(&mut buffer, 2, &mut log);
    add(&mut buffer, 1, 1, Some(2), "insert 2");
    spill(&mut buffer, 1, &mut log);
    add(&mut buffer, 3, 2, None, "update 3");
    spill(&mut buffer, 2, &mut log);
    add(&mut buffer, 1, 1, Some(3), "insert 3");
    finish(&mut buffer, &mut log);
    assert_eq!(log.read(), ["insert 1", "insert 2", "insert 3", "update 2", "update 3"]);
    assert_eq!(log.finals, 1);
}

#[test]
fn what_cannot_be_put_into_its_place_any_more_is_an_error() {
    let mut buffer = Buffer::default();
    add(&mut buffer, 2, 1, None, "by a function");
    add(&mut buffer, 3, 1, None, "of the statement");
    spill(&mut buffer, 1, &mut Log::default());
    let late = Spot { cid: 1, depth: 1, superseded_by: Some(3) };
    assert_eq!(buffer.place(late, KeyChange::default), Err(SpilledTooEarly));
}

#[test]
fn nested_changes_before_the_first_of_their_statement_stay_before_it() {
    let mut buffer = Buffer::default();
    add(&mut buffer, 2, 2, None, "delete the old row");
    add(&mut buffer, 1, 1, None, "insert");
    assert_eq!(finished(buffer), ["delete the old row", "insert"]);
}

#[test]
fn what_changed_a_version_comes_after_what_wrote_it() {
    let mut buffer = Buffer::default();
    add(&mut buffer, 2, 2, None, "delete the old row");
    add(&mut buffer, 3, 2, None, "update the new row");
    add(&mut buffer, 1, 1, Some(3), "insert");
    assert_eq!(finished(buffer), ["delete the old row", "insert", "update the new row"]);
}

#[test]
fn a_large_message_is_alone_in_its_chunk() {
    let mut buffer = Buffer::default();
    let large = "x".repeat(3 * CHUNK_BYTES);
    for sql in ["a", &large, "b"] {
        add(&mut buffer, 1, 1, None, sql);
    }
    let mut log = Log::default();
    finish(&mut buffer, &mut log);
    assert_eq!(log.read(), ["a", &large, "b"]);
    assert_eq!(log.chunks.len(), 3);
}

/// Nothing that survives is nothing to log, spilled or not.
#[test]
fn a_transaction_that_was_rolled_back_to_its_beginning_logs_nothing() {
    let mut buffer = Buffer::default();
    let mut log = Log::default();
    buffer.enter(2);
    add(&mut buffer, 1, 1, None, "a");
    spill(&mut buffer, 1, &mut log);
    add(&mut buffer, 2, 1, None, "b");
    buffer.abort_level(2);
    log.chunks.clear();
    finish(&mut buffer, &mut log);
    assert_eq!(log.finals, 0);
}

#[test]
fn savepoints_that_spill_leave_nothing_in_memory() {
    let mut buffer = Buffer::default();
    let mut log = Log::default();
    let names: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    add(&mut buffer, 0, 1, None, &names[0]);
    for (cid, name) in names.iter().enumerate().skip(1) {
        buffer.enter(2);
        add(&mut buffer, cid as u32, 1, None, name);
        spill(&mut buffer, 1, &mut log);
        buffer.commit_level(2);
    }
    assert!(buffer.segments() <= 2);
    finish(&mut buffer, &mut log);
    assert_eq!(log.read(), names);
}

#[test]
fn what_a_released_savepoint_leaves_to_its_parent_is_spilled() {
    let mut buffer = Buffer::default();
    let mut log = Log::default();
    let names: Vec<String> = (0..100).map(|i| format!("{i:01000}")).collect();
    for (cid, name) in names.iter().enumerate() {
        buffer.enter(2);
        add(&mut buffer, cid as u32, 1, None, name);
        if buffer.release(2, 4 * CHUNK_BYTES) {
            spill(&mut buffer, 1, &mut log);
        }
        buffer.commit_level(2);
        assert!(buffer.bytes() <= 4 * CHUNK_BYTES);
    }
    finish(&mut buffer, &mut log);
    assert_eq!(log.read(), names);
    assert!(log.chunks.len() < 20, "chunks are filled");
}

#[test]
fn what_is_of_an_outer_level_is_not_spilled_under_an_inner_one() {
    let mut buffer = Buffer::default();
    add(&mut buffer, 1, 1, None, &"a".repeat(CHUNK_BYTES));
    assert!(!buffer.release(3, 0), "level 2 may be rolled back yet");
    assert!(buffer.release(2, 0));
}

#[test]
fn a_savepoint_that_fails_while_it_is_released_loses_the_transaction() {
    let mut buffer = Buffer::default();
    let mut log = Log::default();
    buffer.enter(2);
    add(&mut buffer, 1, 1, None, &"a".repeat(CHUNK_BYTES));
    assert!(buffer.release(2, 0));
    spill(&mut buffer, 1, &mut log);
    buffer.abort_level(2);
    assert!(buffer.is_lost());
    buffer.clear();
    assert!(!buffer.is_lost());
}

#[derive(Debug, Clone)]
enum Step {
    Change { size: usize },
    Savepoint,
    Release,
    Rollback,
    Spill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..3000usize).prop_map(|size| Step::Change { size }),
        2 => Just(Step::Savepoint),
        2 => Just(Step::Release),
        2 => Just(Step::Rollback),
        1 => Just(Step::Spill),
    ]
}

proptest! {
    /// Savepoints, rollbacks and spills at any moment: what is read is what survived, in order.
    #[test]
    fn keeps_what_survives_in_order(steps in prop::collection::vec(step(), 0..120)) {
        KNOWN.set((0, 0));
        let mut buffer = Buffer::default();
        let mut log = Log::default();
        let mut model: Vec<String> = Vec::new();
        // Of each open savepoint: how much the model and the log held.
        let mut savepoints: Vec<(usize, usize)> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            let nest = savepoints.len() as i32 + 1;
            match step {
                Step::Change { size } => {
                    let sql = format!("{n:0size$}");
                    buffer.enter(nest);
                    add(&mut buffer, n as u32, 1, None, &sql);
                    model.push(sql);
                }
                Step::Savepoint => savepoints.push((model.len(), log.chunks.len())),
                Step::Release => if savepoints.pop().is_some() {
                    if buffer.release(nest, CHUNK_BYTES) {
                        spill(&mut buffer, 1, &mut log);
                    }
                    buffer.commit_level(nest);
                    prop_assert!(!buffer.is_lost());
                },
                Step::Rollback => if let Some((changes, chunks)) = savepoints.pop() {
                    buffer.abort_level(nest);
                    model.truncate(changes);
                    log.chunks.truncate(chunks); // what PostgreSQL does
                },
                Step::Spill => {
                    // A spill follows a change, which has marked its subtransaction.
                    buffer.enter(nest);
                    spill(&mut buffer, 1, &mut log);
                }
            }
        }
        finish(&mut buffer, &mut log);
        prop_assert!(log.chunks.iter().all(|(_, c)| c.len() <= CHUNK_BYTES));
        prop_assert_eq!(log.finals, usize::from(!log.chunks.is_empty()));
        prop_assert_eq!(log.read(), model);
    }
}
