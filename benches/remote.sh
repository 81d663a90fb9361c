#!/bin/bash
# What a backup, a backup of nothing new, a copy out of a mount and a restore cost on an S3 server that is 20 ms away, beside restic
# and rustic, as far as they are installed.
#
#   benches/remote.sh [TREE...]     folders to save, such as /usr/include /usr/lib/python3 (the default: those and its libraries)
#
# The server is Ceph on this machine, behind a proxy that makes every request, and every new connection, take ROUND_TRIP ms
# longer, and counts requests (benches/far.rs). In each of ROUNDS rounds every program starts with an empty repository. The table
# holds, of the round with the median time: wall seconds / seconds of the processors / requests / MB sent / MB received. Rows:
#
#   backup      the first              again     nothing has changed
#   mount+cp    mount, cp -r of all to a folder, unmount, with the caches that the backup left
#   restore     of all, with those     restore2  the same by a machine with empty caches, and mount+cp2 as well
#
#   PASTFS=FILE   the program (pastfs)    PROGRAMS="pastfs restic"   only these    ROUNDS=N (1)    ROUND_TRIP=MS (20)
#   ROWS="backup again"   only these; the first is always done
#   BANDWIDTH=MB  a second (no limit)     BENCH_DIR=DIR   where to work (a new folder for temporary files, removed at the end); it
#                 takes the size of the trees for each row, program and round
set -euo pipefail

case ${1:-} in -*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;; esac
HERE=$(dirname "$(realpath "$0")")
PASTFS=$(command -v "${PASTFS:-pastfs}") || { echo "there is no program pastfs: build it, or name it with PASTFS=FILE" >&2; exit 1; }
ROUNDS=${ROUNDS:-1} ROUND_TRIP=${ROUND_TRIP:-20} ROWS=${ROWS:-again mount+cp restore restore2 mount+cp2}
TREES=("$@")
[ $# -gt 0 ] || TREES=(/usr/include /usr/lib/python3 /usr/lib/python3.*)
REMOVE=
if [ -z "${BENCH_DIR:-}" ]; then
  BENCH_DIR=$(mktemp -d "${TMPDIR:-/tmp}/pastfs-bench.XXXXXX")
  REMOVE=$BENCH_DIR
fi
mkdir -p "$BENCH_DIR"
BENCH_DIR=$(realpath "$BENCH_DIR")
. "$HERE/aside.sh"
if [ -z "${PROGRAMS:-}" ]; then
  PROGRAMS=pastfs
  for program in restic rustic; do ! command -v $program >/dev/null || PROGRAMS+=" $program"; done
fi

coproc FAR { cd "$HERE/.." && exec ${CARGO:-cargo} bench -q --locked --bench far -- "$ROUND_TRIP" ${BANDWIDTH:-} 2>"$BENCH_DIR/far.log"; }
TO_FAR=${FAR[1]} FROM_FAR=${FAR[0]}
ended() {
  exec {TO_FAR}>&- || true
  umount -l "$BENCH_DIR/mnt" 2>/dev/null || true
  rm -rf "${REMOVE:-$ASIDE}"
}
trap ended EXIT
read -r -u "$FROM_FAR" line || { cat "$BENCH_DIR/far.log" >&2; exit 1; }
declare -x $line
unset AWS_CA_BUNDLE

SRC=$BENCH_DIR/src
if [ ! -d "$SRC" ]; then
  mkdir -p "$SRC"
  tar -C / -c "${TREES[@]#/}" | tar -C "$SRC" -xp
  # A file that changed a moment ago might change again unseen: programs read those once more.
  sleep 4
fi
echo "$(find "$SRC" -type f | wc -l) files, $(du -sm "$SRC" | cut -f1) MB; round trip $ROUND_TRIP ms; $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg)"

export PASTFS_REPOSITORY PASTFS_KEY_FILE=$BENCH_DIR/key PASTFS_CACHE RESTIC_REPOSITORY RESTIC_PASSWORD=x RESTIC_CACHE_DIR \
  RUSTIC_CACHE_DIR RUSTIC_NO_PROGRESS=true
head -c 32 /dev/urandom >"$PASTFS_KEY_FILE"
# caches DIR: where they are from now on.
caches() { PASTFS_CACHE=$1/pastfs RESTIC_CACHE_DIR=$1/restic RUSTIC_CACHE_DIR=$1/rustic; }

# fresh PREFIX: an empty repository, below which its own lies in the bucket.
fresh() {
  rm -rf "$BENCH_DIR/caches"
  caches "$BENCH_DIR/caches"
  PASTFS_REPOSITORY="s3://$BUCKET/$1?endpoint=$ENDPOINT"
  RESTIC_REPOSITORY="s3:$ENDPOINT/$BUCKET/$1"
  cat >"$BENCH_DIR/rustic.toml" <<TOML
[repository]
repository = "opendal:s3"
password = "x"
[repository.options]
bucket = "$BUCKET"
root = "/$1"
endpoint = "$ENDPOINT"
region = "$AWS_REGION"
access_key_id = "$AWS_ACCESS_KEY_ID"
secret_access_key = "$AWS_SECRET_ACCESS_KEY"
TOML
  case $2 in
    pastfs) "$PASTFS" init -q ;;
    restic) restic init -q ;;
    rustic) rustic -P "$BENCH_DIR/rustic" init ;;
  esac >"$BENCH_DIR/out" 2>&1
}

