//! What can be measured, by name. Names and words only: cargo's xtask reads this file too. Knows no measurement.

use clap::ValueEnum;

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Scenario {
    /// 4k random reads at depths 1, 32 and 128 over null, memory and a file, beside qemu-storage-daemon and fio
    Reads,
    /// The first read after 0.5 ms and 5 ms of silence, beside a core that never sleeps
    Wakeups,
    /// What others notice while a guest with 16 GiB attaches and detaches
    Attach,
    /// How long ten disks under verified load stand still while another spineld takes over, 200 times
    Takeover,
    /// What another disk notices while front ends that mean harm do everything in the table of vhost/hostile
    Hostile,
    /// What a host over NVMe/TCP notices of others that take nothing, say a byte a second, or open and vanish
    Hosts,
    /// Processor time with ten volumes attached: without I/O, and with 100 reads a second
    #[value(alias = "idle")]
    M2,
    /// A volume's export beside the raw file under fio: 4k random reads, 1M sequential reads and writes
    L1,
    /// A disk over NVMe/TCP beside the link it goes through, shaped to 46 MiB/s: 128k sequential reads and writes
    L2,
    /// A guest's disk beside qemu-storage-daemon's, seen from the host: 1M sequential, 4k random reads
    L5,
    /// 1 KiB writes, reads and a scan over 10k slots in memory, beside RocksDB (with --rocksdb)
    S1,
    /// 64 KiB get, put and mixed, 16 in flight: in process and over vhost-user-blk
    K1,
    /// Random writes of 4k, 64k and 1M with a flush at the end, beside qemu-storage-daemon; 2, 4 and 8 GiB of memory
    P1,
    /// A guest 1 deep, alone and beside one that is 1024 deep on the same core
    Fair,
    /// 4k over NVMe/TCP from a disk that answers at once, beside bare requests and answers over the same calls
    Tcp,
    /// The instrument, spinelbench, beside fio on the same file
    Agree,
    /// Instructions for each request, under callgrind, beside what was accepted; only when named
    Budgets,
}

impl Scenario {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Prints them all, a line each.
    pub(crate) fn list() {
        for scenario in Self::value_variants() {
            if let Some(value) = scenario.to_possible_value() {
                println!("{:<9}{}", value.get_name(), value.get_help().map(ToString::to_string).unwrap_or_default());
            }
        }
    }
}
