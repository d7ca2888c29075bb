//! What is measured, as it is typed. Knows no disk: nothing is opened here.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A target by its kind and place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Url {
    /// A file or block device.
    File(PathBuf),
    /// The same through tokio-uring.
    FileTokio(PathBuf),
    /// A vhost-user-blk server's socket.
    Vhost(PathBuf),
    /// A disk inside a spineld.
    Rpc {
        /// The daemon's control socket.
        socket: PathBuf,
        /// The disk's name there.
        bdev: String,
    },
    /// A namespace of a controller on the network.
    Far(Far),
}

/// A namespace of a controller on the network, and how it is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Far {
    /// `HOST:PORT` of each way to it.
    pub(crate) places: Vec<String>,
    pub(crate) subsystem: String,
    pub(crate) nsid: u32,
    /// What this host calls itself.
    pub(crate) host: Option<String>,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    /// Requests fail when it was out of reach for so long.
    pub(crate) fail_after: Option<Duration>,
    pub(crate) keep_alive: Option<Duration>,
    /// One way after the other, instead of one of them.
    pub(crate) round_robin: bool,
    /// As it was typed.
    text: String,
}

const FAR_FORM: &str = "nvme-tcp://HOST:PORT/SUBSYSTEM?nsid=1, and behind it &way=HOST:PORT, &hdgst=1, &ddgst=1, &rr=1, \
                        &fail=SECONDS, &keepalive=SECONDS or &host=NAME";

impl Far {
    /// Reads what follows the scheme.
    fn parse(text: &str) -> Result<Self, String> {
        let form = || format!("'nvme-tcp:{text}' is not of the form {FAR_FORM}");
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let (place, subsystem) = path.strip_prefix("//").and_then(|path| path.split_once('/')).ok_or_else(form)?;
        if place.is_empty() || subsystem.is_empty() {
            return Err(form());
        }
        let with_port = |place: &str| {
            if place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
                place.to_owned()
            } else {
                format!("{place}:4420")
            }
        };
        let mut far = Self {
            places: vec![with_port(place)],
            subsystem: subsystem.to_owned(),
            nsid: 1,
            host: None,
            header_digest: false,
            data_digest: false,
            fail_after: None,
            keep_alive: None,
            round_robin: false,
            text: text.to_owned(),
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(form)?;
            let seconds = || value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(form);
            match key {
                "nsid" => far.nsid = value.parse().map_err(|_| form())?,
                "way" => far.places.push(with_port(value)),
                "host" => far.host = Some(value.to_owned()),
                "hdgst" => far.header_digest = value == "1",
                "ddgst" => far.data_digest = value == "1",
                "rr" => far.round_robin = value == "1",
                "fail" => far.fail_after = Some(seconds()?),
                "keepalive" => far.keep_alive = Some(seconds()?),
                _ => return Err(form()),
            }
        }
        Ok(far)
    }
}

const FORMS: &str = "file:PATH, file+tokio:PATH, vhost:SOCKET, rpc:SOCKET/BDEV or nvme-tcp://HOST:PORT/SUBSYSTEM?nsid=1";

impl Url {
    /// Reads a target.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, place) = text.split_once(':').ok_or_else(|| format!("a target is {FORMS}; a file's is file:{text}"))?;
        if place.is_empty() {
            return Err(format!("nothing follows '{scheme}:'; a target is {FORMS}"));
        }
        match scheme {
            "file" => Ok(Self::File(place.into())),
            "file+tokio" => Ok(Self::FileTokio(place.into())),
            "vhost" => Ok(Self::Vhost(place.into())),
            "rpc" => match place.rsplit_once('/') {
                Some((socket, bdev)) if !socket.is_empty() && !bdev.is_empty() => {
                    Ok(Self::Rpc { socket: socket.into(), bdev: bdev.to_owned() })
                }
                _ => Err("an rpc target is rpc:SOCKET/BDEV, such as rpc:/run/spinel/rpc.sock/disk0".to_owned()),
            },
            "nvme-tcp" => Far::parse(place).map(Self::Far),
            "nvme-rdma" => Err(format!("this version has no initiator for {scheme} yet; a target is {FORMS}")),
            _ => Err(format!("'{scheme}' is no kind of target; a target is {FORMS}")),
        }
    }

    /// Whether a file can be made for it.
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) | Self::FileTokio(path) => Some(path),
            Self::Vhost(_) | Self::Rpc { .. } | Self::Far(_) => None,
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::FileTokio(path) => write!(f, "file+tokio:{}", path.display()),
            Self::Vhost(socket) => write!(f, "vhost:{}", socket.display()),
            Self::Rpc { socket, bdev } => write!(f, "rpc:{}/{bdev}", socket.display()),
            Self::Far(far) => write!(f, "nvme-tcp:{}", far.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_as_it_was_typed() {
        for text in [
            "file:/dev/vda",
            "file+tokio:a b",
            "vhost:/run/spinel/vhost/vm0",
            "rpc:/run/spinel/rpc.sock/disk0",
            "nvme-tcp://h:1/nqn?nsid=2",
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_namespace_on_the_network_is_named_with_its_ways() {
        let Url::Far(far) = Url::parse("nvme-tcp://[::1]:4421/nqn.2026-11.io.spinel:a?nsid=3&way=h&hdgst=1&fail=2.5").unwrap() else {
            panic!("another kind");
        };
        assert_eq!((far.places, far.nsid), (vec!["[::1]:4421".to_owned(), "h:4420".to_owned()], 3));
        assert_eq!((far.header_digest, far.data_digest, far.fail_after), (true, false, Some(Duration::from_millis(2500))));
        assert_eq!(far.subsystem, "nqn.2026-11.io.spinel:a");
    }

    #[test]
    fn what_is_no_target_says_what_would_be_one() {
        for (text, part) in [
            ("/dev/vda", "file:/dev/vda"),
            ("file:", "nothing follows"),
            ("rpc:disk0", "rpc:SOCKET/BDEV"),
            ("rpc:/run/", "rpc:SOCKET/BDEV"),
            ("nbd:x", "'nbd' is no kind"),
            ("nvme-rdma://h:4420/nqn", "yet"),
            ("nvme-tcp:h/nqn", "HOST:PORT"),
            ("nvme-tcp://h:4420/nqn?nsid=x", "HOST:PORT"),
            ("nvme-tcp://h:4420/nqn?what=1", "HOST:PORT"),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
