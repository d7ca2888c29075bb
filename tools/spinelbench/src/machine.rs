//! What there is to say about this machine and its processes. Knows nothing of disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use spinelbench::report::Machine;

/// This machine, as far as the kernel tells.
pub(crate) fn describe() -> Machine {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processors = text("/proc/cpuinfo");
    let memory_kib = field(&text("/proc/meminfo"), "MemTotal").and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    Machine {
        host: text("/proc/sys/kernel/hostname").trim().to_owned(),
        processor: field(&processors, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        processors: processors.lines().filter(|line| line.starts_with("processor")).count(),
        memory_bytes: memory_kib.unwrap_or(0) << 10,
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}

/// Milliseconds since 1970, for the record only: nothing is measured by it.
#[allow(clippy::disallowed_methods, reason = "when a run took place is a date, and no duration")]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Processor time of one thread of this process, in nanoseconds.
pub(crate) fn thread_cpu_ns(thread_id: i32) -> u64 {
    schedstat(Path::new(&format!("/proc/self/task/{thread_id}/schedstat")))
}

/// Processor time of the kernel's threads that finish a thread's requests (io_uring's workers), in nanoseconds, as far as they still live.
pub(crate) fn helpers_cpu_ns(thread_id: i32) -> u64 {
    let name = format!("iou-wrk-{thread_id}");
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(|task| task.path());
    let is_helper = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
    tasks.filter(is_helper).map(|task| schedstat(&task.join("schedstat"))).sum()
}

/// Processor time of all threads of a process, in nanoseconds; `None` if it cannot be seen from here.
pub(crate) fn process_cpu_ns(pid: i32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    Some(tasks.flatten().map(|task| schedstat(&task.path().join("schedstat"))).sum())
}

/// The first of the numbers: nanoseconds on a processor.
fn schedstat(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// The process that listens on a Unix socket, if this user may see it.
pub(crate) fn listener_of(socket: &Path) -> Option<i32> {
    let path = fs::canonicalize(socket).ok()?;
    let sockets = fs::read_to_string("/proc/net/unix").ok()?;
    // Num RefCount Protocol Flags Type St Inode Path; 00010000 is a listener.
    let inode = sockets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (flags, inode, place) = (fields.get(3)?, fields.get(6)?, fields.get(7..)?.join(" "));
        let same = Path::new(&place) == socket || fs::canonicalize(&place).is_ok_and(|place| place == path);
        (*flags == "00010000" && same).then(|| (*inode).to_owned())
    })?;
    let link = format!("socket:[{inode}]");
    let holds = |pid: &i32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == Path::new(&link)))
    };
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().find(holds)
}

/// The cores that a thread of a process is pinned to, each alone.
pub(crate) fn cores_of(pid: i32) -> Vec<u16> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let core = |status: String| {
        let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:"))?;
        line.split_once(':')?.1.trim().parse().ok()
    };
    tasks.filter_map(|task| core(fs::read_to_string(task.path().join("status")).ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_listener_of_a_socket_is_found_and_its_time_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a socket");
        assert_eq!(listener_of(&path), None);
        let _listener = UnixListener::bind(&path).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(listener_of(&path), Some(own));
        assert!(process_cpu_ns(own).unwrap() > 0);
        assert!(describe().processors > 0);
    }
}
