//! Channels that break the contract, and what a load says of them.

use spinel_core::{Armed, Channel, Completion, Completions, Core, Device, Geometry, Instant, OpenError, Request, Status};
use spinel_sim::{Checker, DiskOptions, Failure, Load, LoadOptions, Prng, Rig, SimDisk, Wrong};

#[derive(Clone, Copy, PartialEq)]
enum Sin {
    /// Says that something will wake the core, when nothing will.
    SleepsOnWork,
    /// Completes a request a second time.
    CompletesTwice,
    /// Answers reads without doing them.
    SkipsReads,
}

struct Sinner {
    disk: SimDisk,
    sin: Sin,
}

struct SinfulChannel {
    child: Box<dyn Channel>,
    sin: Sin,
    owed: Vec<Completion>,
}

impl Device for Sinner {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        Ok(Box::new(SinfulChannel { child: self.disk.open(core, depth)?, sin: self.sin, owed: Vec::new() }))
    }
}

impl Channel for SinfulChannel {
    fn room(&self) -> usize {
        self.child.room()
    }

    fn submit(&mut self, request: Request<'_>) {
        if self.sin == Sin::SkipsReads && !request.op.changes_data() && !request.segments.is_empty() {
            self.owed.push(Completion { tag: request.tag, status: Status::Ok });
        } else {
            self.child.submit(request);
        }
    }

    fn kick(&mut self) {
        self.child.kick();
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        while done.room() > 0
            && let Some(completion) = self.owed.pop()
        {
            done.push(completion);
        }
        let before = done.as_slice().len();
        self.child.poll(now, done);
        if self.sin == Sin::CompletesTwice {
            self.owed.extend_from_slice(&done.as_slice()[before..]);
        }
    }

    fn arm(&mut self) -> Armed {
        if self.sin == Sin::SleepsOnWork { Armed::Idle } else { self.child.arm() }
    }
}

fn judge(sin: Sin) -> Failure {
    let mut rig = Rig::new(Prng::new(1), 1 << 20);
    let device = Sinner { disk: SimDisk::new(DiskOptions::default(), Prng::new(2)), sin };
    let checker = Checker::new(1, &device.geometry());
    let mut load = Load::open(&mut rig, &device, checker, LoadOptions::default(), Prng::new(3)).unwrap();
    load.fill(&mut rig).and_then(|()| load.sweep(&mut rig)).unwrap_err()
}

#[test]
fn a_core_that_sleeps_on_work_is_found() {
    let failure = judge(Sin::SleepsOnWork);
    assert!(matches!(failure, Failure::LostWakeUp { in_flight: 1.., .. }), "{failure}");
}

#[test]
fn a_second_completion_is_found() {
    let failure = judge(Sin::CompletesTwice);
    assert!(matches!(failure, Failure::Unasked(_)), "{failure}");
}

#[test]
fn a_buffer_that_no_read_has_filled_is_found() {
    let failure = judge(Sin::SkipsReads);
    assert!(matches!(failure, Failure::Violation(violation) if violation.wrong == Wrong::Uninitialised), "{failure}");
}
