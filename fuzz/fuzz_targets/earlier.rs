#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| pastfs_format::targets::earlier(data));
