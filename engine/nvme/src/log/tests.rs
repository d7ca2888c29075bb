use super::*;
use crate::status::StatusCode;

#[test]
fn supported_pages_are_bits_of_dwords() {
    let log = SupportedLogs::new(&[LogPage::Supported, LogPage::Ana]);
    let bytes = log.as_bytes();
    assert_eq!((bytes[0], bytes[4], bytes[4 * 0x0c]), (1, 0, 1));
    assert!(log.has(LogPage::Ana) && !log.has(LogPage::Smart));
}

#[test]
fn an_error_lies_as_the_specification_draws_it() {
    let mut entry = ErrorEntry::new(0x0102, 3, 0x0405, StatusCode::LBA_RANGE.permanent());
    (entry.block, entry.nsid, entry.transport) = (7.into(), 8.into(), TransportType::Tcp.code());
    let mut bytes = [0; 64];
    bytes[..2].copy_from_slice(&[2, 1]);
    bytes[8..16].copy_from_slice(&[3, 0, 5, 4, 0x00, 0x81, 0xff, 0xff]);
    (bytes[16], bytes[24], bytes[29]) = (7, 8, 3);
    assert_eq!(entry.as_bytes(), bytes);
    assert_eq!(entry.status(), StatusCode::LBA_RANGE.permanent());
}

#[test]
fn smart_counts_in_thousands_of_sectors() {
    assert_eq!((smart_units(0), smart_units(1), smart_units(512_000), smart_units(512_001)), (0, 1, 1, 2));
    let mut log = Smart::new_zeroed();
    (log.temperature_k, log.read_units, log.error_entries) = ((CELSIUS_ZERO_K + 25).into(), 1.into(), 2.into());
    let bytes = log.as_bytes();
    assert_eq!((&bytes[1..3], bytes[32], bytes[176]), (&[0x2a, 0x01][..], 1, 2));
}

#[test]
fn too_many_changed_namespaces_are_told_as_that() {
    let log = ChangedNamespaces::new([3, 5].into_iter());
    assert_eq!((log.ids().collect::<Vec<_>>(), log.too_many()), (vec![3, 5], false));
    assert_eq!(ChangedNamespaces::new(1..=1024).ids().count(), 1024);
    let over = ChangedNamespaces::new(1..=1025);
    assert_eq!((over.too_many(), over.ids().count()), (true, 0));
    assert_eq!(over.as_bytes()[..8], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
}

#[test]
fn firmware_has_one_slot_that_is_active() {
    let log = FirmwareSlots::one(*b"1.0     ");
    let bytes = log.as_bytes();
    assert_eq!((bytes[0], &bytes[8..16], bytes[16]), (1, &b"1.0     "[..], 0));
}

#[test]
fn groups_lie_as_the_specification_draws_them() {
    assert_eq!(AnaHead::new(0x0102, 3).as_bytes(), [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    let group = AnaGroup::new(1, AnaState::Inaccessible, 5, 2);
    assert_eq!(group.as_bytes()[..20], [1, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(group.state(), Some(AnaState::Inaccessible));
    assert_eq!(AnaGroup::read_from_bytes(&[0; 32]).unwrap().state(), None);
}

#[test]
fn an_entry_of_discovery_lies_as_the_specification_draws_it() {
    let mut name = [0; 256];
    name[..3].copy_from_slice(b"nqn");
    let entry = DiscoveryEntry::tcp(EntryKind::Nvm, name, AddressFamily::Ipv4, "192.0.2.1", "4420");
    let bytes = entry.as_bytes();
    assert_eq!(bytes[..12], [3, 1, 2, 0b110, 0, 0, 0xff, 0xff, 32, 0, 0, 0]);
    assert_eq!((&bytes[32..37], &bytes[256..260], &bytes[512..522]), (&b"4420\0"[..], &b"nqn\0"[..], &b"192.0.2.1\0"[..]));
    assert_eq!((entry.address_text(), entry.service_text()), (Some("192.0.2.1"), Some("4420")));
    assert_eq!(entry.tcp_security(), Some(Security::None));
    let head = DiscoveryHead::new(0x0102, 3);
    assert_eq!(head.as_bytes()[..18], [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_address_that_fills_its_field_or_is_no_text_is_read_without_harm() {
    let long = "x".repeat(300);
    let mut entry = DiscoveryEntry::tcp(EntryKind::Nvm, [0; 256], AddressFamily::Ipv6, &long, &long);
    assert_eq!((entry.address_text().map(str::len), entry.service_text().map(str::len)), (Some(255), Some(31)));
    entry.address.fill(b'y');
    entry.service.fill(0xff);
    assert_eq!((entry.address_text().map(str::len), entry.service_text()), (Some(256), None));
    entry.service = *b"4420                            ";
    assert_eq!(entry.service_text(), Some("4420"), "some targets fill with spaces");
}

#[test]
fn events_name_their_log_pages() {
    for (event, result) in [
        (AsyncEvent::NAMESPACES_CHANGED, 0x04_00_02),
        (AsyncEvent::ANA_CHANGED, 0x0c_03_02),
        (AsyncEvent::DISCOVERY_CHANGED, 0x70_f0_02),
        (AsyncEvent::RESERVATION_NOTICE, 0x80_00_06),
    ] {
        assert_eq!((event.result(), AsyncEvent::of(result)), (result, event));
    }
    let notice = ReservationNotice::new(1, ReservationEvent::ReservationPreempted, 2, 3);
    assert_eq!(notice.as_bytes()[..16], [1, 0, 0, 0, 0, 0, 0, 0, 3, 2, 0, 0, 3, 0, 0, 0]);
}

#[test]
fn groups_are_read_with_their_namespaces_as_far_as_they_go() {
    let mut bytes = AnaHead::new(9, 2).as_bytes().to_vec();
    bytes.extend(AnaGroup::new(1, AnaState::Optimized, 0, 2).as_bytes());
    bytes.extend([3, 0, 0, 0, 4, 0, 0, 0]);
    bytes.extend(AnaGroup::new(2, AnaState::Change, 0, 0).as_bytes());
    let read = |bytes: &[u8]| {
        let groups = AnaLog::of(bytes).unwrap().groups();
        groups.map(|group| group.map(|(group, ids)| (group.group.get(), ids.iter().map(|id| id.get()).collect()))).collect::<Vec<_>>()
    };
    assert_eq!(read(&bytes), [Ok((1, vec![3, 4])), Ok((2, vec![]))]);
    assert_eq!(read(&bytes[..bytes.len() - 1]), [Ok((1, vec![3, 4])), Err(AnaCut)]);
    assert_eq!(read(&bytes[..16 + 32 + 7]), [Err(AnaCut)]);
    assert!(AnaLog::of(&bytes[..15]).is_none());
    // More namespaces than there is memory.
    bytes[16 + 4..16 + 8].fill(0xff);
    assert_eq!(read(&bytes), [Err(AnaCut)]);
}
