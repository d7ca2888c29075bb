//! The two queues shared with the kernel and the way into it. Knows nothing of what travels in them.

use std::io;
use std::ptr::NonNull;

use io_uring::squeue::Entry;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{Builder, CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue};
use rustix::io::Errno;
use spinel_core::OpenError;

use crate::options::{Options, Setup};

/// How many helper threads the kernel may start for one ring's files.
const HELPERS_MAX: u32 = 64;

/// Frees the ring once the views below are gone.
struct Owner(NonNull<IoUring>);

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: the pointer came from Box::into_raw in `Queues::new`, and `Queues` drops its views before this.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// One io_uring with its queues split once and for all, so that a registered ring stays registered.
pub(crate) struct Queues {
    // Dropped in this order: the views borrow from what `_owner` frees.
    submitter: Submitter<'static>,
    submission: SubmissionQueue<'static>,
    completion: CompletionQueue<'static>,
    /// Entries in the submission queue the kernel has not been told of.
    pending: u32,
    /// Whether a kernel thread empties the submission queue on its own.
    sqpoll: bool,
    /// Whether sleeping with nothing in flight may be told apart from waiting for a disk.
    no_iowait: bool,
    /// How often the kernel was entered.
    enters: u64,
    _owner: Owner,
}

impl Drop for Queues {
    fn drop(&mut self) {
        // A registration would keep the ring, and every file in its table, until the thread ends.
        let _ = self.submitter.unregister_ring_fd();
    }
}

/// What a ring is made with, from the best to the plainest. Each step drops what older kernels refuse.
fn variants(options: &Options, iopoll: bool) -> Vec<Builder> {
    let make = |set: &dyn Fn(&mut Builder)| {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(options.completions).setup_clamp();
        if iopoll {
            builder.setup_iopoll();
        }
        set(&mut builder);
        builder
    };
    let mut variants = Vec::new();
    if options.sqpoll {
        // 10 ms of idleness before the kernel's thread sleeps.
        variants.push(make(&|b| _ = b.setup_sqpoll(10).setup_single_issuer().setup_submit_all().setup_no_sqarray()));
        variants.push(make(&|b| _ = b.setup_sqpoll(10)));
    }
    let deferred = |b: &mut Builder| _ = b.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_taskrun_flag();
    variants.push(make(&|b| {
        deferred(b);
        b.setup_no_sqarray();
    }));
    variants.push(make(&deferred));
    variants.push(make(&|b| _ = b.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all()));
    variants.push(make(&|_| ()));
    variants
}

