//! A database for one walk: many small records of chunks, sorted on disk.

use super::database::{Base, FILTER_BITS, Home, Nest, Tried, trouble};
use crate::clock;
use crate::id::{ID_LEN, hex};
use rocksdb::{
    BlockBasedOptions, DB, DBCompressionType, IngestExternalFileOptions, LogLevel, Options, SliceTransform,
    SstFileWriter, WriteOptions,
};

/// Bytes of single records that wait in memory and are sorted there; RocksDB may hold two of them.
const RUN_BYTES: usize = 32 << 20;

/// See [`Home::scratch`]. Dropped in the order of the fields: closed before its folder goes.
pub struct Scratch {
    base: Base,
    how: WriteOptions,
    options: Options,
    nest: Nest,
}

impl Scratch {
    /// Adds a record, or replaces it.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Tried<()> {
        self.base.db.put_opt(key, value, &self.how).map_err(|e| trouble("writing to a set of marks", e))
    }

    /// Adds records without values, which come in order, no two the same.
    pub fn put_run<'a>(&self, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Tried<()> {
        if keys.len() == 0 {
            return Ok(());
        }
        let path = self.nest.path.join(format!("run-{}", hex(&clock::random_array::<8>())));
        let write = || {
            let mut sst = SstFileWriter::create(&self.options);
            sst.open(&path)?;
            for key in keys {
                sst.put(key, [])?;
            }
            sst.finish()?;
            let mut how = IngestExternalFileOptions::default();
            how.set_move_files(true);
            self.base.db.ingest_external_file_opts(&how, vec![&path])
        };
        write().map_err(|e| trouble("writing to a set of marks", e))
    }
}

impl std::ops::Deref for Scratch {
    type Target = Base;
    fn deref(&self) -> &Base {
        &self.base
    }
}

impl Home {
    /// An empty database that nobody else sees and that is gone when it is dropped, for many small records of chunks, whose
    /// keys begin with their ids, that come in any order: they lie in sorted runs, one for each [`RUN_BYTES`] or by
    /// [`Scratch::put_run`], which are read together.
    pub fn scratch(&self) -> Tried<Scratch> {
        let nest = Nest::new(&self.dir.join("marks"))?;
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_bloom_filter(FILTER_BITS, false);
        table.set_whole_key_filtering(false);
        table.set_cache_index_and_filter_blocks(true);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_prefix_extractor(SliceTransform::create_fixed_prefix(ID_LEN));
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(RUN_BYTES);
        options.set_disable_auto_compactions(true);
        options.set_level_zero_slowdown_writes_trigger(i32::MAX);
        options.set_level_zero_stop_writes_trigger(i32::MAX);
        options.set_keep_log_file_num(1);
        options.set_log_level(LogLevel::Error);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        let mut how = WriteOptions::default();
        how.disable_wal(true);
        let db = DB::open(&options, nest.path.join("db"))
            .map_err(|e| trouble(self.doing("making a set of marks in"), e))?;
        Ok(Scratch { base: Base { db }, how, options, nest })
    }
}
