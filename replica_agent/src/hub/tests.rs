//! The chain by itself, and slaves that follow a model of a master by its turns.

use proptest::prelude::*;

use super::*;
use crate::position::{Rank, Snapshot, Target, Xid};

fn position(rank: Rank, snapshot: &str) -> Position {
    Position { rank, snapshot: snapshot.parse().unwrap(), settled: 0, last_xid: None, last_ts: None }
}

fn kept(from: &Position, end: &Position, bytes: usize) -> Kept {
    Kept { from: from.clone(), batch: Batch { windows: Vec::new(), end: end.clone() }, bytes }
}

/// A chain, and its turns in words.
#[derive(Default)]
struct Turns {
    chain: Chain,
    late: Duration,
}

impl Turns {
    fn turn(&mut self, at: &Position) -> String {
        match self.chain.turn(at, Instant::now() + self.late).0 {
            Turn::Take(batch) => format!("take to {}", batch.end.rank),
            Turn::Lead(number) => format!("lead {number}"),
            Turn::Wait { level } => format!("wait{}", if level { ", level" } else { "" }),
            Turn::Alone(None) => "alone".to_owned(),
            Turn::Alone(Some(head)) => format!("alone to {}", head.rank),
        }
    }
}

#[test]
fn one_reads_and_the_others_take() {
    let (p0, p1, p2) = (position(1, "5:5:"), position(3, "9:9:"), position(7, "12:12:"));
    let mut turns = Turns::default();
    assert_eq!(turns.turn(&p0), "lead 1");
    assert_eq!(turns.turn(&p0), "wait");
    assert!(turns.chain.level(1) && !turns.chain.level(1));
    assert_eq!(turns.turn(&p0), "wait, level");
    turns.chain.publish(1, kept(&p0, &p1, 10), false);
    assert_eq!((turns.turn(&p0), turns.turn(&p1)), ("take to 3".to_owned(), "wait".to_owned()));
    turns.chain.leave(1);
    assert_eq!(turns.turn(&p1), "lead 2");
    assert_eq!(turns.turn(&p1), "wait");
    turns.chain.publish(2, kept(&p1, &p2, 10), true);
    assert_eq!((turns.turn(&p0), turns.turn(&p1)), ("take to 3".to_owned(), "take to 7".to_owned()));
    assert_eq!(turns.turn(&p2), "wait, level");
    // Who stands between, or before all of it, comes to the head.
    assert_eq!(turns.turn(&position(2, "9:9:")), "alone to 7");
    assert_eq!(turns.turn(&position(0, "1:1:")), "alone to 7");
}

#[test]
fn who_is_beyond_the_head_becomes_it() {
    let (old, new) = (position(5, "9:9:"), position(5, "11:11:"));
    let mut turns = Turns::default();
    assert_eq!(turns.turn(&old), "lead 1");
    assert_eq!(turns.turn(&new), "lead 2");
    assert!(!turns.chain.rests(1, Instant::now()) && turns.chain.rests(2, Instant::now()));
    assert_eq!(turns.turn(&old), "alone to 5");
    // What the first one was reading comes too late.
    assert!(!turns.chain.publish(1, kept(&old, &position(8, "10:10:"), 1), false));
    assert_eq!(turns.turn(&old), "alone to 5");
    // Neither before nor beyond: it reads, and when it finds nothing more takes the greater rank.
    let mut aside = position(4, "12:12:");
    assert_eq!(turns.turn(&aside), "alone");
    turns.chain.raise(&mut aside);
    assert_eq!(turns.turn(&aside), "lead 3");
}

#[test]
fn nobody_waits_for_who_hangs_or_has_gone() {
    let at = position(5, "9:9:");
    let mut turns = Turns::default();
    assert_eq!(turns.turn(&at), "lead 1");
    turns.late = PATIENCE + Duration::from_millis(1);
    assert_eq!(turns.turn(&at), "alone");
    // It has said that it rests for so long.
    turns.chain.rests(1, Instant::now() + Duration::from_secs(60));
    assert_eq!(turns.turn(&at), "wait");
    turns.chain.leave(1);
    assert_eq!(turns.turn(&at), "lead 2");
    turns.chain.leave(1);
    assert_eq!(turns.turn(&at), "wait");
    // A batch too large to be kept is read by each for himself, until one is at its end.
    turns.chain.too_large(2);
    assert_eq!(turns.turn(&at), "alone");
    assert_eq!(turns.turn(&position(6, "10:10:")), "lead 3");
    assert_eq!(turns.turn(&at), "alone to 6");
}

