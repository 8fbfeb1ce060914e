# Sourced: `pick FILE` sets `level` to the first line of FILE whose instructions this processor has, else to nothing.
# A line is LEVEL INSTRUCTION …, as /proc/cpuinfo calls them, the most demanding level first.
pick() {
  features=
  while read -r key _ rest; do
    case $key in Features | flags) features=" $rest " && break ;; esac
  done </proc/cpuinfo
  while read -r level needs; do
    fits=yes
    for need in $needs; do
      case $features in *" $need "*) ;; *) fits= && break ;; esac
    done
    [ -z "$fits" ] || return 0
  done <"$1"
  level=
}
