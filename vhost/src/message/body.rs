//! Bodies of messages: from bytes and descriptors to a request. Knows no socket.

use std::os::fd::OwnedFd;

use super::{
    CONFIG_HEAD_BYTES, Code, FLAG_NEED_REPLY, Header, InflightPlace, Message, MessageError, REGION_BYTES, RegionOffer, RegionPlace,
    Request, RingFd,
};
use crate::ring::RingAddresses;

/// The first `N` 32-bit words; the caller has checked that there are as many.
pub(super) fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    std::array::from_fn(|at| u32::from_ne_bytes(bytes[at * 4..at * 4 + 4].try_into().expect("four bytes")))
}

/// The first `N` 64-bit words; the caller has checked that there are as many.
fn longs<const N: usize>(bytes: &[u8]) -> [u64; N] {
    std::array::from_fn(|at| u64::from_ne_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("eight bytes")))
}

/// A ring's index, and whether no descriptor comes with it (VHOST_USER_SET_VRING_KICK).
const INDEX_MASK: u64 = 0xff;
const NO_DESCRIPTOR: u64 = 1 << 8;

impl Message {
    /// Turns a checked header, its whole body and its descriptors into a request. What is not taken is closed.
    pub(crate) fn parse(header: Header, body: &[u8], fds: Vec<OwnedFd>) -> Result<Self, MessageError> {
        let code = header.code;
        code.check_fds(fds.len())?;
        let request = parse_request(code, body, fds)?;
        Ok(Self { code, need_reply: header.flags & FLAG_NEED_REPLY != 0, request })
    }
}

fn parse_request(code: Code, body: &[u8], mut fds: Vec<OwnedFd>) -> Result<Request, MessageError> {
    Ok(match code {
        Code::GET_FEATURES => Request::GetFeatures,
        Code::SET_FEATURES => Request::SetFeatures(one(body)),
        Code::SET_OWNER => Request::SetOwner,
        Code::RESET_OWNER => Request::ResetOwner,
        Code::SET_MEM_TABLE => Request::SetMemTable(table(code, body, fds)?),
        Code::SET_VRING_NUM => {
            let [index, size] = words(body);
            Request::SetRingSize { index, size }
        }
        Code::SET_VRING_ADDR => {
            let [index, flags] = words(body);
            let [descriptors, used, available, _log] = longs(&body[8..]);
            Request::SetRingAddresses { index, flags, addresses: RingAddresses { descriptors, available, used } }
        }
        Code::SET_VRING_BASE => {
            let [index, base] = words(body);
            Request::SetRingBase { index, base }
        }
        Code::GET_VRING_BASE => {
            let [index, _reserved] = words(body);
            Request::GetRingBase { index }
        }
        Code::SET_VRING_KICK => Request::SetRingKick(ring_fd(code, body, fds)?),
        Code::SET_VRING_CALL => Request::SetRingCall(ring_fd(code, body, fds)?),
        Code::SET_VRING_ERR => Request::SetRingError(ring_fd(code, body, fds)?),
        Code::GET_PROTOCOL_FEATURES => Request::GetProtocolFeatures,
        Code::SET_PROTOCOL_FEATURES => Request::SetProtocolFeatures(one(body)),
        Code::GET_QUEUE_NUM => Request::GetQueueCount,
        Code::SET_VRING_ENABLE => {
            let [index, enable] = words(body);
            if enable > 1 {
                return Err(MessageError::Value { code, value: u64::from(enable) });
            }
            Request::EnableRing { index, enable: enable == 1 }
        }
        Code::SET_BACKEND_REQ_FD => Request::SetBackEndSocket(fds.pop().expect("checked: one descriptor")),
        Code::GET_CONFIG => {
            let (offset, size, flags, _content) = config(code, body)?;
            Request::GetConfig { offset, size, flags }
        }
        Code::SET_CONFIG => {
            let (offset, size, flags, content) = config(code, body)?;
            if content.is_empty() {
                return Err(MessageError::Count { code, said: size });
            }
            Request::SetConfig { offset, flags, content: content.to_vec() }
        }
        Code::SET_LOG_BASE => {
            let [len_bytes, offset] = longs(body);
            Request::SetLog { len_bytes, offset, fd: fds.pop().expect("checked: one descriptor") }
        }
        Code::SET_LOG_FD => Request::SetLogEvent,
        Code::GET_INFLIGHT_FD => Request::GetInflight { place: inflight(body), answer_bytes: body.len() },
        Code::SET_INFLIGHT_FD => Request::SetInflight { place: inflight(body), fd: fds.pop().expect("checked: one descriptor") },
        Code::RESET_DEVICE => Request::ResetDevice,
        Code::GET_MAX_MEM_SLOTS => Request::GetMemorySlots,
        Code::ADD_MEM_REG => {
            let (place, offset) = region(&body[8..]);
            Request::AddRegion(RegionOffer { place, offset, fd: fds.pop().expect("checked: one descriptor") })
        }
        Code::REM_MEM_REG => Request::RemoveRegion(region(&body[8..]).0),
        Code::SET_STATUS => Request::SetStatus(one(body)),
        Code::GET_STATUS => Request::GetStatus,
        _ => Request::Unknown,
    })
}

