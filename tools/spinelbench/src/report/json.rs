//! Reports in JSON, there and back. Knows no file.

use serde::Deserialize;

use super::histogram::{HistogramError, from_text};
use super::{Report, VERSION};

/// Why a text is no report.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ReadError {
    #[error("this is no JSON that spinelbench wrote: {0}")]
    Foreign(#[source] serde_json::Error),
    #[error("this report is of version {found}, this program reads version {VERSION}; use the spinelbench that wrote it, or measure again")]
    Version { found: u64 },
    #[error("this report is damaged: {0}")]
    Shape(#[source] serde_json::Error),
    #[error("the run \"{run}\" of this report is damaged")]
    Histogram {
        run: String,
        #[source]
        source: HistogramError,
    },
    #[error("the knee of this report is run {knee}, and it has {runs} runs; the file was changed by hand")]
    Knee { knee: usize, runs: usize },
}

/// Only what says whether the rest can be understood.
#[derive(Deserialize)]
struct Header {
    version: u64,
}

impl Report {
    /// As JSON over several lines, with a newline at the end.
    ///
    /// # Panics
    /// Never: every key of a report is a string.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has nothing that JSON lacks");
        text.push('\n');
        text
    }

    /// What [`Report::to_json`] wrote, all of its histograms readable.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn from_json(text: &str) -> Result<Self, ReadError> {
        let header: Header = serde_json::from_str(text).map_err(ReadError::Foreign)?;
        if header.version != u64::from(VERSION) {
            return Err(ReadError::Version { found: header.version });
        }
        let report: Self = serde_json::from_str(text).map_err(ReadError::Shape)?;
        if let Some(knee) = report.knee.filter(|&knee| knee >= report.runs.len()) {
            return Err(ReadError::Knee { knee, runs: report.runs.len() });
        }
        for run in &report.runs {
            let outcomes = run.ops.values().chain([&run.all]).map(|outcome| &outcome.histogram);
            for text in outcomes.chain(run.intervals.iter().map(|interval| &interval.histogram)) {
                from_text(text).map_err(|source| ReadError::Histogram { run: run.name.clone(), source })?;
            }
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let report = sample::mixed();
        let text = report.to_json();
        assert_eq!(Report::from_json(&text).unwrap().to_json(), text);
    }

    #[test]
    fn a_report_of_another_version_is_refused_by_both_numbers() {
        let mut report = sample::reads();
        report.version = VERSION + 1;
        let said = Report::from_json(&report.to_json()).unwrap_err().to_string();
        assert!(said.contains("version 2") && said.contains("version 1"), "{said}");
        // Whatever else such a file holds.
        assert!(matches!(Report::from_json(r#"{"version": 7, "whatever": []}"#), Err(ReadError::Version { found: 7 })));
    }

    #[test]
    fn files_of_others_and_damaged_ones_are_told_apart() {
        for foreign in ["", "hello", "[]", r#"{"fio version": "fio-3.33"}"#] {
            assert!(matches!(Report::from_json(foreign), Err(ReadError::Foreign(_))), "{foreign}");
        }
        assert!(matches!(Report::from_json(r#"{"version": 1}"#), Err(ReadError::Shape(_))));
        let mut report = sample::reads();
        report.runs[0].all.histogram = "AAAA".into();
        assert!(matches!(Report::from_json(&report.to_json()), Err(ReadError::Histogram { .. })));
        let mut report = sample::reads();
        report.knee = Some(1);
        assert!(matches!(Report::from_json(&report.to_json()), Err(ReadError::Knee { knee: 1, runs: 1 })));
    }
}
