# shellcheck shell=bash
# What every script shares: where things are, how to speak, how to become the cluster's user.
# Sourced, never run. Sets LOOKBOOK_ROOT, LOOKBOOK_HOME and the build environment.

LOOKBOOK_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# Where it really is: the cluster's user may be kept from the checkout, where .lookbook is then a link.
LOOKBOOK_HOME=$(readlink -m "${LOOKBOOK_HOME:-$LOOKBOOK_ROOT/.lookbook}")
# Not LOOKBOOK_ROOT: to the loader that is the flag --root.
export LOOKBOOK_HOME

say() { printf '%s\n' "lookbook: $*" >&2; }

die() {
    say "$@"
    exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# PostgreSQL refuses to run as root. Root runs it as this user, anybody else as themselves.
cluster_user() {
    if is_root; then printf '%s\n' "${LOOKBOOK_USER:-lookbook}"; else id -un; fi
}

as_cluster_user() {
    if is_root; then
        local user
        user=$(cluster_user)
        setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups \
            env HOME=/ LC_ALL=C.UTF-8 "$@"
    else
        env LC_ALL=C.UTF-8 "$@"
    fi
}

# bindgen finds a libclang of the system by itself; the wheel's has to be named, and brings no C headers.
libclang_of_wheel=$LOOKBOOK_HOME/wheels/clang/native
if [ -z "${LIBCLANG_PATH:-}" ] && [ -e "$libclang_of_wheel/libclang.so" ]; then
    export LIBCLANG_PATH=$libclang_of_wheel
    BINDGEN_EXTRA_CLANG_ARGS="-isystem $(cc -print-file-name=include)"
    export BINDGEN_EXTRA_CLANG_ARGS
fi
unset libclang_of_wheel

export PATH="$LOOKBOOK_HOME/tools/bin:$PATH"
EMBEDDED_PG_CONFIG=$LOOKBOOK_HOME/pg16/bin/pg_config
export EMBEDDED_PG_CONFIG
