//! The deserializer behind `params::parse`: it knows at each value which parameter it belongs to
//! and what type is wanted, so that every refusal can say both. It refuses to know any method.

use super::Inert;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};
use std::fmt;

/// How much of a refused value a message shows, in characters.
const SHOWN_MAX: usize = 80;

/// What is wrong with the parameters.
#[derive(Debug)]
pub(super) enum Fault {
    /// This one's value: its name, the value as shown, what it must be.
    Value(String, String, String),
    /// The same, for a reason that the parameter's own type gives: name, value, reason.
    Meaning(String, String, String),
    /// What a value must be; which parameter it is will be known further up.
    MustBe(String),
    /// The same, for a reason that the value's own type gives.
    Reason(String),
    /// Not a parameter of the method: its name, the value, those that are.
    Unknown(String, String, String),
    /// This one is required.
    Missing(String),
    /// This member of an object is; which parameter the object is will be known further up.
    MissingIn(String),
}

impl Fault {
    pub(super) fn value(name: &str, value: &Value, must_be: impl Into<String>) -> Self {
        Self::Value(name.to_owned(), shown(value), must_be.into())
    }

    /// Adds where it happened to a fault that a type found in a value alone.
    fn at(self, name: &str, value: &Value) -> Self {
        match self {
            Self::MustBe(must_be) => Self::value(name, value, must_be),
            Self::Reason(reason) => Self::Meaning(name.to_owned(), shown(value), reason),
            Self::MissingIn(member) => Self::Missing(joined(name, &member)),
            other => other,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(name, value, must_be) => {
                write!(f, "parameter '{name}' is {value}; it must be {must_be}")
            }
            Self::Meaning(name, value, reason) => write!(f, "parameter '{name}' is {value}, which will not do: {reason}"),
            Self::MustBe(reason) | Self::Reason(reason) => f.write_str(reason),
            Self::Unknown(name, value, known) if known.is_empty() => {
                write!(f, "parameter '{name}' (given as {value}) is unknown; there are no parameters here")
            }
            Self::Unknown(name, value, known) => write!(f, "parameter '{name}' (given as {value}) is unknown; those accepted are {known}"),
            Self::Missing(name) | Self::MissingIn(name) => write!(f, "parameter '{name}' is missing; it must be given"),
        }
    }
}

impl std::error::Error for Fault {}

impl Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Reason(message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::MustBe(expected.to_string())
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::MustBe(expected.to_string())
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::MustBe(one_of(expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::MissingIn(field.to_owned())
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [only] => format!("\"{only}\""),
        _ => format!("one of \"{}\"", names.join("\", \"")),
    }
}

/// The value as a message shows it: JSON, cut off where it gets long.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((cut, _)) => format!("{}...", text.get(..cut).unwrap_or_default()),
        None => text,
    }
}

/// The value as a whole number, however it is written: SPDK's clients may send 1e3 or 4096.0.
pub(super) fn whole_number(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    if let Some(number) = number.as_i128() {
        return Some(number);
    }
    // Beyond 2^53 a double no longer says which whole number was meant.
    let float = number.as_f64().filter(|float| float.abs() <= 9_007_199_254_740_992.0)?;
    // Through text, for there is no conversion that checks.
    (float.fract() == 0.0).then(|| format!("{float:.0}").parse().ok())?
}

/// One value, and the name of the parameter it is (a part of).
pub(super) struct Typed<'a> {
    name: String,
    value: &'a Value,
}

impl<'a> Typed<'a> {
    pub(super) fn parse<T: DeserializeOwned>(members: &'a Map<String, Value>, inert: &'a [Inert]) -> Result<T, Fault> {
        T::deserialize(Top { members, inert })
    }

    fn refuse<T>(&self, must_be: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::value(&self.name, self.value, must_be))
    }

    fn integer<T: TryFrom<i128>>(&self, min: i128, max: i128) -> Result<T, Fault> {
        let number = whole_number(self.value).and_then(|number| T::try_from(number).ok());
        match number {
            Some(number) => Ok(number),
            None => self.refuse(format!("a whole number from {min} to {max}")),
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let number: $type = self.integer($type::MIN.into(), $type::MAX.into())?;
            visitor.$visit(number)
        }
    )*};
}

impl<'de> Deserializer<'de> for Typed<'_> {
    type Error = Fault;

    integers! {
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64,
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Self { name, value } = self;
        match value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::String(text) => visitor.visit_str(text),
            Value::Array(values) => visitor.visit_seq(Elements::new(&name, values)),
            Value::Object(members) => visitor.visit_map(Members::new(&name, members)),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Bool(_) => self.deserialize_any(visitor),
            _ => self.refuse("true or false"),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Number(_) => self.deserialize_any(visitor),
            _ => self.refuse("a number"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::String(_) => self.deserialize_any(visitor),
            _ => self.refuse("a string"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        // Null is refused by whatever type is inside.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Array(_) => self.deserialize_any(visitor),
            _ => self.refuse("an array"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Object(_) => self.deserialize_any(visitor),
            _ => self.refuse("an object"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        if let Value::Object(members) = self.value {
            refuse_unknown(&self.name, members, fields, &[])?;
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, variants: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        let Value::String(variant) = self.value else {
            return self.refuse(one_of(variants));
        };
        visitor.visit_enum(variant.as_str().into_deserializer())
    }

    forward_to_deserialize_any! {
        i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// All the parameters of a call.
struct Top<'a> {
    members: &'a Map<String, Value>,
    inert: &'a [Inert],
}

impl<'de> Deserializer<'de> for Top<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(Members::new("", self.members))
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        refuse_unknown("", self.members, fields, self.inert)?;
        for inert in self.inert {
            if let Some(value) = self.members.get(inert.name) {
                inert.check(value)?;
            }
        }
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn refuse_unknown(path: &str, members: &Map<String, Value>, fields: &[&str], inert: &[Inert]) -> Result<(), Fault> {
    let known = |name: &str| fields.contains(&name) || inert.iter().any(|inert| inert.name == name);
    match members.iter().find(|(name, _)| !known(name)) {
        None => Ok(()),
        Some((name, value)) => Err(Fault::Unknown(joined(path, name), shown(value), fields.join(", "))),
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

struct Members<'a> {
    path: &'a str,
    rest: serde_json::map::Iter<'a>,
    value: Option<Typed<'a>>,
}

impl<'a> Members<'a> {
    fn new(path: &'a str, members: &'a Map<String, Value>) -> Self {
        Self { path, rest: members.iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((name, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some(Typed { name: joined(self.path, name), value });
        seed.deserialize(name.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let typed = self.value.take().expect("serde asks for a value after its key");
        let (name, value) = (typed.name.clone(), typed.value);
        seed.deserialize(typed).map_err(|fault| fault.at(&name, value))
    }
}

struct Elements<'a> {
    path: &'a str,
    rest: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
}

impl<'a> Elements<'a> {
    fn new(path: &'a str, values: &'a [Value]) -> Self {
        Self { path, rest: values.iter().enumerate() }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some((index, value)) = self.rest.next() else {
            return Ok(None);
        };
        let name = format!("{}[{index}]", self.path);
        let typed = Typed { name: name.clone(), value };
        seed.deserialize(typed).map(Some).map_err(|fault| fault.at(&name, value))
    }
}
