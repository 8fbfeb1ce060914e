# sh start.sh - do the batch that lies beside this file, detached: the cable may be pulled when it says so.
# sh start.sh wait - the same, and stay until it is done.
case $0 in */*) cd "${0%/*}" || exit 1 ;; esac
here=$(pwd)
read -r batch <batch.txt
. "$here/pick.sh"
pick levels.txt
program=$here/bin/$level/edgebench-native
[ -n "$level" ] && [ -f "$program" ] || { echo "no program here is for this processor: write the bundle for it" >&2; exit 1; }
chmod 755 "$program" 2>/dev/null
"$program" --version >version.txt 2>&1 || {
  echo "$program can't be started here: $(cat version.txt)" >&2
  echo "put this folder where programs may run, on Android below /data/local/tmp" >&2
  exit 1
}
exec 9>>lock
flock -n 9 9>&9 || { echo "it is at work already in $here"; exit 0; }
if [ -f done ]; then echo "done already: bring this folder back, edgebench collect takes it"; exit 0; fi
sh facts.sh >facts.part 2>/dev/null && mv facts.part facts.txt
read -r uptime _ </proc/uptime
echo "$(date +%s) $uptime" >clock.txt
# TERM ends the batch, which puts back what it changed; a connection that ends does not.
# The lock goes to it: it is free again when the batch is over, however that ended.
setsid sh -c 'trap "" HUP; sh "batches/$1/batch.sh" "$2/batches/$1" "$3" >>log 2>>errors; rc=$?; [ $rc != 0 ] || : >done' \
  sh "$batch" "$here" "$program" </dev/null >/dev/null 2>&1 9>&9 &
echo "started with $level; it is over when there is a file 'done' in $here"
[ "$1" != wait ] || wait
