//! A link of a known rate between this machine and a network namespace of its own. Knows no server.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use spinel_reactor::Clock;

use crate::Failure;
use crate::Pace;
use crate::contest::{Contender, Latency, Seen};
use crate::cores::sleep;
use crate::servers::Place;
use crate::work::Work;

/// Addresses of a network that is nobody's: RFC 2544 keeps it for measurements.
const HERE: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 1);
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 2);
/// What the shaper lets pass at once: more than the largest segment that the kernel hands down, and less than 2 ms.
const BURST_BYTES: u32 = 72 << 10;
/// Most bytes of one call.
const PIECE_BYTES: usize = 256 << 10;
const GIVES: u8 = b'r';
const TAKES: u8 = b'w';

/// A namespace at the other end of a link. Dropping it takes both away.
pub(crate) struct Link {
    namespace: String,
}

fn run(program: &str, arguments: &str) -> Result<(), Failure> {
    let output = Command::new(program).args(arguments.split(' ')).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{program} {arguments}: {said}: this row makes a network namespace, for which it has to be root").into())
}

impl Link {
    /// Both directions carry so many bytes in a second.
    pub(crate) fn shaped(bytes_per_second: u64) -> Result<Self, Failure> {
        let process = std::process::id();
        let namespace = format!("spinel-{process}");
        let [here, there] = ["h", "n"].map(|end| format!("spl{end}{process}"));
        run("ip", &format!("netns add {namespace}"))?;
        let link = Self { namespace };
        let inside = &link.namespace;
        run("ip", &format!("link add {here} type veth peer name {there} netns {inside}"))?;
        run("ip", &format!("addr add {HERE}/30 dev {here}"))?;
        run("ip", &format!("link set {here} up"))?;
        run("ip", &format!("-n {inside} addr add {THERE}/30 dev {there}"))?;
        run("ip", &format!("-n {inside} link set {there} up"))?;
        let shape = format!("root tbf rate {}bit burst {BURST_BYTES} latency 50ms", 8 * bytes_per_second);
        run("tc", &format!("qdisc add dev {here} {shape}"))?;
        run("tc", &format!("-n {inside} qdisc add dev {there} {shape}"))?;
        Ok(link)
    }

    /// What begins a program there.
    pub(crate) fn prefix(&self) -> String {
        format!("ip netns exec {} ", self.namespace)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // With the namespace its end of the link goes, and with that the other.
        let _ = run("ip", &format!("netns del {}", self.namespace));
    }
}

/// Bytes and nothing else over one connection: what the link can carry.
pub(crate) struct Bulk {
    address: SocketAddr,
    /// Bytes that have arrived at the end that takes them.
    arrived: Arc<AtomicU64>,
}

impl Bulk {
    /// Whoever connects to the link's other end gives or takes bytes as the first one says.
    pub(crate) fn start(link: &Link) -> Result<Self, Failure> {
        let path = link.path();
        let (ready, started) = crossbeam_channel::bounded(1);
        let arrived = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&arrived);
        let body = move || {
            let listener = listen(&path).map_err(|error| error.to_string());
            let address =
                listener.as_ref().map_err(Clone::clone).and_then(|listener| listener.local_addr().map_err(|error| error.to_string()));
            let _ = ready.send(address);
            // It ends with the process.
            while let Ok((peer, _)) = listener.as_ref().map_err(|_| ()).and_then(|listener| listener.accept().map_err(|_| ())) {
                // A peer that has seen enough leaves in the middle.
                let _ = serve(peer, &counted);
            }
        };
        std::thread::Builder::new().name("bulk".to_owned()).spawn(body)?;
        Ok(Self { address: started.recv()??, arrived })
    }
}

fn listen(namespace: &Path) -> Result<TcpListener, Failure> {
    let namespace = std::fs::File::open(namespace)?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))?;
    Ok(TcpListener::bind((THERE, 0))?)
}

fn serve(mut peer: TcpStream, arrived: &AtomicU64) -> std::io::Result<()> {
    let mut verb = [0];
    peer.read_exact(&mut verb)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        if verb[0] == GIVES {
            peer.write_all(&piece)?;
            continue;
        }
        let count = peer.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        arrived.fetch_add(u64::try_from(count).expect("a piece"), Ordering::Relaxed);
    }
}

impl Contender for Bulk {
    fn pid(&self) -> Option<u32> {
        None
    }

    fn measure(&mut self, _place: &Place, work: &Work, pace: &Pace, _round: u32) -> Result<Seen, Failure> {
        let mut stream = TcpStream::connect(self.address)?;
        let arrived = Arc::clone(&self.arrived);
        let verb = if work.writes() { TAKES } else { GIVES };
        stream.write_all(&[verb])?;
        let pump = stream.try_clone()?;
        let counted = Arc::clone(&self.arrived);
        // Ends when the stream is shut down.
        let body = move || {
            if verb == TAKES {
                let _ = pour(pump);
            } else {
                let _ = drain(pump, &counted);
            }
        };
        let pumping = std::thread::Builder::new().name("pump".to_owned()).spawn(body)?;
        let clock = Clock::system();
        sleep(pace.warm_up)?;
        let (before, from) = (arrived.load(Ordering::Relaxed), clock.now());
        sleep(pace.window)?;
        let (bytes, took_ns) = (arrived.load(Ordering::Relaxed) - before, clock.now().since_ns(from));
        stream.shutdown(std::net::Shutdown::Both)?;
        pumping.join().map_err(|_| "a thread that moves bytes panicked")?;
        // What is on its way still is not for the next one.
        sleep(Duration::from_millis(100))?;
        let requests = bytes / u64::from(work.bytes);
        Ok(Seen { requests, bytes, errors: 0, took_ns, latency: Latency::default(), cpu_ns: 0, busy_ns: None })
    }
}

fn pour(mut stream: TcpStream) -> std::io::Result<()> {
    let piece = vec![0; PIECE_BYTES];
    loop {
        stream.write_all(&piece)?;
    }
}

fn drain(mut stream: TcpStream, arrived: &AtomicU64) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => arrived.fetch_add(u64::try_from(count).expect("a piece"), Ordering::Relaxed),
        };
    }
}
