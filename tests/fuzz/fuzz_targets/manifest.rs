#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = lookbook_hostile::manifest(bytes);
});
