#!/usr/bin/env bash
# Everything that must hold, on a fresh Debian 12 machine as root: installs what it needs into .venv and with apt-get, then lints,
# type-checks, and runs the unit, plugin, integration and end-to-end tests (real sshd, real dockerd, real vLLM on CPU).
#   scripts/test.sh            all of it (about 20 minutes on 2 cores)
#   scripts/test.sh fast       without the lab: no root, no engine
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}

step() { printf '\n=== %s (%s s)\n' "$*" "$SECONDS"; }

step "Debian packages"
needed=()
python3 -c 'import ensurepip, venv' 2>/dev/null || needed+=(python3-venv python3-pip)
# Of these the tests make a container image, and ask every shell a node may have.
[ "$what" = fast ] || for tool in busybox:busybox-static zsh:zsh tcsh:tcsh fish:fish; do
  command -v "${tool%:*}" >/dev/null || needed+=("${tool#*:}")
done
if [ ${#needed[@]} -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q && apt-get install -qy --no-install-recommends "${needed[@]}"
fi

step "Python environment"
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check -e '.[dev,store]'
export PATH="$PWD/.venv/bin:$PATH"

if [ "$what" = all ]; then  # mostly downloads: it goes on beside what measures nothing
  python -m tests.lab setup >.lab-setup.log 2>&1 &
  setup=$!
  trap 'kill "$setup" 2>/dev/null || true' EXIT
fi

step "Lint and types"
ruff check .
ruff format --check .
mypy

# A promise that nothing holds to is none: the lowest versions of pyproject.toml in a venv of their own, inert and in a short rehearsal.
lowest() {
  local at=$1 python=$1/venv/bin/python
  python3 -m venv "$at/venv"
  python scripts/lowest_versions.py >"$at/lowest.txt"
  "$python" -m pip install -q --disable-pip-version-check -c "$at/lowest.txt" -e .
  timeout 1m "$python" -m pytest -q -p no:cacheprovider tests/plugin/test_inert.py
  cd "$at"
  timeout 2m "$python" -m pytest -q -p no:cacheprovider -n 2 --engine=sglang --nodes=rehearsal:quick --h20-history=none \
    --html=report.html --self-contained-html -k "docker or bringup or model or stream or concurrency or c1"
}
step "The lowest versions that are promised"
low=$(mktemp -d)
(lowest "$low")
rm -rf "$low"

step "Unit tests"
timeout 20m pytest -q -n 2 --dist worksteal tests/unit
[ "$what" != all ] || wait "$setup" || { cat .lab-setup.log; exit 1; }

# Rehearsals measure, and two of them side by side disturb each other on two cores: what fails here gets one more try alone.
rehearse() {
  timeout 30m pytest -q -n 2 "$@" || { step "once more, alone"; timeout 15m pytest -q --last-failed --last-failed-no-failures none "${@: -1}"; }
}
step "Plugin tests"
rehearse --dist loadfile --ignore tests/plugin/test_kill_table.py tests/plugin
step "The kill table: every fault turns exactly its checks red, and every dialect without a fault is green"
rehearse --dist worksteal tests/plugin/test_kill_table.py

if [ "$what" = all ]; then
  step "The lab: two nodes with real sshd, dockerd and vLLM"
  cat .lab-setup.log
  trap 'python -m tests.lab down' EXIT
  step "Integration tests"
  H20_SOFT_ROCE="${H20_SOFT_ROCE:-0}" timeout 15m pytest -q tests/integration
  step "End to end on the lab"
  timeout 20m pytest -q tests/e2e
fi
step "done"