to_back_up() {
  case $1 in
    pastfs) "$PASTFS" backup -q "$SRC" ;;
    restic) restic backup -q "$SRC" ;;
    rustic) rustic -P "$BENCH_DIR/rustic" backup "$SRC" ;;
  esac
}
to_restore() {
  case $1 in
    pastfs) "$PASTFS" restore -q "latest:$SRC" --target "$BENCH_DIR/restored" ;;
    restic) restic restore -q latest --target "$BENCH_DIR/restored" ;;
    rustic) rustic -P "$BENCH_DIR/rustic" restore latest "$BENCH_DIR/restored" ;;
  esac
}
to_copy_out() {
  local inside mnt=$BENCH_DIR/mnt
  mkdir -p "$mnt"
  case $1 in
    pastfs) "$PASTFS" mount "$mnt" && inside=$mnt/latest$SRC ;;
    restic) restic mount "$mnt" >/dev/null & inside=$mnt/snapshots/latest$SRC ;;
    rustic) rustic -P "$BENCH_DIR/rustic" mount "$mnt" latest >/dev/null & inside=$mnt$SRC ;;
  esac
  for _ in $(seq 1200); do [ ! -d "$inside" ] || break; sleep 0.05; done
  cp -r "$inside" "$BENCH_DIR/restored"
  umount "$mnt"
  wait
}

RESULTS=$BENCH_DIR/results
: >"$RESULTS"
export HERE BENCH_DIR SRC PASTFS ENDPOINT
export -f to_back_up to_restore to_copy_out
# measured ROW PROGRAM FUNCTION
measured() {
  case " backup $ROWS " in *" $1 "*) ;; *) return 0 ;; esac
  local asked
  aside "$BENCH_DIR/restored"
  echo >&"$TO_FAR"
  read -r -u "$FROM_FAR" asked
  if ! "$HERE/measure.py" "$BENCH_DIR/used" bash -c "$3 $2" >"$BENCH_DIR/out" 2>&1; then
    echo "$1 by $2 failed" >&2
    tail -5 "$BENCH_DIR/out" >&2
    return 0
  fi
  echo >&"$TO_FAR"
  read -r -u "$FROM_FAR" asked
  case $1 in
    restore* | mount*) # The same files, wherever below they lie.
      local found
      found=$(dirname "$(find "$BENCH_DIR/restored" -type d -name usr -print -quit)")
      diff -rq --no-dereference "$SRC" "$found" >"$BENCH_DIR/differences" || echo "$1 by $2: $(wc -l <"$BENCH_DIR/differences") differences" >&2 ;;
  esac
  echo "$1 $2 $(cut -d' ' -f1,2 "$BENCH_DIR/used") $asked" | tee -a "$RESULTS"
}

for round in $(seq "$ROUNDS"); do
  for program in $PROGRAMS; do
    fresh "$program-$round" "$program" || { echo "$program cannot be set up:" >&2; tail -5 "$BENCH_DIR/out" >&2; continue; }
    measured backup "$program" to_back_up
    measured again "$program" to_back_up
    measured mount+cp "$program" to_copy_out
    measured restore "$program" to_restore
    rm -rf "$BENCH_DIR/others"
    caches "$BENCH_DIR/others"
    measured restore2 "$program" to_restore
    rm -rf "$BENCH_DIR/others"
    measured mount+cp2 "$program" to_copy_out
  done
done

echo
awk -v programs="$PROGRAMS" '
  { key = $1 " " $2; n[key]++; wall[key, n[key]] = $3; cell[key, n[key]] = sprintf("%.1f / %.1f / %d / %s / %s", $3, $4, $5, $6, $7)
    if (!seen[$1]++) rows[++r] = $1 }
  # The round with the median wall time.
  function median(key, i, j, rank) {
    for (i = 1; i <= n[key]; i++) {
      rank = 0
      for (j = 1; j <= n[key]; j++) rank += wall[key, j] < wall[key, i] || (wall[key, j] == wall[key, i] && j < i)
      if (rank == int((n[key] - 1) / 2)) return i
    }
  }
  END {
    p = split(programs, names, " ")
    printf "|  |"; for (i = 1; i <= p; i++) printf " %s |", names[i]; print " against the fastest other |"
    printf "|---|"; for (i = 1; i <= p; i++) printf "---|"; print "---|"
    for (k = 1; k <= r; k++) {
      printf "| %s |", rows[k]; best = own = 0
      for (i = 1; i <= p; i++) {
        key = rows[k] " " names[i]; m = n[key] ? median(key) : 0
        printf " %s |", m ? cell[key, m] : "-"
        if (!m) continue
        if (names[i] == "pastfs") own = wall[key, m]; else if (!best || wall[key, m] < best) best = wall[key, m]
      }
      printf " %s |\n", own && best ? sprintf("%.1f times as fast", best / own) : "-"
    }
  }' "$RESULTS"
