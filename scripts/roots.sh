# shellcheck shell=bash
# Debian roots of other releases, for the scripts that prove something there: source this behind lib.sh. Root only.
# They are made by debootstrap in LOOKBOOK_ROOTS (default /var/tmp/lookbook-roots) and kept.

is_root || die "debootstrap and chroot need root: run this as root"
command -v debootstrap >/dev/null || die "debootstrap is not installed: apt-get install debootstrap"
roots=${LOOKBOOK_ROOTS:-/var/tmp/lookbook-roots}

# bootstrap RELEASE FOLDER [OPTION...]: a minimal root.
bootstrap() {
    local release=$1 folder=$2 script=/usr/share/debootstrap/scripts/$1
    shift 2
    # A release that is newer than debootstrap goes by the rules of sid; the mirror is debootstrap's own.
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    debootstrap --variant=minbase "$@" "$release" "$folder" "" "$script"
}

# inside ROOT FOLDER... -- COMMAND...: a command in the root with the folders that exist where they are here: own mounts and
# processes, gone with it.
inside() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    unshare --mount --pid --fork --kill-child sh -eu -c '
        root=$1
        shift
        mount --make-rprivate /
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
        mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
        while [ "$1" != -- ]; do
            if [ -e "$1" ]; then
                mkdir -p "$root$1"
                mount --bind "$1" "$root$1"
            fi
            shift
        done
        shift
        # Process 1 of the root has to reap orphans, which a shell that waits does.
        chroot "$root" "$@" &
        wait $!' sh "$@"
}
