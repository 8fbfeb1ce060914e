# batch.sh FOLDER PROGRAM - do the jobs of FOLDER/jobs.txt one after another, each watched by sampler.sh.
# batch.sh FOLDER restore - put back what a batch that was killed has left changed.
#
# jobs.txt: NAME IDLE_S CPU_MASK a line. A job with a job.txt is given to PROGRAM (IDLE_S is 0), another is IDLE_S
# seconds of nothing; CPU_MASK is hex or `-`. What a job leaves in jobs/NAME: out.jsonl, err.txt, samples.txt and,
# last and by rename, rc. Says what happens as JSON lines. Needs no link to anybody, nothing but mksh or another
# POSIX shell, and sleep, mv, rm; where there is no Android, dumpsys, settings and input are not there either.
batch=$1 program=$2
cd "$batch" || exit 1

now() { read -r uptime _ </proc/uptime; }

# echo would take a text's backslashes for its own.
if [ -n "$KSH_VERSION" ]; then say() { print -r -- "$1"; }; else say() { printf '%s\n' "$1"; }; fi

# --- The screen is off while measuring: it would draw power, and heat. What was changed stands in `changed`.

restore() {
  [ -f changed ] || return 0
  undone=
  while read -r what value; do
    case $what in
      stayon) settings put global stay_on_while_plugged_in "$value" || undone=yes ;;
      awake) input keyevent 224 || undone=yes ;;
    esac
  done <changed
  [ -n "$undone" ] || rm -f changed
}

screen_off() {
  command -v settings >/dev/null && command -v input >/dev/null || return 0
  [ ! -f changed ] || restore # of a batch that was killed
  stayon=$(settings get global stay_on_while_plugged_in 2>/dev/null)
  awake=
  case $(dumpsys power 2>/dev/null) in *mWakefulness=Awake*) awake=yes ;; esac
  {
    case $stayon in '' | *[!0-9]*) stayon=0 ;; *) echo "stayon $stayon" ;; esac
    [ -z "$awake" ] || echo "awake"
  } >changed.part
  mv changed.part changed
  [ "$stayon" = 0 ] || settings put global stay_on_while_plugged_in 0
  [ -z "$awake" ] || input keyevent 223
}

# --- Heat: a job begins no warmer than the first one did, or when it has waited long enough.

# Sets `celsius` to whole degrees of the skin, else of the hottest that is told; empty when nobody tells.
# Only what the HAL says now counts: the service's cache may be hours old.
temperature() {
  celsius=$(dumpsys thermalservice 2>/dev/null | {
    current= skin= any=
    while read -r line; do
      case $line in
        'Current temperatures from HAL'*) current=yes ;;
        'Current cooling devices'* | 'Temperature static thresholds'*) current= ;;
        *mValue=*)
          [ -n "$current" ] || continue
          value=${line#*mValue=}
          value=${value%%[!0-9]*}
          [ -n "$value" ] && [ "$value" -lt 150 ] || continue
          case $line in *mType=3,*) [ "${skin:-0}" -ge "$value" ] || skin=$value ;; esac
          [ "${any:-0}" -ge "$value" ] || any=$value
          ;;
      esac
    done
    echo "${skin:-$any}"
  })
  [ -z "$celsius" ] || return 0
  for zone in /sys/class/thermal/thermal_zone*/temp /sys/class/power_supply/battery/temp; do
    { read -r value <"$zone"; } 2>/dev/null || continue
    case $value in '' | *[!0-9]*) continue ;; esac
    case $zone in *battery*) value=$((value / 10)) ;; *) value=$((value / 1000)) ;; esac
    [ "$value" -gt 0 ] && [ "$value" -lt 150 ] && [ "${celsius:-0}" -lt "$value" ] && celsius=$value
  done
}

cool_down() { # cool_down JOB
  temperature
  [ -n "$celsius" ] || return 0
  if [ -z "$target" ]; then
    target=$((celsius + 1))
    echo "$target" >target
  fi
  waited=0
  while [ "$celsius" -gt "$target" ] && [ "$waited" -lt "$cool_cap_s" ] && [ -z "$stopping" ]; do
    [ $((waited % 30)) != 0 ] ||
      echo "{\"type\":\"wait\",\"temperature_c\":$celsius,\"target_c\":$target}"
    sleep 5
    waited=$((waited + 5))
    temperature
    celsius=${celsius:-0}
  done
  [ "$celsius" -le "$target" ] ||
    echo "{\"type\":\"hot\",\"temperature_c\":$celsius,\"target_c\":$target}" >>"jobs/$1/out.jsonl"
}

