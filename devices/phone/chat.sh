# sh chat.sh - talk to the model that lies here; an empty line ends it.
case $0 in */*) cd "${0%/*}" || exit 1 ;; esac
program= model= threads=4 mask=
while read -r key value; do
  case $key in program) program=$value ;; model) model=$value ;; threads) threads=$value ;; mask) mask=$value ;; esac
done <chat.txt
if [ -z "$program" ]; then
  . ./pick.sh
  pick levels.txt
  program=bin/$level/edgebench-native
fi
chmod 755 "$program" 2>/dev/null
set -- "$program" --chat "$model" "$threads"
[ -z "$mask" ] || set -- taskset "$mask" "$@"
exec "$@"
