//! The server: one thread for all connections (tokio-uring), one for the methods. It refuses to
//! know what a method does; it bounds what a client can make it hold.
//!
//! Each connection has at most one request under way, so a client that sends without reading is
//! stopped by its own socket buffer, and the requests waiting for the method thread never number
//! more than the connections. What is held for a connection is at most one request of
//! [`REQUEST_BYTES_MAX`] and one reply.

pub use crate::request::BATCH_MAX;
use crate::request::{self, Answer};
use crate::{Service, Splitter};
use rustix::process::{Uid, geteuid};
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream as StdStream};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_uring::net::UnixStream;

/// The longest request (or batch) that is read, in bytes.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// How deep the brackets of a request may be nested.
pub const DEPTH_MAX: usize = 64;
/// Connections served at the same time; one more is told so and closed.
pub const CONNECTIONS_MAX: usize = 256;

/// What one read takes from a connection, in bytes; held by every connection, idle ones too.
const READ_BYTES: usize = 8 * 1024;
/// After an unreadable request: how much more, and how long, a connection is read without
/// listening, so that a client which is still sending comes to read why it is being closed.
const LINGER_BYTES: usize = 16 << 20;
const LINGER_TIME: Duration = Duration::from_secs(1);
/// How long a stopping server waits for clients to take their last reply.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// How long a call that waits for something pauses before it is made again.
const REPEAT_PAUSE: Duration = Duration::from_millis(10);
/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Handle {
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Handle {
    /// Accepts no more, lets the method under way end and its reply be taken (for a second at
    /// most), closes every connection and joins both threads. Requests that were not started get
    /// no reply. The socket's file stays; whoever bound it removes it.
    ///
    /// Must not be called from within a method: it would wait for itself.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // A thread that panicked has been reported by the panic hook; stopping goes on.
            let _ = thread.join();
        }
    }
}

/// A request on its way to the method thread.
struct Job {
    text: Vec<u8>,
    /// The text goes back with its answer, because the call may have to be made again.
    answer: oneshot::Sender<(Answer, Vec<u8>)>,
}

