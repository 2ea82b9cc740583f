//! A plan leads to what the changes one after the other lead to, for any sequence on a model of the table.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::reader::Transaction;

type Key1 = u8;
type Columns = [u8; 2];
/// Rows by key.
type Model = BTreeMap<Key1, Columns>;

/// What a client of the master tries; what makes no sense there (a row that is not there) changes nothing.
#[derive(Clone, Debug)]
enum Op {
    Insert(Key1, Columns),
    Update(Key1, Option<u8>, Option<u8>),
    Move(Key1, Key1, Option<u8>),
    Delete(Key1),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..6u8;
    prop_oneof![
        (key(), any::<Columns>()).prop_map(|(k, c)| Op::Insert(k, c)),
        (key(), any::<Option<u8>>(), any::<Option<u8>>()).prop_map(|(k, a, b)| Op::Update(k, a, b)),
        (key(), key(), any::<Option<u8>>()).prop_map(|(k, to, a)| Op::Move(k, to, a)),
        key().prop_map(Op::Delete),
    ]
}

/// A payload that introduces table t (a, k, b) with key k.
struct Payload(Vec<u8>);

impl Payload {
    fn new() -> Self {
        let mut p = Payload(vec![1]);
        p.0.extend([b'R', 7, 1, b's', 1, b't', 3, 1, 1]);
        for (number, name) in [b'a', b'k', b'b'].into_iter().enumerate() {
            p.0.extend([b'C', 0, number as u8, 1, name, 36 + 1]);
        }
        p
    }

    fn value(&mut self, value: u8) {
        self.0.extend([2, value]);
    }

    fn row(&mut self, key: u8, [a, b]: Columns) {
        [a, key, b].into_iter().for_each(|v| self.value(v));
    }

    /// Does on the master what the log then tells.
    fn run(&mut self, op: &Op, master: &mut Model) {
        match *op {
            Op::Insert(key, columns) => {
                if master.contains_key(&key) {
                    return;
                }
                self.0.extend([b'I', 0]);
                self.row(key, columns);
                master.insert(key, columns);
            }
            Op::Update(key, a, b) => {
                let Some(row) = master.get_mut(&key) else { return };
                let changed: Vec<(u8, usize, u8)> =
                    [(0, 0, a), (2, 1, b)].into_iter().filter_map(|(c, i, v)| Some((c, i, v?))).collect();
                self.0.extend([b'U', 0]);
                self.value(key);
                self.0.push(changed.len() as u8);
                for (column, i, new) in changed {
                    self.0.push(column);
                    self.value(new);
                    self.value(std::mem::replace(&mut row[i], new));
                }
            }
            Op::Move(key, to, a) => {
                if master.contains_key(&to) {
                    return;
                }
                let Some(old) = master.remove(&key) else { return };
                let row = [a.unwrap_or(old[0]), old[1]];
                self.0.extend([b'K', 0]);
                self.value(key);
                self.row(to, row);
                self.0.push(1 + u8::from(a.is_some()));
                if a.is_some() {
                    self.0.push(0);
                    self.value(old[0]);
                }
                self.0.push(1);
                self.value(key);
                master.insert(to, row);
            }
            Op::Delete(key) => {
                if master.remove(&key).is_some() {
                    self.0.extend([b'D', 0]);
                    self.value(key);
                }
            }
        }
    }
}

fn chunk(payload: Vec<u8>, xid: Xid) -> Chunk {
    let transaction =
        Transaction { rank: 1, xid, ts: jiff::Timestamp::UNIX_EPOCH, origin: None, username: None };
    Chunk { transaction: Arc::new(transaction), payload }
}

/// Carries out the plan as the slave's statements do: each must find exactly its rows.
fn carry_out(window: &Window, slave: &mut Model) {
    let plan = window.plan.as_ref().expect("a plan");
    let chunks = &window.chunks;
    let byte = |v: Value| v.unwrap()[0];
    for table in &plan.tables {
        for &key in &table.deletes {
            let key = byte(plan.key(chunks, table, key).next().unwrap());
            slave.remove(&key).expect("the row to delete");
        }
        let mut moved = Vec::new();
        for group in &table.updates {
            for &update in &group.rows {
                let mut key = byte(plan.key(chunks, table, update.key).next().unwrap());
                let mut row = slave.remove(&key).expect("the row to update");
                for (n, &column) in group.columns.iter().enumerate() {
                    let (new, old) = plan.changed(chunks, update, n);
                    let cell = match column {
                        0 => &mut row[0],
                        1 => &mut key,
                        _ => &mut row[1],
                    };
                    assert_eq!(*cell, byte(old), "the old value is the one before the window");
                    *cell = byte(new);
                }
                if let Some(whole) = update.row {
                    let whole: Vec<u8> = plan.columns(chunks, whole, &[0, 1, 2]).map(byte).collect();
                    assert_eq!(whole, [row[0], key, row[1]], "the whole row is the last one");
                }
                moved.push((key, row));
            }
        }
        for (key, row) in moved {
            assert_eq!(slave.insert(key, row), None, "each key once");
        }
        for &row in &table.inserts {
            let values: Vec<u8> = plan.columns(chunks, row, &[0, 1, 2]).map(byte).collect();
            assert_eq!(slave.insert(values[1], [values[0], values[2]]), None, "a row that is not there");
        }
    }
}

