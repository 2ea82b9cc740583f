//! Finds what would keep alerts from leaving: files that cannot be read, a program that cannot be run, and on request
//! a mail that does not go through.
//!
//! In: the configuration. Out: findings. Without `--mail` nothing is sent and nobody is connected to.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::alerts;
use crate::check::Report;
use crate::config::{Config, Mail, Password, Tls};

/// `send`: a test mail.
pub fn check(config: &Config, send: bool, report: &mut Report) {
    if let Some(command) = &config.alerts.on_event {
        program(Path::new(&command[0]), report);
    }
    match &config.alerts.mail {
        Some(mail) => {
            settings(mail, report);
            if send {
                test(mail, config.agent_name(), report);
            }
        }
        None if send => report.error(
            "no mail can be sent: the configuration has no section [mail]",
            "Add [mail] with server, from and to; see docs/alerts.md.",
        ),
        None => {}
    }
}

fn program(path: &Path, report: &mut Report) {
    if !path.is_absolute() {
        report.warning(
            format!("program \"{}\" of on_event is looked for where the agent's PATH says", path.display()),
            "Write its full path: a service has another PATH than a login shell.",
        );
        return;
    }
    match std::fs::metadata(path) {
        Err(e) => report.error(
            format!("program \"{}\" of on_event cannot be run: {e}", path.display()),
            "Correct on_event in [agent].",
        ),
        Ok(found) if !found.is_file() || found.permissions().mode() & 0o111 == 0 => report.error(
            format!("program \"{}\" of on_event is not executable", path.display()),
            format!("Run: chmod +x {}", path.display()),
        ),
        Ok(_) => report.passed.push(format!("on_event: {}", path.display())),
    }
}

fn settings(mail: &Mail, report: &mut Report) {
    if let Some(Password::File(path)) = &mail.password {
        match std::fs::File::open(path).and_then(|file| file.metadata()) {
            Err(e) => report.error(
                format!("password file \"{}\" of [mail] cannot be read: {e}", path.display()),
                "The user that runs the agent needs to be able to read it.",
            ),
            Ok(found) if found.permissions().mode() & 0o007 != 0 => report.warning(
                format!("password file \"{}\" of [mail] can be read by everybody", path.display()),
                format!("Run: chmod o-rwx {}", path.display()),
            ),
            Ok(_) => {}
        }
    }
    if let Some(path) = mail.ca_file.as_deref().filter(|_| mail.tls != Tls::None) {
        if let Err(e) = std::fs::File::open(path) {
            report.error(
                format!("CA file \"{}\" of [mail] cannot be read: {e}", path.display()),
                "Correct ca_file; without it the certificates count that the system trusts.",
            );
        }
    }
    if mail.tls == Tls::None && mail.password.is_some() {
        report.warning(
            format!("the mail password travels in the clear to {}:{}", mail.server, mail.port),
            "Set tls = \"starttls\" or tls = \"tls\" in [mail].",
        );
    }
    if mail.tls != Tls::None && !mail.verify {
        report.warning(
            format!("whoever answers for {}:{} gets the mail and its password", mail.server, mail.port),
            "Name the certificate of the server or its issuer with ca_file, and remove tls_verify = false.",
        );
    }
}

fn test(mail: &Mail, agent: &str, report: &mut Report) {
    let to: Vec<String> = mail.to.iter().map(ToString::to_string).collect();
    match alerts::mail::test(mail, agent) {
        Ok(()) => report.passed.push(format!(
            "mail: {}:{} took a test for {}",
            mail.server,
            mail.port,
            to.join(", ")
        )),
        Err(e) => report.failed(&e),
    }
}
