//! One request's way through the kernel, as a pure machine: what its answer means and what comes next. Knows no ring.

use rustix::io::Errno;
use spinel_core::{Op, Status};

/// What is being asked of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Read the rest.
    Read,
    /// Write the rest, through to the medium if asked for.
    Write,
    /// Bring everything written to the medium.
    Sync,
    /// Discard, by the block layer's own command.
    Trim,
    /// Give the space back; the range reads as zeroes.
    Punch,
    /// Zero the range and keep the space.
    ZeroRange,
    /// Write zeroes over the rest.
    WriteZeroes,
}

/// What to do after an answer of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Ask for the rest now.
    Again,
    /// Ask for the same after a pause.
    Later,
    /// The request is over.
    Done(Status),
}

/// One request being carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Job {
    /// The operation as it came.
    pub(crate) op: Op,
    /// What the kernel was or will be asked for.
    pub(crate) step: Step,
    /// First byte in the file.
    pub(crate) offset: u64,
    /// Bytes of the whole request.
    pub(crate) len_bytes: u64,
    /// Bytes done so far, always whole multiples of `align_bytes`.
    pub(crate) done_bytes: u64,
    /// What transfers must start on.
    pub(crate) align_bytes: u32,
    /// Fruitless answers since the last progress.
    pub(crate) attempts: u16,
}

/// After so many fruitless answers in a row (EAGAIN, EINTR) the request fails: with the pauses, a tenth of a second.
pub(crate) const ATTEMPTS_MAX: u16 = 100;

/// The largest number the kernel gives an error (linux/err.h).
const ERRNO_MAX: i32 = 4095;

impl Job {
    /// A request whose first step is `step`.
    pub(crate) fn new(op: Op, step: Step, offset: u64, len_bytes: u64, align_bytes: u32) -> Self {
        Self { op, step, offset, len_bytes, done_bytes: 0, align_bytes, attempts: 0 }
    }

    /// Bytes still to do.
    pub(crate) fn left_bytes(&self) -> u64 {
        self.len_bytes - self.done_bytes
    }

    /// Where in the file the rest starts.
    pub(crate) fn at(&self) -> u64 {
        self.offset + self.done_bytes
    }

    /// Takes the kernel's answer: bytes or 0, or a negated error.
    pub(crate) fn advance(&mut self, result: i32) -> Next {
        match u32::try_from(result) {
            Ok(moved) => self.succeeded(u64::from(moved)),
            Err(_) => self.failed(Errno::from_raw_os_error(result.saturating_neg().min(ERRNO_MAX))),
        }
    }

    fn succeeded(&mut self, moved: u64) -> Next {
        self.attempts = 0;
        match self.step {
            Step::Sync => return Next::Done(Status::Ok),
            Step::Trim | Step::Punch | Step::ZeroRange => self.done_bytes = self.len_bytes,
            Step::Read | Step::Write | Step::WriteZeroes => {
                // A transfer may stop in the middle of a block; what follows must start on one.
                let whole = moved - moved % u64::from(self.align_bytes);
                assert!(whole <= self.left_bytes(), "the kernel moves no more than it was asked to");
                if whole == 0 {
                    // Nothing to read there: the file has become shorter.
                    return Next::Done(Status::Medium);
                }
                self.done_bytes += whole;
            }
        }
        if self.left_bytes() > 0 {
            return Next::Again;
        }
        if matches!(self.op, Op::WriteZeroes { fua: true, .. }) {
            self.step = Step::Sync;
            return Next::Again;
        }
        Next::Done(Status::Ok)
    }

    fn failed(&mut self, errno: Errno) -> Next {
        self.attempts += 1;
        match errno {
            // After a failed one the kernel may call lost pages clean: a second that succeeds would prove nothing.
            Errno::INTR | Errno::AGAIN if self.step == Step::Sync => Next::Done(Status::Medium),
            Errno::INTR | Errno::AGAIN if self.attempts > ATTEMPTS_MAX => Next::Done(Status::Medium),
            Errno::INTR => Next::Again,
            Errno::AGAIN => Next::Later,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Next::Done(Status::Capacity),
            Errno::FAULT => Next::Done(Status::Malformed),
            Errno::ROFS | Errno::PERM | Errno::ACCESS => Next::Done(Status::Protected),
            Errno::CANCELED => Next::Done(Status::Aborted),
            Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL => self.fall_back(errno),
            _ => Next::Done(Status::Medium),
        }
    }

