//! One JSON text in, one reply out: JSON-RPC 2.0's envelope (its sections 4 to 6). It refuses to
//! know the socket the text came from and what the methods do.

use crate::{RpcError, Service, strict};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Requests in one batch (one array); a longer one is refused whole.
pub const BATCH_MAX: usize = 256;

/// What to send back, and whether the connection can go on.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The reply's text, ending in a newline; `None` where only notifications came.
    pub(crate) reply: Option<Vec<u8>>,
    /// The text was not JSON: what follows on the stream cannot be trusted to be aligned.
    pub(crate) close: bool,
    /// For how long the call, which was refused, is to be made again before this is sent.
    pub(crate) patience: Duration,
    /// At least one call has succeeded, and so may have changed something.
    pub(crate) has_succeeded: bool,
}

impl Answer {
    /// The answer to bytes that are not JSON; the connection ends with it.
    pub(crate) fn unreadable(message: impl Into<String>) -> Self {
        Self::last(&RpcError::parse_error(message))
    }

    /// The answer to a caller that is not served at all.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::last(&RpcError::invalid_request(message))
    }

    fn last(error: &RpcError) -> Self {
        let mut reply = error_text(None, error);
        reply.push(b'\n');
        Self { reply: Some(reply), close: true, patience: Duration::ZERO, has_succeeded: false }
    }
}

/// Runs what `text` asks for: one request object, or an array of them in their order.
pub(crate) fn answer(service: &dyn Service, text: &[u8]) -> Answer {
    let mut run = Run { service, patience: Duration::ZERO, has_succeeded: false };
    let is_batch = text.first() == Some(&b'[');
    let answered = if is_batch { run.batch(text) } else { serde_json::from_slice::<&RawValue>(text).map(|request| run.one(request)) };
    match answered {
        Ok(mut reply) => {
            if let Some(reply) = &mut reply {
                reply.push(b'\n');
            }
            // Made again, a batch would repeat what has succeeded in it.
            let patience = if is_batch { Duration::ZERO } else { run.patience };
            Answer { reply, close: false, patience, has_succeeded: run.has_succeeded }
        }
        Err(error) => Answer::unreadable(format!("the request is not JSON: {error}")),
    }
}

/// The requests of one text being run.
struct Run<'a> {
    service: &'a dyn Service,
    /// The last refused call's; see [`Answer`].
    patience: Duration,
    has_succeeded: bool,
}

impl Run<'_> {
    fn batch(&mut self, text: &[u8]) -> Result<Option<Vec<u8>>, serde_json::Error> {
        let requests: Vec<&RawValue> = serde_json::from_slice(text)?;
        if requests.is_empty() || requests.len() > BATCH_MAX {
            let error = RpcError::invalid_request(format!("the batch holds {} requests; it must hold 1 to {BATCH_MAX}", requests.len()));
            return Ok(Some(error_text(None, &error)));
        }
        let mut replies = Vec::new();
        for request in requests {
            if let Some(reply) = self.one(request) {
                replies.push(if replies.is_empty() { b'[' } else { b',' });
                replies.extend_from_slice(&reply);
            }
        }
        if replies.is_empty() {
            return Ok(None);
        }
        replies.push(b']');
        Ok(Some(replies))
    }

    fn one(&mut self, request: &RawValue) -> Option<Vec<u8>> {
        let members = match serde_json::from_str::<Members<'_>>(request.get()) {
            Ok(members) => members,
            Err(error) => {
                let error = RpcError::invalid_request(format!("the request is malformed: {error}"));
                return Some(error_text(None, &error));
            }
        };
        let id = match members.checked_id() {
            Ok(id) => id,
            Err(error) => return Some(error_text(None, &error)),
        };
        let (method, params) = match members.call() {
            Ok(call) => call,
            // Without a well-formed call this is no notification, so it is answered.
            Err(error) => return Some(error_text(id, &error)),
        };
        let result = self.call(&method, params.as_ref());
        // A request without an id is a notification: it gets no reply, not even an error.
        let id = id?;
        Some(match result {
            Ok(value) => result_text(id, &value),
            Err(error) => error_text(Some(id), &error),
        })
    }

    /// A panic in a method must not take the disks of every guest with it: it is reported as our
    /// own fault, and the thread goes on. The panic hook has told where by then.
    fn call(&mut self, method: &str, params: Option<&Value>) -> Result<Value, RpcError> {
        let called = catch_unwind(AssertUnwindSafe(|| {
            let result = self.service.call(method, params);
            let patience = if result.is_err() { self.service.patience(method, params) } else { Duration::ZERO };
            (result, patience)
        }));
        let (result, patience) = called.unwrap_or_else(|_| {
            let message = format!("method '{method}' failed by a fault of the server's own; its log has the details");
            (Err(RpcError::internal(message)), Duration::ZERO)
        });
        self.patience = patience;
        self.has_succeeded |= result.is_ok();
        if let (Err(error), true) = (&result, patience.is_zero()) {
            tracing::info!(method, code = error.code, "refused: {}", error.message);
        }
        result
    }
}

fn result_text(id: &RawValue, result: &Value) -> Vec<u8> {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.get()).into_bytes()
}

fn error_text(id: Option<&RawValue>, error: &RpcError) -> Vec<u8> {
    let id = id.map_or("null", RawValue::get);
    let message = Value::from(error.message.as_str());
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{},"message":{message}}}}}"#, error.code).into_bytes()
}

/// A request object's members, unread. The id stays as it was written, so that it is echoed to
/// the digit.
#[derive(Default)]
struct Members<'a> {
    jsonrpc: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
}

impl<'a> Members<'a> {
    fn checked_id(&self) -> Result<Option<&'a RawValue>, RpcError> {
        let Some(id) = self.id else { return Ok(None) };
        match id.get().as_bytes().first() {
            Some(b'"' | b'-' | b'0'..=b'9' | b'n') => Ok(Some(id)),
            _ => Err(RpcError::invalid_request("'id' must be a string, a number or null")),
        }
    }

    /// SPDK's server lets 'jsonrpc' be absent and takes null parameters for none; so does this.
    fn call(&self) -> Result<(String, Option<Value>), RpcError> {
        if self.jsonrpc.is_some_and(|version| version.get() != r#""2.0""#) {
            return Err(RpcError::invalid_request("'jsonrpc' must be \"2.0\""));
        }
        let method = self
            .method
            .and_then(|method| serde_json::from_str::<String>(method.get()).ok())
            .ok_or_else(|| RpcError::invalid_request("'method' must be there, a string"))?;
        let params = match self.params {
            None => None,
            Some(text) => match strict::value(text.get()) {
                Ok(Value::Null) => None,
                Ok(params @ (Value::Object(_) | Value::Array(_))) => Some(params),
                Ok(_) => {
                    return Err(RpcError::invalid_request("'params' must be an object with a member for each parameter"));
                }
                Err(error) => return Err(RpcError::invalid_params(format!("'params': {error}"))),
            },
        };
        Ok((method, params))
    }
}

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a request object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key::<String>()? {
                    let member = match name.as_str() {
                        "jsonrpc" => &mut members.jsonrpc,
                        "method" => &mut members.method,
                        "params" => &mut members.params,
                        "id" => &mut members.id,
                        _ => {
                            return Err(A::Error::custom(format_args!("member '{name}' is not one of jsonrpc, method, params, id")));
                        }
                    };
                    if member.is_some() {
                        return Err(A::Error::custom(format_args!("member '{name}' is there twice")));
                    }
                    *member = Some(map.next_value()?);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
