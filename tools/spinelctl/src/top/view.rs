//! A frame as lines of text that fit where they go. It refuses to know terminals.

use super::frame::{Core, Disk, Frame};
use crate::table::{Table, printable};
use spinel_units::{bandwidth, count, percent, time};

/// The columns of the disks, the most telling first: a narrow screen shows as many as it can.
const DISK_COLUMNS: [&str; 10] =
    ["DISK", ">IOPS", ">BANDWIDTH", ">P50", ">P99", ">IN FLIGHT", ">READS/s", ">WRITES/s", ">READ", ">WRITTEN"];
const CORE_COLUMNS: [&str; 4] = ["CORE", ">BUSY", ">SPIN", ">SLEEP"];

/// The longest name that a screen shows whole, in characters.
const NAME_MAX: usize = 24;

/// The whole frame, for scripts and files.
pub(super) fn text(frame: &Frame) -> String {
    let cores = core_lines(frame.cores.iter(), usize::MAX);
    let disks = disk_lines(&frame.disks, usize::MAX, usize::MAX);
    let lines: Vec<String> = cores.into_iter().chain([String::new()]).chain(disks).collect();
    lines.join("\n")
}

/// As much of the frame as `height` lines of `width` characters hold; the first line is a title.
pub(super) fn screen(frame: &Frame, title: &str, width: usize, height: usize) -> Vec<String> {
    let mut lines = vec![printable(title)];
    // The cores may take a third; if they need more, they get one line in all.
    if frame.cores.len() < (height / 3).max(2) {
        lines.extend(core_lines(frame.cores.iter(), width));
    } else {
        lines.push(all_cores(&frame.cores));
    }
    let room = height.saturating_sub(lines.len() + 1);
    // A line for the headings, and one to say how many are not shown.
    let rows = if frame.disks.len() < room { frame.disks.len() } else { room.saturating_sub(2) };
    lines.push(String::new());
    if frame.disks.is_empty() {
        lines.push("no disks".into());
    } else {
        lines.extend(disk_lines(&frame.disks, rows, width));
    }
    if rows < frame.disks.len() {
        lines.push(format!("and {} more disks", frame.disks.len() - rows));
    }
    lines.truncate(height);
    lines.iter().map(|line| line.chars().take(width).collect()).collect()
}

fn core_lines<'a>(cores: impl Iterator<Item = &'a Core>, width: usize) -> Vec<String> {
    let rows: Vec<Vec<String>> = cores
        .map(|core| {
            let (spin, sleep) = core.usage.shown_idle();
            vec![core.core.to_string(), percent(core.usage.busy), spin, sleep]
        })
        .collect();
    fitting(&CORE_COLUMNS, &rows, width)
}

fn all_cores(cores: &[Core]) -> String {
    let mean = |share: fn(&Core) -> f64| percent(cores.iter().map(share).sum::<f64>() / cores.len().max(1) as f64);
    let (busy, spin, sleep) = (
        mean(|core| core.usage.busy),
        mean(|core| core.usage.spin.unwrap_or(core.usage.idle)),
        mean(|core| core.usage.sleep.unwrap_or(0.0)),
    );
    format!("{} cores: busy {busy}, spinning {spin}, asleep {sleep}", cores.len())
}

fn disk_lines(disks: &[Disk], rows: usize, width: usize) -> Vec<String> {
    let row = |disk: &Disk| {
        let shown = |ns: Option<u64>| ns.map_or_else(|| "-".into(), time);
        vec![
            if width == usize::MAX { disk.name.clone() } else { shortened(&disk.name) },
            count(disk.iops),
            bandwidth(disk.bytes()),
            shown(disk.p50_ns),
            shown(disk.p99_ns),
            disk.in_flight.map_or_else(|| "-".into(), |in_flight| in_flight.to_string()),
            count(disk.reads),
            count(disk.writes),
            bandwidth(disk.read_bytes),
            bandwidth(disk.write_bytes),
        ]
    };
    let rows: Vec<Vec<String>> = disks.iter().take(rows).map(row).collect();
    fitting(&DISK_COLUMNS, &rows, width)
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME_MAX) {
        Some(_) => name.chars().take(NAME_MAX - 1).chain(['~']).collect(),
        None => name.to_owned(),
    }
}

