//! One running guest: QEMU, its disks, its console, and how it ended. It knows no test and no accelerator but by name.

mod holding;
mod moving;

use crate::accelerator::Accelerator;
use crate::clock::Deadline;
use crate::image::Image;
use crate::packages::Packages;
use crate::process::{Process, RunError, open_log, tail};
use crate::qmp::QmpError;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

pub use moving::Moved;

/// Functions every guest script can use; they stand in front of it.
const PRELUDE: &str = include_str!("../guest/prelude.sh");

/// What `init` makes QEMU exit with when the script ended well: (byte << 1) | 1, see `guest/init`.
const PASSED: i32 = (0o052 << 1) | 1;
/// The same for a script that ended with a failure.
const FAILED: i32 = (0o065 << 1) | 1;

/// A guest that has more than this many claims, or reports, is out of its mind.
const CLAIMS_MAX: usize = 1000;
/// A console line longer than this is cut.
const LINE_BYTES_MAX: usize = 4096;

/// What a guest is made of, and who runs it.
#[derive(Debug, Clone)]
pub struct Maker {
    /// Where QEMU comes from.
    pub packages: Packages,
    /// What it boots.
    pub image: Image,
    /// What its processors run on.
    pub accelerator: Accelerator,
}

/// A vhost-user-blk disk of a guest.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The back end's socket.
    pub socket: PathBuf,
    /// How many request queues the front end asks for.
    pub queues: u16,
    /// What their rings are like, if the back end offers it.
    pub rings: Rings,
    /// Whether QEMU waits for a back end that is gone, and connects to the next on the same socket: it tries once a second.
    pub reconnects: bool,
}

/// The rings of a disk, as QEMU lets them be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rings {
    /// Packed, not split.
    pub packed: bool,
    /// Each side says at which place it wants to be notified.
    pub event_idx: bool,
    /// Requests go through tables of their own.
    pub indirect: bool,
}

impl Default for Rings {
    /// What QEMU does by itself.
    fn default() -> Self {
        Self { packed: false, event_idx: true, indirect: true }
    }
}

impl Rings {
    /// As properties of QEMU's device.
    fn properties(self) -> String {
        let word = |on| if on { "on" } else { "off" };
        format!("packed={},event_idx={},indirect_desc={}", word(self.packed), word(self.event_idx), word(self.indirect))
    }
}

/// One guest to be started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Names its files and log.
    pub name: String,
    /// At least 512: below it the image does not fit.
    pub memory_mib: u32,
    /// More than one only when no other guest runs: emulated processors compete for the machine's.
    pub processors: u16,
    /// Its disks, at most 15; the script knows them by their place in this list.
    pub disks: Vec<Disk>,
    /// What it runs: a shell script behind the functions of `guest/prelude.sh`.
    pub script: String,
    /// Whether QEMU waits for a running guest of the same plan that moves here ([`Guest::move_to`]) instead of booting one.
    pub arrives: bool,
    /// Its network, if it has one.
    pub network: Option<Network>,
}

/// A network of a guest and this machine, in which nobody else is: to the guest this machine's loopback is 10.0.2.2.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Ports of this machine's loopback that lead to ports of the guest.
    pub forwards: Vec<(u16, u16)>,
}

/// What a guest has found, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The claim.
    pub text: String,
    /// Whether it held.
    pub held: bool,
}

