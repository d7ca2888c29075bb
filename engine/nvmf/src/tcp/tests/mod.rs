//! Tests of the transport as a whole: what the builders write is what the receiver reads, however it is cut.

mod malformed;
mod round;

use super::receiver::{Carrier, Event, Idle, Limits, Receiver, Verdict};
use super::value::{IcReq, IcResp, Pdu, Terms};
use super::{Alignment, Fault, Role};

/// An event that keeps its data, pieces put together.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Header(Pdu),
    Data(Carrier, Vec<u8>),
    End(Carrier, Verdict),
}

const LIMITS: Limits = Limits { capsule_data_bytes_max: 8192, data_bytes_max: 65536 };

fn plain_request() -> IcReq {
    IcReq { alignment: Alignment::default(), header_digest: false, data_digest: false, r2ts_max_less_one: 0 }
}

fn plain_response() -> IcResp {
    IcResp { alignment: Alignment::default(), header_digest: false, data_digest: false, data_bytes_max: 65536 }
}

/// A receiver after the connection was set up on `terms`.
fn running(role: Role, terms: Terms) -> Receiver {
    let mut receiver = Receiver::new(role, LIMITS);
    let mut out = [0; 128];
    match role {
        Role::Target => super::build::put_request(&plain_request(), &mut out),
        Role::Host => super::build::put_response(&plain_response(), &mut out),
    };
    let step = receiver.next(&out).expect("a plain request or response");
    assert_eq!((step.used, receiver.idle()), (128, Some(Idle::Agreement)));
    receiver.agree(terms);
    receiver
}

/// Gives a receiver pieces until it ends: what it saw, and the fault if there was one.
fn drive<'a>(receiver: &mut Receiver, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Seen>, Option<Fault>) {
    let mut seen = Vec::new();
    for mut left in pieces {
        loop {
            let step = match receiver.next(left) {
                Ok(step) => step,
                Err(fault) => return (seen, Some(fault)),
            };
            left = &left[step.used..];
            match step.event {
                None => break,
                Some(Event::Header(pdu)) => seen.push(Seen::Header(pdu)),
                Some(Event::End { of, verdict }) => seen.push(Seen::End(of, verdict)),
                Some(Event::Data { of, offset, bytes }) => {
                    if offset == 0 {
                        seen.push(Seen::Data(of, Vec::new()));
                    }
                    let Some(Seen::Data(same, have)) = seen.last_mut() else { panic!("data without a beginning") };
                    assert_eq!((*same, have.len()), (of, usize::try_from(offset).expect("a small offset")));
                    have.extend_from_slice(bytes);
                }
            }
        }
    }
    (seen, None)
}
