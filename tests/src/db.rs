//! A database of a throw-away server, with the shortest way to say SQL to it and to see what is in it.

use std::sync::Arc;

use postgres::error::DbError;
use postgres::{Client, NoTls, SimpleQueryMessage};

use crate::cluster::Cluster;

#[derive(Clone)]
pub struct Db {
    pub server: Arc<Cluster>,
    pub name: String,
    /// Ends the database with the last of its handles.
    _temporary: Option<Arc<Temporary>>,
}

impl Db {
    pub fn new(server: Arc<Cluster>, name: &str) -> Self {
        Self { server, name: name.to_owned(), _temporary: None }
    }

    /// From now on the database is dropped with its last handle: for a server that outlives the test. Hundreds of
    /// them would take more disk than a machine of CI has.
    pub fn temporary(mut self) -> Self {
        self._temporary = Some(Arc::new(Temporary { server: self.server.clone(), name: self.name.clone() }));
        self
    }

    /// `host=... dbname=...` of this database.
    pub fn dsn(&self) -> String {
        self.server.dsn(&self.name)
    }

    /// A new session of the superuser.
    pub fn session(&self) -> Session {
        self.session_of("postgres")
    }

    /// A new session of another role.
    pub fn session_of(&self, role: &str) -> Session {
        let client = self.server.config(&self.name).user(role).connect(NoTls);
        Session { client: client.unwrap_or_else(|e| panic!("could not connect to {}: {e:?}", self.dsn())) }
    }

    /// Runs statements in one session of their own.
    #[track_caller]
    pub fn run(&self, sql: &str) {
        self.session().run(sql);
    }

    /// Runs what must fail, and gives the error.
    #[track_caller]
    pub fn error(&self, sql: &str) -> DbError {
        self.session().error(sql)
    }

    /// The rows of a query, columns as text joined by `|`, NULL as `null`; in the manner of psql -At.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<String> {
        self.session().rows(sql)
    }

    /// The only value of a query.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        self.rows(sql).join("\n")
    }

    /// A session that has begun a transaction and run `sql` in it.
    #[track_caller]
    pub fn begin(&self, sql: &str) -> Session {
        let mut session = self.session();
        session.run("begin");
        session.run(sql);
        session
    }
}

/// Drops a database when it goes.
struct Temporary {
    server: Arc<Cluster>,
    name: String,
}

impl Temporary {
    fn drop_database(&self) -> Result<(), postgres::Error> {
        let mut here = self.server.config(&self.name).connect(NoTls)?;
        for row in here.query("select gid from pg_prepared_xacts where database = current_database()", &[])? {
            let gid: String = row.get(0);
            here.batch_execute(&format!("rollback prepared '{}'", gid.replace('\'', "''")))?;
        }
        drop(here);
        let mut beside = self.server.config("postgres").connect(NoTls)?;
        beside.batch_execute(&format!("drop database \"{}\" with (force)", self.name))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(e) = self.drop_database() {
            eprintln!("could not drop database {}: {}", self.name, describe(&e));
        }
    }
}

pub struct Session {
    pub client: Client,
}

impl Session {
    /// Runs statements; each batch is one simple query.
    #[track_caller]
    pub fn run(&mut self, sql: &str) {
        if let Err(e) = self.client.batch_execute(sql) {
            panic!("{}\nin {}", describe(&e), shorten(sql));
        }
    }

    #[track_caller]
    pub fn error(&mut self, sql: &str) -> DbError {
        match self.client.batch_execute(sql) {
            Ok(()) => panic!("this should have failed: {}", shorten(sql)),
            Err(e) => e.as_db_error().unwrap_or_else(|| panic!("no answer from the server: {e:?}")).clone(),
        }
    }

    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<String> {
        let messages = match self.client.simple_query(sql) {
            Ok(messages) => messages,
            Err(e) => panic!("{}\nin {}", describe(&e), shorten(sql)),
        };
        messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let values: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("null")).collect();
                    Some(values.join("|"))
                }
                _ => None,
            })
            .collect()
    }

    #[track_caller]
    pub fn commit(mut self) {
        self.run("commit");
    }
}

fn describe(e: &postgres::Error) -> String {
    match e.as_db_error() {
        Some(db) => format!("{db:?}"),
        None => format!("{e:?}"),
    }
}

fn shorten(sql: &str) -> &str {
    let end = sql.char_indices().nth(2000).map_or(sql.len(), |(i, _)| i);
    &sql[..end]
}