    /// Another way to the same end, if there is one.
    fn fall_back(&mut self, errno: Errno) -> Next {
        self.step = match (self.step, self.op) {
            (Step::Trim, _) => Step::Punch,
            (Step::Punch, Op::WriteZeroes { .. }) => Step::ZeroRange,
            (Step::ZeroRange, _) => Step::WriteZeroes,
            _ if errno == Errno::INVAL => return Next::Done(Status::Medium),
            _ => return Next::Done(Status::Unsupported),
        };
        Next::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Op = Op::Write { fua: false };
    const ZERO: Op = Op::WriteZeroes { unmap: false, fua: false };
    const UNMAP: Op = Op::WriteZeroes { unmap: true, fua: false };
    const ZERO_FUA: Op = Op::WriteZeroes { unmap: true, fua: true };

    /// A request of 8 KiB at 64 KiB on a device of 512-byte alignment.
    fn job(op: Op, step: Step) -> Job {
        Job::new(op, step, 65536, 8192, 512)
    }

    /// (operation, step, the kernel's answer) -> (what comes next, the step then, bytes done then)
    type Row = (Op, Step, i32, Next, Step, u64);

    fn errno(errno: Errno) -> i32 {
        -errno.raw_os_error()
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use Next::{Again, Done, Later};
        use Step::{Punch, Read, Sync, Trim, Write, WriteZeroes, ZeroRange};
        let table: &[Row] = &[
            (Op::Read, Read, 8192, Done(Status::Ok), Read, 8192),
            (Op::Read, Read, 4096, Again, Read, 4096),
            (Op::Read, Read, 4100, Again, Read, 4096),
            (Op::Read, Read, 511, Done(Status::Medium), Read, 0),
            (Op::Read, Read, 0, Done(Status::Medium), Read, 0),
            (WRITE, Write, 8192, Done(Status::Ok), Write, 8192),
            (WRITE, Write, 512, Again, Write, 512),
            (WRITE, Write, 0, Done(Status::Medium), Write, 0),
            (Op::Flush, Sync, 0, Done(Status::Ok), Sync, 0),
            (Op::Discard, Trim, 0, Done(Status::Ok), Trim, 8192),
            (Op::Discard, Punch, 0, Done(Status::Ok), Punch, 8192),
            (ZERO, ZeroRange, 0, Done(Status::Ok), ZeroRange, 8192),
            (ZERO, WriteZeroes, 4096, Again, WriteZeroes, 4096),
            (ZERO_FUA, Punch, 0, Again, Sync, 8192),
            (ZERO_FUA, WriteZeroes, 8192, Again, Sync, 8192),
            (ZERO_FUA, Sync, 0, Done(Status::Ok), Sync, 0),
            (Op::Read, Read, errno(Errno::INTR), Again, Read, 0),
            (Op::Read, Read, errno(Errno::AGAIN), Later, Read, 0),
            (Op::Read, Read, errno(Errno::IO), Done(Status::Medium), Read, 0),
            (Op::Read, Read, errno(Errno::NODATA), Done(Status::Medium), Read, 0),
            (Op::Read, Read, errno(Errno::INVAL), Done(Status::Medium), Read, 0),
            (Op::Read, Read, errno(Errno::FAULT), Done(Status::Malformed), Read, 0),
            (Op::Read, Read, errno(Errno::CANCELED), Done(Status::Aborted), Read, 0),
            (WRITE, Write, errno(Errno::NOSPC), Done(Status::Capacity), Write, 0),
            (WRITE, Write, errno(Errno::DQUOT), Done(Status::Capacity), Write, 0),
            (WRITE, Write, errno(Errno::FBIG), Done(Status::Capacity), Write, 0),
            (WRITE, Write, errno(Errno::PERM), Done(Status::Protected), Write, 0),
            (WRITE, Write, errno(Errno::ROFS), Done(Status::Protected), Write, 0),
            (WRITE, Write, errno(Errno::OPNOTSUPP), Done(Status::Unsupported), Write, 0),
            (Op::Flush, Sync, errno(Errno::IO), Done(Status::Medium), Sync, 0),
            (Op::Flush, Sync, errno(Errno::NOSPC), Done(Status::Capacity), Sync, 0),
            (Op::Flush, Sync, errno(Errno::INTR), Done(Status::Medium), Sync, 0),
            (Op::Flush, Sync, errno(Errno::AGAIN), Done(Status::Medium), Sync, 0),
            (Op::Discard, Trim, errno(Errno::OPNOTSUPP), Again, Punch, 0),
            (Op::Discard, Punch, errno(Errno::OPNOTSUPP), Done(Status::Unsupported), Punch, 0),
            (UNMAP, Punch, errno(Errno::OPNOTSUPP), Again, ZeroRange, 0),
            (UNMAP, ZeroRange, errno(Errno::OPNOTSUPP), Again, WriteZeroes, 0),
            (ZERO, ZeroRange, errno(Errno::INVAL), Again, WriteZeroes, 0),
            (ZERO, WriteZeroes, errno(Errno::NOSPC), Done(Status::Capacity), WriteZeroes, 0),
            (Op::Read, Read, i32::MIN, Done(Status::Medium), Read, 0),
        ];
        for &(op, step, answer, next, then, done_bytes) in table {
            let mut job = job(op, step);
            let got = job.advance(answer);
            assert_eq!((got, job.step, job.done_bytes), (next, then, done_bytes), "{op:?} in {step:?} answered {answer}");
        }
    }

    #[test]
    fn a_short_transfer_is_continued_where_it_stopped() {
        let mut job = job(Op::Read, Step::Read);
        assert_eq!(job.advance(1536), Next::Again);
        assert_eq!((job.at(), job.left_bytes()), (65536 + 1536, 8192 - 1536));
        assert_eq!(job.advance(8192 - 1536), Next::Done(Status::Ok));
    }

    #[test]
    fn a_kernel_that_never_has_time_is_given_up_on_and_progress_starts_the_count_anew() {
        for (errno, patient) in [(Errno::AGAIN, Next::Later), (Errno::INTR, Next::Again)] {
            let mut job = job(WRITE, Step::Write);
            for _ in 0..ATTEMPTS_MAX {
                assert_eq!(job.advance(-errno.raw_os_error()), patient);
            }
            assert_eq!(job.advance(512), Next::Again);
            for _ in 0..ATTEMPTS_MAX {
                assert_eq!(job.advance(-errno.raw_os_error()), patient);
            }
            assert_eq!(job.advance(-errno.raw_os_error()), Next::Done(Status::Medium));
        }
    }

    #[test]
    #[should_panic(expected = "the kernel moves no more than it was asked to")]
    fn more_bytes_than_asked_for_stop_us() {
        job(Op::Read, Step::Read).advance(8704);
    }
}