#[test]
fn what_is_kept_is_bounded() {
    let at = |i: usize| position(i as Rank, "9:9:");
    for (bytes, most) in [(1, KEPT_COUNT), (KEPT_BYTES / 4, 4)] {
        let mut turns = Turns::default();
        for i in 0..KEPT_COUNT + 10 {
            assert_eq!(turns.turn(&at(i)), format!("lead {}", i + 1));
            turns.chain.publish(i as u64 + 1, kept(&at(i), &at(i + 1), bytes), false);
            turns.chain.leave(i as u64 + 1);
            assert_eq!(turns.chain.kept.len(), most.min(i + 1));
        }
    }
}

/// A master: transactions in the order of their ids, each with its rank once it has one, and whether it has ended.
#[derive(Default)]
struct Master {
    transactions: Vec<(Option<Rank>, bool)>,
    rank: Rank,
}

impl Master {
    fn snapshot(&self) -> Snapshot {
        let running: Vec<Xid> =
            (1..).zip(&self.transactions).filter(|(_, t)| !t.1).map(|(xid, _)| xid).collect();
        let xmax = self.transactions.len() as Xid + 1;
        let xip: Vec<String> = running.iter().map(Xid::to_string).collect();
        format!("{}:{xmax}:{}", running.first().unwrap_or(&xmax), xip.join(",")).parse().unwrap()
    }

