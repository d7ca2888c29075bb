# What a disk must do in a guest, whatever is behind it. Needs the testbed's prelude.

# feature DEVICE BIT   the driver and the disk have agreed on a virtio feature
feature() {
    [ "$(cut -c $(($2 + 1)) "/sys/block/${1#/dev/}/device/features")" = 1 ]
}

# limit DEVICE NAME   a figure the kernel keeps of a disk
limit() {
    cat "/sys/block/${1#/dev/}/queue/$2"
}

# verify DEVICE OPTION...   writes and reads at random with a checksum in every block
verify() {
    device=$1
    shift
    fio --name=verify --filename="$device" --direct=1 --ioengine=libaio --rw=randrw --iodepth=16 \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting "$@"
}

# reads DEVICE SKIP COUNT   the MiB from SKIP on, past the cache
reads() {
    dd if="$1" bs=1M skip="$2" count="$3" iflag=direct 2>/dev/null
}

# zeroes DEVICE SKIP COUNT   these MiB read as nothing but zeroes
zeroes() {
    reads "$1" "$2" "$3" | cmp -s -n $(($3 << 20)) - /dev/zero
}

# same DEVICE SKIP COUNT FILE FROM   these MiB are those of the file
same() {
    [ "$(reads "$1" "$2" "$3" | md5sum)" = "$(reads "$4" "$5" "$3" | md5sum)" ]
}

negotiated() {
    claim "$1: VERSION_1, INDIRECT_DESC, EVENT_IDX and MQ are negotiated" all_features "$2"
    claim "$1: four queues" [ "$(ls "/sys/block/${2#/dev/}/mq" | wc -l)" = 4 ]
    claim "$1: blocks of $3 bytes" [ "$(blockdev --getss "$2")" = "$3" ]
}

all_features() {
    feature "$1" 32 && feature "$1" 28 && feature "$1" 29 && feature "$1" 12
}

# The MiB 8 to 11 hold random data; the second of them is discarded, the third zeroed.
discarded() {
    name=$1 device=$2
    dd if=/dev/urandom of=/tmp/random bs=1M count=4 2>/dev/null
    claim "$name: 4 MiB are written" dd if=/tmp/random of="$device" bs=1M seek=8 oflag=direct
    claim "$name: discard is the disk's own" [ "$(limit "$device" discard_max_bytes)" -gt 0 ]
    claim "$name: blkdiscard" blkdiscard --offset 9M --length 1M "$device"
    claim "$name: write zeroes is the disk's own" [ "$(limit "$device" write_zeroes_max_bytes)" -gt 0 ]
    claim "$name: write zeroes" blkdiscard --zeroout --offset 10M --length 1M "$device"
    claim "$name: what was discarded reads as zeroes" zeroes "$device" 9 1
    claim "$name: what was zeroed reads as zeroes" zeroes "$device" 10 1
    claim "$name: the data before them is whole" same "$device" 8 1 /tmp/random 0
    claim "$name: the data behind them is whole" same "$device" 11 1 /tmp/random 3
}

file_system() {
    name=$1 device=$2
    claim "$name: mkfs.ext4" mkfs.ext4 -q -F "$device"
    claim "$name: mount" mount "$device" /mnt
    claim "$name: a file of 16 MiB" dd if=/dev/urandom of=/mnt/file bs=1M count=16 conv=fsync
    before=$(md5sum </mnt/file)
    claim "$name: umount" umount /mnt
    claim "$name: mount again" mount "$device" /mnt
    claim "$name: the file is as it was written" [ "$(md5sum </mnt/file)" = "$before" ]
    # What is freed can be trimmed once the journal has it.
    rm /mnt/file && sync
    claim "$name: fstrim" fstrim -v /mnt
    claim "$name: umount again" umount /mnt
    claim "$name: fsck finds nothing" e2fsck -f -n "$device"
}

# comes_back DEVICE   the driver lets the disk go, resets it and takes it again
comes_back() {
    driver=/sys/bus/virtio/drivers/virtio_blk
    virtio=$(basename "$(readlink "/sys/block/${1#/dev/}/device")")
    echo "$virtio" >$driver/unbind && echo "$virtio" >$driver/bind && [ -b "$1" ]
}

# write_cache DEVICE TYPE   the driver sets the disk's write cache, and reads it so
write_cache() {
    type=/sys/block/${1#/dev/}/cache_type
    echo "$2" >"$type" && [ "$(cat "$type")" = "$2" ]
}

# served NAME BLOCK_BYTES NUMBER   everything above, on one disk
served() {
    name=$1 device=$(disk "$3")
    echo "== $name is $device"
    negotiated "$name" "$device" "$2"
    claim "$name: random 4 KiB at depth 16 verifies on every queue" \
        verify "$device" --bs=4k --numjobs=4 --size=4M --offset_increment=16M
    claim "$name: requests of $2 bytes to 256 KiB verify" \
        verify "$device" --bsrange="$2-256k" --blockalign="$2" --size=16M --offset=64M
    discarded "$name" "$device"
    file_system "$name" "$device"
    claim "$name: the write cache is turned off" write_cache "$device" "write through"
    claim "$name: and on" write_cache "$device" "write back"
    claim "$name: the driver leaves and returns" comes_back "$device"
    claim "$name: and the disk still verifies" verify "$(disk "$3")" --bs=4k --size=2M
    claim "$name: all of it is discarded" blkdiscard --force "$(disk "$3")"
}

# takes_no_write NUMBER   a disk of random data that takes no write
takes_no_write() {
    device=$(disk "$1")
    claim "readonly: the disk says so" [ "$(cat "/sys/block/${device#/dev/}/ro")" = 1 ]
    claim "readonly: it is read" reads "$device" 0 1
    refute "readonly: a write is refused" dd if=/dev/zero of="$device" bs=4k count=1 oflag=direct
    refute "readonly: a discard is refused" blkdiscard "$device"
}
