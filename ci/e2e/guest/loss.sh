# A host that its target loses, again and again. Needs the testbed's prelude, disk.sh and nvme-host.sh.

# is_lost PORT SECONDS   verified load by a controller that is given up when it is not heard of for so long, until the host says enough
is_lost() {
    claim "connect" nvme_connect "$1" "$SUBSYSTEM" -i 2 --keep-alive-tmo="$2" --reconnect-delay=1 --ctrl-loss-tmo=600
    claim "the disk is there" within 10 namespace 1
    keeps_verifying load "$(namespace 1)" --bs=4k --size=16M &
    load=$!
    reach "busy"
    : >/run/stop
    wait $load
    claim "all the while the disk verifies" ended $? /run/load.log
    claim "the kernel has seen no error" not io_errors
    claim "disconnect" disconnected
    reach "end"
}
