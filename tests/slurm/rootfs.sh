#!/bin/sh
# Make a Debian 13 with its Slurm (24.11) in the directory $1, unless it is there. Needs root, debootstrap, the network.
set -eu
no() { echo "error: $1"; echo "hint: $2"; exit 1; }
root=${1:?directory}
[ ! -e "$root/.complete" ] || exit 0
[ "$(id -u)" = 0 ] || no "making a Debian in $root needs root" "sudo make slurm-24"
command -v debootstrap >/dev/null || no "debootstrap is not installed" "apt-get install debootstrap"
rm -rf "$root"
mkdir -p "$root"
debootstrap --variant=minbase trixie "$root"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
# Libraries that this machine's Python may want, beside Slurm.
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends \
  slurmctld slurmd slurm-client munge iproute2 procps hostname iputils-ping libexpat1 libffi8 libssl3t64 libsqlite3-0 >/dev/null
touch "$root/.complete"
