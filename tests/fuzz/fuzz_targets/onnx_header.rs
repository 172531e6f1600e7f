//! Any bytes as an ONNX file, looked at before ONNX Runtime sees them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lookbook_vision::check_onnx;

fuzz_target!(|bytes: &[u8]| {
    let _ = check_onnx("fuzzed", bytes);
});
