use super::controller::TooShort;
use super::group::Exponent;
use super::message::{Body, Message};
use super::response::{Challenge, Role};
use super::*;

const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90";
const SUBSYSTEM: &str = "nqn.2026-11.io.spinel:disk1";
/// The bytes 0 to 31, to be transformed with SHA-256.
const HOST_KEY: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";
/// The bytes 64 to 111, to be transformed with SHA-384.
const CONTROLLER_KEY: &str = "DHHC-1:02:QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl9gYWJjZGVmZ2hpamtsbW5voBXMjQ==:";
/// The bytes 0 to 31, as they are.
const OTHER_KEY: &str = "DHHC-1:00:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";

/// Computed apart from this code, by a few lines of Python: a hash function, a group, and the first sixteen bytes of the
/// host's and of the controller's answer to the challenges that `challenges` makes.
const ANSWERS: [(u8, u8, u128, u128); 18] = [
    (1, 0, 0x015acaaf83ebdc98780dd832c1057b2a, 0x775b15c08c202951acd82b8a0629aeb5),
    (1, 1, 0xdae8bef4836a4a1c1c97baafe7e9d7b5, 0x1e94080267d490cb9b6fb66af93be6b4),
    (1, 2, 0xdc598c836594e61e679f4f3454e5fd80, 0x20c1bf14cddb88363dd5ee50e9ba4805),
    (1, 3, 0xd6a51b27b8e1fa0f8b911411b8e67418, 0x074ae3a78a442ec82f72a49d28051316),
    (1, 4, 0xa7e908f9a252c1734e5e11904d8cee01, 0x6d07248315d34c6ef748683ce0dfaf4a),
    (1, 5, 0xe39a590df84d970e291b78990aa29d6e, 0x5a5e9fc9e1efd25878d9b5485ec98e6b),
    (2, 0, 0x68666e99451b40e394574599edb8b1a6, 0x1b968ae27921d7a1eb6f425ef7abda29),
    (2, 1, 0x4584bbe839af92faf64191b9a458be39, 0x395f0c558603d2ea0cf2109caa55a7b2),
    (2, 2, 0x8ae1bdbf20fca74e383fcede9b2b63a8, 0xfc32c944d3b581594b19d4fd218dd0d5),
    (2, 3, 0xf6bb5c744fb7668d60522ed8c1a8c81a, 0x4be61e27eecf84246636daa711e7ceff),
    (2, 4, 0x906fba51a050c627ad76dd1074714c45, 0xbe1f8a17fd48d341ee61507e57dc2001),
    (2, 5, 0xa72f0f0849514d793dc5ed2162093db9, 0x4869990d1bfcaa1f02f3ae28fe960670),
    (3, 0, 0x2729c190fa6cbc2f35f3d142306b32e3, 0x683a46f35964a2e633544ae85f34e078),
    (3, 1, 0xeab2bfedad21d6e781f9fed00a769695, 0x3566afd9d4d9df5c08240f0e4393653a),
    (3, 2, 0xbffcde8cab119f27c8847c023434d93d, 0xef9286622bfad926b95e7a11bae65e0b),
    (3, 3, 0x735a55fb444cdbc4e4c035c6521d5253, 0xd44aadbdaa4dbec5506424f2e0496533),
    (3, 4, 0x7b779fe57213f66565c7cffdc219432c, 0x460e408db16705b15ab62bf1ba417c8a),
    (3, 5, 0xde618e5b767d45c1dfe46fe483bd23d4, 0xecc9591a20b24ed9c9e2bebb7cd5d923),
];

/// SHA-256 of the groups' primes, computed apart, where each was also found to be a safe prime; and of 2 to the power of
/// the exponent that `exponent(7, 1)` makes.
const PRIMES: [(Group, u128, u128); 5] = [
    (Group::Ffdhe2048, 0x9cd3b7f336872f46c09428d1bbc19877, 0x74d623eab8f5c03bb6ecab6c79b997d3),
    (Group::Ffdhe3072, 0x0eaf67db3a839156d5013494a5318a77, 0x94d58e1c2288e499238a113f7c0ac032),
    (Group::Ffdhe4096, 0x4648414224ac881b3d0dc59b466f96d0, 0x108fd169f3097d12bd31ddd680b2a2ca),
    (Group::Ffdhe6144, 0x227ac9066b3ddd9e193670cda2388fa8, 0xc45e69797b14efc981bf2314572e02f4),
    (Group::Ffdhe8192, 0x770b14efaf6f049929c523113b3fa99a, 0xa728ec9d654d6cfebc32400010dc0b93),
];