# --- One job.

# Passes on what a program has said, but for its answers, which are many.
hear() {
  while IFS= read -r line <&3; do
    line=$half$line half=
    case $line in '{"type":"answer"'*) ;; *) say "$line" ;; esac
  done
  half=$half$line
}

idle() { # idle JOB SECONDS
  now
  start=$uptime left=$2
  while [ "$left" -gt 0 ] && [ -z "$stopping" ]; do
    sleep 1
    left=$((left - 1))
  done
  now
  [ -n "$stopping" ] && rc=143 || rc=0
  echo "{\"type\":\"idle\",\"start_s\":$start,\"end_s\":$uptime}" >>"jobs/$1/out.jsonl"
}

work() { # work JOB MASK
  : >>"jobs/$1/out.jsonl"
  set -- "$1" "$2" "$program" "jobs/$1/job.txt" "jobs/$1/out.jsonl"
  job=$1 mask=$2
  shift 2
  [ "$mask" = - ] || set -- taskset "$mask" "$@"
  "$@" >/dev/null 2>"jobs/$job/err.txt" &
  pid=$!
  echo "$pid" >"jobs/$job/pid"
  # adbd shields its children: when memory runs out, the phone is to end this program before anything else.
  { echo 900 >"/proc/$pid/oom_score_adj"; } 2>/dev/null
  exec 3<"jobs/$job/out.jsonl"
  half=
  while kill -0 "$pid" 2>/dev/null; do
    hear
    [ -z "$stopping" ] || kill -s TERM "$pid" 2>/dev/null
    sleep 1
  done
  hear
  exec 3<&-
  wait "$pid"
  rc=$?
}

job() { # job NAME IDLE_S MASK
  mkdir -p "jobs/$1" # of an idle time nothing was brought
  if [ ! -f "jobs/$1/rc" ]; then
    # What was answered before a break is kept: the program does what is missing.
    grep -q '^{"type":"group"' "jobs/$1/out.jsonl" 2>/dev/null || rm -f "jobs/$1/out.jsonl"
    rm -f "jobs/$1/samples.txt" "jobs/$1/pid"
    echo "{\"type\":\"begin\",\"job\":\"$1\"}"
    cool_down "$1"
    sh "$batch/sampler.sh" "jobs/$1/samples.txt" "jobs/$1/pid" 2>"jobs/$1/sampler.txt" &
    sampler=$!
    first_ticks "jobs/$1/samples.txt"
    if [ -f "jobs/$1/job.txt" ]; then work "$1" "$3"; else idle "$1" "$2"; fi
    kill -s TERM "$sampler" 2>/dev/null
    wait "$sampler"
    [ -z "$stopping" ] || rc=143
    echo "$rc" >"jobs/$1/rc.part"
    mv "jobs/$1/rc.part" "jobs/$1/rc"
  fi
  read -r rc <"jobs/$1/rc"
  echo "{\"type\":\"end\",\"job\":\"$1\",\"rc\":$rc}"
}

# The sensors have been read once before there is anything to measure: a second tick has begun.
first_ticks() {
  tries=0
  while [ "$tries" -lt 50 ]; do
    n=0
    { while read -r word _; do [ "$word" != t ] || n=$((n + 1)); done <"$1"; } 2>/dev/null
    [ "$n" -lt 2 ] || return 0
    sleep 0.2
    tries=$((tries + 1))
  done
}

[ "$program" != restore ] || { restore; exit; }

cool_cap_s=60 screen= stopping= target=
while read -r key value; do
  case $key in cool_cap_s) cool_cap_s=$value ;; screen) screen=$value ;; esac
done <settings
{ [ ! -f target ] || read -r target <target; } 2>/dev/null # a batch that is gone on with keeps its own
trap 'stopping=yes' TERM INT HUP
trap restore EXIT
[ "$screen" != off ] || screen_off
while read -r name idle_s mask <&4; do
  [ -z "$stopping" ] || break
  job "$name" "$idle_s" "$mask"
done 4<jobs.txt
[ -z "$stopping" ] || exit 143
