//! Volumes and what they answered: what is accepted, and what each violation is called.

use super::*;
use proptest::prelude::*;
use spinel_core::Features;

use crate::judge::UNTOUCHED;
use crate::register::Register;

fn geometry(write_cache: bool) -> Geometry {
    Geometry {
        block_bytes: 512,
        block_count: 16,
        memory_align_bytes: 1,
        segments_max: 8,
        transfer_max_bytes: 1 << 16,
        physical_block_bytes: 512,
        write_cache,
        read_only: false,
        features: Features::default(),
    }
}

fn checker(write_cache: bool) -> Checker {
    Checker::new(3, &geometry(write_cache))
}

/// Writes four blocks from 4 and answers their bytes.
fn write(checker: &mut Checker, status: Status) -> Vec<u8> {
    let (write, bytes) = checker.begin_write(1, Lba(4), 4, false);
    checker.end_write(write, status);
    bytes
}

fn read(checker: &mut Checker, bytes: &[u8]) -> Result<(), (u64, Wrong)> {
    let blocks = u32::try_from(bytes.len() / SECTOR_BYTES).unwrap();
    let read = checker.begin_read(Lba(4), blocks);
    checker.end_read(read, Status::Ok, bytes).map_err(|violation| (violation.sector, violation.wrong))
}

#[test]
fn each_violation_is_called_by_its_name() {
    let mut judge = checker(true);
    let old = write(&mut judge, Status::Ok);
    let new = write(&mut judge, Status::Ok);
    assert_eq!(read(&mut judge, &old), Err((4, Wrong::Lost)), "acknowledged, and never seen");
    let half = [&new[..1024], &old[1024..]].concat();
    assert_eq!(read(&mut judge, &half), Err((6, Wrong::Torn)), "half of it has been seen now");
    assert_eq!(read(&mut judge, &old), Err((4, Wrong::Stale)), "the new was read before");
    assert_eq!(read(&mut judge, &[0; 512]), Err((4, Wrong::Stale)));
    let shifted = [&new[512..1024], &new[512..]].concat();
    assert_eq!(read(&mut judge, &shifted), Err((4, Wrong::Misdirected { lba: 5 })));
    assert_eq!(read(&mut judge, &[UNTOUCHED; 512]), Err((4, Wrong::Uninitialised)));
    assert_eq!(read(&mut judge, &[0x55; 512]), Err((4, Wrong::Strange)));
    let (_, foreign) = Checker { volume: 4, ..checker(true) }.begin_write(1, Lba(4), 1, false);
    assert_eq!(read(&mut judge, &foreign), Err((4, Wrong::Foreign { volume: 4 })));
    assert_eq!(read(&mut judge, &new), Ok(()));
    let mut fresh = checker(true);
    write(&mut fresh, Status::Ok);
    assert_eq!(read(&mut fresh, &[0; 512]), Err((4, Wrong::Lost)), "the zeroes were there before");
}

/// A checker of blocks 4 to 11 of which nothing is known.
fn of_an_old_disk() -> Checker {
    Checker::over(3, &geometry(true), 4..12, Initial::Unknown).without_power_cuts()
}

#[test]
fn what_an_old_disk_holds_is_learnt_by_the_first_read_and_has_to_stay() {
    let mut judge = of_an_old_disk();
    assert_eq!(read(&mut judge, &[7; 512]), Ok(()));
    assert_eq!(read(&mut judge, &[7; 512]), Ok(()));
    assert_eq!(read(&mut judge, &[8; 512]), Err((4, Wrong::Strange)), "nobody has written");
    let bytes = write(&mut judge, Status::Ok);
    assert_eq!(read(&mut judge, &[7; 512]), Err((4, Wrong::Lost)), "it is as if nobody had written");
    assert_eq!(read(&mut judge, &bytes), Ok(()));
    assert_eq!(read(&mut judge, &[7; 512]), Err((4, Wrong::Stale)));
    let mut judge = of_an_old_disk();
    let (_, other) = of_an_old_disk().begin_write(1, Lba(5), 1, false);
    assert_eq!(read(&mut judge, &other), Err((4, Wrong::Misdirected { lba: 5 })), "stamps of this volume are never old");
    assert_eq!(read(&mut judge, &bytes[..512]), Err((4, Wrong::Strange)));
}

