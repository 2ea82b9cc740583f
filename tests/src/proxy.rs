//! A server that is far away: a TCP port that leads to its socket, with a delay in both directions and no other limit.
//!
//! In: a running server and a distance. Out: a port; what is sent there arrives later by the distance, and so do the
//! answers. `cut` ends all connections at once, `hold_answers` lets nothing that the server says arrive, `admit` lets only
//! some connections reach the server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;

/// Under way in one direction: enough for any distance, and no more than a machine has.
const UNDER_WAY: usize = 1024;
const PIECE_BYTES: usize = 64 * 1024;

pub struct Proxy {
    port: u16,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    questions: Arc<Gate>,
    answers: Arc<Gate>,
    door: Arc<Door>,
}

/// Where connections come in: how many more may, and whether one is waiting.
struct Door {
    state: Mutex<(u32, bool)>,
    opened: Condvar,
}

impl Door {
    fn admit(&self, count: u32) {
        self.state.lock().expect("a door").0 = count;
        self.opened.notify_all();
    }

    fn enter(&self) {
        let mut state = self.state.lock().expect("a door");
        while state.0 == 0 {
            state.1 = true;
            state = self.opened.wait(state).expect("a door");
        }
        *state = (state.0.saturating_sub(1), false);
    }
}

/// What comes here goes on as long as it is not held.
#[derive(Default)]
struct Gate {
    passed: AtomicU32,
    held: Mutex<bool>,
    moved: Condvar,
}

impl Gate {
    fn set(&self, held: bool) {
        *self.held.lock().expect("a gate") = held;
        self.moved.notify_all();
    }

    fn pass(&self) {
        let held = self.held.lock().expect("a gate");
        drop(self.moved.wait_while(held, |held| *held).expect("a gate"));
        self.passed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Proxy {
    pub fn start(server: &Arc<Cluster>, distance: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
        let port = listener.local_addr().expect("its number").port();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (answers, questions) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
        let door = Arc::new(Door { state: Mutex::new((u32::MAX, false)), opened: Condvar::new() });
        let (server, accepted, entrance) = (server.socket(), connections.clone(), door.clone());
        let gates = (questions.clone(), answers.clone());
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.expect("a connection");
                entrance.enter();
                // A server that is down refuses; so does the proxy, by closing.
                let Ok(far) = UnixStream::connect(&server) else { continue };
                near.set_nodelay(true).expect("no delay but ours");
                let copy = |stream: &TcpStream| stream.try_clone().expect("a socket");
                accepted.lock().expect("connections").push(copy(&near));
                let to_server = far.try_clone().expect("a socket");
                carry(copy(&near), to_server, distance, gates.0.clone());
                carry(far, near, distance, gates.1.clone());
            }
        });
        Self { port, connections, questions, answers, door }
    }

    /// How the agent reaches a database of the server through here.
    pub fn dsn(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname='{database}'", self.port)
    }

    /// From now on only so many connections are taken to the server; the next one waits.
    pub fn admit(&self, count: u32) {
        self.door.admit(count);
    }

    pub fn admit_all(&self) {
        self.door.admit(u32::MAX);
    }

    /// A connection is waiting to be admitted.
    pub fn has_waiting(&self) -> bool {
        self.door.state.lock().expect("a door").1
    }

    /// From now on no answer arrives, until `let_answers_go`; what is sent to the server still does.
    pub fn hold_answers(&self) {
        self.answers.set(true);
    }

    pub fn let_answers_go(&self) {
        self.answers.set(false);
    }

    /// Pieces that have gone to the server: each question that waited for the answer to the one before is one at least.
    pub fn questions(&self) -> u32 {
        self.questions.passed.load(Ordering::Relaxed)
    }

    /// Ends all connections; new ones may be made.
    pub fn cut(&self) {
        for connection in self.connections.lock().expect("connections").drain(..) {
            // It may have ended by itself.
            connection.shutdown(Shutdown::Both).ok();
        }
    }
}

/// Carries what comes from one end to the other, each piece at its time.
fn carry(
    mut from: impl Read + Send + 'static,
    to: impl Write + End + Send + 'static,
    distance: Duration,
    gate: Arc<Gate>,
) {
    let (sender, pieces) = sync_channel(UNDER_WAY);
    thread::spawn(move || loop {
        let mut piece = vec![0; PIECE_BYTES];
        // An error is an end like any other.
        let length = from.read(&mut piece).unwrap_or(0);
        piece.truncate(length);
        if sender.send((Instant::now() + distance, piece)).is_err() || length == 0 {
            return;
        }
    });
    thread::spawn(move || deliver(&pieces, to, &gate));
}

fn deliver(pieces: &Receiver<(Instant, Vec<u8>)>, mut to: impl Write + End, gate: &Gate) {
    for (due, piece) in pieces {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        gate.pass();
        if piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
    }
    to.end();
}

/// What ends a connection for both who read and who write.
trait End {
    fn end(&self);
}

impl End for TcpStream {
    fn end(&self) {
        self.shutdown(Shutdown::Both).ok();
    }
}

impl End for UnixStream {
    fn end(&self) {
        self.shutdown(Shutdown::Both).ok();
    }
}
