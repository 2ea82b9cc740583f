//! A session that need not wait for each answer: statements are sent one behind the other, their answers taken in order.
//!
//! In: statements. Out: for those that wait, their results; for those that were only sent, whether all has gone well up
//! to a mark. Everything arrives at the server in the order in which it was given here, whether it waits or not.
//!
//! The `postgres` crate waits for each answer; what is below it does not. Answers are taken in whenever the session does
//! anything, so the server never waits for us with one.

use std::collections::VecDeque;
use std::future::{poll_fn, Future};
use std::pin::{pin, Pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join;
use futures_util::SinkExt;
use postgres::types::{ToSql, Type};
use postgres::{Error, NoTls, Row, SimpleQueryMessage, Statement};
use postgres_openssl::MakeTlsConnector;
use tokio::runtime::{self, Runtime};
use tokio::task::yield_now;
use tokio_postgres::{AsyncMessage, CopyInSink, ToStatement};

#[cfg(test)]
mod tests;

/// Reads and writes the socket; gives what the server says unasked.
type Wire = Box<dyn FnMut(&mut Context) -> Poll<Option<Result<AsyncMessage, Error>>> + Send>;
type Answer = Pin<Box<dyn Future<Output = Result<u64, Error>> + Send>>;
pub type Params<'p> = &'p [&'p (dyn ToSql + Sync)];
/// A query that was sent among other statements: its rows, once it is answered.
pub struct Asked {
    mark: Mark,
    rows: Arc<OnceLock<Vec<Row>>>,
}

/// The row of a query that waited, if one did, and how long it took; and those of the query behind it.
pub type Awaited = (Option<(Row, Duration)>, Vec<Row>);

/// Answers awaited at a time.
const AWAITED_MAX: usize = 4000;

/// From so long a round trip on a session is far: what takes one for each row or batch takes too long.
pub const FAR: Duration = Duration::from_millis(5);

/// How much has been sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

impl Asked {
    /// Answered up to here it is answered.
    pub fn mark(&self) -> Mark {
        self.mark
    }
}

pub struct Pipe {
    client: Arc<tokio_postgres::Client>,
    line: Line,
    runtime: Runtime,
}

/// The wire, and what has been sent and is not answered.
struct Line {
    wire: Option<Wire>,
    awaited: VecDeque<Answer>,
    sent: Mark,
    answered: Mark,
    /// The shortest that was met.
    round_trip: Duration,
    /// The first of what was only sent that failed, if it has not been told.
    failed: Option<(Mark, Error)>,
}

impl Pipe {
    pub fn open(config: &tokio_postgres::Config, tls: Option<MakeTlsConnector>) -> Result<Self, Error> {
        let runtime = runtime();
        let (client, wire): (_, Wire) = match tls {
            Some(tls) => {
                let (client, mut connection) = runtime.block_on(config.connect(tls))?;
                (client, Box::new(move |cx| connection.poll_message(cx)))
            }
            None => {
                let (client, mut connection) = runtime.block_on(config.connect(NoTls))?;
                (client, Box::new(move |cx| connection.poll_message(cx)))
            }
        };
        let line = Line {
            wire: Some(wire),
            awaited: VecDeque::new(),
            sent: Mark::default(),
            answered: Mark::default(),
            round_trip: Duration::MAX,
            failed: None,
        };
        Ok(Pipe { client: Arc::new(client), line, runtime })
    }

    pub fn cancel_token(&self) -> tokio_postgres::CancelToken {
        self.client.cancel_token()
    }

    pub fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
        self.prepare_typed(sql, &[])
    }

    pub fn prepare_typed(&mut self, sql: &str, types: &[Type]) -> Result<Statement, Error> {
        let client = Arc::clone(&self.client);
        self.wait(client.prepare_typed(sql, types))
    }

    pub fn execute(&mut self, statement: &(impl ToStatement + ?Sized), params: Params) -> Result<u64, Error> {
        let client = Arc::clone(&self.client);
        self.wait(client.execute(statement, params))
    }

    pub fn query(
        &mut self,
        statement: &(impl ToStatement + ?Sized),
        params: Params,
    ) -> Result<Vec<Row>, Error> {
        let client = Arc::clone(&self.client);
        self.wait(client.query(statement, params))
    }

    /// A query, perhaps behind one that waits for at most so long.
    pub fn query_after(
        &mut self,
        wait: &Statement,
        at_most: Option<Duration>,
        query: &Statement,
        params: Params,
    ) -> Result<Awaited, Error> {
        let Some(at_most) = at_most else { return Ok((None, self.query(query, params)?)) };
        let (client, began) = (Arc::clone(&self.client), Instant::now());
        let milliseconds = i32::try_from(at_most.as_millis()).unwrap_or(i32::MAX);
        let params_of_wait: Params = &[&milliseconds];
        let waited = async { Ok(Some((client.query_one(wait, params_of_wait).await?, began.elapsed()))) };
        self.run(try_join(waited, client.query(query, params)))
    }

    pub fn query_one(
        &mut self,
        statement: &(impl ToStatement + ?Sized),
        params: Params,
    ) -> Result<Row, Error> {
        let client = Arc::clone(&self.client);
        self.wait(client.query_one(statement, params))
    }

    /// A query without parameters, in one round trip.
    pub fn query_plain(&mut self, sql: &str) -> Result<Row, Error> {
        let client = Arc::clone(&self.client);
        self.wait(client.query_typed_one(sql, &[]))
    }

    pub fn query_opt(
        &mut self,
        statement: &(impl ToStatement + ?Sized),
        params: Params,
    ) -> Result<Option<Row>, Error> {
        let client = Arc::clone(&self.client);
        self.wait(client.query_opt(statement, params))
    }

    pub fn simple_query(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        let client = Arc::clone(&self.client);
        self.wait(client.simple_query(sql))
    }

    pub fn batch_execute(&mut self, sql: &str) -> Result<(), Error> {
        let client = Arc::clone(&self.client);
        self.wait(client.batch_execute(sql))
    }

    /// Sends statements without parameters.
    pub fn send_batch(&mut self, sql: String) {
        let client = Arc::clone(&self.client);
        self.line.send(Box::pin(async move { client.batch_execute(&sql).await.map(|()| 0) }));
    }

    /// Sends a statement.
    pub fn send<P: ToSql + Sync + Send + 'static>(&mut self, statement: &Statement, params: Vec<P>) {
        // Each answer that is awaited takes some memory.
        if self.line.awaited.len() >= AWAITED_MAX {
            self.until(|line| line.awaited.len() < AWAITED_MAX / 8 * 7);
        }
        let client = Arc::clone(&self.client);
        let statement = statement.clone();
        // Given away, the values are gone when they are sent, and not when the answer comes.
        self.line.send(Box::pin(async move { client.execute_raw(&statement, params).await }));
    }

    /// Sends a query. Whether it has gone well shows as with any other statement.
    pub fn ask<P: ToSql + Sync + Send + 'static>(&mut self, statement: &Statement, params: Vec<P>) -> Asked {
        let (client, statement) = (Arc::clone(&self.client), statement.clone());
        let rows = Arc::new(OnceLock::new());
        let there = Arc::clone(&rows);
        self.line.send(Box::pin(async move {
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
            let rows = client.query(&statement, &params).await?;
            Ok(there.get_or_init(|| rows).len() as u64)
        }));
        Asked { mark: self.line.sent, rows }
    }

    pub fn has_answered(&self, asked: &Asked) -> bool {
        asked.mark <= self.line.answered
    }

    /// Waits for the answer. The error is that of the first statement that has failed.
    pub fn answer(&mut self, asked: Asked) -> Result<Option<Vec<Row>>, Error> {
        self.settle(asked.mark).map_err(|(_, e)| e)?;
        // `None` if it failed and that was told before.
        Ok(Arc::into_inner(asked.rows).and_then(OnceLock::into_inner))
    }

    /// Begins a COPY, once all that was sent before is carried out; `None` if something of that has failed.
    ///
    /// A server that refuses to begin it costs the session, since the library ends the COPY all the same and gets an answer
    /// more than it awaits. So what a COPY may be refused for has to be tried before.
    pub fn copy_in(&mut self, statement: &(impl ToStatement + ?Sized)) -> Result<Option<CopyIn<'_>>, Error> {
        self.await_all();
        if self.line.failed.is_some() {
            return Ok(None);
        }
        let client = Arc::clone(&self.client);
        let sink = self.wait(client.copy_in(statement))?;
        Ok(Some(CopyIn { sink: Box::pin(sink), pipe: self }))
    }

    /// All that has been sent so far.
    pub fn sent(&self) -> Mark {
        self.line.sent
    }

    /// All that has been answered so far, well or not.
    pub fn answered(&self) -> Mark {
        self.line.answered
    }

    /// How long the server takes at least to answer.
    pub fn round_trip(&self) -> Duration {
        self.line.round_trip
    }

    pub fn is_far(&self) -> bool {
        self.round_trip() >= FAR
    }

    /// Sends and takes in as much as goes without waiting.
    pub fn turn(&mut self) {
        self.until(|_| true);
        // The wire learns what has arrived when the runtime looks at the socket, which it does when we let it.
        self.runtime.block_on(yield_now());
        // Nobody waits for it any more: what is sent next need not wake anybody.
        self.line.turn(&mut Context::from_waker(Waker::noop()));
    }

    /// Waits until all that was sent up to the mark has been answered, or something has failed: tells the first that
    /// failed since it was asked last, and the error.
    pub fn settle(&mut self, mark: Mark) -> Result<(), (Mark, Error)> {
        self.until(|line| line.answered >= mark || line.failed.is_some());
        self.line.failed.take().map_or(Ok(()), Err)
    }

    /// Waits until everything has been answered. What has failed is still to be told.
    pub fn await_all(&mut self) {
        self.until(|line| line.awaited.is_empty());
    }

    fn until(&mut self, mut reached: impl FnMut(&Line) -> bool) {
        let line = &mut self.line;
        self.runtime.block_on(poll_fn(|cx| {
            line.turn(cx);
            match reached(line) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        }));
    }

    /// Waits for an answer.
    fn wait<T>(&mut self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let (began, alone) = (Instant::now(), self.line.awaited.is_empty());
        let result = self.run(future);
        if alone && result.is_ok() {
            self.line.round_trip = self.line.round_trip.min(began.elapsed());
        }
        result
    }

    fn run<T>(&mut self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let line = &mut self.line;
        let mut future = pin!(future);
        self.runtime.block_on(poll_fn(|cx| {
            // First the future, which sends; then the wire, which may have its answer.
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            line.turn(cx);
            future.as_mut().poll(cx)
        }))
    }
}

