//! One run as a page that needs nothing beside itself, light or dark as the reader's system is. Knows no way to measure.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Report;
use crate::claims::{Finding, Target};
use crate::contest::Window;
use crate::cores::{self, Placement};
use crate::table::{Cell, Spread, cells, figure};

const STYLE: &str = include_str!("page.css");

/// The page.
pub(super) fn page(report: &Report<'_>) -> String {
    let mut out = String::new();
    let head = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>\
         <title>Spinel beside others</title><style>{STYLE}</style><h1>Spinel beside others</h1><p class=quiet>{}</p>",
        escaped(&about(report))
    );
    out.push_str(&head);
    if report.findings.iter().any(|found| found.busy) {
        out.push_str("<p class=warning>Other programs ran in every window of some rows: those compare little.</p>");
    }
    if !report.findings.is_empty() {
        out.push_str(&findings(&report.findings));
    }
    let mut scenarios: Vec<&str> = report.windows.iter().map(|window| window.scenario).collect();
    scenarios.dedup();
    for scenario in scenarios {
        out.push_str(&measured(scenario, &report.windows));
    }
    for (scenario, figures) in &report.figures {
        out.push_str(&format!("<h2>{}</h2>{}", escaped(scenario), figure_table(figures)));
    }
    out.push_str("</html>\n");
    out
}

/// Figures of a shape of their own: a row for each object, a column for each of its plain values.
fn figure_table(figures: &Value) -> String {
    let rows: Vec<&Map<String, Value>> = figures.as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    let plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
    let columns: Vec<&String> =
        rows.first().into_iter().flat_map(|row| row.iter()).filter(|(_, value)| plain(value)).map(|(name, _)| name).collect();
    let mut out = format!("<details><summary class=quiet>{} stretches, one by one</summary><div class=wide><table><thead><tr>", rows.len());
    for name in &columns {
        out.push_str(&format!("<th>{}", escaped(&name.replace('_', " "))));
    }
    out.push_str("</thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for name in &columns {
            let cell = match row.get(*name) {
                Some(Value::String(text)) => format!("<td>{}", escaped(text)),
                Some(Value::Number(number)) if number.is_f64() => format!("<td class=n>{}", figure(number.as_f64().unwrap_or(0.0))),
                Some(other) => format!("<td class=n>{}", escaped(&other.to_string())),
                None => "<td>".to_owned(),
            };
            out.push_str(&cell);
        }
    }
    out + "</tbody></table></div></details>"
}

fn about(report: &Report<'_>) -> String {
    let machine = &report.machine;
    let memory_gib = machine.memory_bytes >> 30;
    let quick = if report.quick { " Few and short windows (--quick)." } else { "" };
    format!(
        "{}, {} processors, {memory_gib} GiB, Linux {}; {}. Servers on core {}, clients on core {}; medians of interleaved windows with \
         the lowest and highest; ratios within rounds whose cores stood alike.{quick}",
        machine.processor,
        machine.processors,
        machine.kernel,
        date(report.ended_unix_s),
        report.cores.engine,
        report.cores.client,
    )
}

fn findings(findings: &[&Finding]) -> String {
    let mut out = "<h2>Rows and targets</h2><div class=wide><table><thead><tr><th>row<th>shape<th>cores<th>ours<th class=n><th>baseline\
                   <th class=n><th><th>ours to baseline<th class=n>ratio<th class=n>target<th></thead><tbody>"
        .to_owned();
    for found in findings {
        let class = match (found.met, found.busy) {
            (Some(true), false) => "met",
            (Some(false), false) => "behind",
            _ => "quiet",
        };
        let errors = if found.errors > 0 { format!(" {} errors", found.errors) } else { String::new() };
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td class=n>{}<td>{}<td class=n>{}<td>{}<td>{}<td class=n>{}<td class=n>{}<td class={class}>{}{errors}",
            found.row,
            escaped(&found.shape),
            found.placement.map(|placement| format!("{placement:?}").to_lowercase()).unwrap_or_default(),
            escaped(&found.ours),
            if found.pairs > 0 { figure(found.ours_value) } else { String::new() },
            escaped(&found.baseline),
            found.baseline_value.map(figure).unwrap_or_default(),
            escaped(found.unit),
            if found.baseline_value.is_some() { whisker(found.ratio, found.target) } else { String::new() },
            escaped(&found.ratio_words()),
            escaped(&found.target.words()),
            found.verdict(),
        );
    }
    out + "</tbody></table></div>"
}