fn parties(mutual: bool) -> Parties {
    Parties {
        host: Nqn::parse(HOST).unwrap(),
        subsystem: Nqn::parse(SUBSYSTEM).unwrap(),
        host_key: Key::parse(HOST_KEY).unwrap(),
        controller_key: mutual.then(|| Key::parse(CONTROLLER_KEY).unwrap()),
    }
}

/// An exponent of bytes that each come from the one before by adding `step`.
fn exponent(step: u8, first: u8) -> Exponent {
    Exponent::new(&mut |bytes| {
        let values = std::iter::successors(Some(first), |value| Some(value.wrapping_add(step)));
        bytes.iter_mut().zip(values).for_each(|(byte, value)| *byte = value);
    })
}

/// Bytes that differ from call to call, and are the same in every run.
fn numbers() -> impl FnMut(&mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |bytes| {
        for byte in bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
    }
}

fn first_sixteen(bytes: &[u8]) -> u128 {
    u128::from_be_bytes(bytes[..16].try_into().unwrap())
}

#[test]
fn groups_have_the_primes_of_the_standard_and_their_powers() {
    for (group, prime, power) in PRIMES {
        let hashed = |bytes: &[u8]| first_sixteen(&Hash::Sha256.digest(bytes));
        assert_eq!(hashed(&group.prime()), prime, "{}", group.name());
        let public = group.public(&exponent(7, 1));
        assert_eq!(hashed(&public), power, "{}", group.name());
    }
}

#[test]
fn answers_are_those_of_another_implementation() {
    let parties = parties(true);
    for (hash, group, host, controller) in ANSWERS {
        let (hash, group) = (Hash::of(hash).unwrap(), Group::of(group).unwrap());
        let ours = |first| (0..hash.len_bytes()).map(|at| first + at).collect::<Vec<u8>>();
        let (x, y) = (exponent(7, 1), exponent(5, 3));
        let shared = group.shared(&y, &group.public(&x));
        assert_eq!(shared, group.shared(&x, &group.public(&y)));
        let challenge = Challenge { hash, value: ours(0x10), sequence: 0x0102_0304, transaction: 0x0506, shared };
        assert_eq!(first_sixteen(&challenge.answer(Role::Host, &parties).unwrap()), host, "{hash:?} {group:?}");
        let challenge = Challenge { value: ours(0x80), sequence: 0x0a0b_0c0d, ..challenge };
        assert_eq!(first_sixteen(&challenge.answer(Role::Controller, &parties).unwrap()), controller, "{hash:?} {group:?}");
    }
}

#[test]
fn values_that_are_not_public_ones_are_refused() {
    for (group, ..) in PRIMES {
        let len = usize::from(group.len_bytes());
        let mut least = vec![0; len];
        assert!(group.shared(&exponent(7, 1), &least).is_none(), "0");
        least[len - 1] = 1;
        assert!(group.shared(&exponent(7, 1), &least).is_none(), "1");
        let mut most = group.prime();
        assert!(group.shared(&exponent(7, 1), &most).is_none(), "the prime");
        most[len - 1] -= 1;
        assert!(group.shared(&exponent(7, 1), &most).is_none(), "the prime less one");
        assert!(group.shared(&exponent(7, 1), &[0xff; 1024][..len]).is_none(), "above the prime");
        assert!(group.shared(&exponent(7, 1), &least[1..]).is_none(), "too short");
    }
    least_and_most_are_taken(Group::Ffdhe2048);
    assert!(Group::Null.shared(&exponent(7, 1), &[]).is_none());
}

fn least_and_most_are_taken(group: Group) {
    let mut value = vec![0; usize::from(group.len_bytes())];
    *value.last_mut().unwrap() = 2;
    assert!(group.shared(&exponent(7, 1), &value).is_some());
    value = group.prime();
    *value.last_mut().unwrap() -= 2;
    assert!(group.shared(&exponent(7, 1), &value).is_some());
}

