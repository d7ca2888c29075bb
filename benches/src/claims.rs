//! What is to be shown, and whether windows show it. Knows nobody who took part.

use serde::Serialize;

use crate::contest::Window;
use crate::cores::{self, Placement};
use crate::table::Spread;
use crate::work::Work;

/// What a ratio is to be.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// At least so much.
    AtLeast(f64),
    /// At least so much where the cores are near each other, and so much where they are far.
    AtLeastBy { near: f64, far: f64 },
    /// So much of a value, in its own unit, at most.
    AtMost(f64),
    /// Off 1 by at most this.
    Within(f64),
    /// Nothing: it is shown so that others can be judged by it.
    Shown,
}

impl Target {
    /// What it is in a placement.
    fn of(self, placement: Placement) -> Self {
        match (self, placement) {
            (Self::AtLeastBy { near, .. }, Placement::Near) => Self::AtLeast(near),
            (Self::AtLeastBy { far, .. }, Placement::Far) => Self::AtLeast(far),
            (other, _) => other,
        }
    }

    fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeastBy { .. } => None,
            Self::AtLeast(least) => Some(value >= least),
            Self::AtMost(most) => Some(value <= most),
            Self::Within(off) => Some((value - 1.0).abs() <= off),
            Self::Shown => None,
        }
    }

    /// It in words.
    pub(crate) fn words(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtLeastBy { near, far } => format!(">= {near} near, {far} far"),
            Self::AtMost(most) => format!("<= {most}"),
            Self::Within(off) => format!("1 +- {off}"),
            Self::Shown => String::new(),
        }
    }
}

/// A median of fewer pairs shows nothing.
const PAIRS_MIN: usize = 5;

/// A device and who has it.
pub(crate) type Who = (&'static str, &'static str);

/// Which of a window's figures is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Figure {
    Rate,
    P50,
    P99,
}

/// That one's figure stands so to another's in some work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// The row of the workloads.
    pub(crate) row: &'static str,
    pub(crate) work: &'static str,
    pub(crate) ours: Who,
    pub(crate) baseline: Who,
    pub(crate) figure: Figure,
    pub(crate) target: Target,
}

/// What came of a claim, in one placement of the cores.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) row: &'static str,
    /// What was done on what.
    pub(crate) shape: String,
    /// Where the cores were, where that matters.
    pub(crate) placement: Option<Placement>,
    pub(crate) ours: String,
    pub(crate) baseline: String,
    /// Of the two rates, and of the ratio of windows of the same round, in `unit`.
    pub(crate) ours_value: f64,
    pub(crate) baseline_value: Option<f64>,
    pub(crate) unit: &'static str,
    /// Ours to the baseline; without one, our value.
    pub(crate) ratio: Spread,
    pub(crate) pairs: usize,
    pub(crate) target: Target,
    /// Whether the median is what it is to be; nothing where there are too few pairs to say so.
    pub(crate) met: Option<bool>,
    pub(crate) errors: u64,
    /// Others ran meanwhile: it compares little.
    pub(crate) busy: bool,
}

/// What windows say about claims, in each placement that was met.
pub(crate) fn find(claims: &[Claim], works: &[Work], windows: &[Window]) -> Vec<Finding> {
    let (usable, busy) = cores::chosen(windows, |window| &window.around);
    let mut findings = Vec::new();
    for claim in claims {
        let Some(work) = works.iter().find(|work| work.name == claim.work) else { continue };
        let before = findings.len();
        for placement in [Placement::Near, Placement::Far] {
            let of = |who: Who| {
                let own = |window: &&Window| window.work == claim.work && (window.device, window.entrant) == who;
                cores::in_placement(&usable, placement, |window| &window.around).into_iter().filter(own).collect::<Vec<_>>()
            };
            findings.extend(finding(claim, work, placement, &of(claim.ours), &of(claim.baseline), busy));
        }
        if findings.len() == before {
            findings.push(Finding::missing(claim, work));
        }
    }
    findings
}

