# sampler.sh SAMPLES PIDFILE - write to SAMPLES, about three times a second, what this device tells of its battery, rails,
# heat, clocks and memory, and of the process whose number stands in PIDFILE once it has been started.
#
# At TERM it takes a last whole tick and ends; it ends, too, when whoever started it is gone. A tick is written at once,
# so SAMPLES is empty or holds whole ticks. Only built-ins of mksh (or another POSIX shell), sleep and, on Android,
# dumpsys. A file that can't be read is `-`. Lines, all numbers as the kernel has them:
#   t UPTIME                                                a tick begins
#   b CURRENT VOLTAGE CHARGE STATUS TEMP CAPACITY           the battery's files; blanks in STATUS are _
#   f KHZ ...                                               the clock of each processor
#   c USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL        all processors' time, in 10 ms
#   p ANON_KB FILE_KB UTIME STIME                           the process, while it lives; time in 10 ms
#   z TYPE MILLIC ...                                       thermal zones, every third tick
#   m AVAILABLE_KB                                          memory
#   > WORDS, | LINE ..., < UPTIME                           what `dumpsys WORDS` said, and when it had ended
samples=$1 pidfile=$2
battery=/sys/class/power_supply/battery
power=android.hardware.power.stats.IPowerStats/default
heat=android.hardware.thermal.IThermal/default
nl='
'
blanks=$IFS

# echo would take backslashes in what dumpsys says for its own.
if [ -n "$KSH_VERSION" ]; then put() { print -rn -- "$1"; }; else put() { printf %s "$1"; }; fi

now() { read -r uptime _ </proc/uptime; }

look() { # look FILE: the first three words of its first line, or `-`, in `value`
  value= more= third=
  { read -r value more third _ <"$1"; } 2>/dev/null
  value=${value:--}${more:+_$more}${third:+_$third}
}

add() { # add LETTER FILE...: a line of what the files hold
  line=$1
  shift
  for file; do
    look "$file"
    line="$line $value"
  done
  text="$text$line$nl"
}

processors() {
  { read -r _ user nice system idle iowait irq softirq steal _ </proc/stat; } 2>/dev/null || return 0
  text="${text}c $user $nice $system $idle $iowait $irq $softirq $steal$nl"
}

process() {
  pid=
  { read -r pid _ <"$pidfile"; } 2>/dev/null
  case $pid in '' | *[!0-9]*) return 0 ;; esac
  line= anon= mapped=
  { read -r line <"/proc/$pid/stat"; } 2>/dev/null
  [ -n "$line" ] || return 0
  {
    while read -r key value _; do
      case $key in RssAnon:) anon=$value ;; RssFile:) mapped=$value && break ;; esac
    done <"/proc/$pid/status"
  } 2>/dev/null
  set -- ${line##*) } # past its name, which may hold blanks: its state is the first word
  [ $# -lt 13 ] || text="${text}p ${anon:--} ${mapped:--} ${12} ${13}$nl"
}

zones() {
  line=z
  for zone in $all_zones; do
    look "${zone%=*}"
    line="$line ${zone#*=} $value"
  done
  [ "$line" = z ] || text="$text$line$nl"
}

memory() {
  { while read -r key value _; do [ "$key" != MemAvailable: ] || break; done </proc/meminfo; } 2>/dev/null
  [ "$key" != MemAvailable: ] || text="${text}m $value$nl"
}

# ask EVERY SERVICE: what dumpsys says, every so many ticks and at the first and last one. A service that has
# said nothing twice is not there.
ask() {
  answer=
  [ -n "$has_dumpsys" ] || return 0
  [ -n "$is_last" ] || [ $((n % $1)) = 0 ] || return 0
  case $silent in *"<$2><$2>"*) return 0 ;; esac
  answer=$(dumpsys "$2" 2>/dev/null)
  now
  case $heard in *"<$2>"*) ;; *) if [ -n "$answer" ]; then heard="$heard<$2>"; else silent="$silent<$2>"; fi ;; esac
  text="$text> $2$nl"
  IFS=$nl
  for line in $answer; do
    # Of the long ones, only what is wanted: a HAL lists hundreds of states and thresholds.
    case $2 in
      "$power") case $line in *\]:*mWs* | *===*) ;; *) continue ;; esac ;;
      "$heat") case $line in *CurrentValue*) ;; *) continue ;; esac ;;
      *) case $line in *Threshold*) continue ;; esac ;;
    esac
    text="$text| $line$nl"
  done
  IFS=$blanks
  text="$text< $uptime$nl"
}

tick() {
  now
  text="${text}t $uptime$nl"
  add b $battery/current_now $battery/voltage_now $battery/charge_counter $battery/status $battery/temp $battery/capacity
  [ -z "$clocks" ] || add f $clocks
  processors
  process
  [ $((n % 3)) != 0 ] && [ -z "$is_last" ] || zones
  memory
  ask 3 $power
  ask 6 battery
  ask 6 thermalservice
  case $answer in *'Current temperatures from HAL'*) hal=yes ;; esac
  [ -n "$hal" ] || ask 6 $heat
  put "$text"
  text=
}

exec >"$samples" || exit 1
command -v dumpsys >/dev/null && has_dumpsys=yes || has_dumpsys=
clocks= all_zones= n_zones=0 hal= heard= silent= is_last= stopping= n=0
for file in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq; do
  [ ! -e "$file" ] || clocks="$clocks $file"
done
for zone in /sys/class/thermal/thermal_zone*; do
  look "$zone/temp"
  case ${value#-} in '' | *[!0-9]*) continue ;; esac # none, asleep, or not for the shell
  [ "$n_zones" -lt 64 ] || break
  n_zones=$((n_zones + 1))
  look "$zone/type"
  case $value in *=*) value=- ;; esac
  all_zones="$all_zones $zone/temp=$value"
done
set -f # nothing that is read from here on is a pattern
trap stopping=yes TERM INT HUP
text="edgebench-samples 1$nl"
while [ -z "$stopping" ] && [ -d "/proc/$PPID" ]; do
  tick
  n=$((n + 1))
  sleep 0.25 2>/dev/null || [ -n "$stopping" ] || sleep 1 || exit 1
done
is_last=yes
tick
