//! What the process gives up or asks for before it starts a thread. Knows no option.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit on open files as far as it goes, and gives up gaining privileges.
pub(crate) fn apply() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!("the limit on open files stays {:?}: {error}", limit.current);
    }
    // Per thread, and inherited: so before there is a second one.
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        tracing::warn!("the process may still gain privileges: {error}");
    }
}

/// Lets a panic in a reactor, or in a thread that speaks for a guest, end the process: its guests would wait for ever, while a
/// new daemon can serve them again.
pub(crate) fn abort_with_data_path() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        if std::thread::current().name().is_some_and(|name| ["reactor-", "vhost-", "pin-"].iter().any(|kind| name.starts_with(kind))) {
            std::process::abort();
        }
    }));
}