fn finding(claim: &Claim, work: &Work, placement: Placement, ours: &[&Window], theirs: &[&Window], busy: bool) -> Option<Finding> {
    let (unit, value) = unit_of(claim.figure, work);
    let target = claim.target.of(placement);
    let pairs: Vec<(&Window, &Window)> =
        theirs.iter().filter_map(|their| Some((*ours.iter().find(|our| our.round == their.round)?, *their))).collect();
    let median = |windows: &mut dyn Iterator<Item = &Window>| Spread::of(windows.map(value)).map(|spread| spread.median);
    let ratio = Spread::of(pairs.iter().map(|(our, their)| cores::quotient(value(our), value(their))))?;
    Some(Finding {
        row: claim.row,
        shape: claim.shape(work),
        placement: Some(placement),
        ours: claim.ours.1.to_owned(),
        baseline: claim.baseline.1.to_owned(),
        ours_value: median(&mut pairs.iter().map(|pair| pair.0))?,
        baseline_value: median(&mut pairs.iter().map(|pair| pair.1)),
        unit,
        ratio,
        pairs: pairs.len(),
        target,
        met: target.met(ratio.median).filter(|_| pairs.len() >= PAIRS_MIN),
        errors: pairs.iter().map(|(our, their)| our.errors + their.errors).sum(),
        busy,
    })
}

impl Claim {
    /// What was done on what, and which figure of it is compared.
    fn shape(&self, work: &Work) -> String {
        let figure = match self.figure {
            Figure::Rate => "",
            Figure::P50 => ": p50",
            Figure::P99 => ": p99",
        };
        format!("{}, {}{figure}", self.ours.0, work.name)
    }
}

/// Large requests are counted in bytes, small ones one by one.
fn unit_of(figure: Figure, work: &Work) -> (&'static str, fn(&Window) -> f64) {
    match figure {
        Figure::P50 => return ("us", |window| crate::micros(window.latency.p50_ns)),
        Figure::P99 => return ("us", |window| crate::micros(window.latency.p99_ns)),
        Figure::Rate => {}
    }
    if work.bytes >= 128 << 10 { ("MiB/s", |window| window.mib_per_second) } else { ("k/s", |window| window.per_second / 1000.0) }
}

impl Finding {
    /// The same in one placement.
    pub(crate) fn placed(self, placement: Placement) -> Self {
        Self { placement: Some(placement), ..self }
    }

    /// A value by itself that has to be small.
    pub(crate) fn of_value(row: &'static str, shape: &str, values: Spread, unit: &'static str, target: Target, busy: bool) -> Self {
        Self {
            row,
            shape: shape.to_owned(),
            placement: None,
            ours: "spineld".to_owned(),
            baseline: String::new(),
            ours_value: values.median,
            baseline_value: None,
            unit,
            ratio: values,
            pairs: 1,
            target,
            met: target.met(values.median),
            errors: 0,
            busy,
        }
    }

    /// The same of somebody else than spineld.
    pub(crate) fn by(self, who: &str) -> Self {
        Self { ours: who.to_owned(), ..self }
    }

    /// Of a claim with nothing to compare: its baseline did not take part, or the cores moved in every round.
    fn missing(claim: &Claim, work: &Work) -> Self {
        let nothing = Spread { low: 0.0, median: 0.0, high: 0.0 };
        Self {
            row: claim.row,
            shape: claim.shape(work),
            placement: None,
            ours: claim.ours.1.to_owned(),
            baseline: claim.baseline.1.to_owned(),
            ours_value: 0.0,
            baseline_value: None,
            unit: "",
            ratio: nothing,
            pairs: 0,
            target: claim.target,
            met: None,
            errors: 0,
            busy: false,
        }
    }

