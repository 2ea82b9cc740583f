//! The two kinds of sessions, for what is done with either: being opened, set up, identified, cancelled.

use postgres::types::ToSql;
use postgres::{Client, Error, GenericClient, NoTls, Row, Statement};
use postgres_openssl::MakeTlsConnector;

use crate::pipe::{wait, Pipe};

/// A session that waits for each answer, or one that need not.
pub trait Session: Sized + Send + 'static {
    fn open(config: tokio_postgres::Config, tls: Option<MakeTlsConnector>) -> Result<Self, Error>;
    fn query_one(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, Error>;
    fn query_opt(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error>;
    fn execute(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error>;
    fn batch_execute(&mut self, sql: &str) -> Result<(), Error>;
    fn cancel_token(&self) -> Token;
}

/// What can be asked in a session of either kind, or in a transaction.
pub trait Ask {
    fn prepare(&mut self, sql: &str) -> Result<Statement, Error>;
    fn query(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error>;
}

impl<T: GenericClient> Ask for T {
    fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
        GenericClient::prepare(self, sql)
    }

    fn query(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        GenericClient::query(self, sql, params)
    }
}

impl Ask for Pipe {
    fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
        Pipe::prepare(self, sql)
    }

    fn query(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        Pipe::query(self, sql, params)
    }
}

/// By which a session is cancelled.
pub enum Token {
    Waiting(postgres::CancelToken),
    Piped(tokio_postgres::CancelToken),
}

impl Token {
    /// Asks the server to end what the session is doing.
    pub fn cancel(&self, tls: Option<MakeTlsConnector>) -> Result<(), Error> {
        match (self, tls) {
            (Token::Waiting(token), Some(tls)) => token.cancel_query(tls),
            (Token::Waiting(token), None) => token.cancel_query(NoTls),
            (Token::Piped(token), Some(tls)) => wait(token.cancel_query(tls)),
            (Token::Piped(token), None) => wait(token.cancel_query(NoTls)),
        }
    }
}

impl Session for Client {
    fn open(config: tokio_postgres::Config, tls: Option<MakeTlsConnector>) -> Result<Self, Error> {
        let mut config = postgres::Config::from(config);
        config.notice_callback(|notice| log::debug!("{}: {}", notice.severity(), notice.message()));
        match tls {
            Some(tls) => config.connect(tls),
            None => config.connect(NoTls),
        }
    }

    fn query_one(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        match params.is_empty() {
            // Takes one round trip, not two.
            true => self.query_typed_one(sql, &[]),
            false => Client::query_one(self, sql, params),
        }
    }

    fn query_opt(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error> {
        Client::query_opt(self, sql, params)
    }

    fn execute(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        Client::execute(self, sql, params)
    }

    fn batch_execute(&mut self, sql: &str) -> Result<(), Error> {
        Client::batch_execute(self, sql)
    }

    fn cancel_token(&self) -> Token {
        Token::Waiting(Client::cancel_token(self))
    }
}

impl Session for Pipe {
    fn open(config: tokio_postgres::Config, tls: Option<MakeTlsConnector>) -> Result<Self, Error> {
        Pipe::open(&config, tls)
    }

    fn query_one(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        match params.is_empty() {
            true => self.query_plain(sql),
            false => Pipe::query_one(self, sql, params),
        }
    }

    fn query_opt(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error> {
        Pipe::query_opt(self, sql, params)
    }

    fn execute(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        Pipe::execute(self, sql, params)
    }

    fn batch_execute(&mut self, sql: &str) -> Result<(), Error> {
        Pipe::batch_execute(self, sql)
    }

    fn cancel_token(&self) -> Token {
        Token::Piped(Pipe::cancel_token(self))
    }
}
