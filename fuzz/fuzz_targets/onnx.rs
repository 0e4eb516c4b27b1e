//! ONNX graphs, read for their signature.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = modelyard_package::onnx::read(bytes);
    let streamed = modelyard_package::onnx::read_from(std::io::Cursor::new(bytes), bytes.len() as u64);
    assert_eq!(whole.is_ok(), streamed.is_ok());
});
