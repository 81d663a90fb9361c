# How trees that were made are taken away between measurements. To be sourced, with BENCH_DIR set.

# aside FOLDER: out of the way; it is removed by `forgotten`. ext4 gives the inode of a deleted file to a new one only a minute later,
# and looks at each of them before (fs/ext4/ialloc.c, recently_deleted): 14,000 files took 9 seconds instead of 1 to make, whoever
# made them, where as many had been removed right before. The script removes $ASIDE when it ends.
ASIDE=$(mktemp -d -p "$BENCH_DIR")
aside() {
  [ ! -e "$1" ] || mv "$1" "$(mktemp -d -p "$ASIDE")"
}

# forgotten: what was put aside is gone, and the minute over.
forgotten() {
  [ -n "$(ls -A "$ASIDE")" ] || return 0
  rm -rf "${ASIDE:?}"/*
  sync
  sleep 61
}
