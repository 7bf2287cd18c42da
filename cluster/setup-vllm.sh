#!/usr/bin/env bash
# Make .venv-vllm: a vLLM for CPUs with the packages of requirements-vllm.txt, apart from .venv, whose versions differ.
# Run by `make test-vllm`; done again only when the list changes.
#
#   PYTHON     interpreter to use (default: the one of .venv)
#   PIP_ARGS   more arguments for pip install, e.g. --extra-index-url https://download.pytorch.org/whl/cpu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv-vllm LIST=requirements-vllm.txt NEEDED_MB=4500

say() { printf 'setup-vllm: %s\n' "$*" >&2; }

stamp_of() { { cat "$LIST"; "$VENV/bin/python" -V; } | sha256sum | cut -d' ' -f1; }

if [[ -x $VENV/bin/python && "$(cat $VENV/.stamp 2>/dev/null)" == "$(stamp_of)" ]]; then
    exit 0
fi
free=$(df -Pm . | awk 'NR == 2 {print $4}')
if ((free < NEEDED_MB)); then
    say "$free MB are free in $PWD; about $NEEDED_MB MB are needed."
    exit 2
fi
say "making $VENV, once: about 800 MB to download, 3.4 GB on disk, 2 to 5 minutes"
[[ -x $VENV/bin/python ]] || "${PYTHON:-.venv/bin/python}" -m venv "$VENV"
# shellcheck disable=SC2086  # PIP_ARGS is a list of words
if ! "$VENV/bin/python" -m pip --disable-pip-version-check install --quiet --progress-bar off --no-deps \
    ${PIP_ARGS:-} -r "$LIST"; then
    say "an index without torch +cpu builds needs PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'"
    exit 2
fi
stamp_of >$VENV/.stamp