fn one(body: &[u8]) -> u64 {
    let [value] = longs(body);
    value
}

fn region(bytes: &[u8]) -> (RegionPlace, u64) {
    let [guest, len_bytes, user, offset] = longs(bytes);
    (RegionPlace { guest, user, len_bytes }, offset)
}

fn inflight(body: &[u8]) -> InflightPlace {
    let [len_bytes, offset] = longs(body);
    let [queues, size] = [16, 18].map(|at| u16::from_ne_bytes([body[at], body[at + 1]]));
    InflightPlace { len_bytes, offset, queues, size }
}

/// A memory table: a count, and exactly as many descriptions and descriptors.
fn table(code: Code, body: &[u8], fds: Vec<OwnedFd>) -> Result<Vec<RegionOffer>, MessageError> {
    let [said] = words(body);
    let descriptions = &body[8..];
    let exact = usize::try_from(said).is_ok_and(|count| count.checked_mul(REGION_BYTES) == Some(descriptions.len()) && count == fds.len());
    if !exact {
        return Err(MessageError::Count { code, said });
    }
    let offers = descriptions.chunks_exact(REGION_BYTES).zip(fds).map(|(bytes, fd)| {
        let (place, offset) = region(bytes);
        RegionOffer { place, offset, fd }
    });
    Ok(offers.collect())
}

fn ring_fd(code: Code, body: &[u8], mut fds: Vec<OwnedFd>) -> Result<RingFd, MessageError> {
    let value = one(body);
    if value & !(INDEX_MASK | NO_DESCRIPTOR) != 0 {
        return Err(MessageError::Value { code, value });
    }
    if (value & NO_DESCRIPTOR != 0) != fds.is_empty() {
        return Err(MessageError::DescriptorFlag { code, count: fds.len() });
    }
    let index = u32::try_from(value & INDEX_MASK).expect("eight bits");
    Ok(RingFd { index, fd: fds.pop() })
}

