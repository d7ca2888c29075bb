//! The server: one thread for all connections (tokio-uring), one for the methods. It refuses to
//! know what a method does; it bounds what a client can make it hold.
//!
//! Each connection has at most one request under way, so a client that sends without reading is
//! stopped by its own socket buffer, and the requests waiting for the method thread never number
//! more than the connections. What is held for a connection is at most one request of
//! [`REQUEST_BYTES_MAX`] and one reply.

use crate::Service;
use crate::connection::{Connection, Job, Server};
pub use crate::request::BATCH_MAX;
use crate::request::{self, Answer};
use rustix::process::{Uid, geteuid};
use std::io::{self, Write as _};
use std::os::unix::net::{UnixListener, UnixStream as StdStream};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_uring::net::UnixStream;

/// The longest request (or batch) that is read, in bytes.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// How deep the brackets of a request may be nested.
pub const DEPTH_MAX: usize = 64;
/// Connections served at the same time; one more is told so and closed.
pub const CONNECTIONS_MAX: usize = 256;

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether a server accepts: another process may be about to take its listener over.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// No connection is accepted from now on; those that are there go on, and further ones wait in the listener's backlog.
    pub fn close(&self) {
        self.0.send_replace(true);
    }

    /// Accepts again.
    pub fn open(&self) {
        self.0.send_replace(false);
    }
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Handle {
    stop: watch::Sender<bool>,
    gate: Gate,
    threads: Vec<JoinHandle<()>>,
}

impl Handle {
    /// What keeps connections waiting for a while.
    #[must_use]
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

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

/// Serves `service` on `listener` until the handle is stopped.
///
/// Only root and the user that this process runs as are served. Fails where the kernel or a
/// limit refuses a ring or a thread.
pub fn start(listener: UnixListener, service: Arc<dyn Service>) -> io::Result<Handle> {
    listener.set_nonblocking(true)?;
    let (stop, stopped) = watch::channel(false);
    let (closed, is_closed) = watch::channel(false);
    let (jobs, queue) = mpsc::channel(CONNECTIONS_MAX);
    let (succeed, successes) = watch::channel(());
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let sockets = Builder::new().name("spinel-rpc-io".into()).spawn(move || match tokio_uring::Runtime::new(&tokio_uring::builder()) {
        Ok(runtime) => {
            let _ = ready.send(Ok(()));
            if let Err(error) = runtime.block_on(serve(listener, is_closed, Server { jobs, successes, stopped })) {
                tracing::error!("the RPC server ended: {error}");
            }
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    })?;
    let mut handle = Handle { stop, gate: Gate(closed), threads: vec![sockets] };
    is_ready.recv().map_err(io::Error::other)??;
    let methods = Builder::new().name("spinel-rpc".into()).spawn(move || work(queue, &succeed, &*service))?;
    handle.threads.push(methods);
    Ok(handle)
}

/// The method thread: one call after the other, until the last connection is gone.
fn work(mut queue: mpsc::Receiver<Job>, succeed: &watch::Sender<()>, service: &dyn Service) {
    while let Some(job) = queue.blocking_recv() {
        let answer = request::answer(service, &job.text);
        let has_succeeded = answer.has_succeeded;
        // A client that left meanwhile misses its reply; what it asked for has been done.
        let _ = job.answer.send((answer, job.text));
        if has_succeeded {
            succeed.send_replace(());
        }
    }
}

async fn serve(listener: UnixListener, mut is_closed: watch::Receiver<bool>, mut server: Server) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        // Ended connections are taken out as they end, else the set would grow for ever.
        let accepted = tokio::select! {
            _ = server.stopped.wait_for(|stopped| *stopped) => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept_if_open(&listener, &mut is_closed) => accepted,
        };
        match accepted {
            Ok(stream) => {
                if let Some(stream) = admit(stream, connections.len()) {
                    connections.spawn_local(Connection::new(stream, server.clone()).converse());
                }
            }
            Err(error) => {
                tracing::warn!("cannot accept an RPC connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    // The method thread ends when the last way to it is gone.
    drop(server);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// The next connection that comes while the gate is open.
async fn accept_if_open(listener: &tokio::net::UnixListener, is_closed: &mut watch::Receiver<bool>) -> io::Result<StdStream> {
    loop {
        // The gate goes with the server's handle, which stops the server first.
        let _ = is_closed.wait_for(|closed| !*closed).await;
        tokio::select! {
            accepted = accept(listener) => return accepted,
            Ok(_) = is_closed.wait_for(|closed| *closed) => {}
        }
    }
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
