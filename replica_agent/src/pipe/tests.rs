//! A session with a server that knows no more of the protocol than to answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{channel, Sender};
use std::time::{Duration, Instant};

use super::*;

const READY: &[u8] = b"Z\0\0\0\x05I";

/// A message but for its type.
fn body(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body).ok().map(|()| body)
}

/// Answers each simple query, and then says so.
fn serve(mut stream: TcpStream, answered: Sender<()>) -> Option<()> {
    body(&mut stream)?;
    stream.write_all(&[b"R\0\0\0\x08\0\0\0\0", READY].concat()).ok()?;
    loop {
        let mut kind = [0];
        stream.read_exact(&mut kind).ok()?;
        body(&mut stream)?;
        if kind == *b"Q" {
            stream.write_all(&[b"C\0\0\0\x0aBEGIN\0", READY].concat()).ok()?;
            answered.send(()).ok()?;
        }
    }
}

fn session() -> (Pipe, std::sync::mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, answered) = channel();
    std::thread::spawn(move || serve(listener.accept().unwrap().0, sender));
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("somebody");
    (Pipe::open(&config, None).unwrap(), answered)
}

#[test]
fn a_turn_takes_in_what_has_been_answered() {
    let (mut pipe, answered) = session();
    for _ in 0..3 {
        // GIVEN a statement that was sent, and that the server has answered
        pipe.send_batch("begin".to_owned());
        pipe.turn();
        answered.recv().unwrap();
        // WHEN we look without waiting THEN the answer is there, as soon as the network has brought it
        let deadline = Instant::now() + Duration::from_secs(60);
        while pipe.answered() < pipe.sent() {
            assert!(Instant::now() < deadline, "an answer is not taken in");
            pipe.turn();
        }
    }
}
