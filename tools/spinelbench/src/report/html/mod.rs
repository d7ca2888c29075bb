//! Reports as one page for a browser, which needs nothing but itself. Knows no figure but those of reports.

mod data;

use std::fmt::{self, Display, Formatter};

use spinel_units::{count, size, time};

use super::compare::{self, Entry, Verdict};
use super::words::{self, KINDS, bandwidth, whole};
use super::{Outcome, Report};
use data::Sweep;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A cut stone: the mark of the project.
const MARK: &str = r#"<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M7 3h10l5 7-10 12L2 10z" fill="none" stroke="var(--c6)" stroke-width="1.8" stroke-linejoin="round"/><path d="M2 10h20M7 3l5 19 5-19M7 3l5 7 5-7" fill="none" stroke="var(--c6)" stroke-width="1" stroke-linejoin="round" opacity=".7"/></svg>"#;

/// Nothing is loaded from anywhere, whatever a report holds.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Text that means nothing to a browser but itself.
struct Safe<'a>(&'a str);

impl Display for Safe<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() => f.write_str("\u{fffd}")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

/// All runs of all reports in one page. Several are compared; the first is the base.
#[must_use]
pub fn page(reports: &[Report]) -> String {
    let entries = compare::every_run(reports);
    let sweeps = data::sweeps(reports);
    let title = title(&entries, &sweeps);
    let mut body = String::new();
    body.push_str(&header(&title, &entries, reports));
    body.push_str(&warnings(&entries));
    if let [entry] = &entries[..] {
        body.push_str(&cards(entry));
    }
    for sweep in &sweeps {
        body.push_str(&sweep_table(sweep));
    }
    body.push_str(&figures(&entries, &sweeps));
    body.push_str(&comparison(reports, &entries, &sweeps));
    body.push_str("<div id=\"charts\"></div>\n<noscript><section>The charts are drawn by a script in this page, and scripts are switched off. The tables have the figures.</section></noscript>\n");
    body.push_str(&facts(&entries, reports));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
        <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
        <script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        title = Safe(&title),
        data = data::script(&entries, &sweeps),
    )
}

fn title(entries: &[Entry<'_>], sweeps: &[Sweep<'_>]) -> String {
    match (entries, sweeps) {
        ([], _) => "No runs".to_owned(),
        ([only], _) => words::name_and_target(&only.label, &only.run.target),
        (_, [sweep]) if sweep.report.runs.len() == entries.len() => format!("Sweep of {}", sweep.report.runs[0].target),
        ([first @ .., last], []) if entries.len() <= 4 => {
            let first: Vec<&str> = first.iter().map(|entry| entry.label.as_str()).collect();
            format!("{} and {}", first.join(", "), last.label)
        }
        (_, []) => format!("{} and {} others", entries[0].label, entries.len() - 1),
        (_, [_]) => format!("A sweep and {} other runs", entries.len() - sweeps[0].report.runs.len()),
        _ => format!("{} sweeps: {} runs in all", sweeps.len(), entries.len()),
    }
}

