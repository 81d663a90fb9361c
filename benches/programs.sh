# What each program is called with, and what mount.sh and whole.sh share. To be sourced, with BENCH_DIR and PASTFS set.
# All encrypt, with a key or a password from a file or the environment, and compress with zstd.

mkdir -p "$BENCH_DIR"
BENCH_DIR=$(realpath "$BENCH_DIR")
export PASTFS_REPOSITORY=$BENCH_DIR/pastfs PASTFS_KEY_FILE=$BENCH_DIR/pastfs.key PASTFS_CACHE=$BENCH_DIR/pastfs.cache
export RESTIC_REPOSITORY=$BENCH_DIR/restic RESTIC_PASSWORD=x RESTIC_CACHE_DIR=$BENCH_DIR/restic.cache
export RUSTIC_REPOSITORY=$BENCH_DIR/rustic RUSTIC_PASSWORD=x RUSTIC_CACHE_DIR=$BENCH_DIR/rustic.cache RUSTIC_NO_PROGRESS=true
export BORG_REPO=$BENCH_DIR/borg BORG_PASSPHRASE=x BORG_BASE_DIR=$BENCH_DIR/borg.home
export BUPSTASH_REPOSITORY=$BENCH_DIR/bupstash BUPSTASH_KEY=$BENCH_DIR/bupstash.key \
  BUPSTASH_QUERY_CACHE=$BENCH_DIR/bupstash.queries

. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/aside.sh"

# installed PROGRAM...: those of them that are there.
installed() {
  local program
  for program in "$@"; do
    [ "$program" = pastfs ] || command -v "$program" >/dev/null || continue
    echo "$program"
  done
}

version() { # PROGRAM
  case $1 in
    pastfs) "$PASTFS" --version ;;
    restic) restic version ;;
    rustic | borg | bupstash) "$1" --version ;;
    files) ;;
  esac
}

# fresh PROGRAM: an empty repository; nothing of an older one is left.
fresh() {
  rm -rf "${BENCH_DIR:?}/$1" "$BENCH_DIR/$1".*
  case $1 in
    pastfs) "$PASTFS" init -q ;;
    restic) restic init -q ;;
    rustic) rustic init ;;
    borg) borg init -e repokey-blake2 ;;
    bupstash) bupstash init && bupstash new-key -o "$BUPSTASH_KEY" ;;
  esac
}

# The commands are set as the array `call`, so that they can be measured.

# to_back_up PROGRAM NAME PATH: a snapshot that is found by NAME.
to_back_up() {
  case $1 in
    pastfs) call=("$PASTFS" backup -q --tag "$2" "$3") ;;
    restic) call=(restic backup -q --tag "$2" "$3") ;;
    rustic) call=(rustic backup --tag "$2" "$3") ;;
    borg) call=(borg create -C zstd,3 "::$2" "$3") ;;
    # What a path had when it was sent last is remembered for each path, so that each has a log.
    bupstash) call=(bupstash put -q --send-log "$BENCH_DIR/bupstash.log.${3//\//_}" "name=$2" "$3") ;;
  esac
}

# to_restore PROGRAM NAME TARGET: the only snapshot of that name.
to_restore() {
  case $1 in
    pastfs) call=("$PASTFS" restore -q "$("$PASTFS" snapshots -q --json --tag "$2" | grep -oE '"id": *"[0-9a-f]{64}"' |
      grep -oE '[0-9a-f]{64}')" --target "$3") ;;
    restic) call=(restic restore -q --tag "$2" latest --target "$3") ;;
    rustic) call=(rustic restore --filter-tags "$2" latest "$3") ;;
    borg) call=(env -C "$3" borg extract "::$2") ;;
    bupstash) call=(bupstash restore -q --into "$3" "name=$2") ;;
  esac
}

# to_check PROGRAM: with all data. None where the program has no such command.
to_check() {
  case $1 in
    pastfs) call=("$PASTFS" check -q --read-data) ;;
    restic) call=(restic check -q --read-data) ;;
    rustic) call=(rustic check --read-data) ;;
    borg) call=(borg check --verify-data) ;;
    bupstash) call=() ;;
  esac
}

# Nothing of the files of this machine is in memory after it; where it may not be so, as without root, it does nothing.
cold() {
  [ -z "${WARM:-}" ] && [ "$(id -u)" = 0 ] || return 0
  sync
  echo 3 >/proc/sys/vm/drop_caches
  sleep 1
}

# heading PROGRAM...: the machine and the versions.
heading() {
  local program
  echo "$(uname -sr), $(nproc) cores, $(awk '/^MemTotal/ {printf "%.0f", $2 / 1048576}' /proc/meminfo) GiB, load $(cut -d' ' -f1 /proc/loadavg)"
  for program in "$@"; do version "$program"; done
}

# median: of the numbers of its input.
median() { sort -n | awk '{v[NR] = $1} END {if (NR) print v[int((NR + 1) / 2)]}'; }
