# Functions for guest scripts. A script makes claims; the host counts them, and one that does not hold fails the guest.

broken=0

# The shell prefers busybox's programs of these names, which can do less.
blkdiscard() { /usr/bin/blkdiscard "$@"; }
blockdev() { /usr/bin/blockdev "$@"; }
fstrim() { /usr/bin/fstrim "$@"; }

# claim "TEXT" COMMAND...   the command succeeds
claim() {
    text=$1
    shift
    "$@" >/run/claim.log 2>&1
    status=$?
    if [ $status = 0 ]; then
        echo "claim ok: $text"
    else
        echo "claim FAILED: $text"
        echo "  $* ended with $status:"
        tail -n 20 /run/claim.log | sed 's/^/  /'
        broken=1
    fi
}

# refute "TEXT" COMMAND...   the command fails
refute() {
    text=$1
    shift
    claim "$text" not "$@"
}

not() {
    ! "$@"
}

# The last line of every script that claims anything.
conclude() {
    exit $broken
}

# disk NUMBER   the block device of the host's disk of that number, by its PCI slot
disk() {
    set -- /sys/bus/pci/devices/0000:00:$(printf %02x $((16 + $1))).0/virtio*/block/*
    echo "/dev/${1##*/}"
}

# load SET   the kernel modules of a set that not every guest needs
load() {
    while read -r module; do
        [ -d "/sys/module/$module" ] || insmod "/modules/$module.ko" || echo "guest: the module $module does not load"
    done <"/modules/$1.order"
}

# network   the guest's own network, in which the host is 10.0.2.2
network() {
    load network
    until [ -d /sys/class/net/eth0 ]; do sleep 0.1; done
    ip link set lo up
    ip addr add 10.0.2.15/24 dev eth0
    ip link set eth0 up
}

# reach MARK   tells the host that the script is here, and waits until the host answers
reach() {
    echo "reached: $1"
    read -r answer
}