#[test]
fn after_a_discard_anything_is_right_until_the_next_write() {
    let mut judge = of_an_old_disk();
    let old = write(&mut judge, Status::Ok);
    let discard = judge.begin_discard(Lba(4), 4);
    judge.end_write(discard, Status::Ok);
    assert_eq!((read(&mut judge, &[9; 512]), read(&mut judge, &old), read(&mut judge, &[0; 512])), (Ok(()), Ok(()), Ok(())));
    write(&mut judge, Status::Ok);
    assert_eq!(read(&mut judge, &old), Err((4, Wrong::Lost)));
}

#[test]
fn a_lost_write_turns_out_stale_or_torn_when_it_is_seen_later() {
    let mut judge = of_an_old_disk();
    let old = write(&mut judge, Status::Ok);
    let new = write(&mut judge, Status::Ok);
    let mut violations = Vec::new();
    let reading = judge.begin_read(Lba(4), 1);
    judge.end_read_each(reading, Status::Ok, &old[..512], |violation| violations.push(violation));
    let &[lost] = &violations[..] else { panic!("{violations:?}") };
    assert_eq!((lost.wrong, judge.reconsider(lost).wrong), (Wrong::Lost, Wrong::Lost));
    let reading = judge.begin_read(Lba(5), 3);
    judge.end_read(reading, Status::Ok, &new[512..]).unwrap();
    assert_eq!(judge.reconsider(lost).wrong, Wrong::Torn);
    read(&mut judge, &new).unwrap();
    assert_eq!(judge.reconsider(lost).wrong, Wrong::Stale);
}

#[test]
fn only_what_is_under_way_has_registers() {
    let mut judge = of_an_old_disk();
    let slow = judge.begin_read(Lba(4), 2);
    for _ in 0..100 {
        let (write, _) = judge.begin_write(1, Lba(4), 8, false);
        assert!(judge.sectors.busy() == 8);
        judge.end_write(write, Status::Ok);
        assert_eq!(judge.sectors.busy(), 2, "the slow read may still return what was there before");
    }
    judge.end_read(slow, Status::Ok, &[9; 1024]).unwrap();
    let bytes = write(&mut judge, Status::Ok);
    read(&mut judge, &bytes).unwrap();
    assert_eq!(judge.sectors.busy(), 0);
    for _ in 0..10 * VERSIONS_MAX {
        write(&mut judge, Status::Medium);
    }
    assert!(judge.sectors.busy() <= 4 && judge.not_judged() > 0, "a disk that fails all writes takes no memory");
    assert_eq!(read(&mut judge, &[1; 512]), Ok(()), "and is not judged where it did");
}

