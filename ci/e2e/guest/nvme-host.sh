# Functions of a guest whose kernel connects to subsystems over NVMe/TCP. Needs the testbed's prelude.

HOST_ID=5e1f0c3a-9a52-4d0b-8c1e-0d2f7a5b6c77
HOST=nqn.2014-08.org.nvmexpress:uuid:$HOST_ID
SUBSYSTEM=nqn.2026-11.example.spinel:disks

load nvme-host
network

# nvme_connect PORT NQN OPTION...   a controller over one connection
nvme_connect() {
    port=$1 nqn=$2
    shift 2
    nvme connect -t tcp -a 10.0.2.2 -s "$port" -n "$nqn" -q "$HOST" -I "$HOST_ID" "$@"
}

# within SECONDS COMMAND...   the command succeeds before the seconds are over
within() {
    rounds=$(($1 * 10))
    shift
    until "$@"; do
        rounds=$((rounds - 1))
        [ $rounds -gt 0 ] || return 1
        sleep 0.1
    done
}

# namespace NSID   the block device of a namespace of the only subsystem
namespace() {
    for found in /sys/block/nvme*n*; do
        case $found in *c[0-9]*) continue ;; esac
        [ "$(cat "$found/nsid" 2>/dev/null)" = "$1" ] && echo "/dev/${found##*/}" && return
    done
    return 1
}

# controller   the character device of the first controller
controller() {
    set -- /dev/nvme[0-9]
    echo "$1"
}

# controllers   how many there are
controllers() {
    set -- /sys/class/nvme/nvme*
    [ -e "$1" ] && echo $# || echo 0
}

gone() {
    [ "$(controllers)" = 0 ]
}

disconnected() {
    nvme disconnect -n "$SUBSYSTEM" >/dev/null && within 10 gone
}

# ended STATUS LOG   what a command in the background ended with; what it complains of stands last
ended() {
    cat "$2"
    grep -iE 'error|verify:|bad|fio:' "$2"
    return "$1"
}

# as_host TWO_DIGITS   another host from now on: the kernel takes those of different names for different machines
as_host() {
    HOST_ID=5e1f0c3a-9a52-4d0b-8c1e-0d2f7a5b6c$1
    HOST=nqn.2014-08.org.nvmexpress:uuid:$HOST_ID
}

# own_controller   the name of a controller that the host of that name has
own_controller() {
    for found in /sys/class/nvme/nvme*; do
        [ "$(cat "$found/hostnqn" 2>/dev/null)" = "$HOST" ] && echo "${found##*/}" && return
    done
    return 1
}

# leaves   that one is disconnected, and no other
leaves() {
    left=$(own_controller) && nvme disconnect -d "$left" && within 10 not own_controller
}

# keeps_verifying NAME DEVICE OPTION...   verified load, round after round until /run/stop is there; for the background. A round
# ends by itself: fio takes what it has written in an earlier pass of the same round for damage.
keeps_verifying() {
    load_name=$1 device=$2 load_rounds=0
    shift 2
    until [ -e /run/stop ]; do
        load_rounds=$((load_rounds + 1))
        verify "$device" --randseed=$load_rounds "$@" >"/run/$load_name.log" 2>&1 || return 1
    done
    echo "report: $load_name $load_rounds"
}

# io_errors   what the kernel says of requests that failed
io_errors() {
    dmesg | grep -E 'I/O error|removing after'
}
