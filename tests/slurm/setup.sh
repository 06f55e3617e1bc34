#!/bin/sh
# Install what a cluster of the tests needs (make slurm-setup). No service is started. Status 1 says why there is none.
set -eu
no() { echo "no Slurm for the tests: $1"; exit 1; }
PATH=$PATH:/usr/sbin:/sbin
missing=
for command in slurmctld slurmd srun munged ip pgrep; do
  command -v $command >/dev/null || missing="$missing $command"
done
if [ "$missing" ]; then
  [ "$(id -u)" = 0 ] || no "not installed:$missing; installing needs root"
  command -v apt-get >/dev/null || no "not installed:$missing; this is neither Debian nor Ubuntu"
  # A package's script asks this file whether it may start its service.
  policy=/usr/sbin/policy-rc.d
  kept=
  if [ -e $policy ]; then kept=$policy.kept-by-yprov; mv $policy "$kept"; fi
  restore() { rm -f "$policy"; [ -z "$kept" ] || mv "$kept" "$policy"; }
  trap restore EXIT
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
  apt-get update -qq || true  # an old list may do
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurmctld slurmd slurm-client munge iproute2 procps >/dev/null || no "apt-get cannot install it"
fi