/// The errors after which the same call may be made again; the rest are our own faults.
fn passes(error: &io::Error) -> bool {
    let passing = [Errno::AGAIN, Errno::BUSY, Errno::INTR, Errno::TIME, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

impl Queues {
    /// Makes a ring for the calling thread, with whatever of `options` the kernel grants.
    pub(crate) fn new(options: &Options, iopoll: bool) -> Result<(Self, Setup), OpenError> {
        let system = |source| OpenError::System { doing: "making an io_uring (is kernel.io_uring_disabled set?)", source };
        let mut refusal = io::Error::from(Errno::INVAL);
        // Which of the flags were granted is not to be had from the ring, so it is known by the variant.
        let sqpolls = if options.sqpoll { 2 } else { 0 };
        for (index, variant) in variants(options, iopoll).into_iter().enumerate() {
            match variant.build(options.submissions) {
                Ok(ring) => {
                    let step = usize::checked_sub(index, sqpolls);
                    let setup = Setup {
                        sqpoll: step.is_none(),
                        defer_taskrun: step.is_some_and(|step| step < 2),
                        taskrun_flag: step.is_some_and(|step| step < 3),
                        ..Setup::default()
                    };
                    return Self::split(ring, setup).map_err(system);
                }
                Err(error) if [Errno::INVAL, Errno::PERM].contains(&Errno::from_io_error(&error).unwrap_or(Errno::INVAL)) => {
                    refusal = error
                }
                Err(error) => return Err(system(error)),
            }
        }
        Err(system(refusal))
    }

    fn split(ring: IoUring, mut setup: Setup) -> io::Result<(Self, Setup)> {
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::other("this kernel's io_uring is too old: Linux 5.11 is the least"));
        }
        let no_iowait = ring.params().is_feature_no_iowait();
        setup.submissions = ring.params().sq_entries();
        setup.completions = ring.params().cq_entries();
        let raw = NonNull::from(Box::leak(Box::new(ring)));
        let owner = Owner(raw);
        // SAFETY: the box was leaked a line ago, so the reference is unique; `owner` frees it only after the views are gone.
        let ring: &'static mut IoUring = unsafe { &mut *raw.as_ptr() };
        let (mut submitter, submission, completion) = ring.split();
        setup.registered_ring = submitter.register_ring_fd().is_ok();
        // Flushes and discards block the kernel's helpers, of which there are few by default; more cost nothing until used.
        let _ = submitter.register_iowq_max_workers(&mut [HELPERS_MAX, 0]);
        Ok((Self { submitter, submission, completion, pending: 0, sqpoll: setup.sqpoll, no_iowait, enters: 0, _owner: owner }, setup))
    }

    /// For registering files and buffers.
    pub(crate) fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }

    /// How many entries wait for [`enter`](Self::enter).
    pub(crate) fn pending(&self) -> u32 {
        self.pending
    }

    /// How often the kernel was entered so far.
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// Puts an entry into the submission queue; `false` if it is full.
    ///
    /// # Safety
    /// What the entry points to stays valid until its completion has been taken.
    pub(crate) unsafe fn push(&mut self, entry: &Entry) -> bool {
        if self.sqpoll && self.submission.is_full() {
            self.submission.sync();
        }
        // SAFETY: passed on to the caller.
        let pushed = unsafe { self.submission.push(entry) }.is_ok();
        self.pending += u32::from(pushed);
        pushed
    }

    /// Tells the kernel of what was pushed, and lets it work off completions if it said there are some.
    pub(crate) fn enter(&mut self) {
        self.publish();
        let entered = self.submitter.submit();
        self.entered(entered);
    }

    /// Waits for a completion, at most `timeout`. With nothing but watches in flight it does not count as waiting for a disk.
    pub(crate) fn wait(&mut self, timeout: Option<&Timespec>, disk: bool) {
        self.publish();
        let mut args = SubmitArgs::new();
        if let Some(timeout) = timeout {
            args = args.timespec(timeout);
        }
        let entered = if self.no_iowait && !disk && !self.sqpoll {
            let flags = EnterFlags::EXT_ARG | EnterFlags::GETEVENTS | EnterFlags::NO_IOWAIT;
            // SAFETY: with EXT_ARG the argument is an io_uring_getevents_arg, which SubmitArgs is transparently.
            unsafe { self.submitter.enter(self.pending, 1, flags.bits(), Some(&args)) }
        } else {
            self.submitter.submit_with_args(1, &args)
        };
        self.entered(entered);
    }

    /// Shows the kernel what was pushed and what was taken; a completion it thinks untaken would end any wait at once.
    fn publish(&mut self) {
        self.submission.sync();
        self.completion.sync();
    }

    fn entered(&mut self, outcome: io::Result<usize>) {
        self.enters += 1;
        self.submission.sync();
        match outcome {
            Ok(_) if self.sqpoll => self.pending = 0,
            Err(error) if !passes(&error) => panic!("io_uring_enter: {error}"),
            _ => self.pending = u32::try_from(self.submission.len()).expect("a queue's length"),
        }
    }

    /// Whether the kernel holds back completions until it is entered.
    pub(crate) fn held_back(&self) -> bool {
        self.submission.taskrun() || self.submission.cq_overflow()
    }

    /// Makes visible what the kernel has completed since, and returns how many completions there are.
    pub(crate) fn look(&mut self) -> usize {
        self.completion.sync();
        self.completion.len()
    }

    /// Takes the oldest completion that [`look`](Self::look) made visible.
    pub(crate) fn take(&mut self) -> Option<cqueue::Entry> {
        self.completion.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::opcode::Nop;

    #[test]
    fn every_kind_of_ring_this_kernel_grants_takes_and_completes_submissions() {
        let options = Options { sqpoll: true, ..Options::default() };
        let mut granted = 0;
        for variant in variants(&options, false) {
            let Ok(ring) = variant.build(4) else { continue };
            let sqpoll = ring.params().is_setup_sqpoll();
            let (mut queues, setup) = Queues::split(ring, Setup { sqpoll, ..Setup::default() }).unwrap();
            assert_eq!(setup.submissions, 4);
            for round in 0..100 {
                // SAFETY: the entry points to no memory.
                while !unsafe { queues.push(&Nop::new().build().user_data(round)) } {
                    queues.enter();
                }
                queues.wait(None, round % 2 == 0);
                assert_eq!(queues.look(), 1, "round {round} of variant {granted}, sqpoll {sqpoll}");
                assert_eq!(queues.take().unwrap().user_data(), round);
            }
            granted += 1;
        }
        println!("{granted} kinds of ring were granted");
        assert!(granted >= 1);
    }

    #[test]
    fn the_best_kind_is_taken_and_told() {
        let (_, setup) = Queues::new(&Options { sqpoll: true, ..Options::default() }, false).unwrap();
        assert!(!setup.defer_taskrun && !setup.taskrun_flag, "a kernel thread has no task work of ours to defer");
        let (queues, setup) = Queues::new(&Options::default(), false).unwrap();
        assert!(!setup.sqpoll);
        assert!(setup.taskrun_flag || !setup.defer_taskrun);
        assert_eq!(queues.pending(), 0);
    }
}
