# Sourced by the scripts: makes .venv and installs the project into it, once per change of what is built.

# The pinned version that the scripts test against; the package itself supports torch>=2.6 (extra `train`).
TORCH_VERSION=2.13.0

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "== $*" >&2; }

# A name on the PATH may be a stub that fails, so each candidate is run.
find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 python; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    say "no Python 3.11 or newer with venv found; install one and run this again"
    return 2
}

pip_install() { .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check "$@"; }

# Without an NVIDIA GPU the build of torch without CUDA is gigabytes smaller, where the registry offers it.
install_torch() {
    .venv/bin/python -c 'import torch' >/dev/null 2>&1 && return
    if [ "$(uname -s)" = Linux ] && ! [ -e /dev/nvidiactl ]; then
        say "installing torch $TORCH_VERSION for the CPU"
        pip_install "torch==$TORCH_VERSION+cpu" 2>/dev/null && return
        say "the package registry has no CPU build; installing the full one, which is large"
    else
        say "installing torch $TORCH_VERSION"
    fi
    pip_install "torch==$TORCH_VERSION"
}

# install EXTRA: EXTRA is "test", or what a command needs ("train,plot").
install() {
    local extra=$1 python stamp want
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        say "creating .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    stamp=.venv/installed-$extra
    want="$PWD $(cat pyproject.toml setup.py diloco/compression/kernels/kernels.c | cksum)"
    [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return
    install_torch
    say "installing diloco[$extra]"
    pip_install -e ".[$extra]"
    echo "$want" >"$stamp"
}
