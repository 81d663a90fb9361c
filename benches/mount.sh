#!/bin/bash
# What reading through the mount costs, beside the mounts of restic, rustic and borg, as far as they are installed, and
# beside the files themselves.
#
#   benches/mount.sh TREE TREE2 BIG      TREE and TREE2: two versions of a tree; BIG: a folder with one big file
#
# Each row of work is done by all programs in turns, RUNS times (3), each time with a fresh mount, and with everything
# written back and dropped from memory before; the median is told, in seconds or what the row says. Needs root, for
# that; perl, rsync, fusermount3, and about three times the size of the trees in BENCH_DIR, which must be a folder on the
# disk of the trees, and that of TREE for each program and run of cp more. The repositories stay there, and are used again by the next call.
#
#   PASTFS=FILE     the program (pastfs)                PROGRAMS="pastfs restic files"   only these
#   RUNS=N          how many times (3)                  ROWS="find random"               only these
#   LIMIT=SECONDS   after which one is stopped (200)
set -euo pipefail
shopt -s nullglob

[ $# = 3 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2; }
TREE=$(realpath "$1") TREE2=$(realpath "$2") BIG=$(realpath "$3")
PASTFS=${PASTFS:-pastfs} RUNS=${RUNS:-3} LIMIT=${LIMIT:-200} BENCH_DIR=${BENCH_DIR:?the folder to work in}
ROWS=${ROWS:-start find rsync cat again random cp diff}
[ "$(id -u)" = 0 ] || { echo "only root can drop what is in memory" >&2; exit 1; }
MNT=$(realpath -m "$BENCH_DIR/mnt"); mkdir -p "$MNT"
FILE=$(find "$BIG" -type f -size +64M -printf '%P\n' | head -1)

. "$(dirname "$(realpath "$0")")/programs.sh"
PROGRAMS=${PROGRAMS:-$(installed pastfs restic rustic borg | xargs) files}

# ---- what is to be mounted, and where it is seen

# fill PROGRAM: a repository with TREE, TREE2 and BIG in it.
fill() {
  local n=0 path
  fresh "$1"
  for path in "$TREE" "$TREE2" "$BIG"; do
    n=$((n + 1))
    to_back_up "$1" "t$n" "$path"
    "${call[@]}"
  done
}

# serve PROGRAM: mounts all, and stays in the foreground.
serve() {
  case $1 in
    pastfs) exec "$PASTFS" mount --foreground "$MNT" ;;
    restic) exec restic mount "$MNT" ;;
    rustic) exec rustic mount --path-template '{id}' "$MNT" ;;
    borg) exec borg mount -f "$BORG_REPO" "$MNT" ;;
  esac
}

# at PROGRAM N: where the Nth of the three trees is seen.
at() {
  local paths=("" "$TREE" "$TREE2" "$BIG")
  case $1 in
    files) echo "${paths[$2]}" ;;
    pastfs) echo "$MNT/by-tag/t$2/latest${paths[$2]}" ;;
    restic) echo "$MNT/tags/t$2/latest${paths[$2]}" ;;
    rustic) echo "$MNT/$(cat "$BENCH_DIR/rustic.t$2")${paths[$2]}" ;;
    borg) echo "$MNT/t$2${paths[$2]}" ;;
  esac
}

# ---- measuring

DAEMON=
now() { local t=${EPOCHREALTIME/[.,]/}; echo "$t"; }
since() { echo "$(($(now) - $1))" | sed -E 's/^/000000/; s/([0-9]{6})$/.\1/; s/^0*([0-9]+\.[0-9]{3}).*/\1/'; }
note() { echo "$1 $2 $3" >>"$RESULTS"; printf '%-8s %-8s %s\n' "$1" "$2" "$3"; }

start() { # PROGRAM TREE
  [ "$1" = files ] && return
  (serve "$1") >"$BENCH_DIR/$1.log" 2>&1 &
  DAEMON=$!
  local began
  began=$(now)
  until ls "$(at "$1" "$2")" >/dev/null 2>&1; do
    if ! kill -0 $DAEMON 2>/dev/null || [ $(($(now) - began)) -gt $((LIMIT * 1000000)) ]; then
      echo "$1 did not mount:" >&2; cat "$BENCH_DIR/$1.log" >&2; exit 1
    fi
    sleep 0.005
  done
}

