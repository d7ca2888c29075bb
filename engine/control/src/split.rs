//! Finds the bounds of JSON texts that follow one another on a stream without a delimiter. It
//! refuses to know what they mean, and stops at the first byte that no JSON text could hold.

use std::fmt;

/// Cuts a stream into JSON objects and arrays.
///
/// It looks at each byte once, holds at most one unfinished text, and refuses (rather than
/// collects) what is too long, too deep, or not JSON. After an error the stream has no known
/// bounds any more: the connection it came from must be closed.
#[derive(Debug)]
pub struct Splitter {
    /// Bytes from the start of the unfinished text on.
    held: Vec<u8>,
    /// How many of `held` have been looked at.
    seen: usize,
    /// Open brackets, innermost last; `}` or `]`, the byte that closes it.
    open: Vec<u8>,
    place: Place,
    text_bytes_max: usize,
    depth_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Plain,
    InString,
    AfterBackslash,
}

/// Why a stream cannot be cut any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// One text is longer than the limit, in bytes.
    TooLong(usize),
    /// Brackets are nested deeper than the limit.
    TooDeep(usize),
    /// A text starts with something else than `{` or `[`.
    Start(u8),
    /// A byte that can stand nowhere in JSON, or not here.
    Stray(u8),
    /// A bracket closes one of the other kind.
    Mismatch(u8),
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(max) => write!(f, "the text is longer than {max} bytes"),
            Self::TooDeep(max) => write!(f, "brackets are nested more than {max} deep"),
            Self::Start(byte) => write!(f, "the text must start with {{ or [, not with '{}'", byte.escape_ascii()),
            Self::Stray(byte) => {
                write!(f, "'{}' cannot stand here in JSON", byte.escape_ascii())
            }
            Self::Mismatch(byte) => {
                write!(f, "'{}' closes a bracket of another kind", char::from(*byte))
            }
        }
    }
}

impl std::error::Error for SplitError {}

/// An emptied buffer larger than this is given back, so that one long text does not stay paid for.
const KEPT_BYTES: usize = 64 * 1024;

impl Splitter {
    /// A splitter that refuses texts longer than `text_bytes_max` or nested deeper than
    /// `depth_max`.
    pub fn new(text_bytes_max: usize, depth_max: usize) -> Self {
        Self { held: Vec::new(), seen: 0, open: Vec::new(), place: Place::Plain, text_bytes_max, depth_max }
    }

    /// Takes the next bytes of the stream. Call [`Splitter::next_text`] until it has no more
    /// before the next push: that is what bounds the buffer, to one text and one push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next complete text, without the white space around it; `None` if more bytes are needed.
    pub fn next_text(&mut self) -> Result<Option<Vec<u8>>, SplitError> {
        if self.seen == 0 {
            self.skip_white_space();
        }
        while let Some(&byte) = self.held.get(self.seen) {
            if self.seen >= self.text_bytes_max {
                return Err(SplitError::TooLong(self.text_bytes_max));
            }
            self.step(byte)?;
            self.seen += 1;
            if self.open.is_empty() {
                return Ok(Some(self.take()));
            }
        }
        Ok(None)
    }

    fn skip_white_space(&mut self) {
        let blank = self.held.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.held.drain(..blank);
    }

    fn take(&mut self) -> Vec<u8> {
        let rest = self.held.split_off(self.seen);
        let mut text = std::mem::replace(&mut self.held, rest);
        self.seen = 0;
        if self.held.is_empty() && text.capacity() <= KEPT_BYTES {
            // Keeps the capacity for the next text; the caller gets a copy that just fits.
            let copy = text.as_slice().to_vec();
            text.clear();
            self.held = text;
            return copy;
        }
        text
    }

    fn step(&mut self, byte: u8) -> Result<(), SplitError> {
        match self.place {
            Place::AfterBackslash => self.place = Place::InString,
            Place::InString => match byte {
                b'"' => self.place = Place::Plain,
                b'\\' => self.place = Place::AfterBackslash,
                0..=0x1f => return Err(SplitError::Stray(byte)),
                _ => {}
            },
            Place::Plain => return self.step_plain(byte),
        }
        Ok(())
    }

    fn step_plain(&mut self, byte: u8) -> Result<(), SplitError> {
        match byte {
            b'{' => self.enter(b'}'),
            b'[' => self.enter(b']'),
            _ if self.open.is_empty() => Err(SplitError::Start(byte)),
            b'}' | b']' => match self.open.pop() {
                Some(expected) if expected == byte => Ok(()),
                _ => Err(SplitError::Mismatch(byte)),
            },
            b'"' => {
                self.place = Place::InString;
                Ok(())
            }
            // What numbers, true, false and null are made of; their order is the parser's affair.
            b' ' | b'\t' | b'\n' | b'\r' | b':' | b',' | b'+' | b'-' | b'.' | b'E' => Ok(()),
            b'0'..=b'9' | b'a'..=b'z' => Ok(()),
            _ => Err(SplitError::Stray(byte)),
        }
    }