/// One step of a random history on few sectors.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin {
        reads: bool,
        start: u64,
        count: u32,
    },
    /// Ends the oldest but so many; a read returns the sectors as of so many writes ago.
    End {
        which: usize,
        fails: bool,
        age: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let begin = (any::<bool>(), 0..6_u64, 1..3_u32).prop_map(|(reads, start, count)| Step::Begin { reads, start, count });
    let end = (0..4_usize, 0..8_u8, 0..4_usize).prop_map(|(which, fails, age)| Step::End { which, fails: fails == 0, age });
    proptest::collection::vec(prop_oneof![begin, end], 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn settling_changes_no_verdict(steps in steps()) {
        let mut judge = checker(false);
        // Registers that are never settled.
        let mut plain = vec![Register::new(); 8];
        plain.iter_mut().for_each(|register| register.reset(Settled::initial(Some(Value::Zeroes))));
        let mut history: Vec<Vec<Vec<u8>>> = vec![vec![vec![0; 512]]; 8];
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Begin { reads: true, start, count } => reads.push(judge.begin_read(Lba(start), count)),
                Step::Begin { reads: false, start, count } => {
                    let (write, bytes) = judge.begin_write(1, Lba(start), count, false);
                    for (sector, bytes) in (usize::try_from(start).unwrap()..).zip(bytes.chunks(512)) {
                        history[sector].push(bytes.to_vec());
                        plain[sector].begin_write(write.sequence, Value::Stamp(write.sequence), false, judge.now);
                    }
                    writes.push(write);
                }
                Step::End { which, fails, .. } if which % 2 == 0 && which / 2 < writes.len() => {
                    let write = writes.remove(which / 2);
                    let range = usize::try_from(write.start).unwrap()..usize::try_from(write.start + write.sectors).unwrap();
                    let sequence = write.sequence;
                    judge.end_write(write, if fails { Status::Medium } else { Status::Ok });
                    let end = if fails { End::Failed(judge.now) } else { End::Done(judge.now) };
                    plain[range].iter_mut().for_each(|register| register.end_write(sequence, end, 0, judge.stability));
                }
                Step::End { which, age, .. } if which / 2 < reads.len() => {
                    let reading = reads.remove(which / 2);
                    let (begin, sectors) = (reading.begin, reading.start..reading.start + reading.sectors);
                    let sectors = sectors.map(|sector| usize::try_from(sector).unwrap());
                    let old = |sector: usize| &history[sector][history[sector].len().saturating_sub(1 + age)];
                    let bytes: Vec<u8> = sectors.clone().flat_map(old).copied().collect();
                    let mut wrong = Vec::new();
                    judge.end_read_each(reading, Status::Ok, &bytes, |violation| wrong.push(violation.sector));
                    let refused = sectors.filter(|sector| {
                        let value = match Stamp::decode(old(*sector)) {
                            Found::Stamped(stamp) => Value::Stamp(stamp.sequence),
                            _ => Value::Zeroes,
                        };
                        plain[*sector].end_read(value, begin, judge.now).is_err()
                    });
                    prop_assert_eq!(wrong, refused.map(|sector| u64::try_from(sector).unwrap()).collect::<Vec<_>>());
                }
                Step::End { .. } => {}
            }
        }
    }
}

#[test]
fn a_flush_makes_stable_what_ended_before_it_began() {
    for (flush_status, survives) in [(Status::Ok, true), (Status::Medium, false)] {
        let mut judge = checker(true);
        let bytes = write(&mut judge, Status::Ok);
        let flush = judge.begin_flush();
        judge.end_flush(flush, flush_status);
        judge.cut_power();
        assert_eq!(read(&mut judge, &[0; 512]).is_err(), survives);
        assert_eq!(read(&mut judge, &bytes).is_ok(), survives, "the read before has pinned the zeroes");
    }
}

#[test]
fn without_a_cache_everything_acknowledged_stays() {
    let mut judge = checker(false);
    write(&mut judge, Status::Ok);
    judge.cut_power();
    assert_eq!(read(&mut judge, &[0; 512]), Err((4, Wrong::Lost)));
}

#[test]
fn a_failed_write_is_there_or_not_but_does_not_change_its_mind() {
    let mut judge = checker(true);
    let old = write(&mut judge, Status::Ok);
    let failed = write(&mut judge, Status::Medium);
    let half = [&failed[..1024], &old[1024..]].concat();
    assert_eq!(read(&mut judge, &half), Ok(()), "each sector for itself");
    assert_eq!(read(&mut judge, &half), Ok(()));
    assert_eq!(read(&mut judge, &failed), Err((6, Wrong::Stale)), "it had settled when the error was returned");
}

#[test]
fn a_failed_read_is_not_looked_at_and_everything_is_counted() {
    let mut judge = checker(true);
    let bytes = write(&mut judge, Status::Ok);
    let failed = judge.begin_read(Lba(4), 4);
    judge.end_read(failed, Status::Medium, &[]).unwrap();
    read(&mut judge, &bytes).unwrap();
    let flush = judge.begin_flush();
    judge.end_flush(flush, Status::Ok);
    let zeroes = judge.begin_zeroes(Lba(4), 2, false);
    judge.end_write(zeroes, Status::Ok);
    read(&mut judge, &[0; 1024]).unwrap();
    judge.cut_power();
    assert_eq!(judge.checked(), Checked { sectors_read: 6, stamps_read: 4, writes: 2, flushes: 1, failures: 1, cuts: 1 });
}
