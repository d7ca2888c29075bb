//! Reads a method's parameters into a typed value, or says which one is wrong. It refuses to know
//! what the values are used for.
//!
//! ```
//! use serde_json::json;
//! use spinel_control::params::{self, Inert};
//!
//! #[derive(serde::Deserialize)]
//! struct Create {
//!     name: String,
//!     #[serde(default)]
//!     block_size: Option<u32>,
//! }
//! const INERT: &[Inert] = &[Inert::flag("md_interleave", false)];
//!
//! let given = json!({"name": "d0", "md_interleave": false});
//! let create: Create = params::parse_beside(Some(&given), INERT).unwrap();
//! assert_eq!((create.name.as_str(), create.block_size), ("d0", None));
//!
//! let given = json!({"name": "d0", "block_size": -1});
//! let error = params::parse_beside::<Create>(Some(&given), INERT).err().unwrap();
//! assert_eq!(error.code, -32602);
//! assert_eq!(
//!     error.message,
//!     "parameter 'block_size' is -1; it must be a whole number from 0 to 4294967295"
//! );
//! ```

mod typed;

use crate::RpcError;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fmt;
use typed::{Fault, Typed};

/// A parameter whose feature is not built. SPDK's clients send such parameters at their defaults,
/// so the default is accepted and does nothing; any other value is refused by name.
#[derive(Clone, Copy, Debug)]
pub struct Inert {
    name: &'static str,
    default: Literal,
}

#[derive(Clone, Copy, Debug)]
enum Literal {
    Flag(bool),
    Number(i64),
    Text(&'static str),
}

impl Inert {
    /// A boolean.
    pub const fn flag(name: &'static str, default: bool) -> Self {
        let default = Literal::Flag(default);
        Self { name, default }
    }

    /// A whole number.
    pub const fn number(name: &'static str, default: i64) -> Self {
        let default = Literal::Number(default);
        Self { name, default }
    }

    /// A string or an enumeration.
    pub const fn text(name: &'static str, default: &'static str) -> Self {
        let default = Literal::Text(default);
        Self { name, default }
    }

    fn check(&self, value: &Value) -> Result<(), Fault> {
        let is_default = match self.default {
            Literal::Flag(default) => value.as_bool() == Some(default),
            Literal::Number(default) => typed::whole_number(value) == Some(i128::from(default)),
            Literal::Text(default) => value.as_str() == Some(default),
        };
        if is_default {
            return Ok(());
        }
        let must_be = format!("{}, because what it asks for is not built", self.default);
        Err(Fault::value(self.name, value, must_be))
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// Reads `params` into `T`, a struct whose fields are the parameters.
///
/// A parameter that no field takes is refused; so is `null`, as SPDK does: a parameter that is
/// not meant is left out (its field is then an `Option`, or has `#[serde(default)]`). Every
/// refusal is -32602 and names the parameter, the value given, and what would be accepted.
/// `T` must not `#[serde(flatten)]`: its parameters' names would be unknown here.
pub fn parse<T: DeserializeOwned>(params: Option<&Value>) -> Result<T, RpcError> {
    parse_beside(params, &[])
}

/// The same, with parameters `T` does not have because what they ask for is not built.
pub fn parse_beside<T: DeserializeOwned>(params: Option<&Value>, inert: &[Inert]) -> Result<T, RpcError> {
    let none = Map::new();
    let members = match params {
        None | Some(Value::Null) => &none,
        Some(Value::Object(members)) => members,
        Some(other) => {
            let given = typed::shown(other);
            return Err(RpcError::invalid_params(format!(
                "the parameters are {given}; they must be an object that gives each by its name"
            )));
        }
    };
    Typed::parse(members, inert).map_err(|fault| RpcError::invalid_params(fault.to_string()))
}

/// For a method without parameters: refuses any.
pub fn none(params: Option<&Value>) -> Result<(), RpcError> {
    #[derive(serde::Deserialize)]
    struct None {}
    parse::<None>(params).map(|None {}| ())
}

/// The error (-32602) for a parameter that has the right type and still will not do: `must_be`
/// says what would, as in "a multiple of 512".
pub fn refuse(name: &str, value: impl Into<Value>, must_be: impl fmt::Display) -> RpcError {
    let fault = Fault::value(name, &value.into(), must_be.to_string());
    RpcError::invalid_params(fault.to_string())
}

#[cfg(test)]
mod tests;