stop() { # PROGRAM
  [ -n "$DAEMON" ] || return 0
  kill -0 $DAEMON 2>/dev/null || { echo "the mount of $1 ended by itself" >&2; exit 1; }
  note memory "$1" "$(awk '/^VmHWM/ {printf "%.0f", $2 / 1024}' /proc/$DAEMON/status)"
  fusermount3 -u "$MNT" 2>/dev/null || umount -l "$MNT"
  wait $DAEMON 2>/dev/null || true
  DAEMON=
}
trap '[ -z "$DAEMON" ] || { umount -l "$MNT" || true; kill $DAEMON || true; } 2>/dev/null; rm -rf "$ASIDE"' EXIT

timed() { # ROW PROGRAM COMMAND...
  local row=$1 program=$2 began code=0
  shift 2
  began=$(now)
  timeout "$LIMIT" "$@" >/dev/null 2>"$BENCH_DIR/err" || code=$?
  case $row-$code in
    *-0 | diff-1 | rsync-2[34]) note "$row" "$program" "$(since "$began")" ;;
    *-124) note "$row" "$program" "$LIMIT(over)" ;;
    *) echo "$row by $program failed:" >&2; head -3 "$BENCH_DIR/err" >&2 ;;
  esac
}

# Reads of 4 KiB at random places, for so many of a second.
random() { # FILE
  timeout "$LIMIT" perl -MTime::HiRes=time -MFcntl -e '
    my ($path, $seed) = @ARGV; srand($seed);
    sysopen(my $f, $path, O_RDONLY) or die "$path: $!"; my ($size, $n, $began) = (-s $f, 2000, time);
    for (1 .. $n) { sysseek($f, int(rand($size - 4096)), 0); sysread($f, my $b, 4096) == 4096 or die "$!" }
    printf "%.0f\n", $n / (time - $began)' "$1" "$2"
}

row() { # ROW PROGRAM RUN
  local p=$2 began
  case $1 in
    start)
      [ "$p" = files ] && return
      cold; began=$(now); start "$p" 1; note start "$p" "$(since "$began")"; stop "$p"; return ;;
    again) return ;; # behind cat
    cat | random) start "$p" 3 ;;
    *) start "$p" 1 ;;
  esac
  cold
  case $1 in
    find) timed find "$p" find "$(at "$p" 1)/" ;;
    rsync) timed rsync "$p" rsync -an "$TREE/" "$(at "$p" 1)/" ;;
    cat)
      timed cat "$p" cat "$(at "$p" 3)/$FILE"
      case " $ROWS " in *" again "*) timed again "$p" cat "$(at "$p" 3)/$FILE" ;; esac ;;
    random) note random "$p" "$(random "$(at "$p" 3)/$FILE" "$3" || echo 0)" ;;
    cp) timed cp "$p" cp -r "$(at "$p" 1)/." "$BENCH_DIR/copy"; aside "$BENCH_DIR/copy" ;;
    diff) timed diff "$p" diff -r "$(at "$p" 1)/" "$(at "$p" 2)/" ;;
    *) echo "there is no row $1" >&2; exit 2 ;;
  esac
  stop "$p"
}

for program in $PROGRAMS; do
  if [ "$program" != files ] && [ ! -e "$BENCH_DIR/$program.filled" ]; then
    echo "backing up with $program"
    fill "$program" >"$BENCH_DIR/err" 2>&1 || { cat "$BENCH_DIR/err" >&2; exit 1; }
    if [ "$program" = rustic ]; then
      for n in 1 2 3; do
        rustic snapshots --json --filter-tags "t$n" 2>/dev/null | grep -oE '"id": *"[0-9a-f]{64}"' |
          grep -oE '[0-9a-f]{64}' | tail -1 | cut -c1-8 >"$BENCH_DIR/rustic.t$n"
      done
    fi
    touch "$BENCH_DIR/$program.filled"
  fi
done

RESULTS=$BENCH_DIR/results
: >"$RESULTS"
for row in $ROWS; do
  for ((run = 1; run <= RUNS; run++)); do
    for program in $PROGRAMS; do row "$row" "$program" "$run"; done
  done
done

# ---- the table: medians

{
  echo; heading $PROGRAMS
  echo; printf '| work |'; printf ' %s |' $PROGRAMS; printf '\n|---|'; printf -- '---|%.0s' $PROGRAMS; echo
  for row in $ROWS memory; do
    printf '| %s |' "$row"
    for program in $PROGRAMS; do
      values=$(awk -v r="$row" -v p="$program" '$1 == r && $2 == p {print $3}' "$RESULTS")
      # Of memory the most.
      case $row in memory) value=$(sort -n <<<"$values" | tail -1) ;; *) value=$(median <<<"$values") ;; esac
      printf ' %s |' "$value"
    done
    echo
  done
} | tee "$BENCH_DIR/table.md"