proptest! {
    #[test]
    fn net_effect_is_that_of_step_by_step(
        before in prop::collection::btree_map(0..6u8, any::<Columns>(), 0..6),
        transactions in prop::collection::vec(prop::collection::vec(op(), 0..12), 1..4),
    ) {
        let (mut master, mut slave, mut again) = (before.clone(), before.clone(), before);
        let mut planner = Planner::default();
        for (xid, ops) in transactions.iter().enumerate() {
            let mut payload = Payload::new();
            ops.iter().for_each(|op| payload.run(op, &mut master));
            prop_assert!(planner.add(chunk(payload.0, xid as Xid)).is_ok());
        }
        let mut window = planner.finish(None);
        carry_out(&window, &mut slave);
        prop_assert_eq!(&slave, &master);
        window.drop_plan();
        window.plan_again();
        carry_out(&window, &mut again);
        prop_assert_eq!(again, master);
        prop_assert_eq!(window.plan.unwrap().tables[0].xids, (0, transactions.len() as Xid - 1));
    }
}

/// What the ops lead to as deletes, updates and inserts, on a master that has rows 1 and 2.
fn counts(ops: &[Op]) -> (usize, usize, usize) {
    let mut master = Model::from([(1, [0, 0]), (2, [0, 0])]);
    let mut payload = Payload::new();
    ops.iter().for_each(|op| payload.run(op, &mut master));
    let mut planner = Planner::default();
    planner.add(chunk(payload.0, 1)).unwrap();
    let plan = planner.finish(None).plan.unwrap();
    let table = &plan.tables[0];
    (table.deletes.len(), table.updates.iter().map(|g| g.rows.len()).sum(), table.inserts.len())
}

#[test]
fn a_hot_row_is_written_once() {
    assert_eq!(counts(&vec![Op::Update(1, Some(3), None); 100]), (0, 1, 0));
    assert_eq!(
        counts(&[Op::Update(1, Some(3), None), Op::Update(1, None, Some(4)), Op::Move(1, 5, None)]),
        (0, 1, 0)
    );
    assert_eq!(counts(&[Op::Update(1, Some(3), None), Op::Delete(1)]), (1, 0, 0));
    assert_eq!(counts(&[Op::Insert(3, [1, 1]), Op::Update(3, Some(3), None)]), (0, 0, 1));
    assert_eq!(counts(&[Op::Insert(3, [1, 1]), Op::Move(3, 4, None), Op::Delete(4)]), (0, 0, 0));
    assert_eq!(counts(&[Op::Delete(1), Op::Insert(1, [1, 1])]), (1, 0, 1));
    assert_eq!(counts(&[Op::Move(1, 3, None), Op::Move(2, 1, None), Op::Move(3, 2, None)]), (0, 2, 0));
}

#[test]
fn what_the_net_effect_does_not_show_is_said() {
    let lost = |ops: &[Op]| {
        let (mut payload, mut model) = (Payload::new(), Model::from([(1, [1, 1])]));
        ops.iter().for_each(|op| payload.run(op, &mut model));
        let mut planner = Planner::default();
        planner.add(chunk(payload.0, 1)).unwrap();
        let Lost { before_delete, before_update } = planner.finish(None).plan.unwrap().tables[0].lost;
        (before_delete, before_update)
    };
    let update = |key| Op::Update(key, Some(2), None);
    assert_eq!(lost(&[Op::Insert(3, [1, 1]), update(1), Op::Delete(4)]), (false, false));
    assert_eq!(lost(&[Op::Insert(3, [1, 1]), Op::Delete(3)]), (true, false));
    assert_eq!(lost(&[update(1), Op::Delete(1)]), (true, false));
    assert_eq!(lost(&[Op::Insert(3, [1, 1]), update(3)]), (false, true));
}

#[test]
fn what_makes_no_sense_has_no_plan() {
    let mut twice = Payload::new();
    twice.run(&Op::Insert(3, [1, 1]), &mut Model::new());
    twice.run(&Op::Insert(3, [1, 1]), &mut Model::new());
    let mut planner = Planner::default();
    planner.add(chunk(twice.0, 1)).unwrap();
    assert!(planner.finish(None).plan.is_none());
    assert!(planner.is_empty() && planner.finish(None).plan.is_some());
}

#[test]
fn truncate_statements_and_what_is_malformed_stand_alone() {
    for tail in [&b"T\0\x01\0"[..], b"S\x01x\0\0", b"?"] {
        let mut payload = Payload::new();
        payload.run(&Op::Insert(3, [1, 1]), &mut Model::new());
        payload.0.extend(tail);
        let mut planner = Planner::default();
        assert!(planner.add(chunk(payload.0, 1)).is_err());
        assert!(planner.is_empty());
    }
}

#[test]
fn an_altered_table_begins_a_window() {
    let mut planner = Planner::default();
    planner.add(chunk(Payload::new().0, 1)).unwrap();
    let mut altered = Payload::new();
    let name = altered.0.len() - 2;
    altered.0[name] = b'c';
    let refused = planner.add(chunk(altered.0, 2)).unwrap_err();
    assert_eq!(planner.finish(None).chunks.len(), 1);
    planner.add(*refused).unwrap();
}

#[test]
fn a_table_altered_within_a_chunk_stands_alone() {
    let mut payload = Payload::new();
    let mut altered = Payload::new().0;
    let columns = altered.len() - 18;
    altered[columns..].chunks_mut(6).for_each(|column| column[1] = 1);
    altered[columns + 4] = b'c';
    payload.0.extend(&altered[1..]);
    assert!(Planner::default().add(chunk(payload.0, 1)).is_err());
}
