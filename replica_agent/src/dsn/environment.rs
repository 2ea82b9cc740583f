//! A `Dsn` as the variables by which libpq's programs take it: what they show to others is nothing of it.

use std::ffi::OsString;

use super::{Dsn, Host, CHANNEL_BINDINGS, SESSION_ATTRS, SSL_MODES};

impl Dsn {
    /// The PG* variables that lead a program to the same database.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let list =
            |part: &dyn Fn(&Host) -> String| self.hosts.iter().map(part).collect::<Vec<_>>().join(",").into();
        let mut variables: Vec<(&'static str, OsString)> = vec![
            ("PGHOST", list(&|host| host.name.clone())),
            ("PGPORT", list(&|host| host.port.to_string())),
            ("PGUSER", self.user.clone().into()),
            ("PGDATABASE", self.dbname.clone().into()),
            ("PGAPPNAME", "replica_agent schema".into()),
        ];
        if self.hosts.iter().any(|host| host.addr.is_some()) {
            let addr = |host: &Host| host.addr.map(|addr| addr.to_string()).unwrap_or_default();
            variables.push(("PGHOSTADDR", list(&addr)));
        }
        let optional = [
            ("PGPASSWORD", self.password.clone().map(OsString::from)),
            ("PGPASSFILE", self.passfile.clone().map(OsString::from)),
            ("PGSSLMODE", word(SSL_MODES, &self.ssl_mode)),
            ("PGTARGETSESSIONATTRS", word(SESSION_ATTRS, &self.target_session_attrs)),
            ("PGCHANNELBINDING", word(CHANNEL_BINDINGS, &self.channel_binding)),
            ("PGSSLROOTCERT", self.ssl_root_cert.clone().map(OsString::from)),
            ("PGSSLCERT", self.ssl_cert.clone().map(OsString::from)),
            ("PGSSLKEY", self.ssl_key.clone().map(OsString::from)),
            ("PGCONNECT_TIMEOUT", self.connect_timeout.map(|limit| limit.as_secs().to_string().into())),
            ("PGOPTIONS", self.options.clone().map(OsString::from)),
        ];
        variables.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        variables
    }
}

/// The word for a meaning.
fn word<T: PartialEq>(words: &[(&'static str, T)], meant: &T) -> Option<OsString> {
    words.iter().find(|(_, meaning)| meaning == meant).map(|(word, _)| word.into())
}
