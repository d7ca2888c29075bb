# What the demonstration does in its guest. Needs the testbed's prelude and the guest tests' disk.sh; KEEP is set or
# empty. The host waits for the "done:" lines one after the other, and shows the "report:" lines.

device=$(disk 0)

negotiated disk "$device" 512
echo "report: $(uname -sr) sees $device: $(($(blockdev --getsize64 "$device") >> 20)) MiB, 4 queues, features $(
    for pair in 9:FLUSH 11:CONFIG_WCE 12:MQ 13:DISCARD 14:WRITE_ZEROES 28:INDIRECT_DESC 29:EVENT_IDX 32:VERSION_1; do
        ! feature "$device" "${pair%:*}" || printf '%s ' "${pair#*:}"
    done
)"
echo "done: features"

claim "fio: random 4 KiB at depth 16 verifies on every queue" \
    verify "$device" --bs=4k --numjobs=4 --size=16M --offset_increment=16M
grep -oE '(read|write): IOPS=[^,]*, BW=[^ ]*' /run/claim.log | sed 's/^/report: fio /'
echo "done: fio"

discarded disk "$device"
echo "done: discard"

file_system disk "$device"
echo "done: file system"

if [ -n "$KEEP" ]; then
    mount "$device" /mnt && echo "The disk $device is mounted on /mnt. 'exit' ends the guest."
    echo "done: everything"
    PS1='guest# ' sh -i
fi
conclude
