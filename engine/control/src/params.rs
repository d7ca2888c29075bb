//! Parameters.
use crate::RpcError;
use serde::de::DeserializeOwned;
use serde_json::Value;
/// Skeleton; deepened next.
pub fn parse<T: DeserializeOwned>(params: Option<&Value>) -> Result<T, RpcError> {
    let empty = Value::Object(serde_json::Map::new());
    T::deserialize(params.unwrap_or(&empty)).map_err(|error| RpcError::invalid_params(error.to_string()))
}
/// Skeleton.
pub fn refuse(name: &str, value: impl std::fmt::Display, must_be: &str) -> RpcError {
    RpcError::invalid_params(format!("parameter '{name}' is {value}; it must be {must_be}"))
}