#[test]
fn keys_are_taken_as_they_are_printed_and_say_what_is_wrong_with_them() {
    let body = |from: usize| &OTHER_KEY[from..];
    assert_eq!(format!("{:?}", Key::parse(&format!(" {HOST_KEY}\n")).unwrap()), "a secret of 32 bytes");
    // The specification's own example. A secret need not be as long as the results of what transforms it.
    for hash in ["00", "01", "02", "03"] {
        assert!(Key::parse(&format!("DHHC-1:{hash}:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:")).is_ok());
    }
    for (text, error) in [
        (String::new(), KeyError::Form),
        (OTHER_KEY.replace("DHHC-1", "DHHC-2"), KeyError::Form),
        (OTHER_KEY.trim_end_matches(':').into(), KeyError::Form),
        (format!("{OTHER_KEY}:"), KeyError::Form),
        (format!("DHHC-1:04:{}", body(10)), KeyError::Hash),
        (format!("DHHC-1:0:{}", body(10)), KeyError::Hash),
        ("DHHC-1:00:%%%%:".into(), KeyError::Base64),
        ("DHHC-1:00:AAAA:".into(), KeyError::Length { bytes: 3 }),
        (format!("DHHC-1:00:{}:", "A".repeat(44)), KeyError::Length { bytes: 33 }),
        (OTHER_KEY.replace("AAEC", "AAED"), KeyError::Checksum),
    ] {
        assert_eq!(Key::parse(&text).err(), Some(error), "{text}");
    }
}

/// What each side says, from beginning to end; how it stands for both.
fn converse(host: &mut HostAuth, controller: &mut ControllerAuth) -> (State, State) {
    let mut random = numbers();
    for _ in 0..8 {
        match host.step() {
            Step::Send(bytes) => {
                controller.send(bytes);
                host.sent();
            }
            Step::Receive { room_bytes } => {
                let mut bytes = controller.receive(room_bytes, &mut random).unwrap();
                bytes.resize(room_bytes, 0);
                host.received(&bytes, &mut random);
            }
            Step::End(state) => return (state, controller.state()),
        }
    }
    panic!("it does not end");
}

#[test]
fn both_sides_come_to_the_same_end_with_every_function_and_group() {
    for hash in Hash::ALL {
        for group in Group::ALL {
            for mutual in [false, true] {
                let policy = Policy::new(&[hash], &[group]).unwrap();
                let mut host = HostAuth::new(parties(mutual), policy, 7);
                // The controller has a secret of its own in any case; the host decides whether to ask.
                let mut controller = ControllerAuth::new(parties(true), Policy::ALL);
                let done = State::Done { mutual };
                assert_eq!(converse(&mut host, &mut controller), (done, done), "{hash:?} {group:?}");
            }
        }
    }
}

#[test]
fn the_strongest_that_both_allow_is_chosen() {
    let policy = Policy::new(&[Hash::Sha256, Hash::Sha384], &[Group::Null, Group::Ffdhe2048]).unwrap();
    let host = HostAuth::new(parties(false), Policy::ALL, 7);
    let mut controller = ControllerAuth::new(parties(false), policy);
    let Step::Send(offer) = host.step() else { panic!() };
    controller.send(offer);
    let bytes = controller.receive(4096, &mut numbers()).unwrap();
    let Ok(Message { body: Body::Challenge { hash, group, .. }, .. }) = Message::parse(&bytes) else { panic!() };
    assert_eq!((hash, group), (Hash::Sha384.code(), Group::Ffdhe2048.code()));
    assert_eq!(Policy::new(&[Hash::Sha256], &[]), None);
}

#[test]
fn sides_that_have_nothing_in_common_part() {
    for (hashes, groups, explanation) in
        [(&[Hash::Sha512], &[Group::Ffdhe2048], Explanation::HashUnusable), (&[Hash::Sha256], &[Group::Null], Explanation::GroupUnusable)]
    {
        let mut host = HostAuth::new(parties(false), Policy::new(&[Hash::Sha256], &[Group::Ffdhe2048]).unwrap(), 7);
        let mut controller = ControllerAuth::new(parties(false), Policy::new(hashes, groups).unwrap());
        let ends = (State::Failed(Failure::There(explanation.code())), State::Failed(Failure::Here(explanation)));
        assert_eq!(converse(&mut host, &mut controller), ends);
    }
}