/// A ratio on a scale of doublings from a quarter to four: a line from low to high, a dot at the median, ticks at 1 and at the target.
fn whisker(ratio: Spread, target: Target) -> String {
    let x = |value: f64| 90.0 + value.clamp(0.25, 4.0).log2() * 42.0;
    let wanted = match target {
        Target::AtLeast(least) => format!("<line class=target x1={0:.1} x2={0:.1} y1=2 y2=20 />", x(least)),
        Target::AtLeastBy { .. } | Target::Within(_) | Target::AtMost(_) | Target::Shown => String::new(),
    };
    format!(
        "<svg viewBox='0 0 180 22' width=180 height=22 role=img aria-label='{:.2}'><line class=axis x1=2 x2=178 y1=11 y2=11 />\
         <line class=one x1=90 x2=90 y1=4 y2=18 />{wanted}<line class=spread x1={:.1} x2={:.1} y1=11 y2=11 /><circle cx={:.1} cy=11 r=4 /></svg>",
        ratio.median,
        x(ratio.low),
        x(ratio.high),
        x(ratio.median),
    )
}

fn measured(scenario: &str, windows: &[&Window]) -> String {
    let own: Vec<Window> = windows.iter().filter(|window| window.scenario == scenario).map(|window| (*window).clone()).collect();
    let (chosen, busy) = cores::chosen(&own, |window| &window.around);
    let mut out = format!("<h2>{}</h2><p class=quiet>{} windows, {} of them used", escaped(scenario), own.len(), chosen.len());
    out.push_str(if busy { ", though others ran in all of them.</p>" } else { ".</p>" });
    for placement in [Placement::Near, Placement::Far] {
        let there = cells(&own, &cores::in_placement(&chosen, placement, |window| &window.around));
        if !there.is_empty() {
            let _ = write!(out, "<h3>{placement:?} cores</h3>");
            out.push_str(&cell_table(&there));
        }
    }
    out
}

fn cell_table(cells: &[Cell]) -> String {
    let mut out = "<div class=wide><table><thead><tr><th>work<th>disk<th>who<th>rate, beside the disk's best<th class=n>k/s\
                   <th class=n>low-high<th class=n>MiB/s<th class=n>p50 us<th class=n>p99 us<th class=n>p99.9 us<th class=n>CPU ns/IO\
                   <th class=n>n<th class=n>errors</thead><tbody>"
        .to_owned();
    for cell in cells {
        let best = cells
            .iter()
            .filter(|other| (other.work, other.device) == (cell.work, cell.device))
            .map(|other| other.per_second.median)
            .fold(0.0, f64::max);
        let rate = cell.per_second;
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td class=n>{}<td class=n>{}-{}<td class=n>{:.0}<td class=n>{}<td class=n>{}<td class=n>{}\
             <td class=n>{:.0}<td class=n>{}<td class=n>{}",
            escaped(cell.work),
            escaped(cell.device),
            escaped(cell.entrant),
            bar(cores::quotient(rate.median, best)),
            figure(rate.median / 1e3),
            figure(rate.low / 1e3),
            figure(rate.high / 1e3),
            cell.mib_per_second,
            figure(cell.p50_us),
            figure(cell.p99_us),
            figure(cell.p99_9_us),
            cell.cpu_ns,
            cell.windows,
            cell.errors,
        );
    }
    out + "</tbody></table></div>"
}

/// A bar of a share of its full length.
fn bar(share: f64) -> String {
    format!("<svg viewBox='0 0 180 14' width=180 height=14 role=presentation><rect width={:.1} height=14 rx=2 /></svg>", share * 180.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A day as people write it.
fn date(unix_s: u64) -> String {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut days) = (1970, unix_s / 86_400);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::cores::Cores;
    use crate::report::Machine;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let dates = [0, 951_782_400, 951_868_800, 1_798_675_200, 1_798_761_599].map(date);
        assert_eq!(dates, ["1970-01-01", "2000-02-29", "2000-03-01", "2026-12-31", "2026-12-31"]);
    }

    #[test]
    fn a_page_loads_nothing_and_takes_no_figure_for_markup() {
        let machine = Machine { processor: "<b>fast</b>".to_owned(), processors: 2, memory_bytes: 1 << 30, kernel: "6.18".to_owned() };
        let figures = json!([{"name": "<i>idle</i>", "percent": 0.5, "reads": 3, "more": {"a": 1}}]);
        let report = Report {
            version: 1,
            ended_unix_s: 0,
            machine,
            cores: Cores { engine: 0, client: 1 },
            disk_cores: &[],
            quick: true,
            findings: Vec::new(),
            windows: Vec::new(),
            figures: BTreeMap::from([("m2", &figures)]),
        };
        let page = page(&report);
        assert!(page.contains("&lt;b&gt;fast") && page.contains("&lt;i&gt;idle") && page.contains("<td class=n>0.5000<td class=n>3"));
        assert!(["<b>", "<i>", "<script", "http", "<th>more"].iter().all(|bad| !page.contains(bad)), "{page}");
    }
}