/// Why a guest has not done what it should.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// QEMU could not be started.
    #[error("QEMU cannot be started")]
    Start(#[from] RunError),
    /// Its files cannot be written, or its console not be read.
    #[error("the guest {name} cannot be talked to")]
    Console {
        /// The guest.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It did not come to the awaited point in time.
    #[error("the guest {name} did not get to \"{awaited}\" in time; its console is {}{tail}", log.display())]
    Late {
        /// The guest.
        name: String,
        /// The line that was waited for.
        awaited: String,
        /// What its console showed.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// Its script ended with a failure.
    #[error("the script of the guest {name} failed; its console is {}{tail}", log.display())]
    Script {
        /// The guest.
        name: String,
        /// What its console showed.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// QEMU did not do what it was asked over its control socket.
    #[error("the guest {name} cannot be controlled; QEMU's log is {}{tail}", log.display())]
    Control {
        /// The guest.
        name: String,
        /// What QEMU has written.
        log: PathBuf,
        /// The end of that.
        tail: String,
        /// What was asked, and what came of it.
        source: Box<QmpError>,
    },
    /// It panicked, powered off, or QEMU failed.
    #[error("the guest {name} crashed ({status}); its console is {}{tail}", log.display())]
    Crashed {
        /// The guest.
        name: String,
        /// How QEMU ended.
        status: ExitStatus,
        /// Whether it shows the panic which emulated processors are known for, and which says nothing of the disk.
        emulator_panic: bool,
        /// What its console showed.
        log: PathBuf,
        /// The end of that, of what its kernel has said, and of what QEMU has.
        tail: String,
    },
}

impl GuestError {
    /// Whether trying once more is fair: one in about fifty emulated guests dies of what QEMU's emulation does to its kernel
    /// (`EMULATOR_PANICS`).
    #[must_use]
    pub fn is_emulator_panic(&self) -> bool {
        matches!(self, Self::Crashed { emulator_panic: true, .. })
    }
}

/// How kernels die of their emulated processors: of a double fault, with flags no processor has; or of the breakpoint that a
/// kernel puts over an instruction while it changes it, hit by a processor after the change was over.
const EMULATOR_PANICS: [&str; 2] = ["PANIC: double fault", "Oops: int3: 0000"];

/// A running guest. Dropping it kills it.
#[derive(Debug)]
pub struct Guest {
    name: String,
    process: Process,
    console: UnixStream,
    files: Files,
    unread: Vec<u8>,
    claims: Vec<Claim>,
    reports: Vec<String>,
}

/// The files of one guest.
#[derive(Debug)]
struct Files {
    script: PathBuf,
    socket: PathBuf,
    control: PathBuf,
    console_log: PathBuf,
    kernel_log: PathBuf,
    qemu_log: PathBuf,
}

impl Files {
    fn of(name: &str, sockets: &Path, logs: &Path) -> Self {
        Self {
            script: logs.join(format!("{name}.sh")),
            socket: sockets.join(format!("{name}.console")),
            control: sockets.join(format!("{name}.qmp")),
            console_log: logs.join(format!("{name}.console.log")),
            kernel_log: logs.join(format!("{name}.kernel.log")),
            qemu_log: logs.join(format!("{name}.qemu.log")),
        }
    }

    /// Removes what an earlier guest of this name has left.
    fn clear(&self) {
        for file in [&self.socket, &self.control, &self.console_log, &self.kernel_log, &self.qemu_log] {
            let _ = fs::remove_file(file);
        }
    }
}

impl Maker {
    /// Starts a guest. Its sockets are in `sockets` (a short path: the kernel allows 107 bytes), its logs in `logs`.
    ///
    /// # Errors
    /// [`GuestError::Start`] or [`GuestError::Console`]; what QEMU said is in the log beside the console's.
    ///
    /// # Panics
    /// When the plan has more disks than the machine has slots.
    pub fn boot(&self, plan: &Plan, sockets: &Path, logs: &Path) -> Result<Guest, GuestError> {
        assert!(plan.disks.len() <= DISKS_MAX, "a guest has at most {DISKS_MAX} disks");
        let name = plan.name.clone();
        let failed = |source| GuestError::Console { name: name.clone(), source };
        let files = Files::of(&name, sockets, logs);
        files.clear();
        fs::write(&files.script, format!("{PRELUDE}\n{}", plan.script)).map_err(failed)?;
        let mut command = self.command(plan, &files);
        let output = open_log(&files.qemu_log)?;
        let errors = output.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut process = Process::start("qemu-system-x86_64", &mut command)?;
        let console = connect(&mut process, &files)?.map_err(failed)?;
        Ok(Guest { name, process, console, files, unread: Vec::new(), claims: Vec::new(), reports: Vec::new() })
    }

    /// The whole command line of QEMU.
    fn command(&self, plan: &Plan, files: &Files) -> Command {
        let mut command = self.packages.command("qemu-system-x86_64");
        command.env("QEMU_MODULE_DIR", self.packages.path("usr/lib/x86_64-linux-gnu/qemu"));
        for folder in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(self.packages.path(folder));
        }
        let Plan { memory_mib, processors, arrives, .. } = plan;
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(self.accelerator.arguments());
        command.args(["-machine", "q35,memory-backend=mem"]);
        command.args(["-m", &memory_mib.to_string(), "-smp", &processors.to_string()]);
        // vhost-user back ends map the guest's memory: it has to be shared.
        let memory = format!("memory-backend-memfd,id=mem,size={memory_mib}M,share=on");
        command.args(["-object", &memory]);
        command.arg("-kernel").arg(&self.image.kernel);
        command.arg("-initrd").arg(&self.image.initramfs);
        command.args(["-append", &kernel_arguments(self.accelerator)]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]);
        command.arg("-fw_cfg").arg(option("name=opt/spinel/script,file=", &files.script));
        command.arg("-serial").arg(option("file:", &files.kernel_log));
        // QEMU makes its sockets in this order, and waits for us at the console before it starts, so that no line of it is missed.
        command.arg("-qmp").arg(listening(&files.control));
        let mut chardev = option("socket,id=console,server=on,wait=on,path=", &files.socket);
        chardev.push(option(",logfile=", &files.console_log));
        command.arg("-chardev").arg(chardev);
        command.args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=console"]);
        command.args(arrives.then_some(["-incoming", "defer"]).into_iter().flatten());
        if let Some(network) = &plan.network {
            let forwards: String = network.forwards.iter().map(|(here, there)| format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}")).collect();
            command.args(["-netdev", &format!("user,id={NETWORK},restrict=off{forwards}")]);
            command.args(["-device", &format!("virtio-net-pci,netdev={NETWORK},romfile=")]);
        }
        for (number, disk) in plan.disks.iter().enumerate() {
            let id = format!("disk{number}");
            let patience = if disk.reconnects { ",reconnect=1" } else { "" };
            command.arg("-chardev").arg(option(&format!("socket,id={id}{patience},path="), &disk.socket));
            // The address is the disk's number to the script, whatever name Linux gives it.
            let (queues, rings, slot) = (disk.queues, disk.rings.properties(), FIRST_SLOT + number);
            command.args(["-device", &format!("vhost-user-blk-pci,chardev={id},num-queues={queues},{rings},addr={slot:#x}")]);
        }
        command
    }
}

/// The PCI slot of the first disk; `disk` in `guest/prelude.sh` knows it too.
const FIRST_SLOT: usize = 0x10;
/// The slots from there on that the machine leaves free.
const DISKS_MAX: usize = 15;

/// What QEMU calls the guest's network.
const NETWORK: &str = "net";

/// A path in an option of QEMU's, where a comma is written twice.
fn option(before: &str, path: &Path) -> OsString {
    OsString::from(format!("{before}{}", path.display().to_string().replace(',', ",,")))
}

/// A Unix socket that QEMU listens on, in its own way of writing it.
fn listening(path: &Path) -> OsString {
    let mut value = option("unix:", path);
    value.push(",server=on,wait=off");
    value
}

fn kernel_arguments(accelerator: Accelerator) -> String {
    // The kernel would clear each page before a disk writes to it, and so hide pages that the disk does not say it wrote.
    let always = "net.ifnames=0 console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off audit=0 cryptomgr.notests init_on_alloc=0";
    match accelerator {
        Accelerator::Kvm => always.to_owned(),
        // An emulated clock is steady but late, and the kernel's checks of it cost seconds.
        Accelerator::Emulation => {
            format!("{always} tsc=reliable no_timer_check random.trust_cpu=on")
        }
    }
}

/// Connects to the console as soon as QEMU listens there.
fn connect(process: &mut Process, files: &Files) -> Result<io::Result<UnixStream>, RunError> {
    let deadline = Deadline::after_s(30);
    loop {
        match UnixStream::connect(&files.socket) {
            Err(e) if deadline.left().is_none() => return Ok(Err(e)),
            Err(_) => {}
            connected => return Ok(connected),
        }
        // The event waited for is QEMU's end; a socket that is not there yet is looked for at every round.
        if let Some(status) = process.wait_until(Deadline::after(Duration::from_millis(20)))? {
            let (program, log) = ("qemu-system-x86_64".to_owned(), files.qemu_log.clone());
            return Err(RunError::Failed { program, status, tail: tail(&log, 5), log });
        }
    }
}

impl Guest {
    /// Reads the console up to a line that starts with `mark`, and answers the rest of that line.
    ///
    /// # Errors
    /// [`GuestError::Late`] at the deadline, and how the guest ended when it ends before.
    pub fn until(&mut self, mark: &str, deadline: Deadline) -> Result<String, GuestError> {
        loop {
            match self.line(mark, deadline)? {
                Some(line) => {
                    if let Some(rest) = line.strip_prefix(mark) {
                        return Ok(rest.trim().to_owned());
                    }
                }
                None => return Err(self.ended(deadline)?),
            }
        }
    }

    /// As [`until`](Self::until), but a deadline that passes is no failure: the answer is then nothing.
    ///
    /// # Errors
    /// How the guest ended, when it ends before.
    pub fn heard(&mut self, mark: &str, deadline: Deadline) -> Result<Option<String>, GuestError> {
        match self.until(mark, deadline) {
            Err(GuestError::Late { .. }) => Ok(None),
            heard => heard.map(Some),
        }
    }

    /// Writes a line to the console, for a script that waits for one.
    ///
    /// # Errors
    /// [`GuestError::Console`] when the console is gone.
    pub fn tell(&mut self, word: &str) -> Result<(), GuestError> {
        let failed = |source| GuestError::Console { name: self.name.clone(), source };
        self.console.write_all(format!("{word}\n").as_bytes()).map_err(failed)
    }

    /// The first claim up to now that did not hold.
    #[must_use]
    pub fn broken(&self) -> Option<&Claim> {
        self.claims.iter().find(|claim| !claim.held)
    }

    /// What the script has reported up to now, in lines that start with "report:".
    #[must_use]
    pub fn reports(&self) -> &[String] {
        &self.reports
    }

    /// What the console has shown.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.files.console_log
    }

    /// Waits for the script's end, and answers every claim the guest has made, those that did not hold too.
    ///
    /// # Errors
    /// When the guest ended in any other way than by a script that ended, or not in time. A script that failed
    /// without a claim that did not hold is [`GuestError::Script`].
    pub fn finish(mut self, deadline: Deadline) -> Result<Vec<Claim>, GuestError> {
        while self.line("the end of the script", deadline)?.is_some() {}
        let broken = self.broken().is_some();
        match self.status(deadline)? {
            status if status.code() == Some(PASSED) && !broken => {}
            status if status.code() == Some(FAILED) && broken => {}
            status => return Err(self.failure(status)),
        }
        Ok(std::mem::take(&mut self.claims))
    }

    /// Kills QEMU at once (SIGKILL), whatever its guest is doing, and answers the claims made until then.
    #[must_use]
    pub fn kill(mut self) -> Vec<Claim> {
        self.process.kill();
        std::mem::take(&mut self.claims)
    }

    /// Lets the guest outlive this program.
    #[must_use]
    pub fn leave_running(self) -> Left {
        Left { process_id: self.process.leave_running(), console: self.files.socket, log: self.files.console_log }
    }

    /// The next console line, or nothing at the console's end. Claims are noted on the way.
    fn line(&mut self, awaited: &str, deadline: Deadline) -> Result<Option<String>, GuestError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let bytes: Vec<u8> = self.unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&bytes).trim().to_owned();
                self.note(&line);
                return Ok(Some(line));
            }
            if self.unread.len() > LINE_BYTES_MAX {
                self.unread.clear();
            }
            if !self.read_some(awaited, deadline)? {
                return Ok(None);
            }
        }
    }

    fn read_some(&mut self, awaited: &str, deadline: Deadline) -> Result<bool, GuestError> {
        let failed = |source| GuestError::Console { name: self.name.clone(), source };
        let left = deadline.left().ok_or_else(|| self.late(awaited))?;
        self.console.set_read_timeout(Some(left)).map_err(failed)?;
        let mut buffer = [0; 4096];
        match self.console.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(read) => {
                self.unread.extend_from_slice(&buffer[..read]);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(self.late(awaited)),
            // QEMU's end may reset the connection: its exit status says more.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }

    fn note(&mut self, line: &str) {
        let claim = |text: &str, held| Claim { text: text.to_owned(), held };
        if let Some(text) = line.strip_prefix("claim ok: ") {
            self.claims.push(claim(text, true));
        } else if let Some(text) = line.strip_prefix("claim FAILED: ") {
            self.claims.push(claim(text, false));
        } else if let Some(text) = line.strip_prefix("report: ") {
            self.reports.push(text.to_owned());
        }
        let noted = self.claims.len() + self.reports.len();
        assert!(noted <= CLAIMS_MAX, "the guest {} claims and reports without end", self.name);
    }

    /// The error for a guest that has ended before its script came to an awaited point.
    fn ended(&mut self, deadline: Deadline) -> Result<GuestError, GuestError> {
        let status = self.status(deadline)?;
        Ok(self.failure(status))
    }

    fn status(&mut self, deadline: Deadline) -> Result<ExitStatus, GuestError> {
        self.process.wait_until(deadline)?.ok_or_else(|| self.late("the end of QEMU"))
    }

    fn late(&self, awaited: &str) -> GuestError {
        let (name, log) = (self.name.clone(), self.files.console_log.clone());
        GuestError::Late { name, awaited: awaited.to_owned(), tail: tail(&log, 10), log }
    }

    fn uncontrolled(&self, source: QmpError) -> GuestError {
        let (name, log) = (self.name.clone(), self.files.qemu_log.clone());
        GuestError::Control { name, tail: tail(&log, 5), log, source: Box::new(source) }
    }

    fn failure(&self, status: ExitStatus) -> GuestError {
        let (name, log) = (self.name.clone(), self.files.console_log.clone());
        let said = tail(&log, 15);
        if matches!(status.code(), Some(PASSED | FAILED)) {
            return GuestError::Script { name, log, tail: said };
        }
        let kernel = fs::read(&self.files.kernel_log).unwrap_or_default();
        let emulator_panic = EMULATOR_PANICS.iter().any(|panic| String::from_utf8_lossy(&kernel).contains(panic));
        let tail = said + &tail(&self.files.kernel_log, 10) + &tail(&self.files.qemu_log, 5);
        GuestError::Crashed { name, status, emulator_panic, log, tail }
    }
}

/// A guest that was left running.
#[derive(Debug, Clone)]
pub struct Left {
    /// QEMU's process id.
    pub process_id: u32,
    /// The socket its console is on.
    pub console: PathBuf,
    /// What the console has shown.
    pub log: PathBuf,
}
