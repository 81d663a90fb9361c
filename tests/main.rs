//! The integration tests, all in one binary: linking RocksDB once is slow enough.

mod suite;
