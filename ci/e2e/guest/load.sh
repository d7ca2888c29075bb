# Verified load for as long as the host likes. Needs the testbed's prelude and disk.sh, and spinelbench in the image.

# figure SECTION NAME FILE [UNIT]   a number of a report of spinelbench, in units; 0 where there is none
figure() {
    awk -v section="\"$1\":" -v name="\"$2\":" -v unit="${4:-1}" '
        $1 == section { inside = 1 }
        inside && $1 == name { number = $2 + 0; exit }
        END { printf "%d\n", number / unit }
    ' "$3"
}

# load NUMBER REQUESTS OPTION...   rounds of stamped writes and checked reads until the host says stop. Each ends by a count of
# requests, for a disk that stands still must stop nothing, and is then read back.
load() {
    number=$1 device=$(disk "$1") count=$2
    shift 2
    rounds=0 requests=0 stamps=0 longest_us=0
    while :; do
        rounds=$((rounds + 1))
        : >/run/load-$number.json
        spinelbench run "file:$device" --workload randrw --reads 40 --block-size 4K-32K --allow-writes --verify \
            --requests "$count" --seed "$rounds" --quiet --json /run/load-$number.json "$@" >/run/load-$number.log 2>&1
        status=$?
        requests=$((requests + $(figure all requests /run/load-$number.json)))
        stamps=$((stamps + $(figure verified stamps /run/load-$number.json)))
        round_us=$(figure all max_ns /run/load-$number.json 1000)
        [ "$longest_us" -ge "$round_us" ] || longest_us=$round_us
        if [ $status != 0 ]; then
            sed 's/^/  /' /run/load-$number.log
            grep -A 20 '"verified"' /run/load-$number.json
            echo "failed: disk $number, round $rounds: spinelbench ended with $status"
            break
        elif [ -e /run/stop ]; then
            : >/run/load-$number.passed
            break
        fi
    done
    echo "report: load $number $rounds $requests $stamps $longest_us"
}

# checksums NUMBER OPTION...   the same with fio's checksums
checksums() {
    number=$1 device=$(disk "$1")
    shift
    rounds=0
    while :; do
        rounds=$((rounds + 1))
        if ! verify "$device" --randseed=$rounds "$@" >/run/checksums-$number.log 2>&1; then
            tail -n 20 /run/checksums-$number.log | sed 's/^/  /'
            echo "failed: disk $number, round $rounds: fio found something"
            break
        elif [ -e /run/stop ]; then
            : >/run/checksums-$number.passed
            break
        fi
    done
    echo "report: checksums $number $rounds"
}

# cached NUMBER SKIP COUNT   what the kernel has once read of these MiB stays what it was, pages that the device wrote and no
# processor has touched since
cached() {
    number=$1 device=$(disk "$1") skip=$2 count=$3
    dd if=/dev/urandom of="$device" bs=1M seek="$skip" count="$count" oflag=direct 2>/dev/null
    sum=$(reads "$device" "$skip" "$count" | md5sum)
    rounds=0
    while :; do
        rounds=$((rounds + 1))
        echo 1 >/proc/sys/vm/drop_caches
        for again in 1 2 3; do
            if [ "$(dd if="$device" bs=1M skip="$skip" count="$count" 2>/dev/null | md5sum)" != "$sum" ]; then
                echo "failed: disk $number, round $rounds: pages of the cache changed"
                break 2
            fi
        done
        if [ -e /run/stop ]; then
            : >/run/cached-$number.passed
            break
        fi
    done
    echo "report: cached $number $rounds"
}

complaints() {
    dmesg | grep -E 'I/O error|not a head|blocked for more than|BUG|WARNING'
}

# until_told NAME LOADS   lets the host do what it likes to the disks, and waits for the end of all loads
until_told() {
    reach "busy"
    : >/run/stop
    wait
    for load in $2; do
        claim "$1: $load found nothing wrong, and nothing failed" test -e "/run/$load.passed"
    done
    refute "$1: the guest's kernel has nothing to complain about" complaints
}

# packed NAME NUMBER VALUE   the driver and the disk have (1) or have not (0) agreed on packed rings
packed() {
    claim "$1: disk $2 has $([ "$3" = 1 ] && echo packed || echo split) rings" \
        [ "$(cut -c 35 "/sys/block/$(basename "$(disk "$2")")/device/features")" = "$3" ]
}
