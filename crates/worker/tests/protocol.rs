//! Whatever bytes come, reading them is a message or an error; what is written reads back the same.

use lookbook_vision::{BoundingBox, Device, ErrorCode, Garment, Limits, SessionOptions};
use lookbook_worker::Fingerprint;
use lookbook_worker::protocol::{
    Call, HEADER_BYTES, Header, MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, ProtocolError, Refusal, Reply,
    Run, Task,
};
use proptest::prelude::*;

fn run() -> Call {
    Call::Run(Run {
        task: Task::Garments,
        models: vec![Fingerprint([1; 32]), Fingerprint([2; 32])],
        options: SessionOptions {
            device: Device::Cuda(3),
            threads: 4,
            batch: 0,
        },
        limits: Limits::default(),
        library: "/lib/libonnxruntime.so".to_owned(),
    })
}

fn calls() -> Vec<Call> {
    vec![
        run(),
        Call::Model {
            fingerprint: Fingerprint([7; 32]),
            manifest: "{}".to_owned(),
        },
        Call::Check {
            manifest: "{\"é\":1}".to_owned(),
            library: String::new(),
        },
        Call::Stats,
    ]
}

fn replies() -> Vec<Reply> {
    let garment = Garment {
        category: "upper".to_owned(),
        label: "shirt".to_owned(),
        score: Some(0.5),
        bbox: BoundingBox {
            x1: 1.0,
            y1: 2.0,
            x2: 3.5,
            y2: 4.0,
        },
        embedding: vec![0.25; 9],
    };
    let mut unscored = garment.clone();
    unscored.score = None;
    vec![
        Reply::NeedModel(Fingerprint([9; 32])),
        Reply::Embedding(vec![f32::MIN_POSITIVE, -0.0, 3.0]),
        Reply::Garments(vec![garment, unscored]),
        Reply::Checked,
        Reply::Refused(Refusal {
            code: ErrorCode::ImageTruncated,
            text: "cut".to_owned(),
        }),
        Reply::Busy { limit: 7 },
        Reply::Again,
        Reply::NoProcess {
            reason: "full".to_owned(),
        },
        Reply::OtherRuntime {
            library: "/x".to_owned(),
        },
        Reply::Stats("{}".to_owned()),
    ]
}

fn header(frame: &[u8]) -> Result<Header, ProtocolError> {
    Header::decode(frame.first_chunk().ok_or(ProtocolError::Truncated)?)
}

#[test]
fn messages_read_back_as_they_were_written() {
    for call in calls() {
        let frame = call.encode(12).unwrap();
        let header = header(&frame).unwrap();
        assert_eq!(header.payload_bytes, 12);
        assert_eq!(header.body_bytes as usize, frame.len() - HEADER_BYTES);
        assert_eq!(
            Call::decode(header.kind, &frame[HEADER_BYTES..]).unwrap(),
            call
        );
    }
    for reply in replies() {
        let frame = reply.encode().unwrap();
        let header = header(&frame).unwrap();
        let read = Reply::decode(header.kind, &frame[HEADER_BYTES..]).unwrap();
        assert_eq!(read, reply);
    }
}

#[test]
fn every_cut_and_every_extra_byte_is_an_error() {
    for call in calls() {
        let frame = call.encode(0).unwrap();
        let kind = header(&frame).unwrap().kind;
        let body = &frame[HEADER_BYTES..];
        for end in 0..body.len() {
            assert!(Call::decode(kind, &body[..end]).is_err(), "{call:?} {end}");
        }
        let longer = [body, &[0]].concat();
        assert_eq!(
            Call::decode(kind, &longer),
            Err(ProtocolError::Trailing(1)),
            "{call:?}"
        );
    }
}

#[test]
fn lengths_versions_and_strangers_are_refused_in_the_header() {
    let mut frame = Call::Stats.encode(0).unwrap();
    frame[8..12].copy_from_slice(&(MAX_BODY_BYTES + 1).to_le_bytes());
    assert!(matches!(
        header(&frame),
        Err(ProtocolError::TooLong { what: "body", .. })
    ));
    let mut frame = Call::Stats.encode(0).unwrap();
    frame[12..20].copy_from_slice(&(MAX_PAYLOAD_BYTES + 1).to_le_bytes());
    assert!(matches!(
        header(&frame),
        Err(ProtocolError::TooLong {
            what: "payload",
            ..
        })
    ));
    let mut frame = Call::Stats.encode(0).unwrap();
    frame[4] = 99;
    assert_eq!(header(&frame), Err(ProtocolError::Version(99)));
    frame[0] = b'G';
    assert!(matches!(header(&frame), Err(ProtocolError::Magic(_))));
}

proptest! {
    #[test]
    fn any_body_is_a_message_or_an_error(kind in 0_u16..120, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Call::decode(kind, &body);
        let _ = Reply::decode(kind, &body);
    }

    #[test]
    fn a_damaged_message_is_a_message_or_an_error(at in 0_usize..400, byte in any::<u8>(), which in 0_usize..14) {
        let mut frame = match which {
            0..4 => calls()[which].encode(0).unwrap(),
            _ => replies()[which - 4].encode().unwrap(),
        };
        let at = at % frame.len();
        frame[at] = byte;
        if let Ok(header) = header(&frame) {
            let _ = Call::decode(header.kind, &frame[HEADER_BYTES..]);
            let _ = Reply::decode(header.kind, &frame[HEADER_BYTES..]);
        }
    }
}
