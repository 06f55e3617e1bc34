#!/bin/bash
# What runs as PID 1 of the controller and of each node, and the plugging in of nodes. machines.py starts it.
#
#   init.sh ctl DIR            the controller; "go" on standard input starts it, the end of standard input ends all
#   init.sh boot DIR NODE@[SECONDS]...   in the controller's namespaces: power nodes on, their monotonic clocks shifted
#   init.sh node DIR NODE      a node, until it is killed
#
# DIR/machine.sh sets ROOTFS, DBD (empty: none) and GPUS (a number); DIR/shared lists what all nodes see, a path a line.
set -eu
cd /
me=$(readlink -f "$0"); verb=$1; DIR=$2; shift 2
# shellcheck source=/dev/null
. "$DIR/machine.sh"
export SLURM_CONF=$DIR/etc/slurm.conf PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

own() { # PLACE DISK|RAM: a directory of this machine alone in the place of the common one; what is shared stays seen in it
  local place=$1 mine=$DIR/local/$machine$1 path
  [ -d "$place" ] || return 0
  mkdir -p "$mine"
  if [ "$2" = RAM ]; then mount -t tmpfs -o mode="$(stat -c %a "$place")" own "$mine"; else chmod 1777 "$mine"; fi
  while read -r path; do
    case $path in "$place"/*) mkdir -p "$mine${path#"$place"}"; mount --bind "$path" "$mine${path#"$place"}" ;; esac
  done <"$DIR/shared"
  mount --rbind "$mine" "$place"
}

own_places() {
  own /tmp DISK; own /var/tmp DISK; own /dev/shm RAM; own /run RAM
}

enter_rootfs() { # another Debian below our feet: our own paths in it, then the rest of the script
  local path
  mount --bind "$ROOTFS" "$ROOTFS"
  for path in /dev /sys; do mount --rbind "$path" "$ROOTFS$path"; done
  mount -t proc proc "$ROOTFS/proc"
  mount -t tmpfs own "$ROOTFS/tmp"   # so that mount points of shared paths are not left in it
  while read -r path; do
    if [ -d "$path" ]; then mkdir -p "$ROOTFS$path"; else mkdir -p "$ROOTFS${path%/*}"; touch "$ROOTFS$path"; fi
    mount --bind "$path" "$ROOTFS$path"
  done <"$DIR/shared"
  touch "$ROOTFS/etc/hosts"
  exec chroot "$ROOTFS" bash "$me" ctl-inside "$DIR"
}

controller() {
  machine=ctl
  hostname ctl
  own_places
  mount --bind "$DIR/hosts" /etc/hosts
  local address; address=$(awk '$2 == "ctl" {print $1}' "$DIR/hosts")
  ip link set lo up; ip link add br0 type bridge; ip addr add "$address/16" dev br0; ip link set br0 up
  # One munged for all: a unix socket is found through the file system, whatever the network namespace. --force: the
  # directories above ours may be closed to other users.
  munged --force --key-file="$DIR/munge/key" --socket="$DIR/munge/sock" --pid-file="$DIR/munge/pid" \
    --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed" --num-threads=4 </dev/null
  if [ "$DBD" ]; then bash "${me%/*}/dbd.sh" "$DIR" </dev/null; fi
  slurmctld -c </dev/null
  touch "$DIR/run/ctl.ready"
  while read -r _; do :; done
}

case $verb in
ctl)
  read -r _  # until our pid is known, and with it the names of the nodes
  if [ "$ROOTFS" ]; then enter_rootfs; fi
  controller ;;
ctl-inside)
  controller ;;
boot)
  for spec; do
    node=${spec%@*} shift=${spec#*@} clock=()
    [ -z "$shift" ] || clock=(--time --monotonic "$shift" --boottime "$shift")
    ip link del "v$node" 2>/dev/null || true
    setsid unshare -n -u -i -m -p "${clock[@]}" --fork --kill-child --mount-proc bash "$me" node "$DIR" "$node" \
      </dev/null >>"$DIR/log/init-$node.log" 2>&1 &
    # Once unshare has a child, it stands in the new network namespace itself.
    for _ in $(seq 1000); do init=$(pgrep -P $!) && break; sleep .005; done
    ip link add "v$node" type veth peer name eth0 netns "$init"
    ip link set "v$node" master br0 up
  done ;;
node)
  machine=$1
  hostname "$machine"
  own_places
  cat /proc/sys/kernel/random/uuid >"$DIR/local/$machine/boot_id"
  mount --bind "$DIR/local/$machine/boot_id" /proc/sys/kernel/random/boot_id
  mkdir -p "$DIR/spool/$machine"
  if [ "$GPUS" != 0 ]; then  # no driver behind them (120: for local use): open() says ENXIO, or EPERM where it is forbidden
    mkdir -p "$DIR/dev"; mount -t tmpfs -o dev,mode=755 dev "$DIR/dev"
    for gpu in $(seq 0 $((GPUS - 1))); do mknod "$DIR/dev/gpu$gpu" c 120 "$gpu"; done
  fi
  address=$(awk -v name="$machine" '$2 == name {print $1}' "$DIR/hosts")
  until ip link set eth0 up 2>/dev/null; do sleep .005; done
  ip link set lo up; ip addr add "$address/16" dev eth0
  slurmd -N "$machine"
  exec {never}<> <(:)  # bash reaps orphans while it reads what nobody writes
  while :; do read -r _ <&"$never" || true; done ;;
esac