/// Waits for something that needs no session.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

fn runtime() -> Runtime {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    // Only fails where the process may not open one more file; the thread's caller reports it.
    runtime.unwrap_or_else(|e| panic!("could not set up a session: {e}"))
}

impl Line {
    fn send(&mut self, mut answer: Answer) {
        self.sent.0 += 1;
        // The first poll puts it behind what was sent before; the wire takes it with the next turn.
        self.awaited.push_back(match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Box::pin(std::future::ready(answer)),
            Poll::Pending => answer,
        });
    }

    /// Reads and writes as much as goes without waiting.
    fn turn(&mut self, cx: &mut Context) {
        while let Some(wire) = &mut self.wire {
            match wire(cx) {
                Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => {
                    log::debug!("{}: {}", notice.severity(), notice.message());
                }
                Poll::Ready(Some(Ok(_))) => {}
                // Over. Whoever waits for an answer hears that the session is closed.
                Poll::Ready(Some(Err(e))) => {
                    log::debug!("lost a session: {e}");
                    self.wire = None;
                }
                Poll::Ready(None) => self.wire = None,
                Poll::Pending => break,
            }
        }
        while let Some(answer) = self.awaited.front_mut() {
            let Poll::Ready(answer) = answer.as_mut().poll(cx) else { break };
            self.awaited.pop_front();
            self.take(answer);
        }
    }

    fn take(&mut self, answer: Result<u64, Error>) {
        self.answered.0 += 1;
        if let (Err(e), None) = (answer, &self.failed) {
            self.failed = Some((self.answered, e));
        }
    }
}

/// A COPY to the server under way. Dropped without `finish` it is undone.
pub struct CopyIn<'p> {
    pipe: &'p mut Pipe,
    sink: Pin<Box<CopyInSink<Bytes>>>,
}

impl CopyIn<'_> {
    /// Waits until the wire has room for it.
    pub fn write(&mut self, data: Bytes) -> Result<(), Error> {
        self.pipe.run(self.sink.feed(data))
    }

    /// Ends it, and tells the number of rows.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.pipe.run(self.sink.as_mut().finish())
    }

    /// Ends it without waiting; the answer is one of those to what was sent.
    pub fn send_end(self) {
        let CopyIn { pipe, mut sink } = self;
        pipe.line.send(Box::pin(async move { sink.as_mut().finish().await }));
    }
}
