#!/bin/bash
# What a backup, a restore and a check cost, beside restic, borg, rustic and bupstash, as far as they are installed.
#
#   benches/whole.sh [TREE [TREE2]]      TREE: a folder to use instead of a tree that is made, such as a kernel's source; TREE2:
#                                        its next version
#
# All data is made, the same each time (data.py; python3). In each of ROUNDS rounds every program starts with an empty repository,
# and each row of work is done by all in turns; the table holds medians: wall seconds / seconds of the processors / most memory of
# a process in MB / MB that the repository grew by. The last column is pastfs against the fastest of the others in wall time,
# against the lowest in processor time, and against the smallest in MB. As root, everything is written back and dropped
# from memory before each row but those that say warm. What is restored is compared with the source.
#
#   PASTFS=FILE   the program (pastfs)               PROGRAMS="pastfs restic"   only these
#   ROUNDS=N      how many (3)                       ROWS="tree check"          only rows that begin so; first backups always run
#   BENCH_MB=N    size of the tree in MB (64; 1300 is about a kernel): 150 tiny files for each MB, and a big file of 2 MiB for each
#   BENCH_DIR=DIR where to work (a new folder below that for temporary files, removed at the end); needs 40 MB for each of BENCH_MB
#   WARM=1        nothing is dropped from memory
set -euo pipefail

case ${1:-} in -*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;; esac
HERE=$(dirname "$(realpath "$0")")
PASTFS=${PASTFS:-pastfs} ROUNDS=${ROUNDS:-3} BENCH_MB=${BENCH_MB:-64} ROWS=${ROWS:-tree many big restore check}
command -v "$PASTFS" >/dev/null || { echo "there is no program $PASTFS: build it, or name it with PASTFS=FILE" >&2; exit 1; }
command -v python3 >/dev/null || { echo "python3 is missing, which makes the data and measures" >&2; exit 1; }
REMOVE=
if [ -z "${BENCH_DIR:-}" ]; then
  BENCH_DIR=$(mktemp -d "${TMPDIR:-/tmp}/pastfs-bench.XXXXXX")
  REMOVE=$BENCH_DIR
fi
. "$HERE/programs.sh"
trap 'rm -rf "${REMOVE:-$ASIDE}"' EXIT
PROGRAMS=${PROGRAMS:-$(installed pastfs restic rustic borg bupstash | xargs)}

# ---- data: what is saved always lies at the same path below src, so that programs know their last snapshot of it

DATA=$BENCH_DIR/data.$BENCH_MB
if [ ! -d "$DATA" ]; then
  echo "making data in $BENCH_DIR"
  rm -rf "$DATA.new"
  "$HERE/data.py" "$DATA.new" "$BENCH_MB"
  mv "$DATA.new" "$DATA"
fi
SRC=$BENCH_DIR/src
rm -rf "$SRC"
mkdir -p "$SRC"
copy() { cp -a --reflink=auto "$1" "$SRC/$2"; }
copy "${1:-$DATA/tree}" tree
if [ -n "${2:-}" ]; then copy "$2" tree.2; elif [ -z "${1:-}" ]; then copy "$DATA/tree.2" tree.2; fi
for name in many big big.2; do copy "$DATA/$name" "$name"; done
# A file that changed a moment ago might change again unseen: programs read those once more.
sleep 4

# exchange NAME: the other version is what lies at its path.
exchange() {
  mv "$SRC/$1" "$SRC/$1.other"
  mv "$SRC/$1.2" "$SRC/$1"
  mv "$SRC/$1.other" "$SRC/$1.2"
}

# ---- measuring

RESULTS=$BENCH_DIR/results
: >"$RESULTS"
size_of() { du -sB1 "$BENCH_DIR/$1" | cut -f1; }

# measured ROW PROGRAM: runs `call`.
measured() {
  local before grown
  before=$(size_of "$2")
  if ! "$HERE/measure.py" "$BENCH_DIR/used" "${call[@]}" >"$BENCH_DIR/out" 2>&1; then
    echo "$1 by $2 failed: ${call[*]}" >&2
    tail -5 "$BENCH_DIR/out" >&2
    return 0
  fi
  grown=$((($(size_of "$2") - before) / 10000))
  echo "$1 $2 $(cat "$BENCH_DIR/used") $((grown / 100)).$(printf %02d $((grown % 100)))" | tee -a "$RESULTS"
}

wanted() {
  local word
  for word in $ROWS; do case $1 in "$word"*) return 0 ;; esac; done
  return 1
}

