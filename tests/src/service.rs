//! The service manager's end of the notification socket: what systemd would hear of a service.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use crate::keeper;
use crate::wait::{wait_for, wait_within};

pub struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
    heard: Mutex<Vec<String>>,
}

impl Default for Manager {
    fn default() -> Self {
        Self::new()
    }
}

impl Manager {
    pub fn new() -> Manager {
        let path = keeper::subdir("notify").join("socket");
        let socket = UnixDatagram::bind(&path).expect("a path for a socket");
        socket.set_nonblocking(true).expect("a socket");
        Manager { path, socket, heard: Mutex::default() }
    }

    /// The environment of a service that is to be heard.
    pub fn environment(&self) -> (&'static str, &str) {
        ("NOTIFY_SOCKET", self.path.to_str().expect("an ASCII path"))
    }

    /// Every line of every message so far.
    pub fn heard(&self) -> Vec<String> {
        let mut heard = self.heard.lock().expect("no test panics with it");
        let mut buffer = [0; 4096];
        while let Ok(n) = self.socket.recv(&mut buffer) {
            heard.extend(String::from_utf8_lossy(&buffer[..n]).lines().map(String::from));
        }
        heard.clone()
    }

    pub fn count(&self, line: &str) -> usize {
        self.heard().iter().filter(|heard| heard.as_str() == line).count()
    }

    /// Waits for a line that contains this.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        wait_for(&format!("{text:?} at the service manager"), || {
            self.heard().iter().any(|line| line.contains(text)).then_some(())
        });
    }

    /// Whether nothing like this line came for so long.
    pub fn is_silent(&self, line: &str, period: Duration) -> bool {
        let before = self.count(line);
        wait_within(period, || (self.count(line) > before).then_some(())).is_none()
    }
}
