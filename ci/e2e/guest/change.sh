# What a running guest must notice of its disks. Needs the testbed's prelude and disk.sh.

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

has_mib() {
    [ "$(blockdev --getsize64 "$1")" = $(($2 << 20)) ]
}

# grows NUMBER MIB MIB   the host makes the disk larger while it is in use
grows() {
    device=$(disk "$1")
    claim "grow: the disk has $2 MiB" has_mib "$device" "$2"
    refute "grow: nothing is written past its end" dd if=/dev/urandom of="$device" bs=1M count=1 seek="$2" oflag=direct
    reach "grow"
    claim "grow: the disk has $3 MiB, without a reboot" within 30 has_mib "$device" "$3"
    dd if=/dev/urandom of=/tmp/random bs=1M count=1 2>/dev/null
    claim "grow: its new end is written" dd if=/tmp/random of="$device" bs=1M seek=$(($3 - 1)) oflag=direct
    claim "grow: and read" same "$device" $(($3 - 1)) 1 /tmp/random 0
}

# failures COUNT COMMAND...   how many of so many runs end with an input/output error
failures() {
    runs=$1 failed=0
    shift
    while [ "$runs" -gt 0 ]; do
        runs=$((runs - 1))
        "$@" 2>&1 | grep -q 'Input/output error' && failed=$((failed + 1))
    done
    echo $failed
}

# exactly COUNT ERRORS COMMAND...   so many of the runs fail, no more and no fewer
exactly() {
    runs=$1 errors=$2
    shift 2
    [ "$(failures "$runs" "$@")" = "$errors" ]
}

one_of_many() {
    fio --name=many --filename="$1" --direct=1 --ioengine=libaio --rw=randread --bs=4k --iodepth=16 --size=8M \
        --continue_on_error=io | tee /dev/stderr | grep -q 'errors *: total= *1, first_error= *5'
}

# fails NUMBER   the host makes the device below fail, a counted number of times
fails() {
    device=$(disk "$1")
    read_one="dd if=$device of=/dev/null bs=4k count=1 iflag=direct"
    write_one="dd if=/dev/zero of=$device bs=4k count=1 oflag=direct"
    claim "errors: none at first" exactly 4 0 $read_one
    reach "three reads"
    claim "errors: three injected into reads fail three reads of eight" exactly 8 3 $read_one
    reach "two writes"
    claim "errors: reads pass while writes are to fail" exactly 4 0 $read_one
    claim "errors: two injected into writes fail two writes of eight" exactly 8 2 $write_one
    reach "one read"
    claim "errors: one of 2048 reads at depth 16 fails, no other" one_of_many "$device"
    claim "errors: the disk verifies afterwards" verify "$device" --bs=4k --size=2M
}

# fills NUMBER   the file system below is full before the disk is
fills() {
    device=$(disk "$1")
    dd if=/dev/urandom of=/tmp/random bs=1M count=8 2>/dev/null
    claim "full: 8 MiB fit" dd if=/tmp/random of="$device" bs=1M oflag=direct
    claim "full: what does not fit is an error" exactly 1 1 dd if=/dev/zero of="$device" bs=1M seek=8 count=48 oflag=direct
    claim "full: what was written before is read" same "$device" 0 8 /tmp/random 0
    claim "full: what was written before is written again" dd if=/tmp/random of="$device" bs=1M oflag=direct
    reach "free"
    claim "full: 8 MiB at the end are written once there is space" dd if=/tmp/random of="$device" bs=1M seek=56 oflag=direct
    claim "full: and read" same "$device" 56 8 /tmp/random 0
    claim "full: a discard gives the space back" blkdiscard "$device"
    claim "full: and leaves zeroes" zeroes "$device" 0 8
}
