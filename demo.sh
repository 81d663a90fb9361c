#!/usr/bin/env bash
# Backs up a real tree twice, mounts the repository, copies out, compares, and ends with what was proven.
# Run it by `make demo`; PASTFS names the program.
set -euo pipefail

pastfs=${PASTFS:-pastfs}
step="starting"
work=""
mounted=""

clean_up() {
  local code=$?
  trap - EXIT
  if [ -n "$mounted" ]; then
    "$pastfs" umount "$work/past" 2>/dev/null || fusermount3 -uz "$work/past" 2>/dev/null || true
  fi
  [ -z "$work" ] || { chmod -R u+rwX "$work" 2>/dev/null || true; rm -rf "$work"; }
  if [ "$code" -ne 0 ]; then
    echo >&2
    echo "The demo FAILED at: $step (exit code $code)" >&2
  fi
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

begin() {
  step=$1
  printf '\n== %s\n' "$step"
}
# Shows a command, then runs it.
run() {
  printf '$ %s\n' "${*//$work/\$W}"
  "$@"
}
fail() {
  echo "$*" >&2
  exit 1
}
# No line of output and no failure: the two folders are the same.
same() {
  local lines
  if [ "$(id -u)" = 0 ]; then
    # Everything: modes, owners, times, hard links, ACLs, extended attributes, sparse files, content.
    printf '$ rsync -aHAXS --checksum --delete --dry-run --itemize-changes %s/ %s/\n' "${1//$work/\$W}" "${2//$work/\$W}"
    lines=$(rsync -aHAXS --checksum --delete --dry-run --itemize-changes "$1/" "$2/")
  else
    printf '$ diff -r --no-dereference %s %s\n' "${1//$work/\$W}" "${2//$work/\$W}"
    lines=$(diff -r --no-dereference "$1" "$2") || true
  fi
  if [ -n "$lines" ]; then
    head -20 <<<"$lines" >&2
    fail "there are differences between $1 and $2"
  fi
  echo "no difference"
}

begin "preparing a real tree: copies of /usr/share/doc and /etc in a folder that may be changed"
work=$(mktemp -d "${TMPDIR:-/tmp}/pastfs-demo.XXXXXX")
work=$(cd "$work" && pwd -P)
echo "\$W is $work; it is removed at the end"
export PASTFS_REPOSITORY=$work/repository PASTFS_CACHE=$work/cache
unset PASTFS_PASSWORD PASTFS_PASSWORD_COMMAND PASTFS_KEY_FILE
umask 077
head -c 24 /dev/urandom | base64 >"$work/password"
export PASTFS_PASSWORD_FILE=$work/password
umask 022
mkdir "$work/tree" "$work/past" "$work/out"
for folder in /usr/share/doc /etc; do
  if [ "$(id -u)" = 0 ]; then
    cp -a "$folder" "$work/tree/"
  else
    # An ordinary user may not read all of /etc.
    cp -a "$folder" "$work/tree/" 2>/dev/null || true
    find "$work/tree" -type f ! -readable -delete
    find "$work/tree" -type d ! \( -readable -executable \) -prune -exec rm -rf {} + 2>/dev/null || true
  fi
done
echo "the first version" >"$work/tree/report.txt"
echo "still needed today" >"$work/tree/deleted-tomorrow.txt"
ln "$work/tree/report.txt" "$work/tree/hard-link-to-report.txt"
truncate -s 64M "$work/tree/sparse.img"
printf 'in the middle' | dd of="$work/tree/sparse.img" bs=1M seek=32 conv=notrunc status=none
cp -a "$work/tree" "$work/first"
echo "$(find "$work/tree" | wc -l) entries, $(du -sh "$work/tree" | cut -f1)"

begin "making a repository"
run "$pastfs" init

begin "the first backup"
run "$pastfs" backup --tag first "$work/tree"

begin "changing, adding and deleting files"
sleep 1.1 # the folders in the mount are named by the second
echo "the second version" >"$work/tree/report.txt"
rm "$work/tree/deleted-tomorrow.txt"
mkdir "$work/tree/new folder"
head -c 3000000 /dev/urandom >"$work/tree/new folder/random.bin"
[ ! -e "$work/tree/etc/hostname" ] || echo "another-name" >"$work/tree/etc/hostname"
echo "changed report.txt (and its hard link), deleted deleted-tomorrow.txt, added 'new folder/random.bin'"

begin "the second backup reads only what has changed"
run "$pastfs" backup --tag second "$work/tree"
run "$pastfs" snapshots

begin "mounting the repository"
run "$pastfs" mount "$work/past"
mounted=yes
run ls -l "$work/past"
[ "$(find "$work/past" -mindepth 1 -maxdepth 1 -type d -name '20*' | wc -l)" = 2 ] ||
  fail "there should be two dated folders"
# Dated names sort by time.
first=$(find "$work/past" -mindepth 1 -maxdepth 1 -type d -name '20*' | sort | head -1)
second=$(find "$work/past" -mindepth 1 -maxdepth 1 -type d -name '20*' | sort | tail -1)

begin "copying the newest snapshot out with cp -a, and comparing with the source"
run cp -a "$work/past/latest$work/tree" "$work/out/"
same "$work/tree" "$work/out/tree"

begin "comparing both snapshots, in the mount itself, with what was there at their time"
same "$work/first" "$first$work/tree"
same "$work/tree" "$second$work/tree"

begin "an old version of a changed file, and a file that was deleted"
run cat "$first$work/tree/report.txt"
run cat "$second$work/tree/report.txt"
run cat "$first$work/tree/deleted-tomorrow.txt"
[ "$(cat "$first$work/tree/report.txt")" = "the first version" ] || fail "not the first version"
[ "$(cat "$second$work/tree/report.txt")" = "the second version" ] || fail "not the second version"
[ "$(cat "$first$work/tree/deleted-tomorrow.txt")" = "still needed today" ] || fail "not the deleted file"
[ ! -e "$second$work/tree/deleted-tomorrow.txt" ] || fail "the deleted file is in the second snapshot"

begin "unmounting"
run "$pastfs" umount "$work/past"
mounted=""
[ -z "$(ls -A "$work/past")" ] || fail "the mount is still there"

echo
echo "Proven: pastfs saved a real tree of $(find "$work/tree" | wc -l) entries twice into an encrypted repository,"
echo "mounted it, showed both snapshots as dated folders, and gave every file back by cp with no difference,"
if [ "$(id -u)" = 0 ]; then
  echo "content, modes, owners, times, hard links, ACLs and extended attributes alike; the old version of a changed"
  echo "file and a deleted file were there to be read."
else
  echo "content and links alike (as root the demo compares owners, times and attributes as well); the old version"
  echo "of a changed file and a deleted file were there to be read."
fi
