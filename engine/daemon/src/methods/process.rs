//! The methods about the process as a whole. Knows no disk.

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::{RpcError, params};

use super::Answer;
use crate::engine::Engine;

/// `spdk_get_version`.
pub(super) fn version(_: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    let part = |text: &str| text.parse::<u32>().expect("Cargo checks that versions are numbers");
    Ok(json!({
        "version": concat!("Spinel v", env!("CARGO_PKG_VERSION")),
        "fields": {
            "major": part(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": part(env!("CARGO_PKG_VERSION_MINOR")),
            "patch": part(env!("CARGO_PKG_VERSION_PATCH")),
            "suffix": env!("CARGO_PKG_VERSION_PRE"),
        },
    }))
}

#[derive(Clone, Copy, Deserialize)]
enum SignalName {
    #[serde(rename = "SIGINT")]
    Int,
    #[serde(rename = "SIGTERM")]
    Term,
    #[serde(rename = "SIGQUIT")]
    Quit,
    #[serde(rename = "SIGHUP")]
    Hup,
    #[serde(rename = "SIGKILL")]
    Kill,
    #[serde(rename = "SIGUSR1")]
    Usr1,
}

/// `spdk_kill_instance`.
pub(super) fn kill(_: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Kill {
        sig_name: SignalName,
    }
    let Kill { sig_name } = params::parse(params)?;
    let signal = match sig_name {
        SignalName::Int => Signal::INT,
        SignalName::Term => Signal::TERM,
        SignalName::Quit => Signal::QUIT,
        SignalName::Hup => Signal::HUP,
        SignalName::Kill => Signal::KILL,
        SignalName::Usr1 => Signal::USR1,
    };
    let sent = rustix::process::kill_process(rustix::process::getpid(), signal);
    sent.map_err(|errno| RpcError::io(&errno.into(), "the signal cannot be sent"))?;
    Ok(true.into())
}
