//! The testbed itself: the ways in which a guest can end are told apart. No disk, no daemon.

use crate::{Bench, Failure, Findings, claim};
use spinel_testbed::clock::Deadline;
use spinel_testbed::guest::GuestError;

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let end = |name: &str, script: &str| -> Result<_, Failure> {
        Ok(bench.boot(name, 1, Vec::new(), script.to_owned())?.finish(Deadline::after_s(60)))
    };
    let mut claims = end("testbed-passes", "claim 'a script that passes passes' true\nconclude")??;
    let fails = end("testbed-fails", "claim 'nonsense' false\nconclude")??;
    let crashed = |ended: &Result<_, _>| matches!(ended, Err(GuestError::Crashed { emulator_panic: false, .. }));
    let powers_off = end("testbed-powers-off", "sync; poweroff -f")?;
    let panics = end("testbed-panics", "echo c >/proc/sysrq-trigger")?;
    claims.push(claim("a claim that does not hold is reported as such", fails == [claim("nonsense", false)]));
    claims.push(claim("a guest that powers off has crashed", crashed(&powers_off)));
    claims.push(claim("a guest that panics has crashed", crashed(&panics)));
    Ok(Findings { claims, ..Findings::default() })
}