    fn enter(&mut self, closing: u8) -> Result<(), SplitError> {
        if self.open.len() >= self.depth_max {
            return Err(SplitError::TooDeep(self.depth_max));
        }
        self.open.push(closing);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{SplitError, Splitter};
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    /// All the texts in `stream`, pushed in pieces cut at `cuts` (in bytes, taken modulo).
    fn split(stream: &[u8], cuts: &[usize]) -> Result<Vec<Vec<u8>>, SplitError> {
        let mut splitter = Splitter::new(1000, 10);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(stream.len());
        let mut texts = Vec::new();
        let mut start = 0;
        for cut in cuts {
            splitter.push(&stream[start..cut]);
            start = cut;
            while let Some(text) = splitter.next_text()? {
                texts.push(text);
            }
        }
        Ok(texts)
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[\\\\\"{}\\[\\]a\u{e4}\u{0}-\u{20}]{0,9}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a\"\\\\{]{0,3}", inner, 0..4).prop_map(|map| Value::Object(Map::from_iter(map))),
            ]
        })
    }

    fn any_request() -> impl Strategy<Value = Value> {
        any_json().prop_map(|value| if value.is_array() || value.is_object() { value } else { Value::Array(vec![value]) })
    }

    proptest! {
        #[test]
        fn any_cutting_of_a_stream_yields_the_same_texts(
            values in prop::collection::vec((any_request(), any::<bool>(), "[ \r\n\t]{0,3}"), 0..5),
            cuts in prop::collection::vec(any::<usize>(), 0..9),
        ) {
            let print = |(value, is_pretty, _): &(Value, bool, String)| if *is_pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
            let texts: Vec<Vec<u8>> = values.iter().map(|value| print(value).expect("a value is printable")).collect();
            let mut stream = Vec::new();
            for (text, (_, _, space)) in texts.iter().zip(&values) {
                stream.extend_from_slice(text);
                stream.extend_from_slice(space.as_bytes());
            }
            prop_assert_eq!(split(&stream, &cuts), Ok(texts));
        }

        #[test]
        fn any_cutting_of_any_bytes_ends_alike(
            stream in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\"\\:, 1a".as_slice())], 0..60),
            cuts in prop::collection::vec(any::<usize>(), 0..9),
        ) {
            prop_assert_eq!(split(&stream, &cuts), split(&stream, &[]));
        }
    }

    #[test]
    fn what_no_json_text_can_hold_is_refused_at_once() {
        for (stream, expected) in [
            (&b"x"[..], SplitError::Start(b'x')),
            (b"{} 12", SplitError::Start(b'1')),
            (b"}", SplitError::Start(b'}')),
            (b"\0", SplitError::Start(0)),
            (b"{]", SplitError::Mismatch(b']')),
            (b"[[}", SplitError::Mismatch(b'}')),
            (b"{A", SplitError::Stray(b'A')),
            (b"{\xff", SplitError::Stray(0xff)),
            (b"[\"\n", SplitError::Stray(b'\n')),
            (b"[[[[[[[[[[[", SplitError::TooDeep(10)),
        ] {
            assert_eq!(split(stream, &[]), Err(expected));
        }
    }

    #[test]
    fn a_text_may_be_as_long_as_the_limit_and_no_longer() {
        let text = |len: usize| format!("[\"{}\"]", "a".repeat(len - 4)).into_bytes();
        assert_eq!(split(&text(1000), &[]).map(|texts| texts.len()), Ok(1));
        assert_eq!(split(&text(1001), &[]), Err(SplitError::TooLong(1000)));
        // Unfinished, it is refused as soon as it cannot end within the limit any more.
        assert_eq!(split(&text(1500)[..1001], &[]), Err(SplitError::TooLong(1000)));
    }

    #[test]
    fn white_space_between_texts_is_not_collected() {
        let mut splitter = Splitter::new(1000, 10);
        for _ in 0..100 {
            splitter.push(&[b' '; 1000]);
            assert_eq!(splitter.next_text(), Ok(None));
        }
        assert!(splitter.held.is_empty());
        splitter.push(b" {} ");
        assert_eq!(splitter.next_text(), Ok(Some(b"{}".to_vec())));
    }

    #[test]
    fn the_room_of_a_long_text_is_given_back() {
        let mut splitter = Splitter::new(1 << 20, 10);
        splitter.push(format!("[\"{}\"]{{", "a".repeat(500_000)).as_bytes());
        assert!(splitter.next_text().expect("JSON").is_some());
        assert!(splitter.held.capacity() < 1000, "{}", splitter.held.capacity());
    }
}
