//! Makes the testbed ready: packages, image, accelerator, and folders for a run. It knows neither demo nor test.

use crate::Failure;
use crate::project::Project;
use crate::steps::Step;
use crate::{consent, steps};
use spinel_e2e::Bench;
use spinel_testbed::accelerator::Accelerator;
use spinel_testbed::cache::user_folder;
use spinel_testbed::guest::Maker;
use spinel_testbed::image::Image;
use spinel_testbed::packages::{DOWNLOAD_MIB, Packages};
use std::path::Path;
use tempfile::TempDir;

/// Asks, where packages are missing and nobody has agreed to fetching them yet.
pub(crate) fn agree(yes: bool) -> Result<(), Failure> {
    let cache = user_folder()?;
    if Packages::cached(&cache).is_some() || consent::given(yes) {
        return Ok(());
    }
    consent::ask(&format!(
        "Fetch QEMU, a guest kernel, fio, valgrind and what they depend on: about {DOWNLOAD_MIB} MiB of Debian packages,\n\
         unpacked into {} (570 MiB; nothing is installed)?",
        Packages::folder(&cache).display()
    ))
}

/// The packages, fetched where missing.
pub(crate) fn packages(log: &Path, step: &Step) -> Result<Packages, Failure> {
    Ok(Packages::fetch(&user_folder()?, log, &mut |progress| {
        let amount = if progress.of > 0 { format!(": {} of {} {}", progress.done, progress.of, progress.unit) } else { String::new() };
        step.say(&format!("{}{amount}", progress.doing));
    })?)
}

/// What makes guests: the image, built where out of date, and the accelerator that truly works.
pub(crate) fn maker(project: &Project, packages: Packages, sockets: &Path) -> Result<Maker, Failure> {
    let folder = project.target.join("testbed");
    let image = Image::ready(&packages, &folder)?;
    let accelerator = Accelerator::choose(&packages, &image, sockets, &folder)?;
    Ok(Maker { packages, image, accelerator })
}

/// A folder for sockets, whose paths the kernel wants short. It goes with the value.
pub(crate) fn sockets() -> Result<TempDir, Failure> {
    Ok(tempfile::Builder::new().prefix("spinel-").tempdir()?)
}

/// What guest tests run on: guests, the programs that are tested, and folders for disks and sockets. The sockets go with the
/// second value.
pub(crate) fn bench(project: &Project, logs: &Path, step: &Step) -> Result<(Bench, TempDir), Failure> {
    let sockets = sockets()?;
    let maker = ready(project, &logs.join("fetch.log"), sockets.path(), step)?;
    let spineld = project.build_programs(&logs.join("build.log"), step)?.join("spineld");
    let disks = logs.join("disks");
    std::fs::create_dir_all(&disks)?;
    Ok((Bench { maker, spineld, sockets: sockets.path().to_owned(), disks, logs: logs.to_owned() }, sockets))
}

/// The packages and the maker in one go, for commands that show no steps of their own.
fn ready(project: &Project, log: &Path, sockets: &Path, step: &Step) -> Result<Maker, Failure> {
    let packages = packages(log, step)?;
    step.say("building the guest's image");
    maker(project, packages, sockets).map_err(|e| steps::with_causes(e.as_ref()).into())
}