#[test]
fn a_wrong_secret_is_refused_by_whom_it_is_shown_to() {
    let policy = Policy::new(&[Hash::Sha256], &[Group::Null]).unwrap();
    let other = || Key::parse(OTHER_KEY).unwrap();
    let mut host = HostAuth::new(Parties { host_key: other(), ..parties(true) }, policy, 7);
    let mut controller = ControllerAuth::new(parties(true), policy);
    let (there, here) = (Failure::There(Explanation::Failed.code()), Failure::Here(Explanation::Failed));
    assert_eq!(converse(&mut host, &mut controller), (State::Failed(there), State::Failed(here)));
    let mut host = HostAuth::new(parties(true), policy, 7);
    let mut controller = ControllerAuth::new(Parties { controller_key: Some(other()), ..parties(true) }, policy);
    assert_eq!(converse(&mut host, &mut controller), (State::Failed(here), State::Failed(there)));
    let mut host = HostAuth::new(parties(true), policy, 7);
    let mut controller = ControllerAuth::new(parties(false), policy);
    assert_eq!(converse(&mut host, &mut controller), (State::Failed(there), State::Failed(here)), "it has no secret to show");
}

#[test]
fn a_host_of_another_name_needs_another_answer() {
    let policy = Policy::new(&[Hash::Sha256], &[Group::Null]).unwrap();
    let named = Parties { host: Nqn::parse("nqn.2026-11.io.spinel:other").unwrap(), ..parties(false) };
    let (mut host, mut controller) = (HostAuth::new(named, policy, 7), ControllerAuth::new(parties(false), policy));
    assert!(matches!(converse(&mut host, &mut controller), (State::Failed(_), State::Failed(_))));
}

#[test]
fn a_controller_that_does_not_answer_is_not_believed() {
    let policy = Policy::new(&[Hash::Sha256], &[Group::Null]).unwrap();
    let (mut host, mut random) = (HostAuth::new(parties(true), policy, 7), numbers());
    let challenge = Body::Challenge { hash: 1, group: 0, sequence: 1, value: &[1; 32], public: &[] };
    host.sent();
    host.received(&Message { transaction: 7, body: challenge }.bytes(), &mut random);
    host.sent();
    let unproved = Body::Success1 { hash_bytes: 32, answer: None };
    host.received(&Message { transaction: 7, body: unproved }.bytes(), &mut random);
    let Step::Send(last) = host.step() else { panic!() };
    assert_eq!(last, Message { transaction: 7, body: Body::Failure2 { explanation: 1 } }.bytes());
    host.sent();
    assert_eq!(host.step(), Step::End(State::Failed(Failure::Here(Explanation::Failed))));
}

/// A host of our own, up to its reply, and the controller that waits for that.
fn up_to_reply() -> (ControllerAuth, Vec<u8>, Vec<u8>) {
    let policy = Policy::new(&[Hash::Sha256], &[Group::Null]).unwrap();
    let (mut host, mut random) = (HostAuth::new(parties(true), policy, 7), numbers());
    let mut controller = ControllerAuth::new(parties(true), policy);
    let Step::Send(offer) = host.step() else { panic!() };
    controller.send(offer);
    host.sent();
    let challenge = controller.receive(4096, &mut random).unwrap();
    host.received(&challenge, &mut random);
    let Step::Send(reply) = host.step() else { panic!() };
    let reply = reply.to_vec();
    (controller, challenge, reply)
}

/// What the controller says last, and how it stands then.
fn refused(controller: &mut ControllerAuth) -> Explanation {
    let bytes = controller.receive(4096, &mut numbers()).unwrap();
    let Ok(Message { body: Body::Failure1 { explanation }, .. }) = Message::parse(&bytes) else { panic!("{bytes:?}") };
    let explanation = Explanation::of(explanation).unwrap();
    assert_eq!(controller.state(), State::Failed(Failure::Here(explanation)));
    // It stays so, whatever comes.
    let host = HostAuth::new(parties(true), Policy::ALL, 8);
    let Step::Send(offer) = host.step() else { panic!() };
    controller.send(offer);
    assert!(matches!(controller.state(), State::Failed(_)));
    explanation
}

#[test]
fn a_host_that_sends_back_the_challenge_is_refused() {
    let (mut controller, challenge, mut reply) = up_to_reply();
    reply[48..80].copy_from_slice(&challenge[16..48]);
    controller.send(&reply);
    assert_eq!(refused(&mut controller), Explanation::IncorrectPayload);
}

