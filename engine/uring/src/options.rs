//! What is asked of a core's ring, and what the kernel granted. Knows no device.

use std::fmt;

/// What a core's ring should be like. Anything the kernel refuses is done without; [`Setup`] says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Entries of the submission queue. Not a limit on what is in flight: a full queue is submitted and used again.
    pub submissions: u32,
    /// Entries of the completion queue; more completions than that wait in the kernel.
    pub completions: u32,
    /// Entries of the table of registered files. A file beyond it is named by its descriptor.
    pub files_max: u32,
    /// Entries of the table of registered buffers, of up to 1 GiB each. A region beyond it is served unregistered.
    pub buffers_max: u32,
    /// How many bounce chunks of 64 KiB each channel has for buffers the device cannot reach directly.
    pub bounce_chunks: u16,
    /// A kernel thread takes the submissions: no system call per batch, at the price of a second busy core.
    pub sqpoll: bool,
    /// Reads and writes of devices that accept it complete by polling the device, not by interrupt.
    pub iopoll: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { submissions: 256, completions: 4096, files_max: 1024, buffers_max: 1024, bounce_chunks: 8, sqpoll: false, iopoll: false }
    }
}

/// What the kernel granted a core's ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Setup {
    /// Completions are worked off only when the core enters the kernel (Linux 6.1).
    pub defer_taskrun: bool,
    /// A flag in shared memory says when entering is worth it (Linux 5.19).
    pub taskrun_flag: bool,
    /// A kernel thread takes the submissions.
    pub sqpoll: bool,
    /// There is a second ring whose completions are polled from the device. Which devices accept it shows when they are opened.
    pub iopoll: bool,
    /// The ring itself is registered, which makes entering cheaper (Linux 5.18).
    pub registered_ring: bool,
    /// Entries of the table of registered files; 0 if the kernel has no sparse tables (before Linux 5.19).
    pub files_max: u32,
    /// Entries of the table of registered buffers; 0 as above.
    pub buffers_max: u32,
    /// Entries of the submission queue.
    pub submissions: u32,
    /// Entries of the completion queue.
    pub completions: u32,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match (self.sqpoll, self.defer_taskrun, self.taskrun_flag) {
            (true, ..) => "submission by a kernel thread",
            (_, true, _) => "deferred task work",
            (_, _, true) => "cooperative task work",
            _ => "plain",
        };
        write!(f, "io_uring with {} + {} entries, {way}", self.submissions, self.completions)?;
        write!(f, ", {} registered files, {} registered buffers", self.files_max, self.buffers_max)?;
        write!(f, ", ring {}registered", if self.registered_ring { "" } else { "not " })?;
        if self.iopoll { write!(f, ", and a second one that polls") } else { Ok(()) }
    }
}