/// A configuration message: offset, size, flags, and either no content (a question may leave it out) or `size` bytes.
fn config(code: Code, body: &[u8]) -> Result<(u32, u32, u32, &[u8]), MessageError> {
    let [offset, size, flags] = words(body);
    let content = &body[CONFIG_HEAD_BYTES..];
    let exact = content.is_empty() || usize::try_from(size).is_ok_and(|size| size == content.len());
    if exact { Ok((offset, size, flags, content)) } else { Err(MessageError::Count { code, said: size }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    fn fds(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect()
    }

    fn parse(code: Code, words: &[u32], count: usize) -> Result<Message, MessageError> {
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let size = u32::try_from(body.len()).unwrap();
        let header = Header::parse(Header { code, flags: FLAG_NEED_REPLY, size }.bytes())?;
        Message::parse(header, &body, fds(count))
    }

    #[test]
    fn a_header_of_another_version_or_with_strange_flags_is_refused() {
        for (flags, good) in [(1, true), (1 | 8, true), (0, false), (2, false), (3, false), (1 | 4, false), (1 | 16, false)] {
            let mut bytes = Header { code: Code::GET_FEATURES, flags: 0, size: 0 }.bytes();
            bytes[4..8].copy_from_slice(&u32::to_ne_bytes(flags));
            assert_eq!(Header::parse(bytes).is_ok(), good, "{flags:#x}");
        }
    }

    #[test]
    fn a_memory_table_holds_as_many_regions_and_descriptors_as_it_says() {
        let region = [0x1000, 0, 0x2000, 0, 0x7000_0000, 0, 0x4000, 0];
        let table = |said: u32, regions: usize| {
            let mut words = vec![said, 0];
            words.extend(region.iter().cycle().take(regions * region.len()));
            words
        };
        let Request::SetMemTable(offers) = parse(Code::SET_MEM_TABLE, &table(2, 2), 2).unwrap().request else { panic!("another request") };
        assert_eq!(offers.len(), 2);
        assert_eq!(offers[0].place, RegionPlace { guest: 0x1000, user: 0x7000_0000, len_bytes: 0x2000 });
        assert_eq!(offers[1].offset, 0x4000);
        for (said, regions, count) in [(2, 1, 2), (1, 2, 1), (2, 2, 1), (2, 2, 3), (0, 1, 0), (u32::MAX, 1, 1), (0x800_0001, 1, 1)] {
            let error = parse(Code::SET_MEM_TABLE, &table(said, regions), count).unwrap_err();
            assert_eq!(error, MessageError::Count { code: Code::SET_MEM_TABLE, said });
        }
        assert!(parse(Code::SET_MEM_TABLE, &[0, 0], 0).is_ok(), "an empty table takes all memory away");
    }

    #[test]
    fn a_ring_descriptor_comes_exactly_when_its_flag_says_so() {
        for (value, count, good) in [(3, 1, true), (3 | 0x100, 0, true), (3, 0, false), (3 | 0x100, 1, false), (3 | 0x200, 1, false)] {
            let message = parse(Code::SET_VRING_KICK, &[value, 0], count);
            assert_eq!(message.is_ok(), good, "{value:#x} with {count}");
            if let Ok(Message { request: Request::SetRingKick(RingFd { index, fd }), need_reply, .. }) = message {
                assert_eq!((index, fd.is_some(), need_reply), (3, count == 1, true));
            }
        }
        assert!(parse(Code::SET_VRING_CALL, &[1, 1], 1).is_err(), "the upper half means nothing");
    }

    #[test]
    fn a_configuration_message_holds_what_it_says() {
        assert!(parse(Code::GET_CONFIG, &[0, 60, 0], 0).is_ok(), "a question may come without room for its answer");
        assert!(parse(Code::GET_CONFIG, &[0, 4, 0, 7], 0).is_ok());
        assert!(parse(Code::GET_CONFIG, &[0, 5, 0, 7], 0).is_err());
        assert!(parse(Code::SET_CONFIG, &[32, 1, 0], 0).is_err());
        assert!(parse(Code::SET_CONFIG, &[32, u32::MAX, 0, 1], 0).is_err());
        let Request::SetConfig { offset, content, .. } = parse(Code::SET_CONFIG, &[32, 4, 0, 1], 0).unwrap().request else {
            panic!("another request")
        };
        assert_eq!((offset, content), (32, 1_u32.to_ne_bytes().to_vec()));
    }

    #[test]
    fn enabling_by_anything_but_zero_or_one_is_refused() {
        assert!(matches!(parse(Code::SET_VRING_ENABLE, &[2, 1], 0).unwrap().request, Request::EnableRing { index: 2, enable: true }));
        assert!(parse(Code::SET_VRING_ENABLE, &[2, 2], 0).is_err());
    }

    #[test]
    fn descriptors_of_a_refused_message_are_closed() {
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        let header = Header::parse(Header { code: Code::SET_FEATURES, flags: 0, size: 8 }.bytes()).unwrap();
        assert!(Message::parse(header, &[0; 8], vec![theirs]).is_err());
        let mut byte = [0];
        assert_eq!(rustix::io::read(&ours, &mut byte).unwrap(), 0, "the pipe's other end is gone");
    }
}