/// A table of as many of the columns, from the left, as fit; of one at least.
fn fitting(columns: &[&str], rows: &[Vec<String>], width: usize) -> Vec<String> {
    for shown in (1..=columns.len()).rev() {
        let mut table = Table::new(&columns[..shown]);
        rows.iter().for_each(|row| table.row(&row[..shown]));
        let lines: Vec<String> = table.lines().collect();
        if shown == 1 || lines.iter().all(|line| line.chars().count() <= width) {
            return lines;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::{Disk, Frame, screen, text};
    use crate::top::frame::Core;
    use crate::verbs::Usage;

    fn frame(cores: u64, disks: usize) -> Frame {
        let usage = Usage { busy: 0.123, idle: 0.877, spin: Some(0.0004), sleep: Some(0.8766), loops: None };
        let disk = |index| Disk {
            name: format!("disk{index:02}"),
            iops: 1234.0,
            reads: 1000.0,
            writes: 234.0,
            read_bytes: 4_096_000.0,
            write_bytes: 958_464.0,
            p50_ns: Some(12_345),
            p99_ns: Some(1_234_567),
            in_flight: Some(32),
        };
        Frame { cores: (0..cores).map(|core| Core { core, usage }).collect(), disks: (0..disks).map(disk).collect() }
    }

    #[test]
    fn a_wide_screen_shows_everything() {
        let lines = screen(&frame(1, 1), "title", 120, 30);
        let expected = [
            "title",
            "CORE    BUSY     SPIN   SLEEP",
            "0     12.3 %  0.040 %  87.7 %",
            "",
            "DISK     IOPS  BANDWIDTH      P50      P99  IN FLIGHT  READS/s  WRITES/s      READ   WRITTEN",
            "disk00  1.23k  5.05 MB/s  12.3 us  1.23 ms         32       1k       234  4.1 MB/s  958 kB/s",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_narrow_screen_leaves_out_whole_columns_from_the_right() {
        let lines = screen(&frame(1, 1), "title", 46, 30);
        assert_eq!(lines[5], "disk00  1.23k  5.05 MB/s  12.3 us  1.23 ms");
        let lines = screen(&frame(1, 1), "title", 20, 30);
        assert_eq!(lines[5], "disk00  1.23k");
    }

    #[test]
    fn nothing_is_ever_larger_than_the_screen() {
        for width in (0..100).step_by(7) {
            for height in (0..40).step_by(3) {
                for (cores, disks) in [(1, 0), (2, 1), (64, 50)] {
                    let lines = screen(&frame(cores, disks), "a title of some length", width, height);
                    assert!(lines.len() <= height, "{} lines in {height}", lines.len());
                    assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {lines:?}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let lines = screen(&frame(64, 50), "title", 120, 24);
        assert_eq!(lines[1], "64 cores: busy 12.3 %, spinning 0.040 %, asleep 87.7 %");
        assert_eq!(lines.len(), 24);
        assert_eq!(lines[23], "and 31 more disks");
        let shown = lines.iter().filter(|line| line.starts_with("disk")).count();
        assert_eq!(shown, 50 - 31);
        assert_eq!(text(&frame(64, 50)).lines().count(), 65 + 1 + 51);
    }

    #[test]
    fn a_long_name_is_shortened_on_a_screen_and_whole_in_text() {
        let mut frame = frame(1, 1);
        frame.disks[0].name = "n".repeat(100);
        assert!(screen(&frame, "", 80, 24)[5].starts_with(&format!("{}~ ", "n".repeat(23))));
        assert!(text(&frame).contains(&"n".repeat(100)));
    }
}