/// Serves `service` on `listener` until the handle is stopped.
///
/// Only root and the user that this process runs as are served. Fails where the kernel or a
/// limit refuses a ring or a thread.
pub fn start(listener: UnixListener, service: Arc<dyn Service>) -> io::Result<Handle> {
    listener.set_nonblocking(true)?;
    let (stop, stopped) = watch::channel(false);
    let (jobs, queue) = mpsc::channel(CONNECTIONS_MAX);
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let sockets = Builder::new().name("spinel-rpc-io".into()).spawn(move || match tokio_uring::Runtime::new(&tokio_uring::builder()) {
        Ok(runtime) => {
            let _ = ready.send(Ok(()));
            if let Err(error) = runtime.block_on(serve(listener, jobs, stopped)) {
                tracing::error!("the RPC server ended: {error}");
            }
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    })?;
    let mut handle = Handle { stop, threads: vec![sockets] };
    is_ready.recv().map_err(io::Error::other)??;
    let methods = Builder::new().name("spinel-rpc".into()).spawn(move || work(queue, &*service))?;
    handle.threads.push(methods);
    Ok(handle)
}

/// The method thread: one call after the other, until the last connection is gone.
fn work(mut queue: mpsc::Receiver<Job>, service: &dyn Service) {
    while let Some(job) = queue.blocking_recv() {
        // A client that left meanwhile misses its reply; what it asked for has been done.
        let _ = job.answer.send((request::answer(service, &job.text), job.text));
    }
}

async fn serve(listener: UnixListener, jobs: mpsc::Sender<Job>, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        // Ended connections are taken out as they end, else the set would grow for ever.
        let accepted = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener) => accepted,
        };
        match accepted {
            Ok(stream) => {
                if let Some(stream) = admit(stream, connections.len()) {
                    let client = Client { stream, jobs: jobs.clone(), stopped: stopped.clone() };
                    connections.spawn_local(client.converse());
                }
            }
            Err(error) => {
                tracing::warn!("cannot accept an RPC connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// The next connection. Accepting is tokio's own, because its listener hands out the stream before
/// tokio-uring owns it: who calls is asked of the stream, and tokio-uring's cannot be asked.
async fn accept(listener: &tokio::net::UnixListener) -> io::Result<StdStream> {
    let (stream, _) = listener.accept().await?;
    let stream = stream.into_std()?;
    // A ring waits for a blocking descriptor, and only for such a one.
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Whether a new connection is served. One that is not is told why: the socket is empty, so the
/// short reply cannot block.
fn admit(mut stream: StdStream, connections: usize) -> Option<UnixStream> {
    let refusal = match rustix::net::sockopt::socket_peercred(&stream) {
        Err(error) => format!("the system does not say who is calling: {error}"),
        Ok(peer) if !may_call(peer.uid, geteuid()) => {
            format!("user {} may not call; only root and user {} may", peer.uid.as_raw(), geteuid().as_raw())
        }
        Ok(_) if connections >= CONNECTIONS_MAX => {
            format!("{CONNECTIONS_MAX} clients are connected already; close one first")
        }
        Ok(_) => return Some(UnixStream::from_std(stream)),
    };
    tracing::warn!("an RPC connection was refused: {refusal}");
    if let Some(reply) = Answer::refused(refusal).reply {
        let _ = stream.write_all(&reply);
    }
    None
}

fn may_call(peer: Uid, own: Uid) -> bool {
    peer.is_root() || peer == own
}

/// One connection.
struct Client {
    stream: UnixStream,
    jobs: mpsc::Sender<Job>,
    stopped: watch::Receiver<bool>,
}

impl Client {
    async fn converse(mut self) {
        if let Err(error) = self.answer_all().await {
            tracing::debug!("an RPC connection ended: {error}");
        }
        // Ends a read that is still with the kernel, which would keep the descriptor.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Reads and answers until the client leaves, errs, or the server stops.
    async fn answer_all(&mut self) -> io::Result<()> {
        let mut splitter = Splitter::new(REQUEST_BYTES_MAX, DEPTH_MAX);
        let mut buffer = Vec::with_capacity(READ_BYTES);
        loop {
            while let Some(answer) = self.next_answer(&mut splitter).await? {
                if let Some(reply) = answer.reply {
                    self.send(reply).await?;
                }
                if answer.close {
                    return self.linger(buffer).await;
                }
                if *self.stopped.borrow() {
                    return Ok(());
                }
            }
            let (read, filled) = tokio::select! {
                _ = self.stopped.wait_for(|stopped| *stopped) => return Ok(()),
                done = self.stream.read(buffer) => done,
            };
            buffer = filled;
            if read? == 0 {
                return Ok(());
            }
            splitter.push(&buffer);
            buffer.clear();
        }
    }

    /// Runs the next complete request, if there is one.
    async fn next_answer(&self, splitter: &mut Splitter) -> io::Result<Option<Answer>> {
        let mut text = match splitter.next_text() {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(error) => {
                return Ok(Some(Answer::unreadable(format!("the request is not JSON: {error}"))));
            }
        };
        let mut stopped = self.stopped.clone();
        let mut waited = Duration::ZERO;
        loop {
            let (answer, asked) = self.ask(text).await?;
            if answer.patience <= waited {
                return Ok(Some(answer));
            }
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(Some(answer)),
                () = tokio::time::sleep(REPEAT_PAUSE) => waited += REPEAT_PAUSE,
            }
            text = asked;
        }
    }

    /// Lets the method thread answer one request.
    async fn ask(&self, text: Vec<u8>) -> io::Result<(Answer, Vec<u8>)> {
        let (answer, answered) = oneshot::channel();
        let gone = || io::Error::other("the method thread is gone");
        self.jobs.send(Job { text, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    /// Writes a reply, for as long as the client takes to read it; once the server stops, for a
    /// moment more.
    async fn send(&mut self, reply: Vec<u8>) -> io::Result<()> {
        let stopped = &mut self.stopped;
        let deadline = async {
            let _ = stopped.wait_for(|stopped| *stopped).await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        tokio::select! {
            (sent, _) = self.stream.write_all(reply) => sent,
            () = deadline => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn linger(&mut self, mut buffer: Vec<u8>) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let drained = async {
            let mut left = LINGER_BYTES;
            while left > 0 {
                buffer.clear();
                let (read, filled) = self.stream.read(buffer).await;
                buffer = filled;
                match read? {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            Ok(())
        };
        tokio::select! {
            drained = drained => drained,
            _ = self.stopped.wait_for(|stopped| *stopped) => Ok(()),
            () = tokio::time::sleep(LINGER_TIME) => Ok(()),
        }
    }
}
