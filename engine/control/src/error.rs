//! The error object of a reply: a code and a sentence. It refuses to know which method failed.

use std::fmt;

/// An error as it travels in a reply: `{"code": .., "message": ..}`.
///
/// The codes are JSON-RPC 2.0's (section 5.1) and SPDK's: -1 for a method called in the wrong
/// state, and negative errno values for what the system or a device refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// -1, -32700 to -32600, or a negative errno value.
    pub code: i32,
    /// One sentence for the caller: what was wrong, with which value, and what would do.
    pub message: String,
}

impl RpcError {
    /// The method exists, but not in the present state (before or after initialisation).
    pub const WRONG_STATE: i32 = -1;
    /// The text is JSON, but not a request.
    pub const INVALID_REQUEST: i32 = -32600;
    /// No method of this name.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// A parameter is missing, unknown, of the wrong type or out of range.
    pub const INVALID_PARAMS: i32 = -32602;
    /// The server's own fault.
    pub const INTERNAL: i32 = -32603;
    /// The text is not JSON, or too long, or nested too deeply.
    pub const PARSE_ERROR: i32 = -32700;

    /// An error of any code.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The text could not be read as JSON (-32700).
    pub fn parse_error(message: impl Into<String>) -> Self {
        Self::new(Self::PARSE_ERROR, message)
    }

    /// JSON, but not a JSON-RPC request (-32600).
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(Self::INVALID_REQUEST, message)
    }

    /// No method is called `method` (-32601).
    pub fn method_not_found(method: &str) -> Self {
        Self::new(Self::METHOD_NOT_FOUND, format!("no method is called '{method}'; rpc_get_methods lists those there are"))
    }

    /// A parameter was refused (-32602); see [`crate::params::refuse`] for the usual sentence.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(Self::INVALID_PARAMS, message)
    }

    /// A fault of the server itself (-32603).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Self::INTERNAL, message)
    }

    /// The method is not accepted in the present state (-1).
    pub fn wrong_state(message: impl Into<String>) -> Self {
        Self::new(Self::WRONG_STATE, message)
    }

    /// What the system or a device refused, as a negative errno: -17 exists, -19 no such device,
    /// -16 busy, -28 no space. A positive `errno` is a mistake of the caller's, and is negated.
    pub fn errno(errno: i32, message: impl Into<String>) -> Self {
        Self::new(errno.saturating_abs().saturating_neg(), message)
    }

    /// The system's refusal `error`, told as `message: error`; without an errno it is internal.
    pub fn io(error: &std::io::Error, message: impl fmt::Display) -> Self {
        let message = format!("{message}: {error}");
        match error.raw_os_error() {
            Some(errno) => Self::errno(-errno, message),
            None => Self::internal(message),
        }
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl std::error::Error for RpcError {}