#[test]
fn replies_that_make_no_sense_are_refused() {
    type Spoil = fn(&mut Vec<u8>);
    let spoilt: [(Spoil, Explanation); 9] = [
        (|reply| reply.truncate(79), Explanation::IncorrectPayload),
        (|reply| reply.clear(), Explanation::IncorrectPayload),
        (|reply| reply[4] ^= 1, Explanation::IncorrectPayload),
        (|reply| reply[6] = 16, Explanation::IncorrectPayload),
        (|reply| reply[10] = 1, Explanation::IncorrectPayload),
        (|reply| reply[12..16].fill(0), Explanation::IncorrectPayload),
        (|reply| reply[16] ^= 1, Explanation::Failed),
        (|reply| reply[1] = 4, Explanation::IncorrectMessage),
        (|reply| reply[0] = 9, Explanation::IncorrectMessage),
    ];
    for (spoil, explanation) in spoilt {
        let (mut controller, _, mut reply) = up_to_reply();
        spoil(&mut reply);
        controller.send(&reply);
        assert_eq!(refused(&mut controller), explanation, "{reply:?}");
    }
}

#[test]
fn messages_out_of_order_are_refused() {
    let (mut controller, _, reply) = up_to_reply();
    controller.send(&reply);
    controller.send(&reply);
    assert_eq!(refused(&mut controller), Explanation::IncorrectMessage, "the same reply again");
    let mut controller = ControllerAuth::new(parties(true), Policy::ALL);
    controller.send(&reply);
    assert_eq!(refused(&mut controller), Explanation::IncorrectMessage, "a reply before anything else");
    let mut controller = ControllerAuth::new(parties(true), Policy::ALL);
    assert_eq!(refused(&mut controller), Explanation::IncorrectMessage, "nothing was sent");
    let (mut controller, ..) = up_to_reply();
    assert_eq!(refused(&mut controller), Explanation::IncorrectMessage, "the challenge again");
}

#[test]
fn a_host_that_takes_its_word_back_has_failed() {
    let policy = Policy::new(&[Hash::Sha256], &[Group::Null]).unwrap();
    let (mut host, mut controller) = (HostAuth::new(parties(false), policy, 7), ControllerAuth::new(parties(false), policy));
    let done = State::Done { mutual: false };
    assert_eq!(converse(&mut host, &mut controller), (done, done));
    controller.send(&Message { transaction: 7, body: Body::Failure2 { explanation: 1 } }.bytes());
    assert_eq!(controller.state(), State::Failed(Failure::There(1)));
}

#[test]
fn a_secure_channel_is_not_concatenated() {
    let mut controller = ControllerAuth::new(parties(true), Policy::ALL);
    controller.send(&Message { transaction: 1, body: Body::Negotiate { concatenation: 1, offer: None } }.bytes());
    assert_eq!(refused(&mut controller), Explanation::ConcatenationMismatch);
    let mut controller = ControllerAuth::new(parties(true), Policy::ALL);
    controller.send(&Message { transaction: 1, body: Body::Negotiate { concatenation: 0, offer: None } }.bytes());
    assert_eq!(refused(&mut controller), Explanation::ProtocolUnusable);
}

#[test]
fn a_host_that_asks_for_too_little_may_ask_again() {
    let mut controller = ControllerAuth::new(parties(true), Policy::new(&[Hash::Sha256], &[Group::Null]).unwrap());
    let host = HostAuth::new(parties(true), Policy::ALL, 7);
    let Step::Send(offer) = host.step() else { panic!() };
    controller.send(offer);
    assert_eq!(controller.receive(47, &mut numbers()), Err(TooShort { needed: 48 }));
    assert_eq!(controller.receive(48, &mut numbers()).unwrap().len(), 48);
    let (mut controller, _, reply) = up_to_reply();
    controller.send(&reply);
    assert_eq!(controller.receive(16, &mut numbers()), Err(TooShort { needed: 48 }));
    assert_eq!(controller.receive(48, &mut numbers()).unwrap().len(), 48);
    let mut controller = ControllerAuth::new(parties(true), Policy::ALL);
    assert_eq!(controller.receive(7, &mut numbers()), Err(TooShort { needed: 8 }));
    assert_eq!(controller.state(), State::Pending);
}

