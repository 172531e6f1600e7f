//! Any bytes as what worker and backend say to each other: a message that is written as it was read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lookbook_worker::protocol::{Call, HEADER_BYTES, Header, Reply};

fuzz_target!(|bytes: &[u8]| {
    let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return;
    };
    let Ok(header) = Header::decode(head) else {
        return;
    };
    if let Ok(call) = Call::decode(header.kind, body) {
        let frame = call.encode(0).expect("what was read can be written");
        let again = Call::decode(header.kind, &frame[HEADER_BYTES..]).expect("and read again");
        assert_eq!(again, call);
    }
    if let Ok(reply) = Reply::decode(header.kind, body) {
        let frame = reply.encode().expect("what was read can be written");
        assert_eq!(&frame[HEADER_BYTES..], body);
    }
});
