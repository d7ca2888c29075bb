# A Linux target (nvmet) that does what the host tells it. Needs the testbed's prelude.

NVMET=/sys/kernel/config/nvmet

# begins   a target that has nothing yet
begins() {
    load nvme-target
    network
    mount -t configfs none /sys/kernel/config
}

# offers NQN ANY   a subsystem, for any host or for none yet
offers() {
    mkdir "$NVMET/subsystems/$1" && echo "$2" >"$NVMET/subsystems/$1/attr_allow_any_host"
}

# holds NQN NSID FILE   a namespace that is a file or a block device
holds() {
    namespace=$NVMET/subsystems/$1/namespaces/$2
    mkdir "$namespace" && printf %s "$3" >"$namespace/device_path" &&
        printf '5e1f0c3a-9a52-4d0b-8c1e-0000000000%02d' "$2" >"$namespace/device_uuid" && echo 1 >"$namespace/enable"
}

# grows NQN NSID FILE SIZE   its file, and then the namespace
grows() {
    truncate -s "$4" "$3" && echo 1 >"$NVMET/subsystems/$1/namespaces/$2/revalidate_size"
}

# drops NQN NSID   the namespace goes
drops() {
    echo 0 >"$NVMET/subsystems/$1/namespaces/$2/enable" && rmdir "$NVMET/subsystems/$1/namespaces/$2"
}

# listens PORT   by which nothing is reached yet
listens() {
    place=$NVMET/ports/$1
    mkdir "$place" && echo tcp >"$place/addr_trtype" && echo ipv4 >"$place/addr_adrfam" && echo 0.0.0.0 >"$place/addr_traddr" &&
        echo "$1" >"$place/addr_trsvcid"
}

# links NQN PORT   the subsystem is reached by the port
links() {
    ln -s "$NVMET/subsystems/$1" "$NVMET/ports/$2/subsystems/$1"
}

# unlinks NQN PORT   and is not any more: who is connected by it is cut off
unlinks() {
    rm "$NVMET/ports/$2/subsystems/$1"
}

# knows NQN HOST KEY [CONTROLLER_KEY]   a host may connect if it proves who it is; and the target proves it, too
knows() {
    host=$NVMET/hosts/$2
    mkdir "$host" && printf %s "$3" >"$host/dhchap_key" && ln -s "$host" "$NVMET/subsystems/$1/allowed_hosts/$2" &&
        if [ -n "$4" ]; then printf %s "$4" >"$host/dhchap_ctrl_key"; fi
}

# wants HOST HASH GROUP   that is how it has to prove it
wants() {
    printf 'hmac(%s)' "$2" >"$NVMET/hosts/$1/dhchap_hash" && printf %s "$3" >"$NVMET/hosts/$1/dhchap_dhgroup"
}

# obeys   what the host says, until it has enough
obeys() {
    echo "ready"
    while read -r order && [ "$order" != enough ]; do
        eval "claim 'target: $order' $order"
        echo "done"
    done
}
