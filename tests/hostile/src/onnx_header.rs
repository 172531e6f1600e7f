//! Any bytes as an ONNX file, looked at before ONNX Runtime sees them.

use lookbook_vision::check_onnx;

/// Whether they are one.
pub fn onnx_header(bytes: &[u8]) -> bool {
    check_onnx("fuzzed", bytes).is_ok()
}
