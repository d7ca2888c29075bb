//! The program as it is run: against a fake daemon on a real socket.

mod config;
mod failures;
mod fake;
mod screen;
mod tables;
