//! A descriptor as a field of a message. Knows no socket.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An open file that goes with a message.
///
/// It is written and read only inside `pack` and `unpack`, which keep the descriptors beside the text.
#[derive(Clone, Debug)]
pub struct Fd(Arc<OwnedFd>);

thread_local! {
    /// The descriptors of the message that this thread is writing or reading at this moment; by number, those that were not taken yet.
    static AROUND: RefCell<Option<Vec<Option<Arc<OwnedFd>>>>> = const { RefCell::new(None) };
}

impl Fd {
    /// One more descriptor of the same open file.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(file.as_fd().try_clone_to_owned()?.into())
    }

    /// The same for a file that may not be there.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn of_some(file: Option<&impl AsFd>) -> io::Result<Option<Self>> {
        file.map(Self::of).transpose()
    }

    /// The descriptor itself; one more of the same file if this one is kept elsewhere, too.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn into_owned(self) -> io::Result<OwnedFd> {
        Arc::try_unwrap(self.0).or_else(|shared| shared.try_clone())
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Serialize for Fd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = AROUND.with_borrow_mut(|around| {
            let fds = around.as_mut()?;
            fds.push(Some(Arc::clone(&self.0)));
            u32::try_from(fds.len() - 1).ok()
        });
        match number {
            Some(number) => serializer.serialize_u32(number),
            None => Err(serde::ser::Error::custom("a descriptor is written only with a message that goes over a link")),
        }
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        let taken = AROUND.with_borrow_mut(|around| {
            let fds = around.as_mut()?;
            usize::try_from(number).ok().and_then(|at| fds.get_mut(at)?.take())
        });
        taken.map(Self).ok_or_else(|| D::Error::custom(NoSuchFd(number)))
    }
}

struct NoSuchFd(u32);

impl fmt::Display for NoSuchFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "descriptor {} did not come with the message, or is named twice in it", self.0)
    }
}

/// Runs `act` with `fds` around it; answers what it answers, and those that are left.
fn around<T>(fds: Vec<Option<Arc<OwnedFd>>>, act: impl FnOnce() -> T) -> (T, Vec<Option<Arc<OwnedFd>>>) {
    let outer = AROUND.replace(Some(fds));
    let outcome = act();
    (outcome, AROUND.replace(outer).unwrap_or_default())
}

/// A message's text and its descriptors.
pub(crate) fn pack<T: Serialize + ?Sized>(message: &T) -> Result<(Vec<u8>, Vec<Arc<OwnedFd>>), serde_json::Error> {
    let (text, fds) = around(Vec::new(), || serde_json::to_vec(message));
    Ok((text?, fds.into_iter().flatten().collect()))
}

/// The message of a text and its descriptors, each of which it has to name once.
pub(crate) fn unpack<T: DeserializeOwned>(text: &[u8], fds: Vec<OwnedFd>) -> Result<T, serde_json::Error> {
    let (message, left) = around(fds.into_iter().map(|fd| Some(Arc::new(fd))).collect(), || serde_json::from_slice(text));
    let message = message?;
    match left.iter().position(Option::is_some) {
        None => Ok(message),
        Some(at) => Err(serde_json::Error::custom(format_args!("descriptor {at} came with the message and is not named in it"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Message {
        one: Fd,
        #[serde(default)]
        other: Option<Fd>,
    }

    fn file(len_bytes: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, len_bytes).unwrap();
        file
    }

    fn len_bytes(file: impl AsFd) -> i64 {
        rustix::fs::fstat(file).unwrap().st_size
    }

    fn refusal(text: &str, count: u64) -> String {
        unpack::<Message>(text.as_bytes(), (0..count).map(file).collect()).err().expect("refused").to_string()
    }

    #[test]
    fn descriptors_come_back_at_the_fields_they_were_in() {
        let message = Message { one: file(1).into(), other: Some(file(2).into()) };
        let (text, fds) = pack(&message).unwrap();
        assert_eq!(std::str::from_utf8(&text).unwrap(), r#"{"one":0,"other":1}"#);
        let fds: Vec<OwnedFd> = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
        let back: Message = unpack(br#"{"other":0,"one":1}"#, fds).unwrap();
        assert_eq!((len_bytes(&back.one), len_bytes(back.other.unwrap().into_owned().unwrap())), (2, 1));
    }

    #[test]
    fn a_descriptor_is_named_exactly_once() {
        assert!(refusal(r#"{"one":0,"other":0}"#, 1).contains("descriptor 0 did not come"));
        assert!(refusal(r#"{"one":0}"#, 2).contains("descriptor 1 came"));
        assert!(refusal(r#"{"one":0}"#, 0).contains("descriptor 0 did not come"));
        assert!(refusal(r#"{"one":4294967295}"#, 1).contains("descriptor 4294967295"));
        assert!(refusal(r#"{"one":-1}"#, 1).contains("-1"));
        assert!(refusal(r#"{"one":null}"#, 1).contains("null"));
    }

    #[test]
    fn a_descriptor_is_no_part_of_any_other_text() {
        let message = Message { one: file(1).into(), other: None };
        assert!(serde_json::to_string(&message).is_err());
        assert!(serde_json::from_str::<Message>(r#"{"one":0}"#).is_err());
    }
}
