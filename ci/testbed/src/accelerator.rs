//! What a guest's processors run on: KVM where it truly works, else emulation. Only a trial tells, because /dev/kvm
//! may exist and guests hang under it.

use crate::cache::{CacheError, replace};
use crate::clock::Deadline;
use crate::guest::{GuestError, Maker, Plan};
use crate::image::Image;
use crate::packages::Packages;
use std::fs;
use std::path::Path;

/// Far more than a guest under a working KVM needs from power-on to its end.
const TRIAL_S: u64 = 15;

/// What a guest's processors run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The machine's own processors.
    Kvm,
    /// QEMU's translation: correct, and slow.
    Emulation,
}

impl Accelerator {
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Emulation => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    /// Tries KVM with a guest that does nothing. The verdict is kept in `folder` until the machine restarts.
    ///
    /// # Errors
    /// When the verdict cannot be written; a trial that fails is a verdict.
    pub fn choose(packages: &Packages, image: &Image, sockets: &Path, folder: &Path) -> Result<Self, CacheError> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let usable = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if !usable {
            return Ok(Self::Emulation);
        }
        let verdict = folder.join("kvm-works");
        let asked = format!("{} {}", boot.trim(), image.inputs);
        let known = fs::read_to_string(&verdict).unwrap_or_default();
        if let Some(("yes" | "no", of)) = known.split_once(' ')
            && of == asked
        {
            return Ok(if known.starts_with("yes") { Self::Kvm } else { Self::Emulation });
        }
        let maker = Maker { packages: packages.clone(), image: image.clone(), accelerator: Self::Kvm };
        let works = trial(&maker, sockets, folder).is_ok();
        let word = if works { "yes" } else { "no" };
        replace(&verdict, format!("{word} {asked}").as_bytes())?;
        Ok(if works { Self::Kvm } else { Self::Emulation })
    }
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Emulation => "software emulation",
        })
    }
}

fn trial(maker: &Maker, sockets: &Path, logs: &Path) -> Result<(), GuestError> {
    let plan = Plan {
        name: "kvm-trial".to_owned(),
        memory_mib: 512,
        processors: 1,
        disks: Vec::new(),
        script: "conclude".to_owned(),
        arrives: false,
        network: None,
    };
    let deadline = Deadline::after_s(TRIAL_S);
    maker.boot(&plan, sockets, logs)?.finish(deadline).map(drop)
}