#[test]
fn who_authenticates_again_stays_authenticated_until_that_fails() {
    let policy = Policy::new(&[Hash::Sha256], &[Group::Null]).unwrap();
    let mut controller = ControllerAuth::new(parties(true), policy);
    let done = State::Done { mutual: true };
    for transaction in [7, 8] {
        let mut host = HostAuth::new(parties(true), policy, transaction);
        assert_eq!(converse(&mut host, &mut controller), (done, done));
    }
    let host = HostAuth::new(parties(true), policy, 9);
    let Step::Send(offer) = host.step() else { panic!() };
    controller.send(offer);
    assert_eq!(controller.state(), done);
    controller.send(offer);
    assert_eq!(refused(&mut controller), Explanation::IncorrectMessage);
}

#[test]
fn a_host_refuses_what_it_did_not_offer() {
    let public = [2; 256];
    for (body, explanation) in [
        (Body::Challenge { hash: 2, group: 0, sequence: 1, value: &[1; 48], public: &[] }, Explanation::HashUnusable),
        (Body::Challenge { hash: 9, group: 0, sequence: 1, value: &[1; 48], public: &[] }, Explanation::HashUnusable),
        (Body::Challenge { hash: 1, group: 1, sequence: 1, value: &[1; 32], public: &public }, Explanation::GroupUnusable),
        (Body::Challenge { hash: 1, group: 0, sequence: 1, value: &[1; 32], public: &public }, Explanation::IncorrectPayload),
        (Body::Challenge { hash: 1, group: 0, sequence: 1, value: &[1; 31], public: &[] }, Explanation::IncorrectPayload),
        (Body::Success2, Explanation::IncorrectMessage),
    ] {
        let mut host = HostAuth::new(parties(false), Policy::new(&[Hash::Sha256], &[Group::Null]).unwrap(), 7);
        host.sent();
        host.received(&Message { transaction: 7, body }.bytes(), &mut numbers());
        host.sent();
        assert_eq!(host.step(), Step::End(State::Failed(Failure::Here(explanation))));
    }
}

/// Cuts a message, or changes some of its bytes.
fn spoil(bytes: &mut Vec<u8>, random: &mut impl FnMut(&mut [u8])) {
    let mut dice = [0; 5];
    random(&mut dice);
    let at = usize::from(u16::from_le_bytes([dice[1], dice[2]])) % bytes.len().max(1);
    match dice[0] % 4 {
        0 => bytes.truncate(at),
        1 => bytes.iter_mut().skip(at).take(2).for_each(|byte| *byte = dice[3]),
        // The heads are where lengths stand.
        2 => bytes.iter_mut().skip(usize::from(dice[3] % 16)).take(1).for_each(|byte| *byte ^= dice[4]),
        _ => {}
    }
}

#[test]
fn whatever_is_done_to_messages_both_sides_come_to_an_end() {
    let policy = Policy::new(&[Hash::Sha256, Hash::Sha512], &[Group::Null]).unwrap();
    let (mut random, mut bad, mut done) = (numbers(), numbers(), 0);
    // What is spoilt does not depend on what is drawn for challenges.
    bad(&mut [0; 77]);
    for transaction in 0..4000 {
        let mut host = HostAuth::new(parties(true), policy, transaction);
        let mut controller = ControllerAuth::new(parties(true), policy);
        let state = loop {
            match host.step() {
                Step::Send(message) => {
                    let mut message = message.to_vec();
                    spoil(&mut message, &mut bad);
                    controller.send(&message);
                    host.sent();
                }
                Step::Receive { room_bytes } => {
                    let mut bytes = controller.receive(room_bytes, &mut random).unwrap();
                    spoil(&mut bytes, &mut bad);
                    host.received(&bytes, &mut random);
                }
                Step::End(state) => break state,
            }
        };
        // Bytes that mean nothing can change unnoticed, and the host's last word can be lost.
        match (state, controller.state()) {
            (State::Done { mutual }, State::Done { mutual: true } | State::Pending) => assert!(mutual),
            (State::Done { .. }, _) | (_, State::Done { mutual: true }) => panic!("{state:?}, {:?}", controller.state()),
            // Or that the host challenges the controller, too, which its answer does not cover: but it has proved who it is.
            _ => continue,
        }
        done += 1;
    }
    assert!((100..3900).contains(&done), "{done} came through");
}
