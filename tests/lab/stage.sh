#!/bin/sh
# Build the namespaces of one lab (or of one further machine) and become its first process.
#
# Enters by environment: IC_LAB_DIR (state directory of the place), IC_LAB_ID (its name on the
# machine: cgroup and host name), IC_LAB_BASE (cached base root), IC_LAB_REPO (repository),
# IC_LAB_PYTHON (an interpreter), IC_LAB_KIND (lab or machine). Four stages, each the next image:
# a private mount namespace; a cgroup of its own as root of a cgroup namespace; network, process,
# UTS and IPC namespaces; and at last the root of the place with init.py as process 1.
set -eu
stage=$1
self=$IC_LAB_REPO/tests/lab/stage.sh
cg=$IC_LAB_DIR/cgroup

case $stage in
mounts)
    mountpoint -q / || exec "$IC_LAB_PYTHON" -I "$IC_LAB_REPO/tests/lab/reroot.py" /bin/sh "$self" mounts
    mount --make-rprivate /
    mount -t cgroup2 cgroup2 "$cg"
    mkdir -p "$cg/$IC_LAB_ID/init"
    echo 0 >"$cg/$IC_LAB_ID/cgroup.procs"
    exec unshare --cgroup /bin/sh "$self" cgroup
    ;;
cgroup)
    # A cgroup that delegates controllers may hold no process itself: init lives in a leaf.
    echo 0 >"$cg/$IC_LAB_ID/init/cgroup.procs"
    exec unshare --net --pid --uts --ipc --fork --kill-child /bin/sh "$self" root
    ;;
root)
    root=$IC_LAB_DIR/root
    mount -t overlay overlay -o \
        "lowerdir=$IC_LAB_BASE,upperdir=$IC_LAB_DIR/upper,workdir=$IC_LAB_DIR/work" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t devtmpfs devtmpfs "$root/dev"
    mkdir -p "$root/dev/pts" "$root/dev/shm"
    mount -t devpts devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 "$root/dev/pts"
    mount -t tmpfs tmpfs -o mode=1777 "$root/dev/shm"
    mount -t tmpfs tmpfs -o mode=0755 "$root/run"
    mount -t tmpfs tmpfs -o mode=1777 "$root/tmp"
    mkdir -p "$root/run/lab" "$root/run/lock"
    mount --bind "$IC_LAB_DIR/run" "$root/run/lab"
    mount --bind "$IC_LAB_DIR/stacks" "$root/stacks"
    mount --bind "$IC_LAB_DIR/run/boot_id" "$root/proc/sys/kernel/random/boot_id"
    # The kernel lets a container mount /proc only where one without such a cover is in sight.
    mkdir "$root/run/proc"
    mount -t proc proc "$root/run/proc"
    # The repository as a whole, not dist/: what is replaced or made later stays visible.
    mount --bind "$IC_LAB_REPO" "$root/opt/repo"
    mount -o remount,bind,ro "$root/opt/repo"
    if [ "$IC_LAB_KIND" = lab ]; then
        mount --bind "$IC_LAB_DIR/incus" "$root/var/lib/incus"
    fi
    hostname "$IC_LAB_ID"
    cd "$root"
    mkdir -p mnt
    pivot_root . mnt
    exec chroot . /bin/sh -c 'umount -l /mnt; cd /
        for c in cpu memory pids; do echo "+$c" >/sys/fs/cgroup/cgroup.subtree_control; done 2>/dev/null
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
            python3 -I -S -B /opt/repo/tests/lab/init.py "$1"' init "$IC_LAB_KIND"
    ;;
esac