fn header(title: &str, entries: &[Entry<'_>], reports: &[Report]) -> String {
    let tool = reports.first().map_or("spinelbench", |report| &report.tool);
    let when = entries.iter().map(|entry| entry.run.started_unix_ms).min().map(words::date).unwrap_or_default();
    let lead = match entries {
        [Entry { run, .. }] => format!("{}; {}, {}", words::job(&run.job, run.cores.len()), words::cores(&run.cores), words::length(run)),
        // Where they differ, "What ran" says how.
        _ => String::new(),
    };
    format!(
        "<header><div class=\"mark\">{MARK}<span>{} &middot; {}</span></div><h1>{}</h1><p class=\"lead\">{}</p></header>\n",
        Safe(tool),
        Safe(&when),
        Safe(title),
        Safe(&lead),
    )
}

/// Errors, wrong data and early ends, before everything else.
fn warnings(entries: &[Entry<'_>]) -> String {
    let of = |entry: &Entry<'_>| -> Vec<String> {
        let prefix = if entries.len() > 1 { format!("{}: ", entry.label) } else { String::new() };
        // In a sweep, falling behind is what is looked for, and its table says where it was found.
        let behind = words::behind(entry.run).filter(|_| !words::is_sweep(entry.report));
        words::warnings(entry.run)
            .into_iter()
            .chain(behind)
            .map(|warning| format!("<li>{}</li>", Safe(&format!("{prefix}{warning}"))))
            .collect()
    };
    let items: Vec<String> = entries.iter().flat_map(of).collect();
    if items.is_empty() {
        return String::new();
    }
    format!("<section class=\"warn\"><h2>Read with care</h2><ul>{}</ul></section>\n", items.join(""))
}

fn cards(entry: &Entry<'_>) -> String {
    let run = entry.run;
    let (all, latency) = (&run.all, &run.all.latency);
    let ns = |ns: u64| if all.requests == 0 { "-".to_owned() } else { time(ns) };
    let per_request = |ns: u64| ns_per(ns, all.requests);
    let target = run
        .server_cpu_ns
        .map_or("no other process was measured".to_owned(), |ns| format!("and {} in the target's process", per_request(ns)));
    let cards = [
        ("Requests per second", count(all.iops), format!("{} in {}", count(all.requests as f64), time(run.took_ns))),
        ("Bandwidth", bandwidth(all.bandwidth), format!("{} in all", size(all.bytes))),
        ("Median latency", ns(latency.p50_ns), format!("mean {}, min {}", ns(whole(latency.mean_ns)), ns(latency.min_ns))),
        ("p99", ns(latency.p99_ns), format!("p90 {}", ns(latency.p90_ns))),
        ("p99.9", ns(latency.p99_9_ns), format!("p99.99 {}", ns(latency.p99_99_ns))),
        ("Longest", ns(latency.max_ns), format!("deviation {}", ns(whole(latency.stdev_ns)))),
        ("CPU per request", per_request(run.client_cpu_ns), target),
    ];
    let mut text: String = cards.iter().map(|(name, value, more)| card(name, &split_unit(value), more, "")).collect();
    let share = words::share(all.errors as f64, all.requests as f64);
    let class = if all.errors > 0 { " class=\"bad\"" } else { "" };
    text.push_str(&card("Errors", &count(all.errors as f64), &format!("{share} of all requests"), class));
    format!("<dl class=\"cards\">{text}</dl>\n")
}

fn card(name: &str, value: &str, more: &str, class: &str) -> String {
    format!("<div class=\"card\"><dt>{name}</dt><dd{class}>{value}</dd><p>{more}</p></div>")
}

/// A number in large, its unit in small.
fn split_unit(text: &str) -> String {
    text.split_once(' ').map_or(text.to_owned(), |(number, unit)| format!("{number} <small>{unit}</small>"))
}

fn ns_per(ns: u64, requests: u64) -> String {
    if requests == 0 { "-".to_owned() } else { time(whole(ns as f64 / requests as f64)) }
}

const LATENCIES: &str = "<th>min<th>mean<th>p50<th>p90<th>p99<th>p99.9<th>p99.99<th>max<th>errors";

/// From IOPS to errors, as cells.
fn cells(outcome: &Outcome) -> String {
    let rate = if outcome.bytes == 0 { "-".to_owned() } else { bandwidth(outcome.bandwidth) };
    let mut text = format!("<td>{}<td>{rate}", count(outcome.iops));
    let latency = &outcome.latency;
    let values = [
        latency.min_ns,
        whole(latency.mean_ns),
        latency.p50_ns,
        latency.p90_ns,
        latency.p99_ns,
        latency.p99_9_ns,
        latency.p99_99_ns,
        latency.max_ns,
    ];
    let shown = |ns| if outcome.requests == 0 { "-".to_owned() } else { time(ns) };
    values.into_iter().for_each(|ns| text.push_str(&format!("<td>{}", shown(ns))));
    let class = if outcome.errors > 0 { " class=\"bad\"" } else { "" };
    text.push_str(&format!("<td{class}>{}", count(outcome.errors as f64)));
    text
}

fn swatch(colour: &str) -> String {
    format!("<span class=\"swatch\" style=\"--c: {colour}\"></span>")
}

/// A table of what came of each run and kind; sweeps have one of their own.
fn figures(entries: &[Entry<'_>], sweeps: &[Sweep<'_>]) -> String {
    let is_swept = |index: usize| sweeps.iter().any(|sweep| (sweep.first..sweep.first + sweep.report.runs.len()).contains(&index));
    let mut rows = String::new();
    for (index, entry) in entries.iter().enumerate().filter(|(index, _)| !is_swept(*index)) {
        let run = entry.run;
        let mark = if entries.len() > 1 { swatch(&data::colour(index, sweeps)) } else { String::new() };
        let client = ns_per(run.client_cpu_ns, run.all.requests);
        let server = run.server_cpu_ns.map_or("-".to_owned(), |ns| ns_per(ns, run.all.requests));
        let name = Safe(&entry.label);
        rows.push_str(&format!(
            "<tr><th>{mark}<span class=\"name\" title=\"{name}\">{name}</span>{}<td>{client}<td>{server}\n",
            cells(&run.all)
        ));
        let kinds = KINDS.iter().filter_map(|kind| run.ops.get(*kind).map(|outcome| (kind.replace('_', " "), outcome)));
        if run.ops.len() > 1 {
            kinds.for_each(|(kind, outcome)| rows.push_str(&format!("<tr class=\"part\"><th>{kind}{}<td><td>\n", cells(outcome))));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let head = format!("<tr><th>run<th>IOPS<th>bandwidth{LATENCIES}<th>CPU here<th>CPU target");
    format!("<section><h2>Figures</h2><div class=\"scroll\"><table><thead>{head}</thead><tbody>\n{rows}</tbody></table></div></section>\n")
}

fn sweep_table(sweep: &Sweep<'_>) -> String {
    let first = &sweep.report.runs[0];
    let mut rows = String::new();
    for (index, run) in sweep.report.runs.iter().enumerate() {
        let asked = words::asked_iops(&run.job, run.cores.len()).map_or_else(String::new, count);
        let (class, tag) = match sweep.report.knee {
            Some(knee) if knee == index => (" class=\"knee\"", "<span class=\"tag\">knee</span>"),
            _ if words::fell_behind(run).is_some() => ("", "<span class=\"bad\">fell behind</span>"),
            _ => ("", ""),
        };
        rows.push_str(&format!(
            "<tr{class}><th>{asked}/s{}<td>{}<td>{tag}\n",
            cells(&run.all),
            ns_per(run.client_cpu_ns, run.all.requests)
        ));
    }
    let head = format!("<tr><th>asked for<th>IOPS<th>bandwidth{LATENCIES}<th>CPU here<th>");
    let pace = words::job(&first.job, first.cores.len());
    let rate = format!(" at {}/s", count(words::asked_iops(&first.job, first.cores.len()).unwrap_or_default()));
    let about = format!("{}: {}; {}, {} each", first.target, pace.replace(&rate, ""), words::cores(&first.cores), words::length(first));
    format!(
        "<section><h2>Rates</h2><p class=\"lead\">{}</p><div class=\"scroll\"><table><thead>{head}</thead><tbody>\n{rows}</tbody></table></div></section>\n",
        Safe(&about)
    )
}

/// The first run against each of the others.
fn comparison(reports: &[Report], all: &[Entry<'_>], sweeps: &[Sweep<'_>]) -> String {
    let entries = compare::entries(reports);
    if entries.len() < 2 {
        return String::new();
    }
    let mut head = String::from("<tr><th>");
    for (index, entry) in entries.iter().enumerate() {
        let name = Safe(&entry.label);
        let colspan = if index == 0 { "" } else { " colspan=\"2\"" };
        // The run's colour in the charts, unless it stands for a whole sweep.
        let place = all.iter().position(|other| std::ptr::eq(other.run, entry.run)).filter(|_| !words::is_sweep(entry.report));
        let mark = place.map_or_else(String::new, |place| swatch(&data::colour(place, sweeps)));
        head.push_str(&format!(
            "<th{colspan}>{mark}<span class=\"name\" title=\"{name}\">{name}</span>{}",
            if index == 0 { ", base" } else { "" }
        ));
    }
    let rows = comparison_rows(&entries);
    let differences: String = compare::differences(&entries).iter().map(|line| format!("<li>{}</li>", Safe(line))).collect();
    let care = match differences.as_str() {
        "" => String::new(),
        items => format!("<section class=\"warn\"><h2>Not the same in every run</h2><ul>{items}</ul></section>\n"),
    };
    format!(
        "{care}<section><h2>Against the base</h2><div class=\"scroll\"><table><thead>{head}</thead><tbody>\n{rows}</tbody></table></div></section>\n"
    )
}

fn comparison_rows(entries: &[Entry<'_>]) -> String {
    let mut rows = String::new();
    let mut kind = "all";
    for row in compare::rows(entries) {
        if row.kind != kind {
            kind = row.kind;
            rows.push_str(&format!("<tr class=\"head\"><th colspan=\"{}\">{}\n", 2 * entries.len(), kind.replace('_', " ")));
        }
        rows.push_str(&format!("<tr><th>{}", row.what));
        for (index, figure) in row.figures.iter().enumerate() {
            let Some(figure) = figure else {
                rows.push_str(if index == 0 { "<td>-" } else { "<td>-<td>" });
                continue;
            };
            rows.push_str(&format!("<td>{}", figure.text));
            if index > 0 {
                let (class, sign) = match figure.verdict {
                    Some(Verdict::Better) => ("better", " &#9650;"),
                    Some(Verdict::Worse) => ("worse", " &#9660;"),
                    _ => ("same", ""),
                };
                rows.push_str(&format!("<td class=\"{class}\">{}{sign}", figure.against_base()));
            }
        }
        rows.push('\n');
    }
    rows
}

/// What ran, on what, and how to read the rest.
fn facts(entries: &[Entry<'_>], reports: &[Report]) -> String {
    let mut text = String::from("<section><h2>What ran</h2><dl class=\"facts\">");
    let mut fact = |name: &str, value: &str| text.push_str(&format!("<dt>{name}</dt><dd>{}</dd>", Safe(value)));
    let mut machines: Vec<String> = reports.iter().map(|report| words::machine(&report.machine)).collect();
    machines.dedup();
    machines.iter().for_each(|machine| fact("machine", machine));
    // The rates of a sweep differ in their rate only, which has its table.
    let told: Vec<&Entry<'_>> = entries.iter().filter(|entry| !words::is_sweep(entry.report)).collect();
    for entry in &told {
        let run = entry.run;
        if told.len() > 1 || machines.len() > 1 {
            text.push_str(&format!("<dt class=\"run\">{}</dt>", Safe(&entry.label)));
        }
        let mut fact = |name: &str, value: &str| text.push_str(&format!("<dt>{name}</dt><dd>{}</dd>", Safe(value)));
        fact("target", &format!("{}, {} in blocks of {} B", run.target, size(run.disk_bytes), run.block_bytes));
        fact("job", &words::job(&run.job, run.cores.len()));
        fact("where, how long", &format!("{}, {}", words::cores(&run.cores), words::length(run)));
        fact("when", &words::date(run.started_unix_ms));
        fact("CPU per request", &words::processor_time(run));
        if let Some(verified) = words::verified(run) {
            fact("data", &verified);
        }
    }
    text.push_str("</dl></section>\n<footer>");
    if entries.iter().any(|entry| words::asked_iops(&entry.run.job, 1).is_some()) {
        text.push_str("<p>Open loop: latency counts from the moment at which each request was due, whether or not it could be sent.</p>");
    }
    if entries.iter().any(|entry| words::asked_iops(&entry.run.job, 1).is_none()) {
        text.push_str("<p>Closed loop: latency counts from when each request was sent; the next one is sent when another ends, so a stall delays few.</p>");
    }
    text.push_str("<p>Latencies are exact to 0.1 %. Failed requests are included. In comparisons, differences of up to 2 % are called the same.</p></footer>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn names_from_outside_stay_text() {
        let page = page(&[sample::troubled()]);
        assert!(page.contains("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"));
        assert!(!page.contains("<img") && !page.contains('\u{1b}'));
        // The data, the program, and nothing that a name could have added.
        assert_eq!(page.matches("</script").count(), 2);
        assert_eq!(page.matches("<script").count(), 2);
        assert!(page.contains("a&amp;b&#39;"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = page(&[sample::three(), sample::sweep()]);
        let without_namespace = page.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http://", "https://", "src=", "href=", "@import", "url(", "fetch(", "innerHTML"] {
            assert!(!without_namespace.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn errors_and_wrong_data_stand_before_the_figures() {
        let page = page(&[sample::troubled()]);
        let care = page.find("Read with care").unwrap();
        assert!(care < page.find("class=\"cards\"").unwrap());
        for part in ["WRONG DATA", "misdirected write", "failed by the medium", "interrupted after"] {
            assert!(page[care..].contains(part), "{part}");
        }
        assert!(!super::page(&[sample::reads()]).contains("Read with care"));
    }

    #[test]
    fn a_single_run_has_cards_and_several_a_comparison() {
        let single = page(&[sample::reads()]);
        assert!(single.contains("class=\"cards\"") && !single.contains("Against the base"));
        let several = page(&[sample::three()]);
        assert!(!several.contains("class=\"cards\"") && several.contains("Against the base"));
        assert!(several.contains("x better &#9650;"), "said in words and by a sign");
    }

    #[test]
    fn a_sweep_has_its_rates_and_its_knee() {
        let page = page(&[sample::sweep()]);
        assert_eq!(page.matches("<span class=\"tag\">knee</span>").count(), 1);
        assert!(page.contains("fell behind") && !page.contains("Against the base"));
    }

    #[test]
    fn light_dark_and_paper_are_provided_for() {
        let page = page(&[]);
        assert!(page.contains("No runs"));
        for part in ["prefers-color-scheme: dark", "@media print", "color-scheme: light dark"] {
            assert!(page.contains(part), "{part}");
        }
    }
}
