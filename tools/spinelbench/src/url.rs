//! What is measured, as it is typed. Knows no disk: nothing is opened here.

use std::fmt;
use std::path::PathBuf;

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
}

const FORMS: &str = "file:PATH, file+tokio:PATH, vhost:SOCKET or rpc:SOCKET/BDEV";

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
            "nvme-tcp" | "nvme-rdma" => Err(format!("this version has no initiator for {scheme} yet; a target is {FORMS}")),
            _ => Err(format!("'{scheme}' is no kind of target; a target is {FORMS}")),
        }
    }

    /// Whether a file can be made for it.
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) | Self::FileTokio(path) => Some(path),
            Self::Vhost(_) | Self::Rpc { .. } => None,
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_as_it_was_typed() {
        for text in ["file:/dev/vda", "file+tokio:a b", "vhost:/run/spinel/vhost/vm0", "rpc:/run/spinel/rpc.sock/disk0"] {
            assert_eq!(Url::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_target_says_what_would_be_one() {
        for (text, part) in [
            ("/dev/vda", "file:/dev/vda"),
            ("file:", "nothing follows"),
            ("rpc:disk0", "rpc:SOCKET/BDEV"),
            ("rpc:/run/", "rpc:SOCKET/BDEV"),
            ("nbd:x", "'nbd' is no kind"),
            ("nvme-tcp://h:4420/nqn", "yet"),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
