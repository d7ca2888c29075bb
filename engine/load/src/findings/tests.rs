//! What is merged, what is renamed, and how it reads.

use super::*;
use crate::stamp::Stamp;

fn stamp(lba: u64, sequence: u64) -> Found {
    Found::Stamped(Stamp { volume: 9, lba, writer: 0, epoch: 0, sequence, start: lba, sectors: 1 })
}

fn lost(sector: u64, sequence: u64) -> Violation {
    Violation { sector, wrong: Wrong::Lost, found: stamp(sector, 70), missing: Some(sequence) }
}

fn astray(sector: u64, lba: u64, sequence: u64) -> Violation {
    Violation { sector, wrong: Wrong::Misdirected { lba }, found: stamp(lba, sequence), missing: None }
}

fn said(violations: &[Violation]) -> (Vec<String>, Findings) {
    let mut findings = Findings::default();
    violations.iter().for_each(|violation| findings.note(*violation));
    (findings.kept.iter().map(ToString::to_string).collect(), findings)
}

#[test]
fn each_kind_of_damage_has_a_sentence() {
    let violation = |wrong, found, missing| Violation { sector: 1234, wrong, found, missing };
    for (violation, sentence) in [
        (astray(1234, 1300, 77), "misdirected write: holds what was written to sector 1300 by write 77"),
        (lost(1234, 78), "lost write: write 78 was acknowledged, and what is there is still write 70"),
        (violation(Wrong::Lost, Found::Zeroes, Some(78)), "lost write: write 78 was acknowledged, and what is there is still zeroes"),
        (violation(Wrong::Stale, stamp(1234, 70), Some(78)), "stale read: returned write 70, although write 78 is there"),
        (
            violation(Wrong::Torn, stamp(1234, 70), Some(78)),
            "torn write: write 78 was acknowledged as a whole, this part of it still holds write 70",
        ),
        (violation(Wrong::Torn, Found::Torn { at: 200 }, None), "torn write: from byte 200 of the sector on it is of another write"),
        (
            violation(Wrong::Rotten { at: 333 }, Found::Rotten { at: 333 }, Some(78)),
            "rotten data: from byte 333 of the sector on, single bytes have changed; write 78 should be there",
        ),
        (
            violation(Wrong::Foreign { volume: 9 }, stamp(5, 1), None),
            "foreign data: holds what was written to sector 5 of volume 0000000000000009",
        ),
        (
            violation(Wrong::Uninitialised, Found::Untouched, Some(3 << JOB_SEQUENCE_BITS | 78)),
            "uninitialised: the read ended well and did not fill its memory; write 78 of job 4 should be there",
        ),
        (violation(Wrong::Strange, Found::Strange, None), "strange data: holds what nobody wrote here"),
    ] {
        assert_eq!(said(&[violation]).0, [format!("sector 1234 (byte 631808): {sentence}")]);
    }
}

#[test]
fn neighbours_and_repetitions_are_one_finding_and_all_are_counted() {
    let (words, findings) =
        said(&[lost(8, 5), lost(9, 5), lost(10, 5), lost(9, 5), lost(11, 6), astray(20, 30, 1), astray(21, 31, 1), astray(22, 33, 1)]);
    assert_eq!(words.len(), 4);
    assert_eq!(
        words[0],
        "sectors 8 to 10 (from byte 4096): lost write: write 5 was acknowledged, and what is there is still write 70 (found 4 times)"
    );
    assert!(words[2].starts_with("sectors 20 to 21 (from byte 10240): misdirected write: holds what was written to sector 30 "));
    assert_eq!((findings.violations(), findings.by_name[wrong_index(Wrong::Lost)]), (8, 5));
    let (words, _) = said(&[lost(8, 5), Violation { found: stamp(9, 60), ..lost(9, 5) }]);
    assert_eq!(words, ["sectors 8 to 9 (from byte 4096): lost write: write 5 was acknowledged, and what is there is still older data"]);
}

#[test]
fn both_ends_of_a_misdirected_write_are_named_in_either_order() {
    let ends = [lost(8, 5), lost(9, 5), astray(12, 8, 5), astray(13, 9, 5), lost(8, 5)];
    for order in [[0, 1, 2, 3, 4], [2, 3, 0, 1, 4]] {
        let (words, findings) = said(&order.map(|index| ends[index]));
        assert!(
            words
                .iter()
                .any(|words| words.starts_with("sectors 8 to 9 ")
                    && words.contains("write 5 was acknowledged, and lies at sector 12 instead")),
            "{words:?}"
        );
        assert_eq!((findings.violations(), findings.by_name[wrong_index(Wrong::Lost)], words.len()), (5, 0, 2));
    }
}

#[test]
fn only_the_first_are_kept_in_words() {
    let many: Vec<Violation> = (0..100).map(|index| lost(10 * index, index + 1)).collect();
    let (words, mut findings) = said(&many);
    assert_eq!((words.len(), findings.violations()), (FINDINGS_KEPT, 100));
    let other = findings.clone();
    findings.add(&other);
    assert_eq!((findings.kept.len(), findings.violations()), (FINDINGS_KEPT, 200));
    findings.reconsider(|violation| Violation { wrong: Wrong::Stale, ..violation });
    assert_eq!(findings.violations(), 200);
}
