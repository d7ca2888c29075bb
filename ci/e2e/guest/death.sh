# Two lives of one guest. Needs the testbed's prelude and disk.sh.

# pattern DEVICE OPTION...   the same blocks on every call, with a checksum in each
pattern() {
    device=$1
    shift
    fio --name=pattern --filename="$device" --direct=1 --ioengine=libaio --bs=4k --iodepth=16 --size=8M \
        --rw=write --verify=crc32c --verify_fatal=1 --verify_state_save=0 "$@"
}

# dies NUMBER   writes what must last, and is killed while it writes more
dies() {
    device=$(disk "$1")
    claim "death: 8 MiB are written and flushed" pattern "$device" --do_verify=0 --end_fsync=1
    fio --name=restless --filename="$device" --direct=1 --ioengine=libaio --rw=randrw --bs=16k --iodepth=64 \
        --offset=16M --size=64M --time_based --runtime=600 >/dev/null 2>&1 &
    sleep 1
    reach "busy"
}

# lives_again NUMBER   the next guest on the same socket
lives_again() {
    device=$(disk "$1")
    claim "death: the next guest reads what was flushed" pattern "$device" --verify_only
    claim "death: and the disk verifies" verify "$device" --bs=4k --size=8M --offset=16M
}
