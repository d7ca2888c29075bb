# What a Linux host must find in subsystems that the daemon serves over NVMe/TCP. Needs the testbed's prelude, disk.sh and nvme-host.sh.

has_mib() {
    [ "$(blockdev --getsize64 "$(namespace "$1")")" = $(($2 << 20)) ]
}

finds() {
    nvme discover -t tcp -a 10.0.2.2 -s "$1" -q "$HOST" -I "$HOST_ID" >/tmp/found && grep -q "subnqn: *$SUBSYSTEM" /tmp/found && grep -q "traddr: *" /tmp/found
}

# has FIELD VALUE COMMAND...   a line of what the command prints
has() {
    field=$1 value=$2
    shift 2
    "$@" | grep -q "^ *$field *: *$value"
}

looks() {
    c=$(controller)
    claim "look: id-ctrl names the model" has mn Spinel nvme id-ctrl "$c"
    claim "look: fused compare-and-write is offered" has fuses 0x1 nvme id-ctrl "$c"
    claim "look: id-ns" has nsze 0x8000 nvme id-ns "$(namespace 1)"
    claim "look: list-ns" nvme list-ns "$c"
    claim "look: ns-descs" nvme ns-descs "$(namespace 1)"
    for log in error-log smart-log fw-log changed-ns-list-log effects-log ana-log supported-log-pages; do
        claim "look: $log" nvme "$log" "$c"
    done
    claim "look: show-regs" nvme show-regs "$c"
    for feature in 1 2 4 5 7 0xb 0xf; do
        claim "look: get-feature $feature" nvme get-feature "$c" -f "$feature"
    done
    refute "look: a feature that there is not" nvme get-feature "$c" -f 0x3f
    refute "look: a namespace that there is not" nvme id-ns "$c" -n 99
}

# used NAME   everything a disk has to do
used() {
    device=$(namespace 1)
    claim "$1: fio verifies 4k" verify "$device" --bs=4k --size=32M --io_size=8M
    claim "$1: fio verifies 1M" verify "$device" --bs=1M --size=64M --io_size=32M --iodepth=4
    claim "$1: nvme flush" nvme flush "$device" -n 1
    discarded "$1" "$device"
    file_system "$1" "$device"
}

# compares   compare tells the same from the other
compares() {
    device=$(namespace 1)
    dd if=/dev/urandom of=/tmp/block bs=4096 count=1 2>/dev/null
    dd if=/tmp/block of="$device" bs=4096 oflag=direct 2>/dev/null
    claim "compare: the same" nvme compare "$device" -s 0 -c 0 -z 4096 -d /tmp/block
    dd if=/dev/zero of=/tmp/other bs=4096 count=1 2>/dev/null
    refute "compare: another" nvme compare "$device" -s 0 -c 0 -z 4096 -d /tmp/other
}

# reserves   one host's reservation is seen, kept and given up
reserves() {
    device=$(namespace 1)
    claim "reserve: register" nvme resv-register "$device" -n 1 --nrkey=0x11 --rrega=0
    claim "reserve: acquire" nvme resv-acquire "$device" -n 1 --crkey=0x11 --rtype=1 --racqa=0
    claim "reserve: report" has rtype 1 nvme resv-report "$device" -n 1 --eds
    refute "reserve: another key" nvme resv-release "$device" -n 1 --crkey=0x12 --rtype=1 --rrela=0
    claim "reserve: the holder writes" dd if=/dev/zero of="$device" bs=4k count=1 oflag=direct
    claim "reserve: release" nvme resv-release "$device" -n 1 --crkey=0x11 --rtype=1 --rrela=0
    claim "reserve: unregister" nvme resv-register "$device" -n 1 --crkey=0x11 --rrega=1
}

# changes   namespaces come, grow and go while the host is connected
changes() {
    reach "add"
    claim "change: a namespace that was added" within 20 namespace 2
    reach "grow"
    claim "change: it has grown" within 20 has_mib 2 64
    reach "remove"
    claim "change: it is gone" within 20 not namespace 2
}

# survives PORT PORT   two paths, of which one changes its state, and then goes, under verified load
survives() {
    claim "paths: the first" nvme_connect "$1" "$SUBSYSTEM" -g -G --ctrl-loss-tmo=600 --reconnect-delay=1
    claim "paths: the second" nvme_connect "$2" "$SUBSYSTEM" -g -G --ctrl-loss-tmo=600 --reconnect-delay=1
    claim "paths: one disk" within 10 namespace 1
    device=$(namespace 1)
    verify "$device" --bs=4k --size=64M --time_based --runtime=12 >/tmp/paths.log 2>&1 &
    load=$!
    sleep 2
    reach "flip"
    sleep 3
    reach "cut"
    sleep 3
    reach "mend"
    wait $load
    claim "paths: fio verifies all the while" ended $? /tmp/paths.log
}
