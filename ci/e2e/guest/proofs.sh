# Hosts that prove who they are (DH-HMAC-CHAP), and one beside them that need not. Needs the testbed's prelude, disk.sh and nvme-host.sh.

# said TEXT   the kernel has said so since the last connect
said() {
    grep -qF "$1" /run/said
}

# connects PORT OPTION...   a controller, and what the kernel says of it
connects() {
    port=$1
    shift
    dmesg -c >>/run/before
    nvme_connect "$port" "$SUBSYSTEM" -i 2 "$@"
    status=$?
    dmesg -c >/run/said
    cat /run/said >>/run/before
    return $status
}

# proves HASH GROUP PORT OPTION...   a host connects in the way that the target wants now, and uses what is there
proves() {
    name="$1 $2" hash=$1 group=$2 port=$3
    shift 3
    reach "$name"
    claim "$name: connect" connects "$port" "$@"
    claim "$name: this is what the kernel has done" said "authenticated with hash hmac($hash) dhgroup $group"
    claim "$name: the disk is there" within 10 namespace 2
    claim "$name: it verifies" verify "$(namespace 2)" --bs=4k --size=1M
}

# mutual   and the target has proved who it is, too
mutual() {
    claim "$name: the target has proved who it is" said "qid 0: controller authenticated"
}

# refused NAME PORT OPTION...   a host does not get in
refused() {
    name=$1
    shift
    refute "$name: connect" connects "$@"
    refute "$name: nothing is left of it" own_controller
    reach "refused: $name"
}

# undisturbed LOG   the kernel has said nothing of the first controller but that it is there, and that an emulated guest is slow
undisturbed() {
    ! grep 'nvme nvme0:' "$1" | grep -Ev 'creating|mapped|new ctrl|long keepalive'
}

# begins PORT   a host that proves nothing uses its disk all the while
begins() {
    as_host 01
    claim "beside them: connect" nvme_connect "$1" "$SUBSYSTEM" -i 2
    claim "beside them: the disk is there" within 10 namespace 1
    keeps_verifying beside "$(namespace 1)" --bs=4k --size=8M &
    load=$!
}

# ends   it has noticed nothing
ends() {
    : >/run/stop
    wait $load
    claim "beside them: all the while a disk verifies" ended $? /run/beside.log
    dmesg >>/run/before
    claim "beside them: the kernel has nothing to say of it" undisturbed /run/before
    as_host 01
    reach "end"
    claim "beside them: disconnect" leaves
}