    /// As the reader reads: ids of the transactions in order, and what was found.
    fn read(&self, at: &mut Position, target: Option<&Target>, newer_max: usize) -> (Vec<Xid>, bool) {
        let snapshot = target.map_or_else(|| self.snapshot(), |target| target.snapshot.clone());
        let to = target.map_or(Rank::MAX, |target| target.rank);
        let mut seen: Vec<(Rank, Xid)> = (1..)
            .zip(&self.transactions)
            .filter(|&(xid, t)| t.1 && snapshot.sees(xid))
            .filter_map(|(xid, t)| Some((t.0?, xid)))
            .filter(|&(rank, xid)| match rank <= at.rank {
                true => !at.snapshot.sees(xid),
                false => rank <= to,
            })
            .collect();
        seen.sort_unstable();
        let late = seen.partition_point(|&(rank, _)| rank <= at.rank);
        let more = seen.len() > late + newer_max;
        seen.truncate(late + newer_max);
        at.snapshot = snapshot;
        at.rank = seen.last().map_or(at.rank, |&(rank, _)| rank.max(at.rank));
        (seen.into_iter().map(|(_, xid)| xid).collect(), more)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Begin,
    /// Of one of the transactions that have not yet done so.
    Draw(usize),
    Commit(usize),
    /// Of one of the slaves.
    Turn(usize),
    /// A slave's reader begins anew, where the slave stands.
    Restart(usize),
    /// It reads for itself, as after an error.
    Apart(usize),
    /// It is another slave, which begins with what there is now.
    Anew(usize),
}

struct Slave {
    at: Position,
    got: Vec<Xid>,
    /// At its seat: the number, and what it has read and is about to publish.
    seat: Option<(u64, Position, Vec<Xid>)>,
}

proptest! {
    #[test]
    fn each_slave_gets_each_transaction_once(ops in prop::collection::vec(prop_oneof![
        2 => Just(Op::Begin),
        2 => (0usize..100).prop_map(Op::Draw),
        2 => (0usize..100).prop_map(Op::Commit),
        8 => (0usize..100).prop_map(Op::Turn),
        1 => (0usize..100).prop_map(Op::Restart),
        1 => (0usize..100).prop_map(Op::Apart),
        1 => (0usize..100).prop_map(Op::Anew),
    ], 0..200), newer_max in 1usize..4) {
        let mut master = Master::default();
        let mut chain = Chain::default();
        // Instead of windows: what is in the batch that begins at a position.
        let mut batches: Vec<(Position, Vec<Xid>)> = Vec::new();
        let mut slaves: Vec<Slave> = (0..3)
            .map(|_| Slave { at: Position::start(), got: Vec::new(), seat: None })
            .collect();
        // In the end all transactions commit, and all slaves come to the end.
        let (finish, settle) = (2 * ops.len(), 40 + 4 * ops.len());
        let end = (0..finish).map(|i| match i < ops.len() {
            true => Op::Draw(0),
            false => Op::Commit(0),
        });
        let turns = (0..3 * settle).map(Op::Turn);
        for op in ops.iter().cloned().chain(end).chain(turns) {
            match op {
                Op::Begin => master.transactions.push((None, false)),
                Op::Draw(index) => {
                    let mut open: Vec<_> = master.transactions.iter_mut().filter(|t| t.0.is_none()).collect();
                    if !open.is_empty() {
                        master.rank += 1;
                        let i = index % open.len();
                        open[i].0 = Some(master.rank);
                    }
                }
                Op::Commit(index) => {
                    let mut open: Vec<_> = master.transactions.iter_mut().filter(|t| t.0.is_some() && !t.1).collect();
                    if !open.is_empty() {
                        let i = index % open.len();
                        open[i].1 = true;
                    }
                }
                Op::Restart(index) | Op::Apart(index) | Op::Anew(index) => {
                    let slave = &mut slaves[index % 3];
                    if let Some((number, ..)) = slave.seat.take() {
                        chain.leave(number);
                    }
                    match op {
                        Op::Apart(_) => {
                            let xids = master.read(&mut slave.at, None, newer_max).0;
                            slave.got.extend(xids);
                        }
                        Op::Anew(_) => {
                            slave.got = master.read(&mut Position::start(), None, usize::MAX / 2).0;
                            slave.at.snapshot = master.snapshot();
                            slave.at.rank = master.rank;
                        }
                        _ => {}
                    }
                }
                Op::Turn(index) => {
                    let i = index % slaves.len();
                    let slave = &mut slaves[i];
                    if let Some((number, end, xids)) = slave.seat.take() {
                        if !xids.is_empty() {
                            if chain.is_led_by(number) {
                                batches.push((slave.at.clone(), xids.clone()));
                            }
                            chain.publish(number, kept(&slave.at, &end, 1), false);
                            slave.got.extend(xids);
                            slave.at = end;
                        }
                        // It reads on, or lets somebody else.
                        if chain.is_led_by(number) && index / 3 % 2 == 0 {
                            let mut end = slave.at.clone();
                            let (xids, _) = master.read(&mut end, None, newer_max);
                            slave.seat = Some((number, end, xids));
                        } else {
                            chain.leave(number);
                        }
                        continue;
                    }
                    match chain.turn(&slave.at, Instant::now()).0 {
                        Turn::Take(batch) => {
                            let taken = batches.iter().rev().find(|(from, _)| from.is_same(&slave.at)).unwrap();
                            slave.got.extend(&taken.1);
                            slave.at = batch.end;
                        }
                        Turn::Lead(number) => {
                            let mut end = slave.at.clone();
                            let (xids, _) = master.read(&mut end, None, newer_max);
                            slave.seat = Some((number, end, xids));
                        }
                        Turn::Alone(head) => {
                            let target = head.clone().map(Target::from);
                            let (xids, more) = master.read(&mut slave.at, target.as_ref(), newer_max);
                            match head {
                                Some(head) if !more => slave.at = head,
                                None if xids.is_empty() => chain.raise(&mut slave.at),
                                _ => {}
                            }
                            slave.got.extend(xids);
                        }
                        Turn::Wait { .. } => {}
                    }
                }
            }
        }
        let all: Vec<Xid> = (1..=master.transactions.len() as Xid).collect();
        for slave in &mut slaves {
            slave.got.sort_unstable();
            prop_assert_eq!(&slave.got, &all);
        }
        prop_assert!(slaves.iter().all(|slave| slave.at.is_same(&slaves[0].at)));
    }
}
