//! The parts of spinelbench that other programs of the project use too: what a run's outcome is, and how it is shown.
#![forbid(unsafe_code)]

pub mod report;