    /// Whether it is as it is to be, in a word.
    pub(crate) fn verdict(&self) -> &'static str {
        match (self.met, self.busy) {
            _ if self.pairs == 0 => "not compared",
            (None, _) if self.target != Target::Shown => "too few windows",
            (None, _) => "",
            (Some(true), false) => "met",
            (Some(false), false) => "BEHIND",
            (Some(true), true) => "met, but busy",
            (Some(false), true) => "behind, but busy",
        }
    }

    /// The ratio with its spread and the number of pairs; of a value by itself, nothing.
    pub(crate) fn ratio_words(&self) -> String {
        let Spread { low, median, high } = self.ratio;
        match (self.baseline_value, median >= 10.0) {
            (None, _) => String::new(),
            (Some(_), true) => format!("{median:.1} ({low:.0}-{high:.0}, {})", self.pairs),
            (Some(_), false) => format!("{median:.3} ({low:.2}-{high:.2}, {})", self.pairs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contest::Latency;
    use crate::cores::Around;

    fn window(entrant: &'static str, round: u32, near: bool, others: f64, per_second: f64) -> Window {
        Window {
            scenario: "x",
            work: "reads",
            device: "file",
            entrant,
            round,
            around: Around { round_trip_ns: [if near { 80 } else { 400 }; 2], others },
            requests: 1,
            errors: 1,
            per_second,
            mib_per_second: 0.0,
            latency: Latency::default(),
            cpu_ns: 0.0,
            busy_ns: None,
        }
    }

    const WORK: Work = Work::random_reads("reads", 4096, 1);
    const CLAIM: Claim = Claim {
        row: "X1",
        work: "reads",
        ours: ("file", "we"),
        baseline: ("file", "they"),
        figure: Figure::Rate,
        target: Target::AtLeast(1.5),
    };

    #[test]
    fn only_quiet_windows_of_one_round_and_placement_are_compared() {
        let mut windows = Vec::new();
        for round in 0..5 {
            windows.extend([window("we", round, true, 0.0, 200.0), window("they", round, true, 0.0, 100.0)]);
        }
        // Another placement than its partner's; others ran; and a lone pair elsewhere.
        windows.extend([window("we", 5, true, 0.0, 900.0), window("they", 5, false, 0.0, 100.0)]);
        windows.extend([window("we", 6, true, 0.5, 900.0), window("they", 6, true, 0.0, 100.0)]);
        windows.extend([window("we", 7, false, 0.0, 100.0), window("they", 7, false, 0.0, 100.0)]);
        let findings = find(&[CLAIM], &[WORK], &windows);
        let said: Vec<_> = findings.iter().map(|found| (found.placement, found.pairs, found.ratio.median, found.errors)).collect();
        assert_eq!(said, [(Some(Placement::Near), 5, 2.0, 10), (Some(Placement::Far), 1, 1.0, 2)]);
        assert_eq!(findings.iter().map(Finding::verdict).collect::<Vec<_>>(), ["met", "too few windows"]);
    }

    #[test]
    fn where_nothing_was_quiet_a_finding_says_so() {
        let windows: Vec<Window> =
            (0..5).flat_map(|round| [window("we", round, true, 0.9, 200.0), window("they", round, true, 0.9, 100.0)]).collect();
        let findings = find(&[CLAIM], &[WORK], &windows);
        assert_eq!(findings.iter().map(Finding::verdict).collect::<Vec<_>>(), ["met, but busy"]);
    }

    #[test]
    fn a_claim_without_a_pair_is_said_to_be_missing() {
        let findings = find(&[CLAIM], &[WORK], &[window("we", 0, true, 0.0, 200.0)]);
        assert_eq!(findings.iter().map(Finding::verdict).collect::<Vec<_>>(), ["not compared"]);
    }

    #[test]
    fn targets_are_least_most_or_near_one() {
        assert_eq!([0.96, 1.04].map(|value| Target::Within(0.03).met(value)), [Some(false), Some(false)]);
        assert_eq!([0.98, 1.02].map(|value| Target::Within(0.03).met(value)), [Some(true), Some(true)]);
        assert_eq!([0.04, 0.06].map(|value| Target::AtMost(0.05).met(value)), [Some(true), Some(false)]);
        assert_eq!(Target::Shown.met(1.0), None);
    }
}