# back_up ROW DATA WARMTH NAME: a snapshot NAME of src/DATA by all.
back_up() {
  local program
  for program in $PROGRAMS; do
    [ "$3" = warm ] || cold
    to_back_up "$program" "$4" "$SRC/$2"
    measured "$1" "$program"
  done
}

# restored ROW DATA NAME
restored() {
  local program target=$BENCH_DIR/restored there
  for program in $PROGRAMS; do
    aside "$target"
    mkdir "$target"
    to_restore "$program" "$3" "$target"
    cold
    measured "$1" "$program"
    there=$target$SRC/$2
    [ "$program" != bupstash ] || there=$target
    diff -rq --no-dereference "$SRC/$2" "$there" >"$BENCH_DIR/out" 2>&1 ||
      { echo "what $program restored is not what was saved:"; head -5 "$BENCH_DIR/out"; } >&2
  done
  aside "$target"
}

for ((round = 1; round <= ROUNDS; round++)); do
  echo "round $round of $ROUNDS: work, program, wall s, CPU s, MB of memory, MB stored"
  for program in $PROGRAMS; do fresh "$program" >"$BENCH_DIR/out" 2>&1 || { cat "$BENCH_DIR/out" >&2; exit 1; }; done
  back_up tree-first tree cold tree1
  # The first after a first one may still have to settle what that has left; the one after it is what is done each night.
  for program in $PROGRAMS; do to_back_up "$program" tree1a "$SRC/tree"; "${call[@]}" >/dev/null 2>&1; done
  ! wanted tree || back_up tree-no-change-warm tree warm tree1b
  if [ -d "$SRC/tree.2" ]; then
    exchange tree
    ! wanted tree || back_up tree-next-version tree cold tree2
    exchange tree
  fi
  back_up many-first many cold many1
  ! wanted many || back_up many-no-change-warm many warm many1b
  back_up big-first big cold big1
  exchange big
  ! wanted big || back_up big-edited big cold big2
  exchange big
  ! wanted restore-tree || restored restore-tree tree tree1
  ! wanted restore-many || restored restore-many many many1
  ! wanted restore-big || restored restore-big big big1
  [ "$round" = "$ROUNDS" ] || forgotten
  if wanted check; then
    for program in $PROGRAMS; do
      to_check "$program"
      [ "${#call[@]}" -gt 0 ] || continue
      cold
      measured check "$program"
    done
  fi
done

# ---- the table

# value ROW PROGRAM FIELD: the median; nothing where there is none.
value() { awk -v r="$1" -v p="$2" -v f="$3" '$1 == r && $2 == p {print $f}' "$RESULTS" | median; }

# against ROW FIELD: pastfs through the lowest of the others.
against() {
  local program best
  best=$(for program in $PROGRAMS; do [ "$program" = pastfs ] || value "$1" "$program" "$2"; done | sort -n | head -1)
  awk -v p="$(value "$1" pastfs "$2")" -v b="$best" 'BEGIN {if (p > 0 && b > 0) printf "%.2f", p / b; else printf "-"}'
}

{
  echo
  heading $PROGRAMS
  echo "$BENCH_MB MB, medians of $ROUNDS$([ -n "${WARM:-}" ] || [ "$(id -u)" != 0 ] && echo ', all from memory')"
  echo
  echo "wall s / CPU s / most memory MB / MB stored; ratio of pastfs to the best of the others: wall / CPU / stored"
  echo
  printf '| work |'; printf ' %s |' $PROGRAMS; printf ' ratio |\n|---|'; printf -- '---|%.0s' $PROGRAMS; echo '---|'
  awk '!seen[$1]++ {print $1}' "$RESULTS" | while read -r row; do
    printf '| %s |' "${row//-/ }"
    for program in $PROGRAMS; do
      if [ -z "$(value "$row" "$program" 3)" ]; then printf ' |'; continue; fi
      case $row in
        restore* | check*) printf ' %.2f / %.2f / %.0f |' $(for f in 3 4 5; do value "$row" "$program" $f; done) ;;
        *) printf ' %.2f / %.2f / %.0f / %.1f |' $(for f in 3 4 5 6; do value "$row" "$program" $f; done) ;;
      esac
    done
    case $row in
      restore* | check* | *no-change*) echo " $(against "$row" 3) / $(against "$row" 4) |" ;;
      *) echo " $(against "$row" 3) / $(against "$row" 4) / $(against "$row" 6) |" ;;
    esac
  done
} | tee "$BENCH_DIR/table.md"
