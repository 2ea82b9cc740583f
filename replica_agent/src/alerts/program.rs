//! Each event becomes one run of a program, which gets it as a JSON object on its standard input.
//!
//! In: events and the command of `on_event`. Out: runs, one after the other, each ended after `LIMIT`. When they come
//! faster than the program takes them, warnings of a slave become one, and beyond a bound the oldest are dropped.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{Next, Queue};
use crate::error::{Error, Kind, Result};
use crate::event::Event;

const QUEUE_MAX: usize = 100;
pub const LIMIT: Duration = Duration::from_secs(30);
/// How often we look whether it has ended.
const GLANCE: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(super) struct Calls {
    events: VecDeque<Event>,
    dropped: u64,
}

impl Queue for Calls {
    type Settings = Vec<String>;
    type Parcel = Event;

    fn add(&mut self, event: &Event) {
        if self.events.iter_mut().any(|queued| queued.absorb(event)) {
            return;
        }
        self.events.push_back(event.clone());
        if self.events.len() > QUEUE_MAX {
            self.events.pop_front();
            self.dropped += 1;
        }
    }

    fn next(&mut self, _: Instant, command: &Vec<String>, _: bool) -> Next<Event> {
        if self.dropped > 0 {
            log::warn!(
                "program \"{}\" of on_event is too slow: {} events were dropped",
                command[0],
                self.dropped
            );
            self.dropped = 0;
        }
        self.events.pop_front().map_or(Next::Nothing, Next::Deliver)
    }

    fn deliver(event: &Event, command: &Vec<String>) -> Result<()> {
        let failed = |what: String| {
            Error::new(
                Kind::Refused,
                format!("program \"{}\" of on_event {what} for event \"{}\"", command[0], event.kind.name()),
            )
        };
        let mut child = start(command).map_err(|e| failed(format!("could not be started: {e}")))?;
        give(&mut child, event.to_json() + "\n");
        match ended(&mut child).map_err(|e| failed(format!("could not be waited for: {e}")))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(failed(format!("ended with {status}"))),
            None => Err(failed(format!("did not end within {} s and was killed", LIMIT.as_secs()))),
        }
    }

    /// It has seen the event, and may have done half of its work: it is not called again.
    fn patience(_: &Vec<String>) -> Duration {
        Duration::ZERO
    }
}

/// Its standard error is ours: what it has to say stands in the log of the service.
fn start(command: &[String]) -> std::io::Result<Child> {
    Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // It is no part of the service as systemd sees it, and is not ended by a Ctrl-C that is meant for us.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .process_group(0)
        .spawn()
}

/// On a thread of its own: a program that does not read must not hold us.
fn give(child: &mut Child, text: String) {
    if let Some(mut stdin) = child.stdin.take() {
        std::thread::spawn(move || {
            // One that ends without reading has told by its exit status what it thinks of it.
            stdin.write_all(text.as_bytes()).ok();
        });
    }
}

/// Its exit status; `None` if it had to be killed.
fn ended(child: &mut Child) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(GLANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    fn event(kind: EventKind, slave: &str) -> Event {
        match kind {
            EventKind::Warning => Event::of_conflicts("shop", slave, 3, Vec::new()),
            _ => Event::new(kind, "shop", Some(slave), "x"),
        }
    }

    #[test]
    fn what_is_queued_is_bounded() {
        let mut calls = Calls::default();
        calls.add(&event(EventKind::Warning, "reports"));
        for _ in 0..1000 {
            calls.add(&event(EventKind::Warning, "reports"));
        }
        assert_eq!((calls.events.len(), calls.events[0].count), (1, 3003));
        for _ in 0..1000 {
            calls.add(&event(EventKind::Error, "reports"));
        }
        assert_eq!((calls.events.len(), calls.dropped), (QUEUE_MAX, 901));
    }

    #[test]
    fn failures_are_told() {
        let check = |command: &[&str], expected: &str| {
            let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
            let e = Calls::deliver(&event(EventKind::Error, "reports"), &command).unwrap_err().to_string();
            assert!(e.contains(expected), "{e}");
        };
        check(&["/nowhere/program"], "could not be started");
        check(&["/bin/sh", "-c", "exit 3"], "exit status: 3 for event \"error\"");
    }
}
