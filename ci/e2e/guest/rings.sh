# A disk whose rings are of one kind. Needs the functions of disk.sh.

# is DEVICE BIT VALUE   the driver and the disk have (1) or have not (0) agreed on a virtio feature
is() {
    [ "$(cut -c $(($2 + 1)) "/sys/block/${1#/dev/}/device/features")" = "$3" ]
}

# are DEVICE PACKED EVENT_IDX INDIRECT   bits 34, 29 and 28
are() {
    is "$1" 34 "$2" && is "$1" 29 "$3" && is "$1" 28 "$4"
}

# rings NUMBER PACKED EVENT_IDX INDIRECT QUEUES
rings() {
    device=$(disk "$1")
    kind="packed $2, event_idx $3, indirect $4, $5 queues"
    claim "$kind: negotiated" are "$device" "$2" "$3" "$4"
    claim "$kind: as many queues" [ "$(ls "/sys/block/${device#/dev/}/mq" | wc -l)" = "$5" ]
    claim "$kind: 4 KiB at depth 16 from four processes verify" verify "$device" --bs=4k --numjobs=4 --size=4M --offset_increment=4M
    claim "$kind: 512 bytes to 256 KiB verify" verify "$device" --bsrange=512-256k --blockalign=512 --size=8M --offset=16M
    claim "$kind: one at a time verifies" verify "$device" --bs=4k --iodepth=1 --size=1M --offset=24M
    claim "$kind: the driver leaves and returns" comes_back "$device"
    claim "$kind: and the disk still verifies" verify "$(disk "$1")" --bs=4k --size=2M
}
