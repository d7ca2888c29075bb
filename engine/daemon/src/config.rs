//! Configuration files in SPDK's form: reads one and makes its calls. Knows no method.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use spinel_control::RpcError;
use spinel_control::methods::{Methods, Phase};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why a configuration was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// It cannot be read.
    #[error("the configuration {} cannot be read: {source}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not in SPDK's form.
    #[error("the configuration {} is not in the form {{\"subsystems\": [{{\"subsystem\": NAME, \"config\": [{{\"method\": NAME, \"params\": {{..}}}}]}}]}}: {source}", file.display())]
    Malformed {
        /// Which file.
        file: PathBuf,
        /// Where it is wrong, and how.
        source: serde_json::Error,
    },
    /// One of its calls failed.
    #[error("the configuration {}, subsystem '{subsystem}', call {index} ({method}): {source}", file.display())]
    Refused {
        /// Which file.
        file: PathBuf,
        /// In which subsystem's list.
        subsystem: String,
        /// Which of its calls, from 0.
        index: usize,
        /// What was called.
        method: String,
        /// The method's own error.
        source: RpcError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    subsystems: Vec<Subsystem>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subsystem {
    subsystem: String,
    /// SPDK writes null for a subsystem without any.
    config: Option<Vec<Call>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    method: String,
    #[serde(default)]
    params: Option<Value>,
}

/// Makes the calls of `file` in their order: first those that belong before initialisation, then `initialise`, then the others.
///
/// # Errors
/// At the first call that fails. What was made before it stays; the daemon does not run on with it.
pub(crate) fn load<S: ?Sized>(file: &Path, methods: &Methods<S>, state: &S, initialise: impl FnOnce()) -> Result<(), ConfigError> {
    let text = read(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    let config: Config = serde_json::from_str(&text).map_err(|source| ConfigError::Malformed { file: file.to_owned(), source })?;
    let early = methods.names(Some(Phase::Startup), true);
    let late = methods.names(Some(Phase::Runtime), true);
    // Those of both phases, and those unknown, come where they stand among the later ones.
    let is_early = |call: &Call| early.contains(&call.method.as_str()) && !late.contains(&call.method.as_str());
    let make = |phase, wanted: bool| {
        for subsystem in &config.subsystems {
            let calls = subsystem.config.iter().flatten().enumerate();
            for (index, call) in calls.filter(|(_, call)| is_early(call) == wanted) {
                let made = methods.call(state, phase, &call.method, call.params.as_ref());
                made.map_err(|source| ConfigError::Refused {
                    file: file.to_owned(),
                    subsystem: subsystem.subsystem.clone(),
                    index,
                    method: call.method.clone(),
                    source,
                })?;
            }
        }
        Ok(())
    };
    make(Phase::Startup, true)?;
    initialise();
    make(Phase::Runtime, false)
}

fn read(file: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let taken = std::fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(taken).is_ok_and(|taken| taken > FILE_BYTES_MAX) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use spinel_control::methods::When;
    use std::cell::RefCell;

    type Calls = RefCell<Vec<String>>;

    fn table() -> Methods<Calls> {
        Methods::new()
            .with("options", When::Startup, |calls, params| note(calls, "options", params))
            .with("version", When::Always, |calls, params| note(calls, "version", params))
            .with("create", When::Runtime, |calls, params| note(calls, "create", params))
    }

    fn note(calls: &Calls, name: &str, params: Option<&Value>) -> Result<Value, RpcError> {
        if params.is_some_and(|params| params["fail"] == true) {
            return Err(RpcError::errno(28, "no space"));
        }
        calls.borrow_mut().push(name.into());
        Ok(true.into())
    }

    fn load_text(text: &str) -> Result<Vec<String>, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let calls = Calls::default();
        load(file.path(), &table(), &calls, || calls.borrow_mut().push("initialise".into()))?;
        Ok(calls.into_inner())
    }

    #[test]
    fn calls_are_made_in_order_and_options_before_initialisation() {
        let config = json!({"subsystems": [
            {"subsystem": "sock", "config": null},
            {"subsystem": "bdev", "config": [{"method": "create"}, {"method": "version"}, {"method": "options", "params": {}}]},
            {"subsystem": "vhost_blk", "config": [{"method": "create", "params": {"name": "x"}}]},
        ]});
        assert_eq!(load_text(&config.to_string()).unwrap(), ["options", "initialise", "create", "version", "create"]);
    }

    #[test]
    fn a_call_that_fails_is_named_with_its_place_and_reason() {
        let config = json!({"subsystems": [
            {"subsystem": "bdev", "config": [{"method": "create"}, {"method": "create", "params": {"fail": true}}]},
        ]});
        let error = load_text(&config.to_string()).unwrap_err().to_string();
        for part in ["subsystem 'bdev'", "call 1", "(create)", "no space", "-28"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = load_text(r#"{"subsystems": [{"subsystem": "bdev", "config": [{"method": "creat"}]}]}"#).unwrap_err().to_string();
        assert!(error.contains("'creat'"), "{error}");
    }

    #[test]
    fn a_file_of_another_form_is_refused_with_the_place() {
        for text in
            ["", "{", "[]", "{\"subsystem\": []}", "{\"subsystems\": [{\"subsystem\": \"bdev\", \"config\": [{\"methods\": \"x\"}]}]}"]
        {
            let error = load_text(text).unwrap_err();
            assert!(matches!(error, ConfigError::Malformed { .. }), "{text}: {error}");
            assert!(error.to_string().contains("line 1"), "{error}");
        }
        let error = load(Path::new("/nowhere/x.json"), &table(), &Calls::default(), || ()).unwrap_err().to_string();
        assert!(error.contains("/nowhere/x.json"), "{error}");
    }
}
