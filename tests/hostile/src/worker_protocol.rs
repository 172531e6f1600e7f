//! Any bytes as what worker and backend say to each other: a message that is written as it was read, or refused.

use lookbook_worker::protocol::{Call, HEADER_BYTES, Header, Reply};

/// Whether they are one.
pub fn worker_protocol(bytes: &[u8]) -> bool {
    let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return false;
    };
    let Ok(header) = Header::decode(head) else {
        return false;
    };
    let mut is_message = false;
    if let Ok(call) = Call::decode(header.kind, body) {
        is_message = true;
        let frame = call.encode(0).expect("what was read can be written");
        let again = Call::decode(header.kind, &frame[HEADER_BYTES..]).expect("and read again");
        assert_eq!(again, call);
    }
    if let Ok(reply) = Reply::decode(header.kind, body) {
        is_message = true;
        let frame = reply.encode().expect("what was read can be written");
        assert_eq!(&frame[HEADER_BYTES..], body);
    }
    is_message
}
