//! TLS for connections, by libpq's rules for sslmode, sslrootcert, sslcert and sslkey.
//!
//! In: a `Dsn`. Out: a connector, or an error that names the file at fault. A key that others may read is refused.

use std::path::Path;

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::store::X509StoreBuilder;
use postgres_openssl::MakeTlsConnector;

use crate::dsn::{Dsn, SslMode};
use crate::error::{Error, Kind, Result};

/// TLS as libpq does it: a root certificate that is there is used, in every mode; only the verify modes demand
/// one; only verify-full looks at the name in the server's certificate.
pub(crate) fn tls(dsn: &Dsn, place: &str) -> Result<MakeTlsConnector> {
    let broken = |what: &str, file: &Path, e: openssl::error::ErrorStack| {
        Error::new(Kind::Config, format!("{place}: could not load {what} \"{}\"", file.display())).source(e)
    };
    let unusable = |e: openssl::error::ErrorStack| {
        Error::new(Kind::Config, format!("{place}: could not set up TLS")).source(e)
    };

    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(unusable)?;
    let verify = dsn.ssl_mode >= SslMode::VerifyCa;
    match &dsn.ssl_root_cert {
        // libpq's word for the certificates the operating system trusts, which the builder has loaded.
        Some(file) if file.as_os_str() == "system" => builder.set_verify(SslVerifyMode::PEER),
        Some(file) if file.exists() => {
            // An empty store first: only this file is to be trusted.
            builder.set_cert_store(X509StoreBuilder::new().map_err(unusable)?.build());
            builder.set_ca_file(file).map_err(|e| broken("root certificates", file, e))?;
            builder.set_verify(SslVerifyMode::PEER);
        }
        given if verify => {
            let file = given.as_deref().unwrap_or(Path::new("~/.postgresql/root.crt"));
            return Err(Error::new(
                Kind::Config,
                format!("{place}: root certificate file \"{}\" does not exist", file.display()),
            )
            .hint("Provide the file, name another with sslrootcert, or change sslmode to do without verification."));
        }
        _ => builder.set_verify(SslVerifyMode::NONE),
    }
    if let Some(cert) = &dsn.ssl_cert {
        builder.set_certificate_chain_file(cert).map_err(|e| broken("client certificate", cert, e))?;
        let key = dsn.ssl_key.as_ref().ok_or_else(|| {
            Error::new(Kind::Config, format!("{place}: there is a client certificate but no private key"))
                .hint("Name the key with sslkey in the dsn.")
        })?;
        check_key_file(place, key)?;
        builder.set_private_key_file(key, SslFiletype::PEM).map_err(|e| broken("private key", key, e))?;
    }
    let mut connector = MakeTlsConnector::new(builder.build());
    let check_name = dsn.ssl_mode == SslMode::VerifyFull;
    connector.set_callback(move |connection, _| {
        connection.set_verify_hostname(check_name);
        Ok(())
    });
    Ok(connector)
}

fn check_key_file(place: &str, key: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let fault = match std::fs::metadata(key) {
        Err(e) => format!("could not read private key file \"{}\": {e}", key.display()),
        // Root's keys may be readable by a group, as the server itself allows.
        Ok(meta) if meta.mode() & (if meta.uid() == 0 { 0o027 } else { 0o077 }) != 0 => {
            format!("private key file \"{}\" has group or world access", key.display())
        }
        Ok(_) => return Ok(()),
    };
    Err(Error::new(Kind::Config, format!("{place}: {fault}")).hint(
        "Permissions should be u=rw (0600) or less, and the file belong to the user that runs the agent.",
    ))
}
