//! One connection of the server: reads requests, has them answered one after the other, and writes
//! the replies. It refuses to know what a method does, and who else is connected.

use crate::Splitter;
use crate::request::Answer;
use crate::server::{DEPTH_MAX, REQUEST_BYTES_MAX};
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_uring::net::UnixStream;

/// What one read takes from a connection, in bytes; held by every connection, idle ones too.
const READ_BYTES: usize = 8 * 1024;
/// After an unreadable request: how much more, and how long, a connection is read without
/// listening, so that a client which is still sending comes to read why it is being closed.
const LINGER_BYTES: usize = 16 << 20;
const LINGER_TIME: Duration = Duration::from_secs(1);
/// How long a stopping server waits for clients to take their last reply.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// A request on its way to the method thread.
pub(crate) struct Job {
    pub(crate) text: Vec<u8>,
    /// The text goes back with its answer, because the call may have to be made again.
    pub(crate) answer: oneshot::Sender<(Answer, Vec<u8>)>,
}

/// What a connection has of the server it belongs to.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) jobs: mpsc::Sender<Job>,
    /// Changes whenever a call has succeeded, and so may have brought about what another waits for.
    pub(crate) successes: watch::Receiver<()>,
    pub(crate) stopped: watch::Receiver<bool>,
}

impl Server {
    /// Lets the method thread answer one request.
    async fn ask(&self, text: Vec<u8>) -> io::Result<(Answer, Vec<u8>)> {
        let (answer, answered) = oneshot::channel();
        let gone = || io::Error::other("the method thread is gone");
        self.jobs.send(Job { text, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

/// Ends when the server stops.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    // A server that is gone altogether has stopped, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// One connection.
pub(crate) struct Connection {
    stream: Rc<UnixStream>,
    incoming: Incoming,
    splitter: Splitter,
    server: Server,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, server: Server) -> Self {
        let stream = Rc::new(stream);
        let incoming = Incoming { stream: Rc::clone(&stream), buffer: Vec::with_capacity(READ_BYTES), reading: None };
        Self { stream, incoming, splitter: Splitter::new(REQUEST_BYTES_MAX, DEPTH_MAX), server }
    }

    /// Reads and answers until the client leaves, errs, or the server stops.
    pub(crate) async fn converse(mut self) {
        if let Err(error) = self.answer_all().await {
            tracing::debug!("an RPC connection ended: {error}");
        }
        // Ends a read that is still with the kernel, which would keep the descriptor.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    async fn answer_all(&mut self) -> io::Result<()> {
        loop {
            while let Some(answer) = self.next_answer().await? {
                if let Some(reply) = answer.reply {
                    self.send(reply).await?;
                }
                if answer.close {
                    return self.linger().await;
                }
                if *self.server.stopped.borrow() {
                    return Ok(());
                }
            }
            let read = tokio::select! {
                () = stop(&mut self.server.stopped) => return Ok(()),
                read = self.incoming.read() => read?,
            };
            match read {
                [] => return Ok(()),
                bytes => self.splitter.push(bytes),
            }
        }
    }

    /// Runs the next complete request, if there is one.
    async fn next_answer(&mut self) -> io::Result<Option<Answer>> {
        let text = match self.splitter.next_text() {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(Answer::unreadable(format!("the request is not JSON: {error}")))),
        };
        self.server.successes.mark_unchanged();
        let (answer, text) = self.server.ask(text).await?;
        if answer.patience.is_zero() {
            return Ok(Some(answer));
        }
        self.wait_for_success(answer, text).await.map(Some)
    }

    /// Makes a refused call again whenever another call has succeeded, until it succeeds as well,
    /// its patience is over, or the client says that it sends no more (most often, because it has
    /// left: its place must not stay taken).
    async fn wait_for_success(&mut self, mut answer: Answer, mut text: Vec<u8>) -> io::Result<Answer> {
        let deadline = tokio::time::sleep(answer.patience);
        tokio::pin!(deadline);
        let mut is_listening = true;
        while !answer.patience.is_zero() {
            tokio::select! {
                () = stop(&mut self.server.stopped) => break,
                () = &mut deadline => break,
                changed = self.server.successes.changed() => {
                    changed.map_err(io::Error::other)?;
                    (answer, text) = self.server.ask(text).await?;
                }
                read = self.incoming.read(), if is_listening => match read? {
                    [] => break,
                    // The next request waits for its turn, and what follows it in the socket.
                    bytes => {
                        self.splitter.push(bytes);
                        is_listening = false;
                    }
                },
            }
        }
        Ok(answer)
    }

    /// Writes a reply, for as long as the client takes to read it; once the server stops, for a
    /// moment more.
    async fn send(&mut self, reply: Vec<u8>) -> io::Result<()> {
        let stopped = &mut self.server.stopped;
        let deadline = async {
            stop(stopped).await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        tokio::select! {
            (sent, _) = self.stream.write_all(reply) => sent,
            () = deadline => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn linger(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let incoming = &mut self.incoming;
        let drained = async {
            let mut left = LINGER_BYTES;
            while left > 0 {
                match incoming.read().await?.len() {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            Ok(())
        };
        tokio::select! {
            drained = drained => drained,
            () = stop(&mut self.server.stopped) => Ok(()),
            () = tokio::time::sleep(LINGER_TIME) => Ok(()),
        }
    }
}

/// A read with the kernel: the bytes read, and the buffer that they are in.
type Reading = Pin<Box<dyn Future<Output = (io::Result<usize>, Vec<u8>)>>>;

/// What the client sends. A read that somebody stopped waiting for goes on, and its bytes are what
/// the next read returns: dropped, the kernel would fill a buffer that nobody looks at.
struct Incoming {
    stream: Rc<UnixStream>,
    /// The bytes last read; empty while the kernel has the buffer.
    buffer: Vec<u8>,
    reading: Option<Reading>,
}

impl Incoming {
    /// The next bytes; none once the client sends no more.
    async fn read(&mut self) -> io::Result<&[u8]> {
        let Self { stream, buffer, reading } = self;
        let under_way = reading.get_or_insert_with(|| {
            let (stream, mut buffer) = (Rc::clone(stream), std::mem::take(buffer));
            buffer.clear();
            Box::pin(async move { stream.read(buffer).await })
        });
        let (read, filled) = under_way.await;
        *reading = None;
        *buffer = filled;
        let count = read?;
        Ok(buffer.get(..count).unwrap_or_default())
    }
}
