# A host whose disk is a chain of two daemons, of which the far one dies. Needs the testbed's prelude, disk.sh and nvme-host.sh.

# is_served PORT   verified load until the host says enough, and what a disk has to do besides
is_served() {
    claim "connect" nvme_connect "$1" "$SUBSYSTEM" -i 2 -g -G --reconnect-delay=1 --ctrl-loss-tmo=600
    claim "the disk is there" within 10 namespace 1
    device=$(namespace 1)
    claim "fio verifies 4k" verify "$device" --bs=4k --size=8M
    claim "fio verifies 1M" verify "$device" --bs=1M --size=32M --iodepth=4
    discarded chain "$device"
    keeps_verifying load "$device" --bs=4k --size=16M &
    load=$!
    reach "busy"
    : >/run/stop
    wait $load
    claim "all the while the disk verifies" ended $? /run/load.log
    file_system chain "$device"
    claim "the kernel has seen no error" not io_errors
    claim "disconnect" disconnected
}
