//! A daemon that is left in the background: starts this program once more, and waits until that one serves. Knows nothing of what it does.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use crossbeam_channel::never;
use serde_json::Value;
use spinel_control::client::Client;

/// The option that is not passed on.
const OPTION: &str = "--detach";
/// How often it is looked whether the daemon serves.
const LOOK: Duration = Duration::from_millis(10);
const UNABLE: u8 = 1;

/// Starts this program with the same options, and ends when it serves at this socket; or when it ends, with its status.
pub(crate) fn start(rpc: &Path) -> ExitCode {
    let command = |program| {
        let mut command = Command::new(program);
        // The terminal's signals are not for it.
        command.args(std::env::args_os().skip(1).filter(|argument| argument != OPTION)).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()
    };
    let mut daemon = match std::env::current_exe().and_then(command) {
        Ok(daemon) => daemon,
        Err(error) => {
            eprintln!("the daemon cannot be started: {error}");
            return UNABLE.into();
        }
    };
    loop {
        // It tells on stderr, which it shares, why it has ended.
        if let Ok(Some(status)) = daemon.try_wait() {
            return status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(UNABLE).into();
        }
        if serving(rpc) == Some(daemon.id().into()) {
            return ExitCode::SUCCESS;
        }
        let _ = never::<()>().recv_timeout(LOOK);
    }
}

/// The process that answers at this socket.
fn serving(rpc: &Path) -> Option<u64> {
    let reactors = Client::connect(rpc).ok()?.call("framework_get_reactors", None::<Value>).ok()?;
    reactors["pid"].as_u64()
}
