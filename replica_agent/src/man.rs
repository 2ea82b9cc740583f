//! The manual page, from what `--help` says; `make install` and `make package` print it into a file.
//!
//! In: the command line as clap knows it. Out: roff. All commands stand on one page, since most have few options.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

/// What `--help` leaves to the manual.
const MORE: &str = ".SH FILES
.TP
.I /etc/pyreplica/*.toml
Where the unit file pyreplica.service looks for configurations.
The keys are described in README.md and docs/ of the package.
.TP
.I ~/.pgpass
Passwords, as libpq reads them; read for every new connection.
.SH SEE ALSO
.BR psql (1),
.BR systemctl (1)
";

pub fn page(command: &Command) -> io::Result<String> {
    let mut page = Vec::new();
    let man = Man::new(command.clone().disable_help_subcommand(true)).section("8");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let mut section = Vec::new();
        let man = Man::new(command.clone().disable_help_flag(true));
        man.render_description_section(&mut section)?;
        man.render_options_section(&mut section)?;
        writeln!(page, ".SS {}", command.get_name())?;
        // Its sections become parts of one.
        for line in String::from_utf8_lossy(&section).lines().filter(|line| !line.starts_with(".SH")) {
            writeln!(page, "{line}")?;
        }
    }
    man.render_extra_section(&mut page)?;
    page.extend_from_slice(MORE.as_bytes());
    Ok(String::from_utf8_lossy(&page).into_owned())
}
