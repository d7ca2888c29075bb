//! Where the project and what it builds are, and how cargo is called. It knows no step.

use crate::Failure;
use crate::steps::Step;
use spinel_testbed::process::{run_watched, tail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Far more than any of cargo's calls takes on two cores; a call that hangs ends here.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// The project's folders.
pub(crate) struct Project {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
}

impl Project {
    /// Asks cargo. Whatever folder the command was typed in, the project is the one this program was built from.
    pub(crate) fn find() -> Result<Self, Failure> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let package = package.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = package.ancestors().nth(2).ok_or("this program is not where it was built")?.to_owned();
        let mut command = cargo(&root);
        let output = command.args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let target = metadata["target_directory"].as_str().ok_or("cargo does not say where it builds")?;
        Ok(Self { target: target.into(), root })
    }

    /// A folder under the target folder, empty.
    pub(crate) fn fresh_folder(&self, name: &str) -> Result<PathBuf, Failure> {
        let folder = self.target.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Calls cargo with its output in `log`, of which the step shows the last line while it runs.
    pub(crate) fn cargo(&self, arguments: &[&str], environment: &[(&str, &str)], log: &Path, step: &Step) -> Result<(), Failure> {
        let mut command = cargo(&self.root);
        command.args(arguments).envs(environment.iter().copied());
        let program = format!("cargo {}", arguments.join(" "));
        run_watched(&program, &mut command, log, LIMIT, &mut || step.say(tail(log, 1).trim()))?;
        Ok(())
    }

    /// Builds the programs people run, optimised, and answers the folder they are in.
    pub(crate) fn build_programs(&self, log: &Path, step: &Step) -> Result<PathBuf, Failure> {
        self.cargo(&["build", "--release", "-p", "spinel-daemon", "-p", "spinelctl", "-p", "spinelbench"], &[], log, step)?;
        Ok(self.target.join("release"))
    }
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}
