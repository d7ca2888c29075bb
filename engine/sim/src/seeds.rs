//! Which seeds a test runs, and how it says which one failed. Knows no test.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs a test with seeds 0, 1, 2 and so on, `usual` of them.
///
/// `SPINEL_SEEDS=100000` in the environment sets another number for a longer run, and
/// `SPINEL_SEED=4711` repeats a single one. The seed that fails is printed.
///
/// # Panics
/// As the test does, and if a variable is not a number.
pub fn every_seed(usual: u64, test: impl Fn(u64)) {
    run(chosen(usual, |name| std::env::var(name).ok()), test);
}

fn chosen(usual: u64, variable: impl Fn(&str) -> Option<String>) -> Range<u64> {
    let number = |name: &str| variable(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")));
    match number("SPINEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SPINEL_SEEDS").unwrap_or(usual),
    }
}

fn run(seeds: Range<u64>, test: impl Fn(u64)) {
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("seed {seed} failed; repeat it with SPINEL_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_failing_seed_fails_the_test_and_is_the_last_that_runs() {
        let last = Cell::new(0);
        let test = |seed| {
            last.set(seed);
            assert!(seed < 3, "planted");
        };
        assert!(catch_unwind(AssertUnwindSafe(|| run(0..9, test))).is_err());
        assert_eq!(last.get(), 3);
        run(0..3, test);
        assert_eq!(last.get(), 2);
    }

    #[test]
    fn the_environment_chooses_the_seeds() {
        let set = |wanted: &'static str, value: &'static str| move |name: &str| (name == wanted).then(|| value.to_owned());
        assert_eq!(chosen(5, |_| None), 0..5);
        assert_eq!(chosen(5, set("SPINEL_SEEDS", "70")), 0..70);
        assert_eq!(chosen(5, set("SPINEL_SEED", "70")), 70..71);
    }
}
